"""The certificate against the optimum itself: every support, in high precision."""

import itertools

import mpmath
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, LeastSquares, Solution, Status, solve
from chita_sklearn.core.improvers.dual import Dual, certify, dual, hopeless
from chita_sklearn.core.limits import Limits
from chita_sklearn.core.refit.backsolve import backsolver

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
# A proven optimum is evaluated in float64: its rounding, as a share of 1/2 ||b||^2.
ROUNDING = 1e-13
seeds = st.integers(0, 2**32 - 1)


def exact_optimum(case, supports):
    """The smallest n F over some supports, in 50 digits, of the data as stored."""
    with mpmath.workdps(50):
        n, p = case.X.shape
        s = [mpmath.mpf(float(v)) for v in case.s]
        total = mpmath.fsum(s)
        mu = total * mpmath.mpf(case.ridge)
        w_bar = [mpmath.mpf(float(v)) for v in case.w_bar]

        def centred(values):
            values = [mpmath.mpf(float(v)) for v in values]
            if case.intercept:
                mean = mpmath.fdot(s, values) / total
                values = [v - mean for v in values]
            return values

        A, b = [centred(case.X[:, j]) for j in range(p)], centred(case.y)

        def product(u, v):
            return mpmath.fsum(s[i] * u[i] * v[i] for i in range(n))

        H = [[product(A[i], A[j]) for j in range(p)] for i in range(p)]
        g = [product(A[j], b) + mu * w_bar[j] for j in range(p)]
        at_zero = (product(b, b) + mu * mpmath.fdot(w_bar, w_bar)) / 2
        best = at_zero
        for S in map(list, supports):
            M = mpmath.matrix([[H[i][j] + mu * (i == j) for j in S] for i in S])
            g_S = mpmath.matrix([g[i] for i in S])
            w = mpmath.lu_solve(M, g_S)
            best = min(best, at_zero - (g_S.T * w)[0] / 2)
        return best


def optimum(oracle, case, pattern):
    supports = oracle.supports(pattern, case.X.shape[1])
    return case.optimum(supports)


def start_of(problem, pattern):
    mask = pattern.best_mask(problem.xp.abs(problem.correlation()))
    w = problem.zeros(problem.p)
    return Solution(w, mask, problem.objective(w), n_iter=0)


def is_below(bound, best, room=0.0):
    """The claim of this file: never above the optimum."""
    assert bound == bound
    assert bound <= best + room


def rounding(case, found):
    """What evaluating a proven optimum may add; nothing where it is a bound."""
    if found.status is not Status.OPTIMAL:
        return 0.0
    return ROUNDING * case.objective(np.zeros(case.X.shape[1]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=seeds, logridge=st.integers(-8, 1))
def test_no_alpha_gives_a_bound_above_the_optimum(oracle, kind, seed, logridge):
    case = oracle.case(seed, ridge=10.0**logridge)
    problem = case.problem()
    pattern = oracle.patterns(problem.p, seed)[kind]
    best = optimum(oracle, case, pattern)
    function, rng = Dual(problem, pattern), np.random.default_rng(seed)
    for _ in range(5):
        alpha = rng.standard_normal(problem.n_rows) * 10.0 ** rng.integers(-3, 3)
        is_below(function.bound(alpha), best)
    for S in itertools.islice(oracle.supports(pattern, problem.p), 20):
        r = problem.residual(case.refit(list(S)).astype(float))
        is_below(function.bound(r), best)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=seeds, logridge=st.integers(-8, 1))
def test_every_plan_brackets_the_optimum(oracle, kind, seed, logridge):
    case = oracle.case(seed, ridge=10.0**logridge)
    problem = case.problem()
    pattern = oracle.patterns(problem.p, seed)[kind]
    best = optimum(oracle, case, pattern)
    for solver in ("auto", "swap", "dual", "iht", "dense"):
        found = solve(problem, pattern, solver=solver, n_restarts=2, tol=0.0)
        is_below(found.lower_bound, best, rounding(case, found))
        assert found.objective >= best * (1 - 1e-10)
        assert found.lower_bound <= found.objective


