"""Zeros stay zero while training; gradual pruning; resuming from a state_dict."""

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import GradualPruner, keep_pruned, prune  # noqa: E402
from chita_torch.layout import select  # noqa: E402

QUICK = {
    "n_gradients": 20,
    "samples_per_gradient": 4,
    "progress": False,
    "random_state": 0,
}

OPTIMIZERS = {
    "SGD with momentum": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}


def train(model, batches, loss_fn, optimizer, epochs=2, clip=None):
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()


def masks_of(model):
    parameters = dict(model.named_parameters())
    return {name: parameters[name] != 0 for name in select(model)}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_zeros_stay_zero_and_the_rest_trains(case, name):
    torch.manual_seed(0)  # for dropout
    model, batches, loss_fn = case
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, batches, loss_fn, optimizer, epochs=1)  # momentum before pruning
    report = prune(model, batches, loss_fn, sparsity=0.7, **QUICK)
    before = copy.deepcopy(model.state_dict())
    with keep_pruned(model, optimizer) as kept:
        train(model, batches, loss_fn, optimizer, clip=0.5)
        for mask_name, mask in report.masks.items():
            parameter = model.get_parameter(mask_name)
            assert torch.equal(kept.masks[mask_name], mask)
            assert not bool(parameter.detach()[~mask].any())
            assert not torch.equal(parameter[mask], before[mask_name][mask])
    assert model.state_dict().keys() == before.keys()


def test_after_removal_every_weight_trains_again(mlp):
    model, batches, loss_fn = mlp
    prune(model, batches, loss_fn, sparsity=0.7, objective="gradients", **QUICK)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = keep_pruned(model, optimizer)
    kept.remove()
    kept.remove()
    train(model, batches, loss_fn, optimizer)
    assert int((model[0].weight == 0).sum()) < 10


def test_clipping_sees_the_living_weights_only(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.9, **QUICK)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with keep_pruned(model, optimizer, report.masks):
        loss_fn(model, batches[0]).backward()
        for name, mask in report.masks.items():
            gradient = model.get_parameter(name).grad
            assert not bool(gradient[~mask].any())
            assert bool(gradient[mask].any())


def test_what_the_optimizer_remembers_of_pruned_weights_is_forgotten(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, batches, loss_fn, optimizer, epochs=1)
    report = prune(model, batches, loss_fn, sparsity=0.5, **QUICK)
    keep_pruned(model, optimizer)
    mask = report.masks["0.weight"]
    state = optimizer.state[model[0].weight]
    assert not bool(state["exp_avg"][~mask].any())
    assert bool(state["exp_avg"][mask].all())


