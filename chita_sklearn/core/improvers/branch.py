"""Branch and bound: the optimum of a problem of some hundred coordinates, proven.

With G = A'A, c = A'b + mu w_bar, and d not above the smallest eigenvalue of G, so that
M = G - d I is positive semidefinite, every point v and every w on a support S have

    n F(w) >= 1/2 ||b||^2 + mu/2 ||w_bar||^2 - 1/2 v'M v
              - 1/2 sum_{j in S} q_j^2 / (mu + d),          q = c - M v,

and the largest such sum, among the supports that a node of the tree still allows, gives
the node's bound (see `certificate`). It is `dual`'s (d = 0, alpha = b - A v), but with
part of G moved into the ridge, so that a tall problem has a bound at ridge = 0 as well.
Of few coordinates, each has a d_j of its own, with G - diag(d) positive semidefinite
and sum_j d_j as large as a barrier method makes it: columns that resemble no other are
then not held back by those that do. Scaling the columns makes all mu + d_j the same.
(Zheng, Sun and Li, INFORMS J. Comput. 26, 2014.)
Any v will do; the best is the minimiser of the perspective relaxation

    min  1/2 w'M w - c'w + 1/2 sum_j (mu + d) w_j^2 / z_j,  0 <= z <= 1, sum z = k,

which is found by minimising over w and over z in turn, both in closed form, from the z
of the parent. Nodes are taken from the queue many at a time, the least bounds first,
and relaxed together: all arrays have a leading axis of nodes. (Branch and bound from
first-order relaxations: Hazimeh, Mazumder and Saab, Math. Program. 196, 2022; nodes in
batches: Meng, Lucas and Mazumder, arXiv 2602.04551.)

A node whose bound is not below the best objective is closed; of others, coordinates
that the bound decides are fixed, and one that z leaves between 0 and 1 is tried both in
and out. Where only one or two coordinates are still to be chosen, all choices are
evaluated instead: after elimination of those inside, with Schur complement E and
right-hand side q, taking i and j lowers n F by

    1/2 q_i^2 / e_ii + 1/2 (q_j - e_ij q_i / e_ii)^2 / (e_jj - e_ij^2 / e_ii).

That is exact, where most nodes of a tree of relaxations would be.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..arrays import Array, indices, mask_of, to_host
from ..certificate import certified, decided
from ..deadline import OnStep, tell
from ..problem.columns import Columns
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..solution import Proof, Solution, Status, with_bound

UP_TO = 1000  # coordinates: the Gram matrix of all is formed on the host
ALTERNATIONS = 60  # between w and z at most, in a node
SETTLED = 0.1  # share of what a node lacks to be closed that one more step must gain
LIVE = 1e-4  # z below which a coordinate is left out of the system for w
WITHIN = 0.999  # of tol, so that a gap of tol is not missed by rounding
ENTER = 1e-2  # share of the largest coefficient that one coming back begins with
FIRST = 100  # coordinates with which the relaxation of the first node begins
BATCH = 64  # nodes relaxed together at most
SYSTEMS = 2**21  # numbers in the systems of equations that are solved together
BLOCK = 2**17  # numbers worked on at a time: they stay in the cache
SHIFTED_FROM = 16  # coordinates: trees of fewer are small without it
SHIFTED_UP_TO = 128  # coordinates: with a shift for each, O(p^3) a step of the barrier
BARRIERS = 16  # values of the barrier's weight
FALL = 0.4  # of that weight, from one to the next
NEGLIGIBLE = 1e4  # times the rounding of G, above which a ridge is not lost in it
PAIRS = 2  # coordinates still to be chosen, of which all choices are evaluated
# An exact evaluation is used where its rounding is at most this share of the tolerance.
ROUNDING = 0.1


class Nodes(NamedTuple):
    """B nodes: what is decided of their supports, and where their relaxations begin."""

    above: np.ndarray  # shape (B,): the parents' bounds
    inside: np.ndarray  # mask, shape (B, p)
    outside: np.ndarray  # mask, shape (B, p)
    z: np.ndarray  # shape (B, p)
    w: np.ndarray  # shape (B, p): the relaxations' minimisers, once there are any

    def at(self, rows: np.ndarray) -> Nodes:
        """Some of them."""
        return Nodes(*(part[rows] for part in self))


class Waiting(NamedTuple):
    """A node in the queue, and the relaxation's minimiser."""

    bound: float
    order: int  # breaks ties between equal bounds
    inside: np.ndarray
    outside: np.ndarray
    live: np.ndarray  # the coordinates with z > 0
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
        shift = 0.0  # of G's least eigenvalue, 0 where columns outnumber rows
        if 0 < self.p <= problem.n_rows:
            shift = max(float(np.linalg.eigvalsh(G)[0]) - off, 0.0)
        self.mu = problem.mu + shift
        self.M, self.c = G - shift * np.eye(self.p), c
        self.scale = np.ones(self.p)  # of the units of M, c and all w
        # Where columns depend on each other, theirs are a little below 0 instead.
        least = shift if shift > 0 else -2 * off
        if (
            SHIFTED_FROM <= self.p <= min(SHIFTED_UP_TO, problem.n_rows)
            and problem.mu + least > NEGLIGIBLE * off
        ):
            each = diagonal_shifts(G, least, off)
            # In units in which every mu + d_j is 1: w = scale times what is solved for.
            self.scale, self.mu = 1 / (problem.mu + each) ** 0.5, 1.0
            self.M = (G - np.diag(each)) * self.scale * self.scale[:, None]
            self.c = c * self.scale
            prior, self._lengths = prior * self.scale, self._lengths * self.scale
        self._off_c = self._gamma * problem.mu * float(np.linalg.norm(prior))
        largest = np.sort(self._lengths)[::-1][:k]
        self._spread = float(np.linalg.norm(largest))
        # On a support of k, H = G + mu I and c are known up to E and e, with ||E|| <=
        # 3 gamma spread^2, Cholesky's rounding included, and ||e|| <= 3 gamma spread
        # ||b|| + off_c. There n F >= 0 gives mu/2 ||w||^2 <= n F(0) at the minimiser,
        # so that its value changes by at most 1/2 ||E|| ||w||^2 + ||e|| ||w||; twice
        # that, for the minimiser of the perturbed problem is bounded by the same.
        length = (2 * self.at_zero / self.mu) ** 0.5 if self.mu > 0 else np.inf
        reach = self._spread * length
        each = 1.5 * reach**2 + 3 * reach * self._b + 4 * self.at_zero
        self.rounding = 2 * (self._gamma * each + self._off_c * length)

    def value(self, S: np.ndarray) -> float:
        """The minimum of n F on a support, without its rounding."""
        H = self.M[np.ix_(S, S)] + self.mu * np.eye(len(S))
        w = scipy.linalg.solve(H, self.c[S], assume_a="pos", check_finite=False)
        return self.at_zero - 0.5 * float(self.c[S] @ w)

    def minimisers(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The w of given z, w'M, and the relaxation's values there."""
        B, p = z.shape
        w = np.zeros((B, p))
        size = max(int(np.max(np.count_nonzero(z > LIVE, axis=1))), 1)
        step = max(SYSTEMS // size**2, 1)
        for first in range(0, B, step):
            here = slice(first, first + step)
            live = np.argpartition(-z[here], size - 1, axis=1)[:, :size]
            some = np.take_along_axis(z[here], live, axis=1)
            root = np.sqrt(np.where(some > LIVE, some, 0.0))
            H = self.M[live[:, :, None], live[:, None, :]]
            H *= root[:, :, None]
            H *= root[:, None, :]
            H[:, np.arange(size), np.arange(size)] += self.mu
            right = (root * self.c[live])[:, :, None]
            np.put_along_axis(
                w[here], live, root * np.linalg.solve(H, right)[:, :, 0], axis=1
            )
        used = np.flatnonzero(np.any(w != 0, axis=0))
        return w, w[:, used] @ self.M[used], self.at_zero - 0.5 * (w @ self.c)

    def bounds(
        self, v: np.ndarray, vM: np.ndarray, nodes: Nodes
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Certificates of nodes at points v; their slack; the scores q^2."""
        scores = (self.c - vM) ** 2
        inside, outside = nodes.inside, nodes.outside
        room = self.k - np.count_nonzero(inside, axis=1)
        free = np.where(inside | outside, 0.0, scores)
        chosen = np.sum(np.where(inside, scores, 0.0), axis=1)
        chosen += np.sum(_largest(free, room), axis=1)
        # q is off by at most 3 gamma ||a_j|| (||b|| + sum_i ||a_i|| |v_i|).
        reach = np.abs(v) @ self._lengths
        off = 3 * self._gamma * self._spread * (self._b + reach) + self._off_c
        value = self.at_zero - 0.5 * np.sum(v * vM, axis=1)
        value -= self._gamma * (self.at_zero + 3 * reach**2)
        return *certified(value, chosen, self.mu, off, self._gamma), scores

    def fix(
        self, nodes: Nodes, scores: np.ndarray, slack: np.ndarray, lack: np.ndarray
    ) -> Nodes:
        """Decide what every support must hold, or not, to be below bound + lack."""
        free = ~(nodes.inside | nodes.outside)
        room = self.k - np.count_nonzero(nodes.inside, axis=1)
        ranked = _largest(np.where(free, scores, -np.inf), room + 1)
        ordered = np.sort(ranked, axis=1)[:, ::-1]
        rows = np.arange(len(room))
        low = ordered[rows, np.maximum(room - 1, 0)][:, None]
        high = ordered[rows, np.minimum(room, ordered.shape[1] - 1)][:, None]
        margin = (2 * self.mu * lack + 2 * slack)[:, None]
        fixed = decided(scores, free, free, low, high, margin)
        open_ = ((room > 0) & (np.count_nonzero(free, axis=1) > room))[:, None]
        return nodes._replace(
            inside=nodes.inside | (fixed.inside & open_),
            outside=nodes.outside | (fixed.outside & open_),
        )

    def solve(
        self, nodes: Nodes, cutoff: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Alternate from z; return the best bounds, slack, scores, the last z and w."""
        B, p = nodes.z.shape
        best, slack = np.full(B, -np.inf), np.zeros(B)
        scores, z, w = np.zeros((B, p)), nodes.z.copy(), np.zeros((B, p))
        rows = np.arange(B)  # of which the bound may rise
        for _ in range(ALTERNATIONS):
            some = nodes.at(rows)
            w_now, wM, value = self.minimisers(z[rows])
            bound, slack_now, q2 = self.bounds(w_now, wM, some)
            w[rows] = w_now
            up = bound > best[rows]
            best[rows[up]], slack[rows[up]] = bound[up], slack_now[up]
            scores[rows[up]] = q2[up]
            now = best[rows]
            going = (now < cutoff) & (value - now > SETTLED * np.abs(cutoff - value))
            if not np.any(going):
                break
            rows, some, q2 = rows[going], some.at(going), q2[going]
            size, room = np.abs(w_now[going]), self.k - np.count_nonzero(some.inside, 1)
            free = ~(some.inside | some.outside)
            size[~free] = 0.0
            # One that was left out, but belongs to the largest scores, comes back.
            q2 = np.where(free, q2, 0.0)
            ranked = _largest(q2, room)
            least = np.min(np.where(ranked > 0, ranked, np.inf), axis=1)[:, None]
            lost = free & (z[rows] <= LIVE) & (q2 >= least)
            size = np.where(lost, ENTER * np.max(size, axis=1)[:, None], size)
            z[rows] = some.inside + shares(size, room)
        return best, slack, scores, z, w

    def completed(self, nodes: Nodes, room: int) -> tuple[np.ndarray, np.ndarray]:
        """The least n F, and its support, with `room` coordinates more than inside.

        One or two; exact up to `rounding`. O(p^2) a node for two.
        """
        B = len(nodes.above)
        inside = np.nonzero(nodes.inside)[1].reshape(B, self.k - room)
        free = ~(nodes.inside | nodes.outside)
        H = self.M[inside[:, :, None], inside[:, None, :]]
        H += self.mu * np.eye(self.k - room)
        # Rows of L^-1 H, and L^-1 c: what elimination takes from the others.
        right = np.concatenate([self.M[inside], self.c[inside][:, :, None]], axis=2)
        taken = np.linalg.solve(np.linalg.cholesky(H), right)
        C, y = taken[:, :, :-1], taken[:, :, -1:]
        q = self.c - np.sum(C * y, axis=1)
        d = self.M.diagonal() + self.mu - np.sum(C * C, axis=1)
        q, d = np.where(free, q, 0.0), np.where(free, d, 1.0)
        support, gain = nodes.inside.copy(), np.empty(B)
        for node in range(B):
            if room == 1:
                gains = q[node] ** 2 / d[node]
                gains[~free[node]] = -1.0
                chosen = [int(np.argmax(gains))]
                gain[node] = gains[chosen[0]]
            else:
                S = np.flatnonzero(free[node])
                gain[node], i, j = self._pair(S, C[node][:, S], q[node, S], d[node, S])
                chosen = [S[i], S[j]]
            support[node, chosen] = True
        return self.at_zero - 0.5 * (np.sum(y * y, axis=(1, 2)) + gain), support

    def _pair(
        self, S: np.ndarray, C: np.ndarray, q: np.ndarray, d: np.ndarray
    ) -> tuple[float, int, int]:
        """The two of S that lower 2 n F most, by how much, and which."""
        most, pair, f = -1.0, (0, 1), len(S)
        step = max(BLOCK // f, 1)
        whole = f == self.p
        for first in range(0, f - 1, step):
            rows, later = slice(first, min(first + step, f)), slice(first, f)
            E = C[:, rows].T @ C[:, later]
            M = self.M[rows, later] if whole else self.M[np.ix_(S[rows], S[later])]
            np.subtract(M, E, out=E)
            T = E / d[rows, None]
            E *= T
            np.subtract(d[later], E, out=E)
            T *= q[rows, None]
            np.subtract(q[later], T, out=T)
            np.multiply(T, T, out=T)
            # (Above the diagonal only: each pair once, and none with itself.)
            lower = np.tril_indices(T.shape[0])
            T[lower], E[lower] = -np.inf, 1.0
            T /= E
            T += (q[rows] ** 2 / d[rows])[:, None]
            at = int(np.argmax(T))
            if T.flat[at] > most:
                i, j = divmod(at, T.shape[1])
                most, pair = float(T.flat[at]), (first + i, first + j)
        return most, *pair


def _largest(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The k[i] largest numbers of row i of x, in any order; 0 beside them."""
    p, most = x.shape[1], int(np.max(k, initial=0))
    most = min(most, p)
    if most == 0:
        return x[:, :0]
    at = np.unique(p - np.clip(k, 1, p))
    tail = np.partition(x, at, axis=1)[:, p - most :]
    return np.where(np.arange(most, 0, -1) <= k[:, None], tail, 0.0)


def diagonal_shifts(G: np.ndarray, least: float, off: float) -> np.ndarray:
    """Numbers s of a large sum for which G - diag(s) is positive semidefinite.

    The barrier sum(s) + tau log det(G - diag(s)) is raised by a coordinate at a time,
    in closed form, tau falling. None falls below .9 of `least`, which is feasible
    for all: where a shift is small, rounding weighs more. G is off by `off` at most.
    """
    p, floor = G.shape[0], 0.9 * least if least > 0 else least
    s, tau = np.full(p, floor), 0.1 * float(np.mean(G.diagonal()))
    for _ in range(BARRIERS):
        Z = np.linalg.inv(G - np.diag(s))
        for j in range(p):
            step = max(1 / Z[j, j] - tau, floor - s[j])
            s[j] += step
            Z += np.outer(Z[:, j], Z[j] * (step / (1 - step * Z[j, j])))
        tau *= FALL
    # Smaller shifts, until what is left of G is positive definite beyond rounding.
    for share in (0.99, 0.9, 0.5):
        mixed = share * s + (1 - share) * least
        if float(np.linalg.eigvalsh(G - np.diag(mixed))[0]) >= off:
            return mixed
    return np.full(p, least)


def shares(size: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The z in [0, 1] of sum `room` at most with the least sum of size^2 / z, by rows.

    It is min(1, size / theta).
    """
    ordered = np.sort(_largest(size, room), axis=1)[:, ::-1]
    if not ordered.shape[1]:
        return np.zeros_like(size)
    # The m largest have weight 1; theta divides the rest of the budget by size.
    m = np.arange(ordered.shape[1])
    before = np.cumsum(ordered, axis=1) - ordered
    rest = np.maximum(np.sum(size, axis=1)[:, None] - before, 0.0)
    left = room[:, None] - m
    theta = rest / np.maximum(left, 1)
    fits = (ordered <= theta * (1 + 1e-15)) & (left > 0)
    at = np.argmax(fits, axis=1)
    found = np.take_along_axis(theta, at[:, None], axis=1)
    found[~np.any(fits, axis=1)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(size > 0, np.minimum(1.0, size / found), 0.0)
    z[room == 0] = 0.0
    return z


def branch(
    problem: LeastSquares,
    k: int,
    solution: Solution,
    *,
    max_nodes: int,
    tol: float,
    on_step: OnStep | None = None,
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
        Called with the best coefficients after each batch of nodes; True stops. If it
        has a method `proven`, that is given a `Proof` first.
    required : ndarray of int, or None
        Coordinates that are in every support, fewer than k.

    Returns
    -------
    Solution
        Never with a larger objective or a smaller bound than given.

    Notes
    -----
    A relaxation costs some systems of as many equations as it has coordinates above 0,
    O(p^3) each at most, and products with as many rows of M; a node evaluated O(p^2).
    Memory: p x p and the queue, on the host.
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

    tree, begun = _Tree(problem, S, relaxation, solution, tol), time.monotonic()
    status = Status.CONVERGED
    none = np.zeros(p, dtype=bool)
    waiting = tree.first(none if required is None else np.isin(to_host(S), required))
    while True:
        tree.grow(waiting)
        tell(on_step, tree.proof(time.monotonic() - begun))
        if on_step is not None and on_step(tree.best.coef):
            status = Status.STOPPED
            break
        if not tree.queue or tree.queue[0].bound >= tree.cutoff:
            break
        if tree.nodes >= max_nodes:
            status = Status.MAX_ITER
            break
        waiting = tree.children(max_nodes - tree.nodes)
    return _with_proof(tree, status)


def _with_proof(tree: _Tree, status: Status) -> Solution:
    """Return the best solution with what the tree proves of it."""
    best = tree.bounded()
    if best.gap <= tree.tol and status is not Status.STOPPED:
        status = Status.OPTIMAL if best.gap == 0 else Status.WITHIN_TOL
    note = f"branch and bound: {tree.nodes} nodes"
    return replace(best, status=status, history=(*best.history, note))


def _not_begun(solution: Solution, why: str) -> Solution:
    note = f"branch and bound: not begun, for {why}"
    return replace(solution, history=(*solution.history, note))


class _Tree:
    """The nodes that are still to be searched, and the best solution met."""

    def __init__(
        self,
        problem: LeastSquares,
        S: Array,
        relaxation: Relaxation,
        best: Solution,
        tol: float,
    ) -> None:
        self.problem, self.S, self.relaxation = problem, S, relaxation
        self.best, self.tol = best, tol
        self.queue, self.nodes, self._leaves = list[Waiting](), 0, float("inf")
        self._order, self._tried = count(), set[bytes]()

    @property
    def cutoff(self) -> float:
        """Supports that are not below it are not looked for."""
        return self.best.objective * (1 - WITHIN * self.tol)

    def least(self) -> float:
        """No support has n F below this."""
        return min(
            [self.cutoff, self._leaves, *(node.bound for node in self.queue[:1])]
        )

    def bounded(self) -> Solution:
        """The best solution, with the best bound known of all."""
        return with_bound(self.best, max(self.least(), 0.0))

    def proof(self, seconds: float) -> Proof:
        """How far it is after so many seconds."""
        now = self.bounded()
        return Proof(now.objective, now.lower_bound, self.nodes, seconds)

    def first(self, inside: np.ndarray) -> Nodes:
        """All supports with those coordinates."""
        relax = self.relaxation
        inside = inside[None, :]
        size = np.where(inside, 0.0, np.abs(relax.c))
        size[size < np.sort(size[0])[-min(FIRST, relax.p)]] = 0.0
        room = np.array([min(relax.k, relax.p) - np.count_nonzero(inside)])
        z = inside + shares(size, room)
        return Nodes(np.zeros(1), inside, np.zeros_like(inside), z, np.zeros_like(z))

    def grow(self, nodes: Nodes) -> None:
        """Close nodes, by evaluation or by their bounds, or queue them."""
        relax = self.relaxation
        self.nodes += len(nodes.above)
        nodes = self._evaluated(nodes)
        if not len(nodes.above):
            return
        bound, slack, scores, z, w = relax.solve(nodes, self.cutoff)
        for row in range(len(bound)):
            inside, outside = nodes.inside[row], nodes.outside[row]
            size = np.abs(w[row]) * relax.scale
            self._try(largest_first(inside, outside, size, relax.k))
        kept = np.flatnonzero(np.maximum(bound, nodes.above) < self.cutoff)
        if not len(kept):
            return
        # The fixing rule holds for the bound that these scores gave, and not for a
        # better one inherited from a parent.
        lack = self.cutoff - bound[kept]
        nodes = nodes._replace(
            above=np.maximum(bound, nodes.above), z=np.where(z > LIVE, z, 0.0), w=w
        )
        fixed = relax.fix(nodes.at(kept), scores[kept], slack[kept], lack)
        nodes = self._evaluated(fixed)
        for above, inside, outside, z_row, w_row in zip(*nodes, strict=True):
            live = np.flatnonzero(z_row)
            decided = np.packbits(inside), np.packbits(outside)
            node = Waiting(
                float(above),
                next(self._order),
                *decided,
                live,
                z_row[live],
                w_row[live],
            )
            heapq.heappush(self.queue, node)

    def children(self, room: int) -> Nodes:
        """Of some nodes with the least bounds, and with room for so many children.

        Two of each: with and without the largest coefficient that z leaves open.
        """
        relax, parts = self.relaxation, list[tuple]()
        number = min(BATCH, max(len(self.queue) // 2, 1), max(room // 2, 1))
        while self.queue and len(parts) < 2 * number:
            if self.queue[0].bound >= self.cutoff:
                break
            node = heapq.heappop(self.queue)
            masks = (node.inside, node.outside)
            inside, outside = (np.unpackbits(m, count=relax.p) > 0 for m in masks)
            z, w = np.zeros(relax.p), np.zeros(relax.p)
            z[node.live], w[node.live] = node.z, np.abs(node.w) * relax.scale[node.live]
            free = ~(inside | outside)
            between = free & (z < 1 - LIVE)
            j = int(np.argmax(np.where(between if np.any(between) else free, w, -1)))
            for chosen in (True, False):
                masks = inside.copy(), outside.copy()
                masks[0 if chosen else 1][j] = True
                free = ~(masks[0] | masks[1])
                left = relax.k - int(np.count_nonzero(masks[0]))
                begin = np.where(free, z, 0.0)
                total = float(np.sum(begin))
                if left and total > 0:
                    begin = np.minimum(1.0, begin * (left / total))
                begin = masks[0] + (begin if left else 0.0)
                parts.append((node.bound, *masks, begin, np.zeros(relax.p)))
        return Nodes(*(np.array(part) for part in zip(*parts, strict=True)))

    def _evaluated(self, nodes: Nodes) -> Nodes:
        """Evaluate all supports of nodes that have few; return the others."""
        relax = self.relaxation
        free = np.count_nonzero(~(nodes.inside | nodes.outside), axis=1)
        room = relax.k - np.count_nonzero(nodes.inside, axis=1)
        last = (room == 0) | (free <= room)
        if np.any(last):
            self._leave(nodes.at(last))
        exact = relax.rounding <= ROUNDING * self.tol * self.best.objective
        for more in range(1, PAIRS + 1):
            rows = ~last & (room == more)
            if not exact or not np.any(rows):
                continue
            values, supports = relax.completed(nodes.at(rows), more)
            at = int(np.argmin(values))
            self._leaves = min(self._leaves, float(values[at]) - relax.rounding)
            self._try(supports[at])
            last = last | rows
        return nodes.at(~last)

    def _leave(self, nodes: Nodes) -> None:
        """Evaluate nodes with one support each."""
        relax = self.relaxation
        room = relax.k - np.count_nonzero(nodes.inside, axis=1)
        supports = np.where((room > 0)[:, None], ~nodes.outside, nodes.inside)
        for support in supports:
            self._try(support)
        w, wM, values = relax.minimisers(1.0 * supports)
        only = nodes._replace(inside=supports, outside=~supports)
        bounds = np.maximum(relax.bounds(w, wM, only)[0], values - relax.rounding)
        self._leaves = min(self._leaves, float(np.min(bounds)))

    def _try(self, support: np.ndarray) -> None:
        """Keep the better of the best solution and the backsolve on a support."""
        key = np.packbits(support).tobytes()
        if key in self._tried:
            return
        self._tried.add(key)
        part = np.flatnonzero(support)
        if not self.relaxation.value(part) < self.best.objective:
            return
        problem, xp = self.problem, self.problem.xp
        index = xp.take(self.S, xp.asarray(part, device=problem.device))
        found = backsolve(problem, unsolved(problem, mask_of(problem.p, index)))
        if found.objective < self.best.objective:
            self.best = replace(
                self.best,
                coef=found.coef,
                support=found.support,
                objective=found.objective,
            )


def largest_first(
    inside: np.ndarray, outside: np.ndarray, size: np.ndarray, k: int
) -> np.ndarray:
    """The k coordinates with the largest sizes that a node allows, as a mask."""
    ranked = np.where(inside, np.inf, np.where(outside, -np.inf, size))
    mask = np.zeros(len(size), dtype=bool)
    mask[np.argsort(-ranked, kind="stable")[:k]] = True
    return mask & ~outside
