"""Backsolve against coordinate descent on the supports of the pruning instance.

    python -m benchmarks.refinement [--table docs/benchmarks_refinement.md]

Both start from magnitude pruning and keep its support. For the paper's coordinate
descent (blocks of 1) and for blocks of 256 coordinates the table gives the CPU time
relative to the backsolve's, and how far above the backsolve's objective each still is
after 10 and after 100 sweeps. Needs the optional data (README.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time

import numpy as np

from chita_sklearn.core import Cardinality, LeastSquares, Solution
from chita_sklearn.core.refit.backsolve import backsolve
from chita_sklearn.core.refit.coordinate_descent import coordinate_descent

from . import problems
from .pruning_instance import instance

CASES = [(s, ridge) for s in (0.5, 0.9) for ridge in (1e-3, 1e-1)]
METHODS = [(1, 10), (256, 10), (256, 100)]  # size of a block, sweeps


def table() -> str:
    """Run every case and return the Markdown table."""
    A, w_bar = instance()
    A, w_bar = A.astype(np.float64), w_bar.astype(np.float64)
    b = A @ w_bar
    names = [f"block {block}, {sweeps} sweeps" for block, sweeps in METHODS]
    rows = [
        "| sparsity | ridge | " + " | ".join(names) + " |",
        "|---" * (2 + len(METHODS)) + "|",
    ]
    for sparsity, ridge in CASES:
        problem = LeastSquares(A, b, ridge=ridge, prior=w_bar)
        pattern = Cardinality(round((1 - sparsity) * len(w_bar)))
        mask = pattern.best_mask(np.abs(w_bar))
        w = np.where(mask, w_bar, 0.0)
        start = Solution(w, mask, problem.objective(w))
        clock = process_time()
        best = backsolve(problem, start)
        unit = process_time() - clock
        cells = []
        for block, sweeps in METHODS:
            clock = process_time()
            found = coordinate_descent(
                problem, start, block=block, max_iter=sweeps, tol=0.0
            )
            time = (process_time() - clock) / unit
            above = found.objective / best.objective - 1
            cells.append(f"{above:+.2%} at {time:.1f} x the time")
        rows.append(f"| {sparsity} | {ridge:g} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return "\n".join(rows) + "\n"


def main() -> None:
    """Parse the arguments, run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    if problems.data_root() is None:
        print("skipped: the data folder is absent; CHITA_BENCH_DATA names it.")
        return
    text = table()
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
