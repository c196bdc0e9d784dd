"""The quadratic n F(w) = 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2 and its products.

    A = D (X - 1 m')     D = diag(sqrt(sample weights)), m = weighted column means
    b = D (y - y_bar)    n = sum of the sample weights,  mu = n ridge

A itself is never formed: centring and weights enter each product as rank-one and
diagonal corrections, so that X is neither copied nor written to and a sparse X stays
sparse. X is read in its own type; everything computed from it is float64, in blocks
that are cast as they are read.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse

from .arrays import (
    Array,
    array_namespace,
    cast_block,
    device,
    scatter,
    take_columns,
)

# Bytes of A_S held at a time while a Gram is formed: little beside X, and no more than
# pays; for a small X as much as is of no account.
GRAM_BLOCK, GRAM_SHARE, GRAM_LEAST = 2**25, 1 / 16, 2**21
FEW = 16  # blocks whose Grams may be added up in float32, if they are float32


class _Dense:
    """Products with a dense X of any array library, read in blocks."""

    def __init__(self, X: Array) -> None:
        self.X = X
        self.xp = array_namespace(X)
        self.device = device(X)
        self.shape = X.shape
        self._exact = X.dtype == self.xp.float64
        # On an accelerator a block is large, but little beside X.
        self._block = min(cast_block(X), max(X.shape[0] * X.shape[1] // 32, 2**17))

    def blocks(self, cols: slice) -> Iterator[tuple[slice, slice]]:
        """(rows, cols) slices that cover X[:, cols], of about `_block` numbers each."""
        size, n = self._block, self.shape[0]
        start, stop, _ = cols.indices(self.shape[1])
        if stop - start >= n:
            step = max(size // max(n, 1), 1)
            for j in range(start, stop, step):
                yield slice(0, n), slice(j, min(j + step, stop))
        else:
            step = max(size // max(stop - start, 1), 1)
            for i in range(0, n, step):
                yield slice(i, min(i + step, n)), slice(start, stop)

    def read(self, rows: slice, cols: slice) -> Array:
        return self.xp.astype(self.X[rows, cols], self.xp.float64, copy=False)

    def dot(self, w: Array, rough: bool = False) -> Array:
        """X w."""
        if self._exact:
            return self.X @ w
        if rough:
            return self._rough(self.X, w)
        out = self.xp.zeros(
            (self.shape[0], *w.shape[1:]), dtype=self.xp.float64, device=self.device
        )
        for rows, cols in self.blocks(slice(None)):
            out[rows, ...] += self.read(rows, cols) @ w[cols, ...]
        return out

    def tdot(self, r: Array, cols: slice = slice(None), rough: bool = False) -> Array:
        """X[:, cols]' r."""
        if self._exact:
            return self.xp.matrix_transpose(self.X[:, cols]) @ r
        if rough:
            return self._rough(self.xp.matrix_transpose(self.X[:, cols]), r)
        start, stop, _ = cols.indices(self.shape[1])
        out = self.xp.zeros(
            (stop - start, *r.shape[1:]), dtype=self.xp.float64, device=self.device
        )
        for rows, block in self.blocks(cols):
            here = slice(block.start - start, block.stop - start)
            out[here, ...] += (
                self.xp.matrix_transpose(self.read(rows, block)) @ r[rows, ...]
            )
        return out

    def _rough(self, X: Array, v: Array) -> Array:
        xp = self.xp
        return xp.astype(X @ xp.astype(v, xp.float32), xp.float64)

    def part(self, rows: slice) -> _Dense:
        """X[rows, :], a view."""
        return _Dense(self.X[rows, :])

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
        for rows, cols in self.blocks(slice(None)):
            centred = self.read(rows, cols)
            weights = s[rows] if s is not None else xp.ones_like(centred[:, 0])
            if m is not None:
                centred = centred - m[cols]
                drift[cols] += weights @ centred
            squares[cols] += weights @ centred**2
        return squares, drift


