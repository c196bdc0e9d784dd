"""Bounds and answers of every pattern, single fits and paths, against all supports.

    python -m tests.fuzz_patterns --seconds 60
    python -m tests.fuzz_patterns --seed 123     # one problem again

Which supports a pattern allows is said here once more, by counting; the optimum is the
least n F over them, each solved by LAPACK's least squares (with signs: SciPy's
`lsq_linear`), from centred columns. For every plan that takes the pattern: no bound is
above the optimum, no objective below it or other than that of its coefficients, the
support is allowed, and "optimal" means optimal.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
from scipy.optimize import lsq_linear

from chita_sklearn.core import (
    Cardinality,
    Groups,
    Including,
    LeastSquares,
    NOfM,
    PerBlock,
    Status,
    WithFloor,
    solve,
    solve_path,
)
from chita_sklearn.core.plans import SOLVERS, missing

ROOM = 1e-9  # of n F(0), with which the oracle itself rounds
PATTERNS = ("k", "including", "blocks", "n of m", "floors", "groups", "signs")


def pattern_of(name, p, k, rng):
    """A pattern, and whether it allows a mask."""
    labels = np.sort(rng.integers(0, 3, p))
    labels = np.unique(labels, return_inverse=True)[1]
    blocks = int(labels.max()) + 1

    def per_block(mask):
        return np.bincount(labels[mask], minlength=blocks)

    if name == "including":
        need = rng.choice(p, size=min(2, k), replace=False)
        return Including(k, need), lambda m: m.sum() <= k and m[need].all()
    if name == "blocks":
        sizes = rng.integers(0, 3, blocks)
        return PerBlock(labels, sizes), lambda m: bool(np.all(per_block(m) <= sizes))
    if name == "n of m":
        by_two = np.arange(p) // 3
        return NOfM(1, 3, p), lambda m: np.bincount(by_two[m], minlength=1).max() <= 1
    if name == "floors":
        floors = np.minimum(np.bincount(labels), 1)
        k = max(k, int(floors.sum()))

        def allowed(mask):  # a base contains it: room for what the floors still ask
            lacking = np.maximum(floors - per_block(mask), 0).sum()
            return mask.sum() + lacking <= k

        return WithFloor(k, labels, floors), allowed
    if name == "groups":
        count = min(k, blocks)
        return Groups(count, labels), lambda m: len(np.unique(labels[m])) <= count
    return Cardinality(k), lambda m: m.sum() <= k


def least(A, b, mu, mask, signs):
    """The least n F on a support."""
    S = np.flatnonzero(mask)
    if not len(S):
        return 0.5 * float(b @ b)
    M = np.concatenate([A[:, S], np.sqrt(mu) * np.eye(len(S))])
    t = np.concatenate([b, np.zeros(len(S))])
    if signs is None:
        w = np.linalg.lstsq(M, t, rcond=None)[0]
    else:
        low = np.where(signs[S] > 0, 0.0, -np.inf)
        high = np.where(signs[S] < 0, 0.0, np.inf)
        w = lsq_linear(M, t, (low, high), method="bvls", tol=1e-14).x
    return 0.5 * float(np.sum((t - M @ w) ** 2))


def claims(seed):
    """What a problem shows to be false."""
    rng = np.random.default_rng(seed)
    name = PATTERNS[seed % len(PATTERNS)]
    p = int(rng.integers(3, 9))
    n = int(rng.choice([4, 12, 300]))
    k = int(rng.integers(1, p))
    X = rng.standard_normal((n, p))
    if rng.random() < 0.5:
        X = rng.standard_normal((n, 1)) + rng.choice([0.1, 1.0]) * X
    if rng.random() < 0.3:
        X = X + 10 ** rng.uniform(0, 5)
    y = X[:, 0] - X[:, -1] + 10 ** rng.uniform(-3, 1) * rng.standard_normal(n)
    ridge = float(rng.choice([0.0, 1e-4, 1e-2, 1.0]))
    signs = rng.integers(-1, 2, p).astype(float) if name == "signs" else None
    pattern, allowed = pattern_of(name, p, k, rng)
    problem = LeastSquares(X, y, ridge=ridge, fit_intercept=True, signs=signs)
    A, b, mu = X - X.mean(axis=0), y - y.mean(), n * ridge
    values = {
        bits: least(A, b, mu, np.asarray(bits), signs)
        for bits in itertools.product([False, True], repeat=p)
        if allowed(np.asarray(bits))
    }
    room, faults = ROOM * 0.5 * float(b @ b) + 1e-300, []

    def check(what, found, best, is_allowed):
        mask = found.coef != 0
        value = 0.5 * float(np.sum((b - A @ found.coef) ** 2))
        value += 0.5 * mu * float(found.coef @ found.coef)
        if not is_allowed(mask):
            faults.append(f"{what}: the support {np.flatnonzero(mask)} is not allowed")
        if signs is not None and np.any(signs * found.coef < 0):
            faults.append(f"{what}: a sign is crossed")
        if found.lower_bound > best + room:
            faults.append(f"{what}: bound {found.lower_bound!r} above {best!r}")
        if found.objective < best - room:
            faults.append(f"{what}: objective {found.objective!r} below {best!r}")
        if abs(found.objective - value) > room:
            faults.append(f"{what}: objective {found.objective!r}, not {value!r}")
        if found.status is Status.OPTIMAL and found.objective > best + room:
            faults.append(f"{what}: not optimal: {found.objective!r}, {best!r}")

    best = min(values.values())
    for solver in SOLVERS:
        if name in ("groups", "signs") and solver not in ("auto", "swap"):
            continue
        if (
            name == "groups"
            or solver == "auto"
            or not missing(solver, problem, pattern)
        ):
            found = solve(problem, pattern, solver=solver, tol=1e-6, random_state=seed)
            check(solver, found, best, allowed)
    if name in ("k", "signs", "including"):
        need = pattern.required.tolist() if name == "including" else []
        ks = sorted({int(j) for j in rng.integers(max(len(need), 1), p + 1, 3)})
        path = solve_path(
            problem, ks, random_state=seed,
            pattern_of=lambda j: Including(j, need) if need else Cardinality(j),
        )  # fmt: skip
        for j, found in zip(ks, path, strict=True):
            masks = (np.asarray(bits) for bits in itertools.product([0, 1], repeat=p))
            of_j = [
                least(A, b, mu, mask > 0, signs)
                for mask in masks
                if mask.sum() <= j and mask[need].all()
            ]
            check(
                f"path, k = {j}", found, min(of_j),
                lambda m, j=j: m.sum() <= j,
            )  # fmt: skip
    return [f"seed {seed} ({name}, {X.shape}, {ridge}): {fault}" for fault in faults]


if __name__ == "__main__":
    from tests.fuzz import main

    sys.exit(main(prog="python -m tests.fuzz_patterns", claims=claims))
