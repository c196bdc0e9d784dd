"""Claims about `ChitaRegressor`, each on data where the right answer is known."""

import pickle
import re
import signal
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import chita_sklearn.regressor
from chita_sklearn import ChitaRegressor
from chita_sklearn.core import Status, solve
from chita_sklearn.core.problem.design import Dense

# What scikit-learn has from 1.9 on.
callback = sys.modules.get("sklearn.callback")
needs_callbacks = pytest.mark.skipif(
    callback is None, reason="this scikit-learn has no callbacks"
)

TRUTH = {3: 2.0, 7: -1.5, 12: 1.0}


def make_data(n=80, p=20, seed=0, noise=0.1):
    """Three features of `TRUTH`, an intercept of 4."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 1.0
    y = 4.0 + sum(c * X[:, j] for j, c in TRUTH.items())
    return X, y + noise * rng.standard_normal(n)


@pytest.fixture
def data():
    return make_data()


def deviations(X, weights=None, center=True):
    """What the ridge is scaled by: standard deviations, or root mean squares.

    0 for a constant column beside an intercept, and for zeros without, in any rounding.
    """
    mean = np.average(X, axis=0, weights=weights) if center else 0.0
    size = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    live = np.ptp(X, axis=0) > 0 if center else np.any(X != 0, axis=0)
    return live * size


def formula(model, X, y, weights=None):
    """F as the docstring writes it, from the fitted attributes."""
    s = np.ones(len(y)) if weights is None else weights
    prior = np.zeros(X.shape[1]) if model.coef_prior is None else model.coef_prior
    residual = y - X @ model.coef_ - model.intercept_
    size = deviations(X, s, model.fit_intercept) if model.standardize else 1.0
    return s @ residual**2 / (2 * s.sum()) + model.ridge / 2 * np.sum(
        (size * (model.coef_ - prior)) ** 2
    )


@pytest.fixture
def solve_calls(monkeypatch):
    """Keyword arguments of each call of the core's `solve` by the estimator."""
    calls = []

    def recording_solve(problem, pattern, **options):
        calls.append(options)
        return solve(problem, pattern, **options)

    monkeypatch.setattr(chita_sklearn.regressor, "solve", recording_solve)
    return calls


# The objective.


@pytest.mark.parametrize("solver", ["auto", "iht", "swap"])
def test_planted_support_is_recovered(data, solver):
    X, y = data
    model = ChitaRegressor(3, solver=solver).fit(X, y)
    assert_array_equal(model.support_, list(TRUTH))
    assert_allclose(model.coef_[model.support_], list(TRUTH.values()), atol=0.05)
    assert model.intercept_ == pytest.approx(4.0, abs=0.1)
    assert model.score(X, y) > 0.99


def test_coefficients_at_ridge_zero_are_ordinary_least_squares(data):
    X, y = data
    model = ChitaRegressor(3, 0.0).fit(X, y)
    chosen = X[:, model.support_]
    reference = LinearRegression().fit(chosen, y)
    assert_allclose(model.coef_[model.support_], reference.coef_, rtol=1e-9)
    assert model.intercept_ == pytest.approx(reference.intercept_, rel=1e-9)
    assert_allclose(model.predict(X), reference.predict(chosen), rtol=1e-9)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(80, 20), (15, 40)])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 10.0])
def test_all_features_give_ridge_regression(fit_intercept, weighted, shape, ridge):
    X, y = make_data(*shape)
    weights = np.linspace(0.1, 2, len(y)) if weighted else None
    total = len(y) if weights is None else weights.sum()
    model = ChitaRegressor(1.0, ridge, fit_intercept=fit_intercept, standardize=False)
    model.fit(X, y, sample_weight=weights)
    reference = Ridge(alpha=ridge * total, fit_intercept=fit_intercept, solver="svd")
    reference.fit(X, y, sample_weight=weights)
    assert_allclose(model.coef_, reference.coef_, rtol=1e-6, atol=1e-9)
    assert model.intercept_ == pytest.approx(reference.intercept_, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10, 20])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_objective_is_the_formula(data, k, weighted, fit_intercept):
    X, y = data
    rng = np.random.default_rng(2)
    weights = rng.uniform(0, 2, len(y)) if weighted else None
    model = ChitaRegressor(
        k, 0.05, coef_prior=rng.standard_normal(20), fit_intercept=fit_intercept
    ).fit(X, y, sample_weight=weights)
    assert model.objective_ == pytest.approx(formula(model, X, y, weights), rel=1e-9)


def test_no_step_within_the_support_lowers_the_objective(data):
    X, y = data
    prior = np.linspace(-1, 1, 20)
    model = ChitaRegressor(5, 0.03, coef_prior=prior).fit(X, y)
    residual = y - model.predict(X)
    ridge = 0.03 * deviations(X) ** 2
    gradient = -X.T @ residual / len(y) + ridge * (model.coef_ - prior)
    assert_allclose(gradient[model.support_], 0, atol=1e-9)
    assert residual.mean() == pytest.approx(0, abs=1e-9)


