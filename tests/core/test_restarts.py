"""Restarts: better or the same, the same for a seed, no more than asked for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, solve
from chita_sklearn.core.improvers.restarts import Restarts
from chita_sklearn.core.improvers.swaps import swaps
from chita_sklearn.core.search.working_set import WorkingSet

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=seeds)
def test_a_search_never_returns_worse_and_keeps_to_the_pattern(oracle, kind, seed):
    case = oracle.case(seed, ridge=1e-3)
    problem = case.problem()
    p = problem.p
    pattern = oracle.patterns(p, seed)[kind]
    W = WorkingSet(problem, pattern, np.arange(p), problem.correlation())
    every = sorted(oracle.supports(pattern, p))
    rng = np.random.default_rng(seed)
    S = np.asarray(every[int(rng.integers(len(every)))])
    asked = []
    found = Restarts(5, rng)(W, S, lambda best: bool(asked.append(best)))
    objective = case.objective(case.refit(found))
    assert objective <= case.objective(case.refit(S)) * (1 + 1e-9)
    mask = np.zeros(p, dtype=bool)
    mask[found] = True
    assert oracle.allows(pattern, mask)
    assert len(asked) >= 5 or len(S) in (0, p)


def test_it_stops_when_told_to(oracle):
    case = oracle.case(0, n=20, p=30, ridge=1e-3)
    problem = case.problem()
    W = WorkingSet(problem, Cardinality(4), np.arange(30), problem.correlation())
    search, asked = Restarts(50, np.random.default_rng(0)), []
    search(W, np.arange(4), lambda best: asked.append(best) is None and len(asked) == 7)
    assert len(asked) == 7


def test_it_finds_what_swaps_alone_do_not(oracle):
    # Correlated columns that fit y in groups: single swaps do not see them.
    better = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal((30, 1))
        X = base + 0.3 * rng.standard_normal((30, 60))
        y = X[:, :8] @ np.resize([1.0, -1.0], 8) + 0.3 * rng.standard_normal(30)
        problem = oracle.Case(X, y, 1e-6).problem()
        alone = swaps(problem, Cardinality(8), None)
        with_them = swaps(problem, Cardinality(8), None, search=Restarts(30, rng))
        assert with_them.objective <= alone.objective * (1 + 1e-9)
        better += with_them.objective < 0.99 * alone.objective
    assert better >= 3


@settings(max_examples=20)
@given(seed=seeds)
def test_with_restarts_the_optimum_of_small_problems_is_found(oracle, seed):
    case = oracle.case(seed, n=15, p=10, ridge=1e-4)
    best = case.optimum(itertools.combinations(range(10), 4))
    rng = np.random.default_rng(seed)
    found = swaps(case.problem(), Cardinality(4), None, search=Restarts(30, rng))
    assert found.objective <= best * (1 + 1e-8)


def test_the_same_seed_gives_the_same_answer(oracle):
    case = oracle.case(3, n=30, p=200, ridge=1e-6)
    problem = case.problem()
    answers = [
        solve(problem, Cardinality(8), n_restarts=15, random_state=state)
        for state in (7, 7, np.random.default_rng(7))
    ]
    for other in answers[1:]:
        assert np.array_equal(answers[0].coef, other.coef)
        assert answers[0].objective == other.objective


def test_more_restarts_of_the_same_seed_are_never_worse(oracle):
    for seed in range(5):
        case = oracle.case(seed, n=25, p=60, ridge=1e-7)
        problem = case.problem()
        reached = [
            solve(
                problem, Cardinality(6), solver="swap", n_restarts=n, random_state=0
            ).objective
            for n in (0, 5, 20)
        ]
        assert reached[1] <= reached[0] * (1 + 1e-9)
        assert reached[2] <= reached[0] * (1 + 1e-9)


@pytest.mark.parametrize(("n", "walk"), [(20, True), (200, False)])
def test_where_rows_are_few_walkers_follow_though_restarts_agree(oracle, n, walk):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 60))
    y = X[:, :4] @ np.full(4, 3.0) + 0.1 * rng.standard_normal(n)
    problem = oracle.Case(X, y, 1e-6).problem()
    W = WorkingSet(problem, Cardinality(4), np.arange(60), problem.correlation())
    search = Restarts(10, rng)
    found = search(W, np.arange(4), lambda _: False)
    assert sorted(found.tolist()) == [0, 1, 2, 3]
    assert (search.done, search.better) == (10, 0)
    assert bool(search.rounds) == walk
