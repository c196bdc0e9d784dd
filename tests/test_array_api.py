"""The estimator on other array libraries: same values, same places, clear refusals."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._array_api import yield_namespace_device_dtype_combinations
from sklearn.utils.estimator_checks import (
    _array_api_for_tests,
    check_array_api_input_and_values,
)

from chita_sklearn import ChitaRegressor

pytestmark = pytest.mark.array_api

EVERYWHERE = list(yield_namespace_device_dtype_combinations())
# What no machine lacks, by name: these must run, not skip.
HERE = [
    ("array_api_strict", "CPU_DEVICE", "float64"),
    ("array_api_strict", "device1", "float32"),
    ("torch", "cpu", "float64"),
    ("torch", "cpu", "float32"),
]


def make_data(dtype="float64", n=40, p=15):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    y = 2 * X[:, 3] - X[:, 7] + 0.5 * X[:, 11] + 1 + 0.05 * rng.standard_normal(n)
    return X.astype(dtype), y.astype(dtype)


@pytest.fixture(params=HERE, ids=lambda param: "-".join(param))
def backend(request):
    """(to, dtype): `to` brings a NumPy array to the library and its device."""
    name, device_name, dtype = request.param
    pytest.importorskip(name)
    xp, device = _array_api_for_tests(name, device_name, dtype)
    with config_context(array_api_dispatch=True):
        yield lambda array: xp.asarray(array, device=device), dtype


def to_numpy(array):
    if hasattr(array, "numpy"):
        return array.numpy()
    return np.array(array.to_device(array.__array_namespace__().Device("CPU_DEVICE")))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [
        ChitaRegressor(),
        ChitaRegressor(k=4, ridge=0.1),
        ChitaRegressor(k=5, fit_intercept=False, solver="iht"),
        ChitaRegressor(k=1.0, solver="swap"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("namespace", "device", "dtype"), EVERYWHERE)
def test_values_equal_those_of_numpy(estimator, namespace, device, dtype, weighted):
    check_array_api_input_and_values(
        "ChitaRegressor", estimator, namespace, device, dtype, weighted
    )


def test_fitted_attributes_live_where_X_lives(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    model = ChitaRegressor(3, random_state=0).fit(to(X), to(y))
    here = to(X)
    for name in ("coef_", "intercept_", "support_"):
        value = getattr(model, name)
        assert type(value) is type(here)
        assert value.device == here.device
    assert model.coef_.dtype == model.intercept_.dtype == here.dtype
    assert_array_equal(to_numpy(model.support_), [3, 7, 11])
    assert type(model.objective_) is float
    assert type(model.n_iter_) is int
    mask = model.get_support()
    assert type(mask) is type(here)
    assert_array_equal(np.flatnonzero(to_numpy(mask)), [3, 7, 11])


def test_several_targets(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    Y = np.column_stack([y, 2 * X[:, 1] + X[:, 2]])
    prior = np.random.default_rng(1).standard_normal((2, 15)).astype(dtype)
    weights = np.linspace(0.5, 2, 40).astype(dtype)
    model = ChitaRegressor(3, 0.1, coef_prior=to(prior), random_state=0)
    model.fit(to(X), to(Y), sample_weight=to(weights))
    with config_context(array_api_dispatch=False):
        reference = ChitaRegressor(3, 0.1, coef_prior=prior, random_state=0)
        reference.fit(X, Y, sample_weight=weights)
        expected = reference.predict(X)
    tolerance = {"rtol": 1e-4 if dtype == "float32" else 1e-9}
    for name in ("coef_", "intercept_", "objective_"):
        value = getattr(model, name)
        assert type(value) is type(to(X))
        assert_allclose(to_numpy(value), getattr(reference, name), **tolerance)
    for ours, theirs in zip(model.support_, reference.support_, strict=True):
        assert_array_equal(to_numpy(ours), theirs)
    assert_array_equal(to_numpy(model.n_iter_), reference.n_iter_)
    predicted = model.predict(to(X))
    assert type(predicted) is type(to(X))
    assert_allclose(to_numpy(predicted), expected, rtol=1e-4, atol=1e-4)
    assert type(model.score(to(X), to(Y))) is float


def test_y_weights_and_prior_follow_X(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    prior, weights = np.linspace(-1, 1, 15), np.linspace(0.5, 2, 40)
    model = ChitaRegressor(3, 0.1, coef_prior=to(prior.astype(dtype)))
    expected = clone(model).fit(to(X), to(y), sample_weight=to(weights)).coef_
    for given in (prior, list(prior)):
        mixed = ChitaRegressor(3, 0.1, coef_prior=given)
        mixed.fit(to(X), y, sample_weight=weights)
        assert type(mixed.coef_) is type(to(X))
        assert_allclose(to_numpy(mixed.coef_), to_numpy(expected), rtol=1e-5)


def test_data_of_another_precision_are_predicted_in_their_own(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    model = ChitaRegressor(3).fit(to(X), to(y))
    other = to(X.astype("float32" if dtype == "float64" else "float64"))
    assert model.predict(other).dtype == other.dtype
    assert type(model.score(other, to(y))) is float


def test_integers_become_floats(backend):
    to, _ = backend
    X = np.random.default_rng(0).integers(-5, 5, (20, 4))
    model = ChitaRegressor(2).fit(to(X), to(X[:, 1] - X[:, 3]))
    assert_array_equal(to_numpy(model.support_), [1, 3])
    assert to_numpy(model.coef_).dtype == np.float64


def test_warm_start_and_restarts(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    model = ChitaRegressor(3, warm_start=True, random_state=0).fit(to(X), to(y))
    first = model.objective_
    assert model.fit(to(X), to(y)).objective_ <= first * (1 + 1e-6)
    # Coefficients of another library do not suit, and are left out.
    model.fit(X, y)
    assert type(model.coef_) is np.ndarray


def test_predict_refuses_another_library(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    model = ChitaRegressor(3).fit(to(X), to(y))
    with pytest.raises(ValueError, match="must use the same namespace"):
        model.predict(X)
    with pytest.raises(ValueError, match="must use the same namespace"):
        model.predict(scipy.sparse.csr_array(X))
    with (
        config_context(array_api_dispatch=False),
        pytest.raises(ValueError, match=r"array_api_dispatch=True.*to_numpy"),
    ):
        model.predict(X)


def test_to_numpy_is_a_copy_on_the_host(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    prior = np.zeros(15, dtype=dtype)
    model = ChitaRegressor(3, coef_prior=to(prior)).fit(to(X), to(y))
    host = model.to_numpy()
    assert type(model.coef_) is type(to(X))
    for name in ("coef_", "support_", "coef_prior"):
        assert type(getattr(host, name)) is np.ndarray
    assert host.coef_.dtype == host.intercept_.dtype == dtype
    assert isinstance(host.intercept_, np.floating)
    host.coef_[:] += 0.0  # writable, and its own
    with config_context(array_api_dispatch=False):
        again = pickle.loads(pickle.dumps(host))
        predicted = again.predict(X)
        again.fit(X, y)
    assert_allclose(predicted, to_numpy(model.predict(to(X))), rtol=1e-5)
    for name in ("objective_", "n_iter_", "k_", "solver_history_", "n_features_in_"):
        assert getattr(host, name) == getattr(model, name)


def test_to_numpy_with_several_targets_shares_no_memory(backend):
    to, dtype = backend
    X, y = make_data(dtype)
    model = ChitaRegressor(3).fit(to(X), to(np.column_stack([y, -y])))
    host = model.to_numpy()
    assert [type(support) for support in host.support_] == [np.ndarray] * 2
    host.coef_[:] = 0.0
    assert_array_equal(to_numpy(model.support_[0]), [3, 7, 11])
    assert np.count_nonzero(to_numpy(model.coef_)) == 6


def test_to_numpy_of_a_numpy_model_needs_no_dispatch():
    code = """
