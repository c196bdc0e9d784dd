"""Walkers: many supports on a working set that take one swap each, together.

Each walks as Glover's tabu search does: by the best swap, gain or loss, that undoes no
recent one. A support costs a few passes over its tableau a step; taking the steps of
all walkers at once leaves the cost of the calls out. Notation as in `swap_state`, with
a leading axis for the walkers: S (B, k), P (B, k, k), T (B, k, m), q and d (B, m).

T, q and d tell which swap to take and are kept in float32: their passes are all that a
step costs. P, w and the value are float64 throughout, and so is column j of T, computed
anew for the swap that is taken: no rounding of T gets into them.

References
----------
F. Glover, "Tabu search", ORSA Journal on Computing 1, 1989; F. Glover, M. Laguna and
R. Marti, "Fundamentals of scatter search and path relinking", Control and Cybernetics
29, 2000 (what to do with several good answers).
"""

from __future__ import annotations

import numpy as np

from ..linalg import TINY, inverse
from .local_search import GAINED, NOISE
from .swap_state import joining, own_part
from .working_set import WorkingSet

# Steps that a coordinate swapped out stays out, drawn for each; one swapped in stays in
# for half as many.
TENURE = (5, 15)
ROWS = 8  # coordinates of a support, those that cost least, are tried to leave
CHOICES = 5  # largest gains from which a randomised forward selection draws
TOGETHER = 2**18  # numbers of the tableaus T that stay in the cache
# ||a_j||^2 over the squared distance of a_j from the span of the rest of the support,
# above which it does not join: the update would multiply rounding errors by as much.
INFLATED = 1e7
RENEWED = 40  # steps after which all is computed from scratch
ROUGH = np.float32  # of what only tells which swap to take


