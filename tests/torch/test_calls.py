"""Calls of weights: what is read of them gives the outputs again, for every kind."""

import warnings

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from chita_torch.calls import Watch  # noqa: E402
from chita_torch.layout import Layout  # noqa: E402
from chita_torch.statistics import collect, place  # noqa: E402


class Keep(Watch):
    """Keeps calls and outputs; the weights are those of the model."""

    def __init__(self, layout):
        super().__init__(layout.slots)
        self.weights, self.seen = layout.parameters, []

    def before(self, call):
        return self.weights[call.part.name]

    def after(self, call, output):
        self.seen.append((call, output.detach().clone()))
        return output


def calls_of(model, *inputs, columns=None):
    """Check that watching changes nothing; return the layout, calls and outputs."""
    model.eval()
    layout = Layout.of(model, columns=columns)
    watch = Keep(layout)
    with torch.no_grad():
        expected = model(*inputs)
        with watch:
            found = model(*inputs)
    if isinstance(expected, tuple):
        expected, found = expected[0], found[0]
    torch.testing.assert_close(found, expected)
    return layout, watch.seen


def assert_calls_compute_the_outputs(model, *inputs, columns=None):
    layout, seen = calls_of(model, *inputs, columns=columns)
    flat = layout.gather()
    covered = torch.zeros(len(layout))
    for call, output in seen:
        W = call.part.split(flat[place(layout, call.part)])
        Y = call.rows(10**9) @ W.mT  # (groups, m, t)
        if call.part.cut:
            Y = Y.sum(dim=0, keepdim=True)
        covered[place(layout, call.part)] += 1
        by_output = output.movedim(call.output_axis, -1)
        by_output = by_output.reshape(-1, by_output.shape[-1])
        together = Y.permute(1, 0, 2).reshape(Y.shape[1], -1)
        torch.testing.assert_close(together, by_output, atol=1e-5, rtol=1e-5)
        assert call.n_rows == Y.shape[1]
    assert (covered == 1).all()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_patches_times_weights_are_the_outputs_of_a_convolution(n, groups):
    torch.manual_seed(0)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    x = torch.randn(2, 4, *[7, 6, 5][:n])
    common = {"groups": groups, "bias": False}
    for options in (
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": 1, "padding_mode": "reflect", "stride": 2},
        {"padding": 2, "padding_mode": "replicate"},
    ):
        assert_calls_compute_the_outputs(kind(4, 8, 3, **options, **common), x)
    even = kind(4, 8, 2, padding="same", **common)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same' with even")
        assert_calls_compute_the_outputs(even, x)
    assert_calls_compute_the_outputs(kind(4, 8, 3, **common), x[0])  # no samples


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_transposed_convolution_is_one_over_an_input_with_zeros_put_in(n, groups):
    torch.manual_seed(0)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
    x = torch.randn(2, 4, *[5, 4, 3][:n])
    for options in (
        {},
        {"stride": 2, "output_padding": 1},
        {"stride": 3, "padding": 3, "dilation": 2},
    ):
        model = kind(4, 8, 3, groups=groups, bias=False, **options)
        assert_calls_compute_the_outputs(model, x)


def test_patches_are_those_of_unfold():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1))
    x = torch.randn(2, 3, 8, 7)
    _, [(call, _)] = calls_of(model, x)
    columns = F.unfold(x, (3, 2), padding=1, stride=(1, 2), dilation=(2, 1))
    expected = columns.reshape(2, 3, 6, -1).permute(0, 3, 2, 1).reshape(-1, 18)
    torch.testing.assert_close(call.rows(10**9)[0], expected)
    some = call.rows(20, seed=1)[0]
    assert some.shape == (20, 18)
    assert all((row == expected).all(dim=1).any() for row in some)
    assert torch.equal(some, call.rows(20, seed=1)[0])


@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Conv2d(3, 4, 3), (9, 3, 8, 7)), (nn.Linear(5, 3), (9, 4, 5))],
)
def test_calls_on_joined_batches_are_told_apart(model, shape):
    x, sizes = torch.randn(shape), [2, 4, 3]
    (call,) = (call for call, _ in calls_of(model, x)[1])
    for part, one in zip(x.split(sizes), call.split(sizes), strict=True):
        (alone,) = (call for call, _ in calls_of(model, part)[1])
        assert torch.equal(one.rows(20, seed=1), alone.rows(20, seed=1))
    assert call.split([2, 5]) == [call]  # 9 is no multiple of 7


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_linear_of_any_number_of_axes(shape):
    assert_calls_compute_the_outputs(nn.Linear(5, 3, bias=False), torch.randn(shape))


@pytest.mark.parametrize("columns", [1, 2, 3, 6])
def test_pieces_of_long_rows_add_up_to_the_outputs(columns):
    torch.manual_seed(columns)
    flat, image = torch.randn(7, 3, 12), torch.randn(2, 4, 5, 5)
    linear = nn.Linear(12, 5, bias=False)
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    assert_calls_compute_the_outputs(linear, flat, columns=columns)
    assert_calls_compute_the_outputs(convolution, image, columns=columns)


