"""One peer in one process: reads a request a line, answers a line of JSON.

Separate processes let a fit be stopped at its time limit, give each peer its own
peak memory, and keep one library's crash or thread pool away from the others.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from .peers import load_peers


def resident(field: str) -> int | None:
    """Return VmRSS or VmHWM in bytes; None where there is no /proc (not Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Let VmHWM start again from the memory now in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def measure(peer: ModuleType, folder: Path, k: int) -> dict:
    """Fit once on the stored arrays; save the coefficients, return time and memory."""
    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    gc.collect()
    reset_peak()
    before = resident("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coef = peer.fit(X, y, k)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resident("VmHWM")
    np.save(folder / "coef.npy", np.asarray(coef, dtype=float).ravel())
    extra = None if before is None else max(peak - before, 0)
    return {"status": "ok", "cpu": cpu, "wall": wall, "extra_bytes": extra}


def warm_up(peer: ModuleType) -> None:
    """Import and compile outside the clock, on a problem of no interest."""
    rng = np.random.default_rng(0)
    X = np.asfortranarray(rng.standard_normal((60, 30)))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = X[:, 0] + X[:, 1] - X[:, 2] + rng.standard_normal(60)
    peer.fit(X, y - y.mean(), 3)


def main() -> None:
    """Serve until the input ends. Libraries' own prints are discarded."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(reply: dict) -> None:
        out.write(json.dumps(reply) + "\n")
        out.flush()

    peer = load_peers()[sys.argv[1]]
    started = time.perf_counter()
    try:
        warm_up(peer)
    except ImportError as error:
        answer({"status": "missing", "message": f"{error}"})
        return
    except Exception as error:
        answer({"status": "error", "message": f"{type(error).__name__}: {error}"})
        return
    answer({"status": "ready", "first_call": time.perf_counter() - started})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(measure(peer, Path(request["folder"]), request["k"]))
        except Exception as error:
            traceback.print_exc()
            answer({"status": "error", "message": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
