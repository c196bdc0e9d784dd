"""`ChitaRegressorCV`: k and ridge chosen by cross-validation or a criterion.

The grid of pairs is scored on folds, or by a criterion, and widened while the best pair
lies on its edge (`_grid`, `_folds`); the pair chosen is solved on all data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Self, get_args

import numpy as np
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed

from ._compat import (
    Number,
    StrOptions,
    _fit_context,
    _raise_for_params,
    _routing_enabled,
    float_dtypes,
    get_namespace_and_device,
    with_callbacks,
)
from ._fitted import contributions_of_path, forget, model_of_path, remember
from ._folds import (
    SCORES,
    Found,
    RowsFold,
    SumsFold,
    all_but_one,
    searched,
    sums_of,
    usable,
)
from ._grid import FIRST_RIDGES, Grid, first_ks
from ._moments import Moments, checked_moments
from ._reporting import at_k, warn_of, warn_of_units
from ._selection import by_criterion, by_folds
from ._typing import Array, Criterion, Selection, Solver, TargetSupport
from ._validation import (
    CONSTRAINTS,
    REMEDIES,
    checked_cv,
    checked_folds,
    checked_priors,
    checked_targets,
    present,
    resolved_ks,
    resolved_ridges,
    resolved_seed,
)
from .core import Deadline, LeastSquares, SeveralTargets, least_squares
from .core.arrays import to_host
from .path import ChitaPath, path_of
from .regressor import ChitaRegressor

__all__ = ["ChitaRegressorCV"]

CRITERIA = get_args(Criterion)


class ChitaRegressorCV(ChitaRegressor):
    r"""Least squares with k features, k and ridge chosen from the data.

    For every k of `ks` and every ridge of `ridges`, the problem of
    :class:`ChitaRegressor` is solved on the training part of each fold, in one sweep
    along k and ridge, and the models are scored on the part held out. The pair
    with the best mean score (or the smallest k that is nearly as good) is then solved
    on all data. An information criterion can choose instead, without folds.

    Parameters
    ----------
    ks : int, array-like of int or None, default=None
        Numbers of features to choose from. An int k stands for 0, 1, ..., k, where 0 is
        the intercept alone: no feature is an answer. Numbers above n_features count as
        n_features. None begins with 0 to 10 and goes on by factors of about 1.4 to
        twice the best, at most about the number of samples.

    ridges : float, array-like of float or None, default=None
        Weights of the ridge term to choose from, each at least 0. The loss is a mean
        over the samples and, with `standardize`, the ridge acts on columns of unit
        variance, so the grid depends neither on how many there are nor on units. None
        begins with 1e-3, 1e-2, 1e-1 and 1, and goes on by factors of 10 for as long as
        the best is the largest, or the smallest by more than 0.1 % of the loss.

    criterion : {"cv", "aic", "bic", "ebic"}, default="cv"
        What to choose by.

        - "cv": the mean score over the folds.
        - "aic", "bic", "ebic": the criterion of that name on all data, see
          :func:`aic`, :func:`bic` and :func:`ebic`, with the effective degrees of
          freedom of the ridge fit as its size and ``gamma=1``. Every pair is searched
          with restarts, which often takes longer than the folds do; `cv` and `scoring`
          are not used.

    cv : int, cross-validation generator or iterable, default=None
        Folds: an int for that many, None for 5, a :term:`CV splitter`, or an iterable
        of (train, test) indices.

    scoring : str, callable or None, default=None
        Score of a model on the part held out, larger is better: a name that
        scikit-learn knows, or a callable ``(estimator, X, y)``. None is minus the mean
        squared error, weighted by `sample_weight`.

    selection : {"best", "one_se"}, default="best"
        Which pair to choose.

        - "best": the best mean score, or the smallest criterion. Of pairs that are
          equal, the smallest k.
        - "one_se": the smallest k whose mean score, at any ridge, is within one
          standard error of the best; of its ridges the best. The standard error is
          that of the best pair's mean over the folds. Needs ``criterion="cv"``.

    coef_prior : array-like of shape (n_features,) or None, default=None
        Centre of the ridge term; None is zero.

    fit_intercept : bool, default=True
        Whether to fit the intercept.

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

    solver : {"auto", "swap", "admm", "dual", ...}, default="auto"
        How to search for the supports; see :class:`ChitaRegressor`.

    n_restarts : int, default=10
        The search on all data ends after so many consecutive restarts without
        improvement. On folds, which are for telling pairs apart, and for other k on
        `path_`, there are none; with a criterion, each k is searched like that.

    max_iter : int, default=100
        Largest number of iterations of each descent.

    tol : float, default=1e-4
        Relative precision at which to stop.

    time_limit : float or None, default=None
        Seconds for the fit. The folds are scored first, whatever it takes; what is
        left then bounds the search on all data, as in :func:`chita_path`, and a grid
        is widened only while something is left. With a criterion, each ridge of the
        grid has an equal share. None for no limit.

    n_jobs : int or None, default=None
        How many folds (with a criterion: ridges) to work on at a time. None is 1, -1
        all processors.

    random_state : int, RandomState instance or None, default=None
        Seed of the restarts, the same for all fits. The folds have their own, in `cv`.

    Attributes
    ----------
    k_ : int
        The chosen number of features.

    ridge_ : float
        The chosen ridge.

    ks_ : array of int, shape (n_ks,)
        The numbers of features tried, ascending.

    ridges_ : array of shape (n_ridges,)
        The ridges tried, ascending.

    score_path_ : array of shape (n_ridges, n_ks, n_folds)
        Scores on the parts held out. Only with ``criterion="cv"``.

    stability_ : array of shape (n_features,)
        Share of the folds in which the model with the chosen k and ridge has the
        feature: 1 for what does not hang on some of the samples. Only with
        ``criterion="cv"``.

    criterion_path_ : array of shape (n_ridges, n_ks)
        Values of the criterion. Only with another `criterion`.

    cv_results_ : dict of ndarrays
        One entry a pair of ridge and k, in the order of `score_path_`: ``param_k``,
        ``param_ridge`` and ``params``, then ``split0_test_score`` and so on,
        ``mean_test_score``, ``std_test_score`` and ``rank_test_score``; or, with
        another `criterion`, ``n_nonzero``, ``rss``, ``degrees_of_freedom``, the
        criterion under its name and its rank (``rank_ebic``). A pandas DataFrame can be
        made of it.

    best_index_ : int
        The chosen pair's place in `cv_results_`.

    best_score_ : float
        Its mean score, or minus its criterion.

    path_ : ChitaPath
        The solutions on all data for all k at the chosen ridge; with ``criterion="cv"``
        from a search without restarts, but for the chosen k.

    coef_ : array of shape (n_features,)
        Coefficients of the chosen pair on all data.

    intercept_ : float
        Intercept; 0.0 if ``fit_intercept=False``.

    support_ : array of int
        Indices of the non-zero coefficients, ascending.

    objective_, lower_bound_, gap_ : float
        Objective of the chosen pair on all data, what it cannot fall below, and the
        relative difference of the two; see :class:`ChitaRegressor`.

    n_iter_ : int
        Iterations that led to the chosen solution.

    solver_history_ : tuple of str
        What the solver ran for it, in order, in words.

    chosen_ : ndarray of str or list of ndarrays of str
        Names of the features in `support_`: those of the columns of X, or x0, x1, ...

    contributions_ : dict of ndarrays
        One entry for each non-zero coefficient: ``target``, ``feature`` (its index),
        ``standard_deviation`` of the column, ``loss_if_removed``, and ``entry``: the
        smallest k from which on `path_` always has it.

    n_features_in_ : int
        Number of features seen during :term:`fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during :term:`fit`. Defined only when `X`
        has feature names that are all strings.

    See Also
    --------
    ChitaRegressor : For a k and a ridge that are known.
    chita_path : The path alone, with all coefficients.
    CVDisplay : Draws the scores.
    sklearn.linear_model.OrthogonalMatchingPursuitCV : Greedy choice.
    sklearn.linear_model.LassoCV : Convex relaxation.

    Notes
    -----
    **Pipelines.** A scaler in front of this estimator sees all data before the folds
    are made, held-out parts included. For column means and variances that matters
    little; a step that uses y belongs inside the folds:
    ``GridSearchCV(make_pipeline(step, ChitaRegressor()), ...)``.

    **Criteria.** A criterion counts coefficients and takes no account of the search
    among features ("ebic" takes the number of models into account), and trusts the
    residual on the training data. Pairs with as many non-zeros as there are samples
    fit anything, and are not considered. Where there are far more features than
    samples, a thorough search finds supports that fit by chance; folds notice.

    **Weights.** `sample_weight` enters each fit and each fold's mean squared error;
    the mean over the folds is not weighted. With `scoring`, it is passed to the scorer;
    with metadata routing only if the scorer asks for it. For a criterion the number of
    samples is the sum of the weights.

    **Array libraries.** As for :class:`ChitaRegressor`, the fit runs where X is and the
    attributes are arrays of its library; `cv_results_` and the statistics of `path_`
    are NumPy's.

    **Cost.** For each fold a sweep along k and ridge, each support improved by swaps
    from that of a neighbour, without restarts; and one path on all data. Where X is a
    dense array with far more rows than columns, the folds are formed from sums over
    rows, of which each row enters one.

    Examples
    --------
    >>> import numpy as np
    >>> from chita_sklearn import ChitaRegressorCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 30))
    >>> y = 3 * X[:, 4] - 2 * X[:, 11] + X[:, 20] + 0.5 * rng.standard_normal(100)
    >>> model = ChitaRegressorCV(6, selection="one_se", random_state=0).fit(X, y)
    >>> model.k_
    3
    >>> model.support_
    array([ 4, 11, 20])
    >>> model.score_path_.shape
    (4, 7, 5)
    >>> ChitaRegressorCV(6, criterion="ebic", random_state=0).fit(X, y).k_
    3
    """

    _parameter_constraints: dict = {  # noqa: RUF012 (scikit-learn's own protocol)
        "ks": [Number(Integral, 1, None, closed="left"), "array-like", None],
        "ridges": [Number(Real, 0, None, closed="left"), "array-like", None],
        "criterion": [StrOptions(set(CRITERIA))],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "selection": [StrOptions({"best", "one_se"})],
        "n_jobs": [Integral, None],
        **{name: rule for name, rule in CONSTRAINTS.items() if name != "ridge"},
    }
    _remedies = {  # noqa: RUF012
        **REMEDIES,
        "ks": "Pass an int (k stands for 0, ..., k), a list of ints, 0 or more, or "
        "None to have them found.",
        "ridges": "Pass a finite non-negative number, a list of them, or None to have "
        "them found.",
        "criterion": "Pass 'cv' to choose by folds.",
        "cv": "Pass the number of folds, 2 or more, or a splitter.",
        "scoring": "Pass None for the mean squared error.",
        "selection": "Pass 'one_se' for fewer features at nearly the best score.",
        "n_jobs": "Pass the number of processors to use, or None for one.",
    }

    ridge_: float
    ks_: Array
    ridges_: Array
    score_path_: Array
    stability_: Array
    criterion_path_: Array
    cv_results_: dict[str, Any]
    best_index_: int
    best_score_: float
    path_: ChitaPath

    def __init__(
        self,
        ks: Any = None,
        ridges: Any = None,
        *,
        criterion: Criterion = "cv",
        cv: Any = None,
        scoring: Any = None,
        selection: Selection = "best",
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
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.ks = ks
        self.ridges = ridges
        self.criterion = criterion
        self.cv = cv
        self.scoring = scoring
        self.selection = selection
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
        self.n_jobs = n_jobs
        self.random_state = random_state

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:
        """Choose k and ridge, and fit the coefficients on all data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data; never written to. float32 is kept, other types become
            float64. scipy.sparse matrices are used as CSC and never made dense.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target values; moved to the array library, device and dtype of X.

        sample_weight : float or array-like of shape (n_samples,), default=None
            Weights, at least 0 and not all 0 in the training part of any fold.

        **params : dict
            Metadata for the splitter (such as ``groups``) and the scorer. Only with
            ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        ChitaRegressorCV
            The fitted estimator.

        Raises
        ------
        ValueError
            For what :class:`ChitaRegressor` refuses; a two-dimensional y with
            ``target_support="separate"``, or with a `criterion` other than "cv"; `ks`
            or `ridges` out of range; ``selection="one_se"`` without folds; a fold
            without weight; scores that are all nan.
        TypeError
            For a parameter of the wrong type, a sparse y, or an array in GPU memory
            without array API dispatch.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached on all data while a solution was still improving.
        UserWarning
            If a fold has no weight in its test part, and is left out; if k or ridge
            is chosen at an end of the `ks` or `ridges` given; or if a ridge of 0 is
            chosen and the columns of a support are linearly dependent.
        """
        _raise_for_params(params, self, "fit")
        forget(self)
        self._check_selection()
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        inputs = {"X": X, "y": y, "metadata": metadata | params or None}
        X, y, sample_weight, xp = self._validated(X, y, sample_weight)
        y = checked_targets(y, self.target_support)
        priors = checked_priors(self.coef_prior, X, y, xp)
        names = getattr(self, "feature_names_in_", None)
        grid = self._grid(int(X.shape[1]), names, len(priors))
        options = self._options(grid.constraints.signs_like(y)) | {"priors": priors}
        build = partial(_problem, options=options)
        folds: list[Any] = []
        if self.criterion == "cv":
            cv = checked_cv(self.cv)
            split_params, score_params = self._routed(sample_weight, params)
            pairs = usable(
                checked_folds(cv.split(X, y, **split_params), int(X.shape[0])),
                sample_weight,
            )
            sums = None
            if self.scoring in SCORES:
                sums = sums_of(X, y, sample_weight, pairs)
            if sums is not None:
                one = self._options(grid.constraints.signs_like(y))
                folds = self._sums_folds(all_but_one(sums)[0], sums, one, priors[0])
            else:
                folds = [
                    RowsFold(
                        X,
                        y,
                        sample_weight,
                        pair,
                        build,
                        ChitaRegressor,
                        self._scorer(),
                        score_params,
                    )
                    for pair in pairs
                ]
            least = min(len(train) for train, _ in pairs)
        else:
            least = int(X.shape[0])
        grid = self._with_limit(grid, least)
        rows = y if sample_weight is None else y[sample_weight > 0]
        fitted = self._found(
            folds,
            grid,
            partial(_problem_of, X, y, sample_weight, build),
            int(rows.shape[0]),
            names,
            (xp, y.device),
            inputs,
        )
        remember(self, fitted)
        return self

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit_moments(self, moments: Moments | Sequence[Moments]) -> Self:
        """Choose k and ridge, and fit the coefficients, from sums over rows.

        With one :class:`Moments` for each fold. The models for a fold are fitted on
        the sums of the others and scored on its own, and no row is read again.

        Parameters
        ----------
        moments : sequence of Moments, or Moments
            One for each fold, of different rows, as
            ``chita_sklearn.moments(X, y, folds=5)`` returns. A single object does with
            a `criterion` other than "cv", which needs no folds. None is changed.

        Returns
        -------
        ChitaRegressorCV
            The fitted estimator.

        Raises
        ------
        ValueError
            For fewer than two folds with ``criterion="cv"``; a `scoring` other than
            None, "neg_mean_squared_error", "neg_root_mean_squared_error" and "r2",
            which needs rows; features that differ between folds; and what :meth:`fit`
            refuses.
        TypeError
            For something other than Moments.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached on all data while a solution was still improving.
        UserWarning
            If a ridge of 0 is chosen and the columns of a support are linearly
            dependent.

        Notes
        -----
        Costs a path of n_features + 1 rows for each fold and ridge, and three merges a
        fold. `cv` is not used: the folds are those of the sums.

        Examples
        --------
        >>> import numpy as np
        >>> from chita_sklearn import ChitaRegressorCV, moments
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((1000, 20))
        >>> y = 3 * X[:, 4] - 2 * X[:, 11] + rng.standard_normal(1000)
        >>> folds = moments(X, y, folds=5)
        >>> ChitaRegressorCV(4, criterion="ebic").fit_moments(folds).support_
        array([ 4, 11])
        """
        folds = [moments] if isinstance(moments, Moments) else list(moments)
        for fold in folds:
            checked_moments(fold)
            fold.check_one_target()
        self._check_selection()
        if self.criterion == "cv" and len(folds) < 2:
            msg = (
                f"criterion='cv' needs Moments of two folds or more. Got {len(folds)}. "
                "Pass chita_sklearn.moments(X, y, folds=5), or criterion='ebic'."
            )
            raise ValueError(msg)
        if self.criterion == "cv" and self.scoring not in SCORES:
            msg = (
                f"scoring={self.scoring!r} needs rows, which Moments do not keep. "
                f"Choose one of {', '.join(map(repr, SCORES))}."
            )
            raise ValueError(msg)
        train, whole = all_but_one(folds)
        X, y = whole.like()
        (prior,) = checked_priors(self.coef_prior, X, y, np)
        names = getattr(whole, "feature_names_in_", None)
        grid = self._grid(whole.n_features_in_, names, 1)
        options = self._options(grid.constraints.signs_like(y))
        by_folds = self.criterion == "cv"
        sums = self._sums_folds(train, folds, options, prior) if by_folds else []
        least = min(m.n_samples_ for m in (train if by_folds else [whole]))
        grid = self._with_limit(grid, int(least))
        fitted = self._found(
            sums,
            grid,
            partial(whole.problem, prior=prior, **options),
            whole.n_samples_,
            names,
            (get_namespace_and_device(y)[0], y.device),
            {"X": None, "y": None, "metadata": None},
        )
        forget(self)
        fitted["n_features_in_"] = whole.n_features_in_
        if hasattr(whole, "feature_names_in_"):
            fitted["feature_names_in_"] = whole.feature_names_in_
        remember(self, fitted)
        return self

    def _check_selection(self) -> None:
        if self.selection == "one_se" and self.criterion != "cv":
            msg = (
                f"selection='one_se' with criterion={self.criterion!r}: the standard "
                "error is one over folds, and there are none. Pass criterion='cv' or "
                "selection='best'."
            )
            raise ValueError(msg)

    def _grid(self, n_features: int, names: Any, n_targets: int) -> Grid:
        """Return the numbers of features and the ridges to begin with."""
        constraints = self._constraints(n_features, names, n_targets)
        if constraints.jointly and self.criterion != "cv":
            one, other = f"criterion={self.criterion!r}", "target_support"
            reason = "a criterion is of one target; use criterion='cv'"
            msg = f"{one} and {other} cannot be combined: {reason}."
            raise ValueError(msg)
        ks = [] if self.ks is None else resolved_ks(self.ks, constraints.n_units, 0)
        if ks:
            ks = constraints.with_room(ks, self.ks, "ks")
        ridges = FIRST_RIDGES if self.ridges is None else self.ridges
        free = self.ridges is None
        return Grid(ks, resolved_ridges(ridges), constraints, free_ridges=free)

    def _with_limit(self, grid: Grid, n_rows: int) -> Grid:
        """Begin with few features, and know how far to go: up to about the rows.

        By a criterion, which trusts the residual, up to a third of them.
        """
        if self.ks is not None:
            return grid
        room = n_rows - 2 if self.criterion == "cv" else n_rows // 3
        constraints = grid.constraints
        most = min(constraints.n_units, max(room, 1))
        ks = constraints.with_room(first_ks(most), most, "k")
        return grid._replace(ks=ks, most=most)

    def _sums_folds(
        self,
        train: list[Moments],
        test: list[Moments],
        options: dict[str, Any],
        prior: Array | None,
    ) -> list[SumsFold]:
        options = {**options, "prior": prior}
        score = SCORES[self.scoring]
        pairs = zip(train, test, strict=True)
        return [SumsFold(*pair, options, score) for pair in pairs]

    def _options(self, signs: Array | None) -> dict[str, Any]:
        """Return what the problem of every fold is built with."""
        return {
            "fit_intercept": bool(self.fit_intercept),
            "standardize": bool(self.standardize),
            "signs": signs,
        }

    def _found(
        self,
        folds: Sequence[RowsFold | SumsFold],
        grid: Grid,
        whole: Callable[[], LeastSquares | SeveralTargets],
        n_rows: int,
        names: Any,
        place: tuple[Any, Any],
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        """Choose, and solve the problem of all data: fitted attributes."""
        effort: dict[str, Any] = {
            "pattern_of": grid.constraints.pattern,
            "solver": self.solver,
            "max_iter": int(self.max_iter),
            "tol": float(self.tol),
            "seed": resolved_seed(self.random_state),
        }
        search: Any = partial(path_of, n_restarts=int(self.n_restarts), **effort)
        clock = Deadline(self.time_limit)
        # How often the grid is widened is not known in advance.
        task = self._init_callback_context(max_subtasks=None)
        task.call_on_fit_task_begin(estimator=self, **inputs)

        def done(jobs: list[Any]) -> list[Any]:
            results = []
            for result in Parallel(n_jobs=self.n_jobs, return_as="generator")(jobs):
                part = task.subcontext(task_name="part", max_subtasks=0)
                part.call_on_fit_task_begin(estimator=self, **inputs)
                part.call_on_fit_task_end(estimator=self, **inputs)
                results.append(result)
            return results

        if self.criterion == "cv":
            grid, fitted, loss = self._by_folds(folds, grid, effort, done, clock)
            ridge = fitted["ridge_"]
            problem = whole().with_target(ridge=ridge)
            path = search(
                problem,
                grid.ks,
                ridge=ridge,
                time_limit=clock.share(1),
                restarted=[fitted["k_"]],
            )
        else:
            room = n_rows - bool(self.fit_intercept)
            problem = whole()
            problem.column_norms()  # once, for all ridges
            grid, fitted, loss, path = self._by_criterion(
                problem, grid, search, done, room, clock
            )
            problem = problem.with_target(ridge=fitted["ridge_"])
        ks = grid.ks
        grid.warn_of_edges(loss, fitted["k_"], fitted["ridge_"], stacklevel=5)
        # Out of here, the fit and its two decorators: to the caller's line.
        warn_of_units(problem, names, stacklevel=5)
        warn_of(path.statuses, partial(at_k, path.ks), stacklevel=5)
        chosen = ks.index(fitted["k_"])
        fitted |= model_of_path(replace(path, feature_names=names), chosen)
        fitted["contributions_"] = contributions_of_path(
            path, chosen, problem, grid.constraints
        )
        # Array attributes live where X does; what tables are made of is NumPy's.
        xp, device = place
        where = {"dtype": float_dtypes(xp, device)[0], "device": device}
        for name in ("ridges_", "score_path_", "stability_", "criterion_path_"):
            if name in fitted:
                fitted[name] = xp.asarray(fitted[name], **where)
        fitted["ks_"] = xp.asarray(fitted["ks_"], device=device)
        task.call_on_fit_task_end(
            estimator=self, **inputs, reconstruction_attributes=fitted
        )
        return fitted

    def _by_folds(
        self,
        folds: Sequence[Any],
        grid: Grid,
        effort: dict[str, Any],
        done: Any,
        clock: Deadline,
    ) -> tuple[Grid, dict[str, Any], np.ndarray]:
        """Score all pairs on all folds, and more pairs while the best is on an edge."""
        found = [Found() for _ in folds]
        wider: Grid | None = grid
        while wider is not None:
            grid = wider
            jobs = [
                delayed(searched)(fold, known, grid.ridges, grid.ks, effort)
                for fold, known in zip(folds, found, strict=True)
            ]
            found = done(jobs)
            tables = [one.table(grid.ridges, grid.ks) for one in found]
            scores = np.stack(tables, axis=-1)
            fitted, loss = by_folds(scores, grid.ks, grid.ridges, self.selection)
            wider = None if clock.over() else grid.widened(loss)
        pair = fitted["ridge_"], fitted["k_"]
        p = grid.constraints.n_features
        masks = [to_host(one.supports[pair]).reshape(-1, p) for one in found]
        fitted["stability_"] = np.mean([mask.any(axis=0) for mask in masks], axis=0)
        return grid, fitted, loss

    def _by_criterion(
        self,
        problem: Any,
        grid: Grid,
        search: Any,
        done: Any,
        room: int,
        clock: Deadline,
    ) -> tuple[Grid, dict[str, Any], np.ndarray, ChitaPath]:
        """The same by a criterion of the paths on all data."""
        wider: Grid | None = grid
        while wider is not None:
            grid = wider
            limit = clock.share(len(grid.ridges))
            along = partial(search, ks=grid.ks, time_limit=limit)
            jobs = [delayed(_at_ridge)(problem, r, along) for r in grid.ridges]
            paths = done(jobs)
            fitted, loss = by_criterion(
                paths,
                grid.ks,
                grid.ridges,
                self.criterion,
                room,
                grid.constraints.labels,
            )
            wider = None if clock.over() else grid.widened(loss)
        path = paths[grid.ridges.index(fitted["ridge_"])]
        return grid, fitted, loss, path

    def to_numpy(self) -> Self:
        """Return a fitted copy on the host, with NumPy attributes.

        Returns
        -------
        ChitaRegressorCV
            A copy with the same parameters and the same fitted values. It shares no
            memory with this one.
        """
        host = super().to_numpy()
        host.path_ = self.path_.to_numpy()
        return host

    def get_metadata_routing(self) -> MetadataRouter:
        """Say which metadata goes to the splitter and to the scorer.

        Returns
        -------
        MetadataRouter
            What :meth:`fit` does with the metadata it is given.
        """
        to = MethodMapping
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(
            splitter=check_cv(self.cv),
            method_mapping=to().add(caller="fit", callee="split"),
        )
        if self.scoring is not None:
            router.add(
                scorer=self._scorer(),
                method_mapping=to().add(caller="fit", callee="score"),
            )
        return router

    def __sklearn_tags__(self) -> Tags:
        """Declare that there is one target."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags

    def _scorer(self) -> Any:
        return None if self.scoring is None else get_scorer(self.scoring)

    def _routed(
        self, sample_weight: Array | None, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the metadata for `split` and for the scorer."""
        if _routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            return routed.splitter.split, routed.get("scorer", {}).get("score", {})
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return {}, weights


def _problem_of(
    X: Any, y: Array, sample_weight: Array | None, build: Any
) -> LeastSquares | SeveralTargets:
    return build(*present(X, y, sample_weight))


def _problem(
    X: Any, y: Array, sample_weight: Array | None, options: dict[str, Any]
) -> LeastSquares | SeveralTargets:
    return least_squares(X, y, sample_weight=sample_weight, **options)


def _at_ridge(
    problem: LeastSquares | SeveralTargets, ridge: float, search: Any
) -> ChitaPath:
    """Return the path over k at one ridge; the problem's products are shared."""
    return search(problem.with_target(ridge=ridge), ridge=ridge)
