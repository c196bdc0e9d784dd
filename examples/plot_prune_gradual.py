"""
==========================
Pruning during fine-tuning
==========================

A pruned network recovers when training goes on, if its zeros stay zero. Pruning in
several steps with training in between loses less than pruning at once: here both are
given the same number of epochs, at several sparsities.
"""

import copy
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from chita_torch import GradualPruner, keep_pruned, prune

OUTPUT = Path("demo_output")
OUTPUT.mkdir(exist_ok=True)
EPOCHS = 20

# %%
# A trained network
# -----------------

torch.manual_seed(0)
X, X_test, y, y_test = (
    torch.as_tensor(part)
    for part in train_test_split(
        *load_digits(return_X_y=True), test_size=0.5, random_state=0
    )
)
X, X_test = X.float() / 16, X_test.float() / 16
batches = list(zip(X.split(32), y.split(32), strict=True))[:-1]


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def train(model, optimizer, epochs, after_epoch=lambda: None):
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        after_epoch()


def accuracy(model):
    with torch.no_grad():
        return float((model(X_test).argmax(dim=1) == y_test).float().mean())


dense = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
train(dense, torch.optim.Adam(dense.parameters(), lr=3e-3), 30)
print(f"before pruning: test accuracy {accuracy(dense):.1%}\n")

# %%
# At once, then train
# -------------------
# ``keep_pruned`` holds the zeros through momentum and weight decay.

OPTIONS = {"progress": False, "random_state": 0, "samples_per_gradient": 4}


def at_once(model, sparsity):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    prune(model, batches, loss, sparsity=sparsity, **OPTIONS)
    with keep_pruned(model, optimizer):
        train(model, optimizer, EPOCHS)


# %%
# Gradually
# ---------
# ``GradualPruner`` prunes at the given calls of its ``step``, along a cubic schedule,
# and holds the zeros in between.


def gradually(model, sparsity):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with GradualPruner(
        model,
        optimizer,
        batches,
        loss,
        at=range(0, EPOCHS // 2 + 1, 3),
        sparsity=sparsity,
        **OPTIONS,
    ) as pruner:
        train(model, optimizer, EPOCHS, after_epoch=pruner.step)


sparsities = (0.9, 0.95, 0.98)
curves = {"at once": [], "gradually": []}
print(f"test accuracy after {EPOCHS} more epochs")
print("sparsity   at once   gradually")
for sparsity in sparsities:
    for title, method in (("at once", at_once), ("gradually", gradually)):
        model = copy.deepcopy(dense)
        method(model, sparsity)
        curves[title].append(accuracy(model))
    print(
        f"{sparsity:8.0%}{curves['at once'][-1]:10.1%}{curves['gradually'][-1]:12.1%}"
    )

# %%
# The same as a picture
# ---------------------

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.axhline(accuracy(dense), color="black", linestyle=":", label="before")
for (title, values), color in zip(curves.items(), ("#D55E00", "#0072B2"), strict=True):
    ax.plot(sparsities, values, "o-", color=color, label=f"pruned {title}")
ax.set(xlabel="share of weights set to zero", ylabel="accuracy on images held out")
ax.legend(frameon=False)
fig.savefig(OUTPUT / "prune_gradual.png", dpi=150)
