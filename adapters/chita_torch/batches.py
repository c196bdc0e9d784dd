"""The user's batches: replayed pass after pass, cut into micro-batches, held back.

A batch is a tree (nested mappings, tuples, lists) whose tensors share their first
axis: the samples. Of any other batch the user says how it is cut (``split``); it
becomes the list of its samples (`Pieces`). ``B`` is the number of samples in a
micro-batch.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from .interrupts import whole
from .ranks import Ranks, check_own, check_padding

Tree: TypeAlias = Any  # a tensor, or mappings, tuples and lists of trees
Split: TypeAlias = Callable[[Tree], Iterable[Tree]] | Literal["batch"]


class Pieces(list[Tree]):
    """A batch as a list of its samples, each a batch that the loss takes."""


def split_into(batch: Tree, split: Split) -> Pieces:
    """Cut a batch into its samples; "batch" makes it a single one."""
    if isinstance(split, str):
        return Pieces([batch])
    pieces = split(batch)
    if not isinstance(pieces, Iterable) or isinstance(pieces, Mapping | Tensor):
        found = type(pieces).__name__
    elif not (cut := Pieces(pieces)):
        found = "none"
    else:
        return cut
    msg = (
        "split(batch) must return a list of samples, each a batch that loss_fn takes; "
        f"got {found}."
    )
    raise TypeError(msg)


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Apply ``function`` to every tensor of a tree; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, MutableMapping):
        mapped = copy.copy(tree)  # of its own kind: some are read by attribute
        for key, value in tree.items():
            mapped[key] = map_tensors(function, value)
        return mapped
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(function, value) for value in tree)
    if isinstance(tree, np.ndarray):
        msg = (
            f"a batch holds a numpy.ndarray of shape {tree.shape}, which cannot be cut "
            "into samples: give torch.from_numpy(array)."
        )
        raise TypeError(msg)
    return tree


def tensors_of(tree: Tree) -> list[Tensor]:
    """Tensors of a tree, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(found.append, tree)
    return found


