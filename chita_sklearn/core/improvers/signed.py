"""Supports whose coefficients have given signs: exchanges, restarts, and a bound.

As in `swaps`, a support is searched on a working set, which takes in the coordinates
outside that could gain most by an exchange, until none of them changes it. A restart
drops some coordinates at random, lets a random other in, and selects forward again.

**The bound** is that of `dual` with what a sign leaves of it: where s_j w_j >= 0, the
minimum over w_j takes c_j^2 into the bound only where s_j c_j > 0, so that

    D(alpha) = b'alpha - 1/2 ||alpha||^2 + mu/2 ||w_bar||^2
               - 1/(2 mu) max over allowed S of sum_{j in S} [c_j]^2,

with [c_j] = c_j where s_j c_j >= 0, else 0: at least as large as without signs. It is
raised by the same steps, whose backsolves are with signs; but the support that joins
the mixture is the best at alpha(z), not at the best alpha, where supports may tie.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..arrays import Array, cast_block, indices, mask_of, scatter, to_host, top_k_mask
from ..deadline import OnStep, asked
from ..initial import metric
from ..linalg import one_thread
from ..patterns.matroids import Pattern
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import unsolved
from ..refit.nonnegative import nonnegative, signed_backsolve
from ..search.cone import Cone, exchange_bounds, leaving
from ..search.local_search import GAINED
from ..search.working_set import WorkingSet
from ..solution import Solution, Status, with_bound
from .dual import Dual, costly, hopeless

ROOM, MORE = 6, 150  # columns of a working set: ROOM k, and k + MORE, at least
ROUNDS = 20  # working sets at most
MIXED = 500  # coordinates of a mixture of supports at most


def search_signed(
    problem: LeastSquares,
    pattern: Pattern,
    solution: Solution | None,
    *,
    n_restarts: int,
    max_iter: int,
    rng: np.random.Generator,
    on_step: OnStep | None = None,
) -> Solution:
    """Bring a support to where no exchange gains, and try to leave it from there.

    Parameters
    ----------
    problem : LeastSquares
        With `signs`.
    pattern : Pattern
        A matroid.
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
    On a working set of m columns an exchange costs O(s^2 m) for the bounds of all
    pairs, and O(s^3) for each pair that is refitted.
    """
    xp, p, k = problem.xp, problem.p, pattern.size
    room = p if p <= problem.gram_order() else min(p, max(ROOM * k, k + MORE))
    g, signs = problem.correlation(), problem.signs
    S = np.empty(0, dtype=np.intp)
    if solution is not None:
        S = to_host(indices(solution.support))
    score = _pushed(g, signs, xp) ** 2 / metric(problem)
    swaps = done = better = failed = rounds = 0
    status = Status.MAX_ITER
    stopped = False
    while rounds < min(max_iter, ROUNDS) and not stopped:
        rounds += 1
        gain = _scan(problem, S, g) if len(S) and room < p else score
        members = _members(problem, pattern, S, gain, room)
        W = WorkingSet(problem, pattern, members, g)
        cone = Cone(
            W, to_host(xp.take(signs, xp.asarray(members, device=problem.device)))
        )
        before, local = S, np.searchsorted(members, S)
        with one_thread():
            local, value, n = cone.improve(local, 20 * k + 100)
            swaps += n
            while failed < n_restarts and not stopped and 0 < len(local) < len(members):
                done, failed = done + 1, failed + 1
                start = _perturbed(cone, local, rng)
                other, its, _ = cone.improve(start, 20 * k + 100)
                if its > value * GAINED:
                    local, value, failed, better = other, its, 0, better + 1
                stopped = _asked(problem, members[local], on_step)
            S = members[local]
        stopped = stopped or _asked(problem, S, on_step)
        if stopped:
            status = Status.STOPPED
        elif room == p or (len(S) == len(before) and np.array_equal(S, before)):
            status = Status.CONVERGED
            break
    found = _refitted(problem, S)
    note = (
        f"signs: {swaps} exchanges, restarts: {done}, of which {better} found a better"
    )
    note += f" support, on {rounds} working sets of up to {room} columns"
    if solution is not None and not found.objective < solution.objective:
        found = solution
    return replace(
        found,
        n_iter=rounds + (0 if solution is None else solution.n_iter),
        status=status,
        history=(*(() if solution is None else solution.history), note),
    )


def _members(
    problem: LeastSquares, pattern: Pattern, S: np.ndarray, gain: Array, room: int
) -> np.ndarray:
    """A support, what the pattern still asks for, and the largest gains; ascending."""
    xp, first = problem.xp, problem.xp.full_like(gain, problem.xp.inf)
    inside = mask_of(problem.p, xp.asarray(S, device=problem.device))
    best = problem.space.best_mask(pattern, xp.where(inside, first, gain))
    return to_host(indices(top_k_mask(xp.where(inside | best, first, gain), room)))


def _asked(problem: LeastSquares, S: np.ndarray, on_step: OnStep | None) -> bool:
    return asked(on_step, lambda: _refitted(problem, S).coef)


def _refitted(problem: LeastSquares, S: np.ndarray) -> Solution:
    index = problem.xp.asarray(S, device=problem.device)
    return signed_backsolve(problem, unsolved(problem, mask_of(problem.p, index)))


def _pushed(q: Array, signs: Array, xp: object) -> Array:
    """Gradients as far as the signs let coordinates that are 0 follow them."""
    return q * (signs * q >= 0)


def _perturbed(cone: Cone, S: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Drop some at random, let one other in, and select forward."""
    W, m = cone.W, len(cone.W.g)
    kept = np.zeros(m, dtype=bool)
    kept[S] = True
    outside = np.flatnonzero(~kept)
    few = int(rng.integers(1, len(S) + 1))
    kept[rng.choice(S, size=few, replace=False)] = False
    score = np.zeros(m)
    score[outside] = rng.random(len(outside)) + 1.0
    stranger = rng.choice(np.flatnonzero(W.may_join(kept, score)), size=1)
    return cone.forward(np.append(np.flatnonzero(kept), stranger), W.pattern.size)


