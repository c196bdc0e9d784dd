"""Memory of one regression fit, and how often it reads X.

    python -m benchmarks.memory
    python -m benchmarks.memory --mapped 4        a memory-mapped X of 4 GB on disk
    python -m benchmarks.memory --mapped 4 --k 10 --orders F

Regression is `ChitaRegressor` with its defaults, with sample weights and without an
intercept on shapes from wide to tall, a path of a very tall X, and a sparse X of two
million columns; pruning is `core.solve` by each plan for large
supports, on the gradients of `benchmarks.large`. Each case runs in a process of its
own, after another fit that loads everything, the buffers of BLAS included. The peak
above X is given twice: of the resident size (Linux), and of what Python and NumPy
allocated. For a memory-mapped X the pages of the file do not count: they go when the
memory is wanted. That its fit does without a copy is also enforced: the process may not
have more than a quarter of X of its own memory (RLIMIT_DATA), so that a copy would be
an error.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import THREADS
from .large import generate
from .measure import allocated_by, anonymous_peak, cost_of, keep, reads_of
from .problems import ROOT, make_gaussian
from .regression import RESULTS, environment
from .worker import resident

SHAPES = (
    (1000, 10_000, 50),
    (5000, 5000, 50),
    (50_000, 500, 50),
    (100_000, 100, 20),
    (5000, 5000, 500),
    (8000, 8000, 800),
)
PRUNING = ((1000, 42_000, 4200), (2000, 42_000, 4200))
PLANS = ("dual", "iht", "dense")
# A path of a tall X, of so many numbers of features; and one fit of a sparse X, of so
# many entries in each column.
PATHS = ((3_000_000, 20, 10),)
SPARSE = ((1000, 2_000_000, 5),)
STORED = 10
VECTORS = {"path": 10, "sparse": 20}  # of n or p numbers in float64
K_MAPPED, N_MAPPED = 50, 1000
BLOCK = 2**13


def warm_up() -> None:
    """Fit another problem, so that libraries and their buffers are there.

    OpenBLAS keeps some 6 MB from its first large products on, whatever their size:
    once a process, not once a fit. What the fit has freed is given back to the system
    (where the C library is glibc), lest it hide what the next one takes.
    """
    data = make_gaussian("toeplitz", 0.5, 1000, 3000, 50, 10, 1)
    for dtype in (np.float32, np.float64):
        fitted(data.X_train.astype(dtype), data.y_train.astype(dtype), 50)
    del data
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def fitted(X: np.ndarray, y: np.ndarray, k: int, options: str = "defaults"):
    """Fit with the defaults but for one option."""
    from chita_sklearn import ChitaRegressor

    weights = np.linspace(0.5, 2.0, len(y)) if options == "weights" else None
    model = ChitaRegressor(k, fit_intercept=options != "no intercept", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y, sample_weight=weights)


def dense(n: int, p: int, k: int, dtype: str, order: str, options: str) -> dict:
    """Measure one fit of X in memory."""
    data = make_gaussian("toeplitz", 0.5, n, p, k, 10, 0)
    X = np.asarray(data.X_train, dtype=dtype, order=order)
    y = data.y_train.astype(dtype)
    true = data.support
    del data
    record = measured(X, k, lambda: fitted(X, y, k, options))
    model = record.pop("result")
    return record | {
        "kind": "dense",
        "options": options,
        "recovered": len(np.intersect1d(model.support_, true)),
        "history": list(model.solver_history_),
    }


def path(n: int, p: int, k: int, dtype: str) -> dict:
    """Measure a path k = 1, 2, ... of a standard normal X."""
    from chita_sklearn import chita_path

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p), dtype=dtype)
    y = (X[:, :k].sum(axis=1) + rng.standard_normal(n)).astype(dtype)
    record = measured(X, k, lambda: chita_path(X, y, k, random_state=0))
    found = record.pop("result").supports[-1]
    return record | {
        "kind": "path",
        "options": "defaults",
        "recovered": len(np.intersect1d(found, np.arange(k))),
    }


def sparse(n: int, p: int, k: int) -> dict:
    """Measure one fit of a sparse X: three arrays (CSC), which count together."""
    import scipy.sparse

    from chita_sklearn import ChitaRegressor

    rng = np.random.default_rng(0)
    rows = rng.integers(0, n, STORED * p, dtype=np.int32)
    starts = np.arange(0, STORED * p + 1, STORED, dtype=np.int32)
    X = scipy.sparse.csc_array((rng.standard_normal(STORED * p), rows, starts), (n, p))
    X.sum_duplicates()
    y = X[:, list(range(k))].sum(axis=1) + 0.1 * rng.standard_normal(n)
    size = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    warm_up()
    model = ChitaRegressor(k, n_restarts=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, cost = cost_of(lambda: model.fit(X, y))
        allocated = allocated_by(lambda: model.fit(X, y))
    return {
        "kind": "sparse",
        "options": f"{STORED} entries a column",
        "n": n,
        "p": p,
        "k": k,
        "dtype": str(X.dtype),
        "order": "F",
        "x_bytes": size,
        "cost": asdict(cost),
        "allocated": allocated,
        "passes": float("nan"),
        "reads": {},
        "calls": {},
        "recovered": len(np.intersect1d(model.support_, np.arange(k))),
        "history": list(model.solver_history_),
    }


def pruning(n: int, p: int, k: int, dtype: str, order: str, plan: str) -> dict:
    """Measure one solve on generated gradients."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    A, w_bar, b = generate(n, p, trace=131.0, order=order)
    A = A.astype(dtype, copy=False)

    def solved():
        problem = LeastSquares(A, b, ridge=1e-2, prior=w_bar)
        return solve(problem, Cardinality(k), solver=plan)

    record = measured(A, k, solved)
    solution = record.pop("result")
    return record | {
        "kind": "pruning",
        "options": plan,
        "history": list(solution.history),
    }


