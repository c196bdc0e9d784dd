"""Lower bounds of the optimum: their rounding, and what they decide of coordinates.

Split n F, without what is constant in w, into a convex part and m/2 ||w||^2. Replacing
the convex part by its tangent at some point leaves, for each support S,

    n F(w) >= value - 1/(2 m) sum_{j in S} c_j^2        for all w on S,

with c minus the slope of the tangent. The largest sum that the allowed supports reach,
`chosen`, makes it a bound of the optimum: the dual of the perspective relaxation
(Pilanci, Wainwright and El Ghaoui, Math. Program. 151, 2015; Bertsimas and Van Parys,
Ann. Statist. 48, 2020). `dual` takes the tangent of 1/2 ||b - A w||^2 and m = mu;
`branch` moves a part of A'A into m. Both come here for two facts:

- `certified`: the bound, less what rounding may have added to it. If each c_j is off by
  e_j, then each sum is off by at most 2 sqrt(chosen) ||e_S|| + ||e_S||^2, whichever
  support attains the maximum.
- `decided`: of a matroid, the best allowed support with a j that is not among those
  chosen has at most the score of those, less the smallest, plus c_j^2; the best without
  an i that is chosen has at most theirs, less c_i^2, plus the largest left. Where the
  bound with that score is above a known objective, no better support has j; every
  better support has i. (Safe screening for l0: Atamturk and Gomez, ICML 2020.)

All arguments may be arrays with a leading axis, for many bounds at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .arrays import Array


class Fixed(NamedTuple):
    """Coordinates that every support better than a known one has, or has not."""

    inside: Array  # mask, shape (p,) or (B, p)
    outside: Array  # mask, of the same shape


def certified(
    value: Array, chosen: Array, m: float, error: Array, gamma: float
) -> tuple[Array, Array]:
    """Return the bound value - chosen / (2 m) less its rounding, and slack.

    Parameters
    ----------
    value : array
        What the bound is without the scores, less what rounding may have added to it.
    chosen : array
        The largest sum of scores c_j^2 that the allowed supports reach.
    m : float
        The curvature.
    error : array
        ||e_S|| at most, for all allowed S: e_j is what c_j may be off by.
    gamma : float
        The relative rounding of a sum of p numbers.

    Returns
    -------
    bound, slack : array
        Each sum of scores is off by at most slack.
    """
    slack = 2 * chosen**0.5 * error + error**2 + 2 * gamma * chosen
    return value - 0.5 * (chosen + slack) / m, slack


def decided(
    scores: Array,
    taken: Array,
    left: Array,
    low: Array,
    high: Array,
    margin: Array,
) -> Fixed:
    """Return which coordinates chosen must stay, and which others must stay out.

    Parameters
    ----------
    scores : array of shape (p,) or (B, p)
        c_j^2.
    taken, left : mask
        Those of the best allowed support, and others that could be in one.
    low, high : array
        The smallest score taken and the largest one left.
    margin : array
        2 m (objective - bound) + 2 slack: what a sum of scores may lose before the
        bound is above the objective; inf to fix none.
    """
    return Fixed(taken & (scores - high > margin), left & (low - scores > margin))


def relative_gap(objective: float, bound: float) -> float:
    """(objective - bound) / |objective|; 0 where they are equal, inf where unknown."""
    if objective == bound:
        return 0.0
    return (objective - bound) / abs(objective) if objective else math.inf


def reported(value: float) -> float:
    """A bound or a gap as users see it: nan, a missing value, where it is unknown."""
    return value if math.isfinite(value) else math.nan


USELESS = 0.995  # a gap from here on says nothing that a user could use


def in_words(gap: float) -> str:
    """What a gap proves, for a history or a report."""
    if math.isnan(gap):
        return "no bound"
    if gap >= USELESS:
        return "no useful bound at this ridge"
    return f"proven gap {gap:.2%}"
