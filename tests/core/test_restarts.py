"""Restarts: better or the same, the same for a seed, no more than asked for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, solve
from chita_sklearn.core.restarts import Restarts
from chita_sklearn.core.swaps import WorkingSet, swaps

KINDS = ["cardinality", "per block", "n of m", "floor"]
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
    search = Restarts(5, rng)
    found = search(W, S, lambda best: False)
    objective = case.objective(case.refit(found))
    assert objective <= case.objective(case.refit(S)) * (1 + 1e-9)
    mask = np.zeros(p, dtype=bool)
    mask[found] = True
    assert oracle.allows(pattern, mask)
    assert search.left in ((5, 0) if len(S) in (0, p) else (0,))


def test_it_stops_when_told_to(oracle):
    case = oracle.case(0, n=20, p=30, ridge=1e-3)
    problem = case.problem()
    W = WorkingSet(problem, Cardinality(4), np.arange(30), problem.correlation())
    search, asked = Restarts(50, np.random.default_rng(0)), []
    search(W, np.arange(4), lambda best: asked.append(best) is None and len(asked) == 7)
    assert len(asked) == 7
    assert search.left == 43


def test_it_finds_what_swaps_alone_do_not(oracle):
    # Columns that fit y only in pairs: single swaps see nothing to gain.
    better = same = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal((40, 1))
        X = base + 0.3 * rng.standard_normal((40, 14))
        y = X[:, 0] - X[:, 1] + X[:, 2] - X[:, 3] + 0.05 * rng.standard_normal(40)
        case = oracle.Case(X, y, 1e-6)
        best = case.optimum(itertools.combinations(range(14), 3))
        problem = case.problem()
        alone = swaps(problem, Cardinality(3), None)
        with_them = swaps(problem, Cardinality(3), None, search=Restarts(20, rng))
        assert with_them.objective <= alone.objective * (1 + 1e-12)
        assert with_them.objective <= best * (1 + 1e-8)
        better += with_them.objective < alone.objective * (1 - 1e-6)
        same += with_them.objective == alone.objective
    assert better + same > 0


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
