"""Least squares with signs: the coefficients of some coordinates may not cross zero.

    minimise 1/2 w'H w - g'w    subject to  s_j w_j >= 0,  s_j in {-1, 0, 1}

where s_j = 0 leaves w_j free. The active set method of Lawson and Hanson (Solving Least
Squares Problems, 1974, chapter 23) on the Gram matrix, from any active set: w is the
minimiser on the coordinates that are not held at 0. Where one of them would cross zero,
w moves towards it until the first does, which is then held; where the gradient asks a
coordinate that is held to move, the one with the most to gain is let go.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg.lapack import dpotrs

from ..arrays import Array, indices, scatter, to_host
from ..linalg import factor
from ..problem.columns import Columns
from ..problem.least_squares import LeastSquares
from ..solution import Solution
from .backsolve import ridge_solve

STEPS = 10  # active sets per coordinate at most
SLOPE = 1e-12  # of the largest gradient, in units of the columns: rounding


def nonnegative(
    H: np.ndarray, g: np.ndarray, signs: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the minimiser.

    Parameters
    ----------
    H : ndarray of shape (s, s)
        Symmetric and positive semidefinite; damped where singular.
    g : ndarray of shape (s,)
    signs : ndarray of shape (s,)
        -1, 0 or 1.
    start : ndarray of bool, shape (s,), or None
        Coordinates to begin with; the nearer to those of the answer, the fewer steps.

    Returns
    -------
    ndarray of shape (s,)
        Its signs are as asked for, whatever rounding does.

    Notes
    -----
    O(s^3) a step; few steps from a good start.
    """
    flip = np.where(signs < 0, -1.0, 1.0)
    bounded = signs != 0
    h = H.diagonal()
    unit = 1 / np.sqrt(np.where(h > 0, h, 1.0))
    least = SLOPE * np.max(np.abs(g) * unit, initial=0.0)
    free = ~bounded if start is None else start | ~bounded
    free = free & (h > 0)
    w = np.zeros(len(g))
    for _ in range(STEPS * len(g) + STEPS):
        A = np.flatnonzero(free)
        z = np.zeros(len(g))
        z[A] = _solved(H, g, A)
        crosses = free & bounded & (flip * z <= 0)
        if crosses.any():
            step = w[crosses] / (w[crosses] - z[crosses] + (w[crosses] == 0))
            w = w + np.min(step) * (z - w)
            held = crosses.copy()
            held[crosses] = step <= np.min(step)
            w[held], free = 0.0, free & ~held
            continue
        w = z
        slope = flip * (g - H[:, A] @ w[A]) * unit
        slope[free | ~(h > 0)] = -np.inf
        j = int(np.argmax(slope)) if len(slope) else 0
        if not len(slope) or not slope[j] > least:
            break
        free = free.copy()
        free[j] = True
    return np.where(bounded & (flip * w < 0), 0.0, w)


def _solved(H: np.ndarray, g: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Minimise on the coordinates A alone, signs or not."""
    if not len(A):
        return g[A]
    return dpotrs(factor(H[np.ix_(A, A)]), g[A], lower=1)[0]


def signed_backsolve(problem: LeastSquares, solution: Solution) -> Solution:
    """Replace the coefficients on a support by the best ones of the problem's signs.

    Monotone: the given solution comes back where rounding leaves no improvement.
    """
    xp, S = problem.xp, indices(solution.support)
    A_S = Columns(problem, S)
    g = A_S.tdot(problem.b)
    if problem.prior is not None:
        g = g + problem.mu * xp.take(problem.prior, S)
    H = to_host(A_S.gram()) + problem.mu * np.eye(S.shape[0])
    signs = to_host(xp.take(problem.signs, S))
    w = nonnegative(H, to_host(g), signs)
    coef = _on_device(problem, S, w)
    objective = problem.objective(coef)
    # On the coordinates that are not held: by refinement against the columns, to more
    # digits than their Gram matrix has.
    A = np.flatnonzero(w)
    S_A = xp.take(S, xp.asarray(A, device=problem.device))
    refined = _refined(problem, S_A)
    if np.all(signs[A] * refined >= 0):
        other = _on_device(problem, S_A, refined)
        value = problem.objective(other)
        if value < objective:
            coef, objective = other, value
    if not objective < solution.objective:
        return solution
    return replace(solution, coef=coef, objective=objective)


def _refined(problem: LeastSquares, S: Array) -> np.ndarray:
    """The minimiser on a support, signs or not."""
    if not S.shape[0]:
        return np.zeros(0)
    A_S, one = Columns(problem, S), problem.xp.ones_like(problem.zeros(S.shape[0]))
    centre = 0 * one
    if problem.prior is not None:
        centre = problem.xp.take(problem.prior, S)
    v, _ = ridge_solve(A_S, A_S.gram(), one, problem.b, problem.mu, centre)
    return to_host(v)


def _on_device(problem: LeastSquares, S: Array, w: np.ndarray) -> Array:
    return scatter(problem.p, S, problem.xp.asarray(w, device=problem.device))
