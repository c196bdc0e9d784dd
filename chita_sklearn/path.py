"""`chita_path`: the best fits with k features for many k, each helping its neighbours.

Every k is first solved as a single fit would be. Then the supports travel along k: the
one of k - 1 plus the best feature, and the one of k + 1 less the least, are improved by
swaps wherever they lead below what is known, up and down until nothing changes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d

from .core import Cardinality, LeastSquares, Solution, Status, solve
from .core.arrays import indices, scatter, to_host
from .core.restarts import Restarts
from .core.solve import choose
from .core.swaps import WorkingSet, swaps
from .regressor import ChitaRegressor, _checked_priors, _on_host

Array = Any  # the array API has no settled static type

__all__ = ["ChitaPath", "chita_path"]

_TINY = float(np.finfo(np.float64).tiny)
BETTER = 1e-9  # share of the objective by which a neighbour's support must win
ROUNDING = 1e-12  # of n F(0): what an objective that serves as a bound may be off by


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

    coefs : array of shape (n_features, n_ks)
        Coefficients, a column for each k.

    intercepts : array of shape (n_ks,)
        Intercepts.

    supports : tuple of arrays of int
        Indices of the non-zero coefficients for each k, ascending.

    objectives : ndarray of shape (n_ks,)
        F at the solutions, as :class:`ChitaRegressor` defines it; never increasing.

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

    def __repr__(self) -> str:
        head = f"{'k':>5} {'objective':>12} {'gap':>9} {'rss':>12}  support"
        rows = [
            f"{k:>5} {objective:>12.6g} {gap:>9.2%} {rss:>12.6g}  {_listed(support)}"
            for k, objective, gap, rss, support in zip(
                self.ks,
                self.objectives,
                self.gaps,
                self.rss,
                self.supports,
                strict=True,
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
        host = {name: _on_host(value) for name, value in values.items()}
        return ChitaPath(**{**host, "supports": tuple(host["supports"])})


def chita_path(
    X: Any,
    y: Any,
    ks: Any,
    *,
    ridge: float = 1e-4,
    coef_prior: Any = None,
    fit_intercept: bool = True,
    sample_weight: Any = None,
    solver: str = "auto",
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    random_state: Any = None,
) -> ChitaPath:
    r"""Least squares with exactly k features, for many k.

    Minimises for each k, over the coefficients :math:`w` and the intercept :math:`c`,

    .. math::

        F(w, c) = \frac{1}{2 \sum_i s_i} \sum_i s_i (y_i - x_i w - c)^2
        + \frac{\mathrm{ridge}}{2} \|w - \mathrm{coef\_prior}\|_2^2
        \quad \text{subject to} \quad \|w\|_0 \le k

    as :class:`ChitaRegressor` does for one. The solutions of neighbouring k start
    searches for each other, so that none is worse than that of a single fit with the
    same parameters by more than a share of 1e-9, and many are better.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Training data; neither copied nor written to. scipy.sparse matrices are used as
        CSC.

    y : array-like of shape (n_samples,)
        Target values.

    ks : int or array-like of int
        Numbers of features. An int k stands for 1, ..., k. Others are sorted, and
        numbers above n_features count as n_features; each is solved once.

    ridge : float, default=1e-4
        Weight of the ridge term, at least 0.

    coef_prior : array-like of shape (n_features,) or None, default=None
        Centre of the ridge term; None is zero.

    fit_intercept : bool, default=True
        Whether to fit the intercept, which is not penalised.

    sample_weight : float or array-like of shape (n_samples,), default=None
        Weights, at least 0 and not all 0.

    solver : {"auto", "iht", "swap", ...}, default="auto"
        How to search for the supports; see :class:`ChitaRegressor`.

    n_restarts : int, default=10
        The search of each k ends after so many perturbations in a row that find
        nothing better.

    max_iter : int, default=100
        Largest number of iterations of each descent, and of sweeps along k.

    tol : float, default=1e-4
        Relative precision at which to stop.

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
        two-dimensional y.
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
    model = ChitaRegressor(
        1,
        ridge,
        coef_prior=coef_prior,
        fit_intercept=fit_intercept,
        solver=solver,
        n_restarts=n_restarts,
        max_iter=max_iter,
        tol=tol,
        random_state=random_state,
    )
    model._validate_params()
    X, y, sample_weight, xp = model._validated(X, y, sample_weight)
    y = column_or_1d(y, warn=True)
    (prior,) = _checked_priors(coef_prior, X, y, xp)
    problem = LeastSquares(
        X,
        y,
        ridge=float(ridge),
        prior=prior,
        sample_weight=sample_weight,
        fit_intercept=bool(fit_intercept),
    )
    path = path_of(
        problem,
        resolved_ks(ks, problem.p),
        ridge=float(ridge),
        solver=solver,
        n_restarts=int(n_restarts),
        max_iter=int(max_iter),
        tol=float(tol),
        seed=resolved_seed(random_state),
    )
    warn_of(path, stacklevel=2)
    return path


