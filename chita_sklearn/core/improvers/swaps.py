"""Forward selection and all-pairs swaps, both exact, on a working set of columns.

The support is searched on a working set W. A is touched to form the rows of H that W
needs, and to find the coordinates outside W whose swap would gain, which then join W.
When no coordinate gains, the support is swap-optimal among all. Notation: `swap_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from ..arrays import (
    Array,
    cast_block,
    indices,
    mask_of,
    to_host,
    top_k_mask,
)
from ..deadline import OnStep, asked
from ..initial import metric
from ..linalg import inverse, one_thread
from ..patterns.matroids import Pattern
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..search.equal_columns import first_of_equals
from ..search.local_search import GAIN, NOISE, best_start, improve
from ..search.swap_state import add_gains, swap_gains
from ..search.working_set import WorkingSet
from ..solution import Solution, Status


class Search(Protocol):
    """A search on a working set that is deeper than swaps."""

    def room(self, problem: LeastSquares, k: int) -> int:
        """How many columns its working sets should have."""

    def note(self) -> str:
        """What it did, in words."""

    def __call__(
        self, W: WorkingSet, S: np.ndarray, stop: Callable[[np.ndarray], bool]
    ) -> np.ndarray:
        """Return a support of W, indices into its members, at least as good as S.

        `stop` is to be asked about the best support now and then; True ends the search.
        """


def swaps(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int = 100,
    search: Search | None = None,
    on_step: OnStep | None = None,
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
    coordinates a product A'A_S, O(n p s), in blocks that stay in the cache. On W, on
    the host, a support costs O(m s^2 + s^3) to begin with and O(m s) a swap.
    """
    p, k = problem.p, pattern.size
    room = max(min(6 * k, problem.gram_order()), k + 150)
    room = min(p, room if search is None else max(room, search.room(problem, k)))
    g, h = problem.correlation(), problem.column_norms() + problem.mu
    inside, outside = None, problem.zeros(p) > 0
    if solution is not None and solution.fixed is not None:
        inside, outside = solution.fixed
    if solution is None:
        W = _first_working_set(problem, pattern, g, room)
        with one_thread():
            S = W.members[best_start(W)]
    else:
        S, W = to_host(indices(solution.support)), None
    stopped = False

    def stop(S: np.ndarray) -> bool:
        nonlocal stopped
        stopped = stopped or asked(on_step, lambda: _minimiser(problem, S).coef)
        return stopped

    n_swaps, rounds, status = 0, 0, Status.MAX_ITER
    while rounds < max_iter:
        rounds += 1
        if W is None or room < p:
            W = None  # the memory of the old one goes before more is taken
            gain = _scan(problem, pattern, S, g, h, outside)
            least = (GAIN if len(S) == k else NOISE) * problem.at_zero
            if search is None and not float(problem.space.max(gain)) > least:
                status = Status.CONVERGED
                break
            members = _next_members(problem, pattern, S, gain, room)
            W = WorkingSet(problem, pattern, members, g, inside)
        S_W = np.searchsorted(W.members, S)
        with one_thread():
            local, _, n = improve(W, S_W, max_swaps=20 * k + 100)
            n_swaps += n
            stopped = stop(W.members[local])
            if search is not None and not stopped:
                local = search(W, local, partial(_ask, stop, W.members))
            local = first_of_equals(W, local, problem.mu)
        S, unchanged = W.members[local], np.array_equal(local, S_W)
        if stopped or unchanged or room == p:
            status = Status.STOPPED if stopped else Status.CONVERGED
            break
    did = f"swaps: {n_swaps}" if search is None else f"{search.note()},"
    note = f"{did} on {rounds} working sets of up to {room} columns"
    found = better(solution, _minimiser(problem, S))
    status = found.status if found.status is Status.NOT_UNIQUE else status
    history = (*found.history, note)
    return replace(found, n_iter=found.n_iter + rounds, status=status, history=history)


def better(known: Solution | None, found: Solution) -> Solution:
    """Return what was found if it is better, with what is known of bounds so far."""
    if known is None:
        return found
    if not found.objective < known.objective:
        return known
    return replace(
        known,
        coef=found.coef,
        support=found.support,
        objective=found.objective,
        status=found.status,
    )


