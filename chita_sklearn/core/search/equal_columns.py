"""Columns that are multiples of each other: which of them is chosen.

All of them explain the same. Left to rounding, the choice would differ between machines
and releases of BLAS; the first of them is chosen instead.
"""

from __future__ import annotations

import numpy as np

from .working_set import WorkingSet

EQUAL = 1e-12  # relative: 1 - correlation^2, and objectives, that rounding tells apart


def first_of_equals(W: WorkingSet, S: np.ndarray, mu: float) -> np.ndarray:
    """Return S, ascending, with the first of equal columns in the place of others.

    With mu > 0 they have to be of one length, too, for their penalties to be the same.
    Where a pattern does not let every coordinate leave for every other, S is as it was.
    """
    O = np.arange(len(W.h))
    if W.pattern.exchangeable(S, O) is not None:
        return S
    S, h = np.sort(S), W.h - mu
    for at, j in enumerate(S):
        alike = W.row(j)[:j] ** 2 >= (1 - EQUAL) * h[:j] * h[j]
        alike &= (h[:j] > 0) & (~W.locked[j])
        if mu > 0:
            alike &= np.abs(h[:j] - h[j]) <= EQUAL * h[j]
        equals = np.setdiff1d(np.flatnonzero(alike), S)
        if not len(equals):
            continue
        other = S.copy()
        other[at] = equals[0]
        # Priors, or a difference that a correlation does not show, tell them apart.
        value = W.value(S)
        if abs(W.value(other) - value) <= EQUAL * abs(value):
            S = other
    return np.sort(S)
