"""
================================================
A transformer that takes dict batches
================================================

Models of the Hugging Face kind take a batch as keyword arguments and return their
loss. ``prune`` needs to be told so in one line; batches may be dicts. The attention's
input projection, a raw parameter, is pruned like any other weight; embeddings and
norms are not, unless they are named.
"""

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

from chita_torch import prune

# %%
# A model and a task
# ------------------
# Twelve symbols; the label is 1 if symbol 0 occurs more often than symbol 1.


class Classifier(nn.Module):
    def __init__(self, n_symbols=12, width=24):
        super().__init__()
        self.embed = nn.Embedding(n_symbols, width)
        block = nn.TransformerEncoderLayer(width, 4, 48, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = self.embed(input_ids)
        hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        logits = self.head((hidden * weights).sum(dim=1))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


torch.manual_seed(0)


def make_batches(n):
    batches = []
    for _ in range(n):
        ids = torch.randint(0, 12, (64, 16))
        lengths = torch.randint(8, 17, (64, 1))
        mask = (torch.arange(16) < lengths).long()
        counts = [((ids == symbol) * mask).sum(dim=1) for symbol in (0, 1)]
        labels = (counts[0] > counts[1]).long()
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


batches, test_batches = make_batches(60), make_batches(20)


def accuracy(model):
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in test_batches:
            answers = model(**batch)["logits"].argmax(dim=1)
            right += int((answers == batch["labels"]).sum())
    return right / (64 * len(test_batches))


dense = Classifier()
optimizer = torch.optim.Adam(dense.parameters(), lr=2e-3)
for _ in range(4):
    dense.train()
    for batch in batches:
        optimizer.zero_grad()
        dense(**batch)["loss"].backward()
        optimizer.step()
print(f"dense: {accuracy(dense):.1%}\n")

# %%
# Prune it
# --------
# The loss function unpacks the batch. The head is named in ``exclude``, as one would
# do for a language model's.


def loss(model, batch):
    return model(**batch)["loss"]


reports = {}
print("sparsity   accuracy   taken")
for sparsity in (0.9, 0.95, 0.98):
    model = copy.deepcopy(dense)
    reports[sparsity] = prune(
        model,
        batches,
        loss,
        sparsity=sparsity,
        exclude="head",
        n_gradients=150,
        samples_per_gradient=8,
        progress=False,
        random_state=0,
    )
    taken = reports[sparsity].stages[0].taken
    print(f"{sparsity:8.0%}{accuracy(model):11.1%}   {taken}")

# %%
# What is left of it
# ------------------
# The weights that stay at 98 %, as dots, with lines between the heads. One budget for
# all layers tells what the task needs: the feed-forward layers are all but empty, and
# most of what is left of the second block's attention belongs to one head of four.

report = reports[0.98]
print(report)

fig, axes = plt.subplots(2, 4, figsize=(8, 6), layout="constrained")
for ax, layer in zip(axes.flat, report.layers, strict=True):
    mask = report.masks[layer.name]
    row, column = mask.nonzero().T
    ax.scatter(column, row, s=6, color="#0072B2")
    if "in_proj" in layer.name:
        for head in range(12):
            ax.axhline(
                6 * head - 0.5, color="#999999", linewidth=(0.3, 1)[head % 4 == 0]
            )
        for i, name in enumerate(("query", "key", "value")):
            ax.text(24, 24 * i + 11.5, name, rotation=-90, va="center", size=8)
    elif "out_proj" in layer.name:
        for head in range(4):
            ax.axvline(6 * head - 0.5, color="#999999", linewidth=0.3)
    name = layer.name.removeprefix("encoder.layers.").removesuffix("weight")
    ax.set_title(f"{name.strip('._')}: {layer.n_kept} of {layer.n_weights}", size=8)
    rows, columns = mask.shape
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
plt.show()
