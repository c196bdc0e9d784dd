"""Exact search among supports that are made of whole groups of columns.

Notation as in `swap_state`, for t targets at once: g, w, q have a column for each. Let
G be a group of columns outside S, and D_G = H_GG - T_G' H_SG what they have of their
own beside S. Coefficients refitted, n F falls by

    1/2 tr(q_G' D_G^-1 q_G)                            when G joins S,

and, when G replaces the group a of S, by the same with

    q_G + T_aG' P_aa^-1 w_a,    D_G + T_aG' P_aa^-1 T_aG,

less 1/2 tr(w_a' P_aa^-1 w_a). Directions in which a group has nothing of its own (the
dummies of a category beside an intercept) are left out of D_G^-1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..linalg import inverse
from .local_search import GAIN, NOISE
from .swap_state import DEPENDENT


class _State(NamedTuple):
    """A set of groups, and what the gains of its exchanges are made from."""

    places: list[np.ndarray]  # of each group's columns in S
    P: np.ndarray  # shape (s, s)
    T: np.ndarray  # shape (s, m)
    w: np.ndarray  # shape (s, t)
    q: np.ndarray  # shape (m, t)
    D: list[np.ndarray]  # for each length of groups, shape (groups, length, length)
    value: float  # how much of n F(0) the set explains


class GroupSearch:
    """Sets of groups on a working set of columns.

    Parameters
    ----------
    H : ndarray of shape (m, m)
        A'A + mu I of the columns.
    g : ndarray of shape (m, t)
        A'b + mu w_bar, for each target.
    labels : ndarray of int, shape (m,)
        The group of each column, 0..G-1.
    k : int
        How many groups a set has.
    required : ndarray of int
        Groups that are in every set.
    """

    def __init__(
        self,
        H: np.ndarray,
        g: np.ndarray,
        labels: np.ndarray,
        k: int,
        required: np.ndarray,
    ) -> None:
        # Columns of length 1, so that what is small is small in any units.
        h = H.diagonal()
        unit = np.where(h > 0, 1 / np.sqrt(np.where(h > 0, h, 1.0)), 0.0)
        self.H, self.g = H * unit * unit[:, None], g * unit[:, None]
        self.k, self.required = k, required
        self.n_groups = int(labels.max()) + 1
        self.columns = [np.flatnonzero(labels == G) for G in range(self.n_groups)]
        lengths = np.bincount(labels)
        self._classes = []
        for length in np.unique(lengths):
            groups = np.flatnonzero(lengths == length)
            index = np.stack([self.columns[G] for G in groups])
            self._classes.append((groups, index))
        self._own = [
            self.H[index[:, :, None], index[:, None, :]] for _, index in self._classes
        ]

    def at(self, U: np.ndarray) -> _State:
        """The state of a set of groups. O(s^2 m)."""
        S, places, start = [], [], 0
        for G in U:
            S.append(self.columns[G])
            places.append(np.arange(start, start + len(S[-1])))
            start += len(S[-1])
        index = np.concatenate([*S, np.empty(0, dtype=np.intp)])
        H_S, g_S = self.H[index], self.g[index]
        P = inverse(H_S[:, index].copy())
        T, w = P @ H_S, P @ g_S
        D = [
            own - np.einsum("sgi,sgj->gij", T[:, members], H_S[:, members])
            for own, (_, members) in zip(self._own, self._classes, strict=True)
        ]
        value = 0.5 * float(np.sum(g_S * w))
        return _State(places, P, T, w, self.g - H_S.T @ w, D, value)

    def joining(self, state: _State) -> np.ndarray:
        """What each group gains that joins, shape (G,)."""
        gains = np.zeros(self.n_groups)
        for D, (groups, index) in zip(state.D, self._classes, strict=True):
            gains[groups] = explained(state.q[index], D)
        return gains

    def replacing(self, state: _State, i: int) -> np.ndarray:
        """What each group gains in the place of the i-th, shape (G,)."""
        a = state.places[i]
        P_aa, w_a, T_a = state.P[np.ix_(a, a)], state.w[a], state.T[a]
        both = np.linalg.solve(P_aa, np.hstack([w_a, T_a]))
        t = w_a.shape[1]
        q = state.q + T_a.T @ both[:, :t]
        gains = np.zeros(self.n_groups)
        for D, (groups, index) in zip(state.D, self._classes, strict=True):
            back = np.einsum("agi,agj->gij", T_a[:, index], both[:, t:][:, index])
            gains[groups] = explained(q[index], D + back)
        return gains - 0.5 * float(np.sum(w_a * both[:, :t]))

    def forward(self, U: np.ndarray) -> np.ndarray:
        """Add the group that gains most until there are k or none gains."""
        U = np.union1d(U, self.required).astype(np.intp)
        floor = NOISE * float(np.max(self.g**2, initial=0.0))
        while len(U) < self.k:
            gains = self.joining(self.at(U))
            gains[U] = 0.0
            G = int(np.argmax(gains))
            if not gains[G] > floor:
                break
            U = np.append(U, G)
        return np.sort(U)

    def backward(self, at_once: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Remove group after group, each time the one that explains least.

        Of more than ``at_once`` groups several go together.

        Returns
        -------
        order : ndarray of int, shape (G,)
            The groups, the first to go first.
        lost : ndarray, shape (G + 1,)
            What n F has risen by when 0, 1, ... G of them are gone.

        Notes
        -----
        With P = H_SS^-1, a group a costs 1/2 tr(w_a' P_aa^-1 w_a), and without it w is
        w - P_.a P_aa^-1 w_a and P is P - P_.a P_aa^-1 P_a. (as in optimal brain
        surgeon, for groups). O(m^2 (c + t)) for each removal of c columns.
        """
        P = inverse(self.H.copy())
        w = P @ self.g
        alive = np.ones(self.n_groups, dtype=bool)
        order, lost = np.empty(0, dtype=np.intp), np.zeros(self.n_groups + 1)
        while alive.any():
            cost = np.full(self.n_groups, np.inf)
            for groups, index in self._classes:
                here = alive[groups]
                a, which = index[here], groups[here]
                own = P[a[:, :, None], a[:, None, :]]
                cost[which] = explained(w[a], own)
            few = max(1, int(alive.sum()) // at_once)
            gone = np.argsort(cost, kind="stable")[:few]
            a = np.concatenate([self.columns[G] for G in gone])
            P_a, w_a = P[:, a], w[a]
            both = np.linalg.lstsq(P_a[a], np.hstack([w_a, P_a.T]), rcond=None)[0]
            t, done = w.shape[1], len(order)
            all_at_once = 0.5 * float(np.sum(w_a * both[:, :t]))
            share = np.cumsum(cost[gone])
            share = share / share[-1] if share[-1] > 0 else np.ones(few)
            lost[done + 1 : done + 1 + few] = lost[done] + all_at_once * share
            w, P = w - P_a @ both[:, :t], P - P_a @ both[:, t:]
            w[a], P[a], P[:, a] = 0.0, 0.0, 0.0
            alive[gone], order = False, np.append(order, gone)
        return order, lost

    def improve(self, U: np.ndarray, most: int) -> tuple[np.ndarray, float, int]:
        """Exchange, best pair first, until none gains: (U, value, exchanges made)."""
        U = self.forward(U)
        state, done = self.at(U), 0
        while done < most:
            best, pair = GAIN * state.value, None
            for i, G in enumerate(U):
                if G in self.required:
                    continue
                gains = self.replacing(state, i)
                gains[U] = -np.inf
                if gains.max() > best:
                    best, pair = float(gains.max()), (i, int(np.argmax(gains)))
            if pair is None:
                break
            other = U.copy()
            other[pair[0]] = pair[1]
            after = self.at(other)
            if not after.value > state.value * (1 + 0.1 * GAIN):
                break  # the formula's gain was rounding
            U, state, done = other, after, done + 1
        return np.sort(U), state.value, done


def explained(q: np.ndarray, D: np.ndarray) -> np.ndarray:
    """1/2 tr(q' D^-1 q) for each of many groups: shapes (G, c, t) and (G, c, c)."""
    if D.shape[1] == 1:
        own, along = D[:, :, 0], q
    else:
        own, V = np.linalg.eigh(D)
        along = np.einsum("gij,git->gjt", V, q)
    least = DEPENDENT * D.shape[1]
    squares = np.sum(along**2, axis=2)
    return 0.5 * np.sum(
        np.where(own > least, squares, 0.0) / np.where(own > least, own, 1.0), axis=1
    )
