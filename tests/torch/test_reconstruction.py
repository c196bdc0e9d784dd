"""`prune(objective="reconstruction")` and "auto": layers solved for their outputs."""

import copy
import itertools
import sys
import threading

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import prune, refit  # noqa: E402
from chita_torch.layout import Layout, select  # noqa: E402
from chita_torch.lockstep import Lockstep  # noqa: E402
from chita_torch.reconstruction import PASSES  # noqa: E402
from chita_torch.state import mean_loss, recalibrate_batchnorm  # noqa: E402
from chita_torch.statistics import (  # noqa: E402
    WEIGHT_BYTES,
    WORKSPACE,
    check_memory,
    collect,
)

QUICK = {
    "objective": "reconstruction",
    "samples_per_gradient": 4,
    "n_gradients": 20,
    "progress": False,
    "random_state": 0,
}


def state_of(model):
    return copy.deepcopy(dict(model.state_dict()))


def mean_square(net, x):
    return net(x).square().sum(dim=1).mean()


def assert_same(one, other, but=()):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if name not in but:
            assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("objective", ["reconstruction", "auto"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_sparsity_is_exact_and_the_rest_untouched(case, sparsity, objective):
    model, batches, loss_fn = case
    before = state_of(model)
    options = {**QUICK, "objective": objective, "recalibrate_batchnorm": False}
    report = prune(model, batches, loss_fn, sparsity=sparsity, **options)
    p = len(Layout.of(model))
    kept = int((Layout.of(model).gather() != 0).sum())
    assert kept == report.n_kept == round((1 - sparsity) * p)
    assert_same(state_of(model), before, but=select(model))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None, name


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "layer", "sparsity": 0.6},
        {"scope": {"*": 0.6}},
        {"sparsity": 0.8, "min_density": 0.15},
        {"pattern": "2:4"},
    ],
)
def test_every_kind_of_budget_is_met(case, options):
    model, batches, loss_fn = case
    report = prune(model, batches, loss_fn, **options, **QUICK)
    if "pattern" in options:
        layout = Layout.of(model)
        labels, lengths = layout.group_labels(4)
        kept = torch.bincount(labels[layout.gather() != 0], minlength=len(lengths))
        assert torch.equal(kept, lengths.clamp(max=2))
        return
    for layer in report.layers:
        if "min_density" in options:
            assert layer.n_kept >= int(0.15 * layer.n_weights)
        else:
            assert layer.n_kept == round(0.4 * layer.n_weights)


def test_without_regrowth_pruned_weights_stay_pruned(mlp):
    model, batches, loss_fn = mlp
    prune(model, batches, loss_fn, sparsity=0.5, **QUICK)
    before = Layout.of(model).gather() != 0
    options = {**QUICK, "random_state": 1, "regrow": False}
    prune(model, batches, loss_fn, sparsity=0.8, **options)
    after = Layout.of(model).gather() != 0
    assert not (after & ~before).any()
    assert int(after.sum()) == round(0.2 * len(after))


