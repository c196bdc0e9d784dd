"""Plans: which improvers run, in which order, and what a plan asks of a problem.

One row of `PLANS` is one plan. `choose` picks the row for a problem of a given shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from . import initial
from .arrays import Array, on_host
from .deadline import Deadline
from .improvers.admm import SPECTRUM_UP_TO, WORKING_SET_UP_TO, admm_start
from .improvers.branch import branch
from .improvers.dual import certify, costly, dual, rough_enough
from .improvers.enumerate import enumerate_supports
from .improvers.groups import search_groups
from .improvers.iht import iht
from .improvers.pooled import search_pooled
from .improvers.restarts import Restarts
from .improvers.sharded import search_sharded
from .improvers.signed import bound_signed, search_signed
from .improvers.swaps import swaps
from .improvers.targets import bound_of, search_targets
from .patterns.groups import Groups
from .patterns.matroids import Including, Pattern
from .problem.base import Rows
from .problem.least_squares import LeastSquares
from .problem.several_targets import moments_of
from .refit.backsolve import backsolve, backsolver, unsolved
from .refit.minimum import settled, unique
from .refit.nonnegative import signed_backsolve
from .solution import Solution, Status, with_bound

# Swaps start from forward selection, ADMM from the dense minimiser. Measured
# (benchmarks/large_k.py): up to FEW non-zeros, and up to a tenth of the rows or SOME,
# swaps with restarts end lower; beyond, ADMM does, by up to half of n F.
FEW_NONZEROS, SOME_NONZEROS, MANY_ROWS = 40, 100, 10
SWAPS_UP_TO = 500  # non-zeros, for problems whose matrices are too large for ADMM
MATRICES = 2**22  # numbers in each of ADMM's three matrices at most: 32 MB
ENUMERATE_UP_TO = 1000  # so many supports are all tried: it takes some milliseconds
EXACT_UP_TO = 10**5  # the same for solver="exact": about a second
FEW_COLUMNS = 1000  # whose Gram matrix may be held whole, to try all supports
# mu over the largest ||a_j||^2; below it the bound proves next to nothing, and is left
# out.
PROOF_FROM = 1e-5
LOOSE = 0.05  # a gap above this after dual ascent has hard thresholding tried as well
# A search for k non-zeros reads a tall A about SEARCH_PASSES + k times, and where it is
# followed by a proof another PROOF_PASSES times.
SEARCH_PASSES, PROOF_PASSES = 30, 70
# Dual ascent begins on every SAMPLE_STEP-th row, if that leaves SAMPLE_ROWS or more.
SAMPLE_STEP, SAMPLE_ROWS = 16, 32
NODES = 100  # nodes of branch and bound that count as one of max_iter
MOMENTS_UP_TO = 1000  # columns: the spectrum of their Gram takes a second
MEANS = 1e6  # squared length of a column over that of it centred, at most
PROOF_STEPS = 30  # steps of dual ascent after swaps; half as many where each is costly
# After ADMM, whose supports are large: a step refits all of it. More than 12 steps
# took a quarter more time for gaps smaller by a twentieth (benchmarks/large_k.py).
PROOF_STEPS_OF_MANY = 12


@dataclass(frozen=True)
class Need:
    """Something that a plan asks of a problem and its pattern."""

    text: str  # "solver='x' needs <text>."
    met: Callable[[Any, Pattern], bool]
    remedy: str  # "<remedy>, or choose ..."


@dataclass(frozen=True)
class Plan:
    """A sequence of improvers under a name, and what it needs."""

    run: Callable[..., Solution]
    needs: tuple[Need, ...] = ()


ROWS = Need(
    "products with the rows of the data",
    lambda problem, _: problem.has_rows,
    "Give the rows instead of their moments",
)
GRAM = Need(
    "the Gram matrix of any columns",
    lambda problem, _: problem.has_grams,
    "Give one problem, on one process, instead of its blocks",
)
RIDGE = Need(
    "ridge > 0: its bound divides by the ridge",
    lambda problem, _: problem.mu > 0,
    "Set ridge > 0",
)
SPECTRUM = Need(
    f"at most {SPECTRUM_UP_TO} columns or rows, and Gram matrices of them",
    lambda problem, _: (
        problem.has_targets
        or (problem.has_grams and min(problem.p, problem.n_rows) <= SPECTRUM_UP_TO)
        or (problem.is_spread and problem.n_rows <= SPECTRUM_UP_TO)
    ),
    "Leave columns out",
)
SWAPS = Need(
    GRAM.text,
    lambda problem, _: problem.has_grams or problem.is_spread,
    GRAM.remedy,
)
MATROID = Need(
    "a pattern that is a matroid (its is_matroid is False)",
    lambda _, pattern: pattern.is_matroid,
    "Use another pattern",
)
LISTED = Need(
    "a pattern whose supports can be listed",
    lambda problem, pattern: pattern.count(problem.p) is not None,
    "Use Cardinality(k)",
)
REAL = Need(
    "coefficients of any sign (positive=False)",
    lambda problem, _: problem.signs is None,
    "Leave the signs free",
)
FEW = Need(
    f"at most {FEW_COLUMNS} columns",
    lambda problem, _: problem.p <= FEW_COLUMNS,
    "Leave columns out",
)


def passes(problem: Any, pattern: Pattern) -> float:
    """About how many passes over a tall A the search for k takes, its Grams included.

    Measured for swaps, the proof at half of 30 steps.
    """
    return SEARCH_PASSES + pattern.size + (PROOF_PASSES if _provable(problem) else 0)


def _provable(problem: Any) -> bool:
    """Whether mu is so large that the bound can be near the objective."""
    return problem.mu > PROOF_FROM * float(problem.space.max(problem.column_norms()))


def choose(problem: Any, pattern: Pattern, solver: str) -> tuple[str, str]:
    """Return the plan for a problem of this shape, and why in a sentence.

    Raises
    ------
    ValueError
        If the plan asked for needs what the problem or the pattern does not have.
    """
    size = pattern.size
    if (
        isinstance(pattern, Groups)
        and solver in ("auto", "swap")
        and 0 < size < problem.total
    ):
        return "groups", f"plan groups: {pattern.k} groups of columns"
    pooled = problem.shares_design and not isinstance(pattern, Groups)
    if pooled and solver in ("auto", "admm") and 0 < size < problem.p:
        if problem.first.p <= SPECTRUM_UP_TO:
            return (
                "targets",
                "plan targets: one number of non-zeros for several targets",
            )
    if problem.has_targets and solver in ("auto", "admm"):
        return "admm", "plan admm: many targets on one Gram matrix"
    if not problem.has_targets and (size >= problem.total or size == 0):
        return "all", "plan all: the pattern leaves no choice"
    few = {"auto": ENUMERATE_UP_TO, "exact": EXACT_UP_TO}.get(solver, 0)
    if few and not missing("enumerate", problem, pattern):
        count = pattern.count(problem.p)
        if count is not None and count <= few:
            return "enumerate", f"plan enumerate: {count} supports in all"
    if solver != "auto":
        lacking = missing(solver, problem, pattern)
        if lacking:
            texts = ", and ".join(need.text for need in lacking)
            others = ", ".join(
                f"solver={other!r}"
                for other in SOLVERS[1:]
                if not missing(other, problem, pattern)
            )
            msg = (
                f"solver={solver!r} needs {texts}. {lacking[0].remedy}, or choose "
                f"{others}."
            )
            raise ValueError(msg)
        return solver, f"plan {solver}: asked for"
    few = size <= FEW_NONZEROS or size <= min(SOME_NONZEROS, problem.n_rows / MANY_ROWS)
    # As many non-zeros as rows fit anything: there the ridge decides, and the ascent.
    few = few or size >= problem.n_rows
    if (
        not few
        and _spectrum_is_small(problem)
        and not missing("admm", problem, pattern)
    ):
        return "admm", f"plan admm: {size} non-zeros are many for swaps alone"
    if problem.signs is not None and not missing("swap", problem, pattern):
        return "swap", "plan swap: coefficients with signs"
    if size <= SWAPS_UP_TO and not missing("swap", problem, pattern):
        return "swap", f"plan swap: {size} non-zeros are few enough for all-pairs swaps"
    if not missing("dual", problem, pattern):
        return "dual", f"plan dual: {size} non-zeros, and a ridge to prove bounds with"
    return "iht", f"plan iht: {size} non-zeros, and no ridge to prove bounds with"


def _spectrum_is_small(problem: Any) -> bool:
    """Whether ADMM's matrices take at most 32 MB each, or a sixteenth of X."""
    side = min(problem.total, problem.n_rows)
    return problem.total * side <= max(MATRICES, problem.gram_order() ** 2)


