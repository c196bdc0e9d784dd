"""
===============================================
2:4 sparsity: the pattern of sparse GPU kernels
===============================================

``pattern="2:4"`` keeps two of every four consecutive weights of each row, the form
that sparse tensor cores read; any n:m works the same way. Choosing the two by their
size costs accuracy; choosing them by what the layers do, and moving the two that stay,
costs less. At the end, what the pruned model takes on disk.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from chita_torch import export_sparse, prune

# %%
# A small convolutional network
# -----------------------------

torch.manual_seed(0)
X, X_test, y, y_test = (
    torch.as_tensor(part)
    for part in train_test_split(
        *load_digits(return_X_y=True), test_size=0.25, random_state=0
    )
)
X, X_test = (part.float().reshape(-1, 1, 8, 8) / 16 for part in (X, X_test))
batches = list(zip(X.split(64), y.split(64), strict=True))[:-1]


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def accuracy(model):
    with torch.no_grad():
        return float((model(X_test).argmax(dim=1) == y_test).float().mean())


dense = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 32),
    nn.ReLU(),
    nn.Linear(32, 10),
)
optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
for _ in range(15):
    for batch in batches:
        optimizer.zero_grad()
        loss(dense, batch).backward()
        optimizer.step()
print(f"dense: {accuracy(dense):.1%}")

# %%
# The two largest of each four
# ----------------------------
# The first convolution has nine weights a row: it is left alone, here and below.


def largest(weight, n, m):
    rows = weight.movedim(1, -1)  # input channels last, as `prune` has it
    groups = rows.reshape(-1, m)
    kept = groups.abs().topk(n, dim=1).indices
    sparse = torch.zeros_like(groups).scatter(1, kept, groups.gather(1, kept))
    return sparse.reshape(rows.shape).movedim(-1, 1)


scores, masks = {}, {}
for n, m in ((2, 4), (1, 4), (1, 8)):
    by_size = copy.deepcopy(dense)
    with torch.no_grad():
        for layer in (by_size[2], by_size[5], by_size[7]):
            layer.weight.copy_(largest(layer.weight, n, m))
    pruned = copy.deepcopy(dense)
    report = prune(
        pruned,
        batches,
        loss,
        pattern=(n, m),
        exclude="0",
        samples_per_gradient=8,
        progress=False,
        random_state=0,
    )
    masks[n, m] = report.masks["5.weight"]
    scores[n, m] = accuracy(by_size), accuracy(pruned)
    print("{}:{}   by size {:6.1%}   prune {:6.1%}".format(n, m, *scores[n, m]))

# %%
# Accuracy, and what the patterns look like
# -----------------------------------------
# A corner of the first fully connected layer: dark weights stay. Between two lines
# each row keeps two of four, or one of four.

fig, axes = plt.subplots(1, 4, figsize=(9, 2.8), layout="constrained")
names = [f"{n}:{m}" for n, m in scores]
for i, (title, color) in enumerate((("by size", "#999999"), ("prune", "#0072B2"))):
    places = [t + 0.4 * i for t in range(len(names))]
    values = [pair[i] for pair in scores.values()]
    axes[0].bar(places, values, 0.38, color=color, label=title)
axes[0].axhline(accuracy(dense), color="black", linestyle=":", label="dense")
axes[0].set_xticks([t + 0.2 for t in range(len(names))], names)
axes[0].set(ylim=(0, 1.35), yticks=(0, 0.25, 0.5, 0.75, 1), ylabel="test accuracy")
axes[0].legend(frameon=False, fontsize="small", ncols=2, loc="upper left")
for ax, ((n, m), mask) in zip(axes[1:], masks.items(), strict=True):
    ax.imshow(mask[:16, :16], cmap="Blues", vmin=-0.1, vmax=1.3)
    for column in range(m, 16, m):
        ax.axvline(column - 0.5, color="black", linewidth=0.8)
    ax.set(title=f"{n}:{m}", xticks=[], yticks=[])
plt.show()

# %%
# What happened, and what it saves
# --------------------------------

print(f"\n{report}\n")
print(export_sparse(pruned))
