"""Information criteria against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpydoc.validate import validate

from chita_sklearn import ChitaRegressor, aic, bic, chita_path, ebic

# n = 100, rss = 50: 100 log(1/2) = -69.314718...
DEVIANCE = -69.31471805599453


def test_aic_by_hand():
    assert aic(100, 50.0, 3) == pytest.approx(DEVIANCE + 6)


def test_bic_by_hand():
    assert bic(100, 50.0, 3) == pytest.approx(DEVIANCE + 3 * 4.605170185988092)


def test_ebic_by_hand():
    # C(1000, 3) = 1000 * 999 * 998 / 6 = 166 167 000
    price = 2 * math.log(166_167_000)
    size = 3 * math.log(100)
    assert ebic(100, 50.0, 3, n_features=1000) == pytest.approx(DEVIANCE + size + price)
    half = ebic(100, 50.0, 3, n_features=1000, gamma=0.5)
    assert half == pytest.approx(DEVIANCE + size + price / 2)


@given(
    n=st.integers(2, 10_000),
    rss=st.floats(1e-100, 1e100),
    p=st.integers(1, 300),
    data=st.data(),
)
def test_ebic_is_bic_and_the_number_of_models(n, rss, p, data):
    k = data.draw(st.integers(0, p))
    gamma = data.draw(st.floats(0, 1))
    expected = bic(n, rss, k) + 2 * gamma * math.log(math.comb(p, k))
    found = ebic(n, rss, k, n_features=p, gamma=gamma)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-7)


def test_differences_are_those_of_the_gaussian_log_likelihood():
    rng = np.random.default_rng(0)
    residuals = [rng.standard_normal(40), 2 * rng.standard_normal(40)]

    def log_likelihood(r):
        variance = np.mean(r**2)
        return np.sum(-0.5 * np.log(2 * np.pi * variance) - r**2 / (2 * variance))

    a, b = (aic(40, r @ r, 5) for r in residuals)
    expected = -2 * (log_likelihood(residuals[0]) - log_likelihood(residuals[1]))
    assert a - b == pytest.approx(expected)


def test_arrays_give_one_number_each():
    rss, k = np.array([9.0, 4.0, 3.0]), np.array([1, 2, 3])
    for values in (aic(20, rss, k), bic(20, rss, k), ebic(20, rss, k, n_features=7)):
        assert values.shape == (3,)
    assert aic(20, rss, k)[1] == aic(20, 4.0, 2)
    assert isinstance(aic(20, 4.0, 2), float)


def test_degrees_of_freedom_may_be_fractions():
    assert bic(50, 2.0, 1.5) < bic(50, 2.0, 2)
    whole = ebic(50, 2.0, 2, n_features=10)
    shrunken = ebic(50, 2.0, 2, n_features=10, df=1.5)
    assert whole - shrunken == pytest.approx(0.5 * math.log(50))


def test_a_perfect_fit_is_minus_infinity_without_a_warning():
    assert aic(10, 0.0, 3) == -np.inf
    assert bic(10, 0.0, 3) == -np.inf
    assert ebic(10, 0.0, 3, n_features=5) == -np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aic(0, 1.0, 1), "n_samples=0"),
        (lambda: bic(-3, 1.0, 1), "n_samples=-3"),
        (lambda: aic(10, -1.0, 1), "rss=-1.0; its values must be in"),
        (lambda: bic(10, float("nan"), 1), "rss=nan"),
        (lambda: aic(10, 1.0, -1), "k=-1"),
        (lambda: ebic(10, 1.0, 6, n_features=5), "k=6 is more than n_features=5"),
        (lambda: ebic(10, 1.0, 2, n_features=5, gamma=1.5), "gamma=1.5"),
        (lambda: bic("a", 1.0, 1), "n_samples='a'"),
        (lambda: aic(np.inf, 1.0, 1), "n_samples=inf"),
        (lambda: ebic(10, 1.0, 2, n_features=2.5), "n_features=2.5 must be an int"),
    ],
)
def test_impossible_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_count_as_repetitions():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((30, 6))
    y = X[:, 2] + 0.3 * rng.standard_normal(30)
    times = rng.integers(1, 4, 30)
    weighted = chita_path(X, y, 4, sample_weight=times)
    repeated = chita_path(np.repeat(X, times, axis=0), np.repeat(y, times), 4)
    assert weighted.n_samples == repeated.n_samples == times.sum()
    np.testing.assert_allclose(
        bic(weighted.n_samples, weighted.rss, weighted.ks),
        bic(repeated.n_samples, repeated.rss, repeated.ks),
    )


def test_a_fitted_estimator_is_all_that_is_needed():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((30, 6))
    y = X[:, 2] + 0.3 * rng.standard_normal(30)
    model = ChitaRegressor(2, 0.0).fit(X, y)
    rss = np.sum((y - model.predict(X)) ** 2)
    path = chita_path(X, y, 2, ridge=0.0)
    assert bic(30, rss, 2) == pytest.approx(bic(30, path.rss[1], 2))


@pytest.mark.parametrize("name", ["aic", "bic", "ebic"])
def test_docstring_follows_numpydoc(name):
    report = validate(f"chita_sklearn.criteria.{name}")
    errors = [e for e in report["errors"] if e[0] not in {"EX01", "ES01", "SA01"}]
    assert not errors
