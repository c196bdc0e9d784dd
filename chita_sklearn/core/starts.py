"""Where a search begins: supports chosen without searching."""

from __future__ import annotations

from .arrays import Array
from .patterns import Pattern
from .quadratic import Quadratic
from .support_solver import SupportSolver


def magnitude(problem: Quadratic, pattern: Pattern) -> Array:
    """Return the support of the largest |w_bar|. O(p)."""
    xp = problem.xp
    prior = problem.zeros(problem.p) if problem.prior is None else problem.prior
    return pattern.best_mask(xp.abs(prior))


def correlation(problem: Quadratic, pattern: Pattern) -> Array:
    """Return the support whose coordinates, each alone, lower n F the most.

    One product with A'.
    """
    return pattern.best_mask(problem.correlation() ** 2 / metric(problem))


def dense(problem: Quadratic, pattern: Pattern, solver: SupportSolver) -> Array:
    """Return the support of the unconstrained minimiser w, by (h_j + mu) w_j^2.

    The right one when the model is trusted near w_bar only, as in staged pruning. Costs
    the backsolve on all coordinates: one product A A' (p > n) or A'A.
    """
    ones = problem.xp.ones_like(problem.zeros(problem.p))
    w = solver(ones).w
    return pattern.best_mask(metric(problem) * w**2)


def metric(problem: Quadratic) -> Array:
    """h_j + mu, the curvature of n F along each coordinate; 1 where it is 0."""
    xp = problem.xp
    curvature = problem.column_norms() + problem.mu
    return xp.where(curvature > 0, curvature, xp.ones_like(curvature))
