"""Every support in turn: the optimum, proven, where there are few supports."""

from __future__ import annotations

from itertools import combinations, islice

import numpy as np

from ..arrays import mask_of, to_host
from ..problem.least_squares import LeastSquares
from ..refit.backsolve import backsolve, unsolved
from ..solution import Solution

CHUNK = 2**20  # numbers in a batch of Gram matrices
DAMPING = 1e-12  # of ||a_j||^2: lets dependent columns through the batch
NEAR = 100  # supports that explain as much up to rounding: solved one by one


def enumerate_supports(problem: LeastSquares, k: int) -> Solution:
    """Return the best of all supports of k coordinates.

    Parameters
    ----------
    problem : LeastSquares
        With few coordinates: a p x p Gram is formed on the host.
    k : int
        All p-choose-k supports are tried.

    Returns
    -------
    Solution
        The global minimiser; a support with fewer coordinates cannot be better.

    Notes
    -----
    O(n p^2) for the Gram, then O(k^3) a support, in batches; those that tie for the
    best up to rounding are solved again, each by itself.
    """
    xp, p = problem.xp, problem.p
    A = problem.columns(xp.arange(p, device=problem.device))
    H = to_host(xp.matrix_transpose(A) @ A)
    # From the centred columns: X'b would round by the size of their means.
    g = to_host(xp.matrix_transpose(A) @ problem.b)
    if problem.prior is not None:
        g = g + problem.mu * to_host(problem.prior)
    H = H + problem.mu * np.eye(p)
    # To a unit diagonal: the damping then weighs on every column alike.
    scale = 1.0 / np.sqrt(np.where(H.diagonal() > 0, H.diagonal(), 1.0))
    H = H * scale * scale[:, None] + DAMPING * np.eye(p)
    g = scale * g
    if not g.any():
        k = 0  # w = 0 is optimal
    least, tried = 0.0, [(np.zeros((1, 0), dtype=np.intp), np.zeros(1))]
    supports = combinations(range(p), k)
    while k and (chunk := list(islice(supports, max(CHUNK // k**2, 1)))):
        S = np.asarray(chunk, dtype=np.intp)
        w = np.linalg.solve(H[S[:, :, None], S[:, None, :]], g[S][:, :, None])[:, :, 0]
        explained = np.sum(g[S] * w, axis=1)
        least = max(least, float(np.max(explained)))
        # At most what damping and rounding may have hidden.
        most = explained + 2 * DAMPING * (np.sum(w**2, axis=1) + np.abs(explained))
        keep = most >= least
        tried.append((S[keep], most[keep]))
    near = [S for supports, most in tried for S in supports[most >= least]]
    return min(
        (backsolve(problem, _on(problem, S)) for S in near[:NEAR]),
        key=lambda solution: solution.objective,
    )


def _on(problem: LeastSquares, S: np.ndarray) -> Solution:
    """A support to solve on."""
    index = problem.xp.asarray(S, device=problem.device)
    return unsolved(problem, mask_of(problem.p, index))