def measured(X: np.ndarray, k: int, call: Callable[[], Any]) -> dict:
    """Measure one call: its cost, what it allocates and how often it reads X."""
    warm_up()
    with reads_of(X.shape[1]) as reads:
        result, cost = cost_of(call)
    allocated = allocated_by(call)
    return {
        "n": X.shape[0],
        "p": X.shape[1],
        "k": k,
        "dtype": str(X.dtype),
        "order": "C" if X.flags.c_contiguous else "F",
        "x_bytes": X.nbytes,
        "cost": asdict(cost),
        "allocated": allocated,
        "passes": reads.passes,
        "reads": reads.products,
        "calls": reads.calls,
        "result": result,
    }


def mapped(path: Path, p: int, k: int) -> dict:
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
        model, cost = cost_of(lambda: fitted(X, y, k))
    return {
        "kind": "mapped",
        "options": "defaults",
        "n": X.shape[0],
        "p": p,
        "k": k,
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


def store(path: Path, p: int, k: int, order: str) -> None:
    """Write a standard normal X (float32) and a response of k columns."""
    rng = np.random.default_rng(0)
    S = np.sort(rng.choice(p, k, replace=False))
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


def calls(orders: list[str]) -> Iterator[str]:
    """The cases in memory, as calls of this module."""
    for n, p, k in SHAPES:
        for dtype in ("float64", "float32"):
            for order in orders:
                yield f"memory.dense({n}, {p}, {k}, {dtype!r}, {order!r}, 'defaults')"
            for options in ("weights", "no intercept"):
                yield f"memory.dense({n}, {p}, {k}, {dtype!r}, 'C', {options!r})"
    for n, p, k in PATHS:
        for dtype in ("float64", "float32"):
            yield f"memory.path({n}, {p}, {k}, {dtype!r})"
    for n, p, k in SPARSE:
        yield f"memory.sparse({n}, {p}, {k})"
    for n, p, k in PRUNING:
        for dtype in ("float64", "float32"):
            for plan in PLANS:
                yield f"memory.pruning({n}, {p}, {k}, {dtype!r}, 'C', {plan!r})"


def case(r: dict) -> tuple:
    """Return what a record is one of its kind by."""
    names = ("kind", "n", "p", "k", "dtype", "order", "options")
    return tuple(r[name] for name in names)


def one_line(r: dict) -> str:
    """Whether a record keeps to a quarter of X, for the terminal.

    Where X has few numbers beside its rows or columns: to VECTORS of as many.
    """
    used = r.get("own_peak", max(r.get("allocated", 0), r["cost"]["peak_bytes"] or 0))
    share = used / r["x_bytes"]
    where = f"{r['kind']} {r['n']} x {r['p']} {r['dtype']} {r['order']} {r['options']}"
    vectors = VECTORS.get(r["kind"], 0) * 8 * max(r["n"], r["p"])
    most = max(0.25, vectors / r["x_bytes"])
    verdict = "pass" if share <= most else "FAIL"
    above = f"{100 * share:.1f} % of X above it, {100 * most:.0f} % at most"
    return f"{verdict} {where}: {above}"


def markdown(records: list[dict]) -> str:
    """Return the table."""
    env = environment({})
    lines = [
        f"{env['processor']}, {THREADS} thread(s), NumPy {env['versions']['numpy']}.",
        "",
        "| X | n | p | k | options | type | layout | size, MB | allocated above X "
        "| resident above X | passes | of them: A w | A' r | columns | factor | norms "
        "| CPU |",
        "|" + "---|" * 17,
    ]
    for r in records:
        reads, size = r["reads"], r["x_bytes"]
        peak = r["cost"]["peak_bytes"]
        allocated = f"{100 * r['allocated'] / size:.1f} %" if "allocated" in r else "-"
        above = "-" if peak is None else f"{100 * peak / size:.1f} %"
        if r["kind"] == "mapped":
            above = f"{100 * r['own_peak'] / size:.1f} %"
        parts = " | ".join(
            f"{reads.get(name, 0):.1f}"
            for name in ("A w", "A' r", "columns", "factor", "norms")
        )
        passes = f"{r['passes']:.1f}" if reads else "-"
        layout = "rows" if r["order"] == "C" else "columns"
        kinds = {"dense": "in memory", "mapped": "mapped file"}
        kind = kinds.get(r["kind"], r["kind"])
        lines.append(
            f"| {kind} | {r['n']:,} | {r['p']:,} | {r['k']} "
            f"| {r['options']} | {r['dtype']} | {layout} "
            f"| {size / 1e6:,.0f} | {allocated} | {above} | {passes} "
            f"| {parts} | {r['cost']['cpu']:.2f} s |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure all cases; write JSON and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--mapped", type=float, help="GB of a memory-mapped X")
    parser.add_argument("--k", type=int, default=K_MAPPED, help="with --mapped")
    parser.add_argument("--orders", default="C,F", help="layouts of X")
    parser.add_argument("--only", help="regular expression on the case's call")
    parser.add_argument("--folder", type=Path, help="for the mapped file")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    kept: list[dict] = []
    orders = args.orders.split(",")
    if args.mapped:
        p = round(args.mapped * 1e9 / 4 / N_MAPPED)
        for order in orders:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                path = Path(folder) / "X.npy"
                store(path, p, args.k, order)
                call = f"memory.mapped(memory.Path({str(path)!r}), {p}, {args.k})"
                record = in_a_process(call)
                kept = keep(args.output, [record], case)
                print(one_line(record), flush=True)
    else:
        for call in calls(orders):
            if args.only is None or re.search(args.only, call):
                record = in_a_process(call)
                kept = keep(args.output, [record], case)
                print(one_line(record), flush=True)
    text = markdown(kept)
    print(text)
    if args.table:
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