def test_a_heavy_ridge_returns_the_largest_of_the_prior(data):
    X, y = data
    prior = np.random.default_rng(3).standard_normal(20)
    model = ChitaRegressor(4, 1e9, coef_prior=prior).fit(X, y)
    assert_array_equal(model.support_, np.sort(np.argsort(-np.abs(prior))[:4]))
    assert_allclose(model.coef_[model.support_], prior[model.support_], rtol=1e-6)


def test_a_dense_prior_is_the_same_problem_about_the_shifted_target(data):
    # With all features, substituting v = w - prior turns y into y - X prior.
    X, y = data
    prior = np.random.default_rng(4).standard_normal(20)
    model = ChitaRegressor(1.0, 0.1, coef_prior=prior).fit(X, y)
    shifted = ChitaRegressor(1.0, 0.1).fit(X, y - X @ prior)
    assert_allclose(model.coef_, shifted.coef_ + prior, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("k", "p", "expected"),
    [
        (None, 20, 2),
        (None, 4, 1),
        (None, 1, 1),
        (0.1, 20, 2),
        (0.3, 20, 6),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (1e-9, 20, 1),
        (1.0, 20, 20),
        (1, 20, 1),
        (7, 20, 7),
        (21, 20, 20),
        (np.int32(7), 20, 7),
        (np.float32(0.5), 20, 10),
    ],
)
def test_k_is_resolved_into_k_(k, p, expected):
    X, y = make_data(p=p) if p > 12 else (make_data()[0][:, :p], make_data()[1])
    model = ChitaRegressor(k).fit(X, y)
    assert model.k_ == expected
    assert type(model.k_) is int
    assert model.k is k
    assert len(model.support_) == expected
    assert np.count_nonzero(model.coef_) == expected


def test_more_features_never_fit_worse():
    X, y = load_diabetes(return_X_y=True)
    objectives = [
        ChitaRegressor(k, random_state=0).fit(X, y).objective_ for k in range(1, 11)
    ]
    assert np.all(np.diff(objectives) <= 0)


