"""Branch and bound: the optimum of a problem of some hundred coordinates, proven.

With G = A'A, c = A'b + mu w_bar, and d not above the smallest eigenvalue of G, so that
M = G - d I is positive semidefinite, every point v and every w on a support S have

    n F(w) >= 1/2 ||b||^2 + mu/2 ||w_bar||^2 - 1/2 v'M v
              - 1/2 sum_{j in S} q_j^2 / (mu + d),          q = c - M v,

and the largest such sum, among the supports that a node of the tree still allows, gives
the node's bound. It is `dual`'s (d = 0, alpha = b - A v), but with part of G moved into
the ridge, so that a tall problem has a bound at ridge = 0 as well. Any v will do; the
best is the minimiser of the perspective relaxation

    min  1/2 w'M w - c'w + 1/2 sum_j (mu + d) w_j^2 / z_j,  0 <= z <= 1, sum z = k,

which is found by minimising over w and over z in turn, both in closed form. A node
whose bound is not below the best objective is closed; of others, coordinates that the
bound decides are fixed, and one that z leaves between 0 and 1 is tried both in and out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..arrays import Array, indices, mask_of, to_host
from ..certificate import certified, decided
from ..problem.columns import Columns
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..solution import Solution, Status

UP_TO = 1000  # coordinates: the Gram matrix of all is formed on the host
ALTERNATIONS = 60  # between w and z at most, in a node
SETTLED = 0.1  # of what a node lacks to be closed: more is not worth alternating for
LIVE = 1e-6  # z below which a coordinate is left out of the system for w
WITHIN = 0.999  # of tol, so that a gap of tol is not missed by rounding
ENTER = 1e-2  # of the largest coefficient: with which one left out comes back


class Node(NamedTuple):
    """What is decided of a support, and the relaxation's minimiser."""

    bound: float
    order: int  # breaks ties between equal bounds
    inside: np.ndarray
    outside: np.ndarray
    z: np.ndarray
    w: np.ndarray


