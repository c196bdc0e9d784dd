"""`PathDisplay`: coefficients or the objective along k."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._typing import PathKind
from ..path import ChitaPath, chita_path
from ..regressor import ChitaRegressor
from .canvas import (
    COLOURS,
    GREY,
    MARKERS,
    axes,
    finish,
    last_step,
    looks,
    names_at_the_end,
    reaching,
)

__all__ = ["PathDisplay"]

MOST_LABELS = 28  # as many as there are looks that differ


class PathDisplay:
    """The path of solutions along k: coefficients, or the objective and its bound.

    Make it with :meth:`from_path` or :meth:`from_estimator`. What it draws is stored in
    its attributes.

    Parameters
    ----------
    ks : ndarray of int, shape (n_ks,)
        Numbers of features.

    coefs : ndarray of shape (n_chosen, n_ks)
        Coefficients of the features that any model on the path has chosen.

    features : ndarray of int, shape (n_chosen,)
        Their indices.

    objectives : ndarray of shape (n_ks,)
        Objectives of the solutions.

    lower_bounds : ndarray of shape (n_ks,)
        What the objective cannot fall below.

    feature_names : array-like of str or None, default=None
        Names of all features; None names them by their indices.

    name : str or None, default=None
        The title.

    chosen : int or None, default=None
        The place in `ks` of the model that was chosen; None is the last.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes drawn on.

    figure_ : matplotlib Figure
        Their figure.

    lines_ : list of matplotlib Line2D
        The curves.

    fill_ : matplotlib artist or None
        The band between bound and objective, where there is one.

    See Also
    --------
    chita_path : Computes a path.
    CVDisplay : Scores along k.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from chita_sklearn import PathDisplay, chita_path
    >>> data = load_diabetes()
    >>> path = chita_path(data.data, data.target, 6, random_state=0)
    >>> display = PathDisplay.from_path(path, feature_names=data.feature_names)
    >>> display.ax_.get_xlabel()
    'number of features k'
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    fill_: Any

    def __init__(
        self,
        *,
        ks: Any,
        coefs: Any,
        features: Any,
        objectives: Any,
        lower_bounds: Any,
        feature_names: Any = None,
        name: str | None = None,
        chosen: int | None = None,
    ) -> None:
        self.ks = ks
        self.coefs = coefs
        self.features = features
        self.objectives = objectives
        self.lower_bounds = lower_bounds
        self.feature_names = feature_names
        self.name = name
        self.chosen = chosen

    def plot(
        self,
        ax: Any = None,
        *,
        kind: PathKind = "coefficients",
        n_labels: int | None = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw the path.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        kind : {"coefficients", "objective"}, default="coefficients"
            Coefficients against k, a curve for each feature; or the objective, with
            the band in which the optimum is proven to lie.

        n_labels : int or None, default=None
            How many features get a colour and a name: those that are on the path for
            the most k. None is every feature of the chosen model, at most 28. The
            others are grey.

        name : str or None, default=None
            The title; None takes the display's own.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        PathDisplay
            Itself, with the artists as attributes.
        """
        if kind not in ("coefficients", "objective"):
            msg = f"kind={kind!r} is not known; choose 'coefficients' or 'objective'."
            raise ValueError(msg)
        ax = axes(ax, type(self).__name__)
        self.lines_ = []
        self.fill_ = None
        if kind == "coefficients":
            self._plot_coefficients(ax, n_labels, curve_kwargs or {})
        else:
            self._plot_objective(ax, curve_kwargs or {})
        finish(self, ax, name)
        return self

    def _plot_coefficients(self, ax: Any, n_labels: int | None, kwargs: dict) -> None:
        held = np.count_nonzero(self.coefs, axis=1)
        size = np.max(np.abs(self.coefs), axis=1, initial=0.0)
        order = np.lexsort((-size, -held))
        if n_labels is None:
            last = -1 if self.chosen is None else self.chosen
            there = self.coefs[:, last] != 0
            order = np.concatenate([order[there[order]], order[~there[order]]])
            n_labels = min(int(there.sum()), MOST_LABELS)
        if self.chosen is not None:
            k = self.ks[self.chosen]
            ax.axvline(k, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        ax.axhline(0.0, color=GREY, linewidth=0.8, zorder=0)
        grey = {"color": GREY, "linewidth": 0.8, "alpha": 0.7, "zorder": 1}
        for t in order[n_labels:]:
            self.lines_ += ax.plot(self.ks, self.coefs[t], **(grey | kwargs))
        named = order[:n_labels]
        for t, look in zip(named, looks(len(named)), strict=True):
            options = {**look, "label": self._name_of(t)}
            self.lines_ += ax.plot(self.ks, self.coefs[t], **(options | kwargs))
        ax.set_ylabel("coefficient")
        if len(named):
            beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            ax.legend(title="feature", fontsize="small", **beside)

    def _plot_objective(self, ax: Any, kwargs: dict) -> None:
        options = {"color": COLOURS[0], "marker": MARKERS[0], "label": "objective"}
        self.lines_ += ax.plot(self.ks, self.objectives, **(options | kwargs))
        if not np.all(np.isnan(self.lower_bounds)):
            options = {"color": COLOURS[1], "linestyle": "--", "label": "lower bound"}
            self.lines_ += ax.plot(self.ks, self.lower_bounds, **options)
            self.fill_ = ax.fill_between(
                self.ks,
                self.lower_bounds,
                self.objectives,
                color=COLOURS[1],
                alpha=0.15,
                linewidth=0,
                label="the optimum is in here",
            )
        ax.set_ylabel("objective F")
        ax.set_ylim(bottom=0.0)
        ax.legend(fontsize="small")

    def _name_of(self, t: int) -> str:
        index = int(self.features[t])
        if self.feature_names is None:
            return str(index)
        return str(np.asarray(self.feature_names)[index])

    @classmethod
    def from_path(
        cls,
        path: ChitaPath,
        *,
        feature_names: Any = None,
        ax: Any = None,
        kind: PathKind = "coefficients",
        n_labels: int | None = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw a path that is there.

        Parameters
        ----------
        path : ChitaPath
            What :func:`chita_path` returned, of any array library.

        feature_names : array-like of str or None, default=None
            Names of all features; None names them by their indices.

        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        kind : {"coefficients", "objective"}, default="coefficients"
            What to draw, see :meth:`plot`.

        n_labels : int or None, default=None
            How many features get a colour and a name; None is those of the last k.

        name : str or None, default=None
            The title; None says which k and which ridge.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        PathDisplay
            The display, drawn.
        """
        if path.coefs.ndim != 2:
            msg = (
                f"The path is of {path.coefs.shape[0]} targets, and a display draws "
                "one. Pass a path of one target."
            )
            raise ValueError(msg)
        display = cls._of(path, feature_names, name)
        return display.plot(ax, kind=kind, n_labels=n_labels, curve_kwargs=curve_kwargs)

    @classmethod
    def _of(
        cls, path: ChitaPath, names: Any, name: str | None, chosen: int | None = None
    ) -> PathDisplay:
        host = path.to_numpy()
        features = np.unique(np.concatenate(host.supports)).astype(np.int64)
        if name is None:
            first, last = host.ks[0], host.ks[-1]
            span = f"k = {first} to {last}" if len(host.ks) > 1 else f"k = {first}"
            name = f"{span}, ridge {host.ridge:g}"
            if chosen is not None:
                name = f"{name}; chosen: k = {host.ks[chosen]}"
        return cls(
            ks=host.ks,
            coefs=host.coefs[features],
            features=features,
            objectives=host.objectives,
            lower_bounds=host.lower_bounds,
            feature_names=names,
            name=name,
            chosen=chosen,
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: ChitaRegressor,
        X: Any = None,
        y: Any = None,
        *,
        ks: Any = None,
        sample_weight: Any = None,
        ax: Any = None,
        kind: PathKind = "coefficients",
        n_labels: int | None = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw the path of a fitted estimator.

        Parameters
        ----------
        estimator : ChitaRegressor, ChitaRegressorCV or a Pipeline that ends in one
            A fitted estimator. One that was cross-validated brings its path along;
            for the other it is computed, with the estimator's own parameters.

        X : {array-like, sparse matrix} of shape (n_samples, n_features) or None
            Training data, as `estimator` takes it; not used where there is a path.

        y : array-like of shape (n_samples,) or None, default=None
            Target values; not used where the estimator has a path.

        ks : int or array-like of int or None, default=None
            Numbers of features; None is 1, ..., ``estimator.k_``. Not used where the
            estimator has a path.

        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights; not used where the estimator has a path.

        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        kind : {"coefficients", "objective"}, default="coefficients"
            What to draw, see :meth:`plot`.

        n_labels : int or None, default=None
            How many features get a colour and a name; None is those that were chosen.

        name : str or None, default=None
            The title; None says which k and which ridge.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        PathDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        whole, estimator = estimator, last_step(estimator)
        path = getattr(estimator, "path_", None)
        chosen = None
        if path is None and not hasattr(estimator, "solver_history_"):
            msg = (
                f"estimator is a {type(estimator).__name__}; it must be a fitted "
                "ChitaRegressor or ChitaRegressorCV, or a pipeline that ends in one."
            )
            raise TypeError(msg)
        if path is None:
            if X is None or y is None:
                msg = (
                    f"A {type(estimator).__name__} keeps no path. Pass the X and y it "
                    "was fitted on, so that the path can be computed."
                )
                raise ValueError(msg)
            # A path has one target; what else it takes, the estimator has.
            taken = signature(chita_path).parameters.keys() - {"target_support"}
            given = estimator.get_params(deep=False)
            parameters = {name: given[name] for name in taken & given.keys()}
            ks = estimator.k_ if ks is None else ks
            X = reaching(whole, X)
            path = chita_path(X, y, ks, sample_weight=sample_weight, **parameters)
        else:
            chosen = int(np.flatnonzero(path.ks == estimator.k_)[0])
        display = cls._of(path, names_at_the_end(whole), name, chosen)
        return display.plot(ax, kind=kind, n_labels=n_labels, curve_kwargs=curve_kwargs)
