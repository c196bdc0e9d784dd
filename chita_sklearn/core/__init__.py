"""The l0 solver: arrays and scalars in, a `Solution` out; no scikit-learn inside."""

from .blocks import BlockLeastSquares
from .patterns import Cardinality, NOfM, Pattern, PerBlock, WithFloor
from .problem import LeastSquares
from .solution import Solution, Status
from .solve import SOLVERS, solve

__all__ = [
    "SOLVERS",
    "BlockLeastSquares",
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
