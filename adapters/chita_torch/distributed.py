"""Columns over the ranks of `torch.distributed`: one regression, each with its own.

Every rank runs the same search. What it needs to know of the columns of others, passes
through `Ranks`; what a column gains is computed where the column is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chita_sklearn.core import Sharded, reported, search_sharded

from .checks import check_count, check_ridge, check_seed
from .ranks import TIMEOUT, Group, Ranks, digest

__all__ = ["ColumnsFit", "fit_columns"]


class _Arrays:
    """What the core asks of `Ranks`, for arrays of NumPy."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.rank, self.size = ranks, ranks.rank, ranks.size

    def gather(self, x: np.ndarray) -> list[np.ndarray]:
        return [each.numpy() for each in self._ranks.gather(_tensor(x))]

    def gather_to(self, owner: int, x: np.ndarray) -> np.ndarray:
        return self._ranks.gather_to(owner, _tensor(x)).numpy()

    def share(
        self, owner: int, work: Callable[[], np.ndarray], like: np.ndarray
    ) -> np.ndarray:
        return self._ranks.share(owner, lambda: _tensor(work()), _tensor(like)).numpy()


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@dataclass(frozen=True)
class ColumnsFit:
    """What `fit_columns` has found; all but ``coef`` and ``first`` alike on all ranks.

    Attributes
    ----------
    support : ndarray of int, shape (k,)
        Numbers of the chosen columns among those of all ranks, ascending.
    coef : ndarray of shape (p_local,), float64
        Coefficients of the columns of this rank.
    intercept : float
    first, total : int
        The number of this rank's first column, and how many there are on all ranks.
    objective, lower_bound : float
        F, and what no k columns of all can get below; nan where that is not known.
    n_rounds : int
        Working sets searched.
    message : str
        Why the search stopped.
    bytes_sent : int
        By this rank.
    """

    support: np.ndarray
    coef: np.ndarray
    intercept: float
    first: int
    total: int
    objective: float
    lower_bound: float
    n_rounds: int
    message: str
    bytes_sent: int

    def predict(self, X_local: Any) -> np.ndarray:
        """What the columns of this rank predict; rank 0 adds the intercept.

        Parameters
        ----------
        X_local : array of shape (n_samples, p_local)

        Returns
        -------
        ndarray of shape (n_samples,)
            Its sum over the ranks is the prediction.
        """
        own = np.flatnonzero(self.coef)
        columns = np.asarray(X_local)[:, own].astype(np.float64)
        return columns @ self.coef[own] + (0.0 if self.first else self.intercept)


