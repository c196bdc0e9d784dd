"""Hard thresholding: the paper's plain step against the diagonal metric.

    python -m benchmarks.metric [--table docs/benchmarks_metric.md]

Both start alike, run to their end, and are refitted on the support found. On the
pruning instance (optional data, README.md) the columns' norms span ten orders of
magnitude; on the Gaussian problems the columns are standardised, and the two agree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from chita_sklearn.core import Cardinality, LeastSquares, Solution
from chita_sklearn.core.improvers.iht import iht
from chita_sklearn.core.initial import correlation, magnitude
from chita_sklearn.core.refit.backsolve import backsolve

from . import problems
from .pruning_instance import instance

GAUSSIAN = ("toeplitz0.9_n500_p1000_k10_snr3_s0", "constant0.5_n500_p1000_k10_snr3_s0")


def compare(name: str, problem: LeastSquares, k: int) -> str:
    """Return a row: n F after each, relative to the better."""
    pattern = Cardinality(k)
    begin = correlation if problem.prior is None else magnitude
    mask = begin(problem, pattern)
    w = problem.zeros(problem.p)
    if problem.prior is not None:
        w = np.where(mask, problem.prior, w)
    start = Solution(w, mask, problem.objective(w))
    values = []
    for diagonal in (False, True):
        found = iht(problem, pattern, start, max_iter=50, diagonal=diagonal)
        values.append(backsolve(problem, found).objective)
    plain, scaled = (f"{value / min(values):.4f}" for value in values)
    return f"| {name} | {k} | {plain} | {scaled} |"


def table() -> str:
    """Run every case and return the Markdown table."""
    rows = ["| problem | k | plain | diagonal |", "|---|---|---|---|"]
    for name in GAUSSIAN:
        data = problems.find(name).make()
        problem = LeastSquares(data.X_train, data.y_train, ridge=1e-4)
        rows.append(compare(name, problem, data.k))
    if problems.data_root() is not None:
        A, w_bar = instance()
        b = A @ w_bar
        for sparsity in (0.5, 0.9):
            for ridge in (1e-3, 1e-1):
                problem = LeastSquares(A, b, ridge=ridge, prior=w_bar)
                k = round((1 - sparsity) * len(w_bar))
                rows.append(compare(f"pruning instance, ridge {ridge:g}", problem, k))
    else:
        print("the pruning instance is left out: its data folder is absent")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Parse the arguments, run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
