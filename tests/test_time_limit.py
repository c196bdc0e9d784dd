"""A time limit ends a search, not its honesty."""

import itertools
import time
import warnings

import numpy as np
import pytest

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, chita_path
from chita_sklearn.core import (
    Cardinality,
    Deadline,
    LeastSquares,
    ManyTargets,
    Status,
    solve,
    solve_path,
)
from chita_sklearn.core.deadline import asked

SOON = 1e-9  # seconds: over at the first step


def hard(n=60, p=300, seed=0):
    """Wide and correlated: hundreds of restarts would all be at work."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, 5)) @ rng.standard_normal((5, p))
    X = common + 0.7 * rng.standard_normal((n, p))
    return X, X[:, ::20].sum(axis=1) + rng.standard_normal(n)


def problem(ridge=1e-3, **shape):
    X, y = hard(**shape)
    return LeastSquares(X, y, ridge=ridge, fit_intercept=True)


@pytest.fixture
def ticking(monkeypatch):
    """A clock by which each look at it takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


@pytest.mark.parametrize("solver", ["swap", "admm", "dual", "iht", "exact"])
def test_every_plan_ends_soon_with_a_support_of_size_k_and_a_true_objective(solver):
    p = problem()
    found = solve(
        p, Cardinality(8), solver=solver, n_restarts=10**6, max_iter=10**6,
        tol=0.0, time_limit=SOON, random_state=0,
    )  # fmt: skip
    assert found.status is Status.TIME_LIMIT
    assert int(np.count_nonzero(found.coef)) == 8
    assert found.objective == pytest.approx(p.objective(found.coef), rel=1e-12)
    assert not found.lower_bound > found.objective
    assert found.history[-1].startswith("time limit of 1e-09 s")


def test_the_bound_of_a_search_cut_short_is_below_the_optimum():
    p = problem(ridge=0.5, n=40, p=10)
    exact = solve(p, Cardinality(3), solver="exact", tol=0.0)
    assert exact.status is Status.OPTIMAL
    for solver in ("swap", "dual", "iht"):
        short = solve(p, Cardinality(3), solver=solver, time_limit=SOON)
        assert short.objective >= exact.objective * (1 - 1e-12)
        assert not short.lower_bound > exact.objective * (1 + 1e-12)


def test_time_that_suffices_changes_nothing():
    p = problem()
    free = solve(p, Cardinality(6), random_state=0)
    limited = solve(p, Cardinality(6), random_state=0, time_limit=600.0)
    assert limited.status is free.status is not Status.TIME_LIMIT
    assert limited.history == free.history
    assert np.array_equal(limited.coef, free.coef)


def test_more_time_never_leads_to_a_worse_support(ticking):
    values = []
    for seconds in (2, 20, 200, 2000):
        p = problem()
        found = solve(
            p, Cardinality(8), n_restarts=40, random_state=0, time_limit=seconds
        )
        values.append(found.objective)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_a_clock_alone_costs_no_refits_and_a_caller_is_asked_first():
    def never():
        raise AssertionError("computed for nobody")

    assert not asked(None, never)
    assert not asked(Deadline(100.0), never)
    clock = Deadline(SOON, on_step=lambda coef: coef == 1)
    assert clock.asks
    assert asked(clock, lambda: 1)
    assert not clock.passed  # the caller asked to stop, not the clock
    assert asked(clock, lambda: 2)
    assert clock.passed


def test_a_caller_that_stops_is_not_called_late():
    found = solve(
        problem(), Cardinality(8), solver="swap", time_limit=600.0,
        on_step=lambda coef: True,
    )  # fmt: skip
    assert found.status is Status.STOPPED


def test_each_k_of_a_path_has_a_share(ticking):
    p = problem()
    limits = []
    solutions = solve_path(p, [2, 4, 8], n_restarts=10**6, time_limit=60.0)
    for k, found in zip([2, 4, 8], solutions, strict=True):
        assert int(np.count_nonzero(found.coef)) == k
        limits += [line for line in found.history if line.startswith("time limit")]
    assert solutions[-1].status is Status.TIME_LIMIT
    assert limits
    objectives = [found.objective for found in solutions]
    assert objectives == sorted(objectives, reverse=True)


def test_several_targets_end_soon_too():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 30))
    Y = X @ rng.standard_normal((30, 4)) + rng.standard_normal((50, 4))
    many = ManyTargets(X.T @ X, Y.T @ X, mu=1.0, constant=0.5 * float(np.sum(Y**2)))
    found = solve(many, Cardinality(20), time_limit=SOON)
    assert found.status is Status.TIME_LIMIT
    assert int(np.count_nonzero(found.coef)) == 20
    for support in ("separate", "shared", "pooled"):
        model = ChitaRegressor(
            4, n_restarts=10**6, target_support=support, time_limit=SOON
        )
        model.fit(X, Y)
        assert np.count_nonzero(model.coef_)


@pytest.mark.parametrize(
    "options",
    [{"positive": True}, {"groups": np.arange(300) // 3}, {"always_include": [7]}],
    ids=lambda options: next(iter(options)),
)
def test_constraints_hold_when_time_is_over(options):
    X, y = hard()
    model = ChitaRegressor(5, n_restarts=10**6, time_limit=SOON, **options).fit(X, y)
    if "positive" in options:
        assert model.coef_.min() >= 0
    elif "groups" in options:
        assert len(set(options["groups"][model.support_])) == 5
    else:
        assert 7 in model.support_


def test_an_estimator_gives_no_warning_and_its_history_tells():
    X, y = hard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ChitaRegressor(8, n_restarts=10**6, time_limit=SOON).fit(X, y)
        path = chita_path(X, y, [3, 5], n_restarts=10**6, time_limit=SOON)
    assert any(line.startswith("time limit") for line in model.solver_history_)
    assert len(model.support_) == 8
    assert path.statuses == (Status.TIME_LIMIT, Status.TIME_LIMIT)


def test_cross_validation_scores_every_pair_and_shares_what_is_left():
    X, y = hard(n=80, p=60)
    model = ChitaRegressorCV([2, 4], [1e-3, 1e-1], n_restarts=10**6, time_limit=SOON)
    model.fit(X, y)
    assert np.isfinite(model.score_path_).all()
    assert set(model.path_.statuses) == {Status.TIME_LIMIT}
    model.set_params(criterion="ebic").fit(X, y)
    assert np.isfinite(model.criterion_path_).all()
    assert Status.TIME_LIMIT in model.path_.statuses


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), "1 s"])
def test_a_limit_that_is_none_is_refused_with_a_remedy(bad):
    X, y = hard()
    for fit in (
        lambda: ChitaRegressor(3, time_limit=bad).fit(X, y),
        lambda: ChitaRegressorCV(3, time_limit=bad).fit(X, y),
        lambda: chita_path(X, y, 3, time_limit=bad),
    ):
        with pytest.raises(ValueError, match=r"time_limit.*Pass seconds, more than 0"):
            fit()