def missing(name: str, problem: Any, pattern: Pattern) -> list[Need]:
    """What a plan needs and does not find."""
    return [need for need in PLANS[name].needs if not need.met(problem, pattern)]


def _all(
    problem: Any, pattern: Pattern, solution: Solution | None, **_: object
) -> Solution:
    mask = problem.space.best_mask(pattern, problem.zeros(problem.p))
    if problem.signs is not None:
        best = signed_backsolve(problem, unsolved(problem, mask))
        return certify(problem, pattern, best)
    best = settled(problem, backsolve(problem, _feasible(problem, mask)), math.inf)
    return _proven(problem, pattern, best)


def _enumerate(
    problem: LeastSquares, pattern: Pattern, solution: Solution | None, **_: object
) -> Solution:
    return _proven(problem, pattern, enumerate_supports(problem, pattern))


def _proven(problem: Rows, pattern: Pattern, best: Solution) -> Solution:
    """Say of a solution whose rivals are all known what that makes it."""
    best = certify(problem, pattern, best) if best.gap != 0 else best
    status = Status.OPTIMAL if best.gap == 0 else Status.CONVERGED
    if problem.mu == 0 and not unique(problem, _room(problem, pattern, best)):
        status = Status.NOT_UNIQUE
    return replace(best, status=status)


