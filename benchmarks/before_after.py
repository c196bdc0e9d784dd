"""The core of another checkout beside this one, problem by problem in turn.

    git worktree add ../before COMMIT
    python -m benchmarks.before_after ../before --suite small,medium

Regression: the problems of `benchmarks.regression`, `ChitaRegressor` with its defaults
in a process for each side, repeated in turn; the best CPU time counts, and the residual
of the refit on the features chosen. Pruning: rows of `benchmarks.pruning_instance`
(needs the optional data), float32, each side in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from . import problems
from .measure import keep
from .peers import load_peers
from .regression import RESULTS, Worker, run_problem

RIDGES, SPARSITIES = "0.001,0.01,0.1", "0.5,0.9,0.98"
SAME = 1e-9  # relative difference of residuals that is rounding


def regression(roots: dict[str, Path], suite: str, only: str, repeat: int) -> list:
    """Return a record a problem: CPU time and residual of each side."""
    ours = load_peers()["chita"]
    peers = dict.fromkeys(roots, ours)
    workers = {side: Worker("chita", root) for side, root in roots.items()}
    records = []
    try:
        for problem in problems.suite(suite, only):
            rows = run_problem(problem, peers, workers, repeat=repeat, limit=120)
            if any(r["status"] != "ok" for r in rows):
                print(f"{problem.name}: {[r.get('message') for r in rows]}")
                continue
            record = {"what": "regression", "name": problem.name}
            for r in rows:
                record[r["peer"]] = {"cpu": min(r["cpu"]), "rss": r["rss"]}
            records.append(record)
            print(problem.name, record["before"], record["after"], flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    return records


def pruning(roots: dict[str, Path], repeat: int) -> list:
    """Return a record a row of the pruning instance."""
    records: dict[str, dict] = {}
    for ridge in RIDGES.split(","):
        for side, root in roots.items():
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "rows.json"
                command = [sys.executable, "-m", "benchmarks.pruning_instance"]
                command += ["--ridges", ridge, "--sparsities", SPARSITIES]
                command += ["--dtypes", "float32", "--repeat", str(repeat)]
                command += ["--output", str(output)]
                subprocess.run(command, cwd=root, check=True, capture_output=True)
                if not output.is_file():
                    return []  # no data
                rows = json.loads(output.read_text())["results"]
            for r in rows:
                name = f"ridge {r['ridge']:g}, sparsity {r['sparsity']:g}"
                record = records.setdefault(name, {"what": "pruning", "name": name})
                figures = ("objective", "over_best", "gap", "cost")
                record[side] = {figure: r[figure] for figure in figures}
    return list(records.values())


def markdown(records: list[dict]) -> str:
    """Return the tables: regression by suite in sums, pruning row by row."""
    rows = [r for r in records if r["what"] == "regression"]
    lines = []
    if rows:
        change = np.array([r["after"]["rss"] / r["before"]["rss"] - 1 for r in rows])
        times = np.array([r["after"]["cpu"] / r["before"]["cpu"] for r in rows])
        total = [sum(r[side]["cpu"] for r in rows) for side in ("before", "after")]
        lines += [
            "| regression problems | residual the same | lower | higher | worst "
            "| CPU, all | time ratio: median | largest |",
            "|" + "---|" * 8,
            f"| {len(rows)} | {(np.abs(change) <= SAME).sum()} "
            f"| {(change < -SAME).sum()} | {(change > SAME).sum()} "
            f"| {100 * change.max():+.3g} % "
            f"| {total[0]:.2f} s before, {total[1]:.2f} s after "
            f"| {np.median(times):.2f} | {times.max():.2f} |",
            "",
        ]
    rows = [r for r in records if r["what"] == "pruning"]
    if rows:
        lines += [
            "| pruning instance | objective over the best known: before | after "
            "| proven gap: before | after | cost: before | after |",
            "|" + "---|" * 7,
        ]
    for r in rows:
        cells = [
            form.format(r[side][figure])
            for figure, form in (
                ("over_best", "{:.5f}"),
                ("gap", "{:.3%}"),
                ("cost", "{:.2f}"),
            )
            for side in ("before", "after")
        ]
        lines.append(f"| {r['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure both sides; write JSON and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after")
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--suite", default="small,medium")
    parser.add_argument("--only", help="regular expression on the problem's name")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "before_after.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    roots = {"before": args.before.resolve(), "after": problems.ROOT}
    records = regression(roots, args.suite, args.only, args.repeat)
    records += pruning(roots, args.repeat)
    kept = keep(args.output, records, lambda r: (r["what"], r["name"]))
    text = markdown(kept)
    print(text)
    if args.table:
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
