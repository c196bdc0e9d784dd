"""What is refused, and with which words; what only looks odd and must work."""

import re

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

from chita_sklearn import ChitaRegressor, chita_path

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 6))
    return X, X[:, 1] - 2 * X[:, 4] + 0.1 * rng.standard_normal(30)


# Each message names the parameter, the range, the value and the remedy.
K_RANGE = r"an int in the range \[0, inf\), a float in the range \(0\.0, 1\.0\] or None"


@pytest.mark.parametrize(
    ("k", "shown"),
    [
        (-3, "-3"),
        (True, "True"),
        (False, "False"),
        (0.0, "0.0"),
        (-0.5, "-0.5"),
        (1.5, "1.5"),
        (NAN, "nan"),
        (INF, "inf"),
        ("3", "'3'"),
        (np.int64(-1), r"np.int64\(-1\)"),
        (np.float64("nan"), r"np.float64\(nan\)"),
    ],
)
def test_bad_k(data, k, shown):
    pattern = f"'k' parameter.*{K_RANGE}. Got {shown} instead. Pass the number"
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(k).fit(*data)


@pytest.mark.parametrize("ridge", [-1e-9, -1, NAN, INF, True, "auto", None])
def test_bad_ridge(data, ridge):
    pattern = (
        r"'ridge' parameter.*a float in the range \[0\.0, inf\)\. "
        f"Got {re.escape(repr(ridge))} instead. Pass a finite non-negative number"
    )
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, ridge).fit(*data)


@pytest.mark.parametrize(
    ("parameter", "value", "pattern"),
    [
        ("solver", "omp", "'solver'.*a str among.*Got 'omp' instead. Pass 'auto'"),
        ("solver", None, "'solver'.*'iht'.*Got None instead"),
        ("n_restarts", -1, r"'n_restarts'.*\[0, inf\)\. Got -1.*0 turns them off"),
        ("n_restarts", True, "'n_restarts'.*Got True"),
        ("n_restarts", 2.0, "'n_restarts'.*Got 2.0"),
        ("max_iter", 0, r"'max_iter'.*\[1, inf\)\. Got 0 instead"),
        ("tol", -1e-3, r"'tol'.*\[0\.0, inf\)\. Got -0.001 instead"),
        ("tol", NAN, "'tol'.*Got nan instead"),
        ("fit_intercept", "yes", "'fit_intercept'.*Got 'yes' instead. Pass True"),
        ("warm_start", 3, "'warm_start'.*Got 3 instead. Pass True"),
        ("random_state", -1, "'random_state'.*Got -1 instead. Pass an int"),
        ("coef_prior", 1.0, "'coef_prior'.*array-like or None. Got 1.0.*Pass one"),
    ],
)
def test_bad_parameter(data, parameter, value, pattern):
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(**{parameter: value}).fit(*data)


def test_dual_without_a_ridge(data):
    pattern = "solver='dual' needs ridge > 0.*Set ridge > 0, or choose"
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, 0.0, solver="dual").fit(*data)


@pytest.mark.parametrize(
    ("prior", "pattern"),
    [
        ([0.0] * 5, r"coef_prior has shape \(5,\); it must be \(6,\)\. Pass one"),
        ([], r"coef_prior has shape \(0,\); it must be \(6,\)"),
        (np.zeros((1, 6)), r"coef_prior has shape \(1, 6\); it must be \(6,\)"),
        (np.zeros((6, 1)), r"coef_prior has shape \(6, 1\); it must be \(6,\)"),
        ([0, 0, NAN, 0, 0, 0], "coef_prior contains NaN or infinity.*Use 0 where"),
        ([0, 0, INF, 0, 0, 0], "coef_prior contains NaN or infinity.*Use 0 where"),
    ],
)
def test_bad_coef_prior(data, prior, pattern):
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, coef_prior=prior).fit(*data)


def test_bad_coef_prior_for_several_targets(data):
    X, y = data
    pattern = r"shape \(3, 6\); it must be \(6,\) or \(2, 6\)"
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, coef_prior=np.zeros((3, 6))).fit(X, np.column_stack([y, y]))


def test_coef_prior_that_float32_cannot_hold(data):
    X, y = data
    prior = np.full(6, 1e300)
    with (
        pytest.raises(ValueError, match="coef_prior contains NaN or infinity"),
        np.errstate(over="ignore"),
    ):
        ChitaRegressor(2, coef_prior=prior).fit(X.astype(np.float32), y)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["X", "y", "sample_weight"])
