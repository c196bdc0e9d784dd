"""`chita_path`: the best fits with k features for many k, each helping its neighbours.

Validates, hands arrays to `core.solve_path`, and states the result in units of F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_X_y

from ._compat import _get_feature_names, on_host
from ._constraints import resolved_constraints
from ._fitted import values_of
from ._moments import Moments
from ._reporting import at_k, warn_of, warn_of_perfect_fits, warn_of_units
from ._typing import Array, Solver, TargetSupport
from ._validation import (
    CONSTRAINTS,
    check_parameters,
    checked_data,
    checked_priors,
    checked_targets,
    present,
    resolved_ks,
    resolved_seed,
)
from .core import (
    LeastSquares,
    SeveralTargets,
    Solution,
    Status,
    degrees_of_freedom,
    least_squares,
    residual_sum_of_squares,
    solve_path,
    sweep_path,
)
from .core.arrays import indices
from .core.certificate import in_words

__all__ = ["ChitaPath", "chita_path"]


@dataclass(frozen=True, repr=False)
class ChitaPath:
    """Fits with k features for many k: what :func:`chita_path` returns.

    Coefficients, intercepts and supports have the array library and device of X, and
    the first two its dtype; statistics are NumPy arrays.

    Parameters
    ----------
    ks : ndarray of int, shape (n_ks,)
        Numbers of features, ascending and distinct, at most `n_features`.

    ridge : float
        The ridge of all fits.

    coefs : array of shape ([n_targets,] n_features, n_ks)
        Coefficients, a column for each k.

    intercepts : array of shape ([n_targets,] n_ks)
        Intercepts.

    supports : tuple of arrays of int, or of lists of them
        Indices of the non-zero coefficients for each k, ascending; of several targets
        a list with an array for each.

    objectives : ndarray of shape (n_ks,)
        F at the solutions, as :class:`ChitaRegressor` defines it; never increasing.
        Of several targets, here and below, the sum.

    lower_bounds : ndarray of shape (n_ks,)
        What F cannot fall below with k features; nan where nothing is known.

    gaps : ndarray of shape (n_ks,)
        ``(objectives - lower_bounds) / objectives``; 0 proves a solution optimal.

    rss : ndarray of shape (n_ks,)
        Sums of squared residuals, each times its sample weight; 0 where the fit is
        perfect but for rounding.

    degrees_of_freedom : ndarray of shape (n_ks,)
        Effective number of coefficients: the trace of the hat matrix on the support.
        The number of non-zeros if ``ridge=0``, less otherwise. Without intercept.

    n_iters : ndarray of int, shape (n_ks,)
        Iterations of the solver that led to each solution.

    statuses : tuple of Status
        Why the solver stopped.

    histories : tuple of tuples of str
        What the solver ran, in order, in words.

    n_samples : float
        The sum of the sample weights; the number of samples if there are none.

    n_features : int
        How many features there are to choose from.

    feature_names : ndarray of str, shape (n_features,), or None, default=None
        Their names, where X has any. The printed table then names them.
    """

    ks: np.ndarray
    ridge: float
    coefs: Array
    intercepts: Array
    supports: tuple[Array, ...]
    objectives: np.ndarray
    lower_bounds: np.ndarray
    gaps: np.ndarray
    rss: np.ndarray
    degrees_of_freedom: np.ndarray
    n_iters: np.ndarray
    statuses: tuple[Status, ...]
    histories: tuple[tuple[str, ...], ...]
    n_samples: float
    n_features: int
    feature_names: np.ndarray | None = None

    def __repr__(self) -> str:
        head = f"{'k':>5} {'objective':>12} {'gap':>9} {'rss':>12}  support"
        listed = [_listed(support, self.feature_names) for support in self.supports]
        rows = [
            f"{k:>5} {objective:>12.6g} {gap:>9.2%} {rss:>12.6g}  {names}"
            for k, objective, gap, rss, names in zip(
                self.ks, self.objectives, self.gaps, self.rss, listed, strict=True
            )
        ]
        return "\n".join([f"ChitaPath, ridge={self.ridge:g}", head, *rows])

    def to_numpy(self) -> ChitaPath:
        """Return a copy on the host, with NumPy arrays.

        Returns
        -------
        ChitaPath
            The same values; shares no memory with this one.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["supports"] = list(self.supports)
        host = {name: on_host(value) for name, value in values.items()}
        return ChitaPath(**{**host, "supports": tuple(host["supports"])})


