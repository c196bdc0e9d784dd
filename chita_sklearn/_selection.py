"""The choice of k and ridge from scores or criteria of all pairs; NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from .core.arrays import to_host
from .criteria import aic, bic, ebic
from .path import ChitaPath


def by_folds(
    scores: np.ndarray, ks: list[int], ridges: list[float], selection: str
) -> tuple[dict[str, Any], np.ndarray]:
    """Choose by scores of shape (n_ridges, n_ks, n_folds).

    Returns the attributes, and the loss of each pair, shape (n_ridges, n_ks).
    """
    n_folds = scores.shape[-1]
    flat = scores.reshape(-1, n_folds)
    mean, std = flat.mean(axis=1), flat.std(axis=1)
    if np.isnan(mean).all():
        msg = (
            "All scores are nan, so no k and ridge can be chosen. Check scoring, and "
            "that the folds are large enough for it."
        )
        raise ValueError(msg)
    loss = np.where(np.isnan(mean), np.inf, -mean)
    results = _grid(ks, ridges)
    results |= {f"split{t}_test_score": flat[:, t] for t in range(n_folds)}
    results |= {
        "mean_test_score": mean,
        "std_test_score": std,
        "rank_test_score": rankdata(loss, method="min").astype(np.int64),
    }
    eligible = loss
    if selection == "one_se" and n_folds > 1:
        best = int(np.argmin(loss))
        within = loss <= loss[best] + std[best] / np.sqrt(n_folds - 1)
        smallest = results["param_k"][within].min()
        eligible = np.where(within & (results["param_k"] == smallest), loss, np.inf)
    fitted = {**_chosen(eligible, results, ks, ridges), "score_path_": scores}
    return fitted, loss.reshape(len(ridges), len(ks))


def by_criterion(
    paths: list[ChitaPath],
    ks: list[int],
    ridges: list[float],
    name: str,
    room: int,
    labels: np.ndarray | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Choose by an information criterion on all data, fewer than `room` non-zeros.

    With `labels`, the groups of the features, the models counted are sets of groups.
    """
    n, p = paths[0].n_samples, paths[0].n_features
    rss = np.concatenate([path.rss for path in paths])
    df = np.concatenate([path.degrees_of_freedom for path in paths])
    size = np.asarray([S.shape[0] for path in paths for S in path.supports])
    if name == "ebic":
        chosen = size
        if labels is not None:
            p = int(labels.max()) + 1
            supports = (to_host(S) for path in paths for S in path.supports)
            chosen = np.asarray([len(np.unique(labels[S])) for S in supports])
        values = ebic(n, rss, chosen, n_features=p, df=df)
    else:
        values = {"aic": aic, "bic": bic}[name](n, rss, df)
    loss = np.where(size < max(room, 1), values, np.inf)
    if np.isinf(loss).all() and not np.isneginf(loss).any():
        loss = size.astype(np.float64)  # nothing but saturated models: the smallest
    results = _grid(ks, ridges) | {
        "n_nonzero": size,
        "rss": rss,
        "degrees_of_freedom": df,
        name: values,
        f"rank_{name}": rankdata(loss, method="min").astype(np.int64),
    }
    best = _chosen(loss, results, ks, ridges)
    shape = len(ridges), len(ks)
    return {**best, "criterion_path_": values.reshape(shape)}, loss.reshape(shape)


def _chosen(
    loss: np.ndarray, results: dict[str, Any], ks: list[int], ridges: list[float]
) -> dict[str, Any]:
    """Attributes of the pair with the least loss; of equal ones that with least k."""
    best = int(np.lexsort((results["param_k"], loss))[0])
    return {
        "k_": int(results["param_k"][best]),
        "ridge_": float(results["param_ridge"][best]),
        "ks_": np.asarray(ks, dtype=np.int64),
        "ridges_": np.asarray(ridges),
        "cv_results_": results,
        "best_index_": best,
        "best_score_": -float(loss[best]),
    }


def _grid(ks: list[int], ridges: list[float]) -> dict[str, Any]:
    """The parameters of each pair, and the attributes that name the grid."""
    pairs = [(k, ridge) for ridge in ridges for k in ks]
    return {
        "params": [{"k": k, "ridge": ridge} for k, ridge in pairs],
        "param_k": np.asarray([k for k, _ in pairs], dtype=np.int64),
        "param_ridge": np.asarray([ridge for _, ridge in pairs]),
    }
