"""The gains of all swaps of a support, and the state that a swap updates.

Notation: S the support, O the coordinates it is compared with,

    H = A'A + mu I,  g = A'b + mu w_bar;   P = H_SS^-1,  w = P g_S,
    T = P H_SO,  q = g - w H_SO  (0 on S),  d_j = H_jj - T_j . H_Sj.

Then, coefficients refitted, n F falls by

    q_j^2 / (2 d_j)                                       when j joins S,
    1/2 [ (q_j + T_ij w_i / P_ii)^2 / (d_j + T_ij^2 / P_ii) - w_i^2 / P_ii ]
                                                          when j replaces i in S.

A swap changes T by a matrix of rank two: as in the simplex method, whose tableau T is,
it costs O(k m) on m coordinates, where T from scratch costs O(k^2 m).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..linalg import TINY, inverse, minus
from .working_set import WorkingSet

DEPENDENT = 1e-9  # d_j / H_jj below which column j depends on the support's
HUGE = float(np.finfo(np.float64).max)
BLOCK = 2**15  # gains scored at once: with what they are made from, they stay in cache
# An update multiplies rounding errors by up to H_ii P_ii: ||a_i||^2 over the squared
# distance of a_i from the span of the support's other columns. All is computed from
# scratch where that exceeds INFLATED, and where the value after a swap is not what the
# formula has told to within DRIFT, less than a swap has to gain.
INFLATED, DRIFT = 1e5, 1e-10


class SwapState:
    """A support on a working set, with what the gains of its swaps are made from.

    Parameters
    ----------
    W : WorkingSet
        The coordinates, their H and g.
    S : ndarray of int
        The support, indices into W's members. A copy is kept, and changed in place by
        `swap`: in no order.

    Attributes
    ----------
    S : ndarray of int, shape (k,)
    value : float
        How much of n F(0) it explains: 1/2 g_S' P g_S.
    """

    def __init__(self, W: WorkingSet, S: np.ndarray) -> None:
        self._W, self.S = W, S.copy()
        self.T = np.empty((len(S), len(W.g)))
        self.renew()

    def renew(self) -> None:
        """Compute all from scratch."""
        W, S = self._W, self.S
        self._H_SS, g = W.H(S, S), W.g[S]
        self.P = inverse(self._H_SS.copy())
        self.w = self.P @ g
        self.value = 0.5 * float(g @ self.w)
        self.q, self.d = W.g.copy(), W.h.copy()
        # Some columns at a time: H_S whole would be as large as T.
        step = max(BLOCK // max(len(S), 1), 1)
        for first in range(0, len(W.g), step):
            some = slice(first, first + step)
            H_S = W.H(S, some)
            self.T[:, some] = self.P @ H_S
            self.q[some] -= self.w @ H_S
            H_S *= self.T[:, some]
            self.d[some] -= np.sum(H_S, axis=0)
        self._stepped, self._firm = False, self._independent()

    def _independent(self) -> bool:
        """Whether no column of the support nearly depends on the others."""
        h = self._H_SS.diagonal()
        return bool(h.min() > 0 and (h * self.P.diagonal()).max() <= INFLATED)

    def sound(self) -> bool:
        """Whether rounding has left T what it is from scratch: P H_SO.

        Seen in its product with one random vector (Freivalds, IFIP Congress 1977).
        """
        if not self._stepped:
            return True
        z = self._W.probe
        error = self.P @ (self._W.dot(self.S, z) - self._H_SS @ (self.T @ z))
        error *= np.sqrt(self._H_SS.diagonal())
        return bool(np.max(np.abs(error)) <= DRIFT)

    def swap(self, i: int, j: int) -> None:
        """Put the coordinate j in the place of the i-th of S."""
        W, S, P, T = self._W, self.S, self.P, self.T
        p, T_ij, w_i = P[i, i], T[i, j], self.w[i]
        left = self.d[j] + T_ij**2 / p  # of column j, given the rest of S
        if not (self._firm and left * INFLATED >= W.h[j] > 0):
            S[i] = j
            self.renew()
            return
        h = W.row(j)
        h_S = h[S]
        # What leaves is taken out by x T_i, what joins by t r, which is the new T_i.
        x, t = X = np.empty((2, len(S)))
        T_i, r = R = np.empty((2, len(h)))
        x[:], T_i[:] = P[i] / p, T[i]
        t[:] = T[:, j] - T_ij * x
        t[i] = -1.0
        step = (self.q[j] + T_ij * w_i / p) / left
        r[:] = (h - h_S @ T + (h_S @ x) * T_i) / left
        self.T = minus(T, X, R)
        self.P = minus(P, X, X * [[p], [-1 / left]])
        self.T[i], self.P[i], self.P[:, i] = r, t / -left, t / -left  # to all digits
        self.q += np.array([w_i / p, -step * left]) @ R
        self.d += np.array([1 / p, -left]) @ R**2
        expected = self.value + 0.5 * (step**2 * left - w_i**2 / p)
        S[i] = j
        self._H_SS[i] = self._H_SS[:, i] = h[S]
        g = W.g[S]
        w = self.w - w_i * x - step * t
        self.w = w + self.P @ (g - self._H_SS @ w)  # refined, for the value to be right
        self.value = 0.5 * float(g @ self.w)
        self._stepped, self._firm = True, self._independent()
        if not (self._firm and abs(self.value - expected) <= DRIFT * self.value):
            self.renew()

    def best(self) -> tuple[float, int, int]:
        """Return the swap of largest gain: (gain, i, j), as `swap` takes them.

        The gain is -inf where no swap is allowed.
        """
        W, S, p = self._W, self.S, self.P.diagonal()
        q, own = self.q.copy(), own_part(self.d, W.h, np)
        q[S], own[S] = np.inf, -HUGE  # what is in S gains -inf
        alone = np.where(W.locked[S], np.inf, self.w**2 / p)
        allowed = W.exchangeable(S)
        js = np.zeros(len(S), dtype=np.intp)  # of each i the best j, and twice its gain
        gains = np.full(len(S), -np.inf)
        for rows in _blocks(alone, len(q)):
            least = gains.max()
            if least > -np.inf and alone[rows[0]] > _reach(q, own, W.h, least):
                break
            both = explained(self.T[rows], p[rows], self.w[rows], q, own)
            if allowed is not None:
                both[~allowed[rows]] = -np.inf
            js[rows] = j = np.argmax(both, axis=1)
            gains[rows] = both[np.arange(len(both)), j] - alone[rows]
        i = int(np.argmax(gains))
        return 0.5 * float(gains[i]), i, int(js[i])


def _blocks(alone: np.ndarray, m: int) -> list:
    """Rows to score at a time; those that lose least first, where they are many."""
    step = max(BLOCK // m, 1)
    if len(alone) <= step:
        return [slice(None)]
    order = np.argsort(alone)
    return [order[i : i + step] for i in range(0, len(order), step)]


def swap_gains(H_SO: Array, P: Array, w: Array, g: Array, h: Array, xp: Any) -> Array:
    """Gain of n F for every swap of an i in S for a j in O, shape (|S|, |O|).

    `H_SO`, `g` and `h` (the diagonal of H) are those of the coordinates O.
    """
    p = xp.linalg.diagonal(P)
    T = P @ H_SO
    own = own_part(h - xp.sum(T * H_SO, axis=0), h, xp)
    gain = explained(T, p, w, g - w @ H_SO, own)
    gain -= (w**2 / p)[:, None]
    gain *= 0.5
    return gain


def add_gains(H_OS: Array, P: Array, w: Array, g: Array, h: Array, xp: Any) -> Array:
    """Gain of n F for every j in O that joins S, shape (|O|,)."""
    d = h - xp.sum((H_OS @ P) * H_OS, axis=1)
    return 0.5 * joining(g - H_OS @ w, d, h, xp)


def joining(q: Array, d: Array, h: Array, xp: Any = np) -> Array:
    """q_j^2 / d_j, twice the gain of each j that joins; 0 where j depends on S."""
    own = own_part(d, h, xp)
    return xp.where(d < own, xp.zeros_like(d), q * q / own)


def own_part(d: Array, h: Array, xp: Any = np) -> Array:
    """What column j has of its own beside S, at least what rounding leaves.

    A column that depends on what would remain of S has nothing to add; the floor keeps
    the rounding of its 0 / 0 small, and a column of zeros at 0.
    """
    return xp.maximum(d, DEPENDENT * h + TINY)


def explained(T: Array, p: Array, w: Array, q: Array, own: Array) -> Array:
    """w_i^2 / P_ii and twice the gain of j in place of i, for all i in the rows of T.

    In place, for this is where a search's time goes.
    """
    both = T * (w / p)[:, None]
    both += q
    both *= both
    left = T * T
    left *= (1 / p)[:, None]
    left += own
    both /= left
    return both


def _reach(q: np.ndarray, own: np.ndarray, h: np.ndarray, least: float) -> float:
    """w_i^2 / P_ii above which no j gains more than `least` / 2 in the place of i.

    Whatever T_ij is, d_j + T_ij^2 / P_ii is at most h_j, for it is what column j has of
    its own beside the rest of S.
    """
    alone = q**2 / own
    able = alone > least
    alone, ratio = alone[able], np.maximum(h[able] / own[able], 1.0)
    reach = np.sqrt(alone * (ratio - 1.0)) + np.sqrt(ratio * (alone - least))
    return float(np.max(reach, initial=0.0)) ** 2 * (1 + DRIFT)
