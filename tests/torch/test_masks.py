"""What was pruned stays so: in copies, averages, files, and in other models."""

import copy
import io
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

from chita_torch import (  # noqa: E402
    PruningReport,
    export_sparse,
    keep_pruned,
    load_sparse,
    prune,
    read_masks,
)

QUICK = {
    "n_gradients": 20,
    "samples_per_gradient": 4,
    "ridge": 0.1,
    "progress": False,
    "random_state": 0,
}


def steps(model, optimizer, batches, loss_fn):
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def zeros(model):
    return {n: p == 0 for n, p in model.named_parameters() if p.ndim > 1}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def pruned(mlp):
    model, batches, loss_fn = mlp
    report = prune(model, batches, loss_fn, sparsity=0.8, **QUICK)
    return model, batches, loss_fn, report


# --- Masks ----------------------------------------------------------------------------


def test_masks_are_read_off_the_zeros(pruned):
    model, _, _, report = pruned
    assert same(read_masks(model), dict(report.masks))
    assert list(read_masks(model, include="2")) == ["2.weight"]


def test_a_report_prunes_another_model_of_the_same_architecture(pruned):
    model, *_, report = pruned
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    before = copy.deepcopy(other.state_dict())
    report.apply_to(other)
    for name, parameter in other.named_parameters():
        mask = report.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, before[name] * mask)
    for weights in (model, model.state_dict()):
        report.apply_to(other, weights=weights)
        for name in report.masks:
            assert torch.equal(other.state_dict()[name], model.state_dict()[name])


def test_a_report_that_does_not_fit_changes_nothing(pruned):
    model, *_, report = pruned
    other = copy.deepcopy(model)
    other[4] = nn.Linear(8, 2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"masks\['4.weight'\] fits no parameter"):
        report.apply_to(other)
    with pytest.raises(ValueError, match=r"weights has no '4\.weight' of shape"):
        report.apply_to(model, weights=other)
    assert same(dict(other.state_dict()), dict(before))


@pytest.mark.parametrize("inside", [False, True])
def test_names_are_seen_through_a_compiled_module(pruned, inside):
    model, *_, report = pruned
    other = copy.deepcopy(model)
    if inside:
        other[2] = torch.compile(other[2], backend="eager")
        assert "2._orig_mod.weight" in dict(other.named_parameters())
    else:
        other = torch.compile(other, backend="eager")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1.0)
    report.apply_to(other)
    total = sum(int((p == 0).sum()) for p in other.parameters())
    assert total == sum(int((~mask).sum()) for mask in report.masks.values())


# --- Copies and averages --------------------------------------------------------------


def test_a_copy_of_a_held_model_alone_trains_freely(pruned):
    model, batches, loss_fn, _ = pruned
    keep_pruned(model, sgd(model))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(zeros(other), zeros(model))
        steps(other, sgd(other), batches, loss_fn)
        assert not same(zeros(other), zeros(model))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_hold_copied_with_its_model_and_optimizer_holds_the_copies(pruned, way):
    model, batches, loss_fn, _ = pruned
    optimizer = sgd(model)
    hold = keep_pruned(model, optimizer)
    both = model, optimizer, hold
    if way == "deepcopy":
        other, its, its_hold = copy.deepcopy(both)
    else:
        other, its, its_hold = pickle.loads(pickle.dumps(both))
    before = zeros(model)
    hold.remove()
    steps(other, its, batches, loss_fn)
    assert same(zeros(other), before)
    steps(model, optimizer, batches, loss_fn)
    assert not same(zeros(model), before)
    its_hold.remove()
    steps(other, its, batches, loss_fn)
    assert not same(zeros(other), before)


def test_a_removed_hold_is_copied_as_removed(pruned):
    model, batches, loss_fn, _ = pruned
    optimizer = sgd(model)
    hold = keep_pruned(model, optimizer)
    hold.remove()
    other, its, _ = copy.deepcopy((model, optimizer, hold))
    steps(other, its, batches, loss_fn)
    assert not same(zeros(other), zeros(model))


