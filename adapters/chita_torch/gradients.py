"""The gradient matrix of a loss: one row per micro-batch.

    A[i, :] = sqrt(B) * gradient of the mean loss of micro-batch i (B samples)

so that A'A / n estimates the Fisher information per sample whatever B is. Shapes:
``A`` is ``(n, p)``, float32 (float64 for a float64 model).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from .batches import Pieces, Tree, map_tensors, same_form, tensors_of
from .kinds import join, memory
from .layout import Layout
from .memory import available_bytes

LossFunction = Callable[[nn.Module, Tree], Tensor]

CHUNK_BYTES = 2**26  # gradients computed at a time by the batched path
CHUNK = 32  # and micro-batches at most: their activations are held together
CONVOLVING = 5e8  # operations of a micro-batch from which batching costs more on a CPU
WORKSPACE = 2.0  # memory of a solve, in units of A (A, its chosen columns, factors)


class NotFinite(ValueError):
    """A loss, or derivatives of it, that no solve can do anything with."""


class Gradients(NamedTuple):
    """The gradient matrix and how it came about."""

    A: Tensor  # shape (n, p)
    method: str  # "batched" or "loop"
    seconds: float


class LossModule(nn.Module):
    """``loss_fn(model, batch)`` as a module, so that weights can be substituted."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model = model
        # Not a submodule: a loss that is one keeps its own weights, mode and buffers.
        self._loss = partial(loss_fn, model)

    def forward(self, batch: Tree) -> Tensor:
        """Mean loss of a batch."""
        return checked_loss(self._loss(batch))


def checked_loss(loss: Any) -> Tensor:
    """Return ``loss`` if it is a scalar tensor."""
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss)
        msg = (
            "loss_fn(model, batch) must return the mean loss of the batch as a scalar "
            f"tensor; got {got}. Use reduction='mean' or .mean()."
        )
        raise TypeError(msg)
    return loss


def over_pieces(loss_fn: LossFunction) -> LossFunction:
    """The loss of a batch that was split: the mean of those of its samples."""

    def mean(model: nn.Module, batch: Tree) -> Tensor:
        if not isinstance(batch, Pieces):
            return loss_fn(model, batch)
        found = [loss_fn(model, piece) for piece in batch]
        if len(found) == 1:  # of any shape, where only the forward pass is wanted
            return found[0]
        return torch.stack([checked_loss(each) for each in found]).mean()

    return mean


