"""A layer of a network as one problem: 40 targets, 784 columns, one Gram, one budget.

    python -m benchmarks.layer --data ../shared --out FILE.npz

The first layer of MLPNet, whose inputs are 8,000 images (the optional folder has them;
benchmarks/README.md). ``solve(ManyTargets.around(...), Cardinality(k))`` at 20, 5 and
2 % kept: the objective over the best known, the proven gap, CPU seconds on one thread;
beside it plain ADMM with fast and slow growth of the penalty (support, then exact
values), in the same run. ``--out`` keeps the solutions as W_0.2, W_0.05 and W_0.02.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from . import problems
from .measure import keep
from .regression import RESULTS

DENSITIES = (0.2, 0.05, 0.02)
# First penalty in units of the mean curvature, growth, steps.
SCHEDULES = {"ADMM, fast": (0.1, 1.1, 50), "ADMM, slow": (0.003, 1.01, 900)}


def admm(
    H: np.ndarray, W0: np.ndarray, g: np.ndarray, k: int, schedule: tuple
) -> np.ndarray:
    """Plain ADMM over all targets, then the exact values on its support."""
    first, growth, steps = schedule
    E, Q = np.linalg.eigh(H)
    C, root = W0 @ H, np.sqrt(g)[:, None]
    rho = first * float(np.mean(np.diag(H)))
    Z, U = W0.copy(), np.zeros_like(W0)
    for _ in range(steps):
        W = ((C + rho * (Z - U)) @ Q / (E + rho)) @ Q.T
        V = W + U
        kept = np.zeros(V.size, dtype=bool)
        kept[np.argpartition(-np.abs(root * V).ravel(), k - 1)[:k]] = True
        Z = np.where(kept.reshape(V.shape), V, 0.0)
        U = (V - Z) / growth
        rho *= growth
    W = np.zeros_like(W0)
    for i, row in enumerate(kept.reshape(V.shape)):
        S = np.flatnonzero(row)
        W[i, S] = np.linalg.solve(H[np.ix_(S, S)], C[i, S])
    return W


def main() -> int:
    """Run and print; keep the records and the solutions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layer")
    parser.add_argument("--data", type=Path, help="the optional folder")
    parser.add_argument("--out", type=Path, help="an .npz of the solutions")
    parser.add_argument("--output", type=Path, default=RESULTS / "layer.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.data:
        os.environ["CHITA_BENCH_DATA"] = f"{args.data.resolve()}"
    from chita_sklearn.core import Cardinality, ManyTargets, solve

    reference = problems.reference("layer")
    G, mu, W0, g = reference.layer()
    H, best = G + mu * np.eye(len(G)), reference.best_known()
    problem = ManyTargets.around(G, W0, mu=mu, weights=g)
    solve(ManyTargets.around(np.eye(30), W0[:, :30]), Cardinality(50))  # imports
    records, solutions = [], {}
    for density in DENSITIES:
        k = round(density * W0.size)
        start = time.process_time()
        found = solve(problem, Cardinality(k))
        cpu = time.process_time() - start
        W = solutions[f"W_{density:g}"] = found.coef.reshape(W0.shape)
        assert np.count_nonzero(W) <= k
        rows = {"chita": (reference.objective(W, G, mu, W0, g), cpu)}
        for name, schedule in SCHEDULES.items():
            start = time.process_time()
            V = admm(H, W0, g, k, schedule)
            cpu = time.process_time() - start
            rows[name] = (reference.objective(V, G, mu, W0, g), cpu)
        for name, (value, seconds) in rows.items():
            records.append(
                {
                    "method": name,
                    "density": density,
                    "objective": value,
                    "over_best_known": value / best[density],
                    "cpu": seconds,
                    "gap": found.gap if name == "chita" else None,
                }
            )
    lines = ["| kept | method | objective | over the best known | gap | CPU s |"]
    lines.append("|---|---|---|---|---|---|")
    for r in records:
        gap = "" if r["gap"] is None else f"{r['gap']:.1%}"
        lines.append(
            f"| {r['density']:.0%} | {r['method']} | {r['objective']:.4f} "
            f"| {r['over_best_known']:.4f} | {gap} | {r['cpu']:.2f} |"
        )
    print("\n".join(lines))
    keep(args.output, records, lambda r: (r["method"], r["density"]))
    if args.out:
        np.savez(args.out, **solutions)
    if args.table:
        args.table.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
