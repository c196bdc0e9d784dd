"""Pruning while training: zeros that stay zero, and pruning at given steps."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .batches import Tree
from .checks import check_count, check_seed, check_share
from .gradients import LossFunction
from .layout import Selector, select
from .prune import prune
from .report import PruningReport
from .targets import (
    Schedule,
    make_targets,
    schedule_fractions,
    sparsity_on_the_way,
)


class KeptPruned:
    """Zeros held at zero, until `remove`; made by `keep_pruned`.

    Attributes
    ----------
    masks : dict of str -> Tensor of bool
        True for the weights that train, by parameter name.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, masks: Mapping[str, Tensor]
    ) -> None:
        parameters = dict(model.named_parameters())
        if not isinstance(masks, Mapping):
            msg = (
                "masks must map names of parameters to tensors of bool, as "
                f"PruningReport.masks does; got {type(masks).__name__}."
            )
            raise TypeError(msg)
        self.masks = dict(masks)
        self._pruned: list[tuple[nn.Parameter, Tensor]] = []
        for name, mask in self.masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                msg = f"masks[{name!r}] must be a torch.Tensor of bool; got {kind}."
                raise TypeError(msg)
            if name not in parameters or parameters[name].shape != mask.shape:
                msg = f"masks[{name!r}] fits no parameter of the model."
                raise ValueError(msg)
            parameter = parameters[name]
            self._pruned.append((parameter, ~mask.to(parameter.device)))
        self._handles: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(_zero_gradient(pruned))
            for parameter, pruned in self._pruned
            if parameter.requires_grad
        ]
        self._handles.append(optimizer.register_step_post_hook(self._after_step))
        self._clear(optimizer)

    @torch.no_grad()
    def _clear(self, optimizer: Optimizer) -> None:
        """Zero the pruned weights, their gradients and the optimizer's memory."""
        self.apply()
        for parameter, pruned in self._pruned:
            held = [parameter.grad, *optimizer.state.get(parameter, {}).values()]
            for tensor in held:
                if isinstance(tensor, Tensor) and tensor.shape == pruned.shape:
                    tensor.masked_fill_(pruned, 0)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to zero now."""
        for parameter, pruned in self._pruned:
            parameter.masked_fill_(pruned, 0)

    def _after_step(self, *_: Any) -> None:
        self.apply()

    def remove(self) -> None:
        """Let every weight train again; calling it twice does no harm."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        if not self._handles:
            msg = "this hold was removed; call keep_pruned for another."
            raise RuntimeError(msg)
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _zero_gradient(pruned: Tensor) -> Any:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(pruned, 0)

    return hook


def keep_pruned(
    model: nn.Module,
    optimizer: Optimizer,
    masks: Mapping[str, Tensor] | None = None,
    *,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
) -> KeptPruned:
    """Hold pruned weights at exactly zero while the rest of the model trains.

    Gradients of pruned weights are zeroed as soon as they are accumulated (so that
    clipping by norm sees the living weights only), and the weights themselves after
    every step of the optimizer: momentum, weight decay and adaptive steps cannot
    bring them back. Hooks do all of it; parameters and state_dict keep their names.

    Parameters
    ----------
    model : torch.nn.Module
        Some of its weights are zero.
    optimizer : torch.optim.Optimizer
        Any; what it remembers of the pruned weights is zeroed.
    masks : dict of str -> Tensor of bool, optional
        True for the weights to train, as in ``PruningReport.masks``. By default they
        are read off the model: in each weight that `prune` would choose, zeros stay
        zero. So a state_dict is all it takes to resume.
    include, exclude : optional
        As in `prune`; for reading masks off the model.

    Returns
    -------
    KeptPruned
        Call its ``remove()``, or use it in a ``with`` statement, to end the hold.

    Raises
    ------
    TypeError
        If ``optimizer`` is not a torch.optim.Optimizer.
    ValueError
        If a mask fits no parameter, or a name matches nothing.

    Notes
    -----
    A step costs one extra pass over the masked weights and their gradients.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import keep_pruned
    >>> net = torch.nn.Linear(4, 1)
    >>> _ = net.weight.data[0, :2].zero_()
    >>> optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    >>> with keep_pruned(net, optimizer):
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         net(torch.ones(8, 4)).sum().backward()
    ...         optimizer.step()
    >>> int((net.weight == 0).sum())
    2
    """
    if not isinstance(optimizer, Optimizer):
        msg = (
            "optimizer must be a torch.optim.Optimizer, whose steps can be followed; "
            f"got {type(optimizer).__name__}."
        )
        raise TypeError(msg)
    if masks is None:
        parameters = dict(model.named_parameters())
        masks = {n: parameters[n] != 0 for n in select(model, include, exclude)}
    return KeptPruned(model, optimizer, masks)


