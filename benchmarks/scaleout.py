"""Rows beyond memory and beyond one process: what moments cost, and how exact they are.

    python -m benchmarks.scaleout rows          4,000,000 x 200 float32, 3.2 GB on disk
    python -m benchmarks.scaleout accuracy      ten chunkings against long double
    python -m benchmarks.scaleout processes     one and two processes; the cost model
    python -m benchmarks.scaleout columns       400,000 columns on one rank and on two
    python -m benchmarks.scaleout mlpnet mlpnet-gradients resnet20
                                                networks on one rank and two

A section is a function; `SECTIONS` lists them. Files are made in --folder and deleted.
CPU is process time with one BLAS thread, and compared within a run only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .regression import RESULTS, environment, write_json
from .worker import reset_peak, resident

BLOCK = 20_000  # rows at a time, of everything that is compared
TRUE = [3, 17, 29, 41, 58, 77, 90, 111, 134, 150, 171, 199]


# --- Rows: a memory map larger than what the process may hold -------------------------


def make(path: Path, n: int, p: int, seed: int = 0) -> np.ndarray:
    """Write X, float32, of correlated columns with means; return y, float64."""
    rng = np.random.default_rng(seed)
    mean, weights = rng.standard_normal(p) * 5, rng.uniform(0.3, 1, len(TRUE))
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, p))
    y = np.empty(n)
    for i in range(0, n, BLOCK):
        rows = slice(i, min(i + BLOCK, n))
        block = rng.standard_normal((rows.stop - i, p), dtype=np.float32)
        block[:, 1:] += 0.5 * block[:, :-1]
        block += mean.astype(np.float32)
        X[rows] = block
        noise = rng.standard_normal(rows.stop - i)
        y[rows] = block[:, TRUE].astype(float) @ weights + 2 * noise
    X.flush()
    return y


def gram(X: np.ndarray) -> np.ndarray:
    """X'X in float64, by blocks: what the factor is measured against."""
    total = np.zeros((X.shape[1], X.shape[1]))
    for i in range(0, len(X), BLOCK):
        block = X[i : i + BLOCK].astype(np.float64)
        total += block.T @ block
    return total


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def rows_worker(folder: Path) -> dict:
    """In a process of its own, whose memory is measured: sum, then solve."""
    from chita_sklearn import ChitaRegressorCV, chita_path, moments

    y = np.load(folder / "y.npy", mmap_mode="r")

    def mapped() -> np.ndarray:
        return np.load(folder / "X.npy", mmap_mode="r")

    idle, costs = resident("VmRSS") or 0, []
    for _ in range(2):  # the first reads the file, if the system does not hold it
        X = mapped()
        reset_peak()
        folds, cpu, wall = timed(lambda X=X: moments(X, y, folds=5))
        peak = resident("VmHWM") or 0
        del X
        X = mapped()
        _, cpu_gram, wall_gram = timed(lambda X=X: gram(X))
        del X
        costs.append((cpu / cpu_gram, cpu, wall, cpu_gram, wall_gram, peak))
    ratio, cpu, wall, cpu_gram, wall_gram, _ = min(costs)
    whole = folds[0]
    for fold in folds[1:]:
        whole = whole.merge(fold)
    # The data are not there any more.
    for name in ("X.npy", "y.npy"):
        os.rename(folder / name, folder / f"hidden_{name}")
    path, cpu_path, _ = timed(lambda: chita_path(whole, None, 30, random_state=0))
    cv = ChitaRegressorCV(ks=[4, 8, 12, 16, 20], ridges=[1e-3, 1e-2], random_state=0)
    cv, cpu_cv, _ = timed(lambda: cv.fit_moments(folds))
    for name in ("X.npy", "y.npy"):
        os.rename(folder / f"hidden_{name}", folder / name)
    return {
        "cpu": cpu,
        "wall": wall,
        "cpu_gram": cpu_gram,
        "wall_gram": wall_gram,
        "ratio": ratio,
        "ratios": [cost[0] for cost in costs],
        "idle_bytes": idle,
        "peak_bytes": max(cost[-1] for cost in costs),
        "cpu_path": cpu_path,
        "cpu_cv": cpu_cv,
        "cv_support": np.flatnonzero(cv.coef_).tolist(),
        "path_support": path.supports[len(TRUE) - 1].tolist(),
        "coef": path.coefs[:, len(TRUE) - 1].astype(float).tolist(),
    }


def rows(folder: Path, n: int, p: int) -> tuple[dict, str]:
    """One pass over a memory map; then paths and folds without the data."""
    from chita_sklearn import ChitaRegressor, Moments

    with tempfile.TemporaryDirectory(dir=folder) as name:
        here = Path(name)
        np.save(here / "y.npy", make(here / "X.npy", n, p))
        command = [sys.executable, "-m", "benchmarks.scaleout", "--worker", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        record = json.loads(done.stdout)
        y, few = np.load(here / "y.npy"), min(n, 500_000)
        model = ChitaRegressor(len(TRUE), random_state=0)
        data = here / "X.npy"
        model, cpu_fit, _ = timed(lambda: model.fit(np.load(data, mmap_mode="r"), y))
        X64 = np.load(data, mmap_mode="r")[:few].astype(np.float64)
    known = np.asarray(record.pop("coef"))
    size = float(np.linalg.norm(model.coef_))
    wide = ChitaRegressor(len(TRUE), random_state=0).fit(X64, y[:few])
    summed = ChitaRegressor(len(TRUE), random_state=0)
    summed.fit_moments(Moments().update(X64, y[:few]))
    record |= {
        "n": n,
        "p": p,
        "cpu_fit": cpu_fit,
        "same_support": model.support_.tolist() == record["path_support"] == TRUE,
        "float32_apart": float(np.linalg.norm(known - model.coef_)) / size,
        "float64_apart": float(
            np.linalg.norm(summed.coef_ - wide.coef_) / np.linalg.norm(wide.coef_)
        ),
    }
    mib = 2**20
    text = f"""\
{n:,} x {p} float32, a memory map of {4 * n * p / 1e9:.1f} GB; five folds, one process.

| | |
|---|---|
| factor: CPU, wall | {record["cpu"]:.1f} s, {record["wall"]:.1f} s |
| X'X in float64: CPU, wall | {record["cpu_gram"]:.1f} s, {record["wall_gram"]:.1f} s |
| CPU, factor over X'X, each run | {", ".join(f"{r:.2f}" for r in record["ratios"])} |
| process memory, idle and peak | {record["idle_bytes"] / mib:.0f} MiB, \
{record["peak_bytes"] / mib:.0f} MiB |
| path k = 1, ..., 30, data gone | {record["cpu_path"]:.2f} s |
| five folds, five k, two ridges, data gone | {record["cpu_cv"]:.2f} s |
| fit of the rows, k = 12 | {cpu_fit:.1f} s |
| the same support | {record["same_support"]} |
| coefficients apart, float32 | {record["float32_apart"]:.1e} |
| coefficients apart, float64, {few:,} rows | {record["float64_apart"]:.1e} |
"""
    return record, text


# --- Accuracy: chunkings and orders against long double -------------------------------


def in_long_double(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of centred rows by modified Gram-Schmidt, twice, in 80 bits."""
    Q, z = X.astype(np.longdouble), y.astype(np.longdouble)
    Q, z = Q - Q.mean(axis=0), z - z.mean()
    p = X.shape[1]
    R = np.eye(p, dtype=np.longdouble)
    for _ in range(2):
        step = np.zeros_like(R)
        for j in range(p):
            step[j, j] = np.sqrt(Q[:, j] @ Q[:, j])
            Q[:, j] /= step[j, j]
            step[j, j + 1 :] = Q[:, j] @ Q[:, j + 1 :]
            Q[:, j + 1 :] -= np.outer(Q[:, j], step[j, j + 1 :])
        R = step @ R
    coef, right = np.zeros(p, np.longdouble), Q.T @ z
    for j in reversed(range(p)):
        coef[j] = (right[j] - R[j, j + 1 :] @ coef[j + 1 :]) / R[j, j]
    return coef


def accuracy(folder: Path, n: int, p: int) -> tuple[dict, str]:
    """Relative error of all coefficients, the worst of ten chunkings and orders."""
    from sklearn.linear_model import LinearRegression

    from chita_sklearn import ChitaRegressor, Moments

    n, p = min(n, 20_000), min(p, 20)
    records = []
    for condition, mean, dtype in (
        (1e6, 0.0, np.float64),
        (1.0, 1e4, np.float64),
        (1e6, 1e4, np.float64),
        (1e6, 1e4, np.float32),
    ):
        rng = np.random.default_rng(1)
        U = np.linalg.qr(rng.standard_normal((n, p)))[0]
        V = np.linalg.qr(rng.standard_normal((p, p)))[0]
        spectrum = np.logspace(0, -math.log10(condition), p)
        X = math.sqrt(n) * (U * spectrum) @ V.T
        X = (X + mean * X.std(axis=0)).astype(dtype)
        y = X.astype(float) @ rng.standard_normal(p) + rng.standard_normal(n)
        true = in_long_double(X, y)

        def apart(coef: np.ndarray, true: np.ndarray = true) -> float:
            return float(np.linalg.norm(coef - true) / np.linalg.norm(true))

        errors = []
        for seed in range(10):
            order = np.random.default_rng(seed).permutation(n)
            cuts = np.sort(rng.integers(0, n, int(rng.integers(0, 200))))
            seen = Moments()
            for part in np.split(order, cuts):
                seen.update(X[part], y[part])
            seen.dtype = np.dtype(np.float64)
            model = ChitaRegressor(1.0, ridge=0.0, solver="dense").fit_moments(seen)
            errors.append(apart(model.coef_))
        wide = X.astype(np.float64)
        A = wide.T @ wide - n * np.outer(wide.mean(0), wide.mean(0))
        b = wide.T @ y - wide.sum(0) * y.mean()
        records.append(
            {
                "condition": condition,
                "mean": mean,
                "dtype": np.dtype(dtype).name,
                "moments": max(errors),
                "gram": apart(np.linalg.lstsq(A, b, rcond=None)[0]),
                "sklearn": apart(LinearRegression().fit(wide, y).coef_),
            }
        )
    lines = [
        f"{n:,} x {p}; relative error of the least-squares coefficients against long "
        "double, of ten chunkings and orders the worst.",
        "",
        "| condition, mean over spread | moments | X'X in float64 "
        "| LinearRegression, all rows |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['condition']:.0e}, {r['mean']:.0e}, {r['dtype']} | {r['moments']:.0e} "
        f"| {r['gram']:.0e} | {r['sklearn']:.0e} |"
        for r in records
    ]
    return {"records": records}, "\n".join(lines) + "\n"


# --- Processes: strong and weak scaling, constants, and what they extrapolate to ------


def processes(folder: Path, n: int, p: int) -> tuple[dict, str]:
    """Wall seconds on one and two processes; the cost model and its constants."""
    from chita_sklearn import Moments, moments
    from chita_sklearn._moments import CHUNK, CHUNK_ROWS

    n = min(n, 1_000_000)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        y = make(Path(name) / "X.npy", 2 * n, p)

        def summed(size: int, jobs: int) -> Moments:
            X = np.load(Path(name) / "X.npy", mmap_mode="r")
            return moments(X[:size], y[:size], n_jobs=jobs)

        for jobs in (1, 2):  # processes are started, pages read
            summed(2 * n, jobs)
        walls: dict[str, list[float]] = {"one": [], "two": [], "double": []}
        for _ in range(3):  # interleaved
            for key, size, jobs in (("one", n, 1), ("two", n, 2), ("double", 2 * n, 2)):
                walls[key].append(timed(partial(summed, size, jobs))[2])
    best = {key: min(values) for key, values in walls.items()}
    rng = np.random.default_rng(0)
    constants = {}
    for size in (200, 1000, 2000):
        m = max(CHUNK // size, CHUNK_ROWS * (size + 2))
        block, z = rng.standard_normal((m, size)), rng.standard_normal(m)
        seen, cpu, _ = timed(lambda block=block, z=z: Moments().update(block, z))
        _, merge, _ = timed(lambda seen=seen: seen.merge(seen))
        constants[size] = (cpu / m, merge)
    load = os.getloadavg()[0]
    lines = [
        f"n = {n:,}, p = {p}, joblib; wall seconds, best of three; load {load:.1f}.",
        "",
        "| | seconds | |",
        "|---|---|---|",
        f"| n rows, 1 process | {best['one']:.2f} | |",
        f"| n rows, 2 processes | {best['two']:.2f} "
        f"| {best['one'] / best['two']:.2f} x as fast |",
        f"| 2n rows, 2 processes | {best['double']:.2f} "
        f"| efficiency {best['one'] / best['double']:.0%} |",
        "",
        "The model: T(W) = n c(p) / W + log2(W) (merge + 8 (p + 2)^2 / B + 5 ms), of "
        "measured c and merge. On 64 nodes of one core it is an extrapolation, with "
        "B = 1.25 GB/s assumed.",
        "",
        "| p | us a row | merge (s) | n | 1 core (s) | 64 nodes (s) | tree (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for (size, (row, merge)), count in zip(
        constants.items(), (10**9, 10**8, 10**7), strict=True
    ):
        tree = 6 * (merge + 8 * (size + 2) ** 2 / 1.25e9 + 5e-3)
        lines.append(
            f"| {size} | {1e6 * row:.2f} | {merge:.3f} | {count:.0e} "
            f"| {count * row:,.0f} | {count * row / 64 + tree:,.1f} | {tree:.2f} |"
        )
    record = {"walls": walls, "constants": constants, "load": load, "n": n, "p": p}
    return record, "\n".join(lines) + "\n"


# --- Ranks of torch.distributed: columns and networks ---------------------------------

WIDE, ROWS_OF_WIDE, CHOSEN = 200_000, 1000, 15  # columns a rank, rows, and k


def on_ranks(size: int, kind: str, folder: Path) -> list[dict]:
    """Run this file on some ranks of a gloo group on the loopback; their records."""
    store = folder / f"store-{kind}-{size}"
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "benchmarks.scaleout", "--ranks"]
    started = [
        subprocess.Popen(
            [*command, kind, str(rank), str(size), str(folder), str(store)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    records = [json.loads(each.communicate()[0]) for each in started]
    store.unlink(missing_ok=True)
    return records


def on_rank(kind: str, rank: int, size: int, folder: Path, store: str) -> dict:
    """One rank's work, timed."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    group = dist.group.WORLD if size > 1 else None
    work = {"columns": columns_of_rank, "networks": network_of_rank}[kind]
    record = work(rank, size, folder, group)
    dist.destroy_process_group()
    return record


def columns_of_rank(rank: int, size: int, folder: Path, group: Any) -> dict:
    """Fit the columns of this rank; alone, those of both."""
    from chita_sklearn import ChitaRegressor
    from chita_torch.distributed import fit_columns

    y = np.load(folder / "y.npy")
    parts = [np.load(folder / f"X{i}.npy") for i in range(2)]
    if size == 1:
        X = np.concatenate(parts, axis=1)
        del parts
        model = ChitaRegressor(CHOSEN, random_state=0)
        model, cpu, wall = timed(lambda: model.fit(X, y))
        support = model.support_.tolist()
        return {
            "cpu": cpu,
            "wall": wall,
            "support": support,
            "F": model.objective_,
            "bound": model.objective_ * (1 - model.gap_),
        }
    X = parts.pop(rank)
    del parts
    call = partial(fit_columns, X, y, k=CHOSEN, random_state=0, group=group)
    found, cpu, wall = timed(call)
    return {
        "cpu": cpu,
        "wall": wall,
        "support": found.support.tolist(),
        "F": found.objective,
        "bound": found.lower_bound,
        "history": found.history,
        "megabytes": found.bytes_sent / 1e6,
    }


def columns(folder: Path, n: int, p: int) -> tuple[dict, str]:
    """Two ranks of 200,000 columns beside one process with all of them."""
    rng, rows = np.random.default_rng(0), min(n, ROWS_OF_WIDE)
    wide = WIDE if rows == ROWS_OF_WIDE else WIDE // 10
    with tempfile.TemporaryDirectory(dir=folder) as name:
        y = rng.standard_normal(rows) * 2
        for i in range(2):
            shape = (rows, wide)
            X = rng.standard_normal(shape, dtype=np.float32)
            X[:, 1:] += 0.5 * X[:, :-1]
            true = rng.choice(wide, CHOSEN // 2 + i, replace=False)
            y += X[:, true].astype(float) @ rng.uniform(0.3, 1, len(true))
            np.save(Path(name) / f"X{i}.npy", X)
            del X
        np.save(Path(name) / "y.npy", y)
        (alone,) = on_ranks(1, "columns", Path(name))
        ranks = on_ranks(2, "columns", Path(name))
    same = [each["support"] == alone["support"] for each in ranks]
    lines = [
        f"{2 * wide:,} columns, {rows} rows, float32, k = {CHOSEN}.",
        "",
        "| | one process, all columns | rank 0 | rank 1 |",
        "|---|---|---|---|",
        f"| CPU (s) | {alone['cpu']:.1f} | "
        + " | ".join(f"{each['cpu']:.1f}" for each in ranks)
        + " |",
        f"| wall (s) | {alone['wall']:.1f} | "
        + " | ".join(f"{each['wall']:.1f}" for each in ranks)
        + " |",
        f"| objective | {alone['F']:.9f} | "
        + " | ".join(f"{each['F']:.9f}" for each in ranks)
        + " |",
        f"| lower bound | {alone['bound']:.9f} | "
        + " | ".join(f"{each['bound']:.9f}" for each in ranks)
        + " |",
        "| sent (MB) | | "
        + " | ".join(f"{each['megabytes']:.1f}" for each in ranks)
        + " |",
        f"| the support of one process | | {same[0]} | {same[1]} |",
        f"| same bits on both | | {ranks[0]['F'] == ranks[1]['F']} | |",
        "",
        "What ran: " + "; ".join(ranks[0]["history"]) + ".",
    ]
    return {"alone": alone, "ranks": ranks}, "\n".join(lines) + "\n"


# The data of `benchmarks.mlpnet` and `benchmarks.resnet20`, and how each is pruned.
NETWORKS: dict[str, tuple[str, dict]] = {
    "mlpnet": (
        "mlpnet",
        {"objective": "reconstruction", "sparsity": 0.95, "n_samples": 60_000},
    ),
    "mlpnet-gradients": ("mlpnet", {"objective": "gradients", "sparsity": 0.95}),
    "resnet20": ("resnet20", {"objective": "reconstruction", "sparsity": 0.8}),
}


class Clock:
    """CPU and wall seconds within some functions of some modules, by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def watch(self, kind: str, module: Any, name: str) -> None:
        """Count what ``module.name`` takes from now on."""
        inner, spent = getattr(module, name), self.seconds.setdefault(kind, [0.0, 0.0])

        def clocked(*args: Any, **kwargs: Any) -> Any:
            result, *both = timed(partial(inner, *args, **kwargs))
            spent[:] = map(sum, zip(spent, both, strict=True))
            return result

        setattr(module, name, clocked)


def network(name: str, folder: Path) -> tuple[Any, list[Any]]:
    """The trained network of a benchmark, and its batches for pruning."""
    from . import mlpnet, resnet20

    if name == "mlpnet":
        model, train, _ = mlpnet.load(folder)
        return model, mlpnet.batches_of(train, 0)
    small, train, _ = resnet20.load(folder)
    return small, resnet20.batches_of(resnet20.few(train), 50)


def network_of_rank(rank: int, size: int, folder: Path, group: Any) -> dict:
    """Prune a network with this rank's batches: what it took, and what is left."""
    import hashlib

    # (The first gradients would import it, which is no work of theirs.)
    import torch._dynamo  # noqa: F401

    from chita_torch import prune, reconstruction, stage

    from .pruning_runs import loss_fn

    name, data, options = json.loads((folder / "network.json").read_text())
    model, batches = network(name, Path(data))
    share = -(-len(batches) // size)
    clock = Clock()
    clock.watch("statistics", reconstruction, "collect")
    clock.watch("statistics", stage, "rows_of_stage")
    for module, each in ((reconstruction, "fit_support"), (stage, "solve")):
        clock.watch("solves", module, each)
    clock.watch("solves", reconstruction, "solve")
    call = partial(
        prune,
        model,
        batches[rank * share : (rank + 1) * share],
        loss_fn,
        random_state=0,
        progress=False,
        group=group,
        **options,
    )
    report, cpu, wall = timed(call)
    weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
    masks = {n: mask.numpy() for n, mask in report.masks.items()}
    np.savez(folder / f"{size}-{rank}.npz", **masks)
    digest = hashlib.sha256(b"".join(w.tobytes() for w in weights.values()))
    last = report.stages[-1]
    return {
        "cpu": cpu,
        "wall": wall,
        **{kind: {"cpu": c, "wall": w} for kind, (c, w) in clock.seconds.items()},
        "weights": digest.hexdigest(),
        "objective": last.objective,
        "ridge": last.chosen.ridge,
        "loss": report.loss_after,
    }


def masks_apart(folder: Path) -> tuple[int, int]:
    """Weights that two ranks decide otherwise than one process, and all."""
    with np.load(folder / "1-0.npz") as alone, np.load(folder / "2-0.npz") as ranks:
        apart = sum(int((alone[n] != ranks[n]).sum()) for n in alone.files)
        return apart, sum(alone[n].size for n in alone.files)


def networks(section: str, folder: Path, n: int, p: int) -> tuple[dict, str]:
    """A trained network pruned by one process, and by two ranks with half the data."""
    from .pruning_data import data_folder

    name, options = NETWORKS[section]
    data = data_folder(name, None)
    if data is None:
        return {}, "The optional data are not there.\n"
    with tempfile.TemporaryDirectory(dir=folder) as here:
        told = json.dumps([name, str(data), options])
        (Path(here) / "network.json").write_text(told)
        (alone,) = on_ranks(1, "networks", Path(here))
        ranks = on_ranks(2, "networks", Path(here))
        apart, total = masks_apart(Path(here))
    each = [alone, *ranks]
    both = [[one[kind] for one in each] for kind in ("statistics", "solves")]
    (statistics, solves) = ([one["cpu"] for one in kind] for kind in both)
    whole = [one["cpu"] for one in each]
    rest = [
        all_ - one - other
        for all_, one, other in zip(whole, statistics, solves, strict=True)
    ]
    lines = [
        f"{name}, {options['sparsity']:.0%} pruned by {options['objective']}, ridge "
        f"chosen; seconds; load {os.getloadavg()[0]:.1f}.",
        "",
        "| | one process | rank 0 | rank 1 | one process over the slower rank |",
        "|---|---|---|---|---|",
    ]
    for label, seconds in {
        "statistics, CPU": statistics,
        "statistics, wall": [one["wall"] for one in both[0]],
        "solves, CPU": solves,
        "other passes and what travels, CPU": rest,
        "all, CPU": whole,
        "all, wall": [one["wall"] for one in each],
    }.items():
        times = " | ".join(f"{s:.2f}" for s in seconds)
        lines.append(f"| {label} | {times} | {seconds[0] / max(seconds[1:]):.2f} |")
    same = ranks[0]["weights"] == ranks[1]["weights"]
    lines += [
        f"| calibration loss | {' | '.join(str(e['loss']) for e in each)} | |",
        f"| masks: weights decided otherwise | | {apart} of {total:,} | | |",
        f"| the same bits on both ranks | | {same} | | |",
    ]
    record = {"alone": alone, "ranks": ranks, "apart": apart, "n_weights": total}
    return record, "\n".join(lines) + "\n"


SECTIONS: dict[str, Callable[[Path, int, int], tuple[dict, str]]] = {
    "rows": rows,
    "accuracy": accuracy,
    "processes": processes,
    "columns": columns,
    **{section: partial(networks, section) for section in NETWORKS},
}


def main(argv: list[str] | None = None) -> int:
    """Run the sections that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaleout")
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=RESULTS / "scaleout.json")
    parser.add_argument("--table", type=Path, help="with no sections: run nothing")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(rows_worker(args.worker)))
        return 0
    if args.ranks:
        kind, rank, size, folder, store = args.ranks
        print(json.dumps(on_rank(kind, int(rank), int(size), Path(folder), store)))
        return 0
    found: dict[str, dict] = {}
    if args.output.is_file():
        kept = json.loads(args.output.read_text())["results"]
        found = {record["section"]: record for record in kept}
    for name in args.sections or ([] if args.table else SECTIONS):
        record, text = SECTIONS[name](args.folder, args.rows, args.columns)
        found[name] = {"section": name, "text": text, **record}
        print(f"## {name}\n\n{text}", flush=True)
        write_json(args.output, environment({}), found.values())
    if args.table:
        order = [name for name in SECTIONS if name in found]
        order += sorted(set(found) - set(order))
        parts = [f"## {name}\n\n{found[name]['text']}" for name in order]
        args.table.write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
