"""Dual ascent: a certificate of how far from the optimum a solution can be.

For any alpha in R^n, with u = A'alpha and c = u + mu w_bar, no feasible point has

    n F(w) <  D(alpha) = b'alpha - 1/2 ||alpha||^2 + mu/2 ||w_bar||^2
                         - 1/(2 mu) max over allowed S of sum_{j in S} c_j^2.

Proof: 1/2 ||r||^2 >= alpha'r - 1/2 ||alpha||^2 for r = b - A w; what is left is
separable, and its minimum over w_S is the last term. The maximum is `best_mask(c^2)`,
so a bound costs one product with A'.

D is concave. With T the maximising support, alpha_T = the residual of the backsolve on
T maximises D with T held fixed, so alpha_T - alpha ascends while T is the only
maximiser, and the backsolve itself is a feasible point, often better than any before.
Where several T tie that stalls. The cure is to average the supports met (Frank-Wolfe on
the perspective relaxation, whose dual D is): with weights z in the hull of the masks,

    T = best_mask(c^2) at the best alpha so far
    z <- (1 - gamma) z + gamma 1_T               gamma = 3/4, 3/5, 3/6, 3/7, ...
    alpha(z) = the residual of the backsolve with weights z
    alpha <- the maximiser of D on the segment from alpha to alpha(z)

from z = 1_S of the support S given; that never stalls. The line search needs no product
with A, for u is linear in alpha; and A diag(z) A' is linear in z, so that a step costs
the Gram of the columns that entered or left T, a Cholesky factor and a product A'r; and
once the bound has settled another such Gram and factor, which tell how good the largest
of z would be as a support. Only where that closes the gap is it solved for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from array_api_compat import is_numpy_namespace

from ..arrays import Array, numbers
from ..certificate import Fixed, certified, decided, relative_gap
from ..linalg import EPS, TINY
from ..patterns.matroids import Pattern
from ..problem.base import Rows
from ..refit.backsolve import backsolve, backsolver
from ..refit.base import SupportSolver
from ..refit.minimum import bounded, minimum_on
from ..solution import Solution, Status, with_bound

# Of a line search: how often D is asked for between the ends, at most, and the share of
# D that its maximum may be above the best value found.
LOOKS, LEVEL = 4, 1e-4
# Where two parabolas cross, two supports tie, and rounding would decide between them: D
# is asked for at this share of the way there, where one of them is better.
BEFORE = 1 - 1e-3
# A bound below zero is given up where, after all steps, it would still be below -REACH
# times the objective if it went on as in the last SEEN steps (a guess, and the further
# off the fewer they are); and, where A has more than COSTLY numbers, so that a step
# takes notable time, where STEPS do not bring it to a third of its size. The optimum is
# at least 0, whatever the bound.
SEEN_REACH = ((6, 5.0), (10, 0.25))
STEPS, SHRINK, COSTLY = 6, 1 / 3, 2**20
PATIENCE, STALL = 5, 0.25  # stop when 5 feasible points close less of the gap


class Dual:
    """The dual function D of a problem with a pattern; needs mu > 0."""

    def __init__(self, problem: Rows, pattern: Pattern) -> None:
        xp, space = problem.xp, problem.space
        self.problem, self.pattern, self.space = problem, pattern, space
        self._constant = problem.penalty(problem.zeros(problem.p))
        # A sum of m products in float64, in any order, is off by at most gamma_m times
        # the sum of their magnitudes (Higham, Accuracy and Stability, 3.1).
        self._gamma_n = (problem.terms + 8) * EPS
        self._gamma_p = (problem.total + 8) * EPS
        norms = problem.raw_norms()
        mask = space.best_mask(pattern, norms)
        self._spread = float(space.sum_over(mask, norms)) ** 0.5
        self._b_norm = float(xp.linalg.vector_norm(problem.b))

    def scores(self, u: Array) -> Array:
        """c^2 = (u + mu w_bar)^2, whose largest allowed sum enters D."""
        return self.followed(self.pull(u)) ** 2

    def pull(self, u: Array) -> Array:
        """c = u + mu w_bar."""
        problem = self.problem
        return u if problem.prior is None else u + problem.mu * problem.prior

    def followed(self, c: Array) -> Array:
        """c, or 0 where the sign asked of a coefficient does not let it follow c."""
        signs = self.problem.signs
        if signs is None:
            return c
        return self.problem.xp.where(signs * c >= 0, c, 0 * c)

    def bound(self, alpha: Array) -> float:
        """D(alpha), less what rounding may have added: a certificate.

        One product with A'.
        """
        return max(float(self.certificate(alpha, float("inf"))[0]), 0.0)

    def certificate(self, alpha: Array, objective: Array) -> tuple[Array, Fixed]:
        """The bound at alpha, and what it decides of supports better than `objective`.

        All on the device: nobody waits for it here.
        """
        problem, xp = self.problem, self.problem.xp
        c2 = self.scores(problem.rmatvec(alpha))
        mask = self.space.best_mask(self.pattern, c2)
        chosen = self.space.sum_over(mask, c2)
        length = xp.linalg.vector_norm(alpha)
        value = problem.b @ alpha - 0.5 * length**2 + self._constant
        # Each |c_j| is off by e_j <= gamma_n ||a_j|| ||alpha||.
        error = self._gamma_n * length * self._spread
        value -= self._gamma_p * self._constant
        value -= self._gamma_n * length * (length + self._b_norm)
        bound, slack = certified(value, chosen, problem.mu, error, self._gamma_p)
        margin = 2 * problem.mu * (objective - bound) + 2 * slack
        if not self.pattern.is_matroid:
            margin = margin + xp.inf  # single exchanges prove nothing: fix none
        low = self.space.min(xp.where(mask, c2, xp.full_like(c2, xp.inf)))
        high = self.space.max(xp.where(mask, xp.full_like(c2, -xp.inf), c2))
        return bound, decided(c2, mask, ~mask, low, high, margin)

    def climb(
        self, alpha: Array, u: Array, to: Array, u_to: Array
    ) -> tuple[Array, Array, Array]:
        """Maximise D on the segment from alpha `to` another; no product with A.

        Along it D is the least of some parabolas, one for each support. The two that D
        follows at the ends of an interval bound it from above inside: D is asked for
        where the lower of them is highest, which ends the interval from then on.
        Returns alpha, u = A'alpha and D(alpha), the last without its rounding term.
        """
        xp = self.problem.xp
        line = _Segment(self, alpha, u, to - alpha, u_to - u)
        # On a device all of it stays there: a scalar asked for would wait for it.
        zero = xp.zeros_like(line.bend)
        low, high = line.at(zero), line.at(zero + 1.0)
        best = _chosen(xp, high.value > low.value, high, low)
        done, host = zero > 1.0, is_numpy_namespace(xp)
        for _ in range(LOOKS):
            t, most = _highest(xp, low, high)
            if self.problem.signs is None:  # with signs the parabolas are no bounds
                done = done | (most - best.value <= LEVEL * xp.abs(best.value))
            if host and done:
                break
            here = line.at(t)
            best = _chosen(xp, (here.value > best.value) & ~done, here, best)
            rising = here.slope >= 0
            low, high = _chosen(xp, rising, here, low), _chosen(xp, rising, high, here)
        return alpha + best.t * line.da, u + best.t * line.du, best.value

    def value(self, alpha: Array, u: Array) -> Array:
        """D(alpha) without its rounding term, given u = A'alpha."""
        c2 = self.scores(u)
        (chosen,) = self.space.sums_of_best(self.pattern, c2, c2)
        return self.smooth(alpha) - 0.5 * chosen / self.problem.mu

    def smooth(self, alpha: Array) -> Array:
        """D(alpha) without the term of the scores."""
        return self.problem.b @ alpha - 0.5 * (alpha @ alpha) + self._constant