def test_resume_from_a_state_dict(mlp, tmp_path):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.8, **QUICK)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with keep_pruned(model, optimizer):
        train(model, batches, loss_fn, optimizer, epochs=1)
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    loaded = torch.load(path, weights_only=True)
    again = nn.Sequential(
        nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    again.load_state_dict(loaded["model"])
    optimizer = torch.optim.Adam(again.parameters(), lr=0.01)
    optimizer.load_state_dict(loaded["optimizer"])
    with keep_pruned(again, optimizer) as kept:
        train(again, batches, loss_fn, optimizer)
        for name, mask in report.masks.items():
            assert torch.equal(kept.masks[name], mask)
            assert torch.equal(again.get_parameter(name) != 0, mask)


def test_a_pruned_model_can_be_copied_and_saved_whole(mlp, tmp_path):
    model, batches, loss_fn = mlp
    prune(model, batches, loss_fn, sparsity=0.8, **QUICK)
    keep_pruned(model, torch.optim.Adam(model.parameters())).remove()
    twin = copy.deepcopy(model)
    assert masks_of(twin).keys() == masks_of(model).keys()
    torch.save(model, tmp_path / "model.pt")


def test_gradual_pruning_prunes_at_its_steps_and_holds_in_between(case):
    model, batches, loss_fn = case
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    p = sum(mask.numel() for mask in masks_of(model).values())
    sparsities = []
    with GradualPruner(
        model, optimizer, batches, loss_fn, at=[0, 2, 3], sparsity=0.8, **QUICK
    ) as pruner:
        for epoch in range(1, 5):
            train(model, batches, loss_fn, optimizer, epochs=1)
            report = pruner.step()
            assert (report is not None) == (epoch in (2, 3))
            zeros = sum(int((~mask).sum()) for mask in masks_of(model).values())
            sparsities.append(zeros / p)
    assert len(pruner.reports) == 3
    expected = [0.1, 0.1 + 0.7 * 0.875, 0.8, 0.8]
    assert sparsities == pytest.approx(expected, abs=1 / p)


def test_gradual_pruning_to_a_pattern(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with GradualPruner(
        model, optimizer, batches, loss_fn, at=[1], pattern="2:4", **QUICK
    ) as pruner:
        train(model, batches, loss_fn, optimizer, epochs=1)
        pruner.step()
        train(model, batches, loss_fn, optimizer, epochs=1)
    groups = (model[0].weight != 0).reshape(-1, 4).sum(dim=1)
    assert bool((groups == 2).all())


def test_every_pruning_draws_its_own_samples_fixed_by_one_seed(mlp, monkeypatch):
    model, batches, loss_fn = mlp
    seeds = []

    @functools.wraps(prune)
    def recording(*args, random_state, **options):
        seeds.append(random_state)
        return prune(*args, random_state=random_state, **options)

    monkeypatch.setattr("chita_torch.gradual.prune", recording)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for random_state in (3, 3, None):
        options = {**QUICK, "random_state": random_state}
        pruner = GradualPruner(
            model, optimizer, batches, loss_fn, at=[0, 1], sparsity=0.5, **options
        )
        pruner.step()
        pruner.remove()
    assert seeds[:2] == seeds[2:4]
    assert seeds[0] != seeds[1]
    assert seeds[4:] == [None, None]


def test_gradual_pruning_resumes(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    options = {"at": [1, 3], "sparsity": 0.6, **QUICK}
    pruner = GradualPruner(model, optimizer, batches, loss_fn, **options)
    pruner.step()
    pruner.step()
    pruner.remove()
    saved = pruner.state_dict()
    again = GradualPruner(model, optimizer, batches, loss_fn, **options)
    again.load_state_dict(saved)
    for name, mask in masks_of(model).items():
        assert torch.equal(again.kept.masks[name], mask)
    report = again.step()
    assert report.n_kept == round(0.4 * 224)
    with pytest.raises(RuntimeError, match="has pruned already"):
        again.load_state_dict(saved)


def test_resuming_does_not_repeat_a_pruning_at_the_start(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    options = {"at": [0, 2, 4], "sparsity": 0.8, **QUICK}
    with GradualPruner(model, optimizer, batches, loss_fn, **options) as pruner:
        for _ in range(3):
            train(model, batches, loss_fn, optimizer, epochs=1)
            pruner.step()
        saved = pruner.state_dict()
    before, masks = copy.deepcopy(model.state_dict()), masks_of(model)
    again = GradualPruner(model, optimizer, batches, loss_fn, resume=saved, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, mask in masks.items():
        assert torch.equal(again.kept.masks[name], mask)
    assert again.step().n_kept == round((1 - 0.8) * 224)


def test_an_interrupted_pruning_is_made_by_the_next_call(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    fails = [True]

    def loss_once(model, batch):
        if fails.pop() if fails else False:
            raise KeyboardInterrupt
        return loss_fn(model, batch)

    pruner = GradualPruner(
        model, optimizer, batches, loss_once, at=[1], sparsity=0.5, **QUICK
    )
    with pytest.raises(KeyboardInterrupt):
        pruner.step()
    assert pruner.state_dict() == {"count": 0}
    assert pruner.step().n_kept == 112


def test_options_are_checked_before_training_begins(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for options, error, match in [
        ({"n_gradient": 3}, TypeError, "n_gradient"),
        ({"density": 0.1}, ValueError, "sparsity or density, not both"),
        ({"sparsity": None}, ValueError, "nothing says how much to prune"),
        ({"at": [2.5]}, ValueError, r"at=\[2.5\] must hold"),
        ({"at": 5}, ValueError, "at=5 must hold"),
        ({"at": ["a"]}, ValueError, "must hold the numbers"),
        ({"resume": {"count": -1}}, ValueError, "count=-1"),
    ]:
        with pytest.raises(error, match=match):
            GradualPruner(
                model,
                optimizer,
                batches,
                loss_fn,
                **{"at": [1], "sparsity": 0.5, **options},
            )


def test_a_removed_hold_cannot_be_entered_again(mlp):
    model, *_ = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with keep_pruned(model, optimizer) as hold:
        pass
    with pytest.raises(RuntimeError, match="was removed"), hold:
        pass


def test_bad_arguments(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer"):
        keep_pruned(model, "Adam")
    with pytest.raises(ValueError, match=r"masks\['0.weight'\] fits no parameter"):
        keep_pruned(model, optimizer, {"0.weight": torch.ones(3, 3) > 0})
    for masks, match in [
        ({"0.weight": torch.ones(10, 12)}, "must be a torch.Tensor of bool"),
        ({"0.weight": [[True]]}, "must be a torch.Tensor of bool; got list"),
        ([], "must map names of parameters"),
    ]:
        with pytest.raises(TypeError, match=match):
            keep_pruned(model, optimizer, masks)
    with pytest.raises(ValueError, match=r"at=\[\]"):
        GradualPruner(model, optimizer, batches, loss_fn, at=[], sparsity=0.5)
    with pytest.raises(ValueError, match="sparsity=2"):
        GradualPruner(model, optimizer, batches, loss_fn, at=[1], sparsity=2)
    with pytest.raises(ValueError, match="random_state=-1 must be an integer >= 0"):
        GradualPruner(
            model, optimizer, batches, loss_fn, at=[1], sparsity=0.5, random_state=-1
        )


# --- What wraps a model or an optimizer -----------------------------------------------


class Wrapping(torch.optim.Optimizer):
    """As accelerate's: a subclass whose own __init__ never ran."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters())


def test_an_optimizer_that_wraps_another_stands_for_it(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.5, ridge=0.1, **QUICK)
    optimizer = Wrapping(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    with keep_pruned(model, optimizer):
        train(model, batches, loss_fn, optimizer)
    assert zeros(model) == 224 - report.n_kept


def test_several_optimizers_are_followed(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.5, ridge=0.1, **QUICK)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    pair = [
        torch.optim.SGD(matrices, lr=0.1, momentum=0.9),
        torch.optim.AdamW(others, lr=0.01),
    ]
    with keep_pruned(model, pair):
        for batch in batches:
            for each in pair:
                each.zero_grad()
            loss_fn(model, batch).backward()
            for each in pair:
                each.step()
    assert zeros(model) == 224 - report.n_kept


def test_an_optimizer_of_another_model_is_refused(mlp):
    model, *_ = mlp
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds no parameter of the model"):
        keep_pruned(model, optimizer)
    with pytest.raises(ValueError, match="empty list"):
        keep_pruned(model, [])


def test_names_are_those_of_the_model_inside_its_wrappers(mlp):
    model, batches, loss_fn = mlp
    names = {"0.weight", "2.weight", "4.weight"}
    parallel = nn.DataParallel(model).cpu()  # also where there are GPUs to move to
    parallel.device_ids = []
    for wrapped in (parallel, torch.compile(model, backend="eager")):
        report = prune(wrapped, batches, loss_fn, sparsity=0.5, ridge=0.1, **QUICK)
        assert report.masks.keys() == names
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
        prefix = "module." if isinstance(wrapped, nn.DataParallel) else "_orig_mod."
        masks = {prefix + name: mask for name, mask in report.masks.items()}
        for given in (None, report.masks, masks):
            with keep_pruned(wrapped, optimizer, given) as hold:
                assert hold.masks.keys() == names
                train(model, batches, loss_fn, optimizer, epochs=1)
            assert zeros(model) == 224 - report.n_kept


# --- Before the first pruning, and at failures ----------------------------------------


def test_a_weight_that_begins_at_zero_trains_until_it_is_pruned(mlp):
    model, batches, loss_fn = mlp
    with torch.no_grad():
        model[4].weight.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradualPruner(
        model, optimizer, batches, loss_fn, at=[10**6], sparsity=0.5, **QUICK
    ):
        train(model, batches, loss_fn, optimizer, epochs=1)
    assert int((model[4].weight != 0).sum()) > 12  # of units that are alive


def test_a_constructor_that_fails_leaves_no_hook(mlp):
    model, batches, _ = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def failing(model, batch):
        raise RuntimeError("now")

    with pytest.raises(RuntimeError, match="now"):
        GradualPruner(model, optimizer, batches, failing, at=[0], sparsity=0.5, **QUICK)
    assert not optimizer._optimizer_step_post_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_resumed_pruner_holds_from_the_first_pruning_on(mlp):
    model, batches, loss_fn = mlp
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = (model, optimizer, batches, loss_fn)
    options = {"at": [2, 50], "sparsity": 0.5, **QUICK}
    with GradualPruner(*arguments, **options) as pruner:
        pruner.step()
        pruner.step()
        state = pruner.state_dict()
    gone = zeros(model)
    assert gone > 0
    with GradualPruner(*arguments, resume=state, **options):
        train(model, batches, loss_fn, optimizer, epochs=1)
    assert zeros(model) == gone
