"""A pruning problem as large as memory allows: 500 gradients of 4.2 million weights.

    python -m benchmarks.large --p 42000,420000
    CHITA_BENCH_THREADS=2 python -m benchmarks.large --p 4200000      needs 13 GB free

A (n x p, float32) is generated in blocks of columns from a fixed seed and looks like
the gradients of a network: the columns' scales are spread evenly over ten orders of
magnitude, their directions share a few factors, some columns are zero, and
``||A||_F^2 / n`` is that of a small network (131) unless ``--trace`` says otherwise.
w_bar is dense, b = A w_bar. Kept are 10 % of the weights at ridge 1e-2.

Costs are in units of one float32 product ``A @ A.T``, timed before and after the solve:
CPU time over that of the product on one thread (on a busy machine the threads of BLAS
burn time waiting for each other), clock over clock. Memory is the growth of the
process's peak resident size during the solve (Linux) as a share of A. Products, norms
and selection are checked in float64 on sampled blocks, the objective on all of A.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from . import THREADS
from .measure import Cost, cost_of, keep, reads_of
from .regression import RESULTS

ORDERS = 10  # of magnitude in the columns' scales
FACTORS = 20  # directions that the columns share
SHARED = 0.3  # of each column's variance, in them
ZERO = 0.03  # of the columns
BLOCK = 2**14  # columns generated, or checked, at a time
SIGMA = 0.05  # of w_bar


def generate(
    n: int, p: int, *, trace: float, order: str = "C", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A (n, p) float32, w_bar (p,) float32 and b = A w_bar (n,) float64."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-ORDERS, 0, p)
    scale[rng.random(p) < ZERO] = 0.0
    scale *= np.sqrt(trace / (scale @ scale))
    w_bar = rng.normal(0.0, SIGMA, p).astype(np.float32)
    factors = rng.standard_normal((n, FACTORS), dtype=np.float32)
    factors *= np.sqrt(SHARED / FACTORS)
    A = np.empty((n, p), dtype=np.float32, order=order)
    b = np.zeros(n)
    for start in range(0, p, BLOCK):
        cols = slice(start, min(start + BLOCK, p))
        size = cols.stop - cols.start
        block = rng.standard_normal((n, size), dtype=np.float32)
        block *= np.float32(np.sqrt(1 - SHARED))
        block += factors @ rng.standard_normal((FACTORS, size), dtype=np.float32)
        block *= scale[cols].astype(np.float32)
        A[:, cols] = block
        b += block.astype(float) @ w_bar[cols]
    return A, w_bar, b


def sampled(p: int, count: int = 6, size: int = 2048) -> list[slice]:
    """Blocks of columns from one end of A to the other."""
    size = min(size, p)
    starts = np.linspace(0, p - size, count).astype(int)
    return [slice(int(start), int(start) + size) for start in starts]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, over the largest expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(problem, A: np.ndarray, k: int) -> dict:
    """Compare products, norms and selection with float64 on sampled blocks."""
    from chita_sklearn.core import Cardinality

    n, p = A.shape
    rng = np.random.default_rng(1)
    blocks = sampled(p)
    exact = [A[:, cols].astype(float) for cols in blocks]
    r, w = rng.standard_normal(n), np.zeros(p)
    for cols in blocks:
        w[cols] = rng.standard_normal(cols.stop - cols.start)
    # Blocks of a small A overlap.
    inside = np.unique(np.concatenate([np.arange(c.start, c.stop) for c in blocks]))
    A_w = A[:, inside].astype(float) @ w[inside]
    out = {"products": {}}
    for name, rough in (("float64", False), ("rough", True)):
        u = problem.rmatvec(r, rough=rough)
        errors = [relative(u[c], a.T @ r) for c, a in zip(blocks, exact, strict=True)]
        out["products"][name] = {
            "A w": relative(problem.matvec(w, rough=rough), A_w),
            "A' r": max(errors),
        }
    h = problem.column_norms()
    expected = np.concatenate([np.einsum("ij,ij->j", a, a) for a in exact])
    found = np.concatenate([h[c] for c in blocks])
    live = expected > 0
    out["norms"] = float(np.abs(found[live] / expected[live] - 1).max())
    out["norms_zero_agree"] = bool(((found == 0) == ~live).all())
    out["orders"] = float(np.log10(h.max() / h[h > 0].min()) / 2)
    out["trace_over_n"] = float(h.sum() / n)
    out["zero_columns"] = float((h == 0).mean())
    # Rounded scores tie: the chosen ones must be the first among equals.
    score = problem.xp.abs(problem.prior)
    for name, s in (("top_k", score), ("top_k_ties", np.round(score, 3))):
        mask = Cardinality(k).best_mask(s)
        threshold = s[mask].min()
        tied = np.flatnonzero(s == threshold)
        taken = mask[tied]
        out[name] = bool(
            np.count_nonzero(mask) == k
            and threshold >= s[~mask].max()
            and (np.diff(taken.astype(int)) <= 0).all()
        )
    return out


def objective(A: np.ndarray, b: np.ndarray, w, w_bar, mu: float) -> float:
    """Evaluate 1/2 ||b - A w||^2 + mu/2 ||w - w_bar||^2 in float64, by blocks."""
    w, w_bar = np.asarray(w, dtype=float), w_bar.astype(float)
    r = b.copy()
    for start in range(0, A.shape[1], BLOCK):
        cols = slice(start, start + BLOCK)
        r -= A[:, cols].astype(float) @ w[cols]
    return float(r @ r / 2 + mu / 2 * ((w - w_bar) ** 2).sum())


def run(n: int, p: int, args: argparse.Namespace) -> dict:
    """Generate, check and solve one size."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    (A, w_bar, b), made = cost_of(
        lambda: generate(n, p, trace=args.trace, order=args.order)
    )
    print(
        f"p = {p:,}: A is {A.nbytes / 1e9:.3g} GB, made in {made.wall:.0f} s",
        flush=True,
    )
    k = round(p * (1 - args.sparsity))

    def product(threads: int) -> Cost:
        with threadpool_limits(threads):
            return cost_of(lambda: A @ A.T)[1]

    def fit():
        problem = LeastSquares(A, b, ridge=args.ridge, prior=w_bar)
        options = {"solver": "dual", "tol": args.tol, "max_iter": args.max_iter}
        return problem, solve(problem, Cardinality(k), **options)

    with reads_of(p) as reads:
        unit = product(threads=1)
        (problem, solution), cost = cost_of(fit)
        both = product(threads=THREADS)
    value = objective(A, b, solution.coef, w_bar, problem.mu)
    record = {
        "n": n,
        "p": p,
        "k": k,
        "order": args.order,
        "trace": args.trace,
        "ridge": args.ridge,
        "threads": THREADS,
        "bytes": A.nbytes,
        "product": asdict(unit),
        "product_all_threads": asdict(both),
        "solve": asdict(cost),
        "cost_cpu": cost.cpu / unit.cpu,
        "cost_wall": cost.wall / both.wall,
        "memory": None if cost.peak_bytes is None else cost.peak_bytes / A.nbytes,
        "passes": reads.passes,
        "reads": reads.products,
        "objective": value,
        "objective_error": abs(solution.objective / value - 1),
        "magnitude_pruning": objective(
            A,
            b,
            np.where(Cardinality(k).best_mask(np.abs(w_bar)), w_bar, 0),
            w_bar,
            problem.mu,
        ),
        "gap": float(solution.gap),
        "steps": int(solution.n_iter),
        "n_nonzero": int(np.count_nonzero(solution.coef)),
        "status": solution.status.name,
        "history": list(solution.history),
        "check": check(problem, A, k),
    }
    for line in solution.history:
        print("   ", line)
    print(
        f"    {record['cost_cpu']:.2f} products A A' of CPU "
        f"({record['cost_wall']:.2f} on the clock, {cost.wall:.0f} s), "
        f"{100 * (record['memory'] or 0):.1f} % of A above it, gap "
        f"{100 * record['gap']:.4f} %, {reads.passes:.1f} passes over A",
        flush=True,
    )
    return record


