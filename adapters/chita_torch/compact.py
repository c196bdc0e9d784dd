"""Make a pruned network smaller, and its function the same.

A unit is an output of a linear layer or a channel of a convolution. It can go

- where nobody reads it: every weight that reads it is zero;
- where it is constant: every weight that feeds it is zero. What it gives, its bias
  after the activations, moves into the biases of the layers that read it.

Both make more of it possible further up and down, so this is repeated until nothing
goes. BatchNorm is folded into the layer before it first. This is done on the graph of
the model (`torch.fx`), where it can be traced, and goes no further than additions,
concatenations and norms. What nobody reads beyond these, such as a channel that all
blocks of a residual network share, is found by running the model (`tracing`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .attention import loosen
from .batches import Pieces, n_samples
from .layout import Layout
from .slicing import cut
from .tracing import find_families
from .units import has_zero_columns, is_read

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (nn.Linear, *_CONVOLUTIONS)
# Each number by itself.
_ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardswish,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
)
_FUNCTIONS: dict[Any, Any] = {
    torch.relu: F.relu,
    F.relu: F.relu,
    F.gelu: F.gelu,
    F.silu: F.silu,
    F.leaky_relu: F.leaky_relu,
    torch.tanh: torch.tanh,
    F.tanh: torch.tanh,
    torch.sigmoid: torch.sigmoid,
    F.sigmoid: torch.sigmoid,
}
_METHODS = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
# Each channel by itself.
_POOLS = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


@dataclass
class _Reader:
    """A layer that reads the units of another, ``each`` columns for every unit."""

    name: str
    constant: Tensor  # what reaches it where the unit before is its bias alone
    blurred: bool  # whether padding on the way may turn a constant into another


def compact(
    model: nn.Module, example: Any, *, tolerance: float = 1e-4, fold: bool = True
) -> nn.Module:
    """Return a smaller copy of a pruned network that gives the same outputs.

    Parameters
    ----------
    model : torch.nn.Module
        Pruned; not changed.
    example : Tensor or tuple
        Inputs of the model, by which the copy is checked.
    tolerance : float, default=1e-4
        Largest difference of the outputs, relative to their largest entry: sums are
        made in another order.
    fold : bool, default=True
        Whether to fold BatchNorm into the layers before it. Without, the copy is one to
        train on.

    Returns
    -------
    torch.nn.Module
        A copy in eval mode, with smaller linear layers and convolutions.

    Raises
    ------
    ValueError
        If the copy gives other outputs, or if `torch.fx` cannot trace the model and
        it has no unit that nobody reads.

    Notes
    -----
    Units go whose weights, in or out, are all zero. From 90 % sparsity on there are
    some; ``prune(..., pattern="units")`` makes them. Layers that are used more than
    once, or in groups (but for depthwise ones), keep all. Units that are added to
    others (residuals) go where nobody reads any of them. Time: a forward pass of two
    samples for each unit, where columns of weights are zero.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from chita_torch import compact
    >>> net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[:4].zero_()  # constant units
    ...     _ = net[2].weight[:, 6:].zero_()  # and two that nobody reads
    >>> compact(net, torch.randn(5, 6))
    Sequential(
      (0): Linear(in_features=6, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=3, bias=True)
    )
    """
    inputs = example if isinstance(example, tuple) else (example,)
    small = copy.deepcopy(model).eval()
    with torch.no_grad():
        untraced = _cut_on_graph(small, fold=fold)
        cut_any = _cut_unread(small, inputs)
        if untraced is not None and not cut_any:
            reason = str(untraced).splitlines()[0] if str(untraced) else ""
            msg = (
                "torch.fx cannot trace the model, so its units are not known: "
                f"{reason or type(untraced).__name__}"
            )
            raise ValueError(msg) from untraced
        _check_same(model, small, inputs, tolerance)
    return small


def _cut_on_graph(model: nn.Module, *, fold: bool) -> Exception | None:
    """Cut what the graph of the model shows; why there is none, if there is none."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        return error
    if fold:
        _fold(model, graph)
    modules = dict(model.named_modules())
    while any(
        _cut(model, graph, node) for node in graph.nodes if _is_layer(node, modules)
    ):
        modules = dict(model.named_modules())
    return None


