"""A few columns of A and their Gram matrices, within a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import (
    Array,
    device,
    indices,
    mask_of,
    scatter,
    take_columns,
    to_host,
)
from ..linalg import add_outer, mirror
from .base import Selection

if TYPE_CHECKING:
    from .least_squares import LeastSquares


class Columns(Selection):
    """A_S for a few columns S of a `LeastSquares`, and products with it.

    Held where it is small beside X and may be `copied`; else read again for each
    product, in blocks of rows where columns must be gathered, so that of a tall X no
    large part is copied.
    """

    def __init__(self, problem: LeastSquares, S: Array, copied: bool = True) -> None:
        self.problem, self.S = problem, S
        n = problem.n_rows
        step = max(problem._gram_block // max(S.shape[0], 1), 1)
        self._rows = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        self._held: Array = None
        if step >= n and copied:
            self._rows, self._held = [slice(None)], problem.columns(S)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Some rows of A_S at a time, and which they are."""
        for rows in self._rows:
            yield rows, self._read(rows)

    def gram(self) -> Array:
        """A_S' A_S."""
        problem, size = self.problem, self.S.shape[0]
        xp = problem.xp
        G = xp.zeros((size, size), dtype=xp.float64, device=problem.device)
        for rows in self._rows:
            add_outer(G, xp.matrix_transpose(self._read(rows)))
        return mirror(G)

    def dot(self, v: Array) -> Array:
        """A_S v."""
        if self._held is None:  # cheaper with all columns than to gather some
            return self.problem.matvec(scatter(self.problem.p, self.S, v))
        return self._held @ v

    def tdot(self, r: Array) -> Array:
        """A_S' r."""
        xp = self.problem.xp
        if self._held is None:
            return xp.take(self.problem.rmatvec(r), self.S)
        return xp.matrix_transpose(self._held) @ r

    def cross(self, cols: slice) -> Array:
        """A[:, cols]' A_S."""
        rmatvec = self.problem.rmatvec
        total: Array = 0.0
        for rows in self._rows:
            # One block at a time in memory.
            total += rmatvec(self._read(rows), cols=cols, rows=rows)
        return total

    def gram_rows(self) -> Callable[[np.ndarray], np.ndarray]:
        """Rows of A_S' A_S as they are asked for; holds A_S."""
        xp = self.problem.xp
        # One row a column of A: the rows of the Gram are products with all of it.
        A_St = xp.matrix_transpose(self.problem.columns(self.S))

        def rows(T: np.ndarray) -> np.ndarray:
            index = xp.asarray(T, device=device(A_St))
            a = xp.matrix_transpose(xp.take(A_St, index, axis=0))
            return to_host(A_St @ a).T

        return rows

    def _read(self, rows: slice) -> Array:
        if self._held is not None:
            return self._held
        return self.problem.columns(self.S, rows=rows)


class GramRows:
    """Rows of A'A, for a tall X: all p of them take far less memory than X does.

    A row costs one product with A' when it is first wanted, and no more.
    """

    def __init__(self, problem: LeastSquares) -> None:
        xp = problem.xp
        self.problem = problem
        self._place = xp.full(problem.p, -1, dtype=xp.int64, device=problem.device)
        self._rows: Array = None

    def gram(self, S: Array) -> Array:
        """A_S' A_S."""
        problem, xp = self.problem, self.problem.xp
        known = 0 if self._rows is None else self._rows.shape[0]
        new = mask_of(problem.p, S) & (self._place < 0)
        index = indices(new)
        if index.shape[0]:
            rows = xp.matrix_transpose(Columns(problem, index).cross(slice(None)))
            self._rows = xp.concat([self._rows, rows]) if known else rows
            count = xp.cumulative_sum(xp.astype(new, xp.int64))
            self._place = xp.where(new, known - 1 + count, self._place)
        rows = xp.take(self._rows, xp.take(self._place, S), axis=0)
        return take_columns(rows, S)
