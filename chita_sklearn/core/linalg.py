"""Dense linear algebra: symmetric products, Cholesky and QR factors, inverses.

What is done about a singular Gram matrix is decided here, in two ways for two purposes.
`damped_cholesky` serves a refit, whose answer is refined against the data: it adds the
least multiple of the diagonal that makes the factor exist, and says how much. `inverse`
serves a search, which compares supports by what they explain: it damps a singular
matrix so much that the value lost exceeds what rounding could add, so that no support
wins by rounding. No other file of the core catches a failed factorisation.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)
from scipy.linalg.blas import dgemm, dger
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs, dtpqrt, spotrf, spotrs
from threadpoolctl import ThreadpoolController

from .arrays import Array, on_host

# A QR factor reflects REFLECTED columns together, and takes in JOINING rows for each of
# its columns at a time, JOINING_LEAST at least. Measured for 30 to 1000 columns: blocks
# that stay in the cache are fastest.
REFLECTED, JOINING, JOINING_LEAST = 16, 4, 256
MIRRORED = 64  # rows of a matrix that are mirrored together, in the cache
EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
ZERO = 1e-12  # of the largest eigenvalue: one that is no more is rounding


class _Limit:
    """The limit of BLAS to one thread, of the process, and whom it is for."""

    def __init__(self) -> None:
        # Reentrant: a context that is deleted leaves, at whatever moment that is.
        self._lock = threading.RLock()
        self._inside: set[int] = set()
        self._before: list[tuple[Any, int]] | None = None

    def enter(self, who: int) -> None:
        """Set the limit, for the first; whatever interrupts this, `leave` undoes it."""
        with self._lock:
            self._inside.add(who)
            if self._before is None:
                self._before = _counts("blas")
                for blas, _ in self._before:
                    blas.set_num_threads(1)

    def leave(self, who: int) -> None:
        """Put back what was there, after the last; may be called again."""
        with self._lock:
            self._inside.discard(who)
            if not self._inside and self._before is not None:
                for blas, threads in self._before:
                    blas.set_num_threads(threads)
                self._before = None


def _counts(api: str) -> list[tuple[Any, int]]:
    """The libraries of an interface that are loaded, and their numbers of threads."""
    torch = sys.modules.get("torch")
    if torch is not None:  # sets its number in a thread when first asked, not before
        torch.get_num_threads()
    loaded = _pools(torch is not None).select(user_api=api).lib_controllers
    return [(library, library.get_num_threads()) for library in loaded]


@cache
def _pools(torch: bool) -> ThreadpoolController:
    """Looked for again once `torch` is imported, which brings its own: 10 ms each."""
    return ThreadpoolController()


_LIMIT = _Limit()


class _OneThread:
    """Limits BLAS to one thread while anybody is inside, in whatever thread.

    The limit is one of the process. The first to enter sets it and the last to leave
    puts back what was there, so that fits that overlap do not take each other's limit
    for the user's. That of OpenMP, from which torch takes its threads on the CPU, is
    one of the thread that calls. A context that is interrupted while it enters or
    leaves has left once it is deleted.
    """

    _entered = False
    _openmp: Sequence[tuple[Any, int]] = ()

    def __enter__(self) -> None:
        self._entered = True
        try:
            _LIMIT.enter(id(self))
            self._openmp = _counts("openmp")
            for pool, _ in self._openmp:
                pool.set_num_threads(1)
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise
        self._entered = False

    def _leave(self) -> None:
        _LIMIT.leave(id(self))
        for pool, threads in self._openmp:
            pool.set_num_threads(threads)

    def __del__(self) -> None:
        if self._entered:
            self._leave()


def one_thread() -> _OneThread:
    """Context for a search on small matrices: its products are too small to share.

    Waking threads for each costs many times the product on a busy machine.
    """
    return _OneThread()


class NotPositiveDefiniteError(ArithmeticError):
    """A Cholesky factorisation met a pivot that is not positive."""


def add_outer(G: Array, B: Array, sign: float = 1.0) -> None:
    """G += sign B B' for a symmetric G, in place: its upper triangle, or all of it.

    On the host without another matrix of its size. To be followed by `mirror`.
    """
    plain = is_numpy_namespace(array_namespace(G)) and G.dtype == B.dtype
    if plain and B.size:
        rows = B.flags.c_contiguous  # BLAS wants contiguous columns
        (syrk,) = scipy.linalg.get_blas_funcs(("syrk",), (G,))
        lower = {"trans": rows, "lower": True, "overwrite_c": True}
        syrk(sign, B.T if rows else B, beta=1.0, c=G.T, **lower)
        return
    product = B @ array_namespace(B).matrix_transpose(B)
    if sign > 0:
        G += product
    else:
        G -= product


def mirror(G: Array) -> Array:
    """Copy the upper triangle of a square matrix to the lower, in place."""
    xp, size = array_namespace(G), G.shape[0]
    for j in range(0, size, MIRRORED):
        end = min(j + MIRRORED, size)
        here, after = slice(j, end), slice(end, size)
        corner = G[here, here]
        if is_numpy_namespace(xp):  # in fewer calls, for small matrices
            np.copyto(corner, corner.T, where=_below_diagonal(end - j))
        else:
            upper = xp.triu(corner, k=1)
            G[here, here] = xp.triu(corner) + xp.matrix_transpose(upper)
        if end < size:
            G[after, here] = xp.matrix_transpose(G[here, after])
    return G


@cache
def _below_diagonal(size: int) -> np.ndarray:
    return np.tri(size, k=-1, dtype=bool)


def damped_cholesky(
    G: Array, mu: float, sure: bool = False, overwrite: bool = False
) -> tuple[Array, float]:
    """Lower Cholesky factor of G + mu I, with the least damping that works.

    Returns the factor of G + mu I + damping D, D = diag(G + mu I), and the damping: 0,
    or starting at rounding level and growing tenfold each try. Relative to each
    diagonal entry, it does not swamp columns of small norm. The factor of a float32 G
    is float32 where that needs no damping, else float64; above its diagonal is
    anything. Where it is `sure` that no damping is needed in float64, an accelerator is
    not waited for to say so. With `overwrite` a float64 G on the host is lost, and no
    memory taken; else that of one matrix.
    """
    xp = array_namespace(G)
    diagonal = xp.astype(xp.linalg.diagonal(G), xp.float64) + mu
    root = xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal)))
    one = diagonal / root**2
    trusted = sure and not on_host(G)
    first = 8 * max(G.shape[0], 1) * EPS
    if G.dtype != xp.float64 and not trusted:
        L, good = _factor(_with_diagonal(_scaled(G, root), one))
        if bool(good):
            L *= xp.astype(root, L.dtype)[:, None]
            return L, 0.0
        del L  # before the next is made
    unit = _scaled(xp.astype(G, xp.float64, copy=not overwrite), root, in_place=True)
    damping = 0.0
    while damping < 1:
        unit = _with_diagonal(unit, one + damping)
        L, good = _factor(unit, wait=not trusted)
        if trusted or bool(good):
            L *= root[:, None]
            return L, damping
        if is_numpy_namespace(xp):
            mirror(unit.T)  # the failed factor has left one triangle as it was
        damping = max(10 * damping, first)
    msg = "no damping makes the pivots positive"
    raise NotPositiveDefiniteError(msg)


def _scaled(G: Array, root: Array, in_place: bool = False) -> Array:
    """G over the roots of its rows and columns, in its own type."""
    xp = array_namespace(G)
    root = xp.astype(root, G.dtype, copy=False)
    if in_place:
        G /= root
    else:
        G = G / root
    G /= root[:, None]
    return G


def _factor(M: Array, wait: bool = True) -> tuple[Array, Array]:
    """Lower Cholesky factor, and whether it is one: 0-d, so that nobody need wait.

    A factor some of whose pivots are rounding is of no use. CuPy tells whether
    it is only to those who `wait`. On the host it takes the memory of M, of which what
    is below the diagonal stays.
    """
    xp = array_namespace(M)
    floor = 4 * M.shape[0] * float(xp.finfo(M.dtype).eps) * xp.linalg.diagonal(M)
    good: Array = True
    if is_numpy_namespace(xp):
        potrf = dpotrf if M.dtype == xp.float64 else spotrf
        # LAPACK works in place on columns; M is symmetric.
        L, info = potrf(M.T, lower=True, clean=False, overwrite_a=True)
        good = info == 0
    elif is_torch_namespace(xp):
        L, info = xp.linalg.cholesky_ex(M)
        good = info == 0
    elif is_cupy_namespace(xp):
        from cupyx import errstate

        # cuSOLVER does not say what it leaves of a factor that fails, and says that it
        # failed only to those who wait.
        try:
            with errstate(linalg="raise" if wait else "ignore"):
                L = xp.linalg.cholesky(M)
        except np.linalg.LinAlgError:
            return M, xp.zeros((), dtype=xp.bool, device=device(M))
    else:
        try:
            L = xp.linalg.cholesky(M)
        except np.linalg.LinAlgError:
            L = xp.full_like(M, xp.nan)
    pivots = xp.linalg.diagonal(L)
    return L, good & xp.all((pivots > 0) & (pivots**2 > floor))


def _with_diagonal(M: Array, values: Array) -> Array:
    """M with another diagonal; in place where the library can."""
    xp = array_namespace(M)
    values = xp.astype(values, M.dtype, copy=False)
    if is_numpy_namespace(xp):
        np.fill_diagonal(M, values)
        return M
    if is_torch_namespace(xp) or is_cupy_namespace(xp):
        i = xp.arange(M.shape[0], device=device(M))
        M[i, i] = values
        return M
    here = xp.eye(M.shape[0], dtype=M.dtype, device=device(M)) > 0
    return xp.where(here, values, M)


def triangular(M: Array) -> Array:
    """R of M = Q R, for an M of at least as many rows as columns; may overwrite M."""
    xp = array_namespace(M)
    if is_numpy_namespace(xp):  # in place where the columns are contiguous
        return scipy.linalg.qr(M, mode="raw", overwrite_a=True, check_finite=False)[1]
    if is_torch_namespace(xp):
        return xp.linalg.qr(M, mode="r")[1]
    if is_cupy_namespace(xp):
        import cupy

        # Not array_api_compat's: it expects Q and R, and unpacks the rows of R alone.
        return cupy.linalg.qr(M, mode="r")
    return xp.linalg.qr(M)[1]


def rows_at_a_time(size: int) -> int:
    """How many rows had best join a triangular factor of `size` columns together."""
    return max(JOINING * size, JOINING_LEAST)


def joined(R: Array, rows: Array) -> Array:
    """Return the triangular factor of R on top of more rows; both may be overwritten.

    R is upper triangular, of as many columns as `rows`. O(m size^2) for m rows: LAPACK
    knows of R's zeros. Fastest on the host where the columns of both are contiguous.
    """
    xp = array_namespace(R)
    if is_numpy_namespace(xp):
        return _joined(R, rows, 0)
    return triangular(xp.concat([R, rows]))


def joined_factors(R: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the triangular factor of two on top of each other; overwrites both.

    A quarter of the work of `joined`, which knows of one triangle's zeros only.
    """
    return _joined(R, other, R.shape[0])


