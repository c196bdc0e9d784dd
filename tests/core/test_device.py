"""What leaves the device, how often, and how much memory a fit takes above X.

Arrays of torch and of array_api_strict's second device stand in for those of an
accelerator: here any conversion to NumPy that the core does not ask for by name
raises, and what it asks for is counted.
"""

import tracemalloc

import numpy as np
import pytest

from chita_sklearn.core import (
    Cardinality,
    LeastSquares,
    NOfM,
    PerBlock,
    WithFloor,
    linalg,
    solve,
)
from chita_sklearn.core import arrays as seam
from chita_sklearn.core.improvers.iht import _Step
from chita_sklearn.core.initial import metric
from chita_sklearn.core.limits import Limits

N, P = 20, 300


class Transfers:
    """The sizes of what went to the host, and from it."""

    def __init__(self):
        self.sizes = []


@pytest.fixture
def transfers(monkeypatch):
    """Count `to_host`; every other way from a torch tensor to NumPy raises."""
    torch = pytest.importorskip("torch")
    import sys

    counted, allowed = Transfers(), []
    real = seam.to_host

    def to_host(x):
        counted.sizes.append(int(np.prod(x.shape)))
        allowed.append(True)
        try:
            return real(x)
        finally:
            allowed.pop()

    for name, module in list(sys.modules.items()):
        if name.startswith("chita_sklearn.core") and hasattr(module, "to_host"):
            monkeypatch.setattr(module, "to_host", to_host)

    def guard(method):
        whole = getattr(torch.Tensor, method)

        def guarded(self, *args, **kwargs):
            if not allowed and self.ndim > 0:
                msg = f"{method} of a tensor of shape {tuple(self.shape)}"
                raise AssertionError(msg)
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, method, guarded)

    for method in ("__array__", "numpy", "tolist", "__iter__"):
        guard(method)
    return counted


def instance(oracle, prior=True, n=N, p=P):
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((n, p)), rng.standard_normal(p)
    y = X @ w + rng.standard_normal(n)
    return oracle.Case(X.astype("f4"), y.astype("f4"), 0.1, w if prior else None)


def tensors(case):
    import torch

    return case.problem(lambda x: torch.tensor(np.asarray(x, dtype=np.float32)))


PATTERNS = {
    "cardinality": Cardinality(40),
    "large": Cardinality(200),
    "n of m": NOfM(2, 4, P),
    "floor": WithFloor(60, np.arange(P) // 100, [5, 5, 5]),
}


def test_the_guard_guards(transfers):
    torch = pytest.importorskip("torch")
    x = torch.ones(3)
    with pytest.raises(AssertionError, match=r"of a tensor of shape \(3,\)"):
        np.asarray(x)
    assert seam.to_host(x).tolist() == [1, 1, 1]
    assert transfers.sizes == [3]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("solver", ["dual", "dense"])
def test_the_dual_plan_stays_on_the_device(oracle, transfers, solver, pattern):
    solve(tensors(instance(oracle)), PATTERNS[pattern], solver=solver)
    assert max(transfers.sizes, default=0) < P


@pytest.mark.parametrize("pattern", PATTERNS)
def test_hard_thresholding_moves_no_more_than_the_active_set(
    oracle, transfers, pattern
):
    # Blocks of labels are restricted to the active set on the host, by its indices.
    solve(tensors(instance(oracle)), PATTERNS[pattern], solver="iht")
    assert max(transfers.sizes, default=0) < P


def test_swaps_bring_only_working_sets_to_the_host(oracle, transfers):
    case = instance(oracle, n=20, p=3000)
    solve(tensors(case), Cardinality(5), solver="swap", n_restarts=0)
    room = 5 + 150
    assert transfers.sizes
    assert max(transfers.sizes) <= room**2


@pytest.mark.parametrize("solver", ["dual", "iht"])
def test_transfers_do_not_grow_with_p(oracle, transfers, solver):
    moved = []
    for p in (300, 1200):
        transfers.sizes.clear()
        case = instance(oracle, p=p)
        solve(tensors(case), Cardinality(20), solver=solver, max_iter=5)
        moved.append(max(transfers.sizes, default=0))
    assert moved[1] <= 2 * moved[0]


@pytest.mark.parametrize("solver", ["dual", "dense", "iht", "swap"])
def test_the_second_device_is_never_left_by_accident(oracle, solver):
    # array_api_strict refuses to mix devices and to convert what is not on the CPU.
    strict = pytest.importorskip("array_api_strict")
    case = instance(oracle, n=12, p=60)
    device = strict.Device("device1")
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        np.asarray(strict.asarray([1.0], device=device)) + 0
    problem = case.problem(
        lambda x: strict.asarray(np.asarray(x, dtype=np.float32), device=device)
    )
    found = solve(problem, Cardinality(6), solver=solver, n_restarts=2)
    assert found.coef.device == device
    assert found.support.device == device
    assert found.coef.dtype == strict.float32


@pytest.fixture
def asked(monkeypatch, transfers):
    """Count what Python asks of torch tensors, which pass for those of a device."""
    torch = pytest.importorskip("torch")
    counted = []

    def count(owner, name):
        whole = getattr(owner, name)

        def counting(*args, **options):
            counted.append(name)
            return whole(*args, **options)

        monkeypatch.setattr(owner, name, counting)

    for module in (seam, linalg):
        monkeypatch.setattr(module, "on_host", lambda x: False)
    for method in ("__float__", "__bool__", "__int__", "__index__", "item"):
        count(torch.Tensor, method)
    count(seam, "to_host")  # of `numbers`: several at once
    count(torch, "nonzero")  # its length is a number too
    return counted


def more(asked, oracle, steps, **options):
    """How much more (numbers, lists of indices) so many further steps ask for."""
    counts = []
    for max_iter in (10, 10 + steps):
        asked.clear()
        found = solve(tensors(instance(oracle)), max_iter=max_iter, **options)
        assert found.n_iter == max_iter
        counts.append(len(asked) + 1j * asked.count("nonzero"))
    change = counts[1] - counts[0]
    return change.real - change.imag, change.imag


@pytest.mark.parametrize("pattern", ["cardinality", "floor"])
def test_a_step_of_dual_ascent_asks_for_one_number(oracle, asked, pattern):
    # With tol = 0 the bound is taken for rising to the end.
    options = {"pattern": PATTERNS[pattern], "solver": "dual", "tol": 0}
    numbers, lists = more(asked, oracle, 10, **options)
    assert numbers < 2 * 10  # a refinement more or less at the end
    assert lists < 3 * 10  # what joined and what left the support


def test_where_the_bound_has_settled_a_step_asks_for_two(oracle, asked, monkeypatch):
    monkeypatch.setattr("chita_sklearn.core.improvers.dual.COSTLY", 0)
    monkeypatch.setattr("chita_sklearn.core.improvers.dual.STALL", -1)  # do not give up
    options = {"pattern": Cardinality(40), "solver": "dual", "tol": 1e-12}
    numbers, lists = more(asked, oracle, 10, **options)
    assert numbers < 3 * 10
    assert lists < 5 * 10


def test_a_step_of_hard_thresholding_waits_once_where_the_support_stays(oracle, asked):
    problem = tensors(instance(oracle))
    found = solve(problem, Cardinality(20), solver="iht")
    w = found.coef.double() * 1.001
    step = _Step(problem, Cardinality(20), metric(problem))
    objective = problem.objective(w)
    asked.clear()
    _, mask, reached = step(w, found.support, objective)
    assert reached < objective
    assert mask is found.support
    assert asked == ["to_host"]


def test_labels_are_copied_to_the_device_once(oracle, monkeypatch):
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).permutation(P) % 100
    pattern = PerBlock(labels, np.ones(100))
    score = torch.rand(P)
    first = pattern.best_mask(score)
    monkeypatch.setattr(torch, "asarray", None)
    assert torch.equal(pattern.best_mask(score), first)


