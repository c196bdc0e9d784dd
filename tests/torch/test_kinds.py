"""What people have: frozen, adapted, mixed, checkpointed and quantised models.

Each test is a situation that other tools' users reported; the right value is computed
here by hand.
"""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from chita_sklearn.core import Cardinality, PerBlock, WithFloor  # noqa: E402
from chita_torch import keep_pruned, prune  # noqa: E402
from chita_torch.idle import reserve  # noqa: E402
from chita_torch.kinds import adapters_of, experts_of  # noqa: E402
from chita_torch.layout import Layout, select  # noqa: E402

QUICK = {
    "samples_per_gradient": 4,
    "n_gradients": 20,
    "progress": False,
    "random_state": 0,
}
OBJECTIVES = ["gradients", "reconstruction", "auto"]
IDLE = "ignore:no sample of the batches reached the experts"


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def data(width=16, n=128):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, width, generator=generator)
    y = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()
    return list(zip(X.split(16), y.split(16), strict=True))


def state_of(model):
    return copy.deepcopy(dict(model.state_dict()))


def unchanged(model, before):
    after = model.state_dict()
    return {name for name, tensor in before.items() if torch.equal(tensor, after[name])}


# --- Frozen layers --------------------------------------------------------------------


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_frozen_layers_beside_others_are_left_out_and_named(objective):
    model = mlp()
    model[0].requires_grad_(requires_grad=False)
    before = state_of(model)
    report = prune(
        model, data(), cross_entropy, sparsity=0.5, objective=objective, **QUICK
    )
    assert list(report.masks) == ["2.weight", "4.weight"]
    assert "0.weight" in unchanged(model, before)
    assert any("frozen" in note and "'0.weight'" in note for note in report.notes)
    assert "'0.weight'" in str(report)


def test_where_all_layers_are_frozen_all_are_pruned_and_the_report_says_so():
    model = mlp().requires_grad_(requires_grad=False)
    report = prune(model, data(), cross_entropy, sparsity=0.5, **QUICK)
    assert list(report.masks) == ["0.weight", "2.weight", "4.weight"]
    assert any("frozen" in note and "all were pruned" in note for note in report.notes)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_frozen_layer_is_pruned_where_it_is_named_also_by_a_scope():
    model = mlp()
    model[0].requires_grad_(requires_grad=False)
    assert select(model, include="*") == ["2.weight", "4.weight"]
    assert select(model, include=["0", "4"]) == ["0.weight", "4.weight"]
    report = prune(
        model, data(), cross_entropy, include=["0", "4"], scope={"*": 0.5}, **QUICK
    )
    assert [(x.name, x.n_kept) for x in report.layers] == [
        ("0.weight", 96),
        ("4.weight", 16),
    ]


def test_a_hold_read_off_the_zeros_covers_layers_that_are_frozen_now():
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, :8] = 0
    model[0].requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam(model.parameters())
    masks = keep_pruned(model, optimizer).masks
    assert torch.equal(masks["0.weight"], model[0].weight != 0)


def test_excluding_all_but_frozen_layers_says_how_to_prune_those():
    model = mlp()
    model[0].requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"frozen weights.*include="):
        select(model, exclude=["2", "4"])


# --- Adapters -------------------------------------------------------------------------


class Adapted(nn.Module):
    """A frozen linear layer and a product of two small ones, the second zero."""

    def __init__(self, names=("lora_A", "lora_B")):
        super().__init__()
        self.base = nn.Linear(16, 12).requires_grad_(requires_grad=False)
        self.names = names
        for name, one in zip(
            names,
            (nn.Linear(16, 2, bias=False), nn.Linear(2, 12, bias=False)),
            strict=True,
        ):
            setattr(self, name, one)
        nn.init.zeros_(getattr(self, names[1]).weight)

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return self.base(x) + second(first(x))


@pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("A", "B"), ("down", "up")])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_adapters_are_left_out_and_named_and_the_frozen_base_is_pruned(
    names, objective
):
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(names), nn.ReLU(), nn.Linear(12, 4))
    before = state_of(model)
    report = prune(
        model, data(), cross_entropy, sparsity=0.5, objective=objective, **QUICK
    )
    assert list(report.masks) == ["0.base.weight", "2.weight"]
    adapters = {f"0.{name}.weight" for name in names}
    assert adapters <= unchanged(model, before)
    assert any(
        "adapters" in note and all(name in note for name in adapters)
        for note in report.notes
    )


def test_adapters_train_under_a_hold_that_is_read_off_the_zeros():
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.ReLU(), nn.Linear(12, 4))
    prune(model, data(), cross_entropy, sparsity=0.5, **QUICK)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    zeros = int((model[0].base.weight == 0).sum())
    with keep_pruned(model, optimizer):
        for batch in data():
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
    assert int((model[0].lora_B.weight != 0).sum()) > 12  # of units that are alive
    assert int((model[0].base.weight == 0).sum()) == zeros > 0


