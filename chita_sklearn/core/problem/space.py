"""Sums over the coordinates: the one place where all p of them meet.

The algorithms work on vectors over the coordinates entry by entry. Wherever entries
have to be brought together, in a sum, a maximum or a selection, they ask the `space` of
the problem. Here every coordinate is in one process. A problem whose columns are spread
over several processes brings a space of its own, in which each of these is a collective
operation; no algorithm changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arrays import Array, top_k_mask

if TYPE_CHECKING:
    from ..patterns.matroids import Pattern


class Space:
    """Vectors over the coordinates of a problem, all of them in this process.

    Results are 0-d arrays where the vectors are, so that a device is not waited for.

    Parameters
    ----------
    xp : namespace
        Of the vectors.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def dot(self, x: Array, y: Array) -> Array:
        """Return sum_j x_j y_j."""
        return x @ y

    def sum(self, x: Array) -> Array:
        """Return sum_j x_j."""
        return self.xp.sum(x)

    def sum_over(self, mask: Array, x: Array) -> Array:
        """Return the sum of x_j over the j of a mask."""
        return self.sum(self.xp.where(mask, x, self.xp.zeros_like(x)))

    def max(self, x: Array) -> Array:
        """Return max_j x_j; -inf where there is no j."""
        return self.xp.max(x) if x.shape[0] else self.xp.asarray(-self.xp.inf)

    def min(self, x: Array) -> Array:
        """Return min_j x_j; inf where there is no j."""
        return self.xp.min(x) if x.shape[0] else self.xp.asarray(self.xp.inf)

    def count(self, mask: Array) -> Array:
        """Return how many entries are True."""
        return self.xp.count_nonzero(mask)

    def all(self, mask: Array) -> Array:
        """Whether all entries are True."""
        return self.xp.all(mask)

    def top_k(self, score: Array, k: int) -> Array:
        """Mask of the k largest scores, ties to the lowest index."""
        return top_k_mask(score, k)

    def best_mask(self, pattern: Pattern, score: Array) -> Array:
        """Mask of the support that a pattern allows with the largest score sum."""
        return pattern.best_mask(score)

    def sums_of_best(self, pattern: Pattern, score: Array, *x: Array) -> list[Array]:
        """Return the sum of each x over the support that `best_mask` chooses."""
        chosen = self.xp.astype(self.best_mask(pattern, score), score.dtype)
        return [each @ chosen for each in x]

    def restrict(self, pattern: Pattern, index: Array) -> Pattern:
        """Return a pattern on the coordinates `index` alone, of all processes."""
        return pattern.restrict(index)

    def same(self, number: float) -> float:
        """Return a number that all processes have, but for how it was rounded."""
        return number
