"""What users say of the support, resolved: columns by name or index, and the pattern.

Each parameter is one constraint, and `Constraints` all of them together: the one place
that knows which go together, and what they ask of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from .core import Cardinality, Including, Pattern
from .core.arrays import array_namespace, device

Array = Any  # the array API has no settled static type


@dataclass(frozen=True)
class Constraints:
    """What a support must be like, beside its size.

    Attributes
    ----------
    required : tuple of int
        Columns that every support contains.
    signs : ndarray of shape (n_features,) or None
        -1, 0 or 1: the sign of each coefficient, 0 for either; None is 0 for all.
    """

    required: tuple[int, ...] = ()
    signs: np.ndarray | None = None

    def signs_like(self, y: Array) -> Array | None:
        """The signs in the array library and on the device of y."""
        if self.signs is None:
            return None
        return array_namespace(y).asarray(self.signs, device=device(y))

    def pattern(self, k: int) -> Pattern:
        """The supports of k features that are allowed."""
        return Including(k, self.required) if self.required else Cardinality(k)

    def with_room(self, ks: list[int], given: Any, name: str) -> list[int]:
        """The numbers of features that leave room for what is required.

        Of 1, ..., k, which a single number stands for, those too small are left out.
        """
        least = len(self.required)
        roomy = [k for k in ks if k >= least]
        if len(roomy) == len(ks) or (roomy and isinstance(given, Integral)):
            return roomy
        msg = (
            f"always_include names {least} features, and {name}={given!r} asks for "
            f"{ks[0]} in all. Raise {name} to {least} or more, or name fewer features."
        )
        raise ValueError(msg)


def resolved_constraints(
    n_features: int,
    names: np.ndarray | None,
    *,
    always_include: Any = None,
    positive: Any = False,
) -> Constraints:
    """Check what the user says of the support; `names` are those of the columns."""
    required: tuple[int, ...] = ()
    if always_include is not None:
        required = _columns(always_include, "always_include", n_features, names)
    return Constraints(required, _signs(positive, n_features))


def _signs(positive: Any, n_features: int) -> np.ndarray | None:
    """A sign for each feature, or None where there is none to keep."""
    signs = np.asarray(positive)
    if signs.ndim == 0:
        return np.ones(n_features) if positive else None
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
