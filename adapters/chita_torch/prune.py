"""`prune`: one-shot and multi-stage pruning of any network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .batches import Batches, Tree
from .checks import (
    check_count,
    check_device,
    check_flag,
    check_model,
    check_ridge,
    check_seed,
    check_share,
)
from .gradients import LossFunction, matrix_bytes
from .layout import Layout, Selector
from .report import LayerReport, PruningReport, Stage
from .stage import Search, Setting, run_stage
from .state import (
    all_or_nothing,
    has_batchnorm,
    mean_loss,
    recalibrate_batchnorm,
    restore_statistics,
    save_statistics,
)
from .targets import Schedule, make_targets, schedule_fractions

logger = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    batches: Iterable[Tree],
    loss_fn: LossFunction,
    *,
    sparsity: float | None = None,
    density: float | None = None,
    scope: str | Mapping[str, float] = "global",
    pattern: str | Sequence[int] | None = None,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
    min_density: float = 0.0,
    stages: int = 1,
    extra_stages: int = 0,
    schedule: Schedule = "exponential",
    regrow: bool = True,
    n_gradients: int = 1000,
    samples_per_gradient: int = 16,
    first_order: bool | str = "auto",
    ridge: float | str = "auto",
    solver: str = "auto",
    calibration: float = 0.1,
    block_size: int | None = None,
    recalibrate_batchnorm: bool | str = "auto",
    device: torch.device | str | None = None,
    progress: bool = True,
    random_state: int | None = None,
) -> PruningReport:
    r"""Prune a network in place, by a second-order model of its loss.

    With :math:`\bar w` the current weights, B the samples of a micro-batch and row i
    of A :math:`\sqrt B` times the gradient of micro-batch i's mean loss,

    .. math::

        \min_w \frac{1}{2n} \|b - A w\|^2 + \frac{\text{ridge}}{2} \|w - \bar w\|^2,
        \qquad b = A \bar w - \mathbf 1 / \sqrt B,

    is solved under the sparsity pattern: up to a constant, the first term is the
    second-order model of the loss. Without the first-order term, b is
    :math:`A \bar w`. Weights that are kept are moved to make up for those that are
    not. With several stages this is repeated at rising sparsity, with fresh gradients
    at the current weights.

    The model is exactly as it was if anything fails or the user interrupts.

    Parameters
    ----------
    model : torch.nn.Module
        Pruned in place. Float16 and bfloat16 models are differentiated in their own
        type and solved in float32.
    batches : iterable of batches
        Training data, iterable again and again: a DataLoader, a list. A batch is a
        tensor, or tuples, lists, dicts of tensors whose first axis are the samples.
    loss_fn : callable
        ``loss_fn(model, batch)`` returns the mean loss of a batch, a scalar tensor. It
        is also called under `torch.no_grad`: where it differentiates inside, it has to
        do so under `torch.enable_grad`. An `torch.autocast` around `prune` is left for
        its time; one inside ``loss_fn`` counts.
    sparsity, density : float, optional
        Share of the chosen weights to prune, in [0, 1), or to keep, in (0, 1]. Of p
        weights ``round((1 - sparsity) p)`` are kept, exactly.
    scope : {"global", "layer"} or dict of str to float, default="global"
        What a sparsity applies to: all chosen weights together; each layer, one at
        a time (only one layer's gradients are held); or each layer whose name matches
        a key, the rest at ``sparsity`` or, without it, untouched.
    pattern : str or (int, int), optional
        ``"n:m"``: keep n of each m consecutive weights along the axis that the layer
        sums over (input channels come last in a convolution). Instead of a sparsity.
    include, exclude : str, type, callable or list of these, optional
        What to prune and what not: names with wildcards, module types, or callables
        ``(name, parameter) -> bool``. A name is tried on modules first, and stands for
        the default weights inside; then on parameters. Default: the weights of linear
        and convolution layers, and attention projections; never biases, norms,
        embeddings (and weights tied to them) unless included.
    min_density : float, default=0.0
        Share of each layer that is kept whatever the global budget says.
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
        model has the least loss on the calibration batches.
    solver : str, default="auto"
        A plan of `chita_sklearn.core.solve`. "auto" is "dual" (with a proven gap)
        where there is a ridge; of several stages, each takes "dual" or "dense" by the
        calibration loss for a candidate with the first-order term. The report names
        the choice.
    calibration : float, default=0.1
        Share of the batches held back, never differentiated, to choose solver, ridge,
        first_order, the length of the step, and BatchNorm recalibration. They are kept
        in memory.
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

    Returns
    -------
    PruningReport
        Per layer and stage; its ``masks`` are the weights kept.

    Raises
    ------
    ValueError, TypeError
        For an argument out of its range, a name that matches nothing, batches that
        are empty, too small or differ between passes, a loss that is not a scalar,
        a loss or gradient that is not finite.
    MemoryError
        If the gradient matrix will not fit; nothing has been allocated.

    See Also
    --------
    chita_torch.keep_pruned : Hold the zeros while training on.
    chita_torch.GradualPruner : Prune while training.

    Notes
    -----
    Time of a stage: n forward and backward passes over B samples, and for each
    candidate a solve, O(n^2 p), and a pass over the calibration batches. Memory:
    4 n p bytes for A, about as much again in the solver, and a copy of the weights.

    References
    ----------
    Benbaki et al., "Fast as CHITA: Neural Network Pruning with Combinatorial
    Optimization", ICML 2023, arXiv:2302.14623.

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
    )
    if calibration == 0 and None in (search.ridge, search.first_order):
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
    layout = Layout.join([target.layout for target in targets])
    original = layout.gather()
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(check_seed(random_state))
    norms = recalibrate_batchnorm if has_batchnorm(model) else False
    solve_on = chosen or check_device(layout.device)
    with all_or_nothing(model, layout, solve_on):
        data = Batches(
            batches, samples_per_gradient, calibration, layout.device, generator
        )
        n_rows = min(n_gradients, data.n_available)
        largest = max(len(target.layout) for target in targets)
        size = matrix_bytes(n_rows, largest, original.dtype) / 2**20
        logger.info("gradient matrix: %d x %d, %.1f MiB", n_rows, largest, size)
        bar = tqdm(
            total=len(fractions) * len(targets) * n_rows,
            desc=f"gradients ({n_rows} x {largest:,}, {size:.0f} MiB)",
            unit="row",
            disable=not progress,
        )
        setting = Setting(
            model,
            loss_fn,
            data,
            n_gradients,
            solver,
            len(fractions) > 1,
            regrow,
            block_size,
            solve_on,
            int(torch.randint(2**31, (), generator=generator, device="cpu")),
            bar.update,
        )
        searches = [replace(search) for _ in targets]
        masks: dict[str, Tensor] = {}
        done: list[Stage] = []
        loss = loss_before = _calibration_loss(setting)
        recalibrated = False
        with bar:
            for fraction in fractions:
                for target, its_search in zip(targets, searches, strict=True):
                    stage, mask = run_stage(
                        setting, target.layout, target.at(fraction), its_search, loss
                    )
                    done.append(stage)
                    masks |= target.layout.unflatten(mask)
                    loss = stage.chosen.loss
                    bar.set_postfix(
                        sparsity=f"{stage.sparsity:.3f}", loss=f"{loss:.4f}"
                    )
                if norms:
                    loss, kept = _recalibrate(setting, loss, always=norms is True)
                    recalibrated |= kept
        return PruningReport(
            layers=_layer_reports(layout, original, masks),
            stages=tuple(done),
            masks={
                s.name: masks[s.name].to(s.parameter.device, copy=True)
                for s in layout.slots
            },
            loss_before=loss_before,
            loss_after=loss,
            batchnorm_recalibrated=recalibrated,
            notes=_notes(n_gradients, n_rows, samples_per_gradient),
        )


