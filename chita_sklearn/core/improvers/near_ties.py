"""The best few supports: what else explains b nearly as well as the answer.

Where a pattern allows few supports, all are ranked. Else the best known ones are taken
in turn, the answer first, and every single exchange of each is scored: those that are
among the best so far are known then as well. It ends when no exchange of any of the
best leads to another of them (best-first search on the graph of exchanges). Supports
that are two exchanges away from all of these are not seen unless the search has met
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..arrays import Array, mask_of, to_host
from ..patterns.matroids import Pattern
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..solution import Solution
from .enumerate import ranked
from .swaps import exchanges

EXPANSIONS = 5  # times as many supports as are wanted have their exchanges scored


def near_ties(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution,
    count: int,
    *,
    all_up_to: int,
    stop: Callable[[], bool],
) -> list[Solution]:
    """Return the best supports known, at most `count`, the best first.

    Parameters
    ----------
    problem : LeastSquares
        Without signs.
    pattern : Pattern
        A matroid.
    solution : Solution
        The answer of a search, and the supports that it met. What is known of it is
        kept, unless a better one is found here.
    count : int
        How many to return; fewer where there are no more.
    all_up_to : int
        Up to so many supports are all ranked.
    stop : callable
        Asked before each support whose exchanges are scored; True ends the search.

    Returns
    -------
    list of Solution
        With objectives, and without bounds but for the first.

    Notes
    -----
    An answer whose exchanges are scored costs a product A'A_S, O(n p k), and O(p k^2);
    there are at most `EXPANSIONS` times `count` of them. Memory: p k numbers, some
    columns at a time. Each that is returned costs a refit.
    """
    S = tuple(np.flatnonzero(to_host(solution.support)).tolist())
    total = pattern.count(problem.p)
    if total is not None and total <= all_up_to:
        supports = ranked(problem, pattern, count + 1)
    else:
        known = [S, *solution.met[:count]]  # at most so many will be returned
        supports = _explored(problem, pattern, known, count + 1, stop)
    found, seen = [solution], {_nonzero(solution)}
    for T in supports:
        if T == S:
            continue
        index = problem.xp.asarray(T, dtype=int, device=problem.device)
        one = backsolve(problem, unsolved(problem, mask_of(problem.p, index)))
        # Columns that fit nothing have a coefficient of 0, whichever are added.
        if _nonzero(one) not in seen:
            seen.add(_nonzero(one))
            found.append(one)
    found.sort(key=lambda one: one.objective)
    best = found[0]
    if best is not solution:
        rest = [replace(one, lower_bound=-math.inf, met=()) for one in found[1:]]
        history = (*solution.history, "an exchange of the answer was better")
        best = replace(
            solution,
            coef=best.coef,
            support=best.support,
            objective=best.objective,
            lower_bound=min(solution.lower_bound, best.objective),
            history=history,
        )
        found = [best, *rest]
    return found[:count]


def _nonzero(solution: Solution) -> tuple[int, ...]:
    return tuple(np.flatnonzero(to_host(solution.coef != 0)).tolist())


def _explored(
    problem: LeastSquares,
    pattern: Pattern,
    known: list[tuple[int, ...]],
    count: int,
    stop: Callable[[], bool],
) -> list[tuple[int, ...]]:
    """The best supports that exchanges of the best ones lead to."""
    g, h = problem.correlation(), problem.column_norms() + problem.mu
    values: dict[tuple[int, ...], float] = {}
    done: set[tuple[int, ...]] = set()
    waiting = list(dict.fromkeys(known))
    while waiting and len(done) < EXPANSIONS * count and not (done and stop()):
        S = waiting[0]
        done.add(S)
        values[S], rivals = _exchanged(problem, pattern, S, g, h, count)
        for T, value in rivals.items():
            values.setdefault(T, value)
        best = sorted(values, key=values.__getitem__, reverse=True)[:count]
        # Supports that the search has met come first: their values are not known yet.
        waiting = [T for T in known if T not in values]
        waiting += [T for T in best if T not in done]
    return sorted(values, key=values.__getitem__, reverse=True)[:count]


def _exchanged(
    problem: LeastSquares,
    pattern: Pattern,
    S: tuple[int, ...],
    g: Array,
    h: Array,
    count: int,
) -> tuple[float, dict[tuple[int, ...], float]]:
    """How much S explains, and the most that supports an exchange away do."""
    rivals: dict[tuple[int, ...], float] = {}
    value = 0.0
    for columns, value, gains in exchanges(
        problem, pattern, np.asarray(S, dtype=np.intp), g, h
    ):
        flat = to_host(gains).ravel()
        few = min(count, len(flat))
        width = gains.shape[1]
        for at in np.argpartition(-flat, few - 1)[:few]:
            if flat[at] == -np.inf:
                continue
            i, j = divmod(int(at), width)
            T = tuple(sorted((*S[:i], *S[i + 1 :], columns.start + j)))
            rivals[T] = value + float(flat[at])
    return value, rivals
