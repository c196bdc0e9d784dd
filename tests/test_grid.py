"""The pairs of k and ridge that `ChitaRegressorCV` tries, and what it says of edges."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, TimeSeriesSplit

from chita_sklearn import ChitaRegressorCV, chita_path


def planted(n=200, p=50, true=20, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X[:, :true].sum(axis=1) + noise * rng.standard_normal(n)


def test_twenty_features_are_found_by_default():
    X, y = planted()
    model = ChitaRegressorCV(random_state=0).fit(X, y)
    assert set(range(20)) <= set(model.support_)
    assert model.score(X, y) > 0.98
    assert model.ks_[-1] >= min(2 * model.k_, 50)


@pytest.mark.parametrize("criterion", ["bic", "ebic"])
def test_a_criterion_goes_on_too(criterion):
    X, y = planted()
    model = ChitaRegressorCV(criterion=criterion, random_state=0).fit(X, y)
    assert set(range(20)) <= set(model.support_)


def test_the_grid_ends_soon_after_the_best():
    X, y = planted(true=3)
    model = ChitaRegressorCV(selection="one_se", random_state=0).fit(X, y)
    assert model.k_ == 3
    assert model.ks_[-1] < 50


def test_a_large_ridge_is_found():
    # Many small effects on few rows: the best ridge is above 1.
    rng = np.random.default_rng(2)
    X = rng.standard_normal((30, 8))
    y = X.sum(axis=1) + 12 * rng.standard_normal(30)
    model = ChitaRegressorCV([8], random_state=0).fit(X, y)
    assert model.ridge_ > 1
    assert model.ridges_[-1] > model.ridge_ or model.ridge_ == 1e3


def test_a_small_ridge_is_found():
    # Nearly collinear columns without noise: any ridge hurts.
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, 1)) + 0.01 * rng.standard_normal((60, 4))
    y = X @ np.array([1.0, -1.0, 1.0, -1.0])
    model = ChitaRegressorCV(4, random_state=0).fit(X, y)
    assert model.ridge_ < 1e-3
    assert model.score(X, y) > 0.999


def test_an_edge_of_a_given_grid_is_named():
    X, y = planted()
    with pytest.warns(UserWarning, match="The chosen k = 10 is the largest of ks"):
        ChitaRegressorCV(10, 1e-3, random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match="The chosen ridge = 1 is the smallest"):
        ChitaRegressorCV([30], [1.0, 10.0], random_state=0).fit(X, y)


def test_no_edge_no_word():
    X, y = planted(true=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChitaRegressorCV(10, selection="one_se", random_state=0).fit(X, y)
        ChitaRegressorCV([3], 1e-3, random_state=0).fit(X, y)  # no grid at all


@pytest.mark.parametrize("weighted", [False, True])
def test_folds_from_sums_score_as_folds_from_rows(weighted):
    X, y = planted(n=600, p=12, true=4)
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.1, 3, 600) if weighted else None
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    ks, ridges = [2, 4, 6], [1e-3, 1e-1]
    sums = ChitaRegressorCV(ks, ridges, cv=folds).fit(X, y, sample_weight=weights)
    # A repeated row keeps the sums from being used, and is the same data.
    rows = [(np.r_[train, train[:1]], test) for train, test in folds]
    again = ChitaRegressorCV(ks, ridges, cv=rows).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(sums.score_path_, again.score_path_, rtol=0.02)
    for fold, (train, test) in enumerate(folds):
        own = None if weights is None else weights[train]
        path = chita_path(X[train], y[train], ks, ridge=1e-3, sample_weight=own)
        held = X[test] @ path.coefs + path.intercepts
        errors = np.average(
            (y[test][:, None] - held) ** 2,
            axis=0,
            weights=None if weights is None else weights[test],
        )
        np.testing.assert_allclose(sums.score_path_[0, :, fold], -errors, rtol=1e-8)


def test_folds_of_time_are_folds_of_rows():
    X, y = planted(n=120, p=8, true=2)
    model = ChitaRegressorCV(4, cv=TimeSeriesSplit(4), random_state=0).fit(X, y)
    assert {0, 1} <= set(model.support_)
    assert model.score_path_.shape[-1] == 4


def test_all_features_are_ridge_regression():
    X, y = planted(n=80, p=12, true=12)
    model = ChitaRegressorCV([12], [0.1]).fit(X, y)
    scale = X.std(axis=0)
    ridge = Ridge(alpha=0.1 * 80).fit(X / scale, y)
    np.testing.assert_allclose(model.predict(X), ridge.predict(X / scale))


def test_stability_is_the_share_of_folds():
    X, y = planted(true=3)
    model = ChitaRegressorCV(8, selection="one_se", random_state=0).fit(X, y)
    assert model.k_ == 3
    assert model.stability_[:3].tolist() == [1.0, 1.0, 1.0]
    assert model.stability_.sum() == pytest.approx(3)
    loose = ChitaRegressorCV([10], 1e-3, random_state=0).fit(X, y)
    shares = loose.stability_ * 5
    np.testing.assert_allclose(shares, shares.round())
    assert loose.stability_.sum() == pytest.approx(10)
