"""`prune`: exact sparsity everywhere, the rest untouched, all or nothing."""

import copy
import gc
import math
import subprocess
import sys
import threading
import time
import warnings
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from chita_torch import prune, schedule_fractions  # noqa: E402
from chita_torch.layout import Layout, select  # noqa: E402
from chita_torch.stage import LossModel  # noqa: E402
from chita_torch.state import mean_loss  # noqa: E402

QUICK = {
    "objective": "gradients",
    "n_gradients": 20,
    "samples_per_gradient": 4,
    "progress": False,
    "random_state": 0,
}
FIXED = {**QUICK, "ridge": 1e-3, "first_order": False}


def snapshot(model):
    return copy.deepcopy(
        (
            dict(model.state_dict()),
            {
                name: (m.training, getattr(m, "momentum", None))
                for name, m in model.named_modules()
            },
            {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()},
        )
    )


def assert_unchanged(model, before, but=()):
    state, training, flags = snapshot(model)
    assert state.keys() == before[0].keys()
    for name, tensor in state.items():
        if name not in but:
            assert torch.equal(tensor, before[0][name]), name
    assert training == before[1]
    assert flags == before[2]


def zeros(model, names=None):
    parameters = dict(model.named_parameters())
    return sum(int((parameters[n] == 0).sum()) for n in names or select(model))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 0.98])
def test_sparsity_is_exact_and_the_rest_untouched(case, sparsity):
    model, batches, loss_fn = case
    names, p = select(model), len(Layout.of(model))
    before = snapshot(model)
    report = prune(
        model, batches, loss_fn, sparsity=sparsity, recalibrate_batchnorm=False, **FIXED
    )
    assert p - zeros(model) == report.n_kept == round((1 - sparsity) * p)
    assert report.sparsity == zeros(model) / p
    assert_unchanged(model, before, but=names)


@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_density_is_one_minus_sparsity(mlp, density):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, density=density, **FIXED)
    assert report.n_kept == 224 - zeros(model) == round(density * 224)


def test_layer_scope_prunes_each_layer_alike(case):
    model, batches, loss_fn = case
    report = prune(model, batches, loss_fn, sparsity=0.6, scope="layer", **FIXED)
    for layer in report.layers:
        assert layer.n_kept == round(0.4 * layer.n_weights)
        assert zeros(model, [layer.name]) == layer.n_weights - layer.n_kept
    largest = max(layer.n_weights for layer in report.layers)
    assert max(stage.matrix_bytes for stage in report.stages) == 20 * largest * 4


def test_scope_by_name(mlp):
    model, batches, loss_fn = mlp
    last = model[4].weight.detach().clone()
    scope = {"0": 0.9, "*2": 0.25}
    report = prune(model, batches, loss_fn, scope=scope, **FIXED)
    assert [layer.n_kept for layer in report.layers] == [12, 60]
    assert torch.equal(model[4].weight, last)
    report = prune(model, batches, loss_fn, scope={"4": 0.5}, sparsity=0.95, **FIXED)
    assert [layer.n_kept for layer in report.layers] == [6, 4, 12]


@pytest.mark.parametrize("pattern", ["2:4", (1, 3)])
def test_n_of_m_holds_in_every_row(case, pattern):
    model, batches, loss_fn = case
    n, m = (2, 4) if pattern == "2:4" else pattern
    report = prune(model, batches, loss_fn, pattern=pattern, **FIXED)
    layout = Layout.of(model)
    labels, lengths = layout.group_labels(m)
    kept = torch.bincount(labels[layout.gather() != 0], minlength=len(lengths))
    assert torch.equal(kept, lengths.clamp(max=n))
    assert report.n_kept == int(kept.sum())


def test_min_density_is_a_floor_under_the_global_budget(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.9, min_density=0.08, **FIXED)
    assert report.n_kept == 22
    assert all(x.n_kept >= round(0.08 * x.n_weights) for x in report.layers)


@pytest.mark.parametrize("schedule", ["exponential", "cubic", "linear"])
@pytest.mark.parametrize("regrow", [True, False])
def test_stages_follow_the_schedule(case, schedule, regrow):
    model, batches, loss_fn = case
    report = prune(
        model,
        batches,
        loss_fn,
        sparsity=0.8,
        stages=3,
        extra_stages=1,
        schedule=schedule,
        regrow=regrow,
        **QUICK,
    )
    p = len(Layout.of(model))
    fractions = [*schedule_fractions(schedule, 3), 1.0]
    for stage, fraction in zip(report.stages, fractions, strict=True):
        assert stage.sparsity == pytest.approx(0.1 + 0.7 * fraction, abs=1 / p)
    assert p - zeros(model) == round((1 - 0.8) * p)


