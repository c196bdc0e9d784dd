"""The quadratic's products against an explicit A, however X is held."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, LeastSquares, solve
from chita_sklearn.core.problem.design import Dense

LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_array": scipy.sparse.csc_array,
    "coo": scipy.sparse.coo_array,
}
SHAPES = [(7, 4), (5, 13), (1, 3), (6, 1)]


def same(value, expected, scale=1.0, tol=1e-12):
    """Equal up to rounding, measured against the size of what was added up."""
    value = np.asarray(value, dtype=np.longdouble)
    assert value.shape == np.shape(expected)
    assert np.max(np.abs(value - expected), initial=0) <= tol * scale


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_every_product_is_the_explicit_one(
    oracle, shape, layout, dtype, weighted, intercept
):
    rng = np.random.default_rng(sum(shape))
    X = rng.standard_normal(shape).astype(dtype) + np.asarray(2, dtype)
    X[rng.random(shape) < 0.3] = 0
    y, w, r = (rng.standard_normal(size) for size in (shape[0], shape[1], shape[0]))
    s = rng.uniform(0.5, 2, shape[0]) if weighted else None
    prior = rng.standard_normal(shape[1])
    case = oracle.Case(X, y, 0.3, prior, s, intercept)
    held = LAYOUTS[layout](X)
    problem = LeastSquares(
        held, y, ridge=0.3, prior=prior, sample_weight=s, fit_intercept=intercept
    )
    A, b, mu = case.A, case.b, case.mu
    S = np.flatnonzero(rng.random(shape[1]) < 0.7)
    B = rng.standard_normal((shape[0], 3))
    assert (problem.n_rows, problem.p, problem.dtype) == (*shape, X.dtype)
    same(problem.n, case.n)
    same(problem.mu, mu)
    same(problem.b, b, 10)
    same(problem.matvec(w), A @ w, 100)
    same(problem.rmatvec(r), A.T @ r, 100)
    same(problem.rmatvec(B), A.T @ B, 100)
    same(problem.rmatvec(r, cols=slice(1, 3)), (A.T @ r)[1:3], 100)
    same(problem.column_norms(), np.sum(A**2, axis=0), 100)
    raw = np.sum(case.s[:, None] * X.astype(np.longdouble) ** 2, axis=0)
    same(problem.raw_norms(), raw, 100)
    same(problem.columns(S), A[:, S], 10)
    scale = rng.random(len(S))
    for factor, z in ((None, np.ones(len(S))), (scale, scale)):
        gram, centre = problem.outer_gram(S, factor)
        same(gram, (A[:, S] * z) @ A[:, S].T, 100)
        same(centre, A[:, S] @ (z * prior[S]), 100)
    same(problem.residual(w), b - A @ w, 100)
    same(problem.correlation(), A.T @ b + mu * prior, 100)
    same(problem.penalty(w), 0.5 * mu * np.sum((w - prior) ** 2), 100)
    same(problem.objective(w), case.objective(w), 1000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_intercept_is_the_best_constant(layout):
    rng = np.random.default_rng(0)
    X, y, w = rng.random((9, 4)), rng.random(9), rng.random(4)
    s = rng.random(9)
    problem = LeastSquares(LAYOUTS[layout](X), y, sample_weight=s, fit_intercept=True)
    best = np.average(y - X @ w, weights=s)
    assert problem.intercept(w) == pytest.approx(best, rel=1e-12)
    assert LeastSquares(LAYOUTS[layout](X), y).intercept(w) == 0.0


def test_the_gradient_agrees_with_finite_differences(oracle):
    case = oracle.case(3, n=8, p=5, intercept=True)
    problem, w = case.problem(), np.arange(5.0)
    prior = np.zeros(5) if case.prior is None else case.prior
    gradient = -problem.rmatvec(problem.residual(w)) + problem.mu * (w - prior)
    h = 1e-6
    for j, e in enumerate(np.eye(5)):
        slope = (problem.objective(w + h * e) - problem.objective(w - h * e)) / (2 * h)
        assert gradient[j] == pytest.approx(slope, rel=1e-5, abs=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
def test_zero_weights_are_absent_rows_and_integer_ones_repeated(oracle, seed):
    case = oracle.case(seed, intercept=True)
    rng = np.random.default_rng(seed)
    n, p = case.X.shape
    times = rng.integers(0, 4, n)
    times[0] = 1
    rows = np.repeat(np.arange(n), times)
    weighted = case.but(weights=times.astype(float)).problem()
    repeated = case.but(X=case.X[rows], y=case.y[rows], weights=None).problem()
    w = rng.standard_normal(p)
    assert weighted.objective(w) == pytest.approx(repeated.objective(w), rel=1e-10)
    assert weighted.intercept(w) == pytest.approx(repeated.intercept(w), rel=1e-8)
    scale = repeated.raw_norms()
    same(weighted.column_norms() / scale, repeated.column_norms() / scale)


def test_float32_columns_whose_mean_dwarfs_their_spread_keep_their_spread(oracle):
    rng = np.random.default_rng(0)
    X = (1e6 + rng.standard_normal((200, 12))).astype(np.float32)
    y = (X[:, 3].astype(float) - 1e6 + 0.1 * rng.standard_normal(200)).astype("f4")
    case = oracle.Case(X, y, 1e-6, intercept=True)
    problem = case.problem()
    A, w, r = case.A, rng.standard_normal(12), rng.standard_normal(200)
    # Float64 leaves 1e6 eps = 2e-10 of each entry, 200 added up.
    same(problem.matvec(w), A @ w, tol=1e-7)
    same(problem.rmatvec(r), A.T @ r, tol=1e-7)
    same(problem.column_norms(), np.sum(A**2, axis=0), tol=1e-7)
    solution = solve(problem, Cardinality(1))
    assert np.flatnonzero(solution.support).tolist() == [3]
    best = case.objective(case.refit([3]))
    assert case.objective(solution.coef) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("layout", ["C", "F", "csc_array"])
def test_x_is_never_written_to(layout):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 40)), rng.standard_normal(12)
    s, prior = rng.uniform(0.5, 1, 12), rng.standard_normal(40)
    held = LAYOUTS[layout](X)
    arrays = (held.data if scipy.sparse.issparse(held) else held, y, s, prior)
    for array in arrays:
        array.flags.writeable = False
    before = [array.copy() for array in arrays]
    problem = LeastSquares(
        held, y, ridge=0.1, prior=prior, sample_weight=s, fit_intercept=True
    )
    for solver in ("swap", "iht", "dual", "dense"):
        solve(problem, Cardinality(4), solver=solver)
    for array, copy in zip(arrays, before, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_read_only_memory_map_serves(tmp_path, oracle, order):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 30)).astype(np.float32), rng.standard_normal(20)
    written = np.memmap(
        tmp_path / "X", dtype=np.float32, mode="w+", shape=X.shape, order=order
    )
    written[:] = X
    written.flush()
    mapped = np.memmap(
        tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape, order=order
    )
    case = oracle.Case(X, y, 0.01, intercept=True)
    inside = solve(case.problem(), Cardinality(5))
    outside = solve(case.but(X=mapped).problem(), Cardinality(5))
    assert np.array_equal(inside.support, outside.support)
    assert outside.objective == pytest.approx(inside.objective, rel=1e-9)


@pytest.mark.parametrize("solver", ["swap", "iht", "dual", "auto"])
@pytest.mark.parametrize("kind", ["csr_array", "csc_array"])
def test_a_sparse_x_is_never_made_dense(monkeypatch, solver, kind):
    p, k = 3000, 5
    X = scipy.sparse.random_array(
        (40, p), density=0.05, random_state=np.random.default_rng(0)
    )
    X = getattr(scipy.sparse, kind)(X)
    y = X[:, [10]].toarray()[:, 0] + 0.1 * np.random.default_rng(1).standard_normal(40)
    widths = []
    for made in (scipy.sparse.csc_array, scipy.sparse.csr_array):
        real = made.toarray

        def toarray(self, *args, real=real, **kwargs):
            widths.append(self.shape[1])
            return real(self, *args, **kwargs)

        monkeypatch.setattr(made, "toarray", toarray)
        monkeypatch.setattr(made, "todense", None)
    problem = LeastSquares(X, y, ridge=0.05, fit_intercept=True)
    solve(problem, Cardinality(k), solver=solver, n_restarts=2)
    assert 0 < max(widths) <= p // 4


def test_repeated_entries_of_a_sparse_x_count_as_their_sum():
    values, rows, ends = np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), [0, 2, 3]
    for kind in (scipy.sparse.csc_array, scipy.sparse.csc_matrix):
        X = kind((values, rows, ends), shape=(3, 2))
        problem = LeastSquares(X, np.ones(3))
        assert problem.column_norms().tolist() == [9.0, 9.0]
        assert problem.rmatvec(np.ones(3)).tolist() == [3.0, 3.0]
        assert len(X.data) == 3  # the user's X stays as it was


@pytest.mark.parametrize("shape", [(3, 50), (50, 3), (7, 7), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 4, 10, 1000])
@pytest.mark.parametrize("cols", [slice(None), slice(1, 3), slice(0, 1)], ids=str)
def test_blocks_cover_every_number_once(shape, size, cols):
    data = Dense(np.zeros(shape, dtype=np.float32))
    data._block = size
    seen = np.zeros(shape, dtype=int)
    for rows, here in data.blocks(cols):
        seen[rows, here] += 1
        small = seen[rows, here].size
        assert small <= max(size, min(shape[0], len(range(*cols.indices(shape[1])))))
    wanted = np.zeros(shape, dtype=int)
    wanted[:, cols] = 1
    assert np.array_equal(seen, wanted)


@given(seed=st.integers(0, 2**32 - 1))
def test_products_of_float32_in_small_blocks_are_those_in_one(oracle, seed):
    case = oracle.case(seed)
    case = case.but(X=case.X.astype(np.float32))
    rng = np.random.default_rng(seed)
    problem = case.problem()
    problem._data._block = int(rng.integers(1, 40))
    n, p = case.X.shape
    w, r = rng.standard_normal(p), rng.standard_normal((n, 2))
    size = 1 + float(np.sum(np.abs(case.X)))
    same(problem.matvec(w), case.A @ w, 10 * size)
    same(problem.rmatvec(r), case.A.T @ r, 10 * size)
    same(problem.column_norms(), np.sum(case.A**2, axis=0), size**2)


@given(seed=st.integers(0, 2**32 - 1))
def test_with_target_is_the_problem_with_that_target_and_ridge(oracle, seed):
    case = oracle.case(seed)
    rng = np.random.default_rng(seed)
    y, w = rng.standard_normal(len(case.y)), rng.standard_normal(case.X.shape[1])
    made = case.problem().with_target(y, ridge=0.7)
    fresh = case.but(y=y, ridge=0.7).problem()
    assert made.objective(w) == pytest.approx(fresh.objective(w), rel=1e-12)
    assert made.intercept(w) == pytest.approx(fresh.intercept(w), rel=1e-12)
    ridged = case.problem().with_target(ridge=0.7)
    expected = case.but(ridge=0.7).objective(w)
    assert ridged.objective(w) == pytest.approx(expected, rel=1e-10)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_restricted_problem_differs_by_the_ridge_on_what_it_leaves_out(oracle, seed):
    case = oracle.case(seed)
    rng = np.random.default_rng(seed)
    p = case.X.shape[1]
    S = np.flatnonzero(rng.random(p) < 0.5)
    part, w = case.problem().restrict(S), np.zeros(p)
    w[S] = rng.standard_normal(len(S))
    outside = np.delete(case.w_bar, S)
    left_out = float(0.5 * case.mu * (outside @ outside))
    whole = case.objective(w)
    assert part.objective(w[S]) + left_out == pytest.approx(whole, rel=1e-10)


def test_constant_columns_centred_are_columns_of_zeros():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.full(10_000, 0.1), rng.standard_normal(10_000)])
    for dtype in ("float32", "float64"):
        problem = LeastSquares(X.astype(dtype), X[:, 1] + 1, fit_intercept=True)
        solution = solve(problem, Cardinality(2))
        assert abs(solution.coef[0]) <= 1e-12
        assert solution.coef[1] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(1, 4))
def test_subsampled_rows_stand_for_all_of_them(oracle, kind, seed, step):
    case = oracle.case(seed)
    few = case.but(X=scipy.sparse.csr_array(case.X)) if kind == "sparse" else case
    few, rng = few.problem().subsampled(step), np.random.default_rng(seed)
    w = rng.standard_normal(few.p)
    A, b = case.A.astype(float)[::step], case.b.astype(float)[::step]
    shift = w - case.w_bar.astype(float)
    expected = np.sum((b - A @ w) ** 2) / 2 + float(case.mu) / step / 2 * shift @ shift
    assert few.objective(w) == pytest.approx(expected, rel=1e-9)
    r = rng.standard_normal(few.n_rows)
    assert np.allclose(few.rmatvec(r), A.T @ r, atol=1e-9 * np.abs(A).sum())
    assert np.allclose(few.column_norms(), np.sum(A**2, axis=0), rtol=1e-8)


@pytest.fixture
def always(monkeypatch):
    """Every problem is worth its triangular factor."""
    monkeypatch.setattr("chita_sklearn.core.problem.least_squares.TALL", 0)
    monkeypatch.setattr("chita_sklearn.core.problem.least_squares.TO_FACTOR", 0)


@pytest.mark.parametrize("n", [3, 12, 100])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reduced_problem_is_the_same_of_few_rows(oracle, backend, always, n, seed):
    case = oracle.case(seed, n=n, p=6)
    case = case.but(X=case.X.astype(backend.dtype), y=case.y.astype(backend.dtype))
    few = case.problem(backend.to).qr_compressed(1e9)
    assert (few.n_rows, few.p, few.dtype) == (7, 6, case.problem(backend.to).dtype)
    w = np.random.default_rng(seed).standard_normal(6).astype(backend.dtype)
    # Everything the Case holds in float32 is exact there, but for w_bar and weights.
    loose = 1e-5 if backend.dtype == "float32" else 1e-10
    for v in (w, 0 * w):
        same_value = pytest.approx(case.objective(v), rel=loose)
        assert few.objective(backend.to(v)) == same_value
    S = few.xp.asarray(np.asarray([1, 4]), device=few.device)
    gram = backend.back(few.select(S).gram())
    A = case.A[:, [1, 4]]
    assert np.allclose(gram, (A.T @ A).astype(float), rtol=loose, atol=1e-9)


@pytest.mark.parametrize("n", [9, 40])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_proven_of_the_reduced_problem_is_true(oracle, always, n, seed):
    case = oracle.case(seed, n=n, p=8)
    best = case.optimum(oracle.supports(Cardinality(3), 8))
    for solver in ("swap", "dual", "exact"):
        found = solve(case.problem(), Cardinality(3), solver=solver)
        assert found.objective == pytest.approx(case.objective(found.coef), rel=1e-9)
        assert found.lower_bound <= best * (1 + 1e-9)
        assert found.objective >= best * (1 - 1e-9)


def test_the_factor_tells_columns_apart_that_their_gram_matrix_cannot():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 5))
    X[:, 1] = X[:, 0] + 1e-9 * X[:, 1]
    few = LeastSquares(X, X[:, 2]).qr_compressed(1e9)
    assert few.n_rows == 6
    singular = np.linalg.svd(few.columns(np.arange(5)), compute_uv=False)
    assert singular == pytest.approx(np.linalg.svd(X, compute_uv=False), rel=1e-6)


def test_the_factor_is_formed_once_for_all_ridges(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4000, 6)), rng.standard_normal(4000)
    rows, read = [], Dense.rows
    monkeypatch.setattr(Dense, "rows", lambda *a: rows.append(a) or read(*a))
    problem = LeastSquares(X, y, fit_intercept=True)
    first = problem.with_target(ridge=0.1).qr_compressed(1e3)
    known = len(rows)
    assert known > 0
    second = problem.with_target(ridge=0.2).qr_compressed(1e3)
    assert len(rows) == known
    assert (first.mu, second.mu) == (pytest.approx(400), pytest.approx(800))
    other = problem.with_target(y[::-1].copy(), ridge=0.1).qr_compressed(1e3)
    assert len(rows) == 2 * known
    w = rng.standard_normal(6)
    expected = problem.with_target(y[::-1].copy(), ridge=0.1).objective(w)
    assert other.objective(w) == pytest.approx(expected, rel=1e-12)


def test_only_a_tall_x_that_is_read_often_is_reduced():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 10))
    tall = LeastSquares(X, X[:, 0])
    assert tall.qr_compressed(10) is tall
    assert LeastSquares(X[:300], X[:300, 0]).qr_compressed(1e9).n_rows == 300
    assert tall.qr_compressed(100).n_rows == 11
    assert tall.qr_compressed(10).n_rows == 11  # it is there already
    # A float32 X is half as large; a sparse one as large as what it stores.
    small = LeastSquares(X[:700].astype(np.float32), X[:700, 0].astype(np.float32))
    assert small.qr_compressed(1e9) is small
    sparse = scipy.sparse.csc_array(X * (rng.random(X.shape) < 0.1))
    assert LeastSquares(sparse, X[:, 0]).qr_compressed(100).n_rows == 2000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rough", [False, True])
def test_products_with_a_view_that_no_product_takes_are_made_in_blocks(
    monkeypatch, dtype, rough
):
    # CuPy copies what is contiguous in neither order, whole, before it multiplies.
    def strided(X):
        return not (X.flags.c_contiguous or X.flags.f_contiguous)

    monkeypatch.setattr("chita_sklearn.core.problem.design.strided", strided)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((700, 900)).astype(dtype)[::2, 1:]
    w, r = rng.standard_normal(899), rng.standard_normal((350, 2))
    data = Dense(X)
    largest = 0

    def read(rows, cols):
        nonlocal largest
        block = X[rows, cols].astype(np.float64)
        largest = max(largest, block.size)
        return block

    monkeypatch.setattr(data, "read", read)
    assert np.allclose(data.dot(w, rough), X.astype(float) @ w)
    for cols in (slice(None), slice(3, 500)):
        assert np.allclose(data.tdot(r, cols, rough), X[:, cols].T.astype(float) @ r)
    assert 0 < largest < X.size


def test_many_targets_of_one_x_are_factored_together(oracle, monkeypatch):
    rng = np.random.default_rng(5)
    X, Y = rng.standard_normal((900, 12)) + 3.0, rng.standard_normal((900, 7))
    Y[:, 0] += X[:, 2]
    weights = rng.uniform(0.5, 2.0, 900)
    priors = [None, *rng.standard_normal((6, 12))]
    first = LeastSquares(
        X, Y[:, 0], ridge=0.1, sample_weight=weights, fit_intercept=True
    )
    problems = first.with_targets(Y.T[1:], ridge=0.1, priors=priors[1:])
    reads = []
    rows = type(first._data).rows
    monkeypatch.setattr(
        type(first._data),
        "rows",
        lambda self, part: reads.append(self.shape[0]) or rows(self, part),
    )
    for problem, y, prior in zip(problems, Y.T, priors, strict=True):
        part = problem.qr_compressed(1000)
        assert part.n_rows == 13
        case = oracle.case(0, 900, 12, intercept=True)
        case = case.but(X=X, y=y, ridge=0.1, prior=prior, weights=weights)
        for _ in range(3):
            w = rng.standard_normal(12)
            assert part.objective(w) == pytest.approx(case.objective(w), rel=1e-12)
    assert sum(reads) == 900 * len(reads)
    assert len(reads) <= -(-900 // 32)  # X once, not once a target
    # A copy on other columns is on its own.
    few = problems[1].restrict(np.arange(3)).qr_compressed(1000)
    w = rng.standard_normal(3)
    both = problems[1].objective(np.concatenate([w, np.zeros(9)]))
    rest = 0.5 * problems[1].mu * float(priors[1][3:] @ priors[1][3:])
    assert few.objective(w) == pytest.approx(both - rest, rel=1e-12)