small_floats = st.integers(-4, 4).map(float)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_problem_is_solved_no_worse_than_by_doing_nothing(data):
    n, p = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    # Few distinct values: zero, constant, equal and dependent columns all come up.
    X = data.draw(arrays(float, (n, p), elements=small_floats))
    y = data.draw(arrays(float, n, elements=small_floats))
    prior = data.draw(arrays(float, p, elements=small_floats) | st.none())
    weights = data.draw(
        arrays(float, n, elements=st.integers(1, 3).map(float)) | st.none()
    )
    k = data.draw(st.integers(1, p))
    ridge = data.draw(st.sampled_from([1e-6, 1e-2, 1.0]))
    intercept = data.draw(st.booleans())
    model = ChitaRegressor(k, ridge, coef_prior=prior, fit_intercept=intercept)
    model.fit(X, y, sample_weight=weights)

    assert model.k_ == k
    assert len(model.support_) <= k
    assert_array_equal(model.support_, np.flatnonzero(model.coef_))
    objective = formula(model, X, y, weights)
    assert model.objective_ == pytest.approx(objective, rel=1e-7, abs=1e-10)
    # The prior cut to its k largest entries is allowed, and so is zero.
    cut = np.zeros(p)
    if prior is not None:
        largest = np.argsort(-np.abs(prior), kind="stable")[:k]
        cut[largest] = prior[largest]
    for coef in (np.zeros(p), cut):
        model.coef_ = coef
        rest = y - X @ coef
        model.intercept_ = np.average(rest, weights=weights) if intercept else 0.0
        assert objective <= formula(model, X, y, weights) * (1 + 1e-9) + 1e-12


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(20)))
def test_the_order_of_the_columns_does_not_matter(order):
    X, y = make_data()
    order = np.asarray(order)
    coef = ChitaRegressor(3).fit(X, y).coef_
    permuted = ChitaRegressor(3).fit(X[:, order], y).coef_
    assert_allclose(permuted, coef[order], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_y_does_not_matter(data, scale):
    X, y = data
    coef = ChitaRegressor(3).fit(X, y).coef_
    scaled = ChitaRegressor(3).fit(X, scale * y).coef_
    assert_allclose(scaled, scale * coef, rtol=1e-9)


def test_a_far_away_mean_does_not_spoil_the_fit(data):
    X, y = data
    coef = ChitaRegressor(3).fit(X, y).coef_
    assert_allclose(ChitaRegressor(3).fit(X + 1e6, y).coef_, coef, rtol=1e-6)


# What is reported.


def test_attributes_of_one_target(data):
    X, y = data
    model = ChitaRegressor(3, random_state=0).fit(X, y)
    assert model.coef_.shape == (20,)
    assert np.ndim(model.intercept_) == 0
    assert model.intercept_.dtype == np.float64
    assert model.support_.dtype.kind == "i"
    assert_array_equal(model.support_, np.flatnonzero(model.coef_))
    assert type(model.n_iter_) is int
    assert model.n_iter_ >= 1
    for name in ("objective_", "lower_bound_", "gap_"):
        assert type(getattr(model, name)) is float
    assert model.n_features_in_ == 20
    assert not hasattr(model, "feature_names_in_")


def test_history_tells_in_words_what_ran(data):
    model = ChitaRegressor(3).fit(*data)
    assert isinstance(model.solver_history_, tuple)
    assert model.solver_history_
    assert all(isinstance(line, str) and line for line in model.solver_history_)


@pytest.mark.parametrize(
    ("objective", "bound", "gap"),
    [
        (2.0, 1.0, 0.5),
        (2.0, 2.0, 0.0),
        (2.0, float("nan"), float("nan")),
        (0.0, 0.0, 0.0),
        (0.0, float("nan"), 0.0),
    ],
)
def test_gap_follows_from_objective_and_bound(data, monkeypatch, objective, bound, gap):
    def fixed(problem, pattern, **options):
        n = problem.n
        solution = solve(problem, pattern, **options)
        return replace(solution, objective=objective * n, lower_bound=bound * n)

    monkeypatch.setattr(chita_sklearn.regressor, "solve", fixed)
    model = ChitaRegressor(3).fit(*data)
    assert model.objective_ == pytest.approx(objective)
    assert model.gap_ == pytest.approx(gap, nan_ok=True)


def test_n_iter_is_the_solvers_count(data, monkeypatch):
    def counted(problem, pattern, **options):
        return replace(solve(problem, pattern, **options), n_iter=7)

    monkeypatch.setattr(chita_sklearn.regressor, "solve", counted)
    assert ChitaRegressor(3).fit(*data).n_iter_ == 7


def test_intercept_has_the_type_of_X_even_if_it_is_not_fitted(data):
    X, y = data
    for dtype in (np.float64, np.float32):
        for fit_intercept in (True, False):
            model = ChitaRegressor(3, fit_intercept=fit_intercept)
            model.fit(X.astype(dtype), y)
            assert model.intercept_.dtype == dtype
            assert model.intercept_ == 0 or fit_intercept


def test_get_support(data):
    X, y = data
    model = ChitaRegressor(3).fit(X, y)
    assert model.get_support().dtype == bool
    assert_array_equal(np.flatnonzero(model.get_support()), model.support_)
    assert_array_equal(model.get_support(indices=True), model.support_)


def test_reaching_max_iter_warns_once_and_keeps_the_solution(data, monkeypatch):
    def unfinished(problem, pattern, **options):
        solution = solve(problem, pattern, **options)
        return replace(solution, status=Status.MAX_ITER)

    monkeypatch.setattr(chita_sklearn.regressor, "solve", unfinished)
    X, y = data
    with pytest.warns(ConvergenceWarning, match="Raise max_iter") as record:
        model = ChitaRegressor(3).fit(X, y)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert_array_equal(model.support_, list(TRUTH))
    with pytest.warns(ConvergenceWarning, match="2 of 2 targets") as record:
        ChitaRegressor(3).fit(X, np.column_stack([y, y]))
    assert len(record) == 1


# Sample weights.


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("shape", [(40, 20), (10, 30)])
@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
def test_integer_weights_are_repetitions(fit_intercept, shape, container):
    X, y = make_data(*shape)
    weights = np.random.default_rng(5).integers(0, 4, len(y))
    model = ChitaRegressor(4, 0.1, fit_intercept=fit_intercept, random_state=0)
    weighted = clone(model).fit(container(X), y, sample_weight=weights)
    repeated = clone(model).fit(
        container(np.repeat(X, weights, axis=0)), np.repeat(y, weights)
    )
    assert_array_equal(weighted.support_, repeated.support_)
    assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-8)
    assert weighted.intercept_ == pytest.approx(repeated.intercept_, rel=1e-8)
    assert weighted.objective_ == pytest.approx(repeated.objective_, rel=1e-8)


def test_a_weight_of_zero_removes_even_an_outlier(data):
    X, y = data
    weights = np.ones(len(y))
    weights[5] = 0.0
    X, y = X.copy(), y.copy()
    X[5], y[5] = 1e6, -1e9
    model = ChitaRegressor(3).fit(X, y, sample_weight=weights)
    without = ChitaRegressor(3).fit(np.delete(X, 5, axis=0), np.delete(y, 5))
    assert_allclose(model.coef_, without.coef_, rtol=1e-6)
    assert model.objective_ == pytest.approx(without.objective_, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e5])
def test_the_scale_of_the_weights_does_not_matter(data, factor):
    X, y = data
    weights = np.linspace(0.5, 2, len(y))
    model = ChitaRegressor(3, 0.1).fit(X, y, sample_weight=weights)
    scaled = ChitaRegressor(3, 0.1).fit(X, y, sample_weight=factor * weights)
    assert_allclose(scaled.coef_, model.coef_, rtol=1e-9)
    assert scaled.objective_ == pytest.approx(model.objective_, rel=1e-9)


