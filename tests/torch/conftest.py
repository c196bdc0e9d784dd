"""Small networks and data for the tests of the torch adapter."""

import copy
from importlib.util import find_spec

import pytest

if find_spec("torch"):
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """A transformer encoder block with a classifier; takes dict batches."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.block = nn.TransformerEncoderLayer(
                8, 2, dim_feedforward=12, dropout=0.1, batch_first=True
            )
            self.head = nn.Linear(8, 3)

        def forward(self, input_ids, labels=None):
            logits = self.head(self.block(self.embed(input_ids)).mean(dim=1))
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.cross_entropy(logits, labels)}

    class ConvNet(nn.Module):
        """Convolutions of every common kind, BatchNorm, a linear head."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.grouped = nn.Conv2d(8, 8, 3, groups=2, stride=2)
            self.up = nn.ConvTranspose2d(8, 4, 2)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(self.grouped(x))
            return self.head(self.up(x).mean(dim=(2, 3)))

    def cross_entropy(model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def own_loss(model, batch):
        return model(**batch)["loss"]

    def _mlp():
        model = nn.Sequential(
            nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        x = torch.randn(240, 12)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        return model, list(zip(x.split(24), y.split(24), strict=True)), cross_entropy

    def _conv():
        x = torch.randn(160, 3, 6, 6)
        y = (x.mean(dim=(1, 2, 3)) > 0).long()
        return (
            ConvNet(),
            list(zip(x.split(16), y.split(16), strict=True)),
            cross_entropy,
        )

    def _encoder():
        ids = torch.randint(0, 11, (160, 5))
        batches = [
            {"input_ids": x, "labels": x[:, 0] % 3} for x in ids.split(16, dim=0)
        ]
        return Encoder(), batches, own_loss

    MAKERS = {"mlp": _mlp, "conv": _conv, "encoder": _encoder}

    @pytest.fixture(scope="session")
    def trained():
        """Name -> a trained model, its batches, its loss."""
        made = {}
        for name, make in MAKERS.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model, batches, loss_fn = make()
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
                for _ in range(15):
                    for batch in batches:
                        optimizer.zero_grad()
                        loss_fn(model, batch).backward()
                        optimizer.step()
                optimizer.zero_grad()
            made[name] = model, batches, loss_fn
        return made

    @pytest.fixture(params=list(MAKERS))
    def case(request, trained):
        """A fresh copy of each model, with batches and loss."""
        model, batches, loss_fn = trained[request.param]
        return copy.deepcopy(model), list(batches), loss_fn

    @pytest.fixture
    def mlp(trained):
        """A fresh copy of the MLP, with batches and loss."""
        model, batches, loss_fn = trained["mlp"]
        return copy.deepcopy(model), list(batches), loss_fn

    @pytest.fixture
    def conv(trained):
        """A fresh copy of the conv net (in training mode), with batches and loss."""
        model, batches, loss_fn = trained["conv"]
        return copy.deepcopy(model), list(batches), loss_fn
