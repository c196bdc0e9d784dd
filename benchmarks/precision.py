"""Does float32 choose the same features as float64?

    python -m benchmarks.precision

The problems of `benchmarks.regression` (suites small and real), fitted with the
defaults on X in float64 and cast to float32. Supports are graded in float64 by the
objective of the refit. Where they differ, the *separation* tells whether they should
not: by how much (relative) the best support that differs from float64's in one feature
is worse. Below ``SEPARATED``, about what rounding X to float32 can change, float32
cannot tell the two apart.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from . import problems
from .regression import RESULTS, environment, write_json

SEPARATED = 1e-5


def objective(X: np.ndarray, y: np.ndarray, S: np.ndarray, mu: float) -> float:
    """Return the smallest 1/2 ||y - X_S w||^2 + mu/2 ||w||^2."""
    B = X[:, S]
    w = np.linalg.solve(B.T @ B + mu * np.eye(len(S)), B.T @ y)
    r = y - B @ w
    return float(r @ r / 2 + mu / 2 * (w @ w))


def runner_up(X: np.ndarray, y: np.ndarray, S: np.ndarray, mu: float) -> float:
    """Return the smallest objective of the supports one exchange away."""
    from chita_sklearn.core.search.swap_state import swap_gains

    B = X[:, S]
    P = np.linalg.inv(B.T @ B + mu * np.eye(len(S)))
    g, h = X.T @ y, np.einsum("ij,ij->j", X, X) + mu
    gains = swap_gains(B.T @ X, P, P @ g[S], g, h, np)
    gains[:, S] = -np.inf
    return objective(X, y, S, mu) - float(gains.max())


def compare(problem: problems.Problem, ridge: float) -> dict:
    """Fit in both types and grade in float64."""
    from chita_sklearn import ChitaRegressor

    data = problem.make()
    X, y = data.X_train, data.y_train
    X = X - X.mean(axis=0)
    y = y - y.mean()
    mu = ridge * len(y)
    supports, values = {}, {}
    for dtype in ("float64", "float32"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ChitaRegressor(data.k, ridge, random_state=0)
            model.fit(X.astype(dtype), y.astype(dtype))
        supports[dtype] = model.support_
        values[dtype] = objective(X, y, model.support_, mu)
    S = supports["float64"]
    return {
        "problem": problem.name,
        "family": problem.family,
        "k": data.k,
        "same": bool(np.array_equal(S, supports["float32"])),
        "differ": len(np.setdiff1d(supports["float32"], S)),
        "float32_over_float64": values["float32"] / values["float64"],
        "separation": runner_up(X, y, S, mu) / values["float64"] - 1,
    }


def markdown(records: list[dict]) -> str:
    """Return the table of shares, and a line for each problem that differs."""
    lines = ["| suite | problems | same support |", "|---|---|---|"]
    for family in dict.fromkeys(r["family"] for r in records):
        rows = [r for r in records if r["family"] == family]
        same = sum(r["same"] for r in rows)
        lines.append(f"| {family} | {len(rows)} | {same} |")
    others = [r for r in records if not r["same"]]
    if others:
        lines += [
            "",
            "| differs | features | float32 over float64 - 1 | separation |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {r['problem']} | {r['differ']} of {r['k']} "
            f"| {r['float32_over_float64'] - 1:.2e} | {r['separation']:.2e} |"
            for r in others
        ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Compare on the suites; write JSON and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision")
    parser.add_argument("--suite", default="small,real")
    parser.add_argument("--only", help="regular expression on the problem's name")
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    records = []
    for problem in problems.suite(args.suite, args.only):
        record = compare(problem, args.ridge)
        records.append(record)
        print(
            f"{problem.name:<42} {'same' if record['same'] else 'DIFFERS'} "
            f"separation {record['separation']:.1e} "
            f"float32/float64 - 1 = {record['float32_over_float64'] - 1:.1e}",
            flush=True,
        )
    write_json(args.output, environment({}), records)
    text = markdown(records)
    print(text)
    if args.table:
        args.table.write_text(text)
    apart = [r for r in records if r["separation"] > SEPARATED]
    same = sum(r["same"] for r in apart)
    print(
        "pass" if same == len(apart) else "FAIL",
        f"same support on {same} of {len(apart)} problems separated by {SEPARATED:g}",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
