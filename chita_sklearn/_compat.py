"""scikit-learn's private names, and the little that is built on them: only here.

A scikit-learn release may rename anything imported below; then this file changes and
no other. What scikit-learn documents as public is imported where it is used.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils._array_api import (
    _is_numpy_namespace,
    _max_precision_float_dtype,
    check_same_namespace,
    get_namespace,
    get_namespace_and_device,
    move_to,
)
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import _raise_for_params, _routing_enabled
from sklearn.utils.validation import _check_method_params, _check_sample_weight

__all__ = [
    "Interval",
    "InvalidParameterError",
    "Number",
    "StrOptions",
    "_check_method_params",
    "_check_sample_weight",
    "_fit_context",
    "_raise_for_params",
    "_routing_enabled",
    "check_same_namespace",
    "float_dtypes",
    "follow",
    "get_namespace",
    "get_namespace_and_device",
    "move_to",
    "on_host",
    "refuse_device_arrays",
    "validate_parameter_constraints",
]

# Device types of the DLPack protocol whose memory the host can read.
_HOST_DEVICE_TYPES = (1, 3, 11)  # CPU, CUDA pinned host, ROCm pinned host


class Number(Interval):
    """An interval of numbers that True and False are not in."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Whether `val` is a number of the interval, and not a bool."""
        return not isinstance(val, bool) and super().is_satisfied_by(val)


def float_dtypes(xp: Any, device: Any) -> list[Any]:
    """Dtypes to compute in: float64 is the default, float32 is kept.

    float32 alone where the device has nothing wider.
    """
    widest = _max_precision_float_dtype(xp, device)
    return [xp.float32] if widest == xp.float32 else [xp.float64, xp.float32]


def follow(array: Any, xp: Any, device: Any) -> Any:
    """Move an input to the array library and device of X; None and numbers stay.

    `move_to` alone takes arrays only where X is on torch (a list fails there).
    """
    if array is None or isinstance(array, numbers.Number):
        return array
    if not hasattr(array, "__dlpack__"):  # a list, a Series, ...
        if _is_numpy_namespace(xp):
            return array  # scikit-learn's validation knows best how to read it
        array = np.asarray(array)
    return move_to(array, xp=xp, device=device)


def refuse_device_arrays(caller: str, **arrays: Any) -> None:
    """Raise TypeError for an array in GPU memory while array API dispatch is off.

    Without dispatch scikit-learn turns every input into NumPy. The array library then
    complains of an implicit copy, which says nothing of the setting that is missing.
    """
    if get_config()["array_api_dispatch"]:
        return
    for name, array in arrays.items():
        if not hasattr(array, "__dlpack_device__"):
            continue
        if array.__dlpack_device__()[0] in _HOST_DEVICE_TYPES:
            continue
        library = type(array).__module__.split(".")[0]
        msg = (
            f"{name} is a {library} array in the memory of a device, and {caller} "
            "computes on it only with scikit-learn's array API dispatch. Set the "
            "environment variable SCIPY_ARRAY_API=1 before the first import of scipy "
            "or scikit-learn, then call sklearn.set_config(array_api_dispatch=True); "
            f"or copy {name} to the host as a NumPy array."
        )
        raise TypeError(msg)


def on_host(value: Any) -> Any:
    """Copy an attribute to NumPy; what is no array stays as it is."""
    if isinstance(value, list):
        return [on_host(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.copy()
    if not hasattr(value, "__dlpack__"):
        return value
    host = move_to(value, xp=get_namespace(np.empty(0))[0], device="cpu")
    return np.array(host)[()]  # a 0-d array becomes a NumPy scalar
