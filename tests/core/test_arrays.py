"""What the array standard lacks, on every library, against plain NumPy."""

import contextlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.linalg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chita_sklearn.core import linalg as linalg_module
from chita_sklearn.core.arrays import (
    array_namespace,
    indices,
    kth_largest,
    scatter,
    take_columns,
    to_host,
    top_k_mask,
)
from chita_sklearn.core.linalg import (
    NotPositiveDefiniteError,
    add_outer,
    cholesky_solve,
    damped_cholesky,
    inverse,
    inverses,
    mirror,
    triangular,
)

finite = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(values=finite, data=st.data())
def test_the_k_th_largest_is_that_of_a_sort(backend, values, data):
    k = data.draw(st.integers(1, len(values)))
    found = kth_largest(backend.to(values), k)
    assert found.shape == ()
    assert float(found) == sorted(values, reverse=True)[k - 1]


@given(values=finite, data=st.data())
def test_the_k_largest_are_those_of_a_stable_sort(backend, values, data):
    k = data.draw(st.integers(0, len(values) + 2))
    mask = backend.back(top_k_mask(backend.to(values), k))
    first = sorted(range(len(values)), key=lambda j: (-values[j], j))[:k]
    assert np.flatnonzero(mask).tolist() == sorted(first)


@given(keep=st.lists(st.booleans(), max_size=20))
def test_scatter_undoes_taking(backend, keep):
    keep = np.asarray(keep, dtype=bool)
    values = np.arange(1.0, 1 + keep.sum())
    index = indices(backend.to(keep) > 0)
    assert backend.back(index).tolist() == np.flatnonzero(keep).tolist()
    expected = np.zeros(len(keep))
    expected[keep] = values
    out = scatter(len(keep), index, backend.to(values))
    assert np.array_equal(backend.back(out), expected)
    assert out.dtype == backend.to(values).dtype


@pytest.mark.parametrize("order", ["C", "F"])
def test_columns_are_copies(order):
    X = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    S = np.array([3, 1])
    taken = take_columns(X, S)
    assert np.array_equal(taken, X[:, [3, 1]])
    taken[:] = -1
    assert X[0, 3] == 3


def test_to_host_is_numpy(backend):
    x = backend.to(np.arange(3.0))
    assert type(to_host(x)) is np.ndarray
    assert to_host(x).tolist() == [0, 1, 2]


@given(seed=st.integers(0, 1000), size=st.integers(1, 8))
def test_a_cholesky_factor_solves(backend, seed, size):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((size, size + 3))
    M = (M @ M.T + 0.1 * np.eye(size)).astype(backend.dtype)
    B = rng.standard_normal((size, 2))
    L, damping = damped_cholesky(backend.to(M), 0.0)
    assert damping == 0
    eps = np.finfo(backend.dtype).eps
    host = np.tril(backend.back(L).astype(float))
    assert np.allclose(host @ host.T, M, atol=20 * eps * np.trace(M))
    for b in (B, B[:, 0]):
        x = backend.back(cholesky_solve(L, backend.to(b))).astype(float)
        assert x.shape == b.shape
        error = np.linalg.norm(M @ x - b)
        assert error <= 100 * eps * np.linalg.cond(M) * np.linalg.norm(b)


@pytest.mark.parametrize(
    "M", [[[-1.0]], [[1.0, 2.0], [2.0, 1.0]]], ids=["negative", "indefinite"]
)
def test_a_matrix_far_from_positive_definite_has_no_factor(backend, M):
    with pytest.raises(NotPositiveDefiniteError):
        damped_cholesky(backend.to(np.asarray(M)), 0.0)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "M",
    [
        [[0.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[2.0**60, 2.0**10, 0], [2.0**10, 2.0**-40, 0], [0, 0, 1]],
        np.outer(np.arange(1.0, 101), np.arange(1.0, 101)),
    ],
    ids=["zero", "singular", "singular in other units", "of rank one"],
)
def test_a_singular_matrix_is_damped_no_more_than_it_needs(backend, M, overwrite):
    M = np.asarray(M)
    G = backend.to(M.copy())
    L, damping = damped_cholesky(G, 0.0, overwrite=overwrite)
    assert 0 < damping < 1e-10
    if not overwrite:
        assert np.array_equal(backend.back(G), M.astype(backend.dtype))
    host = np.tril(backend.back(L).astype(float))
    units = np.sqrt(np.where(np.diag(M) > 0, np.diag(M), 1.0))
    near = {"float64": 1e-12, "float32": 1e-6}[backend.dtype]
    wanted = M / units / units[:, None]
    assert np.allclose((host @ host.T) / units / units[:, None], wanted, atol=near)


def test_inverses_of_many_are_those_of_each():
    A = np.random.default_rng(0).standard_normal((5, 8, 3))
    M = np.matrix_transpose(A) @ A
    for own, both in zip(M, inverses(M), strict=True):
        assert np.allclose(own @ both, np.eye(3), atol=1e-10)
    assert inverses(np.empty((4, 0, 0))).shape == (4, 0, 0)


