"""The state that swaps update against one from scratch, gains against refits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality
from chita_sklearn.core.search import swap_state as module
from chita_sklearn.core.search.local_search import improve
from chita_sklearn.core.search.swap_state import DRIFT, SwapState, explained
from chita_sklearn.core.search.working_set import WorkingSet

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def on_all(case, pattern, inside=None):
    problem = case.problem()
    every = np.arange(problem.p)
    return WorkingSet(problem, pattern, every, problem.correlation(), inside)


def some_swap(rng, state):
    p = len(state.q)
    outside = np.setdiff1d(np.arange(p), state.S)
    return int(rng.integers(len(state.S))), int(rng.choice(outside))


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
@settings(max_examples=15)
@given(seed=seeds)
def test_after_many_swaps_it_is_what_it_is_from_scratch(oracle, kind, ridge, seed):
    rng = np.random.default_rng(seed)
    X = columns(rng, kind, 30, 18)
    case = oracle.Case(X, X @ rng.standard_normal(18) + rng.standard_normal(30), ridge)
    W, scale = on_all(case, Cardinality(6)), case.objective(np.zeros(18))
    state = SwapState(W, np.sort(rng.choice(18, size=6, replace=False)))
    for _ in range(60):
        state.swap(*some_swap(rng, state))
        # The value is right after each, whatever has become of the rest; where columns
        # depend on each other, it is the damped one.
        S = state.S
        explained = scale - case.objective(case.refit(S))
        assert state.value <= explained + 1e-5 * scale
        if kind in ("hardly distinct", "duplicates"):
            explained = W.value(S)
        assert state.value == pytest.approx(explained, rel=1e-8, abs=1e-8 * scale)
    if not state.sound():
        state.renew()
    fresh = SwapState(W, S)
    size = np.sqrt(W.h)
    unit = size[S][:, None] / np.where(size > 0, size, 1.0)
    assert np.allclose(state.T * unit, fresh.T * unit, rtol=1e-7, atol=1e-7)
    assert np.all(np.abs(state.d - fresh.d) <= 1e-9 * W.h)
    assert np.all(np.abs(state.q - fresh.q) <= 1e-7 * size * np.sqrt(2 * scale))
    w, right = state.w * size[S], fresh.w * size[S]
    assert np.max(np.abs(w - right)) <= 1e-6 * np.max(np.abs(right))


@settings(max_examples=10)
@given(seed=seeds)
def test_well_conditioned_swaps_do_without_renewal(oracle, seed):
    # Rounding stays at rounding over a thousand swaps; none is computed from scratch.
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 40))
    case = oracle.Case(X, X[:, :5] @ np.ones(5) + rng.standard_normal(60))
    state = SwapState(on_all(case, Cardinality(10)), np.arange(10))

    def renew():
        raise AssertionError

    state.renew = renew
    for _ in range(1000):
        state.swap(*some_swap(rng, state))
    assert state.sound()


def test_what_rounding_has_spoilt_is_not_sound(oracle):
    rng = np.random.default_rng(0)
    case = oracle.Case(rng.standard_normal((30, 12)), rng.standard_normal(30))
    state = SwapState(on_all(case, Cardinality(4)), np.arange(4))
    state.swap(0, 7)
    assert state.sound()
    state.T[2, 9] += 1e3 * DRIFT
    assert not state.sound()
    state.renew()
    assert state.sound()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=seeds)
def test_the_best_swap_is_the_best_of_all_refits(oracle, kind, seed):
    case = oracle.case(seed, n=20)
    p = case.X.shape[1]
    pattern = oracle.patterns(p, seed)[kind]
    rng = np.random.default_rng(seed)
    every = sorted(oracle.supports(pattern, p))
    first = every[int(rng.integers(len(every)))]
    if len(first) in (0, p):
        return
    inside = np.isin(np.arange(p), first) & (rng.random(p) < 0.2)
    W = on_all(case, pattern, inside)
    state = SwapState(W, np.asarray(first))
    for _ in range(3):  # the later ones from a state that was updated
        S = set(state.S.tolist())
        at = {T: case.objective(case.refit(list(T))) for T in every}
        before, scale = at[tuple(sorted(S))], case.objective(np.zeros(p))
        gains = {}
        for i, j in itertools.product(S, set(range(p)) - S):
            T = tuple(sorted(S - {i} | {j}))
            if T in at and not inside[i]:
                gains[i, j] = before - at[T]
        gain, i, j = state.best()
        highest = max(gains.values(), default=-np.inf)
        if highest == -np.inf:
            assert gain == -np.inf
            break
        pair = int(state.S[i]), j
        assert gain == pytest.approx(highest, rel=1e-6, abs=1e-9 * scale)
        assert gains[pair] == pytest.approx(highest, rel=1e-6, abs=1e-9 * scale)
        leaves, joins = list(gains)[int(rng.integers(len(gains)))]
        state.swap(int(np.flatnonzero(state.S == leaves)[0]), joins)


@pytest.mark.parametrize("kind", ["plain", "near-collinear", "duplicates"])
@settings(max_examples=10)
@given(seed=seeds)
def test_no_swap_betters_what_many_swaps_have_improved(oracle, kind, seed):
    rng = np.random.default_rng(seed)
    X = columns(rng, kind, 40, 24)
    case = oracle.Case(X, X[:, 12:] @ np.ones(12) + 0.1 * rng.standard_normal(40))
    W = on_all(case, Cardinality(10))
    first = np.arange(10)
    S, value, done = improve(W, first, max_swaps=300)
    best, scale = case.objective(case.refit(S)), case.objective(np.zeros(24))
    assert value == pytest.approx(scale - best, rel=1e-8, abs=1e-9 * scale)
    assert done >= 2
    for i, j in itertools.product(S, np.setdiff1d(np.arange(24), S)):
        T = np.append(np.setdiff1d(S, [i]), j)
        assert best <= case.objective(case.refit(T)) + 1e-8 * scale


def test_a_thousand_gains_at_a_time_or_all_at_once_are_the_same(oracle, monkeypatch):
    rng = np.random.default_rng(1)
    case = oracle.Case(rng.standard_normal((50, 200)), rng.standard_normal(50))
    state = SwapState(on_all(case, Cardinality(30)), np.arange(30))
    whole = state.best()
    monkeypatch.setattr(module, "BLOCK", 1000)
    assert state.best() == whole


@settings(max_examples=15)
@given(seed=seeds)
def test_rows_left_out_could_not_gain(oracle, seed):
    # Blocks of one row, so that all that can be left out is.
    rng = np.random.default_rng(seed)
    X = columns(rng, ["plain", "near-collinear", "duplicates"][seed % 3], 40, 30)
    case = oracle.Case(X, X @ (rng.standard_normal(30) * (rng.random(30) < 0.4)), 1e-6)
    state = SwapState(on_all(case, Cardinality(12)), np.arange(12))
    for _ in range(8):
        gain, i, j = state.best()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BLOCK", 1)
            assert state.best()[0] == gain
        state.swap(i, j)


def test_rows_that_could_not_gain_are_left_out(oracle, monkeypatch):
    # Nearly orthogonal columns, of which half carry y: these stay, whatever joins.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 60))
    y = X[:, :10] @ np.ones(10) + 0.1 * rng.standard_normal(400)
    state = SwapState(on_all(oracle.Case(X, y), Cardinality(20)), np.arange(20))
    scored = []

    def counted(T, *others):
        scored.append(len(T))
        return explained(T, *others)

    monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(module, "explained", counted)
    state.best()
    assert sum(scored) <= 10
