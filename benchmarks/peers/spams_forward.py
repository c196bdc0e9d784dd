"""SPAMS: forward stepwise selection with refits, which it calls OMP (GPL-3)."""

import numpy as np

name = "spams-forward"
requirement = "spams-bin==2.6.14"


def fit(X, y, k):
    import spams

    # Its dictionary has columns of unit norm.
    scale = np.linalg.norm(X, axis=0)
    scale[scale == 0] = 1.0
    D = np.asfortranarray(X / scale)
    coef = spams.omp(np.asfortranarray(y[:, None]), D=D, L=k, eps=0.0, numThreads=1)
    return np.asarray(coef.todense())[:, 0] / scale
