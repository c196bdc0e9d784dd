"""Columns of several processes, which are threads here: every plan, odd data."""

import threading

import numpy as np
import pytest

from chita_sklearn.core import Cardinality, LeastSquares, Sharded, solve


class Group:
    """What the members of a group of threads exchange."""

    def __init__(self, size):
        self.slots, self.barrier = [None] * size, threading.Barrier(size)


class Member:
    """A `Collective` of threads: each puts its array down, waits, and reads all."""

    def __init__(self, group, rank):
        self.group, self.rank, self.size = group, rank, len(group.slots)

    def gather(self, x):
        self.group.slots[self.rank] = np.array(x)
        self.group.barrier.wait(60)
        found = [each.copy() for each in self.group.slots]
        self.group.barrier.wait(60)
        return found

    def sum(self, x):
        return sum(self.gather(x))

    def gather_to(self, owner, x):
        found = self.gather(x)
        return np.concatenate(found) if self.rank == owner else x[:0]

    def share(self, owner, work, like):
        found = np.asarray(work()) if self.rank == owner else like
        shared = self.gather(found)[owner]
        assert (shared.shape, shared.dtype) == (like.shape, like.dtype)
        return shared


def on_threads(X, y, cuts, k, options, how):
    """What `solve` returns on each thread for its columns."""
    size = len(cuts) - 1
    group, found = Group(size), [None] * size

    def run(rank):
        own = np.ascontiguousarray(X[:, cuts[rank] : cuts[rank + 1]])
        try:
            problem = Sharded(own, y, Member(group, rank), **options)
            found[rank] = solve(problem, Cardinality(k), **how)
        except BaseException as error:
            found[rank] = error  # compared below
            group.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def problem(seed):
    """Data with copies, constants and zeros, options and plans, drawn at random."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.choice([8, 20, 60, 150])), int(rng.choice([6, 25, 120]))
    X = rng.standard_normal((n, p)) + rng.choice([0, 3])
    for value in (0.0, X[:, 0], 2.5):
        if rng.random() < 0.4:
            X[:, rng.integers(p)] = value
    y = X[:, rng.integers(0, p, 3)].sum(axis=1)
    y = y + rng.choice([0, 0.5]) * rng.standard_normal(n)
    options = {
        "ridge": float(rng.choice([0, 1e-4, 0.1, 3])),
        "fit_intercept": bool(rng.random() < 0.6),
        "standardize": bool(rng.random() < 0.6),
    }
    if rng.random() < 0.3:
        options["sample_weight"] = rng.integers(0, 3, n) + (np.arange(n) == 0.0)
    cuts = [0, *sorted(rng.choice(np.arange(1, p), 2, replace=False).tolist()), p]
    k = int(rng.integers(1, min(p, 12) + 1))
    return X.astype(rng.choice(["f4", "f8"])), y, cuts, k, options


@pytest.mark.parametrize("solver", ["auto", "swap", "dual", "iht", "dense", "admm"])
@pytest.mark.parametrize("seed", range(6))
def test_three_processes_agree_and_say_what_is_true(seed, solver):
    X, y, cuts, k, options = problem(seed)
    whole = LeastSquares(X, y, **options)
    how = {"solver": solver, "random_state": 0, "n_restarts": 3, "max_iter": 20}
    if solver == "dual" and options["ridge"] == 0:
        said = map(str, on_threads(X, y, cuts, k, options, how))
        assert any("needs ridge > 0" in text for text in said)
        return
    found = on_threads(X, y, cuts, k, options, how)
    assert not [each for each in found if isinstance(each, BaseException)], found
    said = [(f.objective, f.lower_bound, f.n_iter, f.history, f.status) for f in found]
    assert said[0] == said[1] == said[2]
    coef = np.concatenate([f.coef for f in found]).astype(float)
    support = np.concatenate([f.support for f in found])
    assert np.count_nonzero(support) <= k
    assert not coef[~support].any()
    objective, bound = said[0][:2]
    rounding = 1e-12 * float(y @ y)
    assert objective == pytest.approx(whole.objective(coef), rel=1e-9, abs=rounding)
    alone = solve(whole, Cardinality(k), **how)
    assert bound <= alone.objective + rounding
    assert objective == pytest.approx(alone.objective, rel=1e-2, abs=rounding)
