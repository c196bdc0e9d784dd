"""scikit-learn's private names, and what releases differ in: only here.

A scikit-learn release may rename anything imported below; then this file changes and
no other. What scikit-learn documents as public, since 1.6, is imported where it is
used. Callbacks are there from 1.9 on: before, a fit reports to nobody.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sklearn import config_context, get_config
from sklearn.utils import _array_api, _safe_indexing
from sklearn.utils._array_api import (
    _convert_to_numpy,
    _is_numpy_namespace,
    _max_precision_float_dtype,
    get_namespace,
    get_namespace_and_device,
)
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import _raise_for_params, _routing_enabled
from sklearn.utils.validation import (
    _check_method_params,
    _check_sample_weight,
    _get_feature_names,
)

if TYPE_CHECKING:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.utils._array_api import check_same_namespace, move_to

    Method = TypeVar("Method", bound=Callable[..., Any])

    # These have no types of their own, and would hide those of what they decorate.
    def with_callbacks(fit: Method) -> Method: ...
    def _fit_context(
        *, prefer_skip_nested_validation: bool
    ) -> Callable[[Method], Method]: ...
    def available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]: ...
else:
    from sklearn.base import _fit_context
    from sklearn.utils.metaestimators import available_if

    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks
    except ImportError:  # before scikit-learn 1.9

        class CallbackSupportMixin:
            """A fit without callbacks."""

            def _init_callback_context(self, **_):
                return _NoTask()

        class _NoTask:
            """A task that reports to nobody and is never asked to stop."""

            def subcontext(self, **_):
                return self

            def call_on_fit_task_begin(self, **_):
                return None

            def call_on_fit_task_end(self, **_):
                return False

        def with_callbacks(fit):
            """Wrap a fit, so that warnings find their caller as many frames up."""

            @functools.wraps(fit)
            def wrapped(*args, **kwargs):
                return fit(*args, **kwargs)

            return wrapped

    try:
        from sklearn.utils._array_api import check_same_namespace, move_to
    except ImportError:  # before scikit-learn 1.8 or 1.9

        def move_to(array, *, xp, device):
            """Move one array to another namespace and device, through the host."""
            own, _, where = get_namespace_and_device(array)
            if own == xp and where == device:
                return array
            host = _convert_to_numpy(array, own)
            return host if _is_numpy_namespace(xp) else xp.asarray(host, device=device)

        def check_same_namespace(X, estimator, *, attribute, method):
            """Raise where X is not of the array library and device of the fit."""
            if not get_config()["array_api_dispatch"]:
                return
            fitted, _, at = get_namespace_and_device(getattr(estimator, attribute))
            given, _, here = get_namespace_and_device(X)
            both_numpy = _is_numpy_namespace(fitted) and _is_numpy_namespace(given)
            if not both_numpy and (fitted != given or at != here):
                text = (
                    f"Inputs passed to {type(estimator).__name__}.{method}() must use "
                    "the same namespace and the same device as those passed to fit(): "
                    f"{fitted.__name__} on {at}, and not {given.__name__} on {here}."
                )
                raise ValueError(text)


# Whether scikit-learn dispatches all that an estimator needs: its own helpers, above,
# and the validation of weights. Before 1.9 it does so for some libraries only.
HAS_ARRAY_API = hasattr(_array_api, "check_same_namespace")

__all__ = [
    "HAS_ARRAY_API",
    "CallbackSupportMixin",
    "Interval",
    "InvalidParameterError",
    "Number",
    "StrOptions",
    "_check_method_params",
    "_fit_context",
    "_get_feature_names",
    "_raise_for_params",
    "_routing_enabled",
    "_safe_indexing",
    "available_if",
    "check_same_namespace",
    "check_weights",
    "float_dtypes",
    "follow",
    "get_namespace",
    "get_namespace_and_device",
    "move_to",
    "on_host",
    "refuse_device_arrays",
    "validate_parameter_constraints",
    "with_callbacks",
]

# Device types of the DLPack protocol whose memory the host can read.
_HOST_DEVICE_TYPES = (1, 3, 11)  # CPU, CUDA pinned host, ROCm pinned host


class Number(Interval):
    """An interval of numbers that True and False are not in."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Whether `val` is a number of the interval, and not a bool."""
        return not isinstance(val, bool) and super().is_satisfied_by(val)


# Weights that are all zero have an error of their own, with a remedy.
_ZEROS = "allow_all_zero_weights"
_options = {_ZEROS: True}
if _ZEROS not in inspect.signature(_check_sample_weight).parameters:
    _options = {}  # before scikit-learn 1.8: they are let through
check_weights: Callable[..., Any] = functools.partial(_check_sample_weight, **_options)


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
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.copy()
    if not hasattr(value, "__dlpack__"):
        return value
    with config_context(array_api_dispatch=True):
        host = move_to(value, xp=get_namespace(np.empty(0))[0], device="cpu")
    return np.array(host)[()]  # a 0-d array becomes a NumPy scalar
