"""Folds: fitted on one part and scored on the other, pair by pair of ridge and k.

A fold is searched in one sweep along k and ridge, each support from that of a
neighbour: what a fold is for is to tell pairs apart. All data are searched deeper.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ._compat import _check_method_params
from ._fitted import model_of_path, remember
from ._moments import Moments, moments
from ._typing import Array
from ._validation import present, taken_rows
from .core.arrays import array_namespace, to_host
from .path import ChitaPath, swept

# Folds are formed from sums over rows where each holds so many times p + 1 of them,
# and the sums, which are of p x p numbers, are small.
TALL, SUMS_UP_TO = 4, 500

Score = Callable[[ChitaPath], np.ndarray]


class RowsFold(NamedTuple):
    """A fold of rows: read when it is opened, so that one fold is held at a time."""

    X: Any
    y: Array
    sample_weight: Array | None
    rows: tuple[Any, Any]
    build: Callable[..., Any]
    model: Callable[[int, float], Any]
    scorer: Any
    params: dict[str, Any]

    def open(self) -> tuple[Any, Score]:
        """Return the problem of the training part, and what scores a path."""
        train, test = self.rows
        data = (self.X, self.y, self.sample_weight)
        problem = self.build(*present(*(taken_rows(a, train) for a in data)))
        held_out = tuple(taken_rows(a, test) for a in data)
        return problem, lambda path: self._scores(path, *held_out)

    def _scores(
        self, path: ChitaPath, X: Any, y: Array, sample_weight: Array | None
    ) -> np.ndarray:
        if self.scorer is None:
            return _minus_squares(path, X, y, sample_weight)
        params = _check_method_params(self.X, self.params, indices=self.rows[1])
        scores = []
        for t, k in enumerate(path.ks):
            model = self.model(int(k), path.ridge)
            model.n_features_in_ = path.n_features
            remember(model, model_of_path(path, t) | {"k_": int(k)})
            scores.append(float(self.scorer(model, X, y, **params)))
        return np.asarray(scores)


class SumsFold(NamedTuple):
    """A fold of which the sums over rows are known."""

    train: Moments
    test: Moments
    options: dict[str, Any]
    score: Callable[..., float]

    def open(self) -> tuple[Any, Score]:
        """Return the problem of the training part, and what scores a path."""
        return self.train.problem(**self.options), self._scores

    def _scores(self, path: ChitaPath) -> np.ndarray:
        coefs, intercepts = to_host(path.coefs), to_host(path.intercepts)
        return np.asarray(
            [
                self.score(self.test, coefs[:, t], intercepts[t])
                for t in range(len(path.ks))
            ]
        )


def _minus_squares(
    path: ChitaPath, X: Any, y: Array, sample_weight: Array | None
) -> np.ndarray:
    """Minus the mean squared errors of a path's models, the mean over targets too."""
    xp = array_namespace(y)
    if y.ndim == 1:
        squares = _squares(X, y, path.coefs, path.intercepts)
    else:
        each = [
            _squares(X, y[:, t], path.coefs[t, ...], path.intercepts[t, ...])
            for t in range(int(y.shape[1]))
        ]
        squares = xp.mean(xp.stack(each), axis=0)
    if sample_weight is None:
        return -to_host(xp.mean(squares, axis=0))
    weights = xp.astype(sample_weight, xp.float64)
    return -to_host(weights @ squares / xp.sum(weights))


def _squares(X: Any, y: Array, coefs: Array, intercepts: Array) -> Array:
    """Squared errors of the models of a path, shape (n_samples, n_ks)."""
    xp = array_namespace(y)
    predicted = xp.astype(X @ coefs + intercepts, xp.float64)
    return (predicted - xp.astype(y, xp.float64)[:, None]) ** 2


def _minus_mse(test: Moments, coef: Array, intercept: Any) -> float:
    return -test.mean_squared_error(coef, intercept)


def _minus_rmse(test: Moments, coef: Array, intercept: Any) -> float:
    return -math.sqrt(test.mean_squared_error(coef, intercept))


# What can be told of a model from moments.
SCORES: dict[str | None, Callable[..., float]] = {
    None: _minus_mse,
    "neg_mean_squared_error": _minus_mse,
    "neg_root_mean_squared_error": _minus_rmse,
    "r2": Moments.r2_score,
}


