"""What is known of the minimum of n F on one support: the one place that says so.

"The objective is the optimum" is a promise about numbers that were rounded. Here n F of
a given w, and a number that no w on its support can fall below, are computed from the
data as given, each with a bound on its own rounding. Every plan that ends with one
support (all, enumerate, the last support that `dual` leaves) asks `settled`, and
`solve` asks `measured` for the objective that it reports: `is_optimal` decides for all
of them whether a bound is so near the objective that the solution is called optimal.

With g = A_S'(b - A_S w_S) - mu (w_S - w_bar_S), minus the gradient at w, and
H = A_S'A_S + mu I,

    n F(w) - min = 1/2 g' H^-1 g <= ||g||^2 / (2 mu),

and with R of the QR factors of A_S on top of sqrt(mu) I, of which every column is off
by a share of its length (Higham, Accuracy and Stability, 2002, theorem 19.4), by E,

    1/2 g' H^-1 g <= 1/2 ||R^-T g||^2 / (1 - kappa)^2,    kappa = ||E|| / sigma_min(R).

The first needs no factor. The second is as sharp as w is, whatever mu is: the condition
number of A_S enters once, not squared. Where the residual in float64 is not enough, it
is computed in twice the digits (`doubled`) from X and y before they are centred. Where
kappa is not small, the columns depend on each other up to rounding, and nothing is
claimed unless they do so exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from ..arrays import Array, indices, scatter, to_host
from ..doubled import length_squared, total, two_product, two_sum
from ..linalg import EPS, triangular
from ..problem.base import Quadratic, Rows
from ..problem.columns import Columns
from ..problem.least_squares import LeastSquares
from ..solution import Solution

# A solution is called optimal where its objective is above a lower bound by at most
# this share of itself: sums of many numbers, and coefficients that are rounded, cost
# three of the 16 digits of float64.
EXACT = 1e-13
# A residual shorter than this share of b is what rounding the coefficients leaves of a
# perfect fit, and counts as zero.
PERFECT = 1e-14
NEGLIGIBLE = 1e-14  # share of ||b|| that rounding may cost the residual of a large A_S
STEPS = 4  # of iterative refinement at most, in each precision
DOUBLED_UP_TO = 2**23  # numbers of A_S whose products are formed in twice the digits
DOUBLED_ROWS = 2**16  # rows at most: some ten vectors as long are held
DOUBLED_BLOCK = 2**16  # of them that are worked on at a time
FACTOR_WORK = 1e10  # multiplications that a triangular factor may take: some seconds
DYADIC = 2.0**20  # columns that depend exactly do so by multiples of 1 / DYADIC
# What sums of products may be off by, in shares of eps^2, in twice the digits.
IN_DOUBLED = 256.0


class Known(NamedTuple):
    """What is known of n F on one support."""

    w: Array  # shape (p,): coefficients no worse than those given
    objective: float  # n F(w)
    least: float  # no w on the support has n F below this; -inf where not known
    unique: bool  # whether w is the only minimiser, as far as rounding lets anyone see


class _Point(NamedTuple):
    """n F at some coefficients on a support, minus its gradient, and their rounding."""

    objective: float
    off: float  # what the objective may be off by
    g: np.ndarray  # shape (s,)
    g_off: np.ndarray  # what each entry of g may be off by


def is_optimal(problem: Quadratic, objective: float, bound: float) -> bool:
    """Whether n F is as near its lower bound as rounding lets anyone see."""
    if objective - bound <= EXACT * abs(objective):
        return True
    return abs(objective - problem.floor) <= PERFECT**2 * problem.at_zero


def measured(problem: Rows, w: Array) -> float:
    """n F(w), from the data as given.

    One pass over the columns of X that w uses; in twice the digits where float64 does
    not tell n F to a share of `EXACT`, and A_S is not too large for it. Of a large A_S,
    one product with all of X, unless columns have to be centred first to be told.
    """
    xp, parts = problem.xp, problem.parts
    w = xp.astype(w, xp.float64, copy=False)
    if problem.is_spread:
        spread: Any = problem
        _, (objective,) = spread.alone(w != 0, w, _measured_there, 1)
        return float(objective)
    if not parts:
        return problem.objective(w)
    objective, start = 0.0, 0
    for part in parts:
        w_part = w[start : start + part.p]
        start += part.p
        S = indices(w_part != 0)
        if not _affordable(part, S) and not _means_dwarf(part, w_part):
            objective += part.objective(w_part)
            continue
        point = _plain(part, S, xp.take(w_part, S), slope=False)
        if point.off > EXACT * point.objective and _affordable(part, S):
            point = _doubled(part, S, xp.take(w_part, S), slope=False)
        objective += point.objective
    return objective


def minimum_on(problem: Rows, w: Array, support: Array) -> Known:
    """Minimise n F on a support, starting from w, and bound the minimum from below.

    Costs a few products with A_S, and its QR factor where mu is too small to do
    without. What is said is true of the data as given, also if `problem` is reduced;
    and of rows that are gone, if it is made of their factor.
    """
    xp, parts = problem.xp, problem.parts
    w = xp.astype(w, xp.float64, copy=False)
    if problem.is_spread:
        spread: Any = problem
        w, known = spread.alone(support, w, _known_there, 3)
        return Known(w, float(known[0]), float(known[1]), bool(known[2]))
    if not parts:
        return Known(w, problem.objective(w), -math.inf, unique=problem.mu > 0)
    found, start = [], 0
    for part in parts:
        here = slice(start, start + part.p)
        found.append(_on_part(part, w[here], support[here]))
        start += part.p
    coef = found[0].w if len(found) == 1 else xp.concat([known.w for known in found])
    objective, least = (sum(known[i] for known in found) for i in (1, 2))
    unique = all(known.unique for known in found)
    return Known(coef, float(objective), float(least), unique)


def settled(problem: Rows, solution: Solution, rivals: float) -> Solution:
    """Refit a solution, and bound n F by its support's minimum and all the others'.

    Parameters
    ----------
    problem : Rows
        What is minimised. The minimum on a support is known where there are rows.
    solution : Solution
        Coefficients on a support.
    rivals : float
        A number that n F is not below on any other support.

    Returns
    -------
    Solution
        With `lower_bound` equal to `objective` where the solution is optimal, else a
        weaker bound: the bound it came with, if that is better.
    """
    known = minimum_on(problem, solution.coef, solution.support)
    return replace(
        solution,
        coef=known.w,
        objective=known.objective,
        lower_bound=bounded(
            problem, known.objective, min(known.least, rivals), solution.lower_bound
        ),
    )


def bounded(problem: Quadratic, objective: float, *bounds: float) -> float:
    """The best of some lower bounds (-inf: not known) of an objective.

    Equal to the objective where that is optimal; -inf where no bound is known.
    """
    best = max(bounds)
    if is_optimal(problem, objective, best):
        return objective
    # (An objective below the floor says that the constant of its problem is wrong.)
    if best == -math.inf or objective <= problem.floor:
        return best
    return min(max(best, problem.floor), objective)


def unique(problem: Rows, support: Array) -> bool:
    """Whether n F has a single minimiser on a support, as far as rounding allows."""
    if problem.is_spread:
        return minimum_on(problem, problem.zeros(problem.p), support).unique
    start = 0
    for part in problem.parts:
        S = indices(support[start : start + part.p])
        start += part.p
        if not _Refit(part, S).unique():
            return False
    return True


def _measured_there(part: LeastSquares, w_S: Array) -> list[Any]:
    return [w_S, measured(part, w_S)]


def _known_there(part: LeastSquares, w_S: Array) -> list[Any]:
    return list(minimum_on(part, w_S, w_S == w_S))


def _on_part(problem: LeastSquares, w: Array, support: Array) -> Known:
    xp, S = problem.xp, indices(support)
    refit = _Refit(problem, S)
    found, objective, least = refit.run(to_host(xp.take(w, S)))
    if least == -math.inf and objective > PERFECT**2 * problem.at_zero:
        part = refit.independent()
        if part is not None:
            # The columns left out are combinations of the others: nothing is lost.
            other = _Refit(problem, xp.asarray(part, device=problem.device))
            _, _, least = other.run(np.zeros(len(part)))
    coef = scatter(problem.p, S, xp.asarray(found, device=problem.device))
    return Known(coef, objective, min(least, objective), refit.unique())


class _Refit:
    """Newton steps on one support, and what they prove."""

    def __init__(self, problem: LeastSquares, S: Array) -> None:
        self.problem, self.S, self.size = problem, S, int(S.shape[0])
        h = to_host(problem.xp.take(problem.column_norms(), S))
        lengths = np.sqrt(h + problem.mu)
        self._lengths = np.where(lengths > 0, lengths, 1.0)
        self._R: np.ndarray | None = None
        self._sigma = self._kappa = math.nan

    def run(self, w: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Improve w; return it, its objective and a bound on the minimum."""
        best, objective, least = w, math.inf, -math.inf
        ways: list[Callable[..., _Point]] = [_plain]
        if _affordable(self.problem, self.S):
            ways.append(_doubled)
        for way in ways:
            # Objectives are compared within one precision: this one begins anew.
            w, objective = best, math.inf
            for _ in range(STEPS + 1):
                there = self.problem.xp.asarray(w, device=self.problem.device)
                point = way(self.problem, self.S, there, slope=True)
                step, missed = self._step(point)
                least = max(least, point.objective - point.off - missed)
                if not point.objective < objective:
                    if point.objective <= objective * (1 + 8 * EPS):
                        best = w  # equal but for rounding: the later w is nearer
                    break
                best, objective = w, point.objective
                if is_optimal(self.problem, objective, least):
                    # n F cannot tell the last digits of w any more; the step can.
                    return self._polished(best, step, point, way), objective, least
                if step is None:
                    break
                w = w + step
        return best, objective, least

    def _polished(
        self, w: np.ndarray, step: np.ndarray | None, point: _Point, way: Any
    ) -> np.ndarray:
        """Take a last Newton step, if n F is the same there but for rounding."""
        if step is None:
            return w
        there = self.problem.xp.asarray(w + step, device=self.problem.device)
        after = way(self.problem, self.S, there, slope=False)
        return w + step if after.objective <= point.objective else w

    def _step(self, point: _Point) -> tuple[np.ndarray | None, float]:
        """The Newton step, and what n F is above its minimum at most."""
        problem, missed = self.problem, math.inf
        if self.size == 0:
            return None, 0.0
        if problem.mu > 0:
            slope = float(np.linalg.norm(point.g) + np.linalg.norm(point.g_off))
            missed = slope**2 / (2 * problem.mu)
            if is_optimal(
                problem, point.objective, point.objective - point.off - missed
            ):
                return None, missed
        if self._R is None:
            self._factorise()
        if self._R is None or not self._kappa <= 0.5:
            return None, missed
        y = _solved(self._R, point.g / self._lengths, transposed=True)
        short = float(np.linalg.norm(point.g_off / self._lengths)) / self._sigma
        length = (float(np.linalg.norm(y)) + short) / (1 - self._kappa)
        step = _solved(self._R, y) / self._lengths
        return step, min(missed, 0.5 * length**2)

    def _factorise(self) -> None:
        """R of the QR factors of A_S on sqrt(mu) I, its columns scaled to length 1."""
        problem, size = self.problem, self.size
        if (problem.n_rows + size) * size**2 > FACTOR_WORK:
            return
        if problem.mu == 0 and size > problem.n_rows:
            return
        xp = problem.xp
        scale = xp.asarray(1 / self._lengths, device=problem.device)
        root = np.diag(math.sqrt(problem.mu) / self._lengths)
        R = xp.asarray(root, device=problem.device)
        for _, block in Columns(problem, self.S).blocks():
            R = triangular(xp.concat([R, block * scale]))
        self._R = np.triu(to_host(R)[:size])
        inverse, info = scipy.linalg.lapack.dtrtri(self._R)
        self._sigma = 0.0 if info else 1 / float(np.linalg.norm(inverse))
        # Each entry of A is off by some eps of itself, each column by a constant that
        # is some eps of its mean, and the factorisation adds its own.
        h = to_host(xp.take(problem.column_norms(), self.S))
        raw = to_host(xp.take(problem.raw_norms(), self.S))
        own = 4 * (problem.n_rows + 2 * size) * size + 8
        each = EPS * (own + 4 * np.sqrt(raw / np.where(h > 0, h, 1.0))) + problem.lost
        error = float(np.linalg.norm(np.where(h > 0, each, 0.0)))
        self._kappa = error / self._sigma if self._sigma > 0 else math.inf

    def unique(self) -> bool:
        """Whether the columns are independent, or mu makes them so."""
        if self.problem.mu > 0 or self.size == 0:
            return True
        if self._R is None:
            self._factorise()
        return self._R is not None and self._kappa <= 0.5

    def independent(self) -> np.ndarray | None:
        """Columns of S that span those of all of them exactly, if rounding allows it.

        Exactly: each of the others is a combination of them whose coefficients are
        small multiples of a power of two, in every row (copies, sums, a set of dummy
        variables with an intercept, constants). None where that is not so.
        """
        if self._R is None:
            return None
        problem, S = self.problem, to_host(self.S)
        R, order = scipy.linalg.qr(self._R, mode="r", pivoting=True)[0:2]
        pivots = np.abs(np.diagonal(R))
        rank = int(np.count_nonzero(pivots > 1e-8 * np.max(pivots, initial=1.0)))
        kept, left = order[:rank], order[rank:]
        t = _solved(R[:rank, :rank], R[:rank, rank:])
        t *= self._lengths[left] / self._lengths[kept][:, None]
        t = np.round(t * DYADIC) / DYADIC
        for j, combination in zip(left, t.T, strict=True):
            if not _depends(problem, int(S[j]), S[kept], combination):
                return None
        return np.sort(S[kept])


