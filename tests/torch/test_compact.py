"""`compact`: smaller networks of the same function, checked by their outputs."""

import copy

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from chita_torch import compact  # noqa: E402


def size(model):
    return sum(p.numel() for p in model.parameters())


def zero(tensor, share, dim, seed=0):
    """Zero whole rows (0) or columns (1) of a weight."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(tensor.shape[dim], generator=generator) < share
    with torch.no_grad():
        tensor.movedim(dim, 0)[gone] = 0
    return int(gone.sum())


def outputs(model, *inputs):
    with torch.no_grad():
        return model.eval()(*inputs)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid, nn.Identity])
@pytest.mark.parametrize("bias", [True, False])
def test_constant_and_unread_units_go_and_the_function_stays(activation, bias):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(9, 40, bias=bias),
        activation(),
        nn.Dropout(0.3),
        nn.Linear(40, 30, bias=bias),
        activation(),
        nn.Linear(30, 4),
    )
    zero(model[0].weight, 0.4, 0)
    zero(model[3].weight, 0.3, 1, seed=1)
    gone = zero(model[3].weight, 0.3, 0, seed=2)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(50, 9)
    small = compact(model, x)
    assert model.training
    assert not small.training
    dead = ~(model[0].weight.any(dim=1) & model[3].weight.any(dim=0))
    assert small[0].weight.shape == (40 - int(dead.sum()), 9)
    assert small[3].weight.shape == (30 - gone, 40 - int(dead.sum()))
    assert torch.allclose(outputs(small, x), outputs(model, x), atol=1e-5)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Net(nn.Module):
    """Convolutions with BatchNorm, a residual, pooling and a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.inner = nn.Conv2d(12, 16, 3)
        self.back = nn.Conv2d(16, 12, 1)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(12, 10, 2)
        self.head = nn.Linear(10 * 2 * 2, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = self.back(torch.relu(self.inner(x)))
        x = self.pool(x[:, :, 1:-1, 1:-1] + y)
        return self.head(torch.flatten(torch.relu(self.last(x)), 1))


def test_channels_of_convolutions_go_but_none_that_a_residual_adds():
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))
    for layer in (model.stem, model.inner, model.back, model.last):
        zero(layer.weight, 0.5, 0)
    x = torch.randn(6, 3, 8, 8)
    small = compact(model, x)
    assert isinstance(small.norm, nn.Identity)
    assert small.stem.out_channels == small.back.out_channels == 12
    assert small.inner.out_channels < 16
    assert small.last.out_channels < 10
    assert small.head.in_features == 4 * small.last.out_channels
    assert size(small) < 0.7 * size(model)
    assert torch.allclose(outputs(small, x), outputs(model, x), atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_channel_before_padding_goes_only_where_it_is_zero(sign):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    with torch.no_grad():
        model[0].weight[:5] = 0
        model[0].bias.fill_(sign)
    x = torch.randn(4, 3, 7, 7)
    small = compact(model, x)
    assert small[0].out_channels == (8 if sign > 0 else 3)
    assert torch.allclose(outputs(small, x), outputs(model, x), atol=1e-5)


def test_what_dies_further_on_goes_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2)
    )
    with torch.no_grad():
        model[4].weight[:, 5:] = 0  # nobody reads 15 units of the second
        model[2].weight[:5, 10:] = 0  # the others read 10 of the first
    small = compact(model, torch.randn(5, 6))
    assert [m.out_features for m in (small[0], small[2], small[4])] == [10, 5, 2]


def test_a_layer_keeps_one_unit_where_all_could_go():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight)
    small = compact(model, torch.randn(5, 6))
    assert small[0].out_features == 1


def test_layers_used_twice_or_tied_or_in_groups_keep_all():
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    zero(shared.weight, 0.5, 0)
    twice = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 2))
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    zero(tied[0].weight, 0.5, 0)
    for model in (twice, tied):
        small = compact(model, torch.randn(3, 6))
        assert size(small) == size(model)
    grouped = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8))
    zero(grouped[0].weight, 0.5, 0)
    assert size(compact(grouped, torch.randn(2, 4, 9))) == size(grouped)


def test_a_model_that_cannot_be_traced_is_refused():
    class Asks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.fx cannot trace the model"):
        compact(Asks(), torch.randn(3))


def test_a_smaller_network_that_is_not_the_same_is_not_returned():
    class Fixed(nn.Module):
        """Divides by the width that it was built with, by its own account."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.second(torch.relu(self.first(x))) / self.first.out_features

    model = Fixed()
    zero(model.first.weight, 0.5, 0)
    with pytest.raises(ValueError, match="not give the same outputs"):
        compact(model, torch.randn(3, 6))
