"""Whole units: which there are, which stay, and what is left without the others."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from chita_torch import GradualPruner, compact, keep_pruned, prune  # noqa: E402
from chita_torch.attention import FewerHeads  # noqa: E402
from chita_torch.layout import Layout  # noqa: E402
from chita_torch.tracing import find_families  # noqa: E402


def loss_fn(model, batch):
    out = model(batch[0])
    while out.ndim > 2:
        out = out.mean(dim=1)
    return F.cross_entropy(out, batch[1])


def data(shape, n=96, size=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator)
    y = (x.flatten(1)[:, 0] > 0).long() + (x.flatten(1)[:, 1] > 0).long()
    return list(zip(x.split(size), y.split(size), strict=True))


class Residual(nn.Module):
    """A channel that a stem and two blocks share; BatchNorm, depthwise, flatten."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(12)
        self.back = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8 * 4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner_norm(self.inner(self.deep(x)))))
        return self.head(torch.flatten(F.max_pool2d(x, 2), 1))


class Gated(nn.Module):
    """A gated layer (as in language models) in a residual, behind a norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.gate, self.up = nn.Linear(6, 10), nn.Linear(6, 10, bias=False)
        self.down = nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Conv1D(nn.Module):
    """As in transformers: the weight is (in, out)."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.nx, self.nf = n_in, n_out
        self.weight = nn.Parameter(torch.randn(n_in, n_out) / n_in**0.5)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight)
        return flat.reshape(*x.shape[:-1], self.nf)


class Attentive(nn.Module):
    """Self-attention over rows, then over other rows; samples first, or not."""

    def __init__(self, batch_first=True, **sizes):
        super().__init__()
        self.batch_first = batch_first
        self.block = nn.TransformerEncoderLayer(
            8, 4, 12, batch_first=batch_first, norm_first=True
        )
        self.cross = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.block(x)
        x = x + self.cross(x, x.flip(1), x.flip(1), need_weights=False)[0]
        return self.head(x.mean(dim=1 if self.batch_first else 0))


def mlp():
    return nn.Sequential(
        nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 3)
    )


def transposed():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(45, 3),
    )  # fmt: skip


def stacked():
    return nn.Sequential(Conv1D(7, 12), nn.GELU(), Conv1D(12, 3))


NETS = {
    "mlp": (mlp, (7,)),
    "residual": (Residual, (3, 4, 4)),
    "gated": (Gated, (5, 6)),
    "transposed": (transposed, (2, 4, 4)),
    "conv1d of transformers": (stacked, (4, 7)),
    "attention": (Attentive, (5, 8)),
    "attention, sequence first": (lambda: Attentive(batch_first=False), (5, 8)),
    "attention, apart": (lambda: Attentive(kdim=8, vdim=8), (5, 8)),
}


def make(name):
    make_net, shape = NETS[name]
    torch.manual_seed(0)
    model, batches = make_net(), data(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        for batch in batches:
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), batches


def families_of(model, batches):
    families, _ = find_families(model.eval(), loss_fn, batches[0], Layout.of(model))
    return {
        (family.writers, tuple(p.name for p in family.readers)): len(family)
        for family in families
    }


def outputs(model, x):
    with torch.no_grad():
        return model.eval()(x)


def pruned(model, batches, **options):
    options = {"random_state": 0, "progress": False, "pattern": "units"} | options
    return prune(model, batches, loss_fn, **options)


