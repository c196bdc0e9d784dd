"""What `summary`, `chosen_` and `to_sklearn` say, against fits by hand."""

import itertools
import pickle
import sys

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, chita_path

pd = pytest.importorskip("pandas")


def objective_on(S, X, y, s, ridge, standardize, intercept, prior):
    """The least F on the columns S, by the normal equations."""
    n = s.sum()
    mean = s @ X / n if intercept else np.zeros(X.shape[1])
    A, b = X - mean, y - (s @ y / n if intercept else 0.0)
    scale = np.sqrt(s @ A**2 / n) if standardize else np.ones(X.shape[1])
    w = np.zeros(X.shape[1])
    pull = ridge * scale[S] ** 2
    H = A[:, S].T @ (s[:, None] * A[:, S]) / n + np.diag(pull)
    w[S] = np.linalg.solve(H, A[:, S].T @ (s * b) / n + pull * prior[S])
    rest = b - A @ w
    return s @ rest**2 / 2 / n + ridge / 2 * np.sum((scale * (w - prior)) ** 2)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("ridge", "standardize", "intercept"),
    [(1e-3, True, True), (0.3, False, True), (0.3, True, False), (0.0, True, True)],
)
def test_the_losses_are_those_of_fits_without_the_feature(
    ridge, standardize, intercept, sparse
):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, 12)) * np.logspace(-2, 2, 12) + 1.0
    w = rng.standard_normal(12) / np.logspace(-2, 2, 12)
    y = X @ w + rng.standard_normal(60)
    s, prior = rng.uniform(0.5, 2.0, 60), 0.1 * rng.standard_normal(12)
    options = {"ridge": ridge, "standardize": standardize, "fit_intercept": intercept}
    model = ChitaRegressor(5, coef_prior=prior, random_state=0, **options)
    model.fit(scipy.sparse.csr_array(X) if sparse else X, y, sample_weight=s)
    table = model.summary()

    def least(S):
        return objective_on(list(S), X, y, s, ridge, standardize, intercept, prior)

    S = {int(name[1:]) for name in table["feature"]}
    assert S == set(model.support_.tolist())
    without = [least(S - {int(name[1:])}) for name in table["feature"]]
    np.testing.assert_allclose(
        table["loss_if_removed"], np.array(without) - model.objective_, rtol=1e-6
    )
    assert table["loss_if_removed"].is_monotonic_decreasing
    # Forward selection among the chosen, by hand.
    taken, order = set(), []
    while taken != S:
        best = min(sorted(S - taken), key=lambda j: least(taken | {j}))
        order.append(f"x{best}")
        taken.add(best)
    assert table.sort_values("entry")["feature"].tolist() == order
    mean = np.average(X, axis=0, weights=s) if intercept else 0.0
    sd = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=s))
    j = [int(name[1:]) for name in table["feature"]]
    np.testing.assert_allclose(table["coefficient"], model.coef_[j])
    np.testing.assert_allclose(table["per_deviation"], model.coef_[j] * sd[j])


def test_of_groups_the_loss_is_that_of_the_group():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((80, 8))
    y = X @ np.array([3.0, 2, 0, 0, 1, 1, 0, 0]) + rng.standard_normal(80)
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    model = ChitaRegressor(2, groups=groups).fit(X, y)
    table = model.summary()
    ones, none = np.ones(80), np.zeros(8)
    for chosen, other in itertools.permutations([[0, 1], [4, 5]]):
        left = objective_on(other, X, y, ones, 1e-4, True, True, none)
        loss = table.loc[table["feature"].isin([f"x{j}" for j in chosen])]
        np.testing.assert_allclose(loss["loss_if_removed"], left - model.objective_)
    assert table["entry"].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("target_support", ["separate", "shared", "pooled"])