def chita_path(
    X: Any,
    y: Any,
    ks: Any,
    *,
    ridge: float = 1e-4,
    coef_prior: Any = None,
    fit_intercept: bool = True,
    standardize: bool = True,
    always_include: Any = None,
    positive: Any = False,
    groups: Any = None,
    target_support: TargetSupport = "separate",
    sample_weight: Any = None,
    solver: Solver = "auto",
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    time_limit: float | None = None,
    random_state: Any = None,
) -> ChitaPath:
    r"""Least squares with exactly k features, for many k.

    Minimises for each k, over the coefficients :math:`w` and the intercept :math:`c`,

    .. math::

        F(w, c) = \frac{1}{2 \sum_i s_i} \sum_i s_i (y_i - x_i w - c)^2
        + \frac{\mathrm{ridge}}{2} \sum_j \sigma_j^2 (w_j - \mathrm{coef\_prior}_j)^2
        \quad \text{subject to} \quad \|w\|_0 \le k

    as :class:`ChitaRegressor` does for one. The solutions of neighbouring k start
    searches for each other, so that none is worse than that of a single fit with the
    same parameters by more than a share of 1e-9, and many are better.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features), or Moments
        Training data; neither copied nor written to. scipy.sparse matrices are used as
        CSC. Or sums over them: then y and `sample_weight`, which are in them already,
        are None.

    y : array-like of shape (n_samples,), (n_samples, n_targets) or None
        Target values.

    ks : int or array-like of int
        Numbers of features, each at least 0 (the intercept alone). An int k stands for
        1, ..., k. Others are sorted, and numbers above n_features count as n_features;
        each is solved once.

    ridge : float, default=1e-4
        Weight of the ridge term, at least 0.

    coef_prior : array-like of shape (n_features,) or None, default=None
        Centre of the ridge term; None is zero.

    fit_intercept : bool, default=True
        Whether to fit the intercept, which is not penalised.

    standardize : bool, default=True
        Whether the ridge acts on the coefficients of columns of unit variance; see
        :class:`ChitaRegressor`.

    always_include : array-like of int or str, or None, default=None
        Features that are always among the k, by index or, where X is a data frame, by
        name. They count within k, and their coefficients are penalised like all others.

    positive : bool or array-like of shape (n_features,), default=False
        True lets no coefficient be negative. An array gives each feature a sign: 1 for
        a coefficient that may not be negative, -1 for one that may not be positive, 0
        for either. If no further feature improves the fit, fewer than k are non-zero.

    groups : array-like of shape (n_features,) or None, default=None
        The group of each feature, by any label. k then counts groups: all features of a
        group are chosen, or none (the dummies of a category, the lags of a series).

    target_support : {"separate", "shared", "pooled"}, default="separate"
        What k means for a two-dimensional y: with "shared" the number of features of
        all targets together, with "pooled" that of coefficients, see
        :class:`ChitaRegressor`. "separate" takes one target.

    sample_weight : float or array-like of shape (n_samples,), default=None
        Weights, at least 0 and not all 0.

    solver : {"auto", "swap", "admm", "dual", ...}, default="auto"
        How to search for the supports; see :class:`ChitaRegressor`.

    n_restarts : int, default=10
        Stop the search of each k after this many consecutive restarts without
        improvement.

    max_iter : int, default=100
        Largest number of iterations of each descent, and of sweeps along k.

    tol : float, default=1e-4
        Relative precision at which to stop.

    time_limit : float or None, default=None
        Seconds for the path: each k may take an equal share of what is left, and what
        is saved goes to those after it. A search that its time ends has the status
        ``TIME_LIMIT``. None for no limit.

    random_state : int, RandomState instance or None, default=None
        Seed of the restarts, the same for every k.

    Returns
    -------
    ChitaPath
        Solutions, bounds and statistics, in the order of ascending k. Printed, it is
        a table.

    Raises
    ------
    ValueError
        For a parameter out of range or unfit data, as in :class:`ChitaRegressor`; a
        two-dimensional y with ``target_support="separate"``; y or weights beside
        Moments.
    TypeError
        For a parameter of the wrong type.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` was reached while a solution was still improving.
    UserWarning
        If ``ridge=0`` and the columns of a support are linearly dependent.

    See Also
    --------
    ChitaRegressor : A single k.
    ChitaRegressorCV : Chooses k and ridge along paths.
    PathDisplay : Draws a path.
    sklearn.linear_model.lasso_path : The convex relaxation's path.

    Notes
    -----
    Costs a single fit for each k, and two descents by swaps for each pair of neighbours
    and sweep; few sweeps are needed. A bound for more features bounds those with fewer,
    and is passed on. Where there are too many non-zeros for swaps (more than 500), the
    n x n Gram matrices are passed on as well: a solution can then differ from a single
    fit's by what rounding makes of it, within `tol`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from chita_sklearn import chita_path
    >>> X, y = load_diabetes(return_X_y=True)
    >>> path = chita_path(X, y, 4, ridge=0.0)
    >>> [support.tolist() for support in path.supports]
    [[2], [2, 8], [2, 3, 8], [2, 3, 4, 8]]
    >>> path.coefs.shape
    (10, 4)
    >>> path.objectives.round()
    array([1945., 1603., 1542., 1506.])
    """
    parameters = {
        "ridge": ridge,
        "coef_prior": coef_prior,
        "fit_intercept": fit_intercept,
        "standardize": standardize,
        "always_include": always_include,
        "positive": positive,
        "groups": groups,
        "target_support": target_support,
        "solver": solver,
        "n_restarts": n_restarts,
        "max_iter": max_iter,
        "tol": tol,
        "time_limit": time_limit,
        "random_state": random_state,
    }
    check_parameters(parameters, CONSTRAINTS, "chita_path")
    moments = X if isinstance(X, Moments) else None
    if moments is not None:
        names = getattr(moments, "feature_names_in_", None)
        X, y, sample_weight = _without_rows(moments, y, sample_weight)
        priors = checked_priors(coef_prior, X, y, np)
    else:
        names = _get_feature_names(X)
        X, y, sample_weight, xp = checked_data(
            X,
            y,
            sample_weight,
            coef_prior,
            caller="chita_path",
            check=partial(check_X_y, estimator="chita_path"),
        )
        y = checked_targets(y, target_support)
        priors = checked_priors(coef_prior, X, y, xp)
        X, y, sample_weight = present(X, y, sample_weight)
    constraints = resolved_constraints(
        int(X.shape[1]),
        names,
        always_include=always_include,
        positive=positive,
        groups=groups,
        target_support=target_support,
        n_targets=len(priors),
        solver=solver,
    )
    options: dict[str, Any] = {
        "ridge": float(ridge),
        "fit_intercept": bool(fit_intercept),
        "standardize": bool(standardize),
        "signs": constraints.signs_like(y),
    }
    if moments is not None:
        problem: Any = moments.problem(prior=priors[0], **options)
    else:
        problem = least_squares(X, y, priors, sample_weight=sample_weight, **options)
    ks = constraints.with_room(resolved_ks(ks, constraints.n_units), ks, "ks")
    if moments is None:
        n = int(y.shape[0])
        warn_of_perfect_fits(ks, n, bool(fit_intercept), constraints, stacklevel=2)
    warn_of_units(problem, names, stacklevel=2)
    path = path_of(
        problem,
        ks,
        pattern_of=constraints.pattern,
        ridge=float(ridge),
        solver=solver,
        n_restarts=int(n_restarts),
        max_iter=int(max_iter),
        tol=float(tol),
        time_limit=time_limit,
        seed=resolved_seed(random_state),
    )
    warn_of(path.statuses, partial(at_k, path.ks), stacklevel=2)
    return replace(path, feature_names=names)


