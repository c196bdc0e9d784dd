"""The m best supports: against every support, and in what a user reads."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from chita_sklearn import ChitaRegressor
from chita_sklearn.core import Cardinality, Including, LeastSquares, Status, solve
from chita_sklearn.core.plans import ENUMERATE_UP_TO
from chita_sklearn.core.refit.backsolve import backsolve, unsolved


def data(seed=0, n=30, p=12):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + rng.standard_normal((n, 1))
    return X, X[:, :3].sum(axis=1) + rng.standard_normal(n)


def every(problem, k, required=()):
    """All supports of k coordinates, with objectives, the best first."""
    scored = []
    for S in itertools.combinations(range(problem.p), k):
        if set(required) <= set(S):
            mask = np.isin(np.arange(problem.p), S)
            scored.append((backsolve(problem, unsolved(problem, mask)).objective, S))
    return sorted(scored)


def listed(solution):
    return [
        (one.objective, tuple(np.flatnonzero(one.coef).tolist()))
        for one in (solution, *solution.others)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 5])
def test_few_supports_are_all_ranked(seed, k):
    X, y = data(seed)
    problem = LeastSquares(X, y, ridge=1e-3, fit_intercept=True)
    found = listed(solve(problem, Cardinality(k), n_solutions=8))
    for (value, S), (best, T) in zip(found, every(problem, k)[:8], strict=True):
        assert S == T
        assert value == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("required", [(), (7, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_no_exchange_of_a_listed_support_leads_to_a_better_one_that_is_not(
    seed, required
):
    X, y = data(seed, n=40, p=16)
    k = 4 + len(required)
    problem = LeastSquares(X, y, ridge=1e-3, fit_intercept=True)
    pattern = Including(k, required) if required else Cardinality(k)
    assert pattern.count(16) > ENUMERATE_UP_TO
    found = solve(problem, pattern, solver="swap", random_state=0, n_solutions=6)
    truth = every(problem, k, required)
    supports = [S for _, S in listed(found)]
    assert len(set(supports)) == 6
    assert supports[0] == truth[0][1]
    worst = listed(found)[-1][0]
    for value, S in truth:
        near = any(len(set(S) & set(T)) >= k - 1 for T in supports)
        if near and value < worst * (1 - 1e-9):
            assert S in supports


def test_local_optima_that_the_search_has_met_are_listed():
    # Two pairs of columns that are each other's sums: no exchange of one column leads
    # from the first to the second.
    rng = np.random.default_rng(1)
    X = rng.standard_normal((50, 40))
    t = rng.standard_normal(50)
    X[:, 0], X[:, 1] = t + 3 * X[:, 2], X[:, 2]
    X[:, 4], X[:, 5] = t + 3 * X[:, 3], X[:, 3] + 0.02 * rng.standard_normal(50)
    y = t + 0.05 * rng.standard_normal(50)
    problem = LeastSquares(X, y, ridge=1e-9, fit_intercept=True)
    found = solve(
        problem, Cardinality(2), solver="swap", n_restarts=200, random_state=0,
        n_solutions=6,
    )  # fmt: skip
    supports = [set(S) for _, S in listed(found)]
    assert {0, 1} in supports or {0, 2} in supports
    assert {3, 4} in supports


def test_a_better_neighbour_becomes_the_answer():
    X, y = data(3, n=60, p=30)
    problem = LeastSquares(X, y, ridge=1e-3, fit_intercept=True)
    rough = solve(problem, Cardinality(4), solver="iht", max_iter=1)
    found = solve(problem, Cardinality(4), solver="iht", max_iter=1, n_solutions=5)
    assert found.objective <= rough.objective
    objectives = [value for value, _ in listed(found)]
    assert objectives == sorted(objectives)
    assert not found.lower_bound > found.objective


def test_gaps_are_over_the_bound_of_the_answer():
    X, y = data()
    model = ChitaRegressor(3, ridge=0.1, n_solutions=4).fit(X, y)
    table = pd.DataFrame(model.solutions_)
    assert list(table) == ["target", "support", "objective", "gap"]
    assert table.support[0].tolist() == model.support_.tolist()
    assert table.objective[0] == model.objective_
    assert table.gap[0] == model.gap_
    assert table.objective.is_monotonic_increasing
    bound = float(model.lower_bound_)
    assert table.gap.to_numpy() == pytest.approx(1 - bound / table.objective)


def test_one_solution_and_several_targets():
    X, y = data()
    one = ChitaRegressor(3).fit(X, y).solutions_
    assert [len(column) for column in one.values()] == [1, 1, 1, 1]
    two = ChitaRegressor(3, n_solutions=3).fit(X, np.stack([y, -y[::-1]], axis=1))
    assert two.solutions_["target"].tolist() == [0, 0, 0, 1, 1, 1]
    for t in (0, 1):
        assert two.solutions_["support"][3 * t].tolist() == two.support_[t].tolist()


def test_fewer_where_there_are_no_more():
    X, y = data(p=4)
    model = ChitaRegressor(3, n_solutions=50).fit(X, y)
    assert len(model.solutions_["support"]) == 4  # of 4 features, 3
    model = ChitaRegressor(4, n_solutions=50).fit(X, y)
    assert len(model.solutions_["support"]) == 1
    model = ChitaRegressor(2, n_solutions=50).fit(X, np.ones(30))
    assert [S.tolist() for S in model.solutions_["support"]] == [[]]


def test_near_ties_of_diabetes_are_those_of_all_regressions():
    X, y = load_diabetes(return_X_y=True)
    model = ChitaRegressor(5, ridge=0.0, n_solutions=3).fit(X, y)
    X1 = np.column_stack([X, np.ones(len(y))])
    rss = sorted(
        (np.linalg.lstsq(X1[:, [*S, 10]], y, rcond=None)[1].item(), S)
        for S in itertools.combinations(range(10), 5)
    )
    expected = [S for _, S in rss[:3]]
    assert [tuple(S.tolist()) for S in model.solutions_["support"]] == expected


@pytest.mark.parametrize(
    "options",
    [{"positive": True}, {"groups": np.arange(12) // 2}, {"target_support": "shared"}],
    ids=str,
)
def test_what_cannot_be_combined_is_refused_with_a_reason(options):
    X, y = data()
    model = ChitaRegressor(3, n_solutions=2, **options)
    with pytest.raises(ValueError, match=r"n_solutions=2 and .* cannot be combined"):
        model.fit(X, np.stack([y, y**2], axis=1))


def test_time_ends_the_list_too():
    X, y = data(n=60, p=40)
    problem = LeastSquares(X, y, ridge=1e-3, fit_intercept=True)
    found = solve(
        problem, Cardinality(5), n_restarts=10**9, time_limit=1e-9, n_solutions=10
    )
    assert found.status is Status.TIME_LIMIT
    assert len(found.others) == 9
