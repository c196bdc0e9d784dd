"""Budgets in operations, bytes or costs by name; floors by name."""

import copy

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import prune  # noqa: E402
from chita_torch.costs import costs_of, divide  # noqa: E402
from chita_torch.layout import Layout  # noqa: E402

QUICK = {
    "n_gradients": 20,
    "samples_per_gradient": 4,
    "progress": False,
    "random_state": 0,
}


def run(model, batch):
    return model(batch[0])


def test_operations_are_two_for_each_weight_and_position(conv):
    model, batches, _ = conv
    layout = Layout.of(model)
    costs = dict(
        zip(
            layout.names,
            costs_of(model.eval(), run, batches[:2], layout, "flops"),
            strict=True,
        )
    )
    assert costs == {
        "stem.weight": 2 * 36,  # 6 x 6 positions, with padding
        "grouped.weight": 2 * 4,  # 3 x 3 at steps of 2
        "up.weight": 2 * 9,  # 2 x 2 to 3 x 3, over zeros put in
        "head.weight": 2,
    }


def test_bytes_and_names():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, dtype=torch.float64))
    layout = Layout.of(model)
    assert costs_of(model, run, [], layout, "bytes") == [4, 8]
    assert costs_of(model, run, [], layout, {"1": 2.5, "*": 7}) == [7, 2.5]
    assert costs_of(model, run, [], layout, {"0*": 3}) == [3, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_division_is_greedy_and_never_above_its_budget(seed):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout.of(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
    value = torch.rand(50, generator=generator)
    budget = divide(layout, value, [3.0, 7.0], 0.7, [2, 5])
    whole = 3.0 * 30 + 7.0 * 20
    assert budget.before == whole
    assert budget.after == 3.0 * budget.kept[0] + 7.0 * budget.kept[1]
    assert 0.3 * whole - 7 < budget.after <= 0.3 * whole
    assert budget.kept[0] >= 2
    assert budget.kept[1] >= 5
    one = value[:30].sort(descending=True).values / 3
    other = value[30:].sort(descending=True).values / 7
    if budget.kept[1] > 5:  # the last one taken is worth more than the first one left
        assert other[budget.kept[1] - 1] >= one[budget.kept[0]]


@pytest.mark.parametrize("objective", ["gradients", "reconstruction", "auto"])
@pytest.mark.parametrize("cost", ["flops", "bytes", {"head": 9.0}])
def test_the_whole_cost_is_within_the_budget(conv, objective, cost):
    model, batches, loss_fn = conv
    report = prune(
        model,
        batches,
        loss_fn,
        sparsity=0.8,
        cost=cost,
        objective=objective,
        recalibrate_batchnorm=False,
        **QUICK,
    )
    each = {
        "flops": {"stem": 72, "grouped": 8, "up": 18, "head": 2},
        "bytes": dict.fromkeys(("stem", "grouped", "up", "head"), 4),
    }.get(str(cost), {"stem": 1, "grouped": 1, "up": 1, "head": 9})
    before = after = 0.0
    for name, per_weight in each.items():
        weight = model.get_submodule(name).weight
        before += per_weight * weight.numel()
        after += per_weight * int((weight != 0).sum())
    assert 0.2 * before - max(each.values()) < after <= 0.2 * before
    assert any(f"{before:,.0f} -> {after:,.0f}" in note for note in report.notes)


def test_operations_are_saved_where_they_are_spent(conv):
    model, batches, loss_fn = conv
    density = {}
    for cost in ("weights", "flops"):
        net = copy.deepcopy(model)
        prune(net, batches, loss_fn, sparsity=0.6, cost=cost, **QUICK)
        density[cost] = float((net.stem.weight != 0).float().mean())
    assert density["flops"] < density["weights"]


@pytest.mark.parametrize("objective", ["gradients", "auto"])
def test_floors_by_name_are_kept(mlp, objective):
    model, batches, loss_fn = mlp
    report = prune(
        model,
        batches,
        loss_fn,
        sparsity=0.9,
        min_density={"4": 0.5, "*": 0.02},
        objective=objective,
        **QUICK,
    )
    kept = [layer.n_kept for layer in report.layers]
    assert sum(kept) == 22
    assert kept[2] >= 12
    assert kept[0] >= 2
    assert kept[1] >= 2


def test_floors_go_with_a_cost(mlp):
    model, batches, loss_fn = mlp
    report = prune(
        model,
        batches,
        loss_fn,
        sparsity=0.8,
        cost={"0": 2.0},
        min_density={"4": 0.75},
        **QUICK,
    )
    assert report.layers[2].n_kept >= 18


def test_costs_that_make_no_sense_are_refused(mlp):
    model, batches, loss_fn = mlp
    for cost in ("time", {}, {"0": 0.0}, {"0": "much"}, 3):
        with pytest.raises(ValueError, match="cost="):
            prune(model, batches, loss_fn, sparsity=0.5, cost=cost, **QUICK)
    for options in ({"pattern": "2:4"}, {"sparsity": 0.5, "scope": "layer"}):
        with pytest.raises(ValueError, match="divides one budget"):
            prune(model, batches, loss_fn, cost="flops", **options, **QUICK)
    with pytest.raises(ValueError, match="more than the density asked for"):
        prune(model, batches, loss_fn, sparsity=0.9, min_density={"0": 0.5}, **QUICK)