def test_units_are_found_through_activations_additions_norms_and_products():
    expected = {
        "mlp": {
            (("0.weight",), ("2.weight",)): 12,
            (("2.weight",), ("4.weight",)): 9,
        },
        "residual": {
            # Depthwise filters are rows of what they filter.
            (("back.weight", "deep.weight", "stem.weight"),
             ("inner.weight", "head.weight")): 8,
            (("inner.weight",), ("back.weight",)): 12,
        },
        "gated": {(("gate.weight", "up.weight"), ("down.weight",)): 10},
        "transposed": {
            (("0.weight",), ("2.weight",)): 6,
            (("2.weight",), ("5.weight",)): 5,
        },
        "conv1d of transformers": {(("0.weight",), ("2.weight",)): 12},
        "attention": {
            (("block.linear1.weight",), ("block.linear2.weight",)): 12,
            (("block.self_attn.in_proj_weight",),
             ("block.self_attn.out_proj.weight",)): 4,  # heads
            (("cross.in_proj_weight",), ("cross.out_proj.weight",)): 2,
        },
    }  # fmt: skip
    for name, found in expected.items():
        assert families_of(*make(name)) == found, name


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("fold", [True, False])
def test_the_sliced_model_gives_what_the_masked_one_gives(name, fold):
    model, batches = make(name)
    x = batches[0][0]
    report = pruned(model, batches, sparsity=0.5, scope="layer")
    small = compact(model, x, fold=fold)
    assert torch.allclose(outputs(small, x), outputs(model, x), atol=1e-5)
    for units in report.units:
        assert units.n_kept == round(0.5 * units.n_units)
    left = sum(p.numel() for p in small.parameters() if p.ndim > 1)
    assert left == report.n_kept
    if not (fold or "attention" in name):
        assert [type(m) for m in small.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("k", [2, 4, 6])
def test_the_units_kept_are_the_best_of_all_subsets(k):
    """The oracle: every subset, least squares for the outputs of the layer above."""
    torch.manual_seed(k)
    model = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    batches = [(x.double(), y) for x, y in data((7,))]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    hidden = outputs(model[:2], x)
    logits = model(x)
    total = F.cross_entropy(logits, y, reduction="sum")
    (slopes,) = torch.autograd.grad(total, logits)
    g = slopes.square().mean(dim=0)
    H = hidden.T @ hidden / len(x)
    H = (H + 0.01 * H.diagonal().mean() * torch.eye(8)).numpy()
    W = model[2].weight.detach().numpy()

    def error(S):
        refit = np.zeros_like(W)
        refit[:, S] = np.linalg.solve(H[np.ix_(S, S)], (W @ H)[:, S].T).T
        D = refit - W
        return float(np.sum(g.numpy() * np.sum((D @ H) * D, axis=1)))

    best = min(itertools.combinations(range(8), k), key=lambda S: error(list(S)))
    report = pruned(
        model, batches, scope={"0": 1 - k / 8}, calibration=0.0, random_state=0
    )
    kept = report.masks["2.weight"].any(dim=0).nonzero().flatten().tolist()
    assert kept == list(best)
    assert torch.equal(
        report.masks["0.weight"].all(dim=1), report.masks["2.weight"].any(dim=0)
    )


def test_what_is_left_makes_up_for_what_is_gone():
    model, batches = make("mlp")
    dense = copy.deepcopy(model)
    report = pruned(model, batches, sparsity=0.5, scope="layer")
    report.apply_to(dense)  # the same units, nothing refitted
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert loss_fn(model, (x, y)) < 0.9 * loss_fn(dense, (x, y))


@pytest.mark.parametrize("cost", ["weights", "flops", "bytes", {"0": 5.0}])
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_a_budget_is_met_by_removing_no_unit_too_many(name, cost):
    model, batches = make(name)
    if name == "residual" and isinstance(cost, dict):
        cost = {"inner": 5.0}
    layout = Layout.of(model)
    report = pruned(model, batches, sparsity=0.4, cost=cost)
    before, after = report.sizes[cost if isinstance(cost, str) else "weights"]
    if isinstance(cost, dict):
        each = [5.0 if n.startswith((*cost,)) else 1.0 for n in layout.names]
        kept = [int(report.masks[n].sum()) for n in layout.names]
        before, after = np.dot(each, layout.sizes()), np.dot(each, kept)
    assert after <= 0.6 * before
    largest = 0.25 * before  # no unit of these costs more
    assert after > 0.6 * before - largest
    assert all(units.n_kept >= 1 for units in report.units)


def test_operations_are_those_that_torch_counts_in_the_smaller_model():
    model, batches = make("residual")
    x = batches[0][0][:1]
    report = pruned(model, batches, sparsity=0.5, cost="flops")
    for net, expected in zip(
        (model, compact(model, x, fold=False)), report.sizes["flops"], strict=True
    ):
        with FlopCounterMode(display=False) as counter:
            outputs(net, x)
        assert counter.get_total_flops() == pytest.approx(expected)


def test_floors_hold_by_layer():
    model, batches = make("mlp")
    report = pruned(model, batches, sparsity=0.4, min_density={"0": 0.75, "2": 0.3})
    assert report.units[0].n_kept >= 9
    assert report.units[1].n_kept >= 3


def test_a_layer_keeps_one_unit_at_least():
    model, batches = make("mlp")
    report = pruned(model, batches, sparsity=0.999, scope="layer")
    assert [units.n_kept for units in report.units] == [1, 1]


def test_nothing_but_the_masked_weights_changes():
    model, batches = make("residual")
    model.train()
    before = copy.deepcopy(model.state_dict())
    report = pruned(model, batches, sparsity=0.5, recalibrate_batchnorm=False)
    assert model.training
    after = model.state_dict()
    for name, tensor in before.items():
        if name in report.masks:
            assert not after[name][~report.masks[name]].any()
            assert after[name][report.masks[name]].all()
        else:
            assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("stages", [1, 3])
def test_stages_and_the_hold_keep_what_is_gone(stages):
    model, batches = make("residual")
    report = pruned(model, batches, sparsity=0.5, stages=stages, cost="flops")
    assert len(report.stages) == stages
    gone = [int((~mask).sum()) for mask in report.masks.values()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with keep_pruned(model, optimizer):
        for batch in batches:
            loss_fn(model, batch).backward()
            optimizer.step()
    for (name, mask), n in zip(report.masks.items(), gone, strict=True):
        weight = model.get_parameter(name)
        assert int((weight == 0).sum()) == n
        assert not weight[~mask].any()


def test_gradual_pruning_removes_more_units_each_time_and_none_returns():
    model, batches = make("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with GradualPruner(
        model, optimizer, batches, loss_fn, at=[1, 4, 7], sparsity=0.6,
        pattern="units", progress=False, random_state=0,
    ) as pruner:  # fmt: skip
        for _ in range(8):
            for batch in batches[:1]:
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
                pruner.step()
    masks = [report.masks for report in pruner.reports]
    assert len(masks) == 3
    for earlier, later in itertools.pairwise(masks):
        assert all(not (later[name] & ~earlier[name]).any() for name in later)
    x = batches[0][0]
    assert torch.allclose(outputs(compact(model, x), x), outputs(model, x), atol=1e-5)


def test_excluded_layers_keep_the_units_that_they_feed_or_read():
    model, batches = make("mlp")
    report = pruned(model, batches, sparsity=0.3, exclude="4")
    assert [units.writers for units in report.units] == [("0.weight",)]


class Odd(nn.Module):
    """Hidden units that are also an output; a layer used twice; one in groups."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.twice = nn.Linear(6, 6), nn.Linear(6, 6)
        self.grouped = nn.Conv1d(6, 6, 1, groups=2)
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        if self.kind == "output":
            extra = x[:, :3]
        elif self.kind == "twice":
            x = torch.relu(self.twice(torch.relu(self.twice(x))))
        elif self.kind == "grouped":
            x = torch.relu(self.grouped(x[:, :, None])[:, :, 0])
        elif self.kind == "norm":
            x = F.layer_norm(x, (6,))
        out = self.last(torch.relu(self.inner(x)))
        return out + extra if self.kind == "output" else out


@pytest.mark.parametrize("kind", ["output", "twice", "grouped", "norm"])
def test_units_that_others_see_too_stay(kind):
    torch.manual_seed(0)
    model, batches = Odd(kind), data((6,))
    found = families_of(model, batches)
    assert found == {(("inner.weight",), ("last.weight",)): 6}


class Mixing(nn.Module):
    """BatchNorm by the statistics of the batch: samples are not apart."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 63), nn.Linear(63, 3)
        self.norm = nn.BatchNorm1d(63, track_running_stats=False)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


def test_samples_may_mix():
    assert set(families_of(Mixing(), data((6,))).values()) == {63}


class Checking(nn.Module):
    """Looks for nan itself."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        out = self.net[1](self.net[0](x))
        if out.isnan().any():
            msg = "nan!"
            raise ValueError(msg)
        return self.net[2:](out)


def test_a_model_that_refuses_nan_is_told_where_it_came_from():
    model = Checking()
    with pytest.raises(ValueError, match="nan!") as caught:
        pruned(model, data((7,)), sparsity=0.5)
    assert "one output nan" in caught.value.__notes__[0]


class SequenceFirst(nn.Module):
    """Copies of a sample do not come first inside."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.a(x.transpose(0, 1)))
        return self.c(torch.relu(self.b(x))).transpose(0, 1)


def test_samples_need_not_come_first_inside():
    found = families_of(SequenceFirst(), data((64, 6)))
    assert set(found.values()) == {10, 8}


@pytest.mark.parametrize("split", ["batch", lambda batch: [
    (x[None], y[None]) for x, y in zip(*batch, strict=True)
]])  # fmt: skip
def test_batches_that_are_cut_by_the_user_do(split):
    model, batches = make("mlp")
    report = pruned(
        model, batches, sparsity=0.5, scope="layer", split=split, samples_per_gradient=1
    )
    assert [units.n_kept for units in report.units] == [6, 4]


def test_without_a_loss_too():
    model, batches = make("mlp")
    report = prune(
        model, batches, None, pattern="units", sparsity=0.5, scope="layer",
        progress=False, random_state=0,
    )  # fmt: skip
    assert [units.n_kept for units in report.units] == [6, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "gradients"}, "pattern='units' is by reconstruction"),
        (
            {"sparsity": 0.9999},
            "sparsity=0.9999 cannot be reached with pattern='units'",
        ),
        ({"exclude": ["2", "4"]}, "pattern='units' finds no unit to remove"),
        ({"cost": "flops", "scope": "layer"}, "divides one budget"),
        ({"min_density": 0.9}, "cannot be reached"),
        ({"pattern": "rows"}, "must be 'units', 'n:m'"),
    ],
)
def test_what_cannot_be_is_refused_and_the_model_left_as_it_was(options, words):
    model, batches = make("mlp")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        pruned(model, batches, **({"sparsity": 0.5} | options))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_loss_that_fails_in_the_middle_leaves_the_model_as_it_was():
    model, batches = make("residual")
    before, calls = copy.deepcopy(model.state_dict()), 0

    def failing(model, batch):
        nonlocal calls
        calls += 1
        if calls > fails_at:
            msg = "the user's own"
            raise RuntimeError(msg)
        return loss_fn(model, batch)

    for fails_at in (3, 15, 40, 55):  # read by `failing`  # noqa: B007
        calls = 0
        with pytest.raises(RuntimeError, match="the user's own"):
            prune(
                model, batches, failing, pattern="units", sparsity=0.5,
                progress=False, random_state=0,
            )  # fmt: skip
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_report_says_what_is_left_and_what_it_costs():
    model, batches = make("mlp")
    report = pruned(model, batches, sparsity=0.5, scope="layer")
    text = str(report)
    assert "units, by the layers that feed them" in text
    assert "flops" in text
    assert report.to_dict()["units"][0]["n_kept"] == 6
    assert any("No unit that can go is fed by ['4.weight']" in n for n in report.notes)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_attention_that_may_lose_heads_computes_what_it_did(batch_first, average):
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    loose = FewerHeads(whole)
    x, y = torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[:, 4:] = True
    later = torch.ones(4, 6, dtype=torch.bool).triu(2)
    q, k = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
    for options in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": later},
        {"attn_mask": torch.randn(4, 6), "key_padding_mask": padding.float()},
        {"need_weights": False},
    ):
        given = {"average_attn_weights": average} | options
        one, other = whole(q, k, k, **given), loose(q, k, k, **given)
        assert torch.allclose(one[0], other[0], atol=1e-6)
        if one[1] is None:
            assert other[1] is None
        else:
            assert torch.allclose(one[1], other[1], atol=1e-6)
    one, other = whole(x[0], y[0], y[0]), loose(x[0], y[0], y[0])  # a single sample
    assert all(
        torch.allclose(*pair, atol=1e-6) for pair in zip(one, other, strict=True)
    )


