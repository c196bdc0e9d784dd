"""Pictures of paths and of the choice of k, in scikit-learn's convention for displays.

matplotlib is imported when something is drawn, not before. Colours are those of Okabe
and Ito, which people of all kinds of colour vision tell apart; line styles and markers
say the same once more.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .cv import ChitaRegressorCV
from .path import ChitaPath, chita_path
from .regressor import ChitaRegressor

__all__ = ["CVDisplay", "PathDisplay"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#999999"


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
        What the path is of, for the title.

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
    ) -> None:
        self.ks = ks
        self.coefs = coefs
        self.features = features
        self.objectives = objectives
        self.lower_bounds = lower_bounds
        self.feature_names = feature_names
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "coefficients",
        n_labels: int = 7,
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

        n_labels : int, default=7
            How many features get a colour and a name: those that are on the path for
            the most k. The others are grey.

        name : str or None, default=None
            What the path is of; None takes the display's own.

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
        ax = _axes(ax, type(self).__name__)
        self.lines_: list[Any] = []
        self.fill_: Any = None
        if kind == "coefficients":
            self._plot_coefficients(ax, n_labels, curve_kwargs or {})
        else:
            self._plot_objective(ax, curve_kwargs or {})
        _label_k(ax, self.ks)
        title = self.name if name is None else name
        if title is not None:
            ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _plot_coefficients(self, ax: Any, n_labels: int, kwargs: dict) -> None:
        held = np.count_nonzero(self.coefs, axis=1)
        size = np.max(np.abs(self.coefs), axis=1, initial=0.0)
        order = np.lexsort((-size, -held))
        ax.axhline(0.0, color=GREY, linewidth=0.8, zorder=0)
        grey = {"color": GREY, "linewidth": 0.8, "alpha": 0.7, "zorder": 1}
        for t in order[n_labels:]:
            self.lines_ += ax.plot(self.ks, self.coefs[t], **(grey | kwargs))
        for t, look in zip(order[:n_labels], cycle(_looks()), strict=False):
            options = {**look, "label": self._name_of(t)}
            self.lines_ += ax.plot(self.ks, self.coefs[t], **(options | kwargs))
        ax.set_ylabel("coefficient")
        if len(order):
            title = "feature" if len(order) <= n_labels else "most chosen features"
            beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            ax.legend(title=title, fontsize="small", **beside)

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
        kind: str = "coefficients",
        n_labels: int = 7,
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

        n_labels : int, default=7
            How many features get a colour and a name.

        name : str or None, default=None
            What the path is of, for the title.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        PathDisplay
            The display, drawn.
        """
        host = path.to_numpy()
        features = np.unique(np.concatenate(host.supports)).astype(np.int64)
        display = cls(
            ks=host.ks,
            coefs=host.coefs[features],
            features=features,
            objectives=host.objectives,
            lower_bounds=host.lower_bounds,
            feature_names=feature_names,
            name=name,
        )
        return display.plot(ax, kind=kind, n_labels=n_labels, curve_kwargs=curve_kwargs)

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
        kind: str = "coefficients",
        n_labels: int = 7,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw the path of a fitted estimator.

        Parameters
        ----------
        estimator : ChitaRegressor or ChitaRegressorCV
            A fitted estimator. One that was cross-validated brings its path along;
            for the other it is computed, with the estimator's own parameters.

        X : {array-like, sparse matrix} of shape (n_samples, n_features) or None
            Training data; not used where the estimator has a path.

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

        n_labels : int, default=7
            How many features get a colour and a name.

        name : str or None, default=None
            What the path is of; None is the estimator's class.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        PathDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        path = getattr(estimator, "path_", None)
        if path is None:
            if X is None or y is None:
                msg = (
                    f"A {type(estimator).__name__} keeps no path. Pass the X and y it "
                    "was fitted on, so that the path can be computed."
                )
                raise ValueError(msg)
            parameters = estimator.get_params(deep=False)
            for other in ("k", "warm_start"):
                parameters.pop(other)
            ks = estimator.k_ if ks is None else ks
            path = chita_path(X, y, ks, sample_weight=sample_weight, **parameters)
        return cls.from_path(
            path,
            feature_names=getattr(estimator, "feature_names_in_", None),
            ax=ax,
            kind=kind,
            n_labels=n_labels,
            name=type(estimator).__name__ if name is None else name,
            curve_kwargs=curve_kwargs,
        )


