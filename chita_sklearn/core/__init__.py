"""The l0 solver: arrays and scalars in, a `Solution` out; no scikit-learn inside."""

from .certificate import relative_gap, reported
from .deadline import Deadline
from .improvers.targets import fit_support
from .path import (
    degrees_of_freedom,
    residual_sum_of_squares,
    solve_path,
    sweep_path,
)
from .patterns.groups import Groups
from .patterns.matroids import (
    Cardinality,
    Including,
    NOfM,
    Pattern,
    PerBlock,
    WithFloor,
)
from .plans import SOLVERS, Solver
from .problem.block_diagonal import BlockLeastSquares
from .problem.factored import Factored
from .problem.least_squares import LeastSquares
from .problem.many_targets import BlockDiagonal, ManyTargets
from .problem.several_targets import SeveralTargets, least_squares
from .problem.sharded import Collective, Sharded, ShardedSpace
from .solution import Proof, Solution, Status
from .solve import solve

__all__ = [
    "SOLVERS",
    "BlockDiagonal",
    "BlockLeastSquares",
    "Cardinality",
    "Collective",
    "Deadline",
    "Factored",
    "Groups",
    "Including",
    "LeastSquares",
    "ManyTargets",
    "NOfM",
    "Pattern",
    "PerBlock",
    "Proof",
    "SeveralTargets",
    "Sharded",
    "ShardedSpace",
    "Solution",
    "Solver",
    "Status",
    "WithFloor",
    "degrees_of_freedom",
    "fit_support",
    "least_squares",
    "relative_gap",
    "reported",
    "residual_sum_of_squares",
    "solve",
    "solve_path",
    "sweep_path",
]
