"""What each chosen feature is worth: the numbers that `summary` puts into a table.

All follow from the Gram matrix of the chosen columns, H, and the coefficients w: on
their support these solve H w = c, so the data are read once, for H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import LeastSquares
from .core.arrays import indices, to_host

Array = Any  # the array API has no settled static type

AT_MOST = 200  # chosen coefficients of a target; selecting among them costs their cube
JITTER = 1e-13  # of the largest diagonal: makes H regular where columns are copies


class Part:
    """The chosen columns of one target: their Hessian, coefficients and units.

    Parameters
    ----------
    problem : LeastSquares
        The problem of this target.
    coef : array of shape (p,)
        Its coefficients, in the units of the columns of X.
    """

    def __init__(self, problem: LeastSquares, coef: Array) -> None:
        S = indices(coef != 0)
        self.features = to_host(S)
        self.n = float(problem.n)
        size = len(self.features)
        squares = to_host(problem.xp.take(problem.column_norms(), S))
        self.deviations = np.sqrt(squares / self.n) / to_host(problem.scale_of(S))
        self.w = to_host(problem.xp.take(problem.as_scaled(coef), S))
        self.hessian: np.ndarray | None = None
        if 0 < size <= AT_MOST:
            gram = to_host(problem.qr_compressed(0.0).select(S).gram())
            shift = problem.mu + JITTER * float(np.max(np.diag(gram)))
            self.hessian = gram + shift * np.eye(size)


def contributions(
    parts: Sequence[Part], labels: np.ndarray | None, target_support: str
) -> dict[str, np.ndarray]:
    """Return an entry for each chosen coefficient, target by target.

    `labels` are the groups of the features; with ``target_support="shared"`` a feature,
    or a group, is one for all targets, and otherwise each target stands alone.
    """
    units = []
    for t, part in enumerate(parts):
        unit = part.features if labels is None else labels[part.features]
        units.append([(0 if target_support == "shared" else t, u) for u in unit])
    alone = target_support == "separate"
    together = [[t] for t in range(len(parts))] if alone else [range(len(parts))]
    losses = [np.full(len(part.features), np.nan) for part in parts]
    entries = [np.zeros(len(part.features), dtype=np.int64) for part in parts]
    for targets in together:
        if labels is None and len(targets) == 1:
            (t,) = targets
            losses[t], entries[t] = _one_by_one(parts[t])
            continue
        if any(parts[t].hessian is None for t in targets if len(parts[t].features)):
            continue
        places: dict[Any, list[tuple[int, list[int]]]] = {}
        for t in targets:
            for i, unit in enumerate(units[t]):
                of_unit = places.setdefault(unit, [])
                if not of_unit or of_unit[-1][0] != t:
                    of_unit.append((t, []))
                of_unit[-1][1].append(i)
        for unit, loss in _losses(parts, places).items():
            for t, where in places[unit]:
                losses[t][where] = loss
        for rank, unit in enumerate(_order(parts, places)):
            for t, where in places[unit]:
                entries[t][where] = rank + 1
    counts = [len(part.features) for part in parts]
    return {
        "target": np.repeat(np.arange(len(parts)), counts),
        "feature": np.concatenate([part.features for part in parts]).astype(np.int64),
        "standard_deviation": np.concatenate([part.deviations for part in parts]),
        "loss_if_removed": np.concatenate(losses),
        "entry": np.concatenate(entries),
    }


def _one_by_one(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Losses and entries of one target where each feature stands alone.

    Those that `_losses` and `_order` find, in arrays.
    """
    size = len(part.features)
    losses, entries = np.full(size, np.nan), np.zeros(size, dtype=np.int64)
    if part.hessian is None:
        return losses, entries
    w, H = part.w, part.hessian.copy()
    losses = np.maximum(w**2 / np.linalg.inv(H).diagonal() / 2 / part.n, 0.0)
    c, left = H @ w, np.arange(size)
    for rank in range(1, size + 1):
        own = np.maximum(H.diagonal()[left], np.finfo(float).tiny)
        best = int(np.argmax(c[left] ** 2 / own))
        j = left[best]
        entries[j], left = rank, np.delete(left, best)
        if H[j, j] > 0:
            K = H[j] / H[j, j]
            c = c - K * c[j]
            H -= np.outer(K, H[j])
    return losses, entries


def _losses(
    parts: Sequence[Part], places: dict[Any, list[tuple[int, list[int]]]]
) -> dict[Any, float]:
    """By how much F rises without each unit, all others refitted.

    1/2 w_g' ((H^-1)_gg)^-1 w_g: exact, since w minimises a quadratic on its support.
    """
    inverses = [None if p.hessian is None else np.linalg.inv(p.hessian) for p in parts]
    found = {}
    for unit, of_unit in places.items():
        loss = 0.0
        for t, g in of_unit:
            inverse, w = inverses[t], parts[t].w[g]
            if inverse is not None:
                rise = w @ np.linalg.solve(inverse[np.ix_(g, g)], w)
                loss += float(rise) / 2 / parts[t].n
        found[unit] = max(loss, 0.0)
    return found


def _order(
    parts: Sequence[Part], places: dict[Any, list[tuple[int, list[int]]]]
) -> list[Any]:
    """The units in the order in which forward selection among them takes them."""
    left = dict(places)
    # What is left of H and of c = H w, once the units taken are projected out.
    H = [None if p.hessian is None else p.hessian.copy() for p in parts]
    c = [None if h is None else h @ p.w for h, p in zip(H, parts, strict=True)]
    order = []
    while left:
        gains = {
            unit: sum(_gain(H[t], c[t], g) for t, g in of_unit)
            for unit, of_unit in left.items()
        }
        best = max(gains, key=lambda unit: gains[unit])
        for t, g in left.pop(best):
            K = np.linalg.solve(H[t][np.ix_(g, g)], H[t][g]).T
            c[t] = c[t] - K @ c[t][g]
            H[t] = H[t] - K @ H[t][g]
        order.append(best)
    return order


def _gain(H: Any, c: Any, g: list[int]) -> float:
    if len(g) == 1:
        return float(c[g[0]] ** 2 / max(H[g[0], g[0]], np.finfo(float).tiny))
    return float(c[g] @ np.linalg.lstsq(H[np.ix_(g, g)], c[g], rcond=None)[0])
