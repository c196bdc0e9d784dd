"""The block model: one problem whose A is block-diagonal."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import (
    BlockLeastSquares,
    Cardinality,
    LeastSquares,
    Solution,
    solve,
)
from chita_sklearn.core.improvers.dual import Dual
from chita_sklearn.core.refit.backsolve import backsolver

seeds = st.integers(0, 2**32 - 1)


def made(oracle, seed, ridge=0.1, sizes=(4, 6, 3), n=7):
    """Blocks, and the same as one explicit problem."""
    rng = np.random.default_rng(seed)
    Xs = [rng.standard_normal((n, p)) for p in sizes]
    ys = [rng.standard_normal(n) for _ in sizes]
    priors = [rng.standard_normal(p) for p in sizes] if seed % 2 else [None] * len(Xs)
    blocks = BlockLeastSquares(
        [
            LeastSquares(X, y, ridge=ridge, prior=prior)
            for X, y, prior in zip(Xs, ys, priors, strict=True)
        ]
    )
    prior = np.concatenate(priors) if seed % 2 else None
    # mu is n ridge of one block: the stacked problem has len(sizes) times the rows.
    case = oracle.Case(
        scipy.linalg.block_diag(*Xs), np.concatenate(ys), ridge / len(sizes), prior
    )
    return blocks, case


@given(seed=seeds)
def test_its_products_are_those_of_a_block_diagonal_matrix(oracle, seed):
    blocks, case = made(oracle, seed)
    rng = np.random.default_rng(seed)
    w, r = rng.standard_normal(blocks.p), rng.standard_normal(blocks.n_rows)
    A, b = case.A.astype(float), case.b.astype(float)
    assert A.shape == (blocks.n_rows, blocks.p)
    assert blocks.mu == pytest.approx(float(case.mu))
    assert np.allclose(blocks.b, b)
    assert np.allclose(blocks.matvec(w), A @ w)
    assert np.allclose(blocks.rmatvec(r), A.T @ r)
    assert np.allclose(blocks.column_norms(), np.sum(A**2, axis=0))
    assert np.allclose(blocks.residual(w), b - A @ w)
    expected = A.T @ b + float(case.mu) * case.w_bar.astype(float)
    assert np.allclose(blocks.correlation(), expected)
    assert blocks.objective(w) == pytest.approx(case.objective(w))


@given(seed=seeds)
def test_its_backsolve_is_that_of_the_whole(oracle, seed):
    blocks, case = made(oracle, seed)
    mask = np.random.default_rng(seed).random(blocks.p) < 0.5
    for size in (None, blocks.p):
        w, r, _ = backsolver(blocks, size)(mask)
        assert np.allclose(w, case.refit(mask).astype(float), atol=1e-8)
        assert np.allclose(r, (case.b - case.A @ w).astype(float), atol=1e-8)


@given(seed=seeds)
def test_restricted_it_is_the_model_on_those_columns(oracle, seed):
    blocks, case = made(oracle, seed)
    rng = np.random.default_rng(seed)
    S = np.flatnonzero(rng.random(blocks.p) < 0.5)
    part = blocks.restrict(S)
    w = rng.standard_normal(len(S))
    assert np.allclose(part.matvec(w), case.A[:, S].astype(float) @ w)
    assert part.mu == blocks.mu


@pytest.mark.parametrize("solver", ["auto", "dual", "iht", "dense"])
@settings(max_examples=12)
@given(seed=seeds, k=st.integers(1, 13), logridge=st.integers(-4, 1))
def test_one_pattern_over_all_blocks_and_a_bound_below(
    oracle, solver, seed, k, logridge
):
    blocks, case = made(oracle, seed, ridge=10.0**logridge)
    found = solve(blocks, Cardinality(k), solver=solver, tol=0.0)
    best = case.optimum(oracle.supports(Cardinality(k), blocks.p))
    assert found.lower_bound <= best * (1 + 1e-12)
    assert found.objective >= best * (1 - 1e-10)
    assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-9)
    assert np.count_nonzero(found.coef) <= k
    start = Solution(np.zeros(blocks.p), np.zeros(blocks.p, bool), 0.0)
    bound = Dual(blocks, Cardinality(k)).bound(blocks.residual(start.coef))
    assert bound <= best


def test_one_block_is_the_problem_itself(oracle):
    case = oracle.case(1, n=20, p=60, ridge=0.1, intercept=False)
    alone = solve(case.problem(), Cardinality(30), solver="dual")
    block = solve(BlockLeastSquares([case.problem()]), Cardinality(30), solver="dual")
    assert np.array_equal(alone.support, block.support)
    assert block.objective == pytest.approx(alone.objective, rel=1e-9)


def test_another_ridge_and_target_reach_every_block(oracle):
    blocks, _ = made(oracle, 3)
    changed, case = made(oracle, 3, ridge=0.7)
    w = np.ones(blocks.p)
    again = blocks.with_target(ridge=0.7)
    assert again.objective(w) == pytest.approx(case.objective(w))
    assert again.mu == changed.mu
    ys = [np.arange(7.0) * i for i in range(3)]
    targeted = blocks.with_target(ys, ridge=0.7)
    case = case.but(y=np.concatenate(ys))
    assert targeted.objective(w) == pytest.approx(case.objective(w))


def test_what_cannot_be_one_problem_is_refused():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5, 3)), rng.standard_normal(5)
    with pytest.raises(ValueError, match="problems is empty"):
        BlockLeastSquares([])
    with pytest.raises(ValueError, match="different ridges"):
        BlockLeastSquares([LeastSquares(X, y, ridge=r) for r in (0.1, 0.2)])
    blocks = BlockLeastSquares([LeastSquares(X, y)])
    with pytest.raises(ValueError, match="needs the Gram matrix of any columns"):
        solve(blocks, Cardinality(1), solver="swap")