def _scan(problem: LeastSquares, S: np.ndarray, g: Array) -> Array:
    """What each coordinate gains at most in the place of one of S, shape (p,)."""
    xp, p, s = problem.xp, problem.p, len(S)
    index = xp.asarray(S, device=problem.device)
    A_S = problem.select(index)
    H_SS = to_host(A_S.gram()) + problem.mu * np.eye(s)
    g_S, signs_S = (to_host(xp.take(x, index)) for x in (g, problem.signs))
    w = nonnegative(H_SS, g_S, signs_S)
    rests = leaving(H_SS, g_S, signs_S, w)
    lost = 0.5 * float(g_S @ w) - 0.5 * (rests @ g_S)
    h = to_host(problem.column_norms()) + problem.mu
    g, signs, gain = to_host(g), to_host(problem.signs), np.zeros(p)
    step = max(cast_block(problem.zeros(p)) // max(s, 1), 1)
    for start in range(0, p, step):
        cols = slice(start, min(start + step, p))
        H_SO = to_host(A_S.cross(cols)).T
        here = exchange_bounds(H_SO, H_SS, rests, g[cols], h[cols], signs[cols])
        gain[cols] = np.max(here - lost[:, None], axis=0)
    return xp.asarray(gain, device=problem.device)


def bound_signed(
    problem: LeastSquares, pattern: Pattern, solution: Solution, steps: int, tol: float
) -> Solution:
    """Attach a lower bound, the best that some steps of dual ascent reach."""
    xp, space, function = problem.xp, problem.space, Dual(problem, pattern)
    z = xp.astype(solution.support, xp.float64)
    alpha, w = problem.residual(solution.coef), solution.coef
    u = u_to = problem.rmatvec(alpha)
    g = problem.correlation()
    values = [float(function.value(alpha, u))]
    t, near, expensive = 0, (1 - tol) * solution.objective, costly(problem)
    while t < steps and values[-1] < near:
        t += 1
        share = 3.0 / (t + 3)
        mask = space.best_mask(pattern, function.scores(u_to))
        z = (1.0 - share) * z + share * xp.astype(mask, xp.float64)
        z = xp.where(space.top_k(z, MIXED), z, xp.zeros_like(z))
        w = _relaxed(problem, z, g, w)
        to = problem.residual(w)
        u_to = problem.rmatvec(to)
        alpha, u, value = function.climb(alpha, u, to, u_to)
        values.append(float(value))
        if hopeless(values, solution.objective, steps, expensive):
            break  # too small a ridge to prove anything with
    best = with_bound(solution, max(function.bound(alpha), 0.0))
    note = f"dual ascent: {t} steps"
    return replace(best, history=(*best.history, note))


def _relaxed(problem: LeastSquares, z: Array, g: Array, near: Array) -> Array:
    """The minimiser with signs where the ridge on w_j is divided by the weight z_j.

    `near` are coefficients that differ from zero mostly where it does.
    """
    xp, S = problem.xp, indices(z > 0)
    root = to_host(xp.sqrt(xp.take(z, S)))
    H = to_host(problem.select(S).gram()) * root * root[:, None]
    H[np.diag_indices(len(root))] += problem.mu
    signs = to_host(xp.take(problem.signs, S))
    start = to_host(xp.take(near, S) != 0)
    v = nonnegative(H, root * to_host(xp.take(g, S)), signs, start)
    return scatter(problem.p, S, xp.asarray(root * v, device=problem.device))
