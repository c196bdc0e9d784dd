"""What a fit says: to callbacks while it runs, in warnings when it ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._constraints import Constraints
from .core import Proof, Status
from .core.arrays import to_host

Array = Any  # the array API has no settled static type

# A ridge leaves a share v / (v + ridge) of what a column with variance v would explain.
# Named are columns whose share is so many times smaller than another's.
APART, NAMED = 20, 5


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


def warn_of_perfect_fits(
    ks: Sequence[int], n: int, intercept: bool, limits: Constraints, stacklevel: int
) -> None:
    """Warn of the smallest k with which any n samples are fitted."""
    pooled = limits.jointly and not limits.shared
    if pooled or limits.labels is not None or limits.signs is not None:
        return  # k counts something else, or signs may be in the way
    perfect = [k for k in ks if k >= max(n - intercept, 1)]
    if perfect:
        msg = (
            f"k = {perfect[0]} features fit {n} samples perfectly, whatever y is: the "
            "fit says nothing about other samples. Lower k."
        )
        warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)


def warn_of_units(problem: Any, names: Any, stacklevel: int) -> None:
    """Warn of columns that a ridge in their own units keeps from being chosen."""
    one = problem.first if problem.shares_design else problem
    if one.scale is not None or one.mu == 0:
        return
    h = to_host(one.column_norms())
    share = h / (h + one.mu)
    small = (h > 0) & (APART * share < share.max())
    if one.prior is not None:  # with a prior of its own a column may well be
        small &= to_host(one.prior) == 0
    found = np.flatnonzero(small)
    if not len(found):
        return
    named = ", ".join(
        str(j) if names is None else repr(str(names[j])) for j in found[:NAMED]
    )
    if len(found) > NAMED:
        named += f" and {len(found) - NAMED} more"
    msg = (
        f"ridge = {one.mu / one.n:g} is far above the variance of the columns {named}: "
        "they can hardly be chosen, whatever they explain. Pass standardize=True, "
        "scale them, or lower the ridge."
    )
    warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)


def among_targets(total: int, found: list[int]) -> str:
    """How many of the targets; nothing where there is one."""
    return f" ({len(found)} of {total} targets)" if total > 1 else ""


def at_k(ks: np.ndarray, found: list[int]) -> str:
    """Which k."""
    return f" (k = {', '.join(str(ks[i]) for i in found)})"