def _depends(problem: LeastSquares, j: int, S: np.ndarray, t: np.ndarray) -> bool:
    """Whether x_j = X_S t in every row that counts, up to the intercept's constant."""
    if problem.lost:  # nothing is exact in what is left of rows
        return False
    used = np.flatnonzero(t)
    columns = problem.xp.asarray(
        np.concatenate([[j], S[used]]), device=problem.device, dtype=problem.xp.int64
    )
    X, _, weights = problem.given(columns)
    X = to_host(X)
    if weights is not None:
        X = X[to_host(weights) > 0]
    hi, lo = two_product(X.T, np.concatenate([[1.0], -t[used]])[:, None])
    hi, lo = total(hi, lo)
    hi, lo = two_sum(hi, lo)
    if problem.has_intercept:
        return bool(np.all(hi == hi[0]) and np.all(lo == lo[0]))
    return not hi.any() and not lo.any()


def _solved(R: np.ndarray, x: np.ndarray, transposed: bool = False) -> np.ndarray:
    """Solve R y = x, or R' y = x, for an upper triangular R."""
    if not len(R):
        return x
    trans = "T" if transposed else "N"
    return scipy.linalg.solve_triangular(R, x, trans=trans, check_finite=False)


def _means_dwarf(problem: LeastSquares, w: Array) -> bool:
    """Whether the difference X w - m w rounds by more than b can tell."""
    xp = problem.xp
    rounding = EPS * float(problem.space.dot(xp.sqrt(problem.raw_norms()), xp.abs(w)))
    return rounding > NEGLIGIBLE * float(xp.linalg.vector_norm(problem.b))


