"""Populations: on a part of the columns, supports that the pattern allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality
from chita_sklearn.core.improvers import population as module
from chita_sklearn.core.improvers.population import Population, promising
from chita_sklearn.core.search.working_set import WorkingSet

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def on_all(case, pattern):
    """A working set of all columns of a case."""
    problem = case.problem()
    every = np.arange(problem.p)
    return WorkingSet(problem, pattern, every, problem.correlation())


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of a few columns, so that small problems have them too."""
    monkeypatch.setattr(module, "PART", 1)
    monkeypatch.setattr(module, "PART_EACH", 2)
    monkeypatch.setattr(module, "DRAWN", 15)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seed=seeds)
def test_supports_are_allowed_and_worth_what_is_said(oracle, kind, seed):
    case = oracle.case(seed, n=25, p=40, ridge=1e-3)
    pattern = oracle.patterns(40, seed)[kind]
    S = np.flatnonzero(pattern.best_mask(np.random.default_rng(seed).random(40)))
    if len(S) in (0, 40):
        return
    W = on_all(case, pattern)
    group = Population(W, S, np.random.default_rng(seed))
    for _ in range(3):
        group.step()
        assert np.all(np.diff(group.values) <= 0)
        assert group.values[0] >= W.value(S) * (1 - 1e-9)
        for support, value in zip(group.elite, group.values, strict=True):
            mask = np.isin(np.arange(40), support)
            assert oracle.allows(pattern, mask)
            assert value == pytest.approx(W.value(support), rel=1e-6)


def test_the_promising_columns_are_those_whose_exchange_gains_most(oracle):
    case = oracle.case(4, n=25, p=20, ridge=1e-3)
    W, S = on_all(case, Cardinality(3)), np.array([2, 7, 11])
    rest = np.setdiff1d(np.arange(20), S)
    best = [
        max(W.value(np.sort(np.append(np.delete(S, i), j))) for i in range(3))
        for j in rest
    ]
    assert promising(W, S, 6).tolist() == rest[np.argsort(best)[::-1][:6]].tolist()
