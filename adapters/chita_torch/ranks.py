"""The ranks of `torch.distributed` that work together: what travels, who waits.

Every rank runs the same program on batches of its own. Sums over all samples, and what
is computed once and then known to all, pass through `Ranks`; everything that decides
(losses, supports, weights) comes from there, so that the ranks never part.

A rank that fails says so where the others wait next, before any number travels: they
raise as well, and each model is put back. One that is gone, or silent for longer than
the timeout, ends the waiting with an error to the same effect. All of it runs over a
gloo group of its own, through the host's memory, whatever the model's group is.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from numbers import Real
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from chita_sklearn.core import Solution, Status

from .layout import Layout

T = TypeVar("T")
Group = Any  # a torch.distributed.ProcessGroup, where torch is built with them

TIMEOUT = 1800.0  # seconds, as torch.distributed waits by default
HOST = "cpu"  # whatever torch.set_default_device says
FLAG_BYTES = 512  # of what a rank says of its failure


def check_padding(source: Any) -> None:
    """Refuse loaders that repeat samples so that every rank has as many.

    And those that one rank reads for all, which then would have to read alike.
    """
    if any(kind.__name__ == "DataLoaderDispatcher" for kind in type(source).__mro__):
        msg = (
            "rank 0 reads the loader and deals its batches out (accelerate's "
            "dispatch_batches), so that no rank can read by itself: use "
            "DataLoaderConfiguration(dispatch_batches=False, even_batches=False)."
        )
        raise ValueError(msg)
    repeated = _repeated(source)
    if repeated:
        msg = (
            f"the loader repeats {repeated} samples so that every rank has as many: "
            "they would count twice. Ranks may have unequal numbers of batches: use "
            "DistributedSampler(..., drop_last=True), accelerate's "
            "DataLoaderConfiguration(even_batches=False), or "
            "Subset(data, range(rank, len(data), n_ranks))."
        )
        raise ValueError(msg)


def check_norms(model: nn.Module, recalibrate: bool | str) -> None:
    """Refuse to recalibrate layers whose forward pass waits for all ranks."""
    for name, module in model.named_modules():
        if recalibrate and isinstance(module, nn.SyncBatchNorm):
            msg = (
                f"module {name!r} is a SyncBatchNorm, whose forward pass waits for "
                "the other ranks, and these may have other numbers of batches: "
                f"recalibrate_batchnorm={recalibrate!r} cannot be done. Give False."
            )
            raise ValueError(msg)


def check_own(marks: Sequence[Tensor]) -> None:
    """Refuse ranks that have the same batches, given a row of marks for each."""
    for rank, (one, other) in enumerate(itertools.pairwise(marks)):
        if len(one) and torch.equal(one, other):
            msg = (
                f"ranks {rank} and {rank + 1} have the same batches: each sample would "
                "count twice. Give each rank batches of its own, as "
                "torch.utils.data.DistributedSampler(..., drop_last=True) does."
            )
            raise ValueError(msg)


def _repeated(source: Any) -> int:
    sampler = getattr(source, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        data: Any = sampler.dataset
        return max(sampler.total_size - len(data), 0)
    # accelerate's, known by what it has, so that accelerate need not be installed.
    shard: Any = getattr(source, "batch_sampler", None)
    if not getattr(shard, "even_batches", False) or getattr(shard, "drop_last", False):
        return 0
    inner: Any = getattr(shard, "batch_sampler", None)
    n = len(inner.sampler)
    whole = 1 if shard.split_batches else shard.num_processes
    return -n % (whole * inner.batch_size)


class Ranks:
    """The processes that work together; one alone sends nothing.

    Use it in a ``with`` statement, which tells the others if its body raises.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        None is this process alone.
    timeout : float
        Seconds to wait for another rank.
    action : str
        What is done, for messages.

    Attributes
    ----------
    rank, size : int
        Of this process in the group, and how many there are.
    sent : int
        Bytes that this rank has handed to the others.
    """

    def __init__(
        self, group: Group | None = None, timeout: float = TIMEOUT, action: str = ""
    ) -> None:
        self.rank, self.size, self.sent = 0, 1, 0
        self._timeout = timeout
        self._group: Any = group
        self._channel: Group | None = None
        self._told = False
        real = isinstance(timeout, Real) and not isinstance(timeout, bool)
        if not real or not 0 < timeout < math.inf:
            msg = f"timeout={timeout!r} must be a finite number of seconds > 0."
            raise ValueError(msg)
        if not (dist.is_available() and dist.is_initialized()):
            if group is not None:
                msg = "group was given, but torch.distributed is not initialised."
                raise ValueError(msg)
            return
        if group is None:
            _check_alone(action)
            return
        if not isinstance(group, dist.ProcessGroup):
            kind = type(group).__name__
            msg = (
                f"group must be a torch.distributed.ProcessGroup that this rank is in; "
                f"got {kind} on rank {dist.get_rank()}. "
                "torch.distributed.group.WORLD are all ranks."
            )
            raise TypeError(msg)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def __enter__(self) -> Self:
        self._told = False
        if self.size > 1:
            try:
                self._channel = _channel_of(self._group, self._timeout)
            except RuntimeError as error:
                raise self._lost(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._channel is not None and not self._told:
            self._told = True
            text = f"{type(error).__name__}: {error}"
            try:
                self._flags(text)
            except RuntimeError as lost:  # the others will see that it is gone
                error.add_note(f"The other ranks could not be told: {lost}")

    @property
    def members(self) -> set[int]:
        """Numbers of the ranks among all of torch.distributed."""
        if self._group is None:
            return {dist.get_rank() if dist.is_initialized() else 0}
        return {*dist.get_process_group_ranks(self._group)}

    # --- What is agreed ---------------------------------------------------------------

    def agree(self) -> None:
        """Wait for all ranks; raise if one has failed. Nothing travels before it."""
        if self._channel is None:
            return
        texts = self._flags("")
        for rank, text in enumerate(texts):
            if text:
                self._told = True  # by this very round
                msg = f"rank {rank} failed: {text} The model of this rank is as it was."
                raise RuntimeError(msg)

    def everywhere(self, work: Callable[[], T], *kinds: type[Exception]) -> T:
        """Return what ``work()`` does here; where it raises on one rank, on all.

        Of ``kinds``, the same on all: what is caught has to be caught everywhere.
        """
        if self._channel is None:
            return work()
        failure: Exception | None = None
        try:
            done = work()
        except kinds as error:
            failure = error
        said = ""
        if failure is not None:
            kind = next(i for i, k in enumerate(kinds) if isinstance(failure, k))
            said = f"{kind} {failure}"
        self.agree()
        texts = self._flags(said)
        if failure is not None:
            raise failure
        for rank, text in enumerate(texts):
            if text:
                number, _, why = text.partition(" ")
                why = f"rank {rank}: {why}"
                raise kinds[int(number)](why)
        return done

    # --- What travels -----------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, the same bits on each."""
        if self._channel is None:
            return tensor
        total = self.reduce(tensor, 0)
        return self.share(0, lambda: total, tensor)

    def reduce(self, tensor: Tensor, owner: int) -> Tensor:
        """Sum over the ranks, on the owner; elsewhere what comes back means nothing."""
        if self._channel is None:
            return tensor
        self.agree()
        host = tensor.detach().to("cpu", copy=True).contiguous()
        self._travel(dist.reduce, host, dst=self._global(owner), sent=host)
        return host.to(tensor.device)

    def share(self, owner: int, work: Callable[[], Tensor], like: Tensor) -> Tensor:
        """What ``work()`` gives on the owner, known to all; of the form of ``like``."""
        if self._channel is None:
            return work()
        if self.rank == owner:
            host = work().detach().to("cpu", like.dtype, copy=True).contiguous()
        else:
            host = torch.empty(like.shape, dtype=like.dtype, device=HOST)
        self.agree()
        sent = host if self.rank == owner else None
        self._travel(dist.broadcast, host, src=self._global(owner), sent=sent)
        return host.to(like.device)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, in their order; the first axis may differ."""
        if self._channel is None:
            return [tensor]
        self.agree()
        host = tensor.detach().cpu().contiguous()
        lengths = [_number(0) for _ in range(self.size)]
        own = _number(len(host))
        self._travel(dist.all_gather, lengths, own, sent=own)
        found = self._padded(host, [int(length) for length in lengths])
        return [each.to(tensor.device) for each in found]

    def _padded(self, host: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """What `gather` returns, of tensors whose lengths are known to all."""
        padded = host.new_zeros((max(lengths), *host.shape[1:]))
        padded[: len(host)] = host
        found = [torch.empty_like(padded) for _ in lengths]
        if len(padded):
            self._travel(dist.all_gather, found, padded, sent=padded)
        return [each[:length] for each, length in zip(found, lengths, strict=True)]

    def gather_to(self, owner: int, rows: Tensor) -> Tensor:
        """All rows, rank after rank, on the owner; elsewhere none."""
        if self._channel is None:
            return rows
        lengths = [len(each) for each in self.gather(rows.new_empty((len(rows), 0)))]
        if self.rank != owner:
            host = rows.detach().cpu().contiguous()
            self._travel(dist.send, host, self._global(owner), sent=host)
            return rows.new_empty((0, *rows.shape[1:]))
        whole = rows.new_empty((sum(lengths), *rows.shape[1:]))
        for rank, part in enumerate(whole.split(lengths)):
            if rank == owner:
                part.copy_(rows)
                continue
            host = part if part.device.type == "cpu" else torch.empty_like(part).cpu()
            self._travel(dist.recv, host, self._global(rank))
            part.copy_(host)
        return whole

    def total(self, *numbers: float) -> list[float]:
        """Sums over the ranks, added up in their order."""
        own = torch.tensor([numbers], dtype=torch.float64, device=HOST)
        found = self.gather(own)
        return torch.cat(found).sum(dim=0).tolist()

    def same(self, number: int) -> int:
        """The number of rank 0, within 63 bits."""
        if self._channel is None:
            return number
        number %= 2**63
        return int(self.share(0, lambda: _number(number), _number(0)))

    def solution(
        self, owner: int, solve: Callable[[], Solution], p: int, device: torch.device
    ) -> Solution:
        """What ``solve()`` finds on the owner, p coefficients, known to all."""
        if self._channel is None:
            return solve()
        statuses = list(Status)
        found: list[Solution] = []

        def numbers() -> Tensor:
            found.append(solve())
            (it,) = found
            rest = [it.objective, it.lower_bound, it.n_iter, statuses.index(it.status)]
            parts = [torch.as_tensor(x).double().cpu() for x in (it.coef, it.support)]
            last = torch.tensor(rest, dtype=torch.float64, device=HOST)
            return torch.cat([*parts, last])

        like = torch.zeros(2 * p + 4, dtype=torch.float64, device=HOST)
        flat = self.share(owner, numbers, like)
        if found:
            return found[0]
        objective, bound, n_iter, status = flat[2 * p :].tolist()
        return Solution(
            flat[:p].to(device),
            flat[p : 2 * p].to(device) != 0,
            objective,
            lower_bound=bound,
            n_iter=int(n_iter),
            status=statuses[int(status)],
        )

    # --- Networks ---------------------------------------------------------------------

    def check_same(self, model: nn.Module) -> None:
        """Refuse parameters that differ between ranks; take the buffers of rank 0."""
        if self._channel is None:
            return
        for name, parameter in model.named_parameters():
            _check_equal(name, self.gather(digest(parameter)))
        for buffer in model.buffers():
            buffer.copy_(self.share(0, partial(_as_is, buffer), buffer))

    @torch.no_grad()
    def commit(self, layout: Layout) -> None:
        """Give every rank the weights of rank 0, to the bit; or raise on all."""
        if self._channel is None:
            return
        for slot in layout.slots:
            weight = slot.parameter.detach()
            weight.copy_(self.share(0, partial(_as_is, weight), weight))
        self.agree()

    # --- The channel ------------------------------------------------------------------

    def _global(self, rank: int) -> int:
        return dist.get_global_rank(self._group, rank)

    def _flags(self, text: str) -> list[str]:
        """What each rank says of its failure, "" where there is none."""
        said = text.encode()[:FLAG_BYTES].ljust(FLAG_BYTES, b"\0")
        own = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        every = [torch.empty_like(own) for _ in range(self.size)]
        self._travel(dist.all_gather, every, own, sent=own)
        decoded = [bytes(each.tolist()).rstrip(b"\0") for each in every]
        return [each.decode(errors="ignore") for each in decoded]

    def _travel(
        self,
        collective: Callable[..., object],
        *args: Any,
        sent: Tensor | None = None,
        **to: Any,
    ) -> None:
        self.sent += 0 if sent is None else sent.numel() * sent.element_size()
        try:
            collective(*args, **to, group=self._channel)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RuntimeError:
        """A rank that is gone or silent, in words; the channel is given up."""
        _give_up(self._group, self._timeout)
        self._told = True
        msg = (
            f"a rank is gone, or was silent for timeout={self._timeout:g} seconds; the "
            "model of this rank is as it was. Start the ranks anew, or, if it is slow, "
            f"raise timeout. ({str(error).strip().splitlines()[0]})"
        )
        return RuntimeError(msg)


def _check_alone(action: str) -> None:
    """Refuse to work on one rank of several, whose weights would part from theirs."""
    size = dist.get_world_size()
    if size > 1:
        msg = (
            f"torch.distributed runs {size} ranks and {action} was given no group: "
            "each rank would work by itself, to weights of its own. Give "
            "group=torch.distributed.group.WORLD, and each rank its own batches; or, "
            "to work on one rank alone, torch.distributed.new_subgroups(1)[0]."
        )
        raise RuntimeError(msg)


_channels: WeakKeyDictionary[Any, dict[float, Any]] = WeakKeyDictionary()


def _channel_of(group: Group, timeout: float) -> Group:
    """A gloo group of the same ranks, made once for each timeout."""
    known = _channels.setdefault(group, {})
    if timeout not in known:
        ranks = dist.get_process_group_ranks(group)
        known[timeout] = dist.new_group(
            ranks,
            timeout=timedelta(seconds=timeout),
            backend="gloo",
            # Ranks of other groups need not take part.
            use_local_synchronization=len(ranks) < dist.get_world_size(),
        )
    return known[timeout]


def _give_up(group: Group, timeout: float) -> None:
    """Close a channel that has failed, so that whoever waits on it hears of it."""
    channel = _channels.get(group, {}).pop(timeout, None)
    # (The name of a part's would be used again, with the addresses of the old one.)
    if channel is not None and dist.get_world_size(group) == dist.get_world_size():
        dist.destroy_process_group(channel)


def _check_equal(name: str, digests: Sequence[Tensor]) -> None:
    for rank, digest in enumerate(digests):
        if not torch.equal(digest, digests[0]):
            msg = (
                f"parameter {name!r} differs between ranks 0 and {rank}: give every "
                "rank the same weights, by load_state_dict or by "
                "DistributedDataParallel."
            )
            raise ValueError(msg)


def _number(value: int) -> Tensor:
    return torch.tensor([value], dtype=torch.int64, device=HOST)


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def digest(tensor: Tensor) -> Tensor:
    """A hash of the bits of a tensor, to compare those of ranks."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    value = hashlib.sha256(data.numpy().data).digest()
    return torch.frombuffer(bytearray(value), dtype=torch.uint8)


def deal(costs: Sequence[float], size: int) -> list[int]:
    """The rank of each piece of work: the longest first, each to who has least."""
    loads, owners = [0.0] * size, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=lambda rank: loads[rank])
        loads[owners[i]] += costs[i]
    return owners


def average_statistics(layers: Iterable[Any], ranks: Ranks) -> None:
    """Give BatchNorm layers the means of all ranks' batches, each batch counted once.

    Parameters
    ----------
    layers : iterable of BatchNorm layers
        Cumulative averages over as many batches as ``num_batches_tracked`` says.
    ranks : Ranks
    """
    for layer in layers:
        own = layer.num_batches_tracked
        count = ranks.sum(own)
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None and int(count):
                mean = ranks.sum(buffer.double() * int(own)) / int(count)
                buffer.copy_(mean)
        own.copy_(count)
