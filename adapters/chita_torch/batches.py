"""The user's batches: replayed pass after pass, cut into micro-batches, held back.

A batch is a tree (nested mappings, tuples, lists) whose tensors share their first
axis: the samples. ``B`` is the number of samples in a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

Tree: TypeAlias = Any  # a tensor, or mappings, tuples and lists of trees


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Apply ``function`` to every tensor of a tree; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


def tensors_of(tree: Tree) -> list[Tensor]:
    """Tensors of a tree, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(found.append, tree)
    return found


def n_samples(batch: Tree) -> int:
    """Return the length of the first axis, common to all tensors of a batch."""
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
            f"shapes {shapes}. Put what is not per sample into loss_fn."
        )
        raise ValueError(msg)
    return lengths.pop()


class Batches:
    """Micro-batches to differentiate and whole batches to calibrate on.

    The batches are read twice here: to count, and to keep the calibration
    batches; then once for every `draw`. Torch's random state is the same at the
    start of every pass, so that a shuffling ``DataLoader`` gives the same batches
    each time and no calibration sample is ever differentiated.

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

    Attributes
    ----------
    calibration : list of batches
    n_available : int
        Micro-batches that are not held back.

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
    ) -> None:
        if not isinstance(source, Iterable) or isinstance(source, Iterator):
            msg = (
                "batches must be iterable again and again (a DataLoader, a list); "
                f"got {type(source).__name__}. list(batches) makes it so."
            )
            raise TypeError(msg)
        self._source, self._device, self._generator = source, device, generator
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self.samples_per_gradient = samples_per_gradient
        self._marks: list[tuple[int, float]] = []
        for batch in self._pass():
            self._marks.append(_mark(batch))
        if not self._marks:
            msg = "batches is empty; at least one batch is needed."
            raise ValueError(msg)
        smallest = min(size for size, _ in self._marks[:-1] or self._marks)
        if smallest < samples_per_gradient:
            msg = (
                f"samples_per_gradient={samples_per_gradient} is more than the "
                f"smallest batch has ({smallest} samples): use larger batches or "
                f"samples_per_gradient <= {smallest}."
            )
            raise ValueError(msg)
        self._held = self._hold_back(calibration)
        self.calibration = [b for i, b in self._checked_pass() if i in self._held]
        self._counts = torch.tensor(
            [
                0 if i in self._held else size // samples_per_gradient
                for i, (size, _) in enumerate(self._marks)
            ]
        )
        self.n_available = int(self._counts.sum())

    def draw(self, n: int) -> Iterator[Tree]:
        """Yield ``min(n, n_available)`` micro-batches, drawn without replacement."""
        order = torch.randperm(self.n_available, generator=self._generator)
        wanted = torch.zeros(self.n_available, dtype=torch.bool)
        wanted[order[:n]] = True
        size = self.samples_per_gradient
        for batch, mine in zip(
            (batch for _, batch in self._checked_pass()),
            wanted.split(self._counts.tolist()),
            strict=True,
        ):
            for i in mine.nonzero().flatten().tolist():
                yield map_tensors(_rows(i * size, (i + 1) * size), batch)

    def remaining(self) -> Iterator[Tree]:
        """Yield the whole batches that are not held back."""
        return (b for i, b in self._checked_pass() if i not in self._held)

    def _hold_back(self, share: float) -> set[int]:
        n = len(self._marks)
        if share == 0:
            return set()
        n_held = max(1, round(share * n))
        if n_held >= n:
            msg = (
                f"calibration={share} of {n} batch(es) leaves none to differentiate: "
                "use more (smaller) batches, or calibration=0 with a fixed ridge."
            )
            raise ValueError(msg)
        order = torch.randperm(n, generator=self._generator)
        return set(order[:n_held].tolist())

    def _pass(self) -> Iterator[Tree]:
        with _replayed(self._source, self._seed):
            for batch in self._source:
                yield map_tensors(lambda t: t.to(self._device), batch)

    def _checked_pass(self) -> Iterator[tuple[int, Tree]]:
        count = 0
        for count, batch in enumerate(self._pass(), start=1):
            if count > len(self._marks) or _mark(batch) != self._marks[count - 1]:
                break
            yield count - 1, batch
        else:
            if count == len(self._marks):
                return
        msg = (
            f"batches changed between two passes (at batch {count}), so samples held "
            "back for calibration could be differentiated too. Give a list of batches, "
            "or a DataLoader whose only randomness is torch's."
        )
        raise ValueError(msg)


def _rows(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[start:stop]


def _mark(batch: Tree) -> tuple[int, float]:
    """Size and a checksum of a batch, to tell it from others."""
    total = sum(
        float(t.detach().double().nan_to_num().sum()) for t in tensors_of(batch)
    )
    return n_samples(batch), total


@contextmanager
def _replayed(source: Any, seed: int) -> Iterator[None]:
    """Give torch (and a loader's own generator) one state, then restore it.

    The state is set for the time of a whole pass; code between two batches must
    not rely on torch's global random numbers.
    """
    own = getattr(source, "generator", None)
    own = own if isinstance(own, torch.Generator) else None
    state = own.get_state() if own is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if own is not None:
            own.manual_seed(seed)
        try:
            yield
        finally:
            if own is not None and state is not None:
                own.set_state(state)