class _Parabola(NamedTuple):
    """What D follows at t along a segment: value + slope (x - t) - bend (x - t)^2 / 2.

    All 0-d arrays; bend > 0.
    """

    t: Array
    value: Array
    slope: Array
    bend: Array

    def at(self, x: Array) -> Array:
        """The height at x."""
        return self.value + (x - self.t) * (self.slope - 0.5 * self.bend * (x - self.t))


class _Segment:
    """D along a segment: alpha + t da, u + t du."""

    def __init__(
        self, function: Dual, alpha: Array, u: Array, da: Array, du: Array
    ) -> None:
        self.da, self.du, self._function = da, du, function
        self._c, self._value = function.pull(u), function.smooth(alpha)
        self._rise, self.bend = (function.problem.b - alpha) @ da, da @ da

    def at(self, t: Array) -> _Parabola:
        """The parabola of the support that attains the maximum at t."""
        function, du = self._function, self.du
        c = function.followed(self._c + t * du)
        if function.problem.signs is not None:
            du = function.problem.xp.where(c == 0, c, du)
        c2, mu = c * c, function.problem.mu
        sums = function.space.sums_of_best(function.pattern, c2, c2, c * du, du * du)
        height, rise, bend = (each / mu for each in sums)
        value = self._value + t * (self._rise - 0.5 * t * self.bend) - 0.5 * height
        slope = self._rise - t * self.bend - rise
        return _Parabola(t, value, slope, self.bend + bend + TINY)


