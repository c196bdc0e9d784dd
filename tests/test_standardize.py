"""`standardize=True`: the answer does not depend on the units of the columns."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, chita_path
from chita_sklearn.core import SOLVERS

OPTIONS = {"n_restarts": 3, "random_state": 0}


def make_data(seed, n=60, p=12, share=1.0):
    """Four true columns among correlated ones; `share` of the entries are not zero."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.7 * rng.standard_normal((n, 1)) + 0.5
    X *= rng.random((n, p)) < share
    truth = rng.choice(p, 4, replace=False)
    y = X[:, truth] @ rng.uniform(1, 2, 4) + 0.3 * rng.standard_normal(n) + 2.0
    return X, y, rng


@given(
    seed=st.integers(0, 10_000),
    solver=st.sampled_from(SOLVERS),
    kind=st.sampled_from(["dense", "sparse", "float32"]),
    weighted=st.booleans(),
    intercept=st.booleans(),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_units_do_not_matter(seed, solver, kind, weighted, intercept, ridge):
    X, y, rng = make_data(seed, share=0.4 if kind == "sparse" else 1.0)
    weights = rng.uniform(0.1, 2.0, len(y)) if weighted else None
    if kind == "float32":
        X = X.astype(np.float32)
    units = 10.0 ** rng.uniform(-8, 8, X.shape[1])
    if kind == "float32":  # multiplied without rounding
        units = 2.0 ** np.round(np.log2(units))
    units = units.astype(X.dtype)
    other = X * units
    prior = rng.standard_normal(X.shape[1])
    if kind == "sparse":
        X, other = scipy.sparse.csc_array(X), scipy.sparse.csc_array(other)
    before = other.copy()

    options = {"solver": solver, "fit_intercept": intercept, **OPTIONS}
    options["max_iter"] = 200
    model = ChitaRegressor(4, ridge, coef_prior=prior, **options)
    model.fit(X, y, sample_weight=weights)
    in_other = ChitaRegressor(4, ridge, coef_prior=prior / units, **options)
    in_other.fit(other, y, sample_weight=weights)

    digits = 1e-4 if kind == "float32" else 1e-7
    assert_array_equal(model.support_, in_other.support_)
    assert_allclose(in_other.coef_ * units, model.coef_, rtol=digits, atol=digits)
    assert_allclose(in_other.predict(other), model.predict(X), rtol=digits, atol=digits)
    assert in_other.objective_ == pytest.approx(model.objective_, rel=1e-6)
    assert in_other.gap_ == pytest.approx(model.gap_, abs=1e-5)
    changed = other != before
    assert not (changed.nnz if kind == "sparse" else changed.any())


@pytest.mark.parametrize(
    "constraint",
    [
        {"positive": True},
        {"positive": [1, -1, 0] * 4, "always_include": [2]},
        {"groups": np.arange(12) // 3},
        {"target_support": "shared"},
        {"target_support": "pooled"},
    ],
    ids=["signs", "signs and required", "groups", "shared", "pooled"],
)
@pytest.mark.parametrize("seed", range(4))
def test_units_do_not_matter_under_constraints(constraint, seed):
    X, y, rng = make_data(seed, share=0.4 if seed % 2 else 1.0)
    y = np.column_stack([y, y[::-1]]) if "target_support" in constraint else y
    weights = rng.uniform(0.1, 2.0, len(y))
    units = 10.0 ** rng.uniform(-8, 8, X.shape[1])
    X, other = (scipy.sparse.csr_array(Z) if seed % 2 else Z for Z in (X, X * units))
    model = ChitaRegressor(2, 0.05, **constraint, **OPTIONS)
    in_other = ChitaRegressor(2, 0.05, **constraint, **OPTIONS)
    model.fit(X, y, sample_weight=weights)
    in_other.fit(other, y, sample_weight=weights)
    assert_allclose(in_other.coef_ * units, model.coef_, rtol=1e-7, atol=1e-9)
    assert_allclose(in_other.predict(other), model.predict(X), rtol=1e-7)
    assert in_other.objective_ == pytest.approx(model.objective_, rel=1e-9)
    assert in_other.gap_ == pytest.approx(model.gap_, abs=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_fit_on_columns_that_are_scaled_by_hand(weighted):
    X, y, rng = make_data(3)
    weights = rng.uniform(0.1, 2.0, len(y)) if weighted else None
    units = 10.0 ** rng.uniform(-3, 3, X.shape[1])
    scaler = StandardScaler().fit(X, sample_weight=weights)
    by_hand = ChitaRegressor(4, 0.1, standardize=False, **OPTIONS)
    by_hand.fit(scaler.transform(X), y, sample_weight=weights)
    model = ChitaRegressor(4, 0.1, **OPTIONS).fit(X * units, y, sample_weight=weights)
    assert_array_equal(model.support_, by_hand.support_)
    assert_allclose(model.coef_ * units * scaler.scale_, by_hand.coef_, rtol=1e-9)
    assert model.objective_ == pytest.approx(by_hand.objective_, rel=1e-12)
    assert model.gap_ == pytest.approx(by_hand.gap_, rel=1e-9)


def test_all_columns_give_the_ridge_regression_of_standardised_ones():
    X, y, rng = make_data(5)
    X = X * 10.0 ** rng.uniform(-5, 5, X.shape[1])
    model = ChitaRegressor(1.0, 0.3).fit(X, y)
    scaler = StandardScaler().fit(X)
    ridge = Ridge(alpha=0.3 * len(y), solver="svd").fit(scaler.transform(X), y)
    assert_allclose(model.coef_ * scaler.scale_, ridge.coef_, rtol=1e-8)
    assert_allclose(model.predict(X), ridge.predict(scaler.transform(X)), rtol=1e-9)


def test_a_true_column_in_small_units_is_chosen():
    # 500 x 20, one true column in units of 1e-3: R2 .41 where the ridge is not scaled.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 20))
    X[:, 7] *= 1e-3
    y = X[:, 2] - X[:, 5] + 1e3 * X[:, 7] + 0.05 * rng.standard_normal(500)
    assert ChitaRegressor(3, random_state=0).fit(X, y).score(X, y) > 0.99
    assert ChitaRegressorCV(6, random_state=0).fit(X, y).score(X, y) > 0.99
    assert chita_path(X, y, [3]).supports[0].tolist() == [2, 5, 7]


def test_columns_of_wildly_different_norms():
    # A public report: norms 1e4, 1e-4 and 1, and y from three of the columns.
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 30))
    X *= np.where(
        np.arange(30) % 3 == 0, 1e4, np.where(np.arange(30) % 3 == 1, 1e-4, 1)
    )
    y = 2e-4 * X[:, 3] + 3e4 * X[:, 10] - X[:, 20]
    assert ChitaRegressor(3).fit(X, y).support_.tolist() == [3, 10, 20]


def test_a_cross_validated_choice_does_not_depend_on_units():
    X, y, rng = make_data(7, n=80)
    units = 10.0 ** rng.uniform(-8, 8, X.shape[1])
    options = {"ks": 6, "ridges": [1e-3, 0.1], "cv": 4, **OPTIONS}
    model = ChitaRegressorCV(**options).fit(X, y)
    other = ChitaRegressorCV(**options).fit(X * units, y)
    assert (model.k_, model.ridge_) == (other.k_, other.ridge_)
    assert_array_equal(model.support_, other.support_)
    assert_allclose(model.score_path_, other.score_path_, rtol=1e-7)
    assert_allclose(other.path_.coefs * units[:, None], model.path_.coefs, rtol=1e-7)
    assert_allclose(
        other.path_.degrees_of_freedom, model.path_.degrees_of_freedom, rtol=1e-9
    )


@pytest.mark.parametrize("intercept", [True, False])
def test_columns_that_say_nothing_stay_out(intercept):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((40, 6))
    X[:, 1] = 0.0
    if intercept:
        X[:, 4] = 1e9  # constant
    y = X[:, 0] + X[:, 2]
    model = ChitaRegressor(2, fit_intercept=intercept).fit(X, y)
    assert model.support_.tolist() == [0, 2]
    assert np.all(np.isfinite(model.coef_))


@pytest.mark.parametrize("of", ["dense", "sparse", "moments"])
def test_the_prior_of_a_column_without_variance_counts_for_nothing(of):
    # sigma_j is 0 there: in the objective, in the choice, and in any unit.
    rng = np.random.default_rng(4)
    X = rng.standard_normal((40, 4))
    X[:, 1] = 0.0
    y = X[:, 0] + rng.standard_normal(40)
    prior = np.array([1.0, 5.0, 0.5, 0.0])
    model = ChitaRegressor(1, 1.0, coef_prior=prior)
    if of == "moments":
        model.partial_fit(X, y)
    else:
        model.fit(scipy.sparse.csr_array(X) if of == "sparse" else X, y)
    assert model.support_.tolist() == [0]
    centred, w = y - y.mean(), model.coef_
    residual = centred - (X - X.mean(axis=0)) @ w
    penalty = np.sum(X.var(axis=0) * (w - prior) ** 2)
    assert model.objective_ == pytest.approx(np.mean(residual**2) / 2 + penalty / 2)


def in_small_units():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5))
    X[:, 3] *= 1e-3
    X[:, 4] = 0.0  # no units would help this one
    return X, X[:, 0] + 1e3 * X[:, 3] + 0.1 * rng.standard_normal(200)