def test_without_regrowth_pruned_weights_stay_pruned(mlp):
    model, batches, loss_fn = mlp
    prune(model, batches, loss_fn, sparsity=0.5, **FIXED)
    first = Layout.of(model).gather() != 0
    prune(model, batches, loss_fn, sparsity=0.7, regrow=False, **FIXED)
    second = Layout.of(model).gather() != 0
    assert not bool((second & ~first).any())
    assert int(second.sum()) == round(0.3 * 224)


def test_n_of_m_in_stages_ends_at_the_pattern(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, pattern="1:4", stages=3, **QUICK)
    assert [s.sparsity for s in report.stages][-1] == zeros(model) / 224
    kept = (model[0].weight != 0).reshape(-1, 4).sum(dim=1)
    assert bool((kept == 1).all())


def test_schedules_rise_from_zero_to_one():
    assert schedule_fractions("linear", 3) == [0, 0.5, 1]
    assert schedule_fractions("cubic", 3) == [0, 0.875, 1]
    assert schedule_fractions(lambda t, stages: (t + 1) / stages, 2) == [0.5, 1]
    assert schedule_fractions("cubic", 1) == [1]


def test_blocks_share_one_budget(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.7, block_size=50, **QUICK)
    assert report.n_kept == 224 - zeros(model) == round(0.3 * 224)


def test_blocks_share_the_first_order_term_out():
    torch.manual_seed(0)
    A, prior = torch.randn(6, 10), torch.randn(10)
    whole = LossModel(A, prior, [slice(0, 10)]).problem(0.1, 0.5)
    blocks = LossModel(A, prior, [slice(0, 4), slice(4, 10)]).problem(0.1, 0.5)
    b = sum(problem.b for problem in blocks.problems)
    torch.testing.assert_close(b, whole.b, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        whole.b, (A @ prior - 0.5).double(), rtol=1e-6, atol=1e-6
    )


def test_report_agrees_with_a_hand_count(mlp):
    model, batches, loss_fn = mlp
    dense = copy.deepcopy(model)
    report = prune(model, batches, loss_fn, sparsity=0.75, **QUICK)
    for layer, old, new in zip(report.layers, dense[::2], model[::2], strict=True):
        assert layer.shape == tuple(new.weight.shape)
        assert layer.n_kept == int((new.weight != 0).sum())
        moved = (new.weight - old.weight).norm() / old.weight.norm()
        assert layer.moved == pytest.approx(moved.item(), rel=1e-5)
        assert torch.equal(report.masks[layer.name], new.weight != 0)
    (stage,) = report.stages
    assert stage.chosen in stage.trials
    assert stage.chosen.loss == min(trial.loss for trial in stage.trials)
    assert report.loss_after == stage.chosen.loss
    assert report.loss_before == stage.loss_before
    assert stage.n_rows == 20
    assert stage.matrix_bytes == 20 * 224 * 4


def test_calibration_losses_are_those_of_the_batches_held_back(mlp):
    model, batches, loss_fn = mlp
    dense = copy.deepcopy(model)
    seen = []

    def spy(model, batch):
        if len(batch[0]) == 24:
            seen.append(batch)
        return loss_fn(model, batch)

    report = prune(model, batches, spy, sparsity=0.5, calibration=0.2, **QUICK)
    held = {id(x): (x, y) for x, y in seen}.values()
    unique = {float(x.sum()): (x, y) for x, y in held}
    assert len(unique) == 2
    assert report.loss_before == pytest.approx(
        mean_loss(dense.eval(), loss_fn, unique.values())
    )
    assert report.loss_after == pytest.approx(
        mean_loss(model.eval(), loss_fn, unique.values())
    )


def test_predicted_change_is_that_of_the_quadratic_model(mlp):
    model, batches, loss_fn = mlp
    dense = copy.deepcopy(model)
    report = prune(
        model, batches, loss_fn, objective="gradients", sparsity=0.5, ridge=1e-3,
        first_order=True, n_gradients=1000, samples_per_gradient=4, calibration=0.0,
        progress=False,
    )  # fmt: skip
    assert report.stages[0].n_rows == 60
    step = Layout.of(model).gather() - Layout.of(dense).gather()
    slope, curvature = 0.0, 0.0
    for x, y in batches:
        for micro in zip(x.split(4), y.split(4), strict=True):
            dense.zero_grad()
            loss_fn(dense.eval(), micro).backward()
            g = Layout.of(dense).gather(
                {n: p.grad for n, p in dense.named_parameters()}
            )
            slope += float(g @ step) / 60
            curvature += 4 * float(g @ step) ** 2 / 60
    expected = slope + curvature / 2
    assert report.stages[0].predicted_change == pytest.approx(expected, rel=1e-3)


