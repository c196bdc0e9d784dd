"""
==============================================
A digits network, pruned without more training
==============================================

A small network learns the digits; then most of its weights are set to zero.
Magnitude pruning keeps the largest weights as they are. ``prune`` chooses which to
keep from what the layers are given and what their outputs matter, and moves the kept
ones to make up for the rest; in stages, it looks again as it goes.
"""

import copy
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.utils.prune import L1Unstructured, global_unstructured
from torch.utils.data import DataLoader, TensorDataset

from chita_torch import prune

OUTPUT = Path("demo_output")
OUTPUT.mkdir(exist_ok=True)

# %%
# The network
# -----------

images, labels = load_digits(return_X_y=True)
images, images_test, labels, labels_test = (
    torch.as_tensor(part)
    for part in train_test_split(
        (images / 16).astype("float32"), labels, test_size=0.25, random_state=0
    )
)

torch.manual_seed(0)
dense = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
batches = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
for _ in range(30):
    for x, target in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(dense(x), target).backward()
        optimizer.step()


def accuracy(model):
    with torch.no_grad():
        return float((model(images_test).argmax(dim=1) == labels_test).float().mean())


n_weights = sum(layer.weight.numel() for layer in dense if isinstance(layer, nn.Linear))
print(f"Digits network: {n_weights} weights, test accuracy {accuracy(dense):.1%}\n")

# %%
# Three ways to prune it
# ----------------------
# ``prune`` works in place, here on a copy. It asks for the data and for the mean
# loss of a batch, and returns a report.


def loss(model, batch):
    x, target = batch
    return nn.functional.cross_entropy(model(x), target)


def magnitude(model, sparsity):
    layers = [(m, "weight") for m in model if isinstance(m, nn.Linear)]
    global_unstructured(layers, pruning_method=L1Unstructured, amount=sparsity)


def chita(model, sparsity, stages=1):
    return prune(
        model,
        batches,
        loss,
        sparsity=sparsity,
        stages=stages,
        progress=False,
        random_state=0,
    )


METHODS = {
    "magnitude": magnitude,
    "prune": chita,
    "prune, 5 stages": partial(chita, stages=5),
}
sparsities = (0.8, 0.9, 0.95, 0.98)
results = {title: [] for title in METHODS}

print("Test accuracy after pruning, without training again")
print("sparsity   weights" + "".join(f"{title:>18}" for title in METHODS))
for sparsity in sparsities:
    for title, method in METHODS.items():
        model = copy.deepcopy(dense)
        report = method(model, sparsity)
        results[title].append(accuracy(model))
    row = "".join(f"{results[title][-1]:18.1%}" for title in METHODS)
    print(f"{sparsity:8.0%}  {n_weights - round(sparsity * n_weights):8d}{row}")

# %%
# What happened
# -------------
# The report of the last one, layer by layer.

print(f"\n{report}")

# %%
# The same as a picture
# ---------------------

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.axhline(accuracy(dense), color="black", linestyle=":", label="before")
for (title, values), color in zip(
    results.items(), ("#999999", "#D55E00", "#0072B2"), strict=True
):
    ax.plot(sparsities, values, "o-", color=color, label=title)
ax.set(xlabel="share of weights set to zero", ylabel="accuracy on images held out")
ax.legend(frameon=False)
fig.savefig(OUTPUT / "prune_digits.png", dpi=150)
print(f"\nPicture: {OUTPUT / 'prune_digits.png'}")
