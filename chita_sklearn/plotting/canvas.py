"""What the displays share: axes, looks and labels."""

from __future__ import annotations

from itertools import cycle
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


def looks() -> list[dict[str, Any]]:
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
