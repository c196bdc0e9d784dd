"""The benchmark's problems: named factories, each giving one train/test split and k.

Every problem minimises ||y - X w||^2 subject to ||w||_0 = k. The training
columns are centred and scaled to unit variance and y is centred; the test part
is transformed with the training part's figures.

    family      n, p, k           varies
    small       500, 1000, 10     Toeplitz / constant correlation .5 / .9, SNR 1, 3, 10
    medium      500, 5000, 25     the same
    large       1000, 10000, 50   the same
    huge        2000, 20000, 50   the same
    tall        50000, 500, 20    correlation .5 / .9, SNR 1 and 10
    real        diabetes and digits (shipped with scikit-learn), and, where the
                data folder is present, six published data sets
    held-out    wide problems at which nobody looked while the search was made: other
                data of scikit-learn and statsmodels with products, parts of the
                published data with another response, other correlations

A problem is built from its name alone, so that processes need not share it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
N_TEST = 1000


@dataclass(frozen=True)
class Data:
    """One split. ``support`` holds the true features' indices where they are known."""

    X_train: np.ndarray  # (n, p), Fortran order
    y_train: np.ndarray  # (n,)
    X_test: np.ndarray
    y_test: np.ndarray
    k: int
    support: np.ndarray | None


@dataclass(frozen=True)
class Problem:
    """A name, what it belongs to, and the function that makes its data."""

    name: str
    family: str
    n: int
    p: int
    k: int
    make: Callable[[], Data] = field(repr=False, compare=False)
    settings: dict[str, Any] = field(default_factory=dict)


def data_root() -> Path | None:
    """Return the folder of the optional data, or None.

    It is ``$CHITA_BENCH_DATA``, else ``../shared`` beside the project, and holds
    ``data/`` and ``reference/``.
    """
    chosen = os.environ.get("CHITA_BENCH_DATA")
    root = Path(chosen) if chosen else ROOT.parent / "shared"
    return root if (root / "data").is_dir() else None


def reference(name: str) -> ModuleType:
    """Return a script of the optional folder, which builds problems and knows answers.

    Ends the run where there is none.
    """
    root = data_root()
    path = Path() if root is None else root / "reference" / f"{name}.py"
    if not path.is_file():
        sys.exit(f"no reference/{name}.py: set CHITA_BENCH_DATA (benchmarks/README.md)")
    spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- Gaussian designs -------------------------------------------------------


def toeplitz_design(rng: np.random.Generator, n: int, p: int, rho: float) -> np.ndarray:
    """Rows ~ N(0, S), S_ij = rho^|i-j|: an AR(1) recursion along p. O(np)."""
    X = rng.standard_normal((p, n))
    X[1:] *= np.sqrt(1 - rho**2)
    for j in range(1, p):
        X[j] += rho * X[j - 1]
    return X.T


def constant_design(rng: np.random.Generator, n: int, p: int, rho: float) -> np.ndarray:
    """Rows ~ N(0, S), S_ij = rho for i != j: one shared factor. O(np)."""
    shared = rng.standard_normal(n)
    X = rng.standard_normal((p, n))
    X *= np.sqrt(1 - rho)
    X += np.sqrt(rho) * shared
    return X.T


DESIGNS = {"toeplitz": toeplitz_design, "constant": constant_design}


def make_gaussian(
    design: str, rho: float, n: int, p: int, k: int, snr: float, seed: int
) -> Data:
    """Plant k coefficients of +-1 at random places; SNR = var(Xw) / sigma^2."""
    rng = np.random.default_rng(
        [seed, n, p, k, round(100 * rho), sorted(DESIGNS).index(design)]
    )
    n_test = min(n, N_TEST)
    X = DESIGNS[design](rng, n + n_test, p, rho)
    support = np.sort(rng.choice(p, k, replace=False))
    signal = X[:, support] @ rng.choice([-1.0, 1.0], k)
    noise = rng.standard_normal(n + n_test)
    y = signal + noise * np.sqrt(signal[:n].var() / snr)
    return standardise(X[:n], y[:n], X[n:], y[n:], k, support)


# --- Real data ---------------------------------------------------------------


def diabetes_terms(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's diabetes data with all monomials up to ``degree``."""
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import PolynomialFeatures

    X, y = load_diabetes(return_X_y=True)
    return PolynomialFeatures(degree, include_bias=False).fit_transform(X), y


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, the digit itself as the response."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X, y.astype(float)


def stored(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """One file of the data folder; its first target where there are several."""
    path = data_root() / "data" / "regression" / f"{stem}.npz"
    with np.load(path, allow_pickle=False) as archive:
        X, y = archive["X"].astype(float), archive["y"].astype(float)
    return X, y.reshape(len(y), -1)[:, 0]


SHIPPED = {
    "diabetes_poly2": partial(diabetes_terms, 2),
    "diabetes_poly3": partial(diabetes_terms, 3),
    "digits": digits,
}
# name -> (source, n of the training part, p, numbers of features to choose)
REAL = {
    "diabetes_poly2": (331, 65, (5, 10, 20)),
    "diabetes_poly3": (331, 285, (10, 25)),
    "digits": (1347, 64, (10, 20)),  # 61 columns are not constant
    "trim32": (90, 500, (5, 15)),
    "solubility": (950, 228, (10, 25)),
    "pac": (156, 467, (5, 10)),
    "riboflavin": (53, 4088, (5, 10, 15)),
    "nirsoil": (483, 700, (10, 20, 30)),
    "bglr_wheat": (449, 1279, (10, 20, 30)),
}


def make_real(stem: str, k: int) -> Data:
    """A real problem."""
    return split(SHIPPED.get(stem, partial(stored, stem)), k)


def split(source: Callable[[], tuple[np.ndarray, np.ndarray]], k: int) -> Data:
    """Drop rows without y, columns with NaN or no variance; split 3:1, standardise."""
    from sklearn.model_selection import train_test_split

    X, y = source()
    rows = ~np.isnan(y)
    X, y = X[rows], y[rows]
    X = X[:, ~np.isnan(X).any(axis=0)]
    X = X[:, X.std(axis=0) > 0]
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
    return standardise(X, y, X_test, y_test, k, None)


def standardise(
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    k: int,
    support: np.ndarray | None,
) -> Data:
    """Centre and scale by the training part (a constant column is only centred)."""
    mean, std, y_mean = X.mean(axis=0), X.std(axis=0), y.mean()
    std[std == 0] = 1.0
    return Data(
        np.asfortranarray((X - mean) / std),
        y - y_mean,
        (X_test - mean) / std,
        y_test - y_mean,
        k,
        support,
    )


# --- Held out ----------------------------------------------------------------


def with_products(X: np.ndarray, degree: int) -> np.ndarray:
    """All monomials up to ``degree``."""
    from sklearn.preprocessing import PolynomialFeatures

    return PolynomialFeatures(degree, include_bias=False).fit_transform(X)


def other_data(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised data of scikit-learn or statsmodels, with their products."""
    if stem == "star98":
        from statsmodels.datasets import star98

        table = star98.load_pandas().data.to_numpy(dtype=float)
        X, y, degree = table[:, 2:14], table[:, 0] / table[:, :2].sum(axis=1), 3
    else:
        from sklearn import datasets

        X, y = getattr(datasets, f"load_{stem}")(return_X_y=True)
        degree = {"wine": 3, "breast_cancer": 2}[stem]
        if stem == "breast_cancer":
            X, y = X[::2], y[::2]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return with_products(X, degree), y.astype(float)


def another_response(stem: str, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Two thirds of the rows; the response is column j of X, which is left out."""
    X, _ = stored(stem)
    X = X[:, ~np.isnan(X).any(axis=0)]
    rows = np.random.default_rng(j).permutation(len(X))[: 2 * len(X) // 3]
    return np.delete(X[rows], j, axis=1), X[rows, j]


def other_design(kind: str, n: int, p: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """2 k coefficients of falling size, ratio 5; so that k are too few."""
    rng = np.random.default_rng([n, p, k])
    X = rng.standard_normal((n, p))
    if kind == "blocks":  # tens of columns correlated by .95
        X = 0.22 * X + 0.975 * np.repeat(rng.standard_normal((n, p // 10)), 10, axis=1)
    if kind == "factors":  # all are mixtures of eight, and noise
        X = 0.5 * X + rng.standard_normal((n, 8)) @ rng.standard_normal((8, p)) / 3
    if kind == "walks":  # each column a random walk along the rows
        X = np.cumsum(X, axis=0)
    if kind == "rank":  # nearly of half of the rank that the rows allow
        X = rng.standard_normal((n, n // 2)) @ rng.standard_normal((n // 2, p)) + X
    X = X / X.std(axis=0)
    true = rng.choice(p, 2 * k, replace=False)
    signal = X[:, true] @ (rng.choice([-1.0, 1.0], 2 * k) / np.arange(1, 2 * k + 1))
    return X, signal + rng.normal(0, signal.std() / np.sqrt(5), n)


# name -> what makes it, n of the training part, p, numbers of features to choose
HELD_OUT = {
    "wine": (partial(other_data, "wine"), 133, 559, (5, 10)),
    "breast_cancer": (partial(other_data, "breast_cancer"), 213, 495, (10,)),
    "star98": (partial(other_data, "star98"), 227, 454, (10,)),
    "trim32_7": (partial(another_response, "trim32", 7), 60, 499, (10,)),
    "pac_100": (partial(another_response, "pac", 100), 104, 466, (8,)),
    "riboflavin_1000": (partial(another_response, "riboflavin", 1000), 35, 4087, (8,)),
    "riboflavin_3000": (partial(another_response, "riboflavin", 3000), 35, 4087, (5,)),
    "nirsoil_350": (partial(another_response, "nirsoil", 350), 412, 699, (10,)),
    "wheat_500": (partial(another_response, "bglr_wheat", 500), 299, 1278, (15,)),
    "blocks": (partial(other_design, "blocks", 200, 1000, 10), 150, 1000, (10,)),
    "factors": (partial(other_design, "factors", 120, 2000, 12), 90, 2000, (12,)),
    "walks": (partial(other_design, "walks", 160, 800, 10), 120, 800, (10,)),
    "rank": (partial(other_design, "rank", 100, 1500, 8), 75, 1500, (8,)),
}


def held_out_problems() -> Iterator[Problem]:
    """Yield those whose data are at hand."""
    for stem, (source, n, p, ks) in HELD_OUT.items():
        if source.func is another_response and data_root() is None:
            continue
        for k in ks:
            name = f"{stem}_n{n}_p{p}_k{k}_s0"
            make = partial(split, source, k)
            yield Problem(name, "held-out", n, p, k, make)


# --- The catalogue -----------------------------------------------------------

SIZES = {
    "small": (500, 1000, 10),
    "medium": (500, 5000, 25),
    "large": (1000, 10000, 50),
    "huge": (2000, 20000, 50),
    "tall": (50000, 500, 20),
}
SEEDS = {"small": 2, "medium": 1, "large": 1, "huge": 1, "tall": 1}


def gaussian_problems() -> Iterator[Problem]:
    """Yield every Gaussian problem: size x seed x SNR x correlation."""
    for family, (n, p, k) in SIZES.items():
        ratios = (1, 10) if family == "tall" else (1, 3, 10)
        for seed in range(SEEDS[family]):
            for snr in ratios:
                for design in DESIGNS:
                    for rho in (0.5, 0.9):
                        name = f"{design}{rho}_n{n}_p{p}_k{k}_snr{snr}_s{seed}"
                        make = partial(make_gaussian, design, rho, n, p, k, snr, seed)
                        settings = {"design": design, "rho": rho, "snr": snr}
                        yield Problem(name, family, n, p, k, make, settings)


def real_problems() -> Iterator[Problem]:
    """Yield the real problems whose data are at hand."""
    for stem, (n, p, ks) in REAL.items():
        if stem not in SHIPPED and data_root() is None:
            continue
        for k in ks:
            name = f"{stem}_n{n}_p{p}_k{k}_s0"
            yield Problem(name, "real", n, p, k, partial(make_real, stem, k))


def missing_problems() -> list[str]:
    """Say which problems were left out, and why."""
    if data_root() is not None:
        return []
    return [
        f"{stem}: no data folder (set CHITA_BENCH_DATA)"
        for stem in REAL
        if stem not in SHIPPED
    ]


def best_known() -> dict[str, dict[str, Any]]:
    """Return name -> recorded smallest residual, its support and peers; maybe empty."""
    root = data_root()
    path = root / "reference" / "regression_best.json" if root else None
    if path is None or not path.is_file():
        return {}
    return json.loads(path.read_text())["problems"]


def best_found() -> dict[str, dict[str, Any]]:
    """Return name -> a smaller residual than the recorded one, and its support."""
    return json.loads((ROOT / "benchmarks" / "best_found.json").read_text())


def suite(names: str, only: str | None = None) -> list[Problem]:
    """Return the problems of a comma-separated list of families.

    ``full`` is all of them but the held-out ones; ``best_known`` the real ones with a
    recorded best. ``only`` is a regular expression searched in the problem's name.
    """
    catalogue = [*real_problems(), *gaussian_problems(), *held_out_problems()]
    recorded = best_known()
    wanted = set(names.split(","))
    if "full" in wanted:
        wanted |= {"real", *SIZES}
    known = {"full", "best_known", "real", "held-out", *SIZES}
    if wanted - known:
        msg = f"suite={names!r}: choose from {', '.join(sorted(known))}."
        raise ValueError(msg)
    return [
        problem
        for problem in catalogue
        if problem.family in wanted
        or ("best_known" in wanted and problem.name in recorded)
        if only is None or re.search(only, problem.name)
    ]


def find(name: str) -> Problem:
    """Return the problem of that name."""
    every = (*real_problems(), *gaussian_problems(), *held_out_problems())
    return next(q for q in every if q.name == name)
