"""What the algorithms ask of a backsolve: minimisers on one support after another.

Each coordinate may carry a weight z_j in [0, 1], the ridge on it being
mu/2 (w_j - z_j w_bar_j)^2 / z_j: the perspective relaxation that `dual` needs, with
A diag(z) A' in the place of A_S A_S'. Weights of 0 and 1 are a support.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

from ..arrays import Array

SUBOPTIMAL = 1e-11  # share of the minimum of n F that rounding may cost (n x n)


class Minimiser(NamedTuple):
    """The minimiser of n F on a support, and what came with it."""

    w: Any  # shape (p,); None where not asked for
    r: Array  # b - A w, shape (n_rows,)
    u: Array | None  # A'r, shape (p,), where the route computes it anyway


class SupportSolver(ABC):
    """Minimisers of n F on one support, or with one set of weights, after another.

    Attributes
    ----------
    damping : float
        What was added to mu in the last factorisation to make it succeed; usually 0.
    """

    damping: float

    @property
    @abstractmethod
    def weights(self) -> Array:
        """The weights z held, shape (p,)."""

    def __call__(self, z: Array) -> Minimiser:
        """Minimise with the weights z, shape (p,): a mask, or float64 in [0, 1]."""
        return self.update(z).solve()

    @abstractmethod
    def update(self, z: Array) -> Self:
        """Take the weights z, and bring A Z A' and A Z w_bar to them."""

    @abstractmethod
    def mix(self, other: Self, share: float) -> Self:
        """Take the weights (1 - share) z + share other.z.

        The Gram is linear in the weights: where both hold one, no product with A is
        needed to form the mixture's.
        """

    @abstractmethod
    def solve(self, within: float = SUBOPTIMAL) -> Minimiser:
        """Minimise n F with the weights held, to a share `within` of the minimum.

        `within=inf` skips the refinement: the residual is then nearly the minimiser's,
        and the coefficients may be left out.
        """

    @abstractmethod
    def minimum(self) -> Array:
        """Return the minimum of n F on the support held, as near as the Gram tells it.

        Where a Gram of n x n is held, that takes no product with A.
        """

    @abstractmethod
    def copy(self) -> Self:
        """Another solver in the same state; the arrays are shared, never written to."""

    @abstractmethod
    def keep(self) -> None:
        """Leave the Gram with the problem (it keeps two) for solvers of the same A."""
