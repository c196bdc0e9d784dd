"""A population of supports: walkers go from mixtures of the best ones met.

What good supports share is kept, and what they differ in is drawn anew (a genetic
algorithm whose individuals are improved by tabu search; Moscato, Caltech C3P report
826, 1989). A step of a walker costs in proportion to the columns it may choose from.
In each round these are a part of the working set only: the members of the population,
and the columns outside whose exchange with a member of one of the best gains most, or
loses least. As supports change so does the part; a round on 256 columns finds about as
much as one on 4,000, in a tenth of the time.
"""

from __future__ import annotations

import numpy as np

from ..linalg import TINY, inverse
from ..search.local_search import backward
from ..search.swap_state import swap_gains
from ..search.walkers import distinct, mixed, randomised_forward, walk
from ..search.working_set import WorkingSet

# Supports that walk together, and steps between two mixings: twice as many of either
# cost twice the time and found as much. Half of the walkers have met their best support
# after 2 to 8 steps, but a tenth after 15: without those, or if a walker stops that has
# found nothing better in 8 steps, answers are worse. The best third is kept and mixed.
WALKERS, STEPS, KEPT = 32, 20, 10
# In a round walkers choose from PART columns, or from PART_EACH for each non-zero
# where that is more.
PART, PART_EACH = 256, 16
MOST = 0.6  # of the working set: where a part would be more, all of it is taken
DRAWN = 1024  # columns, drawn at random, from which the first supports are selected


class Population:
    """Supports of one size on a working set, which evolve by rounds of walkers.

    Parameters
    ----------
    W : WorkingSet
    S : ndarray of int, shape (k,)
        A support, one of the first.
    rng : numpy.random.Generator

    Attributes
    ----------
    elite : ndarray of int, shape (at most `KEPT`, k)
        The best supports met, the best first.
    values : ndarray of shape (len(elite),)
        What they explain.
    """

    def __init__(self, W: WorkingSet, S: np.ndarray, rng: np.random.Generator) -> None:
        self._W, self._rng = W, rng
        self._unit = float(np.max(np.abs(W.g) / np.sqrt(np.maximum(W.h, TINY)))) or 1.0
        self._next = self._starts(S)
        self.elite, self.values = self._next[:0], np.empty(0)
        self._promising: dict[bytes, np.ndarray] = {}
        self._whole: WorkingSet | None = None

    @property
    def alike(self) -> bool:
        """Whether mixing would give nothing new."""
        return len(self.elite if len(self.elite) else self._next) == 1

    def step(self) -> None:
        """Let walkers go from the first supports, later from mixtures of the best."""
        group = self._mixtures() if len(self.elite) > 1 else self._next
        best = self.elite if len(self.elite) else group[:1]
        C, V = self._part(best, group)
        found, values = walk(V, np.searchsorted(C, group), STEPS, self._rng)
        found, values = C[found], values * self._unit**2
        elite, values = distinct(
            np.concatenate([self.elite, found]), np.concatenate([self.values, values])
        )
        self.elite, self.values = elite[:KEPT], values[:KEPT]

    def _part(
        self, best: np.ndarray, group: np.ndarray
    ) -> tuple[np.ndarray, WorkingSet]:
        """Members of the supports, and what gains most beside the best.

        Their indices, ascending, and the problem on them. All, where all are few.
        """
        W, size = self._W, max(PART, PART_EACH * group.shape[1])
        if MOST * len(W.members) <= size:
            C = np.arange(len(W.members))
            self._whole = self._whole or W.part(C, self._unit)
            return C, self._whole
        former, self._promising = self._promising, {}
        for S in best:
            key = S.tobytes()
            known = former.get(key)
            self._promising[key] = promising(W, S, size) if known is None else known
        # The first choice of each, then the second of each, and so on.
        wanted = np.stack(list(self._promising.values())).T.ravel()
        members = np.union1d(best, group)
        wanted = np.concatenate([members, wanted])
        _, first = np.unique(wanted, return_index=True)
        C = np.sort(wanted[np.sort(first)[: max(size, len(members))]])
        return C, W.part(C, self._unit)

    def _mixtures(self) -> np.ndarray:
        """As many mixtures of two of the best supports as there are walkers."""
        draws = self._rng.random((WALKERS, len(self.elite)))
        a, b = np.argsort(draws, axis=1)[:, :2].T
        return mixed(self._W, self.elite[a], self.elite[b], self._rng)

    def _starts(self, S: np.ndarray) -> np.ndarray:
        """Different supports of the size of S: itself, and others selected at random.

        Half of them forward alone, half forward beyond the size and then backward.
        """
        W, C, k, each = self._W, None, len(S), WALKERS // 2
        if len(W.members) > 2 * DRAWN and W.pattern.is_uniform:
            drawn = self._rng.choice(len(W.members), DRAWN, replace=False)
            C = np.union1d(np.flatnonzero(W.locked), drawn)
            W = W.part(C)
        far = max(min(2 * k, len(W.members), W.n_rows - 1), k)
        forward_only = randomised_forward(W, k, each, self._rng)
        beyond = randomised_forward(W, far, each, self._rng)
        back = [backward(W, T) for T in beyond]
        found = [*forward_only, *(T for T in back if len(T) == k)]
        return np.array([S, *(found if C is None else (C[T] for T in found))])


def promising(W: WorkingSet, S: np.ndarray, size: int) -> np.ndarray:
    """The columns whose exchange with one of S gains most, the best first."""
    H = W.H(S, slice(None))
    P = inverse(H[:, S].copy())
    gain = swap_gains(H, P, P @ W.g[S], W.g, W.h, np)
    gain[:, S] = -np.inf
    allowed = W.exchangeable(S)
    if allowed is not None:
        gain[~allowed] = -np.inf
    most = np.max(gain, axis=0)
    top = np.argpartition(-most, size - 1)[:size]
    return top[np.argsort(-most[top], kind="stable")]
