"""The threads of BLAS and OpenMP after a search are those of before it."""

import gc
import linecache
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from chita_sklearn import ChitaRegressor
from chita_sklearn.core import Cardinality, linalg, solve
from chita_sklearn.core.linalg import one_thread

POOLS = ThreadpoolController()
BLAS = POOLS.select(user_api="blas")


def threads():
    return [library.num_threads for library in POOLS.lib_controllers]


@pytest.fixture(autouse=True)
def two_threads():
    if "torch" in sys.modules:  # sets its number when first asked for it
        sys.modules["torch"].get_num_threads()
    with POOLS.limit(limits=2):
        if set(threads()) != {2}:
            pytest.skip("some library has no limit to set here")
        yield


def test_within_there_is_one_and_afterwards_what_was_before():
    with one_thread():
        assert set(threads()) == {1}
        with one_thread():
            assert set(threads()) == {1}
        assert set(threads()) == {1}
    assert set(threads()) == {2}


def test_fits_that_overlap_leave_the_limit_of_before():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 40)), rng.standard_normal(60)
    together = threading.Barrier(8)

    def fit():
        together.wait()
        for seed in range(5):
            ChitaRegressor(5, random_state=seed).fit(X, y)

    workers = [threading.Thread(target=fit) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(threads()) == {2}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_raised_within_ends_the_limit(error):
    with pytest.raises(error), one_thread():
        raise error
    assert set(threads()) == {2}


def test_an_interrupt_on_the_way_in_or_out_ends_the_limit():
    """At the first line of `__exit__`, and after the first library was limited."""

    def interrupted_going_out():
        limit = one_thread()
        limit.__enter__()
        raise KeyboardInterrupt  # before `__exit__` could do anything

    with pytest.raises(KeyboardInterrupt):
        interrupted_going_out()
    gc.collect()
    assert set(threads()) == {2}

    library = type(POOLS.lib_controllers[0])
    with pytest.MonkeyPatch.context() as patch:
        set_num_threads, once = library.set_num_threads, iter([True])

        def interrupted(self, number):
            set_num_threads(self, number)
            if number == 1 and next(once, False):
                raise KeyboardInterrupt

        patch.setattr(library, "set_num_threads", interrupted)
        with pytest.raises(KeyboardInterrupt), one_thread():
            pass  # pragma: no cover
    gc.collect()
    assert set(threads()) == {2}


def interrupted_at(step):
    """Enter and leave with a KeyboardInterrupt at a line of it; whether it came."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != linalg.__file__:
            return None
        # Where a `with` is left, the line is that of the `with` again: a debugger can
        # raise there, and would leave its lock held, but no signal is ever heard.
        source = linecache.getline(linalg.__file__, frame.f_lineno)
        if event != "return" and not source.lstrip().startswith("with "):
            count += 1
            if count == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with one_thread():
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


# One that comes while what is deleted leaves cannot be raised from there.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_at_any_line_of_it_leaves_the_limits_as_they_were():
    with one_thread():  # libraries are looked for once
        pass
    steps = 0
    while interrupted_at(steps + 1):
        steps += 1
        gc.collect()
        assert set(threads()) == {2}, steps
        assert not linalg._LIMIT._lock._is_owned(), steps
    assert steps > 20
    with one_thread():
        assert set(threads()) == {1}
    assert set(threads()) == {2}


@pytest.mark.parametrize("solver", ["auto", "swap", "admm", "dual", "iht", "dense"])
def test_a_small_fit_has_one_thread_from_its_first_product_on(solver, monkeypatch):
    from chita_sklearn.core.problem.least_squares import LeastSquares

    seen = set()
    original = LeastSquares.qr_compressed

    def watched(self, passes):
        seen.update(threads())
        return original(self, passes)

    monkeypatch.setattr(LeastSquares, "qr_compressed", watched)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 40)), rng.standard_normal(60)
    problem = LeastSquares(X, y, ridge=0.1)
    solve(problem, Cardinality(5), solver=solver)
    assert seen == {1}
    assert set(threads()) == {2}


LATE = """
import numpy as np
from chita_sklearn import ChitaRegressor
from chita_sklearn.core.linalg import one_thread

ChitaRegressor(1).fit(np.eye(3), np.arange(3.0))
import torch

torch.set_num_threads(2)
with one_thread():
    within = torch.get_num_threads()
print(within, torch.get_num_threads())
"""


def test_torch_has_one_thread_too_where_it_is_imported_after_the_first_fit():
    pytest.importorskip("torch")
    ran = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["1", "2"]