def markdown(records: list[dict]) -> str:
    """Return the table."""
    lines = [
        "| p | A | trace / n | threads | layout | cost: CPU | clock | memory above A "
        "| passes | steps | proven gap | magnitude |",
        "|" + "---|" * 12,
    ]
    for r in sorted(records, key=lambda r: (r["p"], r["trace"], r["order"])):
        memory = "-" if r["memory"] is None else f"{100 * r['memory']:.1f} %"
        layout = "rows" if r["order"] == "C" else "columns"
        lines.append(
            f"| {r['p']:,} | {r['bytes'] / 1e9:.3g} GB | {r['trace']:g} "
            f"| {r['threads']} | {layout} | {r['cost_cpu']:.2f} | {r['cost_wall']:.2f} "
            f"| {memory} | {r['passes']:.1f} | {r['steps']} | {100 * r['gap']:.4f} % "
            f"| {r['magnitude_pruning'] / r['objective']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def claims(records: list[dict]) -> list[tuple[bool, str]]:
    """Return (kept, text) for what is asked of each size."""
    out = []
    for r in records:
        where = f"p = {r['p']:,}, trace/n {r['trace']:g}, {r['order']} order"
        c = r["check"]
        if r["memory"] is not None:
            text = f"{where}: {100 * r['memory']:.1f} % of A above it, 25 % at most"
            out.append((r["memory"] <= 0.25, text))
        text = f"{where}: {r['cost_cpu']:.2f} products A A' of CPU, 15 at most"
        out.append((r["cost_cpu"] <= 15, text))
        out.append((r["n_nonzero"] <= r["k"], f"{where}: {r['n_nonzero']} non-zeros"))
        right = (
            c["top_k"]
            and c["top_k_ties"]
            and c["norms_zero_agree"]
            and c["norms"] < 1e-12
            and max(c["products"]["float64"].values()) < 1e-12
            and max(c["products"]["rough"].values()) < 1e-4
            and r["objective_error"] < 1e-9
        )
        text = (
            f"{where}: norms over {c['orders']:.1f} orders within {c['norms']:.0e}, "
            f"products within {max(c['products']['float64'].values()):.0e} "
            f"(float32: {max(c['products']['rough'].values()):.0e}), selection exact, "
            f"objective within {r['objective_error']:.0e}"
        )
        out.append((right, text))
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the sizes; write JSON and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--p", default="42000,420000", help="sizes, by commas")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--ridge", type=float, default=1e-2)
    parser.add_argument("--trace", type=float, default=131.0, help="||A||_F^2 / n")
    parser.add_argument("--order", choices=("C", "F"), default="C")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--max-iter", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS / "large.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    records = []
    for p in args.p.split(","):
        records.append(run(args.n, int(p), args))
        kept = keep(
            args.output,
            records,
            lambda r: (r["n"], r["p"], r["trace"], r["order"], r["threads"]),
        )
    text = markdown(kept)
    print(text)
    if args.table:
        args.table.write_text(text)
    for held, line in claims(records):
        print("pass" if held else "FAIL", line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
