"""Moments: sums over rows that are gone stand for the rows."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import mean_squared_error, r2_score

from chita_sklearn import (
    ChitaRegressor,
    ChitaRegressorCV,
    Moments,
    _moments,
    chita_path,
    moments,
)


def data(seed=0, n=600, p=12, targets=None, mean=0.0, decades=0.0):
    """X with correlated columns of many scales, y of three of them, weights."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    X = (X + mean) * 10.0 ** rng.uniform(-decades / 2, decades / 2, p)
    signal = X[:, [1, 4, 7]] / np.std(X[:, [1, 4, 7]], axis=0)
    mix = np.array([[1.0, -0.7, 0.5], [0.2, 1.0, -0.6]])
    y = signal @ mix.T + 0.3 * rng.standard_normal((n, 2))
    y = y[:, 0] if targets is None else y[:, :targets]
    return X, y, rng.integers(0, 4, n).astype(float)


def of_chunks(X, y, weights, cuts):
    seen = Moments()
    for rows in np.split(np.arange(len(y)), cuts):
        seen.update(X[rows], y[rows], None if weights is None else weights[rows])
    return seen


def centred_gram(seen):
    """The sums of products about the mean, a matrix that no shift changes."""
    R = seen._R
    v = R[0, 1:] - R[0, 0] * (seen.mean_ - seen._shift)
    return R[1:, 1:].T @ R[1:, 1:] + np.outer(v, v)


# --- The object -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 120), max_size=8),
    weighted=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_any_tree_of_merges_gives_the_same_sums(seed, cuts, weighted, order):
    X, y, weights = data(seed, n=120, p=8, mean=order.choice([0.0, 1e4]))
    s = weights if weighted else None
    leaves = [
        Moments().update(X[rows], y[rows], None if s is None else s[rows])
        for rows in np.split(np.arange(120), np.sort(cuts))
    ]
    order.shuffle(leaves)
    while len(leaves) > 1:
        i = order.randrange(len(leaves) - 1)
        leaves[i : i + 2] = [leaves[i].merge(leaves[i + 1])]
    once = Moments().update(X, y, s)
    (tree,) = leaves
    assert tree.n_samples_ == once.n_samples_
    assert tree.weight_ == once.weight_
    spread = np.sqrt(np.diagonal(centred_gram(once)))
    apart = (centred_gram(tree) - centred_gram(once)) / np.outer(spread, spread)
    assert np.abs(apart).max() < 1e-13
    off = np.abs(tree.mean_ - once.mean_)
    # Means by their spread, and by their own last digits.
    assert np.all(off < 1e-13 * spread + 4e-16 * np.abs(once.mean_))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    targets=st.sampled_from([None, 1, 2]),
    cuts=st.lists(st.integers(0, 600), max_size=3),
)
def test_the_error_of_every_model_is_that_of_the_rows(seed, targets, cuts):
    X, y, weights = data(seed, targets=targets, mean=3.0)
    seen = of_chunks(X, y, weights, np.sort(cuts))
    rng = np.random.default_rng(seed)
    coef = rng.standard_normal((*y.shape[1:], X.shape[1]))
    intercept = rng.standard_normal(y.shape[1:])[()]
    predicted = X @ coef.T + intercept
    raw = {"sample_weight": weights, "multioutput": "raw_values"}
    expected = mean_squared_error(y, predicted, **raw)
    assert seen.mean_squared_error(coef, intercept) == pytest.approx(
        expected if targets else expected[0], rel=1e-12
    )
    score = r2_score(y, predicted, **raw)
    found = seen.r2_score(coef, intercept)
    np.testing.assert_allclose(found, score if targets else score[0], rtol=1e-11)
    few = seen.rows()
    assert len(few.X) == X.shape[1] + (targets or 1) + 1
    rest = few.y + few.y_shift - (few.X + few.X_shift) @ coef.T - intercept
    np.testing.assert_allclose(
        few.sample_weight @ rest**2 / few.sample_weight.sum(),
        expected if targets else expected[0],
        rtol=1e-11,
    )


