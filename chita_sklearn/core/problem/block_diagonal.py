"""The block approximation (the paper's Alg. 6): blocks of columns do not meet.

    n F(w) = sum over blocks of 1/2 ||b_l - A_l w_l||^2 + mu/2 ||w - w_bar||^2

with one pattern over all coordinates. It is the quadratic with a block-diagonal A, so
that every residual is a stack of the blocks' residuals; `LeastSquares` answers for each
block. A bound on this objective is a bound for the block model, not for the whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, to_host
from .base import Rows, Structure
from .least_squares import LeastSquares


class BlockLeastSquares(Rows):
    """Several least-squares problems with one pattern over all their coordinates.

    Parameters
    ----------
    problems : sequence of LeastSquares
        The blocks, with one ridge and of one array library. The coordinates are theirs,
        one block after the other.
    """

    structure = Structure.BLOCK_DIAGONAL

    def __init__(self, problems: Sequence[LeastSquares]) -> None:
        if not problems:
            msg = "problems is empty; give at least one LeastSquares."
            raise ValueError(msg)
        if len({problem.mu for problem in problems}) > 1:
            msg = "the blocks have different ridges (times n); give them the same."
            raise ValueError(msg)
        self.problems = list(problems)
        first = self.problems[0]
        self.xp, self.device, self.dtype = first.xp, first.device, first.dtype
        self.mu, self.n = first.mu, first.n
        self.p = sum(problem.p for problem in problems)
        self.n_rows = sum(problem.n_rows for problem in problems)
        self.terms = sum(problem.terms for problem in problems)
        self.b = self._join([problem.b for problem in problems])
        self.prior = None
        if any(problem.prior is not None for problem in problems):
            self.prior = self._join(
                [q.zeros(q.p) if q.prior is None else q.prior for q in problems]
            )

    def with_target(
        self, y: Sequence[Array] | None = None, *, ridge: float
    ) -> BlockLeastSquares:
        """Return the same blocks with another ridge and, if given, other targets."""
        targets = [None] * len(self.problems) if y is None else y
        pairs = zip(self.problems, targets, strict=True)
        return BlockLeastSquares([q.with_target(t, ridge=ridge) for q, t in pairs])

    @property
    def parts(self) -> list[LeastSquares]:  # noqa: D102
        return [problem.original for problem in self.problems]

    def _join(self, parts: Sequence[Array]) -> Array:
        return self.xp.concat(list(parts))

    def split(self, w: Array) -> list[Array]:
        """Cut a vector over the coordinates into its blocks."""
        ends = np.cumsum([problem.p for problem in self.problems]).tolist()
        return [w[end - q.p : end] for q, end in zip(self.problems, ends, strict=True)]

    def _rows(self, r: Array) -> list[Array]:
        ends = np.cumsum([problem.n_rows for problem in self.problems]).tolist()
        return [
            r[end - q.n_rows : end] for q, end in zip(self.problems, ends, strict=True)
        ]

    def _each(self, product: Callable[..., Array], *parts: Sequence[Any]) -> Array:
        rows = zip(self.problems, *parts, strict=True)
        return self._join([product(q, *args) for q, *args in rows])

    def matvec(self, w: Array, rough: bool = False) -> Array:  # noqa: D102
        return self._each(lambda q, v: q.matvec(v, rough), self.split(w))

    def rmatvec(self, r: Array, rough: bool = False) -> Array:  # noqa: D102
        return self._each(lambda q, v: q.rmatvec(v, rough=rough), self._rows(r))

    def column_norms(self) -> Array:  # noqa: D102
        return self._each(lambda q: q.column_norms())

    def raw_norms(self) -> Array:  # noqa: D102
        return self._each(lambda q: q.raw_norms())

    def restrict(self, S: Array) -> BlockLeastSquares:  # noqa: D102
        host, parts, start = to_host(S), [], 0
        for q in self.problems:
            here = host[(host >= start) & (host < start + q.p)] - start
            parts.append(q.restrict(self.xp.asarray(here, device=self.device)))
            start += q.p
        return BlockLeastSquares(parts)

    def subsampled(self, step: int) -> BlockLeastSquares:  # noqa: D102
        return BlockLeastSquares([q.subsampled(step) for q in self.problems])
