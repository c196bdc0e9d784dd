"""The gradient matrix of a loss: one row per micro-batch.

    A[i, :] = sqrt(B) * gradient of the mean loss of micro-batch i (B samples)

so that A'A / n estimates the Fisher information per sample whatever B is. Shapes:
``A`` is ``(n, p)``, float32 (float64 for a float64 model).
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from .batches import Tree, map_tensors, tensors_of
from .layout import Layout

LossFunction = Callable[[nn.Module, Tree], Tensor]

CHUNK_BYTES = 2**26  # gradients computed at a time by the batched path
CHUNK = 32  # and micro-batches at most: their activations are held together
TRIAL = 8  # micro-batches on which the two methods are timed
WORKSPACE = 2.0  # memory of a solve, in units of A (A, its chosen columns, factors)


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
        self.loss_fn = loss_fn

    def forward(self, batch: Tree) -> Tensor:
        """Mean loss of a batch."""
        return checked_loss(self.loss_fn(self.model, batch))


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
        "loop" one at a time. "auto" times both on the first micro-batches and goes
        on with the faster; with "loop" where the model does not allow batching.
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
    done = 0

    def store(gradients: Tensor) -> None:
        nonlocal done
        block = A[done : done + len(gradients)]
        block.copy_(gradients).mul_(math.sqrt(samples_per_gradient))
        _check_finite(block, layout, done)
        done += len(gradients)
        on_row(len(gradients))

    if method == "auto":
        method, first = _faster(rows, list(itertools.islice(stream, min(TRIAL, n))))
        for block in first:
            store(block)
    compute = rows.batched if method == "batched" else rows.loop
    while done < n:
        for block in compute(list(itertools.islice(stream, min(chunk, n - done)))):
            store(block)
    return Gradients(A, method, perf_counter() - start)


class _Rows:
    """Gradients of micro-batches, by either method."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, layout: Layout) -> None:
        self.layout = layout
        self.weights = {"model." + n: t for n, t in layout.parameters.items()}
        self.loss = LossModule(model, loss_fn)

    def _loss(self, weights: dict[str, Tensor], batch: Tree) -> Tensor:
        return functional_call(self.loss, weights, (batch,))

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
        """All micro-batches in one call; yields ``(len(batches), p)``."""
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
            yield self._flat(each(self.weights, *stacks))

    def _flat(self, gradients: dict[str, Tensor]) -> Tensor:
        return torch.cat(
            [s.flatten(gradients["model." + s.name]) for s in self.layout.slots], dim=-1
        ).detach()


def _faster(rows: _Rows, batches: list[Tree]) -> tuple[str, list[Tensor]]:
    """Time both methods on the same micro-batches; return the winner and its rows."""
    loop_seconds, by_loop = _timed(lambda: list(rows.loop(batches[:2])))
    if len(batches) < 4:
        return "loop", by_loop + list(rows.loop(batches[2:]))
    # Only a failure of the loss itself is the user's: the loop above has shown that
    # it works one micro-batch at a time, so any failure here is a limit of vmap.
    try:
        list(rows.batched(batches[:2]))  # the first call sets vmap up
        batched_seconds, by_batch = _timed(lambda: list(rows.batched(batches)))
    except Exception:
        return "loop", by_loop + list(rows.loop(batches[2:]))
    alike = torch.allclose(
        by_batch[0][:2], torch.cat(by_loop), rtol=1e-3, atol=_tolerance(by_loop)
    )
    if alike and batched_seconds / len(batches) < loop_seconds / 2:
        return "batched", by_batch
    return "loop", [row[None] for row in by_batch[0]] if alike else (
        by_loop + list(rows.loop(batches[2:]))
    )


def _tolerance(rows: list[Tensor]) -> float:
    largest = max(float(row.abs().max()) for row in rows)
    narrow = rows[0].dtype in (torch.float16, torch.bfloat16)
    return (2e-2 if narrow else 1e-5) * largest + 1e-30


def _timed(compute: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    start = perf_counter()
    result = compute()
    if result[0].is_cuda:
        torch.cuda.synchronize(result[0].device)
    return perf_counter() - start, result


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
    raise ValueError(msg)


def matrix_bytes(n: int, p: int, dtype: torch.dtype) -> int:
    """Bytes of the gradient matrix."""
    return n * p * torch.finfo(dtype).bits // 8


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    return None


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
