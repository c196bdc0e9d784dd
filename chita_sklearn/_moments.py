r"""`Moments`: all that least squares needs of rows, kept when the rows are gone.

Of weighted rows [1, x - c, y - d], kept is the triangular factor R with

    R'R = sum_i s_i [1, x_i - c, y_i - d]' [1, x_i - c, y_i - d],

of size 1 + p + t for p features and t targets. It is the mean squared error of every
coefficient and every intercept, so a fit on it is a fit on the rows. The shift (c, d)
is the mean so far. Factors of different shifts are merged exactly: a change of shift
changes the first row of R alone, by R[0, 0] times the change.

X'X would do as well in exact arithmetic. In float64 it squares the condition number:
with means 1e4 times the spread and condition 1e6 its coefficients are wrong in the
first digit, those of the shifted factor in the ninth. But it is formed in a third of
the time, so R is its Cholesky factor where that is as good: of centred columns that,
scaled to one length, are nearly orthogonal, which most are (`SAFE`). The first rows of
a chunk, and all rows of the others, join R by reflections.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg.lapack import dpotrf, dtrtri
from sklearn.utils import check_array
from sklearn.utils.parallel import Parallel, delayed

from ._compat import _get_feature_names, _safe_indexing
from ._validation import checked_weights, refuse_dask
from .core import Factored
from .core.linalg import add_outer, joined, joined_factors, rows_at_a_time

__all__ = ["Moments", "WeightedRows", "moments"]

EPS = float(np.finfo(np.float64).eps)
# Rows are summed as products where their columns, scaled to one length, have at most
# this condition: its square costs three to four of the 16 digits.
SAFE = 64.0
PILOT = 1000  # rows whose mean is the shift of a chunk
LARGEST = 2**32  # bytes of a factor: 23,000 features
# What rounding may make of coefficients, as a share, where a Gram matrix is accepted.
GRAM_LOSS = 1e-6
# Numbers of X in a chunk, and rows for each column at least: merging the factor of a
# chunk then takes far less time than forming it.
CHUNK, CHUNK_ROWS = 2**21, 16


class WeightedRows(NamedTuple):
    """A few weighted rows with the same mean squared error as many.

    Attributes
    ----------
    X : ndarray of shape (p + t + 1, p)
        The rows, less `X_shift`.

    y : ndarray of shape (p + t + 1,) or (p + t + 1, t)
        Their targets, less `y_shift`.

    sample_weight : ndarray of shape (p + t + 1,)
        Their weights, all equal; the sum is that of the rows they stand for.

    X_shift : ndarray of shape (p,)
        The means of the columns. Adding them costs the digits by which a mean is
        larger than the spread; the coefficients are the same without.

    y_shift : float or ndarray of shape (t,)
        The mean of y.
    """

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray
    X_shift: np.ndarray
    y_shift: Any


class Moments:
    r"""Sums over rows, in a triangular factor: what any least-squares fit needs.

    Holds for the rows seen so far, with weights :math:`s_i`, the upper triangular
    :math:`R` of

    .. math::

        R^\top R = \sum_i s_i\,
        (1,\; x_i - c,\; y_i - d)^\top (1,\; x_i - c,\; y_i - d)

    where :math:`(c, d)` are the means. The mean squared error of every coefficient
    vector can be told from it, so :meth:`ChitaRegressor.fit_moments`,
    :func:`chita_path` and :meth:`ChitaRegressorCV.fit_moments` solve the problem of all
    rows from it, and no row is read again.

    Rows are added by :meth:`update`, and two objects that have seen different rows make
    one by :meth:`merge`, in any order and any tree: on other processes, machines, days.

    Attributes
    ----------
    n_samples_ : int
        How many rows of positive weight have been seen.

    weight_ : float
        The sum of their weights.

    n_features_in_ : int
        The number of features p; set with the first rows.

    n_targets_ : int or None
        The number of targets t; None where y is one-dimensional, which counts as one.

    feature_names_in_ : ndarray of shape (p,)
        The names of the columns, where the first rows had any that are all strings.

    mean_ : ndarray of shape (p + t,)
        The weighted means of the columns of X and y.

    dtype : dtype
        float32 where all X have been, else float64. Sums are float64 in any case.

    See Also
    --------
    moments : Those of an array, by chunks, on several processes.

    Notes
    -----
    **Cost.** O(m (p + t + 1)^2) for m rows: one and a half times X'X in float64, or
    four times where columns nearly depend on each other; a merge O((p + t + 1)^3).
    Memory: 8 (p + t + 1)^2 bytes, which is also the size of a pickle, and about six
    times that during an update.

    **Accuracy.** That of a QR factorisation of all rows, centred: coefficients are off
    by the condition number of the standardised columns times rounding, not by its
    square, but for conditions below 64, where the square costs some 1e-13. The
    certificate of a fit allows for what the sums may have been rounded by, so a `gap_`
    is never exactly 0.

    **What it does not keep.** Single rows: no robust loss, no scorer other than the
    mean squared error and R squared, no new interactions of columns.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition,
       SIAM 2002, chapter 19.
    .. [2] J. Demmel, L. Grigori, M. Hoemmen and J. Langou, "Communication-optimal
       Parallel and Sequential QR and LU Factorizations", SIAM Journal on Scientific
       Computing 34(1), 2012. https://doi.org/10.1137/080731992

    Examples
    --------
    >>> import numpy as np
    >>> from chita_sklearn import ChitaRegressor, Moments
    >>> rng = np.random.default_rng(0)
    >>> seen = Moments()
    >>> for day in range(20):
    ...     X = rng.standard_normal((500, 30))
    ...     y = 3 * X[:, 4] - 2 * X[:, 11] + rng.standard_normal(500)
    ...     seen.update(X, y)
    Moments(n_samples=500, n_features=30)
    ...
    Moments(n_samples=10000, n_features=30)
    >>> model = ChitaRegressor(k=2).fit_moments(seen)
    >>> model.support_
    array([ 4, 11])
    >>> round(seen.mean_squared_error(model.coef_, model.intercept_), 1)
    1.0
    """

    n_samples_: int
    weight_: float
    n_features_in_: int
    n_targets_: int | None
    feature_names_in_: np.ndarray
    dtype: np.dtype

    def __init__(self) -> None:
        self.n_samples_, self.weight_ = 0, 0.0

    def __repr__(self) -> str:
        if not self.n_samples_:
            return "Moments(no rows yet)"
        targets = "" if self.n_targets_ is None else f", n_targets={self.n_targets_}"
        size = f"n_samples={self.n_samples_}, n_features={self.n_features_in_}"
        return f"Moments({size}{targets})"

    def update(self, X: Any, y: Any, sample_weight: Any = None) -> Moments:
        """Add rows; all of them, or none if an error is raised.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, dense, sparse or of a data frame; read in blocks, never written to. A
            data frame with the same names in another order is put in order.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target values.

        sample_weight : float or array-like of shape (n_samples,), default=None
            Weights, at least 0. A row of weight 0 is not looked at.

        Returns
        -------
        Moments
            This object.

        Raises
        ------
        ValueError
            For NaN or infinity, lengths that do not match, negative weights, other
            features or another number of targets than before, or a factor that would
            take more than 4 GiB.
        TypeError
            For columns that are no numbers.
        """
        chunk = _of_rows(*self._checked(X, y, sample_weight))
        if chunk.n_samples_:
            vars(self).update(vars(self._merged(chunk)))
        return self

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the rows of both; neither is changed.

        Parameters
        ----------
        other : Moments
            Of other rows, with the same features and targets.

        Returns
        -------
        Moments
            A new object. Where one of the two has no rows, a copy of the other.

        Raises
        ------
        ValueError
            If features, their names or their order, or the targets differ.
        """
        if not isinstance(other, Moments):
            msg = f"merge takes Moments. Got {type(other).__name__} instead."
            raise TypeError(msg)
        if self.n_samples_ and other.n_samples_:
            self._compare(other.n_features_in_, other.n_targets_)
            mine, theirs = (
                getattr(m, "feature_names_in_", None) for m in (self, other)
            )
            if not _same(mine, theirs):
                msg = (
                    "merge got other feature names than this object has seen, or the "
                    f"same in another order: {_first_difference(mine, theirs)}. Name "
                    "and order the columns alike before they are summed."
                )
                raise ValueError(msg)
        return self._merged(other)

    @classmethod
    def from_gram(
        cls,
        XtX: Any,
        Xty: Any,
        yty: Any,
        n_samples: float,
        *,
        x_mean: Any,
        y_mean: Any,
        feature_names: Any = None,
    ) -> Moments:
        r"""Return moments from sums of products that somebody else has formed.

        From :math:`\sum_i s_i x_i x_i^\top`, :math:`\sum_i s_i x_i y_i` and
        :math:`\sum_i s_i y_i^2`, not centred, and the means. Such sums have lost half
        of the digits that :meth:`update` keeps, and are refused where too few are left.

        Parameters
        ----------
        XtX : array-like of shape (n_features, n_features)
            X'X, each row times its weight.

        Xty : array-like of shape (n_features,) or (n_features, n_targets)
            X'y.

        yty : float or array-like of shape (n_targets, n_targets)
            y'y.

        n_samples : float
            The number of rows, or the sum of their weights.

        x_mean : array-like of shape (n_features,)
            The means of the columns of X. Zeros, if the rows were centred.

        y_mean : float or array-like of shape (n_targets,)
            The means of y.

        feature_names : array-like of str, shape (n_features,), default=None
            Names of the columns.

        Returns
        -------
        Moments
            To be merged with others, or solved.

        Raises
        ------
        ValueError
            If rounding in the sums may cost coefficients more than 1e-6 of their size:
            columns that nearly depend on each other, or means far larger than the
            spread. Also for shapes that do not match, NaN, or a matrix that is none of
            sums of squares.

        Examples
        --------
        >>> import numpy as np
        >>> from chita_sklearn import ChitaRegressor, Moments
        >>> X = np.random.default_rng(0).standard_normal((1000, 8))
        >>> y = X[:, 3] + 0.1 * X[:, 5]
        >>> seen = Moments.from_gram(
        ...     X.T @ X, X.T @ y, y @ y, 1000, x_mean=X.mean(axis=0), y_mean=y.mean()
        ... )
        >>> ChitaRegressor(k=2).fit_moments(seen).support_
        array([3, 5])
        """
        p = int(np.shape(XtX)[0]) if np.ndim(XtX) else 0
        two = np.ndim(Xty) == 2
        t = int(np.shape(Xty)[1]) if two else 1
        _check_size(1 + p + t)
        shapes = {
            "XtX": (XtX, (p, p)),
            "Xty": (Xty, (p, t) if two else (p,)),
            "yty": (yty, (t, t) if two else ()),
            "x_mean": (x_mean, (p,)),
            "y_mean": (y_mean, (t,) if two else ()),
        }
        eps = EPS
        for name, (value, shape) in shapes.items():
            array = np.asarray(value)
            if array.shape != shape or not np.isfinite(array).all():
                msg = (
                    f"{name} must hold finite numbers in an array of shape {shape}. "
                    f"Got shape {array.shape}. Pass sums over the same rows."
                )
                raise ValueError(msg)
            if array.dtype == np.float32:
                eps = float(np.finfo(np.float32).eps)
        if not 0 < n_samples < math.inf:
            msg = f"n_samples={n_samples!r}; it must be in (0, inf)."
            raise ValueError(msg)
        n = float(n_samples)
        mean = np.append(np.asarray(x_mean, np.float64), y_mean)
        gram = np.empty((p + t, p + t))
        gram[:p, :p] = XtX
        gram[:p, p:] = np.reshape(np.asarray(Xty, np.float64), (p, t))
        gram[p:, :p] = gram[:p, p:].T
        gram[p:, p:] = yty
        raw = np.diagonal(gram).copy()
        gram -= n * np.outer(mean, mean)
        found = cls()
        R_A = _factor_of_gram(gram, raw, p, eps)
        found._R = np.zeros((1 + p + t, 1 + p + t), order="F")
        found._R[0, 0], found._R[1:, 1:] = math.sqrt(n), R_A
        found._shift = mean
        # A Gram is off by its rounding, and its factor by the root of that.
        found._off = np.sqrt(raw * eps * max(n, p + t))
        found.n_samples_, found.weight_ = max(round(n), 1), n
        found.n_features_in_, found.n_targets_ = p, t if two else None
        found.dtype = np.dtype(np.float64)
        if feature_names is not None:
            found.feature_names_in_ = np.asarray(feature_names, dtype=object)
        return found

    @property
    def mean_(self) -> np.ndarray:
        """The weighted means of the columns of X and y."""
        self._check_rows()
        return self._shift + self._R[0, 1:] / self._R[0, 0]

    def rows(self) -> WeightedRows:
        r"""Return p + t + 1 weighted rows that no least-squares fit tells from all.

        For every coefficient vector w and intercept c, the weighted mean of
        :math:`(y - x w - c)^2` over them is that over all rows seen: any estimator of
        least squares with `sample_weight` can be fitted on them.

        Returns
        -------
        WeightedRows
            A named tuple (X, y, sample_weight, X_shift, y_shift).

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.linear_model import Ridge
        >>> from chita_sklearn import Moments
        >>> X = np.random.default_rng(0).standard_normal((1000, 3)) + 5
        >>> few = Moments().update(X, X @ [1.0, 2.0, 3.0]).rows()
        >>> few.X.shape
        (5, 3)
        >>> Ridge(alpha=1e-9).fit(few.X, few.y, few.sample_weight).coef_.round(6)
        array([1., 2., 3.])
        """
        self._check_rows()
        R, p = self._R, self.n_features_in_
        m = len(R)
        # The reflection that takes the first unit vector to 1 / sqrt(m): the column of
        # ones becomes constant, R'R stays.
        v = np.full(m, -1 / math.sqrt(m))
        v[0] += 1.0
        size = float(v @ v)
        if size > 0:
            R = R - np.outer(v, (2 / size) * (v @ R))
        weight = self.weight_ / m
        rows = R[:, 1:] / math.sqrt(weight)
        one = self.n_targets_ is None
        y, shift = rows[:, p:], self._shift[p:]
        return WeightedRows(
            rows[:, :p],
            y[:, 0] if one else y,
            np.full(m, weight),
            self._shift[:p].copy(),
            float(shift[0]) if one else shift.copy(),
        )

    def mean_squared_error(self, coef: Any, intercept: Any = 0.0) -> Any:
        """Return the weighted mean of (y - X coef - intercept)^2 over all rows seen.

        Parameters
        ----------
        coef : array-like of shape (n_features,) or (n_targets, n_features)
            Coefficients.

        intercept : float or array-like of shape (n_targets,), default=0.0
            Intercept.

        Returns
        -------
        float or ndarray of shape (n_targets,)
            The error; exact but for rounding. O((p + t)^2) for each target.
        """
        self._check_rows()
        p = self.n_features_in_
        coef = np.asarray(coef, dtype=np.float64)
        shape = (p,) if self.n_targets_ is None else (self.n_targets_, p)
        if coef.shape != shape:
            msg = (
                f"coef has shape {coef.shape}; it must be {shape}. Pass the `coef_` of "
                "an estimator that was fitted on such rows."
            )
            raise ValueError(msg)
        W = np.atleast_2d(coef).T
        constants = np.broadcast_to(np.asarray(intercept, np.float64), W.shape[1])
        residual = self._R[:, 1 + p :] - self._R[:, 1 : 1 + p] @ W
        residual[0] += self._R[0, 0] * (
            self._shift[p:] - self._shift[:p] @ W - constants
        )
        errors = np.sum(residual**2, axis=0) / self.weight_
        return float(errors[0]) if self.n_targets_ is None else errors

    def r2_score(self, coef: Any, intercept: Any = 0.0) -> Any:
        """Return 1 less the mean squared error over the variance of y.

        Parameters
        ----------
        coef : array-like of shape (n_features,) or (n_targets, n_features)
            Coefficients.

        intercept : float or array-like of shape (n_targets,), default=0.0
            Intercept.

        Returns
        -------
        float or ndarray of shape (n_targets,)
            R squared. For a constant y as in :func:`sklearn.metrics.r2_score`: 1 for a
            perfect fit, else 0.
        """
        error = np.asarray(self.mean_squared_error(coef, intercept))
        p = self.n_features_in_
        variance = np.sum(self._R[1:, 1 + p :] ** 2, axis=0) / self.weight_
        variance = np.reshape(variance, error.shape)
        constant = np.where(error == 0, 1.0, 0.0)
        score = np.where(
            variance > 0, 1 - error / np.where(variance > 0, variance, 1.0), constant
        )
        return float(score) if self.n_targets_ is None else score

    def problem(self, target: int = 0, **options: Any) -> Factored:
        """Return the core's problem of one target.

        Parameters
        ----------
        target : int, default=0
            Which target.

        **options : dict
            `ridge`, `prior`, `fit_intercept`, `standardize` and `signs`; see
            :class:`chita_sklearn.core.LeastSquares`.

        Returns
        -------
        chita_sklearn.core.Factored
            To be given to :func:`chita_sklearn.core.solve`.
        """
        self._check_rows()
        p, R = self.n_features_in_, self._R
        one = np.zeros((p + 2, p + 2))
        one[: p + 1, : p + 1] = R[: p + 1, : p + 1]
        one[: p + 1, -1] = R[: p + 1, p + 1 + target]
        one[-1, -1] = np.linalg.norm(R[p + 1 :, p + 1 + target])
        kept = [*range(p), p + target]
        return Factored(
            one,
            shift=self._shift[kept],
            n=self.weight_,
            off=self._off[kept],
            dtype=self.dtype,
            **options,
        )

    def like(self) -> tuple[np.ndarray, np.ndarray]:
        """Return an X and a y without rows, of the shapes and types of those seen.

        Returns
        -------
        X : ndarray of shape (0, n_features)
            In `dtype`.
        y : ndarray of shape (0,) or (0, n_targets)
            In float64.
        """
        self._check_rows()
        targets = () if self.n_targets_ is None else (self.n_targets_,)
        return np.empty((0, self.n_features_in_), self.dtype), np.empty((0, *targets))

    def check_one_target(self) -> None:
        """Raise for a two-dimensional y, where one target is needed."""
        self._check_rows()
        if self.n_targets_ is not None:
            msg = (
                f"y has {_targets(self.n_targets_)}; one target is needed here. Sum "
                "with y[:, t], for each target t of interest."
            )
            raise ValueError(msg)

    def _check_rows(self) -> None:
        if not self.n_samples_:
            msg = (
                "These Moments have seen no rows of positive weight. Call "
                "update(X, y) first."
            )
            raise ValueError(msg)

    def _compare(self, n_features: int, n_targets: int | None) -> None:
        """Raise for features or targets other than those seen."""
        if n_features != self.n_features_in_:
            msg = (
                f"X has {n_features} features, but these Moments are of "
                f"{self.n_features_in_}. Pass the same columns each time."
            )
            raise ValueError(msg)
        if n_targets != self.n_targets_:
            msg = (
                f"y has {_targets(n_targets)}, but these Moments are of "
                f"{_targets(self.n_targets_)}. Pass the same targets each time."
            )
            raise ValueError(msg)

    def _checked(
        self, X: Any, y: Any, sample_weight: Any
    ) -> tuple[Any, np.ndarray, np.ndarray | None, Any]:
        """Rows that can be summed, in the order of columns of those before them."""
        refuse_dask("Moments.update", X=X, y=y, sample_weight=sample_weight)
        names = _get_feature_names(X)
        _refuse_other_than_numbers(X)
        if self.n_samples_:
            X, names = self._in_order(X, names)
        options = {"ensure_all_finite": False, "ensure_min_samples": 0}
        X = check_array(
            X, accept_sparse="csr", dtype=[np.float64, np.float32], **options
        )
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", **options)
        if len(y) != X.shape[0]:
            msg = (
                f"X has {X.shape[0]} rows and y has {len(y)}. Pass one target value, "
                "or one row of them, for each row of X."
            )
            raise ValueError(msg)
        if self.n_samples_:
            self._compare(int(X.shape[1]), None if y.ndim == 1 else int(y.shape[1]))
        _check_size(1 + int(X.shape[1]) + (1 if y.ndim == 1 else int(y.shape[1])))
        if sample_weight is not None and len(y):
            if not np.any(sample_weight):
                return X[:0], y[:0], None, names
            sample_weight = checked_weights(sample_weight, X, np)
        return X, y, sample_weight, names

    def _in_order(self, X: Any, names: Any) -> tuple[Any, Any]:
        """X with its columns in the order of the names seen before."""
        seen = getattr(self, "feature_names_in_", None)
        if _same(seen, names):
            return X, names
        if seen is None or names is None or set(seen) != set(names):
            msg = (
                "X has other feature names than the rows before it: "
                f"{_first_difference(seen, names)}. Pass the same columns each time."
            )
            raise ValueError(msg)
        return X[list(seen)], seen

    def _merged(self, other: Moments) -> Moments:
        found = Moments()
        if not (self.n_samples_ and other.n_samples_):
            vars(found).update(vars(self if self.n_samples_ else other))
            return found
        vars(found).update(vars(self))
        R, more = (np.array(m._R, order="F") for m in (self, other))
        more[0, 1:] += more[0, 0] * (other._shift - self._shift)
        R = joined_factors(R, more)
        length = np.linalg.norm(R[:, 1:], axis=0)
        # To the new mean. What the shift is rounded by stays in the first row.
        shift = self._shift + R[0, 1:] / R[0, 0]
        R[0, 1:] -= R[0, 0] * (shift - self._shift)
        found._R, found._shift = R, shift
        own = 4 * len(R) ** 2 * EPS
        found._off = np.hypot(self._off, other._off) + own * length
        found.n_samples_ = self.n_samples_ + other.n_samples_
        found.weight_ = self.weight_ + other.weight_
        found.dtype = np.result_type(self.dtype, other.dtype)
        return found

    _R: np.ndarray
    _shift: np.ndarray
    _off: np.ndarray


