"""`prune(objective="reconstruction")` and "auto": layers solved for their outputs."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import prune, refit  # noqa: E402
from chita_torch.layout import Layout, select  # noqa: E402
from chita_torch.lockstep import Lockstep  # noqa: E402
from chita_torch.state import mean_loss  # noqa: E402
from chita_torch.statistics import collect  # noqa: E402

QUICK = {
    "objective": "reconstruction",
    "samples_per_gradient": 4,
    "n_gradients": 20,
    "progress": False,
    "random_state": 0,
}


def state_of(model):
    return copy.deepcopy(dict(model.state_dict()))


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


@pytest.mark.parametrize("stages", [1, 3])
def test_auto_never_loses_to_magnitude(case, stages):
    model, batches, loss_fn = case
    for sparsity in (0.3, 0.95):
        pruned = copy.deepcopy(model)
        report = prune(
            pruned,
            batches,
            loss_fn,
            sparsity=sparsity,
            stages=stages,
            **{**QUICK, "objective": "auto"},
        )
        trials = report.stages[-1].trials
        assert {"layers", "magnitude"} < {trial.plan for trial in trials}
        magnitude = [t.loss for t in trials if t.plan == "magnitude"]
        gradients = [t.loss for t in trials if t.plan in ("dual", "dense")]
        assert report.stages[-1].chosen.loss <= min(magnitude + gradients)
        assert report.loss_after <= report.stages[-1].chosen.loss


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


def test_recurrent_weights_are_pruned_by_their_gradients_and_named():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    model = Net()
    x = torch.randn(80, 3, 4)
    y = (x.sum(dim=(1, 2)) > 0).long()
    batches = list(zip(x.split(16), y.split(16), strict=True))

    def loss_fn(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    report = prune(
        model, batches, loss_fn, sparsity=0.5, include=["rnn.weight*", "head"], **QUICK
    )
    assert report.n_kept == round(0.5 * report.n_weights)
    assert any("rnn.weight_ih_l0" in note for note in report.notes)


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
