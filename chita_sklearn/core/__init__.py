"""The l0 solver: arrays and scalars in, a `Solution` out; no scikit-learn inside."""

from .patterns import Cardinality, NOfM, Pattern, PerBlock, WithFloor
from .problem import LeastSquares
from .solution import Solution, Status
from .solve import SOLVERS, solve

__all__ = [
    "SOLVERS",
    "Cardinality",
    "LeastSquares",
    "NOfM",
    "Pattern",
    "PerBlock",
    "Solution",
    "Status",
    "WithFloor",
    "solve",
]