def checked_moments(given: Any) -> None:
    """Raise for what are no moments of any rows."""
    if not isinstance(given, Moments):
        msg = (
            f"fit_moments takes Moments. Got {type(given).__name__} instead. Pass "
            "chita_sklearn.moments(X, y), or Moments().update(X, y)."
        )
        raise TypeError(msg)
    given.like()


def _of_rows(X: Any, y: np.ndarray, sample_weight: Any, names: Any) -> Moments:
    """The moments of one chunk."""
    found = Moments()
    live = None if sample_weight is None else np.flatnonzero(sample_weight > 0)
    n = X.shape[0] if live is None else len(live)
    if not n:
        return found
    p, Y = int(X.shape[1]), y[:, None] if y.ndim == 1 else y
    size = 1 + p + Y.shape[1]

    def block(i: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        here = slice(i, min(stop, n)) if live is None else live[i:stop]
        rows = X[here].toarray() if scipy.sparse.issparse(X) else X[here]
        return rows, Y[here], None if sample_weight is None else sample_weight[here]

    R, shift, loss = _factor_of(block, n, p, size)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(R, axis=0)
    if not np.isfinite(length).all():
        _refuse_not_finite(length, p)
    found._R, found._shift = R, shift
    # Householder's reflections (Higham, section 19.3): each adds the rounding of a sum
    # over the rows to each column; a Gram matrix that over sigma_min (section 10.1).
    own = 2 * (n + size) * size * EPS * loss
    found._off = own * length[1:]
    found.n_samples_ = n
    found.weight_ = float(n if sample_weight is None else np.sum(sample_weight))
    found.n_features_in_ = p
    found.n_targets_ = None if y.ndim == 1 else int(y.shape[1])
    found.dtype = np.dtype(X.dtype)
    if names is not None:
        found.feature_names_in_ = names
    return found


@np.errstate(invalid="ignore", over="ignore")  # what is not finite shows in R
def _factor_of(
    block: Callable[[int, int], Any], n: int, p: int, size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Triangular factor of n weighted rows [1, x - c, y - d], and the shift (c, d).

    And by how much its rounding is larger than that of reflections.
    """
    rows, targets, _ = block(0, PILOT)
    # From the first row on, so that a constant column's mean is its value exactly.
    shift = np.concatenate(
        [
            first[0] + np.mean(np.subtract(first, first[0], dtype=np.float64), axis=0)
            for first in (rows, targets)
        ]
    )

    def centred(start: int, stop: int, room: np.ndarray) -> np.ndarray:
        rows, targets, weights = block(start, stop)
        new = room[: len(rows)]
        new[:, 0] = 1.0
        np.subtract(rows, shift[:p], out=new[:, 1 : 1 + p])
        np.subtract(targets, shift[p:], out=new[:, 1 + p :])
        if weights is not None:
            new *= np.sqrt(weights)[:, None]
        return new

    step = min(rows_at_a_time(size), n)
    R = _reflected(np.zeros((size, size), order="F"), centred, 0, step, step)
    if n >= 2 * step and _condition(R) <= 2 * SAFE:
        more = _root(_products(size, centred, step, n, step))
        condition = _condition(more)
        if condition <= SAFE:
            return joined_factors(R, more), shift, max(condition, 1.0)
    return _reflected(R, centred, step, n, step), shift, 1.0


def _reflected(
    R: np.ndarray, centred: Callable[..., np.ndarray], start: int, stop: int, step: int
) -> np.ndarray:
    """R with more rows, by reflections: exact whatever depends on what."""
    for i in range(start, stop, step):
        # (Its columns are contiguous.)
        room = np.empty((R.shape[0], min(step, stop - i))).T
        R = joined(R, centred(i, min(i + step, stop), room))
    return R


def _products(
    size: int, centred: Callable[..., np.ndarray], start: int, stop: int, step: int
) -> np.ndarray:
    """The upper triangle of the Gram matrix of rows."""
    G, room = np.zeros((size, size)), np.empty((step, size))
    for i in range(start, stop, step):
        add_outer(G, centred(i, min(i + step, stop), room).T)
    return G


def _root(G: np.ndarray) -> np.ndarray:
    """Cholesky factor R of a Gram matrix, which it overwrites; NaN where it has none.

    Columns of zeros are those of R too.
    """
    idle = np.flatnonzero(np.diagonal(G) == 0)
    G[idle, idle] = 1.0
    R, info = dpotrf(G.T, lower=True, clean=True, overwrite_a=True)
    if info:
        return np.full_like(G, np.nan)
    R = np.asfortranarray(R.T)
    R[idle, idle] = 0.0
    return R


def _condition(R: np.ndarray) -> float:
    """A bound on 1 / sigma_min of R with its columns scaled to length 1; inf, nan."""
    length = np.linalg.norm(R, axis=0)
    idle = length == 0
    scaled = R / np.where(idle, 1.0, length)
    scaled[idle, idle] = 1.0
    inverse, info = dtrtri(np.asfortranarray(scaled), overwrite_c=True)
    if info:
        return math.inf
    norms = (np.linalg.norm(inverse, order) for order in (1, np.inf))
    return math.sqrt(math.prod(norms))


def _factor_of_gram(
    gram: np.ndarray, raw: np.ndarray, p: int, eps: float
) -> np.ndarray:
    """Upper triangular R with R'R = gram, or an error where rounding has eaten it."""
    h = np.diagonal(gram).copy()
    spread = h[:p] / np.where(raw[:p] > 0, raw[:p], 1.0)
    worst = int(np.argmin(spread)) if p else 0
    loss, why = math.inf, f"column {worst} is constant, or nearly beside its mean"
    if not p or spread[worst] > len(h) * eps:
        scale = 1 / np.sqrt(h[:p])
        smallest = 1.0
        if p:
            scaled = gram[:p, :p] * scale * scale[:, None]
            smallest = float(scipy.linalg.eigvalsh(scaled, subset_by_index=(0, 0))[0])
        loss = eps / max(smallest, eps * len(h)) / (spread[worst] if p else 1.0)
        why = "columns nearly depend on each other, or their means dwarf their spread"
    if not loss <= GRAM_LOSS:
        msg = (
            f"XtX is too ill-conditioned: {why}, and rounding in its sums may change "
            f"coefficients by {loss:.1g} of their size; at most {GRAM_LOSS:g} is "
            "accepted. Sum the rows with Moments.update instead, which keeps twice the "
            "digits, or leave columns out."
        )
        raise ValueError(msg)
    R = np.zeros_like(gram)
    R[:p, :p] = scipy.linalg.cholesky(scaled) / scale if p else 0.0
    R[:p, p:] = scipy.linalg.solve_triangular(R[:p, :p], gram[:p, p:], trans="T")
    left = gram[p:, p:] - R[:p, p:].T @ R[:p, p:]
    E, Q = np.linalg.eigh(left)
    reach = float(np.max(np.diagonal(gram)[p:], initial=0.0))
    if E[0] < -1e-6 * reach:
        msg = (
            "XtX, Xty and yty are not sums over the same rows: y'y is less than what X "
            "explains of it. Pass sums of the same rows and weights, not centred, with "
            "the means."
        )
        raise ValueError(msg)
    R[p:, p:] = np.linalg.qr((Q * np.sqrt(np.maximum(E, 0.0))).T, mode="r")
    return R


def _check_size(size: int) -> None:
    """Refuse a factor too large to hold, before anything is allocated."""
    if 8 * size**2 > LARGEST:
        msg = (
            f"The moments of {size - 1} columns would take {8 * size**2 / 2**30:.1f} "
            f"GiB; at most {LARGEST / 2**30:.0f} GiB are accepted, some 23,000 "
            "columns. Leave columns out, or fit the rows themselves: "
            "ChitaRegressor.fit forms no matrix of all columns."
        )
        raise ValueError(msg)


def _refuse_not_finite(length: np.ndarray, p: int) -> None:
    # NaN spreads to the right in R, never to the left.
    bad = int(np.flatnonzero(~np.isfinite(length))[0])
    where = f"column {bad - 1} of X" if bad <= p else "y"
    msg = (
        f"{where} contains NaN or infinity, or numbers whose squares are too large for "
        "a float. Leave such rows out, or fill them in before they are summed."
    )
    raise ValueError(msg)


def _refuse_other_than_numbers(X: Any) -> None:
    """Refuse columns of a data frame that are no numbers, by name."""
    if not (hasattr(X, "dtypes") and hasattr(X, "columns")):
        return
    bad = [
        f"{name} ({dtype})"
        for name, dtype in zip(X.columns, X.dtypes, strict=True)
        if getattr(dtype, "kind", "O") not in "biuf"
    ]
    if bad:
        msg = (
            f"X has columns that are no numbers: {', '.join(bad)}. Encode them, for "
            "example with sklearn.preprocessing.OneHotEncoder, or leave them out."
        )
        raise TypeError(msg)


def _same(mine: Any, theirs: Any) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return bool(np.array_equal(mine, theirs))


def _first_difference(mine: Any, theirs: Any) -> str:
    if mine is None or theirs is None:
        return "one has names, the other has none"
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            return f"{b!r} where {a!r} was"
    return f"{len(theirs)} names instead of {len(mine)}"


def _targets(n_targets: int | None) -> str:
    return "one dimension" if n_targets is None else f"{n_targets} columns"


def moments(
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    folds: Any = None,
    n_jobs: int | None = None,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> Any:
    """Return the moments of an array by chunks of rows; one pass.

    For arrays that do not fit in memory (``numpy.load(path, mmap_mode="r")``): a chunk
    at a time is read, and dropped. The chunks are merged in their order, so the answer
    does not depend on `n_jobs`.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The rows. A sparse matrix should be CSR; others are converted.

    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Target values.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights, at least 0.

    folds : int, array-like of int of shape (n_samples,) or None, default=None
        None for all rows together. An int for so many folds of neighbouring rows, the
        same as those of ``ChitaRegressorCV(cv=folds)``; or the number of each row's
        fold. What has to stay together (a patient, a day) belongs in one fold.

    n_jobs : int or None, default=None
        How many processes to work on chunks at a time. None is 1, -1 all processors.

    chunk_rows : int or None, default=None
        Rows in a chunk. None is about two million numbers of X.

    progress : bool, default=False
        Whether to show a bar. Needs tqdm, which the extra `progress` brings.

    Returns
    -------
    Moments, or list of Moments
        One for each fold if `folds` is given.

    Raises
    ------
    ValueError
        For what :meth:`Moments.update` refuses, with the rows in question; `folds` that
        are no folds.

    See Also
    --------
    ChitaRegressor.fit_moments : Solve.
    ChitaRegressorCV.fit_moments : Choose k and ridge, from one object a fold.

    Notes
    -----
    O(n p^2 / n_jobs) time; memory: a chunk and a few factors of 8 (p + 2)^2 bytes, for
    each process, and one factor for each fold.

    Examples
    --------
    >>> import numpy as np
    >>> from chita_sklearn import ChitaRegressorCV, moments
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1000, 20))
    >>> y = 3 * X[:, 4] - 2 * X[:, 11] + rng.standard_normal(1000)
    >>> folds = moments(X, y, folds=5)
    >>> model = ChitaRegressorCV(4, selection="one_se").fit_moments(folds)
    >>> model.support_
    array([ 4, 11])
    """
    X = X.tocsr() if scipy.sparse.issparse(X) else X
    if not hasattr(X, "shape"):
        X = check_array(X, accept_sparse="csr", ensure_all_finite=False)
    n = int(X.shape[0])
    y, sample_weight = (
        a if hasattr(a, "shape") else np.asarray(a) for a in (y, sample_weight)
    )
    given = (
        {"y": y}
        if sample_weight.ndim == 0
        else {"y": y, "sample_weight": sample_weight}
    )
    for name, value in given.items():
        if not value.ndim or value.shape[0] != n:
            msg = (
                f"X has {n} rows and {name} has shape {value.shape}. Pass one entry "
                "for each row of X."
            )
            raise ValueError(msg)
    labels, n_folds = _folds(folds, n)
    if chunk_rows is None:
        p = max(int(X.shape[1]), 1)
        chunk_rows = max(CHUNK // p, CHUNK_ROWS * (p + 2))
    by_label = folds is not None and np.ndim(folds) == 1
    pieces = list(_pieces(labels, n, int(chunk_rows), by_label))
    weights = sample_weight if "sample_weight" in given else None
    jobs = (
        delayed(_piece)(
            *(None if a is None else _safe_indexing(a, rows) for a in (X, y, weights)),
            rows,
        )
        for _, rows in pieces
    )
    found = [Moments() for _ in range(n_folds)]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    for (fold, _), part in zip(
        pieces, _shown(results, len(pieces), progress), strict=True
    ):
        found[fold] = found[fold].merge(part)
        for array in (X, y, sample_weight):
            _release(array)
    for fold, seen in enumerate(found):
        if not seen.n_samples_:
            where = "The data have" if folds is None else f"Fold {fold} has"
            msg = f"{where} no rows of positive weight. Pass some, or fewer folds."
            raise ValueError(msg)
    return found[0] if folds is None else found


def _folds(folds: Any, n: int) -> tuple[np.ndarray, int]:
    """Where folds of neighbouring rows end, or each row's fold; and their number."""
    if folds is None:
        return np.asarray([0, n]), 1
    if isinstance(folds, Integral) and not isinstance(folds, bool):
        count = int(folds)
        if not 2 <= count <= n:
            msg = f"folds={folds!r}; it must be in [2, {n}], the number of rows."
            raise ValueError(msg)
        sizes = np.full(count, n // count)
        sizes[: n % count] += 1
        return np.append(0, np.cumsum(sizes)), count
    labels = np.asarray(folds)
    whole = labels.shape == (n,) and labels.dtype.kind in "iu"
    if not whole or (n and labels.min() < 0):
        msg = (
            f"folds must be a number of folds, or {n} ints of at least 0: the fold of "
            f"each row. Got {folds!r}."
        )
        raise ValueError(msg)
    return labels, int(labels.max()) + 1


def _pieces(
    folds: np.ndarray, n: int, chunk_rows: int, by_label: bool
) -> Iterator[tuple[int, Any]]:
    """(fold, rows) of each chunk: a slice, or indices where folds are mixed."""
    if not by_label:
        for fold, (start, stop) in enumerate(pairwise(folds.tolist())):
            for i in range(start, stop, chunk_rows):
                yield fold, slice(i, min(i + chunk_rows, stop))
        return
    for i in range(0, n, chunk_rows):
        here = folds[i : i + chunk_rows]
        for fold in np.unique(here):
            yield int(fold), i + np.flatnonzero(here == fold)


def _piece(X: Any, y: Any, sample_weight: Any, rows: Any) -> Moments:
    try:
        return Moments().update(X, y, sample_weight)
    except (TypeError, ValueError) as error:
        indices = range(rows.stop)[rows] if isinstance(rows, slice) else rows
        where = f"rows {indices[0]} to {indices[-1]}: " if len(indices) else ""
        msg = f"{where}{error}"
        raise type(error)(msg) from error


def _shown(results: Any, total: int, progress: bool) -> Any:
    if not progress:
        return results
    try:
        from tqdm import tqdm
    except ImportError:
        msg = (
            "progress=True needs tqdm. Run: pip install 'chita-sklearn[progress]', "
            "or pass progress=False."
        )
        raise ImportError(msg) from None
    return tqdm(results, total=total, desc="moments", unit="chunk")


def _release(X: Any) -> None:
    """Give the pages of a memory map that have been read back to the system."""
    # They are read from the file again if need be; copies on write would be lost.
    if isinstance(X, np.memmap) and X.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapped = getattr(X, "_mmap", None)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)
