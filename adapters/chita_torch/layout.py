"""Which parameters are pruned, and their place in one flat vector.

Notation: ``p`` is the number of chosen weights, ``L`` the number of chosen
parameters ("layers"). Coordinates run layer by layer in the order of
``model.named_parameters()``; inside a layer the axis that is summed over in the
forward pass comes last, so that ``m`` consecutive coordinates of a row are the
group that an N:M pattern speaks of. Rows too long for one Gram matrix are cut: the
first piece of every row, then the second of every row, and so on (`Slot.pieces`).
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .kinds import (
    adapters_of,
    experts_of,
    frozen_among,
    join,
    memory,
    quantised_modules,
    refuse,
)

Selector: TypeAlias = str | type | Callable[[str, Tensor], bool]

COLUMNS = 8192  # inputs of a layer that are solved together; more go in pieces
PIECES = 4  # times as many as need be, at most, where fewer do not divide the inputs

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_RECURRENT_WEIGHT = re.compile(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?")  # as torch has


@dataclass(frozen=True, eq=False)  # tensors are not compared by ==
class Slot:
    """One parameter and its stretch ``start:stop`` of the flat vector.

    ``sum_axis`` is the parameter's axis that the forward pass sums over. Where it holds
    weights of experts, in equal stretches one after the other, ``experts`` names them.
    Its rows are cut into ``pieces`` of equal length.
    """

    name: str
    parameter: Tensor
    start: int
    stop: int
    sum_axis: int
    experts: tuple[str, ...] = ()
    pieces: int = 1

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.stop - self.start

    @property
    def n_rows(self) -> int:
        """Outputs of the weight."""
        return self.parameter.shape[1 if self.sum_axis == 0 else 0]

    @property
    def row_length(self) -> int:
        """Length of the rows that N:M groups must not straddle.

        One row holds every weight that feeds one output (of one kernel
        position, for a transposed convolution).
        """
        shape = self.parameter.shape
        if self.sum_axis == 0 or len(self.experts) > 1:
            return shape[self.sum_axis] // self.pieces
        return self.size // shape[0] // self.pieces if len(shape) > 1 else self.size

    def flatten(self, tensor: Tensor) -> Tensor:
        """Order a tensor of the parameter's shape like the flat vector.

        Leading axes beyond those of the parameter are kept.
        """
        lead = tensor.ndim - self.parameter.ndim
        moved = tensor.movedim(lead + self.sum_axis, -1)
        if self.pieces > 1:
            shape = (*tensor.shape[:lead], -1, self.pieces, self.row_length)
            moved = moved.reshape(shape).transpose(-3, -2)
        return moved.reshape(*tensor.shape[:lead], self.size)

    def unflatten(self, flat: Tensor) -> Tensor:
        """Give a stretch of the flat vector the parameter's shape."""
        shape = list(self.parameter.shape)
        shape.append(shape.pop(self.sum_axis))
        if self.pieces > 1:
            flat = flat.reshape(self.pieces, -1, self.row_length).transpose(0, 1)
        return flat.reshape(shape).movedim(-1, self.sum_axis)


