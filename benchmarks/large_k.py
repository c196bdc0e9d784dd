"""Many non-zeros: objectives and CPU beside plain ADMM, OMP and abess.

    python -m benchmarks.large_k                      k from 1 % to 90 % of p
    python -m benchmarks.large_k --suite reference    twelve problems of known answers

Gaussian designs in which neighbours have correlation .9 ("toeplitz") or the singular
values fall as i^-3/4 ("decay"), n above and below p, all columns true, noise of a tenth
of the signal; columns as they are drawn, ridge 1e-4 or 1e-2 of the mean squared entry.
Every method's support is re-solved exactly: F = ||y - Xw - c||^2 / 2n + ridge/2 ||w||^2
is the same for all. "ADMM" is one eigendecomposition and 600 steps of a penalty that
begins at .003 of the mean curvature and grows by 1.015, with nothing after it.

The reference problems and the best objectives known of them need the optional folder
(``CHITA_BENCH_DATA``, see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from . import problems
from .measure import keep
from .regression import RESULTS

SHAPES = ((1500, 400), (2000, 1000), (400, 1200))
SHARES = (0.01, 0.05, 0.2, 0.5, 0.9)  # of p, or of n where that is less
RIDGES = (1e-4, 1e-2)
PATIENCE = 60  # seconds for one fit of a peer

Problem = tuple[str, np.ndarray, np.ndarray, int, float]


def design(kind: str, n: int, p: int, rng: np.random.Generator) -> np.ndarray:
    """Return n rows of p correlated Gaussian columns."""
    if kind == "toeplitz":
        return problems.toeplitz_design(rng, n, p, 0.9)
    X = rng.standard_normal((n, p))
    Q = np.linalg.qr(rng.standard_normal((p, p)))[0]
    return X * np.arange(1, p + 1) ** -0.75 @ Q


def own() -> Iterator[Problem]:
    """Yield name, X, y, k and ridge: the problems of this file."""
    for kind in ("toeplitz", "decay"):
        for n, p in SHAPES:
            rng = np.random.default_rng([n, p])
            X = design(kind, n, p, rng)
            y = X @ rng.standard_normal(p)
            y += 0.1 * y.std() * rng.standard_normal(n)
            for share in SHARES:
                k = round(share * min(n, p))
                for ridge in RIDGES:
                    name = f"{kind} {n}x{p} k={k} r={ridge:g}"
                    yield name, X, y, k, ridge * float(np.mean(X**2))


def reference() -> tuple[Iterator[Problem], dict[str, float]]:
    """Return the reference problems, and the best objective known of each."""
    module = problems.reference("large_k")
    return module.problems(), module.best_known()


def resolved(X: np.ndarray, y: np.ndarray, ridge: float, S: np.ndarray) -> float:
    """Return the least F on the support S; X and y are centred."""
    n, A = len(y), X[:, S]
    H = A.T @ A + n * ridge * np.eye(len(S))
    w = np.linalg.solve(H, A.T @ y)
    return float((np.sum((y - A @ w) ** 2) / n + ridge * w @ w) / 2)


def admm(X: np.ndarray, y: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """Plain ADMM: one eigendecomposition, 600 steps; returns the support."""
    n, p = X.shape
    wide, mu = p > n, n * ridge
    E, Q = np.linalg.eigh(X @ X.T if wide else X.T @ X)
    V = X.T @ Q / np.sqrt(np.maximum(E, 1e-300)) if wide else Q
    E = np.maximum(E, 0.0) + mu
    c = X.T @ y
    rho = 0.003 * (float(np.sum(X**2)) / p + mu)
    z, u = np.zeros(p), np.zeros(p)
    for _ in range(600):
        rhs = c + rho * (z - u)
        w = V @ ((V.T @ rhs) * (1 / (E + rho) - wide / (mu + rho)))
        w += wide * rhs / (mu + rho)
        v = w + u
        S = np.argpartition(-np.abs(v), k - 1)[:k]
        z = np.zeros(p)
        z[S] = v[S]
        u = v - z
        rho, u = rho * 1.015, u / 1.015
    return S


def omp(X: np.ndarray, y: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """scikit-learn's orthogonal matching pursuit, which knows no ridge."""
    from sklearn.linear_model import orthogonal_mp

    return np.flatnonzero(orthogonal_mp(X, y, n_nonzero_coefs=k))


