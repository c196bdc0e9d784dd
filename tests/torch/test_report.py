"""What is said of a pruning, and the export of what is left."""

import json
import math
import re

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import LayerReport, PruningReport, export_sparse, prune  # noqa: E402

QUICK = {
    "n_gradients": 20,
    "samples_per_gradient": 4,
    "progress": False,
    "random_state": 0,
}


@pytest.fixture
def report(mlp):
    return prune(*mlp, sparsity=0.75, stages=2, **QUICK)


def test_the_table_shows_every_layer_and_the_total(report):
    text = str(report)
    assert "keep_pruned(model, optimizer)" in text.splitlines()[-2]
    assert "export_sparse" in text.splitlines()[-1]
    for layer in report.layers:
        (line,) = (row for row in text.splitlines() if row.startswith(layer.name))
        assert f"{layer.n_kept}" in line.split()
        assert f"{layer.sparsity:.2%}" in line.split()
    assert "75.00%" in text
    assert f"{report.loss_after:.4f}" in text


def test_what_is_not_known_is_left_blank(mlp):
    report = prune(*mlp, sparsity=0.5, pattern="units", **QUICK)
    assert math.isnan(report.stages[0].predicted_change)
    assert "nan" not in str(report)


def test_the_bar_counts_rows_of_gradients_or_layers_solved(mlp, capsys):
    options = {**QUICK, "progress": True, "calibration": 0.0, "ridge": 1e-2}
    prune(*mlp, sparsity=0.2, objective="gradients", first_order=True, **options)
    assert re.search(r"gradients \(20 x .* 20/20 .* rows", capsys.readouterr().err)
    prune(*mlp, sparsity=0.4, objective="reconstruction", **options)
    n_layers = sum(isinstance(module, nn.Linear) for module in mlp[0].modules())
    assert re.search(rf"solving \(.* {n_layers} layers", capsys.readouterr().err)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_each_layer_has_a_curve_of_what_its_sparsity_did(mlp, scope):
    options = {**QUICK, "objective": "reconstruction", "scope": scope}
    report = prune(*mlp, sparsity=0.8, stages=3, **options)
    assert list(report.sensitivity) == [layer.name for layer in report.layers]
    for layer in report.layers:
        curve = report.sensitivity[layer.name]
        assert len(curve) == 3
        assert curve[-1][0] == pytest.approx(layer.sparsity)
        assert curve[0][0] < curve[-1][0]
        assert curve[-1][1] == pytest.approx(layer.error, nan_ok=True)
        losses = [stage.chosen.loss for stage in report.stages]
        assert [loss for _, _, loss in curve] == losses[: len(curve)]


def test_to_dict_is_plain_data(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert data["n_kept"] == 56
    assert [x["n_weights"] for x in data["layers"]] == [120, 80, 24]
    assert data["stages"][1]["chosen"] in data["stages"][1]["trials"]


def test_gap_is_nan_where_no_bound_is_known(report):
    for stage in report.stages:
        if math.isnan(stage.lower_bound):
            assert math.isnan(stage.gap)
        else:
            expected = (stage.objective - stage.lower_bound) / stage.objective
            assert stage.gap == pytest.approx(expected)


def test_a_single_stage_is_certified(mlp):
    options = {**QUICK, "objective": "gradients"}
    (stage,) = prune(*mlp, sparsity=0.5, ridge=0.1, **options).stages
    assert stage.solver == "dual"
    assert stage.lower_bound <= stage.objective
    assert stage.gap < 0.05


def test_plot_draws_layers_and_losses(report):
    plt = pytest.importorskip("matplotlib.pyplot")
    left, right = report.plot()
    assert [bar.get_width() for bar in left.patches] == [
        layer.sparsity for layer in report.layers
    ]
    assert right.lines[0].get_ydata()[0] == report.loss_before
    assert len(right.lines[0].get_ydata()) == 3
    axes = plt.subplots(1, 2)[1]
    assert report.plot(tuple(axes))[0] is axes[0]
    plt.close("all")


def test_a_layer_may_keep_everything():
    layer = LayerReport("fc", (2, 2), 4, 4, 0.0)
    assert PruningReport((layer,), (), {}).sparsity == 0


def test_export_restores_the_model_and_counts_bytes(mlp, tmp_path):
    model, *_ = mlp
    prune(*mlp, sparsity=0.9, **QUICK)
    small = export_sparse(model)
    torch.save(small.tensors, tmp_path / "small.pt")
    restored = small.to_dense()
    assert restored.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(restored[name], tensor)
    rows = {row.name: row for row in small.rows}
    kept = int((model[0].weight != 0).sum())
    assert rows["0.weight"].form == "csr"
    assert rows["0.weight"].n_bytes == 8 * kept + 4 * 11
    stored = small.tensors["0.weight"]
    parts = (stored.values(), stored.col_indices(), stored.crow_indices())
    assert rows["0.weight"].n_bytes == sum(t.numel() * t.element_size() for t in parts)
    assert rows["0.bias"].form == "dense"
    assert small.dense_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert small.n_bytes < small.dense_bytes
    assert "saved" in str(small)


def test_export_keeps_what_is_tied_and_what_is_no_tensor(tmp_path):
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(100, 32)
            self.head = nn.Linear(32, 100, bias=False)
            self.head.weight = self.embed.weight

        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            self.version = state["version"]

    model = Language()
    with torch.no_grad():
        model.embed.weight.view(-1)[: 32 * 80] = 0
    small = export_sparse(model)
    assert [row.form for row in small.rows] == ["csr", "tied"]
    assert small.dense_bytes == 4 * 3200
    assert small.n_bytes == 8 * 640 + 4 * 101
    torch.save(small.tensors, tmp_path / "small.pt")
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    size = {
        name: (tmp_path / f"{name}.pt").stat().st_size for name in ("small", "dense")
    }
    assert size["small"] < size["dense"]
    other = Language()
    other.load_state_dict(small.to_dense())
    assert torch.equal(other.head.weight, model.head.weight)
    assert other.version == 3


def test_export_of_a_model_without_weights_prints():
    assert "0 -> 0 bytes" in str(export_sparse(nn.ReLU()))


def test_export_keeps_dense_what_would_not_be_smaller():
    small = export_sparse(nn.Linear(8, 8))
    assert [row.form for row in small.rows] == ["dense", "dense"]
    assert small.n_bytes == small.dense_bytes


@pytest.mark.gpu
def test_two_of_four_is_packed_on_a_gpu():
    layer = nn.Linear(128, 64, bias=False, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        layer.weight.reshape(-1, 4)[:, 2:] = 0
    small = export_sparse(layer)
    assert small.rows[0].form == "2:4"
    assert torch.equal(small.to_dense()["weight"], layer.weight)
