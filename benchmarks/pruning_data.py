"""Where the pruning benchmarks find their data and keep their results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from .problems import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def data_folder(name: str, given: Path | None) -> Path | None:
    """Return the folder of a data set; None, saying why, where it is absent.

    ``given`` comes first, then ``data/<name>`` in the folder that CHITA_BENCH_DATA
    names, then in ``../shared`` beside the project.
    """
    root = Path(os.environ.get("CHITA_BENCH_DATA", ROOT.parent / "shared"))
    folder = given or root / "data" / name
    if folder.is_dir():
        return folder
    print(f"skipped: {folder} is not there; --data or CHITA_BENCH_DATA names the data.")
    return None


def recorded(benchmark: str, key: dict | None = None) -> list[dict]:
    """Return the results on file, or those that agree with ``key``."""
    path = RESULTS / f"{benchmark}.json"
    results = json.loads(path.read_text()) if path.exists() else []
    return [r for r in results if all(r.get(k) == v for k, v in (key or {}).items())]


def once(
    benchmark: str, key: dict, run: Callable[[], dict], again: bool = False
) -> None:
    """Run what is not on file (or ``again``); record it under ``key`` and print it."""
    if recorded(benchmark, key) and not again:
        return
    result = key | run()
    record(benchmark, key, result)
    print(json.dumps(result), flush=True)


def record(benchmark: str, key: dict, result: dict) -> None:
    """Add a result, in the place of those that agree with ``key``."""
    replaced = recorded(benchmark, key)
    results = [r for r in recorded(benchmark) if r not in replaced]
    results = sorted([*results, result], key=lambda r: json.dumps(r, default=str))
    text = ",\n".join(json.dumps(r) for r in results)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{benchmark}.json").write_text(f"[\n{text}\n]\n")
