"""Memory of one regression fit, and how often it reads X.

    python -m benchmarks.memory
    python -m benchmarks.memory --mapped 4        a memory-mapped X of 4 GB on disk

Each case runs in a process of its own, after a small fit that loads everything. The
peak above X is given twice: of the resident size (Linux), which includes the buffers
of BLAS, and of what Python and NumPy allocated. For a memory-mapped X the pages of the
file do not count: they go when the memory is wanted. That its fit does without a copy
is also enforced: the process may not have more than a quarter of X of its own memory
(RLIMIT_DATA), so that a copy would be an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from . import THREADS
from .measure import allocated_by, anonymous_peak, cost_of, keep, reads_of
from .problems import ROOT, make_gaussian
from .regression import RESULTS, environment
from .worker import resident

SHAPES = ((1000, 10_000, 50), (50_000, 500, 50))
K_MAPPED, N_MAPPED = 50, 1000
BLOCK = 2**13


def warm_up() -> None:
    """Fit a small problem, so that libraries and their buffers are there."""
    from chita_sklearn import ChitaRegressor

    X = np.random.default_rng(0).standard_normal((100, 400))
    ChitaRegressor(5, random_state=0).fit(X, X[:, 0])
    big = np.ones((600, 600))
    big @ big


def fitted(X: np.ndarray, y: np.ndarray, k: int):
    """Fit with the defaults."""
    from chita_sklearn import ChitaRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ChitaRegressor(k, random_state=0).fit(X, y)


def dense(n: int, p: int, k: int, dtype: str, order: str) -> dict:
    """Measure one fit of X in memory."""
    data = make_gaussian("toeplitz", 0.5, n, p, k, 10, 0)
    X = np.asarray(data.X_train, dtype=dtype, order=order)
    y = data.y_train.astype(dtype)
    true = data.support
    del data
    warm_up()
    with reads_of(p) as reads:
        model, cost = cost_of(lambda: fitted(X, y, k))
    found = len(np.intersect1d(model.support_, true))
    allocated = allocated_by(lambda: fitted(X, y, k))
    return {
        "kind": "dense",
        "n": n,
        "p": p,
        "k": k,
        "dtype": dtype,
        "order": order,
        "x_bytes": X.nbytes,
        "cost": asdict(cost),
        "allocated": allocated,
        "passes": reads.passes,
        "reads": reads.products,
        "calls": reads.calls,
        "recovered": found,
        "history": list(model.solver_history_),
    }


def mapped(path: Path, p: int) -> dict:
    """Measure one fit of a memory-mapped X, its own memory limited."""
    import resource

    X = np.load(path, mmap_mode="r")
    y = np.load(path.with_suffix(".y.npy"))
    true = np.load(path.parent / "S.npy")
    warm_up()
    room = X.nbytes // 4
    private = resident("VmData") or 0
    resource.setrlimit(resource.RLIMIT_DATA, (private + room, private + room))
    with anonymous_peak() as peak, reads_of(p) as reads:
        model, cost = cost_of(lambda: fitted(X, y, K_MAPPED))
    return {
        "kind": "mapped",
        "n": X.shape[0],
        "p": p,
        "k": K_MAPPED,
        "dtype": str(X.dtype),
        "order": "C" if X.flags.c_contiguous else "F",
        "x_bytes": X.nbytes,
        "cost": asdict(cost),
        "own_peak": peak[-1],
        "limit": room,
        "passes": reads.passes,
        "reads": reads.products,
        "calls": reads.calls,
        "recovered": len(np.intersect1d(model.support_, true)),
        "history": list(model.solver_history_),
    }


def store(path: Path, p: int, order: str) -> None:
    """Write a standard normal X (float32) and a response of K_MAPPED columns."""
    rng = np.random.default_rng(0)
    S = np.sort(rng.choice(p, K_MAPPED, replace=False))
    X = np.lib.format.open_memmap(
        path,
        mode="w+",
        dtype=np.float32,
        shape=(N_MAPPED, p),
        fortran_order=order == "F",
    )
    y = rng.standard_normal(N_MAPPED)
    for start in range(0, p, BLOCK):
        cols = slice(start, min(start + BLOCK, p))
        block = rng.standard_normal((N_MAPPED, cols.stop - start), dtype=np.float32)
        X[:, cols] = block
        y += block[:, S[(S >= start) & (S < cols.stop)] - start].sum(axis=1)
    X.flush()
    np.save(path.with_suffix(".y.npy"), y.astype(np.float32))
    np.save(path.parent / "S.npy", S)


def in_a_process(call: str) -> dict:
    """Evaluate a call of this module in a process of its own."""
    code = f"import json; from benchmarks import memory; print(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def markdown(records: list[dict]) -> str:
    """Return the table."""
    env = environment({})
    lines = [
        f"{env['processor']}, {THREADS} thread(s), NumPy {env['versions']['numpy']}.",
        "",
        "| X | n | p | k | type | layout | size, MB | allocated above X "
        "| resident above X | passes | of them: A w | A' r | columns | norms | CPU |",
        "|" + "---|" * 15,
    ]
    for r in records:
        reads, size = r["reads"], r["x_bytes"]
        peak = r["cost"]["peak_bytes"]
        allocated = f"{100 * r['allocated'] / size:.1f} %" if "allocated" in r else "-"
        above = "-" if peak is None else f"{100 * peak / size:.1f} %"
        if r["kind"] == "mapped":
            above = f"{100 * r['own_peak'] / size:.1f} %"
        parts = " | ".join(
            f"{reads.get(name, 0):.1f}" for name in ("A w", "A' r", "columns", "norms")
        )
        layout = "rows" if r["order"] == "C" else "columns"
        kind = "in memory" if r["kind"] == "dense" else "mapped file"
        lines.append(
            f"| {kind} | {r['n']:,} | {r['p']:,} | {r['k']} "
            f"| {r['dtype']} | {layout} "
            f"| {size / 1e6:,.0f} | {allocated} | {above} | {r['passes']:.1f} "
            f"| {parts} | {r['cost']['cpu']:.2f} s |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure all cases; write JSON and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--mapped", type=float, help="GB of a memory-mapped X")
    parser.add_argument("--orders", default="C,F", help="layouts of X")
    parser.add_argument("--folder", type=Path, help="for the mapped file")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    records = []
    orders = args.orders.split(",")
    if args.mapped:
        p = round(args.mapped * 1e9 / 4 / N_MAPPED)
        for order in orders:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                path = Path(folder) / "X.npy"
                store(path, p, order)
                call = f"memory.mapped(memory.Path({str(path)!r}), {p})"
                records.append(in_a_process(call))
    else:
        for n, p, k in SHAPES:
            for dtype in ("float64", "float32"):
                for order in orders:
                    call = f"memory.dense({n}, {p}, {k}, {dtype!r}, {order!r})"
                    records.append(in_a_process(call))
    kept = keep(
        args.output,
        records,
        lambda r: (r["kind"], r["n"], r["p"], r["k"], r["dtype"], r["order"]),
    )
    text = markdown(kept)
    print(text)
    if args.table:
        args.table.write_text(text)
    for r in records:
        used = r.get(
            "own_peak", max(r.get("allocated", 0), r["cost"]["peak_bytes"] or 0)
        )
        share = used / r["x_bytes"]
        where = f"{r['kind']} {r['n']} x {r['p']} {r['dtype']} {r['order']}"
        verdict = "pass" if share <= 0.25 else "FAIL"
        print(f"{verdict} {where}: {100 * share:.1f} % of X above it, 25 % at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
