"""Restarts: leave the best support, re-optimise, keep what is better.

A swap-optimal support is not always the best: correlated columns have to change in
groups. Two searches follow each other, the second only where the first says that it
pays:

- A restart drops some coordinates at random, from one to all, lets one random other in,
  selects forward up to the size, and swaps to the next local optimum on the working
  set. The one stranger makes the refill differ from what was dropped. Only the restarts
  in a row that gain nothing are counted: a search that still gains goes on. Of
  the perturbations tried (strangers only, noisy forward selection, growing and
  shrinking, dropping half at most) this came closest to the best known residuals.
- Where many restarts ended elsewhere than at the best support, the problem has many
  local optima; where rows are few, it may have, whatever restarts say. Walkers then go
  from supports selected in several ways, and again and again from mixtures of the best
  supports met: see `population`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..problem.least_squares import LeastSquares
from ..search.local_search import GAINED, forward, improve
from ..search.walkers import together
from ..search.working_set import WorkingSet, spare
from .population import Population

COLUMNS = 8192  # of a working set at most
# Of a working set of m columns a restart computes the m k gains five to a hundred
# times, and a product with its m n numbers as often: for each restart asked for, m k
# may be GAINS and m n ENTRIES at most.
# With a fifth of GAINS, walkers on 4,000 columns miss a third of what they find.
GAINS, ENTRIES = 1e4, 1e5
# Where at least this share of the last restarts led back to the best support, it is
# taken for the best of all: of PROBE, all of them. From NEARLY on, one round of walkers
# that finds nothing is enough. (Digits and solubility with k = 10 end .1 % too high for
# some seeds without it.)
EASY, NEARLY = 0.95, 0.85
PROBE = 10  # restarts in a row without a better support, after which that is judged
MET = 100  # local optima that are kept for those who ask for more than one solution
# About NEEDED k log(p / k) rows are needed to tell supports of k of p columns apart
# (M. Wainwright, IEEE Transactions on Information Theory 55, 2009). Where there are
# fewer, restarts that agree prove little, and walkers go on for longer in proportion.
NEEDED = 2
# A round of walkers counts as ROUND restarts: they end after n_restarts / ROUND rounds
# in a row without a better support, but not before PATIENCE times the rounds that it
# took to find the best one. Where that came late, a better one may come later still.
ROUND, PATIENCE = 3, 2
STALE = 5  # rounds in a row in which a population finds nothing better, and then ends


class Restarts:
    """A `Search` by perturbations, and by walkers where these do not agree.

    Parameters
    ----------
    n_restarts : int
        Stop after this many restarts in a row without improvement, and after a third
        as many rounds of walkers, or two thirds of all rounds.
    rng : numpy.random.Generator
        Where the randomness comes from.
    walkers : bool, default=True
        Whether walkers may follow.

    Attributes
    ----------
    done, better, rounds : int
        Restarts made, those that found a better support, and rounds of walkers.
    """

    def __init__(
        self, n_restarts: int, rng: np.random.Generator, walkers: bool = True
    ) -> None:
        self.n_restarts = n_restarts
        self.done = self.better = 0
        self.rounds = 0
        self._failed, self._walked = 0, not walkers
        self._met: dict[tuple[int, ...], float] = {}
        self._rng = rng

    def room(self, problem: LeastSquares, k: int) -> int:
        """More columns for more restarts: those left out can never be found."""
        n, total = problem.n_rows, self.n_restarts
        most = min(GAINS * total / k, ENTRIES * total / n, spare(problem) / n)
        return int(min(most, COLUMNS))

    def note(self) -> str:
        """What was done, in words."""
        walked = f", rounds of walkers: {self.rounds}" if self.rounds else ""
        return (
            f"restarts: {self.done}, of which {self.better} found a better support"
            f"{walked}"
        )

    @property
    def met(self) -> tuple[tuple[int, ...], ...]:
        """The local optima met, the best first, as indices; `MET` at most."""
        return tuple(sorted(self._met, key=self._met.__getitem__, reverse=True)[:MET])

    def _meet(self, W: WorkingSet, S: np.ndarray, value: float) -> None:
        self._met[tuple(np.sort(W.members[S]).tolist())] = value
        if len(self._met) > 10 * MET:
            self._met = {S: self._met[S] for S in self.met}

    def __call__(
        self, W: WorkingSet, S: np.ndarray, stop: Callable[[np.ndarray], bool]
    ) -> np.ndarray:
        """Return the best support found; S itself where none is better."""
        if len(S) == len(W.members) or W.locked[S].all():
            return S
        few = min(self.n_restarts, PROBE)
        S, same, stopped = self._restart(W, S, stop, few)
        if stopped:
            return S
        fits = len(S) * len(W.members) <= together(W)
        wanting = NEEDED * len(S) * np.log(W.n_columns / len(S)) / W.n_rows
        if (
            (same < EASY or wanting > 1)
            and fits
            and not self._walked
            and len(S) == W.pattern.size
        ):
            self._walked = True
            rounds = round(max(float(wanting), 1.0) * (self.n_restarts // ROUND))
            if same >= NEARLY and wanting <= 1:
                rounds = 1
            return self._evolve(W, S, stop, max(rounds, 1))
        return self._restart(W, S, stop, self.n_restarts)[0]

    def _restart(
        self,
        W: WorkingSet,
        S: np.ndarray,
        stop: Callable[[np.ndarray], bool],
        most_failed: int,
    ) -> tuple[np.ndarray, float, bool]:
        """Perturb until so many in a row have failed.

        Returns the best support, the share of attempts that led back to it, and whether
        to stop.
        """
        best, most = W.value(S), 20 * len(S) + 100
        back = tried = 0
        while self._failed < most_failed:
            self.done += 1
            self._failed += 1
            tried += 1
            new, value, _ = improve(W, self._perturb(W, S), max_swaps=most)
            if len(new) == W.pattern.size:
                self._meet(W, new, value)
            if value > best * GAINED:
                S, best, self._failed, back, tried = new, value, 0, 0, 0
                self.better += 1
            elif value * GAINED >= best:
                back += 1
            if stop(S):
                return S, 1.0, True
        return S, back / max(tried, 1), False

    def _evolve(
        self,
        W: WorkingSet,
        S: np.ndarray,
        stop: Callable[[np.ndarray], bool],
        rounds: int,
    ) -> np.ndarray:
        """Let populations evolve, one after the other, each with S in it at first.

        A population that is stale, or all alike, gives way to a new one. It ends after
        `rounds` without a better support, or PATIENCE times those that had found one.
        """
        best, failed, ended = W.value(S), 0, False
        while not ended:
            population, stale, top = Population(W, S, self._rng), 0, 0.0
            if population.alike:
                break
            while not ended and stale < STALE and not population.alike:
                population.step()
                self.rounds += 1
                failed, stale = failed + 1, stale + 1
                elite, values = population.elite, population.values
                for support, value in zip(elite, values, strict=True):
                    self._meet(W, support, float(value))
                if values[0] > top * GAINED:
                    top, stale = values[0], 0
                if values[0] > best * GAINED:
                    S, best, failed = elite[0], values[0], 0
                least = max(rounds, PATIENCE * (self.rounds - failed))
                ended = stop(S) or failed >= least
        return improve(W, S, max_swaps=20 * len(S) + 100)[0]

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
        return forward(W, np.append(np.flatnonzero(kept), stranger), W.pattern.size)
