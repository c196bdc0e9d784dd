"""`prune`: one-shot and multi-stage pruning of any network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from chita_sklearn.core import Solver

from .batches import Batches, Split, Tree
from .checks import (
    check_count,
    check_device,
    check_flag,
    check_model,
    check_ridge,
    check_seed,
    check_share,
    check_split,
)
from .costs import Cost, check_cost, within
from .gradients import LossFunction, matrix_bytes, over_pieces
from .kinds import bare
from .layout import Layout, Selector, left_out
from .objective import (
    OBJECTIVES,
    ByGradients,
    ByLoss,
    ByReconstruction,
    Objective,
    ObjectiveName,
)
from .predictions import Predictions
from .ranks import TIMEOUT, Group, Ranks, check_norms
from .reconstruction import Reconstruction
from .report import LayerFit, LayerReport, PruningReport, Stage
from .shards import takes_shards
from .stage import Search, Setting
from .state import (
    AllOrNothing,
    has_batchnorm,
    recalibrate_batchnorm,
    restore_statistics,
    save_statistics,
)
from .statistics import check_memory
from .structured import ByUnits
from .targets import Schedule, join_targets, make_targets, schedule_fractions

logger = logging.getLogger(__name__)

MANY_STAGES = 10


@takes_shards
def prune(
    model: nn.Module,
    batches: Iterable[Tree],
    loss_fn: LossFunction | None,
    *,
    objective: ObjectiveName = "auto",
    sparsity: float | None = None,
    density: float | None = None,
    scope: Literal["global", "layer"] | Mapping[str, float] = "global",
    pattern: str | Sequence[int] | None = None,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
    min_density: float | Mapping[str, float] = 0.0,
    cost: Cost = "weights",
    stages: int = 1,
    extra_stages: int = 0,
    schedule: Schedule = "exponential",
    regrow: bool = True,
    n_samples: int = 4096,
    n_gradients: int = 1000,
    samples_per_gradient: int = 16,
    first_order: bool | Literal["auto"] = "auto",
    ridge: float | Literal["auto"] = "auto",
    solver: Solver = "auto",
    calibration: float = 0.1,
    split: Split | None = None,
    block_size: int | None = None,
    recalibrate_batchnorm: bool | Literal["auto"] = "auto",
    device: torch.device | str | None = None,
    progress: bool = True,
    random_state: int | None = None,
    group: Group | None = None,
    timeout: float = TIMEOUT,
) -> PruningReport:
    r"""Prune a network in place, by a second-order model of its loss.

    Two such models are at hand, and by default the loss on batches held back decides
    between what they give.

    **By gradients** (``objective="gradients"``), with :math:`\bar w` the current
    weights, B the samples of a micro-batch and row i of A :math:`\sqrt B` times the
    gradient of micro-batch i's mean loss,

    .. math::

        \min_w \frac{1}{2n} \|b - A w\|^2 + \frac{\text{ridge}}{2} \|w - \bar w\|^2,
        \qquad b = A \bar w - \mathbf 1 / \sqrt B,

    is solved under the sparsity pattern: up to a constant, the first term is the
    second-order model of the loss. Without the first-order term, b is
    :math:`A \bar w`. Weights that are kept are moved to make up for those that are
    not. With several stages this is repeated at rising sparsity, with fresh gradients
    at the current weights.

    **By reconstruction** (``objective="reconstruction"``), a budget over all layers is
    divided by

    .. math::

        \min_w \frac12 \sum_l \sum_i g_{li} (w_{li} - \bar w_{li})^T
        (H_l + \mu_l I) (w_{li} - \bar w_{li}),

    where :math:`H_l` is the mean of :math:`x x^T` over the inputs of layer l (patches
    of a convolution) and :math:`g_{li}` the mean squared derivative of the loss with
    respect to its output i. Then each layer, in the order in which they run, is solved
    with that many weights for the outputs that the dense network gives, from the inputs
    that the pruned one gives. See `chita_torch.reconstruction`.

    The model is exactly as it was if anything fails or the user interrupts.

    Parameters
    ----------
    model : torch.nn.Module
        Pruned in place. Float16 and bfloat16 models are differentiated in their own
        type and solved in float32. One that `fully_shard` has sharded (FSDP2) is whole
        on each rank meanwhile.
    batches : iterable of batches
        Training data, iterable again and again: a DataLoader, a list. A batch is a
        tensor, or tuples, lists, dicts of tensors whose first axis are the samples.
    loss_fn : callable or None
        ``loss_fn(model, batch)`` returns the mean loss of a batch, a scalar tensor. It
        is also called under `torch.no_grad`: where it differentiates inside, it has to
        do so under `torch.enable_grad`. An `torch.autocast` around `prune` is left for
        its time; one inside ``loss_fn`` counts.
        By reconstruction, None stands for the model's own predictions, where its
        outputs are logits, classes last: g is taken for labels drawn from its softmax,
        and the calibration loss is the divergence from the dense network. The model is
        called as ``model(batch)``, ``model(**batch)`` or ``model(batch[0])``.
    objective : {"auto", "reconstruction", "gradients"}, default="auto"
        What is minimised, as above. "auto" tries in each stage the reconstruction,
        with labels a step by gradients after it (of several stages, instead of it
        too), and the largest weights as they are, and takes what has the least
        calibration loss; at the final sparsity magnitude pruning of the dense network
        is one of them, and after stages its reconstruction in one step, so that the
        model never ends with a higher calibration loss than these leave. With
        ``calibration=0`` it is "reconstruction". Reconstruction knows linear and
        convolution calls and attention projections; others, such as recurrent weights,
        are pruned by their mean squared gradients, and the report says so.
    sparsity, density : float, optional
        Share of the chosen weights to prune, in [0, 1), or to keep, in (0, 1]. Of p
        weights ``round((1 - sparsity) p)`` are kept, exactly.
    scope : {"global", "layer"} or dict of str to float, default="global"
        What a sparsity applies to: all chosen weights together; each layer (with
        ``objective="gradients"`` one at a time: only one layer's gradients are held);
        or each layer whose name matches a key, the rest at ``sparsity`` or, without
        it, untouched.
    pattern : str or (int, int), optional
        ``"n:m"``: keep n of each m consecutive weights along the axis that the layer
        sums over (input channels come last in a convolution). Instead of a sparsity.
        ``"units"``: whole outputs of linear layers, channels of convolutions and heads
        of attention, with all that feeds and reads them; `compact` slices them out.
        With scope "global" the smaller model is without ``sparsity`` of the ``cost``,
        or more by less than a unit; with "layer" or names, each layer keeps
        ``round((1 - sparsity) units)``, at least one. By reconstruction only; a unit
        that is gone stays so. See `chita_torch.structured`.
    include, exclude : str, type, callable or list of these, optional
        What to prune and what not: names with wildcards, module types, or callables
        ``(name, parameter) -> bool``. A name is tried on modules first, and stands for
        the default weights inside; then on parameters. Default: the weights of linear
        and convolution layers, attention projections and experts; never biases, norms,
        embeddings (and weights tied to them), recurrent layers, routers of experts,
        adapters such as LoRA's, or weights that are frozen beside others that train,
        unless included. The report names the last four.
    min_density : float or dict of str to float, default=0.0
        Share of each layer that is kept whatever the global budget says; or of the
        layers that match a name. (A layer that is to be 80 % sparse at most: 0.2.) Of
        its units, where these are pruned.
    cost : {"weights", "flops", "bytes"} or dict of str to float, default="weights"
        What ``sparsity`` is a share of: the number of weights; the operations they
        take for a sample, as counted on the batches; the bytes of their types; or what
        a weight of the layers that match a name costs, others 1. The budget is divided
        among the layers by what the diagonal of the model of the loss predicts, and
        never exceeded.
    stages : int, default=1
        How many times to prune, up to the final sparsity.
    extra_stages : int, default=0
        Further stages at the final sparsity.
    schedule : {"exponential", "cubic", "linear"} or callable, default="exponential"
        Sparsity over the stages, from 0.1; see `chita_torch.schedule_fractions`.
    regrow : bool, default=True
        Whether a weight pruned in one stage may return in the next. If not, those that
        are zero to begin with stay so too: a model that is sparser than asked remains
        as sparse.
    n_samples : int, default=4096
        Samples whose inputs are reconstructed, at most.
    n_gradients : int, default=1000
        Rows n of A. Fewer are used, and the report says so, where the batches do not
        hold as many micro-batches.
    samples_per_gradient : int, default=16
        B.
    first_order : bool or "auto", default="auto"
        Whether to use the first-order term. "auto" tries without it too where the
        calibration loss rises with it.
    ridge : float or "auto", default="auto"
        In the formula above. "auto" moves by half powers of ten to where the pruned
        model has the least loss on the calibration batches. By reconstruction
        :math:`\mu_l` is ``ridge`` times the mean of the diagonal of :math:`H_l`; "auto"
        starts at 0.01 and moves by powers of ten that gain 5 % of that loss, in the
        first stage and where the final sparsity is reached. By gradients each stage
        after the first tries what won before, and changes of ridge or solver as long as
        they gain: all of them, or of ten stages and more one after the other.
    solver : str, default="auto"
        By gradients, a plan of `chita_sklearn.core.solve`. "auto" is "dual" (with a
        proven gap) where there is a ridge; of several stages, each takes "dual" or
        "dense" by the calibration loss for a candidate with the first-order term. The
        report names the choice.
    calibration : float, default=0.1
        Share of the batches held back, never differentiated, to choose solver, ridge,
        first_order, the length of the step, and BatchNorm recalibration. They are kept
        in memory.
    split : callable or "batch", optional
        How a batch is cut into samples where its tensors do not share their first axis:
        ``split(batch)`` returns a list of samples, each a batch that ``loss_fn`` takes.
        "batch" makes each batch a single sample. They are run one by one.
    block_size : int, optional
        Neglect the curvature between blocks of this many weights, as the published
        method does on large networks; one budget for all blocks.
    recalibrate_batchnorm : bool or "auto", default="auto"
        Recompute running statistics on the batches after each stage; "auto" keeps
        them where the calibration loss falls.
    device : torch.device or str, optional
        Where A is kept and the problem is solved; default: where the weights are.
    progress : bool, default=True
        Show a progress bar.
    random_state : int, optional
        Decides which batches are held back and which micro-batches are drawn.
    group : torch.distributed.ProcessGroup, optional
        The ranks that prune together (``torch.distributed.group.WORLD``: all), each
        calling this with the same model and arguments, and with batches of its own,
        any number of them. The result is that of one process with all batches, rank
        after rank, to rounding; the weights are the same on all ranks, to the bit. If
        one fails, the model of each is as it was.
    timeout : float, default=1800
        Seconds to wait for another rank, which may be computing or be gone.

    Returns
    -------
    PruningReport
        Per layer and stage; its ``masks`` are the weights kept.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range, a name that matches nothing, batches that
        are empty, too small or differ between passes, a loss that is not a scalar,
        a loss or gradient that is not finite, weights sharded otherwise than so.
    RuntimeError
        Where `torch.distributed` runs several ranks and no ``group`` is given, or if
        another rank fails, is gone, or is silent for ``timeout``.
    MemoryError
        If the gradient matrix or the moments of the layers will not fit; nothing has
        been allocated.

    See Also
    --------
    chita_torch.keep_pruned : Hold the zeros while training on.
    chita_torch.GradualPruner : Prune while training.

    Notes
    -----
    Time of a stage: n forward and backward passes over B samples, and for each
    candidate a solve, O(n^2 p), and a pass over the calibration batches. Memory:
    4 n p bytes for A, about as much again in the solver, and a copy of the weights.
    By reconstruction: a forward and a backward pass, two forward passes for each ridge
    tried, and for a layer of d inputs O(d^3) and some hundred times its weights times
    d. Memory: 16 d^2 bytes for each layer, 100 for each weight, and the activations of
    all samples. Layers of more than 8,192 inputs are solved in pieces of at most so
    many, each for its own share of the outputs; the report names them.

    References
    ----------
    Benbaki et al., "Fast as CHITA: Neural Network Pruning with Combinatorial
    Optimization", ICML 2023, arXiv:2302.14623. Reconstruction of layers: Frantar and
    Alistarh, "SparseGPT", ICML 2023; Meng et al., "ALPS", NeurIPS 2024. Output weights:
    Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML 2015.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import prune
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(256, 20)
    >>> y = (X[:, 0] > 0).long()
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    ... )
    >>> def loss_fn(model, batch):
    ...     inputs, labels = batch
    ...     return torch.nn.functional.cross_entropy(model(inputs), labels)
    >>> batches = list(zip(X.split(32), y.split(32)))
    >>> report = prune(net, batches, loss_fn, density=0.25, samples_per_gradient=4,
    ...                progress=False, random_state=0)
    >>> report.n_kept, sum(int((m.weight != 0).sum()) for m in (net[0], net[2]))
    (88, 88)
    """
    check_model(model, loss_fn)
    ranks = Ranks(group, timeout, "prune")
    model = bare(model)
    if objective not in OBJECTIVES:
        msg = f"objective={objective!r} is unknown; choose from {OBJECTIVES}."
        raise ValueError(msg)
    if loss_fn is None and objective == "gradients":
        msg = "objective='gradients' needs loss_fn(model, batch), the mean loss."
        raise ValueError(msg)
    n_samples = check_count("n_samples", n_samples, 1)
    check_split(split)
    chosen = None if device is None else check_device(device)
    stages = check_count("stages", stages, 1)
    extra_stages = check_count("extra_stages", extra_stages, 0)
    n_gradients = check_count("n_gradients", n_gradients, 1)
    samples_per_gradient = check_count("samples_per_gradient", samples_per_gradient, 1)
    if block_size is not None:
        block_size = check_count("block_size", block_size, 1)
    calibration = check_share("calibration", calibration)
    check_flag("first_order", first_order)
    check_flag("recalibrate_batchnorm", recalibrate_batchnorm)
    search = Search(
        ridge=None if ridge == "auto" else check_ridge(ridge),
        first_order=None if isinstance(first_order, str) else first_order,
        # Of many stages each is a small step, and what is best moves little.
        patience=1 if stages + extra_stages >= MANY_STAGES else 3,
    )
    choosing = objective == "gradients" and None in (search.ridge, search.first_order)
    if calibration == 0 and choosing:
        msg = (
            "calibration=0 leaves nothing to choose ridge='auto' or first_order='auto' "
            "by: give both, or hold batches back."
        )
        raise ValueError(msg)
    fractions = schedule_fractions(schedule, stages) + [1.0] * extra_stages
    targets = make_targets(
        model,
        sparsity=sparsity,
        density=density,
        scope=scope,
        pattern=pattern,
        min_density=min_density,
        include=include,
        exclude=exclude,
    )
    check_cost(cost, scope, pattern)
    by_units = pattern == "units"
    if by_units:
        _check_units(objective, ranks)
    if objective != "gradients":
        targets = [join_targets(targets)]  # the layers are solved one by one anyway
    layout = Layout.join([target.layout for target in targets])
    left = left_out(model, layout.names, include, exclude)
    original = layout.gather()
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(check_seed(random_state))
    norms = recalibrate_batchnorm if has_batchnorm(model) else False
    if ranks.size > 1:
        check_norms(model, norms)
    solve_on = chosen or check_device(layout.device)
    with ranks, AllOrNothing(model, layout, solve_on):
        ranks.check_same(model)
        generator.manual_seed(ranks.same(generator.initial_seed()))
        data = Batches(
            batches,
            samples_per_gradient,
            calibration,
            layout.device,
            generator,
            split,
            ranks,
        )
        seed = int(torch.randint(2**31, (), generator=generator, device="cpu"))
        own = Predictions(seed)
        setting = Setting(
            model,
            over_pieces(own.divergence if loss_fn is None else loss_fn),
            data,
            n_gradients,
            solver,
            len(fractions) > 1,
            regrow,
            block_size,
            solve_on,
            seed,
            lambda done, count: bar.update(count) if done == unit else None,
            ranks=ranks,
        )
        spent: tuple[str, ...] = ()
        if cost != "weights" and not by_units:
            first, note = within(
                setting,
                targets[0],
                cost,
                over_pieces(own.drawn if loss_fn is None else loss_fn),
                over_pieces(own.outputs if loss_fn is None else loss_fn),
            )
            targets, spent = [first], (note,)
        method: Objective
        structured: ByUnits | None = None
        if objective == "gradients":
            method = ByGradients(setting, search)
            n_rows = min(n_gradients, data.n_available)
            notes = _notes(n_gradients, n_rows, samples_per_gradient)
            largest = max(len(target.layout) for target in targets)
            size = matrix_bytes(n_rows, largest, original.dtype) / 2**20
            logger.info("gradient matrix: %d x %d, %.1f MiB", n_rows, largest, size)
            total: int | None = len(fractions) * len(targets) * n_rows
            unit, label = "rows", f"gradients ({n_rows} x {largest:,}, {size:.0f} MiB)"
        else:
            needed, held = check_memory(layout, solve_on)
            reconstruction = Reconstruction(
                setting,
                layout,
                data.sample(n_samples),
                over_pieces(own.drawn if loss_fn is None else loss_fn),
                over_pieces(own.outputs if loss_fn is None else loss_fn),
                search.ridge,
                targets[0].n_of_m is not None,
                held,
            )
            size = needed / 2**20
            logger.info("moments of the layers: %.1f MiB", size)
            notes, total = (), None
            unit, label = "layers", f"solving (moments {size:.0f} MiB)"
            if by_units:
                method = structured = ByUnits(reconstruction, cost)
            elif objective == "auto" and data.calibrated:
                labels = loss_fn is not None
                method = ByLoss(
                    setting,
                    search if labels else None,
                    reconstruction,
                    (lambda: _recalibrated_loss(setting)) if norms is True else None,
                )
                if labels:
                    notes = _notes(n_gradients, data.n_available, samples_per_gradient)
            else:
                method = ByReconstruction(reconstruction)
                if objective == "auto":
                    notes = (
                        "calibration=0 holds no batch back to compare losses on: "
                        "objective='auto' is 'reconstruction' here.",
                    )
        shown = progress and ranks.rank == 0
        bar = tqdm(total=total, desc=label, unit=f" {unit}", disable=not shown)
        masks: dict[str, Tensor] = {}
        done: list[Stage] = []
        loss = loss_before = _calibration_loss(setting)
        recalibrated = False
        with bar:
            for number, fraction in enumerate(fractions, start=1):
                for target in targets:
                    stage, mask = method.run(target, fraction, loss)
                    counts = {
                        s.name: int(mask[s.start : s.stop].sum())
                        for s in target.layout.slots
                    }
                    done.append(replace(stage, kept=counts))
                    masks |= target.layout.unflatten(mask)
                    loss = stage.chosen.loss
                    bar.set_postfix(
                        sparsity=f"{stage.sparsity:.3f}", loss=f"{loss:.4f}"
                    )
                _check_used(setting, original)
                # (What is reconstructed is the dense network with its own statistics.)
                if norms and (objective == "gradients" or number == len(fractions)):
                    loss, kept = _recalibrate(setting, loss, always=norms is True)
                    recalibrated |= kept
        ranks.commit(layout)
        return PruningReport(
            layers=_layer_reports(layout, original, masks, done[-1].fits),
            stages=tuple(done),
            masks={
                s.name: masks[s.name].to(s.parameter.device, copy=True)
                for s in layout.slots
            },
            loss_before=loss_before,
            loss_after=loss,
            batchnorm_recalibrated=recalibrated,
            notes=(*left, *spent, *notes, *method.notes),
            units=() if structured is None else structured.units(),
            sizes={} if structured is None else structured.sizes(masks),
        )


def _check_units(objective: str, ranks: Ranks) -> None:
    """Refuse what whole units are not pruned by."""
    if objective == "gradients":
        msg = (
            "objective='gradients' prunes single weights; pattern='units' is by "
            "reconstruction: use objective='auto' or 'reconstruction'."
        )
        raise ValueError(msg)
    if ranks.size > 1:
        msg = (
            "pattern='units' is pruned by one process: leave out group=, prune on one "
            "rank, and broadcast the weights."
        )
        raise ValueError(msg)


def _calibration_loss(setting: Setting) -> float:
    loss = setting.loss()
    if setting.data.calibrated and not math.isfinite(loss):
        msg = (
            f"the loss of the model as given is {loss} on the calibration batches: "
            "check the batches for NaN, and loss_fn for log(0) or overflow."
        )
        raise ValueError(msg)
    return loss


def _check_used(setting: Setting, original: Tensor) -> None:
    if not setting.used and bool(original.any()):
        msg = (
            "the loss has no gradient with respect to any of the weights to prune, so "
            "nothing tells them apart. Check that loss_fn(model, batch) runs the model "
            "it is given, and that nothing in it detaches, rounds or runs under "
            "torch.no_grad."
        )
        raise ValueError(msg)


def _recalibrate(setting: Setting, loss: float, *, always: bool) -> tuple[float, bool]:
    """Recompute BatchNorm statistics; keep them if asked to or if they help."""
    saved = save_statistics(setting.model)
    with closing(setting.data.remaining()) as batches:
        recalibrate_batchnorm(
            setting.model,
            setting.loss_fn,
            batches,
            setting.random_state,
            setting.ranks,
        )
    after = setting.loss()
    if always or after < loss:
        return after, True
    restore_statistics(saved)
    return loss, False


def _recalibrated_loss(setting: Setting) -> float:
    """The loss with BatchNorm statistics of the model as it is; they are put back."""
    saved = save_statistics(setting.model)
    loss, _ = _recalibrate(setting, math.nan, always=True)
    restore_statistics(saved)
    return loss


def _layer_reports(
    layout: Layout,
    original: Tensor,
    masks: Mapping[str, Tensor],
    fits: Mapping[str, LayerFit],
) -> tuple[LayerReport, ...]:
    before, after = original, layout.gather()
    reports = []
    for slot in layout.slots:
        old, new = before[slot.start : slot.stop], after[slot.start : slot.stop]
        scale = float(old.norm())
        reports.append(
            LayerReport(
                name=slot.name,
                shape=tuple(slot.parameter.shape),
                n_weights=slot.size,
                n_kept=int(masks[slot.name].sum()),
                moved=float((new - old).norm()) / scale if scale else 0.0,
                fit=fits.get(slot.name),
            )
        )
    return tuple(reports)


def _notes(n_gradients: int, n_rows: int, samples: int) -> tuple[str, ...]:
    if n_rows >= n_gradients:
        return ()
    return (
        f"{n_rows} gradients, not n_gradients={n_gradients}: the batches hold no more "
        f"groups of {samples} samples, and none is used twice in a stage.",
    )
