"""What users pass, resolved and checked; each error ends with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_array

from ._compat import (
    InvalidParameterError,
    Number,
    StrOptions,
    check_weights,
    float_dtypes,
    follow,
    get_namespace_and_device,
    refuse_device_arrays,
    validate_parameter_constraints,
)
from .core import SOLVERS
from .core.arrays import array_namespace, device, to_host

Array = Any  # the array API has no settled static type

# What the estimators and `chita_path` take alike.
CONSTRAINTS: dict[str, list[Any]] = {
    "ridge": [Number(Real, 0, None, closed="left")],
    "coef_prior": ["array-like", None],
    "fit_intercept": ["boolean"],
    "standardize": ["boolean"],
    "always_include": ["array-like", None],
    "positive": ["boolean", "array-like"],
    "groups": ["array-like", None],
    "target_support": [StrOptions({"separate", "shared", "pooled"})],
    "solver": [StrOptions(set(SOLVERS))],
    "n_restarts": [Number(Integral, 0, None, closed="left")],
    "max_iter": [Number(Integral, 1, None, closed="left")],
    "tol": [Number(Real, 0, None, closed="left")],
    "time_limit": [Number(Real, 0, None, closed="neither"), None],
    "random_state": ["random_state"],
}

# What to do about a bad value, after scikit-learn has named parameter, range and value.
REMEDIES = {
    "k": "Pass the number of features as an int (0 is the intercept alone), a share of "
    "them as a float (0.1 keeps 10 %), or None for 10 %.",
    "ridge": "Pass a finite non-negative number; 0 turns the ridge term off.",
    "coef_prior": "Pass one number per feature, or None for zeros.",
    "fit_intercept": "Pass True, or False where X and y are centred already.",
    "standardize": "Pass True, or False for a ridge in the units of the columns.",
    "always_include": "Pass a list of names or indices of features, or None for none.",
    "positive": "Pass True, False, or a sign (-1, 0 or 1) for each feature.",
    "groups": "Pass a label for each feature, or None.",
    "target_support": "Pass 'shared' for the same features of all targets.",
    "solver": "Pass 'auto' unless a certain algorithm is wanted.",
    "n_restarts": "Pass the number of restarts; 0 turns them off.",
    "max_iter": "Pass the largest number of iterations of one descent.",
    "tol": "Pass a finite non-negative number; 0 asks for a complete proof.",
    "time_limit": "Pass seconds, more than 0, or None for no limit.",
    "n_solutions": "Pass how many supports to list, 1 for the answer alone.",
    "warm_start": "Pass True or False.",
    "random_state": "Pass an int for the same answer at each call.",
}


def check_parameters(
    given: dict[str, Any],
    constraints: dict[str, list[Any]],
    caller: str,
    remedies: dict[str, str] = REMEDIES,
) -> None:
    """Raise where a parameter is out of range; each error ends with a remedy."""
    for name, value in given.items():
        try:
            validate_parameter_constraints(constraints, {name: value}, caller)
        except InvalidParameterError as error:
            msg = f"{error} {remedies.get(name, '')}".rstrip()
            raise InvalidParameterError(msg) from None


def checked_data(
    X: Any,
    y: Any,
    sample_weight: Any,
    coef_prior: Any,
    *,
    caller: str,
    check: Callable[..., tuple[Any, Array]],
) -> tuple[Any, Array, Array | None, Any]:
    """Bring the data to X's array library and device; raise if they are unfit.

    `check` is scikit-learn's own: `check_X_y`, or `validate_data` of an estimator.
    Returns X, y, the weights and the namespace.
    """
    refuse_dask(caller, X=X, y=y, sample_weight=sample_weight)
    refuse_masked(X=X, y=y, sample_weight=sample_weight)
    refuse_device_arrays(
        caller, X=X, y=y, sample_weight=sample_weight, coef_prior=coef_prior
    )
    if scipy.sparse.issparse(y):
        msg = "y is sparse; a dense array is needed. Pass y.toarray()."
        raise TypeError(msg)
    xp, _, device = get_namespace_and_device(X)
    y, sample_weight = (follow(a, xp, device) for a in (y, sample_weight))
    X, y = check(
        X,
        y,
        accept_sparse="csc",
        dtype=float_dtypes(xp, device),
        multi_output=True,
        y_numeric=True,
    )
    # Neither y nor the weights are rounded to a float32 X: the core computes in
    # float64, and only what it returns is of X's dtype.
    return X, y, checked_weights(sample_weight, X, xp), xp


def checked_targets(y: Array, target_support: str) -> Array:
    """Return y of one target as a vector; several are to be solved as one problem."""
    if y.ndim == 2 and y.shape[1] > 1:
        if target_support != "separate":
            return y
        msg = (
            f"y has {y.shape[1]} targets, and one k for each is not chosen at once. "
            "Pass target_support='shared' for the same features of all, or fit one "
            "column of y at a time."
        )
        raise ValueError(msg)
    return column_or_1d(y, warn=True)


def refuse_dask(caller: str, **arrays: Any) -> None:
    """Raise TypeError for dask collections, which NumPy would silently compute here."""
    for name, array in arrays.items():
        if hasattr(array, "__dask_graph__"):
            msg = (
                f"{name} is a dask collection, all of which {caller} would pull into "
                "this process. Use chita_dask.DaskChitaRegressor, which leaves the "
                f"rows where they are, or pass {name}.compute() if it fits in memory."
            )
            raise TypeError(msg)


def refuse_masked(**arrays: Any) -> None:
    """Raise ValueError for masked entries, whose values NumPy would go on to use."""
    for name, array in arrays.items():
        if np.ma.is_masked(array):
            msg = (
                f"{name} is a masked array with {np.ma.count_masked(array)} masked "
                f"entries, which are missing values. Pass {name}.filled(numpy.nan) to "
                "an imputer first, such as sklearn.impute.SimpleImputer, or leave "
                "those samples out."
            )
            raise ValueError(msg)


def resolved_k(k: int | float | None, n_features: int) -> int:
    """`k` as a number of features, at most all of them; a share is at least 1."""
    if k is None:
        k = 0.1
    if not isinstance(k, Integral):
        k = max(round(float(k) * n_features), 1)
    return min(int(k), n_features)


def resolved_ks(ks: Any, n_features: int, first: int = 1) -> list[int]:
    """Return `ks` as distinct numbers of features, ascending, at most all of them.

    An int k stands for `first`, ..., k.
    """
    remedy = f"Pass an int (k stands for {first}, ..., k) or a list of ints, 0 or more."
    given = range(first, min(int(ks), n_features) + 1) if _is_count(ks) else ks
    if np.ndim(given) != 1 or isinstance(given, str) or not len(given):
        msg = f"ks must be an int in [1, inf) or a list of them. Got {ks!r} instead. "
        raise ValueError(msg + remedy)
    values = given if isinstance(given, range) else list(given)
    for value in values:
        if not _is_count(value, least=0):
            msg = f"ks must hold ints in [0, inf). Got {value!r} among them. "
            raise ValueError(msg + remedy)
    return sorted({min(int(value), n_features) for value in values})


def _is_count(value: Any, least: int = 1) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and int(value) >= least


def resolved_ridges(ridges: Any) -> list[float]:
    """Return `ridges` as distinct numbers, ascending."""
    values = [ridges] if np.ndim(ridges) == 0 else list(ridges)
    for value in values:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not (number and 0 <= value < np.inf):
            msg = f"ridges must hold numbers in [0, inf). Got {value!r} among them."
            raise ValueError(msg)
    if not values:
        msg = "ridges is empty. Pass at least one number in [0, inf)."
        raise ValueError(msg)
    return sorted({float(value) for value in values})


def resolved_seed(random_state: Any) -> int:
    """Return an int for all fits: the given one, or one drawn from the generator."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def checked_weights(sample_weight: Any, X: Any, xp: Any) -> Array | None:
    """Sample weights: finite, non-negative, not all zero; None stays."""
    if sample_weight is None:
        return None
    sample_weight = check_weights(sample_weight, X)
    least, largest = float(xp.min(sample_weight)), float(xp.max(sample_weight))
    if least < 0:
        msg = (
            f"sample_weight has a negative entry, {least:g}. Weights must be in "
            "[0, inf); 0 leaves a sample out."
        )
        raise ValueError(msg)
    if largest == 0:
        msg = (
            "The entries of sample_weight are all zero, so no sample is left to fit; "
            "at least one must be in (0, inf). Pass sample_weight=None to weigh all "
            "samples equally."
        )
        raise ValueError(msg)
    return sample_weight


