"""Least squares with exactly k features, compatible with scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._moments import Moments, WeightedRows, moments
    from .criteria import aic, bic, ebic
    from .cv import ChitaRegressorCV
    from .path import ChitaPath, chita_path
    from .plotting import CVDisplay, PathDisplay
    from .regressor import ChitaRegressor
    from .selector import ChitaSelector

__version__ = "0.2.0"

__all__ = [
    "CVDisplay",
    "ChitaPath",
    "ChitaRegressor",
    "ChitaRegressorCV",
    "ChitaSelector",
    "Moments",
    "PathDisplay",
    "WeightedRows",
    "__version__",
    "aic",
    "bic",
    "chita_path",
    "ebic",
    "moments",
]

_ROOMS = {
    # Not "moments": the room would hide the function of that name.
    "_moments": ("Moments", "WeightedRows", "moments"),
    "criteria": ("aic", "bic", "ebic"),
    "cv": ("ChitaRegressorCV",),
    "path": ("ChitaPath", "chita_path"),
    "plotting": ("CVDisplay", "PathDisplay"),
    "regressor": ("ChitaRegressor",),
    "selector": ("ChitaSelector",),
}


def __getattr__(name: str) -> object:
    # Names are loaded on first use, so that `chita_sklearn.core` can be imported
    # without scikit-learn.
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
