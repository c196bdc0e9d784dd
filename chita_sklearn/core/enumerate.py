"""Every support in turn: the optimum, proven, where there are few supports."""

from __future__ import annotations

from itertools import combinations, islice

import numpy as np

from .arrays import scatter, to_host
from .backsolve import backsolve
from .problem import LeastSquares
from .solution import Solution

CHUNK = 2**20  # numbers in a batch of Gram matrices
DAMPING = 1e-12  # of ||a_j||^2: lets dependent columns through the batch


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
    O(n p^2) for the Gram, then O(k^3) a support, in batches.
    """
    xp, p = problem.xp, problem.p
    A = problem.columns(xp.arange(p, device=problem.device))
    H = to_host(xp.matrix_transpose(A) @ A)
    H = H + problem.mu * np.eye(p)
    # To a unit diagonal: the damping then weighs on every column alike.
    scale = 1.0 / np.sqrt(np.where(H.diagonal() > 0, H.diagonal(), 1.0))
    H = H * scale * scale[:, None] + DAMPING * np.eye(p)
    g = scale * to_host(problem.correlation())
    if not g.any():
        k = 0  # w = 0 is optimal
    best, support = 0.0, np.empty(0, dtype=np.intp)
    supports = combinations(range(p), k)
    while k and (chunk := list(islice(supports, max(CHUNK // k**2, 1)))):
        S = np.asarray(chunk, dtype=np.intp)
        w = np.linalg.solve(H[S[:, :, None], S[:, None, :]], g[S][:, :, None])[:, :, 0]
        explained = np.sum(g[S] * w, axis=1)
        top = int(np.argmax(explained))
        if explained[top] > best:
            best, support = float(explained[top]), S[top]
    ones = xp.ones(len(support), dtype=xp.float64, device=problem.device)
    mask = scatter(p, xp.asarray(support, device=problem.device), ones) > 0
    return backsolve(problem, Solution(problem.zeros(p), mask, float("inf")))
