"""`ChitaSelector`: the chosen columns in pipelines, frames and sparse matrices."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, ChitaSelector

X, Y = load_diabetes(return_X_y=True)


def test_all_k_are_kept_however_small_their_coefficients():
    columns = X * np.logspace(0, 9, 10)
    selector = ChitaSelector(5).fit(columns, Y)
    assert selector.get_support().sum() == 5
    kept = ChitaRegressor(5).fit(X, Y).support_
    np.testing.assert_array_equal(selector.get_support(indices=True), kept)
    np.testing.assert_array_equal(selector.transform(columns), columns[:, kept])


def test_sparse_columns_stay_sparse():
    selector = ChitaSelector(3).fit(scipy.sparse.csr_array(X), Y)
    out = selector.transform(scipy.sparse.csr_array(X))
    assert scipy.sparse.issparse(out)
    assert out.shape == (len(Y), 3)


def test_frames_keep_their_names():
    pytest.importorskip("pandas")
    frame, y = load_diabetes(return_X_y=True, as_frame=True)
    selector = ChitaSelector(3).set_output(transform="pandas").fit(frame, y)
    out = selector.transform(frame)
    assert out.columns.tolist() == ["bmi", "bp", "s5"]
    assert selector.estimator_.summary()["feature"].tolist()[0] == "bmi"
    table = ColumnTransformer(
        [("few", ChitaSelector(2), ["age", "bmi", "bp", "s5"])], remainder="drop"
    ).fit(frame, y)
    assert table.get_feature_names_out().tolist() == ["few__bmi", "few__s5"]


def test_polars_frames_go_in_and_out():
    pl = pytest.importorskip("polars")
    names = load_diabetes().feature_names
    frame = pl.DataFrame(X, schema=names)
    y = pl.Series("y", Y)
    model = ChitaRegressor(3).fit(frame, y)
    assert model.chosen_.tolist() == ["bmi", "bp", "s5"]
    predicted = ChitaRegressor(3).fit(X, Y).predict(X)
    np.testing.assert_allclose(model.predict(frame), predicted, rtol=1e-12)
    assert ChitaRegressorCV(3).fit(frame, y).chosen_.size
    selector = ChitaSelector(3).set_output(transform="polars").fit(frame, y)
    out = selector.transform(frame)
    assert isinstance(out, pl.DataFrame)
    assert out.columns == ["bmi", "bp", "s5"]


def test_k_is_searched_for_like_any_parameter():
    pipeline = make_pipeline(StandardScaler(), ChitaSelector(), LinearRegression())
    search = GridSearchCV(pipeline, {"chitaselector__k": [1, 5]}).fit(X, Y)
    assert search.best_params_ == {"chitaselector__k": 5}


def test_another_regressor_may_choose():
    mine = ChitaRegressorCV(4, random_state=0)
    selector = ChitaSelector(estimator=mine).fit(X, Y)
    assert selector.get_support().sum() == selector.estimator_.k_
    assert not hasattr(mine, "coef_")
    shared = ChitaRegressor(k=3, target_support="shared")
    both = np.column_stack([Y, -(Y**2)])
    assert ChitaSelector(estimator=shared).fit(X, both).get_support().sum() == 3
    assert ChitaSelector(2, estimator=shared).fit(X, both).get_support().sum() == 2
    with pytest.raises(ValueError, match="which chooses k itself"):
        ChitaSelector(3, estimator=mine).fit(X, Y)


def test_weights_reach_the_regressor():
    weights = np.random.default_rng(0).uniform(0, 2, len(Y))
    selector = ChitaSelector(4).fit(X, Y, sample_weight=weights)
    model = ChitaRegressor(4).fit(X, Y, sample_weight=weights)
    np.testing.assert_array_equal(selector.estimator_.coef_, model.coef_)
