"""Exactly k columns of many that are spread over processes, by working sets.

A working set W is gathered on process 0, and searched there by the plan "swap". The
coefficients found go to all, and each process computes what every column of its own
would gain if it replaced one of the support, coefficients refitted (`swap_state`). The
best of these join the next working set. When none gains, the support is swap-optimal
among all columns; then restarts and walkers search the last working set, and what they
find is brought to where no swap gains again. What travels are columns of working sets,
k columns a scan, and the largest few of each process's gains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..arrays import cast_block, top_k_mask
from ..linalg import inverse
from ..patterns.matroids import Cardinality
from ..problem.least_squares import LeastSquares
from ..problem.sharded import Sharded
from ..refit.backsolve import backsolve, unsolved
from ..search.local_search import GAIN
from ..search.swap_state import swap_gains
from ..solution import Solution, Status
from .dual import certify
from .restarts import Restarts
from .swaps import swaps


def search_sharded(
    problem: Sharded,
    k: int,
    *,
    max_rounds: int = 8,
    n_restarts: int = 10,
    max_iter: int = 100,
    random_state: int | None = None,
) -> tuple[Solution, np.ndarray]:
    """Minimise n F over supports of k of the columns of all processes.

    Parameters
    ----------
    problem : Sharded
        Without a prior.
    k : int
        Columns to choose, at most as many as there are.
    max_rounds : int
        Working sets at most.
    n_restarts : int
        As in `solve`.
    max_iter : int
        As in `solve`.
    random_state : int or None
        Seed of the restarts.

    Returns
    -------
    solution : Solution
        On the coordinates of this process; its objective and bound are of all.
    support : ndarray of int, shape (k,)
        Numbers of the columns chosen among all, ascending.

    Notes
    -----
    A scan costs a product A'A_S of the own columns. Process 0 searches alone.
    """
    deep = Restarts(n_restarts, np.random.default_rng(random_state))
    g = problem.correlation()
    h = problem.column_norms() + problem.mu
    room = min(problem.total, max(6 * k, k + 150, deep.room(problem, k)))
    score = np.divide(g**2, h, out=np.zeros_like(g), where=h > 0)
    W = problem.space.largest(score, room)
    support: np.ndarray | None = None
    searching, status, rounds = False, Status.MAX_ITER, 0
    while rounds < max_rounds:
        rounds += 1
        before = support
        search = deep if searching else None
        support = _searched(problem, W, k, support, search, max_iter)
        gain = _gains(problem, support, g, h)
        optimal = not float(problem.space.max(gain)) > GAIN * problem.at_zero
        if optimal and (n_restarts == 0 or k == problem.total):
            status = Status.CONVERGED
            break
        unchanged = before is not None and np.array_equal(before, support)
        if optimal and searching and unchanged:
            status = Status.CONVERGED
            break
        searching = optimal
        W = np.union1d(support, problem.space.largest(gain, room - k))
    assert support is not None
    note = f"{rounds} working sets of up to {room} of {problem.total} columns"
    found = _minimiser(problem, support)
    found = certify(problem, Cardinality(k), found)
    return replace(found, n_iter=rounds, status=status, history=(note,)), support


def _searched(
    problem: Sharded,
    W: np.ndarray,
    k: int,
    support: np.ndarray | None,
    search: Restarts | None,
    max_iter: int,
) -> np.ndarray:
    """The best support found on a working set, numbers among all columns."""
    part = problem.working_set(W)

    def find() -> np.ndarray:
        assert part is not None
        start = None if support is None else _on(part, np.isin(W, support))
        best = swaps(part, Cardinality(k), start, max_iter=max_iter)
        if search is not None:
            best = swaps(part, Cardinality(k), best, max_iter=max_iter, search=search)
        # Where fewer explain all there is to explain, others fill up.
        return W[np.flatnonzero(top_k_mask(best.support.astype(float), k))]

    return problem.comm.share(0, find, np.zeros(k, dtype=np.int64))


def _on(part: LeastSquares, mask: np.ndarray) -> Solution:
    return backsolve(part, unsolved(part, mask))


def _gains(
    problem: Sharded, support: np.ndarray, g: np.ndarray, h: np.ndarray
) -> np.ndarray:
    """The largest gain of each own column as the one that enters; -inf if chosen."""
    part = problem.part(support)
    every = np.arange(len(support))
    A_S = part.columns(every)
    P = inverse(A_S.T @ A_S + problem.mu * np.eye(len(support)))
    w = P @ part.correlation()
    gain = problem.zeros(problem.p)
    step = max(cast_block(gain) // len(support), 1)
    for start in range(0, problem.p, step):
        cols = slice(start, min(start + step, problem.p))
        H_OS = problem.rmatvec(A_S, cols=cols)
        gain[cols] = swap_gains(H_OS.T, P, w, g[cols], h[cols], np).max(axis=0)
    own = support - problem.first
    gain[own[(own >= 0) & (own < problem.p)]] = -np.inf
    return gain


def _minimiser(problem: Sharded, support: np.ndarray) -> Solution:
    """The backsolve on a support; coefficients of the own columns, objective of all."""
    part = problem.part(support)
    best = _on(part, np.ones(len(support), dtype=bool))
    rounded = part.rounded(best.coef)
    numbers = np.concatenate([rounded, [part.objective(rounded)]])
    # (Of process 0, whatever the others' rounding is.)
    *coef, objective = problem.comm.share(0, lambda: numbers, numbers)
    w, mask = problem.zeros(problem.p), np.zeros(problem.p, dtype=bool)
    own = support - problem.first
    here = (own >= 0) & (own < problem.p)
    w[own[here]], mask[own[here]] = np.asarray(coef)[here], True
    return replace(best, coef=w, support=mask, objective=float(objective))