def _chosen(xp: Any, first: Array, one: _Parabola, other: _Parabola) -> _Parabola:
    """One where `first`, else the other."""
    pairs = zip(one, other, strict=True)
    return _Parabola(*(xp.where(first, *pair) for pair in pairs))


def _highest(xp: Any, low: _Parabola, high: _Parabola) -> tuple[Array, Array]:
    """Where between two points the lower of their parabolas is highest, and how high.

    At the top of one that is below the other, or where they cross.
    """
    width, none = high.t - low.t, 0 * low.t

    def part(x: Array, y: Array) -> Array:
        """x / y between 0 and the width."""
        x, y = xp.maximum(x, none), xp.maximum(y, none)
        far = x >= width * y
        return xp.where(far, width, x / xp.where(far, none + 1.0, y))

    # low.at(x) - high.at(x) = gap + lean h - bow h^2 / 2 for h = x - low.t; in units in
    # which their squares are numbers.
    gap = low.value - high.at(low.t)
    lean, bow = low.slope - high.slope - high.bend * width, low.bend - high.bend
    size = xp.maximum(xp.maximum(xp.abs(gap), xp.abs(lean)), xp.abs(bow)) + TINY
    gap, lean, bow = gap / size, lean / size, bow / size
    root = xp.sqrt(xp.maximum(lean**2 + 2 * bow * gap, none))
    t = low.t + BEFORE * part(-2 * gap, lean + root)
    tops = low.t + part(low.slope, low.bend), high.t - part(-high.slope, high.bend)
    for top, one, other in zip(tops, (low, high), (high, low), strict=True):
        t = xp.where(one.at(top) <= other.at(top), top, t)
    return t, xp.minimum(low.at(t), high.at(t))


def certify(problem: Rows, pattern: Pattern, solution: Solution) -> Solution:
    """Attach the bound at alpha = b - A w to a solution. One product with A'."""
    if problem.mu <= 0:
        return solution
    bound = Dual(problem, pattern).bound(problem.residual(solution.coef))
    return with_bound(solution, bound)


def dual(
    problem: Rows,
    pattern: Pattern,
    solution: Solution,
    *,
    max_iter: int = 50,
    tol: float = 1e-3,
    on_step: Callable[[Array], bool] | None = None,
) -> Solution:
    """Improve a solution and its lower bound together.

    Parameters
    ----------
    problem : Rows
        With mu > 0.
    pattern : Pattern
        The allowed supports.
    solution : Solution
        Where to start: the residual of the backsolve on its support is the first
        alpha.
    max_iter : int
        Steps at most.
    tol : float
        Stop when the gap falls below.
    on_step : callable or None
        Called with the best coefficients after each step; True stops.

    Returns
    -------
    Solution
        Never with a larger objective or a smaller bound than given.
    """
    space, function = problem.space, Dual(problem, pattern)
    solver = backsolver(problem, pattern.size, rough=rough_enough(problem))
    mixture = solver.update(solution.support).copy()
    alpha, u = _residual(problem, mixture)
    value = float(function.value(alpha, u))
    candidate, lowest = solution.support, float(mixture.minimum())
    best, values, gaps = solution, [value], [float("inf")]
    expensive = costly(problem)
    for t in range(max_iter):
        solver.update(space.best_mask(pattern, function.scores(u)))
        mixture.mix(solver, 3.0 / (t + 4))
        alpha, u, reached = function.climb(alpha, u, *_residual(problem, mixture))
        value = float(reached)  # the one number a step asks of the device
        rising = value - values[-1] > tol * abs(value)
        values.append(value)
        status: Status | None = None
        if on_step is not None and on_step(best.coef):
            status = Status.STOPPED
        elif hopeless(values, lowest, max_iter, expensive):
            status = Status.CONVERGED  # too small a ridge to prove anything with
        elif t + 1 == max_iter:
            status = Status.MAX_ITER
        elif rising:
            continue  # a feasible point now would soon be beaten by a better
        other = solver.copy().update(space.best_mask(pattern, mixture.weights))
        if (minimum := float(other.minimum())) < lowest:
            candidate, lowest = other.weights > 0, minimum
        else:
            other = solver.copy()  # lets go of the memory of the other's Gram
        gaps.append(relative_gap(lowest, value) if lowest > 0 else 0.0)
        if len(gaps) > PATIENCE and gaps[-1] > (1 - STALL) * gaps[-1 - PATIENCE]:
            status = status or Status.CONVERGED
        if status is None and expensive and gaps[-1] > tol:
            del other  # with its Gram, whose memory the next step takes
            continue
        refitted = other.update(candidate)
        best = _certified(problem, pattern, function, best, candidate, refitted, alpha)
        if best.gap <= tol and status is not Status.STOPPED:
            status = Status.OPTIMAL if best.gap == 0 else Status.WITHIN_TOL
        if status is not None:
            break
    best = with_bound(best, best.lower_bound)  # not above the lower objective
    solver.keep()
    note = f"dual ascent: {t + 1} steps"
    return replace(
        best,
        n_iter=best.n_iter + t + 1,
        status=status or Status.MAX_ITER,
        history=(*best.history, note),
    )


