"""The gradient matrix is the same by either method, and right."""

import math

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import gradients  # noqa: E402
from chita_torch.batches import Batches, map_tensors  # noqa: E402
from chita_torch.gradients import gradient_matrix  # noqa: E402
from chita_torch.layout import Layout  # noqa: E402

B = 4


def matrix(model, batches, loss_fn, n=24, **options):
    layout = options.pop("layout", None) or Layout.of(model)
    generator = torch.Generator().manual_seed(0)
    data = Batches(batches, B, 0.0, torch.device("cpu"), generator)
    model.eval()
    return gradient_matrix(
        model,
        loss_fn,
        data.draw(n),
        layout,
        n,
        samples_per_gradient=B,
        **options,
    )


@pytest.fixture(params=["loop", "batched", "auto"])
def method(request):
    return request.param


def test_rows_are_scaled_gradients_of_micro_batches(case, method):
    model, batches, loss_fn = case
    A = matrix(model, batches, loss_fn, method=method).A
    generator = torch.Generator().manual_seed(0)
    data = Batches(batches, B, 0.0, torch.device("cpu"), generator)
    for row, micro_batch in zip(A, data.draw(24), strict=True):
        model.zero_grad()
        loss_fn(model, micro_batch).backward()
        expected = Layout.of(model).gather(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
        torch.testing.assert_close(row, math.sqrt(B) * expected, rtol=1e-4, atol=1e-5)


def test_the_methods_agree(case):
    loop, batched = (matrix(*case, method=m).A for m in ("loop", "batched"))
    torch.testing.assert_close(loop, batched, rtol=1e-4, atol=1e-5)


def test_the_model_is_not_touched(case, method):
    model, *_ = case
    model.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    matrix(*case, method=method)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_a_subset_of_layers_gives_the_same_columns(mlp):
    whole = Layout.of(mlp[0])
    A = matrix(*mlp).A
    for slot, part in zip(whole.slots, whole.split(), strict=True):
        own = matrix(*mlp, layout=part).A
        torch.testing.assert_close(own, A[:, slot.start : slot.stop])


def test_tied_weights_collect_both_gradients():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    batches = [torch.randn(8, 3)]

    def loss_fn(model, x):
        return model(x).square().mean()

    loop, batched = (
        matrix(model, batches, loss_fn, n=2, method=m).A for m in ("loop", "batched")
    )
    torch.testing.assert_close(loop, batched)
    loss_fn(model, batches[0][:B]).backward()
    expected = math.sqrt(B) * model[0].weight.grad.flatten()
    torch.testing.assert_close(loop[0], expected)


class Aliased(nn.Module):
    """The last layer is reachable by two names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
        self.head = self.layers[2]

    def forward(self, x):
        return self.layers(x)


class LossModule(nn.Module):
    """A loss that holds the network too."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_module_with_two_names_keeps_its_parameters(mlp, method, frozen):
    _, batches, _ = mlp
    model = Aliased()
    model.head.weight.requires_grad_(not frozen)
    held = [(p, p.detach().clone()) for p in model.parameters()]
    A = matrix(model, batches, LossModule(model), method=method).A
    for (parameter, values), now in zip(held, model.parameters(), strict=True):
        assert now is parameter
        assert type(now) is nn.Parameter
        assert torch.equal(now, values)
    assert model.head.weight is model.layers[2].weight
    assert model.head.weight.requires_grad is not frozen
    plain = matrix(model.layers, batches, LossModule(model), method="loop").A
    torch.testing.assert_close(A, plain, rtol=1e-4, atol=1e-5)


def test_what_is_not_a_tensor_counts_for_its_own_batch_only(mlp, method):
    model, batches, _ = mlp
    batches = [(x, y, 10.0**i) for i, (x, y) in enumerate(batches)]

    def scaled(model, batch):
        x, y, factor = batch
        return factor * nn.functional.cross_entropy(model(x), y)

    A = matrix(model, batches, scaled, n=60, method=method).A
    loop = matrix(model, batches, scaled, n=60, method="loop").A
    length = torch.linalg.vector_norm(loop, dim=1, keepdim=True)  # 10 x the last one
    torch.testing.assert_close(A / length, loop / length, rtol=1e-4, atol=1e-5)


def test_keys_may_come_in_another_order_in_another_batch(mlp, method):
    model, batches, loss_fn = mlp
    dicts = [
        {"x": x, "y": y} if i % 2 else {"y": y, "x": x}
        for i, (x, y) in enumerate(batches)
    ]

    def of_dict(model, batch):
        return loss_fn(model, (batch["x"], batch["y"]))

    A = matrix(model, dicts, of_dict, n=60, method=method).A
    loop = matrix(model, batches, loss_fn, n=60, method="loop").A
    torch.testing.assert_close(A, loop, rtol=1e-4, atol=1e-5)


def test_batches_may_differ_in_length(method):
    model = nn.Linear(5, 2)
    batches = [(torch.randn(16, t, 5), torch.randn(16, 2)) for t in (7, 9, 11, 8)]

    def loss_fn(model, batch):
        return nn.functional.mse_loss(model(batch[0]).mean(dim=1), batch[1])

    A = matrix(model, batches, loss_fn, n=16, method=method).A
    loop = matrix(model, batches, loss_fn, n=16, method="loop").A
    torch.testing.assert_close(A, loop, rtol=1e-4, atol=1e-5)


def test_a_buffer_replaced_in_the_forward_pass_is_put_back(method):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            y = self.layer(x)
            self.mean = 0.9 * self.mean + 0.1 * y.mean(dim=0).detach()
            return y + self.mean

    model = Running()
    batches = [(torch.randn(16, 12), torch.randint(3, (16,))) for _ in range(4)]
    buffer = model.mean
    matrix(model, batches, LossModule(model), n=16, method=method)
    assert model.mean is buffer
    assert not bool(buffer.any())


def test_what_can_be_batched_is_but_for_large_convolutions_on_a_cpu(case):
    assert matrix(*case).method == "batched"


def test_large_convolutions_are_looped_over_on_a_cpu(monkeypatch, conv):
    # 4 samples: 8 x 27 x 6 x 6 products and sums in the stem alone.
    monkeypatch.setattr(gradients, "CONVOLVING", 4 * 8 * 27 * 36 * 2)
    assert matrix(*conv).method == "loop"


def test_a_model_that_vmap_refuses_falls_back_to_the_loop(mlp):
    model, batches, loss_fn = mlp

    def branching(model, batch):
        loss = loss_fn(model, batch)
        return loss if loss.item() > 0 else 2 * loss

    result = matrix(model, batches, branching, method="auto")
    assert result.method == "loop"
    expected = matrix(model, batches, loss_fn, method="loop").A
    torch.testing.assert_close(result.A, expected)


def test_a_loss_that_ignores_a_weight_gives_zero_columns(mlp, method):
    model, batches, _ = mlp

    def loss_fn(model, batch):
        return model[0](batch[0]).square().mean()

    A = matrix(model, batches, loss_fn, method=method).A
    assert not bool(A[:, 120:].any())
    assert bool(A[:, :120].any())


def test_half_precision_is_differentiated_in_its_own_type(mlp):
    model, batches, _ = mlp
    expected = matrix(*mlp).A
    types = []

    def loss_fn(model, batch):
        output = model(batch[0].bfloat16())
        types.append(output.dtype)
        return nn.functional.cross_entropy(output, batch[1])

    A = matrix(model.bfloat16(), batches, loss_fn).A
    assert A.dtype == torch.float32
    assert set(types) == {torch.bfloat16}
    similarity = torch.cosine_similarity(A.flatten(), expected.flatten(), dim=0)
    assert similarity.item() > 0.99


def test_double_precision_is_kept(mlp):
    model, batches, loss_fn = mlp
    doubles = [
        map_tensors(lambda t: t.double() if t.ndim > 1 else t, b) for b in batches
    ]
    assert matrix(model.double(), doubles, loss_fn).A.dtype == torch.float64


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_refused(mlp, method, bad):
    model, batches, loss_fn = mlp
    x, y = batches[3]
    batches[3] = x.clone().index_fill_(0, torch.tensor([2]), bad), y
    with pytest.raises(
        ValueError, match=r"micro-batch \d+ is not finite in '0.weight'"
    ):
        matrix(model, batches, loss_fn, n=60, method=method)


def test_a_loss_that_is_not_a_scalar_is_refused(mlp, method):
    model, batches, _ = mlp
    for loss_fn in (lambda model, b: model(b[0]), lambda model, b: 1.0):
        with pytest.raises(TypeError, match=r"scalar tensor; got"):
            matrix(model, batches, loss_fn, method=method)


def test_memory_is_checked_before_anything_is_allocated(mlp, monkeypatch):
    monkeypatch.setattr(gradients, "available_bytes", lambda device: 2 * 4 * 224 * 10)
    with pytest.raises(MemoryError, match=r"24 x 224 .*n_gradients=10;"):
        matrix(*mlp)
    monkeypatch.setattr(gradients, "available_bytes", lambda device: 2 * 4 * 120 * 24)
    with pytest.raises(MemoryError, match="scope='layer'"):
        matrix(*mlp)


def test_free_memory_of_the_cpu_is_known_or_none():
    free = gradients.available_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
    assert gradients.available_bytes(torch.device("meta")) is None


def test_what_torch_holds_back_of_an_accelerator_is_free(monkeypatch):
    told = {"mem_get_info": (1000, 8000), "memory_reserved": 500}
    told["memory_allocated"] = 200
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert gradients.available_bytes(torch.device("cuda:0")) == 1300
