"""ADMM: its linear algebra against NumPy's, its supports against those of others."""

import numpy as np
import pytest
from sklearn.linear_model import OrthogonalMatchingPursuit

from chita_sklearn import ChitaRegressor
from chita_sklearn.core import Cardinality, LeastSquares, NOfM, solve
from chita_sklearn.core.linalg import spectrum, spectrum_of_rows


@pytest.mark.parametrize("shape", [(30, 12), (8, 20)])
def test_a_spectrum_solves_for_every_shift(shape):
    rng = np.random.default_rng(0)
    A, R = rng.standard_normal(shape), rng.standard_normal((3, shape[1]))
    G = A.T @ A
    ways = [spectrum(G), spectrum(G).without_zeros()] + (
        [spectrum_of_rows(A)] if shape[0] < shape[1] else []
    )
    for way in ways:
        for shift in (1e-3, 1.0, 1e3):
            expected = np.linalg.solve(G + shift * np.eye(len(G)), R.T).T
            assert np.allclose(way.solve(R, shift), expected, rtol=1e-8, atol=1e-10)


def correlated(n, p, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(0.19) * X[:, j]
    return X, X @ rng.standard_normal(p) + rng.standard_normal(n)


@pytest.mark.parametrize(("n", "p", "k"), [(400, 120, 50), (80, 200, 45)])
def test_many_non_zeros_are_no_worse_than_matching_pursuit_or_the_ascent(n, p, k):
    X, y = correlated(n, p)
    ours = ChitaRegressor(k, 1e-3).fit(X, y)
    assert "plan admm" in ours.solver_history_[0]
    assert np.count_nonzero(ours.coef_) == k
    S = np.flatnonzero(OrthogonalMatchingPursuit(n_nonzero_coefs=k).fit(X, y).coef_)
    theirs = ChitaRegressor(len(S), 1e-3).fit(X[:, S], y)
    assert ours.objective_ <= theirs.objective_
    dual = ChitaRegressor(k, 1e-3, solver="dual").fit(X, y)
    assert ours.objective_ <= dual.objective_
    assert ours.lower_bound_ <= dual.objective_


def test_no_exchange_lowers_where_it_ends():
    X, y = correlated(150, 60, seed=1)
    problem = LeastSquares(X, y, ridge=1e-2)
    found = solve(problem, Cardinality(42), solver="admm")
    again = solve(
        problem, Cardinality(42), solver="swap", start=found.coef, n_restarts=0
    )
    assert again.objective >= found.objective * (1 - 1e-9)


def test_other_patterns_hold():
    X, y = correlated(100, 48, seed=2)
    found = solve(LeastSquares(X, y, ridge=1e-2), NOfM(2, 4, 48), solver="admm")
    assert np.count_nonzero(found.coef.reshape(-1, 4), axis=1).max() <= 2


def test_where_it_cannot_run_it_says_what_is_missing():
    X = np.zeros((4200, 4200), dtype=np.float32)
    X[np.diag_indices(4200)] = 1
    with pytest.raises(ValueError, match="solver='admm' needs at most 4096 columns"):
        solve(LeastSquares(X, X[0], ridge=1.0), Cardinality(50), solver="admm")
