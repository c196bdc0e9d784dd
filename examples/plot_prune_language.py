"""
===================================
A small language model, half pruned
===================================

A transformer learns to write the manuals that Python brings, character by character.
Then half, and more, of its weights go. Magnitude pruning keeps the largest weights;
``prune`` keeps what gives the layers' outputs back, divides one budget over all layers,
and moves the weights that stay.
"""

import copy
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from chita_torch import prune

# %%
# Text and model
# --------------
# Two blocks of attention and feed-forward layers, 48 characters at a time.

LENGTH, WIDTH, HEADS = 48, 48, 4
text = "".join(topics[name] for name in sorted(topics))
symbols = sorted(set(text))
ids = torch.tensor([symbols.index(symbol) for symbol in text[:200_000]])
train, test = ids[:180_000], ids[180_000:]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1))
        mixed = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4), is_causal=True
        )
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.symbol = nn.Embedding(len(symbols), WIDTH)
        self.place = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(symbols))

    def forward(self, x):
        x = self.symbol(x) + self.place[: x.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def draw(part, n):
    starts = torch.randint(len(part) - LENGTH, (n,))
    return torch.stack([part[i : i + LENGTH] for i in starts])


def loss(model, batch):
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


torch.manual_seed(0)
dense = Language()
optimizer = torch.optim.AdamW(dense.parameters(), lr=4e-3)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, 300)
for _ in range(300):
    optimizer.zero_grad()
    loss(dense, draw(train, 32)).backward()
    optimizer.step()
    scheduler.step()
dense.eval()
held = draw(test, 256)


def nats(model):
    with torch.no_grad():
        return float(loss(model, held))


print(f"dense: {nats(dense):.3f} nats a character on text it has not seen\n")

# %%
# Prune it
# --------
# The 128 sequences that ``prune`` sees are from the text that the model was trained on.

batches = draw(train, 128).split(16)


def magnitude(model, sparsity):
    weights = [
        parameter
        for name, parameter in model.blocks.named_parameters()
        if parameter.ndim == 2
    ]
    flat = torch.cat([weight.detach().abs().flatten() for weight in weights])
    least = flat.kthvalue(round(sparsity * len(flat))).values
    with torch.no_grad():
        for weight in weights:
            weight.masked_fill_(weight.abs() <= least, 0.0)


sparsities, losses = (0.5, 0.7, 0.8), {"magnitude": [], "prune": []}
print("sparsity   magnitude   prune")
for sparsity in sparsities:
    by_size, pruned = copy.deepcopy(dense), copy.deepcopy(dense)
    magnitude(by_size, sparsity)
    report = prune(
        pruned,
        batches,
        loss,
        sparsity=sparsity,
        exclude="head",
        progress=False,
        random_state=0,
    )
    losses["magnitude"].append(nats(by_size))
    losses["prune"].append(nats(pruned))
    print(f"{sparsity:8.0%}{losses['magnitude'][-1]:12.3f}{losses['prune'][-1]:8.3f}")

# %%
# The same as a picture
# ---------------------

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.axhline(nats(dense), color="black", linestyle=":", label="dense")
for (title, values), color in zip(losses.items(), ("#999999", "#0072B2"), strict=True):
    ax.plot(sparsities, values, "o-", color=color, label=title)
ax.set(xlabel="share of weights set to zero", ylabel="nats a character, text held out")
ax.legend(frameon=False)
plt.show()

# %%
# Layer by layer
# --------------
# The second column from the right is the error of each layer's outputs, as a share of
# their square: what the budget has left them to lose.

print(report)
