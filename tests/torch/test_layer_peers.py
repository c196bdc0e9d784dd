"""The peers of `benchmarks.layers` do what their papers say, on small layers."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("benchmarks.layer_peers", reason="not a checkout")

from benchmarks.layer_peers import PEERS, two_of_four  # noqa: E402
from benchmarks.layer_peers.obs import DAMPING, obs  # noqa: E402


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 8, generator=generator).double()
    X = X @ torch.randn(8, 8, generator=generator).double()
    return X.T @ X / 50, torch.randn(3, 8, generator=generator).double()


def error(H, V, W):
    return float((((V - W) @ H) * (V - W)).sum())


@pytest.mark.parametrize("name", list(PEERS))
def test_every_peer_keeps_as_many_as_it_is_told(layer, name):
    H, W = layer
    assert int((PEERS[name](H, W, 10) != 0).sum()) == 10
    assert torch.equal(PEERS["magnitude, uniform"](H, W, 24), W)


def test_exact_elimination_is_that_of_refitting_after_every_weight(layer):
    H, W = layer
    G = H + DAMPING * H.diagonal().mean() * torch.eye(8, dtype=H.dtype)

    def fitted(i, S):
        w = torch.zeros_like(W[i])
        w[S] = torch.linalg.solve(G[S][:, S], (W[i] @ G)[S])
        return w

    def cost(i, S):
        return error(G, fitted(i, S), W[i])

    left = [list(range(8)) for _ in W]
    for _ in range(W.numel() - 10):
        _, i, j = min(
            (cost(i, [k for k in S if k != j]) - cost(i, S), i, j)
            for i, S in enumerate(left)
            for j in S
        )
        left[i].remove(j)
    expected = torch.stack([fitted(i, S) for i, S in enumerate(left)])
    torch.testing.assert_close(obs(H, W, 10), expected)


@pytest.mark.parametrize("name", list(two_of_four.PEERS))
def test_two_of_every_four_stay(layer, name):
    H, W = layer
    V = two_of_four.PEERS[name](H, W)
    assert bool(((V != 0).reshape(-1, 4).sum(dim=1) == 2).all())


def test_what_makes_up_for_the_others_loses_less():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 64, generator=generator).double()
    X = X @ torch.randn(64, 64, generator=generator).double()
    H, W = X.T @ X / 200, torch.randn(16, 64, generator=generator).double()
    errors = {name: error(H, peer(H, W, 512), W) for name, peer in PEERS.items()}
    assert errors["SparseGPT"] < errors["magnitude, uniform"]
    assert errors["exact OBS"] < errors["SparseGPT"]
    assert errors["ALPS (ADMM and refit)"] < errors["SparseGPT"]
    patterned = {n: error(H, peer(H, W), W) for n, peer in two_of_four.PEERS.items()}
    assert patterned["SparseGPT"] < patterned["magnitude"]