def test_a_small_prune_of_a_smooth_loss_is_predicted_well(mlp):
    model, batches, loss_fn = mlp
    report = prune(
        model, batches, loss_fn, sparsity=0.05, **{**QUICK, "n_gradients": 54}
    )
    change = report.loss_after - report.loss_before
    assert abs(change) < 0.1


def test_dead_weights_go_first():
    torch.manual_seed(0)
    model = nn.Linear(10, 2, bias=False)
    X = torch.randn(160, 10)
    X[:, :5] = 0  # five inputs are never on: their weights do nothing
    with torch.no_grad():
        model.weight[:, :5] = 100.0
    batches = list(X.split(16))

    def loss_fn(model, x):
        return (model(x) - x[:, 5:7]).square().mean()

    pruned = copy.deepcopy(model)
    prune(pruned, batches, loss_fn, density=0.5, **FIXED)
    assert not bool(pruned.weight[:, :5].any())
    assert bool((pruned.weight[:, 5:] != 0).all())
    # Where some of them have to stay, they stay as they are.
    prune(model, batches, loss_fn, density=0.7, **FIXED)
    assert int((model.weight == 100).sum()) == 4
    assert int((model.weight != 0).sum()) == 14


def test_tied_weights_are_pruned_once_and_stay_tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[2].weight = model[0].weight

    def loss_fn(model, x):
        return (model(x) - x.flip(1)).square().mean()

    batches = list(torch.randn(80, 6).split(8))
    report = prune(model, batches, loss_fn, sparsity=0.5, **FIXED)
    assert [layer.name for layer in report.layers] == ["0.weight"]
    assert model[2].weight is model[0].weight
    assert report.n_kept == int((model[0].weight != 0).sum()) == 18


def test_ridge_zero_is_allowed(mlp):
    report = prune(*mlp, sparsity=0.5, **{**FIXED, "ridge": 0.0})
    assert report.stages[0].solver == "dense"
    assert report.n_kept == 112


def test_a_layer_that_the_loss_ignores_warns(mlp):
    model, batches, _ = mlp

    def loss_fn(model, batch):
        return model[2](model[0](batch[0])).square().mean()

    with pytest.warns(UserWarning, match=r"does not depend on \['4.weight'\]"):
        prune(model, batches, loss_fn, sparsity=0.3, **FIXED)
    assert not bool(model[4].weight.any())


def test_fewer_rows_are_reported(mlp):
    report = prune(*mlp, sparsity=0.5, **{**FIXED, "n_gradients": 1000})
    assert report.stages[0].n_rows == 54
    assert "54 gradients, not n_gradients=1000" in report.notes[0]
    assert report.notes[0] in str(report)


def test_the_same_seed_gives_the_same_model(mlp):
    model, batches, loss_fn = mlp
    x = torch.cat([b[0] for b in batches])
    y = torch.cat([b[1] for b in batches])
    loader = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True)
    twins = [copy.deepcopy(model) for _ in range(2)]
    for twin in twins:
        torch.manual_seed(3)
        prune(twin, loader, loss_fn, sparsity=0.7, **QUICK)
    assert torch.equal(twins[0][0].weight, twins[1][0].weight)


def test_batchnorm_statistics_move_only_when_asked(conv):
    model, batches, loss_fn = conv
    mean = model.norm.running_mean.clone()
    twin = copy.deepcopy(model)
    report = prune(
        model, batches, loss_fn, sparsity=0.8, recalibrate_batchnorm=False, **FIXED
    )
    assert torch.equal(model.norm.running_mean, mean)
    assert not report.batchnorm_recalibrated
    report = prune(
        twin, batches, loss_fn, sparsity=0.8, recalibrate_batchnorm=True, **FIXED
    )
    assert not torch.equal(twin.norm.running_mean, mean)
    assert report.batchnorm_recalibrated
    assert twin.training
    assert twin.norm.momentum == 0.1


