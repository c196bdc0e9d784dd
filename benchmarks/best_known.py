"""Residual over the best known at each k, on the real problems with a recorded best.

    python -m benchmarks.best_known
    python -m benchmarks.best_known --peers chita,OMP,Lasso-refit --output FILE

The suite ``best_known`` of the runner with its own table. The recorded best residuals
are from thousands of restarts (the optional data's ``reference/regression_best.json``);
each is checked first by refitting on its recorded support.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from . import problems, regression
from .report import Results, geometric_mean

PEERS = "chita,chita-0,OMP,Lasso-refit"


def check() -> None:
    """Refit on each recorded support: its residual must be the recorded one."""
    for name, known in problems.best_known().items():
        data = problems.find(name).make()
        A, y = data.X_train[:, known["support"]], data.y_train
        residual = y - A @ np.linalg.lstsq(A, y, rcond=None)[0]
        rss = float(residual @ residual)
        if data.X_train.shape != (known["n"], known["p"]):
            msg = (
                f"{name}: X is {data.X_train.shape}, recorded {known['n'], known['p']}"
            )
            raise ValueError(msg)
        if abs(rss / known["best_rss"] - 1) > 1e-9:
            msg = f"{name}: refit gives {rss}, recorded {known['best_rss']}"
            raise ValueError(msg)


def markdown(results: Results, names: list[str]) -> str:
    """Return one row a problem, one column a peer."""
    known = problems.best_known()
    lines = [
        "Residual sum of squares over the smallest known, the same refit at exactly k; "
        "below 1: a new best.",
        "",
        "| data, n, p | k | best known | best peer recorded | "
        + " | ".join(names)
        + " |",
        "|" + "---|" * (4 + len(names)),
    ]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for problem, entry in known.items():
        row = results.table.get(problem, {})
        stem = problem.split(f"_n{entry['n']}_")[0]
        cells = [
            f"{stem}, {entry['n']}, {entry['p']}",
            str(entry["k"]),
            f"{entry['best_rss']:.6g}",
            f"{entry['best_peer_rss'] / entry['best_rss']:.4f} ({entry['best_peer']})",
        ]
        for name in names:
            if name in row:
                ratios[name].append(row[name]["rss"] / entry["best_rss"])
                cells.append(f"{ratios[name][-1]:.4f}")
            else:
                cells.append("-")
        lines.append("| " + " | ".join(cells) + " |")
    recorded = [v["best_peer_rss"] / v["best_rss"] for v in known.values()]
    means = [geometric_mean(recorded), *(geometric_mean(ratios[n]) for n in names)]
    lines.append(
        "| geometric mean | | | " + " | ".join(f"{m:.4f}" for m in means) + " |"
    )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the suite, or read an earlier file, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.best_known")
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=regression.RESULTS / "best_known.json"
    )
    parser.add_argument(
        "--merge", action="store_true", help="keep the file's other results"
    )
    parser.add_argument(
        "--from-file", type=Path, help="run nothing: table from these results"
    )
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    if not problems.best_known():
        print("skipped: no recorded best residuals (set CHITA_BENCH_DATA)")
        return 0
    check()
    source = args.from_file or args.output
    if args.from_file is None:
        merge = ["--merge"] if args.merge else []
        regression.main(
            [
                *("--suite", "best_known", "--peers", args.peers, *merge),
                *("--repeat", str(args.repeat), "--output", str(args.output)),
            ]
        )
    text = markdown(Results(source), args.peers.split(","))
    print(text)
    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
