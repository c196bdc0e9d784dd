"""What a fit says: to callbacks while it runs, in warnings when it ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .core import Proof, Status

Array = Any  # the array API has no settled static type


class Step:
    """What the solver calls each step; callbacks see the model so far.

    In a proof by branch and bound they also see ``gap_``, ``n_nodes_`` and
    ``nodes_per_second_``.
    """

    def __init__(
        self, task: Any, call: dict[str, Any], model: Callable[[Array], dict[str, Any]]
    ) -> None:
        self._task, self._call, self._model = task, call, model
        self._proof: dict[str, Any] = {}

    def proven(self, proof: Proof) -> None:
        """Remember how far the proof is."""
        self._proof = {
            "gap_": proof.gap,
            "n_nodes_": proof.nodes,
            "nodes_per_second_": proof.nodes_per_second,
        }

    def __call__(self, coef: Array) -> bool:
        """Report a step; True where a callback wants the fit to stop."""
        step = self._task.subcontext(task_name="step")
        step.call_on_fit_task_begin(**self._call)
        return step.call_on_fit_task_end(
            **self._call,
            reconstruction_attributes=lambda: self._model(coef) | self._proof,
        )


class Progress:
    """A fit as scikit-learn's callbacks see it: tasks fit > target > step.

    One target has no task of its own. Attributes are computed only for callbacks that
    ask for them, and steps are reported only if there are callbacks at all.
    """

    def __init__(self, estimator: Any, n_targets: int, inputs: dict[str, Any]) -> None:
        self._call = {"estimator": estimator, **inputs}
        self._watched = bool(getattr(estimator, "_skl_callbacks", None))
        self._single = n_targets == 1
        # How many steps a solve takes is not known in advance.
        self._fit = self._target = estimator._init_callback_context(
            max_subtasks=None if self._single else n_targets
        )
        self._fit.call_on_fit_task_begin(**self._call)

    def begin_target(self) -> None:
        """Open a task for the next target."""
        if not self._single:
            self._target = self._fit.subcontext(task_name="target", max_subtasks=None)
            self._target.call_on_fit_task_begin(**self._call)

    def on_step(self, model: Callable[[Array], dict[str, Any]]) -> Step | None:
        """Return what the solver calls each step; True tells it to stop."""
        return Step(self._target, self._call, model) if self._watched else None

    def end_target(self, model: Callable[[], dict[str, Any]]) -> None:
        """Close it, with the model so far."""
        # A request to stop ends the search for one target, by its steps: the others
        # need coefficients all the same.
        if not self._single:
            self._target.call_on_fit_task_end(
                **self._call, reconstruction_attributes=model
            )

    def end(self, fitted: dict[str, Any]) -> None:
        """Close the fit's task."""
        self._fit.call_on_fit_task_end(**self._call, reconstruction_attributes=fitted)


def warn_of(
    statuses: Sequence[Status], where: Callable[[list[int]], str], stacklevel: int
) -> None:
    """Warn of what the solver could not do; `where` puts the places into words."""
    for status, category in (
        (Status.MAX_ITER, ConvergenceWarning),
        (Status.NOT_UNIQUE, UserWarning),
    ):
        found = [i for i, s in enumerate(statuses) if s is status]
        if found:
            text = f"{status.value}{where(found)}"
            warnings.warn(text, category, stacklevel=stacklevel + 1)


def among_targets(total: int, found: list[int]) -> str:
    """How many of the targets; nothing where there is one."""
    return f" ({len(found)} of {total} targets)" if total > 1 else ""


def at_k(ks: np.ndarray, found: list[int]) -> str:
    """Which k."""
    return f" (k = {', '.join(str(ks[i]) for i in found)})"
