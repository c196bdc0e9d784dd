"""What the ranks of the tests of columns do: functions other processes can import."""

import numpy as np

from tests.scaleout.rank_jobs import message


def wide(n=100, p=1500, k=5, seed=0, dtype="float32"):
    """Correlated columns, of which forward selection does not find all."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.7 * rng.standard_normal((n, 1))
    true = rng.choice(p, k, replace=False)
    X[:, true[0]] += 5.0
    for j in rng.choice(p, min(40, p // 2), replace=False):
        X[:, j] = X[:, true].sum(axis=1) / 2 + 0.8 * rng.standard_normal(n)
    y = X[:, true] @ rng.uniform(0.5, 1.5, k) + 0.5 * rng.standard_normal(n) + 3.0
    return X.astype(dtype), y.astype(dtype)


def cut(X, rank, size):
    """Columns of this rank, of four the first has a single one."""
    p = X.shape[1]
    cuts = {2: (0, p // 3, p), 4: (0, 1, p // 3, p // 2, p)}[size]
    return X[:, cuts[rank] : cuts[rank + 1]]


# What is fitted: the shape of the data, k, and options.
SHORT = {"solver": "dual", "max_iter": 9}
CASES = {
    "few of many": ({}, 5, {"max_iter": 9}),
    "a ridge that proves": ({}, 5, {"ridge": 5.0, "standardize": False}),
    "no ridge": ({}, 5, {"ridge": 0.0}),
    "more than half the rows": ({"p": 1000}, 60, {"n_restarts": 0}),
    "all columns": ({"p": 20}, 20, {}),
    "ascent from a sample": ({"n": 600, "p": 400}, 5, SHORT),
    "ascent by n x n": ({}, 40, {"ridge": 0.1} | SHORT),
    "ascent, more than rows": ({}, 150, {"ridge": 1.0} | SHORT),
    "thresholding": ({}, 5, {"solver": "iht", "ridge": 0.1}),
    "penalties, n x n": ({"p": 2500}, 30, {"solver": "admm", "ridge": 0.1}),
    "dense": ({"dtype": "float64"}, 12, {"solver": "dense", "ridge": 0.1}),
    "dense by steps": ({"n": 1100, "p": 1200}, 12, {"solver": "dense", "ridge": 0.1}),
}


def hurry(patch=setattr):
    """Have ADMM take few steps, of which each is two messages."""
    from chita_sklearn.core.improvers import admm

    quick = admm.Schedule(first=1e-2, growth=1.2, steps=40)
    patch(admm, "SCHEDULES", (quick,))
    patch(admm, "WIDE", quick)


def fitted(rank, size, names):
    """Fit this rank's columns of some cases; what all must have alike, and its own."""
    import torch
    import torch.distributed as dist

    from chita_torch.distributed import fit_columns

    hurry()
    together = {} if size == 1 else {"group": dist.group.WORLD, "timeout": 20}
    results = {}
    for name in names:
        shape, k, options = CASES[name]
        X, y = wide(**shape)
        own = X if size == 1 else cut(X, rank, size)
        given = own if rank else torch.from_numpy(np.ascontiguousarray(own))
        found = fit_columns(given, y, k=k, random_state=0, **together, **options)
        alike = (
            found.support.tolist(),
            found.objective,
            found.lower_bound,
            found.intercept,
            found.n_iter,
            found.history,
            found.message,
            found.total,
        )
        results[name] = alike, found.coef, found.predict(own), found.bytes_sent
    return results


def sent(rank, size):
    """Bytes sent for few columns and for four times as many, of small working sets."""
    import torch.distributed as dist

    from chita_sklearn.core.improvers import sharded
    from chita_torch.distributed import fit_columns

    sharded.NUMBERS = 10**4
    found = []
    for p in (1500, 6000):
        X, y = wide(p=p)
        own, group = cut(X, rank, size), dist.group.WORLD
        found.append(fit_columns(own, y, k=5, random_state=0, group=group))
    return [(each.bytes_sent, each.history) for each in found]


def said(rank, size):
    """What is said of columns that cannot be fitted; the group goes on after each."""
    import torch.distributed as dist

    from chita_torch.distributed import fit_columns

    X, y = wide(n=30, p=60)
    own = cut(X, rank, size)
    hole = own.copy()
    hole[3, -1] = np.nan
    group = {"group": dist.group.WORLD, "timeout": 20}
    calls = {
        "exact": lambda: fit_columns(own, y, k=2, solver="exact", **group),
        "unknown": lambda: fit_columns(own, y, k=2, solver="magic", **group),
        "no ridge": lambda: fit_columns(own, y, k=2, solver="dual", ridge=0.0, **group),
        "a hole on one": lambda: fit_columns(hole if rank else own, y, k=2, **group),
        "two types": lambda: fit_columns(
            own.astype("float64") if rank else own, y, k=2, **group
        ),
        "another y": lambda: fit_columns(own, y + rank, k=2, **group),
        "rows cut": lambda: fit_columns(own, y[rank:], k=2, **group),
        "none on one": lambda: fit_columns(
            own[:, :0] if rank else own, y, k=2, **group
        ),
        "no group": lambda: fit_columns(own, y, k=2),
        "in the end": lambda: fit_columns(own, y, k=2, **group),
    }
    return {name: message(call) for name, call in calls.items()}


def broken_off(rank, size, how):
    """One rank is killed, or sleeps, in a pass over its columns; what is said."""
    import os
    import signal
    import time

    import torch.distributed as dist

    from chita_sklearn.core import Sharded
    from chita_torch.distributed import fit_columns

    X, y = wide()
    passes, product = [0], Sharded.rmatvec

    def strange(self, *arguments, **options):
        passes[0] += 1
        if rank == size - 1 and passes[0] == 3:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raise":
                raise MemoryError("no room for a vector")
            time.sleep(5)
        return product(self, *arguments, **options)

    Sharded.rmatvec = strange
    start = time.perf_counter()
    text = message(
        lambda: fit_columns(
            cut(X, rank, size),
            y,
            k=5,
            group=dist.group.WORLD,
            timeout=2 if how == "hang" else 20,
        )
    )
    return text, time.perf_counter() - start