class OwnHeads(nn.Module):
    """Four heads of queries that read two of keys and values."""

    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.q, self.k = nn.Linear(8, 16), nn.Linear(8, 8)
        self.v, self.o = nn.Linear(8, 8), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], n if self.fixed else -1, 4).transpose(1, 2)
            for layer, n in ((self.q, 4), (self.k, 2), (self.v, 2))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.head(x + self.o(mixed.transpose(1, 2).flatten(2)))


def test_heads_that_share_keys_and_values_go_together():
    torch.manual_seed(0)
    model, batches = OwnHeads(fixed=False), data((5, 8))
    report = pruned(model, batches, sparsity=0.5, scope="layer")
    (heads,) = report.units
    assert set(heads.writers) == {"q.weight", "k.weight", "v.weight"}
    assert (heads.n_units, heads.n_kept) == (2, 1)
    x = batches[0][0]
    small = compact(model, x)
    assert (small.q.out_features, small.k.out_features) == (8, 4)
    assert torch.allclose(outputs(small, x), outputs(model, x), atol=1e-5)


def test_heads_that_cannot_be_sliced_out_are_left_whole_and_named():
    torch.manual_seed(0)
    model = OwnHeads(fixed=True)
    families, notes = find_families(
        model.eval(), loss_fn, data((5, 8))[0], Layout.of(model)
    )
    assert families == []
    assert "Left whole" in notes[0]
    assert "k.weight, q.weight, v.weight" in notes[0]


