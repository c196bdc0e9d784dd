"""Units: what can be removed whole.

An output of a linear layer, a channel of a convolution or a head of attention, with the
rows of weights that feed it and the columns that read it. Where the columns are zero,
what the rows give makes no difference. `tracing` finds them, `slicing` removes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import Part
from .layout import Layout, Slot

Indices = Mapping[Any, tuple[int, ...]]  # of a weight, a part or a module


@dataclass(frozen=True)
class Unit:
    """What goes together.

    Attributes
    ----------
    rows : mapping of str to tuple of int
        Rows of weights, outputs first, by name.
    columns : mapping of Part to tuple of int
        Inputs of the parts that read the unit.
    norms : mapping of str to tuple of int
        Channels of BatchNorm modules between them.
    """

    rows: Indices
    columns: Indices
    norms: Indices


@dataclass(frozen=True)
class Family:
    """Units that the same layers feed and the same layers read."""

    writers: tuple[str, ...]
    readers: tuple[Part, ...]
    units: tuple[Unit, ...]

    def __len__(self) -> int:
        return len(self.units)

    @property
    def name(self) -> str:
        """The weights that feed it."""
        return ", ".join(self.writers)

    def labels(self, reader: Part, n_inputs: int, d: int) -> np.ndarray:
        """The unit that each of d columns of a reader belongs to, or -1."""
        of_input = np.full(n_inputs, -1)
        for number, unit in enumerate(self.units):
            of_input[list(unit.columns[reader])] = number
        return np.tile(of_input, d // n_inputs)  # kernel positions first, inputs last


def kept_by(units: Iterable[Unit], layout: Layout, *, rows: bool = True) -> Tensor:
    """Which weights, ``(p,)``, are left where some units are gone.

    Without ``rows``, those that feed them are.
    """
    mask = torch.ones(len(layout), dtype=torch.bool, device="cpu")
    matrices = {s.name: _matrix(mask, s) for s in layout.slots}
    for unit in units:
        for part, columns in unit.columns.items():
            slot = layout.slot(part.name)
            n = slot.parameter.shape[slot.sum_axis]
            for c in columns:
                matrices[part.name][part.start : part.stop, c::n] = False
        for name, index in unit.rows.items() if rows else ():
            matrices[name][list(index)] = False
    return mask.to(layout.device)


def _matrix(flat: Tensor, slot: Slot) -> Tensor:
    """A weight in the order of the layout, a row for each output; no copy."""
    return flat[slot.start : slot.stop].view(slot.n_rows, -1)


def has_zero_columns(slot: Slot) -> bool:
    """Whether all weights that read some input of a layer are zero."""
    flat = slot.flatten(slot.parameter.detach())
    rows = flat.view(slot.n_rows, -1, slot.parameter.shape[slot.sum_axis])
    return not bool((rows != 0).any(dim=1).any(dim=0).all())


def is_read(unit: Unit, layout: Layout) -> bool:
    """Whether any weight that reads a unit is not zero."""
    for part, columns in unit.columns.items():
        slot = layout.slot(part.name)
        inputs = slot.parameter.detach().movedim(slot.sum_axis, 0)[list(columns)]
        if bool((inputs[:, part.start : part.stop] != 0).any()):
            return True
    return False
