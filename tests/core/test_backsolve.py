"""The minimiser on a support: lstsq, direct formulas, and float64 truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from chita_sklearn import ChitaRegressor
from chita_sklearn.core import SOLVERS, LeastSquares, Solution, Status
from chita_sklearn.core.refit.backsolve import Backsolver, backsolve

seeds = st.integers(0, 2**32 - 1)


def mask_of(p, support):
    mask = np.zeros(p, dtype=bool)
    mask[support] = True
    return mask


@pytest.mark.parametrize("keeps", [False, True])
@given(seed=seeds, n=st.integers(1, 15), p=st.integers(1, 30), share=st.floats(0, 1))
def test_it_is_the_ridge_solution_on_the_support(oracle, keeps, seed, n, p, share):
    case = oracle.case(seed, n=n, p=p)
    mask = np.random.default_rng(seed).random(p) < share
    solver = Backsolver(case.problem(), p if keeps else None)
    w, r, _ = solver(mask)
    best = case.objective(case.refit(mask))
    scale = case.objective(np.zeros(p)) + np.sum(case.y**2)
    assert not np.any(w[~mask])
    assert case.objective(w) <= best + 1e-10 * best + 1e-13 * scale
    lost = np.linalg.norm((case.b - case.A @ w.astype(np.longdouble) - r).astype(float))
    assert lost <= 1e-8 * np.linalg.norm(case.b.astype(float)) + 1e-8
    assert solver.damping == 0


@given(seed=seeds, n=st.integers(2, 12), s=st.integers(1, 25))
def test_without_ridge_it_is_lstsq(seed, n, s):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, s)), rng.standard_normal(n)
    w, r, _ = Backsolver(LeastSquares(X, y))(np.ones(s, dtype=bool))
    expected = np.linalg.lstsq(X, y, rcond=None)[0]
    conditioned = np.linalg.cond(X)
    assert np.allclose(w, expected, rtol=0, atol=1e-13 * conditioned**2 + 1e-12)
    residual = np.linalg.norm(y - X @ expected)
    assert np.linalg.norm(y - X @ w) <= residual * (1 + 1e-9) + 1e-9
    assert np.allclose(r, y - X @ w, atol=1e-9 * conditioned)


def weighted_minimum(case, z):
    """min over w of 1/2 ||b - A w||^2 + mu/2 sum (w_j - z_j w_bar_j)^2 / z_j."""
    on = z > 0
    A, b, w_bar = (v.astype(float) for v in (case.A, case.b, case.w_bar))
    mu = float(case.mu)
    D = np.diag(1 / z[on])
    w = np.zeros(len(z))
    w[on] = np.linalg.solve(
        A[:, on].T @ A[:, on] + mu * D, A[:, on].T @ b + mu * w_bar[on]
    )
    return w


@pytest.mark.parametrize("keeps", [False, True])
@given(seed=seeds, n=st.integers(1, 10), p=st.integers(1, 20))
def test_weights_between_0_and_1_follow_the_direct_formula(oracle, keeps, seed, n, p):
    case = oracle.case(seed, n=n, p=p, ridge=0.1)
    rng = np.random.default_rng(seed)
    z = np.where(rng.random(p) < 0.3, rng.integers(0, 2, p), rng.uniform(0.01, 1, p))
    w, r, _ = Backsolver(case.problem(), p if keeps else None)(z)
    expected = weighted_minimum(case, z)
    scale = 1 + np.max(np.abs(expected))
    assert np.allclose(w, expected, rtol=0, atol=1e-7 * scale)
    assert np.allclose(r, (case.b - case.A @ w).astype(float), atol=1e-7 * scale)


@pytest.mark.parametrize("rough", [False, True])
@given(seed=seeds)
def test_a_sequence_of_supports_gives_what_fresh_solves_give(oracle, rough, seed):
    case = oracle.case(seed, n=12, p=40, ridge=3.0)
    rng = np.random.default_rng(seed)
    problem = case.problem()
    solver = Backsolver(problem, 20, rough=rough)
    mask = rng.random(40) < 0.5
    for _ in range(8):
        w, _, _ = solver(mask)
        best = case.objective(case.refit(mask))
        assert not np.any(w[~mask])
        assert case.objective(w) <= best * (1 + 1e-10)
        flip = rng.random(40) < rng.choice([0.02, 0.2, 0.9])
        mask = mask ^ flip


@given(seed=seeds)
def test_a_sequence_of_supports_of_a_tall_x_gives_what_fresh_solves_give(oracle, seed):
    # More than 16 rows a column: rows of A'A are kept from one support to the next.
    case = oracle.case(seed, n=150, p=8, ridge=0.1)
    rng = np.random.default_rng(seed)
    problem = case.problem()
    solver = Backsolver(problem, 4)
    for _ in range(6):
        mask = rng.random(8) < 0.5
        w, r, _ = solver.copy()(mask)
        assert case.objective(w) <= case.objective(case.refit(mask)) * (1 + 1e-10)
        assert np.allclose(r, (case.b - case.A @ w).astype(float))


@given(seed=seeds, share=st.floats(0, 1))
def test_a_mixture_is_the_solution_with_the_mixed_weights(oracle, seed, share):
    case = oracle.case(seed, n=8, p=20, ridge=0.5)
    rng = np.random.default_rng(seed)
    one, other = (rng.random(20) < 0.5 for _ in range(2))
    problem = case.problem()
    first = Backsolver(problem, 10).update(one)
    second = Backsolver(problem, 10).update(other)
    kept = second.copy()
    first.mix(second, share)
    z = (1 - share) * one + share * other
    assert np.allclose(first.weights, z, atol=1e-15)
    expected = weighted_minimum(case, np.where(z > 1e-12, z, 0.0))
    scale = 1 + np.max(np.abs(expected))
    assert np.allclose(first.solve().w, expected, rtol=0, atol=1e-6 * scale)
    untouched = kept.solve().w
    assert np.array_equal(second.solve().w, untouched)


@given(seed=seeds)
def test_what_is_kept_serves_other_ridges_and_targets(oracle, seed):
    case = oracle.case(seed, n=10, p=30, ridge=1.0)
    rng = np.random.default_rng(seed)
    problem = case.problem()
    mask = rng.random(30) < 0.6
    for _ in range(3):
        solver = Backsolver(problem, 15)
        solver(mask)
        solver.keep()
        mask = mask ^ (rng.random(30) < 0.1)
    y, ridge = rng.standard_normal(10), float(10 ** rng.uniform(-2, 1))
    changed = case.but(y=y, ridge=ridge)
    w, _, _ = Backsolver(problem.with_target(y, ridge=ridge), 15)(mask)
    expected = changed.refit(mask).astype(float)
    scale = 1 + np.max(np.abs(expected))
    assert np.allclose(w, expected, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("shape", [(60, 40), (40, 200)], ids=str)
def test_float32_at_a_small_ridge_reaches_the_float64_optimum(oracle, shape):
    n, p = shape
    rng = np.random.default_rng(0)
    # Singular values from 1 down to 1e-5, columns over four orders of magnitude.
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    X = (U * np.logspace(0, -5, min(n, p))) @ Vt * np.sqrt(n) * 10
    X = (X * np.logspace(-2, 2, p)).astype(np.float32)
    y = (X @ rng.standard_normal(p) + 0.1 * rng.standard_normal(n)).astype(np.float32)
    case = oracle.Case(X, y, 1e-5)
    mask = np.ones(p, dtype=bool)
    best = case.objective(case.refit(mask))
    w, _, _ = Backsolver(case.problem(), p)(mask)
    assert case.objective(w) <= best * (1 + 1e-6)


@given(seed=seeds)
def test_dependent_columns_without_ridge_still_fit_best(oracle, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((15, 5))
    X = np.column_stack([X, X[:, 0], X[:, 1] - 2 * X[:, 2], np.zeros(15)])
    y = rng.standard_normal(15)
    problem = LeastSquares(X, y)
    start = Solution(
        np.zeros(8), np.ones(8, dtype=bool), problem.objective(np.zeros(8))
    )
    found = backsolve(problem, start)
    # Of the best, nearly the shortest where every column has unit length.
    lengths = np.linalg.norm(X, axis=0)
    unit = X / np.where(lengths > 0, lengths, 1.0)
    shortest = np.linalg.lstsq(unit, y, rcond=None)[0]
    best = 0.5 * np.sum((y - unit @ shortest) ** 2)
    assert found.objective == pytest.approx(best, rel=1e-9)
    assert np.linalg.norm(lengths * found.coef) <= 1.01 * np.linalg.norm(shortest)
    assert found.status is Status.NOT_UNIQUE


def test_dependent_columns_of_unequal_norms_still_fit_best():
    rng = np.random.default_rng(0)
    a, c = rng.standard_normal((2, 30))
    B = np.column_stack([1e6 * a, 1e6 * a, 1e-6 * c])
    x = Backsolver(LeastSquares(B, c))(np.ones(3, dtype=bool)).w
    assert np.linalg.norm(c - B @ x) <= 1e-6 * np.linalg.norm(c)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_data_does_not_matter(scale):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 6)), rng.standard_normal(20)
    mask = np.ones(6, dtype=bool)
    w = Backsolver(LeastSquares(X, y, ridge=0.1))(mask).w
    scaled = Backsolver(LeastSquares(scale * X, y, ridge=0.1 * scale**2))(mask).w
    assert np.allclose(scale * scaled, w, rtol=1e-10)


@pytest.mark.parametrize("shape", [(50, 40), (50, 60), (30, 300)], ids=str)
def test_a_kept_gram_without_ridge_is_still_lstsq(oracle, shape):
    rng = np.random.default_rng(0)
    case = oracle.Case(rng.standard_normal(shape), rng.standard_normal(shape[0]))
    solver = Backsolver(case.problem(), shape[1])
    mask = mask_of(shape[1], np.arange(10))
    w, _, _ = solver(mask)
    assert case.objective(w) <= case.objective(case.refit(mask)) * (1 + 1e-9)
    assert solver.damping == 0


@given(seed=seeds)
def test_backsolve_is_monotone_and_stationary(oracle, seed):
    case = oracle.case(seed)
    rng = np.random.default_rng(seed)
    p = case.X.shape[1]
    problem, mask = case.problem(), rng.random(p) < 0.6
    w = np.where(mask, rng.standard_normal(p), 0.0)
    start = Solution(w, mask, problem.objective(w))
    found = backsolve(problem, start)
    assert found.objective <= start.objective
    assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-9)
    slope = np.abs(case.gradient(found.coef)[mask].astype(float))
    size = np.abs(case.A.T @ case.b) + np.abs(case.mu * case.w_bar)
    assert np.all(slope <= 1e-7 * (1 + np.max(size.astype(float))))
    assert backsolve(problem, found).objective <= found.objective


def test_an_empty_support_is_w_of_zeros(backend):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4, 3)), rng.standard_normal(4)
    problem = LeastSquares(backend.to(X), backend.to(y), ridge=0.1)
    xp = problem.xp
    for size in (None, 3):
        none = xp.zeros_like(problem.zeros(3), dtype=xp.bool)
        w, r, _ = Backsolver(problem, size)(none)
        assert not np.any(backend.back(w))
        assert np.allclose(backend.back(r), backend.back(problem.b))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("standardize", [True, False])
def test_columns_that_dwarf_the_others_are_taken_out_of_a_sum(standardize):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 1200))
    X[:, rng.choice(1200, 200, replace=False)] *= 1e8
    y = rng.standard_normal(400)
    model = ChitaRegressor(600, standardize=standardize, random_state=0).fit(X, y)
    assert np.count_nonzero(model.coef_) <= 600
    assert 0 <= model.lower_bound_ <= model.objective_ <= 0.5 * np.var(y)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("plan", SOLVERS)
@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_no_plan_raises_where_columns_dwarf_the_others(plan, ridge):
    if plan == "dual" and ridge == 0:
        pytest.skip("has no bound to ascend")
    for seed in range(10):
        rng = np.random.default_rng(seed)
        n, p = rng.integers(3, 12), rng.integers(4, 16)
        X = rng.standard_normal((n, p))
        X[:, rng.choice(p, p // 3, replace=False)] *= 1e8
        y = rng.standard_normal(n)
        for standardize, k in itertools.product([True, False], [p // 2, p]):
            model = ChitaRegressor(int(k), ridge, solver=plan, standardize=standardize)
            model.set_params(random_state=0, n_restarts=1, tol=0.1).fit(X, y)
            assert model.objective_ <= 0.5 * np.var(y) * (1 + 1e-9)


def test_what_was_taken_out_is_formed_anew():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 90))
    X[:, :30] *= 1e9
    y = rng.standard_normal(20)
    problem = LeastSquares(X, y, ridge=1e-4)
    solver = Backsolver(problem, size=60)
    solver(mask_of(90, np.arange(60)))
    S = np.arange(29, 90)
    fresh = Backsolver(problem, size=60)(mask_of(90, S[1:]))
    solver(mask_of(90, S))
    w, r, _ = solver(mask_of(90, S[1:]))
    assert_allclose(problem.value(w, r), problem.value(fresh[0], fresh[1]), rtol=1e-9)
