"""Least squares with exactly k features, in the way of scikit-learn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .regressor import ChitaRegressor

__version__ = "0.1.0"

__all__ = ["ChitaRegressor", "__version__"]


def __getattr__(name: str) -> object:
    # The estimator is loaded on first use, so that `chita_sklearn.core` can be
    # imported without scikit-learn.
    if name == "ChitaRegressor":
        from .regressor import ChitaRegressor

        return ChitaRegressor
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