def test_one_weight_for_all_is_no_weight(data):
    X, y = data
    plain = ChitaRegressor(3).fit(X, y)
    assert_allclose(ChitaRegressor(3).fit(X, y, sample_weight=2.5).coef_, plain.coef_)


# Several targets.


@pytest.fixture
def targets():
    X, y = make_data()
    return X, np.column_stack([y, 3 * X[:, 5] - X[:, 6] + X[:, 1], np.full(80, 2.0)])


def test_each_target_gets_what_a_fit_of_its_own_gives(targets):
    X, Y = targets
    model = ChitaRegressor(3, random_state=0).fit(X, Y)
    for t in range(3):
        alone = ChitaRegressor(3, random_state=0).fit(X, Y[:, t])
        assert_array_equal(model.coef_[t], alone.coef_)
        assert_array_equal(model.support_[t], alone.support_)
        assert model.solver_history_[t] == alone.solver_history_
        for name in ("intercept_", "objective_", "lower_bound_", "gap_", "n_iter_"):
            assert_array_equal(getattr(model, name)[t], getattr(alone, name))


def test_attributes_of_several_targets(targets):
    X, Y = targets
    model = ChitaRegressor(3).fit(X.astype(np.float32), Y)
    assert model.coef_.shape == (3, 20)
    assert model.coef_.dtype == np.float32
    assert model.intercept_.shape == (3,)
    assert model.intercept_.dtype == np.float32
    assert isinstance(model.support_, list)
    for name in ("objective_", "lower_bound_", "gap_", "n_iter_"):
        assert getattr(model, name).shape == (3,)
    assert model.objective_.dtype == np.float64
    assert model.n_iter_.dtype.kind == "i"
    assert model.get_support().shape == (3, 20)
    assert model.get_support(indices=True) is model.support_
    assert model.predict(X).shape == (80, 3)
    assert type(model.k_) is int


def test_a_column_y_stays_a_column(data):
    X, y = data
    model = ChitaRegressor(3).fit(X, y[:, None])
    flat = ChitaRegressor(3).fit(X, y)
    assert model.coef_.shape == (1, 20)
    assert model.intercept_.shape == (1,)
    assert len(model.support_) == 1
    assert model.predict(X).shape == (80, 1)
    assert_array_equal(model.predict(X)[:, 0], flat.predict(X))


def test_prior_is_shared_by_the_targets_or_each_has_its_own(targets):
    X, Y = targets
    priors = np.random.default_rng(6).standard_normal((3, 20))
    own = ChitaRegressor(3, 0.5, coef_prior=priors, random_state=0).fit(X, Y)
    shared = ChitaRegressor(3, 0.5, coef_prior=priors[0], random_state=0).fit(X, Y)
    for t in range(3):
        for model, prior in ((own, priors[t]), (shared, priors[0])):
            alone = ChitaRegressor(3, 0.5, coef_prior=prior, random_state=0)
            assert_array_equal(model.coef_[t], alone.fit(X, Y[:, t]).coef_)


# Containers and types.


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("array", [True, False])
def test_sparse_X_is_the_same_problem(fit_intercept, weighted, kind, array):
    X, y = make_data()
    X[np.random.default_rng(7).random(X.shape) < 0.7] = 0.0
    weights = np.linspace(0, 2, len(y)) if weighted else None
    convert = getattr(scipy.sparse, f"{kind}_{'array' if array else 'matrix'}")
    model = ChitaRegressor(3, fit_intercept=fit_intercept, random_state=0)
    dense = clone(model).fit(X, y, sample_weight=weights)
    sparse = clone(model).fit(convert(X), y, sample_weight=weights)
    assert_array_equal(sparse.support_, dense.support_)
    assert_allclose(sparse.coef_, dense.coef_, rtol=1e-9)
    assert_allclose(sparse.predict(convert(X)), dense.predict(X), rtol=1e-9)
    assert_allclose(sparse.predict(X), dense.predict(X), rtol=1e-9)


def test_sparse_X_with_repeated_and_explicit_zero_entries(data):
    X, y = data
    csr = scipy.sparse.csr_array(X)
    rows = np.repeat(np.arange(80), 20)
    # Every entry in two halves, and some stored zeros.
    halves = scipy.sparse.csr_array(X)
    halves.data = np.repeat(csr.data / 2, 2)
    halves.indices = np.repeat(csr.indices, 2)
    halves.indptr = 2 * csr.indptr
    halves.has_canonical_format = False
    stored = halves.nnz
    assert_allclose(halves.toarray(), X)
    model = ChitaRegressor(3).fit(halves, y)
    assert halves.nnz == stored  # the caller's matrix is as it was
    halves = halves.tocsc()
    assert halves.nnz == stored
    ChitaRegressor(3).fit(halves, y)
    assert halves.nnz == stored
    assert_allclose(model.coef_, ChitaRegressor(3).fit(X, y).coef_, rtol=1e-9)

    X = X.copy()
    X[:, 2] = 0.0
    zeros = scipy.sparse.coo_array(
        (X.ravel(), (rows, np.tile(np.arange(20), 80))), shape=X.shape
    ).tocsc()
    assert zeros.nnz == X.size
    model = ChitaRegressor(3).fit(zeros, y)
    assert_allclose(model.coef_, ChitaRegressor(3).fit(X, y).coef_, rtol=1e-9)


