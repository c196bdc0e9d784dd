"""Coordinate descent on the support (the paper's CHITA-CD): no n x n, no s x s matrix.

The coordinates of the support are taken in blocks; each block is set to its exact
minimiser with the others held,

    (A_B'A_B + mu I) step = A_B' r - mu (w_B - w_bar_B),    w_B += step,  r -= A_B step,

so that n F never rises and the residual r stays that of w. With blocks of one this is
the paper's cyclic descent; larger blocks run as matrix products, and the sweeps needed
fall as they grow. It converges to the backsolve's answer, slowly where columns are
nearly dependent and mu is small: it is for supports whose Gram matrix fits in memory on
neither side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..arrays import Array, indices, scatter
from ..linalg import cholesky_solve, damped_cholesky
from ..solution import Solution, Status

BLOCK = 256  # coordinates set at once


def coordinate_descent(
    problem: Any,
    solution: Solution,
    *,
    block: int = BLOCK,
    max_iter: int = 100,
    tol: float = 1e-8,
) -> Solution:
    """Improve the coefficients on the solution's support, which stays as it is.

    Parameters
    ----------
    problem : LeastSquares
        The quadratic.
    solution : Solution
        Where to start.
    block : int
        Coordinates set at once; 1 is plain coordinate descent.
    max_iter : int
        Sweeps over the support at most.
    tol : float
        Stop when a sweep lowers n F by less than this share.

    Returns
    -------
    Solution
        Never with a larger objective than given.

    Notes
    -----
    A sweep costs O(n s) and reads A_S once; the blocks' factors take s * block numbers.
    """
    xp, mu = problem.xp, problem.mu
    S = indices(solution.support)
    size = S.shape[0]
    w = xp.take(solution.coef, S)
    prior = xp.zeros_like(w) if problem.prior is None else xp.take(problem.prior, S)
    r = problem.residual(solution.coef)
    cuts = [slice(j, min(j + block, size)) for j in range(0, size, block)]
    factors: list[Array] = []
    value, sweeps, status = solution.objective, 0, Status.MAX_ITER
    while sweeps < max_iter:
        sweeps += 1
        for i, here in enumerate(cuts):
            B = problem.columns(S[here])
            Bt = xp.matrix_transpose(B)
            if sweeps == 1:
                factors.append(damped_cholesky(Bt @ B, mu, overwrite=True)[0])
            step = cholesky_solve(factors[i], Bt @ r - mu * (w[here] - prior[here]))
            w[here] = w[here] + step
            r = r - B @ step
        last = value
        # The coordinates outside the support contribute a constant to the penalty.
        coef = scatter(problem.p, S, w)
        value = 0.5 * float(r @ r) + problem.penalty(coef)
        if last - value <= tol * abs(value):
            status = Status.CONVERGED
            break
    note = f"coordinate descent: {sweeps} sweeps"
    coef = scatter(problem.p, S, w)
    value = problem.objective(coef)  # r has gathered the rounding of every step
    if not value < solution.objective:
        return replace(solution, n_iter=solution.n_iter + sweeps)
    return replace(
        solution,
        coef=coef,
        objective=value,
        n_iter=solution.n_iter + sweeps,
        status=status,
        history=(*solution.history, note),
    )
