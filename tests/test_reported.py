"""Cases that users of such tools have reported, rebuilt by hand: the right answers."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from sklearn.model_selection import KFold, LeaveOneOut

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, aic, bic, chita_path, ebic


def counted(seed=0):
    """Counts in three scales, each family repeated exactly and as a multiple."""
    rng = np.random.default_rng(seed)
    base = rng.poisson(0.3, size=(300, 3)) * np.array([5.0, 1e-3, 4e-7])
    empty = np.zeros((300, 1))
    X = np.hstack([base, empty, base, empty, 3.0 * base, empty, base, empty, empty])
    y = base @ (np.array([1.0, 2.0, 3.0]) / base.std(axis=0))
    weights = rng.integers(1, 5000, 300).astype(float)
    return X, y + 0.01 * rng.standard_normal(300), weights


def test_copies_multiples_and_scales_predict_the_same_dense_and_sparse():
    X, y, weights = counted()
    assert X.shape == (300, 17)
    scores = []
    for k in (3, None, 10):
        dense, sparse = (
            ChitaRegressor(k, random_state=0).fit(data, y, sample_weight=weights)
            for data in (X, scipy.sparse.csr_array(X))
        )
        np.testing.assert_allclose(
            dense.predict(X), sparse.predict(X), rtol=1e-6, atol=1e-6 * np.std(y)
        )
        scores.append(dense.score(X, y, sample_weight=weights))
    assert scores[0] > 0.999
    assert scores[2] > 0.999
    chosen = ChitaRegressorCV(random_state=0).fit(X, y, sample_weight=weights)
    assert chosen.score(X, y, sample_weight=weights) > 0.999


@pytest.mark.parametrize("seed", range(5))
def test_columns_of_any_length_are_chosen_by_what_they_explain(seed):
    rng = np.random.default_rng(seed)
    lengths = np.repeat([1e4, 1e-4, 1.0], 10)
    X = rng.standard_normal((60, 30))
    X *= lengths / np.linalg.norm(X, axis=0)
    true = [0, 10, 20]
    y = X[:, true] @ (np.array([1.0, -1.5, 2.0]) / lengths[true])
    y += 0.01 * y.std() * rng.standard_normal(60)
    assert ChitaRegressor(3).fit(X, y).support_.tolist() == true


def test_a_line_is_not_taken_for_a_parabola():
    x = np.arange(1.0, 9.0)
    X = np.column_stack([x, x**2])
    assert ChitaRegressor(1).fit(X, x).support_.tolist() == [0]
    path = chita_path(X, x, 2, ridge=0.0)
    np.testing.assert_allclose(path.rss, 0.0, atol=1e-12)
    for value in (aic(8, path.rss, path.ks), bic(8, path.rss, path.ks)):
        assert np.argmin(value) == 0
    assert np.argmin(ebic(8, path.rss, path.ks, n_features=2)) == 0
    for criterion in ("aic", "bic", "ebic"):
        for ridges in (0.0, 1e-6):
            model = ChitaRegressorCV(2, ridges, criterion=criterion).fit(X, x)
            assert model.support_.tolist() == [0]
    assert ChitaRegressorCV(2, 0.0, cv=4, selection="one_se").fit(X, x).k_ == 1


def test_powers_of_one_variable_by_the_rule_of_one_standard_error():
    # Ten points tell z from sums of its powers by chance: the best mean over folds has
    # a power too many about every other time, one standard error from it every fifth.
    rng = np.random.default_rng(0)
    z = 10 * np.exp(2 * np.linspace(0, 1, 10))
    X = np.column_stack([z, z**2, z**3, z**4])
    right = {"best": 0, "one_se": 0}
    for _ in range(20):
        y = 2 * z + 0.05 * rng.standard_normal(10)
        assert ChitaRegressor(1).fit(X, y).support_.tolist() == [0]
        for selection in right:
            model = ChitaRegressorCV(4, cv=LeaveOneOut(), selection=selection)
            right[selection] += model.fit(X, y).support_.tolist() == [0]
    assert right["one_se"] >= 14
    assert right["one_se"] > right["best"]


@pytest.mark.parametrize("cv", [False, True])
def test_a_small_target_has_the_features_of_a_large_one(cv):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((50, 8))
    u = X[:, 2] - 0.5 * X[:, 5] + 0.1 * rng.standard_normal(50)

    def features(y):
        model = ChitaRegressorCV(4, random_state=0) if cv else ChitaRegressor(2, 1e-3)
        return model.fit(X, y).support_.tolist()

    expected = features(2 * u + 1)
    assert {2, 5} <= set(expected)
    for c in 10.0 ** -np.arange(0, 13):
        assert features(c * (2 * u + 1)) == expected
    assert features(np.zeros(50)) == []


def test_non_negative_coefficients_of_all_positive_columns():
    rng = np.random.default_rng(2)
    X = rng.lognormal(size=(100, 1000))
    w = np.zeros(1000)
    w[rng.choice(1000, 60, replace=False)] = rng.uniform(0.5, 2, 60)
    y = X @ w + rng.standard_normal(100)
    model = ChitaRegressor(60, positive=True, n_restarts=0, random_state=0).fit(X, y)
    assert model.coef_.min() >= 0
    assert len(model.support_) <= 60
    path = chita_path(X, y, [5, 15, 40], positive=True, n_restarts=0, random_state=0)
    assert np.all(np.diff(path.rss) < 0)
    assert min(path.coefs.min(), model.coef_.min()) >= 0


def test_contiguous_folds_with_trailing_zero_weights():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((50, 6))
    y = X[:, 1] + 0.1 * rng.standard_normal(50)
    weights = np.r_[np.ones(40), np.zeros(10)]
    with pytest.warns(UserWarning, match="1 of 5 folds have no sample"):
        model = ChitaRegressorCV(3, cv=KFold(5)).fit(X, y, sample_weight=weights)
    assert 1 in model.support_
    assert model.score_path_.shape[-1] == 4


def test_an_all_ones_column_beside_an_intercept_is_never_needed():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((40, 5))
    y = X[:, 3] + 7.0 + 0.01 * rng.standard_normal(40)
    with_ones = np.column_stack([np.ones(40), X])
    plain = ChitaRegressor(1).fit(X, y)
    for k in (1, 2):
        model = ChitaRegressor(k).fit(with_ones, y)
        assert 4 in model.support_
        assert 0 not in model.support_
        assert model.coef_[0] == 0
    model = ChitaRegressor(1).fit(with_ones, y)
    np.testing.assert_allclose(model.predict(with_ones), plain.predict(X))
    # Without an intercept it is one.
    bare = ChitaRegressor(2, fit_intercept=False).fit(with_ones, y)
    assert bare.support_.tolist() == [0, 4]
    assert bare.coef_[0] == pytest.approx(7.0, abs=0.01)


def test_a_column_of_zeros_without_an_intercept_is_never_chosen():
    rng = np.random.default_rng(5)
    X = np.column_stack([np.zeros(30), rng.standard_normal((30, 2))])
    model = ChitaRegressor(3, fit_intercept=False).fit(X, X[:, 1] + X[:, 2])
    assert model.support_.tolist() == [1, 2]
    assert np.isfinite(model.coef_).all()


def test_a_sparse_table_of_many_columns_stays_sparse():
    # Neither p x p nor n x p numbers: what is allocated beside X is a small part of
    # 1 GiB, where the dense X has 7 and its Gram matrix 16.
    rng = np.random.default_rng(6)
    n, p = 20_000, 47_000
    size = int(0.0016 * n * p)
    places = (rng.integers(0, n, size), rng.integers(0, p, size))
    X = scipy.sparse.csc_array((rng.exponential(size=size), places), shape=(n, p))
    true = np.sort(rng.choice(p, 50, replace=False))
    y = X[:, true] @ (3.0 + rng.random(50)) + 0.1 * rng.standard_normal(n)
    tracemalloc.start()
    try:
        model = ChitaRegressor(50, random_state=0).fit(X, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**28
    assert model.support_.tolist() == true.tolist()


def test_nothing_but_ones():
    y = np.arange(12.0)
    model = ChitaRegressor(2).fit(np.ones((12, 4)), y)
    assert model.support_.size == 0
    np.testing.assert_allclose(model.predict(np.ones((2, 4))), y.mean())
    bare = ChitaRegressor(1, ridge=0.0, fit_intercept=False).fit(np.ones((12, 4)), y)
    assert bare.support_.size == 1
    np.testing.assert_allclose(bare.predict(np.ones((2, 4))), y.mean())