@pytest.mark.parametrize(
    ("M", "g"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]),
        ([[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0]),
        ([[1.0, 1e-9], [1e-9, 1e-18]], [1.0, 1e-9]),
        (np.ones((5, 5)), np.ones(5)),
    ],
    ids=["copies", "a column of zeros", "copies in other units", "five copies"],
)
def test_no_singular_support_explains_more_than_its_columns_can(M, g):
    # y is the first column: that alone explains all of ||y||^2 = 1, and no copy more.
    M, g = np.asarray(M), np.asarray(g)
    for P in (inverse(M.copy()), inverses(np.stack([np.eye(len(M)), M]))[1]):
        assert np.all(np.isfinite(P))
        assert 1 - 1e-6 < g @ P @ g <= 1


def test_failed_factorisations_are_caught_in_one_file():
    core = Path(linalg_module.__file__).parent
    files = {
        path.name for path in core.rglob("*.py") if "LinAlgError" in path.read_text()
    }
    assert files == {"linalg.py"}


@pytest.fixture
def like_cupy(monkeypatch):
    """NumPy in the place of CuPy, whose factor fails loudly or not, as it is told."""
    import array_api_compat.numpy as xp

    loud = [True]

    def cholesky(M):
        # A factor that fails may leave the matrix as it was.
        L, info = scipy.linalg.lapack.dpotrf(M, lower=True, clean=True)
        if info and loud[-1]:
            raise np.linalg.LinAlgError
        return np.tril(M) if info else L

    @contextlib.contextmanager
    def errstate(linalg):
        loud.append({"raise": True, "ignore": False}[linalg])
        yield
        loud.pop()

    cupyx, inner, linalg = (ModuleType(name) for name in ("cupyx", "scipy", "linalg"))
    cupyx.errstate = errstate
    linalg.solve_triangular = scipy.linalg.solve_triangular
    cupy = ModuleType("cupy")
    cupy.linalg = np.linalg
    cupyx.scipy, inner.linalg = inner, linalg
    for name, module in (
        ("cupy", cupy),
        ("cupyx", cupyx),
        ("cupyx.scipy", inner),
        ("cupyx.scipy.linalg", linalg),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(xp.linalg, "cholesky", cholesky)
    monkeypatch.setattr(linalg_module, "is_numpy_namespace", lambda xp: False)
    monkeypatch.setattr(linalg_module, "is_cupy_namespace", lambda xp: True)


@pytest.mark.parametrize("bad", [0.0, -3.0, float("nan")])
def test_a_factor_that_fails_on_cupy_is_found_out(like_cupy, bad):
    M = np.diag([2.0, 1.0, bad, 5.0])
    assert not linalg_module._factor(M)[1]


def test_a_factor_that_leaves_the_matrix_as_it_was_is_found_out(like_cupy):
    M = np.asarray([[1.0, 2.0], [2.0, 1.0]])  # of positive diagonal, not of pivots
    assert not linalg_module._factor(M)[1]
    assert linalg_module._factor(M, wait=False)[1]  # only for those who are sure


@given(seed=st.integers(0, 1000), size=st.integers(1, 8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_way_through_cupy_solves_and_selects(like_cupy, seed, size):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((size, size + 3))
    M, b = A @ A.T + 0.1 * np.eye(size), rng.standard_normal(size)
    L, damping = damped_cholesky(A @ A.T, 0.1)
    assert damping == 0.0
    L = np.tril(L)
    assert np.allclose(L @ L.T, M)
    assert np.allclose(M @ cholesky_solve(L, b), b)
    assert kth_largest(b, 1) == b.max()
    R = triangular(A.T)
    assert R.shape == (size, size)
    assert np.allclose(R.T @ R, A @ A.T)


def test_a_float32_matrix_is_factored_in_float64_where_it_must_be(backend):
    # Of full rank in float64 only: the pivot is lost in float32.
    if backend.dtype != "float32":
        pytest.skip("the same for every matrix of float64")
    rng = np.random.default_rng(0)
    u = rng.standard_normal((6, 1))
    G = (u @ u.T).astype("float32")
    mu = 4e-7 * float(np.sum(u**2))
    L, damping = damped_cholesky(backend.to(G), mu)
    host = np.tril(backend.back(L).astype(float))
    assert damping == 0.0
    assert np.allclose(host @ host.T, G + mu * np.eye(6), rtol=0, atol=0.1 * mu)


def test_units_do_not_make_a_matrix_singular(backend):
    M = np.diag([1e-18, 1.0, 1e18])
    L, damping = damped_cholesky(backend.to(M), 0.0)
    assert damping == 0
    L = backend.back(L).astype(float)
    assert np.allclose(np.diag(L) ** 2 / np.diag(M), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4, 9), (300, 20), (600, 7)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_outer_products_are_added_up_in_place(backend, shape, order):
    rng = np.random.default_rng(0)
    B = [rng.standard_normal(shape).astype(backend.dtype) for _ in range(3)]
    G = backend.to(np.zeros((shape[0],) * 2))
    for part, sign in zip(B, (1.0, 1.0, -1.0), strict=True):
        part = backend.to(part.T if order == "F" else part)
        part = array_namespace(part).matrix_transpose(part) if order == "F" else part
        add_outer(G, part, sign)
    expected = B[0] @ B[0].T + B[1] @ B[1].T - B[2] @ B[2].T
    rounding = 100 * np.finfo(backend.dtype).eps
    assert np.allclose(backend.back(mirror(G)), expected, atol=rounding)


def test_of_millions_of_torchs_numbers_the_kth_is_numpys():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(2**20 + 1).astype(np.float32)
    tau = kth_largest(torch.from_numpy(x), 1000)
    assert tau.dtype == torch.float32
    assert float(tau) == np.sort(x)[-1000]
