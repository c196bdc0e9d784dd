"""Where a search begins: supports chosen without searching."""

from __future__ import annotations

from .arrays import Array
from .patterns.matroids import Pattern
from .problem.base import Rows

NEAR = 1e-6  # of the gradient's length at w_bar: enough to rank the coefficients


def magnitude(problem: Rows, pattern: Pattern) -> Array:
    """Return the support of the largest |w_bar|. O(p)."""
    xp = problem.xp
    prior = problem.zeros(problem.p) if problem.prior is None else problem.prior
    return problem.space.best_mask(pattern, xp.abs(prior))


def correlation(problem: Rows, pattern: Pattern) -> Array:
    """Return the support whose coordinates, each alone, lower n F the most.

    One product with A'.
    """
    score = problem.correlation() ** 2 / metric(problem)
    return problem.space.best_mask(pattern, score)


def dense(problem: Rows, pattern: Pattern, w: Array) -> Array:
    """Return the support of the unconstrained minimiser w, by (h_j + mu) w_j^2.

    The right one when the model is trusted near w_bar only, as in staged pruning.
    """
    return problem.space.best_mask(pattern, metric(problem) * w**2)


def conjugate_gradients(problem: Rows, max_iter: int) -> tuple[Array, int]:
    """Return about the unconstrained minimiser of n F, and the steps to it from w_bar.

    CGLS (Bjorck, Numerical Methods for Least Squares Problems, 1996, 7.4.1) in the
    coordinates v = sqrt(h + mu) w. Two passes over A a step, and no matrix beside it.
    """
    xp, dot = problem.xp, problem.space.dot
    size = 1 / xp.sqrt(metric(problem))
    w_bar = problem.zeros(problem.p) if problem.prior is None else problem.prior
    shift, r = xp.zeros_like(w_bar), problem.residual(w_bar)  # w - w_bar, b - A w
    down = size * problem.rmatvec(r)
    step, left = down, dot(down, down)
    enough, t = NEAR**2 * left, 0
    while t < max_iter and bool(left > enough):
        t += 1
        delta = size * step
        moved = problem.matvec(delta)
        rate = left / (moved @ moved + problem.mu * dot(delta, delta))
        shift, r = shift + rate * delta, r - rate * moved
        down = size * (problem.rmatvec(r) - problem.mu * shift)
        before, left = left, dot(down, down)
        step = down + (left / before) * step
    return w_bar + shift, t


def metric(problem: Rows) -> Array:
    """h_j + mu, the curvature of n F along each coordinate; 1 where it is 0."""
    xp = problem.xp
    curvature = problem.column_norms() + problem.mu
    return xp.where(curvature > 0, curvature, xp.ones_like(curvature))
