"""Sparse regression at exactly k features: ours beside the peers.

    python -m benchmarks.regression --suite small,real
    python -m benchmarks.regression --suite large --peers chita,abess --merge

Each peer runs in a process of its own with one thread, problem by problem and, within
a problem, repeat by repeat in turn, so that a busy moment of the machine meets all.
Common scoring: the places of the non-zeros are taken, truncated to the k largest where
there are more (flagged), and refitted by least squares, the same for all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from . import THREADS, problems
from .peers import load_peers
from .peers._tools import largest

RESULTS = Path(__file__).resolve().parent / "results"
CRASHES = 3  # further attempts after a peer's process died
PATIENCE = 2  # time limits after which a peer is left out of the run
LONG_FIT = 3.0  # seconds of CPU beyond which a fit is not repeated


class Worker:
    """A peer's process; started when first needed, and again after a time limit."""

    def __init__(self, name: str, root: Path = problems.ROOT) -> None:
        self.name, self.root = name, root
        self.process: subprocess.Popen | None = None
        self.refusal: dict | None = None
        self.first_call: float | None = None
        self.timeouts = 0

    def ask(self, folder: Path, k: int, limit: float) -> dict:
        """Return the measurement of one fit, or a status saying why there is none."""
        if self.refusal:
            return self.refusal
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", self.name],
                cwd=self.root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            hello = self._read(300)
            if hello["status"] != "ready":
                self.close()
                self.refusal = hello
                return hello
            self.first_call = hello["first_call"]
        request = {"folder": str(folder), "k": k}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self._read(limit)
        if reply["status"] in ("timeout", "crash"):
            self.close()
        self.timeouts += reply["status"] == "timeout"
        if self.timeouts == PATIENCE:
            why = f"left out after {PATIENCE} fits beyond {limit:g} s"
            self.refusal = {"status": "skipped", "message": why}
        return reply

    def _read(self, limit: float) -> dict:
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                return {"status": "timeout", "message": f"stopped after {limit:g} s"}
        line = self.process.stdout.readline()
        if not line:
            return {"status": "crash", "message": "its process ended"}
        return json.loads(line)

    def close(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def score(data: problems.Data, coef: np.ndarray) -> dict:
    """Refit on the chosen columns and grade: the same for every peer."""
    chosen = np.sort(largest(coef, data.k))
    weights = np.linalg.lstsq(data.X_train[:, chosen], data.y_train, rcond=None)[0]
    residual = data.y_train - data.X_train[:, chosen] @ weights
    error = data.y_test - data.X_test[:, chosen] @ weights
    spread = data.y_test - data.y_test.mean()
    out = {
        "rss": float(residual @ residual),
        "r2_test": float(1 - error @ error / (spread @ spread)),
        "n_nonzero": int(np.count_nonzero(coef)),
        "support": chosen.tolist(),
    }
    if data.support is not None:
        hits = len(np.intersect1d(chosen, data.support))
        out["precision"] = hits / max(len(chosen), 1)
        out["recall"] = hits / len(data.support)
        out["f1"] = 2 * hits / (len(chosen) + len(data.support))
    return out


def run_problem(
    problem: problems.Problem,
    peers: dict[str, ModuleType],
    workers: dict[str, Worker],
    *,
    repeat: int,
    limit: float,
) -> list[dict]:
    """Return one record a peer."""
    data = problem.make()
    records: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="chita_bench_") as temporary:
        folder = Path(temporary)
        np.save(folder / "X.npy", data.X_train)
        np.save(folder / "y.npy", data.y_train)
        for turn in range(repeat):
            for name, peer in peers.items():
                record = records.setdefault(
                    name,
                    {
                        "problem": problem.name,
                        "family": problem.family,
                        "n": data.X_train.shape[0],
                        "p": data.X_train.shape[1],
                        "k": data.k,
                        **problem.settings,
                        "peer": name,
                        "kind": kind(peer),
                        "cpu": [],
                        "wall": [],
                        "x_bytes": data.X_train.nbytes,
                    },
                )
                if turn and (record["status"] != "ok" or min(record["cpu"]) > LONG_FIT):
                    continue
                refused = getattr(peer, "limit", lambda *_: None)(
                    *data.X_train.shape, data.k
                )
                if refused:
                    record |= {"status": "skipped", "message": refused}
                    continue
                reply = workers[name].ask(folder, data.k, limit)
                for _ in range(CRASHES):
                    if reply["status"] == "crash":
                        reply = workers[name].ask(folder, data.k, limit)
                record["status"] = reply["status"]
                if reply["status"] != "ok":
                    record["message"] = reply["message"]
                    continue
                record["cpu"].append(reply["cpu"])
                record["wall"].append(reply["wall"])
                if reply["extra_bytes"] is not None:
                    record["extra_bytes"] = max(
                        reply["extra_bytes"], record.get("extra_bytes", 0)
                    )
                if not turn:
                    record |= score(data, np.load(folder / "coef.npy"))
    return list(records.values())


