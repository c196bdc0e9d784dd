"""What a solver returns: coefficients, what is known of them, why it stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from .arrays import Array
from .certificate import relative_gap


class Status(Enum):
    """Why a solver stopped. The values are messages for people."""

    OPTIMAL = "The solution is proven optimal."
    CONVERGED = "No improver finds a better solution."
    WITHIN_TOL = "The certified gap is within tol."
    MAX_ITER = (
        "The iteration limit was reached before the search, or the proof of "
        "solver='exact', was finished. Raise max_iter, or accept the solution: its "
        "objective and gap are exact."
    )
    STOPPED = "The caller asked to stop."
    TIME_LIMIT = "The time limit was reached; the objective and the bound are exact."
    NOT_UNIQUE = (
        "The chosen columns are linearly dependent and ridge = 0, so many coefficient "
        "vectors fit equally well. The one returned has nearly the smallest norm "
        "(columns scaled to length 1); set ridge > 0 to make the answer unique."
    )


@dataclass(frozen=True)
class Solution:
    """A feasible point of min n F(w) subject to a sparsity pattern.

    Attributes
    ----------
    coef : array of shape (p,)
        The coefficients w.
    support : array of bool, shape (p,)
        The support that was solved for. Coefficients outside are exactly zero; inside,
        a coefficient may be zero too (a column of zeros, say).
    objective : float
        n F(w), ridge term included.
    lower_bound : float
        A value that no feasible point can fall below; -inf where none is known.
    n_iter : int
        Outer iterations done, all improvers together; at least 1.
    status : Status
        Why the solver stopped.
    fixed : tuple of two masks, or None
        Coordinates that every better support must contain, and those that none can
        (proven by the bound): a search may leave them alone.
    history : tuple of str
        What ran, in order, and what each step reached.
    met : tuple of tuples of int
        Local optima that a search has met besides, the best first, as indices.
    others : tuple of Solution
        The next best supports, where they were asked for, the best first.
    """

    coef: Array
    support: Array
    objective: float
    lower_bound: float = -math.inf
    n_iter: int = 1
    status: Status = Status.CONVERGED
    fixed: tuple[Array, Array] | None = None
    history: tuple[str, ...] = ()
    met: tuple[tuple[int, ...], ...] = ()
    others: tuple[Solution, ...] = ()

    @property
    def gap(self) -> float:
        """See `relative_gap`."""
        return relative_gap(self.objective, self.lower_bound)


def with_bound(solution: Solution, bound: float) -> Solution:
    """Attach the larger of two lower bounds; never above the objective."""
    bound = max(bound, solution.lower_bound)
    return replace(solution, lower_bound=min(bound, solution.objective))


class Proof(NamedTuple):
    """How far a proof by branch and bound is.

    Attributes
    ----------
    objective, lower_bound : float
        n F of the best solution, and what no solution falls below.
    nodes : int
        Nodes closed or queued so far.
    seconds : float
        Of the wall clock, for these.
    """

    objective: float
    lower_bound: float
    nodes: int
    seconds: float

    @property
    def gap(self) -> float:
        """See `relative_gap`."""
        return relative_gap(self.objective, self.lower_bound)

    @property
    def nodes_per_second(self) -> float:
        """How fast it goes."""
        return self.nodes / max(self.seconds, 1e-9)
