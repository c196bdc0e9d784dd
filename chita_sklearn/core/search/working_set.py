"""A working set: the problem on a few columns, where supports are searched.

The search is small and runs on the host in NumPy, whatever holds A; A is touched to
form the rows of H that it needs. Notation as in `tableau`.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import dtrsm, dtrsv

from ..arrays import Array, array_namespace, device, to_host
from ..patterns.matroids import Pattern
from ..problem.least_squares import LeastSquares
from .swap_state import DEPENDENT, TINY, Tableau, factor, inverse, minus

# Shares of k by which forward selection goes too far, before the excess is dropped.
EXCESS = (0.25, 1.0)
MOSTLY = 16  # up to this many columns per non-zero, all of H at once is cheaper
COPIED = 1 / 8  # of a tall X at most: beyond, all of H at once takes less memory
GAIN = 1e-10  # share of the explained part of n F that a swap must gain
NOISE = 1e-18  # the same for a coordinate that joins: gains are squares of rounding


class WorkingSet:
    """The problem on a few columns, with their Gram matrix: the search happens here.

    Parameters
    ----------
    problem, pattern
        What to minimise, over which supports.
    members : ndarray of int, shape (m,)
        The coordinates in W, ascending.
    correlation : array of shape (p,)
        g, for all coordinates.
    inside : mask of shape (p,), or None
        Coordinates proven to be in every better support: they stay in S.
    """

    def __init__(
        self,
        problem: LeastSquares,
        pattern: Pattern,
        members: np.ndarray,
        correlation: Array,
        inside: Array | None = None,
    ) -> None:
        xp = problem.xp
        self.members = members
        self.pattern = pattern.restrict(members)
        where = xp.asarray(members, device=problem.device)
        self._mu, self._n_rows = problem.mu, problem.n_rows
        m = len(members)
        self._place = np.full(m, -1)  # of each row of H in _rows; -1 where not known
        self._rows, self._known = np.empty((0, m)), 0
        large = m > COPIED * problem.p and m <= problem.n_rows
        if m <= MOSTLY * pattern.size or large:
            H = to_host(problem.inner_gram(where))
            # The library's memory may be read-only.
            self._rows = np.require(H, requirements=["C", "W"])
            self._rows[np.diag_indices(m)] += self._mu
            self._place, self._known = np.arange(m), m
        else:
            # One row a column of A: the rows of H are products with all of it.
            self._At = xp.matrix_transpose(problem.columns(where))
        self.g = to_host(xp.take(correlation, where))
        self.h = to_host(xp.take(problem.column_norms(), where)) + problem.mu
        # A constant column, centred, is rounding: it correlates with nothing.
        self.g = np.where(self.h > 0, self.g, 0.0)
        # A random vector, of one size for every column.
        self.probe = np.random.default_rng(0).standard_normal(m)
        self.probe *= np.where(self.h > 0, 1 / np.sqrt(m * np.maximum(self.h, TINY)), 0)
        self._free = self.pattern.is_uniform
        self.locked = np.zeros(len(members), dtype=bool)
        if inside is not None:
            self.locked = to_host(xp.take(inside, where))

    def H(self, S: np.ndarray, columns: np.ndarray | slice) -> np.ndarray:
        """H_S in some columns, a copy. A new row costs one product with A_W'."""
        self._learn(S)
        rows = self._place[S]
        if isinstance(columns, slice):
            return self._rows[rows, columns]
        return self._rows[rows[:, None], columns]

    def dot(self, S: np.ndarray, v: np.ndarray) -> np.ndarray:
        """H_S v."""
        self._learn(S)
        return (self._rows[: self._known] @ v)[self._place[S]]

    def row(self, j: int) -> np.ndarray:
        """Row j of H, not a copy."""
        if self._place[j] < 0:
            self._learn(np.asarray([j]))
        return self._rows[self._place[j]]

    def _learn(self, S: np.ndarray) -> None:
        new = S[self._place[S] < 0]
        if len(new):
            xp = array_namespace(self._At)
            index = xp.asarray(new, device=device(self._At))
            a = xp.matrix_transpose(xp.take(self._At, index, axis=0))
            first, self._known = self._known, self._known + len(new)
            if self._known > len(self._rows):
                room = np.empty((min(first + self._known, len(self.g)), len(self.g)))
                room[:first] = self._rows[:first]
                self._rows = room
            rows = self._rows[first : self._known]
            rows[:] = to_host(self._At @ a).T
            rows[np.arange(len(new)), new] += self._mu
            self._place[new] = np.arange(first, self._known)

    def value(self, S: np.ndarray) -> float:
        """How much of n F(0) the support explains: 1/2 g_S' P g_S."""
        return self.at(S)[2]

    def at(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(P, w, value) on S."""
        g = self.g[S]
        P = inverse(self.H(S, S))
        w = P @ g
        return P, w, 0.5 * float(g @ w)

    def forward(self, S: np.ndarray, size: int) -> np.ndarray:
        """Add the best coordinate, refitted, until S has `size` or nothing gains."""
        m, start = len(self.members), len(S)
        in_S = np.zeros(m, dtype=bool)
        in_S[S] = True
        # V = L^-1 H_S for the Cholesky factor L of H_SS: one row more a step.
        V = np.empty((size, m))
        q, d = self.g, self.h
        if start:
            L = factor(self.H(S, S))
            known = V[:start]
            np.take(self._rows, self._place[S], axis=0, out=known, mode="clip")
            # From the right on the transpose, in the order that BLAS wants: in place.
            dtrsm(1.0, L, known.T, side=1, lower=1, trans_a=1, overwrite_b=1)
            z = dtrsv(L, self.g[S], lower=1)
            q, d = q - z @ known, d - np.einsum("ij,ij->j", known, known)
        least = DEPENDENT * self.h + TINY
        floor = NOISE * float(np.max(self.g**2 / np.maximum(self.h, TINY), initial=0))
        for t in range(start, size):
            gain = q**2
            gain /= np.maximum(d, least)
            gain[d <= least] = 0.0
            gain[~self.may_join(in_S, gain)] = 0.0
            j = int(np.argmax(gain))
            if not gain[j] > floor:
                break
            in_S[j] = True
            root = np.sqrt(d[j])
            V[t] = (self.row(j) - V[:t, j] @ V[:t]) / root
            q = q - V[t] * (q[j] / root)
            d = d - V[t] ** 2
        return np.flatnonzero(in_S)

    def backward(self, S: np.ndarray, size: int) -> np.ndarray:
        """Drop the coordinate that costs least, refitted, until S has `size`."""
        P, w, _ = self.at(S)
        kept = np.ones(len(S), dtype=bool)
        for _ in range(len(S) - size):
            cost = np.full(len(S), np.inf)
            np.divide(w**2, P.diagonal(), out=cost, where=kept)
            i = int(np.argmin(cost))
            kept[i] = False
            x = P[i] / P[i, i]
            w = w - w[i] * x
            P = minus(P, x[None], P[i : i + 1].copy())
        return S[kept]

    def best_start(self) -> np.ndarray:
        """Select forward beyond the size, drop the excess, swap; from the best excess.

        What a forward step took too early, a backward step can still drop.
        """
        size, none = self.pattern.size, np.empty(0, dtype=np.intp)
        if not self._free:
            return self.forward(none, size)
        most = min(len(self.members), self._n_rows - 1)
        starts = []
        for excess in EXCESS:
            S = self.forward(none, max(size, min(size + int(excess * size) + 1, most)))
            starts.append(self.improve(self.backward(S, size), 20 * size + 100))
        return max(starts, key=lambda start: start[1])[0]

    def may_join(self, in_S: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which coordinates can be added to S on the way to an allowed support."""
        if self._free:
            return ~in_S
        # The patterns are matroids: what best_mask would add to S now, S may take.
        return self.pattern.best_mask(np.where(in_S, np.inf, score)) & ~in_S

    def exchangeable(self, S: np.ndarray) -> np.ndarray | None:
        """Which coordinates may replace which of S, shape (len(S), m); None: all."""
        return self.pattern.exchangeable(S, np.arange(len(self.members)))

    def improve(self, S: np.ndarray, max_swaps: int) -> tuple[np.ndarray, float, int]:
        """Swap, best pair first, until no pair gains: (S, its value, swaps made)."""
        if len(S) < self.pattern.size:
            S = self.forward(S, self.pattern.size)
        if len(S) in (0, len(self.members)):
            return S, self.value(S), 0
        tableau, done = Tableau(self, S), 0
        while done < max_swaps:
            value = tableau.value
            gain, i, j = tableau.best()
            if not gain > GAIN * value:
                if tableau.sound():
                    break
                tableau.renew()
                continue
            left = tableau.S[i]
            tableau.swap(i, j)
            if not tableau.value > value * (1 + 0.1 * GAIN):
                tableau.S[i] = left  # the formula's gain was rounding
                tableau.value = value
                break
            done += 1
        return np.sort(tableau.S), tableau.value, done
