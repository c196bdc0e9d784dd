"""`DaskChitaRegressor` and its cross-validation: fits of rows that are elsewhere."""

from __future__ import annotations

from typing import Any, Self, TypeVar

import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from chita_sklearn import ChitaRegressor, ChitaRegressorCV
from chita_sklearn._typing import Criterion, Selection, Solver

from .collect import in_order, moments

__all__ = ["DaskChitaRegressor", "DaskChitaRegressorCV"]

Local = TypeVar("Local", bound=ChitaRegressor)


class _OnDask:
    """What both estimators do on dask collections; the rest is their local class's."""

    _local: type[ChitaRegressor]
    _own = ("client", "fan_in", "split")

    client: Any
    fan_in: int

    @property
    def client_(self) -> Any:
        """The client of the fit: `client`, else the default one; None without any."""
        check_is_fitted(self)
        return _client(self.client)

    def __getstate__(self) -> dict[str, Any]:
        # A client is a connection: a pickle has none, and uses the default where it is.
        state: Any = super().__getstate__()
        return {**state, "client": None}

    def __sklearn_clone__(self) -> Any:
        # A client can neither be copied nor should it be: the clone uses the same.
        given = self.get_params(deep=False)  # type: ignore[attr-defined]
        client = given.pop("client")
        copies = {name: clone(value, safe=False) for name, value in given.items()}
        return type(self)(**copies, client=client)  # type: ignore[call-arg]

    def predict(self, X: Any) -> Any:
        """Predict with the linear model; lazily on a dask collection.

        Parameters
        ----------
        X : dask array or DataFrame, or what the local estimator takes
            Samples.

        Returns
        -------
        dask array, dask Series or DataFrame, or array
            Of the type of X: an array for an array, a Series (for two-dimensional y a
            DataFrame) for a DataFrame. Nothing is computed before it is asked for.
        """
        check_is_fitted(self)
        if not is_dask_collection(X):
            return super().predict(X)  # type: ignore[misc]
        local = self.to_local()
        many = local.coef_.shape[:-1]
        kind = np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64
        if isinstance(X, da.Array):
            if len(X.chunks[1]) > 1:
                X = X.rechunk({1: -1})
            shape = {"chunks": (X.chunks[0], many)} if many else {"drop_axis": 1}
            meta = np.empty((0,) * (1 + len(many)), kind)
            return X.map_blocks(_predicted, local, dtype=kind, meta=meta, **shape)
        meta = _predicted(X._meta_nonempty, local).iloc[:0]
        return X.map_partitions(_predicted, local, meta=meta)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return R squared, from sums where the rows are.

        Parameters
        ----------
        X : dask array or DataFrame, or what the local estimator takes
            Samples.
        y : dask array, Series or DataFrame
            True values, in the same partitions.
        sample_weight : dask array, Series or None, default=None
            Weights.

        Returns
        -------
        float
            R squared; of several targets the mean.
        """
        check_is_fitted(self)
        if not is_dask_collection(X):
            return super().score(X, y, sample_weight)  # type: ignore[misc]
        seen = moments(X, y, sample_weight, client=self.client, fan_in=self.fan_in)
        local: Any = self.to_local()
        return float(np.mean(seen.r2_score(local.coef_, local.intercept_)))

    def to_local(self) -> Any:
        """Return the fitted estimator without dask.

        Returns
        -------
        ChitaRegressor or ChitaRegressorCV
            With the same parameters and attributes: it predicts, and its pickle opens,
            where dask is not installed.
        """
        check_is_fitted(self)
        given = self.get_params(deep=False)  # type: ignore[attr-defined]
        local = self._local(**{n: v for n, v in given.items() if n not in self._own})
        for name, value in vars(self).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(local, name, value)
        return local


def _client(client: Any) -> Any:
    if client is not None:
        return client
    try:
        from distributed import default_client

        return default_client()
    except (ImportError, ValueError):
        return None


def _predicted(X: Any, local: ChitaRegressor) -> Any:
    """Predictions of one partition. A task."""
    if not hasattr(X, "columns"):
        return local.predict(X)
    import pandas as pd

    names = getattr(local, "feature_names_in_", None)
    if names is not None:
        X = in_order(X, list(names))
    found = local.predict(X)
    make: Any = pd.Series if found.ndim == 1 else pd.DataFrame
    return make(found, index=X.index)


class DaskChitaRegressor(_OnDask, ChitaRegressor):
    r"""Least squares with exactly k features on a dask array or data frame.

    The fit of :class:`chita_sklearn.ChitaRegressor` on all rows, and as exact, in one
    pass over them: each partition is summed where it is, into a
    :class:`chita_sklearn.Moments`; a tree of tasks merges the sums; the client solves
    from 8 (p + 2)^2 bytes.

    Parameters
    ----------
    k : int, float or None, default=None
        How many features to choose; this and all parameters but the last two as in
        :class:`chita_sklearn.ChitaRegressor`.

    ridge : float, default=1e-4
        Weight of the ridge term.

    coef_prior : array-like of shape ([n_targets,] n_features) or None, default=None
        Centre of the ridge term.

    fit_intercept : bool, default=True
        Whether to fit the intercept.

    standardize : bool, default=True
        Whether the ridge acts on columns of unit variance.

    always_include : array-like of int or str, or None, default=None
        Features that are always among the k.

    positive : bool or array-like of shape (n_features,), default=False
        Signs of the coefficients.

    solver : str, default="auto"
        How to search for the support.

    n_restarts : int, default=10
        Stop the search after this many consecutive restarts without improvement.

    max_iter : int, default=100
        Largest number of iterations of each descent.

    tol : float, default=1e-4
        The gap that is good enough.

    time_limit : float or None, default=None
        Seconds for the search on the client, once the rows are summed.

    n_solutions : int, default=1
        How many supports to list in `solutions_`.

    warm_start : bool, default=False
        Whether to start from the coefficients of the previous fit.

    random_state : int, RandomState instance or None, default=None
        Seed of the restarts.

    client : distributed.Client or None, default=None
        Where to sum. None is the default client when `fit` is called, and dask's local
        scheduler if there is none. It is not pickled.

    fan_in : int, default=8
        How many partial sums a task merges; see :func:`chita_dask.moments`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients, of NumPy, on the client; as are all attributes of
        :class:`chita_sklearn.ChitaRegressor`, which this has too.

    moments_ : Moments
        The sums over the rows.

    client_ : distributed.Client or None
        The client in use.

    See Also
    --------
    DaskChitaRegressorCV : Chooses k and ridge.
    chita_sklearn.ChitaRegressor : For what fits in memory.

    Notes
    -----
    **Workers that are lost.** Tasks are pure: what a worker had summed is summed again
    by another, and the answer is the same to the last bit. After three losses of the
    same task dask gives up with its ``KilledWorker``, and the estimator is as it was.

    **Cost.** One pass, O(n p^2) over all workers, at most 23,000 columns and reasonable
    for 5,000. Wide data are for one machine, or ranks.

    Examples
    --------
    >>> import dask.array as da
    >>> from chita_dask import DaskChitaRegressor
    >>> X = da.random.default_rng(0).standard_normal((10_000, 30), chunks=(1000, 30))
    >>> y = 3 * X[:, 4] - 2 * X[:, 11] + X[:, 20]
    >>> model = DaskChitaRegressor(k=3, random_state=0).fit(X, y)
    >>> model.support_
    array([ 4, 11, 20])
    >>> model.predict(X)
    dask.array<_predicted, shape=(10000,), dtype=float64, chunksize=(1000,), ...>
    """

    _local = ChitaRegressor

    def __init__(
        self,
        k: int | float | None = None,
        ridge: float = 1e-4,
        *,
        coef_prior: Any = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        always_include: Any = None,
        positive: Any = False,
        solver: Solver = "auto",
        n_restarts: int = 10,
        max_iter: int = 100,
        tol: float = 1e-4,
        time_limit: float | None = None,
        n_solutions: int = 1,
        warm_start: bool = False,
        random_state: Any = None,
        client: Any = None,
        fan_in: int = 8,
    ) -> None:
        super().__init__(
            k,
            ridge,
            coef_prior=coef_prior,
            fit_intercept=fit_intercept,
            standardize=standardize,
            always_include=always_include,
            positive=positive,
            solver=solver,
            n_restarts=n_restarts,
            max_iter=max_iter,
            tol=tol,
            time_limit=time_limit,
            n_solutions=n_solutions,
            warm_start=warm_start,
            random_state=random_state,
        )
        self.client = client
        self.fan_in = fan_in

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Sum the rows where they are, and solve on the client.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), or dask DataFrame
            The rows, in any chunks; lengths need not be known.

        y : dask array, Series or DataFrame
            Target values, in the same partitions of rows.

        sample_weight : dask array, Series or None, default=None
            Weights, at least 0, in the same partitions.

        Returns
        -------
        DaskChitaRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            For partitions that do not belong together, and for NaN or other columns,
            with the partition's number. The estimator is as it was.
        TypeError
            For columns that are no numbers, by name; for what is no dask collection.
        """
        self._validate_params()
        options = {"client": self.client, "fan_in": self.fan_in}
        self.fit_moments(moments(X, y, sample_weight, **options))
        return self


