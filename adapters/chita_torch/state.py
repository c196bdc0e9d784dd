"""The model around a pruning: what is restored, and how it is measured."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from .batches import RandomStream, Tree, n_samples
from .gradients import LossFunction, LossModule, checked_loss
from .interrupts import Transaction, whole
from .layout import Layout
from .ranks import Ranks, average_statistics

_Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


class AllOrNothing(Transaction):
    """Work on a model in eval mode; on any exception everything is put back.

    Training flags are restored in any case, and what the context managers of torch
    restore themselves unless they are interrupted. Buffers are restored too, unless
    they belong to a BatchNorm layer and no exception was raised. Inference mode of the
    caller, in which there would be no gradients, is left meanwhile, and so is autocast,
    which would round what the solver does.

    Parameters
    ----------
    model : nn.Module
    layout : Layout
        The weights that may change.
    solve_on : torch.device
        Where else there is work to do.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, solve_on: torch.device
    ) -> None:
        super().__init__()
        self._model, self._layout = model, layout
        self._kinds = {layout.device.type, solve_on.type}

    def begin(self) -> None:
        """Save what is to be restored, and set the modes of torch."""
        self.at_the_end(torch.set_grad_enabled, torch.is_grad_enabled())
        self.at_the_end(setattr, cudnn, "enabled", cudnn.enabled)
        self.within(torch.inference_mode(mode=False))
        for kind in self._kinds:
            if torch.is_autocast_enabled(kind):
                self.within(torch.autocast(kind, enabled=False))
        buffers = _save_buffers(self._model)
        kept = [b for b in buffers if not _has_statistics(b[0])]
        self.at_the_end(_restore_buffers, kept)
        self.on_failure(_restore_buffers, buffers)
        slots = self._layout.slots
        self.on_failure(
            _write, [(s.parameter, s.parameter.detach().clone()) for s in slots]
        )
        for slot in slots:
            needed = slot.parameter.requires_grad
            self.at_the_end(slot.parameter.requires_grad_, needed)
            slot.parameter.requires_grad_()
        modules = list(self._model.modules())
        parts = [(m, m.training, dict(m._parameters)) for m in modules]
        self.at_the_end(_restore_modules, parts)
        self._model.eval()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore; a failure of torch to allocate memory is a MemoryError."""
        super().__exit__(kind, error, trace)
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            msg = (
                "the machine, or a limit on this process, has less memory than is "
                "needed; the model is as it was. Use fewer gradients or samples "
                "(n_gradients=, n_samples=), scope='layer', or leave layers out with "
                "exclude=."
            )
            raise MemoryError(msg) from error


def _write(values: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, saved in values:
            tensor.copy_(saved)


def _restore_modules(parts: list[tuple[nn.Module, bool, dict[str, Any]]]) -> None:
    """Training flags, and the parameters that `functional_call` stood in for."""
    for module, training, parameters in parts:
        module.training = training
        module._parameters.update(parameters)


def mean_loss(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Tree],
    ranks: Ranks | None = None,
) -> float:
    """Mean of the loss over batches, those of all ranks, weighted by their samples."""
    total = count = 0.0
    with torch.no_grad():
        for batch in batches:
            size = n_samples(batch)
            total += size * float(checked_loss(loss_fn(model, batch)))
            count += size
    if ranks is not None:
        total, count = ranks.total(total, count)
    return total / count if count else float("nan")


def has_batchnorm(model: nn.Module) -> bool:
    """Whether any layer of the model keeps running statistics."""
    return any(_has_statistics(module) for module in model.modules())


def recalibrate_batchnorm(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Tree],
    seed: int,
    ranks: Ranks | None = None,
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
    seed : int
        Of the random numbers that layers in training mode draw.
    ranks : Ranks, optional
        Whose batches count as well.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [(layer, layer.momentum) for layer in layers]
    try:
        random = RandomStream(None, seed)

        def seeded(net: nn.Module, batch: Tree) -> Tensor:
            return random.during(lambda: loss_fn(net, batch))

        module = LossModule(model, seeded).eval()
        update_bn(((batch,) for batch in batches), module)
        if ranks is not None:
            average_statistics(filter(_has_statistics, layers), ranks)
    finally:
        _set_momenta(momenta)


@whole
def _set_momenta(momenta: list[tuple[_BatchNorm, float | None]]) -> None:
    for layer, momentum in momenta:
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
