"""A small language model, trained from scratch on the manuals that Python brings.

`load` trains a transformer of two blocks on characters of `pydoc_data.topics`, with a
fixed seed, in a quarter of a minute on one core: the network that `benchmarks.layers`
prunes beside MLPNet and ResNet-20, and that an example shows.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH, WIDTH, HEADS, BLOCKS = 48, 64, 4, 2
STEPS, BATCH, RATE = 500, 32, 4e-3
PRUNED_WITH, HELD = 256, 256  # sequences


class Block(nn.Module):
    """Attention and two linear layers, each after a norm and beside a shortcut."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, width) in and out; no position sees those after it."""
        parts = (
            self.qkv(self.norm1(x))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    """Characters in, logits of the next one out."""

    def __init__(self, n_symbols: int) -> None:
        super().__init__()
        self.symbol = nn.Embedding(n_symbols, WIDTH)
        self.place = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_symbols)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) -> (N, L, n_symbols)."""
        x = self.symbol(x) + self.place[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def load(seed: int = 0) -> tuple[Language, Tensor, Tensor]:
    """Return the trained model, sequences to prune with and sequences held out.

    All texts but the last tenth are for training; sequences to prune with are drawn
    from these.
    """
    text = "".join(topics[name] for name in sorted(topics))
    index = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[symbol] for symbol in text])
    cut = 9 * len(ids) // 10
    generator = torch.Generator().manual_seed(seed)

    def draw(part: Tensor, n: int) -> Tensor:
        starts = torch.randint(len(part) - LENGTH, (n,), generator=generator)
        return torch.stack([part[i : i + LENGTH] for i in starts.tolist()])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Language(len(index))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_fn(model, draw(ids[:cut], BATCH)).backward()
        optimizer.step()
        scheduler.step()
    optimizer.zero_grad()
    return model.eval(), draw(ids[:cut], PRUNED_WITH), draw(ids[cut:], HELD)
