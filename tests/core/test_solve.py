"""Every plan: on every array library the same, at the edges sane."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chita_sklearn.core import (
    SOLVERS,
    BlockLeastSquares,
    Cardinality,
    LeastSquares,
    NOfM,
    Status,
    WithFloor,
    solve,
)
from chita_sklearn.core.initial import conjugate_gradients
from chita_sklearn.core.limits import Limits
from chita_sklearn.core.plans import choose

KINDS = ["cardinality", "including", "per block", "n of m", "floor"]
seeds = st.integers(0, 2**32 - 1)


PLANS = [(s, r) for s in SOLVERS for r in (0.0, 1e-4, 1.0) if r > 0 or s != "dual"]


def sane(case, pattern, found, oracle):
    """What every answer owes, whatever the problem."""
    p = case.X.shape[1]
    assert found.coef.shape == found.support.shape == (p,)
    assert found.coef.dtype == case.X.dtype
    assert np.all(np.isfinite(found.coef))
    assert not np.any(found.coef[~found.support])
    assert oracle.allows(pattern, found.coef != 0)
    assert found.objective >= 0
    true = case.objective(found.coef)
    at_zero = case.objective(np.zeros(p))
    assert found.objective == pytest.approx(true, rel=1e-7, abs=1e-12 * at_zero)
    assert not found.lower_bound > found.objective
    assert found.lower_bound == -np.inf or 0 <= found.gap <= 1
    assert found.n_iter >= 1
    assert isinstance(found.status, Status)
    assert found.history[0].startswith("plan ")
    assert found.objective <= at_zero * (1 + 1e-12) or case.prior is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=15)
@given(seed=seeds, dtype=st.sampled_from(["float32", "float64"]))
def test_every_plan_gives_a_sane_answer(oracle, kind, solver, seed, dtype):
    case = oracle.case(seed)
    case = case.but(X=case.X.astype(dtype))
    pattern = oracle.patterns(case.X.shape[1], seed)[kind]
    found = solve(case.problem(), pattern, solver=solver, n_restarts=2)
    sane(case, pattern, found, oracle)


EDGES = {
    "one row": lambda rng: (rng.standard_normal((1, 6)), rng.standard_normal(1), 3),
    "one column": lambda rng: (rng.standard_normal((6, 1)), rng.standard_normal(6), 1),
    "one number": lambda rng: (np.ones((1, 1)), np.ones(1), 1),
    "zero y": lambda rng: (rng.standard_normal((9, 40)), np.zeros(9), 5),
    "constant y": lambda rng: (rng.standard_normal((9, 40)), np.full(9, 2.0), 5),
    "zero X": lambda rng: (np.zeros((7, 30)), rng.standard_normal(7), 4),
    "few live columns": lambda rng: (
        np.hstack([rng.standard_normal((30, 2)), np.zeros((30, 30))]),
        rng.standard_normal(30),
        5,
    ),
    "constant columns": lambda rng: (
        np.hstack([rng.standard_normal((30, 5)), np.full((30, 30), 3.0)]),
        rng.standard_normal(30),
        8,
    ),
    "duplicates": lambda rng: (
        np.hstack([rng.standard_normal((20, 8))] * 4),
        rng.standard_normal(20),
        12,
    ),
    "k is 0": lambda rng: (rng.standard_normal((9, 7)), rng.standard_normal(9), 0),
    "k is p": lambda rng: (rng.standard_normal((20, 7)), rng.standard_normal(20), 7),
    "k beyond p": lambda rng: (rng.standard_normal((9, 7)), rng.standard_normal(9), 50),
    "k beyond n": lambda rng: (
        rng.standard_normal((6, 40)),
        rng.standard_normal(6),
        20,
    ),
    "exact fit": lambda rng: (np.eye(12), np.arange(12.0) * (np.arange(12) > 8), 3),
    "tiny": lambda rng: (1e-60 * np.eye(12), 1e-60 * np.arange(12.0), 3),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("solver", "ridge"), PLANS)
@pytest.mark.parametrize("intercept", [False, True])
def test_the_edges_are_no_errors(oracle, edge, solver, ridge, intercept):
    X, y, k = EDGES[edge](np.random.default_rng(0))
    case = oracle.Case(X, y, ridge, intercept=intercept)
    for start in (None, np.ones(X.shape[1])):
        found = solve(
            case.problem(), Cardinality(k), solver=solver, start=start, n_restarts=3
        )
        sane(case, Cardinality(k), found, oracle)
        # A column of zeros has no reason to be kept.
        norms = np.sum(case.A**2, axis=0)
        assert not np.any(found.coef[norms == 0])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["tall", "wide", "prior", "n of m", "floor"])
def test_every_array_library_finds_the_same(oracle, backend, solver, kind):
    rng = np.random.default_rng(0)
    n, p = (60, 30) if kind == "tall" else (25, 90)
    X, w = rng.standard_normal((n, p)), np.zeros(p)
    w[rng.choice(p, 6, replace=False)] = rng.choice([-2, 2], 6)
    y = X @ w + 0.3 * rng.standard_normal(n)
    prior = w + 0.3 * rng.standard_normal(p) if kind != "tall" else None
    weights = rng.uniform(0.5, 2, n) if kind == "tall" else None
    case = oracle.Case(X, y, 0.05, prior, weights, kind == "wide")
    case = case.but(X=X.astype(backend.dtype), y=y.astype(backend.dtype))
    pattern = {
        "n of m": NOfM(1, 8, p),
        "floor": WithFloor(10, np.arange(p) // 30, [2, 2, 2, 2]),
    }.get(kind, Cardinality(8))
    options = {"solver": solver, "n_restarts": 4, "random_state": 0}
    expected = solve(case.problem(), pattern, **options)
    problem = case.problem(backend.to)
    found = solve(problem, pattern, **options)
    assert type(found.coef) is type(backend.to(X))
    assert found.coef.dtype == problem.dtype
    assert str(getattr(found.coef, "device", "cpu")) == str(
        getattr(backend.to(X), "device", "cpu")
    )
    assert isinstance(found.objective, float)
    assert isinstance(found.lower_bound, float)
    support = backend.back(found.support)
    tol = 1e-6 if backend.dtype == "float64" else 1e-4
    assert found.objective == pytest.approx(expected.objective, rel=tol)
    assert np.array_equal(support, expected.support) or (
        found.objective <= expected.objective * (1 + tol)
    )
    assert found.lower_bound == pytest.approx(
        expected.lower_bound, rel=tol, abs=tol * expected.objective
    )
    coef = backend.back(found.coef).astype(float)
    assert case.objective(coef) == pytest.approx(found.objective, rel=tol)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_question_has_the_same_answer(oracle, solver):
    case = oracle.case(9, n=30, p=120, ridge=1e-3)
    options = {"solver": solver, "n_restarts": 8, "random_state": 3}
    one, other = (solve(case.problem(), Cardinality(9), **options) for _ in range(2))
    assert np.array_equal(one.coef, other.coef)
    assert (one.objective, one.n_iter, one.history) == (
        other.objective,
        other.n_iter,
        other.history,
    )


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=15)
@given(seed=seeds)
def test_no_plan_but_dense_is_worse_than_its_start(oracle, solver, seed):
    case = oracle.case(seed)
    p = case.X.shape[1]
    rng = np.random.default_rng(seed)
    pattern = Cardinality(int(rng.integers(1, p + 1)))
    start = np.zeros(p)
    start[rng.permutation(p)[: pattern.size]] = rng.standard_normal(pattern.size)
    found = solve(case.problem(), pattern, solver=solver, start=start, n_restarts=1)
    assert found.objective <= case.objective(start) * (1 + 1e-9)
    refitted = case.objective(case.refit(start != 0))
    assert found.objective <= refitted * (1 + 1e-8) + 1e-12 * np.sum(case.y**2)


@given(seed=seeds)
def test_conjugate_gradients_end_at_the_unconstrained_minimiser(oracle, seed):
    case = oracle.case(seed)
    w, steps = conjugate_gradients(case.problem(), max_iter=1000)
    assert 0 <= steps <= 1000
    least = case.objective(case.refit(np.ones(case.X.shape[1], dtype=bool)))
    at_w_bar = case.objective(case.w_bar)
    assert case.objective(w) <= least + 1e-6 * at_w_bar


def test_the_dense_plan_needs_no_gram_of_all_columns(oracle):
    case = oracle.case(0, n=60, p=200, ridge=1.0, prior=None)
    direct = solve(case.problem(), Cardinality(20), solver="dense")
    small = case.problem(limits=Limits(gram_order_least=0))
    found = solve(small, Cardinality(20), solver="dense")
    assert any("conjugate gradients" in note for note in found.history)
    assert not any("conjugate gradients" in note for note in direct.history)
    assert np.array_equal(found.support, direct.support)
    assert found.objective == pytest.approx(direct.objective, rel=1e-10)
    least = case.objective(case.refit(found.support))
    assert found.objective == pytest.approx(least, rel=1e-12)
    assert direct.objective == pytest.approx(least, rel=1.1e-11)  # SUBOPTIMAL
    few = solve(small, Cardinality(20), solver="dense", max_iter=2)
    assert any("2 steps" in note for note in few.history)
    assert few.status is Status.MAX_ITER
    assert found.status is not Status.MAX_ITER


def test_a_start_with_too_many_non_zeros_is_cut(oracle):
    case = oracle.case(1, n=20, p=60, ridge=0.1)
    start = np.random.default_rng(0).standard_normal(60)
    for solver in SOLVERS:
        found = solve(case.problem(), Cardinality(5), solver=solver, start=start)
        assert np.count_nonzero(found.coef) <= 5
        assert np.count_nonzero(start) == 60


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_iteration_is_enough_for_an_answer(oracle, solver):
    case = oracle.case(6, n=30, p=300, ridge=1e-3)
    found = solve(case.problem(), Cardinality(12), solver=solver, max_iter=1)
    sane(case, Cardinality(12), found, oracle)
    assert found.n_iter >= 1
    assert np.count_nonzero(found.coef) == 12


@settings(max_examples=40)
@given(seed=seeds, logridge=st.integers(-10, 0))
def test_few_supports_are_all_tried(oracle, seed, logridge):
    case = oracle.case(seed, ridge=10.0**logridge)
    p = case.X.shape[1]
    rng = np.random.default_rng(seed)
    # Units that differ by up to 12 orders of magnitude must not matter.
    units = 10.0 ** rng.uniform(-6, 6, p)
    case = case.but(X=case.X * units, prior=None)
    k = int(rng.integers(1, p + 1))
    best = case.optimum(itertools.combinations(range(p), k))
    found = solve(case.problem(), Cardinality(k))
    scale = case.objective(np.zeros(p))
    assert found.status is Status.OPTIMAL
    assert found.objective <= best * (1 + 1e-6) + 1e-9 * scale


def test_on_step_is_called_and_can_stop_every_search(oracle):
    case = oracle.case(8, n=40, p=200, ridge=1e-3)
    for solver in ("swap", "iht", "dual"):
        calls = []
        found = solve(
            case.problem(),
            Cardinality(10),
            solver=solver,
            on_step=lambda w, calls=calls: calls.append(w) is None,
        )
        assert len(calls) == 1
        assert calls[0].shape == (200,)
        assert found.status is Status.STOPPED
        assert np.count_nonzero(found.coef) <= 10


@pytest.mark.parametrize(
    ("blocks", "p", "k", "ridge", "plan"),
    [
        (1, 5, 5, 0.0, "all"),
        (1, 12, 3, 0.0, "enumerate"),
        (1, 1200, 20, 0.0, "swap"),
        (1, 1200, 600, 1e-3, "dual"),
        (1, 1200, 600, 0.0, "iht"),
        (2, 6, 3, 1e-3, "dual"),
        (2, 6, 3, 0.0, "iht"),
    ],
)
def test_auto_picks_by_the_shape_of_the_problem(blocks, p, k, ridge, plan):
    problem = LeastSquares(np.ones((2, p)), np.ones(2), ridge=ridge)
    if blocks > 1:
        problem = BlockLeastSquares([problem] * blocks)
    name, why = choose(problem, Cardinality(k), "auto")
    assert name == plan
    assert why.startswith(f"plan {plan}: ")


def test_a_solver_that_is_not_known_is_refused(oracle):
    problem = oracle.case(0).problem()
    with pytest.raises(ValueError, match="solver='magic' is not known; choose one of"):
        solve(problem, Cardinality(1), solver="magic")


def test_columns_that_depend_on_each_other_are_reported():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 6)), rng.standard_normal(30)
    twice = np.hstack([X, X])
    assert solve(LeastSquares(twice, y), Cardinality(12)).status is Status.NOT_UNIQUE
    alone = solve(LeastSquares(X, y), Cardinality(6))
    assert alone.status is Status.OPTIMAL
    ridged = solve(LeastSquares(twice, y, ridge=0.1), Cardinality(12))
    assert ridged.status is Status.OPTIMAL


@pytest.mark.parametrize("solver", ["swap", "iht", "dense", "auto"])
def test_independent_columns_without_ridge_are_no_reason_to_warn(solver):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 40)), rng.standard_normal(50)
    found = solve(LeastSquares(X, y), Cardinality(6), solver=solver)
    assert found.status is not Status.NOT_UNIQUE


@pytest.mark.parametrize("solver", ["swap", "auto", "iht"])
def test_units_of_columns_and_target_do_not_matter_without_ridge(solver):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 40))
    y = X[:, :5] @ np.ones(5) + 0.5 * rng.standard_normal(60)
    plain = solve(LeastSquares(X, y), Cardinality(5), solver=solver)
    units = 10.0 ** rng.uniform(-6, 6, 40)
    scaled = solve(LeastSquares(X * units, 1e4 * y), Cardinality(5), solver=solver)
    assert np.array_equal(plain.support, scaled.support)
    assert np.allclose(scaled.coef * units / 1e4, plain.coef, rtol=1e-6, atol=1e-9)


def test_the_order_of_columns_does_not_matter(oracle):
    case = oracle.case(2, n=40, p=30, ridge=0.01, prior=None)
    order = np.random.default_rng(0).permutation(30)
    for solver in SOLVERS:
        options = {"solver": solver, "n_restarts": 0}
        one = solve(case.problem(), Cardinality(6), **options)
        other = solve(case.but(X=case.X[:, order]).problem(), Cardinality(6), **options)
        assert other.objective == pytest.approx(one.objective, rel=1e-9)


@pytest.mark.parametrize("solver", ["auto", "swap", "dual", "exact"])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_ridge_next_to_nothing_proves_nothing_false(oracle, solver, seed):
    # Of columns so large, mu is lost in the rounding of A'A, and w_bar is far from all
    # that fits.
    case, rng = oracle.case(seed), np.random.default_rng(seed)
    p = case.X.shape[1]
    prior = rng.standard_normal(p) * 10 ** rng.uniform(-3, 3)
    case = case.but(X=2e7 * case.X, ridge=5e-8, prior=prior)
    pattern = Cardinality(int(rng.integers(1, p + 1)))
    best = case.optimum(oracle.supports(pattern, p))
    found = solve(case.problem(), pattern, solver=solver)
    at_zero = case.objective(np.zeros(p))
    assert found.lower_bound <= best * (1 + 1e-9) + 1e-12 * at_zero
