"""k = 0: no feature is an answer, and the right one where there is no signal."""

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, chita_path
from chita_sklearn.core import SOLVERS


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 8))
    return X, X[:, 2] + 1.0 + 0.1 * rng.standard_normal(50)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_no_feature_is_the_weighted_mean(data, solver, ridge):
    X, y = data
    weights = np.linspace(0.5, 2, 50)
    model = ChitaRegressor(0, ridge, solver=solver).fit(X, y, sample_weight=weights)
    assert model.k_ == 0
    assert len(model.support_) == 0
    assert_array_equal(model.coef_, 0.0)
    mean = np.average(y, weights=weights)
    assert model.intercept_ == pytest.approx(mean, rel=1e-12)
    variance = np.average((y - mean) ** 2, weights=weights)
    assert model.objective_ == pytest.approx(variance / 2, rel=1e-12)
    assert model.gap_ == 0.0


def test_with_a_prior_leaving_all_out_costs_all_of_it(data):
    X, y = data
    prior = np.linspace(-1, 1, 8)
    model = ChitaRegressor(0, 0.3, coef_prior=prior, standardize=False).fit(X, y)
    assert model.objective_ == pytest.approx(y.var() / 2 + 0.15 * prior @ prior)


def test_it_is_on_a_path_and_helps_nobody_wrongly(data):
    X, y = data
    whole, without = chita_path(X, y, [0, 1, 2, 3]), chita_path(X, y, [1, 2, 3])
    assert whole.supports[0].shape == (0,)
    assert whole.degrees_of_freedom[0] == 0.0
    assert whole.rss[0] == pytest.approx(50 * y.var())
    assert_array_equal(whole.objectives[1:], without.objectives)


def test_sparse_x_and_several_targets(data):
    X, y = data
    model = ChitaRegressor(0).fit(scipy.sparse.csr_array(X), np.column_stack([y, -y]))
    assert [len(S) for S in model.support_] == [0, 0]
    np.testing.assert_allclose(model.intercept_, [y.mean(), -y.mean()])


@pytest.mark.parametrize("criterion", ["cv", "aic", "bic", "ebic"])
def test_a_constant_y_needs_no_feature(data, criterion):
    model = ChitaRegressorCV(4, criterion=criterion).fit(data[0], np.full(50, 3.3))
    assert model.k_ == 0
    assert model.predict(data[0]) == pytest.approx(3.3)


@pytest.mark.parametrize("options", [{"selection": "one_se"}, {"criterion": "ebic"}])
def test_noise_needs_no_feature(options):
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((100, 20)), rng.standard_normal(100)
        model = ChitaRegressorCV(4, [1e-2, 1.0], n_restarts=0, **options)
        found.append(model.fit(X, y).k_)
    assert found.count(0) >= 8
