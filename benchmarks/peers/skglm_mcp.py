"""skglm: the minimax concave penalty along a warm-started path, then refit at k."""

import warnings

import numpy as np

from ._tools import best_of_path

name = "skglm-MCP"
requirement = "skglm==0.5"
GRID, LOWEST, REFINEMENTS = 160, 1e-5, 3


def fit(X, y, k):
    from skglm.datafits import Quadratic
    from skglm.penalties import MCPenalty
    from skglm.solvers import AndersonCD

    def descend(alphas, start):
        """Warm-started solutions until one exceeds k by half."""
        solver = AndersonCD(fit_intercept=False, warm_start=True, max_iter=20)
        coef, out = start.copy(), []
        for alpha in alphas:
            penalty = MCPenalty(alpha=float(alpha), gamma=3.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                coef = solver.solve(X, y, datafit, penalty, coef.copy(), X @ coef)[0]
            out.append((alpha, coef))
            if np.count_nonzero(coef) >= 1.5 * k + 2:
                break
        return out

    datafit = Quadratic()
    datafit.initialize(X, y)
    largest_alpha = np.abs(X.T @ y).max() / len(y)
    alphas = np.geomspace(1, LOWEST, GRID)[1:] * largest_alpha
    path = found = descend(alphas, np.zeros(X.shape[1]))
    for _ in range(REFINEMENTS):
        sizes = np.array([np.count_nonzero(coef) for _, coef in path])
        above = np.flatnonzero(sizes > k)
        if (sizes == k).any() or not above.size or not above[0]:
            break
        (high, start), (low, _) = path[above[0] - 1], path[above[0]]
        path = [(high, start), *descend(np.geomspace(high, low, 12)[1:], start)]
        found = found + path
    return best_of_path(X, y, k, [c for _, c in found if np.count_nonzero(c)])