class GradualPruner:
    """Prune a model while it trains: at given steps, zeros held in between.

    Call `step` after every step of the optimizer (or every epoch), as with a learning
    rate scheduler.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training.
    optimizer : torch.optim.Optimizer
        Its optimizer.
    batches : iterable of batches
        As in `prune`.
    loss_fn : callable
        As in `prune`.
    at : iterable of int
        Numbers of the calls of `step`, from 1, at which to prune; 0 prunes at once.
    sparsity : float, optional
        Reached at the last of ``at``; None leaves it to ``options`` (``pattern``, or
        ``scope`` by name), the same at each.
    schedule : {"cubic", "exponential", "linear"} or callable, default="cubic"
        Sparsity over the prunings, from 0.1; see `schedule_fractions`.
    random_state : int, optional
        Fixes the samples that each pruning draws: others at each.
    resume : dict, optional
        What `state_dict` of an earlier pruner returned: go on from there.
    **options
        Any other argument of `prune`.

    Attributes
    ----------
    reports : list of PruningReport
        One per pruning so far.
    kept : KeptPruned
        The hold on the present zeros.

    Raises
    ------
    ValueError, TypeError
        For a number in ``at`` that is none, for options that `prune` would refuse, or
        a state that is none.

    Notes
    -----
    To resume, load the model's and the optimizer's state, then build the pruner anew
    with the saved `state_dict` as ``resume``: the masks are rebuilt from the model's
    zeros, and no pruning is repeated.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import GradualPruner
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Linear(20, 2)
    >>> X = torch.randn(64, 20)
    >>> loss_fn = lambda model, x: (model(x) - x[:, :2]).square().mean()
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> with GradualPruner(
    ...     net, optimizer, X.split(16), loss_fn, at=[2, 4], sparsity=0.75,
    ...     samples_per_gradient=2, calibration=0.25, progress=False, random_state=0,
    ... ) as pruner:
    ...     for _ in range(6):
    ...         optimizer.zero_grad()
    ...         loss_fn(net, X).backward()
    ...         optimizer.step()
    ...         report = pruner.step()
    >>> [report.n_kept for report in pruner.reports], int((net.weight != 0).sum())
    ([36, 10], 10)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Iterable[Tree],
        loss_fn: LossFunction,
        *,
        at: Iterable[int],
        sparsity: float | None = None,
        schedule: Schedule = "cubic",
        random_state: int | None = None,
        resume: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        numbers = list(at) if isinstance(at, Iterable) else []
        if not numbers or not all(isinstance(t, Integral) and t >= 0 for t in numbers):
            msg = (
                f"at={at!r} must hold the numbers (integers >= 0) of the steps to "
                "prune at."
            )
            raise ValueError(msg)
        self._at = sorted({int(t) for t in numbers})
        _check_options(model, batches, loss_fn, sparsity, options)
        if sparsity is None:
            self._sparsities: list[float | None] = [None] * len(self._at)
        else:
            final = check_share("sparsity", sparsity)
            self._sparsities = [
                sparsity_on_the_way(final, fraction)
                for fraction in schedule_fractions(schedule, len(self._at))
            ]
        self._seeds: list[int | None] = [None] * len(self._at)
        if random_state is not None:
            generator = torch.Generator()
            generator.manual_seed(check_seed(random_state))
            self._seeds = torch.randint(
                2**31, (len(self._at),), generator=generator, device="cpu"
            ).tolist()
        self._model, self._optimizer = model, optimizer
        self._batches, self._loss_fn, self._options = batches, loss_fn, options
        self.reports: list[PruningReport] = []
        chosen = {key: options.get(key) for key in ("include", "exclude")}
        self.kept = keep_pruned(model, optimizer, **chosen)
        self._count = 0
        if resume is None:
            self._prune_if_due(0)
        else:
            self.load_state_dict(resume)

    def step(self) -> PruningReport | None:
        """Count one step; prune if it is one of ``at``, and return the report."""
        report = self._prune_if_due(self._count + 1)
        self._count += 1  # not before: what was interrupted can be called again
        return report

    def _prune_if_due(self, count: int) -> PruningReport | None:
        if count not in self._at:
            return None
        turn = self._at.index(count)
        report = prune(
            self._model,
            self._batches,
            self._loss_fn,
            sparsity=self._sparsities[turn],
            random_state=self._seeds[turn],
            **self._options,
        )
        self.kept.remove()
        self.kept = KeptPruned(self._model, self._optimizer, report.masks)
        self.reports.append(report)
        return report

    def state_dict(self) -> dict[str, int]:
        """Return what resuming needs beside the model's and the optimizer's state."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting where a saved pruner stopped, before anything is pruned.

        A pruner with 0 in ``at`` has pruned when it is built: there use ``resume``.
        """
        if self.reports:
            msg = (
                "this pruner has pruned already, whatever weights were loaded before: "
                "load them again and build it with resume=state."
            )
            raise RuntimeError(msg)
        self._count = check_count("count", state["count"], 0)

    def remove(self) -> None:
        """Let every weight train again."""
        self.kept.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _check_options(
    model: nn.Module,
    batches: Iterable[Tree],
    loss_fn: LossFunction,
    sparsity: float | None,
    options: Mapping[str, Any],
) -> None:
    """Refuse now what `prune` would refuse at the first pruning."""
    call = inspect.signature(prune).bind(
        model, batches, loss_fn, sparsity=sparsity, **options
    )
    call.apply_defaults()
    names = inspect.signature(make_targets).parameters
    make_targets(**{name: call.arguments[name] for name in names})
