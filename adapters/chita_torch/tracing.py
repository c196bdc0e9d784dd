"""Which units a network has, and who feeds and reads them: found by running it.

Nothing is assumed of how the model is written. The output of one row is made nan; nan
goes through whatever the model does with it, to the columns of those layers that read
it, and is stopped there. Rows and columns that hang together in this way are one unit:
channels that a residual network adds, the gate and the values of a gated layer, query,
key and value of a head (a softmax spreads the nan of one over the head). A row whose
nan reaches the loss by another way belongs to no unit. What is found is tried: whether
what rows give makes no difference where their columns are zero, and whether the model
runs without the unit.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .attention import heads_of
from .batches import Pieces, Tree, map_tensors, n_samples, tensors_of
from .calls import Call, Part, Watch
from .gradients import LossFunction
from .layout import Layout
from .slicing import Whole, cut
from .units import Family, Indices, Unit, kept_by

COPIES = 64  # of a sample; all but one have a row made nan each
ALIKE = 1e-4  # relative difference of two losses that count as the same


class _Misaligned(Exception):
    """Copies of a sample do not come first everywhere."""


@dataclass
class _Seen:
    """A call of the clean pass."""

    part: Part
    output: Tensor
    n_inputs: int
    depthwise: bool


class _Tracer(Watch):
    """A forward pass that gives what the clean one gave, but for nan."""

    def __init__(
        self, layout: Layout, norms: Mapping[int, str], copies: int, seen: list[_Seen]
    ) -> None:
        super().__init__(layout.slots)
        self._weights, self._norms = layout.parameters, norms
        self.copies, self.seen = copies, seen
        self.clean = not seen
        self.number = 0
        self.writer, self.rows = -1, range(0)
        self.reached: list[tuple[int, str, Any, int]] = []  # copy, kind, where, index

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = super().__torch_function__(func, types, args, kwargs)
        if func is F.batch_norm and not self.clean:
            given = [*args[1:4], *(kwargs or {}).values()]
            own = [x.data_ptr() for x in given if isinstance(x, Tensor)]
            for name in {self._norms[each] for each in own if each in self._norms}:
                self._note("norms", name, self._nan(args[0], 1))
        if func is F.scaled_dot_product_attention and not self.clean:
            q, k, v = args[:3] if len(args) > 2 else ((kwargs or {})[n] for n in _QKV)
            out = _spread(out, q, k, v)
        return out

    def before(self, call: Call) -> Tensor:
        return self._weights[call.part.name]

    def attend(self, func: Any, bound: inspect.BoundArguments) -> Any:
        """Nan in a head spreads over that head, and no further."""
        a = bound.arguments
        heads, touched = a["num_heads"], []
        for name in ("query", "key", "value"):
            nan = a[name].isnan().reshape(-1, heads, a[name].shape[-1] // heads)
            touched.append(nan.any(dim=2).any(dim=0))
            a[name] = a[name].nan_to_num(0.0)
        mixed, shares = func(*bound.args, **bound.kwargs)
        here = torch.stack(touched).any(dim=0)
        if bool(here.any()):
            if self.copies > 1:  # (They do not come first here.)
                raise _Misaligned
            mixed.unflatten(-1, (heads, -1))[..., here, :] = torch.nan
            if shares is not None:
                shares.fill_(torch.nan)
        return mixed, shares

    def after(self, call: Call, output: Tensor) -> Tensor:
        axis = -1 if call.form[0] == "linear" else 1
        if self.clean:
            n_inputs = call.x.shape[axis]
            depthwise = call.form[0] == "conv" and 1 < call.part.groups == n_inputs
            self.seen.append(_Seen(call.part, output, n_inputs, depthwise))
            return output.clone()
        its = self.seen[self.number] if self.number < len(self.seen) else None
        if its is None or its.part != call.part or its.output.shape != output.shape:
            raise _Misaligned
        found, out = self._nan(call.x, axis), its.output.clone()
        if its.depthwise:
            t = call.part.n_outputs
            found = found.repeat_interleave(t, dim=1)
            self._note("rows", call.part.name, found)
            for i, c in found.nonzero().tolist():
                self._fill(out, call, i, c)
        else:
            self._note("columns", call.part, found)
        if self.number == self.writer:
            for i, row in enumerate(self.rows):
                self._fill(out, call, i, row)
        self.number += 1
        return out

    def _nan(self, x: Tensor, axis: int) -> Tensor:
        """Which channels of each copy hold nan, ``(copies, channels)``."""
        nan = x.isnan().movedim(axis, -1)
        if nan.ndim == 1 or nan.shape[0] % self.copies:
            if self.copies > 1:
                raise _Misaligned
            nan = nan[None]
        return nan.reshape(self.copies, -1, nan.shape[-1]).any(dim=1)

    def _fill(self, out: Tensor, call: Call, copy: int, channel: int) -> None:
        if self.copies > 1:
            out = out.unflatten(0, (self.copies, -1))[copy]
        out.select(call.output_axis, channel).fill_(torch.nan)

    def _note(self, kind: str, where: Any, found: Tensor) -> None:
        pairs = found.nonzero().tolist()
        self.reached += [(i, kind, where, c) for i, c in pairs]


_QKV = ("query", "key", "value")


def _spread(out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Put nan where a softmax would, which some kernels take for a mask."""
    shares = [
        x.isnan().any(dim=-1, keepdim=True).any(dim=-2, keepdim=True) for x in (q, k)
    ]
    found = [*shares, v.isnan().any(dim=-2, keepdim=True)]
    for nan in found:
        if out.ndim > 3 and nan.shape[-3] not in (1, out.shape[-3]):
            nan = nan.repeat_interleave(out.shape[-3] // nan.shape[-3], dim=-3)
        out = out.masked_fill(nan, torch.nan)
    return out


@dataclass
class _Graph:
    """Rows, columns and channels of norms, and which of them hang together."""

    numbers: dict[tuple[str, Any, int], int] = field(default_factory=dict)
    edges: list[tuple[int, int]] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)

    def number(self, kind: str, where: Any, index: int) -> int:
        return self.numbers.setdefault((kind, where, index), len(self.numbers))

    def fix(self, kind: str, where: Any, indices: Iterable[int]) -> None:
        self.fixed.update(self.number(kind, where, index) for index in indices)

    def units(self) -> Iterator[Unit]:
        """Those that are fed and read, and that nothing fixes."""
        n = len(self.numbers)
        ends = np.asarray(self.edges, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(n, n))
        _, label = connected_components(graph, directed=False)
        fixed = {int(label[i]) for i in self.fixed}
        parts: dict[int, dict[str, dict[Any, list[int]]]] = {}
        for (kind, where, index), i in self.numbers.items():
            one = parts.setdefault(int(label[i]), {})
            one.setdefault(kind, defaultdict(list))[where].append(index)
        for number, one in parts.items():
            if number not in fixed and {"rows", "columns"} <= one.keys():
                kinds = ("rows", "columns", "norms")
                yield Unit(*(_sorted(one.get(kind, {})) for kind in kinds))


