"""One stage: gradients at the current weights, candidates, the best one written.

With w_bar the current weights, c = 1/sqrt(B) where the first-order term is used and
0 where it is not, the loss is modelled by

    F(w) - F(w_bar) = 1/(2n) ( ||A (w - w_bar) + c 1||^2 - ||c 1||^2 )

and ``n F(w) + n ridge/2 ||w - w_bar||^2`` is minimised under the pattern by
`chita_sklearn.core`. By which plan, with which ridge, whether with c, and how far to go
along the step is decided by the true loss on the calibration batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from chita_sklearn.core import (
    BlockLeastSquares,
    LeastSquares,
    Solution,
    reported,
    solve,
)

from .batches import Batches, n_samples
from .gradients import (
    Gradients,
    LossFunction,
    NotFinite,
    check_memory,
    gradient_matrix,
    matrix_bytes,
)
from .idle import (
    TRIED,
    check_reached,
    idle_experts,
    reserve,
    warn_of_idle,
    warn_of_unused,
)
from .layout import Layout
from .ranks import Ranks
from .report import Stage, Trial
from .state import mean_loss

MAX_MOVES = 6  # of ridge in one direction
MAX_HALVINGS = 4  # of a step
# Of the calibration loss: however few the samples, a choice that gains more is taken.
# (Of 100 images the standard errors between dampings were 6 to 18 %: ResNet-20, 90 %.)
MOST_NOISE = 0.1


@dataclass
class Search:
    """Which plan, ridge and first-order term a stage takes: those of the least loss.

    In the first stage the ridge is sought with one plan, from the mean curvature by
    powers of ten, in the direction in which the loss falls; then the other plans are
    tried at the ridge found, and go on from it where they are better. The first-order
    term is left out as well where the loss rises with it: near a minimum it is mostly
    noise. The ridges with and without it are orders apart.

    Each stage after the first begins with what won before and changes the plan or the
    ridge, one at a time, until `patience` changes in a row have not gained. The next
    stage goes on with the change after these.
    """

    ridge: float | None  # None: to be chosen
    first_order: bool | None
    fine: bool = True  # whether by half powers of ten in the end
    patience: int = 3
    # The plan and ridge of the stage before, with the first-order term and without.
    last: dict[bool, tuple[str, float]] = field(default_factory=dict, init=False)
    _turn: int = field(default=0, init=False)  # which change is tried next

    def run(
        self,
        evaluate: Callable[[bool, str, float], float],
        plans: Callable[[bool], Sequence[str]],
        curvature: float,
        loss_before: float,
    ) -> None:
        """Call ``evaluate(first_order, plan, ridge) -> loss`` for each candidate.

        ``plans(first_order)`` are those to try; ``curvature`` is the mean of h_j / n.
        """
        choices = (True, False) if self.first_order is None else (self.first_order,)
        for first_order in choices:
            loss_at = partial(evaluate, first_order)
            if first_order in self.last:
                found, least = self._change(loss_at, plans(first_order), first_order)
            else:
                found, least = self._first(loss_at, plans(first_order), curvature)
            self.last[first_order] = found
            if least < loss_before:
                break

    def _first(
        self,
        loss_at: Callable[[str, float], float],
        plans: Sequence[str],
        curvature: float,
    ) -> tuple[tuple[str, float], float]:
        """Return the plan and ridge of the least loss, and that, with nothing known."""
        (plan, *others), ridge = plans, self.ridge
        if ridge is None:
            ridge = 10.0 ** (round(math.log10(curvature)) if curvature > 0 else 0)
            least = loss_at(plan, ridge)
            ridge, least = descend(partial(loss_at, plan), ridge, least, 10.0)
        else:
            least = loss_at(plan, ridge)
        ridge, least = self._refine(partial(loss_at, plan), ridge, least)
        for other in others:
            loss = loss_at(other, ridge)
            if loss < least:
                plan = other
                ridge, least = self._refine(partial(loss_at, plan), ridge, loss)
        return (plan, ridge), least

    def _change(
        self,
        loss_at: Callable[[str, float], float],
        plans: Sequence[str],
        first_order: bool,
    ) -> tuple[tuple[str, float], float]:
        """Return the best of what won before and changes of it, and its loss."""
        found = self.last[first_order]
        least, failed = loss_at(*found), 0
        while failed < self.patience and (changes := self._changes(found, plans)):
            change = changes[self._turn % len(changes)]
            loss = loss_at(*change)
            if loss < least:
                found, least, failed = change, loss, 0
            else:
                failed, self._turn = failed + 1, self._turn + 1
        return found, least

    def _changes(
        self, found: tuple[str, float], plans: Sequence[str]
    ) -> list[tuple[str, float]]:
        """What differs from a plan and ridge in one of them."""
        plan, ridge = found
        changes = [(other, ridge) for other in plans if other != plan]
        if self.ridge is None:
            root = math.sqrt(10.0)
            changes += [(plan, ridge * root), (plan, ridge / root)]
        return changes

    def _refine(
        self, loss_at: Callable[[float], float], ridge: float, least: float
    ) -> tuple[float, float]:
        """Seek a better ridge nearby, unless it is given or near enough."""
        if self.ridge is not None or not self.fine:
            return ridge, least
        return descend(loss_at, ridge, least, math.sqrt(10.0))


def descend(
    loss_at: Callable[[float], float],
    ridge: float,
    least: float,
    factor: float,
    gain: float = 0.0,
) -> tuple[float, float]:
    """Multiply or divide ``ridge`` by ``factor`` as long as the loss falls.

    By more than ``gain`` of it each time.
    """
    for ratio in (factor, 1 / factor):
        moved = False
        for _ in range(MAX_MOVES):
            loss = loss_at(ridge * ratio)
            if not (loss < (1 - gain) * least or math.isnan(least)):
                break
            ridge, least, moved = ridge * ratio, loss, True
        if moved:
            break  # this was the way down
    return ridge, least


@dataclass(frozen=True)
class Setting:
    """What stays the same from stage to stage."""

    model: nn.Module
    loss_fn: LossFunction
    data: Batches
    n_gradients: int
    solver: str
    staged: bool  # one of several
    regrow: bool
    block_size: int | None
    device: torch.device
    random_state: int
    progress: Callable[[str, int], object]  # takes what was done, and how many of them
    used: set[str] = field(default_factory=set)  # weights that have had a gradient
    ranks: Ranks = field(default_factory=Ranks)  # this process alone

    def loss(self) -> float:
        """Calibration loss of the model as it is; nan without calibration."""
        held = self.data.calibration
        return mean_loss(self.model, self.loss_fn, held, self.ranks)

    def noise(self) -> float:
        """Share of the calibration loss that another choice must gain.

        About the standard error of the difference over its n samples: 1 / sqrt(n).
        """
        held = sum(n_samples(batch) for batch in self.data.calibration)
        (n,) = self.ranks.total(held)
        return min(1 / math.sqrt(max(n, 1)), MOST_NOISE)

    def plans(self, first_order: bool, *, ridge: float | None) -> tuple[str, ...]:
        """Return the core's plans to choose from, only the first without calibration.

        With a first-order term, which is to be trusted near w_bar only, the support of
        the dense step may lead further over the stages than the model's minimiser.
        Without one the dense step is none.
        """
        if self.solver != "auto":
            return (self.solver,)
        if ridge == 0:
            return ("dense",)  # the dual ascent needs one
        if not (self.staged and first_order):
            return ("dual",)
        return ("dense", "dual") if self.data.calibrated else ("dense",)


def run_stage(
    setting: Setting, layout: Layout, pattern: Any, search: Search, loss_before: float
) -> tuple[Stage, Tensor]:
    """Prune the weights of ``layout`` to ``pattern``, in place.

    Parameters
    ----------
    setting : Setting
        Model, data and options.
    layout : Layout
        The weights of this stage, ``p`` in all.
    pattern : pattern of chita_sklearn.core
        On the coordinates of ``layout``.
    search : Search
        What to try; its ``last`` is updated.
    loss_before : float
        Calibration loss of the model as it is (nan without calibration).

    Returns
    -------
    stage : Stage
        What was tried and chosen.
    mask : Tensor of bool, shape (p,)
        The weights kept.

    Notes
    -----
    Time: n gradients of B samples, one solve per candidate, one calibration loss per
    candidate and halving. Memory: A, and what the solver needs beside it.
    """
    data, B, ranks = setting.data, setting.data.samples_per_gradient, setting.ranks
    n = min(setting.n_gradients, data.n_available)
    gradients = ranks.everywhere(
        lambda: rows_of_stage(setting, layout, n), MemoryError, NotFinite, ValueError
    )
    start = perf_counter()
    # One rank has all rows, and solves; what it finds is known to all.
    A = ranks.gather_to(0, gradients.A)
    w_bar = layout.gather().to(A)
    curvature = ranks.share(0, lambda: squared_norms(A), w_bar)
    live = curvature > 0
    idle = without_gradient(
        setting, layout, live, lambda: data.sample(TRIED * B).batches
    )
    pattern = reserve(pattern, idle, len(layout))
    if not setting.regrow:
        # A pruned weight stays so: with no gradient it has nothing to return for.
        live &= w_bar != 0
        A.masked_fill_(~live, 0.0)
    # Where the gradient is zero the centre is zero too: such a weight is worth
    # nothing to the model of the loss, and is the first to go.
    prior = torch.where(live, w_bar, 0.0)
    mean_curvature = float(curvature.sum()) / n / max(int(live.sum()), 1)
    model: LossModel | None = None
    if ranks.rank == 0:
        model = LossModel(A, prior, _blocks(layout, setting.block_size))
    trials: list[Trial] = []
    best: tuple[Trial, Solution, Tensor, Tensor] | None = None

    def minimise(first_order: bool, plan: str, ridge: float) -> Solution:
        assert model is not None
        return solve(
            model.problem(ridge, 1 / math.sqrt(B) if first_order else 0.0),
            pattern,
            solver=plan,
            random_state=setting.random_state,
        )

    def evaluate(first_order: bool, plan: str, ridge: float) -> float:
        nonlocal best
        found = partial(minimise, first_order, plan, ridge)
        solution = ranks.solution(0, found, len(layout), A.device)
        coef = torch.as_tensor(solution.coef, dtype=A.dtype, device=A.device)
        mask = _complete(pattern, solution, live, w_bar)
        full = torch.where(live, coef, w_bar)
        least = math.nan
        for step in _steps(halve=not math.isnan(loss_before)):
            weights = torch.where(mask, w_bar + step * (full - w_bar), 0.0)
            layout.scatter(weights)
            loss = setting.loss()
            trial = Trial(plan, ridge, first_order, step, loss)
            trials.append(trial)
            if best is None or loss < best[0].loss or math.isnan(best[0].loss):
                best = trial, solution, mask, weights
            if loss >= least:
                break
            least = loss
        return least

    plans = partial(setting.plans, ridge=search.ridge)
    search.run(evaluate, plans, mean_curvature, loss_before)
    assert best is not None
    chosen, solution, mask, weights = best
    if not math.isnan(loss_before):
        if not math.isfinite(chosen.loss):
            msg = (
                f"the calibration loss is {chosen.loss} at every ridge tried: raise "
                "ridge, prune in more stages, or look for overflow in loss_fn."
            )
            raise NotFinite(msg)
        present = _as_mask(pattern, w_bar.abs())
        if chosen.loss > loss_before and not bool((w_bar[~present] != 0).any()):
            # Sparse enough already, and no candidate is better: stay.
            chosen = replace(chosen, step=0.0, loss=loss_before)
            trials.append(chosen)
            mask, weights = present, w_bar
    layout.scatter(weights)
    if not setting.regrow:
        mask = mask & (w_bar != 0)  # sparser than asked, where the model was before
    if chosen.step == 0:
        search.last.clear()  # these led nowhere
    c = 1 / math.sqrt(B) if chosen.first_order else 0.0
    shift = ranks.share(0, lambda: A @ (weights - w_bar) + c, A.new_empty(n))
    stage = Stage(
        layers=tuple(layout.names),
        sparsity=int((~mask).sum()) / len(layout),
        n_rows=n,
        chosen=chosen,
        trials=tuple(trials),
        loss_before=loss_before,
        predicted_change=_predicted_change(shift, chosen.first_order, B),
        objective=solution.objective,
        lower_bound=reported(solution.lower_bound),
        solver=chosen.plan,
        message=solution.status.value,
        gradient_method=gradients.method,
        gradient_seconds=gradients.seconds,
        solve_seconds=perf_counter() - start,
        matrix_bytes=matrix_bytes(n, len(layout), A.dtype),
    )
    return stage, mask


def without_gradient(
    setting: Setting,
    layout: Layout,
    live: Tensor,
    batches: Callable[[], Iterable[Any]],
) -> list[slice]:
    """Say which layers have no gradient, and refuse those that should have one.

    Parameters
    ----------
    setting : Setting
        Its ``used`` is updated.
    layout : Layout
    live : Tensor of bool, shape (p,)
        The weights that have a gradient.
    batches : callable
        Gives batches to try the loss on.

    Returns
    -------
    list of slice
        Where the weights of idle experts are.
    """
    dead = [s.name for s in layout.slots if not bool(live[s.start : s.stop].any())]
    setting.used.update(set(layout.names) - set(dead))
    if dead:
        check_reached(setting.model, setting.loss_fn, layout, dead, batches())
    idle = idle_experts(layout, live)
    warn_of_idle(idle)
    warn_of_unused([n for n in dead if not idle.keys() & {*layout.slot(n).experts}])
    return [part for parts in idle.values() for part in parts]


def rows_of_stage(setting: Setting, layout: Layout, n: int) -> Gradients:
    """Compute those of the n rows of the gradient matrix that are this rank's."""
    ranks, data = setting.ranks, setting.data
    if ranks.size > 1 and ranks.rank == 0:  # where all of them are gathered
        check_memory(n, layout, layout.gather().dtype, setting.device)
    micro_batches = data.draw(n)
    with closing(micro_batches):  # it holds torch's random state
        return gradient_matrix(
            setting.model,
            setting.loss_fn,
            micro_batches,
            layout,
            len(micro_batches),
            samples_per_gradient=data.samples_per_gradient,
            device=setting.device,
            on_row=partial(setting.progress, "rows"),
        )


