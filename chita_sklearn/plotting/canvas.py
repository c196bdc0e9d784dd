"""What the displays share: axes, looks and labels."""

from __future__ import annotations

from typing import Any

import numpy as np

# Colours of Okabe and Ito, which people of all kinds of colour vision tell apart; line
# styles and markers say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#999999"


def axes(ax: Any, caller: str) -> Any:
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


def looks(n: int) -> list[dict[str, Any]]:
    """N combinations of colour, line style and marker.

    The first seven differ in colour and marker, the first 28 in colour or line style.
    """
    rounds = [divmod(t, len(COLOURS)) for t in range(n)]
    return [
        {
            "color": COLOURS[c],
            "linestyle": STYLES[(c + lap) % len(STYLES)],
            "marker": MARKERS[(c + 2 * lap) % len(MARKERS)],
            "markersize": 4,
        }
        for lap, c in rounds
    ]


def last_step(estimator: Any) -> Any:
    """Return the estimator at the end of a pipeline; any other is itself."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def reaching(estimator: Any, X: Any) -> Any:
    """Return X as it reaches the end of a pipeline; None stays."""
    while X is not None and hasattr(estimator, "steps"):
        if len(estimator.steps) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator.steps[-1][1]
    return X


def names_at_the_end(estimator: Any) -> Any:
    """Return the names of the features that the last step was fitted on, or None."""
    last = last_step(estimator)
    if hasattr(last, "feature_names_in_") or not hasattr(estimator, "steps"):
        return getattr(last, "feature_names_in_", None)
    before = [step for _, step in estimator.steps[:-1]]
    named = all(hasattr(step, "get_feature_names_out") for step in before)
    if named and hasattr(estimator, "feature_names_in_"):
        return estimator[:-1].get_feature_names_out()
    return None


def finish(display: Any, ax: Any, name: str | None) -> None:
    """Label the axis of k, with a tick at whole numbers only; add the title."""
    from matplotlib.ticker import MaxNLocator

    ks = display.ks
    ax.set_xlabel("number of features k")
    if ks[0] > 0 and ks[-1] / ks[0] > 50 and len(ks) > 2 and np.ptp(np.diff(ks)) > 0:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = display.name if name is None else name
    if title is not None:
        ax.set_title(title)
    display.ax_, display.figure_ = ax, ax.figure
