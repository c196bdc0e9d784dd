"""The lines of the guide for Spark and Ray, where these are installed."""

import functools
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from chita_sklearn import ChitaRegressor, Moments

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "scaleout.rst"

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not PAGE.exists(), reason="docs are not here"),
    # Of what the engines import and leave open.
    pytest.mark.filterwarnings("ignore"),
]


def lines_for(engine):
    """The block of the page that begins with the engine's name."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", text)
    (block,) = [b for b in found if b.lstrip().startswith(f"# {engine}:")]
    return re.sub(r"^   ", "", block, flags=re.MULTILINE)


def pieces():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((700, 8)) + 2.0
    y = X[:, 1] - 2 * X[:, 6] + 0.1 * rng.standard_normal(700)
    return list(zip(np.split(X, 7), np.split(y, 7), strict=True))


def check(seen):
    expected = functools.reduce(Moments.merge, [Moments().update(*b) for b in pieces()])
    assert seen.n_samples_ == 700
    model = ChitaRegressor(2, random_state=0).fit_moments(seen)
    known = ChitaRegressor(2, random_state=0).fit_moments(expected)
    np.testing.assert_allclose(model.coef_, known.coef_, rtol=1e-12)


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_aggregates_moments(monkeypatch):
    pyspark = pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # not the first on the path
    context = pyspark.SparkContext("local[2]")
    try:
        names = {"Moments": Moments, "blocks": context.parallelize(pieces(), 4)}
        exec(lines_for("pyspark"), names)
    finally:
        context.stop()
    check(names["seen"])


def test_ray_merges_moments():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        blocks = [ray.put(block) for block in pieces()]
        # (A block is a pair: Ray hands it on as one argument.)
        names = {"Moments": Moments, "ray": ray, "blocks": blocks}
        exec(lines_for("ray"), names)
    finally:
        ray.shutdown()
    check(names["seen"])


def test_the_lines_are_there():
    assert "treeAggregate" in lines_for("pyspark")
    assert "ray.remote" in lines_for("ray")
