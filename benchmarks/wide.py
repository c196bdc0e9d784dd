"""Real data, many seeds: how far from the best known, and how much a seed decides.

    python -m benchmarks.wide                        10 seeds, 0, 3, 10 and 30 restarts
    python -m benchmarks.wide --seeds 3 --only nirsoil --peers OMP,okridge
    python -m benchmarks.wide --from-file FILE --table T.md --picture P.png
    python -m benchmarks.wide --suite held-out --seeds 5 --restarts 0,10,300 \
        --output benchmarks/results/held_out.json --table docs/benchmarks_held_out.md

The real problems of `problems.py` whose data are present, or those held out.
``chita-r`` is ``ChitaRegressor(k, ridge=1e-10, n_restarts=r)``; 10 is the default.
``chita-1s`` has a second of the wall clock a fit, and restarts without end. Answers are
refitted by least squares on the k largest of its places, by the runner. Ratios are to
the recorded best (that of the data folder, or of best_found.json, which are the better
ones found since), or to this run's where none is recorded or this run's is below it;
supports better than the recorded ones are printed. CPU seconds are of one thread, all
methods of a problem in turn in one process, imports and first calls before the clock.
(okridge takes 20 s a fit: it is left out unless named.)
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from . import problems
from .peers import load_peers
from .regression import RESULTS, environment, score, write_json
from .regression import kind as peer_kind
from .report import Results, geometric_mean
from .worker import warm_up

PEERS = "OMP,Lasso-refit,abess"
DEFAULT = "chita-10"  # what a user gets who says nothing
SECOND = "chita-1s"
ENDLESS = 10**9  # restarts: time alone ends the search
NEW = 1 - 1e-9  # of the recorded best: below is better, not rounding


def ours(
    restarts: int, seed: int, X: np.ndarray, y: np.ndarray, k: int, limit: float | None
) -> np.ndarray:
    """Our coefficients with so many restarts, that seed and that time limit."""
    from chita_sklearn import ChitaRegressor

    model = ChitaRegressor(
        k, ridge=1e-10, n_restarts=restarts, random_state=seed, time_limit=limit
    )
    return model.fit(X, y).coef_


def methods(
    problem: problems.Problem,
    restarts: list[int],
    seeds: int,
    peers: list[str],
    seconds: list[float],
) -> Iterable[tuple[str, str, int, Callable]]:
    """Yield name, kind, seed and the fit; without restarts and of peers one seed."""
    known = load_peers()
    for name in peers:
        limit = getattr(known[name], "limit", None)
        if limit is None or limit(problem.n, problem.p, problem.k) is None:
            yield name, peer_kind(known[name]), 0, known[name].fit
    for seed in range(seeds):
        for count in restarts:
            if count or not seed:
                fit = partial(ours, count, seed, limit=None)
                yield f"chita-{count}", "ours", seed, fit
        for limit in seconds:
            fit = partial(ours, ENDLESS, seed, limit=limit)
            yield f"chita-{limit:g}s", "ours", seed, fit


def run(problem: problems.Problem, fits: Iterable) -> list[dict]:
    """Return a record for each fit of a problem."""
    data, records = problem.make(), []
    for name, kind, seed, fit in fits:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            coef = fit(data.X_train, data.y_train, data.k)
        cpu = time.process_time() - start
        record = {"problem": problem.name, "peer": name, "kind": kind, "seed": seed}
        graded = score(data, np.ravel(coef))
        record |= {"status": "ok", "cpu": [cpu], "rss": graded["rss"]}
        records.append(record | {"support": graded["support"]})
    return records


def usable(peers: list[str]) -> list[str]:
    """Those whose libraries are installed, after their first calls."""
    found, known = [], load_peers()
    for name in peers:
        try:
            warm_up(known[name])
        except ImportError as error:
            print(f"{name} skipped: {error}")
        else:
            found.append(name)
    return found


class Table:
    """The records of one file by problem and method, with all seeds."""

    def __init__(self, path: Path) -> None:
        self.rows: dict[str, dict[str, list[dict]]] = {}
        for record in Results(path).records:
            row = self.rows.setdefault(record["problem"], {})
            row.setdefault(record["peer"], []).append(record)
        recorded = problems.best_known() | problems.best_found()
        self.recorded = {name: recorded[name]["best_rss"] for name in recorded}
        self.best = {
            name: min(
                self.recorded.get(name, np.inf),
                *(r["rss"] for part in row.values() for r in part),
            )
            for name, row in self.rows.items()
        }
        names = {peer for row in self.rows.values() for peer in row}
        mine = sorted((n for n in names if _restarts(n) >= 0), key=_restarts)
        self.methods = [*mine, *sorted(names - set(mine))]

    def ratios(self, problem: str, method: str) -> list[float]:
        """Residuals over the best, one a seed."""
        part = self.rows[problem].get(method, [])
        return [r["rss"] / self.best[problem] for r in part]

    def cpu(self, problem: str, method: str) -> float:
        """Median CPU seconds over the seeds."""
        part = self.rows[problem].get(method, [])
        return float(np.median([r["cpu"][0] for r in part])) if part else np.nan

    def new(self) -> dict[str, dict]:
        """The best record of each problem where it is below the recorded best."""
        better = {}
        for name, row in self.rows.items():
            record = min((r for part in row.values() for r in part), key=_rss)
            if record["rss"] < NEW * self.recorded.get(name, 0.0):
                better[name] = record
        return better

    def markdown(self) -> str:
        """One row a problem, a column a method: mean, worst seed and CPU."""
        lines = [
            "Residual sum of squares over the smallest known: geometric mean of the "
            "seeds, in brackets the worst seed over the best; CPU seconds, median.",
            "",
            "| data, n, p | k | " + " | ".join(self.methods) + " |",
            "|" + "---|" * (2 + len(self.methods)),
        ]
        for name in self.rows:
            stem, n, p, k, _ = name.rsplit("_", 4)
            cells = [f"{stem}, {n[1:]}, {p[1:]}", k[1:]]
            for method in self.methods:
                found = self.ratios(name, method)
                cell = "-"
                if found:
                    cell = f"{geometric_mean(found):.3f}"
                    if len(found) > 1:
                        cell += f" ({max(found) / min(found):.3f})"
                    cell += f", {self.cpu(name, method):.2g} s"
                cells.append(cell)
            lines.append("| " + " | ".join(cells) + " |")
        cells = []
        for method in self.methods:
            means = [geometric_mean(self.ratios(name, method)) for name in self.rows]
            times = [self.cpu(name, method) for name in self.rows]
            done = sum(m == m for m in means)
            cell = f"{geometric_mean(m for m in means if m == m):.3f}, "
            cell += f"{np.nanmedian(times):.2g} s"
            cells.append(cell if done == len(means) else f"{cell} ({done} problems)")
        lines.append("| all: mean, median CPU | | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def claims(self) -> list[tuple[bool, str]]:
        """What the defaults should keep, and whether they did."""
        ratios = {name: self.ratios(name, DEFAULT) for name in self.rows}
        mean = geometric_mean(geometric_mean(r) for r in ratios.values())
        spread = {name: max(r) / min(r) for name, r in ratios.items()}
        worst = max(spread, key=spread.__getitem__)
        wide = [problems.find(name) for name in self.rows]
        times = [self.cpu(q.name, DEFAULT) for q in wide if q.n < 500 and q.p <= 5000]
        above = [
            f"{name} ({peer})"
            for name, row in self.rows.items()
            for peer, part in row.items()
            if part[0]["kind"] == "heuristic"
            and max(ratios[name]) > part[0]["rss"] / self.best[name] / NEW
        ]
        median = float(np.median(times))
        limited = [
            geometric_mean(self.ratios(name, SECOND))
            for name, row in self.rows.items()
            if SECOND in row
        ]
        second = geometric_mean(limited) if limited else np.nan
        return [
            (mean <= 1.05, f"geometric mean over the best {mean:.4f}, at most 1.05"),
            (
                spread[worst] <= 1.10,
                f"worst seed over best seed {spread[worst]:.4f} at {worst}, "
                f"at most 1.10; above in {sum(s > 1.10 for s in spread.values())}",
            ),
            (median <= 0.1, f"median CPU {median:.3f} s, n < 500: at most .1"),
            (not above, f"a seed above a heuristic peer: {', '.join(above) or 'none'}"),
            (second <= 1.01, f"with a second a fit {second:.4f}, at most 1.01"),
        ]

    def draw(self, path: Path) -> None:
        """Residual above the best against CPU seconds, a panel a problem."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
        from matplotlib.ticker import NullFormatter

        count = len(self.rows)
        across = min(6, count)
        down = -(-count // across)
        figure, axes = plt.subplots(
            down, across, figsize=(2.4 * across, 2.2 * down), squeeze=False
        )
        mine = [m for m in self.methods if _restarts(m) >= 0]
        for axis, name in zip(axes.flat, self.rows, strict=False):
            stem, *_, k, _ = name.rsplit("_", 4)
            percent = {
                m: 100 * (np.array(self.ratios(name, m)) - 1) for m in self.methods
            }
            there = [m for m in mine if percent[m].size]
            cpu = [self.cpu(name, m) for m in there]
            ends = [[f(percent[m]) for m in there] for f in (np.min, np.max)]
            axis.fill_between(cpu, *ends, color="#D55E00", alpha=0.25, lw=0)
            middle = [np.median(percent[m]) for m in there]
            axis.plot(cpu, middle, "o-", ms=3, color="#D55E00", label="chita-sklearn")
            for place, m in enumerate(m for m in self.methods if m not in mine):
                look = {"color": f"C{place}", "marker": "sv^D<>"[place % 6]}
                if percent[m].size:
                    at = self.cpu(name, m), percent[m].mean()
                    axis.scatter(*at, s=16, label=m, **look)
            axis.set(xscale="log", title=f"{stem}, {k}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(-0.2)
        for axis in axes.flat[count:]:
            axis.remove()
        figure.supxlabel("CPU seconds")
        figure.supylabel("residual above the best, %")
        shown = axes.flat[0].get_legend_handles_labels()
        figure.legend(*shown, loc="upper center", ncols=len(shown[1]))
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
        plt.close(figure)


def _restarts(method: str) -> int:
    """Of one of ours; -1 of a peer."""
    name, _, number = method.partition("-")
    return int(number) if name == "chita" and number.isdigit() else -1


def _rss(record: dict) -> float:
    return record["rss"]


def main(argv: list[str] | None = None) -> int:
    """Run, or read an earlier file; print the table, new bests and the claims."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wide")
    parser.add_argument("--suite", default="real", choices=("real", "held-out"))
    parser.add_argument("--only", help="a regular expression in the problem's name")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--restarts", default="0,3,10,30")
    parser.add_argument("--seconds", default="1", help="time limits of endless fits")
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--output", type=Path, default=RESULTS / "wide.json")
    parser.add_argument("--from-file", type=Path, help="run nothing: use these results")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(argv)
    if args.from_file is None:
        for line in problems.missing_problems():
            print("skipped", line)
        peers = usable([name for name in args.peers.split(",") if name])
        restarts = [int(count) for count in args.restarts.split(",")]
        seconds = [float(limit) for limit in args.seconds.split(",") if limit]
        known, records = load_peers(), []
        warm_up(known["chita"])
        about = environment({name: known[name] for name in peers})
        with threadpool_limits(1):
            for problem in problems.suite(args.suite, args.only):
                fits = methods(problem, restarts, args.seeds, peers, seconds)
                records += run(problem, fits)
                write_json(args.output, about, records)
                print(problem.name, flush=True)
    table = Table(args.from_file or args.output)
    print(table.markdown())
    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(table.markdown())
    if args.picture:
        table.draw(args.picture)
    for name, record in table.new().items():
        ratio = record["rss"] / table.recorded[name]
        print(f"new best {name}: {record['rss']!r} ({ratio:.4f}) {record['support']}")
    for kept, line in table.claims():
        print("pass" if kept else "FAIL", line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
