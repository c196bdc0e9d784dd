"""Exact exchanges of coordinates within a target and between targets.

A target is a least-squares problem with H = G + mu I, linear term c and weight g. With
its support S, P = H_SS^-1, T = P H_S., w = P c_S, q = c - w H_S. (0 on S) and
d_j = H_jj - H_jS T_Sj, coefficients refitted, n F

    falls by  g/2 q_j^2 / d_j                      when j joins S,
    rises by  g/2 w_i^2 / P_ii                     when i leaves S,
    falls by  g/2 [ (q_j + T_ij w_i / P_ii)^2 / (d_j + T_ij^2 / P_ii) - w_i^2 / P_ii ]
                                                   when j takes the place of i.

Targets share G and nothing else, so that what one gains by a coordinate more, and what
another loses by one less, add up: under one budget the largest gain of joining is
exchanged for the smallest cost of leaving, as long as that is less.
"""

from __future__ import annotations

import numpy as np

from ..linalg import EPS, inverse, minus_outer
from .swap_state import DEPENDENT, explained, joining

RENEW = 50  # updates after which a state is computed from scratch
GAIN = 1e-9  # share of the reference value that an exchange must gain


class TargetState:
    """A support of one target, and what the gains of its exchanges are made from.

    Parameters
    ----------
    H : ndarray of shape (d, d)
        G + mu I; shared, not copied.
    c : ndarray of shape (d,)
    weight : float
    S : ndarray of int
        The support.
    """

    def __init__(self, H: np.ndarray, c: np.ndarray, weight: float, S: np.ndarray):
        self.H, self.c, self.weight, self.S = H, c, weight, np.array(S)
        self.renew()

    def renew(self) -> None:
        """Compute all from scratch. O(s^2 d)."""
        H, S = self.H, self.S
        self.h = H.diagonal()
        H_S = H[S]
        self.P = self._P = inverse(H_S[:, S].copy())
        self.T = self._T = self.P @ H_S
        self.w = self.P @ self.c[S]
        self.q = self.c - self.w @ H_S
        self.d = self.h - np.einsum("ij,ij->j", self.T, H_S)
        self._clean()
        self.updates = 0

    def _clean(self) -> None:
        self.q[self.S] = 0.0

    @property
    def value(self) -> float:
        """By how much the support lowers n F from n F(0)."""
        return 0.5 * self.weight * float(self.c[self.S] @ self.w)

    def joining(self) -> tuple[float, int]:
        """The largest gain of a coordinate that joins, and which."""
        gains = joining(self.q, self.d, self.h)
        gains[self.S] = -np.inf
        j = int(np.argmax(gains)) if len(gains) else 0
        return 0.5 * self.weight * float(gains[j]), j

    def leaving(self) -> tuple[float, int]:
        """The smallest cost of a coordinate that leaves, and its place in S."""
        if not len(self.S):
            return np.inf, 0
        costs = self.w**2 / self.P.diagonal()
        i = int(np.argmin(costs))
        return 0.5 * self.weight * float(costs[i]), i

    def best_swap(self, allowed: np.ndarray | None = None) -> tuple[float, int, int]:
        """(gain, i, j): the best j to take the place of the i-th of S.

        `allowed` says which may, shape (s, d); None: all.
        """
        if not len(self.S) or len(self.S) == len(self.c):
            return -np.inf, 0, 0
        p = self.P.diagonal()
        alone = self.w**2 / p
        floor = EPS * (np.max(self.h) or 1.0)  # G may be nothing but zeros
        own = np.maximum(self.d, DEPENDENT * self.h + floor)
        both = explained(self.T, p, self.w, self.q, own)
        both -= alone[:, None]
        both[:, self.S] = -np.inf
        if allowed is not None:
            both[~allowed] = -np.inf
        i, j = np.unravel_index(int(np.argmax(both)), both.shape)
        return 0.5 * self.weight * float(both[i, j]), int(i), int(j)

    def join(self, j: int) -> None:
        """Take j into the support. O(s d), in place."""
        own, s = self.d[j], len(self.S)
        t = self.T[:, j].copy()
        r = (self.H[j] - self.H[j, self.S] @ self.T) / own
        step = self.q[j] / own
        minus_outer(self.T, t, r)
        minus_outer(self.P, t, -t / own)
        self._resize(s + 1)
        self.T[s] = r
        self.P[s, :s] = self.P[:s, s] = -t / own
        self.P[s, s] = 1 / own
        self.w = np.append(self.w - t * step, step)
        self.q = self.q - step * own * r
        self.d = self.d - own * r**2
        self.S = np.append(self.S, j)
        self._updated()

    def leave(self, i: int) -> None:
        """Drop the i-th coordinate of the support; the last takes its place. O(s d)."""
        last = len(self.S) - 1
        p, w_i, T_i = self.P[i, i], self.w[i], self.T[i].copy()
        x = self.P[:, i] / p
        self.q = self.q + (w_i / p) * T_i
        self.d = self.d + T_i**2 / p
        minus_outer(self.T, x, T_i)
        minus_outer(self.P, x, self.P[i].copy())
        w = self.w - x * w_i
        for rows in (self.T, self.P, self.P.T, w, self.S):
            rows[i] = rows[last]
        self._resize(last)
        self.w, self.S = w[:last], self.S[:last]
        self._updated()

    def _resize(self, s: int) -> None:
        """Make T and P matrices of s rows, in memory with room for some more."""
        if s > len(self._T):
            room, old = s + s // 8 + RENEW, len(self.P)
            T, P = self.T, self.P
            self._T, self._P = np.empty((room, len(self.h))), np.empty((room, room))
            self._T[:old], self._P[:old, :old] = T, P
        self.T, self.P = self._T[:s], self._P[:s, :s]

    def _updated(self) -> None:
        self.updates += 1
        if self.updates >= RENEW:
            self.renew()
        else:
            self._clean()

    def improve(self, most: int, least: float, allowed=None) -> int:  # type: ignore[no-untyped-def]
        """Swap, best pair first, until none gains `least`; return how many did.

        `allowed(S)` gives which coordinates may replace which of S; None: all.
        """
        done = 0
        while done < most:
            gain, i, j = self.best_swap(None if allowed is None else allowed(self.S))
            if not gain > least:
                break
            S, value = self.S.copy(), self.value
            self.leave(i)
            self.join(j)
            if not self.value > value + 0.5 * least:
                self.renew()  # the gain may have been rounding
                if not self.value > value:
                    self.S = S
                    self.renew()
                    break
            done += 1
        return done


def exchange(states: list[TargetState], least: float, most: int) -> int:
    """Exchange coordinates between targets while that gains `least`; return how many.

    In rounds: the targets that gain most by one more receive from those that lose least
    by one less, each target in one exchange a round, so that every gain is exact.
    """
    done = 0
    gains = [state.joining() for state in states]
    costs = [state.leaving() for state in states]
    while done < most:
        receivers = sorted(range(len(states)), key=lambda a: -gains[a][0])
        donors = sorted(range(len(states)), key=lambda b: costs[b][0])
        taken: set[int] = set()
        pairs, at = [], 0
        for a in receivers:
            if a in taken:
                continue
            while at < len(donors) and (donors[at] in taken or donors[at] == a):
                at += 1
            if at == len(donors):
                break
            b = donors[at]
            if not gains[a][0] - costs[b][0] > least:
                break
            taken |= {a, b}
            pairs.append((a, b))
            at = 0
        if not pairs:
            break
        for a, b in pairs:
            states[a].join(gains[a][1])
            states[b].leave(costs[b][1])
            done += 1
            for c in (a, b):
                gains[c], costs[c] = states[c].joining(), states[c].leaving()
    return done