class Walkers:
    """Supports of one size on a working set that walk together.

    Parameters
    ----------
    W : WorkingSet
    S : ndarray of int, shape (B, k)
        The supports, indices into W's members.
    tenure : ndarray of int, shape (B, steps)
        For how many steps what is swapped out in each of them stays out.
    """

    def __init__(self, W: WorkingSet, S: np.ndarray, tenure: np.ndarray) -> None:
        self._W, self.S, self._tenure = W, S.copy(), tenure
        B, k = S.shape
        m = len(W.members)
        self._each = np.arange(B)
        self._until = np.zeros((B, m), dtype=np.int32)  # the last step it is tabu
        self._step = 0
        self._T = np.empty((B, k, m), dtype=ROUGH)
        few = min(ROWS, k)
        self._update = np.empty_like(self._T)
        self._left, self._both = np.empty((2, B, few, m), dtype=ROUGH)
        self._first = np.arange(B)[:, None] * m  # of each walker's part of B x m
        self._least = (W.h / INFLATED + float(np.finfo(ROUGH).tiny)).astype(ROUGH)
        self._any_locked = bool(W.locked.any())
        self._renew()
        self._found, self._best_value = self.S.copy(), self._value.copy()

    def _renew(self) -> None:
        W, S = self._W, self.S
        B, k = S.shape
        rows = W.H(S.ravel(), slice(None)).reshape(B, k, -1)
        self._H_SS = np.take_along_axis(rows, np.repeat(S[:, None], k, axis=1), axis=2)
        self._P = np.stack([inverse(H.copy()) for H in self._H_SS])
        g = W.g[S]
        self._w = (self._P @ g[:, :, None])[:, :, 0]
        self._value = 0.5 * np.sum(g * self._w, axis=1)
        T = self._P @ rows
        self._T[:] = T
        self._q = _rough(W.g - (self._w[:, None] @ rows)[:, 0])
        rows *= T
        self._d = _rough(W.h - np.sum(rows, axis=1))

    def walk(self) -> tuple[np.ndarray, np.ndarray]:
        """Take all steps; return the best support that each has met, and its value."""
        for _ in range(self._tenure.shape[1]):
            self._step += 1
            if self._step % RENEWED == 0:
                self._renew()
            i, j, gain = self._best()
            self._swap(i, j, gain > -np.inf)
            better = self._value > self._best_value
            self._found[better] = self.S[better]
            self._best_value[better] = self._value[better]
        return self._found, self._best_value

    def _best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each walker the swap (i, j) of largest gain among those allowed.

        Of S, the few that cost least to leave are tried: the others hardly ever go.
        """
        W, S, b = self._W, self.S, self._each
        tabu = self._until >= self._step
        p = np.diagonal(self._P, axis1=1, axis2=2)
        alone = self._w**2 / p
        allowed = self._allowed()
        if allowed is not None:
            alone[~allowed.any(axis=2)] = np.inf
        elif self._any_locked:
            alone[W.locked[S]] = np.inf
        few = self._left.shape[1]
        rows = np.argpartition(alone, few - 1, axis=1)[:, :few]
        at = b[:, None], rows
        both = self._explained(rows, p[at], self._w[at])
        if allowed is not None:
            both[~allowed[at]] = -np.inf
        alone = _rough(alone[at])
        gains = np.max(both, axis=2) - alone
        i = np.argmax(gains, axis=1)
        gain = gains[b, i]
        # Tabu or not, a swap that leads beyond the best support met is taken.
        record = np.flatnonzero(self._value + 0.5 * gain > self._best_value * GAINED)
        i_r, j_r = i[record], np.argmax(both[record, i[record]], axis=1)
        i_S = rows[record, i_r]
        barred = tabu[record, j_r] | tabu[record, S[record, i_S]]
        record, i_r, j_r = record[barred], i_r[barred], j_r[barred]
        if len(record):  # float32 may have taken the best itself for a better one
            value = self._value_after(record, i_S[barred], j_r)
            sure = value > self._best_value[record] * GAINED
            record, i_r, j_r = record[sure], i_r[sure], j_r[sure]
        known = i_r, j_r, gain[record]
        both -= np.where(tabu, ROUGH(np.inf), ROUGH(0))[:, None]
        j = np.argmax(both, axis=2)
        gains = both[b[:, None], np.arange(few), j] - alone
        gains[tabu[b[:, None], S[at]]] = -np.inf
        i = np.argmax(gains, axis=1)
        j, gain = j[b, i], gains[b, i]
        i[record], j[record], gain[record] = known
        return rows[b, i], j, gain

    def _explained(self, rows: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
        """w_i^2 / P_ii and twice the gain of each j in the place of some i, in float32.

        -inf for what is in S.
        """
        q, own = self._q.copy(), np.maximum(self._d, self._least)
        inside = self.S + self._first
        q.reshape(-1)[inside], own.reshape(-1)[inside] = np.inf, -np.finfo(ROUGH).max
        _, k, m = self._T.shape
        left, both = self._left, self._both
        place = (rows + self._each[:, None] * k).reshape(-1)
        np.take(self._T.reshape(-1, m), place, 0, left.reshape(-1, m), mode="clip")
        np.multiply(left, _rough(w / p)[:, :, None], out=both)
        both += q[:, None]
        both *= both
        left *= left
        left *= _rough(1 / p)[:, :, None]
        left += own[:, None]
        both /= left
        return both

    def _value_after(self, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """What walkers b explain after their swaps (i, j), to all digits."""
        S = self.S[b]
        S[np.arange(len(b)), i] = j
        return np.array([self._W.value(each) for each in S])

    def _allowed(self) -> np.ndarray | None:
        """Which swaps the pattern allows, shape (B, k, m); None: all that are free."""
        W = self._W
        if W.pattern.is_uniform:
            return None
        every = ~W.locked[self.S][:, :, None] & np.ones(len(W.members), dtype=bool)
        for S, allowed in zip(self.S, every, strict=True):
            may = W.exchangeable(S)
            if may is not None:
                allowed &= may
        return every

    def _swap(self, i: np.ndarray, j: np.ndarray, moving: np.ndarray) -> None:
        W, S, P, T, b = self._W, self.S, self._P, self._T, self._each
        if not moving.any():
            return
        h = W.H(j, slice(None))
        h_S = h[b[:, None], S]
        t = (P @ h_S[:, :, None])[:, :, 0]  # column j of T, to all digits
        P_i, w_i, T_ij, h_j = P[b, i], self._w[b, i], t[b, i], W.h[j]
        p = P_i[b, i]
        own = h_j - np.sum(h_S * t, axis=1) + T_ij**2 / p
        out = self._tenure[:, self._step - 1]
        # A column that nearly depends on the others would spoil the tableau.
        sound = (own * INFLATED >= h_j) & (h_j > 0)
        moving = moving & sound
        still = np.flatnonzero(~moving)
        if len(still):
            self._until[b[~sound], j[~sound]] = self._step + out[~sound]
            own[still] = 1.0
        X, Y = np.empty((2, len(b), 2, S.shape[1]))
        R = np.empty((len(b), 2, h.shape[1]), dtype=ROUGH)
        x, X_t, R_i, r = X[:, 0], X[:, 1], R[:, 0], R[:, 1]
        np.divide(P_i, p[:, None], out=x)
        R_i[:] = T[b, i]
        np.subtract(t, T_ij[:, None] * x, out=X_t)
        X_t[b, i] = -1.0
        step = (W.g[j] - np.sum(h_S * self._w, axis=1) + T_ij * w_i / p) / own
        along = np.sum(h_S * x, axis=1)
        r[:] = h
        r -= (_rough(h_S)[:, None] @ T)[:, 0]
        r += _rough(along)[:, None] * R_i
        r /= _rough(own)[:, None]
        change = np.array([w_i / p, step * own, 1 / p, own])
        Y[:, 0] = P_i
        np.divide(X_t, -own[:, None], out=Y[:, 1])
        X[still], change[:, still] = 0.0, 0.0
        T -= np.matmul(_rough(X).swapaxes(1, 2), R, out=self._update)
        P -= X.swapaxes(1, 2) @ Y
        gone, come, less, more = _rough(change)[:, :, None]
        self._q += gone * R_i
        self._q -= come * r
        at, to, j = (b, i, j) if not len(still) else (b[moving], i[moving], j[moving])
        T[at, to], P[at, to], P[at, :, to] = r[at], Y[at, 1], Y[at, 1]
        R *= R
        self._d += less * R_i
        self._d -= more * r
        out = out[at]
        self._until[at, S[at, to]] = self._step + out
        self._until[at, j] = self._step + np.minimum(out // 2, S.shape[1] - 1)
        S[at, to] = j
        h_S[at, to] = h[at, j]
        self._H_SS[at, to] = self._H_SS[at, :, to] = h_S[at]
        g = W.g[S][:, :, None]
        w = P @ g
        w += P @ (g - self._H_SS @ w)  # refined, for the value to be right
        self._w = w[:, :, 0]
        self._value = 0.5 * np.sum(W.g[S] * self._w, axis=1)


def _rough(x: np.ndarray) -> np.ndarray:
    return x.astype(ROUGH)


def together(W: WorkingSet) -> int:
    """How many numbers of tableaus are stepped together: few compared with X."""
    return min(TOGETHER, W.spare // 8)


def walk(
    W: WorkingSet, S: np.ndarray, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Let a walker go from each row of S; return what they found, and its values.

    As many go together as stay in the cache: that changes no answer.
    """
    count = max(together(W) // (S.shape[1] * len(W.members)), 1)
    tenure = rng.integers(*TENURE, size=(len(S), steps))
    found, values = np.empty_like(S), np.empty(len(S))
    for first in range(0, len(S), count):
        some = slice(first, first + count)
        walkers = Walkers(W, S[some], tenure[some])
        found[some], values[some] = walkers.walk()
    return found, values


def randomised_forward(
    W: WorkingSet, size: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Select forward `count` times, each step drawn from the largest gains.

    Returns the selections that reached `size`, shape (at most count, size): one ends
    early where nothing it could add would gain.
    """
    some = max(together(W) // (size * len(W.members)), 1)
    draws = rng.random((count, size))
    each = [_forward(W, draws[i : i + some]) for i in range(0, count, some)]
    return np.concatenate(each)


def _forward(W: WorkingSet, draws: np.ndarray) -> np.ndarray:
    (count, size), m = draws.shape, len(W.members)
    each = np.arange(count)
    in_S = np.zeros((count, m), dtype=bool)
    S = np.empty((count, size), dtype=np.intp)
    V = np.empty((count, size, m))  # as in `local_search.forward`
    q, d = np.tile(W.g, (count, 1)), np.tile(W.h, (count, 1))
    floor = NOISE * float(np.max(W.g**2 / np.maximum(W.h, TINY), initial=0))
    whole, few = np.ones(count, dtype=bool), min(CHOICES, m)
    for t in range(size):
        gain = joining(q, d, W.h)
        gain[in_S] = 0.0
        if not W.pattern.is_uniform:
            for b in each:
                gain[b, ~W.may_join(in_S[b], gain[b])] = 0.0
        top = np.argpartition(gain, m - few, axis=1)[:, m - few :]
        upto = np.cumsum(np.take_along_axis(gain, top, axis=1), axis=1)
        whole &= upto[:, -1] > floor
        drawn = draws[:, t] * upto[:, -1]
        j = top[each, np.minimum(np.sum(upto <= drawn[:, None], axis=1), few - 1)]
        S[:, t], in_S[each, j] = j, True
        root = np.sqrt(own_part(d[each, j], W.h[j]))[:, None]
        V[:, t] = W.H(j, slice(None))
        if t:
            V[:, t] -= (V[each, :t, j][:, None] @ V[:, :t])[:, 0]
        V[:, t] /= root
        V[~whole, t] = 0.0  # nothing gains there: rounding would grow to infinity
        q -= V[:, t] * (q[each, j][:, None] / root)
        d -= V[:, t] ** 2
    return S[whole]


def mixed(
    W: WorkingSet, A: np.ndarray, B: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Supports between two, a row each of A and of B; ascending.

    What both have, and a random part of what one has.
    """
    k = A.shape[1]
    either = np.concatenate([A, B], axis=1)
    same = A[:, :, None] == B[:, None, :]
    score = rng.random(either.shape)
    score[:, :k][np.any(same, axis=2)] = 2.0
    score[W.locked[either]] = 3.0
    score[:, k:][np.any(same, axis=1)] = -1.0  # it is in A
    if W.pattern.is_uniform:
        S = np.take_along_axis(either, np.argpartition(-score, k - 1)[:, :k], axis=1)
        return np.sort(S, axis=1)
    found = np.empty_like(A)
    for S, of, likes in zip(found, either, score, strict=True):
        every = np.full(len(W.members), -1.0)
        np.maximum.at(every, of, likes)
        S[:] = np.flatnonzero(W.pattern.best_mask(every))
    return found


def distinct(S: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different supports among the rows of S, each ascending, the best first."""
    S, first = np.unique(np.sort(S, axis=1), axis=0, return_index=True)
    order = np.argsort(-values[first], kind="stable")
    return S[order], values[first][order]
