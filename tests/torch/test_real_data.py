"""The published pruning benchmark, where its data is at hand."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from chita_torch import prune  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mlpnet():
    """Return the benchmark module and the folder of its data."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import mlpnet as benchmark
        from benchmarks.pruning_data import data_folder
    finally:
        sys.path.remove(str(ROOT))
    folder = data_folder("mlpnet", None)
    if folder is None:
        pytest.skip("the optional MLPNet data is not there (benchmarks/README.md)")
    return benchmark, folder


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "least"), [(0.9, 92.9), (0.98, 50.0)])
def test_one_stage_is_near_the_best_published(mlpnet, sparsity, least):
    benchmark, folder = mlpnet
    model, train, test = benchmark.load(folder)
    assert benchmark.accuracy(model, test) == pytest.approx(93.97, abs=0.005)
    report = prune(
        model,
        benchmark.batches_of(train, 0),
        benchmark.loss_fn,
        objective="gradients",
        sparsity=sparsity,
        progress=False,
        random_state=0,
    )
    assert report.n_kept == round((1 - sparsity) * 32360)
    assert report.stages[0].gap < 0.02
    assert benchmark.accuracy(model, test) > least


@pytest.mark.slow
def test_stages_train_while_they_prune(mlpnet):
    benchmark, folder = mlpnet
    model, train, test = benchmark.load(folder)
    report = prune(
        model,
        benchmark.batches_of(train, 0),
        benchmark.loss_fn,
        sparsity=0.8,
        stages=5,
        progress=False,
        random_state=0,
    )
    assert report.loss_after < report.loss_before
    assert benchmark.accuracy(model, test) > 95