class Layout:
    """The chosen parameters of a model as one flat vector of length ``p``.

    Parameters
    ----------
    slots : sequence of Slot
        Contiguous from 0, in order.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        include: Selector | Iterable[Selector] | None = None,
        exclude: Selector | Iterable[Selector] | None = None,
        columns: int | None = None,
        multiple: int = 1,
    ) -> Layout:
        """Choose parameters of ``model`` (see `prune` for the rules).

        Rows longer than ``columns`` are cut into pieces whose length is at most that,
        and a multiple of ``multiple``.
        """
        names = select(model, include, exclude)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        first: dict[torch.device, str] = {}
        for name in names:
            first.setdefault(parameters[name].device, name)
        if len(first) > 1:
            where = ", ".join(f"{name!r} on {place}" for place, name in first.items())
            msg = (
                f"the weights to prune are on several devices ({where}); they form one "
                "vector. Prune the weights of one device at a time, with exclude=."
            )
            raise ValueError(msg)
        experts = experts_of(model)
        axes = _sum_axes(model) | experts.axes
        slots, start = [], 0
        for name in names:
            parameter = parameters[name]
            stop = start + parameter.numel()
            axis = axes[name] % parameter.ndim  # from the front: axes may be added
            of = experts.of.get(name, ())
            slot = Slot(name, parameter, start, stop, axis, of)
            if columns is not None:
                slot = replace(slot, pieces=_pieces(slot, columns, multiple))
            slots.append(slot)
            start = stop
        return cls(slots)

    @classmethod
    def join(cls, layouts: Iterable[Layout]) -> Layout:
        """Return the layouts one after the other as one."""
        slots, start = [], 0
        for slot in (slot for layout in layouts for slot in layout.slots):
            slots.append(replace(slot, start=start, stop=start + slot.size))
            start += slot.size
        return cls(slots)

    def __len__(self) -> int:
        return self.slots[-1].stop if self.slots else 0

    @property
    def names(self) -> list[str]:
        """Names of the chosen parameters."""
        return [slot.name for slot in self.slots]

    def slot(self, name: str) -> Slot:
        """Return the slot of a name."""
        return next(slot for slot in self.slots if slot.name == name)

    @property
    def device(self) -> torch.device:
        """Where the first chosen parameter lives."""
        return self.slots[0].parameter.device

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Name -> parameter, detached; the storage is shared with the model."""
        return {slot.name: slot.parameter.detach() for slot in self.slots}

    def split(self) -> list[Layout]:
        """One layout per layer, each starting at 0."""
        return [self.keep([name]) for name in self.names]

    def keep(self, names: Iterable[str]) -> Layout:
        """Return the layout of some of the layers, renumbered from 0."""
        wanted = set(names)
        return Layout.join([Layout([s for s in self.slots if s.name in wanted])])

    def sizes(self) -> list[int]:
        """Weights in each layer, length ``L``."""
        return [slot.size for slot in self.slots]

    def labels(self) -> Tensor:
        """Layer number of each coordinate, shape ``(p,)``, int64."""
        sizes = torch.tensor(self.sizes(), device="cpu")
        return torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), sizes)

    def group_labels(self, m: int) -> tuple[Tensor, Tensor]:
        """Group number of each coordinate ``(p,)`` and the groups' sizes.

        Groups are ``m`` consecutive coordinates of one row; a row whose length
        is no multiple of ``m`` ends with a shorter group.
        """
        labels, lengths, first = [], [], 0
        for slot in self.slots:
            length = slot.row_length
            rows, groups = slot.size // length, -(-length // m)
            in_row = torch.arange(length, device="cpu") // m
            offsets = first + groups * torch.arange(rows, device="cpu")
            labels.append((offsets[:, None] + in_row).reshape(-1))
            lengths.append(torch.bincount(in_row).repeat(rows))
            first += rows * groups
        return torch.cat(labels), torch.cat(lengths)

    def gather(self, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Read the parameters (or tensors of their shapes) into one vector.

        Returns
        -------
        Tensor, shape (p,)
            A copy; float32 unless the parameters are float64 or ``tensors``
            are given, whose type is kept.
        """
        if tensors is not None:
            return torch.cat([s.flatten(tensors[s.name]) for s in self.slots])
        flat = torch.cat([s.flatten(s.parameter.detach()) for s in self.slots])
        return flat if flat.dtype == torch.float64 else flat.float()

    @torch.no_grad()
    def scatter(self, flat: Tensor) -> None:
        """Write a vector of shape ``(p,)`` into the parameters, in place.

        A weight that is not zero stays so when the parameter's own type is
        too narrow for it: it becomes the smallest normal number of its sign.
        """
        for slot in self.slots:
            stretch = flat[slot.start : slot.stop]
            values = stretch.to(slot.parameter.dtype)
            if torch.finfo(values.dtype).bits < torch.finfo(flat.dtype).bits:
                tiny = torch.finfo(values.dtype).tiny
                lost = (values == 0) & (stretch != 0)
                values = torch.where(lost, stretch.sign().to(values) * tiny, values)
            slot.parameter.copy_(slot.unflatten(values))
        torch.clear_autocast_cache()  # it may hold the former weights

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a vector of shape ``(p,)`` into tensors of the layers' shapes."""
        return {s.name: s.unflatten(flat[s.start : s.stop]) for s in self.slots}


def _pieces(slot: Slot, columns: int, multiple: int) -> int:
    """The fewest equal pieces of at most so many columns that a weight's rows have.

    One where the rows are no longer, no number fits, or calls use some rows alone
    (packed projections of attention, experts) or in more than one way.
    """
    d, shape = slot.row_length, slot.parameter.shape
    if slot.experts or slot.name.endswith("in_proj_weight"):
        return 1
    if d <= columns or (slot.sum_axis == 0 and len(shape) > 2):
        return 1
    fewest = -(-d // columns)
    numbers = range(fewest, PIECES * fewest + 1)
    return next((n for n in numbers if d % (n * multiple) == 0), 1)


def _check_overlaps(tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Refuse weights that share some numbers of others, but not all."""
    spans: dict[object, list[tuple[int, int, str]]] = {}
    for name in names:
        where = memory(tensors[name])
        if len(where) > 1:
            first = tensors[name].storage_offset()
            strides = zip(tensors[name].shape, tensors[name].stride(), strict=True)
            last = first + sum((size - 1) * step for size, step in strides)
            spans.setdefault(where[0], []).append((int(first), int(last), name))
    for stretches in spans.values():
        stretches.sort()
        for one, other in itertools.pairwise(stretches):
            if other[0] <= one[1]:
                msg = (
                    f"parameters {one[2]!r} and {other[2]!r} are views of the same "
                    "memory and share a part of it: what is pruned in one would "
                    "change the other. Leave one out with exclude=, or give each its "
                    "own memory with .clone()."
                )
                raise ValueError(msg)


def select(
    model: nn.Module,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
    *,
    among: Iterable[str] | None = None,
    frozen: bool = False,
) -> list[str]:
    """Names of the parameters to prune, each tensor once.

    Parameters
    ----------
    model : nn.Module
        Its parameters must be initialised and of a floating type.
    include, exclude : str, type, callable or iterable of these, optional
        A name with wildcards, a module type, or a callable
        ``(name, parameter) -> bool``. A name is tried on the modules first, and
        stands for the default weights inside (or for the module's own
        ``weight`` where there are none); then on the parameters.
    among : iterable of str, optional
        The weights that modules stand for, instead of the default.
    frozen : bool, default=False
        Whether weights that do not train are among the default beside some that do.

    Returns
    -------
    list of str
        In the order of ``model.named_parameters()``.

    Raises
    ------
    ValueError
        If a selector matches nothing, or nothing is left to prune.
    TypeError
        If a selector is none of the three kinds, or a chosen parameter is not
        a floating-point tensor.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    if among is None:
        default = _default_names(model, frozen=frozen)
    else:
        meant = {memory(tensors[name]) for name in among}
        default = {name for name, tensor in tensors.items() if memory(tensor) in meant}
    chosen = set(default)
    if include is not None:
        chosen = set().union(*(_matches(model, s, default) for s in _listed(include)))
    excluded = set().union(*(_matches(model, s, None) for s in _listed(exclude)))
    if include is None:
        _warn_if_computed(model, excluded)
    # By tensor, not by name: one that is tied has several.
    wanted = {memory(tensors[name]) for name in chosen}
    wanted -= {memory(tensors[name]) for name in excluded}
    once: dict[tuple[object, ...], str] = {}
    for name, tensor in model.named_parameters():
        if memory(tensor) in wanted:
            once.setdefault(memory(tensor), name)
    names = list(once.values())
    if not names and (quantised := quantised_modules(model)):
        msg = (
            f"the weights of {quantised} are quantised: codes, which cannot be pruned. "
            "Prune the model first, and quantise it afterwards."
        )
        raise TypeError(msg)
    if not names:
        msg = (
            "no prunable layer: the model has no weight of a Linear, Conv or "
            "attention projection that include and exclude leave, but for frozen "
            "weights, adapters and routers of experts. Name the parameters to prune "
            "with include=."
        )
        raise ValueError(msg)
    for name in names:
        refuse(name, tensors[name])
    _check_overlaps(tensors, names)
    return names


def _warn_if_computed(model: nn.Module, excluded: set[str]) -> None:
    computed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _WEIGHTED)
        and "weight" not in module._parameters
        and not {join(name, own) for own, _ in module.named_parameters()} <= excluded
    ]
    if computed:
        msg = (
            f"the weights of {computed} are computed from other parameters (a "
            "parametrization, or a mask of torch.nn.utils.prune) and are not pruned. "
            "Make them permanent first (remove_parametrizations, prune.remove)."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)


def _listed(selectors: Selector | Iterable[Selector] | None) -> list[Selector]:
    if selectors is None:
        return []
    if isinstance(selectors, str | type | nn.Module) or callable(selectors):
        return [selectors]
    if not isinstance(selectors, Iterable):
        return [selectors]  # whatever it is, the check of each names it
    return list(selectors)


def _own_default_weights(module: nn.Module) -> list[str]:
    """Direct parameters of ``module`` that are pruned by default."""
    own = module._parameters
    names = [n for n in own if n.endswith("proj_weight") and own[n] is not None]
    weighted = isinstance(module, _WEIGHTED) or _stores_transposed(module)
    if weighted and own.get("weight") is not None:
        names.append("weight")
    return names


def _stores_transposed(module: nn.Module) -> bool:
    """Whether this is the linear layer of transformers, whose weight is (in, out).

    Known by name and shape, so that transformers need not be installed.
    """
    weight = module._parameters.get("weight")
    return (
        any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
        and weight is not None
        and weight.ndim == 2
        and weight.shape[1] == getattr(module, "nf", None)
    )


def _default_names(model: nn.Module, *, frozen: bool = False) -> set[str]:
    """Every name of a default weight; tensors shared with a lookup are left out."""
    default, left = _kinds(model)
    return default | (left["frozen"] if frozen else set())


def _kinds(model: nn.Module) -> tuple[set[str], dict[str, set[str]]]:
    """Every name of a default weight, and of those left out, by what they are."""
    lookups = {memory(m.weight) for m in model.modules() if isinstance(m, _LOOKUPS)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    experts, adapters = experts_of(model), adapters_of(model)
    weights = experts.axes.keys() | {
        join(prefix, own)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for own in _own_default_weights(module)
    }
    weights = {name for name in weights if memory(parameters[name]) not in lookups}
    left = {"adapters": weights & adapters, "routers": weights & experts.routers}
    weights -= adapters | experts.routers
    left["frozen"] = frozen_among(parameters, weights, adapters)
    left["recurrent"] = {
        join(prefix, own)
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _RECURRENT)
        for own in module._parameters
        if _RECURRENT_WEIGHT.fullmatch(own)
    }
    return weights - left["frozen"], left


def left_out(
    model: nn.Module,
    pruned: Iterable[str],
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
) -> tuple[str, ...]:
    """Say which weights are no default for what they are, and what is for lack of it.

    Nothing where ``include`` says what to prune, nor of those that are ``pruned``.
    """
    if include is not None:
        return ()
    excluded = set().union(*(_matches(model, s, None) for s in _listed(exclude)))
    default, left = _kinds(model)
    own = {name for name, _ in model.named_parameters()} - {*pruned}
    notes = []
    for kind, what in _LEFT_OUT.items():
        if names := sorted((left[kind] & own) - excluded):
            notes.append(f"Left out, as {what}: {names}. To prune them: include=.")
    train = [p.requires_grad for n, p in model.named_parameters() if n in default]
    if not any(train):
        notes.append(
            "All weights that could be pruned are frozen (requires_grad is False); "
            "all were pruned."
        )
    if quantised := quantised_modules(model):
        notes.append(f"Left out, as they are quantised: {quantised}.")
    return tuple(notes)


_LEFT_OUT = {
    "adapters": "they are parts of adapters",
    "routers": "they choose among experts",
    "frozen": "they are frozen and others train",
    "recurrent": "they are of recurrent layers",
}


def _matches(
    model: nn.Module, selector: Selector, default: set[str] | None
) -> set[str]:
    """Parameter names that a selector stands for.

    A module stands for its weights among ``default``, or for everything in it
    where ``default`` is None.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(selector, type):
        inside = [n for n, m in modules.items() if isinstance(m, selector)]
        found = _weights_inside(inside, parameters, default)
        some = [n for n in modules if _weights_inside([n], parameters, default)]
        known = sorted({type(modules[n]).__name__ for n in some})
        wanted = selector.__name__
    elif isinstance(selector, str):
        inside = [n for n in modules if fnmatch.fnmatchcase(n, selector)]
        found = _weights_inside(inside, parameters, default)
        if not found:
            found = {n for n in parameters if fnmatch.fnmatchcase(n, selector)}
        some = [n for n in modules if _weights_inside([n], parameters, default)]
        known = [*filter(None, some), *parameters]
        wanted = selector
    elif callable(selector) and not isinstance(selector, nn.Module):
        return {n for n, t in parameters.items() if selector(n, t)}
    else:
        msg = (
            "include and exclude take names with wildcards, module types or "
            f"callables (name, parameter) -> bool; got {selector!r}."
        )
        raise TypeError(msg)
    if not found:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.0)
        msg = f"{wanted!r} matches no parameter of the model; nearest: {near}."
        raise ValueError(msg)
    return found


def _weights_inside(
    prefixes: Iterable[str], parameters: Mapping[str, Tensor], default: set[str] | None
) -> set[str]:
    inside, own = set(), set()
    for prefix in prefixes:
        inside |= {n for n in parameters if not prefix or n.startswith(prefix + ".")}
        for n in inside:
            where, _, last = n.rpartition(".")
            if where == prefix and (
                last == "weight" or _RECURRENT_WEIGHT.fullmatch(last)
            ):
                own.add(n)
    if default is None:
        return inside
    return (inside & default) or own


def _sum_axes(model: nn.Module) -> dict[str, int]:
    """Axis summed over in the forward pass, by the name of the parameter."""
    axes: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module._parameters.items():
            if parameter is None or isinstance(
                parameter, nn.parameter.UninitializedParameter
            ):
                continue
            convolution = isinstance(module, _WEIGHTED) and parameter.ndim > 2
            first_axis = isinstance(module, _TRANSPOSED)
            axis = (0 if first_axis else 1) if convolution else -1
            if own == "weight" and _stores_transposed(module):
                axis = 0
            axes[join(prefix, own)] = axis
    return axes
