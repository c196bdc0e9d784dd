"""The search along k: the solutions for many k, and how they better each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .core import Cardinality, LeastSquares, Solution, solve
from .core.arrays import indices, mask_of, to_host
from .core.improvers.restarts import Restarts
from .core.improvers.swaps import swaps
from .core.plans import choose
from .core.refit.backsolve import unsolved
from .core.search.local_search import backward
from .core.search.working_set import WorkingSet

Array = Any  # the array API has no settled static type

BETTER = 1e-9  # share of the objective by which a neighbour's support must win
ROUNDING = 1e-12  # of n F(0): what an objective that serves as a bound may be off by


class Sweep:
    """The solutions for each k, and how they better each other."""

    def __init__(
        self,
        problem: LeastSquares,
        ks: Sequence[int],
        options: dict[str, Any],
        bounds: bool,
    ) -> None:
        self.problem, self.ks, self._options = problem, ks, options
        self._bounds = bounds
        self._patterns = [Cardinality(k) for k in ks]
        self._by_swaps = [
            choose(problem, pattern, options["solver"])[0] == "swap"
            for pattern in self._patterns
        ]
        zero = problem.zeros(problem.p)
        self._slack = ROUNDING * (
            0.5 * float(problem.b @ problem.b) + problem.penalty(zero)
        )
        if problem.dtype != problem.xp.float64:  # the coefficients are rounded to it
            self._slack *= float(problem.xp.finfo(problem.dtype).eps) / ROUNDING
        self._correlation = problem.correlation()
        self.solutions = [self._alone(i) for i in range(len(ks))]
        self._tried: dict[tuple[int, int], Solution] = {}

    def _alone(self, i: int) -> Solution:
        """Solve for the i-th k, as a single fit would."""
        problem, pattern, options = self.problem, self._patterns[i], self._options
        if not self._by_swaps[i]:
            return solve(problem, pattern, **options)
        if self._bounds:
            # Without the Gram matrices that other k left behind: they save little
            # time here, and their rounding could lead to another answer.
            problem = copy.copy(problem)
            problem.grams = []
            return solve(problem, pattern, **options)
        limit, count = options["max_iter"], options["n_restarts"]
        found = swaps(problem, pattern, None, max_iter=limit)
        if count:
            restarts = Restarts(count, np.random.default_rng(options["random_state"]))
            found = swaps(problem, pattern, found, max_iter=limit, search=restarts)
        return found

    def sweep(self, limit: int) -> None:
        """Go up and down along k until no neighbour helps any more."""
        m = len(self.ks)
        for _ in range(limit):
            helped = [self._help(i, i - 1) for i in range(1, m)]
            helped += [self._help(i, i + 1) for i in range(m - 2, -1, -1)]
            if not any(helped):
                break

    def _help(self, i: int, j: int) -> bool:
        """Improve the i-th solution from the j-th, where that is new and does."""
        known, other = self.solutions[i], self.solutions[j]
        if known.gap == 0 or self._tried.get((i, j)) is other:
            return False
        self._tried[i, j] = other
        pattern, options = self._patterns[i], {**self._options, "n_restarts": 0}
        found = self._start(i, other)
        if not found.objective < known.objective * (1 - BETTER):
            return False
        if self._bounds or not self._by_swaps[i]:
            found = solve(self.problem, pattern, start=found.coef, **options)
        if not found.objective < known.objective * (1 - BETTER):
            return False
        self.solutions[i] = replace(
            found,
            lower_bound=min(_best(found, known), found.objective),
            n_iter=known.n_iter + found.n_iter,
            history=(*known.history, f"from k = {self.ks[j]}", *found.history),
        )
        return True

    def _start(self, i: int, other: Solution) -> Solution:
        """Bring another k's solution to this k: one in or out at a time, then swaps."""
        problem, pattern, k = self.problem, self._patterns[i], self.ks[i]
        if not self._by_swaps[i]:
            # Others than swaps cut or fill the support by themselves.
            return replace(other, objective=-math.inf)
        S = to_host(indices(other.support))
        if len(S) > k:
            W = WorkingSet(problem, pattern, S, self._correlation)
            S = S[backward(W, np.arange(len(S)), k)]
        index = problem.xp.asarray(S, device=problem.device)
        start = replace(unsolved(problem, mask_of(problem.p, index)), n_iter=0)
        return swaps(problem, pattern, start, max_iter=self._options["max_iter"])

    def settled(self) -> list[Solution]:
        """Return the solutions with what they imply for each other.

        A solution with fewer features is one with more, and a bound for more is one
        for fewer.
        """
        solutions = list(self.solutions)
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
        for i in range(len(solutions) - 2, -1, -1):
            fewer, more = solutions[i], solutions[i + 1]
            passed = more.lower_bound
            if fewer.gap != 0 and passed > max(_or_less(fewer.lower_bound), 0.0):
                if more.gap == 0:  # then the bound is an objective, rounded
                    passed = max(passed - self._slack, 0.0)
                bound = max(passed, _or_less(fewer.lower_bound))
                solutions[i] = replace(fewer, lower_bound=min(bound, fewer.objective))
        return solutions


def _best(a: Solution, b: Solution) -> float:
    """The larger of two bounds; one that is unknown loses."""
    best = max(_or_less(a.lower_bound), _or_less(b.lower_bound))
    return best if best > -math.inf else math.nan


def _or_less(bound: float) -> float:
    return -math.inf if math.isnan(bound) else bound
