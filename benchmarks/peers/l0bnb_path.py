"""l0bnb: exact branch and bound for the penalised problem, along its own path to k."""

import numpy as np

from ._tools import best_of_path

name = "l0bnb"
requirement = "l0bnb==1.0.0"
exact = True
SECONDS = 2  # for each point of the path


def limit(n, p, k):
    return "proofs beyond reach" if k > 10 else None


def fit(X, y, k):
    np.Inf = np.inf  # noqa: NPY201 - it predates NumPy 2
    from l0bnb import fit_path

    # It scales columns and y to unit norm; the ridge is in those units.
    path = fit_path(
        X, y, lambda_2=1e-3, max_nonzeros=k, intercept=False, time_limit=SECONDS
    )
    return best_of_path(X, y, k, [np.asarray(point["B"]) for point in path])
