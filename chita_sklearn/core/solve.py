"""The plan: which improvers run, in which order, for a problem of a given shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from . import starts
from .arrays import Array, namespace_name
from .backsolve import Backsolver, backsolve
from .dual import certify, dual
from .iht import iht
from .patterns import Pattern
from .problem import LeastSquares
from .restarts import Restarts
from .solution import Solution, Status
from .swaps import swaps

SOLVERS = ("auto", "iht", "swap", "dual", "dense")
SWAPS_UP_TO = 500  # non-zeros: beyond, all-pairs swaps cost more than they gain


def solve(
    problem: LeastSquares,
    pattern: Pattern,
    *,
    solver: str = "auto",
    start: Array | None = None,
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-3,
    random_state: int | np.random.Generator | None = None,
    on_step: Callable[[Array], bool] | None = None,
) -> Solution:
    """Minimise n F(w) over the supports of a pattern."""
    if solver not in SOLVERS:
        msg = f"solver={solver!r} is not known; choose one of {', '.join(SOLVERS)}."
        raise ValueError(msg)
    plan, why = choose(problem, pattern, solver)
    solution = _given(problem, pattern, start)
    if plan == "swap":
        rng = np.random.default_rng(random_state)
        search = Restarts(n_restarts, rng) if n_restarts else None
        solution = swaps(problem, pattern, solution, max_iter=max_iter, search=search, on_step=on_step)
        solution = certify(problem, pattern, solution)
    elif plan == "dual":
        if solution is None:
            solution = _feasible(problem, starts.magnitude(problem, pattern))
        solution = dual(problem, pattern, solution, max_iter=max_iter, tol=tol, on_step=on_step)
    elif plan == "dense":
        solver_ = Backsolver(problem, problem.p)
        mask = starts.dense(problem, pattern, solver_)
        solution = certify(problem, pattern, backsolve(problem, _feasible(problem, mask)))
    else:
        if solution is None:
            begin = starts.correlation if problem.prior is None else starts.magnitude
            solution = _feasible(problem, begin(problem, pattern))
        solution = iht(problem, pattern, solution, max_iter=max_iter, on_step=on_step)
        solution = certify(problem, pattern, backsolve(problem, solution))
    xp = problem.xp
    coef = xp.astype(solution.coef, problem.dtype, copy=False)
    objective = problem.objective(coef)
    bound = min(solution.lower_bound, objective)
    return replace(solution, coef=coef, objective=objective, lower_bound=bound, history=(why, *solution.history))


def choose(problem, pattern, solver):
    if solver != "auto":
        return solver, f"plan {solver}: asked for"
    if pattern.size <= min(SWAPS_UP_TO, problem.n_rows):
        return "swap", f"plan swap: {pattern.size} non-zeros are few"
    if problem.mu > 0:
        return "dual", f"plan dual: {pattern.size} non-zeros and a ridge"
    return "iht", f"plan iht: {pattern.size} non-zeros and no ridge"


def _feasible(problem, mask):
    w = problem.zeros(problem.p)
    if problem.prior is not None:
        w = problem.xp.where(mask, problem.prior, w)
    return Solution(w, mask, problem.objective(w), n_iter=0)


def _given(problem, pattern, start):
    if start is None:
        return None
    xp = problem.xp
    w = xp.astype(start, xp.float64)
    mask = pattern.best_mask(starts.metric(problem) * w**2)
    w = xp.where(mask, w, xp.zeros_like(w))
    return backsolve(problem, Solution(w, mask, problem.objective(w), n_iter=0))