def _affordable(problem: LeastSquares, S: Array) -> bool:
    """Whether twice the digits cost little, and there are any more digits."""
    n, s = problem.n_rows, int(S.shape[0])
    return problem.lost == 0 and n <= DOUBLED_ROWS and n * max(s, 1) <= DOUBLED_UP_TO


def _penalty(problem: LeastSquares, S: Array, w_S: Array) -> tuple[float, Array]:
    """mu/2 ||w - w_bar||^2, and w_S - w_bar_S."""
    xp, w = problem.xp, scatter(problem.p, S, w_S)
    shift = w if problem.prior is None else w - problem.prior
    return 0.5 * problem.mu * length_squared(shift), xp.take(shift, S)


def _plain(problem: LeastSquares, S: Array, w_S: Array, *, slope: bool) -> _Point:
    """n F on a support in float64, from the columns after they are centred."""
    xp, size = problem.xp, int(S.shape[0])
    squared, drift = 0.0, 0.0  # r'r and, with an intercept, the sum of weighted r
    g, ones, terms = problem.zeros(size), problem.zeros(size), 0
    for rows, block in Columns(problem, S).blocks():
        r = problem.b[rows] - block @ w_S
        squared += length_squared(r)
        if problem.has_intercept:
            d = problem.root_weights(rows)
            drift += float(d @ r)
            if slope:
                ones = ones + xp.matrix_transpose(block) @ d
        if slope:
            g = g + xp.matrix_transpose(block) @ r
        terms = max(terms, int(block.shape[0])) + 1
    # The best constant takes the mean of r, which is rounding, away.
    squared, g = squared - drift**2 / problem.n, g - ones * (drift / problem.n)
    penalty, shift = _penalty(problem, S, w_S)
    lengths = xp.sqrt(xp.take(problem.column_norms(), S))
    reach = float(xp.linalg.vector_norm(problem.b)) + float(lengths @ xp.abs(w_S))
    r_off = ((size + 10) * EPS + problem.lost) * reach
    squared = max(squared, 0.0)
    objective = 0.5 * squared + penalty
    off = math.sqrt(squared) * r_off + 0.5 * r_off**2 + 8 * EPS * objective
    if not slope:
        return _Point(objective, off, np.empty(0), np.empty(0))
    pull = to_host(shift) * problem.mu
    rounding = (terms + 10) * EPS + problem.lost
    g_off = to_host(lengths) * (r_off + rounding * (math.sqrt(squared) + r_off))
    return _Point(
        objective, off, to_host(g) - pull, g_off + 4 * EPS * (np.abs(pull) + g_off)
    )


