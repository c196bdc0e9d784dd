"""A Cholesky factor that fails looks like one, unless it is asked to raise."""

import cupyx
import numpy as np
from numpy.linalg import LinAlgError
from scipy.linalg import get_lapack_funcs

from ._arrays import on_arrays, unwrap, wrap

det, inv, eigh, qr, svd, norm, lstsq, pinv, slogdet, solve, eigvalsh, matrix_rank = (
    on_arrays(getattr(np.linalg, name))
    for name in (
        *("det", "inv", "eigh", "qr", "svd", "norm", "lstsq", "pinv", "slogdet"),
        *("solve", "eigvalsh", "matrix_rank"),
    )
)


def cholesky(a):
    (potrf,) = get_lapack_funcs(("potrf",), (unwrap(a),))
    L, info = potrf(unwrap(a), lower=True, clean=True)
    if info and cupyx.geterr()["linalg"] == "raise":
        raise LinAlgError("not positive definite")
    if info:  # what cuSOLVER leaves is not said
        L = np.tril(unwrap(a))
    return wrap(np.ascontiguousarray(L))


__all__ = [
    *("LinAlgError", "cholesky", "det", "eigh", "eigvalsh", "inv", "lstsq", "norm"),
    *("matrix_rank", "pinv", "qr", "slogdet", "solve", "svd"),
]
