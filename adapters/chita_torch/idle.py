"""Weights with no gradient: not used, not reached by autograd, or of an idle expert.

A weight with no gradient is worth nothing to the model of the loss, and would go first.
That is right where the loss does not depend on it. Where the loss changes with it, the
gradient is wrong, and that is refused. Where the batches held nothing for an expert,
they say nothing of its weights: it keeps its share, the largest of them.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chita_sklearn.core import Cardinality, NOfM, PerBlock, WithFloor

from .batches import Tree
from .gradients import LossFunction
from .layout import Layout

NUDGE = 1e-3  # relative change of a layer's weights when it is tried
TRIED = 4  # batches


def check_reached(
    model: nn.Module,
    loss_fn: LossFunction,
    layout: Layout,
    names: Sequence[str],
    batches: Iterable[Tree],
) -> None:
    """Refuse layers without gradients that the loss nevertheless changes with.

    Parameters
    ----------
    model, loss_fn
        As in `prune`; the weights are put back.
    layout : Layout
        The chosen weights.
    names : sequence of str
        Those of them that had no gradient.
    batches : iterable of batches
        The first few are tried.

    Raises
    ------
    ValueError
        If autograd does not reach some that the loss depends on.
    """
    if not names:
        return
    missed: list[str] = []
    alike = 0.0 if layout.device.type == "cpu" else 1e-6  # sums in no fixed order
    for batch in itertools.islice(batches, TRIED):
        loss = _loss(model, loss_fn, batch)
        if loss != _loss(model, loss_fn, batch):
            return  # it differs from call to call: that proves nothing
        for name in names:
            after = _nudged(model, loss_fn, batch, layout.slot(name).parameter)
            changed = not math.isclose(loss, after, rel_tol=alike)
            if changed and name not in missed:
                missed.append(name)
    if missed:
        msg = (
            f"the loss changes with {missed}, but automatic differentiation does not "
            "reach them: something on the way detaches, rounds, runs under "
            "torch.no_grad, or is a checkpoint with use_reentrant=True whose inputs "
            "need no gradient (use_reentrant=False is right). Or leave them out with "
            "exclude=."
        )
        raise ValueError(msg)


def _loss(model: nn.Module, loss_fn: LossFunction, batch: Tree) -> float:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Checkpoints say at each call what is said better here.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_g")
        torch.manual_seed(0)
        return float(loss_fn(model, batch))


def _nudged(
    model: nn.Module, loss_fn: LossFunction, batch: Tree, weight: Tensor
) -> float:
    """The loss with one weight tensor slightly changed, which is put back."""
    values = weight.detach()
    saved = values.clone()
    signs = torch.where(torch.arange(saved.numel()) % 3 == 0, -1.0, 1.0)
    # (In half precision a thousandth may round away.)
    nudge = max(NUDGE, 4 * torch.finfo(saved.dtype).eps)
    scale = saved.abs() + saved.abs().mean() + (not bool(saved.any()))
    change = (nudge * signs).reshape(saved.shape).to(saved) * scale
    with torch.no_grad():
        try:
            values.add_(change)
            return _loss(model, loss_fn, batch)
        finally:
            values.copy_(saved)


def warn_of_unused(names: Sequence[str]) -> None:
    """Warn of layers that the loss does not depend on, if there are any."""
    if names:
        msg = (
            f"the loss does not depend on {names}: every gradient is zero, so these "
            "weights are pruned first. Exclude them if they are used elsewhere."
        )
        warnings.warn(msg, UserWarning, stacklevel=5)


def idle_experts(layout: Layout, live: Tensor) -> dict[str, list[slice]]:
    """Experts none of whose weights has a gradient: name -> their stretches.

    Parameters
    ----------
    layout : Layout
    live : Tensor of bool, shape (p,)
        The weights that have one.
    """
    stretches: dict[str, list[slice]] = {}
    for slot in layout.slots:
        for i, expert in enumerate(slot.experts):
            length = slot.size // len(slot.experts)
            first = slot.start + i * length
            stretches.setdefault(expert, []).append(slice(first, first + length))
    return {
        expert: parts
        for expert, parts in stretches.items()
        if not any(bool(live[part].any()) for part in parts)
    }


def warn_of_idle(experts: Iterable[str]) -> None:
    """Name the experts that no sample has reached, if there are any."""
    if names := list(experts):
        msg = (
            f"no sample of the batches reached the experts {names}: nothing is known "
            "of their weights, so each keeps its share of them, the largest. Give more "
            "batches, or exclude= them."
        )
        warnings.warn(msg, UserWarning, stacklevel=5)


def reserve(pattern: Any, stretches: Sequence[slice], p: int) -> Any:
    """A pattern in which each stretch keeps as large a share as the whole does.

    Parameters
    ----------
    pattern : pattern of chita_sklearn.core, as `Target.at` makes them
        Sizes of blocks, floors or one size; N:M gives every stretch its share anyway.
    stretches : sequence of slice
        Apart from each other, and none across two blocks.
    p : int
        Coordinates.
    """
    if not stretches or isinstance(pattern, NOfM):
        return pattern
    fixed = isinstance(pattern, PerBlock)
    if isinstance(pattern, Cardinality):
        labels, wanted = np.zeros(p, dtype=np.int64), [0]
        lengths, sizes = [p], [pattern.size]
    else:
        assert isinstance(pattern, PerBlock | WithFloor)
        labels = pattern.labels.copy()
        least = pattern.sizes if isinstance(pattern, PerBlock) else pattern.floors
        wanted = least.tolist()
        lengths = np.bincount(labels, minlength=len(wanted)).tolist()
        sizes = least.tolist() if fixed else [pattern.size * n / p for n in lengths]
    if any(len(np.unique(labels[part])) > 1 for part in stretches):
        return pattern  # groups of N:M, one after the other
    free = list(lengths)
    for part in stretches:
        block, length = int(labels[part.start]), part.stop - part.start
        free[block] -= length
        own = round(sizes[block] / lengths[block] * length)
        if fixed:  # the rest of the block must hold the rest of its weights
            own = min(max(own, wanted[block] - free[block]), wanted[block])
        wanted[block] = max(wanted[block] - own, 0)
        labels[part] = len(wanted)
        wanted.append(own)
    if fixed:
        return PerBlock(labels, wanted)
    surplus = sum(wanted) - pattern.size  # by rounding, and where all are idle
    for i in range(len(wanted) - 1, -1, -1):
        less = min(max(math.ceil(surplus), 0), wanted[i])
        wanted[i], surplus = wanted[i] - less, surplus - less
    return WithFloor(pattern.size, labels, wanted)