def above(solver, dtype, shape, k, ridge=1e-2, order="C", prior=False, **options):
    """Peak memory of a solve over the size of X."""
    rng = np.random.default_rng(0)
    X = np.asarray(rng.standard_normal(shape), dtype=dtype, order=order)
    y = X[:, :10].sum(axis=1) + rng.standard_normal(shape[0]).astype(dtype)
    w_bar = rng.standard_normal(shape[1]) if prior else None
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        problem = LeastSquares(
            X, y, ridge=ridge, prior=w_bar, fit_intercept=not prior, **options
        )
        solve(problem, Cardinality(k), solver=solver)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return peak / X.nbytes


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_fit_allocates_less_than_a_quarter_of_x(order):
    assert above("auto", np.float64, (300, 20_000), 20, order=order) < 0.25


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_of_a_tall_x_allocates_less_than_a_quarter_of_it(order, weighted):
    n = 100_000
    weights = np.linspace(0.5, 2.0, n) if weighted else None
    options = {"order": order, "sample_weight": weights}
    assert above("auto", np.float32, (n, 100), 20, **options) < 0.25


@pytest.mark.parametrize("solver", ["dual", "iht"])
def test_a_pruning_fit_allocates_less_than_a_quarter_of_x(solver):
    assert above(solver, np.float64, (300, 20_000), 500) < 0.25


@pytest.mark.parametrize("solver", ["dual", "iht", "dense"])
def test_a_large_pruning_fit_allocates_less_than_a_quarter_of_x(solver):
    # A Gram matrix takes 8 % of X in float64: no room for four.
    shape, ridge = (1000, 25_000), 10.0
    assert above(solver, np.float32, shape, 2000, ridge, prior=True) < 0.25


@pytest.mark.parametrize("solver", ["auto", "dual", "iht", "dense"])
def test_a_tenth_of_a_square_x_takes_less_than_a_quarter_of_it(solver):
    # (The 8 MB that are allowed beside any X would be much beside this one.)
    none = Limits(gram_order_least=0)
    assert above(solver, np.float64, (3000, 3000), 300, 1.0, limits=none) < 0.25


@pytest.mark.parametrize("solver", ["auto", "dense"])
def test_many_of_few_columns_take_less_than_a_quarter_of_x(solver):
    # Forward selection to 2 k, its refit, the tableaux of swaps: all of 400 features.
    assert above(solver, np.float32, (4000, 4000), 400) < 0.25