def test_nan_and_infinity(data, where, bad):
    X, y = data
    inputs = {"X": X.copy(), "y": y.copy(), "sample_weight": np.ones(30)}
    inputs[where].flat[7] = bad
    with pytest.raises(ValueError, match=f"Input {where} contains (NaN|infinity)"):
        ChitaRegressor(2).fit(**inputs)


def test_nan_in_sparse_X(data):
    X, y = data
    X = X.copy()
    X[3, 2] = NAN
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ChitaRegressor(2).fit(scipy.sparse.csr_array(X), y)


def test_nan_in_one_of_several_targets(data):
    X, y = data
    Y = np.column_stack([y, y])
    Y[4, 1] = NAN
    with pytest.raises(ValueError, match="Input y contains NaN"):
        ChitaRegressor(2).fit(X, Y)


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ((0, 4), r"0 sample\(s\) .* minimum of 1 is required"),
        ((4, 0), r"0 feature\(s\) .* minimum of 1 is required"),
    ],
)
def test_empty_X(shape, pattern):
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor().fit(np.empty(shape), np.ones(shape[0]))


@pytest.mark.parametrize(
    ("X", "y", "pattern"),
    [
        (np.ones(4), np.ones(4), "Expected 2D array, got 1D array"),
        (np.ones((4, 2, 2)), np.ones(4), "with dim 3"),
        (np.ones((4, 2)), np.ones(5), "inconsistent numbers of samples"),
        (np.ones((4, 2)), np.ones((4, 2, 2)), "with dim 3"),
        (np.ones((4, 2)), np.ones((4, 0)), r"0 feature\(s\)"),
        (np.ones((4, 2)) * 1j, np.ones(4), "Complex data not supported"),
        (np.ones((4, 2)), np.ones(4) * 1j, "Complex data not supported"),
        (np.ones((4, 2)), None, "requires y to be passed"),
        ([["a", "b"]] * 4, np.ones(4), "could not convert string to float"),
    ],
)
def test_shapes_and_types_that_do_not_match(X, y, pattern):
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor().fit(X, y)


def test_sparse_y_is_refused(data):
    X, y = data
    with pytest.raises(TypeError, match=r"y is sparse.*Pass y\.toarray\(\)"):
        ChitaRegressor().fit(X, scipy.sparse.csr_array(y[:, None]))


@pytest.mark.parametrize(
    ("weights", "pattern"),
    [
        (np.zeros(30), "sample_weight are all zero.*Pass sample_weight=None"),
        (0.0, "sample_weight are all zero"),
        (np.r_[-0.5, np.ones(29)], r"negative entry, -0\.5\..*\[0, inf\)"),
        (-1.0, "negative entry, -1"),
        (np.ones(29), r"sample_weight.shape == \(29,\), expected \(30,\)"),
        (np.ones((30, 1)), "Sample weights must be 1D array or scalar"),
    ],
)
def test_bad_sample_weight(data, weights, pattern):
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor().fit(*data, sample_weight=weights)


def test_predicting_with_another_number_of_features(data):
    X, y = data
    model = ChitaRegressor(2).fit(X, y)
    pattern = "X has 5 features, but ChitaRegressor is expecting 6 features"
    with pytest.raises(ValueError, match=pattern):
        model.predict(X[:, :5])
    with pytest.raises(ValueError, match=pattern):
        model.score(X[:, :5], y)


def test_predicting_with_other_feature_names(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = ChitaRegressor(2).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("fedcba")])


