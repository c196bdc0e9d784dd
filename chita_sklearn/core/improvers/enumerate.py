"""Every support in turn: the optimum, proven, where there are few supports.

A support S explains E(S) = 1/2 g_S' H_SS^-1 g_S of n F(0), with H = A'A + mu I and
g = A'b + mu w_bar: all of them are scored from one Gram matrix. For any v,

    E(S) = 1/2 (g_S'v + r'v) + 1/2 r' H_SS^-1 r,    r = g_S - H_SS v,

so that E is at least the first term, and above it by ||r||^2 / (2 lambda_min(H_SS)) at
most. With what rounding may have made of H and g, that is an interval for every
support. One that ends below another's beginning is out. The others are solved again
from the columns of A themselves (`refit.minimum`), which says what their minimum is at
least; those that there is no time for may explain as much as their interval allows.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..arrays import mask_of, to_host
from ..linalg import EPS, inverses
from ..patterns.matroids import Pattern
from ..problem.columns import Columns
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..refit.minimum import EXACT, bounded, settled
from ..search.equal_columns import EQUAL
from ..solution import Solution

CHUNK = 2**20  # numbers in a batch of Gram matrices
DAMPING = 1e-12  # of ||a_j||^2: lets dependent columns through the batch
REFITS = 1000  # supports that are solved again at most


class _Scores(NamedTuple):
    """How much of n F(0) some supports explain, rounding included."""

    S: np.ndarray  # shape (m, k)
    least: np.ndarray  # shape (m,)
    most: np.ndarray  # shape (m,)


def enumerate_supports(problem: LeastSquares, pattern: Pattern) -> Solution:
    """Return the best of all supports that a pattern allows.

    Parameters
    ----------
    problem : LeastSquares
        With few coordinates: a p x p Gram is formed on the host.
    pattern : Pattern
        One that lists its supports.

    Returns
    -------
    Solution
        The global minimiser; a support with fewer coordinates cannot be better. Its
        bound equals its objective unless rounding may hide a better support: then it is
        what that support may reach, or -inf where that is not known.

    Notes
    -----
    O(n p^2) for the Gram, then O(k^3) a support, in batches; then O(n k^2) for each
    support that the Gram does not tell from the best.
    """
    problem = problem.original
    score, k = _Score(problem), pattern.size
    supports = pattern.supports(problem.p)
    if not score.g.any():
        supports, k = iter([()]), 0  # w = 0 is optimal
    known, tried = -math.inf, []
    while chunk := list(islice(supports, max(CHUNK // max(k, 1) ** 2, 1))):
        scored = score(np.asarray(chunk, dtype=np.intp).reshape(len(chunk), k))
        known = max(known, float(np.max(scored.least)))
        keep = scored.most >= known
        tried.append(_Scores(*(part[keep] for part in scored)))
    S, least, most = (np.concatenate(parts) for parts in zip(*tried, strict=True))
    # Of supports that rounding alone tells apart, the first: see `first_of_equals`.
    equal = least >= known - EQUAL * abs(known)
    order = np.argsort(-np.where(equal, known, least), kind="stable")
    order = order[most[order] >= known]
    best, rivals = _refitted(problem, S[order[0]]), math.inf
    for refits, i in enumerate(order[1:], start=1):
        reach = score.at_zero * (1 - 8 * EPS) - most[i]
        if refits < REFITS and reach < best.objective * (1 - EXACT):
            found = _refitted(problem, S[i])
            if found.objective < best.objective * (1 - EXACT):
                best, found = found, best
            reach = found.lower_bound
        rivals = min(rivals, reach)
    bound = bounded(problem, best.objective, min(rivals, best.lower_bound))
    return replace(best, lower_bound=bound)


def ranked(
    problem: LeastSquares, pattern: Pattern, count: int
) -> list[tuple[int, ...]]:
    """The supports, at most `count`, that explain most of n F(0), the best first.

    As far as one Gram matrix tells: of those that it does not tell apart, any.
    """
    score, k = _Score(problem.original), pattern.size
    supports = pattern.supports(problem.p)
    best, values = np.empty((0, k), dtype=np.intp), np.empty(0)
    while chunk := list(islice(supports, max(CHUNK // max(k, 1) ** 2, 1))):
        scored = score(np.asarray(chunk, dtype=np.intp).reshape(len(chunk), k))
        best = np.concatenate([best, scored.S])
        values = np.concatenate([values, scored.least])
        order = np.argsort(-values, kind="stable")[:count]
        best, values = best[order], values[order]
    return [tuple(S) for S in best.tolist()]


def _refitted(problem: LeastSquares, S: np.ndarray) -> Solution:
    """Minimise on a support; with what its minimum is at least, or -inf."""
    index = problem.xp.asarray(S, device=problem.device)
    found = backsolve(problem, unsolved(problem, mask_of(problem.p, index)))
    return settled(problem, found, math.inf)


class _Score:
    """The intervals of E(S), from one Gram matrix that is scaled to a unit diagonal.

    In the scaled units an entry of H is off by `gamma` + q_i q_j at most: the sums of
    products round, and a column may be off by a constant that is a rounding of its mean
    (the constant's products with centred columns vanish, those with another's do not).
    """

    def __init__(self, problem: LeastSquares) -> None:
        xp, p = problem.xp, problem.p
        every = xp.arange(p, device=problem.device)
        H = to_host(problem.select(every).gram()) + problem.mu * np.eye(p)
        # From the centred columns: X'b would round by the size of their means.
        g = to_host(Columns(problem, every).tdot(problem.b))
        prior = np.zeros(p)
        if problem.prior is not None:
            prior = problem.mu * to_host(problem.prior)
            g = g + prior
        scale = 1.0 / np.sqrt(np.where(H.diagonal() > 0, H.diagonal(), 1.0))
        self.g = g * scale
        self._H = H * scale * scale[:, None] + DAMPING * np.eye(p)
        self.at_zero = problem.at_zero
        self._gamma = (problem.terms + p + 16) * EPS
        raw = np.sqrt(to_host(problem.raw_norms()))
        self._q = 2 * EPS * raw * scale
        b = float(xp.linalg.vector_norm(problem.b))
        self._off = self._gamma * b + self._q * EPS * b
        self._off += 4 * EPS * np.abs(prior) * scale
        self._ridge = problem.mu * scale**2

    def __call__(self, S: np.ndarray) -> _Scores:
        size = S.shape[1]
        if size == 0:
            zeros = np.zeros(len(S))
            return _Scores(S, zeros, zeros)
        H, g = self._H[S[:, :, None], S[:, None, :]], self.g[S]
        P = inverses(H)  # of a singular one, damped: the intervals say how far off
        v = _times(P, g)
        r = g - _times(H, v)
        lost = np.eye(size) - H @ P
        # H v without the damping, and what rounding may have made of it.
        r = r + DAMPING * v
        length = np.sum(np.abs(v), axis=1)
        along = np.sum(self._q[S] * np.abs(v), axis=1)
        off = self._off[S] + self._gamma * length[:, None] + self._q[S] * along[:, None]
        explained = 0.5 * (np.sum(g * v, axis=1) + np.sum(r * v, axis=1))
        error = np.sum(self._off[S] * np.abs(v), axis=1)
        error += 0.5 * (self._gamma * length**2 + along**2)
        # The smallest eigenvalue, from how far P is from an inverse.
        smallest = (1 - _norm(lost)) / _norm(P) - DAMPING
        smallest -= size * self._gamma + np.sum(self._q[S] ** 2, axis=1)
        smallest = np.maximum(smallest, np.min(self._ridge[S], axis=1))
        left = np.sqrt(np.sum(r**2, axis=1)) + np.sqrt(np.sum(off**2, axis=1))
        more = np.full(len(S), np.inf)
        np.divide(0.5 * left**2, smallest, out=more, where=smallest > 0)
        return _Scores(S, explained - error, explained + error + more)


def _times(M: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (M @ v[:, :, None])[:, :, 0]


def _norm(M: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(M**2, axis=(1, 2)))
