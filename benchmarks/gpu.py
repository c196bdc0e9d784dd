"""The large pruning problem and a small network on a GPU: CuPy and torch.

    python -m benchmarks.gpu                             the 4.2 M instance, 9 GB
    python -m benchmarks.gpu --device cpu --p 42000      the same lines on torch, here

For each library:

- parity with NumPy on the instance of `benchmarks.large` at ``--parity`` columns, in
  float64 and float32;
- the solve at ``--p`` columns: seconds, memory above A, one product ``A @ A.T``, and
  the time over the bandwidth floor: the bytes of A once, over the bandwidth of a copy
  measured on the device (read and write). The objective and the time of two cores are
  those that `benchmarks.large` recorded for the same size, where it did;
- how often the host waits for the device, a step;
- a search among ``--search`` columns of 1,000 rows, k = 10, by the defaults of `solve`
  (forward selection, swaps, restarts, walkers, the bound), beside the same on the host:
  products with all columns run where X is, the small matrices of the working set on
  the host;
- a network of MLPNet's shape on random images, pruned by `chita_torch.prune` where it
  is, beside the same run on the host.

torch tensors are handed to CuPy by DLPack; that no copy is made is checked.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from .large import generate
from .measure import reads_of
from .regression import RESULTS, environment, write_json

RTOL = {"float64": 1e-6, "float32": 1e-4}
COPY_BYTES = 2**30
MLP = (784, 40, 20, 10)


@dataclass
class Device:
    """One array library on one device."""

    library: str
    name: str  # of the machine's device
    xp: Any
    to: Callable[[np.ndarray], Any]
    wait: Callable[[], None]
    peak: Callable[[], int | None]  # bytes at most since the last reset
    reset: Callable[[], None]


def nothing() -> None:
    """Do nothing: the host needs no waiting for."""


def torch_device(kind: str) -> Device:
    """Return torch on the GPU or, to try the code path, in host memory."""
    import torch

    if kind == "cpu":
        return Device(
            "torch", "host", torch, torch.from_numpy, nothing, lambda: None, nothing
        )
    if not torch.cuda.is_available():
        msg = "torch finds no CUDA device"
        raise LookupError(msg)
    return Device(
        "torch",
        torch.cuda.get_device_name(),
        torch,
        lambda x: torch.asarray(x, device="cuda"),
        torch.cuda.synchronize,
        torch.cuda.max_memory_allocated,
        torch.cuda.reset_peak_memory_stats,
    )


def cupy_device(kind: str) -> Device:
    """Return CuPy on the GPU."""
    if kind == "cpu":
        msg = "CuPy has no CPU device"
        raise LookupError(msg)
    try:
        import cupy
    except ImportError:
        msg = "CuPy is not installed: pip install chita-sklearn[cuda12] (or cuda13)"
        raise LookupError(msg) from None
    if not cupy.cuda.is_available():
        msg = "CuPy finds no CUDA device"
        raise LookupError(msg)
    pool = cupy.get_default_memory_pool()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    # The pool's total only grows between calls to free_all_blocks: a peak.
    return Device(
        "cupy",
        name,
        cupy,
        cupy.asarray,
        cupy.cuda.get_current_stream().synchronize,
        pool.total_bytes,
        pool.free_all_blocks,
    )


LIBRARIES = {"cupy": cupy_device, "torch": torch_device}


def seconds(device: Device, call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the seconds on the clock, the device's work included."""
    device.wait()
    start = time.perf_counter()
    result = call()
    device.wait()
    return result, time.perf_counter() - start


