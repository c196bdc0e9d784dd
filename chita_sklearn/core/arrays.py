"""What the array API standard lacks, for every array library: the only such place.

Everything else in the core is written against the standard, with the namespace taken
from the data. Functions here may use whatever that namespace brings (NumPy, CuPy and
torch each get their own fast route) and always have a route in the standard alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace as namespace_of
from array_api_compat import (
    device,
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    to_device,
)

Array = Any  # the standard has no settled static type for "an array of any library"

__all__ = [
    "Array",
    "array_namespace",
    "by_columns",
    "cast_block",
    "device",
    "indices",
    "kth_largest",
    "numbers",
    "scatter",
    "take_columns",
    "to_host",
    "top_k_mask",
]


_NUMPY = namespace_of(np.empty(0))
MILLIONS = 2**20  # numbers from which on a selection of torch's on the host takes long


def array_namespace(*arrays: Array) -> Any:
    """Return the namespace of some arrays.

    A solve asks some hundred times, which on small problems takes notable time: NumPy's
    own arrays are known at once.
    """
    if type(arrays[0]) is np.ndarray and len(arrays) == 1:
        return _NUMPY
    return namespace_of(*arrays)


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
    """Several 0-d arrays as floats, in one transfer: the host waits for each."""
    xp = array_namespace(*scalars)
    if on_host(scalars[0]):
        return [float(x) for x in scalars]
    return to_host(xp.stack([xp.astype(x, xp.float64) for x in scalars])).tolist()


def on_host(x: Array) -> bool:
    xp = array_namespace(x)
    if xp is _NUMPY:
        return True
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
    accelerator so many that launching a kernel takes little of its time.
    """
    return 2**17 if on_host(x) else 2**26


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


def kth_largest(x: Array, k: int) -> Array:
    """Return the k-th largest entry of a vector, 1 <= k <= size, as a 0-d array.

    O(p) where the library has a selection (NumPy, torch); a sort elsewhere.
    """
    xp = array_namespace(x)
    p = x.shape[0]
    if is_numpy_namespace(xp) or is_cupy_namespace(xp):
        return xp.partition(x, p - k)[p - k]
    if is_torch_namespace(xp) and on_host(x):
        if p < MILLIONS or x.dtype == xp.bfloat16:  # which NumPy does not know
            return xp.kthvalue(x, p - k + 1).values
        # Four times as fast as kthvalue, and NaN is the largest for both.
        tau = np.partition(to_host(x), p - k)[p - k]
        return xp.asarray(tau, device=device(x))
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
    if on_host(score) and int(xp.count_nonzero(mask)) == k:
        return mask
    # If more entries equal tau than there is room for, the first of them stay. (On an
    # accelerator this always runs: asking whether it need not would wait for it.)
    above = score > tau
    ties = mask & ~above
    room = k - xp.count_nonzero(above)
    rank = xp.cumulative_sum(xp.astype(ties, xp.int64))
    return above | (ties & (rank <= room))
