"""`CVDisplay`: scores or a criterion along k, and the choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..cv import ChitaRegressorCV
from .canvas import axes, finish, last_step, looks

__all__ = ["CVDisplay"]


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
        The title.

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

    ax_: Any
    figure_: Any
    lines_: list[Any]
    fills_: list[Any]
    chosen_: Any

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
            The title; None takes the display's own.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        CVDisplay
            Itself, with the artists as attributes.
        """
        ax = axes(ax, type(self).__name__)
        self.lines_ = []
        self.fills_ = []
        view = self._view()
        rows = zip(self.ridges, self.values, looks(len(self.ridges)), strict=True)
        for t, (ridge, values, look) in enumerate(rows):
            label = f"{ridge:g}"
            if view and not _inside(values[self._some()], view):
                label += " (runs out of view)"
            options = {**look, "label": label, **(curve_kwargs or {})}
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
        ax.set_ylabel(self.value_name)
        if view:
            ax.set_ylim(view)
        ax.legend(title="ridge", fontsize="small")
        finish(self, ax, name)
        return self

    def _view(self) -> tuple[float, float] | None:
        """Limits that keep the curve of the chosen ridge readable; None where all fit.

        They hold that curve, with its band, from one feature on: a ridge that is far
        worse, or the intercept alone, would squeeze it.
        """
        i, some = self.chosen[0], self._some()
        error = 0.0 if self.errors is None else self.errors[i][some]
        near = self.values[i][some]
        least, most = np.min(near - error), np.max(near + error)
        span = most - least
        whole = np.max(self.values) - np.min(self.values)
        if not np.isfinite(whole) or whole <= 1.5 * span or span == 0:
            return None
        return float(least - 0.1 * span), float(most + 0.1 * span)

    def _some(self) -> slice:
        """Numbers of features that have to be in view: all but 0, if there are more."""
        alone = len(self.ks) > 2 and self.ks[0] == 0 and self.chosen[1] > 0
        return slice(1 if alone else 0, None)

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
        estimator : ChitaRegressorCV, or a Pipeline that ends in one
            A fitted estimator.

        negate_score : bool or None, default=None
            Whether to turn scores round, so that errors are shown as errors. None does
            for the default score, and for those named ``neg_...``.

        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.

        name : str or None, default=None
            The title; None says how it was chosen, and what.

        curve_kwargs : dict or None, default=None
            Passed to `matplotlib.axes.Axes.plot` for each curve.

        Returns
        -------
        CVDisplay
            The display, drawn.
        """
        check_is_fitted(estimator)
        estimator = last_step(estimator)
        if not hasattr(estimator, "ks_"):
            msg = (
                f"estimator is a {type(estimator).__name__}; it must be a fitted "
                "ChitaRegressorCV, or a pipeline that ends in one."
            )
            raise TypeError(msg)
        results, n_ks = estimator.cv_results_, len(estimator.ks_)
        errors, way = None, estimator.criterion.upper()
        if estimator.criterion == "cv":
            splits = (name for name in results if name.startswith("split"))
            scores = np.stack([results[name] for name in splits], axis=-1)
            values, n_folds = scores.mean(axis=-1), scores.shape[-1]
            way = f"{n_folds} folds" if n_folds > 1 else "1 fold"
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
            name=f"Chosen by {way}: k = {estimator.k_}, ridge {estimator.ridge_:g}"
            if name is None
            else name,
        )
        return display.plot(ax, curve_kwargs=curve_kwargs)


def _inside(values: np.ndarray, view: tuple[float, float]) -> bool:
    return bool(view[0] <= np.min(values) and np.max(values) <= view[1])


def _name_of_score(scoring: Any) -> tuple[str, bool]:
    """What a score measures, in words, and whether it is minus that."""
    if scoring is None:
        return "mean squared error", True
    text = (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )
    negative = text.startswith("neg_")
    return text.removeprefix("neg_").replace("_", " "), negative