def _calibration_loss(setting: Setting) -> float:
    data = setting.data
    loss = mean_loss(setting.model, setting.loss_fn, data.calibration)
    if data.calibration and not math.isfinite(loss):
        msg = (
            f"the loss of the model as given is {loss} on the calibration batches: "
            "check the batches for NaN, and loss_fn for log(0) or overflow."
        )
        raise ValueError(msg)
    return loss


def _recalibrate(setting: Setting, loss: float, *, always: bool) -> tuple[float, bool]:
    """Recompute BatchNorm statistics; keep them if asked to or if they help."""
    saved = save_statistics(setting.model)
    with closing(setting.data.remaining()) as batches:
        recalibrate_batchnorm(setting.model, setting.loss_fn, batches)
    after = mean_loss(setting.model, setting.loss_fn, setting.data.calibration)
    if always or after < loss:
        return after, True
    restore_statistics(saved)
    return loss, False


def _layer_reports(
    layout: Layout, original: Tensor, masks: Mapping[str, Tensor]
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
            )
        )
    return tuple(reports)


def _notes(n_gradients: int, n_rows: int, samples: int) -> tuple[str, ...]:
    if n_rows >= n_gradients:
        return ()
    return (
        f"n_gradients={n_gradients} was asked for, but the batches hold {n_rows} "
        f"micro-batches of {samples} samples; no sample is used twice in a stage.",
    )
