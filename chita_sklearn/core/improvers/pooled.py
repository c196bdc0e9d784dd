"""One budget over several targets of one X: exchanges and restarts.

The best coefficients of whichever targets join until the budget is spent; then they are
exchanged, within a target and between two, until that gains nothing. A restart drops
some at random, lets a random other in, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arrays import Array, to_host
from ..problem.many_targets import ManyTargets
from ..search.exchange import GAIN, TargetState, exchange
from ..search.local_search import GAINED
from .targets import EXCHANGED, ROUNDS


def search_pooled(
    problem: ManyTargets,
    size: int,
    support: Array | None,
    n_restarts: int,
    rng: np.random.Generator,
    stop: Callable[[], bool] | None = None,
) -> tuple[Array, str]:
    """Return the best support found, and what was done in words.

    Parameters
    ----------
    problem : ManyTargets
        What to minimise.
    size : int
        How many coefficients there may be, of whichever targets.
    support : array of bool, shape (p,), or None
        Where to start; None selects forward.
    n_restarts : int
        Restarts in a row that fail before the search ends.
    rng : numpy.random.Generator
        Where the randomness comes from.
    stop : callable or None, default=None
        Asked before each restart; True makes none.

    Notes
    -----
    A restart costs O(s d) for each coefficient that joins, where its target has s of d.
    Memory: s d numbers for each target; nothing is done beyond half a gigabyte.
    """
    d, t = problem.d, problem.t
    mask = np.zeros((t, d), dtype=bool)
    if support is not None:
        mask = to_host(support).reshape(t, d)
        if (size + t * d) * d > EXCHANGED:
            return support, "restarts: none"
    H = to_host(problem.G) + problem.mu * np.eye(d)
    C, weights = to_host(problem.C), to_host(problem.weights)

    def improved(mask: np.ndarray) -> tuple[np.ndarray, float]:
        """Fill a support up to the size, and exchange until nothing gains."""
        states = [
            TargetState(H, C[i], float(weights[i]), np.flatnonzero(mask[i]))
            for i in range(t)
        ]
        for _ in range(size - int(mask.sum())):
            offers = [state.joining() for state in states]
            i = int(np.argmax([gain for gain, _ in offers]))
            if not offers[i][0] > 0:
                break
            states[i].join(offers[i][1])
        least = GAIN * sum(state.value for state in states)
        for _ in range(ROUNDS):
            done = exchange(states, least, 20 * size + 100)
            done += sum(state.improve(20 * size + 100, least) for state in states)
            if not done:
                break
        filled = np.zeros((t, d), dtype=bool)
        for i, state in enumerate(states):
            filled[i, state.S] = True
        return filled, sum(state.value for state in states)

    best, value = improved(mask)
    done = failed = better = 0
    while failed < n_restarts and not (stop is not None and stop()):
        done, failed = done + 1, failed + 1
        kept, inside = best.copy().reshape(-1), np.flatnonzero(best)
        outside = np.flatnonzero(~kept)
        few = int(rng.integers(1, len(inside) + 1))
        kept[rng.choice(inside, size=few, replace=False)] = False
        kept[rng.choice(outside)] = True
        other, its = improved(kept.reshape(t, d))
        if its > value * GAINED:
            best, value, failed, better = other, its, 0, better + 1
    note = f"restarts: {done}, of which {better} found a better support"
    return problem.xp.asarray(best.reshape(-1), device=problem.device), note