def test_a_layer_is_solved_to_the_optimum_of_all_supports():
    torch.manual_seed(0)
    model = nn.Linear(6, 3, bias=False)
    x = torch.randn(200, 6) @ torch.randn(6, 6)
    t = torch.randn(200, 3)

    def loss_fn(net, batch):
        return ((net(batch[0]) - batch[1]) ** 2).sum(dim=1).mean()

    W0 = model.weight.detach().double().clone()
    g = (2 * (model(x) - t)).double().square().mean(dim=0).detach()
    report = prune(
        model,
        [(x, t)],
        loss_fn,
        density=4 / 18,
        ridge=1e-3,
        calibration=0.0,
        **{**QUICK, "samples_per_gradient": 1},
    )
    assert report.n_kept == 4
    X = x.double()
    H = X.T @ X / 200
    mu = 1e-3 * float(H.diagonal().mean())
    Hmu = H + mu * torch.eye(6).double()

    def cost(W):
        E = W - W0
        return 0.5 * float((g[:, None] * (E @ Hmu) * E).sum())

    best = float("inf")
    for chosen in itertools.combinations(range(18), 4):
        W = torch.zeros(3, 6).double()
        for i in range(3):
            S = [j % 6 for j in chosen if j // 6 == i]
            if S:
                W[i, S] = torch.linalg.solve(Hmu[S][:, S], (W0[i] @ Hmu)[S])
        best = min(best, cost(W))
    assert cost(model.weight.detach().double()) == pytest.approx(best, rel=1e-4)


def test_layers_see_what_the_pruned_network_gives_them(mlp):
    model, batches, loss_fn = mlp
    model.eval()
    layout = Layout.of(model)
    dense = {n: t.clone() for n, t in layout.parameters.items()}
    pruned = {n: t.clone() for n, t in dense.items()}
    order = []
    parts = collect(model, loss_fn, batches, layout, 240)
    with Lockstep(model, loss_fn, batches, layout, dense, pruned, parts) as passes:
        for part, calls in passes:
            order.append(part.name)
            with torch.no_grad():
                reference = copy.deepcopy(model)
                for name, weight in pruned.items():
                    reference.get_parameter(name).copy_(weight)
                below = int(part.name[0])
                for number, one, other in calls:
                    x = batches[number][0]
                    assert torch.equal(one.x, reference[:below](x))
                    assert torch.equal(other.x, model[:below](x))
            pruned[part.name] = dense[part.name] * 0.5
    assert order == layout.names
    assert_same({n: t for n, t in layout.parameters.items()}, dense)


def test_a_thousand_batches_pass_side_by_side_in_a_few_threads(mlp):
    model, batches, loss_fn = mlp
    ones = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]
    models = [copy.deepcopy(model), copy.deepcopy(model)]
    options = {**QUICK, "ridge": 1e-2, "calibration": 0.0, "samples_per_gradient": 1}
    most = 0

    def counted(model, batch):
        nonlocal most
        most = max(most, threading.active_count())
        return loss_fn(model, batch)

    for each, given in zip(models, (batches, ones), strict=True):
        prune(each, given, counted, sparsity=0.7, **options)
    assert threading.active_count() < 10 < most <= 2 * PASSES + 10
    for one, other in zip(*(each.parameters() for each in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_no_further_thread_is_a_memory_error_in_words(mlp, monkeypatch):
    model, batches, loss_fn = mlp
    before = copy.deepcopy(model.state_dict())
    start, there = threading.Thread.start, set(threading.enumerate())

    def refused(thread):
        if len(set(threading.enumerate()) - there) > 4:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(MemoryError, match="allows no further thread"):
            prune(model, batches, loss_fn, sparsity=0.7, **QUICK)
    left = set(threading.enumerate()) - there
    assert not [one for one in left if not type(one).__module__.startswith("tqdm")]
    assert_same(model.state_dict(), before)


def test_the_report_says_how_well_each_layer_was_solved(mlp, conv):
    model, batches, loss_fn = mlp
    dense = copy.deepcopy(model)
    options = {**QUICK, "ridge": 1e-2, "calibration": 0.0}
    report = prune(model, batches, loss_fn, sparsity=0.7, **options)
    x = torch.cat([batch[0] for batch in batches])
    with torch.no_grad():  # of outputs without their bias
        y0 = x @ dense[0].weight.T
        error = (x @ model[0].weight.T - y0).square().sum() / y0.square().sum()
    assert report.layers[0].fit.error == pytest.approx(float(error), rel=1e-4)
    for layer in report.layers:
        assert layer.fit.kept == (layer.n_kept,)
        assert 0 <= layer.fit.lower_bound <= layer.fit.objective
        assert f"{layer.fit.gap:.2%}" in str(report)
    assert 0 < report.stages[0].budget_seconds < report.stages[0].solve_seconds
    assert "budget" in str(report)
    report = prune(*conv, sparsity=0.5, **options)
    kept = {layer.name: layer.fit.kept for layer in report.layers}
    mask = report.masks["grouped.weight"]
    assert kept["grouped.weight"] == (int(mask[:4].sum()), int(mask[4:].sum()))


def test_the_report_names_errors_and_trials(mlp):
    model, batches, loss_fn = mlp
    fixed = copy.deepcopy(model)
    report = prune(
        fixed, batches, loss_fn, sparsity=0.7, ridge=1e-2, calibration=0.0, **QUICK
    )
    assert set(report.stages[0].errors) == set(Layout.of(model).names)
    assert all(0 <= layer.error < 1 for layer in report.layers)
    report = prune(model, batches, loss_fn, sparsity=0.7, **QUICK)
    stage = report.stages[0]
    assert stage.gradient_method == "moments"
    assert stage.n_rows == 216  # ten batches of 24, one held back
    assert {trial.plan for trial in stage.trials} == {"layers", "refit", "budget"}
    assert stage.chosen in stage.trials
    # Another choice than the first has to gain more than noise.
    assert 0.95 * stage.chosen.loss <= min(trial.loss for trial in stage.trials)
    assert "error" in str(report)


class Dying(nn.Module):
    """An MLP with inputs that are never on, dead units, and weights out of scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3)
        with torch.no_grad():
            self.first.bias[:2] = -100.0
            self.first.weight[3] *= 1e3
            self.first.weight[:, :2] *= 50.0

    def forward(self, x):
        return self.second(
            torch.relu(self.first(torch.cat([0 * x[:, :2], x[:, 2:]], 1)))
        )


class Normed(nn.Module):
    """Convolutions with BatchNorm whose statistics are far from the data's."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 2, groups=2)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.norm.running_var.uniform_(0.01, 30)
            self.norm.running_mean.normal_()

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.deep(x).mean(dim=(2, 3)))


class Rough(nn.Module):
    """Outputs that leap: no model of the loss holds far."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 9, bias=False), nn.Linear(9, 3)

    def forward(self, x):
        return self.second(
            torch.sin(30 * self.first(x)) + torch.sign(x).sum(1)[:, None]
        )


def hostile(kind, seed):
    """A network as it was drawn, and labels that it does not know."""
    torch.manual_seed(seed)
    model = {"dying": Dying, "normed": Normed, "rough": Rough}[kind]()
    shape = (40, 2, 5, 5) if kind == "normed" else (40, 8)
    x = torch.randn(shape)
    y = torch.randint(0, 3, (40,))
    batches = list(zip(x.split(8), y.split(8), strict=True))

    def loss_fn(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    return model.eval(), batches, loss_fn


def held_back(model, batches, **options):
    """The batch that `prune` looks at first: it holds one back."""

    class Seen(Exception):
        pass

    def spy(net, batch):
        raise Seen(batch)

    with pytest.raises(Seen) as caught:
        prune(model, batches, spy, sparsity=0.5, **options)
    return [caught.value.args[0]]


DEFAULTS = [(0, 0.3, {}), (1, 0.95, {})]
OTHERS = [
    (2, 0.8, {"stages": 3}),
    (3, 0.8, {"stages": 2, "extra_stages": 1, "regrow": False}),
    (4, 0.5, {"recalibrate_batchnorm": True}),
    (5, 0.9, {"recalibrate_batchnorm": True, "stages": 2}),
    (6, 0.6, {"scope": "layer"}),
    (7, 0.8, {"min_density": 0.05}),
]


CASES = [
    (kind, *case)
    for kind in ("dying", "normed", "rough")
    for case in (*DEFAULTS, *OTHERS)
    if kind == "normed" or "recalibrate_batchnorm" not in case[2]
]


@pytest.mark.filterwarnings("ignore:the loss does not depend")
@pytest.mark.parametrize(("kind", "seed", "sparsity", "options"), CASES)
def test_auto_never_loses_to_magnitude_pruning(kind, seed, sparsity, options):
    model, batches, loss_fn = hostile(kind, seed)
    common = {"samples_per_gradient": 2, "progress": False, "random_state": seed}
    held = held_back(model, batches, **common)
    weights = Layout.of(model).gather()
    mask = torch.zeros(len(weights), dtype=torch.bool)
    left = round((1 - sparsity) * len(weights))
    if "scope" in options or "min_density" in options:
        for slot in Layout.of(model).slots:
            share = 1 - sparsity if "scope" in options else options["min_density"]
            k = round(share * slot.size)
            top = weights[slot.start : slot.stop].abs().topk(k).indices
            mask[slot.start + top] = True
        left = left if "min_density" in options else int(mask.sum())
    score = torch.where(mask, torch.inf, weights.abs())
    mask[score.topk(left).indices] = True
    by_magnitude = copy.deepcopy(model)
    Layout.of(by_magnitude).scatter(torch.where(mask, weights, 0.0))
    if options.get("recalibrate_batchnorm"):
        rest = [b for b in batches if not torch.equal(b[0], held[0][0])]
        recalibrate_batchnorm(by_magnitude, loss_fn, rest, 0)
    report = prune(model, batches, loss_fn, sparsity=sparsity, **options, **common)
    reached = mean_loss(model.eval(), loss_fn, held)
    assert report.loss_after == pytest.approx(reached, rel=1e-6)
    assert reached <= mean_loss(by_magnitude, loss_fn, held) * (1 + 1e-6)
    assert report.n_kept == left
    stage = report.stages[-1]
    assert stage.candidates[stage.taken] == min(stage.candidates.values())
    assert {"reconstruction", "reconstruction, gradients", "magnitude"} <= set(
        stage.candidates
    )
    assert f"{stage.candidates[stage.taken]:.4f}*" in str(report)


def test_magnitude_is_taken_where_it_is_the_best():
    taken = set()
    for seed in range(6):
        model, batches, loss_fn = hostile("rough", seed)
        report = prune(
            model, batches, loss_fn, sparsity=0.5, samples_per_gradient=2,
            progress=False, random_state=seed,
        )  # fmt: skip
        taken.add(report.stages[0].taken)
    assert "magnitude" in taken
    assert len(taken) > 1


def test_stages_never_lose_to_one_reconstruction(mlp):
    model, batches, loss_fn = mlp
    options = {
        "sparsity": 0.95, "samples_per_gradient": 4, "progress": False,
        "random_state": 0,
    }  # fmt: skip
    dense = copy.deepcopy(model)
    one = prune(copy.deepcopy(dense), batches, loss_fn, **options)
    expected = one.stages[0].candidates["reconstruction"]
    staged = prune(
        model, batches, loss_fn, stages=2, schedule="linear", extra_stages=1, **options
    )
    way, arrived, more = (stage.candidates for stage in staged.stages)
    anew = "in one step"
    assert arrived[anew] == pytest.approx(expected, rel=1e-6)
    assert anew not in way | more  # once
    assert staged.loss_after <= expected * (1 + 1e-6)
    kept = prune(
        copy.deepcopy(dense), batches, loss_fn, stages=2, regrow=False, **options
    )
    assert anew not in kept.stages[-1].candidates


def test_auto_without_labels_takes_no_step_by_gradients(mlp):
    model, batches, _ = mlp
    report = prune(
        model, [x for x, _ in batches], None, sparsity=0.8, progress=False,
        samples_per_gradient=4, random_state=0,
    )  # fmt: skip
    assert set(report.stages[0].candidates) == {"reconstruction", "magnitude"}
    assert report.n_kept == round(0.2 * 224)


def test_auto_without_calibration_reconstructs_and_says_so(mlp):
    twin = copy.deepcopy(mlp[0])
    options = {"sparsity": 0.7, "calibration": 0.0, **QUICK}
    report = prune(*mlp, **{**options, "objective": "auto"})
    prune(twin, *mlp[1:], **options)
    assert_same(state_of(mlp[0]), state_of(twin))
    assert any("calibration=0 holds no batch back" in note for note in report.notes)


@pytest.mark.parametrize("when", [1, 12, 30, 55])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_at_any_point_leaves_the_model_as_it_was(mlp, when, error):
    model, batches, loss_fn = mlp
    before, count = state_of(model), 0

    def interrupted(net, batch):
        nonlocal count
        count += 1
        if count == when:
            raise error("now")
        return loss_fn(net, batch)

    with pytest.raises(error, match="now"):
        prune(model, batches, interrupted, sparsity=0.8, stages=2, **QUICK)
    assert_same(state_of(model), before)


def test_memory_is_checked_before_anything_is_allocated(mlp, monkeypatch):
    model, batches, loss_fn = mlp
    before = state_of(model)
    monkeypatch.setattr("chita_torch.statistics.available_bytes", lambda device: 5000)
    with pytest.raises(MemoryError, match=r"'0\.weight'"):
        prune(model, batches, loss_fn, sparsity=0.5, **QUICK)
    assert_same(state_of(model), before)


def test_inputs_that_do_not_meet_are_solved_in_pieces_as_they_are_whole(monkeypatch):
    # The moments of one half of the inputs with the other are exactly zero.
    torch.manual_seed(0)
    x = torch.zeros(300, 12)
    x[:150, :6] = torch.randn(150, 6) @ torch.randn(6, 6)
    x[150:, 6:] = torch.randn(150, 6) @ torch.randn(6, 6)
    results = []
    for columns in (100, 6):
        for module in ("targets", "refit"):
            monkeypatch.setattr(
                sys.modules[f"chita_torch.{module}"], "COLUMNS", columns
            )
        torch.manual_seed(1)
        model = nn.Linear(12, 5)
        options = {"ridge": 1e-3, "calibration": 0.0, **QUICK}
        report = prune(model, [x], mean_square, sparsity=0.7, **options)
        assert int((model.weight != 0).sum()) == report.n_kept == 18
        assert torch.equal(report.masks["weight"], model.weight != 0)
        assert ("2 pieces of 6 columns" in str(report)) == (columns == 6)
        whole = torch.linspace(-1, 1, 60).reshape(5, 12)
        masks = {"weight": model.weight != 0}
        refitted = nn.Linear(12, 5)
        with torch.no_grad():
            refitted.weight.copy_(whole)
        refit(refitted, [x], masks=masks)
        results.append((model.weight.detach(), refitted.weight.detach()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_two_of_four_are_consecutive_inputs_in_pieces_too(monkeypatch):
    monkeypatch.setattr("chita_torch.targets.COLUMNS", 10)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 4), nn.Tanh(), nn.Linear(4, 4))
    options = {"pattern": "2:4", "calibration": 0.0, **QUICK}
    report = prune(model, [torch.randn(100, 24)], mean_square, **options)
    assert "3 pieces of 8 columns" in str(report)
    for layer in (model[0], model[2]):
        assert ((layer.weight != 0).reshape(-1, 4).sum(dim=1) == 2).all()


def test_pieces_take_less_memory_than_the_whole():
    whole, pieces = (
        check_memory(Layout.of(nn.Linear(64, 1), columns=columns), torch.device("cpu"))[
            0
        ]
        for columns in (None, 16)
    )
    assert whole - 64 * WEIGHT_BYTES == 2 * 8 * 64**2  # H and its eigenvectors
    assert pieces - 64 * WEIGHT_BYTES == 2 * 8 * 4 * 16**2


def test_moments_that_a_device_cannot_hold_are_held_on_the_host(monkeypatch):
    layout = Layout.of(nn.Sequential(*(nn.Linear(64, 64) for _ in range(20))))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    free = {}
    monkeypatch.setattr(
        "chita_torch.statistics.available_bytes", lambda device: free[device.type]
    )
    one, largest = 8 * 64**2, WORKSPACE * 8 * 64**2
    needed = 40 * one + WEIGHT_BYTES * len(layout)
    for on_device, on_host, where in (
        (needed + largest, 0, cuda),
        (needed + largest - 1, needed, cpu),
        (largest, needed, cpu),
        (None, 0, cuda),
        (largest, None, cpu),
    ):
        free |= {"cuda": on_device, "cpu": on_host}
        assert check_memory(layout, cuda) == (needed, where)
    for on_device, on_host in ((largest - 1, needed), (largest, needed - 1)):
        free |= {"cuda": on_device, "cpu": on_host}
        with pytest.raises(MemoryError, match="free on cuda"):
            check_memory(layout, cuda)


def test_a_module_used_twice_is_solved_for_both_uses():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.mix(torch.relu(self.mix(x))))

    model = Twice()
    x = torch.randn(80, 6)
    y = (x[:, 0] > 0).long()
    batches = list(zip(x.split(16), y.split(16), strict=True))

    def loss_fn(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    report = prune(model, batches, loss_fn, sparsity=0.5, **QUICK)
    assert report.n_kept == 24


class WithMemory(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    "include",
    [["rnn", "head"], ["rnn.weight*", "head"], [nn.LSTM, "head"], ["*", nn.LSTM]],
)
def test_recurrent_weights_are_pruned_by_their_gradients_and_named(include):
    torch.manual_seed(0)
    model = WithMemory()
    x = torch.randn(80, 3, 4)
    y = (x.sum(dim=(1, 2)) > 0).long()
    batches = list(zip(x.split(16), y.split(16), strict=True))

    def loss_fn(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    report = prune(model, batches, loss_fn, sparsity=0.5, include=include, **QUICK)
    assert list(report.masks) == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    assert report.n_kept == round(0.5 * report.n_weights)
    assert any("rnn.weight_ih_l0" in note for note in report.notes)


def test_recurrent_weights_are_no_default_and_the_report_says_so():
    torch.manual_seed(0)
    batches = list(torch.randn(80, 3, 4).split(16))
    model = WithMemory()
    report = prune(model, batches, None, sparsity=0.5, **QUICK)
    assert list(report.masks) == ["head.weight"]
    (note,) = (note for note in report.notes if "rnn.weight_hh_l0" in note)
    assert note.startswith("Left out, as they are of recurrent layers")
    report = prune(model, batches, None, sparsity=0.6, exclude="rnn", **QUICK)
    assert not any("recurrent" in note for note in report.notes)


def test_without_labels_the_networks_own_predictions_serve(mlp):
    model, batches, loss_fn = mlp
    images = [x for x, _ in batches]
    dense = copy.deepcopy(model)
    report = prune(model, images, None, sparsity=0.6, **QUICK)
    assert report.loss_before == pytest.approx(0, abs=1e-6)  # KL from itself
    assert report.loss_after > 0
    magnitude = copy.deepcopy(dense)
    layout = Layout.of(magnitude)
    flat = layout.gather()
    least = flat.abs().topk(report.n_kept).values[-1]
    layout.scatter(torch.where(flat.abs() >= least, flat, 0.0))
    assert mean_loss(model, loss_fn, batches) < mean_loss(magnitude, loss_fn, batches)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"objective": "other"}, ValueError, "objective='other'"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"objective": "gradients", "loss_fn": None}, ValueError, "loss_fn"),
    ],
)
def test_bad_arguments_are_named(mlp, options, error, match):
    model, batches, loss_fn = mlp
    before = state_of(model)
    options = {**QUICK, "loss_fn": loss_fn, **options}
    with pytest.raises(error, match=match):
        prune(model, batches, sparsity=0.5, **options)
    assert_same(state_of(model), before)


def test_refit_repairs_magnitude_pruning(case):
    model, batches, loss_fn = case
    dense = state_of(model)
    layout = Layout.of(model)
    flat = layout.gather()
    kept = flat.abs() >= flat.abs().median()
    layout.scatter(torch.where(kept, flat, 0.0))
    before = mean_outputs_error(model, dense, batches)
    errors = refit(model, batches, loss_fn, dense=dense, random_state=0)
    assert set(errors) == set(layout.names)
    assert torch.equal(layout.gather() != 0, kept)
    assert mean_outputs_error(model, dense, batches) < before
    assert_same(state_of(model), dense, but=layout.names)


def mean_outputs_error(model, dense, batches):
    other = copy.deepcopy(model)
    other.load_state_dict(dense)
    total = 0.0
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple) else batch["input_ids"]
        with torch.no_grad():
            pair = [net.eval()(x) for net in (model, other)]
        one, two = (out["logits"] if isinstance(out, dict) else out for out in pair)
        total += float((one - two).square().sum())
    return total


def test_refit_of_what_keeps_all_changes_nothing(mlp):
    model, batches, loss_fn = mlp
    dense = state_of(model)
    masks = {name: torch.ones_like(dense[name], dtype=bool) for name in select(model)}
    errors = refit(model, batches, loss_fn, masks=masks, random_state=0)
    assert max(errors.values()) < 1e-6
    for name in select(model):
        torch.testing.assert_close(model.state_dict()[name], dense[name])


def test_refit_names_what_is_missing(mlp):
    model, batches, loss_fn = mlp
    before = state_of(model)
    with pytest.raises(ValueError, match="refit needs the network before"):
        refit(model, batches, loss_fn)
    with pytest.raises(ValueError, match="'nothing'"):
        refit(model, batches, masks={"nothing": torch.ones(1, dtype=bool)})
    with pytest.raises(ValueError, match="has shape"):
        refit(model, batches, masks={"0.weight": torch.ones(1, dtype=bool)})
    assert_same(state_of(model), before)
