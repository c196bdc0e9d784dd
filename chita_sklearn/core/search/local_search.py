"""Local search on a working set: forward, backward, exchanges; each exact.

The coefficients are refitted after every step, in closed form. Notation: `swap_state`.
Supports are indices into the members of the working set.

References
----------
A. Miller, Subset Selection in Regression, 2nd edition, 2002 (forward selection,
elimination and replacement); H. Hazimeh and R. Mazumder, "Fast best subset selection",
Operations Research 68, 2020 (exchanges as a local search).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import dtrsm, dtrsv

from ..linalg import TINY, factor, minus
from .swap_state import SwapState, joining
from .working_set import WorkingSet

# Shares of k by which forward selection goes too far, before the excess is dropped.
EXCESS = (0.25, 1.0)
GAIN = 1e-10  # share of the explained part of n F that a swap must gain
GAINED = 1 + GAIN  # what a better support explains, over what the best one does
NOISE = 1e-18  # the same for a coordinate that joins: gains are squares of rounding


def forward(W: WorkingSet, S: np.ndarray, size: int) -> np.ndarray:
    """Add the best coordinate, refitted, until S has `size` or nothing gains."""
    m, start = len(W.members), len(S)
    in_S = np.zeros(m, dtype=bool)
    in_S[S] = True
    # V = L^-1 H_S for the Cholesky factor L of H_SS: one row more a step.
    V = np.empty((size, m))
    q, d = W.g, W.h
    if start:
        L = factor(W.H(S, S))
        known = W.rows_into(S, V[:start])
        # From the right on the transpose, in the order that BLAS wants: in place.
        dtrsm(1.0, L, known.T, side=1, lower=1, trans_a=1, overwrite_b=1)
        z = dtrsv(L, W.g[S], lower=1)
        q, d = q - z @ known, d - np.einsum("ij,ij->j", known, known)
    floor = NOISE * float(np.max(W.g**2 / np.maximum(W.h, TINY), initial=0))
    for t in range(start, size):
        gain = joining(q, d, W.h)
        gain[~W.may_join(in_S, gain)] = 0.0
        j = int(np.argmax(gain))
        if not gain[j] > floor:
            break
        in_S[j] = True
        root = np.sqrt(d[j])
        V[t] = (W.row(j) - V[:t, j] @ V[:t]) / root
        q = q - V[t] * (q[j] / root)
        d = d - V[t] ** 2
    return np.flatnonzero(in_S)


def backward(W: WorkingSet, S: np.ndarray) -> np.ndarray:
    """Drop the coordinate that costs least, refitted, until the pattern allows S."""
    P, w, _ = W.at(S)
    kept = np.ones(len(S), dtype=bool)
    while True:
        cost = np.full(len(S), np.inf)
        np.divide(w**2, P.diagonal(), out=cost, where=kept)
        free = np.zeros(len(S), dtype=bool)
        free[kept] = W.may_leave(S[kept], cost[kept])
        if not free.any():
            break
        i = int(np.argmin(np.where(free, cost, np.inf)))
        kept[i] = False
        x = P[i] / P[i, i]
        w = w - w[i] * x
        P = minus(P, x[None], P[i : i + 1].copy())
    return S[kept]


def best_start(W: WorkingSet) -> np.ndarray:
    """Select forward beyond the size, drop the excess, swap; from the best excess.

    What a forward step took too early, a backward step can still drop. What every
    support contains comes first: else a copy of it could take another's place.
    """
    size, always = W.pattern.size, W.pattern.always
    most = min(len(W.members), W.n_rows - 1)
    starts = []
    for excess in EXCESS:
        S = forward(W, always, max(size, min(size + int(excess * size) + 1, most)))
        starts.append(improve(W, backward(W, S), 20 * size + 100))
    return max(starts, key=lambda start: start[1])[0]


def improve(
    W: WorkingSet, S: np.ndarray, max_swaps: int
) -> tuple[np.ndarray, float, int]:
    """Swap, best pair first, until no pair gains: (S, its value, swaps made)."""
    if len(S) < W.pattern.size:
        S = forward(W, S, W.pattern.size)
    if len(S) in (0, len(W.members)):
        return S, W.value(S), 0
    state, done = SwapState(W, S), 0
    while done < max_swaps:
        value = state.value
        gain, i, j = state.best()
        if not gain > GAIN * value:
            if state.sound():
                break
            state.renew()
            continue
        left = state.S[i]
        state.swap(i, j)
        if not state.value > value * (1 + 0.1 * GAIN):
            state.S[i] = left  # the formula's gain was rounding
            state.value = value
            break
        done += 1
    return np.sort(state.S), state.value, done