@pytest.mark.parametrize("transform", ["float32", "sparse", "weights", "prior"])
@settings(max_examples=15)
@given(seed=seeds, logridge=st.integers(-8, 1))
def test_it_holds_for_any_kind_of_data(oracle, transform, seed, logridge):
    rng = np.random.default_rng(seed)
    case = oracle.case(seed, ridge=10.0**logridge, intercept=True)
    n, p = case.X.shape
    if transform == "float32":
        case = case.but(X=case.X.astype("f4"), y=case.y.astype("f4"), prior=None)
    if transform == "weights":
        case = case.but(weights=10.0 ** rng.uniform(-4, 4, n))
    if transform == "prior":
        case = case.but(prior=1e3 * rng.standard_normal(p))
    if transform == "sparse":
        case = case.but(X=case.X * (rng.random((n, p)) < 0.5))
    k = int(rng.integers(1, p + 1))
    best = optimum(oracle, case, Cardinality(k))
    problem = case.problem()
    if transform == "sparse":
        problem = case.but(X=scipy.sparse.csr_array(case.X)).problem()
    for solver in ("auto", "swap", "dual", "iht"):
        found = solve(problem, Cardinality(k), solver=solver, n_restarts=2, tol=0.0)
        is_below(found.lower_bound, best, rounding(case, found))
        assert found.objective >= best * (1 - 1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("logridge", [-8, -4, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=5)
@given(seed=seeds)
def test_it_holds_at_any_scale(oracle, scale, logridge, dtype, seed):
    case = oracle.case(seed, n=6, p=5, ridge=10.0**logridge)
    case = case.but(X=(case.X * scale).astype(dtype), y=case.y.astype(dtype))
    pattern = Cardinality(2)
    # Below the rounding of float64, so that the comparison is with the true value.
    best = exact_optimum(case, itertools.combinations(range(5), 2))
    for solver in ("swap", "dual", "auto"):
        found = solve(case.problem(), pattern, solver=solver, tol=0.0)
        is_below(mpmath.mpf(found.lower_bound), best, rounding(case, found))


@pytest.mark.parametrize("mean", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("logridge", [-6, -2, 0, 1])
@settings(max_examples=10)
@given(seed=seeds)
def test_means_that_dwarf_the_spread_do_not_push_it_above(oracle, mean, logridge, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 8))
    c = rng.standard_normal(n)
    # Columns that tie up to rounding, of very different means.
    X = np.column_stack([c, c + mean, rng.standard_normal(n), c - mean])
    y = c * rng.standard_normal() + 0.1 * rng.standard_normal(n)
    case = oracle.Case(X, y, 10.0**logridge, intercept=True)
    best = exact_optimum(case, itertools.combinations(range(4), 1))
    for solver in ("dual", "swap", "auto"):
        found = solve(case.problem(), Cardinality(1), solver=solver, tol=0.0)
        is_below(mpmath.mpf(found.lower_bound), best, rounding(case, found))


@settings(max_examples=20)
@given(seed=seeds, logridge=st.integers(-6, 1))
def test_a_gap_of_0_is_a_proof(oracle, seed, logridge):
    case = oracle.case(seed, ridge=10.0**logridge)
    p = case.X.shape[1]
    k = int(np.random.default_rng(seed).integers(1, p + 1))
    best = optimum(oracle, case, Cardinality(k))
    for solver in ("auto", "swap", "dual"):
        found = solve(case.problem(), Cardinality(k), solver=solver, tol=0.0)
        assert (found.gap == 0) == (found.status is Status.OPTIMAL)
        if found.gap == 0:
            assert found.objective <= best * (1 + 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=seeds, logridge=st.integers(-4, 1))
def test_fixed_coordinates_are_in_or_out_of_every_better_support(
    oracle, kind, seed, logridge
):
    case = oracle.case(seed, ridge=10.0**logridge)
    problem = case.problem()
    pattern = oracle.patterns(problem.p, seed)[kind]
    found = dual(problem, pattern, start_of(problem, pattern), tol=0.0, max_iter=10)
    if found.fixed is None:
        return
    inside, outside = found.fixed
    for S in oracle.supports(pattern, problem.p):
        mask = np.zeros(problem.p, dtype=bool)
        mask[list(S)] = True
        if case.objective(case.refit(mask)) < found.objective * (1 - 1e-9):
            assert not np.any(inside & ~mask)
            assert not np.any(outside & mask)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, max_iter=st.integers(1, 12))
def test_dual_is_monotone_in_objective_and_bound(oracle, kind, seed, max_iter):
    case = oracle.case(seed)
    problem = case.problem()
    pattern = oracle.patterns(problem.p, seed)[kind]
    start = certify(problem, pattern, start_of(problem, pattern))
    found = dual(problem, pattern, start, max_iter=max_iter)
    assert found.objective <= start.objective
    assert start.lower_bound <= found.lower_bound <= found.objective
    assert 1 <= found.n_iter <= max_iter
    assert oracle.allows(pattern, found.support)
    assert not np.any(found.coef[~found.support])
    assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-8)


def test_the_segment_is_searched_to_its_maximum(oracle):
    case = oracle.case(5, n=10, p=12, ridge=0.05)
    problem, pattern = case.problem(), Cardinality(4)
    function, rng = Dual(problem, pattern), np.random.default_rng(0)
    for _ in range(20):
        alpha, to = rng.standard_normal((2, 10))
        u, u_to = problem.rmatvec(alpha), problem.rmatvec(to)
        _, _, value = function.climb(alpha, u, to, u_to)
        on_the_way = [
            _value(problem, pattern, alpha + t * (to - alpha))
            for t in np.linspace(0, 1, 201)
        ]
        spread = max(on_the_way) - min(on_the_way)
        assert value >= max(on_the_way) - 1e-2 * spread