@pytest.mark.parametrize("method", ["predict", "get_support", "to_numpy"])
def test_methods_need_a_fit(data, method):
    arguments = data[:1] if method == "predict" else ()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ChitaRegressor(), method)(*arguments)


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e200), (np.float32, 1e30)])
def test_numbers_whose_squares_overflow(data, dtype, size):
    # float32 data this large are still squared in float64, and are fine.
    X, y = (array.astype(dtype) * dtype(size) for array in data)
    model = ChitaRegressor(2)
    if dtype == np.float32:
        assert_array_equal(model.fit(X, y).support_, [1, 4])
        return
    with (
        pytest.raises(ValueError, match=r"centred.*in \[1e-70, 1e\+70\]"),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        model.fit(X, y)


@pytest.mark.parametrize("solver", ["auto", "swap", "dual", "iht", "dense", "exact"])
@pytest.mark.parametrize(
    ("of_X", "of_y", "of_weights", "what"),
    [
        (1e76, 1e76, 1.0, "y"),
        (1e160, 1.0, 1.0, "the longest column of X"),
        (1e300, 1.0, 1.0, "the longest column of X"),
        (1e-90, 1.0, 1.0, "the longest column of X"),
        (1e-180, 1.0, 1.0, "the longest column of X"),
        (1.0, 1e-90, 1.0, "y"),
        (1.0, 1.0, 1e200, "y"),
        (1.0, 1.0, 1e308, "y"),
        (1.0, 1.0, 1e-200, "y"),
    ],
)
def test_lengths_beyond_what_can_be_squared(data, solver, of_X, of_y, of_weights, what):
    X, y = data
    weights = np.full(len(y), of_weights)
    for fit in (
        ChitaRegressor(2, 1e-3, solver=solver).fit,
        lambda X, y, weights: chita_path(X, y, 2, sample_weight=weights),
    ):
        with (
            pytest.raises(ValueError, match=r"centred.*in \[1e-70, 1e\+70\]") as error,
            np.errstate(all="ignore"),
        ):
            fit(X * of_X, y * of_y, weights)
        assert what in str(error.value) or of_weights != 1.0


def test_the_sparse_are_refused_alike(data):
    X, y = data
    for scale in (1e-180, 1e160):
        with (
            pytest.raises(ValueError, match="the longest column of X"),
            np.errstate(all="ignore"),
        ):
            ChitaRegressor(2).fit(scipy.sparse.csr_array(X * scale), y)


# Not errors.


@pytest.mark.parametrize("k", [7, 100, np.int64(50), 10**12])
def test_k_beyond_the_number_of_features_is_clipped(data, k):
    model = ChitaRegressor(k).fit(*data)
    assert model.k_ == 6
    assert model.k == k
    assert_array_equal(model.support_, np.arange(6))


def test_zero_columns_are_left_out(data):
    X, y = data
    X = X.copy()
    X[:, [0, 3]] = 0.0
    model = ChitaRegressor(2).fit(X, y)
    assert_array_equal(model.support_, [1, 4])
    everything = ChitaRegressor(6).fit(X, y)
    assert_array_equal(everything.support_, [1, 2, 4, 5])


def test_constant_columns_are_left_out_under_an_intercept(data):
    X, y = data
    X = X.copy()
    X[:, 0] = 7.3
    model = ChitaRegressor(6).fit(X, y + 5)
    assert 0 not in model.support_
    assert np.all(np.isfinite(model.coef_))


def test_constant_column_serves_without_an_intercept(data):
    X, y = data
    X = X.copy()
    X[:, 0] = 1.0
    model = ChitaRegressor(3, 1e-8, fit_intercept=False).fit(X, y + 5)
    assert_array_equal(model.support_, [0, 1, 4])
    assert model.coef_[0] == pytest.approx(5, abs=0.1)
    assert model.intercept_ == 0.0


def test_duplicated_columns_share_under_a_ridge(data):
    X, y = data
    X = np.hstack([X, X])
    model = ChitaRegressor(12, 1e-2).fit(X, y)
    assert_allclose(model.coef_[:6], model.coef_[6:], rtol=1e-6, atol=1e-10)
    model = ChitaRegressor(2, 1e-4).fit(X, y)
    assert set(model.support_ % 6) == {1, 4}


def test_duplicated_columns_without_ridge_warn_that_the_answer_is_not_unique(data):
    X, y = data
    X = np.hstack([X, X])
    with pytest.warns(
        UserWarning, match=r"linearly dependent and ridge = 0.*ridge > 0"
    ):
        model = ChitaRegressor(12, 0.0).fit(X, y)
    assert np.all(np.isfinite(model.coef_))
    exact = np.linalg.lstsq(X - X.mean(0), y - y.mean(), rcond=None)[0]
    assert_allclose(model.predict(X), X @ exact + y.mean() - X.mean(0) @ exact)


def test_no_warning_where_the_answer_is_unique(data):
    # Warnings are errors in this test session.
    X, y = data
    ChitaRegressor(6, 0.0).fit(X, y)
    ChitaRegressor(2, 0.0).fit(np.hstack([X, X[:, :1]]), y)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_one_sample(fit_intercept, ridge):
    X, y = np.array([[1.0, -2.0, 3.0]]), np.array([4.0])
    model = ChitaRegressor(
        1, ridge, fit_intercept=fit_intercept, standardize=False
    ).fit(X, y)
    if fit_intercept:  # centring leaves nothing to explain
        assert_array_equal(model.coef_, 0.0)
        assert model.predict(X) == pytest.approx(4.0)
        assert model.objective_ == 0.0
        assert model.gap_ == 0.0
    else:
        assert_array_equal(model.support_, [2])
        assert model.coef_[2] == pytest.approx(12 / (9 + ridge))


@pytest.mark.parametrize("k", [None, 1, 1.0, 0.01, 5])
def test_one_feature(k):
    X, y = np.arange(5.0)[:, None], 3 * np.arange(5.0) + 2
    model = ChitaRegressor(k, 0.0).fit(X, y)
    assert model.k_ == 1
    assert model.coef_ == pytest.approx([3.0])
    assert model.intercept_ == pytest.approx(2.0)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_y(data, value):
    X, _ = data
    model = ChitaRegressor(2).fit(X, np.full(30, value))
    assert_allclose(model.coef_, 0.0, atol=1e-12)
    assert_allclose(model.predict(X), value)
    assert model.objective_ == pytest.approx(0.0, abs=1e-20)


def test_all_of_X_zero():
    model = ChitaRegressor(2).fit(np.zeros((5, 4)), np.arange(5.0))
    assert_array_equal(model.coef_, 0.0)
    assert len(model.support_) == 0
    assert model.intercept_ == pytest.approx(2.0)


@pytest.mark.parametrize("ridge", [0.0, 1e-8, 1e-4, 10.0])
@pytest.mark.parametrize("k", [1, 3, 10, 60])
def test_more_features_than_samples(k, ridge):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((12, 60))
    y = X[:, 7] + 0.01 * rng.standard_normal(12)
    model = ChitaRegressor(k, ridge, random_state=0)
    if ridge == 0.0 and k > 11:
        with pytest.warns(UserWarning, match="linearly dependent"):
            model.fit(X, y)
    else:
        model.fit(X, y)
    assert np.all(np.isfinite(model.coef_))
    assert len(model.support_) <= k
    assert model.objective_ <= 0.5 * np.var(y)


def test_integer_and_boolean_X_become_float64(data):
    X, y = data
    for kind in (np.int64, np.uint8, bool, np.float16):
        cast = (X > 0).astype(kind)
        model = ChitaRegressor(2).fit(cast, y)
        reference = ChitaRegressor(2).fit(cast.astype(np.float64), y)
        assert model.coef_.dtype == np.float64
        assert_array_equal(model.coef_, reference.coef_)


def test_lists_will_do():
    model = ChitaRegressor(1).fit([[1, 2], [3, 4], [5, 7]], [1, 2, 3])
    assert len(model.predict([[1, 2]])) == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("scale", "dtype", "ridge"), [(1e-42, np.float32, 1e-4), (1.0, np.float64, 1e308)]
)
def test_what_overflows_is_refused_with_every_cause(data, scale, dtype, ridge):
    X, y = data
    X = (scale * X).astype(dtype)
    with pytest.raises(ValueError, match=r"The objective is (nan|inf): the ridge, or"):
        ChitaRegressor(2, ridge).fit(X, y)
    with pytest.raises(ValueError, match=r"The objective is (nan|inf): the ridge, or"):
        chita_path(X, y, 2, ridge=ridge)