def test_sparse_X_is_never_made_dense():
    n, p = 1000, 20_000  # 160 MB as a dense matrix
    X = scipy.sparse.random_array((n, p), density=0.01, format="csr", random_state=0)
    coef = np.zeros(p)
    coef[:5] = 10.0
    y = X @ coef + 0.01 * np.random.default_rng(0).standard_normal(n)
    tracemalloc.start()
    try:
        model = ChitaRegressor(5, random_state=0).fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_array_equal(model.support_, np.arange(5))
    assert peak < 60e6


@pytest.mark.parametrize("solver", ["auto", "iht", "swap"])
def test_dense_X_is_not_copied(solver):
    X, y = make_data(2000, 2000)  # 32 MB
    tracemalloc.start()
    try:
        ChitaRegressor(5, solver=solver, random_state=0).fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X.nbytes


@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
def test_float32_stays_float32(data, container):
    X, y = (array.astype(np.float32) for array in data)
    model = ChitaRegressor(3).fit(container(X), y)
    assert model.coef_.dtype == np.float32
    assert model.intercept_.dtype == np.float32
    assert model.predict(container(X)).dtype == np.float32
    reference = ChitaRegressor(3).fit(*data)
    assert_array_equal(model.support_, reference.support_)
    assert_allclose(model.coef_, reference.coef_, rtol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 1e-8])
def test_float32_is_right_at_a_small_ridge_and_on_far_means(ridge):
    X, y = make_data(60, 30)
    X = (X + 300 * np.arange(30)).astype(np.float32)
    y = y.astype(np.float32)
    single = ChitaRegressor(5, ridge, random_state=0).fit(X, y)
    double = ChitaRegressor(5, ridge, random_state=0).fit(X.astype(np.float64), y)
    assert_array_equal(single.support_, double.support_)
    assert_allclose(single.coef_, double.coef_, rtol=1e-4)
    assert single.objective_ == pytest.approx(double.objective_, rel=1e-3)


def test_coefficients_take_the_dtype_of_X_whatever_that_of_y_and_weights(data):
    X, y = data
    model = ChitaRegressor(3).fit(
        X.astype(np.float32), y, sample_weight=np.ones(80, dtype=int)
    )
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    counts = ChitaRegressor(3).fit(X, np.round(y).astype(int))
    assert counts.coef_.dtype == np.float64


def test_y_is_not_rounded_to_a_float32_X(data):
    X, y = data
    X = X.astype(np.float32)
    coef = ChitaRegressor(3).fit(X, y).coef_
    assert_allclose(ChitaRegressor(3).fit(X, y + 1e9).coef_, coef, rtol=1e-5)


def test_a_float32_model_predicts_float64_data(data):
    X, y = data
    model = ChitaRegressor(3).fit(X.astype(np.float32), y)
    assert model.predict(X).dtype == np.float64
    assert model.predict(X.astype(np.float32)).dtype == np.float32


def test_inputs_are_never_written_to(data, tmp_path):
    X, y = data
    weights, prior = np.linspace(0, 2, 80), np.linspace(-1, 1, 20)
    model = ChitaRegressor(3, 0.1, coef_prior=prior, random_state=0)
    expected = clone(model).fit(X, y, sample_weight=weights).coef_
    for array in (X, y, weights, prior):
        array.flags.writeable = False
    model = ChitaRegressor(3, 0.1, coef_prior=prior, random_state=0)
    assert_array_equal(model.fit(X, y, sample_weight=weights).coef_, expected)

    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(model.fit(mapped, y, sample_weight=weights).coef_, expected)
    assert type(model.coef_) is np.ndarray

    sparse = scipy.sparse.csc_array(X)
    for array in (sparse.data, sparse.indices, sparse.indptr):
        array.flags.writeable = False
    assert_allclose(
        model.fit(sparse, y, sample_weight=weights).coef_, expected, rtol=1e-9
    )


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
        lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    ],
)
def test_memory_layout_does_not_matter(data, view):
    X, y = data
    coef = ChitaRegressor(3).fit(X, y).coef_
    assert_allclose(ChitaRegressor(3).fit(view(X), y).coef_, coef, rtol=1e-10)


def test_data_frames_keep_their_names(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(20)])
    model = ChitaRegressor(3).fit(frame, pd.Series(y), sample_weight=pd.Series(y > 0))
    assert list(model.feature_names_in_) == list(frame.columns)
    assert list(model.feature_names_in_[model.support_]) == ["x3", "x7", "x12"]
    assert model.predict(frame).shape == (80,)
    both = ChitaRegressor(3).fit(frame, pd.DataFrame({"a": y, "b": -y}))
    assert both.coef_.shape == (2, 20)


