"""Least squares with many targets on one Gram matrix: a layer of a network.

    n F(W) = constant + sum_i g_i [ 1/2 w_i'(G + mu I) w_i - c_i'w_i ]

over W of shape (t, d), one row w_i for each of t targets. With inputs A (n x d) and
targets b_i, G = A'A and c_i = A'b_i + mu w_bar_i. Whatever depends on G alone is shared
by all targets. The coordinates of a pattern are the entries of W, row by row, so that
one budget may be spent over all targets. The rows of A are not needed, nor kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arrays import Array, array_namespace, device
from .base import Quadratic


class ManyTargets(Quadratic):
    """t least-squares problems on one Gram matrix, as one problem in t d coordinates.

    Parameters
    ----------
    G : array of shape (d, d)
        A'A, symmetric and positive semidefinite; used in float64.
    C : array of shape (t, d)
        Row i is c_i = A'b_i + mu w_bar_i.
    mu : float, default=0.0
        The ridge, at least 0.
    weights : array of shape (t,) or None, default=None
        g_i, positive; None is one each.
    constant : float, default=0.0
        n F(0): sum_i g_i (||b_i||^2 + mu ||w_bar_i||^2) / 2 makes objectives what they
        are for the rows, a sum of squares. 0 where that is not known: n F is then
        negative at the solution, and a bound may be too.

    Raises
    ------
    ValueError
        If the shapes do not fit, mu is negative, or a weight is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from chita_sklearn.core import Cardinality, ManyTargets, solve
    >>> G = np.diag([4.0, 1.0])
    >>> W0 = np.asarray([[1.0, 1.0], [3.0, 0.1]])
    >>> solve(ManyTargets.around(G, W0), Cardinality(2)).coef.reshape(2, 2)
    array([[1., 0.],
           [3., 0.]])
    """

    has_targets = True

    def __init__(
        self,
        G: Array,
        C: Array,
        *,
        mu: float = 0.0,
        weights: Array | None = None,
        constant: float = 0.0,
    ) -> None:
        xp = self.xp = array_namespace(G)
        self.device, self.dtype = device(G), xp.float64
        self.G, self.C = (xp.astype(x, xp.float64, copy=False) for x in (G, C))
        if G.ndim != 2 or C.ndim != 2 or G.shape != (C.shape[1], C.shape[1]):
            msg = (
                f"G has shape {tuple(G.shape)} and C {tuple(C.shape)}; they must be "
                "(d, d) and (t, d). Pass A'A, and one row A'b for each target."
            )
            raise ValueError(msg)
        if not mu >= 0:
            msg = f"mu={mu!r} must be a number >= 0."
            raise ValueError(msg)
        self.t, self.d = (int(size) for size in C.shape)
        if weights is None:
            weights = xp.ones(self.t, dtype=xp.float64, device=self.device)
        self.weights = xp.astype(weights, xp.float64, copy=False)
        if self.weights.shape != (self.t,) or not bool(xp.all(self.weights > 0)):
            msg = f"weights must be {self.t} positive numbers, one for each target."
            raise ValueError(msg)
        self.p, self.n, self.mu, self.prior = self.t * self.d, 1.0, float(mu), None
        self.n_rows = self.terms = self.d
        self.constant = float(constant)

    @classmethod
    def around(
        cls, G: Array, W0: Array, *, mu: float = 0.0, weights: Array | None = None
    ) -> ManyTargets:
        """Return 1/2 sum_i g_i (w_i - w0_i)'(G + mu I)(w_i - w0_i): 0 at W = W0."""
        xp = array_namespace(G)
        W0 = xp.astype(W0, xp.float64, copy=False)
        C = W0 @ xp.astype(G, xp.float64, copy=False) + mu * W0
        whole = cls(G, C, mu=mu, weights=weights)
        whole.constant = 0.5 * float(xp.sum(whole.weights * xp.sum(C * W0, axis=1)))
        return whole

    @property
    def layers(self) -> list[ManyTargets]:
        """The problems on one Gram each whose sum n F is: this one."""
        return [self]

    @property
    def at_zero(self) -> float:
        """n F(0)."""
        return self.constant

    @property
    def floor(self) -> float:
        """What n F is nowhere below: 0 where its constant is known."""
        return 0.0 if self.constant > 0 else -math.inf

    def objective(self, w: Array) -> float:
        """n F(w), from the Gram: off by rounding errors of the size of its terms."""
        xp = self.xp
        W = xp.reshape(xp.astype(w, xp.float64, copy=False), (self.t, self.d))
        rows = 0.5 * xp.sum((W @ self.G + self.mu * W) * W, axis=1)
        rows = rows - xp.sum(self.C * W, axis=1)
        return self.constant + float(xp.sum(self.weights * rows))

    def column_norms(self) -> Array:
        """The curvature of n F along each coordinate without the ridge, shape (p,)."""
        xp = self.xp
        diagonal = xp.linalg.diagonal(self.G) + self.mu
        return xp.reshape(self.weights[:, None] * diagonal, (-1,))


class BlockDiagonal(Quadratic):
    """Several problems of many targets, with one pattern over all their coordinates.

    Parameters
    ----------
    problems : sequence of ManyTargets
        Of one array library and device. The coordinates are theirs, one problem after
        the other.
    """

    has_targets = True

    def __init__(self, problems: Sequence[ManyTargets]) -> None:
        if not problems:
            msg = "problems is empty; give at least one ManyTargets."
            raise ValueError(msg)
        self.layers = list(problems)
        first = self.layers[0]
        self.xp, self.device, self.dtype = first.xp, first.device, first.dtype
        self.p = sum(layer.p for layer in self.layers)
        self.n, self.prior, self.mu = 1.0, None, min(q.mu for q in self.layers)
        self.n_rows = self.terms = max(layer.d for layer in self.layers)

    @property
    def at_zero(self) -> float:
        """n F(0)."""
        return sum(layer.at_zero for layer in self.layers)

    @property
    def floor(self) -> float:
        """What n F is nowhere below."""
        return sum(layer.floor for layer in self.layers)

    def split(self, w: Array) -> list[Array]:
        """Cut a vector over the coordinates into those of each problem."""
        parts: list[Any] = []
        start = 0
        for layer in self.layers:
            parts.append(w[start : start + layer.p])
            start += layer.p
        return parts

    def objective(self, w: Array) -> float:
        """n F(w): the sum over the problems."""
        parts = zip(self.layers, self.split(w), strict=True)
        return sum(layer.objective(part) for layer, part in parts)

    def column_norms(self) -> Array:
        """The curvature of n F along each coordinate, shape (p,)."""
        return self.xp.concat([layer.column_norms() for layer in self.layers])