def abess(X: np.ndarray, y: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """abess at one size, which takes its ridge in other units and is left without."""
    from abess import LinearRegression

    model = LinearRegression(support_size=k, fit_intercept=False, thread=1)
    return np.flatnonzero(model.fit(X, y).coef_)


def chita(X: np.ndarray, y: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """ChitaRegressor with its defaults, in the units of these problems."""
    from chita_sklearn import ChitaRegressor

    model = ChitaRegressor(k, ridge=ridge, standardize=False, random_state=0)
    return np.flatnonzero(model.fit(X, y).coef_)


METHODS = {"chita": chita, "ADMM": admm, "OMP": omp, "abess": abess}


def timed(
    method: Callable[..., np.ndarray], *data: object
) -> tuple[np.ndarray, float] | None:
    """Return the support and the CPU seconds, or None after `PATIENCE`.

    The best of three runs, where one takes less than a second.
    """

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    seconds: list[float] = []
    try:
        while len(seconds) < 3:
            start = time.process_time()
            found = method(*data)
            seconds.append(time.process_time() - start)
            if seconds[0] > 1:
                break
        return found, min(seconds)
    except TimeoutError:
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(problem: Problem, names: list[str]) -> dict:
    """Return each method's F and CPU seconds on one problem."""
    name, X, y, k, ridge = problem
    record: dict = {"problem": name, "k": k, "objective": {}, "cpu": {}}
    Xc, yc = np.asfortranarray(X - X.mean(axis=0)), y - y.mean()
    for method in names:
        data = (X, y) if method == "chita" else (Xc, yc)
        found = timed(METHODS[method], *data, k, ridge)
        if found is not None:
            record["objective"][method] = resolved(Xc, yc, ridge, found[0])
            record["cpu"][method] = found[1]
    return record


def table(records: list[dict], names: list[str]) -> str:
    """F over the best known or found, and our CPU over each peer's, as Markdown."""
    peers = [name for name in names if name != "chita"]
    head = [*names, *(f"CPU over {name}" for name in peers)]
    lines = ["| F over the best | " + " | ".join(head) + " |"]
    lines.append("|---" * (len(head) + 1) + "|")
    for record in records:
        found, cpu = record["objective"], record["cpu"]
        best = record.get("best_known") or min(found.values())
        cells = [f"{found[m] / best:.4f}" if m in found else "-" for m in names]
        cells += [f"{cpu['chita'] / cpu[m]:.2f}" if m in cpu else "-" for m in peers]
        lines.append("| " + " | ".join([record["problem"], *cells]) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and print; keep the records and, if asked, the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_k")
    parser.add_argument("--suite", choices=("own", "reference"), default="own")
    parser.add_argument("--peers", default="chita,ADMM,OMP,abess")
    parser.add_argument("--only", default="", help="a part of the problem's name")
    parser.add_argument("--output", type=Path, default=RESULTS / "large_k.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    names = args.peers.split(",")
    source, best = (own(), {}) if args.suite == "own" else reference()
    X = np.random.default_rng(0).standard_normal((300, 60))
    for name in names:  # imports and first calls, outside the clock
        METHODS[name](X, X[:, 0], 30, 1e-3)
    records = []
    for problem in source:
        if args.only in problem[0]:
            record = run(problem, names) | {"suite": args.suite}
            if problem[0] in best:
                record["best_known"] = best[problem[0]]
            records.append(record)
            print(table([record], names).splitlines()[-1], flush=True)
    keep(args.output, records, lambda r: r["problem"])
    if args.table:
        args.table.write_text(table(records, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
