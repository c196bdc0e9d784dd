"""Supports of whole groups of columns, for one target or several at once.

As in `swaps`, on a working set that holds the groups whose columns are most correlated
with what the present support leaves, until the support stays. A restart drops some
groups at random, lets a random other in, and selects forward again.

A support that several targets share is one of groups as well: of the coefficients of
one column for all targets. They share the Gram matrix of X, and gains are sums over the
targets.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array, to_host
from ..deadline import OnStep, asked
from ..initial import metric
from ..linalg import one_thread
from ..patterns.groups import Groups
from ..refit.backsolve import backsolve, unsolved
from ..search.groups import GroupSearch
from ..search.local_search import GAINED
from ..solution import Solution, Status

ROOM = 3  # columns of a working set: ROOM times those of a support, at least
ROUNDS = 20  # working sets at most


def search_groups(
    problem: Any,
    pattern: Groups,
    solution: Solution | None,
    *,
    n_restarts: int,
    max_iter: int,
    rng: np.random.Generator,
    on_step: OnStep | None = None,
) -> Solution:
    """Bring a support of groups to where no exchange gains, and try to leave it.

    Parameters
    ----------
    problem : LeastSquares or SeveralTargets
        Of the latter, the pattern's groups have the same columns of every target.
    pattern : Groups
        How many groups, and which.
    solution : Solution or None
        Where to start; None selects forward.
    n_restarts : int
        Restarts in a row that fail before the search ends.
    max_iter : int
        Working sets at most.
    rng : numpy.random.Generator
        Of the restarts.
    on_step : callable or None
        Called with the coefficients after each descent; True stops.

    Returns
    -------
    Solution
        Without a bound. Never with a larger objective than given.

    Notes
    -----
    On a working set of m columns an exchange costs O(s^2 m) for the state and
    O(s m c (c + t)) for the gains of groups of c columns and t targets.
    """
    base = problem.first if problem.shares_design else problem
    p, labels = base.p, pattern.labels[: base.p]
    U = np.empty(0, dtype=np.intp)
    w = problem.zeros(problem.p)
    if solution is not None:
        U, w = np.unique(pattern.labels[to_host(solution.support)]), solution.coef
    lengths = np.bincount(labels)
    support = int(np.sort(lengths)[::-1][: pattern.k].sum())
    room = min(p, max(base.gram_order(), ROOM * support))
    moves = done = better = failed = rounds = 0
    status, stopped = Status.MAX_ITER, False
    while rounds < min(max_iter, ROUNDS):
        rounds += 1
        groups = _promising(problem, pattern, labels, w, U, room)
        search, groups = _working_set(base, problem, pattern, labels, groups)
        local, before = np.searchsorted(groups, U), U
        with one_thread():
            local, value, n = search.improve(local, 20 * pattern.k + 100)
            moves += n
            while failed < n_restarts and not stopped and _loose(search, local):
                done, failed = done + 1, failed + 1
                start = _perturbed(search, local, rng)
                other, its, _ = search.improve(start, 20 * pattern.k + 100)
                if its > value * GAINED:
                    local, value, failed, better = other, its, 0, better + 1
                stopped = asked(
                    on_step, partial(_coef, problem, pattern, groups[local])
                )
        U = groups[local]
        found = _refitted(problem, pattern, U)
        w = found.coef
        if stopped or (on_step is not None and on_step(w)):
            status = Status.STOPPED
            break
        if room == p or np.array_equal(U, before):
            status = Status.CONVERGED
            break
    note = f"groups: {moves} exchanges, restarts: {done}, of which {better} found a "
    note += f"better support, on {rounds} working sets of up to {room} columns"
    history: tuple[str, ...] = ()
    if solution is not None:
        history = solution.history
        found = found if found.objective < solution.objective else solution
    if found.status is Status.NOT_UNIQUE:
        status = found.status
    return replace(found, n_iter=rounds, status=status, history=(*history, note))


def _refitted(problem: Any, pattern: Groups, U: np.ndarray) -> Solution:
    mask = np.isin(pattern.labels, U)
    mask = problem.xp.asarray(mask, device=problem.device)
    return backsolve(problem, unsolved(problem, mask))


def _coef(problem: Any, pattern: Groups, U: np.ndarray) -> Array:
    return _refitted(problem, pattern, U).coef


def _promising(
    problem: Any,
    pattern: Groups,
    labels: np.ndarray,
    w: Array,
    U: np.ndarray,
    room: int,
) -> np.ndarray:
    """The groups of a working set of about `room` columns, ascending."""
    n_groups = pattern.n_groups
    if room >= len(labels):
        return np.arange(n_groups)
    shift = w if problem.prior is None else w - problem.prior
    slope = problem.rmatvec(problem.residual(w)) - problem.mu * shift
    score = to_host(pattern.sums(slope**2 / metric(problem)))
    score[np.union1d(U, pattern.required).astype(np.intp)] = np.inf
    order = np.argsort(-score, kind="stable")
    columns = np.cumsum(np.bincount(labels)[order])
    return np.sort(order[: max(int(np.searchsorted(columns, room)), pattern.k + 1)])


def _working_set(
    base: Any, problem: Any, pattern: Groups, labels: np.ndarray, groups: np.ndarray
) -> tuple[GroupSearch, np.ndarray]:
    """The search on some groups, and which they are."""
    xp = base.xp
    members = np.flatnonzero(np.isin(labels, groups))
    index = xp.asarray(members, device=base.device)
    H = to_host(base.select(index).gram()) + base.mu * np.eye(len(members))
    g = to_host(xp.reshape(problem.correlation(), (-1, base.p))).T[members]
    required = np.searchsorted(groups, pattern.required)
    local = np.searchsorted(groups, labels[members])
    return GroupSearch(H, g, local, pattern.k, required), groups


def _loose(search: GroupSearch, U: np.ndarray) -> bool:
    """Whether there is anything to drop, and anything to let in."""
    return len(search.required) < len(U) < search.n_groups


def _perturbed(
    search: GroupSearch, U: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Drop some groups at random, let one other in, and select forward."""
    loose = np.setdiff1d(U, search.required)
    few = int(rng.integers(1, len(loose) + 1))
    kept = np.setdiff1d(U, rng.choice(loose, size=few, replace=False))
    stranger = rng.choice(np.setdiff1d(np.arange(search.n_groups), U), size=1)
    return search.forward(np.append(kept, stranger))
