"""From the runner's JSON to a Markdown table, a picture and the list of claims kept.

python -m benchmarks.report benchmarks/results/regression.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import problems

FAMILIES = ("small", "medium", "large", "huge", "tall", "real")
REFERENCE = "abess"  # whose CPU time is the unit


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean, nan for nothing."""
    values = np.asarray(list(values), dtype=float)
    return float(np.exp(np.log(values).mean())) if values.size else float("nan")


class Results:
    """The records of one file, by problem and peer; failed fits are kept apart."""

    def __init__(self, path: Path) -> None:
        document = json.loads(path.read_text())
        self.environment = document["environment"]
        self.records = [r for r in document["results"] if r["status"] == "ok"]
        self.failed = [r for r in document["results"] if r["status"] != "ok"]
        self.table: dict[str, dict[str, dict]] = {}
        for record in self.records:
            self.table.setdefault(record["problem"], {})[record["peer"]] = record
        self.kinds = {r["peer"]: r["kind"] for r in document["results"]}

    def best(self, problem: str, kinds: tuple[str, ...]) -> float:
        """Return the smallest residual of the peers of these kinds."""
        found = [r["rss"] for r in self.table[problem].values() if r["kind"] in kinds]
        return min(found, default=float("nan"))

    def ratios(self, peer: str, to: Callable[[str], float]) -> dict[str, float]:
        """Return problem -> the residual over ``to(problem)``, where both are."""
        pairs = {
            problem: row[peer]["rss"] / to(problem)
            for problem, row in self.table.items()
            if peer in row
        }
        return {problem: ratio for problem, ratio in pairs.items() if ratio == ratio}

    def cpu_ratios(self, peer: str) -> dict[str, float]:
        """Return problem -> best CPU time over the reference peer's."""
        return {
            problem: min(row[peer]["cpu"]) / min(row[REFERENCE]["cpu"])
            for problem, row in self.table.items()
            if peer in row and REFERENCE in row
        }


def markdown(results: Results) -> str:
    """Return one table a family: quality, recovery, test score, time, memory."""
    env = results.environment
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
    lines = [
        f"Python {env['python']}, {env['processor']}, {env['threads']} thread(s); "
        f"{versions}.",
        "",
        "Residual: after the same least-squares refit at exactly k, over the smallest "
        "of all shown; geometric mean (worst). CPU: best of the repeats, over "
        f"{REFERENCE}'s, geometric mean; in seconds, the median problem. Memory: "
        "largest growth of the process's peak resident size during a fit, over the "
        "size of X. Exact and beam solvers are marked *.",
    ]
    for family in FAMILIES:
        rows = [r for r in results.records if r["family"] == family]
        if not rows:
            continue
        names = sorted({r["problem"] for r in rows})
        lines += [
            "",
            f"### {family} ({len(names)} problems)",
            "",
            "| | solved | residual / best | F1 | test R2 | CPU / abess | CPU (s) "
            "| memory / X |",
            "|---|---|---|---|---|---|---|---|",
        ]
        table = []
        for peer, kind in results.kinds.items():
            own = [r for r in rows if r["peer"] == peer]
            if not own:
                continue
            ratio = [
                r["rss"] / results.best(r["problem"], ("ours", "heuristic", "exact"))
                for r in own
            ]
            cpu = [v for q, v in results.cpu_ratios(peer).items() if q in names]
            f1 = [r["f1"] for r in own if "f1" in r]
            memory = [
                r["extra_bytes"] / r["x_bytes"] for r in own if "extra_bytes" in r
            ]
            short = sum(r["n_nonzero"] < r["k"] for r in own)
            cut = sum(r["n_nonzero"] > r["k"] for r in own)
            notes = f" ({short} below k)" * bool(short) + f" ({cut} cut to k)" * bool(
                cut
            )
            mark = "*" if kind == "exact" else ""
            label = f"**{peer}**" if kind == "ours" else f"{peer}{mark}"
            cells = (
                label,
                f"{len(own)}{notes}",
                f"{geometric_mean(ratio):.4f} ({max(ratio):.3f})",
                f"{np.mean(f1):.3f}" if f1 else "-",
                f"{np.mean([r['r2_test'] for r in own]):.3f}",
                f"{geometric_mean(cpu):.2f}",
                f"{np.median([min(r['cpu']) for r in own]):.4f}",
                f"{max(memory):.1f}" if memory else "-",
            )
            table.append((geometric_mean(ratio), "| " + " | ".join(cells) + " |"))
        lines += [line for _, line in sorted(table)]
    if results.failed:
        lines += ["", "Not solved:", ""]
        reasons: dict[tuple[str, str], int] = {}
        for record in results.failed:
            key = record["peer"], f"{record['status']}: {record['message'][:80]}"
            reasons[key] = reasons.get(key, 0) + 1
        lines += [
            f"- {peer}, {count} problem(s): {why}"
            for (peer, why), count in reasons.items()
        ]
    return "\n".join(lines) + "\n"