def test_automatic_recalibration_never_raises_the_calibration_loss(conv):
    model, batches, loss_fn = conv
    report = prune(model, batches, loss_fn, sparsity=0.9, **QUICK)
    assert report.loss_after <= report.stages[-1].chosen.loss


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_caller_does_not_matter(mlp, mode):
    model, batches, loss_fn = mlp
    other = copy.deepcopy(model)
    prune(model, batches, loss_fn, sparsity=0.5, random_state=0)
    with mode():
        prune(other, batches, loss_fn, sparsity=0.5, random_state=0)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_half_precision_models_stay_half(mlp):
    model, batches, _ = mlp

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])

    model.bfloat16()
    report = prune(model, batches, loss_fn, sparsity=0.7, **QUICK)
    assert model[0].weight.dtype == torch.bfloat16
    assert report.n_kept == 224 - zeros(model) == round(0.3 * 224)


def test_stages_without_a_first_order_term_are_solved_by_dual_ascent(mlp):
    # The dense step is none then: its support is that of a diagonal curvature.
    twin = copy.deepcopy(mlp[0])
    options = {"sparsity": 0.8, "schedule": "linear", "stages": 3, **FIXED}
    report = prune(*mlp, **options)
    by_dense = prune(twin, *mlp[1:], solver="dense", **options)
    assert [stage.solver for stage in report.stages] == ["dual"] * 3
    assert report.stages[0].objective <= by_dense.stages[0].objective


def test_stages_choose_their_plan_by_the_calibration_loss(mlp):
    options = QUICK | {"first_order": True}
    report = prune(*mlp, sparsity=0.9, stages=4, **options)
    for stage in report.stages:
        assert stage.chosen.loss == min(trial.loss for trial in stage.trials)
        assert stage.solver == stage.chosen.plan
    first, *others = report.stages
    assert {trial.plan for trial in first.trials} == {"dense", "dual"}
    before = first.chosen
    for stage in others:  # what won before, then each with one change of the best
        (plan, ridge), *_ = tried = [(t.plan, t.ridge) for t in stage.trials]
        assert (plan, ridge) == (before.plan, before.ridge)
        assert {p for p, _ in tried} == {"dense", "dual"}
        assert len({r for _, r in tried}) >= 3
        before = stage.chosen


def test_of_many_stages_each_tries_one_change_that_does_not_gain(mlp):
    options = QUICK | {"first_order": True, "extra_stages": 8}
    report = prune(*mlp, sparsity=0.9, stages=4, **options)
    few = 0
    for before, stage in pairwise(report.stages):
        least: dict = {}
        for trial in stage.trials:
            key = trial.plan, trial.ridge
            least[key] = min(trial.loss, least.get(key, math.inf))
        losses = list(least.values())
        won = before.chosen.plan, before.chosen.ridge
        if stage.chosen.step and next(iter(least)) == won:  # not searched anew
            assert losses[:-1] == sorted(losses[:-1], reverse=True)
            few += 1
    assert few


def test_without_calibration_there_is_one_plan(mlp):
    options = FIXED | {"first_order": True, "calibration": 0}
    report = prune(*mlp, sparsity=0.8, stages=2, **options)
    assert [len(stage.trials) for stage in report.stages] == [1, 1]


def test_extra_stages_never_raise_the_calibration_loss(mlp):
    report = prune(*mlp, sparsity=0.9, stages=2, extra_stages=3, **QUICK)
    losses = [stage.chosen.loss for stage in report.stages[1:]]
    assert losses == sorted(losses, reverse=True)


