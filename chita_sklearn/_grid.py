"""The pairs of k and ridge to choose from: as given, or widened while it pays."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from ._constraints import Constraints

FIRST_KS = 10  # 0, ..., FIRST_KS; further numbers of features grow by this factor:
GROWTH = math.sqrt(2)
# The loss along k is bumpy: it is looked at up to so many times the best k.
HORIZON = 2
FIRST_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
LEAST_RIDGE, LARGEST_RIDGE = 1e-6, 1e3
# Share of the loss by which an edge must be better than its neighbour: towards small
# ridges the loss is flat wherever the columns are nearly uncorrelated.
WORTH = 1e-3


class Grid(NamedTuple):
    """What is chosen from.

    Attributes
    ----------
    ks, ridges : list
        Ascending.
    constraints : Constraints
        What is asked of supports.
    most : int or None
        How far `ks` may be widened; None where they are the user's.
    free_ridges : bool
        Whether `ridges` may be widened.
    """

    ks: list[int]
    ridges: list[float]
    constraints: Constraints
    most: int | None = None
    free_ridges: bool = False

    def widened(self, loss: np.ndarray) -> Grid | None:
        """The grid that goes on beyond the best pair; None where there is no need.

        Parameters
        ----------
        loss : ndarray of shape (n_ridges, n_ks)
            Of each pair; the smallest is the best.
        """
        if not np.isfinite(loss).any():
            return None
        i, j = np.unravel_index(int(np.argmin(loss)), loss.shape)
        ks, ridges, least = self.ks, self.ridges, float(loss[i, j])
        if self.most is not None and ks[-1] < min(HORIZON * ks[j], self.most):
            return self._replace(ks=[*ks, *_next(ks[-1], self.most)])
        if not self.free_ridges:
            return None
        if i == len(ridges) - 1 and ridges[-1] < LARGEST_RIDGE:
            return self._replace(ridges=[*ridges, _decimal(ridges[-1] * 10)])
        beside = float(np.min(loss[1])) if len(ridges) > 1 else math.inf
        gain = beside - least
        if i == 0 and ridges[0] > LEAST_RIDGE and gain > WORTH * abs(least):
            return self._replace(ridges=[_decimal(ridges[0] / 10), *ridges])
        return None

    def warn_of_edges(
        self, loss: np.ndarray, k: int, ridge: float, stacklevel: int
    ) -> None:
        """Warn where the choice lies on an edge that the user has drawn."""
        limit = self.constraints.n_units
        if self.most is None and 1 < len(self.ks) and k == self.ks[-1] < limit:
            msg = (
                f"The chosen k = {k} is the largest of ks: more features may predict "
                "better. Pass larger ks, or None to have them found."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)
        if self.free_ridges or len(self.ridges) < 2:
            return
        best = np.min(loss, axis=1)
        at = self.ridges.index(ridge)
        inner = 1 if at == 0 else len(self.ridges) - 2
        on_edge = at in (0, len(self.ridges) - 1) and ridge > 0
        if on_edge and best[inner] - best[at] > 10 * WORTH * abs(best[at]):
            side = "smallest" if at == 0 else "largest"
            msg = (
                f"The chosen ridge = {ridge:g} is the {side} of ridges: one beyond "
                "may predict better. Pass more ridges, or None to have them found."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)


def _decimal(ridge: float) -> float:
    """A power of ten as it is written, not as products of floats round it."""
    return float(f"{ridge:.6g}")


def first_ks(most: int) -> list[int]:
    """The numbers of features to begin with."""
    return list(range(min(FIRST_KS, most) + 1))


def _next(k: int, most: int) -> list[int]:
    """The next two numbers of features after k."""
    found = []
    for _ in range(2):
        k = min(math.ceil(k * GROWTH), most)
        found.append(k)
        if k == most:
            break
    return found