def test_an_adapter_is_pruned_where_it_is_named():
    model = Adapted()
    assert select(model, include="lora_A") == ["lora_A.weight"]


def test_ordinary_layers_are_no_adapters():
    bottleneck = nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 16), nn.Linear(16, 16))
    assert adapters_of(bottleneck) == set()
    bottleneck[2].requires_grad_(requires_grad=False)
    assert adapters_of(bottleneck) == {"0.weight", "1.weight"}  # as an adapter would


def test_lora_of_peft_is_known_and_its_base_pruned():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0"])
    model = peft.get_peft_model(mlp(), config)
    before = state_of(model)
    report = prune(model, data(), cross_entropy, sparsity=0.5, **QUICK)
    assert list(report.masks) == [
        "base_model.model.0.base_layer.weight",
        "base_model.model.2.weight",
        "base_model.model.4.weight",
    ]
    lora = {name for name in before if "lora" in name}
    assert len(lora) == 2
    assert lora <= unchanged(model, before)


# --- Experts --------------------------------------------------------------------------


class Stacked(nn.Module):
    """Four experts in two tensors, top-1 routing; the last gets no sample."""

    def __init__(self, transposed=False):
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.up = nn.Parameter(0.2 * torch.randn(4, 16, 8))
        self.down = nn.Parameter(0.2 * torch.randn(4, 8, 16))
        self.head = nn.Linear(16, 4)
        self.transposed = transposed
        if transposed:  # (experts, out, in), as most of transformers' are
            self.up.data = self.up.mT.contiguous()
            self.down.data = self.down.mT.contiguous()
        with torch.no_grad():
            self.gate.bias[3] = -1e4

    def forward(self, x):
        share, chosen = self.gate(x).softmax(dim=-1).max(dim=-1)
        up, down = self.up[chosen], self.down[chosen]
        if self.transposed:
            up, down = up.mT, down.mT
        hidden = torch.relu(x[:, None] @ up)
        return self.head(x + share[:, None] * (hidden @ down)[:, 0])


