"""`ChitaSelector`: the chosen columns and no others, as a step of a pipeline."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ._compat import Number, _fit_context
from ._fitted import forget, remember
from ._validation import REMEDIES, check_parameters
from .core.arrays import to_host
from .regressor import ChitaRegressor

__all__ = ["ChitaSelector"]


class ChitaSelector(SelectorMixin, BaseEstimator):
    """Keep the k columns that :class:`ChitaRegressor` chooses.

    A transformer: all chosen columns are kept, however small their coefficients.

    Parameters
    ----------
    k : int, float or None, default=None
        How many columns to keep, as in :class:`ChitaRegressor`: their number, or a
        share of them; None is 10 %, or what `estimator` says.

    estimator : ChitaRegressor or ChitaRegressorCV, default=None
        The regressor that chooses, with other options. It is cloned, not fitted.
        :class:`ChitaRegressorCV` chooses how many as well; leave k at None then.

    Attributes
    ----------
    estimator_ : ChitaRegressor or ChitaRegressorCV
        The fitted regressor: `summary`, gap and all.

    n_features_in_ : int
        Number of features seen during :term:`fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during :term:`fit`. Defined only when `X`
        has feature names that are all strings.

    See Also
    --------
    ChitaRegressor : Chooses the columns and predicts with them.
    sklearn.feature_selection.SequentialFeatureSelector : Greedy, for any model.

    Notes
    -----
    Of a two-dimensional y the columns chosen for any target are kept; k for all of
    them together with ``ChitaRegressor(target_support="shared")`` as `estimator`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neighbors import KNeighborsRegressor
    >>> from sklearn.pipeline import make_pipeline
    >>> from chita_sklearn import ChitaSelector
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = make_pipeline(ChitaSelector(3), KNeighborsRegressor(20)).fit(X, y)
    >>> model[0].get_feature_names_out()
    array(['bmi', 'bp', 's5'], dtype=object)
    """

    _parameter_constraints: dict = {  # noqa: RUF012 (scikit-learn's own protocol)
        "k": [
            Number(Integral, 0, None, closed="left"),
            Number(Real, 0, 1, closed="right"),
            None,
        ],
        "estimator": [ChitaRegressor, None],
    }
    _remedies = {  # noqa: RUF012
        "k": f"{REMEDIES['k']} A regressor goes by name: estimator=.",
        "estimator": "Pass a ChitaRegressor or a ChitaRegressorCV, or None.",
    }

    estimator_: ChitaRegressor
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        k: int | float | None = None,
        *,
        estimator: ChitaRegressor | None = None,
    ) -> None:
        self.k = k
        self.estimator = estimator

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:
        """Choose the columns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target values.

        sample_weight : float or array-like of shape (n_samples,), default=None
            Weights, at least 0 and not all 0.

        **params : dict
            What the `fit` of `estimator` takes besides, such as the ``groups`` of a
            splitter.

        Returns
        -------
        ChitaSelector
            The fitted transformer.

        Raises
        ------
        ValueError
            For k beside an estimator that chooses it, and for what the regressor
            refuses.
        """
        forget(self)
        regressor = ChitaRegressor() if self.estimator is None else self.estimator
        regressor = clone(regressor)
        if self.k is not None:
            if "k" not in regressor.get_params(deep=False):
                msg = (
                    f"k={self.k!r} beside estimator={type(regressor).__name__}(...), "
                    "which chooses k itself. Leave k at None, or pass its ks."
                )
                raise ValueError(msg)
            regressor.set_params(k=self.k)
        regressor.fit(X, y, sample_weight=sample_weight, **params)
        fitted = {"estimator_": regressor, "n_features_in_": regressor.n_features_in_}
        if hasattr(regressor, "feature_names_in_"):
            fitted["feature_names_in_"] = regressor.feature_names_in_
        remember(self, fitted)
        return self

    def _get_support_mask(self) -> np.ndarray:
        """Which columns are kept; what `SelectorMixin` builds upon."""
        check_is_fitted(self)
        mask = np.asarray(to_host(self.estimator_.get_support()))
        return mask if mask.ndim == 1 else np.logical_or.reduce(mask)

    def _validate_params(self) -> None:
        """Check the constructor's parameters; each error ends with a remedy."""
        check_parameters(
            self.get_params(deep=False),
            self._parameter_constraints,
            type(self).__name__,
            self._remedies,
        )

    def __sklearn_tags__(self) -> Tags:
        """Declare that y is needed, and sparse input taken."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags
