"""The plan: which improvers run, in which order, for a problem of a given shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np

from . import initial as starts
from .arrays import Array, indices
from .improvers.branch import branch
from .improvers.dual import certify, costly, dual, rough_enough, with_bound
from .improvers.enumerate import enumerate_supports
from .improvers.iht import iht
from .improvers.restarts import Restarts
from .improvers.swaps import swaps
from .patterns.matroids import Cardinality, Pattern
from .problem.base import Quadratic
from .problem.columns import Columns
from .problem.least_squares import LeastSquares
from .refit.backsolve import backsolve
from .refit.base import backsolver
from .solution import Solution, Status

SWAPS_UP_TO = 500  # non-zeros; beyond, the number of swaps and m s for each weigh in
ENUMERATE_UP_TO = 1000  # supports: a few milliseconds
EXACT_UP_TO, FEW_COLUMNS = 10**5, 1000  # where a proof is asked for: a second
PROOF_FROM = 1e-5  # of mu over the largest ||a_j||^2; below, the bound proves nothing
INEXACT = 1e-12  # share of n F(0) that an optimum may be off by
NEGLIGIBLE = 1e-14  # share of ||b|| that rounding may cost the residual
LOOSE = 0.05  # gap above which dual ascent is followed by hard thresholding
PASSES, PASSES_OF_PROOF = 30, 70  # over a tall A, beside one for each of k
THIN, FEW_ROWS = 16, 32  # dual ascent begins on every 16th row, if they are 32
NODES = 100  # of branch and bound in what max_iter counts
PROOF_STEPS = 30  # of dual ascent after a search by swaps; half where they are felt

OnStep = Callable[[Array], bool]


def solve(
    problem: Quadratic,
    pattern: Pattern,
    *,
    solver: str = "auto",
    start: Array | None = None,
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-3,
    random_state: int | np.random.Generator | None = None,
    on_step: OnStep | None = None,
) -> Solution:
    """Minimise n F(w) = 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2 over a pattern.

    Parameters
    ----------
    problem : LeastSquares or BlockLeastSquares
        The quadratic.
    pattern : Pattern
        The allowed supports.
    solver : {"auto", "iht", "swap", "dual", "dense", "exact"}, default="auto"
        The plan:

        - "swap": forward selection, all-pairs swaps, restarts; then the certificate,
          by dual ascent where mu is large enough for one.
        - "dual": dual ascent from the magnitude of w_bar, or from `start`.
        - "iht": the paper's pipeline, hard thresholding and backsolve.
        - "dense": backsolve on the support of the unconstrained minimiser; that by
          conjugate gradients, at most `max_iter`, where its Gram would be large beside
          A.
        - "exact": every support in turn where there are at most `EXACT_UP_TO`; else
          "swap", then branch and bound until the gap is within `tol`, on 100
          `max_iter` nodes at most. Only "swap" for patterns other than `Cardinality`,
          or where the bound leaves more than 1000 coordinates undecided.
        - "auto": every support in turn where there are at most `ENUMERATE_UP_TO`;
          "swap" for up to `SWAPS_UP_TO` non-zeros; else "dual" if mu > 0, else
          "iht".
    start : array of shape (p,) or None, default=None
        Coefficients to start from; cut to the pattern if they do not fit.
    n_restarts : int, default=10
        The plan "swap" ends after this many attempts in a row to better the best
        support that fail; 0 for none. Not begun when the gap is within `tol`.
    max_iter : int, default=100
        Outer iterations of each improver at most.
    tol : float, default=1e-3
        The relative gap, (objective - lower_bound) / objective, that is good enough.
    random_state : int, numpy.random.Generator or None, default=None
        Seed of the restarts; the same seed gives the same answer.
    on_step : callable or None, default=None
        Called with the coefficients after each outer iteration; True stops.

    Returns
    -------
    Solution
        Its coefficients are of the problem's type; objective and bound in units of
        n F, evaluated in float64 at those coefficients.

    Raises
    ------
    ValueError
        For a solver that is not known.
    """
    if solver not in SOLVERS:
        msg = f"solver={solver!r} is not known; choose one of {', '.join(SOLVERS)}."
        raise ValueError(msg)
    name, why = choose(problem, pattern, solver)
    part = problem if name == "all" else problem.reduced(passes(problem, pattern))
    if part is not problem:
        why += f"; {problem.n_rows} rows reduced to {part.n_rows}"
    solution = _PLANS[name](
        part,
        pattern,
        _given(part, pattern, start),
        n_restarts=n_restarts,
        max_iter=max_iter,
        tol=tol,
        rng=np.random.default_rng(random_state),
        on_step=on_step,
    )
    xp = problem.xp
    # A zero column fits nothing: its coefficient is what w_bar asks for.
    idle = problem.column_norms() == 0
    if problem.prior is not None:
        idle = idle & (problem.prior == 0)
    coef = xp.where(idle, xp.zeros_like(solution.coef), solution.coef)
    coef = xp.astype(coef, problem.dtype, copy=False)
    objective = _objective(problem, coef)
    # Float32 coefficients are not the minimiser itself: then the bound stays below.
    proven = solution.objective == solution.lower_bound and problem.dtype == xp.float64
    return replace(
        solution,
        coef=coef,
        objective=objective,
        lower_bound=objective if proven else min(solution.lower_bound, objective),
        n_iter=max(solution.n_iter, 1),
        history=(why, *solution.history),
    )


def _objective(problem: Quadratic, coef: Array) -> float:
    """n F(coef), to float64 even where the means of columns dwarf their spread.

    The residual is b - (X w - m w): where that difference rounds, the columns are
    centred first, which takes a copy of those that are used.
    """
    xp = problem.xp
    coef = xp.astype(coef, xp.float64, copy=False)
    rounding = float(xp.sqrt(problem.raw_norms()) @ xp.abs(coef))
    rounding *= float(xp.finfo(xp.float64).eps)
    exact = rounding <= NEGLIGIBLE * float(xp.linalg.vector_norm(problem.b))
    if exact or not isinstance(problem, LeastSquares):
        return problem.objective(coef)
    S = indices(coef != 0)
    r = problem.b - Columns(problem, S).dot(xp.take(coef, S))
    return 0.5 * float(r @ r) + problem.penalty(coef)


def passes(problem: Quadratic, pattern: Pattern) -> float:
    """About how many passes over a tall A the search for k takes, its Grams included.

    Measured for swaps, the proof at half of 30 steps.
    """
    return PASSES + pattern.size + (PASSES_OF_PROOF if _provable(problem) else 0)


def _provable(problem: Quadratic) -> bool:
    """Whether mu is large enough for a bound that is worth its passes over A."""
    return problem.mu > PROOF_FROM * float(problem.xp.max(problem.column_norms()))


def choose(problem: Quadratic, pattern: Pattern, solver: str) -> tuple[str, str]:
    """Return the plan for a problem of this shape, and why in a sentence."""
    size = pattern.size
    if size >= problem.p or size == 0:
        return "all", "plan all: the pattern leaves no choice"
    if solver in ("swap", "exact") and not isinstance(problem, LeastSquares):
        msg = (
            f"solver={solver!r} does not know blocks; choose 'dual', 'iht' or 'dense'."
        )
        raise ValueError(msg)
    if isinstance(pattern, Cardinality) and isinstance(problem, LeastSquares):
        few = {"auto": ENUMERATE_UP_TO, "exact": EXACT_UP_TO}.get(solver, 0)
        if problem.p <= FEW_COLUMNS and comb(problem.p, size) <= few:
            why = f"plan enumerate: {comb(problem.p, size)} supports in all"
            return "enumerate", why
    if solver != "auto":
        return solver, f"plan {solver}: asked for"
    if not isinstance(problem, LeastSquares):
        name = "dual" if problem.mu > 0 else "iht"
        return name, f"plan {name}: the block approximation"
    if size <= SWAPS_UP_TO:
        return "swap", f"plan swap: {size} non-zeros are few enough for all-pairs swaps"
    if problem.mu > 0:
        return "dual", f"plan dual: {size} non-zeros, and a ridge to prove bounds with"
    return "iht", f"plan iht: {size} non-zeros, and no ridge to prove bounds with"


def _all(
    problem: Quadratic, pattern: Pattern, solution: Solution | None, **_: object
) -> Solution:
    mask = pattern.best_mask(problem.zeros(problem.p))
    return _proven(problem, pattern, backsolve(problem, _feasible(problem, mask)))


def _enumerate(
    problem: LeastSquares, pattern: Pattern, solution: Solution | None, **_: object
) -> Solution:
    return _proven(problem, pattern, enumerate_supports(problem, pattern.size))


def _proven(problem: Quadratic, pattern: Pattern, best: Solution) -> Solution:
    """Mark as optimal a solution that no support can better."""
    if problem.mu > 0:
        # With a ridge that is lost in rounding the backsolve may not be exact: n F is
        # above its minimum on the support by the gradient's square over 2 mu at most.
        w, zero = best.coef, problem.zeros(problem.p)
        shift = w if problem.prior is None else w - problem.prior
        slope = problem.rmatvec(problem.residual(w)) - problem.mu * shift
        slope = problem.xp.where(best.support, slope, zero)
        missed = float(slope @ slope) / (2 * problem.mu)
        if missed > INEXACT * float(problem.value(zero, problem.b)):
            solver = backsolver(problem)
            solver(best.support)
            if solver.damping > 0:
                return certify(problem, pattern, best)
    best = replace(best, lower_bound=best.objective, status=Status.OPTIMAL)
    if problem.mu == 0 and _not_unique(problem, pattern, best):
        best = replace(best, status=Status.NOT_UNIQUE)
    return best


def _swap(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    n_restarts: int,
    max_iter: int,
    tol: float,
    rng: np.random.Generator,
    on_step: OnStep | None,
) -> Solution:
    solution = swaps(problem, pattern, solution, max_iter=max_iter, on_step=on_step)
    if solution.status is Status.STOPPED:
        return certify(problem, pattern, solution)
    status: Status = solution.status
    if _provable(problem):
        limit = min(max_iter, PROOF_STEPS // (2 if costly(problem) else 1))
        solution = dual(
            problem, pattern, solution, max_iter=limit, tol=tol, on_step=on_step
        )
    if n_restarts and not solution.gap <= tol:
        solution = swaps(
            problem,
            pattern,
            solution,
            max_iter=max_iter,
            search=Restarts(n_restarts, rng),
            on_step=on_step,
        )
        status = solution.status
    if problem.mu > 0:
        solution = with_bound(solution, 0.0)
    elif _not_unique(problem, pattern, solution):
        status = Status.NOT_UNIQUE
    if solution.gap <= tol:
        status = Status.OPTIMAL if solution.gap == 0 else Status.WITHIN_TOL
    return replace(solution, status=status)


def _not_unique(problem: Quadratic, pattern: Pattern, solution: Solution) -> bool:
    """Whether columns depend on each other that the pattern has room for together."""
    if solution.status is Status.NOT_UNIQUE:
        return True
    xp, h = problem.xp, problem.column_norms()
    room = pattern.best_mask(xp.where(solution.coef != 0, xp.full_like(h, xp.inf), h))
    room = room & (h > 0)
    if int(xp.count_nonzero(room)) > problem.n_rows:
        return True
    solver = backsolver(problem)
    solver(room)
    return solver.damping > 0


def _dual(
    problem: Quadratic,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    tol: float,
    on_step: OnStep | None,
    **_: object,
) -> Solution:
    if problem.mu <= 0:
        msg = (
            "solver='dual' needs ridge > 0: its bound divides by the ridge. Set "
            "ridge > 0, or choose solver='iht' or 'swap'."
        )
        raise ValueError(msg)
    if solution is None:
        solution = _first(problem, pattern)
        # (Not of a triangular factor, whose rows are no sample.)
        if THIN * FEW_ROWS <= problem.n_rows == problem.terms:
            # A few rows tell most of the support, for next to nothing.
            few = problem.thinned(THIN)
            found = dual(few, pattern, _first(few, pattern), max_iter=5, tol=tol)
            solution = _feasible(problem, found.support)
    solution = dual(
        problem, pattern, solution, max_iter=max_iter, tol=tol, on_step=on_step
    )
    if solution.gap > LOOSE and solution.status is not Status.STOPPED:
        # The bound is no guide here; gradient steps find what it does not point to.
        status = solution.status
        solution = iht(problem, pattern, solution, max_iter=max_iter, on_step=on_step)
        solution = replace(backsolve(problem, solution), status=status)
    return solution


def _iht(
    problem: Quadratic,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    on_step: OnStep | None,
    **_: object,
) -> Solution:
    if solution is None:
        solution = _first(problem, pattern)
    solution = iht(problem, pattern, solution, max_iter=max_iter, on_step=on_step)
    return certify(problem, pattern, backsolve(problem, solution))


def _dense(
    problem: Quadratic,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    **_: object,
) -> Solution:
    rough, size = rough_enough(problem), min(problem.n_rows, problem.p)
    if isinstance(problem, LeastSquares) and size > problem.side(rough):
        w, t = starts.conjugate_gradients(problem, max_iter)
        best = _feasible(problem, starts.dense(problem, pattern, w))
        status = Status.MAX_ITER if t == max_iter else Status.CONVERGED
        note = f"conjugate gradients: {t} steps"
        best = replace(best, n_iter=t, status=status, history=(note,))
        best = backsolve(problem, best)
    else:
        solver = backsolver(problem, problem.p, rough)
        w = solver(problem.xp.ones_like(problem.zeros(problem.p))).w
        best = _feasible(problem, starts.dense(problem, pattern, w))
        solver.keep()
        solver = solver.copy()
        best = backsolve(problem, best, solver)
        solver.keep()
    if solution is not None and solution.objective < best.objective:
        best = solution
    return certify(problem, pattern, best)


def _exact(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    tol: float,
    on_step: OnStep | None,
    **options: Any,
) -> Solution:
    options |= {"max_iter": max_iter, "tol": tol, "on_step": on_step}
    solution = _swap(problem, pattern, solution, **options)
    if solution.gap <= tol or solution.status is Status.STOPPED:
        return solution
    if not isinstance(pattern, Cardinality):
        note = "branch and bound: not begun, for it knows no pattern but a number k"
        return replace(solution, history=(*solution.history, note))
    nodes = max_iter * NODES
    return branch(
        problem, pattern.size, solution, max_nodes=nodes, tol=tol, on_step=on_step
    )


_PLANS: dict[str, Callable[..., Solution]] = {
    "all": _all,
    "enumerate": _enumerate,
    "swap": _swap,
    "dual": _dual,
    "iht": _iht,
    "dense": _dense,
    "exact": _exact,
}
SOLVERS = ("auto", "swap", "dual", "iht", "dense", "exact")


def _first(problem: Quadratic, pattern: Pattern) -> Solution:
    """Return what can be said without searching."""
    begin = starts.correlation if problem.prior is None else starts.magnitude
    return _feasible(problem, begin(problem, pattern))


def _feasible(problem: Quadratic, mask: Array) -> Solution:
    """Return w_bar on the support: what magnitude pruning would do."""
    w = problem.zeros(problem.p)
    if problem.prior is not None:
        w = problem.xp.where(mask, problem.prior, w)
    return Solution(w, mask, problem.objective(w), n_iter=0)


def _given(
    problem: Quadratic, pattern: Pattern, start: Array | None
) -> Solution | None:
    if start is None:
        return None
    xp = problem.xp
    w = xp.astype(start, xp.float64)
    mask = pattern.best_mask(starts.metric(problem) * w**2)
    w = xp.where(mask, w, xp.zeros_like(w))
    return backsolve(problem, Solution(w, mask, problem.objective(w), n_iter=0))
