"""How time and memory grow with n, p and k, two decades of each.

    python -m benchmarks.scaling

Two problems, one varied at a time:

- regression: `ChitaRegressor(k)` with its defaults on a Gaussian design (Toeplitz
  correlation .5, SNR 10): forward selection, swaps, restarts;
- pruning: ``core.solve(solver="dual")`` on the generated gradients of
  `benchmarks.large`, float32.

Time is CPU time, the best of ``--repeat``. Memory is the peak of what Python and NumPy
allocate during the solve (tracemalloc, in a run of its own), without the data. Each
curve's exponent is the slope of log(cost) over log(size): over all sizes, and over the
larger half, where what is constant weighs less.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from . import THREADS
from .large import generate
from .measure import allocated_by, cost_of, exponent, reads_of
from .problems import make_gaussian
from .regression import RESULTS, environment, write_json

# What stays where it is while another varies: n, p, k.
REGRESSION = {"n": 300, "p": 2000, "k": 10}
PRUNING = {"n": 200, "p": 42_000, "k": 4_200}
SIZES = {
    "regression": {
        "n": (100, 300, 1_000, 3_000, 10_000),
        "p": (500, 1_500, 5_000, 15_000, 50_000),
        "k": (2, 6, 20, 60, 200),
    },
    "pruning": {
        "n": (20, 60, 200, 600, 2_000),
        "p": (4_200, 13_000, 42_000, 130_000, 420_000),
        "k": (210, 630, 2_100, 6_300, 21_000),
    },
}


def regression(n: int, p: int, k: int) -> Callable[[], str]:
    """Return the fit of one regression problem."""
    from chita_sklearn import ChitaRegressor

    data = make_gaussian("toeplitz", 0.5, n, p, k, 10, 0)
    X, y = data.X_train, data.y_train

    def fit() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ChitaRegressor(k, random_state=0).fit(X, y)
        return "; ".join(model.solver_history_)

    return fit


def pruning(n: int, p: int, k: int) -> Callable[[], str]:
    """Return the solve of one pruning problem."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    A, w_bar, b = generate(n, p, trace=131.0)

    def fit() -> str:
        problem = LeastSquares(A, b, ridge=1e-2, prior=w_bar)
        return "; ".join(solve(problem, Cardinality(k), solver="dual").history)

    return fit


PROBLEMS = {"regression": (regression, REGRESSION), "pruning": (pruning, PRUNING)}


def points(what: str, largest: float) -> Iterator[tuple[str, dict]]:
    """Yield (axis, sizes), leaving out sizes beyond ``largest`` numbers in X."""
    base = PROBLEMS[what][1]
    for axis, values in SIZES[what].items():
        for value in values:
            size = base | {axis: value}
            if axis == "p" and what == "pruning":
                size["k"] = value // 10  # the share kept is what a network fixes
            if size["n"] * size["p"] <= largest:
                yield axis, size


def measure(what: str, axis: str, size: dict, repeat: int) -> dict:
    """Time one size; then once more for its memory and for how often it reads A."""
    fit = PROBLEMS[what][0](**size)
    fit()
    times = [cost_of(fit)[1].cpu for _ in range(repeat)]
    with reads_of(size["p"]) as reads:
        history = fit()
    return {
        "what": what,
        "axis": axis,
        **size,
        "cpu": min(times),
        "allocated": allocated_by(fit),
        "passes": reads.passes,
        "reads": reads.products,
        "history": history,
    }


