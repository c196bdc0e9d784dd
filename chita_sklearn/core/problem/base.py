"""What every algorithm asks of a problem, and what those ask that read its rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from ..arrays import Array
from ..limits import LIMITS, Limits
from .space import Space


class Structure(Enum):
    """What A looks like: `refit.backsolve` has one solver for each."""

    ONE_MATRIX = "one matrix"
    BLOCK_DIAGONAL = "block diagonal"
    SPREAD = "columns of several processes"


class Selection(ABC):
    """A few columns A_S of a problem, seen through their products with columns."""

    @abstractmethod
    def gram(self) -> Array:
        """A_S' A_S, shape (s, s)."""

    @abstractmethod
    def cross(self, cols: slice) -> Array:
        """A[:, cols]' A_S."""

    @abstractmethod
    def gram_rows(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function of places T in S that gives rows T of A_S' A_S.

        On the host, shape (len(T), s): for a search that asks for few of them.
        """


class Quadratic(ABC):
    """What every algorithm asks of a problem: n F, its curvature, sums over p.

    Attributes
    ----------
    p : int
        Coordinates.
    n_rows : int
        How many rows A has, or has had.
    n : float
        The sum of the sample weights: objective / n is F.
    mu : float
        n * ridge.
    terms : int
        How many numbers are added up in one of A' r: what its rounding grows with.
    prior : array of shape (p,), float64, or None
        w_bar.
    signs : array of shape (p,), float64, or None
        The values that coefficients may take: s_j w_j >= 0, for s_j = 0 any. None is
        any for all.
    xp, device, dtype
        The array namespace and the device of A, and the type coefficients return in.
    """

    has_rows = False  # whether there are products with A: see `Rows`
    has_grams = False  # whether there are Gram matrices of any columns: `select`
    has_targets = False  # whether it is made of many targets on one Gram each: `layers`

    shares_design = False  # whether it is several targets of one X: `moments`

    is_spread = False  # whether its columns are spread over processes: `Sharded`

    limits: Limits = LIMITS  # memory that a search may take beside the data

    p: int
    n_rows: int
    n: float
    mu: float
    terms: int
    prior: Array | None
    signs: Array | None = None
    xp: Any
    device: Any
    dtype: Any

    @property
    def space(self) -> Space:
        """Sums over the coordinates: here those of one process."""
        return Space(self.xp)

    @property
    def total(self) -> int:
        """Coordinates of all processes, of which this one has p."""
        return self.p

    @abstractmethod
    def column_norms(self) -> Array:
        """h_j = ||a_j||^2, shape (p,). One pass over A, the first time."""

    @property
    @abstractmethod
    def at_zero(self) -> float:
        """n F(0)."""

    @property
    def floor(self) -> float:
        """What n F is nowhere below: 0, for it is a sum of squares."""
        return 0.0

    @abstractmethod
    def objective(self, w: Array) -> float:
        """n F(w)."""

    def qr_compressed(self, passes: float) -> Quadratic:
        """Return a smaller problem with the same n F, if that costs fewer passes."""
        return self

    def gram_order(self, rough: bool = False) -> float:
        """Order of the largest Gram matrix that may be held beside the data."""
        return math.inf

    def select(self, S: Array) -> Selection:
        """Return the columns S (indices, ascending), where `has_grams`."""
        raise NotImplementedError(type(self).__name__)

    @property
    def parts(self) -> list[Any]:
        """The least-squares problems, from the data as given, whose sum n F is.

        Their coordinates are the problem's, one part after the other. Empty where there
        are no rows.
        """
        return []

    def zeros(self, size: int) -> Array:
        """Float64 zeros where A lives."""
        return self.xp.zeros(size, dtype=self.xp.float64, device=self.device)

    def rounded(self, w: Array) -> Array:
        """Coefficients w, rounded as a caller will see them."""
        return self.xp.astype(w, self.dtype, copy=False)

    def penalty(self, w: Array) -> float:
        """mu/2 ||w - w_bar||^2."""
        shift = w if self.prior is None else w - self.prior
        return 0.5 * self.mu * float(self.space.dot(shift, shift))


class Rows(Quadratic):
    """A problem whose rows are at hand: products with A and with A'.

    Attributes
    ----------
    structure : Structure
        By which its minimiser on a support is computed.
    b : array of shape (n_rows,), float64
        The target.
    """

    has_rows = True

    structure: Structure
    b: Array

    @abstractmethod
    def matvec(self, w: Array, rough: bool = False) -> Array:
        """A w. One pass over A."""

    @abstractmethod
    def rmatvec(self, r: Array, rough: bool = False) -> Array:
        """A' r. One pass over A."""

    @abstractmethod
    def raw_norms(self) -> Array:
        """Squared column norms before centring: what rounding errors scale with."""

    @abstractmethod
    def restrict(self, S: Array) -> Rows:
        """Return the problem on the columns S (ascending) alone; copies A_S.

        n F differs by the constant mu/2 ||w_bar||^2 over the columns left out.
        """

    @abstractmethod
    def subsampled(self, step: int) -> Rows:
        """Return the problem of every step-th row; n F is about step times smaller."""

    def correlation(self) -> Array:
        """g = A'b + mu w_bar: minus the gradient of n F at w = 0."""
        g = self.rmatvec(self.b)
        return g if self.prior is None else g + self.mu * self.prior

    def residual(self, w: Array) -> Array:
        """b - A w."""
        return self.b - self.matvec(w)

    def value(self, w: Array, r: Array) -> Array:
        """n F(w), given the residual of w; a 0-d array."""
        shift = w if self.prior is None else w - self.prior
        return 0.5 * (r @ r) + 0.5 * self.mu * self.space.dot(shift, shift)

    @property
    def at_zero(self) -> float:
        """n F(0)."""
        return 0.5 * float(self.b @ self.b) + self.penalty(self.zeros(self.p))

    def objective(self, w: Array) -> float:
        """n F(w). One pass over X."""
        w = self.xp.astype(w, self.xp.float64, copy=False)
        return float(self.value(w, self.residual(w)))
