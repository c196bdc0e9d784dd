"""What a pruning did: per layer, per stage, in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from chita_sklearn.core import relative_gap, reported

from .masks import apply_masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NEXT_STEP = (
    "To train on, hold the zeros: chita_torch.keep_pruned(model, optimizer).\n"
    "To save: torch.save(model.state_dict(), path); smaller: chita_torch.export_sparse."
)


@dataclass(frozen=True)
class Trial:
    """One candidate: its settings and the calibration loss it gave."""

    plan: str
    ridge: float
    first_order: bool
    step: float
    loss: float


@dataclass(frozen=True)
class LayerFit:
    """How well a layer was solved for the dense network's outputs.

    Attributes
    ----------
    error : float
        Squared error of its outputs over their square, both for the inputs that its
        network gives it.
    objective, lower_bound : float
        Of its solve; no weights on as many places have a smaller objective than the
        bound. It is nan where none is known, as after another ridge was chosen.
    kept : tuple of int
        Weights kept in each group of its outputs: groups of a convolution, or query,
        key and value where these have inputs of their own; else one number.
    """

    error: float
    objective: float = math.nan
    lower_bound: float = math.nan
    kept: tuple[int, ...] = ()

    @property
    def gap(self) -> float:
        """(objective - lower_bound) / objective: the solve's distance from optimal."""
        return reported(relative_gap(self.objective, self.lower_bound))


@dataclass(frozen=True)
class Stage:
    """One solve: what was asked, tried, chosen and reached.

    Attributes
    ----------
    layers : tuple of str
        The parameters solved for together.
    sparsity : float
        Share of their weights that is pruned after the stage.
    n_rows : int
        Rows of the gradient matrix.
    chosen, trials : Trial, tuple of Trial
        The candidate written to the model, and all that were measured.
    loss_before : float
        Calibration loss before the stage; nan without calibration.
    predicted_change : float
        F(w) - F(w_bar) of the model of the loss, ridge term not included.
    objective, lower_bound : float
        Of the chosen candidate's full step, in units of n F with the ridge term; the
        bound is nan where none is known.
    solver, message : str
        The plan, and why it stopped.
    gradient_method : str
        "batched" or "loop" (gradients), "moments" (reconstruction).
    gradient_seconds, solve_seconds : float
        Wall time of the gradients, and of all solves and calibration losses.
    matrix_bytes : int
        Size of the gradient matrix, or of the moments.
    budget_seconds : float
        By reconstruction: the part of ``solve_seconds`` that dividing the budget took.
    fits : dict of str to LayerFit
        By reconstruction: of each layer; empty otherwise.
    candidates : dict of str to float
        With objective "auto": what was compared, and the calibration loss of each. "in
        one step" is the dense network reconstructed where stages end.
    taken : str
        Which of them was the least.
    kept : dict of str to int
        Weights of each layer after the stage.
    """

    layers: tuple[str, ...]
    sparsity: float
    n_rows: int
    chosen: Trial
    trials: tuple[Trial, ...]
    loss_before: float
    predicted_change: float
    objective: float
    lower_bound: float
    solver: str
    message: str
    gradient_method: str
    gradient_seconds: float
    solve_seconds: float
    matrix_bytes: int
    budget_seconds: float = 0.0
    fits: Mapping[str, LayerFit] = field(default_factory=dict)
    candidates: Mapping[str, float] = field(default_factory=dict)
    taken: str = ""
    kept: Mapping[str, int] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """(objective - lower_bound) / objective: the solve's distance from optimal."""
        return reported(relative_gap(self.objective, self.lower_bound))

    @property
    def errors(self) -> dict[str, float]:
        """The errors of `fits` alone."""
        return {name: fit.error for name, fit in self.fits.items()}


@dataclass(frozen=True)
class LayerReport:
    """One pruned parameter.

    ``moved`` is ||w - w_bar|| / ||w_bar||: how far its weights went, pruned ones
    included. ``fit``, by reconstruction, says how well it was solved; None otherwise.
    """

    name: str
    shape: tuple[int, ...]
    n_weights: int
    n_kept: int
    moved: float
    fit: LayerFit | None = None

    @property
    def error(self) -> float:
        """Squared error of the layer's outputs over their square; nan without `fit`."""
        return math.nan if self.fit is None else self.fit.error

    @property
    def sparsity(self) -> float:
        """Share of the weights that is pruned."""
        return (self.n_weights - self.n_kept) / self.n_weights