class Listed(nn.Module):
    """The same with a module for each expert."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))
            for _ in range(4)
        )
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.gate.bias[3] = -1e4

    def forward(self, x):
        share, chosen = self.gate(x).softmax(dim=-1).max(dim=-1)
        y = x
        for e, expert in enumerate(self.experts):
            rows = (chosen == e).nonzero()[:, 0]  # none, for the last
            y = y.index_add(0, rows, share[rows, None] * expert(x[rows]))
        return self.head(y)


def experts(model):
    """The weights of each expert, a list of tensors for each."""
    if isinstance(model, Listed):
        return [[expert[0].weight, expert[2].weight] for expert in model.experts]
    return [[model.up[e].detach(), model.down[e].detach()] for e in range(4)]


def largest(tensor, n):
    return tensor.abs() >= tensor.abs().flatten().topk(n).values[-1]


BUDGETS = [
    {"sparsity": 0.5},
    {"sparsity": 0.8, "min_density": 0.1},
    {"sparsity": 0.75, "scope": "layer"},
    {"scope": {"*": 0.75}},
    {"sparsity": 0.75, "stages": 2},
    {"sparsity": 0.75, "regrow": False},
]


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        *[(each, options) for each in OBJECTIVES[:2] for options in BUDGETS],
        ("auto", BUDGETS[0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [Stacked, Listed])
def test_an_expert_without_samples_keeps_its_share_the_largest(
    make, objective, options
):
    torch.manual_seed(0)
    model = make()
    original = copy.deepcopy(experts(model))
    sparsity = options.get("sparsity", 0.75)
    with pytest.warns(UserWarning, match=r"no sample .* experts.*3"):
        report = prune(
            model, data(), cross_entropy, objective=objective, **options, **QUICK
        )
    kept = sum(int((w != 0).sum()) for e in experts(model) for w in e)
    kept += int((model.head.weight != 0).sum())
    assert kept == report.n_kept == round((1 - sparsity) * 1088)
    for weights, before in zip(experts(model)[3], original[3], strict=True):
        share = round((1 - sparsity) * 128)
        assert int((weights != 0).sum()) in (share, share - 1)  # by rounding
        assert torch.equal(weights != 0, largest(before, int((weights != 0).sum())))
        assert torch.equal(weights[weights != 0], before[weights != 0])


@pytest.mark.filterwarnings(IDLE)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sparsity", [0.3, 0.95])
def test_an_expert_of_small_weights_without_samples_keeps_its_share(
    sparsity, objective
):
    torch.manual_seed(0)
    model = Stacked()
    with torch.no_grad():
        model.up[3] *= 1e-3
        model.down[3] *= 1e-3
    prune(model, data(), cross_entropy, sparsity=sparsity, objective=objective, **QUICK)
    for stack in (model.up, model.down):
        assert int((stack[3] != 0).sum()) == round((1 - sparsity) * 128)


@pytest.mark.filterwarnings(IDLE)
@pytest.mark.parametrize("make", [Stacked, Listed])
def test_the_router_is_left_out_and_named_unless_it_is_included(make):
    torch.manual_seed(0)
    model = make()
    before = state_of(model)
    report = prune(model, data(), cross_entropy, sparsity=0.5, **QUICK)
    assert "gate.weight" not in report.masks
    assert "gate.weight" in unchanged(model, before)
    assert any("gate.weight" in note for note in report.notes)
    assert select(model, include="gate") == ["gate.weight"]
    assert len(select(model, include=["gate", "*"])) == len(report.masks) + 1


@pytest.mark.filterwarnings(IDLE)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("transposed", [False, True])
def test_n_of_m_of_experts_runs_along_the_axis_that_is_summed_over(
    transposed, objective
):
    torch.manual_seed(0)
    model = Stacked(transposed)
    prune(model, data(), cross_entropy, pattern="2:4", objective=objective, **QUICK)
    for stack in (model.up, model.down):
        rows = stack if transposed else stack.mT  # (experts, out, in)
        groups = (rows.reshape(4, -1, 4) != 0).sum(dim=-1)
        assert torch.equal(groups, torch.full_like(groups, 2))


def test_a_convolution_beside_a_router_is_no_stack_of_experts():
    model = nn.Module()
    model.gate = nn.Linear(3, 4)
    model.conv = nn.Conv1d(3, 4, 2)
    assert experts_of(model).axes == {}
    assert select(model) == ["gate.weight", "conv.weight"]


def test_experts_of_transformers_are_found():
    transformers = pytest.importorskip("transformers", reason="no transformers")
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = transformers.MixtralForCausalLM(config)
    layout = Layout.of(model)
    stacks = {slot.name: slot for slot in layout.slots if len(slot.experts) > 1}
    place = "model.layers.0.mlp.experts"
    assert list(stacks) == [f"{place}.gate_up_proj", f"{place}.down_proj"]
    assert [slot.row_length for slot in stacks.values()] == [16, 24]
    assert not any(name.endswith("gate.weight") for name in layout.names)


def test_a_reserve_gives_every_stretch_its_share():
    labels = (torch.arange(40) >= 20).long().numpy()
    score = torch.rand(40, generator=torch.Generator().manual_seed(0))
    parts = [slice(0, 5), slice(5, 10), slice(20, 30)]
    score[:10] = score[20:30] = 0.0  # never chosen but for the share
    for pattern, shares in (
        (Cardinality(16), [2, 2, 4]),
        (PerBlock(labels, [12, 4]), [3, 3, 2]),
        (WithFloor(16, labels, [5, 5]), [2, 2, 4]),
    ):
        mask = reserve(pattern, parts, 40).best_mask(score)
        assert [int(mask[part].sum()) for part in parts] == shares
        assert int(mask.sum()) == 16


def test_a_reserve_of_everything_is_met():
    for k in range(10):
        parts = [slice(i, i + 3) for i in (0, 3, 6)]
        mask = reserve(Cardinality(k), parts, 9).best_mask(torch.rand(9))
        assert int(mask.sum()) == k


# --- Weights that autograd does not reach ---------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, 4)
        self.reentrant = reentrant

    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=self.reentrant)
        return self.second(torch.relu(x))


class Cut(nn.Module):
    """A layer whose output goes on by a way that gradients do not."""

    def __init__(self, way):
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, 4)
        self.way = way

    def forward(self, x):
        return self.second(torch.relu(self.way(self.first, x)))


def without_gradient(layer, x):
    with torch.no_grad():
        return layer(x)


WAYS = {
    "detach": lambda layer, x: layer(x).detach(),
    "no_grad": without_gradient,
    "round": lambda layer, x: (64 * layer(x)).round() / 64,
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_reentrant_checkpoint_of_raw_inputs_is_refused(objective):
    torch.manual_seed(0)
    model = Checkpointed(reentrant=True)
    before = state_of(model)
    options = {"sparsity": 0.5, "objective": objective, **QUICK}
    with pytest.raises(ValueError, match=r"\['first.weight'\].*use_reentrant=True"):
        prune(model, data(), cross_entropy, **options)
    assert unchanged(model, before) == before.keys()
    report = prune(model, data(), cross_entropy, exclude="first", **options)
    assert report.n_kept == 24


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_checkpoint_that_is_not_reentrant_changes_nothing(objective):
    masks = []
    torch.manual_seed(0)
    model = Checkpointed(reentrant=False)
    plain = Cut(lambda layer, x: layer(x))
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        report = prune(
            each, data(), cross_entropy, sparsity=0.5, objective=objective, **QUICK
        )
        masks.append(report.masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", ["gradients", "reconstruction"])
def test_what_the_loss_changes_with_and_gradients_do_not_reach_is_refused(
    way, objective
):
    torch.manual_seed(0)
    model = Cut(WAYS[way])
    before = state_of(model)
    with pytest.raises(ValueError, match=r"the loss changes with \['first.weight'\]"):
        prune(model, data(), cross_entropy, sparsity=0.5, objective=objective, **QUICK)
    assert unchanged(model, before) == before.keys()


@pytest.mark.parametrize("objective", ["gradients", "reconstruction"])
@pytest.mark.parametrize("reason", ["unused", "times zero", "dead"])
def test_a_layer_that_the_loss_does_not_depend_on_is_pruned_first(reason, objective):
    torch.manual_seed(0)
    ways = {
        "unused": lambda layer, x: x[:, :12],
        "times zero": lambda layer, x: x[:, :12] + 0.0 * layer(x),
        "dead": lambda layer, x: x[:, :12] + torch.relu(layer(x) - 100),
    }
    model = Cut(ways[reason])
    with pytest.warns(UserWarning, match=r"does not depend on \['first.weight'\]"):
        report = prune(
            model, data(), cross_entropy, sparsity=0.9, objective=objective, **QUICK
        )
    assert [layer.n_kept for layer in report.layers] == [0, 24]


def test_a_loss_that_changes_by_itself_proves_nothing():
    torch.manual_seed(0)
    model = Cut(lambda layer, x: x[:, :12])
    generator = torch.Generator().manual_seed(0)

    def noisy(model, batch):
        return cross_entropy(model, batch) + 0.1 * torch.rand((), generator=generator)

    with pytest.warns(UserWarning, match="does not depend on"):
        prune(model, data(), noisy, sparsity=0.5, ridge=1e-2, **QUICK)


# --- What holds no plain numbers ------------------------------------------------------


class Extra(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.layer, self.extra = nn.Linear(16, 4), extra

    def forward(self, x):
        return self.layer(x)


def float8():
    linear = nn.Linear(16, 4)
    linear.weight = nn.Parameter(
        linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False
    )
    return linear, TypeError, "8-bit type torch.float8_e4m3fn"


def quantised():
    weight = torch.quantize_per_tensor(torch.randn(4, 16), 0.1, 0, torch.qint8)
    linear = nn.Linear(16, 4)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear, TypeError, "'extra.weight' is quantised"


def subclass():
    module = pytest.importorskip("torch.testing._internal.two_tensor")
    linear = nn.Linear(16, 4)
    linear.weight = nn.Parameter(
        module.TwoTensor(torch.randn(4, 16), torch.randn(4, 16)), requires_grad=False
    )
    return linear, TypeError, r"is quantised \(TwoTensor"


def sparse():
    linear = nn.Linear(16, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr = torch.eye(4).to_sparse_csr()
    linear.weight = nn.Parameter(csr, requires_grad=False)
    return linear, TypeError, "stored sparse"


def lazy():
    return nn.LazyLinear(4), ValueError, "not initialised: run one batch"


def meta():
    return nn.Linear(16, 4, device="meta"), ValueError, "on the meta device"


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(16, 4)), TypeError, r"compiled by torch\.jit"


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning")
@pytest.mark.parametrize(
    "make", [float8, quantised, subclass, sparse, lazy, meta, scripted]
)
def test_each_kind_of_parameter_that_holds_no_numbers_has_its_own_sentence(make):
    extra, error, text = make()
    model = Extra(extra)
    before = state_of(model.layer)
    with pytest.raises(error, match=text):
        prune(
            model,
            data(),
            cross_entropy,
            include=["layer", "extra*"],
            sparsity=0.5,
            **QUICK,
        )
    assert unchanged(model.layer, before) == before.keys()


class Packed(nn.Module):
    """As quantised layers are: a buffer of codes, and no parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.ones(4, 16, dtype=torch.int8))

    def forward(self, x):
        return x


def test_quantised_modules_are_named_or_refused():
    model = Extra(Packed())
    report = prune(model, data(), cross_entropy, sparsity=0.5, **QUICK)
    assert any("quantised" in note and "'extra'" in note for note in report.notes)
    with pytest.raises(TypeError, match=r"\['0'\] are quantised"):
        select(nn.Sequential(Packed()))
