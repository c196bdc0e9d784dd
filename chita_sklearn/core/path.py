"""`solve_path`: the best supports for many k, each helping its neighbours.

Every k is solved on its own first. Then the supports travel along k: the one of k - 1
plus the best coordinate, and the one of k + 1 less the cheapest, are improved by
exchanges wherever that leads below what is known, up and down until nothing changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .arrays import Array, indices, mask_of, scatter, to_host
from .deadline import Deadline
from .improvers.swaps import swaps
from .linalg import one_thread
from .patterns.matroids import Cardinality, Including, Pattern
from .plans import SWAPS_UP_TO, choose, missing, passes
from .problem.base import Rows
from .problem.least_squares import LeastSquares
from .refit.backsolve import unsolved
from .search.local_search import backward, best_start, improve
from .search.working_set import WorkingSet
from .solution import Solution
from .solve import few_threads, solve

SWEPT_WHOLE = 150  # columns whose Gram matrix is the working set of every sweep
BETTER = 1e-9  # share of the objective by which a neighbour's support must win
ROUNDING = 1e-12  # of n F(0): what an objective that serves as a bound may be off by


def solve_path(
    problem: Any,
    ks: Sequence[int],
    *,
    pattern_of: Callable[[int], Pattern] = Cardinality,
    bounds: bool = True,
    solver: str = "auto",
    n_restarts: int = 10,
    restarted: Container[int] | None = None,
    max_iter: int = 100,
    tol: float = 1e-3,
    time_limit: float | None = None,
    random_state: int | None = None,
) -> list[Solution]:
    """Minimise n F(w) over a pattern of each size k, by default ||w||_0 <= k.

    Parameters
    ----------
    problem : LeastSquares or SeveralTargets
        The quadratic.
    ks : sequence of int
        Numbers of coordinates, ascending and distinct.
    pattern_of : callable, default=Cardinality
        The pattern for a k. What a smaller k allows, a larger one has room for.
    bounds : bool, default=True
        Whether plan "swap" spends time on lower bounds and walkers; without, the
        bounds are -inf.
    solver : str, default="auto"
        The plan for each k, as in `solve`.
    n_restarts : int, default=10
        As in `solve`.
    restarted : collection of int, or None, default=None
        The k whose searches restart, where the others are there to be looked at; None
        for all of them.
    max_iter : int, default=100
        As in `solve`; also the rounds up and down along k at most.
    tol : float, default=1e-3
        As in `solve`.
    time_limit : float or None, default=None
        Seconds for the whole path: each k has an equal share of what is left, and the
        exchange along k ends with it.
    random_state : int or None, default=None
        Seed of the restarts, the same for every k.

    Returns
    -------
    list of Solution
        One for each k. No objective is above that of a single `solve` with the same
        options (and the same restarts) by more than a share of `BETTER`, and none is
        above that of a smaller k.

    Notes
    -----
    Costs a `solve` for each k, then a descent by swaps for each pair of neighbours and
    round, as long as one of the two is new.
    """
    options = {
        "solver": solver,
        "n_restarts": n_restarts,
        "max_iter": max_iter,
        "tol": tol,
        "random_state": random_state,
        "bounds": bounds,
    }
    patterns = [pattern_of(k) for k in ks]
    cost = sum(passes(problem, pattern) for pattern in patterns)
    with few_threads(problem):
        clock = Deadline(time_limit)
        part = problem.qr_compressed(cost)
        path = _Path(
            part, ks, patterns, options, clock, ks if restarted is None else restarted
        )
        path.exchange(max_iter)
        return path.implied()


def sweep_path(
    problem: Any,
    ks: Sequence[int],
    *,
    pattern_of: Callable[[int], Pattern] = Cardinality,
    starts: Mapping[int, Array] | None = None,
    solver: str = "auto",
    max_iter: int = 100,
    tol: float = 1e-3,
    random_state: int | None = None,
) -> list[Solution]:
    """Solve for each k once, quickly: for candidates that are chosen among by scores.

    One sweep up along k. Each support starts from that of the k before and, without
    `starts`, from forward selection; swaps follow, and neither restarts nor bounds.
    Where a plan other than "swap" is asked for, or the problem has no swaps, each k is
    what `solve` makes of it without restarts and bounds.

    Parameters
    ----------
    problem : LeastSquares or SeveralTargets
        The quadratic.
    ks : sequence of int
        Numbers of coordinates, ascending and distinct.
    pattern_of : callable, default=Cardinality
        The pattern for a k.
    starts : mapping of int to mask, or None, default=None
        Supports known for some k, of the same problem with another ridge: better
        starts than forward selection.
    solver : str, default="auto"
        As in `solve`; by "auto" and "swap" there are swaps alone.
    max_iter : int, default=100
        As in `solve`.
    tol : float, default=1e-3
        As in `solve`, where that is called.
    random_state : int or None, default=None
        The same.

    Returns
    -------
    list of Solution
        One for each k, without bounds.
    """
    patterns = [pattern_of(k) for k in ks]
    with few_threads(problem):
        part = problem.qr_compressed(
            sum(passes(problem, pattern) for pattern in patterns)
        )
    options: dict[str, Any] = {
        "solver": solver,
        "n_restarts": 0,
        "max_iter": max_iter,
        "tol": tol,
        "random_state": random_state,
        "bounds": False,
    }
    found: list[Solution] = []
    last: Solution | None = None
    W: WorkingSet | None = None
    for k, pattern in zip(ks, patterns, strict=True):
        start = (starts or {}).get(k)
        if not _by_swaps_alone(part, pattern, solver):
            last = solve(part, pattern, **options)
        elif part.p <= SWEPT_WHOLE:
            if W is None:
                W = WorkingSet(part, pattern, np.arange(part.p), part.correlation())
            W.pattern = pattern
            last = _swept_whole(part, W, last, start)
        else:
            last = _swept(part, pattern, last, start, max_iter)
        found.append(last)
    return found


def _by_swaps_alone(problem: Any, pattern: Pattern, solver: str) -> bool:
    """Whether swaps, from any support, are what the problem and the user want."""
    uniform = isinstance(pattern, Cardinality | Including)
    between = 0 < pattern.size < problem.p and pattern.size <= SWAPS_UP_TO
    free = problem.signs is None and not missing("swap", problem, pattern)
    return uniform and between and free and solver in ("auto", "swap")


def _swept_whole(
    problem: Any, W: WorkingSet, last: Solution | None, start: Array | None
) -> Solution:
    """The same where all columns are one working set, whose Gram matrix is formed once.

    The coefficients are those that the search ends with: good to the rounding of the
    normal equations.
    """
    xp, known = problem.xp, last.support if start is None and last else start
    limit = 20 * W.pattern.size + 100
    with one_thread():
        tried = [] if start is not None else [best_start(W)]
        if known is not None and bool(problem.space.count(known)):
            S = to_host(indices(known))
            tried.append(improve(W, S, limit)[0])
        elif not tried:
            tried.append(best_start(W))
        S, (_, w, value) = max(
            ((S, W.at(S)) for S in tried), key=lambda found: found[1][2]
        )
    index = xp.asarray(S, device=problem.device)
    coef = scatter(problem.p, index, xp.asarray(w, device=problem.device))
    return Solution(
        problem.rounded(coef),
        mask_of(problem.p, index),
        max(problem.at_zero - value, 0.0),
    )


def _swept(
    problem: Any,
    pattern: Pattern,
    last: Solution | None,
    start: Array | None,
    max_iter: int,
) -> Solution:
    """The better of what swaps make of the support before and of one known."""
    begun: list[Solution | None] = [None]
    if start is not None:
        begun = [replace(unsolved(problem, start), n_iter=0)]
    elif last is not None and bool(problem.space.count(last.support)):
        begun.append(replace(unsolved(problem, last.support), n_iter=0))
    tried = [swaps(problem, pattern, first, max_iter=max_iter) for first in begun]
    best = min(tried, key=lambda solution: solution.objective)
    return replace(best, coef=problem.rounded(best.coef))


class _Path:
    """The solutions for each k, as they better each other."""

    def __init__(
        self,
        problem: Any,
        ks: Sequence[int],
        patterns: list[Pattern],
        options: dict[str, Any],
        clock: Deadline,
        restarted: Container[int],
    ) -> None:
        self._problem, self._ks, self._options = problem, ks, options
        self._restarted = restarted
        self._clock = clock
        self._patterns = patterns
        names = [choose(problem, pattern, options["solver"])[0] for pattern in patterns]
        signed = problem.signs is not None
        self._by_swaps = [name == "swap" and not signed for name in names]
        self._bounded_alone = [
            signed or name in ("groups", "targets") for name in names
        ]
        self._correlation = problem.correlation()
        self._solutions = [self._alone(i) for i in range(len(ks))]
        self._tried: dict[tuple[int, int], Solution] = {}

    def _alone(self, i: int) -> Solution:
        """Solve for the i-th k, as a single call of `solve` would."""
        problem = self._problem
        if self._by_swaps[i]:
            # Without the Gram matrices that other k left behind: they save little
            # time here, and their rounding could lead to another answer.
            problem = copy.copy(problem)
            problem.grams = []
        options = self._options | {"time_limit": self._clock.share(len(self._ks) - i)}
        if self._ks[i] not in self._restarted:
            options["n_restarts"] = 0
        return solve(problem, self._patterns[i], **options)

    def exchange(self, limit: int) -> None:
        """Go up and down along k until no neighbour helps any more."""
        m = len(self._ks)
        for _ in range(limit):
            helped = [self._help(i, i - 1) for i in range(1, m)]
            helped += [self._help(i, i + 1) for i in range(m - 2, -1, -1)]
            if not any(helped):
                break

    def _help(self, i: int, j: int) -> bool:
        """Improve the i-th solution from the j-th, where that is new and does."""
        known, other = self._solutions[i], self._solutions[j]
        if self._clock.over() or known.gap == 0 or self._tried.get((i, j)) is other:
            return False
        self._tried[i, j] = other
        enough = known.objective * (1 - BETTER)
        start = other.coef
        if self._by_swaps[i]:
            # Swaps alone are quick, and tell whether the rest of the plan is worth it.
            swapped = self._swapped(i, other)
            if not swapped.objective < enough:
                return False
            start = swapped.coef
        options = {**self._options, "n_restarts": 0, "time_limit": self._clock.share(1)}
        if self._bounded_alone[i]:
            options["bounds"] = False  # the bound known holds for it as well
        found = solve(self._problem, self._patterns[i], start=start, **options)
        if not found.objective < enough:
            return False
        bound = max(found.lower_bound, known.lower_bound)
        self._solutions[i] = replace(
            found,
            lower_bound=min(bound, found.objective),
            n_iter=known.n_iter + found.n_iter,
            history=(*known.history, f"from k = {self._ks[j]}", *found.history),
        )
        return True

    def _swapped(self, i: int, other: Solution) -> Solution:
        """Bring another k's support to this k: one in or out at a time, then swaps."""
        problem, pattern = self._problem, self._patterns[i]
        S = to_host(indices(other.support))
        if len(S) > pattern.size:
            W = WorkingSet(problem, pattern, S, self._correlation)
            S = S[backward(W, np.arange(len(S)))]
        index = problem.xp.asarray(S, device=problem.device)
        start = replace(unsolved(problem, mask_of(problem.p, index)), n_iter=0)
        return swaps(problem, pattern, start, max_iter=self._options["max_iter"])

    def implied(self) -> list[Solution]:
        """Return the solutions with what they imply for each other.

        A solution with fewer coordinates is one with more, and a bound for more is one
        for fewer.
        """
        solutions = list(self._solutions)
        for i in range(1, len(solutions)):
            fewer, more = solutions[i - 1], solutions[i]
            if fewer.objective < more.objective:
                solutions[i] = replace(
                    more,
                    coef=fewer.coef,
                    support=fewer.support,
                    objective=fewer.objective,
                    lower_bound=min(more.lower_bound, fewer.objective),
                )
        slack = self._slack()
        for i in range(len(solutions) - 2, -1, -1):
            fewer, more = solutions[i], solutions[i + 1]
            if fewer.gap == 0 or not more.lower_bound > 0:
                continue
            passed = more.lower_bound
            if more.gap == 0:  # its bound is an objective, which is rounded
                passed = max(passed - slack, 0.0)
            bound = max(passed, fewer.lower_bound)
            solutions[i] = replace(fewer, lower_bound=min(bound, fewer.objective))
        return solutions

    def _slack(self) -> float:
        """What the objective of a solution may be off by."""
        problem = self._problem
        share = ROUNDING
        if problem.dtype != problem.xp.float64:  # the coefficients are rounded to it
            share = float(problem.xp.finfo(problem.dtype).eps)
        zero = problem.zeros(problem.p)
        return share * (0.5 * float(problem.b @ problem.b) + problem.penalty(zero))


def residual_sum_of_squares(problem: Rows, coef: Array) -> float:
    """||b - A w||^2, or 0 where that is rounding. One pass over X."""
    r = problem.residual(problem.xp.astype(coef, problem.xp.float64))
    rss = float(r @ r)
    rounding = 100 * float(problem.xp.finfo(problem.dtype).eps)
    return rss if rss > rounding**2 * float(problem.b @ problem.b) else 0.0


def degrees_of_freedom(problem: LeastSquares, S: Array) -> float:
    """Trace of A_S (A_S'A_S + mu I)^-1 A_S', from the smaller Gram of A_S.

    Of a tall X in blocks of rows, or from its triangular factor where there is one.
    """
    if problem.mu == 0 or S.shape[0] == 0:
        return float(S.shape[0])
    xp, problem = problem.xp, problem.qr_compressed(0.0)
    if problem.n_rows < S.shape[0]:
        gram, _ = problem.outer_gram(S)
    else:
        gram = problem.select(S).gram()
    eigenvalues = xp.linalg.eigvalsh(gram)
    eigenvalues = xp.where(eigenvalues > 0, eigenvalues, xp.zeros_like(eigenvalues))
    return float(xp.sum(eigenvalues / (eigenvalues + problem.mu)))
