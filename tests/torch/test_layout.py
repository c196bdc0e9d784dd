"""Which parameters are chosen, and their place in the flat vector."""

import warnings

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from chita_torch.layout import Layout, select  # noqa: E402


def test_default_is_weights_of_linear_conv_and_projections(trained):
    assert select(trained["conv"][0]) == [
        "stem.weight",
        "grouped.weight",
        "up.weight",
        "head.weight",
    ]
    assert select(trained["encoder"][0]) == [
        "block.self_attn.in_proj_weight",
        "block.self_attn.out_proj.weight",
        "block.linear1.weight",
        "block.linear2.weight",
        "head.weight",
    ]


def test_attention_with_separate_projections_is_chosen():
    names = select(nn.MultiheadAttention(4, 2, kdim=3, vdim=5))
    assert names == [
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    ]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("head", None, ["head.weight"]),
        (["head", "stem"], None, ["stem.weight", "head.weight"]),
        ("*", "head", ["stem.weight", "grouped.weight", "up.weight"]),
        (nn.Linear, None, ["head.weight"]),
        (None, nn.ConvTranspose2d, ["stem.weight", "grouped.weight", "head.weight"]),
        (None, ["*.weight", nn.Linear], None),
        ("*.bias", ["norm", "grouped"], ["stem.bias", "up.bias", "head.bias"]),
        (nn.BatchNorm2d, None, ["norm.weight"]),
        (lambda name, parameter: parameter.ndim == 4, "up", None),
    ],
)
def test_include_and_exclude(trained, include, exclude, expected):
    model = trained["conv"][0]
    if exclude == ["*.weight", nn.Linear]:
        with pytest.raises(ValueError, match="no prunable layer"):
            select(model, include, exclude)
        return
    names = select(model, include, exclude)
    assert names == (expected or ["stem.weight", "grouped.weight"])


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_names_the_nearest(trained, argument):
    with pytest.raises(ValueError, match=r"'heed' matches no parameter.*'head'"):
        select(trained["conv"][0], **{argument: "heed"})
    with pytest.raises(ValueError, match=r"'Conv3d' matches no.*'Conv2d'"):
        select(trained["conv"][0], **{argument: nn.Conv3d})
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"'ReLU' matches no.*nearest: \['Linear'"):
        select(model, **{argument: nn.ReLU})  # itself it has no weights


def test_selector_of_another_kind_is_refused(trained):
    model = trained["mlp"][0]
    with pytest.raises(TypeError, match="got 3"):
        select(model, include=[3])
    for module in (model[0], model):
        with pytest.raises(TypeError, match=r"got (Linear|Sequential)"):
            select(model, include=module)


def test_tied_weights_appear_once_and_under_any_of_their_names():
    model = nn.Module()
    model.a = nn.Linear(4, 4, bias=False)
    model.b = nn.Linear(4, 4, bias=False)
    model.b.weight = model.a.weight
    assert select(model) == ["a.weight"]
    assert select(model, include="b") == ["a.weight"]
    assert select(model, include="b.weight") == ["a.weight"]


@pytest.mark.parametrize("name", ["a", "b", "a.weight", "b.weight"])
def test_excluding_one_of_its_names_excludes_a_tied_weight(name):
    model = nn.Module()
    model.a = nn.Linear(4, 4, bias=False)
    model.b = nn.Linear(4, 4, bias=False)
    model.c = nn.Linear(4, 4, bias=False)
    model.b.weight = model.a.weight
    assert select(model, exclude=name) == ["c.weight"]


def test_a_weight_tied_to_an_embedding_is_left_out_unless_included():
    model = nn.Module()
    model.embed = nn.Embedding(6, 4)
    model.inner = nn.Linear(4, 4)
    model.head = nn.Linear(4, 6, bias=False)
    model.head.weight = model.embed.weight
    assert select(model) == ["inner.weight"]
    assert select(model, include=["inner", "head"]) == ["embed.weight", "inner.weight"]
    assert select(model, include=nn.Embedding) == ["embed.weight"]


def test_lazy_integer_and_scalar_parameters_are_refused():
    with pytest.raises(ValueError, match="not initialised"):
        select(nn.LazyLinear(3))
    model = nn.Module()
    model.whole = nn.Parameter(torch.ones(3, dtype=torch.int32), requires_grad=False)
    model.scalar = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"torch\.int32"):
        select(model, include="whole")
    with pytest.raises(ValueError, match="no axis"):
        select(model, include="scalar")


def test_weights_on_several_devices_are_refused_and_may_be_left_out():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    with FakeTensorMode():  # (knows of devices that are not there)
        model[1].weight = nn.Parameter(torch.empty(2, 4, device="cuda"))
    with pytest.raises(ValueError, match=r"'0.weight' on cpu, '1.weight' on cuda:0"):
        Layout.of(model)
    assert len(Layout.of(model, exclude="1")) == 32


def test_weights_that_cannot_be_written_are_refused():
    with pytest.raises(ValueError, match="meta device"):
        select(nn.Linear(3, 2, device="meta"))
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="inference tensor"):
        select(model)