def fit_columns(
    X_local: Any,
    y: Any,
    *,
    k: int,
    ridge: float = 1e-4,
    fit_intercept: bool = True,
    standardize: bool = True,
    n_restarts: int = 10,
    max_rounds: int = 8,
    random_state: int | None = None,
    group: Group | None = None,
    timeout: float = TIMEOUT,
) -> ColumnsFit:
    r"""Least squares with exactly k of the columns of all ranks.

    .. math::

        \min_{w, c} \frac{1}{2n} \|y - c - X w\|^2
        + \frac{\mathrm{ridge}}{2} \sum_j \sigma_j^2 w_j^2
        \quad \text{subject to} \quad \|w\|_0 \le k,

    with X the columns of rank 0, then those of rank 1, and so on, and
    :math:`\sigma_j` the standard deviation of column j, or 1: the problem of
    `chita_sklearn.ChitaRegressor`. Working sets of columns are gathered on rank 0 and
    searched there; what the other columns would gain is computed where they are.

    Parameters
    ----------
    X_local : array or tensor of shape (n_samples, p_local)
        Columns of this rank, one at least. float32 or float64; read in blocks.
    y : array or tensor of shape (n_samples,)
        The same on all ranks.
    k : int
        Columns to choose; all, if there are fewer.
    ridge : float, default=1e-4
        In the formula above.
    fit_intercept, standardize : bool, default=True
        As in `chita_sklearn.ChitaRegressor`.
    n_restarts : int, default=10
        Once no swap gains, stop after this many restarts in a row that gain nothing.
    max_rounds : int, default=8
        Working sets at most.
    random_state : int, optional
        Seed of the restarts: that of rank 0 counts.
    group, timeout : optional
        As in `chita_torch.prune`.

    Returns
    -------
    ColumnsFit

    Raises
    ------
    ValueError
        For an argument out of its range, NaN, infinity, other lengths, or another y.
    RuntimeError
        If another rank fails, is gone, or is silent for ``timeout``.

    See Also
    --------
    chita_sklearn.ChitaRegressor : The same on one process.

    Notes
    -----
    Time: a few passes over the own columns, of k products each, and the search of a
    working set on rank 0. Memory: some vectors over the own columns; on rank 0 a
    working set of some 1,000 columns. Sent: the columns of working sets, 8 n k bytes a
    pass. The bound is that at the solution's residual (`chita_sklearn.core`), without
    the ascent that one process would add.

    Examples
    --------
    >>> import numpy as np
    >>> from chita_torch.distributed import fit_columns
    >>> X = np.random.default_rng(0).standard_normal((50, 200))
    >>> y = X[:, 3] - 2 * X[:, 70]
    >>> found = fit_columns(X, y, k=2, random_state=0)  # one process alone
    >>> found.support.tolist()
    [3, 70]
    """
    k = check_count("k", k, 1)
    n_restarts = check_count("n_restarts", n_restarts, 0)
    max_rounds = check_count("max_rounds", max_rounds, 1)
    seed = 0 if random_state is None else check_seed(random_state)
    if random_state is None:
        seed = int(np.random.default_rng().integers(2**31))
    ridge = check_ridge(ridge)
    with Ranks(group, timeout, "fit_columns") as ranks:
        X, target = _checked(X_local, y)
        digests = ranks.gather(digest(_tensor(target)))
        if not all(torch.equal(each, digests[0]) for each in digests):
            msg = "y is not the same on all ranks; each has to be given all of it."
            raise ValueError(msg)
        problem = Sharded(
            X,
            target,
            _Arrays(ranks),
            ridge=ridge,
            fit_intercept=fit_intercept,
            standardize=standardize,
        )
        solution, support = search_sharded(
            problem,
            min(k, problem.total),
            max_rounds=max_rounds,
            n_restarts=n_restarts,
            random_state=ranks.same(seed),
        )
        intercept = problem.intercept(solution.coef)
        ranks.agree()
        return ColumnsFit(
            support=support,
            coef=problem.as_given(solution.coef),
            intercept=intercept,
            first=problem.first,
            total=problem.total,
            objective=solution.objective / problem.n,
            lower_bound=reported(solution.lower_bound / problem.n),
            n_rounds=solution.n_iter,
            message=solution.status.value,
            bytes_sent=ranks.sent,
        )


def _checked(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both on the host, in floating point; refused if they do not fit or are not."""
    X, y = (
        each.detach().cpu().numpy() if isinstance(each, Tensor) else np.asarray(each)
        for each in (X, y)
    )
    if X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or 0 in X.shape:
        msg = (
            "fit_columns takes X_local of shape (n_samples, p_local), one column at "
            f"least, and y of shape (n_samples,); got {X.shape} and {y.shape}."
        )
        raise ValueError(msg)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    # (A sum is finite where all terms are, but for overflow; then each is asked.)
    for name, each in (("X_local", X), ("y", y)):
        with np.errstate(all="ignore"):
            suspect = not np.isfinite(each.sum(dtype=np.float64))
        if suspect and not np.isfinite(each).all():
            msg = f"{name} contains NaN or infinity; fit_columns needs finite numbers."
            raise ValueError(msg)
    return X, y.astype(np.float64)