def _swap(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    n_restarts: int,
    max_iter: int,
    tol: float,
    rng: np.random.Generator,
    on_step: Deadline,
    bounds: bool,
    at_optimum: bool = False,
    proof_steps: int | None = None,
) -> Solution:
    if problem.signs is not None:
        solution = search_signed(
            problem,
            pattern,
            solution,
            n_restarts=n_restarts,
            max_iter=max_iter,
            rng=rng,
            on_step=on_step,
        )
        if not bounds or problem.mu == 0:
            return solution
        steps = min(max_iter, PROOF_STEPS) if _provable(problem) else 0
        return bound_signed(problem, pattern, solution, steps, tol)
    to_optimum: Any = search_sharded if problem.is_spread else swaps
    round_by_round: dict[str, Any] = {"max_iter": max_iter, "on_step": on_step}
    if not at_optimum or solution is None:
        solution = to_optimum(problem, pattern, solution, **round_by_round)
    if solution.status is Status.STOPPED:
        return certify(problem, pattern, solution)
    status: Status = solution.status
    if bounds and _provable(problem):
        limit = proof_steps or PROOF_STEPS // (2 if costly(problem) else 1)
        limit = min(max_iter, limit)
        solution = dual(
            problem, pattern, solution, max_iter=limit, tol=tol, on_step=on_step
        )
    if n_restarts and not solution.gap <= tol:
        search = Restarts(n_restarts, rng, walkers=bounds)
        solution = to_optimum(
            problem, pattern, solution, search=search, **round_by_round
        )
        met = () if problem.is_spread else search.met  # numbers of a working set
        solution, status = replace(solution, met=met), solution.status
    if not bounds:
        return solution
    if problem.mu > 0:
        solution = with_bound(solution, 0.0)
    elif _not_unique(problem, pattern, solution):
        status = Status.NOT_UNIQUE
    if solution.gap <= tol:
        status = Status.OPTIMAL if solution.gap == 0 else Status.WITHIN_TOL
    return replace(solution, status=status)


