"""Proofs of optimality beside El0ps: 500 x 1000, neighbours correlated by .9.

    python -m benchmarks.proofs [--seconds 60] [--cases 0,3 1,4]
    python -m benchmarks.proofs --seeds 20           every seed whose k is from 2 to 6
    python -m benchmarks.proofs --products           ours alone, on diabetes
    python -m benchmarks.proofs --designs            beside l0bnb and okridge

10 true coefficients, signal-to-noise ratio 10, k non-zeros proven to a gap of 1e-4:
    1/2 ||y - A w||^2 + beta ||w||^2.
El0ps (PyPI: el0ps, with mpich) penalises non-zeros instead; with its published lambda
it proves some k of its own, which is printed, so that only rows of equal k compare.
With `--seeds` that is the k which both prove, and how many each has solved within the
seconds is printed at the end.
`--products` are scikit-learn's diabetes data, standardised, with the squares and
products of their columns: 442 x 65, or 64 without the square of "sex", which is a
multiple of "sex" itself; k = 10, ridge 1e-4.
`--designs` are those that l0bnb and okridge publish, with their ridges: Gaussian, ten
coefficients of 1 at equal distances; independent columns with ratio 10 (l0bnb: scripts,
variable_p.py, l0 = 100, l2 = 20), neighbours correlated by .1, .5 or .9 with ratio 5
(okridge: test_okridge.py, lambda2 = 10). l0bnb penalises non-zeros, and starts from the
true ones; on okridge's designs by half of what the least of the ten is worth. Every gap
is that of the objective above, without the penalty, whatever a solver calls its gap;
the seconds are CPU time, so that a busy machine shortens nobody's search.
CPU seconds of one thread in the same run; all of ours is counted: the search, the Gram
matrix, the bound and the tree.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace

import numpy as np

from chita_sklearn.core import Cardinality, LeastSquares, solve

from .certificates import instances
from .problems import toeplitz_design

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


def designs() -> Iterator[tuple]:
    """Yield name, A, y, beta of the objective above and l0bnb's penalty, or None."""
    for n, p, rho, ratio, beta, penalty in (
        (1000, 1000, 0.0, 10, 20.0, 100.0),
        (1000, 10_000, 0.0, 10, 20.0, 100.0),
        (6000, 3000, 0.1, 5, 5.0, None),
        (6000, 3000, 0.5, 5, 5.0, None),
        (6000, 3000, 0.9, 5, 5.0, None),
    ):
        rng = np.random.default_rng(0)
        A = toeplitz_design(rng, n, p, rho)
        f = A[:, :: p // 10].sum(axis=1)
        y = f + rng.normal(0, f.std() / np.sqrt(ratio), n)
        whose = "l0bnb's" if penalty else "okridge's"
        yield f"{whose}, {n} x {p}, {rho}", np.ascontiguousarray(A), y, beta, penalty


def l0bnb(
    A: np.ndarray,
    y: np.ndarray,
    beta: float,
    penalty: float,
    w: np.ndarray,
    limit: float,
) -> tuple:
    """CPU seconds, objective without the penalty, k and gap of it; started from w."""
    np.Inf = np.inf  # noqa: NPY201 - it predates NumPy 2
    from l0bnb import BNBTree

    start = time.process_time()
    tree = BNBTree(A, y)
    most = 1.2 * float(np.abs(w).max())
    found = tree.solve(penalty, beta, most, gap_tol=TOL, warm_start=w, time_limit=limit)
    used, w = time.process_time() - start, found.beta
    objective = 0.5 * np.sum((y - A @ w) ** 2) + beta * (w @ w)
    gap = found.gap * found.cost / objective
    return used, objective, np.count_nonzero(w), gap, f"{tree.number_of_nodes} nodes"


def okridge(A: np.ndarray, y: np.ndarray, beta: float, k: int, limit: float) -> tuple:
    """CPU seconds, objective, k and gap of it."""
    from okridge.tree import BNBTree

    if A.shape[1] > 5000:
        return ("its p x p eigenvalues take minutes",)
    start = time.process_time()
    with contextlib.redirect_stdout(None):
        tree = BNBTree(X=A, y=y, lambda2=2 * beta, max_memory_GB=4)
        # Its objective is twice ours, less y'y.
        upper, w, _, lower, _ = tree.solve(k=k, gap_tol=TOL / 100, time_limit=limit)
    used = time.process_time() - start
    objective = 0.5 * np.sum((y - A @ w) ** 2) + beta * (w @ w)
    gap = 0.5 * (upper - lower) / objective if lower > -sys.maxsize else np.inf
    return used, objective, np.count_nonzero(w), gap


def by_cpu_time() -> None:
    """Have ours, l0bnb and okridge take CPU time for the time that is limited."""
    clock = SimpleNamespace(time=time.process_time, monotonic=time.process_time)
    for module in ("chita_sklearn.core.deadline", "l0bnb.tree", "okridge.tree"):
        with contextlib.suppress(ImportError):
            import_module(module).time = clock


def beside(seconds: float) -> None:
    """Print ours, l0bnb and okridge on the designs of those two."""
    by_cpu_time()
    for name, A, y, beta, penalty in designs():
        mine = ours(A, y, beta, 10, seconds)
        print(f"{name}, ours:", *mine, flush=True)
        ten = slice(None, None, A.shape[1] // 10)
        P = np.linalg.inv(A[:, ten].T @ A[:, ten] + 2 * beta * np.eye(10))
        true = np.zeros(A.shape[1])
        true[ten] = P @ (A[:, ten].T @ y)
        if penalty is None:
            penalty = 0.25 * float(np.min(true[ten] ** 2 / P.diagonal()))
        try:
            print("  l0bnb:", *l0bnb(A, y, beta, penalty, true, seconds), flush=True)
            print("  okridge:", *okridge(A, y, beta, 10, seconds), flush=True)
        except ImportError as error:
            print(f"  skipped: {error}")


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
    parser.add_argument("--designs", action="store_true", help="l0bnb's and okridge's")
    args = parser.parse_args(argv)
    if args.designs:
        beside(args.seconds)
        return 0
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
