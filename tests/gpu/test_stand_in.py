"""The claims about CuPy, on a stand-in for it where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chita_sklearn._compat import HAS_ARRAY_API

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_in"


def run(*command):
    path = os.pathsep.join([str(STAND_IN), *sys.path])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )


@pytest.fixture(scope="module", autouse=True)
def no_cupy():
    try:
        import cupy
    except ImportError:
        return
    if cupy.cuda.is_available():
        pytest.skip("CuPy itself is tested here")


def test_what_is_claimed_of_cupy_holds_on_its_interface():
    # From scikit-learn 1.9 on its checks of estimators on CuPy are among them.
    options = ["-k", "cupy", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run("-m", "pytest", str(HERE.parent), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > (170 if HAS_ARRAY_API else 90), done.stdout


MOVED = """
import numpy as np, cupy
from chita_sklearn.core import Cardinality, LeastSquares, PerBlock, WithFloor, solve

rng = np.random.default_rng(0)
n, p = 20, 60_000
X, y, w_bar = (cupy.asarray(rng.standard_normal(s)) for s in ((n, p), n, p))
labels = np.arange(p) // 20_000
for pattern, solver in [
    (Cardinality(60), "dual"), (Cardinality(60), "iht"), (Cardinality(5), "swap"),
    (PerBlock(labels, [2, 2, 1]), "swap"), (WithFloor(6, labels, [1, 1, 1]), "swap"),
]:
    problem = LeastSquares(X, y, ridge=0.1, prior=w_bar)
    cupy.asked.clear()
    solve(problem, pattern, solver=solver, n_restarts=0)
    got = max((size for what, size in cupy.asked if what == "get"), default=0)
    put = {size: times for (what, size), times in cupy.asked.items() if what == "put"}
    of_size_p = put.pop(p, 0)
    print(type(pattern).__name__, solver, got, max(put, default=0), of_size_p)
"""


def test_nothing_of_size_p_is_moved_in_a_loop():
    done = run("-c", MOVED)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 5
    for pattern, solver, *sizes in lines:
        got, put, of_size_p = map(int, sizes)
        # Swaps search on the host: a few rows of the Gram matrix of k + 150 columns.
        few = 6 * 156 if solver == "swap" else 4
        assert got <= few, (pattern, solver, got)
        assert put <= few, (pattern, solver, put)
        # The blocks' labels, once.
        assert of_size_p == (pattern != "Cardinality"), (pattern, solver, of_size_p)