@pytest.mark.parametrize(
    "fit",
    [
        lambda X, y: ChitaRegressor(2, standardize=False).fit(X, y),
        lambda X, y: ChitaRegressor(2, standardize=False).partial_fit(X, y),
        lambda X, y: chita_path(X, y, [2], standardize=False),
        lambda X, y: ChitaRegressorCV([2], 1e-4, standardize=False).fit(X, y),
    ],
    ids=["fit", "partial_fit", "path", "cv"],
)
def test_a_column_that_the_ridge_keeps_out_is_named(fit):
    X, y = in_small_units()
    message = r"ridge = 0\.0001 is far above .* columns 3: .*standardize=True"
    with pytest.warns(UserWarning, match=message) as said:
        fit(X, y)
    assert said[0].filename == __file__


def test_its_name_is_that_of_a_data_frame():
    pd = pytest.importorskip("pandas")
    X, y = in_small_units()
    frame = pd.DataFrame(X, columns=list("abcde"))
    with pytest.warns(UserWarning, match="columns 'd': they can hardly be chosen"):
        ChitaRegressor(2, standardize=False).fit(frame, y)


def test_no_column_is_named_where_the_ridge_keeps_none_out():
    X, y = in_small_units()
    prior = [0.0, 0.0, 0.0, 1e3, 0.0]
    assert ChitaRegressor(2).fit(X, y).support_.tolist() == [0, 3]
    for ridge, options in (
        (0.0, {}),
        (1e-6, {}),
        (1e-4, {"coef_prior": prior}),
    ):
        ChitaRegressor(2, ridge, standardize=False, **options).fit(X, y)
    # Far above the variances of all columns alike it prefers none.
    ChitaRegressor(2, 1e4, standardize=False).fit(X[:, :3], y)
