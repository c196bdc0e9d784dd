"""How much is kept: sparsity, scope and pattern, stage by stage.

Every target becomes a pattern of `chita_sklearn.core` on the flat vector of length
``p``; a budget of ``round((1 - sparsity) p)`` weights is met exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import nn

from chita_sklearn.core import Cardinality, NOfM, PerBlock, WithFloor

from .checks import check_count, check_share
from .layout import COLUMNS, Layout, select

Schedule: TypeAlias = str | Callable[[int, int], float]

ROUNDING = 1e-9  # of a share: 1 - 0.9 is less than 0.1
FIRST_SPARSITY = 0.1  # where the schedules start, or the final one if it is lower


def _exponential(t: int, stages: int) -> float:
    last = 2.0 ** -(stages - 1)
    return (1 - 2.0**-t) / (1 - last)


def _cubic(t: int, stages: int) -> float:
    return 1 - (1 - t / (stages - 1)) ** 3


def _linear(t: int, stages: int) -> float:
    return t / (stages - 1)


SCHEDULES = {"exponential": _exponential, "cubic": _cubic, "linear": _linear}


def schedule_fractions(schedule: Schedule, stages: int) -> list[float]:
    """Share of the way from the first to the final sparsity, at each stage.

    Parameters
    ----------
    schedule : {"exponential", "cubic", "linear"} or callable
        With ``x = t / (stages - 1)``: ``(1 - 2^-t) / (1 - 2^-(stages - 1))``,
        ``1 - (1 - x)^3``, ``x``; or ``schedule(t, stages)`` in [0, 1].
    stages : int
        At least 1.

    Returns
    -------
    list of float
        Of length ``stages``; the last is 1.

    Raises
    ------
    ValueError
        If the name is unknown, or a callable leaves [0, 1], falls or does not end
        at 1.

    Examples
    --------
    >>> schedule_fractions("exponential", 4)
    [0.0, 0.571..., 0.857..., 1.0]
    """
    stages = check_count("stages", stages, 1)
    if isinstance(schedule, str) and schedule in SCHEDULES:
        if stages == 1:
            return [1.0]
        schedule = SCHEDULES[schedule]
    if not callable(schedule):
        msg = (
            f"schedule={schedule!r} is unknown; choose from {sorted(SCHEDULES)} "
            "or give a callable (t, stages) -> share in [0, 1]."
        )
        raise ValueError(msg)
    shares = [schedule(t, stages) for t in range(stages)]
    fractions = [float(x) if isinstance(x, Real) else math.nan for x in shares]
    rising = 0 <= fractions[0] and all(x <= y for x, y in pairwise(fractions))
    if not rising or not abs(fractions[-1] - 1) <= ROUNDING:
        msg = (
            "schedule(t, stages) must rise within [0, 1] and end at 1 for "
            f"t = stages - 1; got {shares}."
        )
        raise ValueError(msg)
    return [*fractions[:-1], 1.0]


def parse_pattern(pattern: str | Sequence[int] | None) -> tuple[int, int] | None:
    """Read "n:m" or (n, m): keep n of every m consecutive weights of a row."""
    if pattern is None or pattern == "units":
        return None
    if isinstance(pattern, str):
        match = re.fullmatch(r"(\d+):(\d+)", pattern)
        pair: Sequence[Any] = match.groups() if match else ()
    else:
        pair = pattern
    try:
        n, m = (int(number) for number in pair)
    except (TypeError, ValueError):
        n = m = 0
    if not 0 < n < m:
        msg = (
            f"pattern={pattern!r} must be 'units', 'n:m' or (n, m) with 0 < n < m, "
            "such as '2:4' or (4, 8)."
        )
        raise ValueError(msg)
    return n, m


@dataclass(frozen=True)
class Target:
    """What to keep of a layout at the end, and on the way there.

    Exactly one of ``sparsity`` (one number), ``per_layer`` (one per layer) and
    ``n_of_m`` is set; ``min_density`` goes with ``sparsity``.
    """

    layout: Layout
    sparsity: float | None = None
    per_layer: tuple[float, ...] | None = None
    n_of_m: tuple[int, int] | None = None
    min_density: tuple[float, ...] = ()  # one per layer, or none

    def floors(self, most: int) -> list[int]:
        """Weights that each layer keeps in any case, rounded down beyond ``most``."""
        shares = self.min_density or (0.0,) * len(self.layout.slots)
        pairs = list(zip(shares, self.layout.sizes(), strict=True))
        floors = [round(share * size) for share, size in pairs]
        if sum(floors) > most:  # by rounding
            floors = [int(share * size + ROUNDING) for share, size in pairs]
        return floors

    def at(self, fraction: float) -> Any:
        """Return the core's pattern, ``fraction`` of the way to the end."""
        layout, p = self.layout, len(self.layout)
        if self.n_of_m is not None:
            n, m = self.n_of_m
            return _groups(layout, round(m - (m - n) * fraction), m)
        if self.per_layer is not None:
            sizes = [
                kept(sparsity_on_the_way(s, fraction), size)
                for s, size in zip(self.per_layer, layout.sizes(), strict=True)
            ]
            return PerBlock(layout.labels().numpy(), sizes)
        assert self.sparsity is not None
        k = kept(sparsity_on_the_way(self.sparsity, fraction), p)
        if not any(self.min_density):
            return Cardinality(k)
        return WithFloor(k, layout.labels().numpy(), self.floors(k))


def kept(sparsity: float, p: int) -> int:
    """Weights kept of p: round((1 - sparsity) p)."""
    return round((1 - sparsity) * p)


