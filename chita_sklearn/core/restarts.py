"""Restarts: perturb the best support, re-optimise, keep what is better.

A swap-optimal support is not always the best: correlated columns have to change in
groups. A restart drops up to half of the coordinates at random, lets one random other
in, selects forward up to the size, and swaps to the next local optimum on the working
set. The one stranger makes the refill differ from what was dropped. Of the
perturbations tried (strangers only, noisy forward selection, growing and shrinking,
crossing good supports) this one reached the best known residual on most real problems,
and in the least time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .problem import LeastSquares
from .swaps import WorkingSet

COLUMNS = 8192  # of a working set at most
# Numbers per restart in a working set's gain matrix (m k) and columns (m n): a restart
# computes the first some five times and a product with the second about as often.
GAINS, ENTRIES = 3e3, 1e5


class Restarts:
    """A `Search` by perturbation.

    Parameters
    ----------
    n_restarts : int
        How many perturbations in all, over every working set.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Attributes
    ----------
    left : int
        Perturbations not used yet.
    improved : int
        How many led to a better support.
    """

    def __init__(self, n_restarts: int, rng: np.random.Generator) -> None:
        self.left = n_restarts
        self.improved = 0
        self._rng = rng

    def room(self, problem: LeastSquares, k: int) -> int:
        """More columns for more restarts: those left out can never be found."""
        n, total = problem.n_rows, self.left
        copied = max(2**21, n * problem.p // 4)  # numbers: memory for A_W
        room = min(GAINS * total / k, ENTRIES * total / n, copied / n, COLUMNS)
        return int(room)

    def __call__(
        self, W: WorkingSet, S: np.ndarray, stop: Callable[[np.ndarray], bool]
    ) -> np.ndarray:
        """Return the best support found; S itself where none is better."""
        best = W.value(S)
        while self.left > 0 and len(S) < len(W.members) and not W.locked[S].all():
            self.left -= 1
            new, _ = W.improve(self._perturb(W, S), max_swaps=20 * len(S) + 100)
            value = W.value(new)
            if value > best * (1 + 1e-10):
                S, best = new, value
                self.improved += 1
            if stop(S):
                break
        return S

    def _perturb(self, W: WorkingSet, S: np.ndarray) -> np.ndarray:
        rng, m = self._rng, len(W.members)
        few = int(rng.integers(1, max(2, len(S) // 2) + 1))
        kept = np.zeros(m, dtype=bool)
        kept[S] = True
        outside = np.flatnonzero(~kept)
        loose = S[~W.locked[S]]
        kept[rng.choice(loose, size=min(few, len(loose)), replace=False)] = False
        # What best_mask adds to the kept ones may join them in any pattern.
        score = np.where(kept, np.inf, 0.0)
        score[outside] = rng.random(len(outside)) + 1.0
        allowed = W.pattern.best_mask(score) & ~kept
        stranger = rng.choice(np.flatnonzero(allowed), size=1)
        return W.forward(np.append(np.flatnonzero(kept), stranger), W.pattern.size)
