"""Set the test session up: array API dispatch, threads, what can be collected."""

import os

# SciPy reads this once, when it is first imported. Without it scikit-learn skips
# every array API check, silently.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# Parallel workers (pytest -n) share the cores instead of each taking them all.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    _threads = str(max(1, (os.cpu_count() or 1) // _workers))
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, _threads)

# Figures are drawn to files, with or without a screen.
os.environ.setdefault("MPLBACKEND", "Agg")

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import pytest

# An adapter's modules import its library; without it they are not collected.
collect_ignore = [
    f"adapters/chita_{name}" for name in ("torch", "dask") if not find_spec(name)
]


@cache
def _finds_a_cuda_device(library: str) -> bool:
    if not find_spec(library):
        return False
    return bool(import_module(library).cuda.is_available())


@cache
def _has_array_api() -> bool:
    from chita_sklearn._compat import HAS_ARRAY_API

    return HAS_ARRAY_API


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of what this machine, or this release of scikit-learn, has not."""
    if item.get_closest_marker("array_api") and not _has_array_api():
        pytest.skip("scikit-learn dispatches all that is tested here from 1.9 on")
    # scikit-learn's checks carry no mark, and run wherever torch is built for CUDA, as
    # PyPI's wheels for Linux are, with or without a device.
    on_cuda = "torch" in item.name and "cuda" in item.name
    if not (on_cuda or item.get_closest_marker("gpu")):
        return
    callspec = getattr(item, "callspec", None)
    library = callspec.params.get("library") if callspec else None
    if library is None and (on_cuda or item.path.parent.name == "torch"):
        library = "torch"
    libraries = [library] if library else ["torch", "cupy"]
    if not any(map(_finds_a_cuda_device, libraries)):
        pytest.skip("no CUDA device found")