def kind(peer: ModuleType) -> str:
    """Return "ours", "exact" (shown apart) or "heuristic"."""
    if getattr(peer, "ours", False):
        return "ours"
    return "exact" if getattr(peer, "exact", False) else "heuristic"


def environment(peers: dict[str, ModuleType]) -> dict:
    """Return what the figures depend on: versions, processor, threads."""
    names = {"numpy", "scipy", "scikit-learn", "chita-sklearn"}
    names |= {peer.requirement.split("==")[0] for peer in peers.values()} - {""}
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.split(":")[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [])
        if line.startswith("model name")
    ]
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": models[0] if models else platform.processor(),
        "threads": THREADS,
        "versions": versions,
    }


def write_json(path: Path, about: dict, records: Iterable[dict]) -> None:
    """Write one record a line, so that two files can be compared by eye."""
    lines = ",\n".join(json.dumps(record) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'{{"environment": {json.dumps(about)},\n"results": [\n{lines}\n]}}\n'
    )


def one_line(record: dict) -> str:
    """Return a record for the terminal."""
    if record["status"] != "ok":
        return f"  {record['peer']:<16}{record['status']}: {record['message'][:90]}"
    flag = "" if record["n_nonzero"] == record["k"] else f"  nnz {record['n_nonzero']}"
    return (
        f"  {record['peer']:<16}{record['rss']:>16.6g}  R2 {record['r2_test']:.3f}  "
        f"{min(record['cpu']):>9.4f} s{flag}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the chosen problems and peers, then write JSON, table and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression")
    parser.add_argument(
        "--suite",
        default="small,real",
        help="of small, medium, large, huge, tall, real, best_known, full",
    )
    parser.add_argument("--peers", help="names, separated by commas; default: all")
    parser.add_argument("--only", help="regular expression on the problem's name")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one fit")
    parser.add_argument("--output", type=Path, default=RESULTS / "regression.json")
    parser.add_argument(
        "--merge", action="store_true", help="keep what the output file holds already"
    )
    parser.add_argument("--table", type=Path, help="also write the Markdown table here")
    parser.add_argument("--picture", type=Path, help="also draw quality against time")
    parser.add_argument("--list", action="store_true", help="name problems and peers")
    args = parser.parse_args(argv)

    chosen = problems.suite(args.suite, args.only)
    peers = load_peers()
    if args.peers:
        names = args.peers.split(",")
        unknown = set(names) - set(peers)
        if unknown:
            parser.error(f"--peers: {sorted(unknown)} not in {sorted(peers)}")
        peers = {name: peers[name] for name in names}
    for reason in problems.missing_problems():
        print(f"skipped: {reason}")
    if args.list:
        print("problems:", *(q.name for q in chosen), sep="\n  ")
        print(
            "peers:", *(f"{n}  {m.requirement}" for n, m in peers.items()), sep="\n  "
        )
        return 0

    earlier: dict[tuple[str, str], dict] = {}
    if args.merge and args.output.is_file():
        kept = json.loads(args.output.read_text())["results"]
        earlier = {(r["problem"], r["peer"]): r for r in kept}
    workers = {name: Worker(name) for name in peers}
    started = time.perf_counter()
    try:
        for index, problem in enumerate(chosen, 1):
            print(f"[{index}/{len(chosen)}] {problem.name}", flush=True)
            for record in run_problem(
                problem, peers, workers, repeat=args.repeat, limit=args.limit
            ):
                print(one_line(record), flush=True)
                earlier[record["problem"], record["peer"]] = record
            write_json(args.output, environment(load_peers()), earlier.values())
    finally:
        for worker in workers.values():
            worker.close()
    print(f"{time.perf_counter() - started:.0f} s; written: {args.output}")

    from . import report

    return report.write(args.output, table=args.table, picture=args.picture)


if __name__ == "__main__":
    sys.exit(main())