def _value(problem, pattern, alpha):
    """D(alpha) by its definition."""
    w_bar = np.zeros(problem.p) if problem.prior is None else problem.prior
    c2 = np.sort((problem.rmatvec(alpha) + problem.mu * w_bar) ** 2)[::-1]
    value = problem.b @ alpha - 0.5 * alpha @ alpha + 0.5 * problem.mu * w_bar @ w_bar
    return value - np.sum(c2[: pattern.size]) / (2 * problem.mu)


def test_with_a_large_ridge_the_gap_closes():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((100, 400)), rng.standard_normal(100)
    found = solve(LeastSquares(X, y, ridge=10.0), Cardinality(80), solver="dual")
    assert found.status in (Status.WITHIN_TOL, Status.OPTIMAL)
    assert 0 <= found.gap <= 1e-3


def test_the_minimum_on_a_support_needs_no_coefficients(oracle):
    for seed in range(20):
        case = oracle.case(seed, n=12, p=40, ridge=0.05)
        problem, rng = case.problem(), np.random.default_rng(seed)
        for size, rel in ((5, 1e-9), (30, 1e-9)):  # an s x s and an n x n system
            mask = np.zeros(40, dtype=bool)
            mask[rng.permutation(40)[:size]] = True
            told = backsolver(problem, size).update(mask).minimum()
            assert told == pytest.approx(case.objective(case.refit(mask)), rel=rel)


@pytest.mark.parametrize("solver", ["swap", "dual"])
@settings(max_examples=25)
@given(seed=seeds, logridge=st.integers(-2, 1))
def test_a_mixture_cut_to_its_largest_coordinates_still_proves(
    oracle, solver, seed, logridge
):
    case = oracle.case(seed, n=10, p=12, ridge=10.0**logridge)
    pattern = Cardinality(2)
    best = optimum(oracle, case, pattern)
    problem = case.problem(limits=Limits(gram_order_least=0))
    assert problem.gram_order() < 3  # two supports make more
    found = solve(problem, pattern, solver=solver, tol=0.0)
    is_below(found.lower_bound, best, rounding(case, found))


def test_a_mixture_cut_to_its_largest_coordinates_proves_nearly_as_much():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 300))
    y = X[:, :40] @ rng.standard_normal(40) + rng.standard_normal(300)
    problem = LeastSquares(X, y, ridge=0.1)
    whole = solve(problem, Cardinality(30), solver="dual", tol=1e-4)
    problem = LeastSquares(X, y, ridge=0.1, limits=Limits(gram_order_least=0))
    assert problem.gram_order() < 100
    cut = solve(problem, Cardinality(30), solver="dual", tol=1e-4)
    assert whole.gap < cut.gap < 1.2 * whole.gap


def test_many_rows_begin_on_few_of_them_and_prove_as_much():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((640, 10)) @ rng.standard_normal((10, 2000))
    X = 0.1 * rng.standard_normal((640, 2000)) + 0.3 * shared
    prior = rng.standard_normal(2000)
    problem = LeastSquares(X, X @ prior, ridge=0.2, prior=prior)
    found = solve(problem, Cardinality(600), solver="dual")
    given = solve(problem, Cardinality(600), solver="dual", start=prior)
    for answer in (found, given):
        assert answer.status is Status.WITHIN_TOL
        assert answer.gap <= 1e-3
    assert found.objective <= given.objective * 1.001


def test_without_a_ridge_there_is_no_bound():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 60)), rng.standard_normal(30)
    problem = LeastSquares(X, y)
    for solver in ("swap", "iht", "dense"):
        assert solve(problem, Cardinality(5), solver=solver).lower_bound == -np.inf
    with pytest.raises(ValueError, match="needs ridge > 0"):
        solve(problem, Cardinality(5), solver="dual")


def test_what_is_proven_at_the_last_step_is_optimal(oracle):
    """Seed of a fit that closed its gap to rounding while its steps ran out."""
    case = oracle.case(28323442, ridge=1.0)
    problem = case.problem()
    pattern = oracle.patterns(problem.p, 28323442)["per block"]
    found = solve(problem, pattern, solver="dual", tol=0.0)
    # Whether the last digit closes too is the BLAS's affair; then the status says so.
    assert found.gap <= 1e-12
    assert (found.status is Status.OPTIMAL) == (found.gap == 0)
    assert found.objective <= float(optimum(oracle, case, pattern)) * (1 + 1e-12)


@pytest.mark.parametrize("before", [0.0, -5e-324, 1e-15, -1e-14])
@pytest.mark.parametrize("expensive", [False, True])
def test_a_bound_that_rounding_moves_about_zero_is_no_error(before, expensive):
    # As where the target is fitted to all digits: nothing is left to prove.
    values = [before] * 12 + [-1e-14]
    assert hopeless(values, 1e-10, 100, expensive) is expensive


def test_a_bound_that_rises_fast_enough_is_not_given_up():
    rising = [-100.0 * 0.5**t for t in range(7)]
    assert not hopeless(rising, 1.0, 30, True)
    assert hopeless([-100.0 * 0.99**t for t in range(7)], 1.0, 30, True)
    assert hopeless([-100.0 * 0.99**t for t in range(7)], 1.0, 30, False)
    assert not hopeless([*rising, 0.1], 1.0, 30, True)