import numpy as np
from chita_sklearn import ChitaRegressor, ChitaRegressorCV
X = np.random.default_rng(0).standard_normal((30, 5))
y = X[:, 1] + X[:, 3]
for model in (ChitaRegressor(2), ChitaRegressorCV(2, 0.1, cv=2)):
    print(model.fit(X, y).to_numpy().predict(X).shape)
"""
    environment = {k: v for k, v in os.environ.items() if k != "SCIPY_ARRAY_API"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["(30,)"] * 2, done.stderr


def test_to_numpy_of_a_numpy_model_is_a_copy():
    X, y = make_data()
    model = ChitaRegressor(3).fit(X, y)
    host = model.to_numpy()
    host.coef_[:] = 0.0
    assert np.count_nonzero(model.coef_) == 3


def test_grid_search_in_a_pipeline_on_torch():
    torch = pytest.importorskip("torch")
    X, y = map(torch.asarray, make_data())
    with config_context(array_api_dispatch=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), ChitaRegressor(random_state=0)),
            {"chitaregressor__k": [1, 3]},
            cv=3,
        ).fit(X, y)
        assert search.best_params_ == {"chitaregressor__k": 3}
        assert isinstance(search.best_estimator_[-1].coef_, torch.Tensor)


def test_torch_on_the_host_becomes_numpy_without_dispatch():
    torch = pytest.importorskip("torch")
    X, y = map(torch.asarray, make_data())
    model = ChitaRegressor(3).fit(X, y)
    assert type(model.coef_) is np.ndarray
    assert type(model.predict(X)) is np.ndarray


class OnDevice:
    """What an array in GPU memory shows of itself."""

    shape, ndim, dtype = (40, 15), 2, np.dtype("float64")

    def __len__(self):
        return 40

    def __dlpack__(self, **options):
        raise BufferError

    def __dlpack_device__(self):
        return (2, 0)  # CUDA

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


@pytest.mark.parametrize("where", ["X", "y", "sample_weight", "coef_prior", "predict"])
def test_device_arrays_without_dispatch_are_told_what_to_enable(where):
    X, y = make_data()
    inputs = {"X": X, "y": y, "sample_weight": np.ones(40)}
    model = ChitaRegressor(3).fit(X, y)
    pattern = r"SCIPY_ARRAY_API=1.*set_config\(array_api_dispatch=True\); or copy"
    if where == "predict":
        with pytest.raises(TypeError, match="^X is .*" + pattern):
            model.predict(OnDevice())
        return
    if where == "coef_prior":
        model = ChitaRegressor(3, coef_prior=OnDevice())
    else:
        inputs[where] = OnDevice()
    with pytest.raises(TypeError, match=f"^{where} is .*" + pattern):
        model.fit(**inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cupy", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gpu_equals_numpy(library, dtype):
    xp = pytest.importorskip(library)
    options = {"device": "cuda"} if library == "torch" else {}
    X, y = make_data(dtype, n=60, p=200)
    reference = ChitaRegressor(5, random_state=0).fit(X, y)
    X_gpu, y_gpu = xp.asarray(X, **options), xp.asarray(y, **options)
    with pytest.raises(TypeError, match=f"X is a {library} array"):
        ChitaRegressor(5).fit(X_gpu, y_gpu)
    with config_context(array_api_dispatch=True):
        model = ChitaRegressor(5, random_state=0).fit(X_gpu, y_gpu)
        assert type(model.coef_) is type(X_gpu)
        assert model.coef_.device == X_gpu.device
        predicted = model.predict(X_gpu)
        assert type(predicted) is type(X_gpu)
    host = model.to_numpy()
    rtol = 1e-4 if dtype == "float32" else 1e-9
    assert_array_equal(host.support_, reference.support_)
    assert_allclose(host.coef_, reference.coef_, rtol=rtol)
    assert_allclose(host.predict(X), reference.predict(X), rtol=rtol, atol=rtol)