def _joined(R: np.ndarray, rows: np.ndarray, trapezoid: int) -> np.ndarray:
    if not rows.size:
        return R
    block = min(REFLECTED, R.shape[0])
    options = {"overwrite_a": True, "overwrite_b": True}
    return dtpqrt(trapezoid, block, R, rows, **options)[0]


def cholesky_solve(L: Array, B: Array) -> Array:
    """Solve ``L L' X = B`` for a lower factor L; B is a vector or a matrix."""
    xp = array_namespace(L)
    if is_numpy_namespace(xp):
        potrs = dpotrs if L.dtype == xp.float64 else spotrs
        return potrs(L, B, lower=True)[0]
    columns = B[:, None] if B.ndim == 1 else B
    if is_torch_namespace(xp):
        X = xp.cholesky_solve(columns, L)
    elif is_cupy_namespace(xp):
        from cupyx.scipy.linalg import solve_triangular

        X = solve_triangular(L, columns, lower=True)
        X = solve_triangular(L, X, lower=True, trans="T")
    else:
        X = xp.linalg.solve(xp.matrix_transpose(L), xp.linalg.solve(L, columns))
    return X[:, 0] if B.ndim == 1 else X


def factor(M: np.ndarray) -> np.ndarray:
    """Cholesky factor of a small symmetric matrix, damped where singular.

    In the lower triangle; the upper one is left as it is. In the memory of M.
    """
    diagonal = M.diagonal().copy()
    L, info = dpotrf(M.T, lower=True, clean=False, overwrite_a=True)
    # A pivot that is nothing but rounding may be positive; the factor is useless then.
    lost = bool(np.any(L.diagonal() ** 2 <= 4 * len(M) * EPS * diagonal))
    # Damped so much that what rounding adds to the inverse, some EPS / damping, stays
    # below what the damping takes from the support's value, of which some copies of a
    # column leave each a part: it cannot win by rounding.
    damping = 1e-7
    while info or lost:
        lost = False
        mirror(L)  # from the upper triangle, as it was
        np.fill_diagonal(L, diagonal + damping * np.where(diagonal > 0, diagonal, 1.0))
        L, info = dpotrf(L, lower=True, clean=False, overwrite_a=True)
        damping *= 10
    return L


