"""Products with X as it is held: dense, of any array library, or scipy.sparse.

X is read in its own type; everything computed from it is float64, in blocks that are
cast as they are read. Besides the two classes here nothing touches X.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ..arrays import (
    Array,
    array_namespace,
    by_columns,
    cast_block,
    device,
    strided,
    take_columns,
)

# A block has RUN numbers in a row in memory, or TALL rows where it is tall.
RUN, TALL = 2**15, 2**9
STORED = 2**18  # entries of a sparse X at a time


class Dense:
    """Products with a dense X of any array library, read in blocks."""

    def __init__(self, X: Array) -> None:
        self.X = X
        self.xp = array_namespace(X)
        self.device = device(X)
        self.shape = X.shape
        self.exact = X.dtype == self.xp.float64
        number = 8 if self.exact else 4
        self.nbytes, self.density = number * X.shape[0] * X.shape[1], 1.0
        # Twice the block of a cast is fastest where memory is read in order (measured).
        # A block is a 64th of X at most: on an accelerator those of a cast are large.
        self._block = min(2 * cast_block(X), max(X.shape[0] * X.shape[1] // 64, 2**17))

    def blocks(
        self, cols: slice = slice(None), tall: bool = False
    ) -> Iterator[tuple[slice, slice]]:
        """(rows, cols) slices that cover X[:, cols], of about `_block` numbers each.

        They run along the memory of X, a few rows of it at a time (measured: a pass
        takes half to four fifths of what it takes with all rows of some columns), or
        are `tall`, for a product of what is transposed with a matrix.
        """
        size, n = self._block, self.shape[0]
        start, stop, _ = cols.indices(self.shape[1])
        p = max(stop - start, 1)
        if tall or by_columns(self.X):
            height = max(size // p, TALL if tall else RUN)
        else:
            height = size // min(p, RUN)
        height = min(max(height, 1), max(n, 1))
        width = max(size // height, 1)
        for j in range(start, stop, width):
            for i in range(0, n, height):
                yield slice(i, min(i + height, n)), slice(j, min(j + width, stop))

    def read(self, rows: slice, cols: slice) -> Array:
        """X[rows, cols] in float64; a view where X is."""
        return self.xp.astype(self.X[rows, cols], self.xp.float64, copy=False)

    def dot(self, w: Array, rough: bool = False) -> Array:
        """X w."""
        if not strided(self.X):
            if self.exact:
                return self.X @ w
            if rough:
                return self._rough(self.X, w)
        out = self.xp.zeros(
            (self.shape[0], *w.shape[1:]), dtype=self.xp.float64, device=self.device
        )
        for rows, cols in self.blocks():
            out[rows, ...] += self.read(rows, cols) @ w[cols, ...]
        return out

    def tdot(self, r: Array, cols: slice = slice(None), rough: bool = False) -> Array:
        """X[:, cols]' r."""
        X = self.X[:, cols]
        if not strided(X):
            if self.exact:
                return self.xp.matrix_transpose(X) @ r
            if rough:
                return self._rough(self.xp.matrix_transpose(X), r)
        start, stop, _ = cols.indices(self.shape[1])
        out = self.xp.zeros(
            (stop - start, *r.shape[1:]), dtype=self.xp.float64, device=self.device
        )
        for rows, block in self.blocks(cols, tall=r.ndim > 1):
            here = slice(block.start - start, block.stop - start)
            out[here, ...] += (
                self.xp.matrix_transpose(self.read(rows, block)) @ r[rows, ...]
            )
        return out

    def _rough(self, X: Array, v: Array) -> Array:
        xp = self.xp
        return xp.astype(X @ xp.astype(v, xp.float32), xp.float64)

    def rows(self, rows: slice) -> Array:
        """X[rows, :] in float64; a view where X is."""
        return self.read(rows, slice(None))

    def largest(self) -> float:
        """The largest magnitude in X."""
        return max(float(self.xp.max(self.X)), -float(self.xp.min(self.X)))

    def part(self, rows: slice) -> Dense:
        """X[rows, :], a view."""
        return Dense(self.X[rows, :])

    def take(self, S: Array, rows: slice = slice(None)) -> Array:
        """X[rows, S], a copy in X's own type."""
        return take_columns(self.X[rows, :], S)

    def spread(self, s: Array | None, m: Array | None) -> tuple[Array, Array]:
        """Sums over i of s_i (x_ij - m_j)^2 and of s_i (x_ij - m_j).

        No cancellation, however large m; the second is n times what m is off by. With
        m None, the sums of squares of X alone.
        """
        xp = self.xp
        squares, drift = (
            xp.zeros(self.shape[1], dtype=xp.float64, device=self.device)
            for _ in range(2)
        )
        for rows, cols in self.blocks():
            centred = self.read(rows, cols)
            weights = s[rows] if s is not None else xp.ones_like(centred[:, 0])
            if m is not None:
                centred = centred - m[cols]
                drift[cols] += weights @ centred
            squares[cols] += weights @ centred**2
        return squares, drift