class DaskChitaRegressorCV(_OnDask, ChitaRegressorCV):
    r"""Least squares with k features, k and ridge chosen, on dask collections.

    As :class:`chita_sklearn.ChitaRegressorCV`, in one pass over the rows: each
    partition is summed fold by fold, and every model is fitted on and scored from the
    sums. scikit-learn's ``GridSearchCV`` does not take dask collections; this does its
    work.

    Parameters
    ----------
    ks : int, array-like of int or None, default=None
        Numbers of features to choose from; this and all parameters but `cv` and the
        last three as in :class:`chita_sklearn.ChitaRegressorCV`.

    ridges : float, array-like of float or None, default=None
        Weights of the ridge term to choose from.

    criterion : {"cv", "aic", "bic", "ebic"}, default="cv"
        What to choose by.

    cv : int or None, default=None
        How many folds; None is 5.

    scoring : str or None, default=None
        Score of the part held out: None or "neg_mean_squared_error",
        "neg_root_mean_squared_error" or "r2". Others need single rows.

    selection : {"best", "one_se"}, default="best"
        Which pair to choose.

    coef_prior : array-like of shape (n_features,) or None, default=None
        Centre of the ridge term.

    fit_intercept : bool, default=True
        Whether to fit the intercept.

    standardize : bool, default=True
        Whether the ridge acts on columns of unit variance.

    always_include : array-like of int or str, or None, default=None
        Features that are always among the k.

    positive : bool or array-like of shape (n_features,), default=False
        Signs of the coefficients.

    solver : str, default="auto"
        How to search for the supports.

    n_restarts : int, default=10
        Stop each search after this many consecutive restarts without improvement.

    max_iter : int, default=100
        Largest number of iterations of each descent.

    tol : float, default=1e-4
        The gap that is good enough.

    time_limit : float or None, default=None
        Seconds for the search on the client, once the rows are summed.

    n_jobs : int or None, default=None
        Processes on the client to solve folds on.

    random_state : int, RandomState instance or None, default=None
        Seed of the restarts.

    client : distributed.Client or None, default=None
        Where to sum, as in :class:`DaskChitaRegressor`.

    fan_in : int, default=8
        How many partial sums a task merges.

    split : {"rows", "partitions"}, default="rows"
        What makes a fold: rows drawn within each partition, the same each time; or
        whole partitions, dealt in turn.

    Attributes
    ----------
    k_ : int
        The chosen number of features.

    ridge_ : float
        The chosen ridge. All attributes of :class:`chita_sklearn.ChitaRegressorCV` are
        there.

    client_ : distributed.Client or None
        The client in use.

    See Also
    --------
    DaskChitaRegressor : For a k and a ridge that are known.
    chita_sklearn.ChitaRegressorCV : For what fits in memory.

    Examples
    --------
    >>> import dask.array as da
    >>> from chita_dask import DaskChitaRegressorCV
    >>> rng = da.random.default_rng(0)
    >>> X = rng.standard_normal((10_000, 20), chunks=(1000, 20))
    >>> y = 3 * X[:, 4] - 2 * X[:, 11] + rng.standard_normal(10_000, chunks=1000)
    >>> DaskChitaRegressorCV(4, selection="one_se").fit(X, y).support_
    array([ 4, 11])
    """

    _local = ChitaRegressorCV

    def __init__(
        self,
        ks: Any = None,
        ridges: Any = None,
        *,
        criterion: Criterion = "cv",
        cv: int | None = None,
        scoring: Any = None,
        selection: Selection = "best",
        coef_prior: Any = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        always_include: Any = None,
        positive: Any = False,
        solver: Solver = "auto",
        n_restarts: int = 10,
        max_iter: int = 100,
        tol: float = 1e-4,
        time_limit: float | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        client: Any = None,
        fan_in: int = 8,
        split: str = "rows",
    ) -> None:
        super().__init__(
            ks,
            ridges,
            criterion=criterion,
            cv=cv,
            scoring=scoring,
            selection=selection,
            coef_prior=coef_prior,
            fit_intercept=fit_intercept,
            standardize=standardize,
            always_include=always_include,
            positive=positive,
            solver=solver,
            n_restarts=n_restarts,
            max_iter=max_iter,
            tol=tol,
            time_limit=time_limit,
            n_jobs=n_jobs,
            random_state=random_state,
        )
        self.client = client
        self.fan_in = fan_in
        self.split = split

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:
        """Sum the rows where they are, fold by fold; choose and solve on the client.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), or dask DataFrame
            The rows, in any chunks; lengths need not be known.

        y : dask array or Series
            Target values, in the same partitions of rows.

        sample_weight : dask array, Series or None, default=None
            Weights, at least 0, in the same partitions.

        **params : dict
            None are taken: there is no splitter to route metadata to.

        Returns
        -------
        DaskChitaRegressorCV
            The fitted estimator.

        Raises
        ------
        ValueError
            As :meth:`DaskChitaRegressor.fit`, and for a fold without rows.
        TypeError
            As :meth:`DaskChitaRegressor.fit`; for a `cv` that is no number, and for
            metadata.
        """
        if params:
            msg = f"fit takes no metadata. Got {', '.join(params)}. Leave them out."
            raise TypeError(msg)
        self._validate_params()
        if not (self.cv is None or isinstance(self.cv, int)):
            msg = (
                f"cv={self.cv!r}; on dask collections it must be a number of folds. "
                "Use split='partitions' for rows that belong together."
            )
            raise TypeError(msg)
        folds = (self.cv or 5) if self.criterion == "cv" else None
        self.fit_moments(
            moments(
                X,
                y,
                sample_weight,
                folds=folds,
                split=self.split,
                client=self.client,
                fan_in=self.fan_in,
            )
        )
        return self
