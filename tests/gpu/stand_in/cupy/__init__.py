"""CuPy's interface on NumPy's memory: what a machine without a GPU can tell.

An array here refuses what CuPy's refuses: to become a NumPy array unasked, to be mixed
with one, an index out of bounds. What CuPy 14 lacks is lacking, and `asked` counts
what is moved and what has the host wait. Of a GPU's rounding, memory and speed it shows
nothing.
"""

from types import ModuleType as _Module

import numpy as _np

from . import cuda, fft  # noqa: F401
from ._arrays import asked, ndarray, on_arrays, wrap

__version__ = "14.2"

# What NumPy has and CuPy has not.
_LACKING = {
    *("block", "geomspace", "insert", "isnat", "matvec", "nanpercentile", "size"),
    *("nanquantile", "spacing", "unstack", "vecdot", "vecmat", "vectorize"),
    *("errstate", "geterr", "seterr"),
}
for _name in dir(_np):
    _whole = getattr(_np, _name)
    if _name in _LACKING | globals().keys() or isinstance(_whole, _Module):
        continue
    _plain = isinstance(_whole, type) or not callable(_whole)  # a type, a constant
    globals()[_name] = _whole if _plain else on_arrays(_whole)


def array(obj, dtype=None, copy=True, order="K"):
    if isinstance(obj, list | tuple):  # CuPy stacks a list of its arrays
        obj = on_arrays(_np.asarray)(obj)
    if not isinstance(obj, ndarray):
        obj = _np.array(obj, dtype=dtype, order=order)
        asked["put", obj.size] += 1
        return wrap(obj)
    if not copy and dtype in (None, obj.dtype):
        return obj
    return obj.astype(dtype or obj.dtype, order=order)


def asarray(a, dtype=None, order=None, *, copy=None):
    return array(a, dtype, copy, order or "K")


def asnumpy(a):
    return a.get() if isinstance(a, ndarray) else _np.asarray(a)


def nonzero(a):
    return a.nonzero()


def count_nonzero(a, axis=None):
    # NumPy's own has a Python int here before NumPy 2.3.
    return (a != 0).sum(axis)


def take(a, indices, axis=None):
    return a.take(indices, axis)


def sort(a, axis=-1, kind=None):
    a = a.copy()
    a.sort(axis, kind)
    return a


def argsort(a, axis=-1, kind=None):
    return a.argsort(axis, kind)


def partition(a, kth, axis=-1):
    a = a.copy()
    a.partition(kth, axis)
    return a


def from_dlpack(array, *, device=None, copy=None):
    raise TypeError("CPU arrays cannot be directly imported to CuPy.")


from . import linalg  # noqa: E402, F401, it reads what is above

__all__ = [_name for _name in globals() if not _name.startswith("_")]