def _sorted(indices: Mapping[Any, Iterable[int]]) -> Indices:
    return {where: tuple(sorted(found)) for where, found in indices.items()}


def find_families(
    model: nn.Module, forward: LossFunction, batch: Tree, layout: Layout
) -> tuple[list[Family], list[str]]:
    """Find the units of a model, and say of which layers they cannot go.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    forward : callable
        ``forward(model, batch)`` runs the model; what it returns is the output.
    batch : batch
        Its first samples are run: two, if these run every layer that the batch does.
    layout : Layout
        Weights whose rows and columns may go. Others are watched, and fix the units
        that they feed or read.

    Returns
    -------
    families : list of Family
        In the order in which they are read first. Each can be sliced out, by trial.
    notes : list of str
        What was left whole.

    Notes
    -----
    Time: a forward pass of two samples for each row of weights.
    """
    watched = _watched(model, layout)
    batch = _enough(model, forward, batch, watched)
    pieces = isinstance(batch, Pieces)
    families: list[Family] = []
    for copies in (1,) if pieces else (COPIES, 1):
        try:
            graph, order = _trace(model, forward, batch, watched, layout, copies)
        except _Misaligned:
            continue
        families = _families(graph.units(), order)
        if _unread_is_unread(model, forward, batch, families, watched):
            break
        families = []
    kept: list[Family] = []
    left: list[Family] = []
    for family in families:
        if len(family) > 1:
            whole = heads_of(model, family.writers) or _sliceable(
                model, forward, batch, family, watched
            )
            (kept if whole else left).append(family)
    notes = []
    if left:
        names = [family.name for family in left]
        notes.append(
            f"Left whole, as the model does not run with fewer units of them: {names}."
        )
    return kept, notes