class Sparse:
    """Products with a scipy.sparse X; only chosen columns are ever densified."""

    def __init__(self, X: Any) -> None:
        self.X = X.tocsc()
        if not self.X.has_canonical_format:
            self.X = self.X.copy() if self.X is X else self.X
            self.X.sum_duplicates()
        self.xp = array_namespace(np.empty(0))
        self.device = "cpu"
        self.shape = X.shape
        self.exact = X.dtype == self.xp.float64
        self.nbytes = self.X.data.nbytes + self.X.indices.nbytes
        self.density = self.X.nnz / max(X.shape[0] * X.shape[1], 1)

    def dot(self, w: np.ndarray, rough: bool = False) -> np.ndarray:  # noqa: D102
        return self.X @ w

    def tdot(  # noqa: D102
        self, r: np.ndarray, cols: slice = slice(None), rough: bool = False
    ) -> np.ndarray:
        X = self.X if cols == slice(None) else self.X[:, cols]
        return X.T @ r

    def rows(self, rows: slice) -> np.ndarray:  # noqa: D102
        return self.X[rows].toarray().astype(np.float64, copy=False)

    def largest(self) -> float:  # noqa: D102
        return float(np.max(np.abs(self.X.data), initial=0.0))

    def part(self, rows: slice) -> Sparse:  # noqa: D102
        return Sparse(self.X[rows])

    def take(self, S: np.ndarray, rows: slice = slice(None)) -> np.ndarray:  # noqa: D102
        return self.X[rows, S].toarray()

    def spread(  # noqa: D102
        self, s: np.ndarray | None, m: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        # Stored entries by their distance from the mean, the zeros by m itself. Some
        # columns at a time: X may have millions.
        n, p = self.shape
        weights = np.ones(n) if s is None else s
        m = np.zeros(p) if m is None else m
        total, starts = weights.sum(), self.X.indptr
        squares, drift = np.zeros(p), np.zeros(p)
        first = 0
        while first < p:
            last = (
                int(np.searchsorted(starts, starts[first] + STORED, side="right")) - 1
            )
            last = min(max(last, first + 1), p)
            stored, cols = slice(starts[first], starts[last]), slice(first, last)
            counts = np.diff(starts[first : last + 1])
            column = np.repeat(np.arange(last - first), counts)
            weight = weights[self.X.indices[stored]]
            centred = self.X.data[stored] - m[cols][column]
            summed = partial(np.bincount, column, minlength=last - first)
            absent = np.where(counts == n, 0.0, np.maximum(total - summed(weight), 0.0))
            squares[cols] = summed(weight * centred**2) + absent * m[cols] ** 2
            drift[cols] = summed(weight * centred) - absent * m[cols]
            first = last
        return squares, drift


class Scaled:
    """Products with X diag(scale), of which nothing is formed but what is asked for."""

    def __init__(self, data: Dense | Sparse, scale: Array) -> None:
        self._data, self._scale = data, scale
        self.xp, self.device, self.shape = data.xp, data.device, data.shape
        self.exact, self.nbytes, self.density = data.exact, data.nbytes, data.density

    def dot(self, w: Array, rough: bool = False) -> Array:  # noqa: D102
        scale = self._scale if w.ndim == 1 else self._scale[:, None]
        return self._data.dot(scale * w, rough)

    def tdot(  # noqa: D102
        self, r: Array, cols: slice = slice(None), rough: bool = False
    ) -> Array:
        scale = self._scale[cols]
        return (scale if r.ndim == 1 else scale[:, None]) * self._data.tdot(
            r, cols, rough
        )

    def rows(self, rows: slice) -> Array:  # noqa: D102
        return self._data.rows(rows) * self._scale

    def largest(self) -> float:  # noqa: D102
        return self._data.largest()

    def part(self, rows: slice) -> Scaled:  # noqa: D102
        return Scaled(self._data.part(rows), self._scale)

    def take(self, S: Array, rows: slice = slice(None)) -> Array:
        """X[rows, S] diag(scale[S]) in float64, a copy."""
        return self._data.take(S, rows) * self.xp.take(self._scale, S)

    def spread(  # noqa: D102
        self, s: Array | None, m: Array | None
    ) -> tuple[Array, Array]:
        at = None if m is None else m / self._scale
        squares, drift = self._data.spread(s, at)
        return squares * self._scale**2, drift * self._scale
