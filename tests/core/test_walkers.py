"""Walkers: exact values, the best exchange each step, supports that are allowed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality
from chita_sklearn.core.search import walkers as module
from chita_sklearn.core.search.walkers import distinct, mixed, randomised_forward, walk
from chita_sklearn.core.search.working_set import WorkingSet

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def on_all(case, pattern, inside=None):
    problem = case.problem()
    every = np.arange(problem.p)
    return WorkingSet(problem, pattern, every, problem.correlation(), inside)


def columns(rng, kind, n, p):
    X = rng.standard_normal((n, p))
    if kind == "scaled":
        X *= 10.0 ** rng.uniform(-6, 6, p)
    if kind == "near-collinear":
        X = rng.standard_normal((n, 1)) + 1e-3 * X
    if kind == "hardly distinct":
        X[:, ::2] = X[:, 1::2] + 1e-5 * X[:, ::2]
    if kind == "duplicates":
        X[:, ::3] = X[:, [0]]
        X[:, 1] = 0.0
    return X


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.parametrize(
    "kind", ["plain", "scaled", "near-collinear", "hardly distinct", "duplicates"]
)
@settings(max_examples=10)
@given(seed=seeds)
def test_a_value_is_that_of_the_support_from_scratch(oracle, kind, ridge, seed):
    # After more steps than the state is kept for without computing it anew.
    rng = np.random.default_rng(seed)
    X = columns(rng, kind, 30, 18)
    case = oracle.Case(X, X @ rng.standard_normal(18) + rng.standard_normal(30), ridge)
    W = on_all(case, Cardinality(6))
    S = randomised_forward(W, 6, 8, rng)
    if not len(S):
        return
    found, values = walk(W, S, 2 * module.RENEWED, rng)
    at_zero = case.objective(np.zeros(18))
    for support, value in zip(found, values, strict=True):
        refitted = case.objective(case.refit(np.sort(support)))
        explained = float(at_zero - refitted)
        assert explained == pytest.approx(value, abs=1e-7 * float(at_zero))


@settings(max_examples=20)
@given(seed=seeds)
def test_the_first_step_is_the_best_exchange_of_all(oracle, seed):
    case = oracle.case(seed, n=25, p=9, ridge=1e-3)
    W = on_all(case, Cardinality(3))
    S = np.array([[0, 1, 2], [6, 7, 8]])
    _, values = walk(W, S, 1, np.random.default_rng(seed))
    for start, value in zip(S, values, strict=True):
        rest = np.setdiff1d(np.arange(9), start)
        exchanges = [
            W.value(np.sort(np.append(np.delete(start, i), j)))
            for i in range(3)
            for j in rest
        ]
        assert value == pytest.approx(max(W.value(start), *exchanges), rel=1e-9)


@settings(max_examples=20)
@given(seed=seeds)
def test_a_swap_that_is_tabu_is_taken_where_it_leads_to_a_record(oracle, seed):
    # Against the search of the textbook, with tenures so long that most is tabu.
    case = oracle.case(seed, n=25, p=9, ridge=1e-3)
    W, k = on_all(case, Cardinality(3)), 3
    value = {S: W.value(np.asarray(S)) for S in itertools.combinations(range(9), k)}
    tenure = np.random.default_rng(seed).integers(4, 9, size=(1, 15))
    S, until = (0, 1, 2), np.zeros(9, dtype=int)
    best = value[S]
    for step, out in enumerate(tenure[0], start=1):
        swaps = [
            (value[tuple(sorted({*S, j} - {i}))], i, j)
            for i in S
            for j in set(range(9)) - set(S)
        ]
        top = max(swaps)
        if top[0] <= best:
            free = [x for x in swaps if until[x[1]] < step and until[x[2]] < step]
            if not free:
                continue
            top = max(free)
        reached, i, j = top
        S, best = tuple(sorted({*S, j} - {i})), max(best, reached)
        until[i], until[j] = step + out, step + min(out // 2, k - 1)
    walkers = module.Walkers(W, np.array([[0, 1, 2]]), tenure)
    _, values = walkers.walk()
    assert sorted(walkers.S[0].tolist()) == list(S)
    assert values[0] == pytest.approx(best, rel=1e-9)


@settings(max_examples=20)
@given(seed=seeds)
def test_they_go_through_losses_to_the_optimum(oracle, seed):
    # From the worst of the 120 supports, without going in circles.
    case = oracle.case(seed, n=15, p=10, ridge=1e-4)
    W = on_all(case, Cardinality(3))
    values = {S: W.value(np.asarray(S)) for S in itertools.combinations(range(10), 3)}
    S = np.array([min(values, key=values.get)])
    _, reached = walk(W, np.repeat(S, 4, axis=0), 100, np.random.default_rng(seed))
    assert max(reached) == pytest.approx(max(values.values()), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=seeds)
def test_they_keep_to_the_pattern_and_to_what_is_locked(oracle, kind, seed):
    case = oracle.case(seed, ridge=1e-3)
    p = case.problem().p
    pattern = oracle.patterns(p, seed)[kind]
    every = sorted(oracle.supports(pattern, p))
    rng = np.random.default_rng(seed)
    S = np.asarray(every[int(rng.integers(len(every)))])
    if len(S) in (0, p):
        return
    inside = np.isin(np.arange(p), S[: len(S) // 2])
    W = on_all(case, pattern, inside)
    group = [T for T in every if inside[list(T)].sum() == inside.sum()]
    found, _ = walk(W, np.array([S, group[0], group[-1]]), 12, rng)
    for a, b in itertools.combinations(np.sort(found, axis=1), 2):
        (between,) = mixed(W, a[None], b[None], rng)
        assert tuple(between) in every
        assert set(a) & set(b) <= set(between) <= set(a) | set(b)
        for support in (a, b, between):
            assert tuple(support) in every
            assert inside[support].sum() == inside.sum()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=seeds)
def test_supports_selected_at_random_are_allowed(oracle, kind, seed):
    case = oracle.case(seed, n=20, p=12, ridge=1e-3)
    pattern = oracle.patterns(12, seed)[kind]
    W = on_all(case, pattern)
    S = randomised_forward(W, pattern.size, 6, np.random.default_rng(seed))
    every = set(oracle.supports(pattern, 12))
    assert all(tuple(sorted(row)) in every for row in S)


def test_what_depends_on_a_support_is_not_selected_with_it(oracle):
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((20, 6)), 2, axis=1)
    case = oracle.Case(X, X[:, ::4] @ np.ones(3) + rng.standard_normal(20), 0.0)
    W = on_all(case, Cardinality(6))
    S = randomised_forward(W, 6, 10, rng)
    assert len(S) == 10
    assert all(len(np.unique(row // 2)) == 6 for row in S)
    # Of seven one would be a copy: nothing is returned rather than less.
    assert len(randomised_forward(W, 7, 10, rng)) == 0


def test_how_many_go_together_changes_no_answer(oracle, monkeypatch):
    case = oracle.case(3, n=30, p=60, ridge=1e-6)
    W = on_all(case, Cardinality(6))
    S = randomised_forward(W, 6, 9, np.random.default_rng(0))
    together = walk(W, S, 50, np.random.default_rng(1))
    monkeypatch.setattr(module, "TOGETHER", 2 * 6 * 60)
    by_two = walk(W, S, 50, np.random.default_rng(1))
    assert np.array_equal(together[0], by_two[0])
    assert together[1] == pytest.approx(by_two[1], rel=1e-12)


def test_copies_of_a_support_count_once():
    S = np.array([[3, 1], [0, 2], [1, 3]])
    each, values = distinct(S, np.array([2.0, 5.0, 2.0]))
    assert each.tolist() == [[0, 2], [1, 3]]
    assert values.tolist() == [5.0, 2.0]


@settings(max_examples=20)
@given(seed=seeds)
def test_a_part_in_other_units_has_the_values_of_the_whole(oracle, seed):
    rng = np.random.default_rng(seed)
    case = oracle.case(seed, n=20, p=40, ridge=1e-3)
    case = oracle.Case(case.X * 10.0 ** rng.integers(-9, 9, 40), 1e12 * case.y, 0.0)
    few = on_all(case, Cardinality(2))  # forms rows of H as they are asked for
    C = np.sort(rng.choice(40, 12, replace=False))
    for W in (few, on_all(case, Cardinality(4))):
        V = W.part(C, 1e12)
        S = np.sort(rng.choice(12, 2, replace=False))
        assert V.value(S) * 1e24 == pytest.approx(W.value(C[S]), rel=1e-6)
        assert np.abs(V.g).max() < 1e3
