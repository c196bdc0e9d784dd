"""The same on every device: `pytest -m gpu` on CuPy and torch-CUDA.

Where there is no GPU, the same claims are tested on torch in host memory, on
array_api_strict, whose second device refuses to be mixed with, or read as, the first,
and on a stand-in for CuPy (`test_stand_in`).
"""

import copy
import pickle
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import config_context

from chita_sklearn import ChitaRegressor
from chita_sklearn.core import (
    BlockLeastSquares,
    Cardinality,
    LeastSquares,
    NOfM,
    PerBlock,
    WithFloor,
    solve,
)
from chita_sklearn.core import arrays as seam

N, P, K = 30, 240, 24
RTOL = {"float64": 1e-6, "float32": 1e-4}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def dispatch():
    with config_context(array_api_dispatch=True):
        yield


@pytest.fixture
def no_implicit_conversion(monkeypatch):
    """Let arrays of torch and array_api_strict refuse NumPy, as CuPy's do by nature.

    `seam.to_host`, the one explicit way, works, and its sizes are recorded.
    """
    moved, allowed = [], []
    real = seam.to_host

    def to_host(x):
        moved.append(tuple(x.shape))
        allowed.append(True)
        try:
            return real(x)
        finally:
            allowed.pop()

    for name, module in list(sys.modules.items()):
        if name.startswith("chita_sklearn") and hasattr(module, "to_host"):
            monkeypatch.setattr(module, "to_host", to_host)
    guarded = []
    if "torch" in sys.modules:
        guarded.append((sys.modules["torch"].Tensor, ("__array__", "numpy", "tolist")))
    if "array_api_strict" in sys.modules:
        array = type(sys.modules["array_api_strict"].asarray(0))
        guarded.append((array, ("__array__", "__buffer__")))
    for kind, methods in guarded:
        for method in (m for m in methods if hasattr(kind, m)):
            whole = getattr(kind, method)

            def refuse(self, *args, _whole=whole, **options):
                if not allowed:
                    msg = "Implicit conversion to a NumPy array is not allowed."
                    raise TypeError(msg)
                return _whole(self, *args, **options)

            monkeypatch.setattr(kind, method, refuse)
    return moved


