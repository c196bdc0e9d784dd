"""Swaps on many columns that are spread over processes, by working sets.

A working set W is gathered on process 0, and searched there by `swaps`. The support
found goes to all, and each process computes what every column of its own would gain if
it replaced one of the support, coefficients refitted (`swap_state`). The best of these
join the next working set. When none gains, the support is swap-optimal among all
columns. What travels are columns of working sets, k columns a scan, and the largest few
of each process's gains.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ..arrays import cast_block, top_k_mask
from ..deadline import OnStep, asked
from ..initial import metric
from ..linalg import inverse
from ..patterns.matroids import Cardinality, Pattern
from ..problem.sharded import Sharded
from ..refit.backsolve import backsolve, unsolved
from ..search.local_search import GAIN
from ..search.swap_state import swap_gains
from ..solution import Solution, Status
from .swaps import Search, better, swaps

# A scan over all columns costs far more than a search of few: a working set has as many
# numbers as this, and so many columns at most, where k does not ask for more.
NUMBERS, COLUMNS = 10**6, 8192


def search_sharded(
    problem: Sharded,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int = 100,
    search: Search | None = None,
    on_step: OnStep | None = None,
) -> Solution:
    """Bring a support to where no swap lowers n F, among the columns of all processes.

    Parameters
    ----------
    problem : Sharded
        What to minimise.
    pattern : Cardinality
        How many columns.
    solution : Solution or None
        Where to start; None selects forward.
    max_iter : int
        Working sets at most.
    search : Search or None
        A deeper search on each working set, once no swap on it gains; on process 0.
    on_step : callable or None
        Called with the coefficients after each working set; True stops. It has to
        answer alike on all.

    Returns
    -------
    Solution
        Never with a larger objective than given.

    Notes
    -----
    A scan costs a product A'A_S of the own columns. Process 0 searches alone.
    """
    k, total = pattern.size, problem.total
    room = min(total, max(6 * k, k + 150, min(NUMBERS // problem.n_rows, COLUMNS)))
    g, h = problem.correlation(), problem.column_norms() + problem.mu
    inside, outside = np.empty(0, np.int64), problem.zeros(problem.p) > 0
    if solution is not None and solution.fixed is not None:
        inside, outside = problem.chosen(solution.fixed[0]), solution.fixed[1]
    S = None if solution is None else problem.chosen(solution.support)
    W = problem.space.largest(g**2 / metric(problem), room)
    rounds, status = 0, Status.MAX_ITER
    while rounds < max_iter:
        rounds += 1
        if S is not None:
            gain = np.where(outside, -np.inf, _gains(problem, S, g, h))
            gains = float(problem.space.max(gain)) > GAIN * problem.at_zero
            if search is None and len(S) == k and not gains:
                status = Status.CONVERGED
                break
            left = int(problem.space.count(gain > -np.inf))
            joining = problem.space.largest(gain, min(room - len(S), left))
            W = np.union1d(S, joining)
        before, S = S, _searched(problem, W, k, S, inside, search, max_iter)
        if asked(on_step, partial(_coef, problem, S)):
            status = Status.STOPPED
            break
        if room == total or (before is not None and np.array_equal(before, S)):
            status = Status.CONVERGED
            break
    assert S is not None
    did = "swaps" if search is None else "restarts"
    note = f"{did} on {rounds} working sets of up to {room} of {total} columns"
    found = better(solution, _minimiser(problem, S))
    status = found.status if found.status is Status.NOT_UNIQUE else status
    history = (*found.history, note)
    return replace(found, n_iter=found.n_iter + rounds, status=status, history=history)


def _searched(
    problem: Sharded,
    W: np.ndarray,
    k: int,
    S: np.ndarray | None,
    inside: np.ndarray,
    search: Search | None,
    max_iter: int,
) -> np.ndarray:
    """The best support found on a working set, numbers among all columns."""
    part = problem.working_set(W)

    def find() -> np.ndarray:
        assert part is not None
        start = None
        if S is not None:
            start = backsolve(part, unsolved(part, np.isin(W, S)))
            start = replace(start, fixed=(np.isin(W, inside), np.zeros(len(W), bool)))
        best = swaps(part, Cardinality(k), start, max_iter=max_iter)
        if search is not None:
            best = swaps(part, Cardinality(k), best, max_iter=max_iter, search=search)
        # Where fewer explain all there is to explain, others fill up.
        return W[np.flatnonzero(top_k_mask(best.support.astype(float), k))]

    return problem.comm.share(0, find, np.zeros(k, dtype=np.int64))


def _gains(problem: Sharded, S: np.ndarray, g: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The largest gain of each own column as the one that enters; -inf if chosen."""
    part = problem.part(S)
    A_S = part.columns(np.arange(len(S)))
    P = inverse(A_S.T @ A_S + problem.mu * np.eye(len(S)))
    w = P @ part.correlation()
    gain = problem.zeros(problem.p)
    step = max(cast_block(gain) // max(len(S), 1), 1)
    for start in range(0, problem.p, step):
        cols = slice(start, min(start + step, problem.p))
        H_OS = problem.rmatvec(A_S, cols=cols)
        gain[cols] = swap_gains(H_OS.T, P, w, g[cols], h[cols], np).max(axis=0)
    gain[problem.own(S, np.ones(len(S))) > 0] = -np.inf
    return gain


def _minimiser(problem: Sharded, S: np.ndarray) -> Solution:
    """The backsolve on a support."""
    mask = problem.own(S, np.ones(len(S))) > 0
    return backsolve(problem, unsolved(problem, mask))


def _coef(problem: Sharded, S: np.ndarray) -> np.ndarray:
    coef: np.ndarray = _minimiser(problem, S).coef
    return coef