# Repetition.


def test_an_int_seed_gives_the_same_answer_each_time():
    X, y = make_data(30, 60, noise=3.0)
    fits = [ChitaRegressor(8, random_state=3).fit(X, y).coef_ for _ in range(2)]
    assert_array_equal(*fits)


def test_random_state_may_be_a_generator_or_none(data, solve_calls):
    X, y = data
    ChitaRegressor(3, random_state=np.random.RandomState(0)).fit(X, y)
    ChitaRegressor(3, random_state=np.random.RandomState(0)).fit(X, y)
    ChitaRegressor(3, random_state=np.random.RandomState(1)).fit(X, y)
    ChitaRegressor(3, random_state=np.int64(7)).fit(X, y)
    ChitaRegressor(3).fit(X, y)
    seeds = [options["random_state"] for options in solve_calls]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[3] == 7
    assert all(type(seed) is int for seed in seeds)


def test_parameters_reach_the_solver(data, solve_calls):
    ChitaRegressor(3, solver="swap", n_restarts=4, max_iter=17, tol=1e-3).fit(*data)
    (options,) = solve_calls
    assert options["solver"] == "swap"
    assert options["n_restarts"] == 4
    assert options["max_iter"] == 17
    assert options["tol"] == 1e-3
    assert options["start"] is None


def test_warm_start_hands_the_previous_coefficients_on(data, solve_calls):
    X, y = data
    model = ChitaRegressor(3, warm_start=True, standardize=False).fit(X, y)
    previous = model.coef_
    model.set_params(k=4).fit(X, y)
    assert solve_calls[0]["start"] is None
    assert solve_calls[1]["start"] is previous


def test_a_cold_start_forgets(data, solve_calls):
    model = ChitaRegressor(3).fit(*data)
    model.fit(*data)
    assert solve_calls[1]["start"] is None


def test_warm_start_gives_each_target_its_own(targets, solve_calls):
    X, Y = targets
    model = ChitaRegressor(3, warm_start=True).fit(X, Y)
    previous = model.coef_
    model.fit(X, Y)
    for t in range(3):
        scaled = previous[t] * deviations(X)
        assert_allclose(solve_calls[3 + t]["start"], scaled, rtol=1e-12)


@pytest.mark.parametrize("change", ["features", "dtype", "targets"])
def test_warm_start_leaves_out_coefficients_that_do_not_suit(data, solve_calls, change):
    X, y = data
    model = ChitaRegressor(3, warm_start=True).fit(X, y)
    if change == "features":
        model.fit(X[:, :15], y)
    elif change == "dtype":
        model.fit(X.astype(np.float32), y)
    else:
        model.fit(X, np.column_stack([y, y]))
    assert all(options["start"] is None for options in solve_calls[1:])
    assert np.count_nonzero(model.coef_) == 3 * (2 if change == "targets" else 1)


def test_warm_start_is_never_worse_than_where_it_started():
    X, y = make_data(30, 60, noise=3.0)
    model = ChitaRegressor(8, n_restarts=30, random_state=0).fit(X, y)
    good = model.objective_
    model.set_params(warm_start=True, n_restarts=0).fit(X, y)
    assert model.objective_ <= good * (1 + 1e-12)


# Callbacks.


class Recorder:
    """Counts the hooks; asks to stop after `stop_after` steps."""

    def __init__(self, stop_after=None, raises=None):
        self.stop_after = stop_after
        self.raises = raises
        self.events = []
        self.scores = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator, metadata):
        self.events.append(f"end {context.task_name}")
        self.metadata = metadata
        weights = (metadata or {}).get("sample_weight")
        self.scores.append(fitted_estimator.score(X, y, sample_weight=weights))
        if self.raises is not None:
            raise self.raises
        steps = self.events.count("end step")
        return self.stop_after is not None and steps >= self.stop_after


@needs_callbacks
def test_callbacks_see_every_step_and_are_torn_down(data):
    X, y = data
    recorder = Recorder()
    model = ChitaRegressor(3).set_callbacks(recorder)
    weights = np.linspace(0.1, 1, 80)
    model.fit(X, y, sample_weight=weights)
    assert recorder.metadata["sample_weight"] is weights
    events = recorder.events
    assert events[:2] == ["setup", "begin fit"]
    assert events[-2:] == ["end fit", "teardown"]
    assert events.count("begin step") == events.count("end step") >= 1
    assert recorder.scores[-1] > 0.99
    plain = ChitaRegressor(3).fit(X, y, sample_weight=np.linspace(0.1, 1, 80))
    assert_array_equal(model.coef_, plain.coef_)


@needs_callbacks
def test_callbacks_see_each_target(targets):
    X, Y = targets
    recorder = Recorder()
    ChitaRegressor(3).set_callbacks(recorder).fit(X, Y[:, :2])
    assert recorder.events.count("end target") == 2
    assert recorder.events.count("end step") >= 2
    assert recorder.scores[-1] > 0.99