def _admm(
    problem: Any,
    pattern: Pattern,
    solution: Solution | None,
    *,
    on_step: Deadline,
    n_restarts: int,
    **options: Any,
) -> Solution:
    if problem.has_targets:
        return search_targets(
            problem, pattern, solution, on_step=on_step, n_restarts=n_restarts
        )
    start = admm_start(problem, pattern, solution, stop=on_step.over)
    return _swap(
        problem,
        pattern,
        start,
        n_restarts=0,
        on_step=on_step,
        at_optimum=problem.total <= WORKING_SET_UP_TO and on_host(problem.b),
        proof_steps=PROOF_STEPS_OF_MANY,
        **options,
    )


def _groups(
    problem: Any,
    pattern: Any,
    solution: Solution | None,
    *,
    max_iter: int,
    tol: float,
    bounds: bool,
    n_restarts: int,
    rng: np.random.Generator,
    on_step: Deadline,
) -> Solution:
    found = search_groups(
        problem,
        pattern,
        solution,
        n_restarts=n_restarts,
        max_iter=max_iter,
        rng=rng,
        on_step=on_step,
    )
    return _bounded(problem, pattern, found, max_iter, tol) if bounds else found


def _bounded(
    problem: Any, pattern: Pattern, found: Solution, max_iter: int, tol: float
) -> Solution:
    """Attach a bound: from the moments of few columns, else by dual ascent.

    The first takes what H has of its own into the ridge. The second only where mu is
    large enough for one.
    """
    parts = problem.problems if problem.shares_design else [problem]
    if parts[0].p <= MOMENTS_UP_TO and not _means_dwarf(parts[0]):
        moments = moments_of(parts)
        known = bound_of(moments, pattern, found, PROOF_STEPS)
        if known > -math.inf:
            found = with_bound(found, max(known, 0.0))
        return certify(problem, pattern, found)
    if problem.mu == 0 or found.status is Status.STOPPED or not _provable(problem):
        return certify(problem, pattern, found)
    status = found.status
    best = dual(problem, pattern, found, max_iter=min(max_iter, PROOF_STEPS), tol=tol)
    return replace(best, status=status)


def _means_dwarf(problem: LeastSquares) -> bool:
    """Whether centring costs moments more digits than a bound from them allows for."""
    h, raw = problem.column_norms(), problem.raw_norms()
    live = problem.xp.where(h > 0, h, raw)
    return bool(problem.space.max(raw - MEANS * live) > 0)


def _targets(
    problem: Any,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    tol: float,
    bounds: bool,
    n_restarts: int,
    rng: np.random.Generator,
    on_step: Deadline,
) -> Solution:
    moments, k = problem.moments(), pattern.size
    support = None if solution is None else solution.support
    history: tuple[str, ...] = ()
    if k > FEW_NONZEROS and (solution is None or n_restarts):
        found = search_targets(moments, pattern, solution, on_step=on_step)
        support, history = found.support, found.history[:1]
        if found.status is Status.STOPPED:
            best = backsolve(problem, unsolved(problem, support))
            return replace(best, status=Status.STOPPED, history=history)
    support, note = search_pooled(
        moments, k, support, n_restarts, rng, stop=on_step.over
    )
    found = backsolve(problem, unsolved(problem, support))
    found = replace(found, history=(*history, note))
    if on_step(found.coef):
        found = replace(found, status=Status.STOPPED)
    return _bounded(problem, pattern, found, max_iter, tol) if bounds else found


def _not_unique(problem: Rows, pattern: Pattern, solution: Solution) -> bool:
    """Whether columns depend on each other that the pattern has room for together."""
    if solution.status is Status.NOT_UNIQUE:
        return True
    room = _room(problem, pattern, solution)
    if int(problem.space.count(room)) > problem.n_rows:
        return True
    solver = backsolver(problem)
    solver(room)
    return solver.damping > 0