def _watched(model: nn.Module, layout: Layout) -> Layout:
    """The chosen weights, and those that are chosen by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            every = Layout.of(model)
        except (TypeError, ValueError):
            return layout
    own = {slot.parameter.data_ptr() for slot in layout.slots}
    others = [s.name for s in every.slots if s.parameter.data_ptr() not in own]
    return Layout.join([layout, every.keep(others)]) if others else layout


def _copies(batch: Tree, n: int) -> Tree:
    """A batch n times, one after the other; a batch that was split, once."""
    if n == 1 or isinstance(batch, Pieces):
        return batch
    return map_tensors(lambda t: t.repeat(n, *[1] * (t.ndim - 1)), batch)


def _first(batch: Tree, n: int) -> Tree:
    if isinstance(batch, Pieces):
        return Pieces(batch[:n])
    return map_tensors(lambda t: t[:n], batch)


def _enough(
    model: nn.Module, forward: LossFunction, batch: Tree, watched: Layout
) -> Tree:
    """As many of the first samples as it takes to run all layers that the batch runs.

    Most often two (one has no variance); experts are run by some samples only.
    """

    def run(n: int) -> set[Part]:
        tracer = _Tracer(watched, {}, 1, [])
        with torch.no_grad(), tracer:
            forward(model, _first(batch, n))
        return {its.part for its in tracer.seen if its.output.numel()}

    size = n_samples(batch)
    n = min(2, size)
    every = run(size)
    while n < size and run(n) != every:
        n = min(2 * n, size)
    return _first(batch, n)


def _trace(
    model: nn.Module,
    forward: LossFunction,
    batch: Tree,
    watched: Layout,
    layout: Layout,
    copies: int,
) -> tuple[_Graph, list[Part]]:
    """What every row reaches; the parts in the order in which they run."""
    norms = {
        tensor.data_ptr(): name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for tensor in (module.running_mean, module.weight)
        if tensor is not None
    }
    seen: list[_Seen] = []
    several = _copies(batch, copies)

    def run(writer: int, rows: range) -> tuple[_Tracer, bool]:
        tracer = _Tracer(watched, norms, copies, seen)
        tracer.writer, tracer.rows = writer, rows
        try:
            with torch.no_grad(), tracer:
                out = forward(model, several)
        except Exception as error:
            error.add_note(
                "chita_torch ran the model with one output nan, to see who reads it."
            )
            raise
        return tracer, any(bool(t.isnan().any()) for t in _floats(out))

    run(-1, range(0))
    graph, movable = _Graph(), _movable(seen, set(layout.names))
    step = max(copies - 1, 1)  # one copy stays clean: samples must not mix
    for number, its in enumerate(seen):
        part, fixed = its.part, its.part.name not in movable
        if its.depthwise:  # its rows go with what it filters
            if fixed:
                graph.fix("rows", part.name, range(part.start, part.stop))
            continue
        if fixed:
            graph.fix("columns", part, range(its.n_inputs))
        for first in range(part.start, part.stop, step):
            rows = range(first, min(first + step, part.stop))
            tracer, escaped = run(
                number, range(first - part.start, rows.stop - part.start)
            )
            own = [graph.number("rows", part.name, row) for row in rows]
            if escaped or fixed:
                graph.fix("rows", part.name, rows)
            for i, kind, where, index in tracer.reached:
                if i >= len(own):
                    raise _Misaligned
                graph.edges.append((own[i], graph.number(kind, where, index)))
    return graph, list(dict.fromkeys(its.part for its in seen))


def _movable(seen: list[_Seen], chosen: set[str]) -> set[str]:
    """Chosen weights that are used once, and whose rows and columns go one by one."""
    uses = Counter(its.part.name for its in seen)
    parts = Counter(part.name for part in {its.part for its in seen})
    grouped = {
        its.part.name for its in seen if its.part.groups > 1 and not its.depthwise
    }
    return {name for name in chosen - grouped if uses[name] == parts[name]}


def _floats(tree: Any) -> list[Tensor]:
    """Tensors of a tree that may hold nan, also of outputs that are objects."""
    if not isinstance(tree, Tensor | Mapping | tuple | list) and tree is not None:
        tree = getattr(tree, "__dict__", tree)
    return [t for t in tensors_of(tree) if t.is_floating_point()]


def _families(units: Iterable[Unit], order: list[Part]) -> list[Family]:
    found: dict[tuple[tuple[str, ...], tuple[Part, ...]], list[Unit]] = {}
    for unit in units:
        readers = tuple(sorted(unit.columns, key=order.index))
        found.setdefault((tuple(sorted(unit.rows)), readers), []).append(unit)
    families = [
        Family(writers, readers, tuple(units))
        for (writers, readers), units in found.items()
    ]
    return sorted(families, key=lambda family: order.index(family.readers[0]))


def _outputs(model: nn.Module, forward: LossFunction, batch: Tree) -> Tensor:
    """The outputs as one vector."""
    with torch.no_grad():
        found = [t.double().flatten() for t in _floats(forward(model, batch))]
    return torch.cat(found) if found else torch.zeros(0)


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not bool(torch.isfinite(one).all()):
        return False
    scale = max(float(one.abs().max()), 1e-30) if one.numel() else 1.0
    return bool(torch.allclose(one, other, rtol=0.0, atol=ALIKE * scale))


def _unread_is_unread(
    model: nn.Module,
    forward: LossFunction,
    batch: Tree,
    families: list[Family],
    layout: Layout,
) -> bool:
    """Whether it makes no difference what units give whose columns are zero."""
    some = [unit for family in families for unit in family.units[::2]]
    saved = layout.gather()
    read = torch.where(kept_by(some, layout, rows=False), saved, 0.0)
    fed = kept_by(some, layout) | (read == 0)
    noise = torch.randn(len(saved), generator=torch.Generator().manual_seed(0))
    other = torch.where(fed, read, 10 * saved.std() * noise.to(saved))
    try:
        layout.scatter(read)
        one = _outputs(model, forward, batch)
        layout.scatter(other)
        return _alike(one, _outputs(model, forward, batch))
    finally:
        layout.scatter(saved)


def _sliceable(
    model: nn.Module,
    forward: LossFunction,
    batch: Tree,
    family: Family,
    layout: Layout,
) -> bool:
    """Whether the model runs without one of the units, as if its columns were zero."""
    gone = family.units[:1]
    saved = layout.gather()
    small = copy.deepcopy(model)
    try:
        cut(small, gone, layout)
        layout.scatter(torch.where(kept_by(gone, layout), saved, 0.0))
        expected = _outputs(model, forward, batch)
    except Whole:
        return False
    finally:
        layout.scatter(saved)
    try:
        return _alike(expected, _outputs(small, forward, batch))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return False  # it relies on its widths
