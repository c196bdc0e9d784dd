"""From solutions to fitted attributes: the one place where n F becomes F.

The core counts in units of n F, the estimators in F. Attributes are collected here and
set only when a fit has come to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._compat import float_dtypes
from ._contributions import Part, contributions
from .core import LeastSquares, SeveralTargets, Solution
from .core.arrays import to_host
from .core.certificate import in_words, relative_gap, reported

if TYPE_CHECKING:
    from ._constraints import Constraints
    from .path import ChitaPath

Array = Any  # the array API has no settled static type


class Values(NamedTuple):
    """Objectives, lower bounds and gaps in units of F, float64, one per solution."""

    objectives: np.ndarray
    lower_bounds: np.ndarray
    gaps: np.ndarray


def values_of(solutions: Sequence[Solution], n: float) -> Values:
    """Return objectives, bounds and gaps; raise if an objective is not finite."""
    objectives = np.asarray([s.objective for s in solutions]) / n
    largest = float(np.max(objectives))
    if not math.isfinite(largest):
        msg = (
            f"The objective is {largest}: the ridge, or the squares of coef_prior or "
            "of the coefficients, are too large for floating-point numbers. Scale X "
            "and y, for example with sklearn.preprocessing.StandardScaler, or "
            "coef_prior, or lower the ridge."
        )
        raise ValueError(msg)
    # F is never negative: where it is 0, so is the bound, whoever has looked.
    bounds = np.asarray([s.lower_bound if s.objective else 0.0 for s in solutions]) / n
    gaps = [relative_gap(*pair) for pair in zip(objectives, bounds, strict=True)]
    known = (np.asarray([reported(value) for value in each]) for each in (bounds, gaps))
    return Values(objectives, *known)


def forget(estimator: Any) -> None:
    """Drop every fitted attribute of a previous fit."""
    for name in [v for v in vars(estimator) if v.endswith("_") and v[0] != "_"]:
        delattr(estimator, name)


def remember(estimator: Any, fitted: dict[str, Any]) -> None:
    """Set fitted attributes, all of them; a fit does so when it can no longer fail."""
    for name, value in fitted.items():
        setattr(estimator, name, value)


class Targets:
    """The targets solved so far, as fitted attributes.

    Coefficients are in X's dtype, and a leading axis of targets is there if y has one.
    """

    def __init__(self, X: Any, y: Array, xp: Any, constraints: Constraints) -> None:
        self.dtype, self.xp = X.dtype, xp
        self._constraints = constraints
        self._parts: list[Part] = []
        self.n_targets = None if y.ndim == 1 else int(y.shape[1])
        self.solutions: list[Solution] = []
        self._coefs: list[Array] = []
        self._intercepts: list[float] = []
        self._n = 1.0
        self._joint = False

    def add(self, problem: LeastSquares, solution: Solution) -> None:
        """Append the solution for the next target."""
        values_of([solution], problem.n)
        self.solutions.append(solution)
        coef, intercept = self._in_units_of_x(problem, solution.coef)
        self._coefs.append(coef)
        self._intercepts.append(intercept)
        self._parts.append(Part(problem, coef))
        self._n = problem.n

    def add_joint(self, problem: SeveralTargets, solution: Solution) -> None:
        """Take the one solution for all targets."""
        values_of([solution], problem.n)
        self.solutions, self._joint, self._n = [solution], True, problem.n
        parts = zip(problem.problems, problem.split(solution.coef), strict=True)
        pairs = [self._in_units_of_x(part, w) for part, w in parts]
        self._coefs, self._intercepts = [w for w, _ in pairs], [c for _, c in pairs]

    def end_joint(self, problem: SeveralTargets, solution: Solution) -> None:
        """Take the last solution, and measure what its features are worth."""
        self.add_joint(problem, solution)
        self._parts = list(map(Part, problem.problems, self._coefs))

    def joint_model(self, problem: SeveralTargets, coef: Array) -> dict[str, Any]:
        """`coef_` and `intercept_` as if the fit of all targets ended at `coef`."""
        now = Targets.__new__(Targets)
        now.__dict__ |= self.__dict__
        now.add_joint(problem, Solution(coef, coef != 0, 0.0))
        return now.model()

    def _in_units_of_x(self, problem: LeastSquares, w: Array) -> tuple[Array, float]:
        """Coefficients of the columns of X, in its type, and the intercept."""
        coef = self.xp.astype(problem.as_given(w), self.dtype, copy=False)
        return coef, problem.intercept(problem.as_scaled(coef))

    def model(
        self, problem: LeastSquares | None = None, coef: Array | None = None
    ) -> dict[str, Any]:
        """`coef_` and `intercept_` as if the fit ended now.

        With a problem and its coefficients so far, these are the next target's. Those
        of targets not reached yet are zero.
        """
        xp = self.xp
        coefs, intercepts = list(self._coefs), list(self._intercepts)
        if problem is not None:
            coef, intercept = self._in_units_of_x(problem, coef)
            coefs.append(coef)
            intercepts.append(intercept)
        rest = (self.n_targets or 1) - len(coefs)
        stacked = xp.stack(coefs + [xp.zeros_like(coefs[0])] * rest)
        constants = xp.asarray(
            intercepts + [0.0] * rest, dtype=self.dtype, device=stacked.device
        )
        if self.n_targets is None:
            stacked, constants = stacked[0, :], constants[0]
        return {"coef_": stacked, "intercept_": constants}

    def _listed(self) -> dict[str, np.ndarray]:
        """The supports of each target, the best first, in units of F.

        Where several targets are one problem, a feature of any of them is in.
        """
        each = [(one, *one.others) for one in self.solutions]
        rows = [(t, s) for t, found in enumerate(each) for s in found]
        values = values_of([s for _, s in rows], self._n)
        supports, p = np.empty(len(rows), dtype=object), self._constraints.n_features
        for place, (_, s) in enumerate(rows):
            chosen = to_host(s.coef != 0).reshape(-1, p).any(axis=0)
            supports[place] = np.flatnonzero(chosen)
        return {
            "target": np.asarray([t for t, _ in rows], dtype=np.int64),
            "support": supports,
            "objective": values.objectives,
            "gap": values.gaps,
        }

    def record(self) -> dict[str, Any]:
        """Supports and statistics, once all targets are solved."""
        xp = self.xp
        values = values_of(self.solutions, self._n)
        worth = contributions(
            self._parts,
            self._constraints.labels,
            self._constraints.target_support if self._joint else "separate",
        )
        record: dict[str, list[Any]] = {
            "solver_history_": [
                (*s.history, in_words(gap))
                for s, gap in zip(self.solutions, values.gaps, strict=True)
            ],
            "n_iter_": [int(s.n_iter) for s in self.solutions],
            "objective_": values.objectives.tolist(),
            "lower_bound_": values.lower_bounds.tolist(),
            "gap_": values.gaps.tolist(),
        }
        supports = [xp.nonzero(coef != 0)[0] for coef in self._coefs]
        worth_knowing = {"contributions_": worth, "solutions_": self._listed()}
        if self.n_targets is None or self._joint:
            own = {"support_": supports if self._joint else supports[0]}
            return (
                own
                | worth_knowing
                | {name: values[0] for name, values in record.items()}
            )
        record["support_"] = supports
        # Statistics that float32 would round are kept in the widest type there is.
        device = self._coefs[0].device
        wide = float_dtypes(xp, device)[0]
        types = {name: wide for name in ("objective_", "lower_bound_", "gap_")}
        types["n_iter_"] = xp.int64
        return worth_knowing | {
            name: xp.asarray(values, dtype=types[name], device=device)
            if name in types
            else values
            for name, values in record.items()
        }


def contributions_of_path(
    path: ChitaPath, t: int, problem: Any, constraints: Constraints
) -> dict[str, np.ndarray]:
    """What the features of a path's t-th model are worth.

    They enter when the path takes them for good: at the smallest k from which on they
    are chosen.
    """
    joint = isinstance(problem, SeveralTargets)
    problems = problem.problems if isinstance(problem, SeveralTargets) else [problem]
    coefs = path.coefs if joint else path.coefs[None, ...]
    parts = [Part(part, coefs[i, :, t]) for i, part in enumerate(problems)]
    target_support = constraints.target_support if joint else "separate"
    worth = contributions(parts, constraints.labels, target_support)
    chosen = to_host(coefs != 0)[worth["target"], worth["feature"], : t + 1]
    since = np.argmin(chosen[:, ::-1], axis=1)  # models back to one without it
    since = np.where(chosen.all(axis=1), t + 1, since)
    return worth | {"entry": path.ks[t + 1 - since]}


def model_of_path(path: ChitaPath, t: int) -> dict[str, Any]:
    """Fitted attributes of a path's t-th model."""
    return {
        "path_": path,
        "coef_": path.coefs[..., t],
        "intercept_": path.intercepts[..., t],
        "support_": path.supports[t],
        "objective_": float(path.objectives[t]),
        "lower_bound_": float(path.lower_bounds[t]),
        "gap_": float(path.gaps[t]),
        "n_iter_": int(path.n_iters[t]),
        "solver_history_": path.histories[t],
    }