def fits(records: list[dict]) -> list[dict]:
    """Return the exponents, one record a curve."""
    out = []
    for what, (_, base) in PROBLEMS.items():
        for axis in base:
            rows = [r for r in records if r["what"] == what and r["axis"] == axis]
            rows.sort(key=lambda r: r[axis])
            if len(rows) < 3:
                continue
            sizes, late = [r[axis] for r in rows], slice(len(rows) // 2, None)
            curve = {"what": what, "axis": axis, "sizes": sizes}
            for cost in ("cpu", "allocated"):
                values = [r[cost] for r in rows]
                curve[cost] = {
                    "all": exponent(sizes, values),
                    "late": exponent(sizes[late], values[late]),
                }
            out.append(curve)
    return out


def markdown(records: list[dict], curves: list[dict]) -> str:
    """Return the tables: exponents, then every size."""
    env = environment({})
    lines = [
        f"{env['processor']}, {THREADS} thread(s), NumPy {env['versions']['numpy']}. "
        "Exponents: over all sizes (over the larger half).",
        "",
        "| problem | varies | from | to | others | CPU time | memory |",
        "|" + "---|" * 7,
    ]
    for c in curves:
        base = PROBLEMS[c["what"]][1]
        others = ", ".join(f"{a} {v:,}" for a, v in base.items() if a != c["axis"])
        if c["axis"] == "p" and c["what"] == "pruning":
            others = f"n {base['n']}, k = p / 10"
        cells = [
            f"{c[x]['all']:.2f} ({c[x]['late']:.2f})" for x in ("cpu", "allocated")
        ]
        lines.append(
            f"| {c['what']} | {c['axis']} | {c['sizes'][0]:,} | {c['sizes'][-1]:,} "
            f"| {others} | {cells[0]} | {cells[1]} |"
        )
    lines += [
        "",
        "| problem | n | p | k | CPU, ms | allocated, MB | share of X | passes |",
        "|" + "---|" * 8,
    ]
    for r in records:
        x_bytes = r["n"] * r["p"] * (8 if r["what"] == "regression" else 4)
        lines.append(
            f"| {r['what']} | {r['n']:,} | {r['p']:,} | {r['k']:,} "
            f"| {1e3 * r['cpu']:.1f} | {r['allocated'] / 1e6:.2f} "
            f"| {100 * r['allocated'] / x_bytes:.0f} % | {r['passes']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def picture(records: list[dict], curves: list[dict], path: Path) -> None:
    """Draw cost against size, with a line of slope 1 through each curve's end."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"regression": "C0", "pruning": "C1"}
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    rows = (("cpu", "CPU time, s", 1.0), ("allocated", "memory above X, MB", 1e-6))
    for line, (cost, label, unit) in zip(axes, rows, strict=True):
        for ax, axis in zip(line, "npk", strict=True):
            for curve in (c for c in curves if c["axis"] == axis):
                x = np.array(curve["sizes"], dtype=float)
                y = unit * np.array(
                    [
                        r[cost]
                        for size in x
                        for r in records
                        if (r["what"], r["axis"], r[axis])
                        == (curve["what"], axis, size)
                    ]
                )
                name = f"{curve['what']}: {curve[cost]['late']:.2f}"
                ax.loglog(x, y, "o-", color=colours[curve["what"]], label=name)
                ax.loglog(x, y[-1] * x / x[-1], ":", color="0.6")
            ax.set(xlabel=axis, ylabel=label)
            ax.legend(fontsize=8, title="exponent, larger half", title_fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Measure all sizes; write JSON, table and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=sorted(PROBLEMS))
    parser.add_argument(
        "--largest", type=float, default=1e9, help="numbers in X; larger are left out"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(argv)
    records = []
    for what in [args.only] if args.only else PROBLEMS:
        for axis, size in points(what, args.largest):
            record = measure(what, axis, size, args.repeat)
            records.append(record)
            print(
                f"{what:<11} {axis}: n {size['n']:>6} p {size['p']:>7} "
                f"k {size['k']:>6}  {1e3 * record['cpu']:>9.1f} ms  "
                f"{record['allocated'] / 1e6:>8.2f} MB  {record['passes']:.1f} passes",
                flush=True,
            )
    curves = fits(records)
    write_json(args.output, environment({}), [*records, *curves])
    text = markdown(records, curves)
    print(text)
    if args.table:
        args.table.write_text(text)
    if args.picture:
        picture(records, curves, args.picture)
    for c in curves:
        value = c["cpu"]["late"]
        held = "pass" if value <= 1.15 else "FAIL"
        print(f"{held} {c['what']}: time ~ {c['axis']}^{value:.2f}, 1.15 at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
