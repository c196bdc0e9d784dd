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


@dataclass(frozen=True)
class Constraints:
    """What a support must be like, beside its size.

    Attributes
    ----------
    required : tuple of int
        Columns that every support contains.
    """

    required: tuple[int, ...] = ()

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
    n_features: int, names: np.ndarray | None, *, always_include: Any = None
) -> Constraints:
    """Check what the user says of the support; `names` are those of the columns."""
    required: tuple[int, ...] = ()
    if always_include is not None:
        required = _columns(always_include, "always_include", n_features, names)
    return Constraints(required)


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