def _doubled(problem: LeastSquares, S: Array, w_S: Array, *, slope: bool) -> _Point:
    """n F on a support in twice the digits, from X and y before they are centred."""
    xp, size, n = problem.xp, int(S.shape[0]), problem.n_rows
    step = max(DOUBLED_BLOCK // max(size, 1), 1)
    blocks = [slice(i, min(i + step, n)) for i in range(0, n, step)]
    scale = problem.scale_of(S)
    # Of X as it is given: minus its coefficients, in twice the digits.
    t_hi, t_lo = two_product(scale, -w_S)
    parts, s = [], []
    for rows in blocks:
        X, y, weights = problem.given(S, rows)
        hi, lo = two_product(xp.matrix_transpose(X), t_hi[:, None])
        lo = lo + xp.matrix_transpose(X) * t_lo[:, None]
        parts.append(
            total(
                xp.concat([y[None, :], hi]),
                xp.concat([xp.zeros_like(y)[None, :], lo]),
            )
        )
        s.append(xp.ones_like(y) if weights is None else weights)
    hi, lo = (xp.concat([part[i] for part in parts]) for i in (0, 1))
    weights = xp.concat(s)
    if problem.has_intercept:
        for _ in range(2):  # what the first mean is rounded by is the second's
            mean = float(sum(total(*_times(weights, hi, lo)))) / problem.n
            hi, error = two_sum(hi, xp.zeros_like(hi) - mean)
            hi, lo = two_sum(hi, lo + error)
    penalty, shift = _penalty(problem, S, w_S)
    raw = xp.sqrt(xp.take(problem.raw_norms(), S))
    reach = problem.target_length() + float(raw @ xp.abs(w_S))
    r_off = IN_DOUBLED * (size + 4) * EPS**2 * reach
    squared = float(sum(total(weights * hi * hi)))
    objective = 0.5 * squared + penalty
    off = math.sqrt(squared) * r_off + 0.5 * r_off**2 + 8 * EPS * objective
    if not slope:
        return _Point(objective, off, np.empty(0), np.empty(0))
    v_hi, v_lo = _times(weights, hi, lo)
    g_hi, g_lo = problem.zeros(size), problem.zeros(size)
    for rows in blocks:
        X, _, _ = problem.given(S, rows)
        some, error = two_product(X, v_hi[rows][:, None])
        some, error = total(some, error + X * v_lo[rows][:, None])
        g_hi, lost = two_sum(g_hi, some)
        g_lo = g_lo + lost + error
    g_hi, error = two_product(g_hi, scale)
    g_lo = error + g_lo * scale
    shift_lo = xp.zeros_like(shift)
    if problem.prior is not None:
        shift, shift_lo = two_sum(w_S, -xp.take(problem.prior, S))
    pull, error = _times(xp.zeros_like(shift) + problem.mu, shift, shift_lo)
    g_hi, lost = two_sum(g_hi, -pull)
    g = to_host(g_hi + (g_lo + lost - error))
    g_off = to_host(raw) * (r_off + IN_DOUBLED * EPS**2 * math.sqrt(squared))
    g_off += IN_DOUBLED * EPS**2 * np.abs(to_host(pull))
    return _Point(objective, off, g, 2 * EPS * np.abs(g) + g_off)


def _times(a: Array, hi: Array, lo: Array) -> tuple[Array, Array]:
    """a (hi + lo) in twice the digits."""
    product, error = two_product(a, hi)
    return product, error + a * lo
