"""`moments`: sums over the rows of a dask collection, by a tree of pure tasks.

One task a partition makes the `Moments` of its rows, others merge a few at a time. No
task has state or order, so a worker that is lost costs its tasks alone, and the answer
is the same to the last bit: the tree is that of the partitions, whoever computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute, is_dask_collection
from dask.delayed import Delayed, delayed

from chita_sklearn import Moments

__all__ = ["SPLITS", "moments"]

SPLITS = ("rows", "partitions")


def moments(
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    folds: int | None = None,
    split: str = "rows",
    client: Any = None,
    fan_in: int = 8,
) -> Any:
    """Return the moments of a dask array or data frame; one pass, where the rows are.

    Parameters
    ----------
    X : dask array of shape (n_samples, n_features), or dask DataFrame
        The rows, in any chunks; lengths need not be known. Columns of a data frame
        must be numbers.

    y : dask array of shape (n_samples,) or (n_samples, n_targets), Series or DataFrame
        Target values, in the same partitions of rows as X.

    sample_weight : dask array of shape (n_samples,), Series or None, default=None
        Weights, at least 0, in the same partitions.

    folds : int or None, default=None
        How many folds to divide the rows into; None for all rows together.

    split : {"rows", "partitions"}, default="rows"
        What makes a fold: rows drawn within each partition, the same each time; or
        whole partitions, dealt in turn, for rows that belong together (days, say) and
        are not to be found on both sides.

    client : distributed.Client or None, default=None
        Where to compute. None is the default client, and dask's local scheduler if
        there is none.

    fan_in : int, default=8
        How many partial sums a task merges. Each takes 8 (p + 2)^2 bytes: 2 where there
        are thousands of columns.

    Returns
    -------
    Moments, or list of Moments
        One for each fold if `folds` is given; on the client.

    Raises
    ------
    ValueError
        For partitions of y or weights that are not those of X, and for what
        :meth:`chita_sklearn.Moments.update` refuses, with the partition's number.
    TypeError
        For columns that are no numbers, by name, and for what is no dask collection.

    Notes
    -----
    O(n p^2) over all workers, and O(p^3) for each merge. A worker holds a partition and
    `fan_in` factors. Partitions of some 16 MB are fastest; 2 ms of a scheduler's time
    go to each.

    Examples
    --------
    >>> import dask.array as da
    >>> from chita_dask import moments
    >>> X = da.random.default_rng(0).standard_normal((1000, 5), chunks=(100, 5))
    >>> moments(X, X @ da.arange(5, chunks=5))
    Moments(n_samples=1000, n_features=5)
    """
    if split not in SPLITS:
        msg = f"split={split!r} is not known; choose one of {', '.join(SPLITS)}."
        raise ValueError(msg)
    for name, value, least in (("folds", folds, 2), ("fan_in", fan_in, 2)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and int(value) >= least):
            msg = f"{name}={value!r} must be an int, {least} or more."
            raise ValueError(msg)
    given = {"X": X, "y": y}
    if sample_weight is not None:
        given["sample_weight"] = sample_weight
    parts = [_partitions(name, a) for name, a in given.items()]
    _compare(X, y, sample_weight, parts)
    names = _names(X)
    leaves = [
        delayed(_moments_of, pure=True)(i, names, folds, split, *rows)
        for i, rows in enumerate(zip(*parts, strict=True))
    ]
    found = _computed(_tree(leaves, int(fan_in)), client)
    for fold, seen in enumerate(found):
        if not seen.n_samples_:
            where = "X has" if folds is None else f"Fold {fold} has"
            msg = (
                f"{where} no rows of positive weight in its {len(leaves)} partitions. "
                "Pass some, or fewer folds."
            )
            raise ValueError(msg)
    return found if folds is not None else found[0]


def _partitions(name: str, a: Any) -> list[Delayed]:
    """The blocks of rows, as tasks."""
    if not is_dask_collection(a) or not hasattr(a, "to_delayed"):
        msg = (
            f"{name} is a {type(a).__name__}; a dask array or data frame is needed. "
            "Use dask.array.from_array, or chita_sklearn.ChitaRegressor for what is in "
            "memory."
        )
        raise TypeError(msg)
    if isinstance(a, da.Array):
        if a.ndim > 1 and len(a.chunks[1]) > 1:
            a = a.rechunk({1: -1})
        return list(np.ravel(a.to_delayed()))
    return list(a.to_delayed())


def _compare(X: Any, y: Any, sample_weight: Any, parts: list[list[Delayed]]) -> None:
    """Raise where blocks of rows do not belong together, as far as is known by now."""
    others = {"y": y, "sample_weight": sample_weight}
    for (name, other), part in zip(others.items(), parts[1:], strict=False):
        if len(part) != len(parts[0]):
            msg = (
                f"X has {len(parts[0])} partitions of rows and {name} has {len(part)}. "
                "Rows are paired by partition: rechunk both alike, for example with "
                f"{name}.rechunk(X.chunks[0])."
            )
            raise ValueError(msg)
        for i, (rows, own) in enumerate(
            zip(_lengths(X), _lengths(other), strict=False)
        ):
            if rows != own and not np.isnan(rows + own):
                msg = (
                    f"partition {i}: X has {rows} rows and {name} has {own}. Rows are "
                    "paired by partition: rechunk both alike, for example with "
                    f"{name}.rechunk(X.chunks[0])."
                )
                raise ValueError(msg)


def _lengths(a: Any) -> Sequence[float]:
    """The lengths of the blocks of rows, where they are known; nan where not."""
    if isinstance(a, da.Array):
        return a.chunks[0]
    divisions = getattr(a, "npartitions", 0)
    return [np.nan] * divisions


def _names(X: Any) -> list[str] | None:
    """The names of the columns; raise for columns that are no numbers."""
    if isinstance(X, da.Array):
        if X.ndim != 2:
            msg = f"X has {X.ndim} dimensions; it must have two. Reshape it to columns."
            raise ValueError(msg)
        return None
    meta = X._meta
    bad = [
        f"{name} ({dtype})"
        for name, dtype in meta.dtypes.items()
        if getattr(dtype, "kind", "O") not in "biuf"
    ]
    if bad:
        msg = (
            f"X has columns that are no numbers: {', '.join(bad)}. Encode them, for "
            "example with dask_ml.preprocessing.DummyEncoder, or leave them out."
        )
        raise TypeError(msg)
    return list(meta.columns)


def _moments_of(
    i: int, names: list[str] | None, folds: int | None, split: str, *rows: Any
) -> list[Moments]:
    """The moments of one partition, one for each fold. A task."""
    X, y, *weights = rows
    try:
        if names is not None:
            X = in_order(X, names)
        found = [Moments() for _ in range(folds or 1)]
        if folds is None:
            return [found[0].update(X, y, *weights)]
        if split == "partitions":
            found[i % folds].update(X, y, *weights)
            return found
        labels = np.random.default_rng(i).permutation(len(X)) % folds
        for fold, seen in enumerate(found):
            here = np.flatnonzero(labels == fold)
            seen.update(*(_taken(a, here) for a in (X, y, *weights)))
        return found
    except (TypeError, ValueError) as error:
        msg = f"partition {i}: {error}"
        raise type(error)(msg) from error


def in_order(X: Any, names: list[str]) -> Any:
    """A partition of a data frame with its columns in the order of the names."""
    own = list(X.columns)
    if own == names:
        return X
    if sorted(own) != sorted(names):
        missing = [name for name in names if name not in own]
        added = [name for name in own if name not in names]
        msg = (
            f"its columns are others than those of X: {missing} are missing, {added} "
            "are new. Give every partition the same columns."
        )
        raise ValueError(msg)
    return X[names]


def _taken(a: Any, rows: np.ndarray) -> Any:
    return a.iloc[rows] if hasattr(a, "iloc") else a[rows]


def _merged(parts: list[list[Moments]]) -> list[Moments]:
    """Sums of partial sums, fold by fold. A task."""
    totals = parts[0]
    for part in parts[1:]:
        totals = [a.merge(b) for a, b in zip(totals, part, strict=True)]
    return totals


def _tree(leaves: list[Delayed], fan_in: int) -> Delayed:
    while len(leaves) > 1:
        ends = [*range(0, len(leaves), fan_in), len(leaves)]
        leaves = [delayed(_merged, pure=True)(leaves[i:j]) for i, j in pairwise(ends)]
    return leaves[0]


def _computed(root: Delayed, client: Any) -> list[Moments]:
    if client is None:
        return compute(root)[0]  # on the default client, if there is one
    return client.compute(root).result()
