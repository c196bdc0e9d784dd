"""ADMM with a growing penalty: supports for many non-zeros at once.

The problem is split into w, which n F sees, and z, which the pattern sees, with w = z.
With H = G + mu I, c the linear term, u the scaled multiplier and rho the penalty,

    w = (H + rho I)^-1 (c + rho (z - u))
    z = w + u on the best allowed support, zero elsewhere
    u <- u + w - z,   then   rho <- growth rho,  u <- u / growth.

Where the penalty grows slowly the support settles late and well (measured: on the first
layer of MLPNet, 5 % kept, n F ends at 4.43 with growth 1.1 and at 3.23 with 1.01). One
eigendecomposition of G serves every penalty, every mu and every target. Of many
targets with weights g_i on several G_l, the penalty on a coordinate is rho g_i s_l,
with s_l the mean of the diagonal of H_l: so the eigenvectors still serve all, and the
pattern chooses by g_i s_l (w + u)^2.

The problem is not convex, and a schedule of penalties is a heuristic; several schedules
end at different supports, of which the best is taken, after exact exchanges.

References
----------
S. Boyd, N. Parikh, E. Chu, B. Peleato and J. Eckstein, "Distributed optimization and
statistical learning via the alternating direction method of multipliers", 2011, 9.1;
X. Meng, K. Behdin, H. Wang and R. Mazumder, "ALPS: Improved optimization for highly
sparse one-shot pruning for large language models", NeurIPS 2024 (layers of networks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, indices, mask_of, on_host, to_host
from ..linalg import Spectrum, one_thread, spectrum, spectrum_of_rows
from ..patterns.matroids import Pattern
from ..problem.least_squares import LeastSquares
from ..problem.sharded import SpreadSpectrum
from ..problem.space import Space
from ..refit.backsolve import backsolve, unsolved
from ..search.local_search import best_start, improve
from ..search.working_set import WorkingSet
from ..solution import Solution

# A schedule ends early once the penalty is FIRM times the mean curvature or more, and
# the support has not changed for SETTLED steps. In 72 runs on problems with 80 to 360
# non-zeros (benchmarks/large_k.py) it was always the support of all steps, in .88 of
# their time.
SETTLED, FIRM = 40, 1.0
SPECTRUM_UP_TO = 4096  # columns or rows: an eigendecomposition takes a minute beyond
FORWARD_UP_TO = 150  # non-zeros: forward selection is a start as well, and cheap
WORKING_SET_UP_TO = 2048  # columns whose exchanges are all held at once


class Schedule(NamedTuple):
    """How the penalty grows: from `first` times the mean curvature."""

    first: float
    growth: float
    steps: int


# Measured on problems with 200 to 600 non-zeros (benchmarks/large_k.py): each is the
# best of the three on some of them, together they are within .1 % after exchanges.
SCHEDULES = (
    Schedule(3e-3, 1.015, 600),
    Schedule(1e-3, 1.02, 400),
    Schedule(1e-2, 1.03, 200),
)
# With more columns than rows n F is flat in many directions, and a penalty that begins
# lower often ends better: of twelve such problems (400 x 1200, 80 to 360 non-zeros) six
# end lower with this schedule as well, by up to 8 %, for a quarter more time.
WIDE = Schedule(3e-4, 1.015, 700)


class Block(NamedTuple):
    """Targets on one Gram matrix: what the iteration needs of them."""

    C: Array  # c_i, shape (t, d)
    weights: Array  # g_i, shape (t,)
    mu: float
    curvature: float  # the mean of the diagonal of H, weights not included
    spectrum: Spectrum | SpreadSpectrum  # of G


def admm(
    blocks: Sequence[Block],
    pattern: Pattern,
    space: Space,
    schedule: Schedule,
    *,
    start: Array | None = None,
    stop: Callable[[], bool] | None = None,
) -> Array:
    """Return a support that the pattern allows, by one schedule of penalties.

    Parameters
    ----------
    blocks : sequence of Block
        The coordinates are their targets' rows, one after the other.
    pattern : Pattern
        Over all coordinates.
    space : Space
        Selections over the coordinates.
    schedule : Schedule
        How the penalty grows.
    start : array of shape (p,) or None
        Coefficients to begin at; default: the minimiser that may have any support.
    stop : callable or None
        Asked after each step; True ends the iteration.

    Returns
    -------
    array of bool, shape (p,)

    Notes
    -----
    A step costs O(t d r) a block, with r the rank of its spectrum, and one selection.
    """
    xp: Any = space.xp
    sizes = [block.C.shape[0] * block.C.shape[1] for block in blocks]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]

    def flat(parts: list[Array]) -> Array:
        parts = [xp.reshape(part, (-1,)) for part in parts]
        return parts[0] if len(parts) == 1 else xp.concat(parts)

    def rows(x: Array) -> list[Array]:
        return [
            xp.reshape(x[end - size : end], block.C.shape)
            for block, end, size in zip(blocks, ends, sizes, strict=True)
        ]

    stiffness = flat(
        [
            xp.zeros_like(block.C) + block.weights[:, None] * block.curvature
            for block in blocks
        ]
    )
    tiny = 1e-12  # of the curvature: makes the first w of a singular G finite
    w = start
    if w is None:
        w = flat(
            [
                block.spectrum.solve(block.C, block.mu + tiny * block.curvature)
                for block in blocks
            ]
        )
    rho, still, zero = schedule.first, 0, xp.zeros((), dtype=w.dtype, device=w.device)
    mask = space.best_mask(pattern, stiffness * w**2)
    v = xp.where(mask, w, zero)  # z on the support, where u is 0; elsewhere u
    for _ in range(schedule.steps):
        parts = zip(blocks, rows(w), rows(xp.where(mask, v, -v)), strict=True)
        for block, out, pulled in parts:
            penalty = rho * block.curvature
            target = block.C + penalty * pulled
            out[...] = block.spectrum.solve(target, block.mu + penalty)
        v = w + xp.where(mask, zero, v)
        former, mask = mask, space.best_mask(pattern, stiffness * v**2)
        v = xp.where(mask, v, v / schedule.growth)
        rho *= schedule.growth
        if rho > FIRM:
            still = still + 1 if bool(space.all(mask == former)) else 0
        if still == SETTLED or (stop is not None and stop()):
            break
    return mask


def admm_start(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    stop: Callable[[], bool] | None = None,
) -> Solution:
    """Return the best of the supports that the schedules end at, refitted.

    Parameters
    ----------
    problem : LeastSquares
        With at most `SPECTRUM_UP_TO` columns, whose Gram is then formed, or as many
        rows: then through the n x n Gram, with a copy of A.
    pattern : Pattern
        The allowed supports.
    solution : Solution or None
        Returned where it is better.
    stop : callable or None, default=None
        Asked after each step; True ends a schedule, and begins no other.

    Notes
    -----
    Time: O(min(n, p)^2 max(n, p)) for the Gram and its spectrum, O(p min(n, p)) a step.
    Where all columns fit in a working set, each support is first brought to where no
    exchange gains.
    """
    xp, p = problem.xp, problem.total
    if problem.is_spread and p <= WORKING_SET_UP_TO:
        return _alone(problem, pattern, solution)
    W = None
    eigen, G = _spectrum(problem)
    if G is not None and p <= WORKING_SET_UP_TO and on_host(problem.b):
        W = WorkingSet(problem, pattern, np.arange(p), problem.correlation(), H=G)
    curvature = float(problem.space.sum(problem.column_norms())) / p + problem.mu
    curvature = curvature if curvature > 0 else 1.0
    one = xp.ones(1, dtype=xp.float64, device=problem.device)
    block = Block(problem.correlation()[None, :], one, problem.mu, curvature, eigen)
    best, most = solution, -float("inf")
    supports = []
    starts = list[np.ndarray]()
    for schedule in (*SCHEDULES, WIDE) if p > problem.n_rows else SCHEDULES:
        if starts and stop is not None and stop():
            break
        mask = admm([block], pattern, problem.space, schedule, stop=stop)
        starts.append(to_host(indices(mask)))
    tried = len(starts)
    if W is not None and pattern.size <= FORWARD_UP_TO:
        with one_thread():
            starts.append(best_start(W))
    for S in starts:
        if W is None:
            supports.append(S)
            continue
        with one_thread():
            S, value, _ = improve(W, S, 20 * pattern.size + 100)
        if value > most:
            supports, most = [S], value
    for S in supports:
        index = xp.asarray(np.sort(S), device=problem.device)
        found = backsolve(problem, unsolved(problem, mask_of(problem.p, index)))
        if best is None or found.objective < best.objective:
            best = found
    assert best is not None
    note = f"ADMM: {tried} schedules of penalties"
    note += " and forward selection" if len(starts) > tried else ""
    return replace(best, history=(*best.history, note))


def _spectrum(problem: Any) -> tuple[Any, Array | None]:
    """The spectrum of A'A, and A'A itself where it was formed."""
    if problem.is_spread:
        return problem.spectrum(), None
    every = problem.xp.arange(problem.p, device=problem.device)
    if problem.p > max(WORKING_SET_UP_TO, problem.n_rows):
        return spectrum_of_rows(problem.columns(every)), None
    G = problem.select(every).gram()
    if problem.p <= problem.n_rows:
        return spectrum(G).without_zeros(), G
    return spectrum_of_rows(problem.columns(every)), G


def _alone(problem: Any, pattern: Pattern, solution: Solution | None) -> Solution:
    """The same by process 0, of few columns that are spread over several."""

    def work(part: LeastSquares, _: Array) -> list[Array]:
        return [admm_start(part, pattern, None).support.astype(float)]

    every = problem.zeros(problem.p)
    mask, _ = problem.alone(every == 0, every, work, 0)
    found = backsolve(problem, unsolved(problem, mask > 0))
    if solution is None or found.objective < solution.objective:
        return found
    return solution