BAD = [
    ({"sparsity": 1.0}, ValueError, r"sparsity=1\.0 must be a number in \[0, 1\)"),
    ({"sparsity": -0.1}, ValueError, r"sparsity=-0\.1"),
    ({"sparsity": math.nan}, ValueError, "sparsity=nan"),
    ({"sparsity": True}, ValueError, "sparsity=True"),
    ({"density": 0.0}, ValueError, r"density=0\.0 must be a number in \(0, 1\)"),
    ({"density": 1.5}, ValueError, r"density=1\.5"),
    ({"sparsity": 0.5, "density": 0.5}, ValueError, "not both"),
    ({}, ValueError, "nothing says how much to prune"),
    ({"sparsity": 0.5, "pattern": "2:4"}, ValueError, "fixes the sparsity"),
    ({"pattern": "4:2"}, ValueError, "pattern='4:2'"),
    ({"pattern": (0, 4)}, ValueError, r"pattern=\(0, 4\)"),
    ({"pattern": 3}, ValueError, "pattern=3"),
    ({"sparsity": 0.5, "scope": "row"}, ValueError, "scope='row'"),
    ({"scope": {"nope": 0.5}}, ValueError, "'nope' matches no parameter"),
    ({"scope": {"0": 1.0}}, ValueError, r"scope\['0'\]=1\.0"),
    ({"scope": {"0": 0.5}, "exclude": "0"}, ValueError, "names no layer that is to be"),
    ({"sparsity": 0.5, "min_density": 0.6}, ValueError, "min_density=0.6 is more"),
    (
        {"sparsity": 0.5, "min_density": 0.1, "scope": "layer"},
        ValueError,
        "min_density=0.1 is a floor",
    ),
    ({"sparsity": 0.5, "include": "nope"}, ValueError, "'nope' matches no parameter"),
    ({"sparsity": 0.5, "exclude": nn.Linear}, ValueError, "no prunable layer"),
    ({"sparsity": 0.5, "stages": 0}, ValueError, "stages=0"),
    ({"sparsity": 0.5, "extra_stages": -1}, ValueError, "extra_stages=-1"),
    ({"sparsity": 0.5, "schedule": "square"}, ValueError, "schedule='square'"),
    ({"sparsity": 0.5, "schedule": lambda t, n: 0.5}, ValueError, "must rise"),
    ({"sparsity": 0.5, "n_gradients": 0}, ValueError, "n_gradients=0"),
    ({"sparsity": 0.5, "n_gradients": 2.5}, ValueError, "n_gradients=2.5"),
    ({"sparsity": 0.5, "samples_per_gradient": 25}, ValueError, "the smallest batch"),
    ({"sparsity": 0.5, "ridge": -1.0}, ValueError, r"ridge=-1\.0"),
    ({"sparsity": 0.5, "ridge": math.inf}, ValueError, "ridge=inf"),
    ({"sparsity": 0.5, "ridge": "best"}, ValueError, "ridge='best'"),
    ({"sparsity": 0.5, "first_order": "no"}, ValueError, "first_order='no'"),
    ({"sparsity": 0.5, "calibration": 1.0}, ValueError, r"calibration=1\.0"),
    ({"sparsity": 0.5, "calibration": 0.0}, ValueError, "leaves nothing to choose"),
    ({"sparsity": 0.5, "block_size": 0}, ValueError, "block_size=0"),
    ({"sparsity": 0.5, "solver": "magic"}, ValueError, "magic"),
    (
        {"sparsity": 0.5, "recalibrate_batchnorm": 1},
        ValueError,
        "recalibrate_batchnorm",
    ),
    ({"scope": {}}, ValueError, "names no layer"),
    ({"sparsity": 0.5, "device": "gpu"}, ValueError, "device='gpu' cannot be used"),
    ({"sparsity": 0.5, "random_state": 2**64}, ValueError, "must be below"),
    ({"sparsity": 0.5, "random_state": -1}, ValueError, "random_state=-1"),
    ({"sparsity": 0.5, "schedule": 3}, ValueError, "schedule=3 is unknown"),
    ({"sparsity": 0.5, "schedule": [0.5, 1]}, ValueError, "is unknown"),
    ({"sparsity": 0.5, "schedule": lambda t, n: None}, ValueError, "must rise"),
    (
        {"sparsity": 0.5, "stages": 3, "schedule": lambda t, n: (0, math.nan, 1)[t]},
        ValueError,
        "must rise",
    ),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD)
def test_bad_arguments_are_named_and_leave_the_model_alone(mlp, options, error, match):
    model, batches, loss_fn = mlp
    before = snapshot(model)
    with pytest.raises(error, match=match):
        prune(model, batches, loss_fn, **{**QUICK, **options})
    assert_unchanged(model, before)


def _nan_in_calibration(model, batch):
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return loss * math.nan if len(batch[0]) == 24 else loss


@pytest.mark.parametrize(
    ("batches", "loss_fn", "error", "match"),
    [
        ([], None, ValueError, "batches is empty"),
        (iter([]), None, TypeError, "again and again"),
        (None, _nan_in_calibration, ValueError, "loss of the model as given is nan"),
        (None, lambda m, b: m(b[0]), TypeError, "scalar tensor; got shape"),
        (None, lambda m, b: m(b[0]).log().mean(), ValueError, "nan"),
        (None, lambda m, b: m(b[0]).nope, AttributeError, "nope"),
        (None, nn.CrossEntropyLoss(), TypeError, "got CrossEntropyLoss"),
        (None, "mse", TypeError, "got str"),
        (None, lambda m, b: 1e30 * m(b[0]).sum(), ValueError, "or its square is not"),
    ],
)
def test_bad_batches_and_losses_leave_the_model_alone(
    mlp, batches, loss_fn, error, match
):
    model, good_batches, good_loss = mlp
    before = snapshot(model)
    with pytest.raises(error, match=match):
        prune(
            model,
            good_batches if batches is None else batches,
            loss_fn or good_loss,
            sparsity=0.5,
            **QUICK,
        )
    assert_unchanged(model, before)