class Relaxation:
    """The perspective relaxation of supports of k among the coordinates S."""

    def __init__(self, problem: LeastSquares, S: Array, k: int) -> None:
        xp = problem.xp
        self.k, self.p = k, int(S.shape[0])
        A_S = Columns(problem, S)
        G, c = to_host(A_S.gram()), to_host(A_S.tdot(problem.b))
        prior = np.zeros(self.p)
        if problem.prior is not None:
            prior = to_host(xp.take(problem.prior, S))
            c = c + problem.mu * prior
        at_zero = 0.5 * float(problem.b @ problem.b)
        self.at_zero = at_zero + problem.penalty(problem.zeros(problem.p))
        # Every entry of G and c is off by at most gamma times the lengths it is the
        # product of, before centring.
        self._lengths = np.sqrt(to_host(xp.take(problem.raw_norms(), S)))
        eps = float(np.finfo(float).eps)
        self._gamma = (problem.terms + self.p + 16) * eps
        self._b = (2 * at_zero) ** 0.5
        off = 4 * self._gamma * float(self._lengths @ self._lengths)
        shift = max(float(np.linalg.eigvalsh(G)[0]) - off, 0.0) if self.p else 0.0
        self.mu = problem.mu + shift
        self.M, self.c = G - shift * np.eye(self.p), c
        self._off_c = self._gamma * problem.mu * float(np.linalg.norm(prior))
        largest = np.sort(self._lengths)[::-1][:k]
        self._spread = float(np.linalg.norm(largest))

    def value(self, S: np.ndarray) -> float:
        """The minimum of n F on a support, without its rounding."""
        H = self.M[np.ix_(S, S)] + self.mu * np.eye(len(S))
        w = scipy.linalg.solve(H, self.c[S], assume_a="pos", check_finite=False)
        return self.at_zero - 0.5 * float(self.c[S] @ w)

    def minimiser(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The w of given z, M w, and the relaxation's value there."""
        live = np.flatnonzero(z > LIVE)
        root = np.sqrt(z[live])
        H = self.M[np.ix_(live, live)] * root * root[:, None]
        H[np.diag_indices(len(live))] += self.mu
        w = np.zeros(self.p)
        w[live] = root * scipy.linalg.solve(
            H, root * self.c[live], assume_a="pos", check_finite=False
        )
        value = self.at_zero - 0.5 * float(self.c @ w)
        return w, self.M[:, live] @ w[live], value

    def bound(
        self, v: np.ndarray, Mv: np.ndarray, inside: np.ndarray, free: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """A certificate for the supports between `inside` and `inside | free`.

        And the scores q^2, whose largest sum enters it.
        """
        scores = (self.c - Mv) ** 2
        room = self.k - int(np.count_nonzero(inside))
        chosen = float(np.sum(scores[inside]) + np.sum(_largest(scores[free], room)))
        # q is off by at most 3 gamma ||a_j|| (||b|| + sum_i ||a_i|| |v_i|).
        reach = float(self._lengths @ np.abs(v))
        off = 3 * self._gamma * self._spread * (self._b + reach) + self._off_c
        value = self.at_zero - 0.5 * float(v @ Mv)
        value -= self._gamma * (self.at_zero + 3 * reach**2)
        bound, self._slack = certified(value, chosen, self.mu, off, self._gamma)
        return float(bound), scores

    def fix(
        self, inside: np.ndarray, outside: np.ndarray, scores: np.ndarray, lack: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decide what every support must hold, or not, to be below bound + lack."""
        free = ~(inside | outside)
        room = self.k - int(np.count_nonzero(inside))
        if not 0 < room < np.count_nonzero(free):
            return inside, outside
        taken = largest_first(inside, outside, scores, self.k) & ~inside
        left = free & ~taken
        low, high = np.min(scores[taken]), np.max(scores[left])
        margin = 2 * self.mu * lack + 2 * self._slack
        fixed = decided(scores, taken, left, low, high, margin)
        return inside | fixed.inside, outside | fixed.outside

    def solve(
        self, inside: np.ndarray, outside: np.ndarray, z: np.ndarray, cutoff: float
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Alternate from z; return the best bound, its scores, and the last z and w."""
        free = ~(inside | outside)
        room = self.k - int(np.count_nonzero(inside))
        best, best_scores = float("-inf"), np.zeros(self.p)
        for _ in range(ALTERNATIONS):
            w, Mw, value = self.minimiser(z)
            bound, scores = self.bound(w, Mw, inside, free)
            if bound > best:
                best, best_scores = bound, scores
            if best >= cutoff or value - best <= SETTLED * abs(cutoff - value):
                break
            size = np.where(free, np.abs(w), 0.0)
            # One that was left out, but belongs to the largest scores, comes back.
            least = np.min(_largest(scores[free], room), initial=np.inf)
            lost = free & (z <= LIVE) & (scores >= least)
            size[lost] = ENTER * np.max(size)
            z = inside + shares(size, room)
        return best, best_scores, z, w


def _largest(x: np.ndarray, k: int) -> np.ndarray:
    k = min(k, len(x))
    return np.partition(x, len(x) - k)[len(x) - k :] if k else x[:0]


def shares(size: np.ndarray, room: int) -> np.ndarray:
    """The z in [0, 1] of sum `room` at most with the least sum of size^2 / z.

    It is min(1, size / theta).
    """
    if room == 0 or not np.any(size):
        return np.zeros_like(size)
    ordered = np.sort(size)[::-1]
    # With the m largest at 1, theta shares out what is left of the room.
    rest = np.cumsum(ordered[::-1])[::-1][:room]
    theta = rest / (room - np.arange(len(rest)))
    m = int(np.argmax(ordered[: len(rest)] <= theta))
    if ordered[m] > theta[m] or theta[m] == 0:
        return (size > 0).astype(float)
    return np.minimum(1.0, size / theta[m])


def branch(
    problem: LeastSquares,
    k: int,
    solution: Solution,
    *,
    max_nodes: int,
    tol: float,
    on_step: Callable[[Array], bool] | None = None,
    required: np.ndarray | None = None,
) -> Solution:
    """Search all supports of k coordinates, the least bound first, until none is left.

    Parameters
    ----------
    problem : LeastSquares
        With mu > 0 or independent columns.
    k : int
        The size of a support.
    solution : Solution
        The better it is, the fewer nodes are opened. Coordinates that it has fixed
        outside are left out.
    max_nodes : int
        Nodes whose relaxation is solved at most.
    tol : float
        Supports that are better by less than this share of n F are not looked for.
    on_step : callable or None
        Called with the best coefficients after each node; True stops.
    required : ndarray of int, or None
        Coordinates that are in every support, fewer than k.

    Returns
    -------
    Solution
        Never with a larger objective or a smaller bound than given.

    Notes
    -----
    A node costs some systems of as many equations as the relaxation has coordinates
    above 0, O(p^3) each at most. Memory: p x p, on the host.
    """
    xp = problem.xp
    out = None if solution.fixed is None else solution.fixed[1]
    S = indices(xp.ones_like(solution.support) if out is None else ~out)
    p = int(S.shape[0])
    if p > UP_TO:
        return _not_begun(solution, f"{p} columns are left")
    relaxation = Relaxation(problem, S, k)
    if not relaxation.mu > 1e-9 * float(np.max(relaxation.M.diagonal(), initial=0.0)):
        return _not_begun(solution, "columns depend on each other")

    best, status = solution, Status.CONVERGED
    leaves, queue, order, nodes = float("inf"), list[Node](), count(), 0
    none, tried = np.zeros(p, dtype=bool), set()
    waiting = [_root(none if required is None else np.isin(to_host(S), required), k)]
    while True:
        cutoff = best.objective * (1 - WITHIN * tol)
        for above, inside, outside, z in waiting:
            nodes += 1
            bound, scores, z, w = relaxation.solve(inside, outside, z, cutoff)
            bound = max(bound, above)
            guess = largest_first(inside, outside, np.abs(w), k)
            if guess.tobytes() not in tried:
                tried.add(guess.tobytes())
                best = _better(problem, S, np.flatnonzero(guess), relaxation, best)
            if bound >= cutoff:
                continue
            inside, outside = relaxation.fix(inside, outside, scores, cutoff - bound)
            free = ~(inside | outside)
            room = k - int(np.count_nonzero(inside))
            if 0 < room < np.count_nonzero(free):
                heapq.heappush(queue, Node(bound, next(order), inside, outside, z, w))
                continue
            # One support is left.
            last = inside | free if room > 0 else inside
            best = _better(problem, S, np.flatnonzero(last), relaxation, best)
            w, Mw, _ = relaxation.minimiser(1.0 * last)
            leaves = min(leaves, relaxation.bound(w, Mw, last, none)[0])
        if on_step is not None and on_step(best.coef):
            status = Status.STOPPED
            break
        if not queue or queue[0].bound >= best.objective * (1 - WITHIN * tol):
            break
        if nodes >= max_nodes:
            status = Status.MAX_ITER
            break
        waiting = _children(heapq.heappop(queue), k)
    least = min([cutoff, leaves, *(node.bound for node in queue[:1])])
    return _with_proof(best, least, nodes, status, tol)


def _with_proof(
    best: Solution, least: float, nodes: int, status: Status, tol: float
) -> Solution:
    """Return the best solution with what the tree proves: nothing is below `least`."""
    known = best.lower_bound if best.lower_bound == best.lower_bound else 0.0
    best = replace(best, lower_bound=min(max(known, least), best.objective))
    if best.gap <= tol and status is not Status.STOPPED:
        status = Status.OPTIMAL if best.gap == 0 else Status.WITHIN_TOL
    note = f"branch and bound: {nodes} nodes, proven gap {best.gap:.2%}"
    return replace(best, status=status, history=(*best.history, note))


def _root(inside: np.ndarray, k: int) -> tuple:
    """The node of all supports; what is left of k is spread over the others."""
    used = int(np.count_nonzero(inside))
    share = min((k - used) / max(len(inside) - used, 1), 1.0)
    return 0.0, inside, np.zeros_like(inside), np.where(inside, 1.0, share)


def _not_begun(solution: Solution, why: str) -> Solution:
    note = f"branch and bound: not begun, for {why}"
    return replace(solution, history=(*solution.history, note))


def _children(node: Node, k: int) -> list[tuple]:
    """Two nodes: with and without the largest coefficient that z leaves open."""
    free = ~(node.inside | node.outside)
    between = free & (node.z < 1 - LIVE)
    j = int(
        np.argmax(np.where(between if np.any(between) else free, np.abs(node.w), -1))
    )
    children = []
    for chosen in (True, False):
        inside, outside = node.inside.copy(), node.outside.copy()
        (inside if chosen else outside)[j] = True
        free = ~(inside | outside)
        room = k - int(np.count_nonzero(inside))
        z = np.where(free, np.maximum(node.z, 2 * LIVE), 0.0)
        z = inside + np.minimum(1.0, z * (room / np.sum(z)) if room else 0.0)
        children.append((node.bound, inside, outside, z))
    return children


def largest_first(
    inside: np.ndarray, outside: np.ndarray, size: np.ndarray, k: int
) -> np.ndarray:
    """The k coordinates with the largest sizes that a node allows, as a mask."""
    ranked = np.where(inside, np.inf, np.where(outside, -np.inf, size))
    mask = np.zeros(len(size), dtype=bool)
    mask[np.argsort(-ranked, kind="stable")[:k]] = True
    return mask & ~outside


def _better(
    problem: LeastSquares, S: Array, part: np.ndarray, relax: Relaxation, best: Solution
) -> Solution:
    """The better of a solution and the backsolve on S[part]."""
    if not relax.value(part) < best.objective:
        return best
    xp = problem.xp
    index = xp.take(S, xp.asarray(part, device=problem.device))
    found = backsolve(problem, unsolved(problem, mask_of(problem.p, index)))
    if not found.objective < best.objective:
        return best
    return replace(
        best, coef=found.coef, support=found.support, objective=found.objective
    )
