"""The l0 solver: arrays and scalars in, a `Solution` out; no scikit-learn inside."""

from .patterns.matroids import Cardinality, NOfM, Pattern, PerBlock, WithFloor
from .plans import SOLVERS
from .problem.block_diagonal import BlockLeastSquares
from .problem.least_squares import LeastSquares
from .solution import Solution, Status
from .solve import solve

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
