"""Time as a budget: a clock that ends a search as a caller's own `on_step` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .arrays import Array

if TYPE_CHECKING:
    from .solution import Proof

OnStep = Callable[[Array], bool]


class Deadline:
    """An `on_step` that is True once the time is over, or where the caller's is.

    Parameters
    ----------
    seconds : float or None
        From now on, of the wall clock; None for no limit.
    on_step : callable or None, default=None
        The caller's, asked first.

    Attributes
    ----------
    asks : bool
        Whether there is a caller who wants to see coefficients: a clock alone does not,
        and they cost a refit.
    passed : bool
        Whether the clock has ended a search.
    """

    def __init__(self, seconds: float | None, on_step: OnStep | None = None) -> None:
        self._on_step = on_step
        self._end = None if seconds is None else time.monotonic() + seconds
        self.asks = on_step is not None
        self.passed = False

    def __call__(self, coef: Array | None) -> bool:
        """Whether to stop; `coef` may be None where nobody asks."""
        if self._on_step is not None and coef is not None and self._on_step(coef):
            return True
        self.passed = self.over()
        return self.passed

    def proven(self, proof: Proof) -> None:
        """Pass on how far a proof is."""
        tell(self._on_step, proof)

    def over(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and time.monotonic() >= self._end

    def share(self, parts: int) -> float | None:
        """Seconds for one of so many parts that are still to come; None: no limit."""
        if self._end is None:
            return None
        return max(self._end - time.monotonic(), 0.0) / parts


def tell(on_step: OnStep | None, proof: Proof) -> None:
    """Tell a caller how far a proof is, where its `on_step` has a method `proven`."""
    proven = getattr(on_step, "proven", None)
    if proven is not None:
        proven(proof)


def asked(on_step: OnStep | None, coef: Callable[[], Array]) -> bool:
    """What `on_step` says of coefficients that are computed only if somebody asks."""
    if on_step is None:
        return False
    return bool(on_step(coef() if getattr(on_step, "asks", True) else None))
