"""Masks of pruned weights: read off a model's zeros, and written to other models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .kinds import bare, bare_name
from .layout import Selector, select
from .shards import Whole, is_shard


def read_masks(
    model: nn.Module,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
) -> dict[str, Tensor]:
    """Return which weights of a pruned model are not zero.

    So a file of the model's weights, of any kind that keeps its zeros, is all it takes
    to prune or train on.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    include, exclude : optional
        As in `prune`; by default the weights that it would choose, and frozen ones.

    Returns
    -------
    dict of str -> Tensor of bool
        By parameter name, in the parameters' shapes; as ``PruningReport.masks``.

    Raises
    ------
    ValueError, TypeError
        As in `prune`, for names that match nothing.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import read_masks
    >>> net = torch.nn.Linear(3, 1)
    >>> _ = net.weight.data[0, 1].zero_()
    >>> read_masks(net)
    {'weight': tensor([[ True, False,  True]])}
    """
    model = bare(model)
    with Whole(model):
        parameters = dict(model.named_parameters())
        names = select(model, include, exclude, frozen=True)  # they may train later
        return {name: parameters[name].detach() != 0 for name in names}


def fit_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks by the bare model's own names, if each fits a parameter."""
    parameters = dict(bare(model).named_parameters())
    if not isinstance(masks, Mapping):
        msg = (
            "masks must map names of parameters to tensors of bool, as "
            f"PruningReport.masks does; got {type(masks).__name__}."
        )
        raise TypeError(msg)
    fitting = {bare_name(name, parameters): mask for name, mask in masks.items()}
    for name, mask in fitting.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            msg = f"masks[{name!r}] must be a torch.Tensor of bool; got {kind}."
            raise TypeError(msg)
        if name not in parameters or parameters[name].shape != mask.shape:
            msg = f"masks[{name!r}] fits no parameter of the model."
            raise ValueError(msg)
    return fitting


@torch.no_grad()
def apply_masks(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    weights: nn.Module | Mapping[str, Tensor] | None = None,
) -> None:
    """Set the weights that masks do not keep to zero; see `PruningReport.apply_to`."""
    with Whole(model) as shards:
        parameters = dict(bare(model).named_parameters())
        fitting = fit_masks(model, masks)
        values: dict[str, Tensor] = {name: parameters[name] for name in fitting}
        if weights is not None:
            given = weights.state_dict() if isinstance(weights, nn.Module) else weights
            for name, parameter in values.items():
                found: Any = given.get(bare_name(name, given))
                if found is None or found.shape != parameter.shape:
                    msg = f"weights has no {name!r} of shape {tuple(parameter.shape)}."
                    raise ValueError(msg)
                values[name] = found.full_tensor() if is_shard(found) else found
        for name, mask in fitting.items():
            place = parameters[name]
            place.copy_(values[name]).masked_fill_(~mask.to(place.device), 0)
        shards.commit()