def _without_rows(moments: Moments, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """X, y and weights without rows, in place of those that moments are of."""
    if y is not None or sample_weight is not None:
        msg = (
            "y and sample_weight are in the Moments already. Pass "
            "chita_path(moments, None, ks)."
        )
        raise ValueError(msg)
    moments.check_one_target()
    return (*moments.like(), None)


def path_of(
    problem: Any,
    ks: Sequence[int],
    *,
    ridge: float,
    seed: int,
    **effort: Any,
) -> ChitaPath:
    """Solve a problem for each of `ks`, ascending; the statistics are in units of F.

    `effort` is what `solve_path` takes: pattern_of, solver, n_restarts, restarted,
    max_iter, tol, time_limit.
    """
    solutions = solve_path(problem, ks, random_state=seed, **effort)
    return _as_path(problem, ks, solutions, ridge)


def swept(
    problem: Any,
    ks: Sequence[int],
    *,
    ridge: float,
    seed: int,
    **effort: Any,
) -> tuple[ChitaPath, list[Array]]:
    """One quick sweep over `ks`, as candidates for a choice; and the supports' masks.

    `effort` is what `sweep_path` takes. Bounds, rss and degrees of freedom are nan.
    """
    solutions = sweep_path(problem, ks, random_state=seed, **effort)
    path = _as_path(problem, ks, solutions, ridge, statistics=False)
    return path, [s.coef != 0 for s in solutions]


def _as_path(
    problem: Any,
    ks: Sequence[int],
    solutions: Sequence[Solution],
    ridge: float,
    statistics: bool = True,
) -> ChitaPath:
    values = values_of(solutions, problem.n)
    xp, joint = problem.xp, isinstance(problem, SeveralTargets)
    parts = problem.problems if isinstance(problem, SeveralTargets) else [problem]
    each = [_target_path(part, t, solutions) for t, part in enumerate(parts)]
    scaled = [xp.concat([e.scaled[i] for e in each]) for i in range(len(solutions))]
    supports = [list(S) for S in zip(*(e.supports for e in each), strict=True)]
    constants = xp.asarray(
        [e.constants for e in each], dtype=problem.dtype, device=problem.device
    )
    stacked = xp.stack([e.coefs for e in each])
    unknown = np.full(len(solutions), np.nan)
    return ChitaPath(
        ks=np.asarray(ks, dtype=np.int64),
        ridge=ridge,
        coefs=stacked if joint else stacked[0, ...],
        intercepts=constants if joint else constants[0, ...],
        supports=tuple(supports if joint else (S for (S,) in supports)),
        objectives=values.objectives,
        lower_bounds=values.lower_bounds,
        gaps=values.gaps,
        rss=np.asarray([residual_sum_of_squares(problem, w) for w in scaled])
        if statistics
        else unknown,
        degrees_of_freedom=np.asarray(
            [sum(map(degrees_of_freedom, parts, of_targets)) for of_targets in supports]
        )
        if statistics
        else unknown,
        n_iters=np.asarray([s.n_iter for s in solutions], dtype=np.int64),
        statuses=tuple(s.status for s in solutions),
        histories=tuple(
            (*s.history, in_words(gap))
            for s, gap in zip(solutions, values.gaps, strict=True)
        ),
        n_samples=problem.n,
        n_features=parts[0].p,
    )


class _TargetPath(NamedTuple):
    """What a path is for one target: an entry for each k."""

    coefs: Array  # shape (p, n_ks), of the columns of X and in its type
    scaled: list[Array]
    constants: list[float]
    supports: list[Array]


def _target_path(
    part: LeastSquares, t: int, solutions: Sequence[Solution]
) -> _TargetPath:
    xp, here = part.xp, slice(t * part.p, (t + 1) * part.p)
    coefs = [
        xp.astype(part.as_given(s.coef[here]), part.dtype, copy=False)
        for s in solutions
    ]
    scaled = [part.as_scaled(coef) for coef in coefs]
    constants = [part.intercept(w) for w in scaled]
    supports = [indices(coef != 0) for coef in coefs]
    return _TargetPath(xp.stack(coefs, axis=1), scaled, constants, supports)


def _listed(support: Any, names: np.ndarray | None = None, most: int = 10) -> str:
    """The first of a support, by name or index; of several targets', one by one."""
    if isinstance(support, list):
        return " | ".join(_listed(S, names, most) for S in support)
    size = int(support.shape[0])
    first = [int(support[t]) for t in range(min(size, most))]
    if names is None:
        text = " ".join(map(str, first))
    else:
        text = ", ".join(str(names[j]) for j in first)
    return text if size <= most else f"{text} ... ({size})"