@needs_callbacks
def test_a_callback_can_stop_the_fit_early():
    X, y = make_data(30, 60, noise=3.0)
    recorder = Recorder()
    ChitaRegressor(8, random_state=0).set_callbacks(recorder).fit(X, y)
    every = recorder.events.count("end step")
    recorder = Recorder(stop_after=1)
    model = ChitaRegressor(8, random_state=0).set_callbacks(recorder).fit(X, y)
    assert recorder.events.count("end step") < every
    assert len(model.support_) == 8
    assert model.objective_ == pytest.approx(formula(model, X, y), rel=1e-9)


class Watch:
    """Notes how far each step says a proof is."""

    def __init__(self):
        self.seen = []

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if hasattr(fitted_estimator, "n_nodes_"):
            names = ("gap_", "n_nodes_", "nodes_per_second_")
            self.seen.append([getattr(fitted_estimator, name) for name in names])


@needs_callbacks
def test_callbacks_see_how_far_a_proof_is():
    X, y = make_data(60, 40, noise=3.0)
    watch = Watch()
    model = ChitaRegressor(6, solver="exact", ridge=1e-2, tol=1e-6)
    model.set_callbacks(watch).fit(X, y)
    gaps, nodes, rates = np.transpose(watch.seen)
    assert len(gaps) > 2
    assert np.all(np.diff(gaps) <= 1e-12)
    assert gaps[-1] == pytest.approx(model.gap_, abs=1e-9)
    assert np.all(np.diff(nodes) > 0)
    assert f"{nodes[-1]:.0f} nodes" in model.solver_history_[-2]
    assert np.all(rates > 0)


def test_without_callbacks_the_solver_reports_to_nobody(data, solve_calls):
    ChitaRegressor(3).fit(*data)
    assert solve_calls[0]["on_step"] is None


@needs_callbacks
def test_scoring_monitor_has_something_to_log(data):
    pytest.importorskip("pandas")
    X, y = data
    monitor = callback.ScoringMonitor(scoring="r2")
    ChitaRegressor(3).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs()
    rows = log.data if hasattr(log, "data") else log[0].data
    assert rows[-1]["r2"] > 0.99


@needs_callbacks
def test_progress_bar_runs(targets, capsys):
    pytest.importorskip("rich")
    ChitaRegressor(3).set_callbacks(callback.ProgressBar()).fit(*targets)
    assert "ChitaRegressor" in capsys.readouterr().out


@needs_callbacks
def test_clone_keeps_callbacks(data):
    recorder = Recorder()
    clone(ChitaRegressor(3).set_callbacks(recorder)).fit(*data)
    assert "end fit" in recorder.events


# Interruption.


