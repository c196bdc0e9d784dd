"""The quadratic n F(w) = 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2 and its products.

    A = D (X - 1 m')     D = diag(sqrt(sample weights)), m = weighted column means
    b = D (y - y_bar)    n = sum of the sample weights,  mu = n ridge

A itself is never formed: centring and weights enter each product as rank-one and
diagonal corrections, so that X is neither copied nor written to and a sparse X stays
sparse. Of a tall X, the products are those of a triangular factor instead
(`qr_compressed`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import scipy.sparse

from ..arrays import Array
from ..limits import LIMITS, Limits
from ..linalg import add_outer, joined, mirror, rows_at_a_time
from .base import Rows, Structure
from .columns import Columns
from .design import Dense, Scaled, Sparse

# X is reduced to its triangular factor where it takes at least TALL times the memory
# of the factor (forming it takes six times that). It takes about the time of TO_FACTOR
# passes over X, and of one more for every COLUMNS_A_PASS columns: measured on 20,000 to
# 200,000 rows, 18 to 52 passes for 10 columns, 24 to 45 for 100, 52 to 77 for 300 and
# 135 to 147 for 600, more where the columns are contiguous.
TALL, TO_FACTOR, COLUMNS_A_PASS = 32, 20, 5
# One factor serves several targets. There X counts as at least so many bytes, whatever
# it takes, if it has so many times more rows than the factor.
TALL_LEAST, ROWS_A_COLUMN = 2**22, 8
# Lengths of the longest column of A and of b between which the squares of their
# products, which gains are, are neither rounded to zero nor too large for a float.
SHORTEST, LONGEST = 1e-70, 1e70
FEW = 16  # blocks whose Grams may be added up in float32, if they are float32


class LeastSquares(Rows):
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
    standardize : bool, default=False
        Let A be divided by s_j = ||a_j|| / sqrt(n), the standard deviation of column j
        (without an intercept its root mean square), so that mu acts on coefficients of
        columns of unit variance. `w` and `prior` are then those of the scaled columns:
        s_j times those of X. A column without variance is not divided, and its prior is
        0. Nothing is copied.
    signs : array of shape (p,) or None, default=None
        The signs that coefficients may have: -1, 1, or 0 for either. None is either
        for all.

    limits : Limits, default=LIMITS
        How much memory a search may take beside X.

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
    scale : array of shape (p,), float64, or None
        1 / s_j if the columns are standardised.

    Raises
    ------
    ValueError
        If y, or the longest column of X, centred and weighted, is so long or so short
        that the squares of their products are no floating-point numbers.
    """

    has_grams = True
    structure = Structure.ONE_MATRIX
    # What A and b may be off by, as a share of the length of each column: 0 for data,
    # more for what has been computed from rows that are gone (`Factored`).
    lost = 0.0

    def __init__(
        self,
        X: Any,
        y: Array,
        *,
        ridge: float = 0.0,
        prior: Array | None = None,
        sample_weight: Array | None = None,
        fit_intercept: bool = False,
        standardize: bool = False,
        signs: Array | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.limits = limits
        data: Any = Sparse(X) if scipy.sparse.issparse(X) else Dense(X)
        self._data = data
        xp = self.xp = data.xp
        self.device = data.device
        self.dtype = X.dtype
        self.n_rows, self.p = (int(size) for size in data.shape)
        y = xp.astype(y, xp.float64)
        self.prior = None if prior is None else xp.astype(prior, xp.float64)
        self.signs = None if signs is None else xp.astype(signs, xp.float64)

        if sample_weight is None:
            self._s = self._d = None
            self.n = float(self.n_rows)
        else:
            self._s = xp.astype(sample_weight, xp.float64)
            self._d = xp.sqrt(self._s)
            self.n = float(xp.sum(self._s))
        self.mu = self.n * float(ridge)

        self.terms = self.n_rows
        self._whole: LeastSquares | None = None
        self._m: Array | None = None
        self._y_bar: float | None = None
        self._norms: Array | None = None
        self._raw: Array | None = None
        if fit_intercept:
            self._m = data.tdot(xp.ones_like(y) if self._s is None else self._s)
            self._m = self._m / self.n
            squares, drift = data.spread(self._s, self._m)
            # A long sum rounds: correct the mean by what it leaves, and the norms.
            self._m = self._m + drift / self.n
            h = squares - drift**2 / self.n
            # Of a constant column the rounding of its mean is left: it counts as zero.
            # (And h may round to less than zero.)
            rounding = self.n * (4 * float(xp.finfo(h.dtype).eps) * self._m) ** 2
            self._norms = h = xp.where(h > rounding, h, xp.zeros_like(h))
            self._check_columns(h)
        self.scale: Array | None = None
        # X and its means before they are scaled: objectives and bounds that are claimed
        # are computed from these.
        self._unscaled, self._unscaled_m = data, self._m
        self._column_scale: Array | None = None
        if standardize:
            self._standardize()
        self._take_target(y)
        # Grams that a Backsolver left for the next one, and the triangular factor of
        # [A, b]: shared with the problems of other ridges.
        self.grams: list[Any] = []
        self._factor: list[Array] = []
        # With other targets of the same X: their b, the factor of A and all of them
        # (an empty list until it is wanted), and which of them is its own.
        self._together: tuple[list[Array], list[Array], int] | None = None

    def _standardize(self) -> None:
        """Divide A by the standard deviations of its columns, without forming it."""
        xp, h = self.xp, self.column_norms()
        live = h > 0
        self.scale = xp.where(live, 1 / xp.sqrt(xp.where(live, h, 1) / self.n), 1.0)
        self._data, self._unscaled = Scaled(self._data, self.scale), self._data
        self._unscaled_m, self._column_scale = self._m, self.scale
        self._norms = xp.where(live, h * self.scale**2, 0.0)
        if self._m is not None:
            self._m = self._m * self.scale
        if self.prior is not None:
            self.prior = self._scaled_prior(self.prior)

    def _scaled_prior(self, prior: Array) -> Array:
        """The prior of A's columns: 0 where s_j is, for a column without variance."""
        prior = self.as_scaled(prior)
        if self.scale is None:
            return prior
        return self.xp.where(self.column_norms() > 0, prior, 0.0)

    def as_given(self, w: Array) -> Array:
        """Coefficients of the columns of X, from those of the columns of A."""
        return w if self.scale is None else w * self.scale

    def rounded(self, w: Array) -> Array:
        """Coefficients w such that those of X are numbers of its type."""
        if self.scale is None:
            return super().rounded(w)
        return self.as_scaled(super().rounded(self.as_given(w)))

    def as_scaled(self, w: Array) -> Array:
        """Coefficients of the columns of A, from those of the columns of X."""
        w = self.xp.astype(w, self.xp.float64, copy=False)
        return w if self.scale is None else w / self.scale

    def with_target(
        self, y: Array | None = None, *, ridge: float, prior: Array | None = None
    ) -> LeastSquares:
        """Return the problem of the same X with another ridge.

        And with another target and another prior, where they are given. Shares X, the
        column norms and the Grams kept with this one: solving for many ridges costs
        little more than solving for one.
        """
        self.column_norms()
        other = copy.copy(self)
        other.mu = self.n * float(ridge)
        if prior is not None:
            other.prior = self._scaled_prior(prior)
        if self._whole is not None:
            # The factor holds this b alone: another target needs the rows of X.
            if y is not None:
                return self._whole.with_target(y, ridge=ridge, prior=prior)
            other._whole = self._whole.with_target(ridge=ridge, prior=prior)
        elif y is not None:
            other._take_target(self.xp.astype(y, self.xp.float64))
            other._factor, other._together = [], None
        return other

    def with_targets(
        self, targets: Sequence[Array], *, ridge: float, priors: Sequence[Array | None]
    ) -> list[LeastSquares]:
        """Return this problem and, of the same X, one for each other target.

        One factor of [A, b_1, ..., b_t] serves them all, if X is to be reduced.
        """
        pairs = zip(targets, priors, strict=True)
        others = [self.with_target(y, ridge=ridge, prior=prior) for y, prior in pairs]
        problems = [self, *others]
        every: list[Array] = [problem.b for problem in problems]
        factor: list[Array] = []
        for i, problem in enumerate(problems):
            problem._together = every, factor, i
        return problems

    def _take_target(self, y: Array) -> None:
        """Set b and, with an intercept, the mean of y."""
        xp, self._y = self.xp, y
        if self._m is not None:
            self._y_bar = self._mean(y)
            y = y - self._y_bar
            # Where numbers are far from zero, their mean may be rounded by more than
            # they differ: what is left is centred once more.
            left = self._mean(y)
            self._y_bar += left
            y -= left
            counted = self._y if self._s is None else self._y[self._s > 0]
            if float(xp.min(counted)) == float(xp.max(counted)):
                y = xp.zeros_like(y)  # a constant, whatever is left of it
        self.b = self._checked(self._weigh(y))

    def _mean(self, y: Array) -> float:
        return float(self.xp.sum(y if self._s is None else self._s * y)) / self.n

    def qr_compressed(self, passes: float) -> LeastSquares:
        """Return the problem of p + 1 rows with the same n F, or this one.

        [A, b] = Q R with orthonormal columns in Q, so that b - A w is as long as what
        R makes of w, whatever w is. R is formed once for all ridges, by blocks of rows,
        where `passes` over X cost more: of a tall X, and none too wide. A problem that
        is reduced already is returned as it is: its allowance for rounding, `terms`,
        is that of the rows it came from.
        """
        if self._whole is not None:
            return self
        xp, size, data = self.xp, self.p + 1, self._data
        if not self._factor:
            cost = TO_FACTOR + self.p / COLUMNS_A_PASS
            together, own = self._n_together, data.nbytes
            if together > 1:  # their searches would each read X again
                if self.n_rows >= ROWS_A_COLUMN * (self.p + together):
                    own = max(own, TALL_LEAST)
                cost += together / COLUMNS_A_PASS
            # A pass over a sparse X is shorter, the factor is not.
            small = 8 * (self.p + together) ** 2 * TALL <= own
            if not small or passes * together * data.density < cost:
                return self
            self._factor.append(self._own_factor())
        R = self._factor[0]
        other = copy.copy(self)
        other._data, other.n_rows = Dense(R[:, : self.p]), size
        other._unscaled, other._unscaled_m = other._data, None
        other._column_scale = None
        other.b, other.grams = R[:, self.p], []
        h, raw = self.column_norms(), self.raw_norms()
        # Each column of A is off by some eps of its length before centring, then by
        # n_rows size eps of its length at most (Higham, Accuracy and Stability, 19.3).
        other.terms = 2 * self.n_rows * (self.p + self._n_together)
        other._raw = (xp.sqrt(h) + 4 * xp.sqrt(raw) / other.terms) ** 2
        other._m = other._y_bar = other._s = other._d = None
        other._whole = self
        return other

    @property
    def _n_together(self) -> int:
        return 1 if self._together is None else len(self._together[0])

    def _own_factor(self) -> Array:
        """R of [A, b] = Q R, shape (p + 1, p + 1).

        In the factor of A and several targets, the rows below the first p are zero but
        in the columns of the targets: for one of them, what is there has a length, and
        no more of it matters.
        """
        xp, p = self.xp, self.p
        if self._together is None:
            return self._triangular(self.b[None, :])
        targets, factor, i = self._together
        if not factor:
            factor.append(self._triangular(xp.stack(targets)))
        A, b = factor[0][: p + 1, :p], factor[0][:, p + i]
        length = xp.linalg.vector_norm(b[p:])
        own = xp.concat([b[:p], xp.reshape(length, (1,))])
        return xp.concat([A, own[:, None]], axis=1)

    def _triangular(self, targets: Array) -> Array:
        """R of [A, B] = Q R, for targets B of shape (t, n_rows)."""
        xp, p, size = self.xp, self.p, self.p + int(targets.shape[0])
        # Transposed: its columns, and those of the rows that join it, are contiguous.
        zeros = xp.zeros((size, size), dtype=xp.float64, device=self.device)
        R = xp.matrix_transpose(zeros)
        step = rows_at_a_time(size)
        for i in range(0, self.n_rows, step):
            rows = slice(i, min(i + step, self.n_rows))
            shape = (size, rows.stop - i)
            new = xp.empty(shape, dtype=xp.float64, device=self.device)
            new[:p, :] = xp.matrix_transpose(self._data.rows(rows))
            if self._m is not None:
                new[:p, :] -= self._m[:, None]
            if self._d is not None:
                new[:p, :] *= self._d[rows]
            new[p:, :] = targets[:, rows]
            R = joined(R, xp.matrix_transpose(new))
        return R

    def _check_columns(self, h: Array) -> None:
        """Refuse columns that are all too short or too long, given h_j = ||a_j||^2."""
        length = float(self.xp.sqrt(self.space.max(h))) if h.shape[0] else 0.0
        if length == 0.0:  # or so short that its square is
            length = self._data.largest()
        _check_length(length, "the longest column of X")

    def _checked(self, b: Array) -> Array:
        """Return b, unless it is too short or too long."""
        size = max(float(self.xp.max(b)), -float(self.xp.min(b)))
        length = size
        if SHORTEST <= size <= LONGEST:
            length = math.sqrt(float(b @ b))
        elif 0 < size < SHORTEST:  # its squares are lost
            length = size * float(self.xp.linalg.vector_norm(b / size))
        _check_length(length, "y")
        return b

    @property
    def _gram_block(self) -> int:
        """Numbers of A held at a time while a Gram is formed, with their casts."""
        share = int(self.limits.gram_share * self._data.nbytes)
        own = 8 if self._data.exact else 12  # the block, and what is cast to it
        return max(min(self.limits.gram_block, share), self.limits.gram_least) // own

    def gram_order(self, rough: bool = False) -> int:
        """Order of a Gram matrix that takes a small share of the memory of X.

        Several may be held at a time. See `Limits.gram_share`.
        """
        own = 4 if rough and self._m is None else 8
        share = int(self.limits.gram_share * self._data.nbytes / own)
        return max(math.isqrt(share), self.limits.gram_order_least)

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
            out -= self._m @ w
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
            self._check_columns(self._norms)
        return self._norms

    def columns(
        self, S: Array, rough: bool = False, rows: slice = slice(None)
    ) -> Array:
        """A[rows, S], dense, shape (n_rows, len(S)), float64 (float32 if rough)."""
        xp = self.xp
        rough = rough and self._m is None
        # Centred before it is scaled: x - m is exact where the mean dwarfs the spread.
        out = self._unscaled.take(S, rows)
        out = xp.astype(out, xp.float32 if rough else xp.float64, copy=False)
        if self._m is not None:
            out -= xp.take(self._unscaled_m, S)
        if self._column_scale is not None:
            out *= xp.astype(xp.take(self._column_scale, S), out.dtype, copy=False)
        if self._d is not None:
            out *= xp.astype(self._d[rows], out.dtype, copy=False)[:, None]
        return out

    def select(self, S: Array) -> Columns:
        """A_S, within a budget of memory."""
        return Columns(self, S)

    def given(
        self, S: Array, rows: slice = slice(None)
    ) -> tuple[Array, Array, Array | None]:
        """X[rows, S], y[rows] and the weights of the rows, in float64, as given.

        Neither centred nor scaled.
        """
        X = self.xp.astype(self._unscaled.take(S, rows), self.xp.float64, copy=False)
        return X, self._y[rows], None if self._s is None else self._s[rows]

    def scale_of(self, S: Array) -> Array:
        """What the columns S of X are multiplied by."""
        if self._column_scale is None:
            return self.xp.ones(S.shape[0], dtype=self.xp.float64, device=self.device)
        return self.xp.take(self._column_scale, S)

    @property
    def original(self) -> LeastSquares:
        """The problem itself or, of one that is `qr_compressed`, the one it is of.

        What is said of a solution in the end is computed from the data as given.
        """
        return self if self._whole is None else self._whole

    @property
    def parts(self) -> list[LeastSquares]:  # noqa: D102
        return [self.original]

    @property
    def has_intercept(self) -> bool:
        """Whether n F is minimised over a constant too, by centring."""
        return self._m is not None

    def root_weights(self, rows: slice = slice(None)) -> Array:
        """The square roots of the weights of some rows."""
        return self.xp.ones_like(self.b[rows]) if self._d is None else self._d[rows]

    def target_length(self) -> float:
        """The length of y, weighted but not centred: what its rounding scales with."""
        squared = float(self.b @ self.b)
        if self._y_bar is not None:
            squared += self.n * self._y_bar**2
        return math.sqrt(squared)

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
            add_outer(G, block, sign)
            if moment is not None:
                prior = xp.take(self.prior, S[here])
                prior = prior if root is None else root * prior
                moment += sign * xp.astype(
                    block @ xp.astype(prior, block.dtype, copy=False), xp.float64
                )
            del block
        G = mirror(G)
        return xp.astype(G, xp.float32 if rough else xp.float64, copy=False), moment

    def restrict(self, S: Array) -> LeastSquares:  # noqa: D102
        def taken(x: Array | None) -> Array | None:
            return None if x is None else self.xp.take(x, S)

        part = copy.copy(self)
        part._whole = None
        part._data = part._unscaled = Dense(self._data.take(S))
        part._column_scale = None
        part.p = S.shape[0]
        part.prior, part._m, part._norms, part._raw, part.scale, part.signs = map(
            taken,
            (self.prior, self._m, self._norms, self._raw, self.scale, self.signs),
        )
        part._unscaled_m = part._m
        part.grams, part._factor, part._together = [], [], None
        return part

    def subsampled(self, step: int) -> LeastSquares:  # noqa: D102
        other = copy.copy(self)
        other._whole = None
        other._data = self._data.part(slice(None, None, step))
        other._unscaled = self._unscaled.part(slice(None, None, step))
        other._y = self._y[::step]
        other.n_rows, other.b = int(other._data.shape[0]), self.b[::step]
        if self._s is not None and self._d is not None:
            other._s, other._d = self._s[::step], self._d[::step]
        other.mu, other.n = self.mu / step, self.n / step
        other._norms, other.grams = None, []
        other._factor, other._together = [], None
        return other

    def raw_norms(self) -> Array:
        """Squared column norms before centring: what rounding errors scale with."""
        if self._raw is not None:
            return self._raw
        h = self.column_norms()
        return h if self._m is None else h + self.n * self._m**2

    def intercept(self, w: Array) -> float:
        """Return the constant that goes with w; 0 without fit_intercept."""
        if self._m is None or self._y_bar is None:
            return 0.0
        return self._y_bar - float(
            self.space.dot(self._m, self.xp.astype(w, self.xp.float64))
        )


def _check_length(length: float, name: str) -> None:
    if length == 0.0 or SHORTEST <= length <= LONGEST:
        return
    msg = (
        f"{name}, centred and times the square roots of the sample weights, has length "
        f"{length:.3g}; it must be 0 or in [1e-70, 1e+70]. Scale X and y, for example "
        "with sklearn.preprocessing.StandardScaler, or the weights."
    )
    raise ValueError(msg)
