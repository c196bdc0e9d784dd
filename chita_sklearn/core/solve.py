"""`solve`: choose a plan, run it, evaluate what it found."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from . import initial
from .arrays import Array
from .deadline import Deadline, OnStep
from .improvers.near_ties import near_ties
from .improvers.targets import fit_support
from .linalg import one_thread
from .patterns.matroids import Pattern
from .plans import ENUMERATE_UP_TO, EXACT_UP_TO, PLANS, SOLVERS, choose, passes
from .refit.backsolve import backsolve, unsolved
from .refit.minimum import bounded, measured
from .refit.nonnegative import signed_backsolve
from .solution import Solution, Status

# Numbers in A, 32 MB, from which on a product is shared among threads: on smaller ones
# threads wait for each other, ten times as long where the processors are busy.
SHARED_FROM = 2**22


def solve(
    problem: Any,
    pattern: Pattern,
    *,
    solver: str = "auto",
    start: Array | None = None,
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-3,
    time_limit: float | None = None,
    random_state: int | np.random.Generator | None = None,
    on_step: OnStep | None = None,
    bounds: bool = True,
    n_solutions: int = 1,
) -> Solution:
    """Minimise n F(w) = 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2 over a pattern.

    Parameters
    ----------
    problem : LeastSquares, BlockLeastSquares, ManyTargets or BlockDiagonal
        The quadratic.
    pattern : Pattern
        The allowed supports.
    solver : {"auto", "swap", "admm", "dual", "iht", "dense", "exact"}, default="auto"
        The plan:

        - "swap": forward selection, all-pairs swaps, restarts; then the certificate,
          by dual ascent where mu is large enough for one.
        - "admm": ADMM by several schedules of growing penalties, exact exchanges from
          where they end, then the certificate. The plan for many targets.
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
          "admm" for many non-zeros where its matrices are small enough; "swap" for
          up to `SWAPS_UP_TO` non-zeros; else "dual" if mu > 0, else "iht".
    start : array of shape (p,) or None, default=None
        Coefficients to start from; cut to the pattern if they do not fit.
    n_restarts : int, default=10
        Stop the plan "swap" after this many consecutive restarts without improvement,
        and, where few of them led back to the best support or rows are few, after a
        third as many rounds of walkers or two thirds of all rounds; 0 for none. Not
        begun when the gap is within `tol`. For many targets 0 asks for one fast
        schedule of penalties without exchanges, 1 for one slow schedule, more for as
        many again, three at most, from the best support.
    max_iter : int, default=100
        Outer iterations of each improver at most.
    tol : float, default=1e-3
        The relative gap, (objective - lower_bound) / objective, that is good enough.
    time_limit : float or None, default=None
        Seconds after which the search stops with what it has, at the next step of an
        improver: a sweep, a restart, a batch of nodes. None for no limit. An answer
        that the limit cut short depends on how fast the machine was.
    random_state : int, numpy.random.Generator or None, default=None
        Seed of the restarts; the same seed gives the same answer.
    on_step : callable or None, default=None
        Called with the coefficients after each outer iteration; True stops. If it has
        a method `proven`, branch and bound gives that a `Proof` before each call:
        objective, bound, gap, nodes and nodes a second.
    bounds : bool, default=True
        Whether plan "swap" looks for a lower bound. Without, the bound of a search by
        swaps is -inf, nothing is said of dependent columns, and no walkers follow the
        restarts: for candidates that only their predictions are wanted of.
    n_solutions : int, default=1
        How many supports to return, the answer and its `others`; see `near_ties`. More
        than one is for a single problem with a pattern that is a matroid.

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
    _check_spread(problem, pattern, time_limit, n_solutions)
    part, clock = problem, Deadline(time_limit, on_step)
    with few_threads(problem):
        if name not in ("all", "enumerate", "targets"):  # these read X once
            part = problem.qr_compressed(passes(problem, pattern))
        if part is not problem:
            why += f"; {problem.n_rows} rows reduced to {part.n_rows}"
        solution = PLANS[name].run(
            part,
            pattern,
            _given(part, pattern, start),
            n_restarts=n_restarts,
            max_iter=max_iter,
            tol=tol,
            rng=np.random.default_rng(random_state),
            on_step=clock,
            bounds=bounds,
        )
        found = [solution]
        if n_solutions > 1:
            few = EXACT_UP_TO if solver == "exact" else ENUMERATE_UP_TO
            found = near_ties(
                *(part, pattern, solution, n_solutions),
                all_up_to=few,
                stop=clock.over,
            )
    solution = found[0]
    coef, objective = _as_returned(problem, solution.coef)
    bound = problem.space.same(bounded(problem, objective, solution.lower_bound))
    status = _status(solution.status, bound == objective, clock.passed)
    late = [f"time limit of {time_limit:.3g} s reached"] if clock.passed else []
    return replace(
        solution,
        coef=coef,
        objective=objective,
        lower_bound=bound,
        status=status,
        n_iter=max(solution.n_iter, 1),
        history=(why, *solution.history, *late),
        others=tuple(_rival(problem, one, bound) for one in found[1:]),
    )


def _check_spread(
    problem: Any, pattern: Pattern, time_limit: float | None, n_solutions: int
) -> None:
    """Refuse what processes that each have some columns cannot do together."""
    more = not pattern.is_uniform or time_limit is not None or n_solutions > 1
    if problem.is_spread and more:
        msg = (
            "columns of several processes are searched for a number of them, without "
            "a time limit, and for one solution. Give Cardinality(k), time_limit=None "
            "and n_solutions=1, or all columns to one process."
        )
        raise ValueError(msg)


def _as_returned(problem: Any, coef: Array) -> tuple[Array, float]:
    """Coefficients in the problem's type, and n F at them."""
    xp = problem.xp
    # A zero column fits nothing: its coefficient is what w_bar asks for.
    idle = problem.column_norms() == 0
    if problem.prior is not None:
        idle = idle & (problem.prior == 0)
    coef = problem.rounded(xp.where(idle, xp.zeros_like(coef), coef))
    return coef, measured(problem, coef)


def _rival(problem: Any, solution: Solution, bound: float) -> Solution:
    """A solution that is not the answer, above the same bound."""
    coef, objective = _as_returned(problem, solution.coef)
    return replace(
        solution,
        coef=coef,
        objective=objective,
        lower_bound=min(bound, objective),
        met=(),
    )


def _status(status: Status, optimal: bool, late: bool) -> Status:
    """What a search ended with, in the light of its bound and of the clock."""
    ended = (Status.CONVERGED, Status.WITHIN_TOL, Status.MAX_ITER)
    if optimal and (late or status in ended):
        return Status.OPTIMAL  # whatever ended the search
    if late and status in (Status.CONVERGED, Status.MAX_ITER, Status.STOPPED):
        return Status.TIME_LIMIT
    return status


def few_threads(problem: Any) -> AbstractContextManager[None]:
    """One thread where products with A are too small to share."""
    small = problem.p * getattr(problem, "n_rows", problem.p) <= SHARED_FROM
    return one_thread() if small else nullcontext()


def _given(problem: Any, pattern: Pattern, start: Array | None) -> Solution | None:
    if start is None:
        return None
    xp = problem.xp
    w = xp.astype(start, xp.float64)
    mask = problem.space.best_mask(pattern, initial.metric(problem) * w**2)
    w = xp.where(mask, w, xp.zeros_like(w))
    if problem.has_targets:
        return fit_support(problem, mask)
    if problem.signs is not None:
        return signed_backsolve(problem, unsolved(problem, mask))
    return backsolve(problem, Solution(w, mask, problem.objective(w), n_iter=0))