def resolved_ks(ks: Any, n_features: int) -> list[int]:
    """Return `ks` as distinct numbers of features, ascending, at most all of them."""
    remedy = "Pass an int (k stands for 1, ..., k) or a list of ints, 1 or more each."
    given = range(1, min(int(ks), n_features) + 1) if _is_count(ks) else ks
    if np.ndim(given) != 1 or isinstance(given, str) or not len(given):
        msg = f"ks must be an int in [1, inf) or a list of them. Got {ks!r} instead. "
        raise ValueError(msg + remedy)
    values = given if isinstance(given, range) else list(given)
    for value in values:
        if not _is_count(value):
            msg = f"ks must hold ints in [1, inf). Got {value!r} among them. "
            raise ValueError(msg + remedy)
    return sorted({min(int(value), n_features) for value in values})


def _is_count(value: Any) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
    )


def resolved_seed(random_state: Any) -> int:
    """Return an int for all fits: the given one, or one drawn from the generator."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def warn_of(path: ChitaPath, stacklevel: int) -> None:
    """Warn of what the solver could not do, and for which k."""
    for status, category in (
        (Status.MAX_ITER, ConvergenceWarning),
        (Status.NOT_UNIQUE, UserWarning),
    ):
        found = [k for k, s in zip(path.ks, path.statuses, strict=True) if s is status]
        if found:
            text = f"{status.value} (k = {', '.join(map(str, found))})"
            warnings.warn(text, category, stacklevel=stacklevel + 1)


def path_of(
    problem: LeastSquares,
    ks: Sequence[int],
    *,
    ridge: float,
    seed: int,
    bounds: bool = True,
    **effort: Any,
) -> ChitaPath:
    """Solve a problem for each of `ks`, ascending; the statistics are in units of F.

    `effort` is what `solve` takes: solver, n_restarts, max_iter, tol. Without `bounds`
    a search by swaps spends no time on proofs, and its lower bounds are nan.
    """
    search = _Search(problem, ks, {**effort, "random_state": seed}, bounds)
    search.sweep(effort["max_iter"])
    solutions = search.settled()
    xp = problem.xp
    coefs = [xp.astype(s.coef, problem.dtype, copy=False) for s in solutions]
    objectives = np.asarray([s.objective for s in solutions])
    if not np.all(np.isfinite(objectives)):
        msg = (
            f"An objective is {objectives.max()}: the squares of X or y are too large "
            "for floating-point numbers. Scale the columns of X and y, for example "
            "with sklearn.preprocessing.StandardScaler."
        )
        raise ValueError(msg)
    supports = tuple(indices(coef != 0) for coef in coefs)
    stacked = xp.stack(coefs, axis=1)
    constants = [problem.intercept(coef) for coef in coefs]
    # F is never negative: where it is 0, so is the bound, whoever has looked.
    lower = np.asarray([s.lower_bound if s.objective else 0.0 for s in solutions])
    return ChitaPath(
        ks=np.asarray(ks, dtype=np.int64),
        ridge=ridge,
        coefs=stacked,
        intercepts=xp.asarray(constants, dtype=problem.dtype, device=problem.device),
        supports=supports,
        objectives=objectives / problem.n,
        lower_bounds=lower / problem.n,
        gaps=np.where(
            objectives == lower, 0.0, (objectives - lower) / (objectives + _TINY)
        ),
        rss=np.asarray([_rss(problem, coef) for coef in coefs]),
        degrees_of_freedom=np.asarray([_df(problem, S) for S in supports]),
        n_iters=np.asarray([s.n_iter for s in solutions], dtype=np.int64),
        statuses=tuple(s.status for s in solutions),
        histories=tuple(s.history for s in solutions),
        n_samples=problem.n,
        n_features=problem.p,
    )


class _Search:
    """The solutions for each k, and how they better each other."""

    def __init__(
        self,
        problem: LeastSquares,
        ks: Sequence[int],
        options: dict[str, Any],
        bounds: bool,
    ) -> None:
        self.problem, self.ks, self._options = problem, ks, options
        self._bounds = bounds
        self._patterns = [Cardinality(k) for k in ks]
        self._by_swaps = [
            choose(problem, pattern, options["solver"])[0] == "swap"
            for pattern in self._patterns
        ]
        zero = problem.zeros(problem.p)
        self._slack = ROUNDING * (
            0.5 * float(problem.b @ problem.b) + problem.penalty(zero)
        )
        if problem.dtype != problem.xp.float64:  # the coefficients are rounded to it
            self._slack *= float(problem.xp.finfo(problem.dtype).eps) / ROUNDING
        self._correlation = problem.correlation()
        self.solutions = [self._alone(i) for i in range(len(ks))]
        self._tried: dict[tuple[int, int], Solution] = {}

    def _alone(self, i: int) -> Solution:
        """Solve for the i-th k, as a single fit would."""
        problem, pattern, options = self.problem, self._patterns[i], self._options
        if not self._by_swaps[i]:
            return solve(problem, pattern, **options)
        if self._bounds:
            # Without the Gram matrices that other k left behind: they save little
            # time here, and their rounding could lead to another answer.
            problem = copy.copy(problem)
            problem.grams = []
            return solve(problem, pattern, **options)
        limit, count = options["max_iter"], options["n_restarts"]
        found = swaps(problem, pattern, None, max_iter=limit)
        if count:
            restarts = Restarts(count, np.random.default_rng(options["random_state"]))
            found = swaps(problem, pattern, found, max_iter=limit, search=restarts)
        return found

    def sweep(self, limit: int) -> None:
        """Go up and down along k until no neighbour helps any more."""
        m = len(self.ks)
        for _ in range(limit):
            helped = [self._help(i, i - 1) for i in range(1, m)]
            helped += [self._help(i, i + 1) for i in range(m - 2, -1, -1)]
            if not any(helped):
                break

    def _help(self, i: int, j: int) -> bool:
        """Improve the i-th solution from the j-th, where that is new and does."""
        known, other = self.solutions[i], self.solutions[j]
        if known.gap == 0 or self._tried.get((i, j)) is other:
            return False
        self._tried[i, j] = other
        pattern, options = self._patterns[i], {**self._options, "n_restarts": 0}
        found = self._start(i, other)
        if not found.objective < known.objective * (1 - BETTER):
            return False
        if self._bounds or not self._by_swaps[i]:
            found = solve(self.problem, pattern, start=found.coef, **options)
        if not found.objective < known.objective * (1 - BETTER):
            return False
        self.solutions[i] = replace(
            found,
            lower_bound=min(_best(found, known), found.objective),
            n_iter=known.n_iter + found.n_iter,
            history=(*known.history, f"from k = {self.ks[j]}", *found.history),
        )
        return True

    def _start(self, i: int, other: Solution) -> Solution:
        """Bring another k's solution to this k: one in or out at a time, then swaps."""
        problem, pattern, k = self.problem, self._patterns[i], self.ks[i]
        if not self._by_swaps[i]:
            # Others than swaps cut or fill the support by themselves.
            return replace(other, objective=-math.inf)
        S = to_host(indices(other.support))
        if len(S) > k:
            W = WorkingSet(problem, pattern, S, self._correlation)
            S = S[W.backward(np.arange(len(S)), k)]
        xp = problem.xp
        ones = xp.ones(len(S), dtype=xp.float64, device=problem.device)
        mask = scatter(problem.p, xp.asarray(S, device=problem.device), ones) > 0
        start = Solution(problem.zeros(problem.p), mask, math.inf, n_iter=0)
        return swaps(problem, pattern, start, max_iter=self._options["max_iter"])

    def settled(self) -> list[Solution]:
        """Return the solutions with what they imply for each other.

        A solution with fewer features is one with more, and a bound for more is one
        for fewer.
        """
        solutions = list(self.solutions)
        for i in range(1, len(solutions)):
            fewer, more = solutions[i - 1], solutions[i]
            if fewer.objective < more.objective:
                solutions[i] = replace(
                    more,
                    coef=fewer.coef,
                    support=fewer.support,
                    objective=fewer.objective,
                    lower_bound=min(more.lower_bound, fewer.objective),
                )
        for i in range(len(solutions) - 2, -1, -1):
            fewer, more = solutions[i], solutions[i + 1]
            passed = more.lower_bound
            if fewer.gap != 0 and passed > max(_or_less(fewer.lower_bound), 0.0):
                if more.gap == 0:  # then the bound is an objective, rounded
                    passed = max(passed - self._slack, 0.0)
                bound = max(passed, _or_less(fewer.lower_bound))
                solutions[i] = replace(fewer, lower_bound=min(bound, fewer.objective))
        return solutions


