"""Groups of coordinates that are in a support together or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, array_namespace, mask_of, to_host, top_k_mask
from .matroids import Pattern, _Shared


class Groups(Pattern):
    """`k` groups of coordinates, each of them whole.

    No matroid where groups have several coordinates: none can be exchanged by itself,
    and the bound fixes none. `best_mask` is exact all the same, and so is the bound.

    Parameters
    ----------
    k : int
        How many groups.
    labels : array-like of int, shape (p,)
        The group of each coordinate, 0..G-1, none of them empty.
    required : array-like of int, default=()
        Groups that every support contains, at most k of them.
    """

    def __init__(self, k: int, labels: Any, required: Any = ()) -> None:
        self.k, self.labels = int(k), np.asarray(labels, dtype=np.int64)
        self.required = np.unique(np.asarray(required, dtype=np.int64))
        if len(self.required) > k:
            msg = (
                f"{len(self.required)} groups are required, more than k={k}. Require "
                "fewer or raise k."
            )
            raise ValueError(msg)
        lengths = np.bincount(self.labels)
        self.n_groups = len(lengths)
        self.size = int(np.sort(lengths)[::-1][: self.k].sum())  # at most
        # By length: the members of groups of one length fill a matrix.
        order = np.argsort(self.labels, kind="stable")
        firsts = np.cumsum(lengths) - lengths
        self._members = []
        which = []
        for length in np.unique(lengths).tolist():
            of = np.flatnonzero(lengths == length)
            members = order[firsts[of][:, None] + np.arange(length)]
            self._members.append((_Shared(members.reshape(-1)), length))
            which.append(of)
        place = np.argsort(np.concatenate(which))
        self._place, self._labels = _Shared(place), _Shared(self.labels)
        self._required = _Shared(self.required)

    def sums(self, score: Array) -> Array:
        """The sum of the scores of each group, shape (G,)."""
        xp = array_namespace(score)
        parts = [
            xp.sum(xp.reshape(xp.take(score, of.like(score)), (-1, length)), axis=1)
            for of, length in self._members
        ]
        return xp.take(xp.concat(parts), self._place.like(score))

    def best_mask(self, score: Array) -> Array:  # noqa: D102
        xp, sums = array_namespace(score), self.sums(score)
        first = mask_of(self.n_groups, self._required.like(score))
        best = top_k_mask(xp.where(first, xp.full_like(sums, xp.inf), sums), self.k)
        return xp.take(best, self._labels.like(score))

    def exchangeable(self, support: Array, outside: Array) -> Array:  # noqa: D102
        return (support != support)[:, None] & (outside != outside)[None, :]

    def restrict(self, index: Array) -> Groups:  # noqa: D102
        kept, labels = np.unique(self.labels[to_host(index)], return_inverse=True)
        required = np.flatnonzero(np.isin(kept, self.required))
        return Groups(min(self.k, len(kept)), labels, required)