@dataclass
class Found:
    """What a fold says so far: a score, and a support, for pairs (ridge, k)."""

    scores: dict[tuple[float, int], float] = field(default_factory=dict)
    supports: dict[tuple[float, int], Array] = field(default_factory=dict)

    def table(self, ridges: list[float], ks: list[int]) -> np.ndarray:
        """The scores of all pairs, shape (n_ridges, n_ks)."""
        return np.asarray([[self.scores[r, k] for k in ks] for r in ridges])


def searched(
    fold: RowsFold | SumsFold,
    known: Found,
    ridges: list[float],
    ks: list[int],
    sweep: Mapping[str, Any],
) -> Found:
    """What a fold says of all pairs of the grid, those `known` among them."""
    found = Found(dict(known.scores), dict(known.supports))
    missing = {
        ridge: [k for k in ks if (ridge, k) not in found.scores] for ridge in ridges
    }
    if not any(missing.values()):
        return found
    problem, score = fold.open()
    for ridge, new in missing.items():
        if not new:
            continue
        # Of ridges known for a k, the nearest has the most similar support.
        starts = {}
        for k in new:
            others = [r for r in ridges if (r, k) in found.supports]
            if others:
                near = min(others, key=lambda r: abs(_log(r) - _log(ridge)))
                starts[k] = found.supports[near, k]
        at_ridge = problem.with_target(ridge=ridge)
        path, supports = swept(at_ridge, new, ridge=ridge, starts=starts, **sweep)
        pairs = [(ridge, k) for k in new]
        found.scores.update(zip(pairs, score(path).tolist(), strict=True))
        found.supports.update(zip(pairs, supports, strict=True))
    return found


def _log(ridge: float) -> float:
    return math.log(max(ridge, 1e-12))


def all_but_one(folds: list[Moments]) -> tuple[list[Moments], Moments]:
    """Return for each fold the moments of all the others, and those of all.

    By merges from both ends: nothing is ever subtracted. Three merges a fold.
    """
    after = [Moments()]
    for fold in folds[:0:-1]:
        after.append(after[-1].merge(fold))
    before, others = Moments(), []
    for fold, rest in zip(folds, reversed(after), strict=True):
        others.append(before.merge(rest))
        before = before.merge(fold)
    return others, before


def sums_of(
    X: Any, y: Array, sample_weight: Array | None, folds: list[tuple[Any, Any]]
) -> list[Moments] | None:
    """The moments of each fold's test part, where they serve; else None.

    They do where the test parts divide the rows among them, the training parts are
    all others, X is tall, and everything is on the host.
    """
    n, p = int(X.shape[0]), int(X.shape[1])
    if not isinstance(X, np.ndarray) or y.ndim != 1 or p > SUMS_UP_TO:
        return None
    part = np.full(n, -1)
    for number, (train, test) in enumerate(folds):
        others = np.ones(n, dtype=bool)
        others[test] = False
        few = len(test) < TALL * (p + 1)
        if few or np.any(part[test] >= 0) or len(train) != n - len(test):
            return None
        if not others[train].all() or len(np.unique(train)) != len(train):
            return None
        part[test] = number
    if np.any(part < 0):
        return None
    return moments(X, y, sample_weight, folds=part)


def usable(
    folds: list[tuple[Any, Any]], sample_weight: Array | None
) -> list[tuple[Any, Any]]:
    """Leave out, with a warning, folds that have no sample to score a model on."""
    if sample_weight is None:
        return folds
    weights, kept = to_host(sample_weight), []
    for number, (train, test) in enumerate(folds):
        if not np.any(weights[train] > 0):
            msg = (
                f"The training part of fold {number} has no sample with a positive "
                "weight. Leave samples of weight 0 out, or pass other folds as cv."
            )
            raise ValueError(msg)
        if np.any(weights[test] > 0):
            kept.append((train, test))
    if not kept:
        msg = (
            "No fold has a sample with a positive weight in its test part. Leave "
            "samples of weight 0 out, or pass other folds as cv."
        )
        raise ValueError(msg)
    if len(kept) < len(folds):
        text = (
            f"{len(folds) - len(kept)} of {len(folds)} folds have no sample with a "
            "positive weight in their test part and are left out."
        )
        warnings.warn(text, UserWarning, stacklevel=5)
    return kept