def checked_cv(cv: Any) -> Any:
    """Return the splitter that `cv` stands for; raise for folds that are no pairs."""
    if isinstance(cv, Iterable) and not hasattr(cv, "split"):
        cv = list(cv)
        for number, pair in enumerate(cv):
            if not hasattr(pair, "__len__") or len(pair) != 2:
                msg = (
                    f"Fold {number} of cv is {pair!r}, not a pair. Pass pairs "
                    "(train, test) of indices, or PredefinedSplit(folds) for the fold "
                    "of each sample."
                )
                raise ValueError(msg)
    return check_cv(cv)


def checked_folds(splits: Iterable[Any], n_samples: int) -> list[tuple[Any, Any]]:
    """What a splitter gives, as pairs of indices; raise where that is no use."""
    folds: list[tuple[Any, Any]] = []
    remedy = f"Pass pairs (train, test) of indices in [0, {n_samples}) as cv."
    for number, pair in enumerate(splits):
        parts = []
        for name, part in zip(("training", "test"), pair, strict=True):
            rows = np.asarray(part)
            where = f"The {name} part of fold {number}"
            if rows.dtype == bool:
                if rows.shape != (n_samples,):
                    msg = (
                        f"{where} is a mask of shape {rows.shape}; there are "
                        f"{n_samples} samples. {remedy}"
                    )
                    raise ValueError(msg)
                rows = np.flatnonzero(rows)
            if rows.size == 0:
                msg = f"{where} is empty. Pass fewer folds, or others, as cv."
                raise ValueError(msg)
            least, most = rows.min(), rows.max()
            if rows.dtype.kind not in "iu" or most >= n_samples or least < -n_samples:
                msg = f"{where} holds {least} to {most}. {remedy}"
                raise ValueError(msg)
            parts.append(rows)
        folds.append((parts[0], parts[1]))
    if not folds:
        msg = (
            "cv gives no folds: it is empty, or a generator that an earlier fit has "
            f"used up. {remedy} A list of them can be used again."
        )
        raise ValueError(msg)
    return folds