def hopeless(
    values: list[float], objective: float, steps: int, expensive: bool
) -> bool:
    """Whether a bound, of which these are the values step by step, gets nowhere."""
    done, value = len(values) - 1, values[-1]

    def share(seen: int) -> float:
        """Of the value so many steps ago; 1 where rounding alone moved it."""
        return min(value / values[-1 - seen], 1.0) if values[-1 - seen] < 0 else 1.0

    if value >= 0:
        return False
    if expensive and done >= STEPS and share(STEPS) > SHRINK:
        return True
    for seen, reach in SEEN_REACH:
        if done >= seen:
            shrink = share(seen) ** ((steps - done) / seen)
            if value * shrink < -reach * objective:
                return True
    return False


def _certified(
    problem: Rows,
    pattern: Pattern,
    function: Dual,
    best: Solution,
    candidate: Array,
    solver: SupportSolver,
    alpha: Array,
) -> Solution:
    """The better of a solution and a candidate's backsolve, with the bound at alpha."""
    w, r, _ = solver.solve()
    found = problem.value(w, r)
    least = problem.xp.where(found < best.objective, found, best.objective + 0 * found)
    bound, fixed = function.certificate(alpha, least)
    if best.fixed is not None:
        # What every support below an earlier, larger objective has or has not, every
        # one below this objective has or has not too.
        pairs = zip(best.fixed, fixed, strict=True)
        fixed = Fixed(*(old | new for old, new in pairs))
    counts = (problem.space.count(mask) for mask in fixed)
    objective, proven, *n_fixed = numbers(found, bound, *counts)
    if objective < best.objective:
        best = replace(best, coef=w, support=candidate, objective=objective)
    best = replace(with_bound(best, max(proven, 0.0)), fixed=fixed)
    return _decide(problem, pattern, best, fixed, *n_fixed)


def _residual(problem: Rows, solver: SupportSolver) -> tuple[Array, Array]:
    """alpha = the residual of the backsolve with the weights held, and A'alpha."""
    _, r, u = solver.solve(within=float("inf"))
    return r, problem.rmatvec(r) if u is None else u


def _decide(
    problem: Rows,
    pattern: Pattern,
    best: Solution,
    fixed: Fixed,
    n_in: float,
    n_out: float,
) -> Solution:
    """Where one support alone could be better than the best, settle it."""
    if n_in < pattern.size and n_out < problem.total - pattern.size:
        return best
    xp = problem.xp
    inside, outside = (xp.astype(mask, xp.float64) for mask in fixed)
    last = Solution(
        problem.zeros(problem.p),
        problem.space.best_mask(pattern, inside - outside),
        xp.inf,
    )
    last = backsolve(problem, last)
    known = minimum_on(problem, last.coef, last.support)
    # All other supports are no better than the best so far.
    bound = min(known.least, best.objective)
    if known.objective < best.objective:
        best = replace(
            best, coef=known.w, support=last.support, objective=known.objective
        )
    bound = bounded(problem, best.objective, bound, best.lower_bound)
    return replace(best, lower_bound=bound)


def costly(problem: Rows) -> bool:
    """Whether A is so large that each step of the ascent takes notable time."""
    return problem.n_rows * problem.total > COSTLY


def rough_enough(problem: Rows) -> bool:
    """Whether a float32 Gram is close enough to make good search directions."""
    xp = problem.xp
    rounding = float(xp.finfo(xp.float32).eps) * float(
        problem.space.sum(problem.column_norms())
    )
    return rounding < 0.1 * problem.mu