def _first_working_set(
    problem: LeastSquares, pattern: Pattern, g: Array, room: int
) -> WorkingSet:
    """Return the columns that fit the target best, each alone."""
    score = g**2 / metric(problem)
    # Those of the best support that the pattern allows are among them.
    best = problem.space.best_mask(pattern, score)
    score = problem.xp.where(best, problem.xp.full_like(score, np.inf), score)
    return WorkingSet(problem, pattern, _largest(score, room), g)


def _next_members(
    problem: LeastSquares, pattern: Pattern, S: np.ndarray, gain: Array, room: int
) -> np.ndarray:
    """Return S and the coordinates outside whose exchange gains most."""
    xp, k = problem.xp, pattern.size
    if len(S) < k:  # what the pattern still asks for has to be there
        here = mask_of(problem.p, xp.asarray(S, device=problem.device))
        first = xp.full_like(gain, np.inf)
        here = problem.space.best_mask(pattern, xp.where(here, first, gain))
        gain = xp.where(here, first, gain)
    return _joined(S, gain, max(room - k, k))


def _ask(
    stop: Callable[[np.ndarray], bool], members: np.ndarray, best: np.ndarray
) -> bool:
    return stop(members[best])


def _minimiser(problem: LeastSquares, S: np.ndarray) -> Solution:
    """Return the backsolve on a support given by its indices."""
    index = problem.xp.asarray(S, device=problem.device)
    return backsolve(problem, unsolved(problem, mask_of(problem.p, index)))


def _scan(
    problem: LeastSquares,
    pattern: Pattern,
    S: np.ndarray,
    g: Array,
    h: Array,
    outside: Array,
) -> Array:
    """Return the largest gain of each coordinate as the one that enters, shape (p,).

    It is -inf for those of the support and those known to be `outside` of better ones.
    """
    xp, k = problem.xp, pattern.size
    gain = problem.zeros(problem.p)
    for cols, _, each in exchanges(problem, pattern, S, g, h):
        gain[cols] = each[0, ...] if len(S) < k else xp.max(each, axis=0)
    return xp.where(outside, xp.full_like(gain, -float("inf")), gain)


def exchanges(
    problem: LeastSquares, pattern: Pattern, S: np.ndarray, g: Array, h: Array
) -> Iterator[tuple[slice, float, Array]]:
    """Yield the gains of every exchange, or of joining a support that is not full.

    Some columns at a time: their slice, what S explains of n F(0), and the gains, shape
    (|S|, columns), or (1, columns) where S is not full; -inf where not allowed.
    """
    xp, p, s = problem.xp, problem.p, len(S)
    S_A = xp.asarray(S, device=problem.device)
    A_S = problem.select(S_A)
    H_SS = to_host(A_S.gram()) + problem.mu * np.eye(s)
    P = xp.asarray(inverse(H_SS), device=problem.device)
    g_S = xp.take(g, S_A)
    w = P @ g_S
    value, shut = 0.5 * float(g_S @ w), mask_of(p, S_A)
    step = max(cast_block(h) // max(s, 1), 1)
    for start in range(0, p, step):
        cols = slice(start, min(start + step, p))
        H_OS = A_S.cross(cols)
        if s < pattern.size:
            each = add_gains(H_OS, P, w, g[cols], h[cols], xp)[None, :]
        else:
            H_SO = xp.matrix_transpose(H_OS)
            each = swap_gains(H_SO, P, w, g[cols], h[cols], xp)
            O = xp.arange(cols.start, cols.stop, device=problem.device)
            allowed = pattern.exchangeable(S_A, O)
            if allowed is not None:
                each = xp.where(allowed, each, xp.full_like(each, -float("inf")))
        each = xp.where(shut[cols], xp.full_like(each, -float("inf")), each)
        yield cols, value, each


def _largest(score: Array, size: int) -> np.ndarray:
    """Indices of the largest scores, ascending, on the host."""
    return to_host(indices(top_k_mask(score, size)))


def _joined(S: np.ndarray, gain: Array, size: int) -> np.ndarray:
    """S and the `size` coordinates of largest gain, those ruled out (-inf) left out."""
    mask = top_k_mask(gain, size) & (gain > -float("inf"))
    return np.union1d(S, to_host(indices(mask)))