class CVDisplay:
    """Scores, or a criterion, along k: a curve for each ridge, and the choice.

    Make it with :meth:`from_estimator`.

    Parameters
    ----------
    ks : ndarray of int, shape (n_ks,)
        Numbers of features.

    ridges : ndarray of shape (n_ridges,)
        Ridges.

    values : ndarray of shape (n_ridges, n_ks)
        Mean scores, or the criterion.

    errors : ndarray of shape (n_ridges, n_ks) or None
        Standard errors of the mean scores; None where there are no folds.

    chosen : tuple of int
        Indices of the chosen ridge and k.

    value_name : str
        What the values are.

    name : str or None, default=None
        What they are of, for the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes drawn on.

    figure_ : matplotlib Figure
        Their figure.

    lines_ : list of matplotlib Line2D
        The curves, in the order of `ridges`.

    fills_ : list of matplotlib artists
        The bands of one standard error, in the same order; empty without folds.

    chosen_ : matplotlib Line2D
        The mark at the chosen pair.

    See Also
    --------
    ChitaRegressorCV : The choice that is shown.
    PathDisplay : Coefficients along k.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from chita_sklearn import ChitaRegressorCV, CVDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ChitaRegressorCV(6, [1e-4, 1e-3], random_state=0).fit(X, y)
    >>> display = CVDisplay.from_estimator(model)
    >>> display.ax_.get_ylabel()
    'mean squared error'
    """

    def __init__(
        self,
        *,
        ks: Any,
        ridges: Any,
        values: Any,
        errors: Any,
        chosen: tuple[int, int],
        value_name: str,
        name: str | None = None,
    ) -> None:
        self.ks = ks
        self.ridges = ridges
        self.values = values
        self.errors = errors
        self.chosen = chosen
        self.value_name = value_name
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> CVDisplay:
        """Draw the curves and mark the choice.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        name : str or None, default=None
            What the values are of; None takes the display's own.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        CVDisplay
            Itself, with the artists as attributes.
        """
        ax = _axes(ax, type(self).__name__)
        self.lines_: list[Any] = []
        self.fills_: list[Any] = []
        rows = zip(self.ridges, self.values, cycle(_looks()), strict=False)
        for t, (ridge, values, look) in enumerate(rows):
            options = {**look, "label": f"{ridge:g}", **(curve_kwargs or {})}
            self.lines_ += ax.plot(self.ks, values, **options)
            if self.errors is not None:
                band = (values - self.errors[t], values + self.errors[t])
                colour = self.lines_[-1].get_color()
                fill = ax.fill_between(
                    self.ks, *band, color=colour, alpha=0.12, linewidth=0
                )
                self.fills_.append(fill)
        i, j = self.chosen
        (self.chosen_,) = ax.plot(
            self.ks[j],
            self.values[i][j],
            linestyle="none",
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor="black",
            markeredgewidth=1.5,
            label=f"chosen: k = {self.ks[j]}",
        )
        _label_k(ax, self.ks)
        ax.set_ylabel(self.value_name)
        ax.legend(title="ridge", fontsize="small")
        title = self.name if name is None else name
        if title is not None:
            ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: ChitaRegressorCV,
        *,
        negate_score: bool | None = None,
        ax: Any = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> CVDisplay:
        """Draw what an estimator has chosen by.

        Parameters
        ----------
        estimator : ChitaRegressorCV
            A fitted estimator.

        negate_score : bool or None, default=None
            Whether to turn scores round, so that errors are shown as errors. None does
            for the default score, and for those named ``neg_...``.

        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        name : str or None, default=None
            What the values are of; None is the estimator's class.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        CVDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        results, n_ks = estimator.cv_results_, len(estimator.ks_)
        errors = None
        if estimator.criterion == "cv":
            splits = (name for name in results if name.startswith("split"))
            scores = np.stack([results[name] for name in splits], axis=-1)
            values, n_folds = scores.mean(axis=-1), scores.shape[-1]
            if n_folds > 1:
                errors = scores.std(axis=-1, ddof=1) / np.sqrt(n_folds)
                errors = errors.reshape(-1, n_ks)
            value_name, negative = _name_of_score(estimator.scoring)
            if negative if negate_score is None else negate_score:
                values = -values
            elif negative:
                value_name = f"negative {value_name}"
        else:
            values, value_name = results[estimator.criterion], estimator.criterion
            value_name = value_name.upper()
        display = cls(
            ks=results["param_k"][:n_ks],
            ridges=results["param_ridge"][::n_ks],
            values=values.reshape(-1, n_ks),
            errors=errors,
            chosen=divmod(int(estimator.best_index_), n_ks),
            value_name=value_name,
            name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax, curve_kwargs=curve_kwargs)


def _name_of_score(scoring: Any) -> tuple[str, bool]:
    """What a score measures, in words, and whether it is minus that."""
    if scoring is None:
        return "mean squared error", True
    text = (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )
    negative = text.startswith("neg_")
    return text.removeprefix("neg_").replace("_", " "), negative


def _axes(ax: Any, caller: str) -> Any:
    """Return the given axes, or new ones."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        msg = (
            f"{caller}.plot draws with matplotlib, which is not installed. "
            "Run: pip install 'chita-sklearn[plot]'"
        )
        raise ImportError(msg) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _label_k(ax: Any, ks: np.ndarray) -> None:
    """Label the axis of k, with a tick at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("number of features k")
    if ks[0] > 0 and ks[-1] / ks[0] > 50 and len(ks) > 2 and np.ptp(np.diff(ks)) > 0:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _looks() -> list[dict[str, Any]]:
    """Combinations of colour, line style and marker, all different in each part."""
    styles, markers = cycle(STYLES), cycle(MARKERS)
    return [
        {
            "color": c,
            "linestyle": next(styles),
            "marker": next(markers),
            "markersize": 4,
        }
        for c in COLOURS
    ]