def test_a_computed_weight_is_left_out_with_a_warning():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.warns(UserWarning, match=r"\['0'\] are computed"):
        assert select(model) == ["1.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select(model, exclude="0") == ["1.weight"]


def test_gather_and_scatter_are_inverse(case):
    model = case[0]
    layout = Layout.of(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    flat = layout.gather()
    assert flat.shape == (len(layout),)
    assert flat.dtype == torch.float32
    layout.scatter(torch.zeros_like(flat))
    assert all(not bool(s.parameter.any()) for s in layout.slots)
    layout.scatter(flat)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    for name, tensor in layout.unflatten(flat).items():
        assert torch.equal(tensor, before[name])


def test_linear_weights_lie_row_major_and_input_channels_come_last():
    linear, conv, up = nn.Linear(3, 2), nn.Conv2d(4, 2, 3), nn.ConvTranspose2d(4, 2, 3)
    assert torch.equal(Layout.of(linear).gather(), linear.weight.flatten())
    first = Layout.of(conv).gather()[:4]
    assert torch.equal(first, conv.weight[0, :, 0, 0])
    assert torch.equal(Layout.of(up).gather()[:4], up.weight[:, 0, 0, 0])


def test_flatten_keeps_leading_axes():
    slot = Layout.of(nn.Conv2d(4, 2, 3)).slots[0]
    stack = torch.randn(5, *slot.parameter.shape)
    flat = slot.flatten(stack)
    assert flat.shape == (5, slot.size)
    assert torch.equal(flat[3], slot.flatten(stack[3]))
    assert torch.equal(slot.unflatten(flat[3]), stack[3])


def test_long_rows_are_cut_into_pieces_that_groups_do_not_straddle():
    linear = nn.Linear(24, 2, bias=False)
    slot = Layout.of(linear, columns=10, multiple=4).slots[0]
    assert (slot.pieces, slot.row_length) == (3, 8)
    numbered = torch.arange(48.0).reshape(2, 24)
    flat = slot.flatten(numbered)
    assert flat[:8].tolist() == numbered[0, :8].tolist()
    assert flat[8:16].tolist() == numbered[1, :8].tolist()
    assert torch.equal(slot.unflatten(flat), numbered)
    both = torch.stack([numbered, -numbered])
    assert torch.equal(slot.flatten(both), torch.stack([flat, -flat]))
    labels, sizes = Layout([slot]).group_labels(4)
    assert sizes.tolist() == [4] * 12
    for group in slot.unflatten(labels.double()).reshape(12, 4):
        assert len(set(group.tolist())) == 1  # four consecutive weights of one output


def test_no_piece_fits_and_the_rows_stay_whole():
    assert Layout.of(nn.Linear(23, 2), columns=10).slots[0].pieces == 1
    attention = nn.MultiheadAttention(16, 2)
    assert {s.pieces for s in Layout.of(attention, columns=8).slots} == {1, 2}


def test_groups_never_straddle_rows():
    model = nn.Sequential(nn.Linear(6, 2), nn.Conv1d(3, 2, 1))
    labels, lengths = Layout.of(model).group_labels(4)
    assert labels.tolist() == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2 + [4] * 3 + [5] * 3
    assert lengths.tolist() == [4, 2, 4, 2, 3, 3]


def test_split_and_labels_agree_with_the_layers(trained):
    layout = Layout.of(trained["mlp"][0])
    assert layout.sizes() == [120, 80, 24]
    assert torch.bincount(layout.labels()).tolist() == [120, 80, 24]
    parts = layout.split()
    assert [part.names for part in parts] == [[name] for name in layout.names]
    assert torch.equal(torch.cat([part.gather() for part in parts]), layout.gather())
    for again, slot in zip(Layout.join(parts).slots, layout.slots, strict=True):
        assert again.parameter is slot.parameter
        assert (again.name, again.start, again.stop, again.sum_axis) == (
            slot.name,
            slot.start,
            slot.stop,
            slot.sum_axis,
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_kept_weight_never_becomes_zero_in_a_narrow_type(dtype):
    model = nn.Linear(3, 1, bias=False).to(getattr(torch, dtype))
    layout = Layout.of(model)
    layout.scatter(torch.tensor([1e-44, -1e-44, 0.0]))
    assert (model.weight[0] != 0).tolist() == [True, True, False]
    assert model.weight[0, 1].item() < 0


def test_weights_tied_by_their_memory_are_tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight.data = model[0].weight.data
    assert select(model) == ["0.weight", "3.weight"]
    lookup = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    lookup[1].weight.data = lookup[0].weight.data
    assert select(lookup) == ["2.weight"]


def test_weights_that_share_a_part_of_their_memory_are_refused():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    whole = torch.randn(6, 4)
    model[0].weight.data, model[1].weight.data = whole[:4], whole[2:]
    with pytest.raises(ValueError, match=r"'0.weight' and '1.weight' are views"):
        select(model)
    assert select(model, exclude="1") == ["0.weight"]
    halves = torch.randn(8, 4)
    model[0].weight.data, model[1].weight.data = halves[:4], halves[4:]
    assert select(model) == ["0.weight", "1.weight"]