@needs_callbacks
@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("fitted_before", [False, True])
def test_ctrl_c_leaves_the_estimator_unfitted(data, fitted_before, warm_start):
    X, y = data
    model = ChitaRegressor(3, warm_start=warm_start)
    if fitted_before:
        model.fit(X, y)
    recorder = Recorder(raises=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        model.set_callbacks(recorder).fit(X, y)
    assert recorder.events[-1] == "teardown"
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert not hasattr(model, "coef_")
    model.set_callbacks().fit(X, y)
    assert_array_equal(model.support_, list(TRUTH))


@pytest.fixture
def interruptible():
    """A process that a shell starts in the background ignores SIGINT; not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_inside_the_solver(data, monkeypatch):
    X, y = data
    model = ChitaRegressor(3).fit(X, y)

    def interrupted(problem, pattern, **options):
        signal.raise_signal(signal.SIGINT)
        return solve(problem, pattern, **options)

    monkeypatch.setattr(chita_sklearn.regressor, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


def test_a_fit_that_raises_leaves_the_estimator_unfitted(data):
    X, y = data
    model = ChitaRegressor(3).fit(X, y)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan), y)
    with pytest.raises(NotFittedError):
        model.predict(X)


# Company.


def test_pickled_estimator_predicts_the_same(data):
    X, y = data
    model = ChitaRegressor(3).fit(X, y)
    other = pickle.loads(pickle.dumps(model))
    assert_array_equal(other.predict(X), model.predict(X))
    assert other.solver_history_ == model.solver_history_


def test_grid_search_in_two_processes_through_a_pipeline(data):
    X, y = data
    search = GridSearchCV(
        make_pipeline(StandardScaler(), ChitaRegressor(random_state=0)),
        {"chitaregressor__k": [1, 3, 0.5], "chitaregressor__ridge": [1e-4, 10.0]},
        n_jobs=2,
        cv=3,
    ).fit(X, y)
    assert search.best_params_ == {
        "chitaregressor__k": 3,
        "chitaregressor__ridge": 1e-4,
    }
    assert_array_equal(search.best_estimator_[-1].support_, list(TRUTH))


def test_cross_val_score(data):
    assert cross_val_score(ChitaRegressor(3), *data).min() > 0.99


def test_select_from_model_keeps_all_chosen_features_at_a_tiny_threshold(data):
    X, y = data
    y = y + 0.2 * X[:, 15]  # a feature that matters little
    selector = SelectFromModel(ChitaRegressor(4), threshold=1e-300).fit(X, y)
    assert_array_equal(selector.get_support(indices=True), [3, 7, 12, 15])
    assert selector.transform(X).shape == (80, 4)
    # What the docstring warns of: the default threshold is the mean coefficient.
    default = SelectFromModel(ChitaRegressor(4)).fit(X, y)
    assert 15 not in default.get_support(indices=True)


def test_sample_weight_is_routed(data):
    X, y = data
    weights = np.r_[np.zeros(40), np.ones(40)]
    y = y.copy()
    y[:40] = 100 * X[:40, 0]
    with config_context(enable_metadata_routing=True):
        model = ChitaRegressor(3).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"k": [1, 3]}, cv=3).fit(
            X, y, sample_weight=weights + 1e-12
        )
    assert search.best_params_ == {"k": 3}
    assert_array_equal(search.best_estimator_.support_, list(TRUTH))


@pytest.mark.parametrize("solver", ["auto", "swap", "exact"])
@pytest.mark.parametrize("power", [-200, -100, -60, 60, 100, 200])
def test_the_choice_does_not_depend_on_the_unit_of_x(solver, power):
    # Powers of two scale without rounding. Correlated columns make P large as well.
    rng = np.random.default_rng(power % 7)
    X = rng.standard_normal((60, 1)) + 0.01 * rng.standard_normal((60, 30))
    y = X[:, :5] @ rng.standard_normal(5) + 0.05 * rng.standard_normal(60)
    scale = 2.0**power
    for k in (4, 8):
        expected = ChitaRegressor(k, 0.0, solver=solver, random_state=0).fit(X, y)
        model = ChitaRegressor(k, 0.0, solver=solver, random_state=0).fit(X * scale, y)
        assert_array_equal(model.support_, expected.support_)
        assert len(model.support_) == k
        assert_allclose(model.coef_ * scale, expected.coef_, rtol=1e-6)


def test_light_samples_do_not_change_the_number_of_features():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 1)) + 1e-3 * rng.standard_normal((100, 40))
    y = X[:, :6] @ rng.standard_normal(6) + rng.standard_normal(100)
    for seed in range(3):
        model = ChitaRegressor(6, 1e-4, random_state=seed)
        assert len(model.fit(X, y, np.full(100, 1e-36)).support_) == 6


def test_the_history_tells_what_restarts_gained():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 60)), rng.standard_normal(40)
    history = ChitaRegressor(6, 0.0, random_state=0).fit(X, y).solver_history_
    assert any(
        re.match(r"restarts: \d+, of which \d+ found a better support", line)
        for line in history
    )


@pytest.mark.parametrize("prior", [None, "one", "each"])
def test_what_depends_on_x_alone_is_computed_once_for_all_targets(monkeypatch, prior):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 20)) + 3.0, rng.standard_normal((60, 4))
    priors = {"one": rng.standard_normal(20), "each": rng.standard_normal((4, 20))}
    passes, spread = [], Dense.spread
    monkeypatch.setattr(
        Dense, "spread", lambda *args: passes.append(1) or spread(*args)
    )
    options = {"k": 4, "ridge": 0.1, "random_state": 0}
    model = ChitaRegressor(coef_prior=priors.get(prior), **options).fit(X, Y)
    assert len(passes) == 1
    for t in range(4):
        own = priors[prior][t] if prior == "each" else priors.get(prior)
        alone = ChitaRegressor(coef_prior=own, **options).fit(X, Y[:, t])
        np.testing.assert_allclose(model.coef_[t], alone.coef_, atol=1e-12)
        assert model.intercept_[t] == pytest.approx(alone.intercept_, rel=1e-12)


def test_a_pickle_that_lacks_a_newer_parameter_predicts_and_says_what_it_lacks():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 4))
    model = ChitaRegressor(2).fit(X, X[:, 0])
    del model.standardize  # as pickled by a release before there was one
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.predict(X), model.predict(X))
    for use in (clone, lambda m: m.fit(X, X[:, 0])):
        with pytest.raises(AttributeError, match="release that had no standardize"):
            use(again)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("solver", ["auto", "swap", "exact"])
def test_of_columns_that_are_multiples_the_first_is_chosen(ridge, solver):
    # Rounding must not decide: it differs between machines and releases of BLAS.
    for seed in range(1 if solver == "exact" else 5):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((60, 20))
        y = X[:, :4] @ [3, -2, 2, 1] + 0.1 * rng.standard_normal(60)
        twins = X[:, [0, 1, 2, 3]] * [7.0, -1 / 3, 1e3, 1.1] + [5, 0, 0, -2]
        # The twins stand first, among others, or last.
        order = rng.permutation(24)
        A = np.hstack([X, twins])[:, order]
        place = np.argsort(order)
        first = np.sort(np.minimum(place[:4], place[20:]))
        model = ChitaRegressor(4, ridge=ridge, solver=solver, random_state=seed)
        assert_array_equal(model.fit(A, y).support_, first)