def data(dtype, n=N, p=P):
    """Columns of unlike scales, a dense w_bar, a response with some signal."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1))
    X *= 10.0 ** rng.uniform(-1, 1, p)
    w_bar = rng.standard_normal(p)
    y = X @ (w_bar * (rng.random(p) < 0.1)) + rng.standard_normal(n)
    return [a.astype(dtype) for a in (X, y, w_bar)]


def problem(place, dtype, *, prior=True, p=P, **options):
    X, y, w_bar = data(dtype, p=p)
    to = place or (lambda x: x)
    w_bar = to(w_bar) if prior else None
    return LeastSquares(to(X), to(y), ridge=0.1, prior=w_bar, **options)


PATTERNS = {
    "cardinality": Cardinality(K),
    "per block": PerBlock(np.arange(P) // 80, [8, 6, 10]),
    "n of m": NOfM(1, 8, P),
    "floor": WithFloor(K, np.arange(P) // 80, [3, 3, 3]),
}


@pytest.mark.parametrize(
    ("solver", "pattern"),
    [
        ("dual", "cardinality"),
        ("dual", "per block"),
        ("dual", "floor"),
        ("dense", "n of m"),
        ("iht", "cardinality"),
        ("swap", "cardinality"),
        ("swap", "per block"),
    ],
)
def test_objective_is_that_of_numpy(place, dtype, solver, pattern):
    options = {"solver": solver, "n_restarts": 0}
    expected = solve(problem(None, dtype), PATTERNS[pattern], **options)
    found = solve(problem(place, dtype), PATTERNS[pattern], **options)
    rtol = RTOL[dtype]
    assert found.objective == pytest.approx(expected.objective, rel=rtol)
    # A bound is worth what it proves, whatever the path of the ascent.
    assert found.lower_bound <= expected.objective * (1 + rtol)
    # And the objective is that of the coefficients, by NumPy's arithmetic.
    w = place.back(found.coef)
    assert np.count_nonzero(w) <= PATTERNS[pattern].size
    assert problem(None, dtype).objective(w) == pytest.approx(found.objective, rel=rtol)


def test_results_stay_where_the_data_are(place, dtype):
    found = solve(problem(place, dtype), Cardinality(K), solver="dual")
    for array in (found.coef, found.support, *(found.fixed or ())):
        assert place.holds(array)
    assert str(found.coef.dtype).endswith(dtype)
    for number in (found.objective, found.lower_bound, found.gap):
        assert type(number) is float


@pytest.mark.parametrize("solver", ["dual", "dense", "iht", "swap"])
def test_nothing_is_converted_unasked(place, no_implicit_conversion, solver):
    p = 9000  # more than a working set may have
    there = problem(place, "float64", p=p)
    if place.library in ("torch", "strict") and place.device != "cuda":
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(there.b)
    solve(there, Cardinality(5), solver=solver, n_restarts=2)
    assert not [shape for shape in no_implicit_conversion if p in shape]


def test_blocks_agree_with_numpy(place, dtype):
    objectives = []
    for to in (None, place):
        X, y, w_bar = data(dtype)
        there = to or (lambda x: x)
        blocks = [
            LeastSquares(there(X[:, c]), there(y), ridge=0.1, prior=there(w_bar[c]))
            for c in (slice(0, 100), slice(100, P))
        ]
        found = solve(BlockLeastSquares(blocks), Cardinality(K), solver="dual")
        assert to is None or place.holds(found.coef)
        objectives.append(found.objective)
    assert objectives[1] == pytest.approx(objectives[0], rel=RTOL[dtype])


def test_weights_and_intercept_agree_with_numpy(place, dtype):
    s = np.linspace(0.5, 2, N).astype(dtype)
    objectives = [
        solve(
            problem(to, dtype, sample_weight=(to or np.asarray)(s), fit_intercept=True),
            Cardinality(K),
            solver="dual",
        ).objective
        for to in (None, place)
    ]
    assert objectives[1] == pytest.approx(objectives[0], rel=RTOL[dtype])


@pytest.mark.parametrize("solver", ["swap", "dual"])
def test_a_tall_problem_is_reduced_as_on_numpy(place, dtype, solver):
    X, y, _ = data(dtype, n=2000, p=12)
    found = [
        solve(LeastSquares(to(X), to(y), ridge=0.1), Cardinality(3), solver=solver)
        for to in (np.asarray, place)
    ]
    assert all("reduced" in solution.history[0] for solution in found)
    assert found[1].objective == pytest.approx(found[0].objective, rel=RTOL[dtype])


@pytest.mark.array_api
def test_estimator_agrees_with_numpy(dispatch, place, dtype):
    X, y, _ = data(dtype)
    here = ChitaRegressor(5, random_state=0).fit(X, y)
    there = ChitaRegressor(5, random_state=0).fit(place(X), place(y))
    for name in ("coef_", "support_"):
        assert place.holds(getattr(there, name))
    assert place.holds(there.predict(place(X)))
    rtol = RTOL[dtype]
    assert there.objective_ == pytest.approx(here.objective_, rel=rtol)
    assert_allclose(place.back(there.support_), here.support_)


@pytest.mark.array_api
def test_to_numpy_gives_a_copy_that_needs_no_device(dispatch, place, dtype):
    X, y, _ = data(dtype)
    there = ChitaRegressor(5, random_state=0).fit(place(X), place(y))
    host = there.to_numpy()
    text = pickle.dumps(host)
    for library in (b"cupy", b"torch", b"array_api_strict"):
        assert library not in text
    with config_context(array_api_dispatch=False):
        predicted = pickle.loads(text).predict(X)
    assert type(predicted) is np.ndarray
    expected = place.back(there.predict(place(X)))
    rtol = RTOL[dtype]
    assert_allclose(predicted, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.array_api
def test_a_pickle_comes_back_on_the_device(dispatch, place):
    if place.library == "strict":
        pytest.skip("array_api_strict does not say what a pickle keeps of the device")
    X, y, _ = data("float64")
    there = ChitaRegressor(5, random_state=0).fit(place(X), place(y))
    again = pickle.loads(pickle.dumps(there))
    assert place.holds(again.coef_)
    assert_allclose(place.back(again.coef_), place.back(there.coef_))


@pytest.mark.gpu
def test_torch_reaches_cupy_without_a_copy(place_of):
    place_of("cupy").skip_unless_here()
    place_of("torch", "cuda").skip_unless_here()
    import cupy
    import torch

    X, y, w_bar = (torch.asarray(a, device="cuda") for a in data("float32"))
    there = [cupy.from_dlpack(a) for a in (X, y, w_bar)]
    assert there[0].data.ptr == X.data_ptr()
    found = solve(
        LeastSquares(there[0], there[1], ridge=0.1, prior=there[2]),
        Cardinality(K),
        solver="dual",
    )
    expected = solve(problem(None, "float32"), Cardinality(K), solver="dual")
    assert type(found.coef) is cupy.ndarray
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("objective", "held"),
    [("gradients", None), ("reconstruction", None), ("reconstruction", "cpu")],
)
def test_a_network_is_pruned_where_it_is(
    device, objective, held, place_of, monkeypatch
):
    place_of("torch", device).skip_unless_here()
    import torch
    from torch import nn

    from chita_torch import prune

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    x = torch.randn(240, 12)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    batches = list(zip(x.split(24), y.split(24), strict=True))

    def loss_fn(model, batch):
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    options = {
        "objective": objective,
        "sparsity": 0.5,
        "ridge": 1e-2,
        "first_order": False if objective == "gradients" else "auto",
        "n_gradients": 20,
        "samples_per_gradient": 4,
        "random_state": 0,
        "progress": False,
    }
    reference, there = copy.deepcopy(model), copy.deepcopy(model).to(device)
    prune(reference, batches, loss_fn, **options)
    if held is not None:  # the moments do not fit on the device
        place = torch.device(held)
        module = sys.modules["chita_torch.prune"]
        monkeypatch.setattr(module, "check_memory", lambda *args: (0, place))
    report = prune(there, batches, loss_fn, **options)
    layers = [q for q in there.parameters() if q.ndim == 2]
    assert report.n_kept == sum(int((q != 0).sum()) for q in layers)
    for ours, theirs in zip(there.parameters(), reference.parameters(), strict=True):
        assert ours.device.type == device
        assert_allclose(
            ours.detach().cpu().numpy(), theirs.detach().numpy(), rtol=1e-3, atol=1e-5
        )


def test_cupy_without_dispatch_says_what_to_enable():
    class OnDevice:
        shape, ndim, dtype = (N, P), 2, np.dtype("float64")

        def __len__(self):
            return N

        def __dlpack__(self, **options):
            raise BufferError

        def __dlpack_device__(self):
            return (2, 0)

        def __array__(self, *args, **options):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    with pytest.raises(TypeError, match=r"array_api_dispatch=True"):
        ChitaRegressor(5).fit(OnDevice(), np.zeros(N))
