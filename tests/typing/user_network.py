"""A user's script that prunes a network; see user_script.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from chita_torch import PruningReport, export_sparse, keep_pruned, prune, refit


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)


def main() -> None:
    X, y = torch.randn(512, 20), torch.randint(2, (512,))
    batches = DataLoader(TensorDataset(X, y), batch_size=64)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    report: PruningReport = prune(
        model, batches, loss, sparsity=0.9, stages=4, scope="global", solver="auto"
    )
    print(report, report.n_kept, {name: m.sum() for name, m in report.masks.items()})
    optimizer = torch.optim.Adam(model.parameters())
    with keep_pruned(model, optimizer):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, (batch[0], batch[1])).backward()
            optimizer.step()
    refit(model, batches, dense=dense)
    print(export_sparse(model).tensors)


if __name__ == "__main__":
    main()
