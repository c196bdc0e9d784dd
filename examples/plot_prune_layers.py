"""
=================================================
One budget for the network, or one for each layer
=================================================

One budget for the whole network leaves each layer as many weights as the loss asks for.
A budget per layer treats all alike. Between the two, ``min_density`` keeps a global
budget from emptying a layer.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from chita_torch import prune

# %%
# A trained network
# -----------------

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


def accuracy(model):
    with torch.no_grad():
        return float((model(X_test).argmax(dim=1) == y_test).float().mean())


dense = nn.Sequential(
    nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10)
)
optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
for _ in range(25):
    for batch in batches:
        optimizer.zero_grad()
        loss(dense, batch).backward()
        optimizer.step()
print(f"dense: test accuracy {accuracy(dense):.1%}\n")

# %%
# Three ways to share out one budget
# ----------------------------------
# A tenth of the weights stays, in five stages each.

SCOPES = {
    "global": {"scope": "global"},
    "global, floor of 8 %": {"scope": "global", "min_density": 0.08},
    "per layer": {"scope": "layer"},
}
reports = {}
for title, options in SCOPES.items():
    model = copy.deepcopy(dense)
    reports[title] = prune(
        model,
        batches,
        loss,
        density=0.1,
        stages=5,
        samples_per_gradient=8,
        progress=False,
        random_state=0,
        **options,
    )
    kept = {layer.name: layer.n_kept for layer in reports[title].layers}
    print(f"{title:21} test accuracy {accuracy(model):6.1%}   kept {kept}")

# %%
# Layer by layer
# --------------
# The first layer has many weights for pixels that are nearly always blank, and can
# spare them. The last one is small, and every output needs some of its weights.

fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
names = [layer.name for layer in reports["global"].layers]
height = 0.8 / len(reports)
for i, (title, report) in enumerate(reports.items()):
    shares = [100 * layer.n_kept / layer.n_weights for layer in report.layers]
    color = ("#0072B2", "#009E73", "#D55E00")[i]
    ax.barh(np.arange(3) + i * height, shares, height, color=color, label=title)
ax.set(yticks=np.arange(3) + height, yticklabels=names, xlabel="% of weights kept")
ax.invert_yaxis()
ax.legend(frameon=False)
plt.show()

# %%
# The report has more: how far the weights of each layer moved, and what each stage
# tried and chose.

print(reports["global"])
