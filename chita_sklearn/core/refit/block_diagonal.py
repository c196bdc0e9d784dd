"""The backsolve of a block-diagonal A: that of each block, side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from ..arrays import Array
from ..problem.block_diagonal import BlockLeastSquares
from .base import SUBOPTIMAL, Minimiser, SupportSolver


class BlockBacksolver(SupportSolver):
    """The solvers of the blocks of a `BlockLeastSquares`, as one.

    Parameters
    ----------
    problem : BlockLeastSquares
        The quadratic.
    solvers : sequence of SupportSolver
        One for each of its blocks.
    """

    def __init__(
        self, problem: BlockLeastSquares, solvers: Sequence[SupportSolver]
    ) -> None:
        self.problem = problem
        self.damping = 0.0
        self._solvers = list(solvers)

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
