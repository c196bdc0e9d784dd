"""The array of the device that is not there, and NumPy's functions made its own."""

import functools
from collections import Counter

import numpy as np

import cupy

asked = Counter()  # (what, how many numbers) -> times

SCALARS = (bool, int, float, complex, np.generic)
# Keywords that NumPy's functions have and CuPy's have not.
KEYWORDS = {"device", "initial", "kind", "like", "sorted", "stable", "where"}


def unwrap(x):
    """The NumPy array of an argument; NumPy's own are refused, as CuPy refuses them."""
    if isinstance(x, ndarray):
        return x.array
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return type(x)(map(unwrap, x)) if isinstance(x, tuple | list) else x


def wrap(x):
    """What NumPy returned, as CuPy would: with 0-d arrays where NumPy has numbers."""
    if isinstance(x, np.ndarray | np.generic):
        new = object.__new__(ndarray)
        new.array = np.asarray(x)
        return new
    return tuple(map(wrap, x)) if isinstance(x, tuple | list) else x


def on_arrays(function):
    """A function of NumPy's as CuPy has it."""

    @functools.wraps(function, assigned=("__name__",), updated=())
    def call(*args, out=None, **options):
        if refused := KEYWORDS & options.keys():
            raise TypeError(f"unexpected keyword arguments {refused}")
        args, options = unwrap(args), {key: unwrap(x) for key, x in options.items()}
        if out is None:
            return wrap(function(*args, **options))
        function(*args, out=unwrap(out), **options)
        return out[0] if isinstance(out, tuple) else out

    return call


def _check(index, size):
    if index.size and (index.min() < 0 or index.max() >= size):
        raise IndexError("out of bounds: CuPy would wrap the index around")


class ndarray:
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, order="C"):
        self.array = np.empty(shape, dtype, order)

    @property
    def device(self):
        return cupy.cuda.Device(0)

    # To the host, on demand alone.
    def get(self):
        asked["get", self.size] += 1
        return self.array.copy()

    def _number(self):
        asked["number", 1] += 1
        return self.array.reshape(())

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is None or dl_device[0] != 1:
            raise BufferError("there is no device here")
        return self.get().__dlpack__(max_version=max_version)

    def __dlpack_device__(self):
        return (2, 0)  # CUDA's number

    def __bool__(self):
        return bool(self._number())

    def __int__(self):
        return int(self._number())

    def __float__(self):
        return float(self._number())

    def item(self):
        return self._number().item()

    def __repr__(self):
        return repr(self.get())

    def __reduce__(self):
        return cupy.array, (self.get(),)

    def __deepcopy__(self, memo):
        return self.copy()

    # NumPy's functions, given this array.
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            return NotImplemented
        return getattr(cupy, ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function, types, args, options):
        return getattr(cupy, function.__name__)(*args, **options)

    # Places in it.
    def __len__(self):
        return len(self.array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return wrap(self.array[self._index(index)])

    def __setitem__(self, index, value):
        self.array[self._index(index, write=True)] = unwrap(value)

    def _index(self, index, write=False):
        """An index as NumPy takes it; of one number, the view that CuPy makes."""
        parts = []
        for part in index if isinstance(index, tuple) else (index,):
            part = unwrap(part)
            if isinstance(part, np.ndarray) and part.dtype == bool:
                asked["nonzero", 1] += 1
            elif isinstance(part, np.ndarray):
                _check(part, max(self.shape))
                if write and len(np.unique(part)) < part.size:
                    raise IndexError("an index given twice: what is stored is open")
            parts.append(part)
        whole = () if any(part is Ellipsis for part in parts) else (Ellipsis,)
        return (*parts, *whole)

    def take(self, indices, axis=None):
        _check(
            np.asarray(unwrap(indices)), self.size if axis is None else self.shape[axis]
        )
        return wrap(self.array.take(unwrap(indices), axis))

    def nonzero(self):
        asked["nonzero", 1] += 1
        return wrap(np.atleast_1d(self.array).nonzero())

    # Orders: there is one, and only what is contiguous is sorted in place.
    def argsort(self, axis=-1, kind=None):
        _stable(kind)
        return wrap(self.array.argsort(axis, kind="stable"))

    def sort(self, axis=-1, kind=None):
        _stable(kind)
        self._contiguous()
        self.array.sort(axis, kind="stable")

    def partition(self, kth, axis=-1):
        self._contiguous()
        self.array.partition(kth, axis)

    def _contiguous(self):  # CuPy's own refusal, in its words
        if not self.array.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")


def _stable(kind):
    if kind not in (None, "stable"):
        raise ValueError("only the stable sort is supported")


def _take_over(name):
    whole = getattr(np.ndarray, name)

    def operator(self, other):
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        if not isinstance(other, (ndarray, *SCALARS)):
            return NotImplemented
        found = whole(self.array, unwrap(other))
        return self if name.startswith("__i") else wrap(found)

    def method(self, *args, **options):
        args, options = unwrap(args), {key: unwrap(x) for key, x in options.items()}
        return wrap(whole(self.array, *args, **options))

    unary = {"__neg__", "__pos__", "__invert__", "__abs__"}
    if not callable(whole):
        setattr(ndarray, name, property(lambda self: wrap(getattr(self.array, name))))
    else:
        special = name.startswith("__") and name not in unary
        setattr(ndarray, name, operator if special else method)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or"):
    for _prefix in ("", "r", "i"):
        _take_over(f"__{_prefix}{_name}__")
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "matmul", "xor"):
    _take_over(f"__{_name}__")
for _name in (
    *("__neg__", "__pos__", "__invert__", "__abs__", "T", "real", "flags", "shape"),
    *("strides", "dtype", "ndim", "size", "nbytes", "itemsize", "all", "any", "argmax"),
    *("argmin", "astype", "copy", "cumsum", "diagonal", "dot", "fill", "flatten"),
    *("max", "mean", "min", "prod", "ravel", "repeat", "reshape", "round"),
    *("searchsorted", "squeeze", "std", "sum", "swapaxes", "trace", "transpose"),
    *("var", "view"),
):
    _take_over(_name)
