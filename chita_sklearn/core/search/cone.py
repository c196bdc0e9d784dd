"""Exact search among supports whose coefficients have given signs, on a working set.

On a support S the minimiser has s_j w_j >= 0 (`refit.nonnegative`), and some of its
coordinates may be 0. Of n F(0) it explains E(S) = 1/2 g_S'w_S. Notation: `swap_state`.

Without i, the minimiser on the rest R of S is w', and q' = g - H w' is what is left of
the gradient. E is concave and no direction inside R gains, so that j in the place of i
gains at most

    max(s_j q'_j, 0)^2 / (2 (d_j + T_ij^2 / P_ii)) - (E(S) - E(R)),

and exactly this where the refitted coefficients keep their signs. The pairs are tried
in the order of that bound, each by an exact refit, until the best of them gains more
than the bound of the next.
"""

from __future__ import annotations

import numpy as np

from ..linalg import TINY, inverse
from ..refit.nonnegative import nonnegative
from .local_search import GAIN, NOISE
from .swap_state import DEPENDENT
from .working_set import WorkingSet

ENOUGH = 8  # pairs that are refitted at most, once one of them gains


class Cone:
    """Supports of a working set, and their minimisers with the signs asked for.

    Parameters
    ----------
    W : WorkingSet
        The coordinates, their H and g.
    signs : ndarray of shape (m,)
        -1, 0 or 1 for each of its members.
    """

    def __init__(self, W: WorkingSet, signs: np.ndarray) -> None:
        self.W, self.signs = W, signs

    def minimiser(self, S: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """The coefficients on S, shape (len(S),)."""
        return nonnegative(self.W.H(S, S), self.W.g[S], self.signs[S], start)

    def value(self, S: np.ndarray, start: np.ndarray | None = None) -> float:
        """How much of n F(0) a support explains."""
        return 0.5 * float(self.W.g[S] @ self.minimiser(S, start))

    def forward(self, S: np.ndarray, size: int) -> np.ndarray:
        """Add the coordinate of the largest gain until S has `size` or none gains."""
        W, S = self.W, np.asarray(S, dtype=np.intp)
        floor = NOISE * float(np.max(W.g**2 / np.maximum(W.h, TINY), initial=0))
        w = self.minimiser(S)
        while len(S) < size:
            H_S, in_S = W.H(S, slice(None)), np.zeros(len(W.g), dtype=bool)
            in_S[S] = True
            P = inverse(H_S[:, S].copy())
            d = W.h - np.einsum("ij,ij->j", P @ H_S, H_S)
            gain = gains(W.g - w @ H_S, d, W.h, self.signs)
            gain[~W.may_join(in_S, gain)] = 0.0
            gain[S] = 0.0
            j = int(np.argmax(gain))
            if not gain[j] > floor:
                break
            S, start = np.append(S, j), np.append(w != 0, True)
            w = self.minimiser(S, start)
        return np.sort(S)

    def improve(self, S: np.ndarray, most: int) -> tuple[np.ndarray, float, int]:
        """Exchange until no pair gains: (S, its value, exchanges made)."""
        S = self.forward(S, self.W.pattern.size)
        w, done = self.minimiser(S), 0
        value = 0.5 * float(self.W.g[S] @ w)
        while done < most and 0 < len(S) < len(self.W.g):
            found = self.best(S, w, GAIN * value)
            if found is None:
                break
            S, w = found
            value = 0.5 * float(self.W.g[S] @ w)
            done += 1
        order = np.argsort(S)
        return S[order], value, done

    def best(
        self, S: np.ndarray, w: np.ndarray, least: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The support one exchange away that gains most, and its minimiser.

        None where no exchange gains more than `least`. Once one does, no more than
        `ENOUGH` are refitted.
        """
        W, value = self.W, 0.5 * float(self.W.g[S] @ w)
        H_S = W.H(S, slice(None))
        rests = leaving(H_S[:, S], W.g[S], self.signs[S], w)
        bounds = exchange_bounds(H_S, H_S[:, S], rests, W.g, W.h, self.signs)
        bounds -= value - 0.5 * (rests @ W.g[S])[:, None]
        bounds[:, S] = -np.inf
        bounds[W.locked[S]] = -np.inf
        allowed = W.exchangeable(S)
        if allowed is not None:
            bounds[~allowed] = -np.inf
        pairs = np.flatnonzero(bounds > least)
        pairs = pairs[np.argsort(-bounds.flat[pairs], kind="stable")]
        best, found = least, None
        for tried, pair in enumerate(pairs):
            if bounds.flat[pair] <= best or (found is not None and tried >= ENOUGH):
                break
            i, j = divmod(int(pair), bounds.shape[1])
            other, start = S.copy(), rests[i] != 0
            other[i], start[i] = j, True
            w_other = self.minimiser(other, start)
            gain = 0.5 * float(W.g[other] @ w_other) - value
            if gain > best:
                best, found = gain, (other, w_other)
        return found


def gains(q: np.ndarray, d: np.ndarray, h: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """What each coordinate gains at most that joins; exactly, if no sign stops it.

    A column that depends on the others may still gain, against their signs.
    """
    push = np.where(signs == 0, np.abs(q), signs * q)
    return np.maximum(push, 0.0) ** 2 / (2 * np.maximum(d, DEPENDENT * h + TINY))


def leaving(
    H_SS: np.ndarray, g_S: np.ndarray, signs: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """Row i: the minimiser on S without its i-th coordinate, which is 0 there."""
    A = np.flatnonzero(w)
    rests = np.repeat(w[None], len(w), axis=0)
    P = inverse(H_SS[np.ix_(A, A)])
    rests[np.ix_(A, A)] -= P * (w[A] / P.diagonal())[:, None]
    rests[np.arange(len(w)), np.arange(len(w))] = 0.0
    # Right where no sign is crossed and no coordinate that is held would move.
    slope = signs * (g_S - rests @ H_SS)
    push = np.where((rests == 0) & (signs != 0), slope, 0.0)
    push[np.arange(len(w)), np.arange(len(w))] = 0.0
    small = 1e-10 * np.max(np.abs(g_S), initial=0.0)
    wrong = np.any(signs * rests < 0, axis=1) | np.any(push > small, axis=1)
    for i in np.flatnonzero(wrong):
        R = np.arange(len(w)) != i
        start = (rests[i] != 0) & (signs * rests[i] >= 0)
        rests[i, R] = nonnegative(H_SS[np.ix_(R, R)], g_S[R], signs[R], start[R])
    return rests


def exchange_bounds(
    H_SO: np.ndarray,
    H_SS: np.ndarray,
    rests: np.ndarray,
    g: np.ndarray,
    h: np.ndarray,
    signs: np.ndarray,
) -> np.ndarray:
    """What j in O explains at most beside S without i, shape (|S|, |O|)."""
    P = inverse(H_SS.copy())
    T = P @ H_SO
    d = np.maximum(h - np.einsum("ij,ij->j", T, H_SO), 0.0)
    own = d + T**2 / P.diagonal()[:, None]
    return gains(g - rests @ H_SO, own, h, signs)