def compare(results: Results) -> list[tuple[bool | None, str]]:
    """Return (kept, text) for each claim; None where the file cannot tell."""
    out: list[tuple[bool | None, str]] = []

    def claim(
        text: str,
        values: dict,
        figure: Callable,
        holds: Callable,
        each: float = np.inf,
    ) -> None:
        """Judge one figure; name the problems beyond ``each`` where it fails."""
        if not values:
            out.append((None, f"{text}: no data"))
            return
        value = figure(list(values.values()))
        worst = max(values, key=values.get)
        kept = bool(holds(value))
        line = (
            f"{text}: {value:.4g} over {len(values)} problems "
            f"(largest {values[worst]:.4g}, {worst})"
        )
        if not kept:
            breaking = sorted(
                (q for q in values if values[q] > each), key=values.get, reverse=True
            )
            line += "".join(f"\n       {values[q]:.4f} {q}" for q in breaking[:12])
        out.append((kept, line))

    def heuristic(problem: str) -> float:
        return results.best(problem, ("heuristic",))

    def of(peer: str) -> Callable[[str], float]:
        return lambda q: results.table[q].get(peer, {}).get("rss", float("nan"))

    ours = results.ratios("chita", heuristic)
    claim(
        "chita: share with residual <= 1.001 x best heuristic peer >= .95",
        ours,
        lambda v: np.mean(np.asarray(v) <= 1.001),
        lambda v: v >= 0.95,
        1.001,
    )
    claim(
        "chita: largest residual / best heuristic peer <= 1.02",
        ours,
        max,
        lambda v: v <= 1.02,
        1.02,
    )
    claim(
        "chita: geometric mean residual / best heuristic peer",
        ours,
        geometric_mean,
        lambda v: v <= 1,
    )
    claim(
        "chita: geometric mean CPU / abess <= 2",
        results.cpu_ratios("chita"),
        geometric_mean,
        lambda v: v <= 2,
    )
    claim(
        "chita: largest residual / OMP <= 1",
        results.ratios("chita", of("OMP")),
        max,
        lambda v: v <= 1 + 1e-9,
        1 + 1e-9,
    )
    fast = results.ratios("chita-0", of("abess"))
    claim(
        "chita-0: largest residual / abess <= 1.01",
        fast,
        max,
        lambda v: v <= 1.01,
        1.01,
    )
    claim(
        "chita-0: geometric mean residual / abess < 1",
        fast,
        geometric_mean,
        lambda v: v < 1,
    )
    claim(
        "chita-0: geometric mean CPU / abess <= 0.8",
        results.cpu_ratios("chita-0"),
        geometric_mean,
        lambda v: v <= 0.8,
    )
    recorded = problems.best_known()
    claim(
        "chita-200: share within 2 % of the best known >= .90",
        results.ratios(
            "chita-200", lambda q: recorded.get(q, {}).get("best_rss", float("nan"))
        ),
        lambda v: np.mean(np.asarray(v) <= 1.02),
        lambda v: v >= 0.9,
        1.02,
    )
    return out


