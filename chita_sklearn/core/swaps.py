"""Forward selection and all-pairs swaps, both exact, on a working set of columns.

Notation: W the working set, S the support inside it; on W

    H = A'A + mu I,  g = A'b + mu w_bar;   P = H_SS^-1,  w = P g_S,
    T = H_WS P,  q = g - H_WS w  (0 on S),  d_j = H_jj - T_j . H_jS.

Then, coefficients refitted, n F falls by

    q_j^2 / (2 d_j)                                       when j joins S,
    1/2 [ (q_j + T_ji w_i / P_ii)^2 / (d_j + T_ji^2 / P_ii) - w_i^2 / P_ii ]
                                                          when j replaces i in S,

for all pairs at once by one product |W| x s x s. The search on W is small and runs on
the host in NumPy, whatever holds A; A is touched to form the columns of H that W needs,
and to find the coordinates outside W whose swap would gain, which then join W. When no
coordinate gains, the support is swap-optimal among all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs
from threadpoolctl import ThreadpoolController

from .arrays import (
    Array,
    array_namespace,
    cast_block,
    device,
    indices,
    mask_of,
    to_host,
    top_k_mask,
)
from .backsolve import backsolve, unsolved
from .patterns import Cardinality, Pattern
from .problem import Columns, LeastSquares
from .solution import Solution, Status
from .starts import metric

# Shares of k by which forward selection goes too far, before the excess is dropped.
EXCESS = (0.25, 1.0)
DEPENDENT = 1e-9  # d_j / H_jj below which column j depends on the support's
MOSTLY = 16  # up to this many columns per non-zero, all of H at once is cheaper
COPIED = 1 / 8  # of a tall X at most: beyond, all of H at once takes less memory
TINY, EPS = float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).eps)
GAIN = 1e-10  # share of the explained part of n F that a swap must gain
NOISE = 1e-18  # the same for a coordinate that joins: gains are squares of rounding


class Search(Protocol):
    """A search on a working set that is deeper than swaps."""

    def room(self, problem: LeastSquares, k: int) -> int:
        """How many columns its working sets should have."""

    def __call__(
        self, W: WorkingSet, S: np.ndarray, stop: Callable[[np.ndarray], bool]
    ) -> np.ndarray:
        """Return a support of W, indices into its members, at least as good as S.

        `stop` is to be asked about the best support now and then; True ends the search.
        """


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
        self._rows = np.empty((0, m))
        large = m > COPIED * problem.p and m <= problem.n_rows
        if m <= MOSTLY * pattern.size or large:
            self._rows = to_host(problem.inner_gram(where))
            self._rows = np.array(self._rows)  # the library's memory may be read-only
            self._rows[np.diag_indices(m)] += self._mu
            self._place = np.arange(m)
        else:
            # One row a column of A: the rows of H are products with all of it.
            self._At = xp.matrix_transpose(problem.columns(where))
        self.g = to_host(xp.take(correlation, where))
        self.h = to_host(xp.take(problem.column_norms(), where)) + problem.mu
        self._free = isinstance(self.pattern, Cardinality)
        self.locked = np.zeros(len(members), dtype=bool)
        if inside is not None:
            self.locked = to_host(xp.take(inside, where))

    def H(self, S: np.ndarray) -> np.ndarray:
        """Rows S of H, shape (len(S), m). A new row costs one product with A_W'."""
        self._learn(S)
        return self._rows[self._place[S]]

    def _learn(self, S: np.ndarray) -> None:
        new = S[self._place[S] < 0]
        if len(new):
            xp = array_namespace(self._At)
            index = xp.asarray(new, device=device(self._At))
            a = xp.matrix_transpose(xp.take(self._At, index, axis=0))
            rows = np.array(to_host(self._At @ a).T)
            rows[np.arange(len(new)), new] += self._mu
            known = int(np.max(self._place)) + 1
            if known + len(new) > len(self._rows):
                more = np.empty((known + len(new), self._rows.shape[1]))
                self._rows = np.concatenate([self._rows[:known], more])
            self._rows[known : known + len(new)] = rows
            self._place[new] = np.arange(known, known + len(new))

    def value(self, S: np.ndarray) -> float:
        """How much of n F(0) the support explains: 1/2 g_S' P g_S."""
        return self.at(S)[2]

    def at(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(P, w, value) on S."""
        g = self.g[S]
        self._learn(S)
        P = inverse(self._rows[np.ix_(self._place[S], S)])
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
            H_S = self.H(S)
            L = factor(H_S[:, S])
            V[:start], _ = dtrtrs(L, H_S, lower=True)
            z, _ = dtrtrs(L, self.g[S], lower=True)
            q, d = q - z @ V[:start], d - np.sum(V[:start] ** 2, axis=0)
        floor = NOISE * float(np.max(self.g**2 / np.maximum(self.h, TINY), initial=0))
        for t in range(start, size):
            gain = np.where(d > DEPENDENT * self.h, q**2, 0.0) / np.maximum(d, TINY)
            gain[~self.may_join(in_S, gain)] = 0.0
            j = int(np.argmax(gain))
            if not gain[j] > floor:
                break
            in_S[j] = True
            row = self.H(np.asarray([j]))[0]
            V[t] = (row - V[:t, j] @ V[:t]) / np.sqrt(d[j])
            q = q - V[t] * (q[j] / np.sqrt(d[j]))
            d = d - V[t] ** 2
        return np.flatnonzero(in_S)

    def backward(self, S: np.ndarray, size: int) -> np.ndarray:
        """Drop the coordinate that costs least, refitted, until S has `size`."""
        P, w, _ = self.at(S)
        S = S.copy()
        while len(S) > size:
            i = int(np.argmin(w**2 / P.diagonal()))
            keep = np.arange(len(S)) != i
            step = P[keep, i] / P[i, i]
            w = w[keep] - step * w[i]
            P = P[np.ix_(keep, keep)] - np.outer(step, P[i, keep])
            S = S[keep]
        return S

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
            starts.append(self.improve(self.backward(S, size), 20 * size + 100)[0])
        return max(starts, key=self.value)

    def may_join(self, in_S: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which coordinates can be added to S on the way to an allowed support."""
        if self._free:
            return ~in_S
        # The patterns are matroids: what best_mask would add to S now, S may take.
        return self.pattern.best_mask(np.where(in_S, np.inf, score)) & ~in_S

    def improve(self, S: np.ndarray, max_swaps: int) -> tuple[np.ndarray, int]:
        """Swap, best pair first, until no pair gains: (S, swaps made)."""
        if len(S) < self.pattern.size:
            S = self.forward(S, self.pattern.size)
        if len(S) in (0, len(self.members)):
            return S, 0
        P, w, value = self.at(S)
        for done in range(max_swaps):
            gain = self.gains(S, P, w)
            i, j = divmod(int(np.argmax(gain)), len(self.members))
            if not gain[i, j] > GAIN * value:
                return S, done
            S_new = swapped(S, i, j)
            P_new, w_new, value_new = self.at(S_new)
            if not value_new > value * (1 + 0.1 * GAIN):
                return S, done  # the formula's gain was rounding
            S, P, w, value = S_new, P_new, w_new, value_new
        return S, max_swaps

    def gains(self, S: np.ndarray, P: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gain of every swap, shape (len(S), m); -inf where not allowed."""
        gain = swap_gains(self.H(S), P, w, self.g, self.h, np)
        gain[:, S] = -np.inf
        gain[self.locked[S]] = -np.inf
        if not self._free:
            mask = np.zeros(len(self.members), dtype=bool)
            mask[S] = True
            every = np.arange(len(self.members))
            allowed = self.pattern.exchangeable(mask, S, every)
            if allowed is not None:
                gain[~allowed.T] = -np.inf
        return gain


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> Any:
    """Context for the search on a working set: its products are too small to share.

    Waking threads for each costs many times the product on a busy machine.
    """
    return _threadpools().limit(limits=1, user_api="blas")


def swapped(S: np.ndarray, i: int, j: int) -> np.ndarray:
    """Return S with j in the place of its i-th coordinate, ascending."""
    S = S.copy()
    S[i] = j
    S.sort()
    return S


def swap_gains(H_SO: Array, P: Array, w: Array, g: Array, h: Array, xp: Any) -> Array:
    """Gain of n F for every swap of an i in S for a j in O, shape (|S|, |O|).

    `H_SO`, `g` and `h` (the diagonal of H) are those of the coordinates O.
    """
    root = xp.linalg.diagonal(P) ** 0.5
    v = w / root
    # Row i of U is T_ji / sqrt(P_ii); in place, for this is where a search's time goes.
    U = (P / root[:, None]) @ H_SO
    d = h - root @ (U * H_SO)
    q = g - w @ H_SO
    # A column that depends on what would remain of S has nothing of its own to add;
    # the floor keeps the rounding of its 0 / 0 small, and a column of zeros at 0.
    own = U * U
    own += d
    own = xp.maximum(own, DEPENDENT * h + TINY)
    U *= v[:, None]
    U += q
    U *= U
    U /= own
    U -= (v * v)[:, None]
    U *= 0.5
    return U


def add_gains(H_OS: Array, P: Array, w: Array, g: Array, h: Array, xp: Any) -> Array:
    """Gain of n F for every j in O that joins S, shape (|O|,)."""
    q = g - H_OS @ w
    d = h - xp.sum((H_OS @ P) * H_OS, axis=1)
    dependent = d <= DEPENDENT * h
    gain = 0.5 * q**2 / xp.where(dependent, xp.ones_like(d), d)
    return xp.where(dependent, xp.zeros_like(d), gain)


def factor(M: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of a small symmetric matrix, damped where singular."""
    L, info = dpotrf(M, lower=True)
    # A pivot lost in rounding passes as positive now and then, and solves nothing.
    lost = bool(np.any(L.diagonal() ** 2 <= 4 * len(M) * EPS * M.diagonal()))
    # Damped so much that what rounding adds to the inverse stays below what the
    # damping takes from the support's value: it cannot win by rounding.
    damping = 1e-8
    while info or lost:
        lost = False
        diagonal = M.diagonal()
        extra = damping * np.where(diagonal > 0, diagonal, 1.0)
        L, info = dpotrf(M + np.diag(extra), lower=True)
        damping *= 10
    return L


def inverse(M: np.ndarray) -> np.ndarray:
    """Inverse of a small symmetric matrix, damped where it is singular."""
    if not len(M):
        return M
    lower, _ = dpotri(factor(M), lower=True)  # zero above the diagonal, as the factor
    inv = lower + lower.T
    inv.flat[:: len(M) + 1] *= 0.5
    return inv


def swaps(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int = 100,
    search: Search | None = None,
    on_step: Callable[[Array], bool] | None = None,
) -> Solution:
    """Bring a support to where no single swap lowers n F, among all coordinates.

    Parameters
    ----------
    problem, pattern
        What to minimise, over which supports.
    solution : Solution or None
        Where to start; None selects forward.
    max_iter : int
        Working sets at most.
    search : Search or None
        A deeper search on each working set, once no swap on it gains.
    on_step : callable or None
        Called with the coefficients after each working set; True stops.

    Returns
    -------
    Solution
        Never with a larger objective than given.

    Notes
    -----
    A working set of m columns costs a product A_W'A_W, O(n m^2); a scan over all
    coordinates a product A'A_S, O(n p s), in blocks that stay in the cache. A swap on W
    costs O(m s^2 + s^3), on the host.
    """
    p, k = problem.p, pattern.size
    room = min(p, max(6 * k, k + 150))
    if search is not None:
        room = min(p, max(room, search.room(problem, k)))
    g, h = problem.correlation(), problem.column_norms() + problem.mu
    n_swaps, status = 0, Status.MAX_ITER
    inside, outside = None, problem.zeros(p) > 0
    if solution is not None and solution.fixed is not None:
        inside, outside = solution.fixed
    scale = 0.5 * float(problem.b @ problem.b) + problem.penalty(problem.zeros(p))
    if solution is None:
        members = _largest(g**2 / metric(problem), room)
        W = WorkingSet(problem, pattern, members, g)
        with one_blas_thread():
            S = members[W.best_start()]
    else:
        S, W = to_host(indices(solution.support)), None
    stopped = False

    def stop(S: np.ndarray) -> bool:
        nonlocal stopped
        if on_step is not None and not stopped:
            stopped = bool(on_step(_minimiser(problem, S).coef))
        return stopped

    rounds = 0
    while rounds < max_iter:
        rounds += 1
        if W is None or room < p:
            gain = _scan(problem, pattern, S, g, h)
            gain = problem.xp.where(outside, problem.xp.full_like(gain, -np.inf), gain)
            least = (GAIN if len(S) == k else NOISE) * scale
            if search is None and not float(problem.xp.max(gain)) > least:
                status = Status.CONVERGED
                break
            W = None  # the old one goes before the new one comes
            W = WorkingSet(problem, pattern, _joined(S, gain, room - k), g, inside)
        S_W = np.searchsorted(W.members, S)
        with one_blas_thread():
            local, n = W.improve(S_W, max_swaps=20 * k + 100)
            n_swaps += n
            stopped = stop(W.members[local])
            if search is not None and not stopped:
                local = search(W, local, partial(_ask, stop, W.members))
        unchanged = len(local) == len(S) and bool((local == S_W).all())
        S = W.members[local]
        if stopped:
            status = Status.STOPPED
            break
        if unchanged or room == p:
            status = Status.CONVERGED
            break
    found = _minimiser(problem, S)
    note = f"swaps: {n_swaps} on {rounds} working sets of up to {room} columns"
    if solution is not None and not found.objective < solution.objective:
        found = solution
    elif solution is not None:
        found = replace(
            solution,
            coef=found.coef,
            support=found.support,
            objective=found.objective,
            status=found.status,
        )
    status = found.status if found.status is Status.NOT_UNIQUE else status
    return replace(
        found,
        n_iter=found.n_iter + rounds,
        status=status,
        history=(*found.history, note),
    )


def _ask(
    stop: Callable[[np.ndarray], bool], members: np.ndarray, best: np.ndarray
) -> bool:
    return stop(members[best])


def _minimiser(problem: LeastSquares, S: np.ndarray) -> Solution:
    """Return the backsolve on a support given by its indices."""
    index = problem.xp.asarray(S, device=problem.device)
    return backsolve(problem, unsolved(problem, mask_of(problem.p, index)))


def _scan(
    problem: LeastSquares, pattern: Pattern, S: np.ndarray, g: Array, h: Array
) -> Array:
    """Return the largest gain of each coordinate as the one that enters, shape (p,)."""
    xp, p, s = problem.xp, problem.p, len(S)
    S_A = xp.asarray(S, device=problem.device)
    A_S = Columns(problem, S_A)
    H_SS = to_host(A_S.gram()) + problem.mu * np.eye(s)
    P = xp.asarray(inverse(H_SS), device=problem.device)
    w = P @ xp.take(g, S_A)
    free = isinstance(pattern, Cardinality)
    if not free:
        mask = np.zeros(p, dtype=bool)
        mask[S] = True
    gain = problem.zeros(p)
    step = max(cast_block(gain) // max(s, 1), 1)
    for start in range(0, p, step):
        cols = slice(start, min(start + step, p))
        H_OS = A_S.cross(cols)
        if s < pattern.size:
            gain[cols] = add_gains(H_OS, P, w, g[cols], h[cols], xp)
            continue
        H_SO = xp.matrix_transpose(H_OS)
        each = swap_gains(H_SO, P, w, g[cols], h[cols], xp)
        if not free:
            O = np.arange(cols.start, cols.stop)
            allowed = pattern.exchangeable(mask, S, O)
            if allowed is not None:
                free_to = xp.asarray(allowed.T, device=problem.device)
                each = xp.where(free_to, each, xp.full_like(each, -float("inf")))
        gain[cols] = xp.max(each, axis=0)
    return xp.where(mask_of(p, S_A), xp.full_like(gain, -float("inf")), gain)


def _largest(score: Array, size: int) -> np.ndarray:
    """Indices of the largest scores, ascending, on the host."""
    return to_host(indices(top_k_mask(score, size)))


def _joined(S: np.ndarray, gain: Array, size: int) -> np.ndarray:
    """S and the `size` coordinates of largest gain, those ruled out (-inf) left out."""
    mask = top_k_mask(gain, size) & (gain > -float("inf"))
    return np.union1d(S, to_host(indices(mask)))