@pytest.mark.parametrize("name", ["mlp", "residual", "transposed"])
@pytest.mark.filterwarnings("ignore")
def test_units_are_those_of_torch_pruning(name):
    """The oracle: its graph of dependencies, from the graph of autograd."""
    tp = pytest.importorskip("torch_pruning")
    model, batches = make(name)
    graph = tp.DependencyGraph().build_dependency(model, batches[0][0][:1])
    names = {module: n for n, module in model.named_modules()}
    families, _ = find_families(model, loss_fn, batches[0], Layout.of(model))
    for family in families:
        for unit in family.units:
            first, rows = next(iter(unit.rows.items()))
            layer = model.get_submodule(first.removesuffix(".weight"))
            prune_out = graph.get_pruner_of_module(layer).prune_out_channels
            theirs = set()
            for dependency, index in graph.get_pruning_group(layer, prune_out, rows):
                module = dependency.target.module
                if module in names:
                    inputs = dependency.handler.__name__ == "prune_in_channels"
                    depthwise = getattr(module, "groups", 1) > 1
                    kind = "in" if inputs and not depthwise else "out"
                    theirs |= {(names[module], kind, i) for i in index}
            ours = {
                (n.removesuffix(".weight"), "out", i)
                for n, index in unit.rows.items()
                for i in index
            }
            ours |= {
                (part.name.removesuffix(".weight"), "in", i)
                for part, index in unit.columns.items()
                for i in index
            }
            ours |= {(n, "out", i) for n, index in unit.norms.items() for i in index}
            assert ours == theirs
