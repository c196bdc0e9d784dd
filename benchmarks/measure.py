"""What the benchmarks of size share: time, peak memory, reads of A, kept records."""

from __future__ import annotations

import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .regression import environment, write_json
from .worker import reset_peak, resident


@dataclass
class Cost:
    """One call: seconds of all threads, seconds on the clock, growth of memory."""

    cpu: float
    wall: float
    peak_bytes: int | None  # growth of the resident size at its peak; None: no /proc


def cost_of(call: Callable[[], Any]) -> tuple[Any, Cost]:
    """Return the call's result and its cost."""
    gc.collect()
    reset_peak()
    before = resident("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resident("VmHWM")
    grown = None if before is None or peak is None else max(peak - before, 0)
    return result, Cost(cpu, wall, grown)


def allocated_by(call: Callable[[], Any]) -> int:
    """Return the peak of what Python and NumPy allocated during the call, in bytes.

    Unlike the resident size it leaves out the pools of BLAS; it slows the call down.
    """
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def anonymous_peak(interval: float = 0.002) -> Iterator[list[int]]:
    """Sample the resident memory that is no mapped file; the list's last is the peak.

    For memory-mapped data: the pages of the file are resident as long as nobody else
    wants the memory, and say nothing of what is needed.
    """
    start, peak, done = resident("RssAnon") or 0, [0], threading.Event()

    def sample() -> None:
        while not done.wait(interval):
            peak.append(max(peak.pop(), (resident("RssAnon") or 0) - start))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@dataclass
class Reads:
    """How often a dense A was read, in units of all its columns."""

    products: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def add(self, name: str, share: float) -> None:
        """Count one call."""
        self.products[name] = self.products.get(name, 0.0) + share
        self.calls[name] = self.calls.get(name, 0) + 1

    @property
    def passes(self) -> float:
        """All reads together."""
        return sum(self.products.values())


@contextmanager
def reads_of(p: int) -> Iterator[Reads]:
    """Count how often solves read a dense A of p columns.

    ``A w`` and ``A' r`` (several at once are one read), ``columns`` (copies of chosen
    columns, by which Grams are formed), ``norms`` and ``factor`` (the triangular one of
    a tall A, in whose place A is not read any more).
    """
    from chita_sklearn.core.problem import design

    reads, dense = Reads(), design.Dense
    names = {"dot": "A w", "tdot": "A' r", "take": "columns", "rows": "factor"}
    kept = {
        name: method
        for name, method in vars(dense).items()
        if not name.startswith("_") and name not in ("blocks", "read", "part")
    }

    def rows(data: Any) -> int:
        reads.rows = max(reads.rows, data.shape[0])  # blocks of rows come later
        return reads.rows

    def counted(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **options: Any) -> Any:
            if self.shape[1] == p:
                share = self.shape[0] / rows(self)
                if name == "take":
                    part = args[1] if len(args) > 1 else slice(None)
                    share = len(range(*part.indices(self.shape[0]))) / rows(self)
                    share *= args[0].shape[0] / p
                elif name == "rows":
                    here = range(*args[0].indices(self.shape[0]))
                    share = len(here) / rows(self)
                elif name == "tdot":
                    cols = options.get("cols", args[1] if len(args) > 1 else None)
                    if cols is not None:
                        share *= len(range(*cols.indices(p))) / p
                reads.add(names.get(name, "norms"), share)
            return kept[name](self, *args, **options)

        return method

    try:
        for name in kept:
            setattr(dense, name, counted(name))
        yield reads
    finally:
        for name, method in kept.items():
            setattr(dense, name, method)


def exponent(sizes: list[float], values: list[float]) -> float:
    """Return the slope of log(value) over log(size), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def keep(path: Path, records: list[dict], key: Callable[[dict], Any]) -> list[dict]:
    """Write records to JSON beside those in the file whose key differs; return all."""
    merged: dict[Any, dict] = {}
    if path.is_file():
        merged = {key(r): r for r in json.loads(path.read_text())["results"]}
    merged |= {key(r): r for r in records}
    kept = sorted(merged.values(), key=lambda r: str(key(r)))
    write_json(path, environment({}), kept)
    return kept
