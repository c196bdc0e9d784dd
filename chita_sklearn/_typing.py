"""Static types of what the public API takes and returns."""

from __future__ import annotations

from typing import Any, Literal

from .core import Solver

Array = Any  # the array API has no settled static type

TargetSupport = Literal["separate", "shared", "pooled"]
Criterion = Literal["cv", "aic", "bic", "ebic"]
Selection = Literal["best", "one_se"]
PathKind = Literal["coefficients", "objective"]

__all__ = ["Array", "Criterion", "PathKind", "Selection", "Solver", "TargetSupport"]
