"""Many targets on one Gram matrix: against every support, and one target at a time."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import (
    BlockDiagonal,
    Cardinality,
    LeastSquares,
    ManyTargets,
    NOfM,
    PerBlock,
    Status,
    WithFloor,
    fit_support,
    solve,
)
from chita_sklearn.core.improvers import targets
from chita_sklearn.core.improvers.targets import bound_of
from chita_sklearn.core.search.exchange import TargetState

seeds = st.integers(0, 2**32 - 1)


def problem_of(rng, t=3, d=4, mu=None):
    A = rng.standard_normal((12, d)) @ (np.eye(d) + 0.5 * rng.standard_normal((d, d)))
    mu = float(10 ** rng.uniform(-2, 1)) if mu is None else mu
    weights = rng.uniform(0.2, 3, t)
    W0 = rng.standard_normal((t, d))
    return ManyTargets.around(A.T @ A, W0, mu=mu, weights=weights), A, W0, weights


def by_hand(problem, W):
    """n F, written out."""
    rows = 0.5 * np.einsum("ij,jk,ik->i", W, problem.G, W)
    rows += 0.5 * problem.mu * np.sum(W**2, axis=1) - np.sum(problem.C * W, axis=1)
    return problem.constant + float(problem.weights @ rows)


def optimum(problem, supports):
    best = np.inf
    for S in supports:
        mask = np.zeros(problem.p, dtype=bool)
        mask[list(S)] = True
        best = min(best, fit_support(problem, mask).objective)
    return best


@settings(max_examples=30)
@given(seed=seeds)
def test_the_objective_is_what_the_rows_say(seed):
    rng = np.random.default_rng(seed)
    problem, A, W0, weights = problem_of(rng)
    W = rng.standard_normal(W0.shape)
    E = W - W0
    rows = np.sum((E @ A.T) ** 2, axis=1) + problem.mu * np.sum(E**2, axis=1)
    assert problem.objective(W.ravel()) == pytest.approx(0.5 * weights @ rows)
    assert problem.objective(W.ravel()) == pytest.approx(by_hand(problem, W))
    assert problem.objective(W0.ravel()) == pytest.approx(0, abs=1e-10)


@settings(max_examples=20)
@given(seed=seeds)
def test_a_refit_has_no_gradient_on_its_support(seed):
    rng = np.random.default_rng(seed)
    problem, *_ = problem_of(rng)
    mask = rng.random(problem.p) < 0.5
    W = fit_support(problem, mask).coef.reshape(problem.t, problem.d)
    slope = problem.C - W @ problem.G - problem.mu * W
    assert not W.ravel()[~mask].any()
    assert np.abs(slope.ravel()[mask]).max(initial=0) < 1e-9


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_large_layers_are_refitted_by_conjugate_gradients(monkeypatch, scale):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((200, 40)) @ rng.standard_normal((40, 40))
    W0, weights = rng.standard_normal((6, 40)), scale * rng.uniform(0.2, 3, 6)
    G = A.T @ A
    mu = 1e-2 * np.trace(G) / 40
    problem = ManyTargets.around(G, W0, mu=mu, weights=weights)
    mask = rng.random(problem.p) < 0.5
    exact, found = fit_support(problem, mask), solve(problem, Cardinality(120))
    monkeypatch.setattr(targets, "HEAVY", 0.0)
    near = fit_support(problem, mask)
    assert not near.coef[~mask].any()
    assert not np.array_equal(near.coef, exact.coef)
    assert near.objective == pytest.approx(exact.objective, rel=1e-6)
    # And so is what fewer penalties in float32 choose, whatever the loss is scaled by.
    rough = solve(problem, Cardinality(120))
    assert np.count_nonzero(rough.coef) == 120
    assert found.objective <= rough.objective * (1 + 1e-6)
    assert rough.objective <= 1.3 * found.objective


PATTERNS = {
    "cardinality": lambda p, rng: Cardinality(int(rng.integers(1, p))),
    "per target": lambda p, rng: PerBlock(
        np.arange(p) // 4, rng.integers(0, 4, p // 4)
    ),
    "2:4": lambda p, rng: NOfM(2, 4, p),
    "floor": lambda p, rng: WithFloor(p // 4 + 2, np.arange(p) // 4, [1] * (p // 4)),
}


@pytest.mark.parametrize("kind", PATTERNS)
@settings(max_examples=12, deadline=None)
@given(seed=seeds)
def test_near_the_best_of_all_supports_and_no_bound_above_it(oracle, kind, seed):
    rng = np.random.default_rng(seed)
    problem, *_ = problem_of(rng, t=2)
    pattern = PATTERNS[kind](problem.p, rng)
    best = optimum(problem, oracle.supports(pattern, problem.p))
    found = solve(problem, pattern)
    scale = problem.at_zero
    assert found.objective >= best - 1e-11 * scale
    assert found.lower_bound <= best + 1e-11 * scale
    assert np.count_nonzero(found.coef) <= pattern.size
    # A local search: near the best, not always at it. Between targets, exchanges are
    # made where they share a budget without other rules.
    if kind in ("cardinality", "per target"):
        assert found.objective <= 1.5 * best + 1e-9 * scale


def test_two_layers_share_a_budget():
    rng = np.random.default_rng(0)
    layers = [problem_of(rng, t=2, d=3)[0], problem_of(rng, t=1, d=4)[0]]
    both = BlockDiagonal(layers)
    found = solve(both, Cardinality(4))
    best = optimum(both, itertools.combinations(range(both.p), 4))
    assert found.objective == pytest.approx(best)
    parts = [
        q.objective(w) for q, w in zip(layers, both.split(found.coef), strict=True)
    ]
    assert found.objective == pytest.approx(sum(parts))
    assert found.lower_bound <= best


def test_one_target_is_least_squares():
    rng = np.random.default_rng(1)
    A, b = rng.standard_normal((40, 12)), rng.standard_normal(40)
    rows = LeastSquares(A, b, ridge=0.1)
    moments = ManyTargets(
        A.T @ A, (A.T @ b)[None], mu=rows.mu, constant=0.5 * float(b @ b)
    )
    ours, theirs = solve(moments, Cardinality(5)), solve(rows, Cardinality(5))
    assert ours.objective == pytest.approx(theirs.objective)
    assert np.allclose(ours.coef, theirs.coef)


def test_order_and_scale_of_targets_do_not_matter():
    rng = np.random.default_rng(2)
    problem, _, W0, weights = problem_of(rng, t=6, d=8)
    found = solve(problem, Cardinality(15))
    order, columns = rng.permutation(6), rng.permutation(8)
    other = ManyTargets.around(
        4 * problem.G[np.ix_(columns, columns)],
        W0[order][:, columns],
        mu=4 * problem.mu,
        weights=weights[order],
    )
    again = solve(other, Cardinality(15))
    assert again.objective == pytest.approx(4 * found.objective)
    moved = found.coef.reshape(6, 8)[order][:, columns]
    assert np.allclose(again.coef.reshape(6, 8), moved)


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_every_array_library_finds_the_same(library):
    xp = pytest.importorskip(library)
    rng = np.random.default_rng(3)
    problem, _, W0, weights = problem_of(rng, t=5, d=9)
    there = ManyTargets.around(
        xp.asarray(problem.G),
        xp.asarray(W0),
        mu=problem.mu,
        weights=xp.asarray(weights),
    )
    found, expected = solve(there, Cardinality(12)), solve(problem, Cardinality(12))
    assert found.objective == pytest.approx(expected.objective)
    assert type(found.coef) is type(xp.asarray(W0))
    assert np.allclose(np.asarray(found.coef), expected.coef)


@settings(max_examples=20)
@given(seed=seeds)
def test_what_a_state_says_of_an_exchange_is_what_a_refit_finds(seed):
    rng = np.random.default_rng(seed)
    problem, *_ = problem_of(rng, t=1, d=8)
    H = problem.G + problem.mu * np.eye(8)
    state = TargetState(H, problem.C[0], 2.0, rng.permutation(8)[:4])

    def value(S):
        S = list(S)
        return float(
            problem.C[0][S] @ np.linalg.solve(H[np.ix_(S, S)], problem.C[0][S])
        )

    for _ in range(12):
        S = state.S.copy()
        assert state.value == pytest.approx(value(S))
        gain, j = state.joining()
        assert gain == pytest.approx(value([*S, j]) - value(S), abs=1e-9)
        cost, i = state.leaving()
        assert cost == pytest.approx(value(S) - value(np.delete(S, i)), abs=1e-9)
        swap, a, b = state.best_swap()
        assert swap == pytest.approx(value([*np.delete(S, a), b]) - value(S), abs=1e-9)
        state.leave(int(rng.integers(4)))
        state.join(int(rng.choice(np.setdiff1d(np.arange(8), state.S))))


def test_more_steps_do_not_lower_the_bound():
    rng = np.random.default_rng(4)
    problem, *_ = problem_of(rng, t=8, d=20, mu=2.0)
    found = solve(problem, Cardinality(60))
    bounds = [bound_of(problem, Cardinality(60), found, steps) for steps in (0, 5, 20)]
    assert bounds == sorted(bounds)
    assert bounds[-1] <= found.objective


def test_what_cannot_be_is_refused():
    G, C = np.eye(3), np.ones((2, 3))
    with pytest.raises(ValueError, match=r"G has shape \(3, 3\) and C \(2, 4\)"):
        ManyTargets(G, np.ones((2, 4)))
    with pytest.raises(ValueError, match="mu=-1 must be"):
        ManyTargets(G, C, mu=-1)
    with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
        ManyTargets(G, C, weights=np.asarray([1.0, 0.0]))
    with pytest.raises(ValueError, match="at least one ManyTargets"):
        BlockDiagonal([])
    with pytest.raises(ValueError, match="solver='iht' needs products with the rows"):
        solve(ManyTargets(G, C), Cardinality(2), solver="iht")


@pytest.mark.parametrize("k", [1, 3, 5])
def test_without_the_constant_no_answer_is_called_optimal_that_is_not(k):
    # n F is negative then: nothing is known of it but what the dual bound says.
    rng = np.random.default_rng(k)
    A, B = rng.standard_normal((30, 5)), rng.standard_normal((2, 30))
    G, C = A.T @ A, B @ A
    known = 0.5 * np.sum(B**2)
    bare, whole = ManyTargets(G, C, mu=0.5), ManyTargets(G, C, mu=0.5, constant=known)
    wrong = ManyTargets(G, C, mu=0.5, constant=1e-3 * known)
    best = math.inf
    for S in itertools.combinations(range(10), k):
        mask = np.isin(np.arange(10), S)
        best = min(best, fit_support(whole, mask).objective)
    for problem, shift in ((whole, 0.0), (bare, known), (wrong, 0.999 * known)):
        rough = solve(problem, Cardinality(k), time_limit=1e-9)
        for found in (rough, solve(problem, Cardinality(k))):
            assert found.objective + shift >= best * (1 - 1e-12)
            assert found.lower_bound + shift <= best * (1 + 1e-12)
            if found.status is Status.OPTIMAL:
                assert found.objective + shift == pytest.approx(best, rel=1e-9)