def positions(results: Results, real: bool) -> dict[str, tuple[float, float]]:
    """Return peer -> (CPU time over the reference's, residual above the best in %).

    Geometric means over the real problems or the synthetic ones. Left out: who solved
    less than two thirds of them.
    """
    shown = [
        r
        for r in results.records
        if (r["family"] == "real") == real and REFERENCE in results.table[r["problem"]]
    ]
    total = len({r["problem"] for r in shown})
    found = {}
    for peer in results.kinds:
        own = [r for r in shown if r["peer"] == peer]
        if own and len(own) >= total * 2 / 3:
            cpu = results.cpu_ratios(peer)
            quality = geometric_mean(
                r["rss"] / results.best(r["problem"], ("ours", "heuristic", "exact"))
                for r in own
            )
            time = geometric_mean(cpu[r["problem"]] for r in own)
            found[peer] = time, 100 * (quality - 1)
    return found


def label(axis: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write each point's name beside it, where it covers no other name or point."""
    from matplotlib.transforms import Bbox

    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    aligned = {-1: "right", 0: "center", 1: "left"}
    levels = {-1: "top", 0: "center", 1: "bottom"}
    pixels = axis.transData.transform(list(points.values()))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in pixels]
    frame = axis.get_window_extent()
    for name, point in points.items():
        tried = []
        for x, y in sides:
            text = axis.annotate(
                name,
                point,
                xytext=(6 * x, 5 * y),
                textcoords="offset points",
                size=8,
                ha=aligned[x],
                va=levels[y],
            )
            box = text.get_window_extent()
            outside = not (frame.x0 < box.x0 and box.x1 < frame.x1)
            tried.append((outside + box.count_overlaps(taken), text, box))
        _, kept, box = min(tried, key=lambda t: t[0])
        taken.append(box)
        for _, text, _ in tried:
            if text is not kept:
                text.remove()


def draw(results: Results, path: Path) -> None:
    """Draw quality against time, one panel for synthetic and one for real problems."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    looks = {
        "ours": ("#D55E00", "o", "chita-sklearn"),
        "heuristic": ("#0072B2", "s", "heuristics"),
        "exact": ("#666666", "^", "beam search"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    panels = [positions(results, real) for real in (False, True)]
    for axis, title, points in zip(axes, ("synthetic", "real"), panels, strict=True):
        for peer, (cpu, above) in points.items():
            colour, marker, kind = looks[results.kinds[peer]]
            options = {"color": colour, "marker": marker, "label": kind}
            axis.scatter(cpu, above, zorder=3, **options)
        axis.set(
            xscale="log",
            title=f"{title} problems",
            xlabel=f"CPU time over {REFERENCE}'s (geometric mean)",
        )
        # Linear near 0, which no logarithm reaches and some of them do.
        axis.set_yscale("symlog", linthresh=0.1, linscale=0.5)
        axis.set_ylim(-0.04, 1.6 * max(100, *(y for _, y in points.values())))
        axis.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        axis.minorticks_off()
        axis.margins(x=0.3)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    handles, kinds = axes[1].get_legend_handles_labels()
    once = dict(zip(kinds, handles, strict=True))
    axes[1].legend(once.values(), once, loc="lower left", fontsize=8)
    axes[0].set_ylabel("residual above the best of all, %\n(geometric mean)")
    figure.tight_layout()
    figure.canvas.draw()
    for axis, points in zip(axes, panels, strict=True):
        label(axis, points)
    figure.savefig(path, dpi=figure.dpi * 1.5)
    plt.close(figure)


def write(
    source: Path, *, table: Path | None = None, picture: Path | None = None
) -> int:
    """Print the table and the claims; save table and picture where asked."""
    results = Results(source)
    text = markdown(results)
    print(text)
    if table:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(text)
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(results, picture)
    for kept, line in compare(results):
        print({True: "pass", False: "FAIL", None: "  - "}[kept], line)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Report on a file of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("source", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(argv)
    return write(args.source, table=args.table, picture=args.picture)


if __name__ == "__main__":
    sys.exit(main())