class _Sparse:
    """Products with a scipy.sparse X; only chosen columns are ever densified."""

    def __init__(self, X: Any) -> None:
        self.X = X.tocsc()
        if not self.X.has_canonical_format:
            self.X = self.X.copy() if self.X is X else self.X
            self.X.sum_duplicates()
        self.xp = array_namespace(np.empty(0))
        self.device = "cpu"
        self.shape = X.shape

    def dot(self, w: np.ndarray, rough: bool = False) -> np.ndarray:
        return self.X @ w

    def tdot(
        self, r: np.ndarray, cols: slice = slice(None), rough: bool = False
    ) -> np.ndarray:
        X = self.X if cols == slice(None) else self.X[:, cols]
        return X.T @ r

    def part(self, rows: slice) -> _Sparse:
        return _Sparse(self.X[rows])

    def take(self, S: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        return self.X[rows, S].toarray()

    def spread(
        self, s: np.ndarray | None, m: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        # Stored entries by their distance from the mean, the zeros by m itself.
        weights = np.ones(self.shape[0]) if s is None else s
        m = np.zeros(self.shape[1]) if m is None else m
        values = self.X.copy().astype(np.float64)
        columns = np.repeat(np.arange(self.shape[1]), np.diff(self.X.indptr))
        stored = self.X.copy()
        stored.data = np.ones_like(stored.data, dtype=np.float64)
        values.data = (values.data - m[columns]) ** 2
        absent = weights.sum() - stored.T @ weights
        squares = values.T @ weights + np.maximum(absent, 0.0) * m**2
        return squares, np.zeros_like(m)


class Quadratic(ABC):
    """What every algorithm asks of a problem: a few products, and what they give.

    Attributes
    ----------
    p, n_rows : int
        Coordinates, and the length of a residual.
    n : float
        The sum of the sample weights: objective / n is F.
    mu : float
        n * ridge.
    b : array of shape (n_rows,), float64
        The target.
    prior : array of shape (p,), float64, or None
        w_bar.
    xp, device, dtype
        The array namespace and the device of A, and the type coefficients return in.
    """

    p: int
    n_rows: int
    n: float
    mu: float
    b: Array
    prior: Array | None
    xp: Any
    device: Any
    dtype: Any

    @abstractmethod
    def matvec(self, w: Array, rough: bool = False) -> Array:
        """A w. One pass over A."""

    @abstractmethod
    def rmatvec(self, r: Array, rough: bool = False) -> Array:
        """A' r. One pass over A."""

    @abstractmethod
    def column_norms(self) -> Array:
        """h_j = ||a_j||^2, shape (p,). One pass over A, the first time."""

    @abstractmethod
    def raw_norms(self) -> Array:
        """Squared column norms before centring: what rounding errors scale with."""

    @abstractmethod
    def restrict(self, S: Array) -> Quadratic:
        """Return the problem on the columns S (ascending) alone; copies A_S.

        n F differs by the constant mu/2 ||w_bar||^2 over the columns left out.
        """

    @abstractmethod
    def thinned(self, step: int) -> Quadratic:
        """Return the problem of every step-th row; n F is about step times smaller."""

    def zeros(self, size: int) -> Array:
        """Float64 zeros where A lives."""
        return self.xp.zeros(size, dtype=self.xp.float64, device=self.device)

    def correlation(self) -> Array:
        """g = A'b + mu w_bar: minus the gradient of n F at w = 0."""
        g = self.rmatvec(self.b)
        return g if self.prior is None else g + self.mu * self.prior

    def residual(self, w: Array) -> Array:
        """b - A w."""
        return self.b - self.matvec(w)

    def penalty(self, w: Array) -> float:
        """mu/2 ||w - w_bar||^2."""
        shift = w if self.prior is None else w - self.prior
        return 0.5 * self.mu * float(shift @ shift)

    def value(self, w: Array, r: Array) -> Array:
        """n F(w), given the residual of w; a 0-d array."""
        shift = w if self.prior is None else w - self.prior
        return 0.5 * (r @ r) + 0.5 * self.mu * (shift @ shift)

    def objective(self, w: Array) -> float:
        """n F(w). One pass over X."""
        w = self.xp.astype(w, self.xp.float64, copy=False)
        return float(self.value(w, self.residual(w)))


class Columns:
    """A_S for a few columns S of a `LeastSquares`, and products with it.

    Held where it is small beside X; else read again for each product, in blocks of
    rows where columns must be gathered, so that of a tall X no large part is copied.
    """

    def __init__(self, problem: LeastSquares, S: Array) -> None:
        self.problem, self.S = problem, S
        n = problem.n_rows
        step = max(problem._gram_block // max(S.shape[0], 1), 1)
        self._rows = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        self._held: Array = None
        if step >= n:
            self._rows, self._held = [slice(None)], problem.columns(S)

    def gram(self) -> Array:
        """A_S' A_S."""
        xp = self.problem.xp
        return self._sum(lambda block, _: xp.matrix_transpose(block) @ block)

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
        return self._sum(lambda block, rows: rmatvec(block, cols=cols, rows=rows))

    def _read(self, rows: slice) -> Array:
        if self._held is not None:
            return self._held
        return self.problem.columns(self.S, rows=rows)

    def _sum(self, product: Callable[[Array, slice], Array]) -> Array:
        total: Array = 0.0
        for rows in self._rows:
            total += product(self._read(rows), rows)  # one block at a time in memory
        return total


class LeastSquares(Quadratic):
    """min 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2, through products with A only.

    Parameters
    ----------
    X : array or scipy.sparse matrix of shape (n_rows, p)
        Float32 or float64, of any array API library. Neither copied nor written to
        (a sparse X that is not CSC is converted once).
    y : array of shape (n_rows,)
        Of the same library and device as X.
    ridge : float, default=0.0
        mu = n * ridge, where n is the sum of the sample weights.
    prior : array of shape (p,) or None, default=None
        w_bar, the centre of the ridge term; None is zero.
    sample_weight : array of shape (n_rows,) or None, default=None
        Non-negative, not all zero; None is one each.
    fit_intercept : bool, default=False
        Minimise over an unpenalised constant as well, by centring.

    Attributes
    ----------
    n_rows, p : int
        The shape of A.
    n : float
        The sum of the sample weights: objective / n is F.
    mu : float
        n * ridge.
    b : array of shape (n_rows,), float64
        The centred and weighted target.
    prior : array of shape (p,), float64, or None
        w_bar.
    dtype : dtype
        The type of X: coefficients are returned in it.
    """

    def __init__(
        self,
        X: Any,
        y: Array,
        *,
        ridge: float = 0.0,
        prior: Array | None = None,
        sample_weight: Array | None = None,
        fit_intercept: bool = False,
    ) -> None:
        data: Any = _Sparse(X) if scipy.sparse.issparse(X) else _Dense(X)
        self._data = data
        xp = self.xp = data.xp
        self.device = data.device
        self.dtype = X.dtype
        self.n_rows, self.p = (int(size) for size in data.shape)
        y = xp.astype(y, xp.float64)
        self.prior = None if prior is None else xp.astype(prior, xp.float64)

        if sample_weight is None:
            self._s = self._d = None
            self.n = float(self.n_rows)
        else:
            self._s = xp.astype(sample_weight, xp.float64)
            self._d = xp.sqrt(self._s)
            self.n = float(xp.sum(self._s))
        self.mu = self.n * float(ridge)

        self._m = self._y_bar = None
        self._norms: Array | None = None
        if fit_intercept:
            share = self._s if self._s is not None else xp.ones_like(y)
            self._m = data.tdot(share) / self.n
            squares, drift = data.spread(self._s, self._m)
            # A long sum rounds: correct the mean by what it leaves, and the norms.
            self._m = self._m + drift / self.n
            h = squares - drift**2 / self.n
            # A constant column leaves the rounding of its mean: no column.
            rounding = self.n * (4 * float(xp.finfo(h.dtype).eps) * self._m) ** 2
            self._norms = xp.where(h > rounding, h, xp.zeros_like(h))
            self._y_bar = float(xp.sum(share * y)) / self.n
            y = y - self._y_bar
        self.b = self._weigh(y)
        # Grams that a Backsolver left for the next one.
        self.grams: list[Any] = []

    def with_target(self, y: Array | None = None, *, ridge: float) -> LeastSquares:
        """Return the problem of the same X with another ridge and, if given, target.

        Shares X, the column norms and the Grams kept with this one: solving for many
        ridges costs little more than solving for one.
        """
        self.column_norms()
        other = copy.copy(self)
        other.mu = self.n * float(ridge)
        if y is not None:
            y = self.xp.astype(y, self.xp.float64)
            if self._m is not None:
                share = self._s if self._s is not None else self.xp.ones_like(y)
                other._y_bar = float(self.xp.sum(share * y)) / self.n
                y = y - other._y_bar
            other.b = self._weigh(y)
        return other

    @property
    def _gram_block(self) -> int:
        """Numbers of A held at a time while a Gram is formed, with their casts."""
        number = 4 if self.dtype == self.xp.float32 else 8
        share = int(GRAM_SHARE * number * self.n_rows * self.p)
        own = 8 if number == 8 else 12  # the block, and what is cast to it
        return max(min(GRAM_BLOCK, share), GRAM_LEAST) // own

    def _weigh(self, r: Array, rows: slice = slice(None)) -> Array:
        """D[rows] r, for a vector or a matrix of rows."""
        if self._d is None:
            return r
        d = self._d[rows]
        return d * r if r.ndim == 1 else d[:, None] * r

    # The operations: no other code touches X.

    # `rough` asks for the type of X instead of float64: faster, and enough for a
    # search direction, never for a result. Centring forbids it: float32 would lose a
    # spread that is small beside the mean.

    def matvec(self, w: Array, rough: bool = False) -> Array:
        """A w. One pass over X."""
        out = self._data.dot(w, rough and self._m is None)
        if self._m is not None:
            out = out - self._m @ w
        return self._weigh(out)

    def rmatvec(
        self,
        r: Array,
        rough: bool = False,
        cols: slice = slice(None),
        rows: slice = slice(None),
    ) -> Array:
        """A[rows, cols]' r, for a vector or a matrix r. One pass over X."""
        data = self._data if rows == slice(None) else self._data.part(rows)
        r = self._weigh(r, rows)
        out = data.tdot(r, cols, rough and self._m is None)
        if self._m is not None:
            total, m = self.xp.sum(r, axis=0), self._m[cols]
            out = out - (m * total if r.ndim == 1 else m[:, None] * total)
        return out

    def column_norms(self) -> Array:
        """h_j = ||a_j||^2, shape (p,). One pass over X, the first time."""
        if self._norms is None:
            self._norms, _ = self._data.spread(self._s, self._m)
        return self._norms

    def columns(
        self, S: Array, rough: bool = False, rows: slice = slice(None)
    ) -> Array:
        """A[rows, S], dense, shape (n_rows, len(S)), float64 (float32 if rough)."""
        xp = self.xp
        rough = rough and self._m is None
        out = self._data.take(S, rows)
        out = xp.astype(out, xp.float32 if rough else xp.float64, copy=False)
        if self._m is not None:
            out -= xp.take(self._m, S)
        if self._d is not None:
            out *= xp.astype(self._d[rows], out.dtype, copy=False)[:, None]
        return out

    def inner_gram(self, S: Array) -> Array:
        """A_S' A_S, shape (len(S), len(S))."""
        return Columns(self, S).gram()

    def outer_gram(
        self,
        S: Array,
        scale: Array | None = None,
        rough: bool = False,
        add_to: tuple[Array, Array | None] | None = None,
        sign: float = 1.0,
    ) -> tuple[Array, Array | None]:
        """A_S diag(scale) A_S' and A_S diag(scale) w_bar_S, by blocks of columns.

        Of shapes (n_rows, n_rows), float32 if rough, and (n_rows,); the second is None
        without a w_bar. Or what both are added to, in place, `sign` times; scale >= 0.
        """
        xp = self.xp
        rough = rough and self._m is None
        step = max(self._gram_block // max(self.n_rows, 1), 1)
        if add_to is None:
            # The sum of many blocks needs more digits than each.
            few = rough and S.shape[0] <= FEW * step
            dtype = xp.float32 if few else xp.float64
            size = (self.n_rows, self.n_rows)
            G = xp.zeros(size, dtype=dtype, device=self.device)
            moment = None if self.prior is None else self.zeros(self.n_rows)
        else:
            G, moment = add_to
        for j in range(0, S.shape[0], step):
            here = slice(j, min(j + step, S.shape[0]))
            block = self.columns(S[here], rough)
            root = None if scale is None else xp.sqrt(scale[here])
            if root is not None:
                block *= xp.astype(root, block.dtype, copy=False)
            part = block @ xp.matrix_transpose(block)  # symmetric: at half the cost
            if sign > 0:
                G += part
            else:
                G -= part
            del part
            if moment is not None:
                prior = xp.take(self.prior, S[here])
                prior = prior if root is None else root * prior
                moment += sign * xp.astype(
                    block @ xp.astype(prior, block.dtype, copy=False), xp.float64
                )
            del block
        return xp.astype(G, xp.float32 if rough else xp.float64, copy=False), moment

    def restrict(self, S: Array) -> LeastSquares:  # noqa: D102
        def taken(x: Array | None) -> Array | None:
            return None if x is None else self.xp.take(x, S)

        part = copy.copy(self)
        part._data = _Dense(self._data.take(S))
        part.p = S.shape[0]
        part.prior, part._m, part._norms = map(
            taken, (self.prior, self._m, self._norms)
        )
        part.grams = []
        return part

    def thinned(self, step: int) -> LeastSquares:  # noqa: D102
        other = copy.copy(self)
        other._data = self._data.part(slice(None, None, step))
        other.n_rows, other.b = int(other._data.shape[0]), self.b[::step]
        if self._s is not None and self._d is not None:
            other._s, other._d = self._s[::step], self._d[::step]
        other.mu, other.n = self.mu / step, self.n / step
        other._norms, other.grams = None, []
        return other

    def raw_norms(self) -> Array:
        """Squared column norms before centring: what rounding errors scale with."""
        h = self.column_norms()
        return h if self._m is None else h + self.n * self._m**2

    def intercept(self, w: Array) -> float:
        """Return the constant that goes with w; 0 without fit_intercept."""
        if self._m is None or self._y_bar is None:
            return 0.0
        return self._y_bar - float(self._m @ self.xp.astype(w, self.xp.float64))