def test_an_average_of_a_held_model_has_its_zeros(pruned):
    model, batches, loss_fn, _ = pruned
    optimizer = sgd(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with keep_pruned(model, optimizer):
        steps(model, optimizer, batches, loss_fn)
        average.update_parameters(model)
    assert same(zeros(average.module), zeros(model))


def test_an_average_that_began_before_is_pruned_by_the_report(mlp):
    model, batches, loss_fn = mlp
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    report = prune(model, batches, loss_fn, sparsity=0.8, **QUICK)
    average.update_parameters(model)
    assert not same(zeros(average.module), zeros(model))
    report.apply_to(average)
    assert same(zeros(average.module), zeros(model))


def test_the_hold_survives_a_step_that_a_gradient_scaler_skips(pruned):
    model, batches, loss_fn, _ = pruned
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = zeros(model)
    with keep_pruned(model, optimizer):
        for number, batch in enumerate(batches):
            optimizer.zero_grad()
            loss = loss_fn(model, batch) * (float("inf") if number == 1 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert same(zeros(model), before)


# --- Files ----------------------------------------------------------------------------

READ = """
import sys, torch
from torch import nn
model = nn.Sequential(
    nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
)
folder, how = sys.argv[1:]
if how == "dense":
    model.load_state_dict(torch.load(folder + "/dense.pt", weights_only=True))
elif how == "safetensors":
    from safetensors.torch import load_file
    model.load_state_dict(load_file(folder + "/dense.safetensors"))
elif how == "sparse":
    from chita_torch import load_sparse
    load_sparse(model, torch.load(folder + "/sparse.pt", weights_only=True))
elif how == "export":
    import chita_torch
    export = torch.load(folder + "/export.pt", weights_only=True)
    model.load_state_dict(export.to_dense())
masks = torch.load(folder + "/masks.pt", weights_only=True)
parameters = dict(model.named_parameters())
print(all(torch.equal(mask, parameters[name] != 0) for name, mask in masks.items()))
dense = torch.load(folder + "/dense.pt", weights_only=True)
print(all(torch.equal(dense[name], v) for name, v in model.state_dict().items()))
"""


@pytest.mark.parametrize("how", ["dense", "sparse", "export", "safetensors"])
def test_another_process_reads_the_weights_and_the_masks(pruned, tmp_path, how):
    model, *_, report = pruned
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    torch.save(dict(report.masks), tmp_path / "masks.pt")
    torch.save(export_sparse(model).tensors, tmp_path / "sparse.pt")
    torch.save(export_sparse(model), tmp_path / "export.pt")
    if how == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
        from safetensors.torch import save_model

        save_model(model, str(tmp_path / "dense.safetensors"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path), how],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_report_is_read_with_weights_only(pruned):
    *_, report = pruned
    file = io.BytesIO()
    torch.save(report, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    assert isinstance(again, PruningReport)
    assert str(again) == str(report)
    assert same(dict(again.masks), dict(report.masks))


def test_convolutions_and_stacks_are_stored_sparse_and_loaded_again(conv):
    model, batches, loss_fn = conv
    report = prune(model, batches, loss_fn, sparsity=0.9, **QUICK)
    small = export_sparse(model)
    forms = {row.name: row.form for row in small.rows}
    assert (
        forms["stem.weight"] == forms["grouped.weight"] == forms["up.weight"] == "csr"
    )
    file = io.BytesIO()
    torch.save(small.tensors, file)
    file.seek(0)
    other = type(model)()
    load_sparse(other, torch.load(file, weights_only=True))
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert same(dict(small.to_dense()), dict(model.state_dict()))
    assert same(read_masks(other), dict(report.masks))
    kept = sum(int(m.sum()) for m in report.masks.values())
    rows = 8 + 8 + 8 + 3 + 4  # of the four weights, and one pointer more for each
    others = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    others -= 4 * report.n_weights
    assert small.n_bytes <= 8 * kept + 4 * rows + others


def test_a_state_that_does_not_fit_is_refused_by_load_state_dict(pruned):
    model, *_ = pruned
    tensors = export_sparse(model).tensors
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_sparse(nn.Sequential(nn.Linear(5, 5)), {"0.weight": tensors["0.weight"]})


def test_save_pretrained_keeps_the_zeros(tmp_path):
    transformers = pytest.importorskip("transformers", reason="no transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    batches = list(torch.randint(32, (32, 8)).split(8))

    def loss(net, ids):
        return net(input_ids=ids, labels=ids).loss

    report = prune(model, batches, loss, sparsity=0.7, **QUICK)
    assert "transformer.h.0.attn.c_attn.weight" in report.masks
    model.save_pretrained(tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert same(read_masks(again), dict(report.masks))
    with torch.no_grad():
        assert torch.equal(again(batches[0]).logits, model.eval()(batches[0]).logits)


def test_a_merged_adapter_has_the_zeros_of_its_base_again_where_asked(mlp):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model, batches, loss_fn = mlp
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    report = prune(adapted, batches, loss_fn, sparsity=0.8, **QUICK)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.normal_()
    merged = adapted.merge_and_unload()
    pruned = sum(int((~mask).sum()) for mask in report.masks.values())
    count = lambda: sum(int((p == 0).sum()) for p in merged.parameters())  # noqa: E731
    assert count() < pruned
    report.apply_to(merged)
    assert count() == pruned