def _best(a: Solution, b: Solution) -> float:
    """The larger of two bounds; one that is unknown loses."""
    best = max(_or_less(a.lower_bound), _or_less(b.lower_bound))
    return best if best > -math.inf else math.nan


def _or_less(bound: float) -> float:
    return -math.inf if math.isnan(bound) else bound


def _rss(problem: LeastSquares, coef: Array) -> float:
    """Weighted sum of squared residuals; 0 where it is rounding. One pass over X."""
    r = problem.residual(problem.xp.astype(coef, problem.xp.float64))
    rss = float(r @ r)
    rounding = 100 * float(problem.xp.finfo(problem.dtype).eps)
    return rss if rss > rounding**2 * float(problem.b @ problem.b) else 0.0


def _df(problem: LeastSquares, S: Array) -> float:
    """Trace of A_S (A_S'A_S + mu I)^-1 A_S', from the smaller Gram of A_S."""
    if problem.mu == 0 or S.shape[0] == 0:
        return float(S.shape[0])
    xp, A = problem.xp, problem.columns(S)
    if A.shape[0] < A.shape[1]:
        A = xp.matrix_transpose(A)
    eigenvalues = xp.linalg.eigvalsh(xp.matrix_transpose(A) @ A)
    eigenvalues = xp.where(eigenvalues > 0, eigenvalues, xp.zeros_like(eigenvalues))
    return float(xp.sum(eigenvalues / (eigenvalues + problem.mu)))


def _listed(support: Array, most: int = 10) -> str:
    """The first indices of a support, as text."""
    size = int(support.shape[0])
    text = " ".join(str(int(support[t])) for t in range(min(size, most)))
    return text if size <= most else f"{text} ... ({size})"
