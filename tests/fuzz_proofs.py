"""Branch and bound on random small problems, against every support.

    python -m tests.fuzz_proofs --seconds 60 [--seed 0]    # prints what fails

Of each problem of at most 14 columns every support is solved and evaluated from the
rows. No bound may be above the best of these, and no proof may be of another. Every
fifth problem each is of columns correlated by .99, of duplicated columns, and in
float32. Every second problem is solved with a diagonal shift for each coordinate.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from unittest import mock

import numpy as np

from chita_sklearn.core import LeastSquares, Solution
from chita_sklearn.core.improvers import branch as tree

KINDS = ("plain", "correlated", "duplicates", "float32", "neighbours")


def generate(seed):
    """X, y, k, ridge, tol and how many nodes at most."""
    rng = np.random.default_rng(seed)
    p, n = int(rng.integers(3, 15)), int(rng.integers(3, 40))
    k = int(rng.integers(1, p))
    X, kind = rng.standard_normal((n, p)), KINDS[seed % len(KINDS)]
    if kind == "correlated":
        X = 0.1 * X + 0.99**0.5 * rng.standard_normal((n, 1))
    if kind == "duplicates":
        X[:, rng.integers(p)] = X[:, 0]
        X[:, rng.integers(p)] = X[:, 1]
    if kind == "float32":
        X = X.astype(np.float32)
    if kind == "neighbours":
        for j in range(1, p):
            X[:, j] = 0.9 * X[:, j - 1] + 0.19**0.5 * X[:, j]
    y = X @ (rng.standard_normal(p) * (rng.random(p) < 0.5))
    y = y + 10.0 ** rng.uniform(-3, 0.5) * rng.standard_normal(n)
    ridge = 10.0 ** rng.uniform(-7, 0) if rng.random() < 0.9 else 0.0
    tol = float(rng.choice([1e-9, 1e-4, 1e-1]))
    return X, y.astype(X.dtype), k, ridge, tol, int(rng.choice([5, 100, 10_000]))


def optimum(X, y, k, mu):
    """The least n F among all supports, each evaluated at its own minimiser."""
    A, b = X.astype(float), y.astype(float)
    supports = np.array(list(itertools.combinations(range(A.shape[1]), k)))
    H, c, best = A.T @ A + mu * np.eye(A.shape[1]), A.T @ b, np.inf
    for first in range(0, len(supports), 512):
        S = supports[first : first + 512]
        G = H[S[:, :, None], S[:, None, :]]
        w = np.linalg.solve(G, c[S][:, :, None])
        r = b - (np.moveaxis(A[:, S], 0, 1) @ w)[:, :, 0]
        values = 0.5 * np.sum(r * r, axis=1) + 0.5 * mu * np.sum(w * w, axis=(1, 2))
        best = min(best, float(np.min(values)))
    return best


def check(seed):
    """Return what is wrong ("" if nothing), and whether the optimum was proven."""
    X, y, k, ridge, tol, nodes = generate(seed)
    problem = LeastSquares(X, y, ridge=ridge)
    w = problem.zeros(problem.p)
    start = Solution(w, np.arange(problem.p) < k, problem.objective(w), n_iter=0)
    least = 1 if seed % 2 else tree.SHIFTED_FROM
    with mock.patch.object(tree, "SHIFTED_FROM", least):
        found = tree.branch(problem, k, start, max_nodes=nodes, tol=tol)
    if "not begun" in found.history[-1]:
        return "", False
    best, proven = optimum(X, y, k, problem.mu), found.gap <= tol
    if found.lower_bound > best * (1 + 1e-12):
        return f"bound {found.lower_bound} above the optimum {best}", proven
    if found.objective < best * (1 - 1e-9):
        return f"objective {found.objective} below the optimum {best}", proven
    if proven and found.objective * (1 - tol) > best * (1 + 1e-9):
        return f"objective {found.objective} is not the optimum {best}", proven
    return "", proven


def main(argv=None):
    """Check problems until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_proofs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=10_000)
    args = parser.parse_args(argv)
    end, done, proven, wrong = time.monotonic() + args.seconds, 0, 0, 0
    for seed in range(args.seed, args.seed + args.problems):
        if time.monotonic() > end:
            break
        fault, proof = check(seed)
        done, proven, wrong = done + 1, proven + proof, wrong + bool(fault)
        if fault:
            print(f"seed {seed} ({KINDS[seed % len(KINDS)]}): {fault}")
    print(f"{done} problems, {proven} proven, {wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
