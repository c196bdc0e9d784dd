"""What several peers need: refits, and the best of a path at exactly k."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def refit(
    X: np.ndarray, y: np.ndarray, support: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the residual sum of squares and the coefficients on ``support``."""
    coef = np.zeros(X.shape[1])
    coef[support] = np.linalg.lstsq(X[:, support], y, rcond=None)[0]
    residual = y - X[:, support] @ coef[support]
    return float(residual @ residual), coef


def largest(coef: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k largest coefficients that are not zero."""
    order = np.argsort(-np.abs(coef), kind="stable")[:k]
    return order[coef[order] != 0]


def best_of_path(
    X: np.ndarray, y: np.ndarray, k: int, coefs: Iterable[np.ndarray]
) -> np.ndarray:
    """Return the best refitted solution of a path.

    A solution with more than k non-zeros is truncated to its k largest; those with
    fewer count only while nothing reaches k.
    """
    candidates = {tuple(np.sort(largest(coef, k))) for coef in coefs}
    if not candidates:
        return np.zeros(X.shape[1])
    size = max(len(support) for support in candidates)
    fits = [
        refit(X, y, np.asarray(support, dtype=int))
        for support in sorted(candidates)
        if len(support) == size
    ]
    return min(fits, key=lambda pair: pair[0])[1]
