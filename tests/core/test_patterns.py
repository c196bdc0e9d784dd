"""Patterns against their definitions: every allowed support in turn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chita_sklearn.core import (
    Cardinality,
    Including,
    LeastSquares,
    NOfM,
    Pattern,
    PerBlock,
    WithFloor,
    solve,
)
from chita_sklearn.core.refit.backsolve import backsolve, unsolved

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


def chosen(pattern, score):
    mask = pattern.best_mask(score)
    assert mask.dtype == bool
    assert mask.shape == score.shape
    return tuple(np.flatnonzero(mask).tolist())


def first_of_the_best(oracle, pattern, score):
    """By brute force: the largest sum, ties to the lowest indices."""
    supports = list(oracle.supports(pattern, len(score)))
    sums = [score[list(S)].sum() for S in supports]
    best = max(sums)
    return min(S for S, total in zip(supports, sums, strict=True) if total == best)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, p=st.integers(1, 10), ties=st.booleans())
def test_best_mask_is_the_best_of_all_supports(oracle, kind, seed, p, ties):
    rng = np.random.default_rng(seed)
    pattern = oracle.patterns(p, seed)[kind]
    # Small integers add up exactly, and tie often.
    score = rng.integers(-3, 4 if ties else 1000, p).astype(float)
    assert chosen(pattern, score) == first_of_the_best(oracle, pattern, score)


@given(seed=seeds, n_blocks=st.integers(60, 90))
def test_many_blocks_are_the_best_of_each(seed, n_blocks):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_blocks, 300)
    sizes = rng.integers(0, 6, n_blocks)
    score = rng.integers(0, 5, 300).astype(float)
    expected = []
    for block, size in enumerate(sizes):
        members = np.flatnonzero(labels == block)
        order = sorted(members, key=lambda j: (-score[j], j))
        expected += order[:size]
    assert chosen(PerBlock(labels, sizes), score) == tuple(sorted(expected))


@given(seed=seeds, n=st.integers(1, 5), m=st.integers(1, 5), p=st.integers(1, 23))
def test_n_of_m_keeps_the_best_n_of_each_group(seed, n, m, p):
    score = np.random.default_rng(seed).integers(0, 4, p).astype(float)
    pattern = NOfM(n, m, p)
    expected = []
    for start in range(0, p, m):
        group = range(start, min(start + m, p))
        expected += sorted(group, key=lambda j: (-score[j], j))[:n]
    assert chosen(pattern, score) == tuple(sorted(expected))
    assert pattern.size == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_go_to_the_lowest_index(oracle, kind):
    pattern = oracle.patterns(9, 1)[kind]
    mask = chosen(pattern, np.zeros(9))
    assert mask == min(oracle.supports(pattern, 9))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, p=st.integers(1, 9))
def test_minus_infinity_is_chosen_only_where_nothing_else_is_left(
    oracle, kind, seed, p
):
    rng = np.random.default_rng(seed)
    pattern = oracle.patterns(p, seed)[kind]
    score = rng.integers(0, 5, p).astype(float)
    out = rng.random(p) < 0.6
    score[out] = -np.inf
    mask = pattern.best_mask(score)
    assert tuple(np.flatnonzero(mask)) in set(oracle.supports(pattern, p))
    fewest = min(int(out[list(S)].sum()) for S in oracle.supports(pattern, p))
    assert int((mask & out).sum()) == fewest


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, p=st.integers(2, 8))
def test_exchangeable_says_whether_the_swapped_support_is_allowed(
    oracle, kind, seed, p
):
    pattern = oracle.patterns(p, seed)[kind]
    every = set(oracle.supports(pattern, p))
    for S in itertools.islice(sorted(every), 8):
        mask = np.zeros(p, dtype=bool)
        mask[list(S)] = True
        inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
        table = pattern.exchangeable(inside, outside)
        if table is None:
            table = np.ones((len(inside), len(outside)), dtype=bool)
        assert table.shape == (len(inside), len(outside))
        for i, j in np.ndindex(table.shape):
            swapped = tuple(sorted({*S, int(outside[j])} - {int(inside[i])}))
            assert table[i, j] == (swapped in every)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, p=st.integers(2, 9))
def test_restricted_to_some_coordinates_it_allows_the_same_supports(
    oracle, kind, seed, p
):
    rng = np.random.default_rng(seed)
    pattern = oracle.patterns(p, seed)[kind]
    every = list(oracle.supports(pattern, p))
    # Room for at least one allowed support, as in a search from that support.
    index = np.union1d(
        every[int(rng.integers(len(every)))], np.flatnonzero(rng.random(p) < 0.5)
    ).astype(int)
    small = pattern.restrict(index)
    expected = {S for S in every if set(S) <= set(index.tolist())}
    there = {tuple(index[list(S)].tolist()) for S in oracle.supports(small, len(index))}
    assert there == expected
    score = rng.integers(0, 9, len(index)).astype(float)
    mask = small.best_mask(score)
    assert tuple(index[mask].tolist()) in expected


def test_sizes_and_floors_are_clipped_to_the_length_of_their_block():
    labels = np.array([0, 1, 1, 2])
    assert PerBlock(labels, [5, 1, 0]).sizes.tolist() == [1, 1, 0]
    floored = WithFloor(4, labels, [3, 2, 0])
    assert floored.floors.tolist() == [1, 2, 0]
    assert chosen(floored, np.array([0.0, 0.0, 0.0, 9.0])) == (0, 1, 2, 3)


def test_floors_beyond_k_are_refused():
    with pytest.raises(ValueError, match="add up to 3, more than k=2"):
        WithFloor(2, [0, 0, 1, 1], [2, 1])


def test_more_than_all_is_all():
    assert chosen(Cardinality(7), np.arange(3.0)) == (0, 1, 2)
    assert chosen(Cardinality(0), np.arange(3.0)) == ()


@pytest.mark.parametrize("kind", [*KINDS, "many blocks"])
def test_every_array_library_chooses_the_same(oracle, backend, kind):
    rng = np.random.default_rng(0)
    p = 203
    labels = rng.integers(0, 5, p)
    pattern = {
        "cardinality": Cardinality(60),
        "including": Including(60, rng.permutation(p)[:20]),
        "per block": PerBlock(labels, [3, 0, 40, 1, 99]),
        "n of m": NOfM(2, 4, p),
        "floor": WithFloor(70, labels, [9, 0, 30, 1, 5]),
        "many blocks": PerBlock(rng.integers(0, 80, p), rng.integers(0, 3, 80)),
    }[kind]
    for top in (4, 10**6):  # with many ties, and with few
        score = rng.integers(0, top, p).astype(float)
        mask = pattern.best_mask(backend.to(score))
        assert type(mask) is type(backend.to(score))
        assert np.array_equal(backend.back(mask), pattern.best_mask(score))


class Pairs(Pattern):
    """Coordinates in pairs, all or none of each: no matroid, no single exchange."""

    def __init__(self, n_pairs, p):
        self.pairs, self.p, self.size = n_pairs, p, 2 * n_pairs

    def best_mask(self, score):
        best = np.argsort(-score.reshape(-1, 2).sum(axis=1), kind="stable")
        mask = np.zeros((self.p // 2, 2), dtype=bool)
        mask[best[: self.pairs]] = True
        return mask.ravel()

    def exchangeable(self, support, outside):
        return np.zeros((len(support), len(outside)), dtype=bool)

    def restrict(self, index):
        raise NotImplementedError


def refitted(problem, mask):
    return backsolve(problem, unsolved(problem, mask)).objective


@pytest.mark.parametrize("seed", range(40))
def test_what_is_no_matroid_has_nothing_fixed_and_a_bound_that_holds(seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((12, 8)) @ (np.eye(8) + 0.7 * rng.standard_normal((8, 8)))
    problem = LeastSquares(A, rng.standard_normal(12), ridge=10 ** rng.uniform(-2, 1))
    pattern = Pairs(2, 8)
    found = solve(problem, pattern)
    assert found.history[0].startswith("plan dual")
    objectives = [
        backsolve(
            problem, unsolved(problem, np.isin(np.arange(8) // 2, pair))
        ).objective
        for pair in itertools.combinations(range(4), 2)
    ]
    least = min(objectives)
    assert found.lower_bound <= least * (1 + 1e-13)
    assert least <= found.objective * (1 + 1e-13)
    if found.fixed is not None:
        assert not any(mask.any() for mask in found.fixed)


def test_swaps_are_refused_for_what_is_no_matroid():
    problem = LeastSquares(np.eye(8), np.ones(8), ridge=1.0)
    with pytest.raises(ValueError, match=r"needs a pattern that is a matroid.*'dual'"):
        solve(problem, Pairs(2, 8), solver="swap")


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, p=st.integers(1, 7))
def test_patterns_that_say_so_are_matroids(oracle, kind, seed, p):
    # The basis exchange axiom, over all pairs of allowed supports.
    pattern = oracle.patterns(p, seed)[kind]
    assert pattern.is_matroid
    bases = {frozenset(S) for S in oracle.supports(pattern, p)}
    for S, T in itertools.product(bases, repeat=2):
        for i in S - T:
            assert any((S - {i}) | {j} in bases for j in T - S)
