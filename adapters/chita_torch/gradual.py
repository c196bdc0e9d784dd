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
from .interrupts import Transaction, whole
from .kinds import bare
from .layout import Layout, Selector
from .masks import fit_masks, read_masks
from .prune import prune
from .ranks import Ranks
from .report import PruningReport
from .shards import Whole, check_shards, local, part_of
from .state import AllOrNothing
from .targets import (
    Schedule,
    make_targets,
    schedule_fractions,
    sparsity_on_the_way,
)


class KeptPruned:
    """Zeros held at zero, until `remove`; made by `keep_pruned`.

    A copy of the model alone trains freely. Copied or pickled together with the model
    and the optimizer, ``copy.deepcopy((model, optimizer, hold))``, the copies are held.

    Attributes
    ----------
    masks : dict of str -> Tensor of bool
        True for the weights that train, by parameter name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer],
        masks: Mapping[str, Tensor],
        change: Transaction | None = None,
    ) -> None:
        model = bare(model)
        optimizers = _optimizers(model, optimizer)
        parameters = dict(model.named_parameters())
        self.masks = fit_masks(model, masks)
        self._pruned: list[tuple[nn.Parameter, Tensor]] = [
            (place := parameters[name], part_of(~mask.to(place.device), place))
            for name, mask in self.masks.items()
        ]
        self._optimizers = optimizers
        self._handles: list[RemovableHandle] = []
        self._cleared: list[tuple[Tensor, Tensor, Tensor]] = []
        if change is not None:
            change.on_failure(self.undo)
            self.hold()
            return
        with Transaction() as own:
            own.on_failure(self.undo)
            self.hold()

    @whole
    def hold(self) -> None:
        """Hold the zeros, again if the hold was removed."""
        self.remove()
        for parameter, pruned in self._pruned:
            if parameter.requires_grad:
                hook = _zero_gradient(pruned)
                handle = parameter.register_post_accumulate_grad_hook(hook)
                self._handles.append(handle)
        for each in self._optimizers:
            self._handles.append(each.register_step_post_hook(self._after_step))
            self._clear(each)

    @torch.no_grad()
    def _clear(self, optimizer: Optimizer) -> None:
        """Zero the pruned weights, their gradients and the optimizer's memory."""
        for parameter, pruned in self._pruned:
            held = [parameter.grad, *optimizer.state.get(parameter, {}).values()]
            for tensor in (parameter, *held):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    tensor = local(tensor)
                    if (values := tensor[pruned]).any():
                        self._cleared.append((tensor, pruned, values))
                    tensor.masked_fill_(pruned, 0)

    @whole
    def undo(self) -> None:
        """Remove the hold, and put back what it has set to zero when it was made."""
        self.remove()
        for tensor, pruned, values in reversed(self._cleared):
            tensor[pruned] = values
        self._cleared.clear()

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to zero now."""
        for parameter, pruned in self._pruned:
            local(parameter).masked_fill_(pruned, 0)

    def _after_step(self, *_: Any) -> None:
        self._cleared.clear()  # what was there before is no more to be put back
        self.apply()

    @whole
    def remove(self) -> None:
        """Let every weight train again; calling it twice does no harm."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: hooks are put on the copies anew."""
        left = {"_handles": bool(self._handles), "_cleared": []}
        return {**self.__dict__, **left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = state.pop("_handles")
        self.__dict__.update(state, _handles=[])
        if held:
            self.hold()

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
            local(parameter.grad).masked_fill_(pruned, 0)

    return hook


def keep_pruned(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer],
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
    optimizer : torch.optim.Optimizer or list of them
        Any that trains the model; what it remembers of the pruned weights is zeroed.
        One that wraps another (as accelerate's does) stands for that. The weights are
        held after whichever steps.
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
        If ``optimizer`` is not a torch.optim.Optimizer, nor wraps one; if the weights
        are sharded over ranks otherwise than by `fully_shard`.
    ValueError
        If a mask fits no parameter, a name matches nothing, or an optimizer holds no
        parameter of the model.

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
    check_shards(model)
    model = bare(model)
    _optimizers(model, optimizer)
    if masks is None:
        masks = read_masks(model, include, exclude)
    with Transaction() as change:
        return KeptPruned(model, optimizer, masks, change)


def _optimizers(
    model: nn.Module, given: Optimizer | Iterable[Optimizer]
) -> list[Optimizer]:
    """The optimizers given, without what wraps them."""
    several = given if isinstance(given, list | tuple) else [given]
    found = [_unwrapped(each) for each in several]
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in found:
        trains = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not trains & own:
            msg = (
                f"the optimizer ({type(optimizer).__name__}) holds no parameter of the "
                "model: it is another model's, or the model was copied after it was "
                "built. Build it from this model's parameters()."
            )
            raise ValueError(msg)
    if not found:
        msg = "optimizer is an empty list; give at least one torch.optim.Optimizer."
        raise ValueError(msg)
    return found


def _unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer whose steps can be followed, inside one that wraps it."""
    inner, seen = optimizer, 0
    while not hasattr(inner, "_optimizer_step_post_hooks") and seen < 10:
        names = ("optimizer", "base_optimizer", "_optimizer", "inner_optimizer")
        inner = next((v for n in names if (v := getattr(inner, n, None))), None)
        seen += 1
    if isinstance(inner, Optimizer):
        return inner
    msg = (
        "optimizer must be a torch.optim.Optimizer, whose steps can be followed, or "
        f"wrap one; got {type(optimizer).__name__}."
    )
    raise TypeError(msg)


class GradualPruner:
    """Prune a model while it trains: at given steps, zeros held in between.

    Call `step` after every step of the optimizer (or every epoch), as with a learning
    rate scheduler.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training.
    optimizer : torch.optim.Optimizer or list of them
        Its optimizers, as in `keep_pruned`.
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
        Seed of the samples to draw; each pruning draws different ones.
    resume : dict, optional
        What `state_dict` of an earlier pruner returned: go on from there.
    **options
        Any other argument of `prune`.

    Attributes
    ----------
    reports : list of PruningReport
        One per pruning so far.
    kept : KeptPruned
        The hold on the zeros of the last pruning; on none before the first.

    Raises
    ------
    ValueError, TypeError
        For ``at`` that are not integers of 0 or more, for options that `prune` would
        refuse, or a ``resume`` that is no state.

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
        optimizer: Optimizer | Iterable[Optimizer],
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
        self._ranks = _check_options(model, batches, loss_fn, sparsity, options)
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
        self._model, self._optimizer = bare(model), optimizer
        self._batches, self._loss_fn, self._options = batches, loss_fn, options
        self.reports: list[PruningReport] = []
        self._chosen: dict[str, Any] = {
            key: options.get(key) for key in ("include", "exclude")
        }
        self._count = -1
        # Nothing is held before the first pruning: a weight that begins at zero trains.
        self.kept = KeptPruned(model, optimizer, {})
        try:
            if resume is None:
                self.step()
            else:
                self.load_state_dict(resume)
        except BaseException:
            self.remove()
            raise

    def step(self) -> PruningReport | None:
        """Count one step; prune if it is one of ``at``, and return the report.

        An interrupted step has not happened: it can be called again.
        """
        count = self._count + 1
        if count not in self._at:
            self._count = count
            return None
        turn = self._at.index(count)
        with Whole(self._model, self._ranks) as shards:
            layout = Layout.of(self._model, **self._chosen)
            with AllOrNothing(self._model, layout, layout.device) as change:
                report = prune(
                    self._model,
                    self._batches,
                    self._loss_fn,
                    sparsity=self._sparsities[turn],
                    random_state=self._seeds[turn],
                    **self._options,
                )
                shards.commit()
                self._take(report, count, change)
        return report

    @whole
    def _take(self, report: PruningReport, count: int, change: Transaction) -> None:
        """Hold the new zeros, then let go of the old ones; undone if `change` fails."""
        before, n_reports, old = self._count, len(self.reports), self.kept

        def undo() -> None:
            self._count, self.kept = before, old
            del self.reports[n_reports:]
            old.hold()

        new = KeptPruned(self._model, self._optimizer, report.masks)
        change.on_failure(undo)
        change.on_failure(new.undo)
        old.remove()
        self._count, self.kept = count, new
        self.reports.append(report)

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
        count = check_count("count", state["count"], 0)
        if count >= self._at[0]:
            hold = keep_pruned(self._model, self._optimizer, **self._chosen)
            self.kept.remove()
            self.kept = hold
        self._count = count

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
) -> Ranks:
    """Refuse now what `prune` would refuse at the first pruning; the ranks."""
    call = inspect.signature(prune).bind(
        model, batches, loss_fn, sparsity=sparsity, **options
    )
    call.apply_defaults()
    given = call.arguments
    ranks = Ranks(given["group"], given["timeout"], "GradualPruner")
    names = inspect.signature(make_targets).parameters
    with Whole(model, ranks):
        make_targets(**{name: given[name] for name in names})
    return ranks
