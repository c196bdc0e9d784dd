"""Where a solve spends its time, by operation.

    python -m benchmarks.profile

A timer of CPU time interrupts the solve every millisecond; what has passed since the
last time goes to the innermost function of the library that is running, whatever NumPy
or BLAS it is in, and from there to an operation. One BLAS thread.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from .large import generate
from .problems import ROOT, make_gaussian

INTERVAL = 1e-3  # seconds of CPU time between two looks

# Functions of a file of the core, or all others of it, by operation.
OPERATIONS = {
    "products with A": {
        "design": "dot tdot _rough read blocks spread",
        "least_squares": "matvec rmatvec column_norms __init__ _weigh",
        "base": "*",
    },
    "columns of A copied": {
        "design": "take part __init__",  # its time counts where the copy is passed on
        "least_squares": "columns restrict",
        "arrays": "take_columns",
        "columns": "_read __init__",
    },
    "Gram matrices": {
        "linalg": "add_outer mirror",
        "columns": "gram cross",
        "least_squares": "outer_gram",
    },
    "triangular factor of A": {
        "linalg": "triangular joined _joined",
        "least_squares": "_triangular _own_factor reduced",
        "design": "rows",
    },
    "thresholds": {"arrays": "top_k_mask kth_largest", "matroids": "*", "space": "*"},
    "backsolves": {"linalg": "*", "backsolve": "*", "minimum": "*"},
    "swaps on working sets": {
        "swaps": "*",
        "working_set": "*",
        "swap_state": "*",
        "local_search": "*",
        "restarts": "*",
        "population": "*",
        "walkers": "*",
    },
    "vectors of the ascent": {"dual": "*", "certificate": "*"},
    "vectors of the descent": {"iht": "*", "initial": "*"},
}
REST = "all else"


def operation(file: str, function: str) -> str:
    """Return the operation that a function of the core belongs to."""
    for pattern in (function, "*"):
        for name, files in OPERATIONS.items():
            if pattern in files.get(file, "").split():
                return name
    return REST


def profiled(call: Callable[[], object], repeat: int) -> tuple[Counter, Counter]:
    """Seconds of CPU time by operation, and those of all else by place."""
    core = ROOT / "chita_sklearn" / "core"
    spent, rest = Counter[str](), Counter[str]()
    last = time.process_time()

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        passed, last = now - last, now
        place = "outside the library"
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if core in path.parents:
                # Comprehensions and lambdas belong to their function.
                name = frame.f_code.co_name
                if not name.startswith("<"):
                    chosen = operation(path.stem, name)
                    spent[chosen] += passed
                    if chosen == REST:
                        rest[f"{path.stem}.{name}"] += passed
                    return
            elif core.parent in path.parents and place == "outside the library":
                place = path.stem
            frame = frame.f_back
        spent[REST] += passed
        rest[place] += passed

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        for _ in range(repeat):
            call()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return spent, rest


def regression(n: int, p: int, k: int) -> Callable[[], object]:
    """A fit with the defaults."""
    from chita_sklearn import ChitaRegressor

    data = make_gaussian("toeplitz", 0.5, n, p, k, 10, 0)
    X, y = data.X_train, data.y_train
    return lambda: ChitaRegressor(k, random_state=0).fit(X, y)


def pruning(n: int, p: int, plan: str) -> Callable[[], object]:
    """A solve on generated gradients in float32, a tenth of the weights kept."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    A, w_bar, b = generate(n, p, trace=131.0, order="C")

    def solved() -> object:
        problem = LeastSquares(A, b, ridge=1e-2, prior=w_bar)
        return solve(problem, Cardinality(p // 10), solver=plan)

    return solved


def cases() -> dict[str, Callable[[], Callable[[], object]]]:
    """What is profiled: its name, and what makes the call."""
    shapes = ((1000, 10_000, 50), (50_000, 500, 50))
    made: dict[str, Callable[[], Callable[[], object]]] = {
        f"regression, {n:,} x {p:,}, k = {k}": lambda n=n, p=p, k=k: regression(n, p, k)
        for n, p, k in shapes
    }
    for plan in ("dual", "dense", "iht"):
        name = f'pruning, 1,000 x 32,000, "{plan}"'
        made[name] = lambda plan=plan: pruning(1000, 32_000, plan)
    return made


def main(argv: list[str] | None = None) -> int:
    """Profile each case, after a first run that loads everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("--repeat", type=int, default=3, help="runs added up")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    names = [*OPERATIONS, REST]
    lines = [
        "| share of the time | CPU | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 2),
    ]
    for title, make in cases().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = make()
            call()
            spent, rest = profiled(call, args.repeat)
        total = sum(spent.values())
        shares = [f"{100 * spent[name] / total:.0f} %" for name in names]
        lines.append(
            f"| {title} | {total / args.repeat:.2f} s | " + " | ".join(shares) + " |"
        )
        places = {k: f"{100 * v / total:.1f} %" for k, v in rest.most_common(4)}
        print(title, f"{total / args.repeat:.2f} s", places, flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.table:
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
