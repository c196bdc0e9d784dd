"""Where a network uses its weights: every linear or convolution call, as it is made.

A call computes, for each of its groups,  ``out = X W'``  with

    X (m, d)    inputs: one row for each sample and position, for a convolution the
                patch under the kernel
    W (t, d)    the group's weights, a row for each output

in the order of coordinates of `Layout`: kernel positions first, input channels last.
Calls are watched where they happen (a `TorchFunctionMode`), not by the type of a
module: what is recognised is the tensor. So subclasses, padding modes, attention with
packed projections and weights that a user's module hands to `linear` are all seen.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .kinds import memory
from .layout import Slot

MODULO = 2**31 - 1


@dataclass(frozen=True)
class Part:
    """Rows ``start:stop`` of a weight's matrix: those that one call computes.

    ``inputs`` is set for a transposed convolution in groups, whose rows hold weights of
    every group, ``inputs`` of them at each position of the kernel. ``cut``: the groups
    are pieces of the rows (`Slot.pieces`), whose products add up to the outputs.
    """

    name: str
    start: int
    stop: int
    groups: int = 1
    inputs: int = 0
    cut: bool = False

    @property
    def n_outputs(self) -> int:
        """Outputs of one group, t."""
        n_rows = self.stop - self.start
        return n_rows if self.inputs or self.cut else n_rows // self.groups

    def stretch(self, slot: Slot) -> slice:
        """Place of its weights in the slot's, in the order of the flat vector."""
        row = slot.size // slot.n_rows
        return slice(self.start * row, self.stop * row)

    def split(self, w: Tensor) -> Tensor:
        """Cut its weights, so ordered, into those of the groups: ``(groups, t, d)``."""
        if not self.inputs:
            return w.reshape(self.groups, self.n_outputs, -1)
        apart = w.reshape(self.n_outputs, -1, self.groups, self.inputs)
        return apart.permute(2, 0, 1, 3).reshape(self.groups, self.n_outputs, -1)