def same_form(one: Tree, other: Tree) -> bool:
    """Whether two trees differ in nothing but the values of their tensors."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return (one.shape, one.dtype, one.device) == (
            other.shape,
            other.dtype,
            other.device,
        )
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(
            same_form(one[key], other[key]) for key in one
        )
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same_form, one, other))
    return bool(one is other or one == other)


def n_samples(batch: Tree) -> int:
    """Return the length of the first axis, common to all tensors of a batch."""
    if isinstance(batch, Pieces):
        return len(batch)
    found = tensors_of(batch)
    if not found:
        msg = (
            "a batch must hold at least one torch.Tensor (alone or in tuples, lists, "
            f"dicts); got {type(batch).__name__}."
        )
        raise TypeError(msg)
    lengths = {t.shape[0] if t.ndim else -1 for t in found}
    if len(lengths) > 1 or -1 in lengths:
        shapes = [tuple(t.shape) for t in found]
        msg = (
            "all tensors of a batch must share their first axis, the samples; got "
            f"shapes {shapes}. Put what is not per sample into loss_fn, or say with "
            "split= how a batch is cut into samples."
        )
        raise ValueError(msg)
    return lengths.pop()


def joined(
    batches: Sequence[Tree], most: int
) -> tuple[list[Tree], list[tuple[int, ...]]]:
    """Fewer, larger batches: of more than ``most``, those that go together are joined.

    They go together where they differ in nothing but the number and the values of their
    samples; about a ``most``-th of all samples is put in one. Batches that were split
    stay as they are. With each comes the numbers of those that it is made of.
    """
    if len(batches) <= most or any(isinstance(batch, Pieces) for batch in batches):
        return list(batches), [(i,) for i in range(len(batches))]
    size = math.ceil(sum(map(n_samples, batches)) / most)
    open_: list[tuple[Tree, list[int]]] = []  # by form
    full: list[list[int]] = []
    for number, batch in enumerate(batches):
        form = map_tensors(lambda tensor: tensor[:0], batch)
        found = next((some for other, some in open_ if same_form(other, form)), None)
        if found is None:
            found = []
            open_.append((form, found))
        found.append(number)
        if sum(n_samples(batches[i]) for i in found) >= size:
            full.append(found)
            open_ = [(other, some) for other, some in open_ if some is not found]
    numbers = [tuple(some) for some in (*full, *(some for _, some in open_))]
    return [_concatenated([batches[i] for i in some]) for some in numbers], numbers


def _concatenated(batches: list[Tree]) -> Tree:
    columns = zip(*map(tensors_of, batches), strict=True)
    return map_tensors(lambda _: torch.cat(next(columns)), batches[0])


class Drawn:
    """Micro-batches to be read once; `len` is how many there are."""

    def __init__(self, stream: Generator[Tree, None, None], n: int) -> None:
        self._stream, self._n = stream, n
        self.close = stream.close

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Tree]:
        return self._stream


class Sample(NamedTuple):
    """Batches of this rank, of n samples on all ranks; `before` are of those before."""

    batches: list[Tree]
    n: int
    before: int


class Batches:
    """Micro-batches to differentiate and whole batches to calibrate on.

    The batches are read twice here: to count, and to keep the calibration
    batches; then once for every `draw`. While a batch is fetched torch's random state
    on the CPU is one of the pass's own, the same at the start of every pass, so that a
    shuffling ``DataLoader`` gives the same batches each time and no calibration sample
    is ever differentiated. Between two batches it is that of everybody else.

    Parameters
    ----------
    source : iterable of batches
        Must be iterable again and again: a DataLoader, a list.
    samples_per_gradient : int
        B. Samples of a batch beyond a multiple of B are not drawn.
    calibration : float in [0, 1)
        Share of the batches held back, at least one unless 0.
    device : torch.device
        Where batches are moved to.
    generator : torch.Generator
        Decides which batches and micro-batches are drawn.
    split : callable or "batch", optional
        See `split_into`; every batch given is then a `Pieces`.
    ranks : Ranks, optional
        Each with batches of its own, and a generator in the same state. What is drawn
        and held back is what one process would draw of all batches, rank after rank.

    Attributes
    ----------
    calibration : list of batches
        Of this rank.
    calibrated : bool
        Whether any rank holds batches back.
    n_available : int
        Micro-batches that are not held back, on all ranks.

    Raises
    ------
    ValueError
        If there are no batches, a batch is smaller than B, all would be held
        back, or a pass gives other batches than the first.
    TypeError
        If ``source`` is not re-iterable, or a batch holds no tensor.
    """

    def __init__(
        self,
        source: Iterable[Tree],
        samples_per_gradient: int,
        calibration: float,
        device: torch.device,
        generator: torch.Generator,
        split: Split | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        ranks = Ranks() if ranks is None else ranks
        once = not isinstance(source, Iterable) or isinstance(source, Iterator)
        if once or isinstance(source, Tensor):
            msg = (
                "batches must be iterable again and again (a DataLoader, a list of "
                f"batches); got {type(source).__name__}. DataLoader(dataset, "
                "batch_size=64) makes them of a dataset, tensor.split(64) of a tensor, "
                "list(batches) of a generator."
            )
            raise TypeError(msg)
        if ranks.size > 1:
            check_padding(source)
        self._source, self._device, self._generator = source, device, generator
        self._split = split
        self._seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        self.samples_per_gradient = samples_per_gradient
        self._marks: list[tuple[int, float]] = []
        for batch in self._pass():
            self._marks.append(_mark(batch))
        own = torch.tensor(self._marks, dtype=torch.float64, device="cpu").view(-1, 2)
        marks = ranks.gather(own)
        check_own(marks)
        self._first = sum(map(len, marks[: ranks.rank]))  # of this rank's batches
        self._sizes = torch.cat(marks)[:, 0].to(torch.int64).tolist()
        if not self._sizes:
            msg = "batches is empty; at least one batch is needed."
            raise ValueError(msg)
        smallest = min((size for size, _ in self._marks[:-1] or self._marks), default=0)
        if self._marks and smallest < samples_per_gradient:
            msg = (
                f"samples_per_gradient={samples_per_gradient} is more than the "
                f"smallest batch has ({smallest} samples): use larger batches or "
                f"samples_per_gradient <= {smallest}."
            )
            raise ValueError(msg)
        counts = [n // samples_per_gradient for n in self._sizes]
        # On the host, whatever torch.set_default_device says.
        self._counts = torch.tensor(counts, device="cpu")
        self._held = self._hold_back(calibration)
        self._counts[list(self._held)] = 0
        self.calibrated = bool(self._held)
        self.calibration = [b for i, b in self._checked_pass() if i in self._held]
        self.n_available = int(self._counts.sum())

    def draw(self, n: int) -> Drawn:
        """``min(n, n_available)`` micro-batches, drawn without replacement.

        Those of them that are this rank's.
        """
        order = torch.randperm(
            self.n_available, generator=self._generator, device="cpu"
        )
        wanted = torch.zeros(self.n_available, dtype=torch.bool, device="cpu")
        wanted[order[:n]] = True
        own = slice(self._first, self._first + len(self._marks))
        mine = wanted.split(self._counts.tolist())[own]
        return Drawn(self._drawn(mine), sum(int(each.sum()) for each in mine))

    def _drawn(self, wanted: Sequence[Tensor]) -> Generator[Tree, None, None]:
        size = self.samples_per_gradient
        batches = (batch for _, batch in self._checked_pass())
        for batch, mine in zip(batches, wanted, strict=True):
            for i in mine.nonzero().flatten().tolist():
                yield _samples(batch, i * size, (i + 1) * size)

    def remaining(self) -> Generator[Tree, None, None]:
        """Yield the whole batches that are not held back.

        Nor single samples, which have no variance, unless there is nothing else.
        """
        left = set(range(len(self._sizes))) - self._held
        several = {i for i in left if self._sizes[i] > 1} or left
        return (b for i, b in self._checked_pass() if i in several)

    def sample(self, n: int) -> Sample:
        """Batches that are not held back, drawn at random, ``n`` samples at most.

        Of batches that were split, each sample by itself.
        """
        left = [i for i in range(len(self._sizes)) if i not in self._held]
        order = torch.randperm(len(left), generator=self._generator, device="cpu")
        taken: dict[int, int] = {}
        for i in (left[j] for j in order.tolist()):
            taken[i] = min(self._sizes[i], n)
            n -= taken[i]
            if n == 0:
                break
        own = [
            _samples(batch, 0, taken[i])
            for i, batch in self._checked_pass()
            if i in taken
        ]
        total, earlier = sum(taken.values()), [i for i in taken if i < self._first]
        if self._split is None:
            return Sample(own, total, len(earlier))
        pieces = [Pieces([piece]) for batch in own for piece in batch]
        return Sample(pieces, total, sum(taken[i] for i in earlier))

    def _hold_back(self, share: float) -> set[int]:
        n = len(self._sizes)
        if share == 0:
            return set()
        n_held = max(1, round(share * n))
        if n_held >= n:
            msg = (
                f"calibration={share} of {n} batch(es) leaves none to differentiate: "
                "use more (smaller) batches, or calibration=0 with a fixed ridge."
            )
            raise ValueError(msg)
        order = torch.randperm(n, generator=self._generator, device="cpu").tolist()
        held, left = order[:n_held], order[n_held:]
        if not self._counts[left].any():  # only the last batch, which is too short
            held[0], left[0] = left[0], held[0]
        return set(held)

    def _pass(self) -> Iterator[Tree]:
        random = RandomStream(self._source, self._seed)
        batches = random.during(lambda: iter(self._source))
        end = object()
        while (batch := random.during(lambda: next(batches, end))) is not end:
            there = map_tensors(lambda t: t.to(self._device), batch)
            yield there if self._split is None else split_into(there, self._split)

    def _checked_pass(self) -> Iterator[tuple[int, Tree]]:
        """Batches of this rank, by their numbers among those of all."""
        count = 0
        for count, batch in enumerate(self._pass(), start=1):
            if count > len(self._marks) or _mark(batch) != self._marks[count - 1]:
                break
            yield self._first + count - 1, batch
        else:
            if count == len(self._marks):
                return
        msg = (
            f"batches changed between two passes (at batch {count}), so samples held "
            "back for calibration could be differentiated too. Give a list of batches, "
            "or a DataLoader whose only randomness is torch's on the CPU."
        )
        raise ValueError(msg)


def _samples(batch: Tree, start: int, stop: int) -> Tree:
    if isinstance(batch, Pieces):
        return Pieces(batch[start:stop])
    return map_tensors(lambda tensor: tensor[start:stop], batch)


def _mark(batch: Tree) -> tuple[int, float]:
    """Size and a checksum of a batch, to tell it from others."""
    total = 0.0
    for tensor in tensors_of(batch):
        # (Apple's GPUs have no float64.)
        wide = torch.float32 if tensor.device.type == "mps" else torch.float64
        total += float(tensor.detach().to(wide).nan_to_num().sum())
    return n_samples(batch), total


_fetching = threading.RLock()  # the random state of torch is the whole process's


class RandomStream:
    """A stream of random numbers of torch that is in force while batches are fetched.

    The state of torch on the CPU, and of the generators that a loader has of its own,
    is exchanged for that of the stream, and back; a loader without generators is lent
    some, so that its order is its own. Batches in a list, and loaders of tensors, draw
    nothing else: for them the state of torch is left alone. Elsewhere, threads that
    fetch at the same time wait for each other, and one that draws other numbers at
    such a moment draws them from the stream.
    """

    def __init__(self, source: Any, seed: int) -> None:
        sampler = getattr(source, "sampler", None)
        batch_sampler = getattr(source, "batch_sampler", None)
        nested = getattr(batch_sampler, "sampler", None)
        places: tuple[Any, ...] = (source, sampler, batch_sampler, nested)
        holders = [each for each in places if hasattr(each, "generator")]
        shared = {id(g): g for g in [torch.default_generator] if not _is_quiet(source)}
        own = {id(h.generator): h.generator for h in holders if h.generator is not None}
        self._generators = list((shared | own).values())
        self._mine = [
            torch.Generator(g.device).manual_seed(seed).get_state()
            for g in self._generators
        ]
        self._lent = [
            (each, torch.Generator().manual_seed(seed))
            for each in {id(h): h for h in holders if h.generator is None}.values()
        ]
        self._theirs: list[Tensor] | None = None

    def during(self, fetch: Callable[[], Any]) -> Any:
        """What `fetch` returns, with the random numbers of this stream."""
        with _fetching:
            try:
                self._enter()
                return fetch()
            finally:
                self._leave()

    @whole
    def _enter(self) -> None:
        self._theirs = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._mine, strict=True):
            generator.set_state(state)
        for holder, lent in self._lent:
            holder.generator = lent

    @whole
    def _leave(self) -> None:
        if self._theirs is not None:
            self._mine = [generator.get_state() for generator in self._generators]
            for generator, state in zip(self._generators, self._theirs, strict=True):
                generator.set_state(state)
            for holder, _ in self._lent:
                holder.generator = None
            self._theirs = None


def _is_quiet(source: Any) -> bool:
    """Whether fetching batches draws no random numbers but the loader's order."""
    if isinstance(source, DataLoader):
        data = source.dataset
        while isinstance(data, Subset):
            data = data.dataset
        return type(data) is TensorDataset and source.collate_fn is default_collate
    return isinstance(source, list | tuple)
