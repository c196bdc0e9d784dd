"""Why gradients divide the budget and activations solve: each part left out in turn."""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from chita_torch import prune, refit

torch.manual_seed(0)
X, X_test, y, y_test = (
    torch.as_tensor(part)
    for part in train_test_split(
        *load_digits(return_X_y=True), test_size=0.25, random_state=0
    )
)
X, X_test = X.float() / 16, X_test.float() / 16
batches = list(zip(X.split(64), y.split(64), strict=True))[:-1]


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


dense = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
for _ in range(30):
    for batch in batches:
        optimizer.zero_grad()
        loss(dense, batch).backward()
        optimizer.step()

COMMON = {"ridge": 1e-2, "progress": False, "random_state": 0}
LAYERS = {**COMMON, "objective": "reconstruction"}
GRADIENTS = {**COMMON, "objective": "gradients", "first_order": False}


def by_magnitude(sparsity):
    model = copy.deepcopy(dense)
    weights = torch.cat([layer.weight.detach().abs().flatten() for layer in dense[::2]])
    least = weights.kthvalue(round(sparsity * len(weights))).values
    masks = {f"{i}.weight": dense[i].weight.detach().abs() > least for i in (0, 2)}
    refit(model, batches, loss, masks=masks, random_state=0)
    return model


def by_prune(sparsity, **options):
    model = copy.deepcopy(dense)
    prune(model, batches, loss, sparsity=sparsity, **options)
    return model


WAYS = {
    "gradients alone": lambda s: by_prune(s, **GRADIENTS),
    "layers alone, equal shares": lambda s: by_prune(s, scope="layer", **LAYERS),
    "largest weights, layers refitted": by_magnitude,
    "both: budget by gradients, layers solved": lambda s: by_prune(s, **LAYERS),
}
sparsities = (0.8, 0.9, 0.95)
fig, ax = plt.subplots()
for (title, way), mark in zip(WAYS.items(), "s^vo", strict=True):
    scores = []
    for sparsity in sparsities:
        with torch.no_grad():
            answers = way(sparsity)(X_test).argmax(dim=1)
        scores.append(100 * float((answers == y_test).float().mean()))
    ax.plot(sparsities, scores, f"{mark}-", label=title)
ax.set(xlabel="share of weights set to zero", ylabel="accuracy on images held out, %")
ax.legend()
