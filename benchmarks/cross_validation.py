"""Choosing k by cross-validation on riboflavin (71 x 4088): test R2 over random splits.

    python -m benchmarks.cross_validation --splits 20
    python -m benchmarks.cross_validation --tall    # 5,000 x 63: CPU beside abess's

Each split holds out a quarter; columns are standardised on the rest. Every method
chooses its own number of features, at most 15, or its own penalty. CPU is process time
with one thread, everything included. Needs the optional data (see README.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import problems
from .regression import RESULTS, environment, write_json

MAX_K, FOLDS = 15, 5
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


def chita(**settings: Any) -> Any:
    """Ours: k and ridge chosen together."""
    from chita_sklearn import ChitaRegressorCV

    return ChitaRegressorCV(MAX_K, RIDGES, cv=FOLDS, random_state=0, **settings)


def chita_no_restarts() -> Any:
    """Ours without restarts: a quarter of the time."""
    return chita(n_restarts=0)


def chita_one_se() -> Any:
    """Ours without restarts: the fewest features within one standard error."""
    return chita(selection="one_se", n_restarts=0)


def chita_ebic() -> Any:
    """Ours: k and ridge by the extended BIC."""
    return chita(criterion="ebic")


def lasso() -> Any:
    """scikit-learn's LassoCV with its default path."""
    from sklearn.linear_model import LassoCV

    return LassoCV(cv=FOLDS)


def omp() -> Any:
    """scikit-learn's OrthogonalMatchingPursuitCV."""
    from sklearn.linear_model import OrthogonalMatchingPursuitCV

    return OrthogonalMatchingPursuitCV(max_iter=MAX_K, cv=FOLDS)


def abess_ebic() -> Any:
    """Abess, its size by the extended BIC, its default."""
    from abess import LinearRegression

    return LinearRegression(support_size=range(MAX_K + 1), ic_type="ebic", thread=1)


def abess_cv() -> Any:
    """Abess, its size by cross-validation."""
    from abess import LinearRegression

    return LinearRegression(support_size=range(MAX_K + 1), cv=FOLDS, thread=1)


METHODS: dict[str, Callable[[], Any]] = {
    "ChitaRegressorCV": chita,
    "ChitaRegressorCV; n_restarts=0": chita_no_restarts,
    "ChitaRegressorCV; n_restarts=0; one SE": chita_one_se,
    "ChitaRegressorCV; EBIC": chita_ebic,
    "LassoCV": lasso,
    "OMPCV": omp,
    "abess EBIC": abess_ebic,
    "abess CV": abess_cv,
}


def evaluate(make: Callable[[], Any], split: tuple[np.ndarray, ...]) -> dict:
    """Fit on one split; return test R2, the number of features and the CPU time."""
    X, X_test, y, y_test = split
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().fit(X, y)
    seconds = time.process_time() - start
    error = y_test - np.ravel(model.predict(X_test))
    return {
        "r2_test": float(1 - error @ error / ((y_test - y_test.mean()) ** 2).sum()),
        "n_nonzero": int(np.count_nonzero(model.coef_)),
        "ridge": float(getattr(model, "ridge_", np.nan)),
        "cpu": seconds,
    }


def markdown(about: dict, records: list[dict]) -> str:
    """Return one row a method."""
    count = len({r["split"] for r in records})
    lines = [
        f"riboflavin, {count} random splits, {FOLDS} folds, k <= {MAX_K}; features "
        "and CPU are medians; "
        f"{about['processor']}, {about['threads']} thread(s).",
        "",
        "| | test R2, mean (sd) | median | worst | features | CPU (s) |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(r["method"] for r in records):
        own = [r for r in records if r["method"] == method]
        r2 = np.array([r["r2_test"] for r in own])
        size = np.median([r["n_nonzero"] for r in own])
        cpu = np.median([r["cpu"] for r in own])
        lines.append(
            f"| {method} | {r2.mean():.3f} ({r2.std():.3f}) | {np.median(r2):.3f} "
            f"| {r2.min():.3f} | {size:g} | {cpu:.2f} |"
        )
    return "\n".join(lines) + "\n"


def tall(repeat: int = 5) -> None:
    """Least CPU of a choice among 0 to 10 features by five folds, 5,000 x 63."""
    from abess import LinearRegression
    from sklearn.linear_model import LassoCV

    from chita_sklearn import ChitaRegressorCV

    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 63))
    y = X[:, :8] @ rng.standard_normal(8) + rng.standard_normal(5000)
    models = {
        "abess": LinearRegression(support_size=range(11), cv=FOLDS, thread=1),
        "LassoCV": LassoCV(cv=FOLDS),
        "ChitaRegressorCV": ChitaRegressorCV(10, RIDGES, cv=FOLDS, random_state=0),
    }
    cpu = dict.fromkeys(models, np.inf)
    for _ in range(repeat):
        for name, model in models.items():
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, y)
            cpu[name] = min(cpu[name], time.process_time() - start)
    for name, seconds in cpu.items():
        print(f"{name:18} {seconds:.3f} s  {seconds / cpu['abess']:6.2f} x abess")


def main(argv: list[str] | None = None) -> int:
    """Run the splits; each method in turn on each."""
    from sklearn.model_selection import train_test_split

    parser = argparse.ArgumentParser(prog="python -m benchmarks.cross_validation")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--methods", help="names, separated by commas; default: all")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "cross_validation.json"
    )
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--tall", action="store_true")
    args = parser.parse_args(argv)
    if args.tall:
        tall()
        return 0
    if problems.data_root() is None:
        print("skipped: riboflavin needs the data folder (set CHITA_BENCH_DATA)")
        return 0
    names = args.methods.split(",") if args.methods else list(METHODS)
    for name in names.copy():
        try:
            METHODS[name]()  # imports outside the clock
        except ImportError as error:
            names.remove(name)
            print(f"skipped: {name}: {error}")

    found: dict[tuple[str, int], dict] = {}
    if args.merge and args.output.is_file():
        for r in json.loads(args.output.read_text())["results"]:
            found[r["method"], r["split"]] = r
    X, y = problems.stored("riboflavin")
    about = environment({})
    for seed in range(args.splits):
        X1, X2, y1, y2 = train_test_split(X, y, test_size=0.25, random_state=seed)
        data = problems.standardise(X1, y1, X2, y2, MAX_K, None)
        split = data.X_train, data.X_test, data.y_train, data.y_test
        for name in names:
            record = {"method": name, "split": seed} | evaluate(METHODS[name], split)
            found[name, seed] = record
            print(
                f"split {seed:<3} {name:<38} R2 {record['r2_test']:7.3f}  "
                f"{record['n_nonzero']:>4} features  {record['cpu']:.2f} s",
                flush=True,
            )
        write_json(args.output, about, found.values())
    text = markdown(about, list(found.values()))
    print(text)
    if args.table:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
