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

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from .arrays import Array, array_namespace, indices, scatter, to_host, top_k_mask
from .backsolve import backsolve
from .patterns import Cardinality, Pattern
from .problem import LeastSquares
from .solution import Solution, Status
from .starts import metric

SCAN = 2**23  # numbers in a block of the scan over all coordinates (64 MB)
DEPENDENT = 1e-9  # d_j / H_jj below which column j depends on the support's
GAIN = 1e-10  # share of the explained part of n F that counts as a gain


class WorkingSet:
    """The problem on a few columns, with their Gram matrix: the search happens here.

    Parameters
    ----------
    problem, pattern
        What to minimise, over which supports.
    members : ndarray of int, shape (m,)
        The coordinates in W, ascending.
    """

    def __init__(
        self,
        problem: LeastSquares,
        pattern: Pattern,
        members: np.ndarray,
        correlation: Array,
    ) -> None:
        xp = problem.xp
        self.members = members
        self.pattern = pattern.restrict(members)
        where = xp.asarray(members, device=problem.device)
        A_W = problem.columns(where)
        H = to_host(xp.matrix_transpose(A_W) @ A_W)
        self.H = H if H.flags.writeable else H.copy()
        self.H[np.diag_indices_from(self.H)] += problem.mu
        self.g = to_host(xp.take(correlation, where))
        self._free = isinstance(self.pattern, Cardinality)

    def value(self, S: np.ndarray) -> float:
        """How much of n F(0) the support explains: 1/2 g_S' P g_S."""
        return self._at(S)[2]

    def _at(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(P, w, value) on S."""
        g = self.g[S]
        P = inverse(self.H[np.ix_(S, S)])
        w = P @ g
        return P, w, 0.5 * float(g @ w)

    def forward(self, S: np.ndarray, size: int) -> np.ndarray:
        """Add the best coordinate, refitted, until S has `size` or nothing gains."""
        given = [int(j) for j in S]
        m = len(self.members)
        diagonal = self.H.diagonal()
        # V = H_WS L^-T for the Cholesky factor L of H_SS: one column a step.
        V = np.empty((size, m))
        q, d = self.g.copy(), diagonal.copy()
        in_S = np.zeros(m, dtype=bool)
        chosen: list[int] = []
        tiny = np.finfo(float).tiny
        floor = GAIN * float(np.max(q**2 / np.maximum(d, tiny), initial=0.0))
        for t in range(size):
            if t < len(given):
                j = given[t]
            else:
                allowed = self._may_join(in_S, q**2 / np.maximum(d, tiny))
                allowed &= d > DEPENDENT * diagonal
                gain = np.where(allowed, q**2 / np.maximum(d, tiny), 0.0)
                j = int(np.argmax(gain))
                if not gain[j] > floor:
                    break
            in_S[j] = True
            chosen.append(j)
            V[t] = 0.0
            if d[j] > DEPENDENT * diagonal[j]:
                V[t] = (self.H[j] - V[:t, j] @ V[:t]) / np.sqrt(d[j])
                q = q - V[t] * (q[j] / np.sqrt(d[j]))
                d = d - V[t] ** 2
        return np.sort(np.asarray(chosen, dtype=np.intp))

    def _may_join(self, in_S: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which coordinates can be added to S on the way to an allowed support."""
        if self._free:
            return ~in_S
        # The patterns are matroids: what best_mask would add to S now, S may take.
        return self.pattern.best_mask(np.where(in_S, np.inf, score)) & ~in_S

    def improve(self, S: np.ndarray, max_swaps: int) -> tuple[np.ndarray, int]:
        """Swap, best pair first, until no pair gains: (S, swaps made)."""
        m, size = len(self.members), self.pattern.size
        P, w, value = self._at(S)
        for done in range(max_swaps):
            outside = np.ones(m, dtype=bool)
            outside[S] = False
            if len(S) < size:
                S_new = self.forward(S, len(S) + 1)
            else:
                O = np.flatnonzero(outside)
                gain = self._gains(S, O, P, w)
                best = int(np.argmax(gain))
                j, i = divmod(best, len(S))
                if not gain[j, i] > GAIN * value:
                    return S, done
                S_new = S.copy()
                S_new[i] = O[j]
                S_new.sort()
            P_new, w_new, value_new = self._at(S_new)
            if not value_new > value * (1 + 0.1 * GAIN):
                return S, done  # the formula's gain was rounding
            S, P, w, value = S_new, P_new, w_new, value_new
        return S, max_swaps

    def _gains(
        self, S: np.ndarray, O: np.ndarray, P: np.ndarray, w: np.ndarray
    ) -> np.ndarray:
        """Gain of every swap, shape (len(O), len(S)); -inf where not allowed."""
        H_OS = self.H[np.ix_(O, S)]
        gain = swap_gains(H_OS, P, w, self.g[O], self.H.diagonal()[O])
        if not self._free:
            mask = np.zeros(len(self.members), dtype=bool)
            mask[S] = True
            gain[~self.pattern.exchangeable(mask, S, O)] = -np.inf
        return gain


def swap_gains(H_OS: Array, P: Array, w: Array, g: Array, h: Array) -> Array:
    """Gain of n F for every swap of an i in S for a j in O, shape (|O|, |S|).

    `H_OS`, `g` and `h` (the diagonal of H) are those of the coordinates O.
    """
    xp = array_namespace(H_OS)
    T = H_OS @ P
    q = g - H_OS @ w
    d = h - xp.sum(T * H_OS, axis=1)
    d = xp.where(d > 0, d, xp.zeros_like(d))
    p = xp.linalg.diagonal(P)
    bottom = d[:, None] + T**2 / p
    gain = (q[:, None] + T * (w / p)) ** 2
    # A column that depends on what would remain of S has nothing of its own to add.
    dependent = bottom <= DEPENDENT * h[:, None]
    gain = gain / xp.where(dependent, xp.ones_like(bottom), bottom)
    gain = xp.where(dependent, xp.zeros_like(gain), gain)
    return 0.5 * (gain - w**2 / p)


def add_gains(H_OS: Array, P: Array, w: Array, g: Array, h: Array) -> Array:
    """Gain of n F for every j in O that joins S, shape (|O|,)."""
    xp = array_namespace(H_OS)
    q = g - H_OS @ w
    d = h - xp.sum((H_OS @ P) * H_OS, axis=1)
    dependent = d <= DEPENDENT * h
    gain = 0.5 * q**2 / xp.where(dependent, xp.ones_like(d), d)
    return xp.where(dependent, xp.zeros_like(d), gain)


def inverse(M: np.ndarray) -> np.ndarray:
    """Inverse of a small symmetric matrix, damped where it is singular."""
    L, info = dpotrf(M, lower=True)
    damping = 1e-12
    while info:
        ridge = damping * max(float(M.diagonal().max(initial=0.0)), 1e-300)
        L, info = dpotrf(M + ridge * np.eye(len(M)), lower=True)
        damping *= 10
    inv, _ = dpotri(L, lower=True)
    inv = np.tril(inv)
    return inv + np.tril(inv, -1).T


def swaps(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int = 100,
    search: Callable[[WorkingSet, np.ndarray], np.ndarray] | None = None,
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
    search : callable or None
        A deeper search: ``search(W, S)`` returns a support of the working set W at
        least as good as S. Called on each W once no swap on it gains.
    on_step : callable or None
        Called with the coefficients after each working set; True stops.

    Returns
    -------
    Solution
        Never with a larger objective than given.

    Notes
    -----
    A working set of m columns costs a product A_W'A_W, O(n m^2); a scan over all
    coordinates a product A'A_S, O(n p s), in blocks of `SCAN` numbers. A swap on W
    costs O(m s^2 + s^3), on the host.
    """
    p, k = problem.p, pattern.size
    room = min(p, max(6 * k, k + 150))
    g, h = problem.correlation(), problem.column_norms() + problem.mu
    n_swaps, status = 0, Status.MAX_ITER
    if solution is None:
        members = _largest(g**2 / metric(problem), room)
        W = WorkingSet(problem, pattern, members, g)
        S = members[W.forward(np.empty(0, dtype=np.intp), k)]
    else:
        S, W = to_host(indices(solution.support)), None
    for rounds in range(1, max_iter + 1):
        if W is None or room < p:
            gain = _scan(problem, pattern, S, g, h)
            W = WorkingSet(problem, pattern, _joined(S, _largest(gain, room - k)), g)
        S_W = np.searchsorted(W.members, S)
        local, n = W.improve(S_W, max_swaps=20 * k + 100)
        n_swaps += n
        if search is not None:
            local = search(W, local)
        unchanged = len(local) == len(S) and bool((local == S_W).all())
        S = W.members[local]
        stop = on_step is not None and on_step(_minimiser(problem, pattern, S).coef)
        if stop:
            status = Status.STOPPED
            break
        if unchanged or room == p:
            status = Status.CONVERGED
            break
    found = _minimiser(problem, pattern, S)
    note = f"swaps: {n_swaps} on {rounds} working sets of up to {room} columns"
    if solution is not None and not found.objective < solution.objective:
        found = solution
    elif solution is not None:
        found = replace(found, history=solution.history, n_iter=solution.n_iter)
    status = found.status if found.status is Status.NOT_UNIQUE else status
    return replace(
        found,
        n_iter=found.n_iter + rounds,
        status=status,
        history=(*found.history, note),
    )


def _minimiser(problem: LeastSquares, pattern: Pattern, S: np.ndarray) -> Solution:
    """Return the backsolve on a support given by its indices."""
    xp = problem.xp
    ones = xp.ones(len(S), dtype=xp.float64, device=problem.device)
    mask = scatter(problem.p, xp.asarray(S, device=problem.device), ones) > 0
    empty = Solution(problem.zeros(problem.p), mask, float("inf"))
    return backsolve(problem, empty)


def _scan(
    problem: LeastSquares, pattern: Pattern, S: np.ndarray, g: Array, h: Array
) -> Array:
    """Return the largest gain of each coordinate as the one that enters, shape (p,)."""
    xp, p, s = problem.xp, problem.p, len(S)
    S_A = xp.asarray(S, device=problem.device)
    A_S = problem.columns(S_A)
    H_SS = to_host(xp.matrix_transpose(A_S) @ A_S) + problem.mu * np.eye(s)
    P = xp.asarray(inverse(H_SS), device=problem.device)
    w = P @ xp.take(g, S_A)
    mask = np.zeros(p, dtype=bool)
    mask[S] = True
    free = isinstance(pattern, Cardinality)
    gain = problem.zeros(p)
    step = max(SCAN // max(s, 1), 1)
    for start in range(0, p, step):
        cols = slice(start, min(start + step, p))
        H_OS = problem.rmatvec(A_S, cols)
        if s < pattern.size:
            gain[cols] = add_gains(H_OS, P, w, g[cols], h[cols])
            continue
        each = swap_gains(H_OS, P, w, g[cols], h[cols])
        if not free:
            O = np.arange(cols.start, cols.stop)
            allowed = pattern.exchangeable(mask, S, O)
            allowed = xp.asarray(allowed, device=problem.device)
            each = xp.where(allowed, each, xp.full_like(each, -float("inf")))
        gain[cols] = xp.max(each, axis=1)
    inside = xp.asarray(mask, device=problem.device)
    return xp.where(inside, xp.full_like(gain, -float("inf")), gain)


def _largest(score: Array, size: int) -> np.ndarray:
    """Indices of the largest scores, ascending, on the host."""
    return to_host(indices(top_k_mask(score, size)))


def _joined(S: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.union1d(S, others)
