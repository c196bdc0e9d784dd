"""Hard thresholding: monotone, feasible, and at a fixed point when it stops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, Solution, Status
from chita_sklearn.core.improvers.iht import _Step, iht
from chita_sklearn.core.initial import metric
from chita_sklearn.core.refit.backsolve import backsolve

KINDS = ["cardinality", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def random_start(case, pattern, seed):
    problem, rng = case.problem(), np.random.default_rng(seed)
    mask = pattern.best_mask(rng.random(problem.p))
    w = np.where(mask, rng.standard_normal(problem.p), 0.0)
    return problem, Solution(w, mask, problem.objective(w), n_iter=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("diagonal", [True, False])
@given(seed=seeds, max_iter=st.integers(1, 30))
def test_it_never_makes_a_solution_worse(oracle, kind, diagonal, seed, max_iter):
    case = oracle.case(seed)
    pattern = oracle.patterns(case.X.shape[1], seed)[kind]
    problem, start = random_start(case, pattern, seed)
    found = iht(problem, pattern, start, max_iter=max_iter, diagonal=diagonal)
    assert found.objective <= start.objective
    assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-8)
    assert oracle.allows(pattern, found.support)
    assert not np.any(found.coef[~found.support])
    assert found.n_iter >= 1


@pytest.mark.parametrize("diagonal", [True, False])
@settings(max_examples=20)
@given(seed=seeds)
def test_nor_with_an_active_set(oracle, diagonal, seed):
    case = oracle.case(seed, n=15, p=80)
    pattern = Cardinality(6)
    problem, start = random_start(case, pattern, seed)
    found = iht(problem, pattern, start, diagonal=diagonal)
    assert found.objective <= start.objective
    assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-8)
    assert int(found.support.sum()) <= 6
    assert not np.any(found.coef[~found.support])


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_each_step_is_monotone_and_its_direction_the_gradient(oracle, kind, seed):
    case = oracle.case(seed)
    pattern = oracle.patterns(case.X.shape[1], seed)[kind]
    problem, start = random_start(case, pattern, seed)
    M = metric(problem)
    step = _Step(problem, pattern, M)
    gradient = case.gradient(start.coef).astype(float)
    size = np.max(np.abs(gradient))
    assert np.allclose(-M * step.direction(start.coef), gradient, atol=1e-9 * size)
    state = (start.coef, start.support, start.objective)
    for _ in range(6):
        new = step(*state)
        assert new[2] <= state[2]
        assert new[2] == pytest.approx(case.objective(new[0]), rel=1e-8)
        assert oracle.allows(pattern, new[1])
        assert not np.any(new[0][~new[1]])
        state = new


@settings(max_examples=20)
@given(seed=seeds)
def test_the_step_on_a_support_that_stays_is_the_exact_line_search(oracle, seed):
    case = oracle.case(seed)
    p = case.X.shape[1]
    problem, start = random_start(case, Cardinality(p), seed)
    step = _Step(problem, Cardinality(p), metric(problem))
    w, _, objective = step(start.coef, start.support, start.objective)
    d = step.direction(start.coef)
    A, mu = case.A.astype(float), float(case.mu)
    slope = -float(case.gradient(start.coef).astype(float) @ d)
    t = slope / float(np.sum((A @ d) ** 2) + mu * d @ d)
    best = case.objective(start.coef + t * d)
    assert objective == pytest.approx(best, rel=1e-8)
    assert np.allclose(w, start.coef + t * d, atol=1e-8 * (1 + np.max(np.abs(w))))


def test_the_diagonal_metric_does_not_depend_on_the_units_of_columns(oracle):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 25)), rng.standard_normal(40)
    units = 10.0 ** rng.uniform(-5, 5, 25)
    supports = []
    for scale in (np.ones(25), units):
        case = oracle.Case(X * scale, y)
        problem = case.problem()
        mask = np.arange(25) < 5
        zero = problem.zeros(25)
        start = Solution(zero, mask, problem.objective(zero))
        supports.append(iht(problem, Cardinality(5), start).support)
    assert np.array_equal(*supports)


def test_converged_means_that_the_full_step_gains_nothing(oracle):
    stopped = 0
    for seed in range(20):
        case = oracle.case(seed, n=30, p=20, ridge=0.1)
        pattern = Cardinality(5)
        problem, start = random_start(case, pattern, seed)
        found = iht(problem, pattern, start, max_iter=1000, tol=1e-12)
        if found.status is not Status.CONVERGED:
            continue
        stopped += 1
        polished = backsolve(problem, found)
        assert polished.objective <= found.objective
        step = _Step(problem, pattern, metric(problem))
        mask = pattern.best_mask(
            metric(problem) * (found.coef + step.direction(found.coef)) ** 2
        )
        again = step(found.coef, found.support, found.objective)
        assert np.array_equal(again[1], found.support) or mask.sum() == 5
    assert stopped >= 15


def test_on_step_can_stop_it(oracle):
    case = oracle.case(4, n=30, p=200, ridge=1e-6)
    problem, start = random_start(case, Cardinality(10), 0)
    calls = []
    found = iht(
        problem,
        Cardinality(10),
        start,
        tol=0.0,
        on_step=lambda w: calls.append(case.objective(w)) is None and len(calls) == 2,
    )
    assert found.status is Status.STOPPED
    assert len(calls) == 2
    assert found.objective <= min(calls) * (1 + 1e-12)
