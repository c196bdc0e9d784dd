"""A working set: the problem on a few columns, where supports are searched.

The search is small and runs on the host in NumPy, whatever holds A; A is touched to
form the rows of H that it needs. Notation as in `swap_state`.
"""

from __future__ import annotations

from copy import copy

import numpy as np

from ..arrays import Array, to_host
from ..linalg import TINY, inverse
from ..patterns.matroids import Pattern
from ..problem.base import Quadratic

# With up to so many columns per non-zero, forming all of H at once is cheaper.
MOSTLY = 16
# Share of X that may be copied to form rows of H one by one.
COPIED = 1 / 8


def spare(problem: Quadratic) -> int:
    """How many numbers a search may hold of A's columns, and as many of H.

    A sixteenth of those of a large X; up to a million where X is small.
    """
    size = problem.n_rows * problem.p
    return max(size // 16, 2**20 - size // 4)


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
    H : array of shape (m, m), or None
        The Gram matrix of the members, where it is known already.
    """

    def __init__(
        self,
        problem: Quadratic,
        pattern: Pattern,
        members: np.ndarray,
        correlation: Array,
        inside: Array | None = None,
        H: Array | None = None,
    ) -> None:
        xp = problem.xp
        self.members, self._problem = members, problem
        self.pattern = pattern.restrict(members)
        where = xp.asarray(members, device=problem.device)
        self._mu, self.n_rows, self.n_columns = problem.mu, problem.n_rows, problem.p
        m = len(members)
        self.spare = spare(problem)
        self._most = self.spare // max(m, 1)  # rows of H that are kept
        self._place = np.full(m, -1)  # of each row of H in _rows; -1 where not known
        self._rows, self._known = np.empty((0, m)), 0
        large = m > COPIED * problem.p and m <= problem.n_rows
        if H is not None or m <= MOSTLY * pattern.size or large:
            H = to_host(problem.select(where).gram() if H is None else H)
            # The library's memory may be read-only.
            self._rows = np.require(H, requirements=["C", "W"])
            self._rows[np.diag_indices(m)] += self._mu
            self._place, self._known = np.arange(m), m
        else:
            self._gram_rows = problem.select(where).gram_rows()
        self.g = to_host(xp.take(correlation, where))
        self.h = to_host(xp.take(problem.column_norms(), where)) + problem.mu
        # A constant column, centred, is rounding: it correlates with nothing.
        self.g = np.where(self.h > 0, self.g, 0.0)
        # A random vector, of one size for every column.
        self.probe = np.random.default_rng(0).standard_normal(m)
        self.probe *= np.where(self.h > 0, 1 / np.sqrt(m * np.maximum(self.h, TINY)), 0)
        self.locked = np.zeros(len(members), dtype=bool)
        if inside is not None:
            self.locked = to_host(xp.take(inside, where))

    def H(self, S: np.ndarray, columns: np.ndarray | slice) -> np.ndarray:
        """H_S in some columns, a copy. A new row costs one product with A_W'."""
        self._learn(S)
        rows = self._place[S]
        if isinstance(columns, slice):
            if columns == slice(None):
                return np.take(self._rows, rows, axis=0)
            return self._rows[rows, columns]
        return self._rows[rows[:, None], columns]

    def part(self, C: np.ndarray, unit: float = 1.0) -> WorkingSet:
        """The problem on some of the members, ascending, its columns of unit length.

        b is in units of `unit`, so that float32 can hold its products in any units of
        the user's.
        """
        V, m = copy(self), len(C)
        V.members, V.locked, V.probe = self.members[C], self.locked[C], self.probe[C]
        V.pattern = self.pattern.restrict(C)
        if self._known == len(self.members):
            V._rows = self.H(C, C)
        else:
            xp = self._problem.xp
            where = xp.asarray(V.members, device=self._problem.device)
            gram = to_host(self._problem.select(where).gram())
            V._rows = np.require(gram, requirements=["C", "W"])
            V._rows[np.diag_indices(m)] += self._mu
        h = self.h[C]
        scale = np.where(h > 0, 1 / np.sqrt(np.maximum(h, TINY)), 0.0)
        V._rows *= scale
        V._rows *= scale[:, None]
        V.g, V.h = self.g[C] * (scale / unit), 1.0 * (h > 0)
        V._place, V._known, V._most = np.arange(m), m, m
        return V

    def dot(self, S: np.ndarray, v: np.ndarray) -> np.ndarray:
        """H_S v."""
        self._learn(S)
        return (self._rows[: self._known] @ v)[self._place[S]]

    def row(self, j: int) -> np.ndarray:
        """Row j of H, not a copy."""
        if self._place[j] < 0:
            self._learn(np.asarray([j]))
        return self._rows[self._place[j]]

    def rows_into(self, S: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write H_S to `out`, shape (len(S), m), and return it."""
        self._learn(S)
        return np.take(self._rows, self._place[S], axis=0, out=out, mode="clip")

    def _learn(self, S: np.ndarray) -> None:
        if self._known == len(self._place):
            return
        new = S[self._place[S] < 0]
        if not len(new):
            return
        new = np.unique(new)
        if self._known + len(new) > self._most:  # no room: keep what is asked for
            self._place[:], self._known = -1, 0
            new = np.unique(S)
        first, self._known = self._known, self._known + len(new)
        if self._known > len(self._rows):
            most = max(min(2 * self._known, self._most), self._known)
            room = np.empty((min(most, len(self.g)), len(self.g)))
            room[:first] = self._rows[:first]
            self._rows = room
        rows = self._rows[first : self._known]
        rows[:] = self._gram_rows(new)
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

    def may_join(self, in_S: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which coordinates can be added to S on the way to an allowed support."""
        if self.pattern.is_uniform or np.count_nonzero(in_S) >= self.pattern.size:
            return ~in_S
        # The patterns are matroids: what best_mask would add to S now, S may take.
        return self.pattern.best_mask(np.where(in_S, np.inf, score)) & ~in_S

    def may_leave(self, S: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Which of S can be dropped, all of them together, on the way to a support.

        Of a matroid, the one of least cost that can be dropped at all is among them.
        """
        if self.pattern.is_uniform:
            return np.full(len(S), len(S) > self.pattern.size)
        score = np.full(len(self.members), -np.inf)
        score[S] = cost
        return ~self.pattern.best_mask(score)[S]

    def exchangeable(self, S: np.ndarray) -> np.ndarray | None:
        """Which coordinates may replace which of S, shape (len(S), m); None: all."""
        return self.pattern.exchangeable(S, np.arange(len(self.members)))