def test_what_is_no_model_or_not_initialised_is_refused(mlp):
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module; got list"):
        prune([mlp[0]], mlp[1], mlp[2], sparsity=0.5)
    model = nn.Sequential(nn.Linear(12, 3), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match=r"buffer '1.running_mean' is not initialised"):
        prune(model, mlp[1], mlp[2], sparsity=0.5)


def test_schedules_of_no_stages_are_refused():
    for stages in (0, 2.5):
        with pytest.raises(ValueError, match=f"stages={stages}"):
            schedule_fractions("linear", stages)


def test_no_prunable_layer(mlp):
    with pytest.raises(ValueError, match="no prunable layer"):
        prune(nn.Sequential(nn.ReLU()), mlp[1], mlp[2], sparsity=0.5)


WHEN = {
    "first gradients": lambda model, size: size == 4,
    "candidates": lambda model, size: size == 16 and zeros(model) > 0,
    "statistics": lambda model, size: model.norm.training,
    "second gradients": lambda model, size: size == 4 and zeros(model) > 0,
}


@pytest.mark.parametrize("when", list(WHEN))
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_prune_leaves_the_model_as_it_was(conv, when, error):
    model, batches, loss_fn = conv
    model.stem.eval()
    model.head.weight.requires_grad_(False)
    before = snapshot(model)

    def failing(model, batch):
        if WHEN[when](model, len(batch[0])):
            raise error
        return loss_fn(model, batch)

    with pytest.raises(error):
        prune(
            model,
            batches,
            failing,
            sparsity=0.7,
            stages=2,
            recalibrate_batchnorm=True,
            **QUICK,
        )
    assert_unchanged(model, before)


def test_an_interrupt_leaves_the_momentum_of_every_batchnorm():
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.BatchNorm1d(8, track_running_stats=False),
        nn.Linear(8, 2),
    ).eval()
    batches = list(torch.randn(64, 6).split(16))

    def failing(model, x):
        if model[1].training:
            raise KeyboardInterrupt
        return (model(x) - x[:, :2]).square().mean()

    with pytest.raises(KeyboardInterrupt):
        prune(model, batches, failing, sparsity=0.5, **FIXED)
    assert [model[1].momentum, model[2].momentum] == [0.1, 0.1]


def test_training_flags_and_requires_grad_survive_success(conv):
    model, batches, loss_fn = conv
    model.norm.eval()
    model.stem.weight.requires_grad_(False)
    before = snapshot(model)
    prune(model, batches, loss_fn, sparsity=0.5, recalibrate_batchnorm=False, **FIXED)
    assert_unchanged(model, before, but=select(model))


def test_buffers_written_in_the_forward_pass_are_put_back(mlp):
    _, batches, _ = mlp

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return self.layer(x)

    model = Counting()

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    prune(model, batches, loss_fn, sparsity=0.5, **FIXED)
    assert model.calls.item() == 0