@pytest.mark.parametrize("convert", [np.float16, np.longdouble, np.int8, np.bool_])
def test_numbers_of_other_types_are_what_they_are_as_float64(data, convert):
    X, y = (3 * data[0]).astype(convert), data[1]
    model = ChitaRegressor(2, random_state=0).fit(X, y)
    same = ChitaRegressor(2, random_state=0).fit(X.astype(np.float64), y)
    assert_array_equal(model.coef_, same.coef_)
    assert model.objective_ == same.objective_


def test_nullable_columns_of_pandas_are_numbers(data):
    pandas = pytest.importorskip("pandas")
    X, y = (10 * data[0]).astype(np.int64), data[1]
    frame = pandas.DataFrame(X).astype("Int64")
    model = ChitaRegressor(2, random_state=0).fit(
        frame, pandas.Series(y, dtype="Float64")
    )
    assert_array_equal(model.coef_, ChitaRegressor(2, random_state=0).fit(X, y).coef_)
    with pytest.raises(ValueError, match="NaN"):
        ChitaRegressor(2).fit(frame.mask(frame > 10), y)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_samples_are_fitted(data, n):
    X, y = data[0][:n], data[1][:n]
    model = ChitaRegressor(2, random_state=0).fit(X, y)
    assert model.gap_ == 0
    assert model.objective_ <= 0.5 * np.var(y)
    if n == 1:
        assert model.intercept_ == y[0]
        assert not np.any(model.coef_)
