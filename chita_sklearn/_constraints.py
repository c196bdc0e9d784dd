"""What users say of the support, resolved: columns by name or index, and the pattern.

Each parameter is one constraint, and `Constraints` all of them together: the one place
that knows which go together, and what they ask of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from .core import Cardinality, Groups, Including, Pattern
from .core.arrays import array_namespace, device

Array = Any  # the array API has no settled static type


# What does not go together, and why.
APART = (
    (
        "positive",
        "groups",
        "all coefficients of a group are chosen together, and a sign would leave some "
        "of them at 0",
    ),
    (
        "positive",
        "target_support='shared'",
        "a sign would leave a shared feature at 0 for some targets",
    ),
    (
        "positive",
        "target_support='pooled'",
        "exchanges between targets are scored without signs; use 'separate'",
    ),
    (
        "groups",
        "target_support='pooled'",
        "a pooled k counts coefficients, not groups; use 'shared' or 'separate'",
    ),
    (
        "always_include",
        "target_support='pooled'",
        "a feature may be wanted for one target and not for another; use 'shared' or "
        "'separate'",
    ),
)


# Which solvers know a constraint, beside "auto"; all know `always_include`.
SOLVED_BY = {
    "positive": ("swap",),
    "groups": ("swap", "dual", "iht", "dense"),
    "target_support='shared'": ("swap", "dual", "iht", "dense"),
    "target_support='pooled'": ("admm", "dual", "iht", "dense"),
}


@dataclass(frozen=True)
class Constraints:
    """What a support must be like, beside its size.

    Attributes
    ----------
    required : tuple of int
        Columns that every support contains.
    signs : ndarray of shape (n_features,) or None
        -1, 0 or 1: the sign of each coefficient, 0 for either; None is 0 for all.
    labels : ndarray of int, shape (n_features,), or None
        The group of each column, from 0; None where each is by itself.
    target_support : {"separate", "shared", "pooled"}
        What k means for several targets.
    """

    n_features: int
    n_targets: int = 1
    required: tuple[int, ...] = ()
    signs: np.ndarray | None = None
    labels: np.ndarray | None = None
    target_support: str = "separate"

    @property
    def jointly(self) -> bool:
        """Whether several targets are one problem."""
        return self.n_targets > 1 and self.target_support != "separate"

    @property
    def shared(self) -> bool:
        """Whether one support serves several targets."""
        return self.jointly and self.target_support == "shared"

    @property
    def n_units(self) -> int:
        """How many there are of what k counts."""
        if self.labels is not None:
            return int(self.labels.max()) + 1
        pooled = self.jointly and self.target_support == "pooled"
        return self.n_features * (self.n_targets if pooled else 1)

    def signs_like(self, y: Array) -> Array | None:
        """The signs in the array library and on the device of y."""
        if self.signs is None:
            return None
        return array_namespace(y).asarray(self.signs, device=device(y))

    def pattern(self, k: int) -> Pattern:
        """The supports of size k that are allowed."""
        if self.labels is not None or self.shared:
            labels = self.labels
            if labels is None:
                labels = np.arange(self.n_features)
            required = np.unique(labels[list(self.required)])
            return Groups(
                k, np.tile(labels, self.n_targets if self.shared else 1), required
            )
        return Including(k, self.required) if self.required else Cardinality(k)

    def check_ties(self, n_solutions: int) -> None:
        """Raise where more than one solution is asked for that cannot be."""
        given = {
            "positive": self.signs is not None,
            "groups": self.labels is not None,
            f"target_support={self.target_support!r}": self.jointly,
        }
        names = [name for name, there in given.items() if there]
        if n_solutions > 1 and names:
            msg = (
                f"n_solutions={n_solutions} and {names[0]} cannot be combined: the "
                "next best supports are found by exchanges of single features, "
                "without signs and target by target. Pass n_solutions=1."
            )
            raise ValueError(msg)

    @property
    def _least(self) -> int:
        """The smallest k with room for what is required."""
        if self.labels is None:
            return len(self.required)
        return len(np.unique(self.labels[list(self.required)]))

    def with_room(self, ks: list[int], given: Any, name: str) -> list[int]:
        """The numbers of features that leave room for what is required.

        Of 1, ..., k, which a single number stands for, those too small are left out.
        """
        least = self._least
        roomy = [k for k in ks if k >= least]
        if len(roomy) == len(ks) or (roomy and isinstance(given, Integral)):
            return roomy
        what = "features" if self.labels is None else "groups"
        msg = (
            f"always_include names {least} {what}, and {name}={given!r} asks for "
            f"{ks[0]} in all. Raise {name} to {least} or more, or name fewer."
        )
        raise ValueError(msg)


def resolved_constraints(
    n_features: int,
    names: np.ndarray | None,
    *,
    always_include: Any = None,
    positive: Any = False,
    groups: Any = None,
    target_support: str = "separate",
    n_targets: int = 1,
    solver: str = "auto",
) -> Constraints:
    """Check what the user says of the support; `names` are those of the columns."""
    required: tuple[int, ...] = ()
    if always_include is not None:
        required = _columns(always_include, "always_include", n_features, names)
    signs = _signs(positive, n_features)
    labels = None if groups is None else _labels(groups, n_features)
    given = {
        "always_include": bool(required),
        "positive": signs is not None,
        "groups": labels is not None,
        "target_support='shared'": target_support == "shared",
        "target_support='pooled'": target_support == "pooled",
    }
    for one, other, reason in APART:
        if given[one] and given[other]:
            msg = f"{one} and {other} cannot be combined: {reason}."
            raise ValueError(msg)
    for one, solvers in SOLVED_BY.items():
        if given[one] and solver not in ("auto", *solvers):
            known = ", ".join(map(repr, ("auto", *solvers)))
            msg = (
                f"solver={solver!r} and {one} cannot be combined: with {one}, solver "
                f"must be one of {known}."
            )
            raise ValueError(msg)
    return Constraints(n_features, n_targets, required, signs, labels, target_support)


def _labels(groups: Any, n_features: int) -> np.ndarray:
    """The group of each feature, from 0."""
    groups = np.asarray(groups)
    if groups.shape != (n_features,):
        msg = (
            f"groups has shape {groups.shape}; it must be ({n_features},). Pass a "
            "label for each feature of X; one that is alone has a label of its own."
        )
        raise ValueError(msg)
    return np.unique(groups, return_inverse=True)[1]


def _signs(positive: Any, n_features: int) -> np.ndarray | None:
    """A sign for each feature, or None where there is none to keep."""
    if isinstance(positive, bool | np.bool_):
        return np.ones(n_features) if positive else None
    signs = np.asarray(positive)  # without dimensions where it is a dict or a set
    if signs.shape != (n_features,) or not np.all(np.isin(signs, (-1, 0, 1))):
        msg = (
            f"positive must be True, False, or {n_features} numbers that are -1, 0 or "
            f"1, one for each feature. Got {positive!r} instead."
        )
        raise ValueError(msg)
    return signs.astype(np.float64) if signs.any() else None


def _columns(
    given: Any, parameter: str, n_features: int, names: np.ndarray | None
) -> tuple[int, ...]:
    """Columns by name or index, as indices, ascending."""
    place = {} if names is None else {name: j for j, name in enumerate(names)}
    found = set()
    for column in list(given):
        if isinstance(column, str):
            if column not in place:
                known = "X has no feature names" if names is None else "X has no such"
                msg = (
                    f"{parameter} names the feature {column!r}, and {known}. Pass "
                    "names of columns of a data frame, or indices."
                )
                raise ValueError(msg)
            found.add(place[column])
            continue
        whole = isinstance(column, Integral) and not isinstance(column, bool | np.bool_)
        if not (whole and 0 <= int(column) < n_features):
            msg = (
                f"{parameter} must hold names or indices in [0, {n_features}). Got "
                f"{column!r} among them. X has {n_features} features."
            )
            raise ValueError(msg)
        found.add(int(column))
    return tuple(sorted(found))