def taken_rows(a: Any, index: Any) -> Any:
    """Rows of an array or a sparse matrix, copied; None stays."""
    if a is None:
        return None
    index = np.asarray(index)
    if index.dtype == np.bool_:
        index = np.flatnonzero(index)
    if scipy.sparse.issparse(a):
        return a[index]
    xp = array_namespace(a)
    return xp.take(a, xp.asarray(index, device=device(a)), axis=0)


def present(
    X: Any, y: Array, sample_weight: Array | None
) -> tuple[Any, Array, Array | None]:
    """Leave samples of weight 0 out where they could move the answer.

    That is, by more than rounding: where the samples left are no more than the
    features, so that many coefficients fit as well, and which of them a factorisation
    returns depends on its size. Elsewhere nothing is copied.
    """
    if sample_weight is None:
        return X, y, None
    live = to_host(sample_weight > 0)
    if live.all() or live.sum() > X.shape[1]:
        return X, y, sample_weight
    return taken_rows(X, live), taken_rows(y, live), taken_rows(sample_weight, live)


def checked_priors(prior: Any, X: Any, y: Array, xp: Any) -> list[Array | None]:
    """`coef_prior` for each target: a vector in X's dtype, or None."""
    n_features, n_targets = int(X.shape[1]), 1 if y.ndim == 1 else int(y.shape[1])
    if prior is None:
        return [None] * n_targets
    if isinstance(prior, Mapping):
        msg = (
            "coef_prior is a mapping, and features go by their places. Pass one number "
            f"for each of the {n_features} features of X, in their order."
        )
        raise TypeError(msg)
    _, _, device = get_namespace_and_device(X)
    prior = check_array(
        follow(prior, xp, device),
        dtype=X.dtype,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=0,
        ensure_min_features=0,
        input_name="coef_prior",
    )
    shapes: list[tuple[int, ...]] = [(n_features,)]
    if y.ndim == 2:
        shapes.append((n_targets, n_features))
    if tuple(prior.shape) not in shapes:
        msg = (
            f"coef_prior has shape {tuple(prior.shape)}; it must be "
            f"{' or '.join(map(str, shapes))}. Pass one number for each of the "
            f"{n_features} features of X, or None for zeros."
        )
        raise ValueError(msg)
    if not bool(xp.all(xp.isfinite(prior))):
        msg = (
            "coef_prior contains NaN or infinity; its entries must be finite. Use 0 "
            "where no prior value is known."
        )
        raise ValueError(msg)
    return [prior if prior.ndim == 1 else prior[t, :] for t in range(n_targets)]


def usable_starts(previous: Array | None, X: Any, y: Array) -> list[Array | None]:
    """Coefficients of the previous fit, one per target, where they suit this one."""
    n_targets = 1 if y.ndim == 1 else int(y.shape[1])
    shape = (int(X.shape[1]),) if y.ndim == 1 else (n_targets, int(X.shape[1]))
    # y stands for X, which has no device where it is sparse. Types are compared as
    # well: without dispatch every namespace and device reads as NumPy's.
    suits = (
        previous is not None
        and tuple(previous.shape) == shape
        and isinstance(previous, np.ndarray) == isinstance(y, np.ndarray)
        and get_namespace_and_device(previous) == get_namespace_and_device(y)
        and previous.dtype == X.dtype
    )
    if previous is None or not suits:
        return [None] * n_targets
    return [previous if y.ndim == 1 else previous[t, :] for t in range(n_targets)]
