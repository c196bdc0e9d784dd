"""What the array API standard lacks, for every array library: the only such place.

Everything else in the core is written against the standard, with the namespace taken
from the data. Functions here may use whatever that namespace brings (NumPy, CuPy and
torch each get their own fast route) and always have a route in the standard alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    to_device,
)

Array = Any  # the standard has no settled static type for "an array of any library"

__all__ = [
    "Array",
    "NotPositiveDefiniteError",
    "add_outer",
    "array_namespace",
    "by_columns",
    "cast_block",
    "cholesky_solve",
    "damped_cholesky",
    "device",
    "indices",
    "kth_largest",
    "mirror",
    "numbers",
    "scatter",
    "take_columns",
    "to_host",
    "top_k_mask",
    "triangular",
]


MIRRORED = 64  # rows of a matrix that are mirrored together, in the cache


class NotPositiveDefiniteError(ArithmeticError):
    """A Cholesky factorisation met a pivot that is not positive."""


def to_host(x: Array) -> np.ndarray:
    """Copy a small array to NumPy, explicitly.

    Only for what is far smaller than the data: a working set, a Gram matrix of chosen
    columns. Nothing of size p passes here inside a loop.
    """
    xp = array_namespace(x)
    if is_numpy_namespace(xp):
        return x
    if is_torch_namespace(xp):
        return x.detach().cpu().numpy()
    if is_cupy_namespace(xp):
        return x.get()
    return np.array(to_device(x, xp.Device("CPU_DEVICE")))


def numbers(*scalars: Array) -> list[float]:
    """Several 0-d arrays as floats, by one transfer: each has the host wait."""
    xp = array_namespace(*scalars)
    if _on_host(scalars[0]):
        return [float(x) for x in scalars]
    return to_host(xp.stack([xp.astype(x, xp.float64) for x in scalars])).tolist()


def _on_host(x: Array) -> bool:
    xp = array_namespace(x)
    if is_torch_namespace(xp):
        return x.device.type == "cpu"
    return not is_cupy_namespace(xp)


def strided(X: Array) -> bool:
    """Whether a product with X would copy it whole: CuPy's take no other strides."""
    if not is_cupy_namespace(array_namespace(X)):
        return False
    return not (X.flags.c_contiguous or X.flags.f_contiguous)


def by_columns(X: Array) -> bool:
    """Whether neighbours in a column of X are nearer in memory than those in a row."""
    xp = array_namespace(X)
    if is_torch_namespace(xp):
        steps = X.stride()
    elif is_numpy_namespace(xp) or is_cupy_namespace(xp):
        steps = X.strides
    else:
        return False  # the standard does not say
    return abs(steps[0]) < abs(steps[1])


def cast_block(x: Array) -> int:
    """How many numbers of x to work on at a time.

    On a CPU 1 MB, which stays in the cache between the cast and its use; on an
    accelerator enough to make the launches of kernels cheap beside their work.
    """
    return 2**17 if _on_host(x) else 2**26


def indices(mask: Array) -> Array:
    """Positions of the True entries, ascending."""
    return array_namespace(mask).nonzero(mask)[0]


def scatter(size: int, index: Array, values: Array) -> Array:
    """Zeros of length `size`, but ``out[index] = values``; `index` ascending."""
    xp = array_namespace(values)
    out = xp.zeros(size, dtype=values.dtype, device=device(values))
    if index.shape[0] == 0:
        return out
    if is_numpy_namespace(xp) or is_torch_namespace(xp) or is_cupy_namespace(xp):
        out[index] = values
        return out
    # The standard has no integer assignment: look every position up in the index.
    here = xp.arange(size, dtype=index.dtype, device=device(values))
    place = xp.searchsorted(index, here)
    place = xp.where(place == index.shape[0], xp.zeros_like(place), place)
    hit = xp.take(index, place) == here
    return xp.where(hit, xp.take(values, place), out)


