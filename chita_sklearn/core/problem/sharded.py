"""Least squares whose columns are spread over several processes.

Every process has all of y and some columns of X, and runs the same program. Vectors
over the rows are known to all; a vector over the coordinates is where its columns are,
and only sums, maxima and the few largest of one travel, through the `Space`. What has
to see columns side by side (a refit, swaps) is done by process 0, to which they go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arrays import Array, top_k_mask
from ..linalg import spectrum
from ..patterns.matroids import Pattern
from .base import Structure
from .design import Dense, Scaled
from .least_squares import LeastSquares
from .space import Space

# Columns that process 0 has are kept for the next search while they are at most so
# many times those of this one, or so many in any case.
KEPT, KEPT_LEAST = 2, 1000


class Collective(Protocol):
    """What is asked of an engine that joins the processes."""

    rank: int
    size: int

    def sum(self, x: np.ndarray) -> np.ndarray:
        """The sum of the arrays of all processes, the same bits everywhere."""

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
    """

    def __init__(self, comm: Collective, first: int) -> None:
        super().__init__(np)
        self._comm, self._first = comm, first

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
        mask = np.zeros(len(score), dtype=bool)
        _, own = self.here(self.largest(score, k), len(score))
        mask[own] = True
        return mask

    def best_mask(self, pattern: Pattern, score: Array) -> Array:  # noqa: D102
        assert pattern.is_uniform
        return self.top_k(score, pattern.size)

    def sums_of_best(self, pattern: Pattern, score: Array, *x: Array) -> list[Array]:
        """Return those sums by one message: the entries travel with their scores."""
        assert pattern.is_uniform
        return [sums.sum() for sums in self._ranked(score, pattern.size, *x)[1:]]

    def restrict(self, pattern: Pattern, index: Array) -> Pattern:  # noqa: D102
        return pattern  # a number of coordinates, wherever they are

    def same(self, number: float) -> float:  # noqa: D102
        own = np.asarray([number], dtype=np.float64)
        return float(self._comm.share(0, lambda: own, own)[0])

    def here(self, W: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of some numbers among all are of this process's p, and which of them.

        A mask, and the numbers among its own.
        """
        mask = (W >= self._first) & (W < self._first + p)
        return mask, W[mask] - self._first

    def largest(self, score: Array, k: int) -> np.ndarray:
        """Indices among all of the k largest scores, ascending; ties to the lowest."""
        (where,) = self._ranked(score, k)
        return np.sort(where.astype(np.int64))

    def _ranked(self, score: Array, k: int, *more: Array) -> list[np.ndarray]:
        """Numbers of the k largest scores, the largest first, and more of them."""
        own = np.flatnonzero(top_k_mask(score, k))
        each = [score[own], own + self._first, *(x[own] for x in more)]
        every = np.concatenate(self._comm.gather(np.column_stack(each)))
        order = np.lexsort((every[:, 1], -every[:, 0]))[:k]
        return list(every[order, 1:].T)

    def _joined(self, number: Any) -> np.ndarray:
        own = np.asarray([number], dtype=np.float64)
        return np.concatenate(self._comm.gather(own))


class SpreadSpectrum(NamedTuple):
    """`linalg.Spectrum` of an A'A of which this process has some columns."""

    Q: np.ndarray  # shape (p, r), rows of the eigenvectors
    E: np.ndarray  # shape (r,), more than 0
    added: Callable[[np.ndarray], np.ndarray]  # sums over the processes

    def solve(self, R: np.ndarray, shift: float) -> np.ndarray:
        """R (A'A + shift I)^-1 for rows R of shape (t, p)."""
        inside = self.added(R @ self.Q)
        return R / shift - (inside * (self.E / (self.E + shift) / shift)) @ self.Q.T


class Sharded(LeastSquares):
    """`LeastSquares` on the columns of this process, one term among those of all.

    Its vectors over the coordinates are those of this process. `solve` searches it for
    k of all columns, by any plan but "exact"; every process has to call it alike.

    Parameters
    ----------
    X : array of shape (n_rows, p)
        Columns of this process, in NumPy's memory; one at least. Of one type on all.
    y : array of shape (n_rows,)
        The same on all.
    comm : Collective
        What joins the processes.
    **options
        Those of `LeastSquares` but for ``prior`` and ``signs``.

    Attributes
    ----------
    first : int
        The number of its first column among all.
    """

    has_grams = False
    is_spread = True
    structure = Structure.SPREAD

    def __init__(self, X: Any, y: Array, comm: Collective, **options: Any) -> None:
        self.comm = comm
        sizes = [int(n) for (n,) in comm.gather(np.asarray([X.dtype.itemsize]))]
        if len(set(sizes)) > 1:
            msg = (
                "X is float32 on some processes and float64 on others. Give columns of "
                "one type."
            )
            raise ValueError(msg)
        self._number(int(X.shape[1]))
        super().__init__(X, y, **options)

    def _number(self, p: int) -> None:
        """Number the coordinates of this process among those of all."""
        lengths = [int(n) for (n,) in self.comm.gather(np.asarray([p]))]
        self.first, self._total = sum(lengths[: self.comm.rank]), sum(lengths)
        self._space = ShardedSpace(self.comm, self.first)
        self._kept: tuple[np.ndarray, Any, Any] = np.empty(0, np.int64), None, None

    @property
    def space(self) -> ShardedSpace:
        """Sums over the coordinates of all processes."""
        return self._space

    @property
    def total(self) -> int:
        """Coordinates of all processes."""
        return self._total

    @property
    def at_zero(self) -> float:
        """n F(0), which every process knows by itself."""
        return 0.5 * float(self.b @ self.b)

    def matvec(self, w: Array, rough: bool = False) -> Array:
        """A w, of all columns."""
        return self._added(super().matvec(w, rough))

    def outer_gram(
        self,
        S: Array,
        scale: Array | None = None,
        rough: bool = False,
        add_to: tuple[Array, Array | None] | None = None,
        sign: float = 1.0,
    ) -> tuple[Array, Array | None]:
        """A_S diag(scale) A_S', of the columns that all processes name."""
        G, _ = super().outer_gram(S, scale, rough)
        G = self.comm.sum(G.astype(np.float64))
        if add_to is not None:
            G = add_to[0] + sign * G
        return G.astype(np.float32 if rough and self._m is None else np.float64), None

    def gram_order(self, rough: bool = False) -> int:
        """That of one process with all columns."""
        own = 4 if rough and self._m is None else 8
        held = self.limits.gram_share * (8 if self._data.exact else 4) / own
        order = math.isqrt(int(held * self.n_rows * self.total))
        return max(order, self.limits.gram_order_least)

    def qr_compressed(self, passes: float) -> LeastSquares:
        """Return itself: the factor of a tall X would need all columns."""
        return self

    def restrict(self, S: Array) -> Sharded:  # noqa: D102
        part: Any = super().restrict(S)
        part._number(int(S.shape[0]))
        return part

    def subsampled(self, step: int) -> Sharded:  # noqa: D102
        other: Any = super().subsampled(step)
        other._kept = np.empty(0, np.int64), None, None
        return other

    def spectrum(self) -> SpreadSpectrum:
        """That of A'A, by way of A A', with a copy of A."""
        A = self.columns(np.arange(self.p))
        G = self.comm.sum(A @ A.T)
        U, E = spectrum(G).without_zeros()
        return SpreadSpectrum(A.T @ (U / np.sqrt(E)), E, self._added)

    # --- Columns side by side ---------------------------------------------------------

    def chosen(self, mask: np.ndarray) -> np.ndarray:
        """Numbers among all of the True entries of all processes, ascending."""
        own = np.flatnonzero(mask) + self.first
        return np.concatenate(self.comm.gather(own))

    def own(self, W: np.ndarray, values: np.ndarray) -> np.ndarray:
        """A vector of this process with values at the columns W, zero elsewhere."""
        out = np.zeros(self.p, dtype=values.dtype)
        here, own = self._space.here(W, self.p)
        out[own] = values[here]
        return out

    def alone(
        self,
        mask: np.ndarray,
        x: np.ndarray,
        work: Callable[[LeastSquares, np.ndarray], list[Any]],
        more: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What process 0 makes of the columns of a mask, known to all.

        ``work(part, x_S)`` is given the problem on these columns and their entries of
        x; it returns new entries, and so many `more` numbers.
        """
        S = self.chosen(mask)
        part = self.working_set(S)
        x_S = np.concatenate(self.comm.gather(x[mask]))

        def found() -> np.ndarray:
            assert part is not None
            return np.concatenate([np.atleast_1d(each) for each in work(part, x_S)])

        shared = self.comm.share(0, found, np.zeros(len(S) + more))
        return self.own(S, shared[: len(S)]), shared[len(S) :]

    def part(self, W: np.ndarray) -> LeastSquares:
        """The problem on a few columns, numbers among all, ascending; everywhere."""
        rows, facts = (np.concatenate(self.comm.gather(a)) for a in self._of(W))
        return self._on(rows, facts)

    def working_set(self, W: np.ndarray) -> LeastSquares | None:
        """The problem on some columns, on process 0; None elsewhere.

        Columns that are there from before do not travel again.
        """
        known, rows, facts = self._kept
        fresh = np.setdiff1d(W, known)
        new = [self.comm.gather_to(0, a) for a in self._of(fresh)]
        every = np.union1d(known, W)
        room = max(KEPT * len(W), KEPT_LEAST)
        kept = every if len(every) <= room else W
        self._kept = kept, None, None
        if self.comm.rank:
            return None
        old = [a[:0] for a in new] if rows is None else [rows, facts]
        place = np.argsort(np.concatenate([known, fresh]), kind="stable")
        here = place[np.searchsorted(every, kept)]
        rows, facts = (
            np.concatenate(pair)[here] for pair in zip(old, new, strict=True)
        )
        self._kept = kept, rows, facts
        some = slice(None) if len(kept) == len(W) else np.searchsorted(kept, W)
        return self._on(rows[some], facts[some])

    def _of(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The columns W that this process has, one a row, as given; and their facts."""
        h = self.column_norms()
        _, own = self._space.here(W, self.p)
        facts = np.zeros((len(own), 3))
        facts[:, 0], facts[:, 2] = h[own], 1.0
        if self._unscaled_m is not None:
            facts[:, 1] = self._unscaled_m[own]
        if self._column_scale is not None:
            facts[:, 2] = self._column_scale[own]
        return np.ascontiguousarray(self._unscaled.take(own).T), facts

    def _on(self, rows: np.ndarray, facts: np.ndarray) -> LeastSquares:
        part = LeastSquares.__new__(LeastSquares)
        own = ("comm", "first", "_total", "_space", "_kept")
        vars(part).update({k: v for k, v in vars(self).items() if k not in own})
        part._norms, m, scale = np.ascontiguousarray(facts.T)
        data: Any = Dense(rows.T)
        part.p, part._data, part._unscaled = len(rows), data, data
        part.scale = part._raw = None
        if self._column_scale is not None:
            part.scale = part._column_scale = scale
            part._data = Scaled(data, scale)
        if self._m is not None:
            part._unscaled_m, part._m = m, m * scale
        part.grams, part._factor, part._together = [], [], None
        return part

    def _added(self, x: np.ndarray) -> np.ndarray:
        """The sum over the processes, in their order."""
        return np.concatenate(self.comm.gather(x[None])).sum(axis=0)
