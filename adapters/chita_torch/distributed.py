"""Columns over the ranks of `torch.distributed`: one regression, each with its own.

Every rank runs the same search. What it needs to know of the columns of others, passes
through `Ranks`; what a column gains is computed where the column is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from chita_sklearn.core import Cardinality, Sharded, reported, solve

from .checks import check_count, check_ridge, check_seed
from .ranks import TIMEOUT, Group, Ranks, digest

__all__ = ["ColumnsFit", "fit_columns"]

# Bytes that travel with the flags, and what is said of them: lengths of the text of a
# failure, of the first axis, and of the data.
PACKET, HEAD = 1024, struct.Struct("<qqq")


class _Packets(Ranks):
    """`Ranks` whose small messages travel with the flags: in one message, not three.

    A search asks for thousands of sums of a few numbers.
    """

    _own: tuple[int, bytes] = 0, b""
    _found: list[tuple[int, bytes]]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, in their order; the first axis may differ."""
        if self._channel is None:
            return [tensor]
        host = tensor.detach().cpu().contiguous()
        row = host.element_size() * math.prod(host.shape[1:])
        data = host.numpy().tobytes() if len(host) * row <= PACKET else b""
        self._own = len(host), data
        self.agree()
        lengths = [length for length, _ in self._found]
        if max(lengths) * row > PACKET:
            return self._padded(host, lengths)
        every = [host.new_empty((length, *host.shape[1:])) for length in lengths]
        for each, (_, sent) in zip(every, self._found, strict=True):
            if each.numel():
                flat = torch.frombuffer(bytearray(sent), dtype=host.dtype)
                each.copy_(flat.reshape(each.shape))
        return every

    def _flags(self, text: str) -> list[str]:
        """What each rank says of its failure, and beside it what is to be gathered."""
        length, data = self._own
        self._own = 0, b""
        said = text.encode()[:PACKET]
        head = HEAD.pack(len(said), length, len(data))
        packet = bytearray((head + (said or data)).ljust(HEAD.size + PACKET, b"\0"))
        own = torch.frombuffer(packet, dtype=torch.uint8)
        every = [torch.empty_like(own) for _ in range(self.size)]
        self._travel(dist.all_gather, every, own, sent=own)
        texts: list[str] = []
        self._found = []
        for each in every:
            found = each.numpy().tobytes()
            n_said, length, n_data = HEAD.unpack_from(found)
            body = found[HEAD.size :]
            texts.append(body[:n_said].decode(errors="ignore"))
            self._found.append((length, b"" if n_said else body[:n_data]))
        return texts


class _Arrays:
    """What the core asks of `Ranks`, for arrays of NumPy."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.rank, self.size = ranks, ranks.rank, ranks.size

    def sum(self, x: np.ndarray) -> np.ndarray:
        return self._ranks.sum(_tensor(x)).numpy()

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
    n_iter : int
        Working sets searched, and steps of everything else.
    history : tuple of str
        What ran, in order.
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
    n_iter: int
    history: tuple[str, ...]
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
    solver: str = "auto",
    n_restarts: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
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
    `chita_sklearn.ChitaRegressor`, solved by its plans. What is computed for every
    column is computed where the column is; few of them, side by side, on rank 0.

    Parameters
    ----------
    X_local : array or tensor of shape (n_samples, p_local)
        Columns of this rank, one at least. float32 or float64, the same on all; read in
        blocks.
    y : array or tensor of shape (n_samples,)
        The same on all ranks.
    k : int
        Columns to choose; all, if there are fewer.
    ridge : float, default=1e-4
        In the formula above.
    fit_intercept, standardize : bool, default=True
        As in `chita_sklearn.ChitaRegressor`.
    solver : {"auto", "swap", "admm", "dual", "iht", "dense"}, default="auto"
        As in `chita_sklearn.ChitaRegressor`, which "auto" chooses like: swaps where k
        is small. "exact" needs one process.
    n_restarts : int, default=10
        Once no swap gains, stop after this many restarts in a row that gain nothing.
    max_iter : int, default=100
        Steps of each part of the plan at most: working sets, say.
    tol : float, default=1e-4
        The gap at which a search is over.
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
    By swaps: a few passes over the own columns, of k products each, and the search of a
    working set of about 10^6 numbers on rank 0; then some 15 passes for the bound. Sent
    are the columns of working sets, k columns a pass, n numbers a step. Memory: some
    vectors over the own columns, and the working set. "admm" takes two copies of the
    own columns in float64, and an n x n matrix. Solves with more than n columns
    ("admm", "dual", "dense") add up n x n matrices: 8 n^2 bytes each.

    The ranks have to have the same libraries, number of threads and kind of processor:
    what all of them compute alike has to be alike to the bit.

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
    max_iter = check_count("max_iter", max_iter, 1)
    seed = None if random_state is None else check_seed(random_state)
    ridge = check_ridge(ridge)
    with _Packets(group, timeout, "fit_columns") as ranks:
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
        solution = solve(
            problem,
            Cardinality(min(k, problem.total)),
            solver=solver,
            n_restarts=n_restarts,
            max_iter=max_iter,
            tol=float(tol),
            random_state=seed,  # restarts are made on rank 0
        )
        support = problem.chosen(solution.support)
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
            n_iter=solution.n_iter,
            history=solution.history,
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
