"""Proofs of optimality beside El0ps: 500 x 1000, neighbours correlated by .9.

    python -m benchmarks.proofs [--seconds 60] [--cases 0,3 1,4]
    python -m benchmarks.proofs --seeds 20           every seed whose k is from 2 to 6
    python -m benchmarks.proofs --products           ours alone, on diabetes

10 true coefficients, signal-to-noise ratio 10, k non-zeros proven to a gap of 1e-4:
    1/2 ||y - A w||^2 + beta ||w||^2.
El0ps (PyPI: el0ps, with mpich) penalises non-zeros instead; with its published lambda
it proves some k of its own, which is printed, so that only rows of equal k compare.
With `--seeds` that is the k which both prove, and how many each has solved within the
seconds is printed at the end.
`--products` are scikit-learn's diabetes data, standardised, with the squares and
products of their columns: 442 x 65, or 64 without the square of "sex", which is a
multiple of "sex" itself; k = 10, ridge 1e-4.
CPU seconds of one thread in the same run; all of ours is counted: the search, the Gram
matrix, the bound and the tree.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from chita_sklearn.core import Cardinality, LeastSquares, solve

from .certificates import instances

CASES = ("0,3", "3,2", "1,4", "2,4")  # seed, k
TOL = 1e-4


def data(seed: int, n: int = 500, p: int = 1000) -> tuple[np.ndarray, ...]:
    """Return A, y, beta and lambda."""
    rng, k0 = np.random.default_rng(seed), 10
    Z, A = rng.standard_normal((n, p)), np.empty((n, p))
    A[:, 0] = Z[:, 0]
    for j in range(1, p):
        A[:, j] = 0.9 * A[:, j - 1] + np.sqrt(1 - 0.9**2) * Z[:, j]
    A /= np.linalg.norm(A, axis=0)
    x = np.zeros(p)
    x[np.linspace(0, p - 1, k0, dtype=int)] = rng.standard_normal(k0)
    f = A @ x
    y = f + rng.normal(0, np.sqrt(f @ f / (n * 10.0)), n)
    ratio = np.linalg.norm(f) / np.linalg.norm(f - y)
    spread = np.sqrt(f @ f / (n * ratio))
    return A, y, 0.5 * spread, spread * np.log((p - k0) / k0)


def ours(A: np.ndarray, y: np.ndarray, beta: float, k: int, seconds: float) -> tuple:
    """CPU seconds, objective, k, gap and what ran."""
    start = time.process_time()
    problem = LeastSquares(A, y, ridge=2 * beta / len(y))
    found = solve(
        problem,
        Cardinality(k),
        solver="exact",
        tol=TOL,
        random_state=0,
        max_iter=10**6,  # nodes without end: time decides
        time_limit=seconds,
    )
    used, ran = time.process_time() - start, [h for h in found.history if "nodes" in h]
    return used, found.objective, k, found.gap, *ran


def el0ps(
    A: np.ndarray, y: np.ndarray, beta: float, lam: float, seconds: float
) -> tuple:
    """CPU seconds, objective without the penalty, k, status and nodes."""
    from el0ps.datafit import Leastsquares
    from el0ps.penalty import L2norm
    from el0ps.solver import BnbSolver

    start = time.process_time()
    solver = BnbSolver(time_limit=seconds)
    found = solver.solve(Leastsquares(y), L2norm(beta), A, lam)
    used, x = time.process_time() - start, found.x
    objective = 0.5 * np.sum((y - A @ x) ** 2) + beta * (x @ x)
    return used, objective, np.count_nonzero(x), found.status, found.iter_count


def of_seeds(seeds: int, seconds: float) -> None:
    """Both at the k of El0ps, for seeds where it is 2 to 6; who solved how many."""
    solved, ratios = [0, 0], []
    for seed in range(seeds):
        A, y, beta, lam = data(seed)
        theirs = el0ps(A, y, beta, lam, seconds)
        k = theirs[2]
        if not 2 <= k <= 6:
            print(f"seed {seed}: El0ps chose k = {k}", flush=True)
            continue
        mine = ours(A, y, beta, k, seconds)
        # A proof of a worse optimum is none.
        right = theirs[1] <= mine[1] * (1 + TOL), mine[1] <= theirs[1] * (1 + TOL)
        done = mine[3] <= TOL and right[1], str(theirs[3]) == "optimal" and right[0]
        solved = [a + b for a, b in zip(solved, done, strict=True)]
        if all(done):
            ratios.append(mine[0] / theirs[0])
        print(f"seed {seed}, k = {k}, ours:", *mine, flush=True)
        print("  El0ps:", *theirs, flush=True)
    print(f"solved within {seconds:g} s: ours {solved[0]}, El0ps {solved[1]}")
    if ratios:
        print(f"CPU over El0ps's where both: median {np.median(ratios):.2f}")


def main(argv: list[str] | None = None) -> int:
    """Print a row for each case and solver."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--seeds", type=int, help="so many seeds, at El0ps's k")
    parser.add_argument("--products", action="store_true", help="diabetes, k = 10")
    args = parser.parse_args(argv)
    if args.products:
        X, y, k = next(each for name, *each in instances() if name.endswith("products"))
        for A in np.delete(X, 20, axis=1), X:  # the square of sex
            beta = 0.5e-4 * len(y)
            print(A.shape, *ours(A, y, beta, k, args.seconds), flush=True)
        return 0
    try:
        el0ps(*data(0, 50, 60), seconds=5)  # compiles
        peer = True
    except ImportError as error:
        peer = False
        print(f"El0ps skipped: {error}")
    if args.seeds:
        if peer:
            of_seeds(args.seeds, args.seconds)
        return 0 if peer else 1
    for case in args.cases:
        seed, k = map(int, case.split(","))
        A, y, beta, lam = data(seed)
        print(
            f"seed {seed}, k = {k}, ours:",
            *ours(A, y, beta, k, args.seconds),
            flush=True,
        )
        if peer:
            print("  El0ps:", *el0ps(A, y, beta, lam, args.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
