"""Several targets of one X, with one pattern over the coefficients of all of them.

    n F(W) = sum over targets t of 1/2 ||b_t - A w_t||^2 + mu/2 ||w_t - w_bar_t||^2

The coordinates are those of the first target, then those of the second, and so on: a
quadratic of blocks, which share A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import Array
from .block_diagonal import BlockLeastSquares
from .least_squares import LeastSquares
from .many_targets import ManyTargets


class SeveralTargets(BlockLeastSquares):
    """t least-squares problems on one X, as one problem in t p coordinates.

    Parameters
    ----------
    problems : sequence of LeastSquares
        One for each target, made from one another by `with_target`.
    """

    shares_design = True

    def __init__(self, problems: Sequence[LeastSquares]) -> None:
        super().__init__(problems)
        self.first = self.problems[0]

    def with_target(  # noqa: D102
        self, y: Sequence[Array] | None = None, *, ridge: float
    ) -> SeveralTargets:
        return SeveralTargets(super().with_target(y, ridge=ridge).problems)

    def as_scaled(self, coefs: Sequence[Array]) -> Array:
        """Coefficients in these coordinates, from those of X for each target."""
        pairs = zip(self.problems, coefs, strict=True)
        return self.xp.concat([q.as_scaled(w) for q, w in pairs])

    def moments(self) -> ManyTargets:
        """The same problem from its Gram matrix: see `moments_of`."""
        return moments_of(self.problems)


def least_squares(
    X: Any, y: Array, priors: Sequence[Array | None], *, ridge: float = 0.0, **of: Any
) -> LeastSquares | SeveralTargets:
    """The problem of one target, or of all columns of a two-dimensional y together."""
    if y.ndim == 1:
        return LeastSquares(X, y, ridge=ridge, prior=priors[0], **of)
    problems = [LeastSquares(X, y[:, 0], ridge=ridge, prior=priors[0], **of)]
    for t in range(1, int(y.shape[1])):
        problems.append(problems[0].with_target(y[:, t], ridge=ridge, prior=priors[t]))
    return SeveralTargets(problems)


def moments_of(problems: Sequence[LeastSquares]) -> ManyTargets:
    """Problems on one X, from their moments alone. p^2 numbers."""
    first = problems[0]
    xp = first.xp
    every = xp.arange(first.p, device=first.device)
    # From the centred columns where they are held: X'b rounds by the size of the means.
    C = [problem.select(every).tdot(problem.b) for problem in problems]
    C = [
        c if problem.prior is None else c + problem.mu * problem.prior
        for c, problem in zip(C, problems, strict=True)
    ]
    constant = sum(problem.at_zero for problem in problems)
    G = first.select(every).gram()
    moments = ManyTargets(G, xp.stack(C), mu=first.mu, constant=constant)
    moments.terms = max(problem.terms for problem in problems)
    return moments
