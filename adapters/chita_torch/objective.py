"""What a stage of `prune` minimises: gradients, reconstruction, or what loses least."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from .gradients import NotFinite
from .idle import reserve
from .layout import Layout
from .reconstruction import Reconstruction
from .report import LayerFit, Stage, Trial
from .stage import Search, Setting, run_stage
from .targets import Target

ObjectiveName = Literal["auto", "reconstruction", "gradients"]
OBJECTIVES = get_args(ObjectiveName)
ANEW = "in one step"  # reconstruction of the dense network, where stages end


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
        pattern = target.at(fraction)
        return self._reconstruction.run(pattern, loss, last=fraction == 1)


class ByLoss:
    """Each stage by the candidate of the least calibration loss.

    Tried are the layers' reconstruction, a step by gradients after it, in stages a step
    by gradients instead of it, and the largest weights as they are: of the present
    network, and, where the final sparsity is reached, of the dense one, which is then
    also reconstructed in one step. So what is left never has a higher calibration loss
    than magnitude pruning leaves, nor than reconstruction in one stage. What stages
    reconstruct is the network of the least loss so far: the dense one, or what
    gradients have made of it. On the way to the final sparsity, what has lost clearly
    is not tried in the next stage.

    Parameters
    ----------
    setting : Setting
        Model, data and options.
    search : Search or None
        Of the steps by gradients; None: none are taken.
    reconstruction : Reconstruction
        Of the layers.
    recalibrated : callable or None
        ``recalibrated()`` is the calibration loss of the model as it is, with the
        BatchNorm statistics that it will be given in the end whatever they do to the
        loss; None: it is left as it is, or given others only where they help.
    """

    def __init__(
        self,
        setting: Setting,
        search: Search | None,
        reconstruction: Reconstruction,
        recalibrated: Callable[[], float] | None,
    ) -> None:
        self.notes = reconstruction.notes
        self._setting, self._reconstruction = setting, reconstruction
        self._recalibrated = recalibrated
        self._dense = reconstruction.dense
        self._search: Search | None = None
        if search is not None:  # of one stage the step is but a candidate
            self._search = replace(search, fine=setting.staged)
        self._least = math.inf  # the loss of the network that is reconstructed
        self._sits_out = False  # a step by gradients instead of the reconstruction
        self._arrived = False  # at the final sparsity

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """Try all; leave the model at the best."""
        layout, pattern, last = target.layout, target.at(fraction), fraction == 1
        start = layout.gather()
        if loss < self._least:
            self._least, self._reconstruction.dense = loss, start
        found: dict[str, tuple[Stage, Tensor, Tensor]] = {}
        losses: dict[str, float] = {}
        fits: dict[str, Mapping[str, LayerFit]] = {}

        def offer(name: str, done: tuple[Stage, Tensor] | None) -> None:
            if done is not None:
                found[name] = (*done, layout.gather())
                losses[name] = done[0].chosen.loss
                if last and self._recalibrated is not None:
                    losses[name] = self._recalibrated()

        def reconstruct(name: str, by: Reconstruction, loss: float) -> Stage:
            stage, mask = by.run(pattern, loss, last=last)
            offer(name, (stage, mask))
            reached = stage.chosen.loss
            offer(f"{name}, gradients", self._step(layout, pattern, reached))
            fits[name] = fits[f"{name}, gradients"] = stage.fits
            return stage

        first = reconstruct("reconstruction", self._reconstruction, loss)
        if self._setting.staged and (last or not self._sits_out):
            layout.scatter(start)
            offer("gradients", self._step(layout, pattern, loss))
        others = [each for name, each in losses.items() if name != "gradients"]
        alone = _or_infinite(losses.get("gradients", -math.inf))
        least = min(map(_or_infinite, others))
        self._sits_out = alone > (1 + self._setting.noise()) * least
        largest = {"magnitude": self._dense} if last else {}
        if not torch.equal(start, self._dense) or not largest:
            largest["largest as they are"] = start
        for name, weights in largest.items():
            shared = reserve(pattern, self._reconstruction.idle, len(layout))
            offer(name, self._largest(layout, shared, weights, first))
        if last and not self._arrived and self._setting.regrow:
            # Many steps may lead further than one, and they may lead astray.
            if not torch.equal(start, self._dense):
                layout.scatter(self._dense)
                with without_news():
                    again = replace(self._reconstruction)  # nothing is learned yet
                    reconstruct(ANEW, again, self._setting.loss())
            self._arrived = True
        taken = min(losses, key=lambda name: _or_infinite(losses[name]))
        if not math.isfinite(losses[taken]):
            msg = (
                f"the calibration loss is {losses[taken]} whatever is tried: prune in "
                "more stages, or look for overflow in loss_fn."
            )
            raise ValueError(msg)
        stage, mask, weights = found[taken]
        layout.scatter(weights)
        stages = [each for each, _, _ in found.values()]
        stage = replace(
            stage,
            taken=taken,
            candidates=losses,
            trials=tuple(trial for each in stages for trial in each.trials),
            loss_before=loss,
            fits=fits.get(taken, {}),
            gradient_seconds=sum(each.gradient_seconds for each in stages),
            budget_seconds=first.budget_seconds,
            solve_seconds=sum(each.solve_seconds for each in stages),
        )
        return stage, mask

    def _step(
        self, layout: Layout, pattern: Any, loss: float
    ) -> tuple[Stage, Tensor] | None:
        search = self._search
        if search is None:
            return None
        try:
            with without_news():
                return run_stage(self._setting, layout, pattern, search, loss)
        except MemoryError as error:
            self._search = None
            self.notes.append(f"objective='auto' went without gradients: {error}")
        except NotFinite as error:
            self.notes.append(f"a step by gradients was left out: {error}")
        return None

    def _largest(
        self, layout: Layout, pattern: Any, weights: Tensor, like: Stage
    ) -> tuple[Stage, Tensor]:
        """The largest of some weights as they are, written to the model."""
        score = weights.abs()
        if not self._setting.regrow:
            score = torch.where(weights != 0, score, -torch.inf)
        mask = torch.as_tensor(pattern.best_mask(score), device=weights.device)
        if not self._setting.regrow:
            mask &= weights != 0
        layout.scatter(torch.where(mask, weights, 0.0))
        setting = self._setting
        loss = setting.loss()
        trial = Trial("magnitude", 0.0, False, 1.0, loss)
        stage = replace(
            like,
            chosen=trial,
            trials=(trial,),
            sparsity=int((~mask).sum()) / len(layout),
            solver="magnitude",
            objective=math.nan,
            lower_bound=math.nan,
            predicted_change=math.nan,
            message="The largest weights are kept as they are.",
            gradient_seconds=0.0,
            solve_seconds=0.0,
            fits={},
            budget_seconds=0.0,
        )
        return stage, mask


@contextmanager
def without_news() -> Iterator[None]:
    """Do not warn again of what is cut off; see `Reconstruction`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the loss does not depend")
        yield


def _or_infinite(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss
