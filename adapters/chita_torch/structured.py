"""Whole units, by what the layers that read them can make up for.

Of a unit that is gone (`units`), the columns that read it are zero, and what feeds it
does not matter. No weight of the layers that feed it can make up for that; the other
columns of those that read it can. With x the inputs of a reader r, H, g and mu as in
`reconstruction`, W its weights, and S the columns of the units kept,

    E_r(S) = min_V  1/2 sum_i g_i (v_i - w_i)'(H + mu I)(v_i - w_i) / E_r(none),
             V zero outside S,

the share of its outputs that no V can give back. A family of units is read by one or
several layers, whose E_r are added up.

1. *order*: in each family unit after unit is removed, the one that adds least to E
   (`GroupSearch.backward`).
2. *budget*: what is removed next is the first of that family whose E rises least for
   what it saves, until the budget is met; each family keeps one unit at least.
3. *choice*: from the last family to the first, for E without the rows that are gone
   already, the number so found is chosen again and units are exchanged while E falls.
4. *weights*: layer after layer, as in `reconstruction`, all weights that are left are
   refitted for the outputs that the dense network gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.optimize import isotonic_regression
from torch import Tensor

from chita_sklearn.core import BlockDiagonal, Solution, fit_support
from chita_sklearn.core.search.groups import GroupSearch

from .calls import Part
from .costs import Cost, costs_of
from .layout import Layout
from .reconstruction import (
    DAMPING,
    Layers,
    Reconstruction,
    above_zero,
    live_weights,
    mean_diagonal,
    unseen,
)
from .report import Stage, Trial, UnitsReport
from .stage import descend, without_gradient
from .statistics import Moments, place
from .targets import ROUNDING, Target, kept, sparsity_on_the_way
from .tracing import find_families
from .units import Family, Unit, kept_by

EXCHANGED = 1000  # columns up to which units are exchanged
EXCHANGES = 50  # in each family, at most
SIZED = 4  # batches whose operations are counted


@dataclass(frozen=True)
class Removal:
    """In which order the units of a family go, and how E rises with each."""

    order: list[int]
    rises: np.ndarray  # shape (units,)


class ByUnits:
    """The objective of ``pattern="units"``; see the module.

    Parameters
    ----------
    reconstruction : Reconstruction
        Of all chosen weights.
    cost : str or dict
        What a sparsity is a share of, as in `prune`.
    """

    def __init__(self, reconstruction: Reconstruction, cost: Cost) -> None:
        self.notes = reconstruction.notes
        self._reconstruction = reconstruction
        self._setting, self._layout = reconstruction.setting, reconstruction.layout
        model, forward = self._setting.model, reconstruction.forward
        batches = reconstruction.batches
        self.families, notes = find_families(model, forward, batches[0], self._layout)
        self.notes += notes
        if not self.families:
            msg = (
                "pattern='units' finds no unit to remove: none is fed and read by "
                "chosen weights alone, each used once. Choose the layers on both sides "
                "(include=, exclude=), or prune single weights. "
                f"{' '.join(notes) or 'None was seen that could not be sliced out.'}"
            )
            raise ValueError(msg)
        feed = {name for family in self.families for name in family.writers}
        if others := [name for name in self._layout.names if name not in feed]:
            self.notes.append(f"No unit that can go is fed by {others}.")

        def of(each: Cost) -> list[float]:
            return costs_of(model, forward, batches[:SIZED], self._layout, each)

        self._cost = cost
        self._costs = [1.0] * len(self._layout.slots) if cost == "weights" else of(cost)
        self._flops, self._bytes = of("flops"), of("bytes")
        self._gone: list[set[int]] = [set() for _ in self.families]

    def run(self, target: Target, fraction: float, loss: float) -> tuple[Stage, Tensor]:
        """See `Reconstruction.run`."""
        layout, start = self._layout, perf_counter()
        present = layout.gather()
        moments = self._reconstruction.collect(self._reconstruction.differentiate)
        self._check_reached(moments)
        seconds = perf_counter() - start
        problems = _Problems(layout, moments, present)
        removals = [
            _removal(problems, family, gone)
            for family, gone in zip(self.families, self._gone, strict=True)
        ]
        numbers = self._numbers(target, fraction, removals, [*moments])
        self._choose(problems, numbers, removals)
        mask = kept_by(self._all_gone(), layout)
        divided = perf_counter() - start - seconds
        trials, chosen, found = self._solve(moments, mask, present)
        layout.scatter(found.weights)
        stage = Stage(
            layers=tuple(layout.names),
            sparsity=int((~mask).sum()) / len(layout),
            n_rows=self._reconstruction.n,
            chosen=chosen,
            trials=tuple(trials),
            loss_before=loss,
            predicted_change=math.nan,
            objective=math.nan,
            lower_bound=math.nan,
            solver=chosen.plan,
            message="Units that the layers reading them make up for were removed.",
            gradient_method="moments",
            gradient_seconds=seconds,
            solve_seconds=perf_counter() - start - seconds,
            matrix_bytes=sum(8 * its.H.numel() for its in moments.values()),
            fits=found.fits,
            budget_seconds=divided,
        )
        return stage, mask

    def sizes(self, masks: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Weights, operations for a sample and bytes: before, and of what is kept."""
        kept = [int(masks[name].sum()) for name in self._layout.names]
        costs = {
            "weights": [1.0] * len(kept),
            "flops": self._flops,
            "bytes": self._bytes,
        }
        whole = self._layout.sizes()
        return {
            unit: (float(np.dot(each, whole)), float(np.dot(each, kept)))
            for unit, each in costs.items()
        }

    def units(self) -> tuple[UnitsReport, ...]:
        """How many units of each family are left."""
        return tuple(
            UnitsReport(
                family.writers,
                tuple(dict.fromkeys(part.name for part in family.readers)),
                len(family),
                len(family) - len(gone),
            )
            for family, gone in zip(self.families, self._gone, strict=True)
        )

    def _check_reached(self, moments: Mapping[Part, Moments]) -> None:
        """Say which layers have no gradient; leave out what no sample was read from."""
        layout, sample = self._layout, self._reconstruction.batches
        live = live_weights(layout, moments, {})
        for name in unseen(layout, moments):
            slot = layout.slot(name)
            live[slot.start : slot.stop] = True  # not pruned, not looked at
        without_gradient(self._setting, layout, live, lambda: sample)
        read = [all(part in moments for part in f.readers) for f in self.families]
        self._gone = [g for g, one in zip(self._gone, read, strict=True) if one]
        self.families = [f for f, one in zip(self.families, read, strict=True) if one]

    def _all_gone(self) -> list[Unit]:
        return [
            family.units[i]
            for family, gone in zip(self.families, self._gone, strict=True)
            for i in sorted(gone)
        ]

    def _numbers(
        self,
        target: Target,
        fraction: float,
        removals: Sequence[Removal],
        parts: Sequence[Part],
    ) -> list[int]:
        """How many units of each family go."""
        if target.per_layer is not None:
            wanted = []
            for family in self.families:
                final = min(self._share(family, target.per_layer))
                n, share = len(family), sparsity_on_the_way(final, fraction)
                wanted.append(n - max(1, kept(share, n)))
            return [max(n, len(g)) for n, g in zip(wanted, self._gone, strict=True)]
        assert target.sparsity is not None
        most = []
        for family in self.families:
            floor = max(self._share(family, target.min_density or (0.0,)))
            most.append(len(family) - max(1, math.ceil(floor * len(family) - ROUNDING)))
        sparsity = sparsity_on_the_way(target.sparsity, fraction)
        bill = _Bill(self._layout, parts, self._costs)
        goal = (1 - sparsity) * bill.total * (1 + ROUNDING)
        numbers = [0] * len(self.families)
        while bill.total > goal:
            rates = [
                removal.rises[n] / max(bill.saved(family.units[removal.order[n]]), 1e-9)
                if n < least
                else math.inf
                for family, removal, n, least in zip(
                    self.families, removals, numbers, most, strict=True
                )
            ]
            if min(rates, default=math.inf) == math.inf:
                raise self._too_much(bill, sparsity)
            i = int(np.argmin(rates))
            bill.remove(self.families[i].units[removals[i].order[numbers[i]]])
            numbers[i] += 1
        return [max(n, len(g)) for n, g in zip(numbers, self._gone, strict=True)]

    def _too_much(self, bill: _Bill, sparsity: float) -> ValueError:
        unit, gone = "cost", 1 - bill.total / bill.before
        if isinstance(self._cost, str):
            unit = self._cost
        msg = (
            f"sparsity={sparsity:.6g} cannot be reached with pattern='units': with the "
            "least number of units in every layer (one, or min_density of them) "
            f"{gone:.3g} of the {unit} are gone. Lower sparsity, or choose all layers "
            "on both sides of the units (include=, exclude=)."
        )
        return ValueError(msg)

    def _share(self, family: Family, shares: Sequence[float]) -> list[float]:
        """Those of the layers that feed a family."""
        if len(shares) == 1:
            return list(shares)
        of = dict(zip(self._layout.names, shares, strict=True))
        return [of[name] for name in family.writers]

    def _choose(
        self,
        problems: _Problems,
        numbers: Sequence[int],
        removals: Sequence[Removal],
    ) -> None:
        """Choose that many units of each family, from the last to the first."""
        for i in range(len(self.families) - 1, -1, -1):
            family, before = self.families[i], self._gone[i]
            k = len(family) - numbers[i]
            if numbers[i] > len(before):
                search, left = problems.search(family, before, k)
                if problems.changed(family):
                    order, _ = search.backward()
                    U = np.sort(order[len(left) - k :])
                else:
                    U = np.searchsorted(left, np.sort(removals[i].order[numbers[i] :]))
                if len(search.H) <= EXCHANGED:
                    U, _, _ = search.improve(U, EXCHANGES)
                self._gone[i] = set(range(len(family))) - {left[u] for u in U}
            problems.remove([family.units[u] for u in self._gone[i]])

    def _solve(
        self, moments: Mapping[Part, Moments], mask: Tensor, present: Tensor
    ) -> tuple[list[Trial], Trial, Layers]:
        """Refit the weights that are left; the ridge is that of the least loss."""
        setting, pruned = self._setting, torch.where(mask, present, 0.0)
        noise = setting.noise()
        trials: list[Trial] = []
        tried: list[tuple[Trial, Layers]] = []

        def choose(where: slice, problem: BlockDiagonal) -> Solution:
            return fit_support(problem, mask[where].to(problem.device))

        def loss_at(damping: float) -> float:
            found = self._reconstruction.layers(
                moments, choose, pruned, mask, present, damping
            )
            self._layout.scatter(found.weights)
            trial = Trial("layers", damping, False, 1.0, setting.loss())
            trials.append(trial)
            if not tried or not trial.loss >= (1 - noise) * tried[0][0].loss:
                tried[:] = [(trial, found)]
            self._layout.scatter(present)
            return trial.loss

        given = self._reconstruction.damping
        first = DAMPING if given is None else given
        loss = loss_at(first)
        if given is None and setting.data.calibrated:
            descend(loss_at, first, loss, 10.0, noise)
        return trials, *tried[0]


class _Bill:
    """What the weights cost that are left, part after part."""

    def __init__(
        self, layout: Layout, parts: Sequence[Part], costs: Sequence[float]
    ) -> None:
        self._layout = layout
        self._parts: dict[str, list[Part]] = {}
        self._left: dict[Part, list[float]] = {}  # cost of a weight, rows, columns
        cost = dict(zip(layout.names, costs, strict=True))
        self.before = float(np.dot(costs, layout.sizes()))
        for part in parts:
            slot = layout.slot(part.name)
            columns = slot.size // slot.n_rows
            self._left[part] = [cost[part.name], part.stop - part.start, columns]
            self._parts.setdefault(part.name, []).append(part)
        self.total = self.before

    def _changes(self, unit: Unit) -> dict[Part, tuple[int, int]]:
        """Rows and columns of each part that go with a unit."""
        found = {}
        for name, index in unit.rows.items():
            for part in self._parts[name]:
                n = sum(part.start <= i < part.stop for i in index)
                found[part] = n, 0
        for part, columns in unit.columns.items():
            slot = self._layout.slot(part.name)
            each = slot.size // slot.n_rows // slot.parameter.shape[slot.sum_axis]
            found[part] = found.get(part, (0, 0))[0], len(columns) * each
        return found

    def saved(self, unit: Unit) -> float:
        """What would be saved without a unit."""
        return self._saved(self._changes(unit))

    def _saved(self, changes: Mapping[Part, tuple[int, int]]) -> float:
        total = 0.0
        for part, (r, c) in changes.items():
            cost, rows, columns = self._left[part]
            total += cost * (rows * columns - (rows - r) * (columns - c))
        return total

    def remove(self, unit: Unit) -> None:
        """Take a unit off."""
        changes = self._changes(unit)
        self.total -= self._saved(changes)
        for part, (r, c) in changes.items():
            self._left[part][1] -= r
            self._left[part][2] -= c


class _Problems:
    """E of the families, with what is gone so far."""

    def __init__(
        self, layout: Layout, moments: Mapping[Part, Moments], present: Tensor
    ) -> None:
        self._layout, self._moments, self._present = layout, moments, present
        self._rows: dict[str, set[int]] = {}
        self._columns: dict[Part, set[int]] = {}

    def remove(self, units: Sequence[Unit]) -> None:
        """Leave the rows and columns of units out of the problems to come."""
        for unit in units:
            for name, index in unit.rows.items():
                self._rows.setdefault(name, set()).update(index)
            for part, index in unit.columns.items():
                self._columns.setdefault(part, set()).update(index)

    def changed(self, family: Family) -> bool:
        """Whether anything was left out of the layers that read a family."""
        return any(
            part in self._columns or part.name in self._rows for part in family.readers
        )

    def search(
        self, family: Family, gone: set[int], k: int
    ) -> tuple[GroupSearch, list[int]]:
        """The search for k units of a family, and which of them its groups are."""
        left = [i for i in range(len(family)) if i not in gone]
        number = np.full(len(family) + 1, -1)
        number[left] = np.arange(len(left))
        Hs, gs, labels = [], [], []
        for part in family.readers:
            H, g, of = self._of(part, family)
            own = number[of]
            free = (of == -1) & self._kept_columns(part, len(of))
            H, g = _beside(H, g, np.flatnonzero(own >= 0), np.flatnonzero(free))
            Hs.append(H)
            gs.append(g)
            labels.append(own[own >= 0])
        H, g = block_diag(*Hs), block_diag(*gs)
        none = np.empty(0, dtype=np.intp)
        return GroupSearch(H, g, np.concatenate(labels), k, none), left

    def _of(
        self, part: Part, family: Family
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H + mu I, what the outputs ask of it, both over E(none), and the units."""
        its, where = self._moments[part], place(self._layout, part)
        H = its.H[0].cpu()
        H = H + DAMPING * mean_diagonal(its.H) * torch.eye(len(H), dtype=H.dtype)
        W = part.split(self._present[where].to(H))[0]
        rows = [
            i
            for i in range(len(W))
            if part.start + i not in self._rows.get(part.name, ())
        ]
        W, weight = W[rows], above_zero(its.g.cpu())[0][rows]
        T = (W @ H) * weight.sqrt()[:, None]
        energy = 0.5 * float((T * W * weight.sqrt()[:, None]).sum())
        scale = 1 / max(energy, 1e-300)
        slot = self._layout.slot(part.name)
        of = family.labels(part, slot.parameter.shape[slot.sum_axis], len(H))
        if not energy > 0:
            return H.numpy(), 0.0 * T.T.numpy(), of
        return scale * H.numpy(), scale * T.T.numpy(), of

    def _kept_columns(self, part: Part, d: int) -> np.ndarray:
        slot = self._layout.slot(part.name)
        n = slot.parameter.shape[slot.sum_axis]
        kept = np.ones(n, dtype=bool)
        kept[list(self._columns.get(part, ()))] = False
        return np.tile(kept, d // n)


def _beside(
    H: np.ndarray, g: np.ndarray, own: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The problem in some columns where others, always there, are refitted too."""
    H_own, g_own = H[np.ix_(own, own)], g[own]
    if not len(free):
        return H_own, g_own
    across = H[np.ix_(free, own)]
    both = np.linalg.solve(H[np.ix_(free, free)], np.hstack([across, g[free]]))
    n = len(own)
    return H_own - across.T @ both[:, :n], g_own - across.T @ both[:, n:]


def _removal(problems: _Problems, family: Family, gone: set[int]) -> Removal:
    """What the units of a family cost, one after the other."""
    search, left = problems.search(family, gone, 1)
    order, lost = search.backward()
    # As convex as can be, so that to take the least first is right.
    rises = isotonic_regression(np.diff(lost)).x
    return Removal(
        [*sorted(gone), *(left[u] for u in order)],
        np.concatenate([np.zeros(len(gone)), rises]),
    )
