"""Restarts: perturb the best support, re-optimise, keep what is better.

A swap-optimal support is not always the best: correlated columns have to change in
groups. A restart drops a few coordinates at random, lets as many random others in, and
swaps to the next local optimum on the working set; the best support so far is the one
perturbed.
"""

from __future__ import annotations

import numpy as np

from .swaps import WorkingSet


class Restarts:
    """A search for `swaps`: perturbations of one working set's best support.

    Parameters
    ----------
    n_restarts : int
        How many perturbations in all, over every working set.
    rng : numpy.random.Generator
        Where the randomness comes from.
    """

    def __init__(self, n_restarts: int, rng: np.random.Generator) -> None:
        self.left = n_restarts
        self.rng = rng
        self.improved = 0

    def __call__(self, W: WorkingSet, S: np.ndarray) -> np.ndarray:
        """Return the best support found; S itself where none is better."""
        best = W.value(S)
        while self.left > 0 and 0 < len(S) < len(W.members):
            self.left -= 1
            new, _ = W.improve(self.perturb(W, S), max_swaps=20 * len(S) + 100)
            value = W.value(new)
            if value > best * (1 + 1e-10):
                S, best = new, value
                self.improved += 1
        return S

    def perturb(self, W: WorkingSet, S: np.ndarray) -> np.ndarray:
        """Exchange a random few of S for random others, inside the pattern."""
        rng = self.rng
        few = int(rng.integers(1, max(2, len(S) // 3) + 1))
        score = rng.random(len(W.members))
        score[S] += 1.0  # above all others: best_mask keeps S ...
        score[rng.choice(S, size=few, replace=False)] -= 2.0  # ... but for a few
        return np.flatnonzero(W.pattern.best_mask(score))
