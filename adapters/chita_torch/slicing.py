"""Units sliced out of a model: its layers become smaller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .calls import Part
from .layout import Layout, Slot
from .units import Unit


class Whole(Exception):
    """A module whose weights cannot be sliced."""


def cut(model: nn.Module, units: Iterable[Unit], layout: Layout) -> None:
    """Slice units out of a model, in place: its layers become smaller.

    ``layout`` may be that of the model of which this is a copy.
    """
    rows: dict[str, set[int]] = defaultdict(set)
    columns: dict[str, dict[Part, set[int]]] = defaultdict(lambda: defaultdict(set))
    norms: dict[str, set[int]] = defaultdict(set)
    for unit in units:
        for name, index in unit.rows.items():
            rows[name].update(index)
        for part, index in unit.columns.items():
            columns[part.name][part].update(index)
        for name, index in unit.norms.items():
            norms[name].update(index)
    for name in [*rows, *(n for n in columns if n not in rows)]:
        slot, parts = layout.slot(name), columns.get(name, {})
        whole = sum(p.stop - p.start for p in parts) == slot.n_rows
        gone = set().union(*parts.values())
        if parts and (not whole or any(c != gone for c in parts.values())):
            raise Whole
        _cut_weight(model, slot, rows.get(name, set()), gone)
    for name, gone in norms.items():
        norm: Any = model.get_submodule(name)
        kept = _kept(norm.num_features, gone)
        for tensors in (norm._parameters, norm._buffers):
            for own, tensor in tensors.items():
                if tensor is not None and tensor.ndim:
                    tensors[own] = _taken(tensor, 0, kept)
        norm.num_features = len(kept)


# What modules call their outputs and inputs.
_OUTPUTS = ("out_features", "out_channels", "nf")
_INPUTS = ("in_features", "in_channels", "nx")


def _cut_weight(
    model: nn.Module, slot: Slot, rows: set[int], columns: set[int]
) -> None:
    prefix, _, own = slot.name.rpartition(".")
    module: Any = model.get_submodule(prefix)
    weight, axis = module._parameters[own], slot.sum_axis
    if own != "weight":
        raise Whole
    others = 1 if axis == 0 else 0
    counts = {_OUTPUTS: len(rows), _INPUTS: len(columns)}
    if getattr(module, "groups", 1) > 1:  # depthwise
        each = module.out_channels // module.groups
        counts[_INPUTS] = len(rows) // each
        module.groups -= len(rows) // each
    for index, along in ((rows, others), (columns, axis)):
        if index:
            kept = _kept(weight.shape[along], index)
            weight = _taken(weight, along, kept)
            if along == others and module._parameters.get("bias") is not None:
                module._parameters["bias"] = _taken(module.bias, 0, kept)
    module._parameters["weight"] = weight
    for names, gone in counts.items():
        for name in names:
            if hasattr(module, name):
                setattr(module, name, getattr(module, name) - gone)


def _kept(n: int, gone: set[int]) -> list[int]:
    return [i for i in range(n) if i not in gone]


def _taken(tensor: Tensor, axis: int, kept: list[int]) -> Tensor:
    """Some slices of a parameter or buffer, of the same kind."""
    index = torch.tensor(kept, device=tensor.device)
    some = tensor.detach().index_select(axis, index)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(some, requires_grad=tensor.requires_grad)
    return some