def gradient_matrix(
    model: nn.Module,
    loss_fn: LossFunction,
    micro_batches: Iterable[Tree],
    layout: Layout,
    n: int,
    *,
    samples_per_gradient: int,
    method: str = "auto",
    device: torch.device | str | None = None,
    on_row: Callable[[int], object] = lambda count: None,
) -> Gradients:
    """Differentiate micro-batch after micro-batch with respect to chosen weights.

    The model is neither changed nor given ``.grad``: the weights are substituted by
    `torch.func.functional_call`. Call it in the mode to differentiate in (eval).

    Parameters
    ----------
    model : nn.Module
        On the device of the micro-batches.
    loss_fn : callable
        ``loss_fn(model, batch) -> scalar mean loss``.
    micro_batches : iterable of batches
        ``n`` of them are read, each of ``samples_per_gradient`` samples.
    layout : Layout
        The chosen weights, ``p`` in all.
    n : int
        Rows of A.
    samples_per_gradient : int
        B, for the scale sqrt(B).
    method : {"auto", "batched", "loop"}, default="auto"
        "batched" differentiates many micro-batches in one call (`torch.func.vmap`),
        "loop" one at a time. "auto" is "batched" where the model allows it, but with
        large convolutions on a CPU, which do not gain by it. (Not what a clock says: a
        seed is to fix every digit.)
    device : torch.device, optional
        Where A is kept; default: where the weights are.
    on_row : callable, optional
        Called with the number of rows just done.

    Returns
    -------
    Gradients
        ``A`` of shape ``(n, p)``, the method used, and the seconds it took.

    Raises
    ------
    MemoryError
        If A and the solver's workspace do not fit; nothing has been allocated.
    TypeError
        If the loss is not a scalar tensor.
    ValueError
        If a loss gradient is not finite.

    Notes
    -----
    Time: n forward and backward passes over B samples. Memory: ``4 n p`` bytes for A
    and, batched, `CHUNK_BYTES` of gradients at a time.
    """
    start = perf_counter()
    device = layout.device if device is None else torch.device(device)
    dtype = layout.gather().dtype
    check_memory(n, layout, dtype, device)
    A = torch.empty((n, len(layout)), dtype=dtype, device=device)
    rows = _Rows(model, loss_fn, layout)
    stream = iter(micro_batches)
    chunk = max(2, min(CHUNK, CHUNK_BYTES // (4 * len(layout))))
    if method == "auto":
        two = list(itertools.islice(stream, min(2, n)))
        stream = itertools.chain(two, stream)
        method = "batched" if rows.gain(two) else "loop"
    done = 0
    while done < n:
        part = list(itertools.islice(stream, min(chunk, n - done)))
        for gradients in rows.batched(part) if method == "batched" else rows.loop(part):
            block = A[done : done + len(gradients)]
            block.copy_(gradients).mul_(math.sqrt(samples_per_gradient))
            _check_finite(block, layout, done)
            done += len(gradients)
            on_row(len(gradients))
    return Gradients(A, method, perf_counter() - start)


class _Rows:
    """Gradients of micro-batches, by either method."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, layout: Layout) -> None:
        self.layout = layout
        self.weights = layout.parameters
        self.loss = LossModule(model, loss_fn)
        # Every place of a weight, but each place once, whatever names lead there:
        # `functional_call` puts back what it found in the order it took it out.
        name_of = {memory(slot.parameter): slot.name for slot in layout.slots}
        self._recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
        self._places: dict[str, str] = {}
        self._buffers: dict[str, Tensor] = {}
        for prefix, module in self.loss.named_modules():
            for own, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if (name := name_of.get(memory(parameter))) is not None:
                    self._places[join(prefix, own)] = name
            for own, buffer in module._buffers.items():
                if buffer is not None:
                    self._buffers[join(prefix, own)] = buffer

    def _loss(self, weights: dict[str, Tensor], batch: Tree) -> Tensor:
        # With the buffers, so that one replaced in the forward pass is put back.
        state = {place: weights[name] for place, name in self._places.items()}
        state |= self._buffers
        with _without_cudnn() if self._recurrent else nullcontext():
            return functional_call(self.loss, state, (batch,), tie_weights=False)

    def loop(self, batches: list[Tree]) -> Iterator[Tensor]:
        """One backward pass per micro-batch; yields ``(1, p)`` each."""
        names = list(self.weights)
        for batch in batches:
            live = {n: t.detach().requires_grad_() for n, t in self.weights.items()}
            with torch.enable_grad():
                loss = self._loss(live, batch)
                found: Sequence[Tensor | None] = [None] * len(names)
                if loss.requires_grad:
                    found = torch.autograd.grad(
                        loss, [live[n] for n in names], allow_unused=True
                    )
            yield self._flat(
                {
                    n: torch.zeros_like(live[n]) if g is None else g
                    for n, g in zip(names, found, strict=True)
                }
            )[None]

    def batched(self, batches: list[Tree]) -> Iterator[Tensor]:
        """Micro-batches of one form in one call; yields ``(some, p)``."""
        for alike in _runs(batches):
            # A loss may take another way later than on the first micro-batches. What
            # is wrong with the loss itself, the loop will say.
            at_once = None
            # (Outside the handler: the exception holds what the call had allocated.)
            with suppress(Exception):
                at_once = self._at_once(alike)
            yield from self.loop(alike) if at_once is None else (at_once,)

    def _at_once(self, batches: list[Tree]) -> Tensor:
        """Gradients of micro-batches of one form, ``(len(batches), p)``."""
        stacks = [
            torch.stack(parts)
            for parts in zip(*(tensors_of(b) for b in batches), strict=True)
        ]

        def of_leaves(weights: dict[str, Tensor], *leaves: Tensor) -> Tensor:
            remaining = iter(leaves)
            batch = map_tensors(lambda _: next(remaining), batches[0])
            return self._loss(weights, batch)

        each = vmap(grad(of_leaves), in_dims=(None, *(0 for _ in stacks)))
        with warnings.catch_warnings():
            # Advice on operations that vmap runs one by one: they are still right.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return self._flat(each(self.weights, *stacks))

    def gain(self, two: list[Tree]) -> bool:
        """Whether the loss can be batched, to the same gradients, and gains by it."""
        if len(two) < 2 or not same_form(*two):
            return False
        flops: dict[Any, int] = {}
        try:
            with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
                # Its hooks fire twice in a compiled model: it does not matter.
                warnings.filterwarnings("ignore", message=r"Using `torch\.compile")
                one_by_one = list(self.loop(two))
            flops = counter.get_flop_counts().get("Global", {})
        except AssertionError:
            # Its hooks fail where a parametrization is computed under no_grad; what is
            # wrong with the loss itself is raised again.
            one_by_one = list(self.loop(two))
        convolving = sum(n for kind, n in flops.items() if "convolution" in str(kind))
        if self.layout.device.type == "cpu" and convolving > 2 * CONVOLVING:
            return False
        # The loop has shown that the loss works: a failure is a limit of vmap.
        try:
            at_once = self._at_once(two)
        except Exception:
            return False
        atol = _tolerance(one_by_one)
        if not math.isfinite(atol):
            return False  # the loop will say which
        return torch.allclose(at_once, torch.cat(one_by_one), rtol=1e-3, atol=atol)

    def _flat(self, gradients: dict[str, Tensor]) -> Tensor:
        return torch.cat(
            [s.flatten(gradients[s.name]) for s in self.layout.slots], dim=-1
        ).detach()


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Run recurrent layers by torch's own kernels.

    cuDNN's have no gradients in eval mode, in which the gradients are taken.
    """
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


def _runs(batches: list[Tree]) -> Iterator[list[Tree]]:
    """Cut into runs of micro-batches that differ in the values of tensors only."""
    run: list[Tree] = []
    for batch in batches:
        if run and not same_form(run[0], batch):
            yield run
            run = []
        run.append(batch)
    if run:
        yield run


def _tolerance(rows: list[Tensor]) -> float:
    largest = max(float(row.abs().max()) for row in rows)
    kind = rows[0].dtype
    if kind in (torch.float16, torch.bfloat16):
        share = 2e-2
    elif kind == torch.float32 and rows[0].is_cuda:
        share = 5e-3  # cuDNN rounds what it convolves to 11 bits, as it is set up
    else:
        share = 1e-5
    return share * largest + 1e-30


def _check_finite(block: Tensor, layout: Layout, first: int) -> None:
    finite = torch.isfinite(block.square())  # what the solver forms of it
    if bool(finite.all()):
        return
    row, column = (~finite).nonzero()[0].tolist()
    slot = next(s for s in layout.slots if column < s.stop)
    msg = (
        f"the gradient of micro-batch {first + row} is not finite in {slot.name!r}, "
        f"or its square is not: {float(block[row, column]):g}. Check the batch for NaN "
        "and for scale, and loss_fn for log(0) or overflow."
    )
    raise NotFinite(msg)


def matrix_bytes(n: int, p: int, dtype: torch.dtype) -> int:
    """Bytes of the gradient matrix."""
    return n * p * torch.finfo(dtype).bits // 8


def check_memory(
    n: int, layout: Layout, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse a matrix that will not fit, saying what would."""
    free = available_bytes(device)
    p = len(layout)
    needed = WORKSPACE * matrix_bytes(n, p, dtype)
    if free is None or needed <= free:
        return
    fitting = int(free // (WORKSPACE * matrix_bytes(1, p, dtype)))
    largest = max(layout.sizes())
    advice = [f"n_gradients={fitting}"] if fitting else []
    if WORKSPACE * matrix_bytes(n, largest, dtype) <= free and len(layout.slots) > 1:
        advice.append("scope='layer' (one layer at a time)")
    advice.append("fewer layers (include=, exclude=)")
    msg = (
        f"the gradient matrix, {n} x {p:,} numbers, and its solver need about "
        f"{needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free on {device}. "
        f"What fits: {'; '.join(advice)}."
    )
    raise MemoryError(msg)
