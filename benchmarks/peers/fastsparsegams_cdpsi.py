"""fastsparsegams: L0Learn's coordinate descent with swaps (CDPSI), penalised.

It takes no k. The whole default path is fitted once; where it skips k, the
penalties between the neighbouring sizes are searched. Version 0.2.0 sometimes ends its
process at 50 non-zeros among 10,000 columns; the runner then tries again.
"""

import numpy as np

from ._tools import best_of_path

name = "fastsparsegams"
requirement = "fastsparsegams==0.2.0"
REFINEMENTS = 3


def fit(X, y, k):
    import fastsparsegams

    def path(**grid):
        model = fastsparsegams.fit(
            X,
            y,
            penalty="L0",
            algorithm="CDPSI",
            max_support_size=min(k + 10, X.shape[1]),
            intercept=False,
            **grid,
        )
        coefs = np.asarray(model.coeff(include_intercept=False).todense())
        return np.asarray(model.lambda_0[0]), coefs

    penalties, coefs = path()
    found = list(coefs.T)
    for _ in range(REFINEMENTS):
        sizes = np.count_nonzero(coefs, axis=0)
        if (sizes == k).any() or not (sizes > k).any() or not (sizes < k).any():
            break
        low, high = penalties[sizes > k].max(), penalties[sizes < k].min()
        if not low < high:
            break
        grid = np.geomspace(high, low, 22)[1:-1]
        penalties, coefs = path(
            lambda_grid=[grid.tolist()], num_lambda=None, num_gamma=None
        )
        found += list(coefs.T)
    return best_of_path(X, y, k, found)
