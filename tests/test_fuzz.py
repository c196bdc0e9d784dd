"""Claims on small problems, against every support in 80 digits (`tests.fuzz`)."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from chita_sklearn import ChitaRegressor, chita_path
from chita_sklearn.core import LeastSquares

pytest.importorskip("mpmath")
_spec = importlib.util.spec_from_file_location(
    "chita_fuzz", Path(__file__).with_name("fuzz.py")
)
fuzz = importlib.util.module_from_spec(_spec)
sys.modules["chita_fuzz"] = fuzz
_spec.loader.exec_module(fuzz)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", range(len(fuzz.KINDS)), ids=fuzz.KINDS)
def test_nothing_that_is_claimed_is_false(kind):
    seeds = range(kind, 8 * len(fuzz.KINDS), len(fuzz.KINDS))
    assert [fault for seed in seeds for fault in fuzz.claims(seed)] == []


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("power", [6.5, 7.0, 7.5])
@pytest.mark.parametrize("seed", range(10))
def test_means_without_an_intercept_leave_no_false_proof(power, seed, scaled):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((32, 6)) + 10**power
    y = X @ rng.standard_normal(6) + rng.standard_normal(32)
    options = {"k": 3, "ridge": 1e-4, "fit_intercept": False, "standardize": scaled}
    best = float(fuzz.Exact(X, y, None, **options).optimum())
    model = ChitaRegressor(**options).fit(X, y)
    assert model.lower_bound_ <= best * (1 + 1e-12)
    assert model.gap_ > 0 or model.objective_ <= best * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:The chosen columns are linearly dependent")
@pytest.mark.parametrize("d", [1e-6, 1e-7, 1e-8, 1e-10])
@pytest.mark.parametrize("seed", range(10))
def test_near_duplicates_without_a_ridge_leave_no_false_proof(d, seed):
    # Together the first two columns explain z, and y is z.
    rng = np.random.default_rng(seed)
    X, z = rng.standard_normal((30, 6)), rng.standard_normal(30)
    X[:, 1] = X[:, 0] + d * z
    y = z + 0.1 * rng.standard_normal(30)
    for k in (2, 6):
        options = {"k": k, "ridge": 0.0, "fit_intercept": True}
        best = float(fuzz.Exact(X, y, None, **options).optimum())
        model = ChitaRegressor(**options).fit(X, y)
        assert not model.lower_bound_ > best * (1 + 1e-9)
        assert not model.gap_ == 0 or model.objective_ <= best * (1 + 1e-9)


def test_y_far_from_zero_is_centred_to_its_digits():
    y = 1e15 + np.arange(7.0)
    X = np.random.default_rng(0).standard_normal((7, 3))
    options = {"k": 1, "ridge": 1.0, "fit_intercept": True, "standardize": True}
    model = ChitaRegressor(**options).fit(X, y)
    exact = fuzz.Exact(X, y, None, **options)
    assert model.objective_ == pytest.approx(float(exact.value(model.coef_)), rel=1e-9)


def test_a_constant_y_has_no_features():
    rng = np.random.default_rng(0)
    X, weights = rng.standard_normal((20, 4)), rng.random(20)
    model = ChitaRegressor(2).fit(X, np.full(20, 0.1), sample_weight=weights)
    assert model.coef_.tolist() == [0.0] * 4
    assert model.intercept_ == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(50))
def test_a_constant_x_with_weights_is_no_error(seed):
    rng = np.random.default_rng(seed)
    y, weights = rng.standard_normal(12), rng.random(12)
    model = ChitaRegressor(1).fit(np.full((12, 1), 1.0), y, sample_weight=weights)
    assert model.coef_.tolist() == [0.0]
    assert model.intercept_ == pytest.approx(np.average(y, weights=weights))


def test_a_tall_problem_is_reduced_once():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 10))
    problem = LeastSquares(X, X[:, 0] + rng.standard_normal(4000), ridge=1e-3)
    once = problem.qr_compressed(1000)
    assert once.n_rows == 11
    assert once.qr_compressed(1000) is once
    # Its allowance for rounding is that of the rows it was made of.
    assert once.terms == 2 * 4000 * 11
    path = chita_path(X, X[:, 0] + X[:, 1], 2)
    assert not any("11 rows reduced" in line for h in path.histories for line in h)


@pytest.mark.filterwarnings("ignore:ridge = .* is far above")
@pytest.mark.parametrize("seed", range(6))
def test_large_means_duplicates_and_scales_leave_no_false_proof(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 6))
    X[:, 3] = X[:, 0]
    X = (X * 10 ** rng.uniform(-9, 4, 6)).astype(np.float32)
    y = X[:, 1] / np.std(X[:, 1]) + 0.01 * rng.standard_normal(30)
    far = rng.standard_normal((30, 5)) + 10 ** rng.uniform(8, 10, 5)
    for A, ridge in ((X, 1e-10), (far, 1e-4)):
        options = {"k": 2, "ridge": ridge, "fit_intercept": True}
        options["standardize"] = bool(seed % 2)
        best = float(fuzz.Exact(A, y, None, **options).optimum())
        model = ChitaRegressor(**options).fit(A, y)
        assert not model.lower_bound_ > best * (1 + fuzz.TOLERANCE)


@pytest.mark.parametrize("seed", range(6))
def test_the_path_of_a_sparse_x_of_large_means_is_of_its_coefficients(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 5)) + 3e6
    y = X @ rng.standard_normal(5) + rng.standard_normal(40)
    path = chita_path(scipy.sparse.csc_array(X), y, 3, ridge=1e-4)
    options = {"k": 3, "ridge": 1e-4, "fit_intercept": True, "standardize": True}
    true = float(fuzz.Exact(X, y, None, **options).value(path.coefs[:, -1]))
    assert path.objectives[-1] == pytest.approx(true, rel=1e-9)


_patterns = importlib.util.spec_from_file_location(
    "chita_fuzz_patterns", Path(__file__).with_name("fuzz_patterns.py")
)
fuzz_patterns = importlib.util.module_from_spec(_patterns)
_patterns.loader.exec_module(fuzz_patterns)


@pytest.mark.parametrize("pattern", range(len(fuzz_patterns.PATTERNS)))
def test_nothing_that_is_claimed_of_a_pattern_is_false(pattern):
    step = len(fuzz_patterns.PATTERNS)
    seeds = range(pattern, 6 * step, step)
    assert [fault for seed in seeds for fault in fuzz_patterns.claims(seed)] == []