def squared_norms(A: Tensor) -> Tensor:
    """h_j = ||a_j||^2, shape (p,)."""
    return torch.linalg.vector_norm(A, dim=0) ** 2


def _steps(*, halve: bool) -> Iterator[float]:
    """Shares of the full step to try, until one does not help."""
    yield 1.0
    if halve:
        for exponent in range(1, MAX_HALVINGS + 1):
            yield 0.5**exponent


class LossModel:
    """The quadratic model of the loss around w_bar, for any ridge and c.

    One problem, or one per block; all share A and what a solve keeps of A A'.
    """

    def __init__(self, A: Tensor, prior: Tensor, blocks: list[slice]) -> None:
        parts = [(A[:, block], prior[block]) for block in blocks]
        self._centres = [A_block @ w for A_block, w in parts]  # A w_bar
        self._problems = [
            LeastSquares(A_block, b, prior=w)
            for (A_block, w), b in zip(parts, self._centres, strict=True)
        ]

    def problem(self, ridge: float, c: float) -> Any:
        """Return the least-squares problem, b = A w_bar - c."""
        # Each block sees the whole loss: a first-order term that is not shared out
        # would have every block take the whole step.
        share = c / len(self._problems)
        self._problems = [
            problem.with_target(centre - share, ridge=ridge)
            for problem, centre in zip(self._problems, self._centres, strict=True)
        ]
        if len(self._problems) == 1:
            return self._problems[0]
        return BlockLeastSquares(self._problems)


def _blocks(layout: Layout, block_size: int | None) -> list[slice]:
    """Consecutive stretches of at most ``block_size``, none across two layers."""
    if block_size is None:
        return [slice(0, len(layout))]
    return [
        slice(i, min(i + block_size, slot.stop))
        for slot in layout.slots
        for i in range(slot.start, slot.stop, block_size)
    ]


def _complete(pattern: Any, solution: Solution, live: Tensor, w_bar: Tensor) -> Tensor:
    """Return the support at its exact size.

    Where fewer weights have a gradient than are to be kept, the largest of the rest
    are kept as they are.
    """
    chosen = torch.as_tensor(solution.support, device=live.device) & live
    spare = torch.where(live, -1.0, w_bar.abs() / (1 + w_bar.abs()))
    score = torch.where(chosen, 2.0, spare.double())
    return _as_mask(pattern, score)


def _as_mask(pattern: Any, score: Tensor) -> Tensor:
    return torch.as_tensor(pattern.best_mask(score), device=score.device)


def _predicted_change(shift: Tensor, first_order: bool, B: int) -> float:
    square = float(shift.double().square().mean())
    return 0.5 * (square - (1 / B if first_order else 0.0))