def bandwidth(device: Device, size: int) -> float:
    """Bytes a second of a copy on the device, read and write: the best of five."""
    x = device.to(np.zeros(size // 4, dtype=np.float32))
    y = device.to(np.zeros(size // 4, dtype=np.float32))

    def copied() -> None:
        y[:] = x

    return 2 * size / min(seconds(device, copied)[1] for _ in range(5))


@contextmanager
def waits(device: Device):
    """Count what has the host wait: numbers, what is brought to it, lists of places.

    None for CuPy, whose arrays are of a compiled type that cannot be watched; its code
    path is torch's.
    """
    if device.library != "torch":
        yield [None]
        return
    import torch

    names = ("__float__", "__bool__", "__int__", "__index__", "item", "cpu")
    watched = [(torch.Tensor, name) for name in names] + [(torch, "nonzero")]
    count = [0]

    def counting(whole: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            count[0] += 1
            return whole(*args, **options)

        return counted

    with ExitStack() as patches:
        for owner, name in watched:
            watching = counting(getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, watching))
        yield count


def solved(arrays: tuple, k: int, ridge: float) -> Any:
    """Solve by dual ascent on whatever holds the arrays."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    A, w_bar, b = arrays
    problem = LeastSquares(A, b, ridge=ridge, prior=w_bar)
    return solve(problem, Cardinality(k), solver="dual")


def on(device: Device, arrays: tuple, dtype: str) -> tuple:
    """Bring (A, w_bar, b) to the device in one type."""
    return tuple(
        device.to(np.ascontiguousarray(a, dtype=np.dtype(dtype))) for a in arrays
    )


def parity(device: Device, n: int, p: int, ridge: float) -> list[dict]:
    """Compare with NumPy, in both types."""
    arrays, out = generate(n, p, trace=131.0), []
    for dtype in RTOL:
        host = tuple(np.ascontiguousarray(a.astype(dtype)) for a in arrays)
        expected = solved(host, p // 10, ridge)
        there = on(device, arrays, dtype)
        found = solved(there, p // 10, ridge)
        mask = device.to(np.asarray(expected.support))
        out.append(
            {
                "what": "parity",
                "library": device.library,
                "device": device.name,
                "dtype": dtype,
                "n": n,
                "p": p,
                "objective": found.objective,
                "numpy": expected.objective,
                "relative": abs(found.objective / expected.objective - 1),
                "support_differs": int((found.support != mask).sum()),
                "stays": type(found.coef) is type(there[0])
                and found.coef.device == there[0].device,
            }
        )
    return out


def large(device: Device, instance: tuple, ridge: float, host: dict | None) -> dict:
    """Time the solve, the product and the copy; memory, passes, waits."""
    arrays = on(device, instance, "float32")
    A = arrays[0]
    n, p = A.shape
    solved(on(device, generate(n, 2000, trace=131.0), "float32"), 200, ridge)
    device.reset()
    before = device.peak()
    with reads_of(p) as reads:
        found, first = seconds(device, lambda: solved(arrays, p // 10, ridge))
    after = device.peak()
    best = min(
        first,
        *(seconds(device, lambda: solved(arrays, p // 10, ridge))[1] for _ in "12"),
    )
    with waits(device) as count:
        solved(arrays, p // 10, ridge)
    product = min(seconds(device, lambda: A @ A.T)[1] for _ in range(3))
    size = 4 * n * p
    rate = bandwidth(device, min(COPY_BYTES, size))
    record = {
        "what": "large",
        "library": device.library,
        "device": device.name,
        "n": n,
        "p": p,
        "bytes": size,
        "first": first,
        "seconds": best,
        "product": product,
        "bandwidth": rate,
        "over_floor": best / (size / rate),
        "passes": reads.passes,
        "waits": count[0],
        "steps": int(found.n_iter),
        "gap": float(found.gap),
        "objective": float(found.objective),
        "memory": None if after is None else (after - before) / size,
    }
    if host:
        record |= {
            "host_seconds": host["solve"]["wall"],
            "host_threads": host["threads"],
            "host_objective": host["objective"],
            "speed_up": host["solve"]["wall"] / best,
            "relative": abs(float(found.objective) / host["objective"] - 1),
        }
    return record


def chosen(device: Device | None, arrays: tuple, k: int = 10) -> tuple[Any, float]:
    """Choose k columns by the defaults; the solution and the seconds on the clock."""
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    wait = nothing if device is None else device.wait
    X, y = arrays if device is None else map(device.to, arrays)
    few = LeastSquares(X[:, :2000], y, ridge=1e-2)
    solve(few, Cardinality(k), random_state=0)  # kernels are compiled
    wait()
    start = time.perf_counter()
    found = solve(LeastSquares(X, y, ridge=1e-2), Cardinality(k), random_state=0)
    wait()
    return found, time.perf_counter() - start


def search(device: Device, arrays: tuple, host: tuple[Any, float]) -> dict:
    """Compare a search among many columns with the same on the host."""
    found, there = chosen(device, arrays)
    expected, here = host
    mask = device.to(np.asarray(expected.support))
    return {
        "what": "search",
        "library": device.library,
        "device": device.name,
        "n": arrays[0].shape[0],
        "p": arrays[0].shape[1],
        "k": int(expected.support.sum()),
        "seconds": {"host": here, device.library: there},
        "relative": abs(found.objective / expected.objective - 1),
        "support_differs": int((found.support != mask).sum()),
        "gap": float(found.gap),
    }


def columns(n: int, p: int, k: int = 10, seed: int = 0) -> tuple:
    """Return (X, y) float32: neighbours correlated, .43; k of them at work."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p), dtype=np.float32)
    X[:, 1:] += np.float32(np.sqrt(1 / 3)) * X[:, :-1]
    y = X[:, :: p // k][:, :k].sum(axis=1)
    y += np.float32(2.0) * rng.standard_normal(n, dtype=np.float32)
    return X, y


def recorded(path: Path, n: int, p: int) -> dict | None:
    """Return what `benchmarks.large` recorded for the size; most threads first."""
    if not path.is_file():
        return None
    rows = [
        r
        for r in json.loads(path.read_text())["results"]
        if (r["n"], r["p"], r["trace"], r["order"]) == (n, p, 131.0, "C")
    ]
    return max(rows, key=lambda r: r["threads"], default=None)


def network(kind: str, seed: int = 0) -> dict:
    """Prune a network of MLPNet's shape on the device, and on the host."""
    import torch
    from torch import nn

    from chita_torch import prune

    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width, after in itertools.pairwise(MLP):
        layers += [nn.Linear(width, after, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(4000, MLP[0], generator=generator)
    y = torch.randint(0, MLP[-1], (4000,), generator=generator)
    batches = list(zip(x.split(400), y.split(400), strict=True))

    def loss_fn(model: nn.Module, batch: tuple) -> Any:
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    times, losses, there = {}, {}, model
    for where in dict.fromkeys(("cpu", kind)):
        there = copy.deepcopy(model).to(where)
        prune(copy.deepcopy(there), batches, loss_fn, sparsity=0.9, progress=False)
        start = time.perf_counter()
        report = prune(
            there, batches, loss_fn, sparsity=0.9, random_state=seed, progress=False
        )
        times[where] = time.perf_counter() - start
        losses[where] = float(report.loss_after)
    return {
        "what": "network",
        "device": kind,
        "weights": sum(q.numel() for q in model.parameters()),
        "kept": sum(int((q != 0).sum()) for q in there.parameters()),
        "on_device": all(q.device.type == kind for q in there.parameters()),
        "seconds": times,
        "losses": losses,
    }


def no_copy() -> bool | None:
    """Whether a torch tensor reaches CuPy without one; None where either is missing."""
    try:
        import cupy
        import torch
    except ImportError:
        return None
    if not (torch.cuda.is_available() and cupy.cuda.is_available()):
        return None
    x = torch.ones((3, 4), device="cuda")
    return cupy.from_dlpack(x).data.ptr == x.data_ptr()


def report(records: list[dict]) -> list[tuple[bool, str]]:
    """Return (kept, text) for each claim."""
    out = []
    for r in records:
        if r["what"] == "parity":
            out.append(
                (
                    r["relative"] <= RTOL[r["dtype"]] and r["stays"],
                    f"{r['library']} {r['dtype']}, p = {r['p']:,}: objective within "
                    f"{r['relative']:.1e} of NumPy's, {r['support_differs']} of the "
                    "support differ",
                )
            )
        elif r["what"] == "large":
            text = (
                f"{r['library']} on {r['device']}, p = {r['p']:,}: "
                f"{r['seconds']:.3g} s (first {r['first']:.3g} s), "
                f"{r['seconds'] / r['product']:.2f} products "
                f"A A', {r['over_floor']:.1f} x the floor at "
                f"{r['bandwidth'] / 1e9:.0f} GB/s, {r['passes']:.1f} passes over A, "
                f"gap {100 * r['gap']:.4f} %"
            )
            if r["waits"] is not None:
                text += f", the host waits {r['waits'] / r['steps']:.1f} times a step"
            if r["memory"] is not None:
                text += f", {100 * r['memory']:.1f} % of A above it"
            kept = True
            if "speed_up" in r:
                text += (
                    f"; {r['speed_up']:.1f} times as fast as {r['host_threads']} "
                    "core(s) "
                    f"(50 asked for), objective within {r['relative']:.1e} of theirs"
                )
                kept = r["device"] == "host" or r["speed_up"] >= 50
            out.append((kept, text))
        elif r["what"] == "search":
            times = ", ".join(f"{w} {s:.2f} s" for w, s in r["seconds"].items())
            text = (
                f"{r['library']}: {r['k']} of {r['p']:,} columns: {times}; objective "
                f"within {r['relative']:.1e} of NumPy's, {r['support_differs']} of the "
                f"support differ, gap {100 * r['gap']:.3g} %"
            )
            out.append((r["relative"] <= RTOL["float32"], text))
        else:
            times = ", ".join(f"{w} {s:.2f} s" for w, s in r["seconds"].items())
            losses = ", ".join(f"{w} {v:.4f}" for w, v in r["losses"].items())
            text = (
                f"a network of {r['weights']:,} weights pruned: {times}; loss {losses}"
            )
            out.append((r["on_device"], text))
    return out


def measured(devices: list[Device], args: argparse.Namespace) -> Iterator[dict]:
    """Yield what is measured, the quick things first."""
    for device in devices:
        yield from parity(device, args.n, args.parity, args.ridge)
    if any(device.library == "torch" for device in devices):
        yield network(args.device)
    instance = generate(args.n, args.p, trace=131.0)
    host = recorded(args.host, args.n, args.p)
    for device in devices:
        yield large(device, instance, args.ridge, host)
    del instance
    wide = columns(1000, args.search)
    expected = chosen(None, wide)
    for device in devices:
        yield search(device, wide, expected)


def main(argv: list[str] | None = None) -> int:
    """Run what is at hand; write JSON; say what is not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--libraries", default="cupy,torch")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--p", type=int, default=4_200_000)
    parser.add_argument("--parity", type=int, default=42_000, help="columns")
    parser.add_argument("--ridge", type=float, default=1e-2)
    parser.add_argument("--search", type=int, default=1_000_000, help="columns")
    parser.add_argument("--host", type=Path, default=RESULTS / "large.json")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    devices = []
    for library in args.libraries.split(","):
        try:
            devices.append(LIBRARIES[library](args.device))
        except (ImportError, LookupError) as error:
            print(f"skipped {library}: {error}")
    if not devices:
        print(
            "No GPU is at hand. On a machine with one: pip install "
            "chita-sklearn[torch,cuda12] (or cuda13). Here, --device cpu "
            "--p 42000 runs the same lines on torch in host memory."
        )
        return 2
    zero_copy = no_copy()
    if zero_copy is not None:
        print(f"torch reaches CuPy {'without' if zero_copy else 'WITH'} a copy")
    # Figures of the host are no benchmark of a GPU: kept only if a file is named.
    output = args.output or (RESULTS / "gpu.json" if args.device == "cuda" else None)
    records: list[dict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for record in measured(devices, args):  # a run that is cut short has said much
            records.append(record)
            for kept, line in report([record]):
                print("pass" if kept else "FAIL", line, flush=True)
            if output:
                write_json(output, environment({}), records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