def mask_of(size: int, index: Array) -> Array:
    """Return the mask of length `size` that is True at `index`, ascending."""
    xp = array_namespace(index)
    return scatter(size, index, xp.ones_like(index, dtype=xp.float64)) > 0


def take_columns(X: Array, index: Array) -> Array:
    """X[:, index] as a copy."""
    xp = array_namespace(X)
    if is_numpy_namespace(xp):
        # Twice as fast as `take`, which copies all of X first if its rows are not
        # contiguous.
        return X[:, index]
    return xp.take(X, index, axis=1)


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


def kth_largest(x: Array, k: int) -> Array:
    """Return the k-th largest entry of a vector, 1 <= k <= size, as a 0-d array.

    O(p) where the library has a selection (NumPy, torch); a sort elsewhere.
    """
    xp = array_namespace(x)
    p = x.shape[0]
    if is_numpy_namespace(xp) or is_cupy_namespace(xp):
        return xp.partition(x, p - k)[p - k]
    if is_torch_namespace(xp) and _on_host(x):
        return xp.kthvalue(x, p - k + 1).values
    if is_torch_namespace(xp):
        # On a device kthvalue keeps one block of threads busy, whatever p is, and is
        # refused where deterministic algorithms are asked for; topk is not.
        return xp.min(xp.topk(x, k, sorted=False).values)
    return xp.sort(x)[p - k]


def top_k_mask(score: Array, k: int) -> Array:
    """Mask of the k largest scores, ties to the lowest index. O(p), one selection."""
    xp = array_namespace(score)
    p = score.shape[0]
    if k >= p:
        return xp.ones_like(score, dtype=xp.bool)
    if k <= 0:
        return xp.zeros_like(score, dtype=xp.bool)
    tau = kth_largest(score, k)
    mask = score >= tau
    if _on_host(score) and int(xp.count_nonzero(mask)) == k:
        return mask
    # If more entries equal tau than there is room for, the first of them stay. (On an
    # accelerator this always runs: asking whether it need not would wait for it.)
    above = score > tau
    ties = mask & ~above
    room = k - xp.count_nonzero(above)
    rank = xp.cumulative_sum(xp.astype(ties, xp.int64))
    return above | (ties & (rank <= room))


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
    trusted = sure and not _on_host(G)
    first = 8 * max(G.shape[0], 1) * float(xp.finfo(xp.float64).eps)
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
            mirror(unit.T)  # what the factor has left of it
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

    With pivots lost in rounding it is none: it would solve nothing. CuPy tells whether
    it is only to those who `wait`. On the host it takes the memory of M, of which what
    is below the diagonal stays.
    """
    xp = array_namespace(M)
    floor = 4 * M.shape[0] * float(xp.finfo(M.dtype).eps) * xp.linalg.diagonal(M)
    good: Array = True
    if is_numpy_namespace(xp):
        (potrf,) = scipy.linalg.get_lapack_funcs(("potrf",), (M,))
        # LAPACK works in place on columns; M is symmetric.
        L, info = potrf(M.T, lower=True, clean=False, overwrite_a=True)
        good = info == 0
    elif is_torch_namespace(xp):
        L, info = xp.linalg.cholesky_ex(M)
        good = info == 0
    elif is_cupy_namespace(xp):
        from cupyx import errstate

        # What cuSOLVER leaves of a factor that fails is not said; that it failed is, to
        # those who wait.
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
    if is_numpy_namespace(xp) or is_torch_namespace(xp) or is_cupy_namespace(xp):
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

        # array_api_compat's own takes R, which comes alone, apart row by row.
        return cupy.linalg.qr(M, mode="r")
    return xp.linalg.qr(M)[1]


def cholesky_solve(L: Array, B: Array) -> Array:
    """Solve ``L L' X = B`` for a lower factor L; B is a vector or a matrix."""
    xp = array_namespace(L)
    if is_numpy_namespace(xp):
        return scipy.linalg.cho_solve((L, True), B, check_finite=False)
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