def _cut_unread(model: nn.Module, inputs: tuple) -> bool:
    """Cut the units that no layer reads, found by running the model; whether any."""
    done = False
    loosen(model)
    while True:
        try:
            with warnings.catch_warnings():  # of weights that are computed
                warnings.simplefilter("ignore")
                layout = Layout.of(model)
        except (TypeError, ValueError):  # nothing here that is known
            return done
        if not any(has_zero_columns(slot) for slot in layout.slots):
            return done
        try:
            n_samples(inputs)
            batch: Any = inputs
        except (TypeError, ValueError):  # not of samples: as it is, then
            batch = Pieces([inputs])
        families, _ = find_families(model, lambda net, x: net(*x), batch, layout)
        gone = []
        for family in families:
            unread = [unit for unit in family.units if not is_read(unit, layout)]
            gone += unread[len(unread) == len(family) :]
        if not gone:
            return done
        cut(model, gone, layout)
        done = True


def _check_same(
    model: nn.Module, small: nn.Module, inputs: tuple, tolerance: float
) -> None:
    modes = [(module, module.training) for module in model.modules()]
    try:
        one = model.eval()(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    problem = ""
    try:
        other = small(*inputs)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    else:
        for a, b in zip(_tensors(one), _tensors(other), strict=True):
            most = float((a - b).abs().max()) if a.numel() else 0.0
            if not most <= tolerance * max(float(a.abs().max()), 1e-30):
                problem = f"outputs differ by {most:.1e}"
    if problem:
        msg = (
            "the smaller network does not give the same outputs, so it is not "
            f"returned: {problem}. The model may depend on the widths of its layers."
        )
        raise ValueError(msg)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree
    return [t for value in values for t in _tensors(value)]


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node is the one use of a layer whose weights are its own."""
    if node.op != "call_module":
        return False
    layer = modules[str(node.target)]
    if not isinstance(layer, _LAYERS) or getattr(layer, "groups", 1) != 1:
        return False
    if type(layer) not in _LAYERS or "weight" not in layer._parameters:
        return False  # computed from others, or of a kind that is not known
    uses = [each for each in node.graph.nodes if each.target == node.target]
    holders = [
        m for m in modules.values() for p in m._parameters.values() if p is layer.weight
    ]
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return len(uses) == 1 and len(holders) == 1 and not hooked


def _fold(model: nn.Module, graph: fx.Graph) -> None:
    """Fold each BatchNorm into the layer before it."""
    for node in graph.nodes:
        modules = dict(model.named_modules())
        if not _is_layer(node, modules) or len(node.users) != 1:
            continue
        after = next(iter(node.users))
        norm = modules.get(str(after.target)) if after.op == "call_module" else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        if sum(each.target == after.target for each in graph.nodes) > 1:
            continue
        layer: Any = modules[str(node.target)]
        linear = isinstance(layer, nn.Linear)
        fuse: Any = fuse_linear_bn_eval if linear else fuse_conv_bn_eval
        if linear and not isinstance(norm, nn.BatchNorm1d):
            continue
        _replace(model, str(node.target), fuse(layer, norm))
        _replace(model, str(after.target), nn.Identity())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    outer, _, own = name.rpartition(".")
    setattr(model.get_submodule(outer), own, module)


def _readers(
    model: nn.Module, node: fx.Node, units: int, constant: Tensor
) -> Iterator[_Reader | None]:
    """The layers that read a layer's units; None for a reader of another kind.

    ``constant`` is what each unit gives where its weights are zero, ``(units,)``.
    """
    modules = dict(model.named_modules())
    todo = [(user, node, constant, False) for user in node.users]
    while todo:
        user, before, value, blurred = todo.pop()
        given = [
            a for a in (*user.args, *user.kwargs.values()) if isinstance(a, fx.Node)
        ]
        if given != [before] or (user.args and user.args[0] is not before):
            yield None
            continue
        step: Any = None
        if user.op == "call_module":
            module = modules[str(user.target)]
            if _is_layer(user, modules):
                yield _Reader(str(user.target), value, blurred)
                continue
            if isinstance(module, _ELEMENTWISE):
                step = module
            elif isinstance(module, _POOLS):
                padded = getattr(module, "padding", 0) not in (
                    0,
                    (0,),
                    (0, 0),
                    (0, 0, 0),
                )
                mean = "Avg" in type(module).__name__
                blurred, step = blurred or (padded and mean), lambda x: x
            elif isinstance(module, nn.Flatten) and module.start_dim == 1:
                step = nn.Identity()
        elif user.op == "call_function" and len(user.args) == 1:
            step = _FUNCTIONS.get(user.target)
            if user.kwargs and step is not F.relu:
                step = None
        elif user.op == "call_function" and user.target is torch.flatten:
            step = nn.Identity() if user.args[1:] == (1,) else None
        elif user.op == "call_method":
            step = _METHODS.get(str(user.target)) if len(user.args) == 1 else None
            if user.target == "flatten" and user.args[1:] == (1,):
                step = nn.Identity()
        if step is None:
            yield None
            continue
        after = step(value.clone())
        todo += [(each, user, after, blurred) for each in user.users]


def _cut(model: nn.Module, graph: fx.Graph, node: fx.Node) -> bool:
    """Remove the units of one layer that can go; whether there were any."""
    layer: Any = model.get_submodule(str(node.target))
    units, bias = len(layer.weight), layer.bias
    constant = layer.weight.new_zeros(units) if bias is None else bias.detach()
    readers = list(_readers(model, node, units, constant))
    if not readers or any(reader is None for reader in readers):
        return False
    found = [reader for reader in readers if reader is not None]
    fixed = ~(layer.weight != 0).flatten(1).any(dim=1)
    unread = torch.ones_like(fixed)
    for reader in found:
        target: Any = model.get_submodule(reader.name)
        columns = _columns(target.weight, units)
        if columns is None:
            return False
        unread &= ~(columns != 0).flatten(2).any(dim=2).any(dim=0)
        padded = isinstance(target, _CONVOLUTIONS) and target.padding not in (
            "valid",
            (0,) * (target.weight.ndim - 2),
        )
        if padded or reader.blurred:  # a constant does not stay one at the border
            fixed &= reader.constant == 0
    gone = fixed | unread
    if bool(gone.all()):
        gone[0] = False  # a layer has one output at least
    if not bool(gone.any()):
        return False
    for reader in found:
        target = model.get_submodule(reader.name)
        columns = _columns(target.weight, units)
        assert columns is not None
        moved = torch.where(gone & fixed, reader.constant, 0.0).to(columns)
        extra = (columns.flatten(2).sum(dim=2) * moved).sum(dim=1)
        _replace(
            model, reader.name, _with(target, columns[:, ~gone], target.bias, extra)
        )
    layer = model.get_submodule(str(node.target))
    own = None if layer.bias is None else layer.bias[~gone]
    _replace(model, str(node.target), _with(layer, layer.weight[~gone], own, None))
    return True


def _columns(weight: Tensor, units: int) -> Tensor | None:
    """A reader's weights by unit, ``(outputs, units, ...)``."""
    if weight.ndim == 2 and weight.shape[1] % units == 0:
        return weight.reshape(len(weight), units, -1)  # several each where flattened
    return weight if weight.shape[1] == units else None


def _with(
    layer: Any, weight: Tensor, bias: Tensor | None, extra: Tensor | None
) -> nn.Module:
    """The layer with fewer weights, and something added to its bias."""
    if extra is not None and bool(extra.any()):
        bias = extra if bias is None else bias + extra
    if isinstance(layer, nn.Linear):
        weight = weight.flatten(1)
        smaller: Any = nn.Linear(1, 1, bias=bias is not None)
        smaller.out_features, smaller.in_features = weight.shape
    else:
        smaller = copy.copy(layer)
        smaller._parameters = dict(layer._parameters)
        smaller.out_channels, smaller.in_channels = weight.shape[:2]
    trains = layer.weight.requires_grad
    smaller.weight = nn.Parameter(weight.detach().clone(), requires_grad=trains)
    smaller.bias = None
    if bias is not None:
        smaller.bias = nn.Parameter(bias.detach().clone(), requires_grad=trains)
    smaller.training = layer.training
    return smaller
