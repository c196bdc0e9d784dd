"""Fits of dask collections, on two processes of this machine; what fails, and how."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

pytest.importorskip("distributed")

import dask
import dask.array as da
from distributed import Client, KilledWorker, LocalCluster

from chita_dask import DaskChitaRegressor, DaskChitaRegressorCV, moments
from chita_sklearn import ChitaRegressor, ChitaRegressorCV, Moments, chita_path

pytestmark = [
    pytest.mark.distributed,
    # Of connections and processes that are closed while others still listen.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "30s"}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def data(n=1000, p=12, targets=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 3.0
    y = X[:, [1, 4, 7]] @ np.array([[1.0, 0.2], [-0.7, 1.0], [0.5, -0.6]])
    y = y + 0.3 * rng.standard_normal((n, 2))
    return X, y[:, 0] if targets is None else y[:, :targets], rng.integers(0, 4, n)


def on_dask(*arrays, rows=100):
    return [
        da.from_array(a, chunks=(rows, 5)[: a.ndim] if a.ndim == 2 else rows)
        for a in arrays
    ]


@pytest.fixture(scope="module")
def fitted(client):
    """An estimator that no refused fit may change, and how it was."""
    X, y, _ = data()
    model = DaskChitaRegressor(3, client=client, random_state=0)
    model.fit(*on_dask(X, y))
    return model, pickle.dumps(model.to_local())


@pytest.mark.parametrize("targets", [None, 2])
def test_a_fit_on_workers_is_the_fit_in_memory(client, targets):
    X, y, weights = data(targets=targets)
    dX, dw = on_dask(X, weights)  # columns in three chunks, joined by task
    dy = da.from_array(y, chunks=(100,) if targets is None else (100, targets))
    model = DaskChitaRegressor(3, client=client, random_state=0).fit(dX, dy, dw)
    local = ChitaRegressor(3, random_state=0).fit(X, y, weights)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=1e-11, atol=1e-14)
    assert isinstance(model.coef_, np.ndarray)
    assert model.client_ is client
    predicted = model.predict(dX)
    assert isinstance(predicted, da.Array)
    assert predicted.chunks[0] == dX.chunks[0]
    np.testing.assert_allclose(predicted.compute(), local.predict(X), rtol=1e-10)
    score = local.score(X, y, weights)
    assert model.score(dX, dy, dw) == pytest.approx(score, rel=1e-9)
    np.testing.assert_array_equal(model.predict(X[:5]), model.to_local().predict(X[:5]))
    assert type(model.to_local()) is ChitaRegressor


def test_unknown_lengths_empty_and_short_partitions_just_work(client):
    X, y, _ = data(n=120)
    dX, dy = on_dask(X, y, rows=7)  # fewer rows than columns
    row = np.arange(len(y))
    some = da.from_array((row % 10 > 4) & (row < 80), chunks=7)
    dX, dy = dX[some], dy[some]  # many partitions are empty
    assert np.isnan(dX.chunks[0][0])
    model = DaskChitaRegressor(3, client=client, random_state=0).fit(dX, dy)
    rows = some.compute()
    local = ChitaRegressor(3, random_state=0).fit(X[rows], y[rows])
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=1e-11, atol=1e-14)
    none = da.from_array(np.zeros(len(y), bool), chunks=7)
    with pytest.raises(ValueError, match="no rows of positive weight"):
        model.fit(dX[none[some]], dy[none[some]])


def test_the_answer_does_not_depend_on_who_computes_it(client):
    X, y, _ = data()
    dX, dy = on_dask(X, y, rows=30)
    both = moments(dX, dy, client=client, fan_in=3)
    again = moments(dX, dy, client=client, fan_in=3)
    with dask.config.set(scheduler="synchronous"):  # in this process alone
        alone = moments(dX, dy, fan_in=3)
    for other in (alone, again):
        np.testing.assert_array_equal(other._R, both._R)


@pytest.mark.parametrize(
    ("break_it", "error", "says"),
    [
        ("nan", ValueError, "partition 2: column 5 of X contains NaN"),
        ("infinite y", ValueError, "partition 3: y contains NaN or infinity"),
        ("fewer partitions", ValueError, "X has 10 partitions of rows and y has 6"),
        ("other chunks", ValueError, "partition 0: X has 100 rows and y has 50"),
        ("unknown lengths", ValueError, "partition 4: X has 100 rows and y has 60"),
        ("numpy y", TypeError, "y is a ndarray; a dask array or data frame is needed"),
    ],
)
def test_what_cannot_be_summed_is_refused_with_its_partition(
    fitted, break_it, error, says
):
    X, y, _ = data()
    dX, dy = on_dask(X, y)
    model, before = fitted
    if break_it == "nan":
        X[250, 5] = np.nan
        dX = on_dask(X)[0]
    elif break_it == "infinite y":
        y[333] = np.inf
        dy = on_dask(y)[0]
    elif break_it == "fewer partitions":
        dy = on_dask(y[:600])[0]
    elif break_it == "other chunks":
        dy = da.from_array(y, chunks=((50, 150, *[100] * 8),))
    elif break_it == "unknown lengths":
        keep = np.ones(1000, bool)
        keep[460:500] = False
        dy = dy[da.from_array(keep, chunks=100)]
    else:
        dy = y
    with pytest.raises(error, match=says):
        model.fit(dX, dy)
    assert pickle.dumps(model.to_local()) == before


@pytest.mark.parametrize("split", ["rows", "partitions"])
def test_folds_divide_the_rows_and_choose(client, split):
    X, y, _ = data()
    dX, dy = on_dask(X, y)
    folds = moments(dX, dy, folds=5, split=split, client=client)
    assert [fold.n_samples_ for fold in folds] == [200] * 5
    model = DaskChitaRegressorCV(6, client=client, split=split, random_state=0)
    model.fit(dX, dy)
    local = ChitaRegressorCV(6, random_state=0).fit_moments(folds)
    np.testing.assert_array_equal(model.score_path_, local.score_path_)
    np.testing.assert_array_equal(model.coef_, local.coef_)
    assert {1, 4, 7} <= set(model.support_.tolist())
    if split == "partitions":
        by_hand = [
            Moments().update(X[rows], y[rows])
            for rows in (
                np.r_[100 * t : 100 * t + 100, 500 + 100 * t : 600 + 100 * t]
                for t in range(5)
            )
        ]
        expected = ChitaRegressorCV(6, random_state=0).fit_moments(by_hand)
        np.testing.assert_allclose(model.score_path_, expected.score_path_, rtol=1e-9)


def test_estimators_are_copied_and_pickled_with_their_client_as_it_should_be(
    client, fitted
):
    X, *_ = data()
    (dX,) = on_dask(X)
    model, _ = fitted
    assert clone(model).client is client
    again = pickle.loads(pickle.dumps(model))
    assert again.client is None
    np.testing.assert_array_equal(again.predict(dX).compute(), model.predict(X))


def test_the_local_estimators_say_what_to_use(client):
    X, y, _ = data()
    dX, dy = on_dask(X, y)
    for call in (
        lambda: ChitaRegressor(3).fit(dX, dy),
        lambda: ChitaRegressorCV(3).fit(X, dy),
        lambda: chita_path(dX, dy, 3),
        lambda: Moments().update(dX, dy),
    ):
        with pytest.raises(TypeError, match=r"Use chita_dask\.DaskChitaRegressor"):
            call()


def test_a_grid_of_parameters_over_workers_by_joblib(client):
    from joblib import parallel_backend

    X, y, _ = data(n=300)
    grid = {"k": [2, 3, 4], "ridge": [1e-3, 1e-1]}
    search = GridSearchCV(ChitaRegressor(random_state=0), grid, cv=3)
    alone = clone(search).fit(X, y)
    with client.as_current(), parallel_backend("dask", wait_for_workers_timeout=60):
        search.fit(X, y)
    assert search.best_params_ == alone.best_params_
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


def frames(*arrays, parts=10):
    dd = pytest.importorskip("dask.dataframe", exc_type=ImportError)
    import pandas as pd

    X, *rest = arrays
    names = [f"x{j}" for j in range(X.shape[1])]
    table = pd.DataFrame(X, columns=names)
    return [dd.from_pandas(table, npartitions=parts)] + [
        dd.from_pandas(pd.Series(a), npartitions=parts) for a in rest
    ]


def test_data_frames_are_fitted_and_predicted_as_series(client):
    X, y, weights = data()
    table, target, w = frames(X, y, weights)
    model = DaskChitaRegressor(3, client=client, random_state=0).fit(table, target, w)
    local = ChitaRegressor(3, random_state=0).fit(X, y, weights)
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=1e-11, atol=1e-14)
    assert model.feature_names_in_.tolist() == list(table.columns)
    before = model.coef_.copy()
    predicted = model.predict(table[list(table.columns)[::-1]])  # put in order
    assert type(predicted).__name__ == "Series"
    np.testing.assert_allclose(predicted.compute(), local.predict(X), rtol=1e-10)
    categories = table.x3.astype("int64").astype("category")
    for column, kind in ((categories, "category"), (table.x3.astype(str), "str|obj")):
        with pytest.raises(TypeError, match=rf"X has columns .* x3 \(({kind})"):
            model.fit(table.assign(x3=column), target)
    np.testing.assert_array_equal(model.coef_, before)


def test_columns_in_another_order_are_reordered_and_others_refused():
    from chita_dask.collect import _moments_of

    pd = pytest.importorskip("pandas")
    X, y, _ = data(n=50)
    names = [f"x{j}" for j in range(X.shape[1])]
    table = pd.DataFrame(X, columns=names)
    (expected,) = _moments_of(0, names, None, "rows", table, y)
    (found,) = _moments_of(0, names, None, "rows", table[names[::-1]], y)
    np.testing.assert_array_equal(found._R, expected._R)
    with pytest.raises(ValueError, match=r"partition 7: .*\['x0'\] are missing"):
        _moments_of(7, names, None, "rows", table.rename(columns={"x0": "z"}), y)


@pytest.mark.parametrize("kind", ["int64", "int8", "uint16", "bool"])
def test_integers_and_booleans_are_numbers(client, kind):
    X, y, _ = data()
    X = (X > 3.0) if kind == "bool" else np.round(10 * X).clip(0, 100).astype(kind)
    dX, dy = on_dask(X, y)
    model = DaskChitaRegressor(3, client=client, random_state=0).fit(dX, dy)
    local = ChitaRegressor(3, random_state=0).fit(X.astype(float), y)
    assert model.coef_.dtype == np.float64
    np.testing.assert_allclose(model.coef_, local.coef_, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(model.predict(dX).compute(), local.predict(X))


def test_a_worker_that_is_killed_costs_its_tasks_alone(client):
    X, y, _ = data(n=2000)
    dX, dy = on_dask(X, y, rows=50)
    expected = moments(dX, dy, client=client)

    def slowly(block):  # within the test, so that it travels to the workers
        time.sleep(0.1)
        return block

    slow = dX.map_blocks(slowly, dtype=float)
    pids = client.run(os.getpid)
    done = {}
    thread = threading.Thread(
        target=lambda: done.update(found=moments(slow, dy, client=client))
    )
    thread.start()
    time.sleep(1.0)  # tasks of .1 s: two seconds' work for two
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the latter only
    os.kill(next(iter(pids.values())), kill)
    thread.join(timeout=60)
    np.testing.assert_array_equal(done["found"]._R, expected._R)
    assert done["found"].n_samples_ == 2000


def test_a_task_that_kills_its_workers_ends_in_the_error_of_dask(client, fitted):
    X, y, _ = data()
    dX, dy = on_dask(X, y)
    model, before = fitted

    def allow(failures, dask_scheduler=None):
        found, dask_scheduler.allowed_failures = (
            dask_scheduler.allowed_failures,
            failures,
        )
        return found

    def deadly(block):
        os._exit(1)

    default = client.run_on_scheduler(allow, 0)  # dask's own is 3: minutes
    try:
        with pytest.raises(KilledWorker):
            model.fit(dX.map_blocks(deadly, dtype=float, meta=np.empty((0, 0))), dy)
    finally:
        client.run_on_scheduler(allow, default)
    client.wait_for_workers(2, timeout=60)
    assert pickle.dumps(model.to_local()) == before
