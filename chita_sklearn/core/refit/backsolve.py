"""Backsolve: the exact minimiser of n F on a given support (the paper's Alg. 5).

On the support S, with d = b - A_S w_bar_S and delta = w_S - w_bar_S,

    s <= n :  (A_S'A_S + mu I) w_S = A_S' b + mu w_bar_S          Cholesky, s x s
    s >  n :  (A_S A_S' + mu I) x = d,   delta = A_S' x           Woodbury, n x n

and the residual is b - A w, or d - A_S delta = mu x. The n x n Gram is kept from one
call to the next and updated by the columns that entered or left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Self

from ..arrays import Array, array_namespace, indices, numbers, scatter
from ..linalg import NotPositiveDefiniteError, cholesky_solve, damped_cholesky
from ..problem.base import Rows, Structure
from ..problem.block_diagonal import BlockLeastSquares
from ..problem.columns import Columns, GramRows
from ..problem.least_squares import LeastSquares
from ..solution import Solution, Status
from .base import SUBOPTIMAL, Minimiser, SupportSolver
from .block_diagonal import BlockBacksolver
from .coordinate_descent import coordinate_descent

REFINEMENTS = 5  # steps of iterative refinement at most; one or two suffice
# Where rounding spoils the n x n system, the s x s one is solved for up to so many
# times n columns, although it is larger.
TALL_UP_TO = 4
ROOM = 2  # a mixture may have so many times the coordinates of one support, at least
# Rows of A'A are kept where A has so many rows a column: they take 1/16 of X at most.
TALL = 16
ACCURACY = 1e-12  # of a linear system: length of the residual over the right-hand side


class _Held(NamedTuple):
    """What a Backsolver forms for the weights z."""

    z: Array  # shape (p,)
    G: Array  # A Z A', shape (n_rows, n_rows)
    centre: Array | None  # A Z w_bar, shape (n_rows,)
    rough: bool  # whether in float32
    whole: bool  # whether z is a support
    size: int  # about how many coordinates z has
    updated: bool = False  # whether columns were taken out of the sum


class Backsolver(SupportSolver):
    """Minimisers of n F on one support after another.

    Parameters
    ----------
    problem : LeastSquares
        The quadratic.
    size : int or None, default=None
        How large the supports will be. From 4 size >= n on, where an n x n matrix takes
        a small share of the memory of X, every support is solved through n x n, whose
        Gram is then kept and updated (a mixture of a few supports has more columns than
        each of them); None decides anew each time, by s > n.
    rough : bool, default=False
        Form the n x n Gram in float32, at half the time. `solve` makes up for it by
        iterative refinement unless told not to; for mu well above the rounding of the
        Gram.

    Attributes
    ----------
    damping : float
        What was added to mu in the last factorisation to make it succeed; usually 0.

    Notes
    -----
    Time for s <= n: O(n s^2); for s > n: O(n^2 c + n^3 + n p), where c columns changed
    since the last call. Memory: A_S (s <= n), or an n x n Gram (s > n).
    """

    def __init__(
        self, problem: LeastSquares, size: int | None = None, rough: bool = False
    ) -> None:
        self.problem = problem
        self.damping = 0.0
        self._rough = rough
        # The Gram held may take a small share of the memory of X, or as much as that of
        # the largest mixture.
        least = ROOM * (size or 0)
        self._side = max(problem.gram_order(), least)
        # Without a ridge the n x n matrix of few columns is singular.
        self._keeps = (
            problem.mu > 0
            and problem.n_rows <= 4 * (size or 0)
            and problem.n_rows <= max(problem.gram_order(rough), least)
        )
        # With its diagonal scaled to 1, the smallest eigenvalue of A Z A' + mu I is at
        # least mu / (||A||_F^2 + mu); n^2 eps is enough for a Cholesky factor.
        self._sure = False
        if self._keeps:
            largest = float(problem.space.sum(problem.column_norms())) + problem.mu
            eps = float(problem.xp.finfo(problem.xp.float64).eps)
            self._sure = 2 * problem.n_rows**2 * eps * largest < problem.mu
        self._z: Any = None
        self._held: Any = None
        # Shared by the copies. Of a tall A, where all rows of A'A take little memory.
        p, n = problem.p, problem.n_rows
        small = p <= problem.gram_order() or TALL * p <= n
        self._rows = GramRows(problem) if p <= n and small else None

    def update(self, z: Array) -> Self:  # noqa: D102
        # No number is asked of the device but how many coordinates changed.
        problem, xp = self.problem, self.problem.xp
        whole = z.dtype == xp.bool
        self._z = z = xp.astype(z, xp.float64, copy=False)
        if not self._keeps and self._number(indices(z > 0)) <= problem.n_rows:
            self._held = None
            return self
        # Start from the Gram here or, at first, from what is kept with the problem.
        known = [self._held]
        if self._held is None:
            known = [kept for kept in problem.grams if self._rough or not kept.rough]
        changes = [self._changed(held, z) for held in known]
        nearest = min(changes, key=_differing, default=None)
        if nearest is None or 2 * _differing(nearest) > nearest[0].size:
            self._hold(whole)
            return self
        held, more, n_more, less, n_less = nearest
        if not _differing(nearest):
            self._held = held
            return self
        # The arrays are shared with copies: what is added to is a new one.
        centre = None if held.centre is None else xp.asarray(held.centre, copy=True)
        sums = xp.asarray(held.G, copy=True), centre
        # Two symmetric products, not one with signs: each costs half of it.
        for part, count, sign in ((more, n_more, 1.0), (less, n_less, -1.0)):
            if count:
                scale = None
                if not (whole and held.whole):
                    scale = sign * xp.take(z - held.z, part)
                sums = problem.outer_gram(part, scale, self._rough, sums, sign)
        size = held.size + n_more - n_less
        taken_out = held.updated or n_less > 0
        self._held = _Held(z, *sums, self._rough, whole, size, taken_out)
        return self

    def _changed(self, held: _Held, z: Array) -> tuple[_Held, Array, int, Array, int]:
        """Which weights are larger now, and which smaller; how many of each."""
        more, less = indices(z > held.z), indices(z < held.z)
        return held, more, self._number(more), less, self._number(less)

    def _hold(self, whole: bool = False) -> None:
        """Form the n x n Gram of the weights z anew."""
        S = indices(self._z > 0)
        scale = None if whole else self.problem.xp.take(self._z, S)
        sums = self.problem.outer_gram(S, scale, self._rough)
        self._held = _Held(self._z, *sums, self._rough, whole, self._number(S))

    def mix(self, other: Self, share: float) -> Self:  # noqa: D102
        self._z = (1.0 - share) * self._z + share * other._z
        if self._held is not None:
            if other._held is None:  # the mixture has more than n columns, it fewer
                other._keeps = True
                other._hold()
            mine, its = self._held, other._held
            G = share * its.G
            G += (1.0 - share) * mine.G
            centre = mine.centre
            if centre is not None:
                centre = (1.0 - share) * centre + share * its.centre
            self._held = _Held(
                self._z,
                G,
                centre,
                self._rough,
                whole=False,
                size=mine.size,
                updated=mine.updated or its.updated,
            )
        elif self._side < self.problem.n_rows:
            largest = self.problem.space.top_k(self._z, self._side)
            xp = self.problem.xp
            self._z = xp.where(largest, self._z, xp.zeros_like(self._z))
        return self

    def solve(self, within: float = SUBOPTIMAL) -> Minimiser:  # noqa: D102
        if self._held is None:
            S = indices(self._z > 0)
            size = self._number(S)
            if size == 0:
                zeros = self.problem.zeros(self.problem.p)
                return Minimiser(zeros, self.problem.b, None)
            if size <= self.problem.n_rows:
                return self._tall(S, self.problem.xp.take(self._z, S), within)
            self._hold()  # a mixture of supports that are each smaller than n
        return self._wide(within)

    def minimum(self) -> Array:  # noqa: D102
        problem = self.problem
        if self._held is None:
            w, r, _ = self.solve(within=float("inf"))
            return problem.value(w, r)
        d, x, _ = self._factored()
        left = problem.zeros(problem.p)
        if problem.prior is not None:
            left = (1.0 - self._z) * problem.prior**2
        return 0.5 * problem.mu * (d @ x + problem.space.sum(left))

    @property
    def weights(self) -> Array:  # noqa: D102
        return self._z

    def copy(self) -> Self:  # noqa: D102
        return copy.copy(self)

    def keep(self) -> None:  # noqa: D102
        if self._held is not None:
            self.problem.grams[:] = [*self.problem.grams[-1:], self._held]

    def _tall(self, S: Array, z_S: Array, within: float = SUBOPTIMAL) -> Minimiser:
        # In v = w / sqrt(z) the ridge is mu/2 ||v - sqrt(z) w_bar||^2 and the columns
        # sqrt(z) a. (Not in delta: where w_bar is far from any w that fits, d would be
        # large beside b, and what is negligible beside d would not be beside b.)
        problem, rows = self.problem, self._rows
        rough = within == float("inf") and problem.mu > 0
        # Two products with all of X take less time than a copy of some columns.
        A_S = Columns(problem, S, copied=rows is None or not rough)
        root = problem.xp.sqrt(z_S)
        centre = problem.zeros(S.shape[0])
        if problem.prior is not None:
            centre = root * problem.xp.take(problem.prior, S)
        G = A_S.gram() if rows is None else rows.gram(S)
        b, mu, most = problem.b, problem.mu, 0 if rough else REFINEMENTS
        v, self.damping = ridge_solve(A_S, G, root, b, mu, centre, most)
        w = root * v
        return Minimiser(scatter(problem.p, S, w), b - A_S.dot(w), None)

    def _number(self, S: Array) -> int:
        """How many coordinates these are."""
        return int(S.shape[0])

    def _solved(self, L: Array, rhs: Array) -> Array:
        """Solve with a factor of either type, in float64."""
        xp = array_namespace(L)
        x = cholesky_solve(L, xp.astype(rhs, L.dtype, copy=False))
        return xp.astype(x, xp.float64, copy=False)

    def _factored(self) -> tuple[Array, Array, Array]:
        """d, the solution x of (A Z A' + mu I) x = d, and the factor it came from."""
        problem, held = self.problem, self._held
        d = problem.b if held.centre is None else problem.b - held.centre
        try:
            L, self.damping = damped_cholesky(held.G, problem.mu, self._sure)
            sound = self.damping == 0
        except NotPositiveDefiniteError:
            sound = False
        if not sound and held.updated:
            # Columns that dwarf the others were taken out of the sum, and their
            # rounding has stayed: form it anew.
            self._hold(held.whole)
            return self._factored()
        if not sound:
            L, self.damping = damped_cholesky(held.G, problem.mu, self._sure)
        return d, self._solved(L, d), L

    def _wide(self, within: float) -> Minimiser:
        problem, mu = self.problem, self.problem.mu
        d, x, L = self._factored()
        z, rough = self._held.z, self._held.rough
        if within == float("inf"):
            return Minimiser(None, mu * x, mu * problem.rmatvec(x, rough=rough))
        # Refine against A itself, which also tells the residual as it is. For w = A'x
        # the gap to the dual at alpha = mu x is ||r - alpha||^2 / 2, r - alpha = lost;
        # and the minimum is about mu d'x / 2.
        for _ in range(REFINEMENTS):
            u = problem.rmatvec(x)
            w = z * (u if problem.prior is None else u + problem.prior)
            r = problem.residual(w)
            lost = r - mu * x
            short, most = numbers(lost @ lost, d @ x if mu else d @ d)
            if short <= (within * mu if mu else ACCURACY**2) * most:
                break
            x = x + self._solved(L, lost)
        else:
            # The n x n system is too ill-conditioned; the s x s one is less so.
            S = indices(z > 0)
            if self._number(S) <= TALL_UP_TO * problem.n_rows:
                return self._tall(S, problem.xp.take(z, S))
        return Minimiser(w, r, None)


def _differing(change: tuple[_Held, Array, int, Array, int]) -> int:
    return change[2] + change[4]


def ridge_solve(
    A_S: Columns,
    G: Array,
    root: Array,
    b: Array,
    mu: float,
    centre: Array,
    refinements: int = REFINEMENTS,
) -> tuple[Array, float]:
    """Minimise 1/2 ||b - B v||^2 + mu/2 ||v - centre||^2 for B = A_S diag(root).

    Returns v and the damping used; G = A_S'A_S is overwritten. By Cholesky and
    iterative refinement against A_S, which makes up for the squared condition number.
    With mu = 0 and dependent columns the damped factor and its refinement give nearly
    the minimiser with the smallest sum of ||b_j||^2 v_j^2.
    """
    xp = array_namespace(b)
    rhs = root * A_S.tdot(b) + mu * centre
    G *= root
    G *= root[:, None]
    L, damping = damped_cholesky(G, mu, overwrite=True)
    v = cholesky_solve(L, rhs)
    scale, last = float(xp.linalg.vector_norm(rhs)), float("inf")
    for _ in range(refinements):
        lost = root * A_S.tdot(b - A_S.dot(root * v)) - mu * (v - centre)
        error = float(xp.linalg.vector_norm(lost))
        if error <= ACCURACY * scale or error > 0.5 * last:
            break
        v, last = v + cholesky_solve(L, lost), error
    return v, damping


def _solver_of_blocks(
    problem: BlockLeastSquares, size: int | None = None, rough: bool = False
) -> BlockBacksolver:
    """Return the solver of all blocks; each has its share of `size` columns."""
    shares = [size and round(size * q.p / problem.p) for q in problem.problems]
    solvers = [
        backsolver(q, share, rough)
        for q, share in zip(problem.problems, shares, strict=True)
    ]
    return BlockBacksolver(problem, solvers)


class SpreadBacksolver(Backsolver):
    """The same of columns that are spread over processes (`Sharded`).

    Few columns go to process 0, which solves for all; of many the n x n Grams of the
    processes are added up.
    """

    def __init__(
        self, problem: Any, size: int | None = None, rough: bool = False
    ) -> None:
        super().__init__(problem, size, rough)
        self._rows = None

    def _number(self, S: Array) -> int:
        return int(self.problem.space.sum(self.problem.xp.asarray([S.shape[0]])))

    def _solved(self, L: Array, rhs: Array) -> Array:
        problem: Any = self.problem
        solved = super()._solved
        return problem.comm.share(0, lambda: solved(L, rhs), rhs)

    def _tall(self, S: Array, z_S: Array, within: float = SUBOPTIMAL) -> Minimiser:
        problem: Any = self.problem

        def work(part: LeastSquares, z: Array) -> list[Any]:
            solver = Backsolver(part)
            w, r, _ = solver(z)
            return [w, r, solver.damping]

        w, rest = problem.alone(self._z > 0, self._z, work, problem.n_rows + 1)
        self.damping = float(rest[-1])
        return Minimiser(w, rest[:-1], None)


# One solver for each structure that a problem may declare.
SUPPORT_SOLVERS: dict[Structure, Callable[..., SupportSolver]] = {
    Structure.ONE_MATRIX: Backsolver,
    Structure.BLOCK_DIAGONAL: _solver_of_blocks,
    Structure.SPREAD: SpreadBacksolver,
}


def backsolver(
    problem: Rows, size: int | None = None, rough: bool = False
) -> SupportSolver:
    """Return the `SupportSolver` of a problem, by its structure.

    `size` and `rough` are those of `Backsolver`.
    """
    if problem.structure not in SUPPORT_SOLVERS:
        msg = (
            f"{type(problem).__name__}.structure={problem.structure!r} has no "
            "backsolve. Add one to SUPPORT_SOLVERS in core/refit/backsolve.py."
        )
        raise TypeError(msg)
    return SUPPORT_SOLVERS[problem.structure](problem, size, rough)


def unsolved(problem: Rows, mask: Array) -> Solution:
    """Return a support as a solution still to be solved for; no objective is above."""
    return Solution(problem.zeros(problem.p), mask, float("inf"))


def backsolve(
    problem: Rows, solution: Solution, solver: SupportSolver | None = None
) -> Solution:
    """Replace the coefficients on the solution's support by the best ones.

    Monotone: the given solution comes back where rounding leaves no improvement.
    """
    if problem.has_grams:
        size = int(problem.space.count(solution.support))
        if min(size, problem.n_rows) > problem.limits.factor_up_to:
            return coordinate_descent(problem, solution)
    solver = backsolver(problem) if solver is None else solver
    w, r, _ = solver(solution.support)
    objective = float(problem.value(w, r))
    if not objective < solution.objective:
        return solution
    dependent = problem.mu == 0 and solver.damping > 0
    status = Status.NOT_UNIQUE if dependent else solution.status
    return replace(solution, coef=w, objective=objective, status=status)
