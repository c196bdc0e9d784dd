"""`chita_path`: against brute force, single fits and itself along k."""

import inspect
import itertools
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.utils.estimator_checks import _array_api_for_tests

import chita_sklearn.core.path
from chita_sklearn import ChitaRegressor, chita_path
from chita_sklearn.core import Status

HERE = [
    ("array_api_strict", "CPU_DEVICE", "float64"),
    ("array_api_strict", "device1", "float32"),
    ("torch", "cpu", "float64"),
    ("torch", "cpu", "float32"),
]


def make_data(n=40, p=9, seed=0, rho=0.6, noise=1.0):
    """Correlated columns, every third one in the truth."""
    rng = np.random.default_rng(seed)
    X = np.sqrt(rho) * rng.standard_normal((n, 1))
    X = X + np.sqrt(1 - rho) * rng.standard_normal((n, p)) + 1
    truth = np.where(np.arange(p) % 3 == 0, rng.normal(0, 1, p), 0.0)
    return X, X @ truth + noise * rng.standard_normal(n) + 2


def wide_data(n=40, p=400, seed=0):
    """A small likeness of gene expression: blocks of near-duplicates, few samples."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 20))
    X = factors[:, rng.integers(0, 20, p)] + 0.4 * rng.standard_normal((n, p))
    y = X[:, :8] @ rng.normal(0, 1, 8) + 0.7 * rng.standard_normal(n)
    return (X - X.mean(0)) / X.std(0), y


def best_objective(X, y, k, ridge, prior=None, weights=None):
    """The optimum of F for exactly k, every support tried, by lstsq."""
    n, p = X.shape
    s = np.ones(n) if weights is None else weights
    prior = np.zeros(p) if prior is None else prior
    root, mu = np.sqrt(s), s.sum() * ridge
    best = np.inf
    for S in itertools.combinations(range(p), k):
        S = list(S)
        A = np.vstack(
            [
                root[:, None] * np.column_stack([X[:, S], np.ones(n)]),
                np.sqrt(mu) * np.eye(k, k + 1),
            ]
        )
        b = np.concatenate([root * y, np.sqrt(mu) * prior[S]])
        w = np.linalg.lstsq(A, b, rcond=None)[0]
        rest = np.delete(prior, S)
        value = np.sum((b - A @ w) ** 2) + mu * rest @ rest
        best = min(best, value / (2 * s.sum()))
    return best


def formula(path, t, X, y, prior=None, weights=None):
    """F as the docstring writes it."""
    s = np.ones(len(y)) if weights is None else weights
    w = path.coefs[:, t]
    shift = w if prior is None else w - prior
    residual = y - X @ w - path.intercepts[t]
    return s @ residual**2 / (2 * s.sum()) + path.ridge / 2 * shift @ shift


# Against brute force.


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("options", ["plain", "weights and prior"])
def test_each_k_is_the_exhaustive_optimum(ridge, options):
    X, y = make_data()
    rng = np.random.default_rng(1)
    weights = prior = None
    if options != "plain":
        weights, prior = rng.uniform(0.2, 2, 40), rng.normal(0, 0.5, 9)
    path = chita_path(X, y, 9, ridge=ridge, coef_prior=prior, sample_weight=weights)
    # The ridge acts on standardised columns.
    mean = np.average(X, axis=0, weights=weights)
    size = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    X, prior = X / size, None if prior is None else prior * size
    path = replace(path, coefs=path.coefs * size[:, None])
    for t, k in enumerate(path.ks):
        best = best_objective(X, y, int(k), ridge, prior, weights)
        assert path.objectives[t] == pytest.approx(best, rel=1e-9)
        assert path.lower_bounds[t] <= best * (1 + 1e-12)
        found = formula(path, t, X, y, prior, weights)
        assert path.objectives[t] == pytest.approx(found, rel=1e-9)


@given(seed=st.integers(0, 10_000), ridge=st.sampled_from([0.0, 1e-6, 1e-3, 0.3]))
@settings(max_examples=15, deadline=None)
def test_bounds_hold_and_objectives_fall(seed, ridge):
    X, y = make_data(n=25, p=7, seed=seed, rho=0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = chita_path(
            X,
            y,
            [2, 3, 5, 7],
            ridge=ridge,
            standardize=False,
            n_restarts=1,
            random_state=0,
        )
    assert np.all(np.diff(path.objectives) <= 0)
    for t, k in enumerate(path.ks):
        best = best_objective(X, y, int(k), ridge)
        assert path.objectives[t] >= best * (1 - 1e-9)
        if not np.isnan(path.lower_bounds[t]):
            assert path.lower_bounds[t] <= best * (1 + 1e-9)


# Against single fits.


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_single_fit_is_never_better(ridge, seed):
    X, y = wide_data(seed=seed)
    effort = {"n_restarts": 3, "random_state": 7}
    path = chita_path(X, y, [1, 2, 3, 5, 8, 9, 12], ridge=ridge, **effort)
    for t, k in enumerate(path.ks):
        model = ChitaRegressor(int(k), ridge, **effort).fit(X, y)
        assert path.objectives[t] <= model.objective_ * (1 + 1e-9)
        if ridge > 0:
            assert path.lower_bounds[t] >= model.lower_bound_ * (1 - 1e-9)


def test_neighbours_do_help():
    # Without restarts single fits end in local optima that the path gets out of.
    X, y = wide_data(seed=3)
    path = chita_path(X, y, 15, ridge=1e-3, n_restarts=0)
    single = [
        ChitaRegressor(k, 1e-3, n_restarts=0).fit(X, y).objective_ for k in range(1, 16)
    ]
    assert np.all(path.objectives <= np.asarray(single) * (1 + 1e-9))
    assert np.sum(path.objectives < np.asarray(single) * (1 - 1e-3)) >= 3
    helped = [h for history in path.histories for h in history if "from k" in h]
    assert {"from k = 6", "from k = 9"} & set(helped)  # upwards or downwards


@pytest.mark.parametrize("solver", ["iht", "dual", "dense"])
def test_other_solvers_are_passed_on_and_not_worse_than_alone(solver):
    X, y = wide_data()
    path = chita_path(X, y, [2, 4, 6], ridge=0.1, solver=solver)
    for t, k in enumerate(path.ks):
        model = ChitaRegressor(int(k), 0.1, solver=solver).fit(X, y)
        assert path.objectives[t] <= model.objective_ * (1 + 1e-9)
        assert f"plan {solver}" in " ".join(path.histories[t])


def test_too_many_nonzeros_for_swaps():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 900))
    y = X[:, :30].sum(1) + rng.standard_normal(50)
    path = chita_path(X, y, [501, 600, 800], ridge=0.05)
    assert np.all(np.diff(path.objectives) <= 0)
    assert np.all(np.diff(path.lower_bounds) <= 0)
    for t, k in enumerate(path.ks):
        model = ChitaRegressor(int(k), 0.05).fit(X, y)
        assert path.objectives[t] <= model.objective_ * (1 + 1e-4)
        assert path.gaps[t] < 1e-2
        assert "plan dual" in path.histories[t][0]


def test_defaults_are_those_of_the_estimator():
    ours = inspect.signature(chita_path).parameters
    theirs = inspect.signature(ChitaRegressor.__init__).parameters
    for name in set(ours) & set(theirs):
        assert ours[name].default == theirs[name].default, name


# Along k.


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 1.0])
def test_the_objective_never_rises_and_neither_does_the_bound(ridge):
    X, y = wide_data(seed=5)
    path = chita_path(X, y, [1, 3, 4, 7, 20, 60, 400], ridge=ridge, n_restarts=0)
    assert np.all(np.diff(path.objectives) <= 0)
    assert np.all(np.diff(path.lower_bounds) <= 1e-15)
    assert np.all(path.lower_bounds <= path.objectives)
    assert path.gaps[-1] == 0  # all features: solved exactly
    assert path.statuses[-1] is Status.OPTIMAL


def test_the_bound_with_all_features_serves_those_with_fewer():
    # At a tiny ridge the dual proves nothing, but n > p: no subset beats all columns.
    X, y = make_data(n=60, p=25, seed=2)
    alone = chita_path(X, y, [12], ridge=1e-9, n_restarts=0)
    path = chita_path(X, y, [12, 25], ridge=1e-9, n_restarts=0)
    assert path.lower_bounds[0] > 0.5 * path.objectives[0]
    assert not alone.lower_bounds[0] > 0.01 * path.objectives[0]
    assert 0 < path.gaps[0] < 1


def test_gaps_are_what_they_are_said_to_be():
    X, y = wide_data()
    path = chita_path(X, y, [1, 4, 8], ridge=0.5)
    expected = (path.objectives - path.lower_bounds) / path.objectives
    assert_allclose(path.gaps, expected, atol=1e-15)
    assert np.all((path.gaps >= 0) & (path.gaps <= 1))


def test_without_ridge_bounds_are_unknown_unless_enumerated():
    X, y = wide_data()
    path = chita_path(X, y, [1, 5], ridge=0.0, n_restarts=0)
    assert path.gaps[0] == 0  # 400 supports were tried in turn
    assert np.isnan(path.gaps[1])


# ks.


def test_an_int_stands_for_all_up_to_it():
    X, y = make_data()
    assert_array_equal(chita_path(X, y, 4).ks, [1, 2, 3, 4])
    assert_array_equal(chita_path(X, y, np.int64(2)).ks, [1, 2])


@pytest.mark.parametrize("given_ks", [[5, 1, 5, 3], (3, 5, 1), np.array([1, 5, 3])])
def test_ks_are_sorted_and_solved_once(given_ks):
    X, y = make_data()
    path = chita_path(X, y, given_ks)
    assert_array_equal(path.ks, [1, 3, 5])
    assert path.coefs.shape == (9, 3)
    assert [len(S) for S in path.supports] == [1, 3, 5]


def test_more_features_than_there_are_count_as_all():
    X, y = make_data()
    assert_array_equal(chita_path(X, y, [2, 9, 50, 1000]).ks, [2, 9])
    assert_array_equal(chita_path(X, y, 10**12).ks, np.arange(1, 10))


@pytest.mark.parametrize(
    "bad", [0, -1, [], [-1, 1], [1.0, 2.0], [True], "3", None, 2.5, [[1, 2]], ["a"]]
)
def test_other_ks_are_refused_with_a_remedy(bad):
    X, y = make_data()
    with pytest.raises(ValueError, match=r"ks must .*Got .* Pass an int"):
        chita_path(X, y, bad)


# Data.


def test_record_is_consistent():
    X, y = wide_data()
    path = chita_path(X, y, [2, 6, 11], ridge=0.2, random_state=0)
    for t in range(3):
        w = path.coefs[:, t]
        assert_array_equal(np.flatnonzero(w), path.supports[t])
        residual = y - X @ w - path.intercepts[t]
        assert path.rss[t] == pytest.approx(residual @ residual, rel=1e-9)
        A = X[:, path.supports[t]] - X[:, path.supports[t]].mean(0)
        hat = A @ np.linalg.solve(A.T @ A + 40 * 0.2 * np.eye(A.shape[1]), A.T)
        assert path.degrees_of_freedom[t] == pytest.approx(np.trace(hat), rel=1e-9)
    assert path.n_samples == 40
    assert path.n_features == 400
    assert np.all(path.n_iters >= 1)
    text = repr(path).splitlines()
    assert text[0] == "ChitaPath, ridge=0.2"
    assert len(text) == 5
    assert "... (11)" in text[-1]


def test_degrees_of_freedom_without_ridge_are_the_number_of_coefficients():
    X, y = make_data()
    path = chita_path(X, y, 5, ridge=0.0)
    assert_array_equal(path.degrees_of_freedom, path.ks)


def test_degrees_of_freedom_with_more_features_than_samples():
    X, y = wide_data(n=12, p=30)
    path = chita_path(X, y, [30], ridge=0.5)
    A = X - X.mean(0)
    expected = np.trace(A @ A.T @ np.linalg.inv(A @ A.T + 6 * np.eye(12)))
    assert path.degrees_of_freedom[0] == pytest.approx(expected)


def test_a_perfect_fit_has_no_residual():
    X, _ = make_data()
    path = chita_path(X, 3 * X[:, 2] - X[:, 5] + 1, 4, ridge=0.0)
    assert path.rss[0] > 1
    assert_array_equal(path.rss[1:], 0)
    zero = chita_path(X, np.zeros(40), 3)
    assert_array_equal(zero.objectives, 0)
    assert_array_equal(zero.gaps, 0)


def test_sparse_equals_dense():
    X, y = wide_data()
    X[np.abs(X) < 1] = 0
    dense = chita_path(X, y, 6, ridge=0.1, random_state=0)
    for form in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        sparse = chita_path(form(X), y, 6, ridge=0.1, random_state=0)
        assert_allclose(sparse.coefs, dense.coefs, atol=1e-9)
        assert_allclose(sparse.intercepts, dense.intercepts)


def test_float32_is_kept_and_nearly_the_same():
    X, y = wide_data()
    X32 = X.astype(np.float32)
    path = chita_path(X32, y.astype(np.float32), 5, ridge=0.1, random_state=0)
    exact = chita_path(X, y, 5, ridge=0.1, random_state=0)
    assert path.coefs.dtype == path.intercepts.dtype == np.float32
    assert_allclose(path.objectives, exact.objectives, rtol=1e-4)
    assert np.all(np.diff(path.objectives) <= 0)


def test_nothing_is_written_to():
    X, y = make_data()
    weights, prior = np.ones(40), np.zeros(9)
    for array in (X, y, weights, prior):
        array.flags.writeable = False
    chita_path(X, y, 4, sample_weight=weights, coef_prior=prior)


def test_a_column_is_a_target_and_two_are_not():
    X, y = make_data()
    with pytest.warns(DataConversionWarning, match="column-vector"):
        path = chita_path(X, y[:, None], 2)
    assert_allclose(path.coefs, chita_path(X, y, 2).coefs)
    with pytest.raises(ValueError, match=r"2 targets.*target_support='shared'"):
        chita_path(X, np.column_stack([y, y]), 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ridge", -1.0), ("tol", "a"), ("n_restarts", -1), ("solver", "best")],
)
def test_bad_parameters_are_refused_as_by_the_estimator(name, value):
    X, y = make_data()
    with pytest.raises(ValueError, match=f"'{name}' parameter.*Pass"):
        chita_path(X, y, 2, **{name: value})


def test_overflow_is_refused():
    X, y = make_data()
    with pytest.raises(ValueError, match="y, centred"), np.errstate(all="ignore"):
        chita_path(X, y * 1e200, 2)


def test_same_seed_same_path():
    X, y = wide_data()
    first = chita_path(X, y, 8, random_state=3)
    again = chita_path(X, y, 8, random_state=3)
    assert_array_equal(first.coefs, again.coefs)
    generator = np.random.RandomState(0)
    chita_path(X, y, 2, random_state=generator)
    assert generator.randint(1000) != np.random.RandomState(0).randint(1000)


def test_dependent_columns_without_ridge_are_warned_of_by_their_k():
    X, y = make_data(n=20, p=4)
    X = np.hstack([X, X])
    with pytest.warns(UserWarning, match=r"linearly dependent.*\(k = .*8\)"):
        chita_path(X, y, [1, 8], ridge=0.0)


def test_the_iteration_limit_is_warned_of_by_its_k(monkeypatch):
    from dataclasses import replace

    solve = chita_sklearn.core.path.solve

    def limited(problem, pattern, **options):
        status = Status.MAX_ITER if pattern.size == 2 else Status.CONVERGED
        return replace(solve(problem, pattern, **options), status=status)

    monkeypatch.setattr(chita_sklearn.core.path, "solve", limited)
    X, y = make_data()
    with pytest.warns(
        ConvergenceWarning, match=r"limit was reached.*\(k = 2\)"
    ) as seen:
        chita_path(X, y, 3)
    assert seen[0].filename == __file__


@pytest.mark.array_api
@pytest.mark.parametrize("backend", HERE, ids=lambda b: "-".join(b))
def test_other_array_libraries(backend):
    name, device_name, dtype = backend
    pytest.importorskip(name)
    X, y = wide_data(n=30, p=60)
    X, y = X.astype(dtype), y.astype(dtype)
    weights = np.linspace(0.5, 2, 30).astype(dtype)
    effort = {"ridge": 0.1, "n_restarts": 2, "random_state": 0}
    expected = chita_path(X, y, [2, 3, 6, 60], sample_weight=weights, **effort)
    with config_context(array_api_dispatch=True):
        xp, device = _array_api_for_tests(name, device_name, dtype)
        there = xp.asarray(X, device=device)
        # y and the weights follow X, wherever they are.
        path = chita_path(there, y, [2, 3, 6, 60], sample_weight=weights, **effort)
        for value in (path.coefs, path.intercepts, *path.supports):
            assert type(value) is type(there)
            assert value.device == there.device
        assert path.coefs.dtype == path.intercepts.dtype == there.dtype
        host = path.to_numpy()
    assert type(path.objectives) is np.ndarray
    rtol = 1e-4 if dtype == "float32" else 1e-9
    assert_allclose(host.coefs, expected.coefs, rtol=rtol, atol=rtol)
    assert_allclose(host.objectives, expected.objectives, rtol=rtol)
    for ours, theirs in zip(host.supports, expected.supports, strict=True):
        assert_array_equal(ours, theirs)


def test_to_numpy_is_a_copy():
    X, y = make_data()
    path = chita_path(X, y, 3)
    host = path.to_numpy()
    host.coefs[:] = 0
    host.objectives[:] = 0
    host.supports[0][:] = 7
    assert np.count_nonzero(path.coefs) == 6
    assert path.objectives.min() > 0
    assert_array_equal(path.supports[0], np.flatnonzero(path.coefs[:, 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_path_of_a_tall_x_copies_no_columns(dtype, weighted):
    rng = np.random.default_rng(0)
    n, p = 100_000, 20
    X = rng.standard_normal((n, p)).astype(dtype)
    y = X[:, 0] - X[:, 1] + rng.standard_normal(n)
    weights = rng.random(n) if weighted else None
    chita_path(X[:2000], y[:2000], 3)  # what is loaded once
    tracemalloc.start()
    try:
        chita_path(X, y, 10, sample_weight=weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Vectors of n numbers in float64, and blocks of 8 MB at most.
    assert peak <= 8 * 8 * n + 2**23


@pytest.mark.parametrize("shape", [(400, 6), (5, 9)])
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(shape):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal(shape), rng.standard_normal(shape[0])
    path = chita_path(X, y, 5, ridge=0.3, standardize=False)
    A = X - X.mean(axis=0)
    for S, found in zip(path.supports, path.degrees_of_freedom, strict=True):
        A_S, ridge = A[:, S], 0.3 * shape[0] * np.eye(len(S))
        hat = A_S @ np.linalg.solve(A_S.T @ A_S + ridge, A_S.T)
        assert found == pytest.approx(np.trace(hat), rel=1e-9)