@dataclass(frozen=True)
class UnitsReport:
    """Units that the same layers feed and the same layers read (``pattern="units"``).

    Attributes
    ----------
    writers, readers : tuple of str
        The weights whose rows feed the units, and those whose columns read them.
    n_units, n_kept : int
        How many there were, and are.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    n_units: int
    n_kept: int


@dataclass(frozen=True)
class PruningReport:
    """What `prune` did; prints as a table.

    Attributes
    ----------
    layers : tuple of LayerReport
        Each pruned parameter, in the model's order.
    stages : tuple of Stage
        Each solve, in order.
    masks : dict of str -> Tensor of bool
        The weights kept, by parameter name, in the parameters' shapes.
    loss_before, loss_after : float
        Calibration loss of the model as given and as left; nan without calibration.
    batchnorm_recalibrated : bool
        Whether running statistics were recomputed.
    notes : tuple of str
        What differs from what was asked, such as fewer rows than ``n_gradients``.
    units : tuple of UnitsReport
        With ``pattern="units"``: how many are left, by the layers around them.
    sizes : dict of str to (float, float)
        With ``pattern="units"``: "weights", "flops" (for a sample) and "bytes" of the
        chosen layers, before and as `compact` leaves them.

    Examples
    --------
    >>> import torch
    >>> layer = LayerReport("fc.weight", (2, 5), n_weights=10, n_kept=4, moved=0.5)
    >>> report = PruningReport((layer,), (), {"fc.weight": torch.ones(2, 5) > 0})
    >>> report.n_kept, report.sparsity
    (4, 0.6)
    """

    layers: tuple[LayerReport, ...]
    stages: tuple[Stage, ...]
    masks: Mapping[str, Tensor] = field(repr=False)
    loss_before: float = math.nan
    loss_after: float = math.nan
    batchnorm_recalibrated: bool = False
    notes: tuple[str, ...] = ()
    units: tuple[UnitsReport, ...] = ()
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def n_weights(self) -> int:
        """Weights that could have been pruned."""
        return sum(layer.n_weights for layer in self.layers)

    @property
    def n_kept(self) -> int:
        """Weights that were not pruned."""
        return sum(layer.n_kept for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of the weights that is pruned."""
        return (self.n_weights - self.n_kept) / self.n_weights

    @property
    def sensitivity(self) -> dict[str, list[tuple[float, float, float]]]:
        """How each layer bore its sparsities: ``(sparsity, error, loss)``, by stage.

        The error is that of the layer's own outputs (`LayerFit`), nan where it was not
        reconstructed; the loss is that of the whole network on the calibration batches.
        """
        sizes = {layer.name: layer.n_weights for layer in self.layers}
        return {
            name: [
                (
                    1 - stage.kept[name] / size,
                    stage.fits[name].error if name in stage.fits else math.nan,
                    stage.chosen.loss,
                )
                for stage in self.stages
                if name in stage.kept
            ]
            for name, size in sizes.items()
        }

    def apply_to(
        self,
        model: nn.Module,
        weights: nn.Module | Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prune another model of the same architecture by these masks, in place.

        So zeros come back that a merged adapter or an average over training (EMA) has
        filled.

        Parameters
        ----------
        model : torch.nn.Module
            Its pruned weights become zero; what wraps it may add to their names.
        weights : torch.nn.Module or dict of str -> Tensor, optional
            The pruned model, or its state_dict: what was kept is copied from it. By
            default the weights kept stay as they are in ``model``.

        Raises
        ------
        ValueError
            If a mask fits no parameter, or ``weights`` lacks one; nothing was changed.
        """
        apply_masks(model, self.masks, weights)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the masks, as plain numbers, strings, lists and dicts."""
        return {
            "n_weights": self.n_weights,
            "n_kept": self.n_kept,
            "sparsity": self.sparsity,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "batchnorm_recalibrated": self.batchnorm_recalibrated,
            "notes": list(self.notes),
            "units": [asdict(units) for units in self.units],
            "sizes": {name: list(pair) for name, pair in self.sizes.items()},
            "layers": [
                {
                    **asdict(layer),
                    "shape": list(layer.shape),
                    "sparsity": layer.sparsity,
                    "error": layer.error,
                }
                for layer in self.layers
            ],
            "stages": [
                {
                    **asdict(stage),
                    "layers": list(stage.layers),
                    "trials": [asdict(trial) for trial in stage.trials],
                    "gap": stage.gap,
                }
                for stage in self.stages
            ],
        }

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "shape", "weights", "kept", "sparsity", "moved", "error", "gap")
        ]
        rows += [
            (
                layer.name,
                "x".join(str(length) for length in layer.shape),
                f"{layer.n_weights:,}",
                f"{layer.n_kept:,}",
                f"{layer.sparsity:.2%}",
                f"{layer.moved:.2f}",
                "" if layer.fit is None else f"{layer.fit.error:.4f}",
                _percent(math.nan if layer.fit is None else layer.fit.gap),
            )
            for layer in self.layers
        ]
        rows.append(
            (
                "total",
                "",
                f"{self.n_weights:,}",
                f"{self.n_kept:,}",
                f"{self.sparsity:.2%}",
                "",
                "",
                "",
            )
        )
        lines = [*_table(rows), *self._unit_lines(), "", *self._stage_lines()]
        return "\n".join([*lines, *self.notes, NEXT_STEP])

    def _unit_lines(self) -> list[str]:
        if not self.units:
            return []
        rows: list[tuple[str, ...]] = [
            ("units, by the layers that feed them", "", "kept")
        ]
        rows += [
            (
                each.writers[0] + (", ..." if len(each.writers) > 1 else ""),
                f"{each.n_units:,}",
                f"{each.n_kept:,}",
            )
            for each in self.units
        ]
        sizes = "; ".join(
            f"{name} {before:,.0f} -> {after:,.0f} ({1 - after / before:.1%} less)"
            for name, (before, after) in self.sizes.items()
        )
        small = f"These layers in chita_torch.compact(model, inputs): {sizes}."
        return ["", *_table(rows), "", small]

    def _stage_lines(self) -> list[str]:
        if not self.stages:
            return []
        header = ("stage", "sparsity", "rows", "ridge", "step", "loss", "model", "gap")
        rows: list[tuple[str, ...]] = [header]
        rows += [
            (
                str(number)
                if len(stage.layers) != 1
                else f"{number} {stage.layers[0]}",
                f"{stage.sparsity:.2%}",
                str(stage.n_rows),
                f"{stage.chosen.ridge:.1e}",
                f"{stage.chosen.step:g}",
                f"{stage.loss_before:.4f} -> {stage.chosen.loss:.4f}",
                ""
                if math.isnan(stage.predicted_change)  # magnitude has no model
                else f"{stage.predicted_change:+.4f}",
                _percent(stage.gap),
            )
            for number, stage in enumerate(self.stages, start=1)
        ]
        gradients = sum(stage.gradient_seconds for stage in self.stages)
        solving = sum(stage.solve_seconds for stage in self.stages)
        largest = max(stage.matrix_bytes for stage in self.stages)
        norms = " (BatchNorm recalibrated)" if self.batchnorm_recalibrated else ""
        times = {"gradients and moments": gradients}
        if any(stage.fits for stage in self.stages):
            times["budget"] = sum(stage.budget_seconds for stage in self.stages)
            solving -= times["budget"]
        times["solving and losses"] = solving
        total = max(sum(times.values()), 1e-9)
        return [
            *_table(rows),
            *self._candidate_lines(),
            "",
            f"calibration loss {self.loss_before:.4f} -> {self.loss_after:.4f}{norms}",
            ", ".join(
                f"{name} {t:.1f} s ({t / total:.0%})" for name, t in times.items()
            )
            + f"; gradient matrix or moments {largest / 2**20:.1f} MiB",
        ]

    def _candidate_lines(self) -> list[str]:
        """By what the stages were decided, where there was a choice."""
        chosen = [
            (number, stage)
            for number, stage in enumerate(self.stages, start=1)
            if stage.candidates
        ]
        names = dict.fromkeys(name for _, stage in chosen for name in stage.candidates)
        if not chosen:
            return []
        rows: list[tuple[str, ...]] = [("loss by candidate; * taken", *names)]
        rows += [
            (
                str(number),
                *(
                    f"{stage.candidates[name]:.4f}{'*' if name == stage.taken else ' '}"
                    if name in stage.candidates
                    else ""
                    for name in names
                ),
            )
            for number, stage in chosen
        ]
        return ["", *_table(rows)]

    def plot(self, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the sparsity of each layer and the loss over the stages.

        Parameters
        ----------
        axes : pair of matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        pair of matplotlib Axes
            The axes drawn on.
        """
        if axes is None:
            import matplotlib.pyplot as plt

            _, pair = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
            axes = pair[0], pair[1]
        left, right = axes
        left.barh([x.name for x in self.layers], [x.sparsity for x in self.layers])
        left.axvline(self.sparsity, color="0.3", linestyle="--", label="total")
        left.invert_yaxis()
        left.set(xlabel="sparsity", xlim=(0, 1), title="Sparsity of each layer")
        left.legend()
        losses = [self.loss_before, *(stage.chosen.loss for stage in self.stages)]
        right.plot(range(len(losses)), losses, marker="o")
        right.set(
            xlabel="stage", ylabel="calibration loss", title="Loss after each stage"
        )
        return axes


def _percent(gap: float) -> str:
    return "" if math.isnan(gap) else f"{gap:.2%}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
