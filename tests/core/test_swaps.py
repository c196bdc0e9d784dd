"""Swaps: the formula against refits, the result against every single swap."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from chita_sklearn.core import (
    Cardinality,
    LeastSquares,
    PerBlock,
    Solution,
    Status,
    WithFloor,
)
from chita_sklearn.core.improvers.restarts import Restarts
from chita_sklearn.core.improvers.swaps import swaps
from chita_sklearn.core.search.local_search import backward, forward
from chita_sklearn.core.search.swap_state import add_gains, swap_gains
from chita_sklearn.core.search.working_set import WorkingSet

KINDS = ["cardinality", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def on(case, support):
    """The smallest objective on a support."""
    return case.objective(case.refit(np.asarray(sorted(support), dtype=int)))


def from_support(case, support):
    problem = case.problem()
    mask = np.zeros(problem.p, dtype=bool)
    mask[list(support)] = True
    w = problem.zeros(problem.p)
    return Solution(w, mask, problem.objective(w), n_iter=0)


def quantities(case, S):
    """(H_SO, P, w, g, h) for all coordinates O, from the explicit A."""
    A, mu = case.A.astype(float), float(case.mu)
    H = A.T @ A + mu * np.eye(A.shape[1])
    g = A.T @ case.b.astype(float) + mu * case.w_bar.astype(float)
    P = np.linalg.inv(H[np.ix_(S, S)])
    return H[S], P, P @ g[S], g, H.diagonal()


@given(seed=seeds)
def test_gains_are_what_refitting_gains(oracle, seed):
    case = oracle.case(seed, n=20)
    p = case.X.shape[1]
    rng = np.random.default_rng(seed)
    S = np.sort(rng.choice(p, size=int(rng.integers(1, p)), replace=False))
    outside = np.setdiff1d(np.arange(p), S)
    H_SO, P, w, g, h = quantities(case, S)
    swapped = swap_gains(H_SO, P, w, g, h, np)
    added = add_gains(H_SO.T, P, w, g, h, np)
    before, scale = on(case, S), case.objective(np.zeros(p))
    for j in outside:
        gain = before - on(case, {*S, j})
        assert added[j] == pytest.approx(gain, rel=1e-6, abs=1e-9 * scale)
        for row, i in enumerate(S):
            gain = before - on(case, {*S, j} - {i})
            assert swapped[row, j] == pytest.approx(gain, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_restarts", [0, 3])
@pytest.mark.parametrize("given_start", [False, True])
@settings(max_examples=15)
@given(seed=seeds)
def test_no_single_swap_betters_the_result(oracle, kind, n_restarts, given_start, seed):
    case = oracle.case(seed)
    p = case.X.shape[1]
    rng = np.random.default_rng(seed)
    pattern = oracle.patterns(p, seed)[kind]
    every = set(oracle.supports(pattern, p))
    start = None
    if given_start:
        first = sorted(every)[int(rng.integers(len(every)))]
        start = from_support(case, first)
    search = Restarts(n_restarts, rng) if n_restarts else None
    found = swaps(case.problem(), pattern, start, search=search)
    assert oracle.allows(pattern, found.support)
    assert not np.any(found.coef[~found.support])
    if start is not None:
        assert found.objective <= start.objective
        assert found.objective <= on(case, first) * (1 + 1e-9)
    S = set(np.flatnonzero(found.support).tolist())
    if len(S) < pattern.size:  # nothing gained by joining: complete it somehow
        S = set(next(T for T in sorted(every) if set(T) >= S))
    scale = case.objective(np.zeros(p))
    for i, j in itertools.product(S, set(range(p)) - S):
        swapped = tuple(sorted(S - {i} | {j}))
        if swapped in every:
            assert found.objective <= on(case, swapped) + 1e-8 * scale


@settings(max_examples=10)
@given(seed=seeds, n_restarts=st.sampled_from([0, 2]))
def test_swap_optimal_also_beyond_the_working_set(oracle, seed, n_restarts):
    # More columns than a working set has room for.
    case = oracle.case(seed, n=30, p=400, ridge=1e-3)
    search = Restarts(n_restarts, np.random.default_rng(0)) if n_restarts else None
    found = swaps(case.problem(), Cardinality(4), None, search=search)
    S = np.flatnonzero(found.support)
    gains = swap_gains(*quantities(case, S), np)
    gains[:, S] = 0
    assert gains.max() <= 1e-8 * case.objective(np.zeros(400))


@pytest.mark.parametrize("kind", ["per block", "floor"])
@pytest.mark.parametrize("n_restarts", [0, 3])
def test_the_pattern_holds_beyond_the_working_set(oracle, kind, n_restarts):
    # Blocks whose columns are all too weak for the first working set.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 600))
    labels = np.arange(600) // 100
    X[:, labels >= 4] *= 1e-3
    y = X[:, :5] @ np.ones(5) + 0.1 * rng.standard_normal(40)
    y += 50 * X[:, 450] + 50 * X[:, 550]
    case = oracle.Case(X, y, 1e-8)
    if kind == "floor":
        pattern = WithFloor(8, labels, [0, 0, 0, 0, 1, 2])
    else:
        pattern = PerBlock(labels, [3, 0, 0, 0, 1, 2])
    search = Restarts(n_restarts, rng) if n_restarts else None
    found = swaps(case.problem(), pattern, None, search=search)
    assert oracle.allows(pattern, found.support)
    S = np.flatnonzero(found.support)
    outside = np.setdiff1d(np.arange(600), S)
    gains = swap_gains(*quantities(case, S), np)[:, outside]
    gains[~pattern.exchangeable(S, outside)] = 0
    assert len(S) == pattern.size
    assert gains.max() <= 1e-8 * case.objective(np.zeros(600))


@settings(max_examples=20)
@given(seed=seeds)
def test_forward_selection_takes_the_best_column_each_time(oracle, seed):
    case = oracle.case(seed, n=20, p=8)
    problem = case.problem()
    W = WorkingSet(problem, Cardinality(5), np.arange(8), problem.correlation())
    S = ()
    scale = case.objective(np.zeros(8))
    for size in range(1, 6):
        taken = tuple(forward(W, np.empty(0, dtype=np.intp), size).tolist())
        if len(taken) < size:
            break
        best = min(on(case, {*S, j}) for j in set(range(8)) - set(S))
        assert on(case, taken) <= best + 1e-9 * scale
        S = taken


@settings(max_examples=20)
@given(seed=seeds)
def test_backward_elimination_drops_the_cheapest_each_time(oracle, seed):
    case = oracle.case(seed, n=20, p=7)
    problem = case.problem()
    g, every = problem.correlation(), np.arange(7)
    S, scale = set(range(7)), case.objective(np.zeros(7))
    for size in range(6, 0, -1):
        W = WorkingSet(problem, Cardinality(size), every, g)
        left = set(backward(W, every).tolist())
        cheapest = min(on(case, S - {i}) for i in S)
        assert on(case, left) <= cheapest + 1e-8 * scale
        S = left


@pytest.mark.parametrize("duplicates", [1, 3])
@settings(max_examples=15)
@given(seed=seeds)
def test_duplicated_columns_without_ridge_do_not_mislead(oracle, duplicates, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 15))
    X = rng.standard_normal((n, 5))
    X = np.hstack([X, *[X[:, :3]] * duplicates])
    y = X[:, :3] @ rng.standard_normal(3) + rng.standard_normal(n)
    case = oracle.Case(X, y)
    k = int(rng.integers(1, 5))
    found = swaps(case.problem(), Cardinality(k), None, search=Restarts(10, rng))
    claimed = found.objective
    assert claimed == pytest.approx(case.objective(found.coef), rel=1e-9)
    plain = swaps(case.problem(), Cardinality(k), None)
    assert claimed <= plain.objective * (1 + 1e-9)
    best = case.optimum(itertools.combinations(range(5), k))
    assert claimed >= best * (1 - 1e-9)


@given(seed=seeds)
def test_a_constant_column_does_not_end_the_selection(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 6)) * 10.0 ** rng.integers(0, 5, 6)
    X[:, 1] = 3.7
    y = X @ (rng.standard_normal(6) / np.abs(X).max(axis=0)) + rng.standard_normal(30)
    found = swaps(LeastSquares(X, y, fit_intercept=True), Cardinality(5), None)
    rest = np.delete(X, 1, axis=1)
    best = LinearRegression().fit(rest, y)
    assert 2 * found.objective == pytest.approx(
        float(np.sum((y - best.predict(rest)) ** 2)), rel=1e-6
    )


def test_on_step_sees_better_and_better_coefficients_and_can_stop(oracle):
    case = oracle.case(1, n=40, p=300, ridge=1e-3)
    problem, rng = case.problem(), np.random.default_rng(0)
    seen = []

    def on_step(w):
        seen.append(case.objective(w))
        return False

    swaps(problem, Cardinality(6), None, search=Restarts(10, rng), on_step=on_step)
    assert len(seen) >= 10
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(seen))
    calls = []
    stopped = swaps(
        problem,
        Cardinality(6),
        None,
        search=Restarts(10, rng),
        on_step=lambda w: calls.append(w) is None and len(calls) == 3,
    )
    assert stopped.status is Status.STOPPED
    assert len(calls) == 3
    assert stopped.objective == pytest.approx(case.objective(calls[-1]), rel=1e-9)


def test_one_working_set_at_most_still_gives_a_full_support(oracle):
    case = oracle.case(2, n=40, p=400, ridge=1e-3)
    found = swaps(case.problem(), Cardinality(5), None, max_iter=1)
    assert int(found.support.sum()) == 5
    assert found.n_iter >= 1


def test_with_nothing_to_explain_no_coordinate_is_needed():
    X = np.random.default_rng(0).standard_normal((10, 20))
    found = swaps(LeastSquares(X, np.zeros(10)), Cardinality(3), None)
    assert found.objective == 0.0
    assert not np.any(found.coef)
