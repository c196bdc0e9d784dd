"""Restarts: perturb the best support, re-optimise, keep what is better.

A swap-optimal support is not always the best: correlated columns have to change in
groups. A restart drops some coordinates at random, from one to all, lets one random
other in, selects forward up to the size, and swaps to the next local optimum on the
working set. The one stranger makes the refill differ from what was dropped. Of the
perturbations tried (strangers only, noisy forward selection, growing and shrinking,
crossing good supports, dropping half at most) this one came closest to the best known
residuals on real problems, in the least time.

Counting only the restarts in a row that gain nothing puts the effort where it pays: on
easy problems the search ends after `n_restarts`, on hard ones it goes on while it
improves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .problem import LeastSquares
from .swaps import WorkingSet

COLUMNS = 8192  # of a working set at most
# Numbers per restart in a working set's gain matrix (m k) and columns (m n): a restart
# computes the first some five times and a product with the second about as often.
MEMORY = 2**21  # numbers of A that a working set may copy, if not a tenth of them all
GAINS, ENTRIES = 2e3, 1e5


class Restarts:
    """A `Search` by perturbation.

    Parameters
    ----------
    n_restarts : int
        Stop after this many perturbations in a row without improvement.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Attributes
    ----------
    done : int
        Perturbations made.
    """

    def __init__(self, n_restarts: int, rng: np.random.Generator) -> None:
        self.n_restarts = n_restarts
        self.done = 0
        self._failed = 0
        self._rng = rng

    def room(self, problem: LeastSquares, k: int) -> int:
        """More columns for more restarts: those left out can never be found."""
        n, total = problem.n_rows, self.n_restarts
        copied = max(MEMORY, n * problem.p // 10)
        return int(min(GAINS * total / k, ENTRIES * total / n, copied / n, COLUMNS))

    def __call__(
        self, W: WorkingSet, S: np.ndarray, stop: Callable[[np.ndarray], bool]
    ) -> np.ndarray:
        """Return the best support found; S itself where none is better."""
        best = W.value(S)
        while self._failed < self.n_restarts:
            if len(S) == len(W.members) or W.locked[S].all():
                break
            self.done += 1
            self._failed += 1
            new, _ = W.improve(self._perturb(W, S), max_swaps=20 * len(S) + 100)
            value = W.value(new)
            if value > best * (1 + 1e-10):
                S, best, self._failed = new, value, 0
            if stop(S):
                break
        return S

    def _perturb(self, W: WorkingSet, S: np.ndarray) -> np.ndarray:
        rng, m = self._rng, len(W.members)
        few = int(rng.integers(1, len(S) + 1))
        kept = np.zeros(m, dtype=bool)
        kept[S] = True
        outside = np.flatnonzero(~kept)
        loose = S[~W.locked[S]]
        kept[rng.choice(loose, size=min(few, len(loose)), replace=False)] = False
        score = np.zeros(m)
        score[outside] = rng.random(len(outside)) + 1.0
        allowed = W.may_join(kept, score)
        stranger = rng.choice(np.flatnonzero(allowed), size=1)
        return W.forward(np.append(np.flatnonzero(kept), stranger), W.pattern.size)