def test_moments_of_pieces_are_blocks_of_the_whole_ones():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 1))
    batches = [torch.randn(9, 12) for _ in range(3)]

    def loss(model, x):
        return model(x).square().mean()

    (whole, _), (cut, _) = (
        collect(net, loss, batches, Layout.of(net, columns=columns), 27).values()
        for columns in (None, 5)
    )
    assert whole.H.shape == (1, 12, 12)
    assert cut.H.shape == (3, 4, 4)
    for j in range(3):
        block = whole.H[0, 4 * j : 4 * j + 4, 4 * j : 4 * j + 4]
        torch.testing.assert_close(cut.H[j], block)
        torch.testing.assert_close(cut.g[j], whole.g[0])


@pytest.mark.parametrize("kind", ["self", "memory", "all three", "other widths"])
def test_the_projections_of_attention_are_calls_of_their_own(kind):
    torch.manual_seed(0)
    options = {"kdim": 4, "vdim": 6} if kind == "other widths" else {}
    model = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    for bias in (model.in_proj_bias, model.out_proj.bias):
        nn.init.normal_(bias)
    q = torch.randn(2, 3, 8)
    k = q if kind == "self" else torch.randn(2, 5, options.get("kdim", 8))
    v = k if kind in ("self", "memory") else torch.randn(2, 5, options.get("vdim", 8))
    layout, seen = calls_of(model, q, k, v)
    n_parts = {"self": 2, "memory": 3}.get(kind, 4)
    assert len({call.part for call, _ in seen}) == n_parts
    assert {call.part.name for call, _ in seen} == set(layout.names)


def test_a_weight_that_a_module_hands_to_linear_is_seen():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return F.linear(x, self.weight)

    model = Own()
    layout = Layout.of(model, include="weight")
    watch = Keep(layout)
    with watch:
        model(torch.randn(4, 5))
    assert [call.part.name for call, _ in watch.seen] == ["weight"]


def test_moments_and_derivatives_are_those_taken_sample_by_sample():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3, stride=2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    x, y = torch.randn(10, 2, 6, 6).double(), torch.arange(10) % 3
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]

    def loss_fn(net, batch):
        return F.cross_entropy(net(batch[0]), batch[1])

    layout = Layout.of(model)
    found = collect(model, loss_fn, batches, layout, 10)
    assert [part.name for part in found] == layout.names
    outputs = {}
    for index in (0, 2, 4):
        model[index].register_forward_hook(
            lambda _, __, out, index=index: outputs.update({index: out}) or out.clone()
        )
    g = {index: 0.0 for index in (0, 2, 4)}
    for i in range(10):
        loss = loss_fn(model, (x[i : i + 1], y[i : i + 1]))
        for index, d in zip(
            g, torch.autograd.grad(loss, [outputs[j] for j in g]), strict=True
        ):
            each = d.square() if d.ndim == 2 else d.square().sum(dim=(2, 3))
            g[index] = g[index] + each[0] / 10
    for (part, its), index in zip(found.items(), g, strict=True):
        assert its.calls == 1
        torch.testing.assert_close(its.g.reshape(-1), g[index])
        assert its.H.shape[0] == part.groups
    hidden = model[:4](x)
    torch.testing.assert_close(
        found[next(p for p in found if p.name == "4.weight")].H[0],
        hidden.T @ hidden / 10,
    )


def test_conv1d_of_transformers_is_known_by_name_and_shape():
    class Conv1D(nn.Module):  # as in transformers: found by this name, weight (in, out)
        def __init__(self, n_outputs, n_inputs):
            super().__init__()
            self.nf = n_outputs
            self.weight = nn.Parameter(torch.randn(n_inputs, n_outputs))
            self.bias = nn.Parameter(torch.randn(n_outputs))

        def forward(self, x):
            flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
            return flat.view(*x.shape[:-1], self.nf)

    torch.manual_seed(0)
    model, x = Conv1D(3, 5), torch.randn(2, 4, 5)
    layout, seen = calls_of(model, x)
    assert [call.part.name for call, _ in seen] == ["weight"]
    call, output = seen[0]
    W = call.part.split(layout.gather()[place(layout, call.part)])
    Y = call.rows(10**9) @ W.mT
    torch.testing.assert_close(Y[0], (x @ model.weight).reshape(8, 3))
    assert output.numel() == Y.numel()


@pytest.mark.parametrize("limit", [1, 10**9])
def test_a_convolution_of_no_samples_has_rows_of_its_inputs_and_none_of_them(limit):
    _, seen = calls_of(nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.zeros(0, 4, 5, 5))
    assert seen[0][0].rows(limit).shape == (2, 0, 18)
