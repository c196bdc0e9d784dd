"""The model around a pruning: what is restored, and how it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from .batches import Tree, n_samples
from .gradients import LossFunction, LossModule, checked_loss
from .layout import Layout

_Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


@contextmanager
def all_or_nothing(
    model: nn.Module, layout: Layout, solve_on: torch.device
) -> Iterator[None]:
    """Work on the model in eval mode; on any exception put everything back.

    Training flags are always restored. Buffers are restored too, unless they belong
    to a BatchNorm layer and no exception was raised. Inference mode of the caller, in
    which there would be no gradients, is left meanwhile, and so is autocast, which
    would round what the solver does.
    """
    modes = [(module, module.training) for module in model.modules()]
    weights = [(s.parameter, s.parameter.detach().clone()) for s in layout.slots]
    buffers = _save_buffers(model)
    try:
        model.eval()
        with torch.inference_mode(mode=False), ExitStack() as stack:
            for kind in {layout.device.type, solve_on.type}:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    except BaseException:
        with torch.no_grad():
            for parameter, saved in weights:
                parameter.copy_(saved)
        _restore_buffers(buffers)
        raise
    else:
        _restore_buffers([b for b in buffers if not _has_statistics(b[0])])
    finally:
        for module, training in modes:
            module.training = training


def mean_loss(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Tree]
) -> float:
    """Mean of the loss over batches, each weighted by its number of samples."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            size = n_samples(batch)
            total += size * float(checked_loss(loss_fn(model, batch)))
            count += size
    return total / count if count else float("nan")


def has_batchnorm(model: nn.Module) -> bool:
    """Whether any layer of the model keeps running statistics."""
    return any(_has_statistics(module) for module in model.modules())


def recalibrate_batchnorm(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Tree]
) -> None:
    """Replace the running statistics by those of the model as it is now.

    Parameters
    ----------
    model : nn.Module
        In eval mode, and again so afterwards.
    loss_fn : callable
        ``loss_fn(model, batch)``: runs the model on a batch.
    batches : iterable of batches
        Each counts once, as `torch.optim.swa_utils.update_bn` has it.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        module = LossModule(model, loss_fn).eval()
        update_bn(((batch,) for batch in batches), module)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def save_statistics(model: nn.Module) -> _Buffers:
    """Copy the buffers of the BatchNorm layers, for `restore_statistics`."""
    return [b for b in _save_buffers(model) if _has_statistics(b[0])]


def restore_statistics(saved: _Buffers) -> None:
    """Put saved statistics back."""
    _restore_buffers(saved)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.running_mean is not None)


def _save_buffers(model: nn.Module) -> _Buffers:
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _restore_buffers(saved: _Buffers) -> None:
    with torch.no_grad():
        for module, name, buffer, values in saved:
            module._buffers[name] = buffer  # a forward pass may have replaced it
            buffer.copy_(values)