def _room(problem: Rows, pattern: Pattern, solution: Solution) -> Array:
    """The columns in use and the longest others that the pattern has room for."""
    xp, h = problem.xp, problem.column_norms()
    score = xp.where(solution.coef != 0, xp.full_like(h, xp.inf), h)
    room = problem.space.best_mask(pattern, score)
    return room & (h > 0)


def _dual(
    problem: Rows,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    tol: float,
    on_step: Deadline,
    **_: object,
) -> Solution:
    if solution is None:
        solution = _first(problem, pattern)
        # (Not of a triangular factor, whose rows are no sample.)
        if SAMPLE_STEP * SAMPLE_ROWS <= problem.n_rows == problem.terms:
            # A sixteenth of the rows finds most of the support, in a sixteenth of the
            # time of a pass.
            few = problem.subsampled(SAMPLE_STEP)
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
    problem: Rows,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    on_step: Deadline,
    **_: object,
) -> Solution:
    if solution is None:
        solution = _first(problem, pattern)
    solution = iht(problem, pattern, solution, max_iter=max_iter, on_step=on_step)
    return certify(problem, pattern, backsolve(problem, solution))


def _dense(
    problem: Rows,
    pattern: Pattern,
    solution: Solution | None,
    *,
    max_iter: int,
    **_: object,
) -> Solution:
    rough, size = rough_enough(problem), min(problem.n_rows, problem.total)
    if size > problem.gram_order(rough):
        w, t = initial.conjugate_gradients(problem, max_iter)
        best = _feasible(problem, initial.dense(problem, pattern, w))
        status = Status.MAX_ITER if t == max_iter else Status.CONVERGED
        note = f"conjugate gradients: {t} steps"
        best = replace(best, n_iter=t, status=status, history=(note,))
        best = backsolve(problem, best)
    else:
        solver = backsolver(problem, problem.total, rough)
        w = solver(problem.xp.ones_like(problem.zeros(problem.p))).w
        best = _feasible(problem, initial.dense(problem, pattern, w))
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
    on_step: Deadline,
    **options: Any,
) -> Solution:
    options |= {"max_iter": max_iter, "tol": tol, "on_step": on_step, "bounds": True}
    solution = _swap(problem, pattern, solution, **options)
    if solution.gap <= tol or solution.status is Status.STOPPED:
        return solution
    required = pattern.required if isinstance(pattern, Including) else None
    if required is None and not pattern.is_uniform:
        note = "branch and bound: not begun, for it knows no pattern but a number k"
        return replace(solution, history=(*solution.history, note))
    return branch(
        problem,
        pattern.size,
        solution,
        max_nodes=max_iter * NODES,
        tol=tol,
        on_step=on_step,
        required=required,
    )


def _first(problem: Rows, pattern: Pattern) -> Solution:
    """Return what can be said without searching."""
    begin = initial.correlation if problem.prior is None else initial.magnitude
    return _feasible(problem, begin(problem, pattern))


def _feasible(problem: Rows, mask: Array) -> Solution:
    """Return w_bar on the support: what magnitude pruning would do."""
    w = problem.zeros(problem.p)
    if problem.prior is not None:
        w = problem.xp.where(mask, problem.prior, w)
    return Solution(w, mask, problem.objective(w), n_iter=0)


PLANS = {
    "all": Plan(_all),
    "enumerate": Plan(_enumerate, (GRAM, LISTED, FEW, REAL)),
    "swap": Plan(_swap, (SWAPS, MATROID)),
    "groups": Plan(_groups, (ROWS, REAL)),
    "targets": Plan(_targets, (ROWS, REAL)),
    "admm": Plan(_admm, (SPECTRUM, MATROID, REAL)),
    "dual": Plan(_dual, (ROWS, RIDGE, REAL)),
    "iht": Plan(_iht, (ROWS, REAL)),
    "dense": Plan(_dense, (ROWS, REAL)),
    "exact": Plan(_exact, (GRAM, MATROID, REAL)),
}
# What a caller may ask for; "all", "enumerate", "groups" and "targets" are chosen.
Solver = Literal["auto", "swap", "admm", "dual", "iht", "dense", "exact"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
