"""`ChitaRegressorCV`: the choice, against the same choice made by hand."""

import inspect
import pickle
import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    _array_api_for_tests,
    check_array_api_input_and_values,
    parametrize_with_checks,
)

from chita_sklearn import (
    ChitaRegressor,
    ChitaRegressorCV,
    aic,
    bic,
    chita_path,
    ebic,
)
from chita_sklearn._compat import HAS_ARRAY_API

# What scikit-learn has from 1.9 on.
callback = sys.modules.get("sklearn.callback")
needs_callbacks = pytest.mark.skipif(
    callback is None, reason="this scikit-learn has no callbacks"
)

CHEAP = {"ks": 3, "ridges": (1e-3, 0.1), "cv": 3, "n_restarts": 1}


def make_data(n=60, p=8, seed=0, noise=0.5):
    """Features 1, 4 and 6 matter."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = 2 * X[:, 1] - 1.5 * X[:, 4] + X[:, 6] + 3
    return X, y + noise * rng.standard_normal(n)


@pytest.fixture
def data():
    return make_data()


@parametrize_with_checks(
    [
        ChitaRegressorCV(**CHEAP),
        ChitaRegressorCV(3, 1e-2, criterion="bic", n_restarts=1),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.array_api
@pytest.mark.parametrize(
    ("namespace", "device", "dtype"),
    [
        ("array_api_strict", "CPU_DEVICE", "float64"),
        ("torch", "cpu", "float32"),
        ("torch", "cpu", "float64"),
    ],
)
@pytest.mark.parametrize("criterion", ["cv", "ebic"])
def test_values_on_other_array_libraries_equal_numpys(
    namespace, device, dtype, criterion
):
    pytest.importorskip(namespace)
    model = ChitaRegressorCV(**CHEAP, criterion=criterion, random_state=0)
    check_array_api_input_and_values(
        "ChitaRegressorCV", model, namespace, device, dtype, True
    )


def test_defaults_are_those_of_the_estimator():
    ours = inspect.signature(ChitaRegressorCV.__init__).parameters
    theirs = inspect.signature(ChitaRegressor.__init__).parameters
    shared = set(ours) & set(theirs)
    assert len(shared) > 6
    for name in shared:
        assert ours[name].default == theirs[name].default, name


def test_init_stores_its_parameters_and_nothing_else():
    signature = inspect.signature(ChitaRegressorCV.__init__).parameters
    defaults = {n: p.default for n, p in signature.items() if n != "self"}
    assert vars(ChitaRegressorCV()) == defaults
    assert set(ChitaRegressorCV._parameter_constraints) == set(defaults)


def test_tags_tell_what_is_supported():
    tags = get_tags(ChitaRegressorCV())
    assert tags.array_api_support is HAS_ARRAY_API
    assert tags.input_tags.sparse
    assert not tags.target_tags.multi_output


# The choice by folds.


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_fits_on_each_fold(data, weighted):
    X, y = data
    weights = np.linspace(0.2, 2, 60) if weighted else None
    folds = KFold(4, shuffle=True, random_state=1)
    model = ChitaRegressorCV([1, 3, 8], [1e-3, 0.5], cv=folds, random_state=0)
    model.fit(X, y, sample_weight=weights)
    expected = np.empty((2, 3, 4))
    for f, (train, test) in enumerate(folds.split(X)):
        for r, ridge in enumerate([1e-3, 0.5]):
            for t, k in enumerate([1, 3, 8]):
                w = None if weights is None else weights[train]
                fit = ChitaRegressor(k, ridge).fit(X[train], y[train], sample_weight=w)
                error = (y[test] - fit.predict(X[test])) ** 2
                w = None if weights is None else weights[test]
                expected[r, t, f] = -np.average(error, weights=w)
    assert_allclose(model.score_path_, expected, rtol=1e-9)
    results = model.cv_results_
    assert_allclose(results["mean_test_score"], expected.mean(axis=2).ravel())
    assert_allclose(results["std_test_score"], expected.std(axis=2).ravel())
    assert_allclose(results["split2_test_score"], expected[:, :, 2].ravel())


def test_attributes_describe_the_best_pair(data):
    X, y = data
    model = ChitaRegressorCV([3, 1, 5, 5], [0.5, 1e-3], random_state=0).fit(X, y)
    assert_array_equal(model.ks_, [1, 3, 5])
    assert_array_equal(model.ridges_, [1e-3, 0.5])
    assert model.score_path_.shape == (2, 3, 5)
    results = pd.DataFrame(model.cv_results_)
    best = results.iloc[model.best_index_]
    assert best["rank_test_score"] == 1
    assert best["mean_test_score"] == results["mean_test_score"].max()
    assert best["params"] == {"k": model.k_, "ridge": model.ridge_}
    assert (best["param_k"], best["param_ridge"]) == (model.k_, model.ridge_)
    assert model.best_score_ == best["mean_test_score"]
    assert type(model.k_) is int
    assert type(model.ridge_) is float


def test_the_last_fit_is_the_path_on_all_data(data):
    X, y = data
    model = ChitaRegressorCV(5, [1e-3, 0.1], random_state=0).fit(X, y)
    path = chita_path(X, y, range(6), ridge=model.ridge_, random_state=0)
    t = model.k_
    assert_array_equal(model.path_.coefs, path.coefs)
    assert_array_equal(model.coef_, path.coefs[:, t])
    assert_array_equal(model.support_, path.supports[t])
    assert model.intercept_ == path.intercepts[t]
    for ours, theirs in (
        ("objective_", path.objectives),
        ("lower_bound_", path.lower_bounds),
        ("gap_", path.gaps),
        ("n_iter_", path.n_iters),
    ):
        assert getattr(model, ours) == theirs[t]
    single = ChitaRegressor(model.k_, model.ridge_, random_state=0).fit(X, y)
    assert model.objective_ <= single.objective_ * (1 + 1e-9)
    assert_allclose(model.predict(X), single.predict(X))
    assert_array_equal(model.get_support(), single.get_support())
    assert model.solver_history_ == path.histories[t]


def test_on_all_data_the_chosen_k_alone_is_searched_with_restarts():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 80))
    y = X[:, :3] @ [1.0, -2.0, 1.5] + rng.standard_normal(100)
    model = ChitaRegressorCV([2, 3, 5], 0.1, random_state=0).fit(X, y)
    restarts = [
        [line for line in history if re.search(r"restarts: [1-9]", line)]
        for history in model.path_.histories
    ]
    done = {k: bool(lines) for k, lines in zip((2, 3, 5), restarts, strict=True)}
    assert done == {k: k == model.k_ for k in (2, 3, 5)}


def test_the_planted_support_is_found():
    X, y = make_data(100, 30, noise=0.3)
    model = ChitaRegressorCV(6, [1e-3, 1e-1], n_restarts=2, selection="one_se")
    model.fit(X, y)
    assert_array_equal(model.support_, [1, 4, 6])
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("scoring", ["r2", "neg_mean_absolute_error", "callable"])
def test_other_scores(data, scoring):
    X, y = data

    def worst_error(estimator, X, y):
        return -np.max(np.abs(y - estimator.predict(X)))

    scorer = worst_error if scoring == "callable" else scoring
    model = ChitaRegressorCV([1, 3], 0.01, scoring=scorer, cv=3).fit(X, y)
    for t, k in enumerate([1, 3]):
        expected = cross_val_score(ChitaRegressor(k, 0.01), X, y, scoring=scorer, cv=3)
        assert_allclose(model.score_path_[0, t], expected)


# One standard error.


def fixed_scores(scores):
    """A scorer that returns scores[k, fold], whatever the data."""
    calls = {}

    def scorer(estimator, X, y):
        fold = calls.setdefault(estimator.k, 0)
        calls[estimator.k] += 1
        return scores[estimator.k][fold]

    return scorer


def test_one_standard_error_by_hand(data):
    X, y = data
    # Best: k = 3 with mean 10 and standard deviation 2 (ddof 1): 1.1547 over 3 folds.
    scores = {1: [8.0, 8.5, 8.9], 2: [9.5, 8.0, 9.4], 3: [8.0, 10.0, 12.0]}
    options = {"cv": 3, "n_restarts": 0}
    best = ChitaRegressorCV([1, 2, 3], 0.1, scoring=fixed_scores(scores), **options)
    assert best.fit(X, y).k_ == 3
    model = ChitaRegressorCV(
        [1, 2, 3], 0.1, scoring=fixed_scores(scores), selection="one_se", **options
    ).fit(X, y)
    assert model.k_ == 2  # 8.967 >= 10 - 1.1547; 8.467 is not
    assert model.cv_results_["rank_test_score"].tolist() == [3, 2, 1]
    scores[2] = [8.8, 8.8, 8.9]  # 8.833 is not
    model.set_params(scoring=fixed_scores(scores))
    assert model.fit(X, y).k_ == 3


def test_one_standard_error_never_takes_more_features(data):
    X, y = make_data(noise=3.0)
    best = ChitaRegressorCV(8, [1e-3, 1.0], n_restarts=0).fit(X, y)
    one_se = clone(best).set_params(selection="one_se").fit(X, y)
    assert one_se.k_ <= best.k_
    results, i = one_se.cv_results_, one_se.best_index_
    same_k = results["param_k"] == one_se.k_
    assert results["mean_test_score"][i] == results["mean_test_score"][same_k].max()


def test_one_fold_has_no_standard_error(data):
    X, y = data
    split = [(np.arange(40), np.arange(40, 60))]
    models = [
        ChitaRegressorCV(4, 0.1, cv=split, selection=selection).fit(X, y)
        for selection in ("best", "one_se")
    ]
    assert models[0].k_ == models[1].k_
    assert models[0].score_path_.shape == (1, 5, 1)


def test_of_equal_scores_the_fewest_features_win():
    X, _ = make_data()
    y = X[:, 2] + 1.0  # two features are no better than one
    model = ChitaRegressorCV(4, 0.0, cv=3, scoring=lambda *_: 1.0).fit(X, y)
    assert model.k_ == 0
    model.set_params(ks=[2, 3, 1]).fit(X, y)
    assert model.k_ == 1


# Information criteria.


@pytest.mark.parametrize("name", ["aic", "bic", "ebic"])
def test_criteria_by_hand(data, name):
    X, y = data
    model = ChitaRegressorCV(range(1, 9), [0.0, 0.2], criterion=name).fit(X, y)
    for r, ridge in enumerate([0.0, 0.2]):
        for k in range(1, 9):
            fit = ChitaRegressor(k, ridge).fit(X, y)
            rss = np.sum((y - fit.predict(X)) ** 2)
            A = X[:, fit.support_] - X[:, fit.support_].mean(0)
            A = A / A.std(0)
            G = A.T @ A
            df = np.trace(np.linalg.solve(G + 60 * ridge * np.eye(k), G))
            expected = {
                "aic": aic(60, rss, df),
                "bic": bic(60, rss, df),
                "ebic": ebic(60, rss, k, n_features=8, df=df),
            }[name]
            assert model.criterion_path_[r, k - 1] == pytest.approx(expected)
    best = np.unravel_index(np.argmin(model.criterion_path_), (2, 8))
    assert (model.ridge_, model.k_) == ([0.0, 0.2][best[0]], best[1] + 1)
    table = pd.DataFrame(model.cv_results_)
    assert table[name][model.best_index_] == table[name].min() == -model.best_score_
    assert table[f"rank_{name}"][model.best_index_] == 1
    assert not hasattr(model, "score_path_")


def test_bic_and_ebic_choose_the_planted_support_where_aic_takes_more():
    X, y = make_data(80, 40, noise=1.0)
    chosen = {
        name: ChitaRegressorCV(8, 1e-3, criterion=name, random_state=0).fit(X, y)
        for name in ("aic", "bic", "ebic")
    }
    assert_array_equal(chosen["ebic"].support_, [1, 4, 6])
    assert chosen["aic"].k_ >= chosen["bic"].k_ >= chosen["ebic"].k_
    assert chosen["aic"].k_ > 3


def test_saturated_models_are_not_considered():
    X, y = make_data(n=10, p=30, noise=1.0)
    model = ChitaRegressorCV(30, 0.0, criterion="bic", n_restarts=0)
    with pytest.warns(UserWarning, match="linearly dependent"):
        model.fit(X, y)
    assert model.k_ < 9
    assert np.isneginf(model.criterion_path_[0, 9:]).all()


def test_nothing_but_saturated_models_leaves_the_smallest():
    X, y = make_data(n=10, p=30, noise=1.0)
    model = ChitaRegressorCV([12, 20], 0.1, criterion="bic", n_restarts=0).fit(X, y)
    assert model.k_ == 12


def test_a_perfect_fit_takes_the_fewest_features():
    X, _ = make_data()
    y = 2 * X[:, 3] - X[:, 5]
    for name in ("aic", "bic", "ebic"):
        model = ChitaRegressorCV(6, 0.0, criterion=name).fit(X, y)
        assert_array_equal(model.support_, [3, 5])


def test_weights_are_repetitions_for_a_criterion(data):
    X, y = data
    times = np.random.default_rng(0).integers(0, 3, 60)
    weighted = ChitaRegressorCV(5, [1e-3, 0.1], criterion="bic")
    repeated = clone(weighted)
    weighted.fit(X, y, sample_weight=times)
    repeated.fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    assert_allclose(weighted.criterion_path_, repeated.criterion_path_)
    assert_allclose(weighted.coef_, repeated.coef_)


# No leakage.


def test_shuffled_labels_score_at_chance_level():
    # With 300 features to choose from, 30 samples are fitted well by 5 of them
    # whatever y is. Held-out samples must not know.
    X, y = make_data(40, 300, noise=0.2)
    shuffled = np.random.default_rng(1).permutation(y)
    options = {"ridges": 1e-2, "n_restarts": 0, "scoring": "r2"}
    honest = ChitaRegressorCV([2, 5], **options).fit(X, shuffled)
    assert 1 - honest.path_.rss[1] / np.sum((shuffled - shuffled.mean()) ** 2) > 0.6
    assert honest.best_score_ < 0.1
    assert ChitaRegressorCV([2, 5], **options).fit(X, y).best_score_ > 0.6


def test_held_out_targets_change_no_fit(data):
    X, y = data
    train, test = np.arange(40), np.arange(40, 60)
    options = {"cv": [(train, test)], "n_restarts": 0}
    other = y.copy()
    other[test] = 1e6
    scores = []
    for target in (y, other):

        def first_coefficient(estimator, X, y):
            scores[-1].append(estimator.coef_.copy())
            return 0.0

        scores.append([])
        ChitaRegressorCV(4, 0.1, scoring=first_coefficient, **options).fit(X, target)
    assert_array_equal(scores[0], scores[1])


def test_inside_a_pipeline_with_scaling(data):
    X, y = data
    scaled = make_pipeline(
        StandardScaler(), ChitaRegressorCV(4, [1e-3, 0.1], random_state=0)
    )
    scaled.fit(X * np.logspace(-3, 3, 8), y)
    plain = ChitaRegressorCV(4, [1e-3, 0.1], random_state=0)
    plain.fit((X - X.mean(0)) / X.std(0), y)
    assert scaled[-1].k_ == plain.k_
    assert_allclose(scaled[-1].coef_, plain.coef_)
    assert cross_val_score(scaled, X, y, cv=3).mean() > 0.8


# Metadata.


def test_groups_are_routed_to_the_splitter(data):
    X, y = data
    groups = np.repeat(np.arange(6), 10)
    model = ChitaRegressorCV([2, 3], 0.1, cv=GroupKFold(3), n_restarts=0)
    with config_context(enable_metadata_routing=True):
        model.fit(X, y, groups=groups)
    by_hand = ChitaRegressorCV(
        [2, 3], 0.1, cv=list(GroupKFold(3).split(X, y, groups)), n_restarts=0
    ).fit(X, y)
    assert_array_equal(model.score_path_, by_hand.score_path_)
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        model.fit(X, y, groups=groups)


def test_weights_are_routed_to_a_scorer_that_asks(data):
    X, y = data
    weights = np.linspace(0.1, 2, 60)
    model = ChitaRegressorCV([3], 0.1, n_restarts=0, cv=3)
    default = clone(model).set_params(scoring="neg_mean_squared_error")
    default.fit(X, y, sample_weight=weights)
    model.fit(X, y, sample_weight=weights)
    assert_allclose(default.score_path_, model.score_path_)
    scorer = make_scorer(mean_absolute_error, greater_is_better=False)
    with config_context(enable_metadata_routing=True):
        asks, does_not = (
            clone(model)
            .set_params(scoring=scorer.set_score_request(sample_weight=asked))
            .fit(X, y, sample_weight=weights)
            for asked in (True, False)
        )
    assert not np.allclose(asks.score_path_, does_not.score_path_)
    router = str(asks.get_metadata_routing())
    assert "splitter" in router
    assert "scorer" in router


# Data and parameters.


def test_workers_give_the_same_answer(data):
    X, y = data
    options = {"ks": 3, "ridges": [1e-2, 1.0], "cv": 2, "n_restarts": 1}
    one = ChitaRegressorCV(**options, random_state=0).fit(X, y)
    two = ChitaRegressorCV(**options, random_state=0, n_jobs=2).fit(X, y)
    assert_array_equal(one.score_path_, two.score_path_)
    assert_array_equal(one.coef_, two.coef_)


def test_sparse_equals_dense():
    X, y = make_data(p=20)
    X[np.abs(X) < 0.7] = 0
    for criterion in ("cv", "bic"):
        options = {"criterion": criterion, "random_state": 0, "cv": 3}
        dense = ChitaRegressorCV(4, [1e-2, 1.0], **options).fit(X, y)
        sparse = ChitaRegressorCV(4, [1e-2, 1.0], **options)
        sparse.fit(scipy.sparse.csr_array(X), y)
        assert_allclose(sparse.coef_, dense.coef_, atol=1e-9)
        assert sparse.best_score_ == pytest.approx(dense.best_score_)


def test_names_of_features_and_pickles(data):
    X, y = data
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(8)])
    model = ChitaRegressorCV(**CHEAP, random_state=0).fit(frame, pd.Series(y))
    assert_array_equal(model.feature_names_in_, frame.columns)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(frame), model.predict(frame))


@pytest.mark.array_api
def test_on_torch_and_back_to_the_host(data):
    torch = pytest.importorskip("torch")
    X, y = data
    reference = ChitaRegressorCV(**CHEAP, random_state=0).fit(X, y)
    with config_context(array_api_dispatch=True):
        _, device = _array_api_for_tests("torch", "cpu", "float64")
        there = torch.asarray(X, device=device)
        model = ChitaRegressorCV(**CHEAP, random_state=0).fit(there, y)
        for name in ("coef_", "support_", "score_path_", "ks_", "ridges_"):
            assert isinstance(getattr(model, name), torch.Tensor)
        assert isinstance(model.cv_results_["mean_test_score"], np.ndarray)
        scored = clone(model).set_params(scoring="r2").fit(there, y)
        assert scored.k_ == model.k_
    host = model.to_numpy()
    assert type(host) is ChitaRegressorCV
    for name in ("coef_", "support_", "score_path_", "ks_", "ridges_"):
        assert type(getattr(host, name)) is np.ndarray
        assert_allclose(getattr(host, name), getattr(reference, name), rtol=1e-9)
    assert type(host.path_.coefs) is np.ndarray
    assert_allclose(host.predict(X), reference.predict(X))


@pytest.mark.gpu
@pytest.mark.array_api
@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_gpu_equals_numpy(data, library):
    xp = pytest.importorskip(library)
    options = {"device": "cuda"} if library == "torch" else {}
    X, y = data
    reference = ChitaRegressorCV(**CHEAP, random_state=0).fit(X, y)
    with config_context(array_api_dispatch=True):
        there = xp.asarray(X, **options)
        model = ChitaRegressorCV(**CHEAP, random_state=0).fit(there, y)
        for name in ("coef_", "support_", "score_path_"):
            assert type(getattr(model, name)) is type(there)
        path = chita_path(there, y, [0, 1, 2, 3], ridge=model.ridge_, random_state=0)
    host = model.to_numpy()
    assert_allclose(host.score_path_, reference.score_path_, rtol=1e-9)
    assert_allclose(host.coef_, reference.coef_, rtol=1e-9)
    assert_allclose(path.to_numpy().coefs, host.path_.coefs, rtol=1e-9)


def test_splits_by_masks(data):
    X, y = data
    mask = np.arange(60) % 2 == 0
    by_mask = ChitaRegressorCV(2, 0.1, cv=[(mask, ~mask)]).fit(X, y)
    index = [(np.flatnonzero(mask), np.flatnonzero(~mask))]
    by_index = ChitaRegressorCV(2, 0.1, cv=index).fit(X, y)
    assert_array_equal(by_mask.score_path_, by_index.score_path_)


def test_a_column_is_a_target_and_two_are_not(data):
    X, y = data
    model = ChitaRegressorCV(**CHEAP)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model.fit(X, y[:, None])
    assert model.coef_.shape == (8,)
    with pytest.raises(ValueError, match=r"2 targets.*target_support='shared'"):
        model.fit(X, np.column_stack([y, y]))
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize(
    ("part", "message"),
    [("training", "The training part of fold 0 has no"), ("test", "No fold has a")],
)
def test_folds_without_weight_are_refused(data, part, message):
    X, y = data
    split = np.arange(30), np.arange(30, 60)
    weights = np.ones(60)
    weights[split[part == "test"]] = 0
    model = ChitaRegressorCV(2, 0.1, cv=[split])
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight=weights)


def test_contiguous_folds_with_trailing_weights_of_zero(data):
    X, y = data
    weights = np.where(np.arange(60) < 45, 1.0, 0.0)
    model = ChitaRegressorCV(3, 0.1, cv=KFold(5), random_state=0)
    with pytest.warns(UserWarning, match="1 of 5 folds have no sample") as caught:
        model.fit(X, y, sample_weight=weights)
    assert caught[0].filename == __file__
    assert model.score_path_.shape == (1, 4, 4)
    folds = [
        (np.setdiff1d(np.arange(45), test), test[test < 45])
        for test in np.split(np.arange(60), 5)[:4]
    ]
    other = ChitaRegressorCV(3, 0.1, cv=folds, random_state=0).fit(X[:45], y[:45])
    assert_allclose(model.score_path_, other.score_path_, rtol=1e-9)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_weight_zero_is_absence_where_many_fits_are_perfect(standardize, sparse):
    # At ridge 0 with fewer samples than features the shortest answer is returned.
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 40)), rng.standard_normal(30)
    weights = rng.integers(1, 4, 30).astype(float)
    weights[rng.permutation(30)[:20]] = 0.0
    live = weights > 0
    if sparse:
        X = scipy.sparse.csr_array(X)
    options = {"ridge": 0.0, "standardize": standardize, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in (3, 12, 30):
            whole = ChitaRegressor(k, **options).fit(X, y, weights)
            part = ChitaRegressor(k, **options).fit(X[live], y[live], weights[live])
            assert_array_equal(whole.coef_, part.coef_)
        path = chita_path(X, y, [3, 12], sample_weight=weights, **options)
        alone = chita_path(
            X[live], y[live], [3, 12], sample_weight=weights[live], **options
        )
        assert_array_equal(path.coefs, alone.coefs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ks": 0}, "'ks' parameter.*Pass an int"),
        ({"ks": [-1, 1]}, "ks must hold ints"),
        ({"ks": []}, "ks must be an int"),
        ({"ridges": -1.0}, "'ridges' parameter.*Pass a finite"),
        ({"ridges": [0.1, -1.0]}, r"ridges must hold .*Got -1\.0"),
        ({"ridges": [np.nan]}, "Got nan"),
        ({"ridges": [True]}, "Got True"),
        ({"ridges": []}, "ridges is empty"),
        ({"criterion": "cp"}, "'criterion' parameter.*Pass 'cv'"),
        ({"selection": "least"}, "'selection' parameter.*Pass 'one_se'"),
        ({"selection": "one_se", "criterion": "bic"}, "there are none. Pass criterion"),
        ({"scoring": "best"}, "'scoring' parameter"),
        ({"solver": "best"}, "'solver' parameter.*Pass 'auto'"),
        ({"scoring": lambda *_: np.nan}, "All scores are nan"),
    ],
)
def test_bad_parameters_are_refused(data, parameters, message):
    with pytest.raises(ValueError, match=message):
        ChitaRegressorCV(**({"n_restarts": 0, "cv": 2} | parameters)).fit(*data)


def test_a_scorer_may_ask_for_the_size_of_the_model(data):
    X, y = data

    def priced(model, X, y):
        assert len(model.get_support(indices=True)) <= model.k_
        return model.score(X, y) - 1.0 * len(model.support_)

    model = ChitaRegressorCV([1, 2, 3, 4], cv=2, n_restarts=0, scoring=priced)
    assert model.fit(X, y).k_ == 1


def test_a_score_that_is_nan_is_not_chosen(data):
    X, y = data
    scorer = fixed_scores({1: [np.nan] * 2, 2: [1.0] * 2, 3: [2.0, np.nan]})
    model = ChitaRegressorCV([1, 2, 3], 0.1, cv=2, scoring=scorer).fit(X, y)
    assert model.k_ == 2
    assert model.cv_results_["rank_test_score"].tolist() == [2, 1, 2]


class Recorder:
    """Counts the hooks of a callback."""

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self.events.append(f"end {context.task_name}")


@needs_callbacks
@pytest.mark.parametrize(("criterion", "parts"), [("cv", 3), ("bic", 2)])
def test_callbacks_see_each_fold_and_are_torn_down(data, criterion, parts):
    recorder = Recorder()
    model = ChitaRegressorCV(**CHEAP, criterion=criterion).set_callbacks(recorder)
    model.fit(*data)
    part = ["begin part", "end part"] * parts
    assert recorder.events == ["setup", "begin fit", *part, "end fit", "teardown"]


@needs_callbacks
def test_scikit_learns_own_callbacks(data, capsys):
    X, y = data
    monitor = callback.ScoringMonitor(scoring="r2")
    model = (
        ChitaRegressorCV(**CHEAP)
        .set_callbacks(monitor, callback.ProgressBar())
        .fit(X, y)
    )
    log = monitor.get_logs()
    rows = log.data if hasattr(log, "data") else log[0].data
    assert rows[-1]["r2"] == pytest.approx(model.score(X, y))
    assert "ChitaRegressorCV" in capsys.readouterr().out


def test_riboflavin_like_data():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((70, 20))
    X = factors[:, rng.integers(0, 20, 600)] + 0.5 * rng.standard_normal((70, 600))
    y = factors[:, 0] - factors[:, 1] + 0.5 * factors[:, 2]
    y = y + 0.3 * rng.standard_normal(70)
    model = ChitaRegressorCV([1, 2, 4, 6, 9], [1e-2, 1.0], cv=3, n_restarts=0)
    model.fit(X[:50], y[:50])
    assert model.score(X[50:], y[50:]) > 0.5
    assert 2 <= model.k_ <= 9
    assert 0 <= model.gap_ <= 1


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([], "cv gives no folds"),
        ([(np.arange(0), np.arange(20))], "training part of fold 0 is empty"),
        ([(np.arange(20), np.arange(0))], "test part of fold 0 is empty"),
        ([(np.ones(12) > 0, np.arange(20))], r"mask of shape \(12,\); there are 60"),
        ([(np.arange(10), np.arange(100))], r"holds 0 to 99. Pass pairs"),
        ([(np.arange(10.0), np.arange(10))], "training part of fold 0 holds 0.0"),
    ],
)
def test_folds_that_are_none_are_refused(data, cv, message):
    X, y = data
    X, y = X[:60], y[:60]
    with pytest.raises(ValueError, match=message):
        ChitaRegressorCV(**{**CHEAP, "cv": cv}).fit(X, y)


def test_a_used_generator_of_splits_is_named(data):
    X, y = data
    model = ChitaRegressorCV(**{**CHEAP, "cv": KFold(3).split(X)}).fit(X, y)
    with pytest.raises(ValueError, match="an earlier fit has used up"):
        model.fit(X, y)


def test_masks_and_negative_indices_are_folds(data):
    X, y = data
    first = np.arange(len(y)) < len(y) // 2
    halves = [(first, ~first), (~first, first)]
    by_masks = ChitaRegressorCV(**{**CHEAP, "cv": halves}).fit(X, y)
    indices = [tuple(map(np.flatnonzero, pair)) for pair in halves]
    by_indices = ChitaRegressorCV(**{**CHEAP, "cv": indices}).fit(X, y)
    assert_array_equal(by_masks.score_path_, by_indices.score_path_)
    backwards = [(train - len(y), test - len(y)) for train, test in indices]
    again = ChitaRegressorCV(**{**CHEAP, "cv": backwards}).fit(X, y)
    assert_array_equal(again.score_path_, by_indices.score_path_)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_column_with_weights_is_no_error(standardize):
    """Its weighted variance can come out a little below zero."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y, weights = rng.standard_normal(20), rng.random(20) + 0.01
        model = ChitaRegressor(1, standardize=standardize)
        model.fit(np.ones((20, 1)), y, weights)
        assert model.coef_ == [0.0]
        assert model.intercept_ == pytest.approx(np.average(y, weights=weights))
