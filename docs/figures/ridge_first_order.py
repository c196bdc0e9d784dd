"""Loss of a digits network after one stage, by ridge, with and without gradient."""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from chita_torch import prune

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


dense = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
for _ in range(20):
    for batch in batches:
        optimizer.zero_grad()
        loss(dense, batch).backward()
        optimizer.step()

ridges = [10.0**exponent for exponent in range(-5, 3)]
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True)
for ax, sparsity in zip(axes, (0.7, 0.9), strict=True):
    for first_order, label in ((True, "with"), (False, "without")):
        losses = []
        for ridge in ridges:
            model = copy.deepcopy(dense)
            prune(
                model,
                batches,
                loss,
                objective="gradients",
                sparsity=sparsity,
                ridge=ridge,
                first_order=first_order,
                samples_per_gradient=8,
                calibration=0,
                progress=False,
                random_state=0,
            )
            with torch.no_grad():
                losses.append(float(loss(model, (X_test, y_test))))
        ax.loglog(ridges, losses, "o-", label=f"{label} first-order term")
    with torch.no_grad():
        before = float(loss(dense, (X_test, y_test)))
    ax.axhline(before, color="0.5", linestyle=":", label="before pruning")
    ax.set(xlabel="ridge", title=f"{sparsity:.0%} of the weights pruned")
axes[0].set_ylabel("loss on images held out")
axes[0].legend(fontsize="small")
