"""Many targets on shared Gram matrices: ADMM, exact exchanges, and a bound.

The plan for `ManyTargets` and `BlockDiagonal`, from moments alone. A support comes from
ADMM by some schedules of penalties; exchanges of single coordinates, refitted exactly,
within each target and between the targets that share a budget, bring it to where none
of them gains. The best of the schedules is kept.

**The bound.** With M_l = G_l - delta_l I, delta_l at most the least eigenvalue of G_l,
and m_l = mu_l + delta_l, no W whose support is allowed has, for any V,

    n F(W) < n F(0) - sum_i g_i/2 v_i'M v_i
             - max over allowed S of sum_{(i, j) in S} g_i / (2 m) (c_i - M v_i)_j^2.

(The bound of `dual`, written with moments, and with part of G moved into the ridge as
in `branch`.) V is brought near the best one by the Frank-Wolfe method on the
perspective relaxation: with weights z in the hull of the masks, v_i minimises
1/2 v'M v - c_i'v + m/2 sum_j v_j^2 / z_j, by some steps of conjugate gradients; any V
gives a bound, so that they need not converge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array, array_namespace, to_host
from ..certificate import relative_gap
from ..linalg import EPS, Spectrum, cholesky_solve, damped_cholesky, spectrum
from ..patterns.matroids import Pattern
from ..problem.many_targets import BlockDiagonal, ManyTargets
from ..refit.minimum import bounded
from ..search.exchange import TargetState, exchange
from ..solution import Solution, Status
from .admm import Block, Schedule, admm

# Where the steps take less than WORK multiplications: one slow schedule, then, from the
# best support so far, others whose penalty begins so high that most of it stays. On
# layers of 40 x 784 and 20 x 400, 2 to 30 % kept, the three brought n F down by another
# .3 % (0 to .8) after Schedule(1e-2, 1.02, 400), which slower schedules did not.
SLOW = Schedule(3e-3, 1.015, 600)
AGAIN = tuple(Schedule(first, 1.02, 150) for first in (0.2, 0.1, 0.2))
FAST = Schedule(1e-2, 1.03, 200)
FASTEST = Schedule(1e-1, 1.1, 50)  # where FAST takes more than HEAVY
WORK, HEAVY = 2e11, 1e12
NARROW = 1e9  # multiplications from which on float32 is worth its copies
EXCHANGED = 2**26  # numbers in the states of all targets at most: half a gigabyte
LEAST = 1e-6  # share of n F over k that an exchange must gain
ROUNDS = 20  # of exchanges within and between targets
FRANK_WOLFE, GRADIENTS = 20, 20  # steps for the bound, and of CG in each
# A gap above HOPELESS after half of these is above 1 after all of them: the bound then
# says no more than that n F has a floor. (Layers of MLPNet: 3.1 becomes 1.1.)
HOPELESS = 2.0
REFIT_STEPS, REFIT_TOL = 200, 1e-4  # of CG, where factors take more than HEAVY


def fit_support(problem: ManyTargets | BlockDiagonal, support: Array) -> Solution:
    """Minimise n F on a support, each target by itself.

    Parameters
    ----------
    problem : ManyTargets or BlockDiagonal
        What is minimised.
    support : array of bool, shape (p,)
        Which coordinates may differ from zero.

    Returns
    -------
    Solution
        Without a bound.

    Notes
    -----
    O(s^3) for each set of s coordinates that targets have, on the host. Where columns
    depend on each other and mu = 0, the Gram is damped by rounding's share. Where
    mu > 0 and the factors of a layer would take long: conjugate gradients on all of its
    targets at once, O(t d^2) a step, to residuals of `REFIT_TOL` of the linear terms.
    """
    xp, rows, start = problem.xp, [], 0
    for layer in problem.layers:
        here = support[start : start + layer.p]
        start += layer.p
        rows.append(_fit(layer, xp.reshape(here, (layer.t, layer.d))))
    coef = xp.concat([xp.reshape(row, (-1,)) for row in rows])
    return Solution(coef, support, problem.objective(coef))


def _fit(layer: ManyTargets, support: Array) -> Array:
    """The minimiser on a support of shape (t, d)."""
    xp, M = layer.xp, to_host(support)
    alike: dict[bytes, list[int]] = {}
    for i in range(layer.t):
        alike.setdefault(M[i].tobytes(), []).append(i)
    if (
        layer.mu > 0
        and sum(int(M[of[0]].sum()) ** 3.0 for of in alike.values()) > HEAVY
    ):
        # Float32 has the digits that REFIT_TOL asks for, in half the time; in units in
        # which no number is large.
        square = float(xp.max(xp.linalg.diagonal(layer.G))) + layer.mu
        linear = float(xp.max(xp.abs(layer.C))) or 1.0
        parts = support, layer.C / linear, layer.G / square
        z, C, G = (xp.astype(part, xp.float32) for part in parts)
        start, mu = xp.zeros_like(C), layer.mu / square
        V = _relaxed(C, G, mu, z, start, steps=REFIT_STEPS, tol=REFIT_TOL)
        return linear / square * xp.astype(V, xp.float64)
    H = to_host(layer.G) + layer.mu * np.eye(layer.d)
    C = to_host(layer.C)
    W = np.zeros((layer.t, layer.d))
    for of in alike.values():
        S = np.flatnonzero(M[of[0]])
        if len(S):
            L, _ = damped_cholesky(H[np.ix_(S, S)], 0.0, overwrite=True)
            W[np.ix_(np.asarray(of), S)] = cholesky_solve(L, C[of][:, S].T).T
    return xp.asarray(W, device=layer.device)


def search_targets(
    problem: ManyTargets | BlockDiagonal,
    pattern: Pattern,
    solution: Solution | None,
    *,
    on_step: Callable[[Array], bool] | None = None,
    n_restarts: int = 10,
) -> Solution:
    """Return the best support found, its refit, and a bound.

    Parameters
    ----------
    problem, pattern
        What to minimise, over which supports.
    solution : Solution or None
        Exchanged from as well, beside the supports of ADMM.
    on_step : callable or None
        Called with the coefficients after each schedule; True stops.
    n_restarts : int, default=10
        0 asks for one fast schedule without exchanges, 1 for one slow schedule; more
        for as many again, three at most, from the best support.

    Returns
    -------
    Solution
        Never with a larger objective than given.

    Notes
    -----
    Time: O(d^3) a Gram and O(t d^2) a step of ADMM, some hundred steps, fewer where
    these would take long; an exchange O(s d) for each of the two targets in it, and
    none where that would take long too. Memory: d x d a Gram, and for the
    exchanges s d numbers a target, all targets at once where a budget is shared and
    that is less than half a gigabyte, else one after the other.
    """
    blocks, eigenvalues = _blocks(problem)
    work = sum(4.0 * layer.p * layer.d for layer in problem.layers)  # of a step
    slow = n_restarts > 0 and work * sum(each.steps for each in (SLOW, *AGAIN)) <= WORK
    first, again = (SLOW, AGAIN[: n_restarts - 1]) if slow else (FAST, ())
    if work * FAST.steps > HEAVY:
        first, again = FASTEST, ()
    unit = 1.0
    if work * FAST.steps > NARROW:
        # Half the time; the support is all that is taken from it.
        blocks, unit = _narrow(blocks)
    find = partial(admm, blocks, pattern, problem.space)
    best, status, tried = solution, Status.CONVERGED, 0

    def supports() -> Iterator[Array]:
        if solution is not None:
            yield solution.support
        yield find(first)
        for schedule in again:
            assert best is not None
            begin = problem.xp.astype(unit * best.coef, blocks[0].C.dtype)
            yield find(schedule, start=begin)

    for support in supports():
        if n_restarts and _exchanges(problem, support) <= WORK:
            support = _exchanged(problem, pattern, support)
        found = fit_support(problem, support)
        tried += 1
        if best is None or found.objective < best.objective:
            best = found
        if on_step is not None and on_step(best.coef):
            status = Status.STOPPED
            break
    assert best is not None
    steps = FRANK_WOLFE if slow else 0
    bound = bound_of(problem, pattern, best, steps, eigenvalues)
    bound = bounded(problem, best.objective, bound, problem.floor)
    best = replace(best, lower_bound=bound)
    text = "slow" if slow else "fast"
    note = f"ADMM ({text} penalties) and exchanges: best of {tried} supports"
    return replace(
        best,
        n_iter=max(tried, 1),
        status=Status.OPTIMAL if best.gap == 0 else status,
        history=(*best.history, note),
    )


def _blocks(problem: ManyTargets | BlockDiagonal) -> tuple[list[Block], list[Array]]:
    """What ADMM needs of each layer, and the eigenvalues of its G."""
    blocks, eigenvalues = [], []
    for layer in problem.layers:
        xp, whole = layer.xp, spectrum(layer.G)
        eigenvalues.append(whole.E)
        curvature = float(xp.sum(xp.linalg.diagonal(layer.G))) / layer.d + layer.mu
        blocks.append(
            Block(
                layer.C,
                layer.weights,
                layer.mu,
                curvature if curvature > 0 else 1.0,
                whole.without_zeros(),
            )
        )
    return blocks, eigenvalues


def _narrow(blocks: Sequence[Block]) -> tuple[list[Block], float]:
    """The same in float32, in units in which no number is large; that of 1 / w."""
    xp: Any = array_namespace(blocks[0].C)
    weight = max(float(xp.max(block.weights)) for block in blocks)
    linear = max(float(xp.max(xp.abs(block.C))) for block in blocks) or 1.0
    square = max(block.curvature for block in blocks)

    def narrow(x: Array, unit: float) -> Array:
        return xp.astype(x / unit, xp.float32)

    narrowed = [
        Block(
            narrow(block.C, linear),
            narrow(block.weights, weight),
            block.mu / square,
            block.curvature / square,
            Spectrum(narrow(block.spectrum.Q, 1.0), narrow(block.spectrum.E, square)),
        )
        for block in blocks
    ]
    return narrowed, square / linear


def _exchanges(problem: ManyTargets | BlockDiagonal, support: Array) -> float:
    """About how many multiplications exchanges take: 3 s^2 d for each target."""
    mask, total, start = to_host(support), 0.0, 0
    for layer in problem.layers:
        sizes = mask[start : start + layer.p].reshape(layer.t, layer.d).sum(axis=1)
        total += 3.0 * layer.d * float(np.sum(sizes.astype(float) ** 2))
        start += layer.p
    return total


def _exchanged(
    problem: ManyTargets | BlockDiagonal, pattern: Pattern, support: Array
) -> Array:
    """Bring a support to where no exchange gains."""
    mask = to_host(support).copy()
    scale = max(abs(fit_support(problem, support).objective), 1e-300)
    least = LEAST * scale / max(pattern.size, 1)
    pools: dict[Any, list[tuple[Any, ...]]] = {}
    start = 0
    for layer in problem.layers:
        H = to_host(layer.G) + layer.mu * np.eye(layer.d)
        C, g = to_host(layer.C), to_host(layer.weights)
        for i in range(layer.t):
            here = slice(start + i * layer.d, start + (i + 1) * layer.d)
            S = np.flatnonzero(mask[here])
            pool = pattern.pool(here.start, here.stop)
            if pool is None:
                if 0 < len(S) < layer.d:
                    state = TargetState(H, C[i], float(g[i]), S)
                    state.improve(20 * len(S) + 100, least, _allowed(pattern, here))
                    mask[here] = _mask_of(state)
            else:
                pools.setdefault(pool, []).append((H, C[i], float(g[i]), S, here))
        start += layer.p
    for members in pools.values():
        sizes = sum((len(S) + len(c)) * len(c) for _, c, _, S, _ in members)
        if sizes > EXCHANGED:
            for *target, here in members:
                state = TargetState(*target)
                state.improve(20 * len(state.S) + 100, least)
                mask[here] = _mask_of(state)
            continue
        states = [TargetState(*target) for *target, _ in members]
        for _ in range(ROUNDS):
            done = exchange(states, least, 20 * pattern.size + 100)
            done += sum(state.improve(len(state.S) + 100, least) for state in states)
            if not done:
                break
        for state, (*_, here) in zip(states, members, strict=True):
            mask[here] = _mask_of(state)
    return problem.xp.asarray(mask, device=problem.device)


def _mask_of(state: TargetState) -> np.ndarray:
    mask = np.zeros(len(state.c), dtype=bool)
    mask[state.S] = True
    return mask


def _allowed(
    pattern: Pattern, here: slice
) -> Callable[[np.ndarray], np.ndarray | None]:
    others = np.arange(here.start, here.stop)

    def allowed(S: np.ndarray) -> np.ndarray | None:
        return pattern.exchangeable(S + here.start, others)

    return allowed


def bound_of(
    problem: ManyTargets | BlockDiagonal,
    pattern: Pattern,
    solution: Solution,
    steps: int,
    eigenvalues: Sequence[Array] | None = None,
) -> float:
    """Return a lower bound of n F over the pattern, rounding allowed for; or -inf.

    The best of those at the solution and at `steps` of the Frank-Wolfe method.
    ``eigenvalues`` are those of the G of each layer, where they are known.
    """
    xp, space = problem.xp, problem.space
    parts = []
    if eigenvalues is None:
        eigenvalues = [spectrum(layer.G).E for layer in problem.layers]
    for layer, E in zip(problem.layers, eigenvalues, strict=True):
        error = 8 * layer.d * EPS * float(xp.max(E)) if layer.d else 0.0
        delta = max(float(xp.min(E)) - error, 0.0)
        eye = xp.eye(layer.d, dtype=xp.float64, device=layer.device)
        parts.append((layer, layer.G - delta * eye, layer.mu + delta))
    if min(m for _, _, m in parts) <= 0:
        return -math.inf

    def rows(x: Array) -> list[Array]:
        out, start = [], 0
        for layer, _, _ in parts:
            out.append(xp.reshape(x[start : start + layer.p], (layer.t, layer.d)))
            start += layer.p
        return out

    def flat(x: list[Array]) -> Array:
        return xp.concat([xp.reshape(part, (-1,)) for part in x])

    def bound(V: list[Array]) -> tuple[float, Array]:
        """The bound at V, and the scores whose best sum is in it."""
        value, size, scores = problem.at_zero, abs(problem.at_zero), []
        for (layer, M, m), v in zip(parts, V, strict=True):
            Mv = v @ M
            value -= 0.5 * float(xp.sum(layer.weights * xp.sum(v * Mv, axis=1)))
            reach = xp.sum(xp.abs(v) * (xp.abs(v) @ xp.abs(M)), axis=1)
            reach = reach + xp.sum(xp.abs(v * layer.C), axis=1)
            size += float(xp.sum(layer.weights * reach))
            scores.append(layer.weights[:, None] * (layer.C - Mv) ** 2 / m)
        score = flat(scores)
        mask = space.best_mask(pattern, score)
        chosen = float(space.sum_over(mask, score))
        # Sums of d products in float64; G and c have been rounded like that too.
        gamma = 8 * (problem.terms + 16) * EPS
        rounding = gamma * (size + chosen + 2 * math.sqrt(size * chosen))
        return value - 0.5 * chosen - rounding, score

    V = rows(solution.coef)
    best, score = bound(V)
    z = xp.astype(solution.support, xp.float64)
    for step in range(steps):
        share = 2.0 / (step + 3)
        top = xp.astype(space.best_mask(pattern, score), xp.float64)
        z = (1.0 - share) * z + share * top
        V = [
            _relaxed(layer.C, M, m, part, v)
            for (layer, M, m), part, v in zip(parts, rows(z), V, strict=True)
        ]
        value, score = bound(V)
        best = max(best, value)
        if 2 * step >= steps and relative_gap(solution.objective, best) > HOPELESS:
            break
    return best


def _relaxed(
    C: Array,
    M: Array,
    m: float,
    z: Array,
    V: Array,
    steps: int = GRADIENTS,
    tol: float = 0.0,
) -> Array:
    """About the minimisers of 1/2 v'M v - c'v + m/2 sum v^2 / z, one row each.

    By conjugate gradients in y = v / sqrt(z), all rows at once, from V, until all
    residuals are below ``tol`` of the linear terms in the norm of the preconditioner.
    """
    xp = array_namespace(C)
    root = xp.sqrt(z)
    y = xp.where(z > 0, V / xp.where(z > 0, root, xp.ones_like(root)), root)

    def product(x: Array) -> Array:
        return root * ((root * x) @ M) + m * x

    # Preconditioned by the diagonal.
    scale = 1.0 / (z * xp.linalg.diagonal(M) + m)
    r = root * C - product(y)
    step = scale * r
    left, tiny = xp.sum(r * step, axis=1), float(xp.finfo(C.dtype).smallest_normal)
    enough = tol**2 * xp.sum(root * C * scale * root * C, axis=1)
    for _ in range(steps):
        if tol and bool(xp.all(left <= enough)):
            break
        moved = product(step)
        rate = left / (xp.sum(step * moved, axis=1) + tiny)
        y = y + rate[:, None] * step
        r = r - rate[:, None] * moved
        before, left = left, xp.sum(r * scale * r, axis=1)
        step = scale * r + (left / (before + tiny))[:, None] * step
    return root * y
