"""n F from a triangular factor: least squares on rows that are gone.

Of weighted rows [1, x - c, y - d], a factor with R'R = sum of s_i [...]'[...] keeps all
that n F depends on. In blocks,

        | r   r u'   r e |        A'A = R_A'R_A,  A'b = R_A'b,  ||b||^2 = b'b
    R = |                |        for the centred A and b, the columns of the lower
        | 0    R_A    b  |        blocks; the means are c + u and d + e.

A search needs no more rows than these p + 1; without an intercept they are all p + 2,
with c and d put back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..linalg import EPS
from .least_squares import LeastSquares


class Factored(LeastSquares):
    """min n F(w) of rows of which a triangular factor is left.

    Parameters
    ----------
    R : array of shape (p + 2, p + 2), float64
        Upper triangular factor of [1, X - c, y - d], each row times the square root of
        its weight.
    n : float
        The sum of the weights.
    shift : array of shape (p + 1,), float64
        c and d.
    off : array of shape (p + 1,), float64
        What each column of X and y may be off by in R, a length.
    ridge : float, default=0.0
        As in `LeastSquares`, as are the five below.
    prior : array of shape (p,) or None, default=None
        w_bar.
    fit_intercept : bool, default=False
        Minimise over a constant as well.
    standardize : bool, default=False
        Divide the columns by their standard deviations.
    signs : array of shape (p,) or None, default=None
        The signs that coefficients may have.
    dtype : dtype, default=float64
        The type that coefficients return in.

    Attributes
    ----------
    lost : float
        What a column may be off by, as a share of its length: the certificates allow
        for it, and nothing is called exact.
    """

    def __init__(
        self,
        R: np.ndarray,
        *,
        n: float,
        shift: np.ndarray,
        off: np.ndarray,
        ridge: float = 0.0,
        prior: np.ndarray | None = None,
        fit_intercept: bool = False,
        standardize: bool = False,
        signs: np.ndarray | None = None,
        dtype: Any = np.float64,
    ) -> None:
        rows = R[:, 1:].copy()
        rows[0] += R[0, 0] * shift
        mean = rows[0] / R[0, 0]
        if fit_intercept:
            rows = rows[1:]
        super().__init__(rows[:, :-1], rows[:, -1], prior=prior, signs=signs)
        self.n, self.mu, self.dtype = n, n * float(ridge), np.dtype(dtype)
        h, length = self.column_norms(), float(np.linalg.norm(self.b))
        if fit_intercept:
            # As in `LeastSquares`: what rounding the mean leaves is no column.
            h = np.where(h > n * (4 * EPS * mean[:-1]) ** 2, h, 0.0)
        self._norms = h
        lengths = np.append(np.sqrt(h), length)
        self.lost = float(np.max(off[lengths > 0] / lengths[lengths > 0], initial=EPS))
        self.terms = self.n_rows + int(min(self.lost / EPS, 2**62))
        self._means = mean if fit_intercept else None
        if standardize:
            self._standardize()

    def qr_compressed(self, passes: float) -> LeastSquares:  # noqa: D102
        return self

    def intercept(self, w: Array) -> float:  # noqa: D102
        if self._means is None:
            return 0.0
        return float(self._means[-1] - self._means[:-1] @ self.as_given(w))
