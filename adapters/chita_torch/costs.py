"""Budgets in what weights cost: floating-point operations, bytes, or anything else.

With c_l the cost of a weight of layer l, w_j a weight and h_j its mean squared
gradient, the weights of the largest

    w_j^2 h_j / c_l

are kept until their costs reach the budget: the greedy answer to the knapsack whose
values are the losses that the diagonal of the quadratic model predicts. How many that
are of each layer is what the layers are then pruned to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .batches import Tree, n_samples
from .calls import Call, Watch
from .gradients import LossFunction, gradient_matrix
from .layout import Layout, select
from .ranks import Ranks
from .stage import Setting
from .targets import Target

Cost: TypeAlias = Literal["weights", "flops", "bytes"] | Mapping[str, float]

ROWS = 32  # gradients, at most, that the values are of


def check_cost(cost: Any, scope: Any, pattern: Any) -> None:
    """Refuse a ``cost`` of another kind, or without one budget for all layers."""
    names = ("weights", "flops", "bytes")
    if isinstance(cost, Mapping):
        positive = [isinstance(c, Real) and float(c) > 0 for c in cost.values()]
        known = bool(positive) and all(positive)
    else:
        known = cost in names
    if not known:
        msg = (
            f"cost={cost!r} must be one of {names}, or a mapping of name patterns to "
            "what a weight costs, numbers above 0."
        )
        raise ValueError(msg)
    if cost != "weights" and (scope != "global" or pattern not in (None, "units")):
        msg = (
            f"cost={cost!r} divides one budget among all layers: use it with "
            "sparsity, scope='global' and without an N:M pattern."
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class Budget:
    """How many weights each layer keeps, and what that costs."""

    kept: tuple[int, ...]
    before: float
    after: float


def costs_of(
    model: nn.Module,
    forward: LossFunction,
    batches: Iterable[Tree],
    layout: Layout,
    cost: Cost,
    ranks: Ranks | None = None,
) -> list[float]:
    """Return what a weight of each layer costs.

    Parameters
    ----------
    model, forward
        ``forward(model, batch)`` runs the model.
    batches : iterable of batches
        What is run to count operations: two for each weight and each row of inputs, a
        position of a convolution for instance; per sample, on the mean. Weights that
        no linear or convolution call uses count as used once a sample.
    layout : Layout
    cost : {"flops", "bytes"} or mapping
        See `prune`.
    ranks : Ranks, optional
        Whose batches count as well.
    """
    if isinstance(cost, Mapping):
        found: dict[str, float] = {}
        for pattern, value in cost.items():
            for name in select(model, include=pattern, among=layout.names):
                found.setdefault(name, float(value))
        return [found.get(name, 1.0) for name in layout.names]
    if cost == "bytes":
        return [float(slot.parameter.element_size()) for slot in layout.slots]
    seen, samples = _Uses(layout), 0.0
    with torch.no_grad(), seen:
        for batch in batches:
            samples += n_samples(batch)
            forward(model, batch)
    uses = [float(seen.weights[slot.name]) for slot in layout.slots]
    if ranks is not None:
        *uses, samples = ranks.total(*uses, samples)
    operations = [
        2 * n / (samples * slot.size)
        for n, slot in zip(uses, layout.slots, strict=True)
    ]
    return [each if each > 0 else 2.0 for each in operations]


class _Uses(Watch):
    """Counts how often each layer's weights are used: rows of inputs times weights."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.slots)
        self.weights: Counter[str] = Counter()
        self._values = layout.parameters
        self._slots_of = {slot.name: slot for slot in layout.slots}

    def before(self, call: Call) -> Tensor:
        stretch = call.part.stretch(self._slots_of[call.part.name])
        self.weights[call.part.name] += call.n_rows * (stretch.stop - stretch.start)
        return self._values[call.part.name]


def divide(
    layout: Layout,
    value: Tensor,
    costs: Sequence[float],
    sparsity: float,
    floors: Sequence[int],
) -> Budget:
    """Divide a budget of costs among the layers, greedily by value over cost.

    Parameters
    ----------
    layout : Layout
    value : Tensor, shape (p,)
        What a weight is worth, at least 0.
    costs : sequence of float
        Of a weight, by layer.
    sparsity : float
        Share of the whole cost that is to go.
    floors : sequence of int
        Weights that each layer keeps in any case.
    """
    labels = layout.labels().to(value.device)
    each = torch.tensor(costs, dtype=torch.float64, device=value.device)[labels]
    before = float(each.sum())
    ratio = value.double() / each
    for slot, floor in zip(layout.slots, floors, strict=True):
        own = ratio[slot.start : slot.stop]
        own[own.topk(floor).indices] = torch.inf
    order = ratio.argsort(descending=True, stable=True)
    spent = each[order].cumsum(0)
    n = int((spent <= (1 - sparsity) * before * (1 + 1e-12)).sum())
    kept = torch.bincount(labels[order[:n]], minlength=len(layout.slots))
    return Budget(tuple(kept.tolist()), before, float(spent[n - 1]) if n else 0.0)


def within(
    setting: Setting,
    target: Target,
    cost: Cost,
    differentiate: LossFunction,
    forward: LossFunction,
) -> tuple[Target, str]:
    """Turn a share of the whole cost into a share of each layer, and say what it is.

    Time: `ROWS` gradients, and a forward pass over as many samples. Memory: `ROWS`
    numbers for each weight.
    """
    layout, data, ranks = target.layout, setting.data, setting.ranks
    assert target.sparsity is not None
    n = min(ROWS, data.n_available)
    samples = data.sample(n * data.samples_per_gradient).batches
    costs = costs_of(setting.model, forward, samples, layout, cost, ranks)
    own = data.draw(n)
    A = gradient_matrix(
        setting.model,
        differentiate,
        own,
        layout,
        len(own),
        samples_per_gradient=data.samples_per_gradient,
    ).A
    squares = ranks.sum(A.double().square().sum(dim=0)) / n
    value = layout.gather().double().square() * squares
    budget = divide(layout, value, costs, target.sparsity, target.floors(0))
    sizes = layout.sizes()
    shares = [1 - k / size for k, size in zip(budget.kept, sizes, strict=True)]
    unit = cost if isinstance(cost, str) else "cost"
    note = (
        f"Of the chosen weights, {unit}: {budget.before:,.0f} -> {budget.after:,.0f} "
        f"({1 - budget.after / budget.before:.1%} less)."
    )
    return replace(target, sparsity=None, per_layer=tuple(shares), min_density=()), note
