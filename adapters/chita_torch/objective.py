"""What a stage of `prune` minimises: gradients, reconstruction, or what loses least."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from .layout import Layout
from .reconstruction import Reconstruction
from .report import Stage, Trial
from .stage import Search, Setting, run_stage
from .state import mean_loss
from .targets import Target

ObjectiveName = Literal["auto", "reconstruction", "gradients"]
OBJECTIVES = get_args(ObjectiveName)


class Objective(Protocol):
    """Prunes one target in place, some of the way."""

    notes: list[str]

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """Return what was done and the weights kept; ``loss`` is that before."""


class ByGradients:
    """The model of the loss by gradients, all weights of a target in one problem."""

    def __init__(self, setting: Setting, search: Search) -> None:
        self.notes: list[str] = []
        self._setting, self._search = setting, search
        self._searches: dict[int, Search] = {}

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """See `run_stage`."""
        search = self._searches.setdefault(id(target), replace(self._search))
        pattern = target.at(fraction)
        return run_stage(self._setting, target.layout, pattern, search, loss)


class ByReconstruction:
    """The outputs of the layers, one after the other; see `reconstruction`."""

    def __init__(self, reconstruction: Reconstruction) -> None:
        self.notes = reconstruction.notes
        self._reconstruction = reconstruction

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """See `Reconstruction.run`."""
        return self._reconstruction.run(target.at(fraction), loss)


class ByLoss:
    """Each stage by the candidate of the least calibration loss.

    Tried are the layers' reconstruction, a step by gradients after it, in stages a step
    by gradients instead of it, and the largest weights as they are. What gradients have
    trained is what the next stage reconstructs.
    """

    def __init__(
        self, setting: Setting, search: Search, reconstruction: Reconstruction
    ) -> None:
        self.notes = reconstruction.notes
        self._setting, self._reconstruction = setting, reconstruction
        self._after, self._instead = replace(search), replace(search)
        self._trained = False
        self._gradients = True

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """Try all; leave the model at the best."""
        layout, pattern = target.layout, target.at(fraction)
        start = layout.gather()
        if self._trained:
            self._reconstruction.dense = start
        found = [(*self._reconstruction.run(pattern, loss), layout.gather(), False)]
        reached = found[0][0].chosen.loss
        after = self._step(layout, pattern, self._after, reached)
        if after is not None:
            found.append((*after, layout.gather(), after[0].chosen.step > 0))
        if after is not None and self._setting.staged:
            layout.scatter(start)
            instead = self._step(layout, pattern, self._instead, loss)
            if instead is not None:
                found.append((*instead, layout.gather(), True))
        found.append((*self._largest(layout, pattern, start, found[0][0]), False))
        best = min(found, key=_loss)
        stage, mask, weights, self._trained = (*best[:3], best[3] or self._trained)
        layout.scatter(weights)
        trials = tuple(trial for it in found for trial in it[0].trials)
        seconds = sum(it[0].gradient_seconds for it in found)
        solving = sum(it[0].solve_seconds for it in found)
        stage = replace(
            stage,
            trials=trials,
            loss_before=loss,
            errors=found[0][0].errors if best[0] is not found[-1][0] else {},
            gradient_seconds=seconds,
            solve_seconds=solving,
        )
        return stage, mask

    def _step(
        self, layout: Layout, pattern: Any, search: Search, loss: float
    ) -> tuple[Stage, Tensor] | None:
        if not self._gradients:
            return None
        try:
            with warnings.catch_warnings():
                # What is cut off by what was pruned is no news; see `Reconstruction`.
                warnings.filterwarnings("ignore", message="the loss does not depend")
                return run_stage(self._setting, layout, pattern, search, loss)
        except MemoryError as error:
            self._gradients = False
            self.notes.append(f"objective='auto' went without gradients: {error}")
            return None

    def _largest(
        self, layout: Layout, pattern: Any, start: Tensor, like: Stage
    ) -> tuple[Stage, Tensor, Tensor]:
        """Magnitude pruning, as a candidate."""
        score = start.abs()
        if not self._setting.regrow:
            score = torch.where(start != 0, score, -torch.inf)
        mask = torch.as_tensor(pattern.best_mask(score), device=start.device)
        if not self._setting.regrow:
            mask &= start != 0
        weights = torch.where(mask, start, 0.0)
        layout.scatter(weights)
        setting = self._setting
        loss = mean_loss(setting.model, setting.loss_fn, setting.data.calibration)
        trial = Trial("magnitude", 0.0, False, 1.0, loss)
        stage = replace(
            like,
            chosen=trial,
            trials=(trial,),
            solver="magnitude",
            objective=math.nan,
            lower_bound=math.nan,
            predicted_change=math.nan,
            message="The largest weights are kept as they are.",
            gradient_seconds=0.0,
            solve_seconds=0.0,
            errors={},
        )
        return stage, mask, weights


def _loss(candidate: tuple) -> float:
    loss = candidate[0].chosen.loss
    return math.inf if math.isnan(loss) else loss