@dataclass(frozen=True)
class Call:
    """One use of a weight in a forward pass."""

    part: Part
    x: Tensor
    form: tuple[Any, ...]  # kernel, stride, ...: equal for calls that read x alike
    output_axis: int
    _rows: Callable[[Tensor, Tensor | None], Tensor]  # of x; an index on the host
    _positions: int  # of a sample

    @property
    def n_rows(self) -> int:
        """Rows of X, m."""
        samples = self.x.shape[0] if self._positions else self.x[..., 0].numel()
        return samples * max(self._positions, 1)

    def rows(self, limit: int, seed: int = 0) -> Tensor:
        """X, ``(groups, m, d)`` in float32 at least; some ``limit`` rows of each group.

        Fewer than all are drawn, with ``seed``, at the same positions of every sample.
        """
        index = None
        count = self._positions or self.n_rows
        wanted = count * limit // self.n_rows if limit < self.n_rows else count
        if wanted < count:
            generator = torch.Generator().manual_seed(seed % MODULO)
            drawn = torch.randperm(count, generator=generator)[: max(wanted, 1)]
            index = drawn.sort().values
        X = self._rows(self.x, index)
        if self.part.cut:
            X = X.reshape(X.shape[1], self.part.groups, -1).transpose(0, 1)
        return X if X.dtype == torch.float64 else X.float()

    def split(self, sizes: Sequence[int]) -> list[Call]:
        """The call on each of some batches that were joined, of ``sizes`` samples.

        The call as it is where the first axis of x is neither the samples nor a
        multiple of them.
        """
        length, n = len(self.x), sum(sizes)
        if len(sizes) == 1 or length % n:
            return [self]
        parts = self.x.split([size * (length // n) for size in sizes])
        return [replace(self, x=x) for x in parts]

    def outputs(self, gradient: Tensor) -> Tensor:
        """Sum of squares of a tensor of the output's shape, ``(groups, t)``."""
        squares = gradient.double().square()
        axis = self.output_axis % squares.ndim
        others = [i for i in range(squares.ndim) if i != axis]
        total = squares.sum(others) if others else squares
        if self.part.cut:
            return total.expand(self.part.groups, -1)
        return total.reshape(self.part.groups, -1)


class Watch(TorchFunctionMode):
    """Shows the calls that use chosen weights, while it is entered.

    Parameters
    ----------
    slots : iterable of Slot
        The chosen weights.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        super().__init__()
        self._slots = {memory(slot.parameter): slot for slot in slots}

    def before(self, call: Call) -> Tensor:
        """Return the weight to use, of the parameter's shape."""
        raise NotImplementedError

    def after(self, call: Call, output: Tensor) -> Tensor:
        """Return what the call gives."""
        return output

    def attend(self, func: Any, bound: inspect.BoundArguments) -> Any:
        """Attention of queries, keys and values that are projected already."""
        return func(*bound.args, **bound.kwargs)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        read = _READERS.get(func)
        if read is None:
            return func(*args, **(kwargs or {}))
        return read(self, func, *args, **(kwargs or {}))

    def _use(self, call: Call, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return self.after(call, compute(self.before(call)))

    def _slot(self, weight: Any) -> Slot | None:
        return self._slots.get(memory(weight)) if isinstance(weight, Tensor) else None


def _linear(
    watch: Watch, func: Any, input: Tensor, weight: Tensor, bias: Any = None
) -> Tensor:
    slot = watch._slot(weight)
    if slot is None or slot.sum_axis != 1:
        return func(input, weight, bias)
    return _project(watch, input, slot, bias, 0, weight.shape[0])


def _project(
    watch: Watch, x: Tensor, slot: Slot, bias: Tensor | None, start: int, stop: int
) -> Tensor:
    """``x W[start:stop]' + bias``."""
    part = _whole(slot)
    if (start, stop) != (0, part.stop):
        if part.cut:  # its pieces hold all rows
            return F.linear(x, slot.parameter[start:stop], bias)
        part = Part(slot.name, start, stop)
    call = Call(part, x, ("linear",), -1, _flat_rows, 0)
    return watch._use(call, lambda w: F.linear(x, w[start:stop], bias))


def _whole(slot: Slot, groups: int = 1) -> Part:
    """All rows of a weight; in pieces where they are cut."""
    if slot.pieces > 1:
        return Part(slot.name, 0, slot.n_rows, slot.pieces, cut=True)
    return Part(slot.name, 0, slot.n_rows, groups)


def _flat_rows(x: Tensor, index: Tensor | None) -> Tensor:
    X = x.detach().reshape(-1, x.shape[-1])
    return (X if index is None else X[index.to(X.device)])[None]


def _addmm(
    watch: Watch, func: Any, input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any
) -> Tensor:
    slot = watch._slot(mat2)
    if slot is None or slot.sum_axis != 0 or scales:
        return func(input, mat1, mat2, **scales)
    call = Call(_whole(slot), mat1, ("linear",), -1, _flat_rows, 0)
    return watch._use(call, lambda w: func(input, mat1, w))


_Pair = int | tuple[int, ...]


def _tuple(value: _Pair, n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * (n if len(value) == 1 else 1)


def _convolution(
    watch: Watch,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    slot = watch._slot(weight)
    if slot is None or slot.sum_axis != 1 or (slot.pieces > 1 and groups > 1):
        return func(input, weight, bias, stride, padding, dilation, groups)
    n = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    steps, spread = _tuple(stride, n), _tuple(dilation, n)
    if isinstance(padding, str):
        reach = [
            d * (k - 1) if padding == "same" else 0
            for d, k in zip(spread, kernel, strict=True)
        ]
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(side, side) for side in _tuple(padding, n)]
    call = _patches_call(
        _whole(slot, groups),
        input,
        ("conv", kernel, steps, spread, tuple(sides), groups),
        lambda x: _windows(_pad(x, sides), kernel, steps, spread),
        n,
    )
    return watch._use(
        call, lambda w: func(input, w, bias, stride, padding, dilation, groups)
    )


def _transposed(
    watch: Watch,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    output_padding: _Pair = 0,
    groups: int = 1,
    dilation: _Pair = 1,
) -> Tensor:
    """Read a transposed convolution as one over the input with zeros put in."""
    slot = watch._slot(weight)
    options = stride, padding, output_padding, groups, dilation
    if slot is None or slot.sum_axis != 0:
        return func(input, weight, bias, *options)
    n = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    steps, spread = _tuple(stride, n), _tuple(dilation, n)
    sides = [
        (d * (k - 1) - side, d * (k - 1) - side + more)
        for d, k, side, more in zip(
            spread, kernel, _tuple(padding, n), _tuple(output_padding, n), strict=True
        )
    ]

    def windows(x: Tensor) -> Tensor:
        apart = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], steps, strict=True)]
        wide = x.new_zeros((*x.shape[:2], *apart))
        among: Any = (..., *(slice(None, None, s) for s in steps))
        wide[among] = x
        views = _windows(_pad(wide, sides), kernel, (1,) * n, spread)
        return views.flip(list(range(-n, 0)))

    inputs = weight.shape[0] // groups if groups > 1 else 0
    part = Part(slot.name, 0, weight.shape[1], groups, inputs)
    form = ("transposed", kernel, steps, spread, tuple(sides), groups)
    call = _patches_call(part, input, form, windows, n)
    return watch._use(call, lambda w: func(input, w, bias, *options))


def _pad(x: Tensor, sides: list[tuple[int, int]]) -> Tensor:
    if not any(low or high for low, high in sides):
        return x
    return F.pad(x, [side for pair in reversed(sides) for side in pair])


def _windows(
    x: Tensor, kernel: tuple[int, ...], steps: tuple[int, ...], spread: tuple[int, ...]
) -> Tensor:
    """View x ``(N, C, *S)`` as the patches under a kernel: ``(N, C, *O, *kernel)``."""
    for axis, (k, s, d) in enumerate(zip(kernel, steps, spread, strict=True), start=2):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return x


def _patches_call(
    part: Part,
    input: Tensor,
    form: tuple[Any, ...],
    windows: Callable[[Tensor], Tensor],
    n: int,
) -> Call:
    single = input.ndim == n + 1  # without an axis of samples
    x = input.detach()[None] if single else input.detach()
    places = windows(x[:1]).shape[2 : 2 + n]
    groups = 1 if part.cut else part.groups

    def rows(x: Tensor, index: Tensor | None) -> Tensor:
        # Where in a sample the numbers of its patches are; 0 for those that padding
        # adds. One selection then writes every row in order, several times as fast as
        # copying a view of the patches.
        order = torch.arange(1, math.prod(x.shape[1:]) + 1, device=x.device)
        views = windows(order.reshape(1, *x.shape[1:]))[0]
        if index is None:
            views = views.flatten(1, n)
        else:
            # On the host: on a device, unravel_index waits for it to check the range.
            drawn = torch.unravel_index(index, places)
            where: Any = (slice(None), *(axis.to(x.device) for axis in drawn))
            views = views[where]
        C, P = views.shape[:2]
        apart = views.reshape(groups, C // groups, P, -1).permute(0, 2, 3, 1).flatten(2)
        X = F.pad(x.flatten(1), (1, 0)).index_select(1, apart.flatten())
        return X.unflatten(1, apart.shape).movedim(1, 0).flatten(1, 2)

    return Call(part, x, form, -1 - n, rows, math.prod(places))


_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def _attention(watch: Watch, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Take the projections out of attention, so that each is a call of its own."""
    bound = _ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    a = bound.arguments
    inner = [a[f"{x}_proj_weight"] for x in "qkv"]
    weights = [a["in_proj_weight"], a["out_proj_weight"], *inner]
    if not any(watch._slot(w) for w in weights):
        return func(*args, **kwargs)
    q, k, v, E = a["query"], a["key"], a["value"], a["embed_dim_to_check"]
    biases: Any = (
        [None] * 3 if a["in_proj_bias"] is None else a["in_proj_bias"].chunk(3)
    )
    if a["use_separate_proj_weight"]:
        parts = [
            _linear(watch, F.linear, x, w, b)
            for x, w, b in zip((q, k, v), inner, biases, strict=True)
        ]
    else:
        weight, slot = a["in_proj_weight"], watch._slot(a["in_proj_weight"])
        parts = []
        for x, start, stop in _shared(q, k, v, E):
            some = biases[start // E : stop // E]
            bias = None if some[0] is None else torch.cat(some)
            if slot is None:
                out = F.linear(x, weight[start:stop], bias)
            else:
                out = _project(watch, x, slot, bias, start, stop)
            parts += out.split(E, dim=-1)
    one = torch.eye(E, dtype=parts[0].dtype, device=parts[0].device)
    a |= dict(zip(("query", "key", "value"), parts, strict=True))
    a |= {f"{x}_proj_weight": one for x in "qkv"}
    out_weight, out_bias = a["out_proj_weight"], a["out_proj_bias"]
    a |= {"use_separate_proj_weight": True, "in_proj_weight": None}
    a |= {"in_proj_bias": None, "out_proj_weight": one, "out_proj_bias": None}
    mixed, shares = watch.attend(func, bound)
    return _linear(watch, F.linear, mixed, out_weight, out_bias), shares


def _shared(q: Tensor, k: Tensor, v: Tensor, E: int) -> list[tuple[Tensor, int, int]]:
    """Inputs of attention and the rows of the packed weight that read them."""
    if q is k and k is v:
        return [(q, 0, 3 * E)]
    if k is v:
        return [(q, 0, E), (k, E, 3 * E)]
    return [(q, 0, E), (k, E, 2 * E), (v, 2 * E, 3 * E)]


_READERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.conv_transpose1d: _transposed,
    F.conv_transpose2d: _transposed,
    F.conv_transpose3d: _transposed,
    F.multi_head_attention_forward: _attention,
}
