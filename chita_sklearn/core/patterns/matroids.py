"""Sparsity patterns: which supports are allowed.

A pattern answers two questions, and no algorithm asks a third:

- `best_mask(score)`: the allowed support with the largest sum of scores;
- `exchangeable(support, outside)`: which single coordinates outside the support may
  replace which inside it.

`restrict(index)` is the same pattern seen by a subset of the coordinates, for a search
on a working set. Arrays given are of any library, and the answers are where they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from ..arrays import (
    Array,
    array_namespace,
    device,
    mask_of,
    scatter,
    to_host,
    top_k_mask,
)

MANY = 64  # blocks beyond which sorting all at once beats selecting in each


class Pattern(ABC):
    """A family of allowed supports over the coordinates 0..p-1."""

    size: int  # how many coordinates an allowed support has
    # Whether the allowed supports are the bases of a matroid: for any two of them, S
    # and T, and any i in S but not in T, some j in T but not in S may replace i in S.
    # Single exchanges then reach every support, and the bound may fix coordinates.
    is_matroid = False
    is_uniform = False  # whether every set of `size` coordinates is allowed
    always: np.ndarray = np.empty(0, dtype=np.intp)  # what every support contains

    @abstractmethod
    def best_mask(self, score: Array) -> Array:
        """Return the allowed support with the largest score sum, as a mask.

        Parameters
        ----------
        score : array of shape (p,)
            Ties go to the lowest index. A coordinate with a score of -inf is chosen
            only where the pattern leaves no other.
        """

    @abstractmethod
    def exchangeable(self, support: Array, outside: Array) -> Array | None:
        """Which coordinates of an allowed `support` may leave for which of `outside`.

        Both are given by their indices. Returns a boolean matrix of shape
        (len(support), len(outside)); None means all.
        """

    def count(self, p: int) -> int | None:
        """How many supports are allowed; None where they cannot be listed."""
        return None

    def supports(self, p: int) -> Iterator[tuple[int, ...]]:
        """Every allowed support, all of `size` coordinates, where `count` is known."""
        raise NotImplementedError(type(self).__name__)

    def pool(self, start: int, stop: int) -> object | None:
        """Which budget the coordinates start..stop - 1 share, and share freely.

        Any coordinate of one stretch may be exchanged for any of another that has the
        same pool. None where there are other rules.
        """
        return None

    @abstractmethod
    def restrict(self, index: Array) -> Pattern:
        """Return this pattern on the coordinates `index` alone (ascending)."""


class Cardinality(Pattern):
    """At most `k` coordinates, wherever they are: ||w||_0 <= k."""

    is_matroid = is_uniform = True

    def __init__(self, k: int) -> None:
        self.size = int(k)

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        return top_k_mask(score, self.size)

    def exchangeable(self, support: Array, outside: Array) -> None:  # noqa: D102
        return None

    def count(self, p: int) -> int:  # noqa: D102
        return comb(p, self.size)

    def supports(self, p: int) -> Iterator[tuple[int, ...]]:  # noqa: D102
        return combinations(range(p), self.size)

    def pool(self, start: int, stop: int) -> object:  # noqa: D102
        return 0

    def restrict(self, index: Array) -> Cardinality:  # noqa: D102
        return Cardinality(min(self.size, index.shape[0]))


class Including(Pattern):
    """`k` coordinates, those of `required` among them.

    Parameters
    ----------
    k : int
        How many coordinates in all.
    required : array-like of int
        Coordinates that every support contains, at most k of them.
    """

    is_matroid = True

    def __init__(self, k: int, required: Any) -> None:
        self.size, self.required = int(k), np.unique(np.asarray(required, dtype=int))
        if len(self.required) > k:
            msg = (
                f"{len(self.required)} coordinates are required, more than k={k}. "
                "Require fewer or raise k."
            )
            raise ValueError(msg)
        self.always = self.required
        self._required = _Shared(self.required)

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        # Those required first, then the best of the rest.
        xp = array_namespace(score)
        first = mask_of(score.shape[0], self._required.like(score))
        return top_k_mask(
            xp.where(first, xp.full_like(score, xp.inf), score), self.size
        )

    def exchangeable(self, support: Array, outside: Array) -> Array:  # noqa: D102
        xp = array_namespace(support)
        required = self._required.like(support)
        stays = xp.any(support[:, None] == required[None, :], axis=1)
        return ~stays[:, None] & (outside == outside)[None, :]

    def count(self, p: int) -> int:  # noqa: D102
        r = len(self.required)
        return comb(p - r, self.size - r)

    def supports(self, p: int) -> Iterator[tuple[int, ...]]:  # noqa: D102
        first = tuple(self.required.tolist())
        rest = np.setdiff1d(np.arange(p), self.required).tolist()
        for S in combinations(rest, self.size - len(first)):
            yield (*first, *S)

    def restrict(self, index: Array) -> Including:  # noqa: D102
        index = to_host(index)
        there = np.flatnonzero(np.isin(index, self.required))
        return Including(min(self.size, len(index)), there)


class PerBlock(Pattern):
    """`sizes[l]` coordinates of each block l.

    Parameters
    ----------
    labels : array-like of int, shape (p,)
        The block of each coordinate, 0..L-1.
    sizes : array-like of int, shape (L,)
        How many coordinates to keep in each block; clipped to the block's length.
    """

    is_matroid = True

    def __init__(self, labels: Any, sizes: Any) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        n_blocks = len(sizes)
        lengths = np.bincount(self.labels, minlength=n_blocks)
        self.sizes = np.minimum(np.asarray(sizes, dtype=np.int64), lengths)
        self.size = int(self.sizes.sum())
        self._members = _members(self.labels, n_blocks)
        self._labels, self._sizes = _Shared(self.labels), _Shared(self.sizes)
        self._first = _Shared(np.cumsum(lengths) - lengths)

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        xp = array_namespace(score)
        if len(self.sizes) > MANY:
            return self._by_rank(score)
        mask = xp.zeros_like(score, dtype=xp.bool)
        for members, size in zip(self._members, self.sizes.tolist(), strict=True):
            mask = _assign(mask, members, top_k_mask(_read(score, members), size))
        return mask

    def _by_rank(self, score: Array) -> Array:
        """All blocks at once, by the rank of each entry in its block: two sorts."""
        xp = array_namespace(score)
        labels = self._labels.like(score)
        order = xp.argsort(score, descending=True, stable=True)
        order = xp.take(order, xp.argsort(xp.take(labels, order), stable=True))
        labels = xp.take(labels, order)
        rank = xp.arange(score.shape[0], device=device(score))
        rank = rank - xp.take(self._first.like(score), labels)
        chosen = rank < xp.take(self._sizes.like(score), labels)
        return xp.take(chosen, xp.argsort(order))

    def exchangeable(self, support: Array, outside: Array) -> Array:  # noqa: D102
        return _same(self._labels, support, outside)

    def pool(self, start: int, stop: int) -> object | None:  # noqa: D102
        first, last = int(self.labels[start]), int(self.labels[stop - 1])
        same = first == last and bool(np.all(self.labels[start:stop] == first))
        return first if same else None

    def restrict(self, index: Array) -> PerBlock:  # noqa: D102
        return PerBlock(self.labels[to_host(index)], self.sizes)


class NOfM(PerBlock):
    """`n` of every `m` consecutive coordinates (2:4 is the hardware's).

    A last group shorter than m keeps min(n, its length).
    """

    def __init__(self, n: int, m: int, p: int) -> None:
        self.n, self.m, self.p = int(n), int(m), int(p)
        self.labels = np.arange(p) // m
        self._labels = _Shared(self.labels)
        lengths = np.bincount(self.labels)
        self.sizes = np.minimum(n, lengths)
        self.size = int(self.sizes.sum())

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        # All groups at once: the rank of each entry inside its group.
        xp = array_namespace(score)
        whole = self.p // self.m * self.m
        groups = xp.reshape(score[:whole], (-1, self.m))
        order = xp.argsort(groups, axis=1, descending=True, stable=True)
        rank = xp.argsort(order, axis=1)  # the inverse permutation
        mask = xp.reshape(rank < self.n, (-1,))
        if whole == self.p:
            return mask
        return xp.concat([mask, top_k_mask(score[whole:], self.n)])


class WithFloor(Pattern):
    """`k` coordinates in all, at least `floors[l]` of them in each block l."""

    is_matroid = True

    def __init__(self, k: int, labels: Any, floors: Any) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        lengths = np.bincount(self.labels, minlength=len(floors))
        self.floors = np.minimum(np.asarray(floors, dtype=np.int64), lengths)
        self.size = int(k)
        if self.floors.sum() > k:
            msg = (
                f"the floors of the blocks add up to {int(self.floors.sum())}, more "
                f"than k={k}. Lower the floors or raise k."
            )
            raise ValueError(msg)
        self._members = _members(self.labels, len(floors))
        self._labels, self._floors = _Shared(self.labels), _Shared(self.floors)

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        # The bases of a matroid: floors first, then the best of the rest.
        xp = array_namespace(score)
        mask = xp.zeros_like(score, dtype=xp.bool)
        for members, floor in zip(self._members, self.floors.tolist(), strict=True):
            mask = _assign(mask, members, top_k_mask(_read(score, members), floor))
        rest = xp.where(mask, xp.full_like(score, float("inf")), score)
        return top_k_mask(rest, self.size)

    def exchangeable(self, support: Array, outside: Array) -> Array:  # noqa: D102
        xp = array_namespace(support)
        kept = xp.count_nonzero(_same(self._labels, support, support), axis=1)
        blocks = xp.take(self._labels.like(support), support)
        floor = xp.take(self._floors.like(support), blocks)
        return (kept > floor)[:, None] | _same(self._labels, support, outside)

    def restrict(self, index: Array) -> WithFloor:  # noqa: D102
        index = to_host(index)
        return WithFloor(min(self.size, len(index)), self.labels[index], self.floors)


class _Shared:
    """A host array, copied to each device that asks for it once."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        self._copies: dict[tuple[str, str], Array] = {}

    def like(self, x: Array) -> Array:
        """The array in the namespace and on the device of x."""
        xp = array_namespace(x)
        key = xp.__name__, str(device(x))
        if key not in self._copies:
            self._copies[key] = xp.asarray(self.host, device=device(x))
        return self._copies[key]


def _same(labels: _Shared, some: Array, others: Array) -> Array:
    """Which of some coordinates share a block with which others, as a matrix."""
    xp, block = array_namespace(some), labels.like(some)
    return xp.take(block, some)[:, None] == xp.take(block, others)[None, :]


def _members(labels: np.ndarray, n_blocks: int) -> list[slice | _Shared]:
    """Return the coordinates of each block: a slice where they are consecutive."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=n_blocks))
    members: list[slice | _Shared] = []
    for start, end in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
        block = order[start:end]
        if end > start and block[-1] - block[0] == end - start - 1:
            members.append(slice(int(block[0]), int(block[-1]) + 1))
        else:
            members.append(_Shared(block))
    return members


def _read(x: Array, members: slice | _Shared) -> Array:
    if isinstance(members, slice):
        return x[members]
    return array_namespace(x).take(x, members.like(x))


def _assign(mask: Array, members: slice | _Shared, values: Array) -> Array:
    """The boolean mask with ``mask[members] = values``; may be the same array."""
    if isinstance(members, slice):
        mask[members] = values
        return mask
    xp = array_namespace(mask)
    ones = xp.astype(values, xp.int8)
    return mask | (scatter(mask.shape[0], members.like(mask), ones) > 0)
