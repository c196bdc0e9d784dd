"""Least squares whose columns are spread over several processes.

Every process has all of y and some columns of X, and runs the same program. Vectors
over the rows are known to all; a vector over the coordinates is where its columns are,
and only sums, maxima and the few largest of one travel, through the `Space`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..arrays import Array, top_k_mask
from ..patterns.matroids import Pattern
from .least_squares import LeastSquares
from .space import Space


class Collective(Protocol):
    """What is asked of an engine that joins the processes."""

    rank: int
    size: int

    def gather(self, x: np.ndarray) -> list[np.ndarray]:
        """The arrays of all processes, in their order; the first axis may differ."""

    def gather_to(self, owner: int, x: np.ndarray) -> np.ndarray:
        """The arrays of all, one after the other, on the owner; elsewhere none."""

    def share(
        self, owner: int, work: Callable[[], np.ndarray], like: np.ndarray
    ) -> np.ndarray:
        """What ``work()`` gives on the owner, known to all; of the form of `like`."""


class ShardedSpace(Space):
    """Sums over coordinates of which each process has some.

    Parameters
    ----------
    comm : Collective
        What joins the processes.
    first : int
        The number of this process's first coordinate among all.
    total : int
        Coordinates of all processes.
    """

    def __init__(self, comm: Collective, first: int, total: int) -> None:
        super().__init__(np)
        self._comm, self._first, self._total = comm, first, total

    def total(self, p: int) -> int:  # noqa: D102
        return self._total

    def dot(self, x: Array, y: Array) -> Array:  # noqa: D102
        return self._joined(x @ y).sum()

    def sum(self, x: Array) -> Array:  # noqa: D102
        return self._joined(np.sum(x)).sum()

    def max(self, x: Array) -> Array:  # noqa: D102
        return self._joined(super().max(x)).max()

    def min(self, x: Array) -> Array:  # noqa: D102
        return self._joined(super().min(x)).min()

    def count(self, mask: Array) -> Array:  # noqa: D102
        return self._joined(np.count_nonzero(mask)).sum().astype(np.int64)

    def all(self, mask: Array) -> Array:  # noqa: D102
        return self._joined(np.all(mask)).min() > 0

    def top_k(self, score: Array, k: int) -> Array:  # noqa: D102
        chosen = self.largest(score, k) - self._first
        mask = np.zeros(len(score), dtype=bool)
        mask[chosen[(chosen >= 0) & (chosen < len(score))]] = True
        return mask

    def best_mask(self, pattern: Pattern, score: Array) -> Array:  # noqa: D102
        assert pattern.is_uniform
        return self.top_k(score, pattern.size)

    def largest(self, score: Array, k: int) -> np.ndarray:
        """Indices among all of the k largest scores, ascending; ties to the lowest."""
        own = np.flatnonzero(top_k_mask(score, k))
        pairs = np.column_stack([score[own], own + self._first])
        values, where = np.concatenate(self._comm.gather(pairs)).T
        order = np.lexsort((where, -values))[:k]
        return np.sort(where[order].astype(np.int64))

    def _joined(self, number: Any) -> np.ndarray:
        own = np.asarray([number], dtype=np.float64)
        return np.concatenate(self._comm.gather(own))


class Sharded(LeastSquares):
    """`LeastSquares` on the columns of this process, one term among those of all.

    Its vectors over the coordinates are those of this process. It is solved by
    `improvers.sharded`, and bounds are those of `certify`; the other plans read columns
    side by side, and refuse it.

    Parameters
    ----------
    X : array of shape (n_rows, p)
        Columns of this process, in NumPy's memory; one at least.
    y : array of shape (n_rows,)
        The same on all.
    comm : Collective
        What joins the processes.
    **options
        Those of `LeastSquares` but for ``prior`` and ``signs``.

    Attributes
    ----------
    first, total : int
        The number of its first column among all, and how many there are.
    """

    has_rows = has_grams = False

    def __init__(self, X: Any, y: Array, comm: Collective, **options: Any) -> None:
        lengths = [int(n) for (n,) in comm.gather(np.asarray([X.shape[1]]))]
        self.comm = comm
        self.first, self.total = sum(lengths[: comm.rank]), sum(lengths)
        self._space = ShardedSpace(comm, self.first, self.total)
        self._options = options
        self._held: tuple[np.ndarray, Any] = (np.empty(0, dtype=np.int64), None)
        super().__init__(X, y, **options)

    @property
    def space(self) -> ShardedSpace:
        """Sums over the coordinates of all processes."""
        return self._space

    def matvec(self, w: Array, rough: bool = False) -> Array:
        """A w, of all columns, added up in the order of the processes."""
        every = self.comm.gather(super().matvec(w, rough)[None])
        return np.concatenate(every).sum(axis=0)

    def qr_compressed(self, passes: float) -> LeastSquares:  # noqa: D102
        msg = "a Sharded problem is solved by search_sharded."
        raise TypeError(msg)

    def part(self, W: np.ndarray) -> LeastSquares:
        """The problem on a few columns, numbers among all, ascending; everywhere."""
        return self._on(np.concatenate(self.comm.gather(self._rows(W))))

    def working_set(self, W: np.ndarray) -> LeastSquares | None:
        """The problem on some columns, on process 0; None elsewhere.

        Columns that were in the last one do not travel again.
        """
        known, held = self._held
        new = np.setdiff1d(W, known)
        fresh = self.comm.gather_to(0, self._rows(new))
        self._held = W, held
        if self.comm.rank:
            return None
        rows = np.empty((len(W), fresh.shape[1]), dtype=fresh.dtype)
        again = np.isin(W, known)
        rows[~again] = fresh
        if again.any():
            rows[again] = held[np.searchsorted(known, W[again])]
        self._held = W, rows
        return self._on(rows)

    def _rows(self, W: np.ndarray) -> np.ndarray:
        """The columns W that this process has, one a row, as given."""
        own = W[(W >= self.first) & (W < self.first + self.p)] - self.first
        return np.ascontiguousarray(self._unscaled.take(own).T)

    def _on(self, rows: np.ndarray) -> LeastSquares:
        return LeastSquares(rows.T, self._y, **self._options)