def test_of_several_targets_the_table_counts_them(target_support):
    X, y = load_diabetes(return_X_y=True)
    Y = np.column_stack([y / y.std(), X @ np.arange(10) / X.std()])
    model = ChitaRegressor(4, target_support=target_support).fit(X, Y)
    table = model.summary()
    assert len(table) == np.count_nonzero(model.coef_)
    for t, names in enumerate(model.chosen_):
        assert set(names) == set(table.loc[table["target"] == t, "feature"])
    if target_support == "shared":
        per_feature = table.groupby("feature")["loss_if_removed"].nunique()
        assert (per_feature == 1).all()
        rest = ChitaRegressor(3, target_support="shared").fit(
            X[:, model.support_[0][1:]], Y
        )
        name = f"x{model.support_[0][0]}"
        loss = table.loc[table["feature"] == name, "loss_if_removed"].iloc[0]
        assert loss == pytest.approx(rest.objective_ - model.objective_, rel=1e-5)


def test_a_copy_of_a_column_costs_nothing_to_remove():
    X = np.random.default_rng(0).standard_normal((30, 3))
    X = np.column_stack([X, X[:, 0]])
    model = ChitaRegressor(4, ridge=1e-9).fit(X, X[:, 0] + X[:, 1])
    loss = model.summary().set_index("feature")["loss_if_removed"]
    assert loss["x0"] == pytest.approx(0, abs=1e-8)
    assert loss["x1"] > 0.1


def test_no_feature_is_an_empty_table():
    X, y = load_diabetes(return_X_y=True)
    model = ChitaRegressor(0).fit(X, y)
    assert model.summary().empty
    assert model.chosen_.size == 0


def test_the_entry_of_a_chosen_k_is_its_path():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    model = ChitaRegressorCV(8, random_state=0).fit(X, y)
    for _, row in model.summary().iterrows():
        for k, support in zip(model.path_.ks, model.path_.supports, strict=True):
            has = row["feature"] in X.columns[support]
            if row["entry"] <= k <= model.k_:
                assert has
            if k == row["entry"] - 1:
                assert not has
    assert model.path_.feature_names.tolist() == X.columns.tolist()


def test_names_are_those_of_the_columns():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    assert ChitaRegressor(3).fit(X, y).chosen_.tolist() == ["bmi", "bp", "s5"]
    bare = ChitaRegressor(3).fit(X.to_numpy(), y)
    assert bare.chosen_.tolist() == ["x2", "x3", "x8"]
    assert "bmi, bp, s5" in repr(chita_path(X, y, 3))
    assert " 2 3 8" in repr(chita_path(X.to_numpy(), y, 3))


def test_to_sklearn_predicts_the_same():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    for target in (y, np.column_stack([y, -y])):
        model = ChitaRegressor(3).fit(X, target)
        linear = model.to_sklearn()
        assert type(linear) is LinearRegression
        np.testing.assert_array_equal(linear.predict(X), model.predict(X))
        assert linear.feature_names_in_.tolist() == X.columns.tolist()
        assert linear.coef_ is not model.coef_
    pickle.loads(pickle.dumps(linear)).predict(X)


def test_before_a_fit_there_is_nothing_to_tell():
    for ask in (
        lambda model: model.chosen_,
        ChitaRegressor.summary,
        ChitaRegressor.to_sklearn,
    ):
        with pytest.raises(NotFittedError):
            ask(ChitaRegressor())


def test_without_pandas_it_says_what_to_install(monkeypatch):
    X, y = load_diabetes(return_X_y=True)
    model = ChitaRegressor(3).fit(X, y)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        model.summary()


def test_the_history_ends_with_the_gap():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 200))
    y = X[:, :8].sum(axis=1) + 3 * rng.standard_normal(50)
    for ridge in (1e-4, 0.1, 1.0):
        model = ChitaRegressor(5, ridge, random_state=0).fit(X, y)
        told = model.solver_history_[-1]
        if model.gap_ >= 0.995:
            assert told == "no useful bound at this ridge"
        else:
            assert told == f"proven gap {model.gap_:.2%}"
    searched = ChitaRegressorCV(4, [0.5, 1.0], random_state=0).fit(X, y)
    assert searched.solver_history_[-1] == f"proven gap {searched.gap_:.2%}"
    assert ChitaRegressor(5, 0.0, random_state=0).fit(X, y).solver_history_[-1] in (
        "no bound",
        "no useful bound at this ridge",
    )
