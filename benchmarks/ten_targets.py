"""Ten targets of one X against one: what a fit computes once for all of them.

    python -m benchmarks.ten_targets

Ten one-hot targets of scikit-learn's digits (1,797 x 64, k = 10) in one fit, over the
mean of ten fits of one target each, in CPU time of one process. What depends on X alone
(validation, means and norms, one triangular factor of X and all targets) is shared; the
searches and their proofs are each target's own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits

from chita_sklearn import ChitaRegressor


def cpu_time(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def ratios(k: int = 10, repeats: int = 5) -> list[tuple[float, float]]:
    """Return (CPU seconds of ten targets at once, mean of one) for each repeat."""
    X, digit = load_digits(return_X_y=True)
    Y = np.eye(10)[digit]
    ChitaRegressor(k).fit(X, Y)  # whatever is imported at first use
    measured = []
    for _ in range(repeats):
        ten = cpu_time(lambda: ChitaRegressor(k).fit(X, Y))
        each = [cpu_time(lambda y=y: ChitaRegressor(k).fit(X, y)) for y in Y.T]
        measured.append((ten, statistics.mean(each)))
    return measured


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measured = ratios(options.k, options.repeats)
    ten, one = (statistics.median(times) for times in zip(*measured, strict=True))
    ratio = statistics.median(a / b for a, b in measured)
    print(f"ten targets {ten:.3f} s, one {one:.3f} s of CPU: {ratio:.1f} times")


if __name__ == "__main__":
    main()
