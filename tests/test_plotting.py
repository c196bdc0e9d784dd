"""The displays, drawn with Agg: what is on the axes is what they were given."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chita_sklearn import (
    ChitaRegressor,
    ChitaRegressorCV,
    CVDisplay,
    PathDisplay,
    chita_path,
)


@pytest.fixture(autouse=True)
def _close_figures():
    assert mpl.get_backend().lower() == "agg"
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 12))
    return X, 2 * X[:, 1] - X[:, 4] + 0.5 * X[:, 9] + 0.5 * rng.standard_normal(50)


@pytest.fixture(scope="module")
def path(data):
    return chita_path(*data, 6, ridge=0.05, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    return ChitaRegressorCV(4, [1e-3, 0.1, 1.0], cv=3, random_state=0).fit(*data)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_coefficients(path):
    display = PathDisplay.from_path(path, name="A path")
    chosen = np.unique(np.concatenate(path.supports))
    assert len(display.lines_) == len(chosen)
    assert_array_equal(display.features, chosen)
    for line in display.lines_:
        j = int(line.get_label())
        assert_array_equal(line.get_xdata(), path.ks)
        assert_array_equal(line.get_ydata(), path.coefs[j])
    assert display.ax_.get_xlabel() == "number of features k"
    assert display.ax_.get_ylabel() == "coefficient"
    assert display.ax_.get_title() == "A path"
    assert display.figure_ is display.ax_.figure
    display.figure_.canvas.draw()


def test_features_that_stay_longest_are_named_first_and_others_grey(path):
    display = PathDisplay.from_path(path, n_labels=2)
    assert texts(display.ax_) == ["1", "4"]
    colours = [line.get_color() for line in display.lines_]
    assert len(set(colours)) == 3
    assert colours.count("#999999") == len(display.lines_) - 2


def test_every_feature_of_the_last_or_chosen_model_has_a_colour_and_a_name(data):
    X, y = data
    path = chita_path(X, y, 10, random_state=0)
    display = PathDisplay.from_path(path)
    assert sorted(texts(display.ax_)) == sorted(map(str, path.supports[-1]))
    model = ChitaRegressorCV(8, [0.01], cv=3, random_state=0).fit(X, y)
    display = PathDisplay.from_estimator(model)
    assert sorted(texts(display.ax_)) == sorted(map(str, model.support_))
    named = [line for line in display.lines_ if line.get_color() != "#999999"]
    assert len(named) == model.k_
    assert len({line.get_color() for line in named}) == model.k_


def test_a_choice_of_no_feature_is_drawn_without_a_legend():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 6)), rng.standard_normal(40)
    model = ChitaRegressorCV([0, 1, 2], [0.1], cv=3, random_state=0).fit(X, y)
    assert model.k_ == 0
    assert PathDisplay.from_estimator(model).ax_.get_legend() is None
    assert CVDisplay.from_estimator(model).chosen_.get_data()[0] == 0
    none = chita_path(X, y, [0])
    PathDisplay.from_path(none).figure_.canvas.draw()


def test_the_estimator_is_found_at_the_end_of_a_pipeline(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=[f"gene {j}" for j in range(12)])
    single = ChitaRegressor(3, random_state=0)
    pipeline = make_pipeline(make_pipeline(StandardScaler()), single).fit(frame, y)
    display = PathDisplay.from_estimator(pipeline, frame, y)
    scaled = pipeline[:-1].transform(frame)
    expected = PathDisplay.from_estimator(pipeline[-1], scaled, y)
    assert_array_equal(display.objectives, expected.objectives)
    assert set(texts(display.ax_)) == {frame.columns[j] for j in single.support_}
    alone = make_pipeline(single).fit(X, y)
    assert set(texts(PathDisplay.from_estimator(alone, X, y).ax_)) == {
        str(j) for j in single.support_
    }
    searched = make_pipeline(StandardScaler(), ChitaRegressorCV(3, cv=2)).fit(frame, y)
    path = PathDisplay.from_estimator(searched)
    chosen = {frame.columns[j] for j in searched[-1].support_}
    assert set(texts(path.ax_)) == chosen
    scores = CVDisplay.from_estimator(searched)
    assert scores.chosen_.get_data()[0] == searched[-1].k_


def test_a_ridge_that_is_far_worse_does_not_squeeze_the_others(data):
    X, y = data
    model = ChitaRegressorCV(4, [1e-3, 1e-2, 1e3], cv=3, random_state=0).fit(X, y + 9)
    display = CVDisplay.from_estimator(model)
    low, high = display.ax_.get_ylim()
    i, _ = display.chosen
    assert low < display.values[i][1:].min() < display.values[i][1:].max() < high
    assert high < display.values[i][0]  # the intercept alone
    none_cut = CVDisplay.from_estimator(model)
    none_cut.values[2] = none_cut.values[1]
    assert not any("out of view" in label for label in texts(none_cut.plot().ax_))
    far = CVDisplay.from_estimator(model)
    far.values[2] = far.values[1] * 100
    labels = texts(far.plot().ax_)
    assert "out of view" in labels[2]
    assert not any("out of view" in label for label in labels[:2])
    band = np.array([-1, 1])[:, None] * far.errors[i][1:]
    span = np.ptp(far.values[i][1:] + band)
    assert np.diff(far.ax_.get_ylim()) == pytest.approx(1.2 * span)


def test_names_of_features(data, path):
    names = [f"gene {j}" for j in range(12)]
    display = PathDisplay.from_path(path, feature_names=names)
    assert "gene 4" in texts(display.ax_)


def test_objective_and_its_bound(path):
    display = PathDisplay.from_path(path, kind="objective")
    upper, lower = display.lines_
    assert_array_equal(upper.get_ydata(), path.objectives)
    assert_array_equal(lower.get_ydata(), path.lower_bounds)
    assert display.fill_ is not None
    assert display.ax_.get_ylabel() == "objective F"
    assert display.ax_.get_ylim()[0] == 0
    assert texts(display.ax_)[2] == "the optimum is in here"
    display.figure_.canvas.draw()


def test_no_bound_no_band(data):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 60))
    path = chita_path(X, X[:, 0], [5, 6], ridge=0.0, n_restarts=0)
    assert np.isnan(path.lower_bounds).all() or path.objectives[0] < 1e-24
    display = PathDisplay.from_path(path, kind="objective")
    display.lower_bounds = np.full(2, np.nan)
    display.plot(kind="objective")
    assert len(display.lines_) == 1
    assert display.fill_ is None


def test_given_axes_and_style_are_used(path):
    _, ax = plt.subplots()
    display = PathDisplay.from_path(path, ax=ax, curve_kwargs={"linewidth": 3.5})
    assert display.ax_ is ax
    assert {line.get_linewidth() for line in display.lines_} == {3.5}
    again = display.plot(name="again")
    assert again is display
    assert again.ax_ is not ax
    assert again.ax_.get_title() == "again"


def test_a_path_of_one_k(data):
    path = chita_path(*data, [3])
    for kind in ("coefficients", "objective"):
        PathDisplay.from_path(path, kind=kind).figure_.canvas.draw()


def test_wide_ranges_of_k_are_logarithmic(data):
    X, y = data
    path = chita_path(X, y, 12, n_restarts=0)
    assert PathDisplay.from_path(path).ax_.get_xscale() == "linear"
    display = PathDisplay.from_path(path)
    display.ks = np.array([1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000])
    assert display.plot().ax_.get_xscale() == "log"


def test_path_of_an_estimator(data):
    X, y = data
    fitted = ChitaRegressor(4, 0.05, n_restarts=2, random_state=0).fit(X, y)
    display = PathDisplay.from_estimator(fitted, X, y)
    expected = chita_path(X, y, 4, ridge=0.05, n_restarts=2, random_state=0)
    assert_array_equal(display.objectives, expected.objectives)
    assert display.ax_.get_title() == "k = 1 to 4, ridge 0.05"
    other = PathDisplay.from_estimator(fitted, X, y, ks=[1, 7], name="mine")
    assert_array_equal(other.ks, [1, 7])
    assert other.ax_.get_title() == "mine"
    with pytest.raises(ValueError, match=r"keeps no path\. Pass the X and y"):
        PathDisplay.from_estimator(fitted)


def test_path_of_a_cross_validated_estimator_is_there_already(model):
    display = PathDisplay.from_estimator(model)
    assert_array_equal(display.objectives, model.path_.objectives)
    title = f"k = 0 to 4, ridge {model.ridge_:g}; chosen: k = {model.k_}"
    assert display.ax_.get_title() == title


def test_path_on_torch(data):
    torch = pytest.importorskip("torch")
    from sklearn import config_context

    with config_context(array_api_dispatch=True):
        path = chita_path(*map(torch.asarray, data), 3)
    display = PathDisplay.from_path(path)
    assert type(display.coefs) is np.ndarray


def test_scores_with_a_band_of_one_standard_error(model):
    display = CVDisplay.from_estimator(model)
    labels = [line.get_label().split()[0] for line in display.lines_]
    assert labels == ["0.001", "0.1", "1"]
    for r, line in enumerate(display.lines_):
        assert_array_equal(line.get_xdata(), model.ks_)
        assert_allclose(line.get_ydata(), -model.score_path_[r].mean(axis=-1))
    expected = model.score_path_.std(axis=-1, ddof=1) / np.sqrt(3)
    assert_allclose(display.errors, expected)
    assert len(display.fills_) == 3
    (k,), (value,) = display.chosen_.get_data()
    assert k == model.k_
    assert value == pytest.approx(-model.best_score_)
    assert display.ax_.get_ylabel() == "mean squared error"
    assert display.ax_.get_legend().get_title().get_text() == "ridge"
    assert texts(display.ax_)[-1] == f"chosen: k = {model.k_}"
    display.figure_.canvas.draw()


def test_scores_can_be_turned_round(model):
    display = CVDisplay.from_estimator(model, negate_score=False)
    assert display.ax_.get_ylabel() == "negative mean squared error"
    assert np.all(display.lines_[0].get_ydata() < 0)


def test_a_score_that_is_none_of_an_error(data):
    fitted = ChitaRegressorCV(2, 0.1, cv=2, scoring="r2", n_restarts=0).fit(*data)
    display = CVDisplay.from_estimator(fitted)
    assert display.ax_.get_ylabel() == "r2"
    assert display.lines_[0].get_ydata()[1] == pytest.approx(
        fitted.score_path_[0, 1].mean()
    )

    def my_score(estimator, X, y):
        return 1.0

    fitted.set_params(scoring=my_score).fit(*data)
    assert CVDisplay.from_estimator(fitted).ax_.get_ylabel() == "my score"


def test_one_fold_has_no_band(data):
    split = [(np.arange(30), np.arange(30, 50))]
    fitted = ChitaRegressorCV(2, 0.1, cv=split, n_restarts=0).fit(*data)
    display = CVDisplay.from_estimator(fitted)
    assert display.errors is None
    assert not display.fills_


def test_a_criterion(data):
    fitted = ChitaRegressorCV(5, [1e-3, 0.1], criterion="ebic").fit(*data)
    display = CVDisplay.from_estimator(fitted, name="By EBIC")
    assert display.ax_.get_ylabel() == "EBIC"
    assert display.ax_.get_title() == "By EBIC"
    assert_array_equal(display.lines_[1].get_ydata(), fitted.criterion_path_[1])
    assert display.chosen_.get_data()[1][0] == fitted.criterion_path_.min()


def _lines(model):
    return CVDisplay.from_estimator(model).lines_


def test_colours_styles_and_markers_all_differ(data):
    many = ChitaRegressorCV(2, np.logspace(-3, 0, 28), cv=2, n_restarts=0).fit(*data)
    looks = {(line.get_color(), line.get_linestyle()) for line in _lines(many)}
    assert len(looks) == 28
    many = ChitaRegressorCV(2, np.logspace(-3, 0, 7), cv=2, n_restarts=0).fit(*data)
    lines = _lines(many)
    assert len({line.get_color() for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7
    assert len({line.get_linestyle() for line in lines}) == 4


def test_unfitted_and_unknown_are_refused(path):
    with pytest.raises(NotFittedError):
        CVDisplay.from_estimator(ChitaRegressorCV())
    with pytest.raises(NotFittedError):
        PathDisplay.from_estimator(ChitaRegressor())
    X, y = np.eye(6), np.arange(6.0)
    single = ChitaRegressor(2).fit(X, y)
    for other in (single, make_pipeline(StandardScaler(), single).fit(X, y)):
        with pytest.raises(TypeError, match="must be a fitted ChitaRegressorCV"):
            CVDisplay.from_estimator(other)
    linear = make_pipeline(StandardScaler(), LinearRegression())
    for other in (linear, LinearRegression()):
        with pytest.raises(TypeError, match="must be a fitted ChitaRegressor or"):
            PathDisplay.from_estimator(other.fit(X, y), X, y)
    with pytest.raises(ValueError, match="kind='lines' is not known; choose"):
        PathDisplay.from_path(path, kind="lines")


def test_matplotlib_is_imported_late_and_missed_with_a_remedy():
    code = """
import sys
sys.modules["matplotlib"] = None  # any import of it fails from here on
import numpy as np
from chita_sklearn import PathDisplay, chita_path
path = chita_path(np.eye(5), np.arange(5.0), 2)
try:
    PathDisplay.from_path(path)
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'chita-sklearn[plot]'" in result.stdout