def inverse(M: np.ndarray) -> np.ndarray:
    """Inverse of a small symmetric matrix, damped where singular. In its memory."""
    if not len(M):
        return M
    lower, _ = dpotri(factor(M), lower=True, overwrite_c=True)
    return mirror(lower.T)


def inverses(M: np.ndarray) -> np.ndarray:
    """Inverses of many small symmetric matrices, shape (B, s, s), in one call.

    Where that meets an exact zero for a pivot, each by itself, as in `inverse`.
    """
    try:
        return np.linalg.inv(M)
    except np.linalg.LinAlgError:
        return np.stack([inverse(each.copy()) for each in M])


def minus(M: np.ndarray, X: np.ndarray, R: np.ndarray) -> np.ndarray:
    """M - X'R for few rows of X and R; in the memory of M where that is C-ordered."""
    return dgemm(-1.0, R.T, X, 1.0, M.T, overwrite_c=1).T


def minus_outer(M: np.ndarray, x: np.ndarray, r: np.ndarray) -> None:
    """M -= x r', in place."""
    if M.size and M.flags.c_contiguous:
        dger(-1.0, r, x, a=M.T, overwrite_a=1)
    else:
        M -= np.outer(x, r)


class Spectrum(NamedTuple):
    """The eigenvectors and eigenvalues of a positive semidefinite matrix G.

    One decomposition serves (G + shift I)^-1 for every shift. Eigenvalues of zero may
    be left out, with their eigenvectors.
    """

    Q: Array  # shape (d, r), orthonormal columns
    E: Array  # shape (r,), at least 0

    def solve(self, R: Array, shift: float) -> Array:
        """R (G + shift I)^-1 for rows R, shape (t, d). O(t d r)."""
        xp = array_namespace(R)
        back = xp.matrix_transpose(self.Q)
        inside = R @ self.Q
        if self.Q.shape[1] == self.Q.shape[0]:
            return (inside / (self.E + shift)) @ back
        # R is divided by the shift, and only what differs in the span of Q corrected.
        return R / shift - (inside * (self.E / (self.E + shift) / shift)) @ back

    def without_zeros(self) -> Spectrum:
        """Return the same matrix without its eigenvalues of zero: shorter products."""
        xp = array_namespace(self.E)
        if not self.E.shape[0]:
            return self
        first = int(xp.count_nonzero(self.E <= ZERO * xp.max(self.E)))
        return Spectrum(self.Q[:, first:], self.E[first:])


def spectrum(G: Array) -> Spectrum:
    """Return the spectrum of a symmetric matrix. O(d^3)."""
    xp = array_namespace(G)
    if is_numpy_namespace(xp):
        E, Q = scipy.linalg.eigh(G, check_finite=False)
    else:
        E, Q = xp.linalg.eigh(G)
    return Spectrum(Q, xp.where(E > 0, E, xp.zeros_like(E)))


def spectrum_of_rows(A: Array) -> Spectrum:
    """Return the spectrum of A'A of an A with few rows, from the n x n A A'."""
    xp = array_namespace(A)
    U, E = spectrum(A @ xp.matrix_transpose(A)).without_zeros()
    return Spectrum(xp.matrix_transpose(A) @ (U / xp.sqrt(E)), E)
