"""One stage by what the layers do: gradients divide the budget, activations solve.

With W0 the dense network's weights, W the present ones, H and g as in `statistics`,

1. *budget*: under one pattern over all layers,

       minimise  1/2 sum_l sum_i g_li (v_li - w_li)' (H_l + mu_l I) (v_li - w_li)

2. *layers*, in the order in which they run, each with as many weights as the budget
   gave it: with x the inputs that the pruned network gives and x0 the dense one's,

       minimise  1/2 sum_i g_i [ mean (v_i'x - w0_i'x0)^2 + mu ||v_i - w_i||^2 ]

   so that each layer makes up for what the layers before it got wrong.

mu is `damping` times the mean of H's diagonal; the calibration loss chooses it, in the
first stage and where the final sparsity is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from chita_sklearn.core import (
    BlockDiagonal,
    Cardinality,
    ManyTargets,
    Pattern,
    Solution,
    fit_support,
    reported,
    solve,
)

from .batches import Sample, joined, n_samples
from .calls import Call, Part
from .gradients import LossFunction, gradient_matrix
from .idle import reserve
from .layout import Layout, Slot
from .lockstep import Lockstep
from .ranks import deal
from .report import LayerFit, Stage, Trial
from .stage import Setting, descend, without_gradient
from .statistics import Moments, collect, gram, place, rows_of

DAMPING = 1e-2  # of the mean of H's diagonal; where the search starts
FAINT = 1e-6  # of the mean of g: least weight of an output
PASSES = 64  # batches that pass through the network side by side
BUNDLE = 256  # columns of a bundle of groups with one output each


class Within(Pattern):
    """A pattern, but only coordinates in ``allowed``: fewer, where it leaves fewer."""

    def __init__(self, pattern: Pattern, allowed: Tensor) -> None:
        self.pattern, self.allowed = pattern, allowed
        self.size = min(pattern.size, int(allowed.sum()))

    def best_mask(self, score: Tensor) -> Tensor:  # noqa: D102
        allowed = self.allowed.to(score.device)
        out = torch.where(allowed, score, -torch.inf)
        return torch.as_tensor(self.pattern.best_mask(out)) & allowed

    def exchangeable(self, support: Tensor, outside: Tensor) -> Tensor:  # noqa: D102
        inner = self.pattern.exchangeable(support, outside)
        allowed = self.allowed.to(outside.device)[outside]
        every = allowed.expand(len(support), len(outside))
        return every if inner is None else torch.as_tensor(inner) & every

    def restrict(self, index: Tensor) -> Within:  # noqa: D102
        return Within(self.pattern.restrict(index), self.allowed[index])


@dataclass(frozen=True)
class Layers:
    """What one pass over the layers gave."""

    weights: Tensor  # flat, shape (p,)
    mask: Tensor
    fits: Mapping[str, LayerFit]


@dataclass
class Reconstruction:
    """Stages of `prune` by reconstruction; `run` makes one of them.

    Attributes
    ----------
    setting : Setting
        Model, data and options; ``setting.loss_fn`` is what is calibrated by.
    layout : Layout
        The chosen weights.
    sample : Sample
        The batches whose inputs are reconstructed.
    differentiate, forward : callable
        ``(model, batch)``: the loss that g is of, and what merely runs the model.
    damping : float or None
        None: chosen by the calibration loss.
    grouped : bool
        Whether the pattern rules each layer by itself (N:M) and not by its size alone.
    held : torch.device, optional
        Where the moments are kept and the budget is divided; default: where layers are
        solved.
    """

    setting: Setting
    layout: Layout
    sample: Sample
    differentiate: LossFunction
    forward: LossFunction
    damping: float | None
    grouped: bool
    held: torch.device | None = None
    dense: Tensor = field(init=False)
    notes: list[str] = field(default_factory=list, init=False)
    _last: float = field(default=DAMPING, init=False)
    _fresh: bool = field(default=True, init=False)  # no damping has been chosen yet
    idle: list[slice] = field(default_factory=list, init=False)  # experts

    def __post_init__(self) -> None:
        self.batches, self.n, self._before = self.sample
        self._passed, self._joined = joined(self.batches, PASSES)
        self._sizes = [n_samples(batch) for batch in self.batches]
        self.dense = self.layout.gather()
        for slot in self.layout.slots:
            if slot.pieces > 1:
                d = slot.row_length
                self.notes.append(
                    f"{slot.name!r} has {slot.pieces * d} inputs: it is solved in "
                    f"{slot.pieces} pieces of {d} columns, each for its own share of "
                    "the dense network's outputs."
                )

    def run(
        self, pattern: Any, loss_before: float, *, last: bool = True
    ) -> tuple[Stage, Tensor]:
        """Prune to ``pattern``, in place.

        Parameters
        ----------
        pattern : pattern of chita_sklearn.core
            On the coordinates of the layout.
        loss_before : float
            Calibration loss of the model as it is (nan without calibration).
        last : bool, default=True
            Whether the final sparsity is reached; before it, quick solves do, and the
            damping that the first stage chose.

        Returns
        -------
        stage : Stage
        mask : Tensor of bool, shape (p,)
            The weights kept.

        Notes
        -----
        Time: a forward and a backward pass over the samples; for each damping tried,
        two forward passes and a solve of each layer. Memory: 8 d^2 bytes for a layer of
        d inputs, all layers together, and the activations of all samples at one layer.
        """
        setting, layout, start = self.setting, self.layout, perf_counter()
        present, noise = layout.gather(), setting.noise()
        moments = self.collect(self.differentiate)
        fisher = self._fisher(unseen(layout, moments))
        if torch.equal(present, self.dense):
            # (What is cut off by what was pruned is no news.)
            live = live_weights(layout, moments, fisher)
            self.idle = without_gradient(setting, layout, live, lambda: self.batches)
        pattern = reserve(pattern, self.idle, len(layout))
        if not setting.regrow:
            pattern = Within(pattern, present != 0)
        seconds = perf_counter() - start
        first = self._last if self.damping is None else self.damping

        def divide() -> Solution:
            return solve(
                self._around(moments, fisher, present, first),
                pattern,
                n_restarts=int(last),
                random_state=setting.random_state,
            )

        budget = setting.ranks.solution(0, divide, len(layout), setting.device)
        divided = perf_counter() - start - seconds
        pruned = torch.as_tensor(budget.coef).to(present)
        mask = _mask(budget).to(present.device)
        for part in () if self.grouped else self.idle:  # the largest, to the digit
            score, n = present[part].abs(), int(mask[part].sum())
            mask[part] = torch.as_tensor(Cardinality(n).best_mask(score)).to(mask)
            pruned[part] = torch.where(mask[part].to(score.device), present[part], 0.0)
        trials: list[Trial] = []
        best: tuple[Trial, Layers] | None = None

        def evaluate(plan: str, damping: float, found: Layers) -> float:
            nonlocal best
            layout.scatter(found.weights)
            loss = setting.loss()
            trial = Trial(plan, damping, False, 1.0, loss)
            trials.append(trial)
            if best is None or not loss >= (1 - noise) * best[0].loss:
                best = trial, found
            layout.scatter(present)
            return loss

        def solved(damping: float) -> tuple[float, Layers]:
            def choose(where: slice, problem: BlockDiagonal) -> Solution:
                wanted = rule(pattern, mask[where], where, self.grouped)
                return solve(
                    problem,
                    wanted,
                    n_restarts=int(last),
                    random_state=setting.random_state,
                )

            found = self.layers(moments, choose, pruned, mask, present, damping)
            return evaluate("layers", damping, found), found

        loss, at_first = solved(first)
        if self.damping is None and setting.data.calibrated and (last or self._fresh):
            self._fresh = False

            # Other dampings are tried on the same support, which takes no search.
            def refitted(damping: float) -> float:
                def choose(where: slice, problem: BlockDiagonal) -> Solution:
                    return fit_support(problem, at_first.mask[where].to(problem.device))

                found = self.layers(moments, choose, pruned, mask, present, damping)
                return evaluate("refit", damping, found)

            self._last, _ = descend(refitted, first, loss, 10.0, noise)
            if self._last != first:
                solved(self._last)
        if setting.data.calibrated:
            evaluate("budget", first, Layers(pruned, mask, {}))
        assert best is not None
        chosen, found = best
        layout.scatter(found.weights)
        stage = Stage(
            layers=tuple(layout.names),
            sparsity=int((~found.mask).sum()) / len(layout),
            n_rows=self.n,
            chosen=chosen,
            trials=tuple(trials),
            loss_before=loss_before,
            predicted_change=budget.objective,
            objective=budget.objective,
            lower_bound=reported(budget.lower_bound),
            solver=chosen.plan,
            message=budget.status.value,
            gradient_method="moments",
            gradient_seconds=seconds,
            solve_seconds=perf_counter() - start - seconds,
            matrix_bytes=sum(8 * its.H.numel() for its in moments.values()),
            fits=found.fits,
            budget_seconds=divided,
        )
        return stage, found.mask

    def collect(self, loss_fn: LossFunction) -> dict[Part, Moments]:
        """See `statistics.collect`."""
        setting = self.setting
        return collect(
            setting.model,
            loss_fn,
            self.batches,
            self.layout,
            self.n,
            setting.ranks,
            self._before,
            self.held,
        )

    def _fisher(self, names: list[str]) -> dict[str, Tensor]:
        """Mean squared gradients of weights that no call has shown, by name."""
        if not names:
            return {}
        note = (
            f"{names} are used by no linear or convolution call, or in more than one "
            "way: they are pruned by their mean squared gradients, not reconstructed."
        )
        if note not in self.notes:
            self.notes.append(note)
        setting, layout = self.setting, self.layout.keep(names)
        n = min(setting.n_gradients, setting.data.n_available)
        own = setting.data.draw(n)
        A = gradient_matrix(
            setting.model,
            self.differentiate,
            own,
            layout,
            len(own),
            samples_per_gradient=setting.data.samples_per_gradient,
            device=setting.device,
        ).A
        squares = setting.ranks.sum(A.double().square().sum(dim=0)) / n
        return {s.name: squares[s.start : s.stop] for s in layout.slots}

    def _around(
        self,
        moments: Mapping[Part, Moments],
        fisher: Mapping[str, Tensor],
        present: Tensor,
        damping: float,
    ) -> BlockDiagonal:
        """The budget's problem, in the order of the layout."""
        device = self.held or self.setting.device
        faint = _faint(moments, fisher)
        problems: list[ManyTargets] = []
        for slot in self.layout.slots:
            flat = present[slot.start : slot.stop].to(device, torch.float64)
            if slot.name in fisher:  # a diagonal: one input, as many outputs as weights
                weights = above_zero(fisher[slot.name].to(device), faint)
                one = flat.new_ones((1, 1))
                problems.append(ManyTargets.around(one, flat[:, None], weights=weights))
                continue
            for part in sorted(_parts_of(slot, moments), key=lambda part: part.start):
                its = moments[part]
                H, W = its.H.to(device), part.split(flat[part.stretch(slot)])
                mu = damping * mean_diagonal(H)
                C = W @ H + mu * W
                constant = 0.5 * (C * W).sum(dim=2)
                g = above_zero(its.g.to(device), faint)
                problems += targets(part, H, C, mu, g, constant)
        return BlockDiagonal(problems)

    def layers(
        self,
        moments: Mapping[Part, Moments],
        choose: Callable[[slice, BlockDiagonal], Solution],
        pruned: Tensor,
        mask: Tensor,
        present: Tensor,
        damping: float,
    ) -> Layers:
        """Solve layer after layer; the model's own weights are left as they are.

        ``choose(where, problem)`` solves for the weights at ``where`` in the flat
        vector. Those that no call shows stay as they are in ``pruned`` and ``mask``; a
        ridge holds the others near ``present``.
        """
        setting, layout = self.setting, self.layout
        flat, mask = pruned.clone(), mask.clone()
        fits: dict[Part, tuple[float, float, Solution, tuple[int, ...]]] = {}
        written = _typed(layout, layout.unflatten(flat))
        passes = Lockstep(
            setting.model,
            self.forward,
            self._passed,
            layout,
            _typed(layout, layout.unflatten(self.dense)),
            written,
            moments,
            setting.ranks,
        )
        owners = self._owners(moments)
        with passes:
            for part, calls in passes:
                its, where, owner = moments[part], place(layout, part), owners[part]
                W0 = part.split(self.dense[where])
                H, cross, energy, owner = self._moments(its, calls, W0, owner)
                size, w = where.stop - where.start, present[where]
                minimise = partial(
                    self._minimise,
                    its,
                    (H, cross, energy),
                    part.split(w.to(H)),
                    damping,
                    partial(choose, where),
                )
                solution = setting.ranks.solution(owner, minimise, size, H.device)
                coef = torch.as_tensor(solution.coef).to(H)
                left = partial(_left, part.split(coef), H, cross, energy)
                error, square = setting.ranks.share(
                    owner, left, H.new_empty(2)
                ).tolist()
                kept = part.split(torch.as_tensor(solution.support)).sum(dim=(1, 2))
                fits[part] = error, square, solution, tuple(kept.tolist())
                flat[where] = coef.to(flat)
                mask[where] = torch.as_tensor(solution.support).to(mask)
                slot = layout.slot(part.name)
                whole = slot.unflatten(flat[slot.start : slot.stop])
                written[part.name] = whole.to(slot.parameter)
                setting.progress("layers", 1)
        return Layers(torch.where(mask, flat, 0.0), mask, _by_layer(fits))

    def _minimise(
        self,
        its: Moments,
        means: tuple[Tensor, Tensor, Tensor],
        W: Tensor,
        damping: float,
        choose: Callable[[BlockDiagonal], Solution],
    ) -> Solution:
        """Solve for the weights of one part, a ridge around W."""
        H, cross, energy = means
        mu = damping * mean_diagonal(H)
        C = cross + mu * W
        constant = 0.5 * (energy + mu * W.square().sum(dim=2))
        g = its.g.to(H)
        return choose(BlockDiagonal(targets(its.part, H, C, mu, g, constant)))

    def _owners(self, moments: Mapping[Part, Moments]) -> dict[Part, int]:
        """The rank that solves each part."""
        costs = [its.H.shape[0] * its.H.shape[-1] ** 3.0 for its in moments.values()]
        owners = deal(costs, self.setting.ranks.size)
        return dict(zip(moments, owners, strict=True))

    def _apart(
        self, calls: list[tuple[int, Call, Call]]
    ) -> Iterator[tuple[Call, Call, int, int]]:
        """Calls on batches that were joined as those on each, samples, and a seed.

        What is drawn and how it is summed up is then the batch's own, whichever it was
        joined with, and on which rank. (Where x does not say which samples are whose,
        as with experts, the calls stay together.)
        """
        for number, call, other in calls:
            some = self._joined[number]
            sizes = [self._sizes[i] for i in some]
            both = call.split(sizes), other.split(sizes)
            if not len(both[0]) == len(both[1]) == len(some):
                yield call, other, sum(sizes), self._before + some[0]
                continue
            for one, dense, size, i in zip(*both, sizes, some, strict=True):
                yield one, dense, size, self._before + i

    def _moments(
        self,
        its: Moments,
        calls: list[tuple[int, Call, Call]],
        W0: Tensor,
        owner: int,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Means of x x', of y0 x' and of each y0^2, with y0 = W0 x0, and who has them.

        Of several ranks, the owner has them.
        """
        device, ranks = self.setting.device, self.setting.ranks
        routed = bool(self.layout.slot(its.part.name).experts)
        H = torch.zeros(its.H.shape, dtype=torch.float64, device=device)
        cross, energy = H.new_zeros(W0.shape), H.new_zeros(W0.shape[:2])
        n = 0
        for call, other, size, seed in self._apart(calls) if its.calls == 1 else ():
            limit = rows_of(W0.shape[-1], size / self.n)
            X, X0 = (each.rows(limit, seed) for each in (call, other))
            if routed or X.shape != X0.shape:  # not of the same samples
                X0 = X
            Y0 = X0 @ W0.to(X0).mT
            H, cross = H + gram(X).to(device), cross + gram(X, Y0).to(device)
            energy = energy + Y0.double().square().sum(dim=1).to(device)
            n += X.shape[1]
        n = 0 if its.calls > 1 else int(ranks.total(n)[0])
        if n == 0:
            # Used again further on, for inputs that are not known yet; or a way that
            # the pruned network no longer takes. (Rank 0 has those of the first pass.)
            H, W = its.H.to(device), W0.to(device, torch.float64)
            return H, W @ H, ((W @ H) * W).sum(dim=2), 0
        H, cross, energy = (ranks.reduce(x, owner) for x in (H, cross, energy))
        return H / n, cross / n, energy / n, owner


def _left(V: Tensor, H: Tensor, cross: Tensor, energy: Tensor) -> Tensor:
    """Mean squared error of a part's outputs, and their mean square."""
    square = energy.sum()
    return torch.stack([((V @ H - 2 * cross) * V).sum() + square, square])


def _by_layer(
    fits: Mapping[Part, tuple[float, float, Solution, tuple[int, ...]]],
) -> dict[str, LayerFit]:
    """Put together what was solved of each layer: error, square, solution, kept."""
    found = {}
    for name in dict.fromkeys(part.name for part in fits):
        parts = sorted((p for p in fits if p.name == name), key=lambda p: p.start)
        errors, squares, solutions, kept = zip(*(fits[p] for p in parts), strict=True)
        bound = sum(solution.lower_bound for solution in solutions)
        found[name] = LayerFit(
            error=max(sum(errors), 0.0) / max(sum(squares), 1e-300),
            objective=sum(solution.objective for solution in solutions),
            lower_bound=reported(bound),
            kept=tuple(number for numbers in kept for number in numbers),
        )
    return found


def unseen(layout: Layout, moments: Mapping[Part, Moments]) -> list[str]:
    """Names of weights that the calls do not show whole, and once each row."""
    found = []
    for slot in layout.slots:
        covered = torch.zeros(slot.size, dtype=torch.int64, device="cpu")
        for part in _parts_of(slot, moments):
            covered[part.stretch(slot)] += 1
        if not bool((covered == 1).all()):
            found.append(slot.name)
    return found


def rule(pattern: Any, mask: Tensor, where: slice, grouped: bool) -> Any:
    """The pattern of one part: that of all on its weights, or as many as it was given.

    ``mask`` is what the budget kept of them, which obeys floors and limits.
    """
    if grouped:
        return pattern.restrict(torch.arange(where.start, where.stop, device="cpu"))
    count: Pattern = Cardinality(int(mask.sum()))
    if isinstance(pattern, Within):
        return Within(count, pattern.allowed[where])
    return count


def targets(
    part: Part,
    H: Tensor,
    C: Tensor,
    mu: float,
    g: Tensor,
    constant: Tensor | None = None,
) -> list[ManyTargets]:
    """The problems of a part's groups, their coordinates in the order of the layout.

    Parameters
    ----------
    part : Part
    H, C : Tensor, shape (groups, d, d) and (groups, t, d)
    mu : float
    g : Tensor, shape (groups, t)
    constant : Tensor, shape (groups, t), optional
        Of each output.
    """
    g = above_zero(g)
    if constant is None:
        constant = torch.zeros_like(g)
    groups, t, d = C.shape
    if part.inputs:
        # A row holds the weights of one output of every group: their Grams side by
        # side, and the mean of their g.
        index = torch.arange(d * groups, device=H.device)
        index = index.reshape(-1, groups, part.inputs).movedim(1, 0).reshape(groups, d)
        whole = H.new_zeros((d * groups, d * groups))
        row = H.new_empty((t, d * groups))
        for j in range(groups):
            whole[index[j][:, None], index[j]] = H[j]
            row[:, index[j]] = C[j]
        mean, sums = g.mean(dim=0), constant.sum(dim=0)
        total = float((mean * sums).sum())
        return [ManyTargets(whole, row, mu=mu, weights=mean, constant=total)]
    if t > 1 or groups == 1:
        return [
            ManyTargets(
                H[j],
                C[j],
                mu=mu,
                weights=g[j],
                constant=float((g[j] * constant[j]).sum()),
            )
            for j in range(groups)
        ]
    # Depthwise: many small groups of one output are one output of a larger Gram.
    eye = torch.eye(d, dtype=H.dtype, device=H.device)
    bundles = []
    for some in torch.arange(groups, device=H.device).split(max(1, BUNDLE // d)):
        weighted = g[some, 0, None, None] * (H[some] + mu * eye)
        row = (g[some] * C[some, 0]).reshape(1, -1)
        total = float((g[some, 0] * constant[some, 0]).sum())
        bundles.append(ManyTargets(torch.block_diag(*weighted), row, constant=total))
    return bundles


def mean_diagonal(H: Tensor) -> float:
    """Mean of the diagonals of H."""
    return float(H.diagonal(dim1=-2, dim2=-1).mean())


def above_zero(g: Tensor, least: float = 1.0) -> Tensor:
    """Outputs that the loss does not depend on count next to nothing, but not zero.

    Where it depends on none of them, each counts ``least``.
    """
    mean = float(g.mean())
    return g.clamp_min(FAINT * mean) if mean > 0 else torch.full_like(g, least)


def _faint(moments: Mapping[Part, Moments], fisher: Mapping[str, Tensor]) -> float:
    """What counts next to nothing beside all layers that the loss depends on."""
    means = [float(its.g.mean()) for its in moments.values()]
    means += [float(squares.mean()) for squares in fisher.values()]
    return FAINT * min((mean for mean in means if mean > 0), default=1.0)


def live_weights(
    layout: Layout, moments: Mapping[Part, Moments], fisher: Mapping[str, Tensor]
) -> Tensor:
    """Which weights, ``(p,)``, the loss depends on, as far as its gradients say."""
    live = torch.zeros(len(layout), dtype=torch.bool, device=layout.device)
    for part, its in moments.items():
        live[place(layout, part)] = bool(its.g.any())
    for name, squares in fisher.items():
        slot = layout.slot(name)
        live[slot.start : slot.stop] = (squares > 0).to(live.device)
    return live


def _parts_of(slot: Slot, moments: Mapping[Part, Moments]) -> list[Part]:
    return [part for part in moments if part.name == slot.name]


def _mask(solution: Solution) -> Tensor:
    return torch.as_tensor(solution.support).clone()


def _typed(layout: Layout, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the type and at the place of the parameters."""
    return {s.name: weights[s.name].to(s.parameter) for s in layout.slots}
