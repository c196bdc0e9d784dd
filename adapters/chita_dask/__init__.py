"""Least squares with exactly k features on dask collections.

The rows stay where they are: each partition becomes the `Moments` of its rows, a tree
of pure tasks merges them, and the client solves.
"""

from .collect import moments
from .regressor import DaskChitaRegressor, DaskChitaRegressorCV

__all__ = ["DaskChitaRegressor", "DaskChitaRegressorCV", "moments"]