def test_weights_are_repetitions_and_rows_of_weight_zero_are_absent():
    X, y, weights = data(3)
    counts = weights.astype(int)
    weighted = Moments().update(X, y, weights)
    repeated = Moments().update(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    scale = np.sqrt(np.diagonal(centred_gram(repeated)))
    apart = centred_gram(weighted) - centred_gram(repeated)
    assert np.abs(apart / np.outer(scale, scale)).max() < 1e-13
    assert weighted.weight_ == repeated.weight_
    live = weights > 0
    X[~live], y[~live] = np.nan, np.inf  # not looked at
    absent = Moments().update(X[live], y[live], weights[live])
    again = Moments().update(X, y, weights)
    np.testing.assert_array_equal(again._R, absent._R)
    np.testing.assert_array_equal(again.mean_, absent.mean_)


def test_sparse_and_dense_rows_give_the_same_sums():
    X, y, weights = data(1)
    X[np.random.default_rng(1).random(X.shape) < 0.8] = 0.0
    dense = Moments().update(X, y, weights)
    for kind in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        sparse = Moments().update(kind(X), y, weights)
        np.testing.assert_array_equal(sparse._R, dense._R)


def test_types_of_the_rows_are_kept():
    X, y, _ = data()
    narrow = Moments().update(X.astype(np.float32), y)
    assert narrow.dtype == np.float32
    assert ChitaRegressor(3).fit_moments(narrow).coef_.dtype == np.float32
    assert narrow.update(X, y).dtype == np.float64
    assert Moments().update((100 * X).astype(int), y).dtype == np.float64


def test_a_pickle_is_the_factor_and_little_else():
    X, y, _ = data(n=500, p=100, targets=2)
    seen = Moments().update(X, y)
    text = pickle.dumps(seen)
    assert len(text) < 8 * (100 + 2 + 1) ** 2 + 4096
    again = pickle.loads(text)
    np.testing.assert_array_equal(again._R, seen._R)
    assert repr(again) == "Moments(n_samples=500, n_features=100, n_targets=2)"


def test_constant_columns_and_targets_stay_constant_through_merges():
    X, y, _ = data()
    X[:, 2] = 0.1
    seen = of_chunks(X, np.full(len(y), 0.3), None, [7, 100, 101])
    model = ChitaRegressor(12, ridge=0.0).fit_moments(seen)
    assert not model.coef_.any()
    assert model.intercept_ == 0.3
    model = ChitaRegressor(12).fit_moments(of_chunks(X, y, None, [7, 100, 101]))
    assert np.flatnonzero(model.coef_ == 0).tolist() == [2]


def test_an_update_that_fails_changes_nothing():
    X, y, weights = data()
    seen = Moments().update(X, y)
    before = pickle.dumps(seen)
    bad = X.copy()
    bad[-1, 5] = np.nan
    infinite = np.where(np.arange(len(y)) == 3, np.inf, y)
    for call, says in [
        (lambda: seen.update(bad, y), "column 5 of X contains NaN"),
        (lambda: seen.update(X, infinite), "y contains NaN"),
        (lambda: seen.update(X[:, :4], y), "4 features, but these Moments are of 12"),
        (lambda: seen.update(X, y[:-1]), "600 rows and y has 599"),
        (lambda: seen.update(X, np.column_stack([y, y])), "y has 2 columns"),
        (lambda: seen.update(X, y, -weights), "negative"),
        (lambda: seen.update(X, y[:, None, None]), "dim"),
        (lambda: seen.merge(Moments().update(X[:, :4], y)), "4 features"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()
        assert pickle.dumps(seen) == before
    for nothing in (X[:0], y[:0]), (X, y, np.zeros(len(y))):
        assert pickle.dumps(seen.update(*nothing)) == before


def test_columns_of_data_frames_are_known_by_name():
    X, y, _ = data(p=8)
    names = [f"x{j}" for j in range(8)]
    frame = pd.DataFrame(X, columns=names)
    seen = Moments().update(frame, y)
    twice = Moments().update(frame, y).update(frame[names[::-1]], y)
    once_more = Moments().update(frame, y).merge(seen)
    np.testing.assert_allclose(
        centred_gram(twice), centred_gram(once_more), rtol=1e-9, atol=1e-9
    )
    assert ChitaRegressor(2).fit_moments(twice).feature_names_in_.tolist() == names
    with pytest.raises(ValueError, match="'z0' where 'x0' was"):
        seen.update(frame.rename(columns={"x0": "z0"}), y)
    with pytest.raises(ValueError, match="another order"):
        seen.merge(Moments().update(frame[names[::-1]], y))
    words = frame.assign(x3="a", x5=pd.Categorical(["u"] * len(y)))
    with pytest.raises(TypeError, match=r"x3 \(.*x5 \(category\)"):
        Moments().update(words, y)


def test_a_factor_that_cannot_fit_is_refused_by_arithmetic(monkeypatch):
    monkeypatch.setattr(np, "zeros", None)
    monkeypatch.setattr(np, "empty", None)
    huge = np.broadcast_to(1.0, (3, 50_000))
    with pytest.raises(ValueError, match=r"50001 columns would take 18\.6 GiB"):
        Moments().update(huge, np.arange(3.0))
    column = huge[0]
    with pytest.raises(ValueError, match=r"would take 18\.6 GiB"):
        Moments.from_gram(
            np.broadcast_to(1.0, (50_000, 50_000)),
            column,
            1.0,
            9,
            x_mean=column,
            y_mean=1.0,
        )


# --- Accuracy -------------------------------------------------------------------------


def ill_conditioned(mean, dtype=np.float64, n=3000, p=8, decades=6):
    """Columns of condition 10^decades, and their least squares in long double.

    In long double by modified Gram-Schmidt, twice, of the centred rows.
    """
    rng = np.random.default_rng(7)
    U = np.linalg.qr(rng.standard_normal((n, p)))[0]
    V = np.linalg.qr(rng.standard_normal((p, p)))[0]
    X = np.sqrt(n) * U @ np.diag(np.logspace(0, -decades, p)) @ V.T
    X = (X + mean * np.std(X, axis=0)).astype(dtype)
    y = X.astype(float) @ rng.standard_normal(p) + rng.standard_normal(n)
    L, z = X.astype(np.longdouble), y.astype(np.longdouble)
    L, z = L - L.mean(axis=0), z - z.mean()
    Q, R = L.copy(), np.eye(p, dtype=np.longdouble)
    for _ in range(2):
        more = np.zeros_like(R)
        for j in range(p):
            more[j, j] = np.sqrt(Q[:, j] @ Q[:, j])
            Q[:, j] /= more[j, j]
            more[j, j + 1 :] = Q[:, j] @ Q[:, j + 1 :]
            Q[:, j + 1 :] -= np.outer(Q[:, j], more[j, j + 1 :])
        R = more @ R
    coef, rhs = np.zeros(p, np.longdouble), Q.T @ z
    for j in reversed(range(p)):
        coef[j] = (rhs[j] - R[j, j + 1 :] @ coef[j + 1 :]) / R[j, j]
    return X, y, coef


def distance(found, coef):
    return float(np.linalg.norm(found - coef) / np.linalg.norm(coef))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_coefficients_at_condition_1e6_and_large_means(mean, dtype):
    X, y, coef = ill_conditioned(mean, dtype)
    rng = np.random.default_rng(0)
    for _ in range(10):  # chunkings and orders
        order = rng.permutation(len(y))
        cuts = np.sort(rng.integers(0, len(y), rng.integers(0, 30)))
        seen = of_chunks(X[order], y[order], None, cuts)
        seen.dtype = np.dtype(np.float64)  # not rounded to the type of X
        model = ChitaRegressor(1.0, ridge=0.0).fit_moments(seen)
        assert distance(model.coef_, coef) < 1e-8


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("decades", [0.0, 1.0, 1.5, 2.0, 3.0])
def test_products_are_summed_where_they_are_as_good(mean, decades, monkeypatch):
    X, y, coef = ill_conditioned(mean, decades=decades)
    roots, root = [], _moments._root
    monkeypatch.setattr(_moments, "_root", lambda G: roots.append(G) or root(G))
    seen = Moments().update(X, y)
    assert bool(roots) == (decades <= 2)
    model = ChitaRegressor(1.0, ridge=0.0).fit_moments(seen)
    assert distance(model.coef_, coef) < 1e-12
    # What the certificate allows for is more than what rounding did.
    monkeypatch.setattr(_moments, "SAFE", -1.0)
    exact = Moments().update(X, y)
    apart = np.abs(np.abs(seen._R) - np.abs(exact._R)).max(axis=0)[1:]
    assert np.all(apart <= seen._off + exact._off)


def test_rows_that_differ_from_the_first_join_by_reflections():
    X, y, _ = data(n=4000)
    X[2000:, 3] = X[2000:, 5] + 1e-9 * X[2000:, 3]
    X[:, 7] = 2.5  # a constant
    X[:, 8] = X[:, 9] > 3  # and dummies that add up to one
    X[:, 10] = 1 - X[:, 8]
    seen = Moments().update(X, y)
    L = X.astype(np.longdouble)
    L = np.column_stack([L, y.astype(np.longdouble)])
    L -= L.mean(axis=0)
    expected = (L.T @ L).astype(float)
    scale = np.sqrt(np.diagonal(expected))
    scale[7] = 1.0
    apart = (centred_gram(seen) - expected) / np.outer(scale, scale)
    assert np.abs(apart).max() < 1e-12
    assert centred_gram(seen)[7, 7] == 0.0


@pytest.mark.parametrize("dependent", [False, True])
def test_an_update_takes_about_six_factors(dependent):
    X, y, _ = data(n=3000, p=300)
    if dependent:  # by reflections
        X[:, 3] = X[:, 5]
    seen = Moments().update(X, y)
    tracemalloc.start()
    seen.update(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 7 * len(pickle.dumps(seen))


def test_what_is_not_finite_is_found_in_the_last_of_many_rows():
    X, y, _ = data(n=4000)
    for column, value in ((3, np.nan), (5, np.inf), (0, 1e200)):
        bad = X.copy()
        bad[-1, column] = value
        with pytest.raises(ValueError, match=f"column {column} of X contains NaN"):
            Moments().update(bad, y)


def test_sums_of_products_do_not_do():
    # What the factor is for: the Gram matrix has no correct digit there.
    X, y, coef = ill_conditioned(1e4)
    n = len(y)
    A, b = X.T @ X - n * np.outer(X.mean(0), X.mean(0)), X.T @ y - X.sum(0) * y.mean()
    assert distance(np.linalg.solve(A, b), coef) > 0.1
    with pytest.raises(ValueError, match="XtX is too ill-conditioned"):
        Moments.from_gram(X.T @ X, X.T @ y, y @ y, n, x_mean=X.mean(0), y_mean=y.mean())


@pytest.mark.parametrize("seed", range(10))
def test_blocks_of_rows_answer_as_all_rows_do(seed):
    X, y, _ = data(seed, n=1000, p=25, decades=8.0)
    model = ChitaRegressor(5, random_state=0).fit(X, y)
    cuts = np.arange(50, 1000, 50)
    through = clone(model).fit_moments(of_chunks(X, y, None, cuts))
    np.testing.assert_array_equal(through.support_, model.support_)
    S = model.support_
    np.testing.assert_allclose(through.coef_[S], model.coef_[S], rtol=1e-12)
    sums = [
        (x.T @ x, x.T @ z, z @ z, x.sum(0), z.sum())
        for x, z in zip(np.split(X, 20), np.split(y, 20), strict=True)
    ]
    G, c, s, mx, my = (sum(parts) for parts in zip(*sums, strict=True))
    gram = Moments.from_gram(G, c, s, 1000, x_mean=mx / 1000, y_mean=my / 1000)
    summed = clone(model).fit_moments(gram)
    np.testing.assert_array_equal(summed.support_, model.support_)
    np.testing.assert_allclose(summed.coef_[S], model.coef_[S], rtol=1e-9)


# --- Estimators -----------------------------------------------------------------------


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_fit_moments_is_the_fit_of_the_rows(targets, fit_intercept, standardize):
    X, y, weights = data(5, targets=targets, mean=2.0, decades=2.0)
    prior = np.linspace(-1, 1, X.shape[1])
    model = ChitaRegressor(
        4,
        ridge=1e-2,
        coef_prior=prior,
        fit_intercept=fit_intercept,
        standardize=standardize,
        random_state=0,
    )
    whole = clone(model).fit(X, y, weights)
    found = model.fit_moments(of_chunks(X, y, weights, [100, 350]))
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(found.intercept_, whole.intercept_, rtol=1e-10)
    np.testing.assert_allclose(found.objective_, whole.objective_, rtol=1e-11)
    # The bound allows for rounding; nothing is called exact.
    assert np.all(np.asarray(found.gap_) > 0)
    np.testing.assert_allclose(found.gap_, whole.gap_, atol=1e-6)
    assert found.n_features_in_ == X.shape[1]
    np.testing.assert_allclose(found.predict(X), whole.predict(X), rtol=1e-9)


def test_signs_and_required_features_are_those_of_the_rows_too():
    X, y, weights = data(5)
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    options = {"always_include": ["x2"], "positive": True, "random_state": 0}
    seen = Moments().update(frame, y, weights)
    whole = ChitaRegressor(4, **options).fit(frame, y, weights)
    found = ChitaRegressor(4, **options).fit_moments(seen)
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-9, atol=1e-12)
    path = chita_path(seen, None, 4, **options)
    np.testing.assert_allclose(path.coefs[:, -1], found.coef_, rtol=1e-9, atol=1e-12)
    folds = moments(frame, y, weights, folds=3)
    cv = ChitaRegressorCV(4, cv=3, **options)
    rows = clone(cv).fit(frame, y, weights)
    np.testing.assert_allclose(
        cv.fit_moments(folds).score_path_, rows.score_path_, rtol=1e-8
    )


def test_partial_fit_adds_rows_and_fit_starts_anew():
    X, y, weights = data()
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    model = ChitaRegressor(3, random_state=0)
    for rows in np.split(np.arange(len(y)), [10, 300, 301]):
        model.partial_fit(frame.iloc[rows], y[rows], weights[rows])
    whole = clone(model).fit(frame, y, weights)
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(model.feature_names_in_, whole.feature_names_in_)
    assert model.moments_.n_samples_ == np.count_nonzero(weights)
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(frame * np.nan, y)
    assert pickle.dumps(model) == before
    model.fit(frame, y)
    assert not hasattr(model, "moments_")
    with pytest.warns(UserWarning, match="partial_fit after fit starts anew"):
        model.partial_fit(frame, y)
    assert model.moments_.n_samples_ == len(y)


def test_partial_fit_goes_on_from_moments_without_changing_them():
    X, y, _ = data()
    seen = Moments().update(X[:300], y[:300])
    before = pickle.dumps(seen)
    model = ChitaRegressor(3).fit_moments(seen).partial_fit(X[300:], y[300:])
    assert pickle.dumps(seen) == before
    np.testing.assert_allclose(
        model.coef_, ChitaRegressor(3).fit(X, y).coef_, rtol=1e-12, atol=1e-15
    )


def test_the_path_and_its_statistics_are_those_of_the_rows():
    X, y, weights = data(2)
    path = chita_path(X, y, 6, sample_weight=weights, random_state=0)
    same = chita_path(Moments().update(X, y, weights), None, 6, random_state=0)
    np.testing.assert_allclose(same.coefs, path.coefs, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(same.rss, path.rss, rtol=1e-11)
    np.testing.assert_allclose(same.degrees_of_freedom, path.degrees_of_freedom)
    assert same.n_samples == path.n_samples


@pytest.mark.parametrize(
    "options",
    [{}, {"selection": "one_se"}, {"scoring": "r2"}]
    + [{"scoring": "neg_root_mean_squared_error"}]
    + [{"criterion": name} for name in ("aic", "bic", "ebic")],
    ids=str,
)
def test_folds_of_moments_choose_as_folds_of_rows_do(options):
    X, y, weights = data(4, n=403)
    # A scorer of scikit-learn's takes no weights by itself.
    weights = None if "scoring" in options else weights
    model = ChitaRegressorCV(8, random_state=0, **options)
    folds = moments(X, y, weights, folds=5, chunk_rows=30)
    found, rows = clone(model).fit_moments(folds), model.fit(X, y, weights)
    assert (found.k_, found.ridge_) == (rows.k_, rows.ridge_)
    np.testing.assert_allclose(found.coef_, rows.coef_, rtol=1e-11, atol=1e-14)
    for name in ("score_path_", "criterion_path_"):
        if hasattr(rows, name):
            np.testing.assert_allclose(
                getattr(found, name), getattr(rows, name), rtol=1e-9
            )
    assert found.cv_results_.keys() == rows.cv_results_.keys()


def test_a_fold_is_scored_by_models_that_have_not_seen_it():
    X, y, _ = data(6, n=50)
    folds = moments(X, y, folds=5)
    score = ChitaRegressorCV(3, random_state=0).fit_moments(folds).score_path_[..., 2]
    rng = np.random.default_rng(0)
    other = y.copy()
    other[20:30] = rng.standard_normal(10)  # the third fold
    with_other = [
        Moments().update(X[20:30], other[20:30]) if t == 2 else fold
        for t, fold in enumerate(folds)
    ]
    model = ChitaRegressorCV(3, random_state=0).fit_moments(with_other)
    # Its models are the same, so k = 0 predicts the same mean.
    mean = np.delete(y, np.s_[20:30]).mean()
    assert score[0, 0] == pytest.approx(-np.mean((y[20:30] - mean) ** 2))
    assert model.score_path_[0, 0, 2] == pytest.approx(
        -np.mean((other[20:30] - mean) ** 2)
    )


def test_the_regressor_of_many_k_takes_no_single_rows():
    assert not hasattr(ChitaRegressorCV(), "partial_fit")
    assert hasattr(ChitaRegressor(), "partial_fit")


# --- Arrays ---------------------------------------------------------------------------


def test_a_memory_map_is_summed_the_same_on_any_number_of_processes(tmp_path):
    X, y, weights = data(n=1000)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    one = moments(mapped, y, weights, chunk_rows=90)
    two = moments(mapped, y, weights, chunk_rows=90, n_jobs=2)
    np.testing.assert_array_equal(one._R, two._R)
    np.testing.assert_array_equal(one.mean_, two.mean_)
    whole = Moments().update(X.astype(np.float32), y, weights)
    scale = np.sqrt(np.diagonal(centred_gram(whole)))
    apart = centred_gram(one) - centred_gram(whole)
    assert np.abs(apart / np.outer(scale, scale)).max() < 1e-13


def test_pages_of_a_memory_map_are_given_back_and_its_changes_kept(tmp_path):
    X, y, _ = data()
    np.save(tmp_path / "X.npy", X)
    for mode in ("r+", "c"):
        mapped = np.load(tmp_path / "X.npy", mmap_mode=mode)
        mapped[0, 0] = 5.0
        moments(mapped, y)
        assert mapped[0, 0] == 5.0


def test_folds_by_number_and_by_label():
    X, y, weights = data(n=103)
    labels = np.random.default_rng(0).integers(0, 3, 103)
    for fold, seen in enumerate(moments(X, y, weights, folds=labels, chunk_rows=20)):
        here = labels == fold
        expected = Moments().update(X[here], y[here], weights[here])
        np.testing.assert_allclose(centred_gram(seen), centred_gram(expected))
    sizes = [fold.n_samples_ for fold in moments(X, y, folds=4)]
    assert sizes == [26, 26, 26, 25]  # as scikit-learn's KFold


def test_frames_lists_and_sparse_rows_are_summed_by_chunks():
    X, y, _ = data()
    expected = centred_gram(moments(X, y, chunk_rows=100))
    frame = pd.DataFrame(X, index=np.arange(len(y))[::-1] * 0.5)
    for other in (frame, X.tolist(), scipy.sparse.coo_array(X)):
        found = moments(other, pd.Series(y), chunk_rows=100)
        np.testing.assert_allclose(centred_gram(found), expected, rtol=1e-12)


def test_what_is_wrong_is_said_with_the_rows_it_is_in():
    X, y, weights = data()
    X[250, 3] = np.nan
    with pytest.raises(ValueError, match="rows 200 to 299: column 3 of X contains"):
        moments(X, y, chunk_rows=100)
    for folds in (1, 601, True, [0, 1], -np.ones(600, int), np.zeros(600)):
        with pytest.raises(ValueError, match="folds"):
            moments(data()[0], y, folds=folds)
    with pytest.raises(ValueError, match="Fold 1 has no rows of positive weight"):
        moments(data()[0], y, (np.arange(600) < 300).astype(float), folds=2)
    with pytest.raises(ValueError, match="sample_weight has shape"):
        moments(data()[0], y, weights[:3])


def test_a_bar_shows_how_far_it_is(capsys):
    pytest.importorskip("tqdm")
    X, y, _ = data()
    moments(X, y, chunk_rows=100, progress=True)
    assert "6/6" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tqdm", None)
        with pytest.raises(ImportError, match="progress=True needs tqdm"):
            moments(X, y, progress=True)
        assert _moments._shown([1], 1, progress=False) == [1]