def test_an_exception_kept_by_the_caller_does_not_hold_torchs_random_state(mlp):
    model, batches, _ = mlp

    def failing(model, batch):
        raise RuntimeError

    def error():
        try:
            prune(model, batches, failing, sparsity=0.5, **FIXED)
        except RuntimeError as raised:
            return raised

    before = torch.random.get_rng_state()
    kept = error()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(42)
    expected = torch.rand(3)
    torch.manual_seed(42)
    del kept
    gc.collect()
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_a_module_keeps_its_statistics_and_its_mode(conv):
    model, batches, _ = conv
    teacher = copy.deepcopy(model).eval()
    state = copy.deepcopy(teacher.state_dict())

    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = teacher

        def forward(self, model, batch):
            with torch.no_grad():
                target = self.teacher(batch[0])
            return nn.functional.mse_loss(model(batch[0]), target + 1)

    loss_fn = Distilled()
    prune(model, batches, loss_fn, sparsity=0.5, recalibrate_batchnorm=True, **FIXED)
    assert loss_fn.training
    assert not teacher.training
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_autocast_around_prune_does_not_blind_the_choice(mlp):
    model, batches, loss_fn = mlp
    expected = copy.deepcopy(model)
    prune(expected, batches, loss_fn, sparsity=0.9, **QUICK)
    with torch.autocast("cpu", torch.bfloat16):
        prune(model, batches, loss_fn, sparsity=0.9, **QUICK)
        assert torch.is_autocast_enabled("cpu")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_autocast_inside_the_loss_sees_the_weights_of_the_moment(mlp):
    model, batches, loss_fn = mlp

    def narrow(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return loss_fn(model, batch)

    with torch.autocast("cpu", torch.bfloat16):
        report = prune(model, batches, narrow, sparsity=0.9, **QUICK)
    assert len({trial.loss for trial in report.stages[0].trials}) > 1


def test_a_floor_may_be_all_that_is_kept(mlp):
    for share in ({"density": 0.1}, {"sparsity": 0.9}):
        model, batches, loss_fn = copy.deepcopy(mlp[0]), *mlp[1:]
        report = prune(model, batches, loss_fn, min_density=0.1, **share, **FIXED)
        assert report.n_kept == 22
        for layer in report.layers:
            assert layer.n_kept >= int(0.1 * layer.n_weights)


def test_floors_that_rounding_takes_beyond_the_budget_are_met():
    model = nn.Sequential(
        nn.Linear(3, 1), nn.Linear(1, 3), nn.Linear(3, 1), nn.Linear(1, 2)
    )
    batches = list(torch.randn(64, 3).split(16))

    def loss_fn(model, x):
        return model(x).square().mean()

    report = prune(model, batches, loss_fn, sparsity=0.5, min_density=0.5, **FIXED)
    assert report.n_kept == round(0.5 * 11)
    assert all(layer.n_kept >= 1 for layer in report.layers)


def test_a_last_batch_of_one_sample_does_not_hinder_batchnorm():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    batches = [torch.randn(64, 6)] * 4 + [torch.randn(1, 6)]

    def loss_fn(model, x):
        return (model(x) - x[:, :2]).square().mean()

    options = {"sparsity": 0.5, "recalibrate_batchnorm": True, **FIXED}
    report = prune(model, batches, loss_fn, **options)
    assert report.batchnorm_recalibrated


def test_without_regrowth_a_sparser_model_stays_as_sparse(mlp):
    model, batches, loss_fn = mlp
    prune(model, batches, loss_fn, sparsity=0.8, **FIXED)
    left = 224 - zeros(model)
    report = prune(model, batches, loss_fn, sparsity=0.3, regrow=False, **FIXED)
    assert report.n_kept == left == 224 - zeros(model)
    for name, mask in report.masks.items():
        assert torch.equal(mask, model.get_parameter(name) != 0)


def test_a_default_device_is_of_no_account(mlp):
    model, batches, loss_fn = mlp
    expected = prune(copy.deepcopy(model), batches, loss_fn, sparsity=0.8, **FIXED)
    torch.set_default_device("meta")
    try:
        report = prune(model, batches, loss_fn, sparsity=0.8, **FIXED)
    finally:
        torch.set_default_device(None)
    for name, mask in expected.masks.items():
        assert torch.equal(report.masks[name], mask)


def test_recurrent_layers_are_differentiated_without_cudnn():
    torch.manual_seed(0)
    model, seen = torch.nn.LSTM(3, 4, batch_first=True), []
    batches = list(torch.randn(80, 5, 3).split(8))

    def loss_fn(model, batch):
        seen.append(torch.backends.cudnn.enabled or not torch.is_grad_enabled())
        return model(batch)[0].square().mean()

    enabled = torch.backends.cudnn.enabled
    report = prune(model, batches, loss_fn, sparsity=0.5, include="weight*", **FIXED)
    assert report.n_kept == sum(int((p != 0).sum()) for p in model._flat_weights[:2])
    assert False in seen  # with gradients, it was off
    assert torch.backends.cudnn.enabled is enabled


@pytest.mark.gpu
def test_a_recurrent_network_is_pruned_on_a_gpu():
    torch.manual_seed(0)
    model = torch.nn.LSTM(3, 4, batch_first=True).cuda()
    batches = list(torch.randn(64, 5, 3).split(8))

    def loss_fn(model, batch):
        return model(batch)[0].square().mean()

    report = prune(model, batches, loss_fn, sparsity=0.5, include="weight*", **FIXED)
    assert 0 < report.n_kept < 112


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_sparsity_may_be_of_numpy(mlp, kind):
    report = prune(*mlp, sparsity=kind(0.5), **FIXED)
    assert report.n_kept == 112


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_pruned_there(mlp):
    model, batches, loss_fn = mlp
    report = prune(model.cuda(), batches, loss_fn, sparsity=0.8, **QUICK)
    assert report.n_kept == 224 - zeros(model)
    assert report.masks["0.weight"].is_cuda


def test_weights_tied_by_their_memory_are_counted_once_and_collect_both_gradients():
    torch.manual_seed(0)

    def network(tie):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        tie(model)
        return model

    def by_data(model):
        model[2].weight.data = model[0].weight.data

    def by_identity(model):
        model[2].weight = model[0].weight

    batches = list(torch.randn(64, 6).split(8))

    def loss_fn(model, x):
        return (model(x) - x).square().mean()

    found = []
    for tie in (by_data, by_identity):
        model = network(tie)
        report = prune(model, batches, loss_fn, sparsity=0.5, **FIXED)
        assert report.n_kept == 18 == int((model[2].weight != 0).sum())
        found.append(model[0].weight.detach().clone())
    torch.testing.assert_close(*found)


def test_the_random_numbers_of_other_threads_are_their_own(mlp):
    """None of them is drawn twice, and a loader that shuffles is not blamed."""
    model, batches, loss_fn = mlp
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    data = torch.utils.data.TensorDataset(x, y)
    models = [copy.deepcopy(model) for _ in range(3)]
    done, drawn, reports = threading.Event(), [], []

    def draw():
        while not done.is_set():
            drawn.append(float(torch.rand((), dtype=torch.float64)))
            time.sleep(1e-4)

    def work(each):
        loader = torch.utils.data.DataLoader(data, batch_size=24, shuffle=True)
        reports.append(prune(each, loader, loss_fn, sparsity=0.5, **FIXED))

    threads = [threading.Thread(target=work, args=(each,)) for each in models]
    other = threading.Thread(target=draw)
    for thread in (other, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    other.join()
    assert [report.n_kept for report in reports] == [112] * 3
    assert len(drawn) == len(set(drawn)) > 10


def test_the_random_state_of_torch_is_that_of_before(mlp):
    model, batches, loss_fn = mlp
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=24, shuffle=True
    )
    before = torch.get_rng_state()
    prune(model, loader, loss_fn, sparsity=0.5, **FIXED)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_without_a_gradient_is_refused(mlp):
    model, batches, loss_fn = mlp
    before = copy.deepcopy(model.state_dict())

    def elsewhere(_, batch):
        return loss_fn(other, batch)

    other = copy.deepcopy(model)
    for objective in ("gradients", "reconstruction", "auto"):
        options = FIXED | {"objective": objective}
        with (
            pytest.warns(UserWarning, match="does not depend"),
            pytest.raises(ValueError, match="no gradient with respect to any"),
        ):
            prune(model, batches, elsewhere, sparsity=0.5, **options)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_a_scripted_module_is_refused(mlp):
    model, batches, loss_fn = mlp
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model)
        outer = nn.Sequential(torch.jit.script(model[0]), model[1])
    for each, name in ((scripted, "model"), (outer, "module '0'")):
        with pytest.raises(TypeError, match=f"{name} is compiled by torch.jit"):
            prune(each, batches, loss_fn, sparsity=0.5, **FIXED)


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read there")
def test_a_limit_on_the_address_space_is_a_memory_error():
    """Of the process before anything is allocated; of torch where it comes later."""
    code = """
import resource, torch
from chita_torch import prune
from chita_torch.memory import available_bytes
model = torch.nn.Linear(1500, 1500)
batches = list(torch.randn(1024, 1500).split(64))
before = model.weight.detach().clone()
def loss_fn(model, x):
    return (model(x) - x).square().mean()
def greedy(model, x):
    torch.empty(2**40)
    return loss_fn(model, x)
used = [l for l in open("/proc/self/status") if l.startswith("VmSize")][0]
limit = 1024 * int(used.split()[1]) + 2**30
for run in ("before", "within"):
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    assert available_bytes(torch.device("cpu")) <= 2**30
    try:
        prune(model, batches, loss_fn if run == "before" else greedy, sparsity=0.5,
              objective="gradients",
              n_gradients=1000 if run == "before" else 8, samples_per_gradient=1,
              progress=False)
    except MemoryError as error:
        print(run, "MiB" in str(error) or "GiB" in str(error), flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert torch.equal(model.weight, before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:2] == ["before True", "within False"]