def sparsity_on_the_way(sparsity: float, fraction: float) -> float:
    """Sparsity at a share of the way from `FIRST_SPARSITY` to the final one."""
    first = min(FIRST_SPARSITY, sparsity)
    return sparsity if fraction == 1 else first + (sparsity - first) * fraction


def _groups(layout: Layout, n: int, m: int) -> Any:
    if all(slot.row_length % m == 0 for slot in layout.slots):
        return NOfM(n, m, len(layout))
    # Some rows end with a short group, so groups are not m apart throughout.
    labels, lengths = layout.group_labels(m)
    return PerBlock(labels.numpy(), torch.clamp(lengths, max=n).numpy())


def make_targets(
    model: nn.Module,
    *,
    sparsity: float | None,
    density: float | None,
    scope: str | Mapping[str, float],
    pattern: str | Sequence[int] | None,
    min_density: float | Mapping[str, float],
    include: Any,
    exclude: Any,
) -> list[Target]:
    """Turn `prune`'s arguments into targets, to be met one after the other.

    Scope "layer" gives one target per layer, any other scope a single one.
    """
    n_of_m = parse_pattern(pattern)
    by_name = isinstance(scope, Mapping)
    if not by_name and scope not in ("global", "layer"):
        msg = (
            f"scope={scope!r} must be 'global', 'layer' or a mapping of name patterns "
            "to sparsities."
        )
        raise ValueError(msg)
    if by_name and not scope:
        msg = "scope={} names no layer; give 'global', 'layer' or sparsities by name."
        raise ValueError(msg)
    if n_of_m is not None and (sparsity, density, by_name) != (None, None, False):
        msg = (
            f"pattern={pattern!r} fixes the sparsity of every layer: leave out "
            "sparsity, density and a scope of names."
        )
        raise ValueError(msg)
    if sparsity is not None and density is not None:
        msg = (
            f"give sparsity or density, not both (sparsity = 1 - density); "
            f"got sparsity={sparsity!r}, density={density!r}."
        )
        raise ValueError(msg)
    if density is not None:
        if density == 1 and not isinstance(density, bool):
            sparsity = 0.0
        else:
            sparsity = 1 - check_share("density", density, zero=False)
    elif sparsity is not None:
        sparsity = check_share("sparsity", sparsity)
    elif n_of_m is None and not by_name:
        msg = (
            "nothing says how much to prune: give sparsity=0.9 (for 90 % of the "
            "weights), density, pattern, or sparsities by name in scope."
        )
        raise ValueError(msg)
    if isinstance(min_density, Mapping):
        for name, share in min_density.items():
            check_share(f"min_density[{name!r}]", share)
    else:
        min_density = check_share("min_density", min_density)
    if min_density and (scope != "global" or n_of_m is not None):
        msg = (
            f"min_density={min_density} is a floor under a global budget: use it with "
            "scope='global' and without pattern."
        )
        raise ValueError(msg)
    m = 1 if n_of_m is None else n_of_m[1]
    columns = None if pattern == "units" else COLUMNS
    layout = Layout.of(model, include, exclude, columns, m)
    if isinstance(scope, Mapping):
        whole = pattern == "units" and sparsity is None
        return [_named_target(model, layout, scope, 0.0 if whole else sparsity)]
    if scope == "layer":
        return [Target(part, sparsity, None, n_of_m) for part in layout.split()]
    floors = _floors(model, layout, min_density) if min_density else ()
    least = sum(f * size for f, size in zip(floors, layout.sizes(), strict=False))
    if pattern == "units":  # floors of units, not of weights
        least = 0.0
    if sparsity is not None and least > (1 - sparsity + ROUNDING) * len(layout):
        msg = (
            f"min_density={min_density} is more than the density asked for, "
            f"{1 - sparsity:.6g}; lower it or the sparsity."
        )
        raise ValueError(msg)
    return [Target(layout, sparsity, None, n_of_m, floors)]


def _floors(
    model: nn.Module, layout: Layout, min_density: float | Mapping[str, float]
) -> tuple[float, ...]:
    """A floor for each layer; the first name that matches a layer decides."""
    if not isinstance(min_density, Mapping):
        return (min_density,) * len(layout.slots)
    found: dict[str, float] = {}
    for pattern, share in min_density.items():
        for name in select(model, include=pattern, among=layout.names):
            found.setdefault(name, float(share))
    return tuple(found.get(name, 0.0) for name in layout.names)


def join_targets(targets: Sequence[Target]) -> Target:
    """Return targets that follow each other as one, each layer at its own sparsity."""
    if len(targets) == 1:
        return targets[0]
    layout = Layout.join([target.layout for target in targets])
    if targets[0].n_of_m is not None:
        return Target(layout, n_of_m=targets[0].n_of_m)
    shares = [target.sparsity for target in targets]
    return Target(layout, per_layer=tuple(s for s in shares if s is not None))


def _named_target(
    model: nn.Module,
    layout: Layout,
    scope: Mapping[str, float],
    rest: float | None,
) -> Target:
    """One sparsity per layer; the first name that matches a layer decides."""
    sparsity_of: dict[str, float] = {}
    for pattern, value in scope.items():
        share = check_share(f"scope[{pattern!r}]", value)
        matched = set(select(model, include=pattern, among=layout.names))
        matched &= set(layout.names)
        if not matched:
            msg = (
                f"scope[{pattern!r}] names no layer that is to be pruned; those are "
                f"{layout.names}. Name others in include= as well."
            )
            raise ValueError(msg)
        for name in matched:
            sparsity_of.setdefault(name, share)
    if rest is not None:
        for name in layout.names:
            sparsity_of.setdefault(name, rest)
    names = [name for name in layout.names if name in sparsity_of]
    named = layout.keep(names)
    return Target(named, per_layer=tuple(sparsity_of[name] for name in names))
