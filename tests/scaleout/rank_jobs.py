"""What the ranks of the tests do: functions that other processes can import."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from chita_torch import GradualPruner, keep_pruned, prune, refit


def loss(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def samples(n_batches=10, size=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n_batches * size, 12, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return list(zip(x.split(size), y.split(size), strict=True))


def message(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was said"


def refusals(rank, size):
    """What is said on ranks that were not told of each other."""
    plain, batches = network(), samples()
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.clone() for p in model.parameters()]
    few = {"sparsity": 0.5, "samples_per_gradient": 2, "progress": False}
    said = {
        "prune": message(lambda: prune(model, batches, loss, **few)),
        "refit": message(
            lambda: refit(plain, batches, masks={"0.weight": torch.ones(10, 12) > 0})
        ),
        "gradual": message(
            lambda: GradualPruner(model, optimizer, batches, loss, at=[1], **few)
        ),
    }
    same = all(map(torch.equal, model.parameters(), before))
    return said, same


def refusals_of_shards(rank, size):
    """What is said of a model that is sharded over the ranks."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "prune": message(lambda: prune(model, samples(), loss, sparsity=0.5)),
        "keep_pruned": message(lambda: keep_pruned(model, optimizer)),
    }
