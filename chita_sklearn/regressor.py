"""`ChitaRegressor`: least squares with exactly k features.

The scikit-learn side of the house: validate, hand arrays to `chita_sklearn.core`, turn
the `Solution` into fitted attributes. No numerical work is done here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.sparse
from sklearn import get_config
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.linear_model import LinearRegression
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ._compat import (
    HAS_ARRAY_API,
    CallbackSupportMixin,
    Number,
    _fit_context,
    available_if,
    check_same_namespace,
    float_dtypes,
    get_namespace_and_device,
    on_host,
    refuse_device_arrays,
    with_callbacks,
)
from ._constraints import Constraints, resolved_constraints
from ._fitted import Targets, forget, remember
from ._moments import Moments, checked_moments
from ._reporting import (
    Progress,
    among_targets,
    warn_of,
    warn_of_perfect_fits,
    warn_of_units,
)
from ._typing import Array, Solver, TargetSupport
from ._validation import (
    CONSTRAINTS,
    REMEDIES,
    check_parameters,
    checked_data,
    checked_priors,
    present,
    resolved_k,
    resolved_seed,
    usable_starts,
)
from .core import Deadline, LeastSquares, SeveralTargets, solve
from .core.arrays import to_host

__all__ = ["ChitaRegressor"]


def _has_one_k(estimator: Any) -> bool:
    """Whether rows can be added: not where k is chosen by folds of them."""
    return "k" in estimator.get_params(deep=False)


class ChitaRegressor(
    CallbackSupportMixin, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    r"""Least squares with exactly k features, and a ridge term.

    Minimises over the coefficients :math:`w` and the intercept :math:`c`

    .. math::

        F(w, c) = \frac{1}{2 \sum_i s_i} \sum_i s_i (y_i - x_i w - c)^2
        + \frac{\mathrm{ridge}}{2} \sum_j \sigma_j^2 (w_j - \mathrm{coef\_prior}_j)^2
        \quad \text{subject to} \quad \|w\|_0 \le k

    where :math:`s_i` are the sample weights (1 by default) and :math:`\sigma_j` is the
    standard deviation of column j, or 1 with ``standardize=False``. The loss is a
    *mean* over the samples, so the meaning of `ridge` does not depend on how many there
    are; it corresponds to ``alpha = ridge * n_samples`` of
    :class:`~sklearn.linear_model.Ridge` on standardised columns. The intercept is never
    penalised.

    Exactly k coefficients are non-zero, unless fewer already fit y perfectly. Only
    `ridge` shrinks them: at ``ridge=0`` they are those of ordinary least squares on the
    chosen features.

    Parameters
    ----------
    k : int, float or None, default=None
        How many features to choose. An int is their number, 0 for the intercept alone;
        more than there are features means all of them. A float in (0, 1] is a share of
        the features, rounded to the nearest number and at least 1 (so 1.0 is all of
        them, and 1 is one). None is 10 %. The number in use is `k_`; `k` stays as
        given.

    ridge : float, default=1e-4
        Weight of the ridge term, at least 0. A small positive value makes the answer
        unique and keeps it finite on duplicated columns. It is in the units of columns
        of unit variance, see `standardize`.

    coef_prior : array-like of shape ([n_targets,] n_features) or None, default=None
        Your prior guess of the coefficients: the ridge shrinks towards it. None is
        zero. A single row serves all targets.

    fit_intercept : bool, default=True
        Whether to fit the intercept. X and y are centred implicitly: X is neither
        copied nor written to, and a sparse X stays sparse.

    standardize : bool, default=True
        Whether the ridge acts on the coefficients of columns of unit variance:
        :math:`\sigma_j` is the weighted standard deviation of column j (its root mean
        square without an intercept). The chosen features, the predictions and the gap
        then do not depend on the units of the columns. False lets the ridge act on the
        coefficients as they are: :math:`\sigma_j = 1`. Either way X is neither copied
        nor written to, and coefficients and `coef_prior` are in the units of X.

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
        What k means for a two-dimensional y.

        - "separate": each target is a problem of its own, with k features.
        - "shared": the same k features for all targets, those that lower the sum of
          their objectives most.
        - "pooled": k coefficients for all targets together, spent where they lower that
          sum most.

    solver : {"auto", "swap", "admm", "dual", "iht", "dense", "exact"}, default="auto"
        How to search for the support.

        - "auto" picks one of the others by the shape of the problem, or tries every
          support where there are few; `solver_history_` tells what ran and why.
        - "swap" selects forward, then exchanges single features, with an exact refit
          after each, until no exchange helps; then perturbs and improves again.
        - "admm" splits the problem under penalties that grow slowly, and exchanges from
          where several schedules of them end: for many non-zeros. Three matrices of
          p x min(n, p) numbers, at most 4,096 features or samples.
        - "dual" ascends a lower bound, and takes the best of the supports it meets.
          It needs ``ridge > 0``, and is at its best where k is large.
        - "iht" is the published pipeline: iterative hard thresholding with an exact
          line search on an active set, then the least-squares refit. On correlated
          features its objective is often twice that of the others.
        - "dense" keeps the largest of the ridge regression on all features, refitted;
          that regression by `max_iter` conjugate gradients where X is large both ways.
        - "exact" tries every support where there are at most 100,000; else it does
          what "swap" does, then proves the answer, or betters it, by branch and
          bound: until the gap is within `tol`, for at most 100 `max_iter` nodes. For
          a few hundred features; usually in seconds. Where it fails, it may run for
          minutes.

    n_restarts : int, default=10
        Effort of the search "swap". It stops after this many consecutive restarts
        without improvement and, where few of them led back to the best support or
        rows are few, after a third as many rounds of 32 tabu walks (more where rows
        are very few), or two thirds of all rounds if that is more. 0 makes none.

    max_iter : int, default=100
        Largest number of iterations of each descent. Reaching it gives a
        :class:`~sklearn.exceptions.ConvergenceWarning`.

    tol : float, default=1e-4
        The relative gap between `objective_` and `lower_bound_` that is good enough:
        a search ends when it is reached.

    time_limit : float or None, default=None
        Seconds after which a search ends with what it has, at its next step: a descent,
        a restart, a batch of nodes. `objective_`, `lower_bound_` and `gap_` are as
        exact as ever, and there is no warning; `solver_history_` tells. Several targets
        share the time. With many restarts (``n_restarts=10_000, time_limit=1``) it
        alone decides; such answers depend on the speed of the machine. None for no
        limit.

    n_solutions : int, default=1
        How many supports to list in `solutions_`: the answer, and the next best ones
        known. All supports are ranked where there are at most 1,000, with
        ``solver="exact"`` 100,000. Else the list has what the search has met and what
        one exchange of a listed support leads to, so that a rival which differs in
        several features may be missing. Each costs up to five passes of O(n p k). Not
        for `positive`, `groups`, and several targets that are one problem.

    warm_start : bool, default=False
        Whether to start from the coefficients of the previous fit. They are used where
        shape, dtype, array library and device are the same as this fit's, and the
        result is then no worse than their support.

    random_state : int, RandomState instance or None, default=None
        Seed of the restarts. Pass an int for the same answer at each call.

    Attributes
    ----------
    coef_ : array of shape (n_features,) or (n_targets, n_features)
        Coefficients. Like all arrays below it has the library, device and dtype of X.

    intercept_ : float or array of shape (n_targets,)
        Intercept; 0.0 if ``fit_intercept=False``.

    support_ : array of int or list of arrays of int
        Indices of the non-zero coefficients, ascending. One array per target if y is
        two-dimensional.

    k_ : int
        The number of features (with `groups` of groups, with
        ``target_support="pooled"`` of coefficients) asked for, at most all of them.

    objective_ : float or array of shape (n_targets,)
        F at the solution. Scalars per fit are Python floats if y is one-dimensional.

    lower_bound_ : float or array of shape (n_targets,)
        A value that F cannot fall below with k features; nan where none is known.

    gap_ : float or array of shape (n_targets,)
        ``(objective_ - lower_bound_) / objective_``: 0 proves the solution optimal.
        nan where no bound is known, 0 where both are 0.

    n_iter_ : int or array of shape (n_targets,)
        Iterations done, all descents together; at least 1.

    solver_history_ : tuple of str or list of tuples of str
        What the solver ran, in order, in words.

    solutions_ : dict of ndarrays
        One entry for each of the `n_solutions` best supports, of one target after the
        other, the answer first: ``target``, ``support`` (indices), ``objective`` and
        ``gap``, which says how far it may be above the best of all. A pandas DataFrame
        can be made of it.

    chosen_ : ndarray of str or list of ndarrays of str
        Names of the features in `support_`: those of the columns of X, or x0, x1, ...

    contributions_ : dict of ndarrays
        One entry for each non-zero coefficient, of one target after the other:
        ``target``, ``feature`` (its index), ``standard_deviation`` of the column,
        ``loss_if_removed`` and ``entry``, as in :meth:`summary`.

    n_features_in_ : int
        Number of features seen during :term:`fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during :term:`fit`. Defined only when `X`
        has feature names that are all strings.

    See Also
    --------
    sklearn.linear_model.OrthogonalMatchingPursuit : Greedy choice of k features.
    sklearn.linear_model.Lasso : Convex relaxation, with shrunken coefficients.
    sklearn.linear_model.Ridge : The same objective with all features.
    ChitaSelector : Keeps the chosen columns, in a pipeline.

    Notes
    -----
    **Cost.** With n samples, p features and k of them chosen, one pass over X costs
    O(n p); a swap step costs O(n p) for the column that enters and O(p k) for
    scoring all exchanges; a refit costs O(n k min(n, k)). Memory beyond X: p-vectors,
    Gram matrices of the columns worked on, each of about a sixteenth of X, 8 MB or
    k x k, whichever is largest, and of a tall X its triangular factor, at most 1/32.

    **Array libraries.** With scikit-learn 1.9 or later, under
    ``sklearn.config_context(array_api_dispatch=True)`` (and
    the environment variable ``SCIPY_ARRAY_API=1``, set before scikit-learn is
    imported) the fit runs where X is, on NumPy, CuPy or torch, and the attributes are
    arrays of that library; y, sample_weight and coef_prior are moved to X. Without
    dispatch scikit-learn turns torch tensors in host memory into NumPy arrays, and
    arrays in GPU memory are refused with an error that says what to enable.
    :meth:`to_numpy` brings a fitted estimator back to the host.

    **An interrupted fit.** `fit` discards the previous result when it starts and sets
    the attributes when it ends. If it raises, or is interrupted, in between, the
    estimator is not fitted.

    **Selecting features.** :class:`ChitaSelector` keeps the chosen columns.
    (``SelectFromModel`` needs ``threshold=1e-300``: its default, the mean of the
    absolute coefficients, drops chosen features whose coefficients are small.)

    **Two-dimensional y.** Each target is a problem of its own, with a support of its
    own, as for :class:`~sklearn.linear_model.OrthogonalMatchingPursuit`; or, with
    `target_support`, all are one problem, whose objective is the sum of theirs.
    `objective_`, `lower_bound_`, `gap_`, `n_iter_` and `solver_history_` are then those
    of the one problem.

    References
    ----------
    .. [1] R. Benbaki, W. Chen, X. Meng, H. Hazimeh, N. Ponomareva, Z. Zhao and
       R. Mazumder, "Fast as CHITA: Neural Network Pruning with Combinatorial
       Optimization", ICML 2023. https://arxiv.org/abs/2302.14623

    Examples
    --------
    >>> import numpy as np
    >>> from chita_sklearn import ChitaRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 30))
    >>> y = 3 * X[:, 4] - 2 * X[:, 11] + X[:, 20] + 0.1 * rng.standard_normal(100)
    >>> model = ChitaRegressor(k=3, random_state=0).fit(X, y)
    >>> model.support_
    array([ 4, 11, 20])
    >>> model.coef_[model.support_].round(1)
    array([ 3., -2.,  1.])
    >>> round(model.score(X, y), 3)
    0.999
    """

    _parameter_constraints: dict = {  # noqa: RUF012 (scikit-learn's own protocol)
        "k": [
            Number(Integral, 0, None, closed="left"),
            Number(Real, 0, 1, closed="right"),
            None,
        ],
        "n_solutions": [Number(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        **CONSTRAINTS,
    }

    _remedies = REMEDIES

    # Arrays are of the library of X; of several targets, what is a number of one target
    # is an array too.
    coef_: Array
    intercept_: Array
    support_: Array
    k_: int
    contributions_: dict[str, np.ndarray]
    solutions_: dict[str, np.ndarray]
    objective_: Array
    lower_bound_: Array
    gap_: Array
    n_iter_: Array
    solver_history_: Any
    n_features_in_: int
    feature_names_in_: np.ndarray
    moments_: Moments

    def __init__(
        self,
        k: int | float | None = None,
        ridge: float = 1e-4,
        *,
        coef_prior: Array | None = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        always_include: Any = None,
        positive: Any = False,
        groups: Any = None,
        target_support: TargetSupport = "separate",
        solver: Solver = "auto",
        n_restarts: int = 10,
        max_iter: int = 100,
        tol: float = 1e-4,
        time_limit: float | None = None,
        n_solutions: int = 1,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.k = k
        self.ridge = ridge
        self.coef_prior = coef_prior
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.always_include = always_include
        self.positive = positive
        self.groups = groups
        self.target_support = target_support
        self.solver = solver
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.tol = tol
        self.time_limit = time_limit
        self.n_solutions = n_solutions
        self.warm_start = warm_start
        self.random_state = random_state

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose k features and fit their coefficients.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data; never written to. float32 is kept, other types become
            float64. scipy.sparse matrices are used as CSC and never made dense.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target values; moved to the array library and device of X.

        sample_weight : float or array-like of shape (n_samples,), default=None
            Weights, at least 0 and not all 0. A weight of 2 is the sample twice, a
            weight of 0 is the sample left out.

        Returns
        -------
        ChitaRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            For a parameter out of range; NaN or infinity in X, y, `sample_weight` or
            `coef_prior`; empty X; lengths that do not match; weights that are
            negative or all zero; ``solver="dual"`` without a ridge; columns or y
            longer than 1e70 or shorter than 1e-70, or an objective too large for
            floating-point numbers.
        TypeError
            For a parameter of the wrong type, a sparse y, or an array in GPU memory
            without array API dispatch.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached before the search, or the proof of
            ``solver="exact"``, was finished.
        UserWarning
            If ``ridge=0`` and the chosen columns are linearly dependent, so that the
            coefficients are not unique.
        """
        previous = getattr(self, "coef_", None) if self.warm_start else None
        forget(self)
        # Callbacks score the model on what the caller passed, feature names and all.
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        inputs = {"X": X, "y": y, "metadata": metadata}
        X, y, sample_weight, xp = self._validated(X, y, sample_weight)
        names = getattr(self, "feature_names_in_", None)
        n_targets = 1 if y.ndim == 1 else int(y.shape[1])
        constraints = self._constraints(int(X.shape[1]), names, n_targets)
        k = resolved_k(self.k, constraints.n_units)
        constraints.with_room([k], k if self.k is None else self.k, "k")
        priors = checked_priors(self.coef_prior, X, y, xp)
        starts = usable_starts(previous, X, y)
        X, y, sample_weight = present(X, y, sample_weight)
        intercept = bool(self.fit_intercept)
        n_samples = int(y.shape[0])
        warn_of_perfect_fits([k], n_samples, intercept, constraints, stacklevel=4)
        targets = [y] if y.ndim == 1 else [y[:, t] for t in range(len(priors))]
        ridge = float(self.ridge)
        first = LeastSquares(
            X,
            targets[0],
            ridge=ridge,
            prior=priors[0],
            sample_weight=sample_weight,
            fit_intercept=intercept,
            standardize=bool(self.standardize),
            signs=constraints.signs_like(y),
        )
        warn_of_units(first, names, stacklevel=4)
        # What depends on X alone is computed once.
        problems = first.with_targets(targets[1:], ridge=ridge, priors=priors[1:])
        outcome = Targets(X, y, xp, constraints)
        fitted = self._solved(
            problems,
            outcome,
            k,
            constraints,
            starts,
            inputs,
            stacklevel=5,
        )
        remember(self, fitted)
        return self

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit_moments(self, moments: Moments) -> Self:
        """Choose k features and fit their coefficients, from sums over rows.

        The fit of all rows that `moments` has seen, and as exact as that of the rows.

        Parameters
        ----------
        moments : Moments
            Sums over the rows, however they were formed: chunk by chunk, on other
            processes or machines. Not changed.

        Returns
        -------
        ChitaRegressor
            The fitted estimator. :meth:`partial_fit` goes on from here.

        Raises
        ------
        ValueError
            For moments without rows, a parameter out of range, or what :meth:`fit`
            refuses for numerical reasons.
        TypeError
            For something other than Moments.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached before the search, or the proof of
            ``solver="exact"``, was finished.
        UserWarning
            If ``ridge=0`` and the chosen columns are linearly dependent, as far as
            rounding lets anyone see.

        Notes
        -----
        Costs what a fit of n_features + 1 rows does. `gap_` allows for what the sums
        may have been rounded by: it is never exactly 0.

        Examples
        --------
        >>> import numpy as np
        >>> from chita_sklearn import ChitaRegressor, Moments
        >>> X = np.random.default_rng(0).standard_normal((1000, 8))
        >>> y = X[:, 3] + 0.1 * X[:, 5]
        >>> seen = Moments().update(X[:500], y[:500]).update(X[500:], y[500:])
        >>> ChitaRegressor(k=2).fit_moments(seen).support_
        array([3, 5])
        """
        checked_moments(moments)
        previous = getattr(self, "coef_", None) if self.warm_start else None
        fitted = self._fitted_on(moments, previous)
        forget(self)
        remember(self, fitted)
        return self

    @available_if(_has_one_k)
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Add rows, and fit all rows so far.

        What is kept of the rows are their :class:`Moments`, so the answer is that of
        :meth:`fit` on all of them, whatever their order.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            More rows.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target values.

        sample_weight : float or array-like of shape (n_samples,), default=None
            Weights, at least 0 and not all 0 in the first call.

        Returns
        -------
        ChitaRegressor
            The fitted estimator. `moments_` holds the sums.

        Raises
        ------
        ValueError
            For what :meth:`fit` and :meth:`Moments.update` refuse. The estimator is as
            it was.
        TypeError
            For a parameter of the wrong type, or an array in GPU memory.

        Warns
        -----
        UserWarning
            After :meth:`fit`, which keeps nothing of its rows: this starts anew. And
            as :meth:`fit` does.
        ConvergenceWarning
            As :meth:`fit` does.

        Notes
        -----
        Adding m rows costs O(m n_features^2), then there is a fit of n_features + 1
        rows. Where the answers in between are not wanted, sum first and fit once:
        :meth:`Moments.update`, :meth:`fit_moments`.

        Examples
        --------
        >>> import numpy as np
        >>> from chita_sklearn import ChitaRegressor
        >>> X = np.random.default_rng(0).standard_normal((1000, 8))
        >>> y = X[:, 3] + 0.1 * X[:, 5]
        >>> model = ChitaRegressor(k=2)
        >>> for rows in np.array_split(np.arange(1000), 4):
        ...     model = model.partial_fit(X[rows], y[rows])
        >>> model.support_
        array([3, 5])
        """
        first = not hasattr(self, "moments_")
        if first and hasattr(self, "coef_"):
            msg = (
                "partial_fit after fit starts anew: fit keeps nothing of its rows to "
                "add to. Begin with partial_fit or fit_moments to go on from there."
            )
            warnings.warn(msg, UserWarning, stacklevel=4)
        X, y, _, xp = self._validated(X, y, None, reset=first)
        if not isinstance(X, np.ndarray) and not scipy.sparse.issparse(X):
            library = xp.__name__.rsplit(".", 1)[-1]
            msg = (
                f"partial_fit sums on the host, and X is an array of {library}. Pass "
                "NumPy arrays, or turn array API dispatch off."
            )
            raise TypeError(msg)
        seen = Moments().update(X, y, sample_weight)
        if hasattr(self, "feature_names_in_") and seen.n_samples_:
            seen.feature_names_in_ = self.feature_names_in_
        if not first:
            seen = self.moments_.merge(seen)
        previous = getattr(self, "coef_", None) if self.warm_start else None
        remember(self, self._fitted_on(seen, previous))
        return self

    def _fitted_on(self, moments: Moments, previous: Array | None) -> dict[str, Any]:
        """Fitted attributes of the rows that moments are of."""
        X, y = moments.like()
        xp = get_namespace_and_device(X)[0]
        priors = checked_priors(self.coef_prior, X, y, xp)
        names = getattr(moments, "feature_names_in_", None)
        constraints = self._constraints(moments.n_features_in_, names, len(priors))
        k = resolved_k(self.k, constraints.n_units)
        constraints.with_room([k], k if self.k is None else self.k, "k")
        options = {
            "ridge": float(self.ridge),
            "fit_intercept": bool(self.fit_intercept),
            "standardize": bool(self.standardize),
            "signs": constraints.signs_like(y),
        }
        problems = [
            moments.problem(t, prior=prior, **options) for t, prior in enumerate(priors)
        ]
        warn_of_units(problems[0], names, stacklevel=5)
        outcome = Targets(X, y, xp, constraints)
        starts = usable_starts(previous, X, y)
        inputs = {"X": None, "y": None, "metadata": None}
        fitted = self._solved(
            problems, outcome, k, constraints, starts, inputs, stacklevel=6
        )
        fitted |= {"moments_": moments.merge(Moments())}
        fitted["n_features_in_"] = moments.n_features_in_
        if hasattr(moments, "feature_names_in_"):
            fitted["feature_names_in_"] = moments.feature_names_in_
        return fitted

    def _solved(
        self,
        problems: Iterable[LeastSquares],
        outcome: Targets,
        k: int,
        constraints: Constraints,
        starts: list[Array | None],
        inputs: dict[str, Any],
        stacklevel: int,
    ) -> dict[str, Any]:
        """Solve a problem for each target, or one for all; their fitted attributes.

        `stacklevel` is the number of frames to the user's: his line is warned of.
        """
        constraints.check_ties(int(self.n_solutions))
        # One seed for all targets: each gets what a fit of its own would give it.
        seed = resolved_seed(self.random_state)
        progress = Progress(self, 1 if constraints.jointly else len(starts), inputs)
        search = partial(
            solve,
            pattern=constraints.pattern(k),
            solver=self.solver,
            n_restarts=int(self.n_restarts),
            max_iter=int(self.max_iter),
            tol=float(self.tol),
            random_state=seed,
            n_solutions=int(self.n_solutions),
        )
        clock = Deadline(self.time_limit)
        if constraints.jointly:
            joint = SeveralTargets(list(problems))
            together = None if starts[0] is None else joint.as_scaled(starts)
            on_step = progress.on_step(partial(outcome.joint_model, joint))
            found = search(
                joint, start=together, on_step=on_step, time_limit=clock.share(1)
            )
            outcome.end_joint(joint, found)
        else:
            for t, (problem, start) in enumerate(zip(problems, starts, strict=True)):
                begin = None if start is None else problem.as_scaled(start)
                progress.begin_target()
                on_step = progress.on_step(partial(outcome.model, problem))
                limit = clock.share(len(starts) - t)
                found = search(problem, start=begin, on_step=on_step, time_limit=limit)
                outcome.add(problem, found)
                progress.end_target(outcome.model)

        statuses = [solution.status for solution in outcome.solutions]
        warn_of(statuses, partial(among_targets, len(statuses)), stacklevel)
        fitted = {**outcome.model(), **outcome.record(), "k_": k}
        progress.end(fitted)
        return fitted

    def predict(self, X: Any) -> Array:
        """Predict with the linear model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples, of the array library and device of the training data.

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_targets)
            Predicted values, in the dtype of X.
        """
        check_is_fitted(self)
        refuse_device_arrays(type(self).__name__, X=X)
        check_same_namespace(X, self, attribute="coef_", method="predict")
        dispatch = get_config()["array_api_dispatch"]
        if not dispatch and not isinstance(self.coef_, np.ndarray):
            library = type(self.coef_).__module__.split(".")[0]
            msg = (
                f"This {type(self).__name__} was fitted on {library} arrays, and "
                "array API dispatch is off now. Enable it with "
                "sklearn.set_config(array_api_dispatch=True), or predict with the "
                "copy on the host that to_numpy() returns."
            )
            raise ValueError(msg)
        xp, _, device = get_namespace_and_device(X)
        X = validate_data(
            self,
            X,
            accept_sparse=("csr", "csc"),
            dtype=float_dtypes(xp, device),
            reset=False,
        )
        coef = xp.astype(self.coef_, X.dtype, copy=False)
        intercept = xp.asarray(self.intercept_, dtype=X.dtype)
        return X @ (coef if coef.ndim == 1 else coef.T) + intercept

    def get_support(self, indices: bool = False) -> Array:
        """Return the chosen features.

        Parameters
        ----------
        indices : bool, default=False
            Return indices instead of a mask.

        Returns
        -------
        array of bool, or what `support_` holds
            A mask of shape (n_features,), or (n_targets, n_features) for a
            two-dimensional y; with ``indices=True``, `support_`.
        """
        check_is_fitted(self)
        return self.support_ if indices else self.coef_ != 0

    @property
    def chosen_(self) -> Any:
        """Names of the chosen features."""
        check_is_fitted(self)
        names = self._names()
        if isinstance(self.support_, list):
            return [names[to_host(S)] for S in self.support_]
        return names[to_host(self.support_)]

    def _names(self) -> np.ndarray:
        """The names of all columns: those of X, or x0, x1, ... as scikit-learn has."""
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"x{j}" for j in range(self.n_features_in_)]
        return np.asarray(names, dtype=object)

    def summary(self) -> Any:
        """Return the chosen features and what each is worth, as a table.

        Returns
        -------
        pandas.DataFrame
            A row for each non-zero coefficient, those that matter most first.

            - ``feature``: its name.
            - ``coefficient``: in the units of X and y.
            - ``per_deviation``: the coefficient times the standard deviation of its
              column (the root mean square without an intercept): how much y changes.
            - ``loss_if_removed``: by how much `objective_` would rise without this
              feature, all others refitted. With `groups`, without its group; nan
              above 200 non-zeros. Signs are not enforced in the refit.
            - ``entry``: its place in the order in which forward selection among the
              chosen features takes them; 0 where that is not computed.

            For a two-dimensional y a first column, ``target``, counts the targets.

        Raises
        ------
        ImportError
            Without pandas.

        See Also
        --------
        ChitaRegressor.to_sklearn : For tools that know LinearRegression.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from chita_sklearn import ChitaRegressor
        >>> X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
        >>> model = ChitaRegressor(k=3).fit(X, y)
        >>> print(model.summary().round(2).to_string(index=False))
        feature  coefficient  per_deviation  loss_if_removed  entry
            bmi         6.50          28.68           306.00      1
             s5        49.57          25.87           249.32      2
             bp         0.90          12.48            61.08      3
        """
        check_is_fitted(self)
        try:
            import pandas as pd
        except ImportError as error:
            msg = "summary returns a pandas DataFrame. Run: pip install pandas"
            raise ImportError(msg) from error
        worth = self.contributions_
        coefs = np.atleast_2d(to_host(self.coef_))
        coefficient = coefs[worth["target"], worth["feature"]]
        table = pd.DataFrame(
            {
                "target": worth["target"],
                "feature": self._names()[worth["feature"]],
                "coefficient": coefficient,
                "per_deviation": coefficient * worth["standard_deviation"],
                "loss_if_removed": worth["loss_if_removed"],
                "entry": worth["entry"],
            }
        )
        table = table.sort_values(
            ["target", "loss_if_removed"], ascending=[True, False], kind="stable"
        )
        if self.coef_.ndim == 1:
            table = table.drop(columns="target")
        return table.reset_index(drop=True)

    def to_sklearn(self) -> LinearRegression:
        """Return the fitted model as scikit-learn's own LinearRegression.

        For what knows that class: exporters to ONNX and PMML, explainers. It predicts
        the same, and has no memory of how its features were chosen.

        Returns
        -------
        sklearn.linear_model.LinearRegression
            Fitted, with NumPy arrays.

        Examples
        --------
        >>> import numpy as np
        >>> from chita_sklearn import ChitaRegressor
        >>> X = np.random.default_rng(0).standard_normal((50, 8))
        >>> model = ChitaRegressor(k=2).fit(X, X[:, 3] + 2 * X[:, 5])
        >>> model.to_sklearn().coef_.round(2)
        array([0., 0., 0., 1., 0., 2., 0., 0.])
        """
        check_is_fitted(self)
        host = self.to_numpy()
        # Its own signs are all or none: predictions do not depend on that option.
        linear = LinearRegression(fit_intercept=bool(self.fit_intercept))
        names = ("coef_", "intercept_", "n_features_in_", "feature_names_in_")
        for name in names:
            if hasattr(host, name):
                setattr(linear, name, getattr(host, name))
        return linear

    def to_numpy(self) -> Self:
        """Return a fitted copy on the host, with NumPy attributes.

        For an estimator that was fitted on a GPU: the copy predicts on NumPy arrays,
        and its pickle opens on a machine without one.

        Returns
        -------
        ChitaRegressor
            A copy with the same parameters and the same fitted values. It shares no
            memory with this one.
        """
        check_is_fitted(self)
        host = clone(self)
        for name, value in vars(self).items():
            setattr(host, name, on_host(value))
        return host

    def __sklearn_tags__(self) -> Tags:
        """Declare sparse input and array API support."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = HAS_ARRAY_API
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether a fit has ended: `n_features_in_` alone, set early, is not enough."""
        return hasattr(self, "coef_")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor, as scikit-learn's estimators do."""
        missing = [name for name in self._get_param_names() if name not in vars(self)]
        if missing:
            names = ", ".join(missing)
            msg = (
                f"This {type(self).__name__} was pickled by a release that had no "
                f"{names}, so it is not known what it was fitted with: its "
                "predictions stand, but it cannot be fitted, cloned or printed. Build "
                f"it anew, or set {names} yourself."
            )
            raise AttributeError(msg)
        return dict(super().get_params(deep=deep))

    def _validate_params(self) -> None:
        """Check the constructor's parameters; each error ends with a remedy."""
        check_parameters(
            self.get_params(deep=False),
            self._parameter_constraints,
            type(self).__name__,
            self._remedies,
        )

    def _constraints(
        self, n_features: int, names: Any, n_targets: int = 1
    ) -> Constraints:
        """Return what is asked of the support; `names` are those of the columns."""
        return resolved_constraints(
            n_features,
            names,
            always_include=self.always_include,
            positive=self.positive,
            groups=self.groups,
            target_support=self.target_support,
            n_targets=n_targets,
            solver=self.solver,
        )

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, reset: bool = True
    ) -> tuple[Any, Array, Array | None, Any]:
        """Bring the data to X's array library and device; raise if they are unfit."""
        return checked_data(
            X,
            y,
            sample_weight,
            self.coef_prior,
            caller=type(self).__name__,
            check=partial(validate_data, self, reset=reset),
        )
