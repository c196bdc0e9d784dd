"""The block approximation (the paper's Alg. 6): blocks of columns do not meet.

    n F(w) = sum over blocks of 1/2 ||b_l - A_l w_l||^2 + mu/2 ||w - w_bar||^2

with one pattern over all coordinates. It is the quadratic with a block-diagonal A, so
that every residual is a stack of the blocks' residuals; `LeastSquares` answers for each
block. A bound on this objective is a bound for the block model, not for the whole one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from ..arrays import Array, to_host
from ..refit.backsolve import Backsolver
from ..refit.base import SUBOPTIMAL, Minimiser, SupportSolver, backsolver
from .base import Rows
from .least_squares import LeastSquares


class BlockLeastSquares(Rows):
    """Several least-squares problems with one pattern over all their coordinates.

    Parameters
    ----------
    problems : sequence of LeastSquares
        The blocks, with one ridge and of one array library. The coordinates are theirs,
        one block after the other.
    """

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

    def thinned(self, step: int) -> BlockLeastSquares:  # noqa: D102
        return BlockLeastSquares([q.thinned(step) for q in self.problems])


class BlockBacksolver(SupportSolver):
    """A `Backsolver` for each block of a `BlockLeastSquares`, as one."""

    def __init__(
        self,
        problem: BlockLeastSquares,
        size: int | None = None,
        rough: bool = False,
    ) -> None:
        self.problem = problem
        self.damping = 0.0
        shares = [size and round(size * q.p / problem.p) for q in problem.problems]
        self._solvers = [
            Backsolver(q, share, rough)
            for q, share in zip(problem.problems, shares, strict=True)
        ]

    @property
    def weights(self) -> Array:  # noqa: D102
        return self.problem.xp.concat([solver.weights for solver in self._solvers])

    def update(self, z: Array) -> Self:  # noqa: D102
        for solver, part in zip(self._solvers, self.problem.split(z), strict=True):
            solver.update(part)
        return self

    def mix(self, other: Self, share: float) -> Self:  # noqa: D102
        for solver, its in zip(self._solvers, other._solvers, strict=True):
            solver.mix(its, share)
        return self

    def solve(self, within: float = SUBOPTIMAL) -> Minimiser:  # noqa: D102
        xp = self.problem.xp
        parts = [solver.solve(within) for solver in self._solvers]
        self.damping = max(solver.damping for solver in self._solvers)
        w = xp.concat([part.w for part in parts]) if within < float("inf") else None
        return Minimiser(w, xp.concat([part.r for part in parts]), None)

    def minimum(self) -> Array:  # noqa: D102
        return sum(solver.minimum() for solver in self._solvers)

    def copy(self) -> Self:  # noqa: D102
        other = copy.copy(self)
        other._solvers = [solver.copy() for solver in self._solvers]
        return other

    def keep(self) -> None:  # noqa: D102
        for solver in self._solvers:
            solver.keep()


backsolver.register(BlockLeastSquares, BlockBacksolver)
