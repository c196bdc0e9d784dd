"""What the ranks of the tests do: functions that other processes can import."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from chita_torch import GradualPruner, keep_pruned, prune, read_masks, refit
from chita_torch.shards import local, part_of


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


def cat(batches):
    """The samples of all batches."""
    return [torch.cat(each) for each in zip(*batches, strict=True)]


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
    """What is said of models that are sharded in ways that cannot be pruned."""
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (size,))
    parallel = parallelize_module(network(), mesh, {"0": ColwiseParallel()})
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    older = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    model = sharded(network(), size)
    before = [local(p).clone() for p in model.parameters()]
    alone = {"sparsity": 0.5, "group": dist.new_subgroups(1)[0]}
    said = {
        "tensor parallel": message(lambda: prune(parallel, [], loss, sparsity=0.5)),
        "keep_pruned": message(lambda: keep_pruned(parallel, optimizer)),
        "older": message(lambda: prune(older, samples(), loss, sparsity=0.5)),
        "no group": message(lambda: prune(model, samples(), loss, sparsity=0.5)),
        "a part of them": message(lambda: prune(model, samples(), loss, **alone)),
    }
    assert all(map(torch.equal, map(local, model.parameters()), before))
    return said


def sharded(model, size):
    """Layers and the rest sharded over the ranks, as FSDP2 is used."""
    from torch.distributed.tensor import init_device_mesh

    return sharded_over(model, init_device_mesh("cpu", (size,)))


def hybrid(model, size):
    """Sharded over pairs of ranks, the same on each pair; computes in bfloat16."""
    from torch.distributed.fsdp import MixedPrecisionPolicy
    from torch.distributed.tensor import init_device_mesh

    names = ("pair", "within")
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=names)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    return sharded_over(model, mesh, mp_policy=half)


def sharded_over(model, mesh, **options):
    from torch.distributed.fsdp import fully_shard

    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def replicated(model, size):
    """The model as each rank has it whole."""
    return DistributedDataParallel(model)


def whole_state(model):
    """The state of a model, whole on each rank."""
    from torch.distributed.checkpoint import state_dict as states

    if isinstance(model, DistributedDataParallel):
        return model.module.state_dict()
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return model.state_dict()
    options = states.StateDictOptions(full_state_dict=True)
    return states.get_model_state_dict(model, options=options)


RECONSTRUCTION = {"objective": "reconstruction"}
OPTIONS = {"sparsity": 0.7, "samples_per_gradient": 4, "progress": False}


def own(batches, rank, size):
    """Stretches of unequal length: rank 0 has the most."""
    if size == 1:
        return batches
    cuts = {2: (0, 7, 10), 4: (0, 4, 6, 9, 10)}[size]
    start, stop = (len(batches) * cut // 10 for cut in cuts[rank : rank + 2])
    return batches[start:stop]


class ConvNet(nn.Module):
    """Convolutions, a BatchNorm, a weight that is used twice, a recurrent one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.twice = nn.Linear(6, 6)
        self.memory = nn.GRU(6, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = x.reshape(-1, 1, 3, 4)
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(x)).flatten(2).mT
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.head(self.memory(x)[0][:, -1])


def conv():
    torch.manual_seed(0)
    return ConvNet()


def small_conv():
    torch.manual_seed(0)
    first = nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(72, 3))


def hashed(state):
    """A hash of a state, or of that of a model."""
    import hashlib

    state = state if isinstance(state, dict) else whole_state(state)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def both(rank, size, job, *several):
    """What a job returns for several lists of arguments."""
    return [job(rank, size, *arguments) for arguments in several]


def pruned(rank, size, make, options, wrap=replicated, data=(10, 24), labels=True):
    """Prune this rank's share of the batches; what came out."""
    import torch.distributed as dist

    model, batches = make(), own(samples(*data), rank, size)
    if size > 1:
        model = wrap(model, size)
        options = {**options, "group": dist.group.WORLD, "timeout": 20}
    if wrap is sharded and size > 1:
        model.eval()
        model(samples()[0][0])  # which leaves weights gathered
    model.train()
    loss_fn = loss if labels else None
    report = prune(model, batches, loss_fn, random_state=3, **OPTIONS | options)
    state = whole_state(model)
    assert size == 1 or wrap is replicated or len(model._forward_pre_hooks) == 1
    return {
        "hash": hashed(state),
        "masks": {n: m.numpy() for n, m in report.masks.items()},
        "weights": {n: t.detach().numpy() for n, t in state.items()},
        "loss": report.loss_after,
        "before": report.loss_before,
        "training": model.training,
    }


def held(model):
    """A hash of what this rank holds of a model."""
    parts = [*model.parameters(), *model.buffers()]
    return hashed({str(i): local(part) for i, part in enumerate(parts)})


def failing(rank, size, how, options, wrap=replicated):
    """Prune where the last rank fails in some way; what each is left with."""
    import os
    import signal
    import time

    import torch.distributed as dist

    from chita_torch.ranks import Ranks

    # (Ctrl-C is ignored in what a shell has started in the background.)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = conv() if wrap is replicated else wrap(conv(), size)
    before, calls = held(model), [0]
    timeout = 2 if how == "hang" else 20

    def strange(net, batch):
        calls[0] += 1
        if rank == size - 1 and calls[0] == 8:
            if how == "raise":
                raise ValueError("something odd in a batch")
            if how == "interrupt":
                signal.raise_signal(signal.SIGINT)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(4)
            if how == "nan":
                return loss(net, batch) * float("nan")
        return loss(net, batch)

    def killed(self, layout):
        os.kill(os.getpid(), signal.SIGKILL)

    if how == "kill at the end" and rank == size - 1:
        Ranks.commit = killed
    options = OPTIONS | {"random_state": 3, "group": dist.group.WORLD} | options
    start = time.perf_counter()
    said = "nothing"
    try:
        prune(model, own(samples(), rank, size), strange, timeout=timeout, **options)
    except (Exception, KeyboardInterrupt) as error:
        said = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    same = held(model) == before
    again = None
    if how in ("raise", "interrupt", "nan"):  # the ranks are there: they can go on
        report = prune(model, own(samples(), rank, size), loss, **options)
        again = report.n_kept
    return {"said": said, "same": same, "seconds": seconds, "again": again}


def parted(rank, size):
    """Refit in groups of two, each with a model and batches of its own."""
    import torch.distributed as dist

    groups = [dist.new_group([i, i + 1]) for i in range(0, size, 2)]
    mine, place = groups[rank // 2], rank % 2
    torch.manual_seed(rank // 2)
    model = nn.Linear(12, 3)
    masks = {"weight": model.weight.abs() > 0.1}
    batches = samples()[rank // 2 :: 2]
    for share in (batches[:4][place::2], batches[1:][place::2]):
        refit(model, share, masks=masks, random_state=0, group=mine, timeout=20)
    alone = dist.new_subgroups(1)[0]
    refit(nn.Linear(12, 3), batches, masks=masks, group=alone)
    return hashed(model)


def said_of_arguments(rank, size):
    """What is refused on ranks that were told of each other."""
    import torch.distributed as dist
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    options = OPTIONS | RECONSTRUCTION | {"ridge": 0.01}
    options |= {"group": dist.group.WORLD, "timeout": 20}
    x, y = cat(samples())
    data = TensorDataset(x[:-1], y[:-1])

    def loader(**kind):
        sampler = DistributedSampler(data, size, rank, **kind)
        return DataLoader(data, 24, sampler=sampler)

    other = network()
    if rank == 1:
        other[2].weight.data[0, 0] += 1
    one_of_two = dist.new_group([0])
    return {
        "same batches": message(lambda: prune(network(), samples(), loss, **options)),
        "padded": message(lambda: prune(network(), loader(), loss, **options)),
        "not padded": message(
            lambda: prune(network(), loader(drop_last=True), loss, **options)
        ),
        "other weights": message(
            lambda: prune(other, own(samples(), rank, size), loss, **options)
        ),
        "a rank without batches": message(
            lambda: prune(network(), samples() if rank else [], loss, **options)
        ),
        "no batches": message(lambda: prune(network(), [], loss, **options)),
        "another group": message(
            lambda: prune(network(), samples(), loss, **options | {"group": one_of_two})
        ),
    }


def trained(rank, size, stop=None, state=None, wrap=replicated, make=conv):
    """Train, the model whole on each rank or sharded, pruning on the way."""
    import io

    import torch.distributed as dist
    from torch.distributed.checkpoint import state_dict as states

    whole = states.StateDictOptions(full_state_dict=True)
    model = wrap(make(), size)
    inner = getattr(model, "module", model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    options = OPTIONS | {"group": dist.group.WORLD, "timeout": 20}
    batches = own(samples(), rank, size)
    if state is not None:
        state = torch.load(io.BytesIO(state))
        states.set_model_state_dict(inner, state["model"], options=whole)
        states.set_optimizer_state_dict(
            inner, optimizer, state["optimizer"], options=whole
        )
    pruner = GradualPruner(
        model,
        optimizer,
        batches,
        loss,
        at=[2, 4],
        random_state=0,
        resume=None if state is None else state["pruner"],
        **options | {"objective": "reconstruction"},
    )
    gradients = {}
    for step in range(pruner.state_dict()["count"], 6 if stop is None else stop):
        optimizer.zero_grad()
        loss(model, batches[step % len(batches)]).backward()
        for name, mask in pruner.kept.masks.items():
            gradient = inner.get_parameter(name).grad
            gradients[name] = local(gradient)[part_of(~mask, gradient)].abs().sum()
        optimizer.step()
        pruner.step()
    names = {name for name, _ in inner.named_parameters()}
    weights = {n: t for n, t in whole_state(model).items() if n in names}
    zeros = sum(int((t == 0).sum()) for t in weights.values())
    masks = pruner.kept.masks
    saved = io.BytesIO()
    kept = {
        "model": whole_state(model),
        "optimizer": states.get_optimizer_state_dict(inner, optimizer, options=whole),
        "pruner": pruner.state_dict(),
    }
    torch.save(kept, saved)
    pruner.remove()
    with keep_pruned(model, optimizer) as kept:
        loss(model, batches[0]).backward()
        optimizer.step()
        held = {name: mask.numpy() for name, mask in kept.masks.items()}
    # (Running statistics are each rank's own in training, as always.)
    after = whole_state(model)
    return {
        "hash": hashed(weights),
        "masks": {name: mask.numpy() for name, mask in masks.items()},
        "held": held,
        "held at zero": not any(after[n][~mask].any() for n, mask in masks.items()),
        "gradients": {name: float(total) for name, total in gradients.items()},
        "zeros": zeros,
        "state": saved.getvalue(),
        "count": pruner.state_dict()["count"],
    }


def refitted(rank, size):
    import torch.distributed as dist

    model = network()
    dense = {n: t.clone() for n, t in model.state_dict().items()}
    masks = {"0.weight": model[0].weight.abs() > 0.15}
    together = {} if size == 1 else {"group": dist.group.WORLD, "timeout": 20}
    errors = refit(
        model,
        own(samples(), rank, size),
        dense=dense,
        masks=masks,
        random_state=0,
        **together,
    )
    return {
        "hash": hashed(model),
        "errors": errors,
        "weight": model[0].weight.detach().numpy(),
    }


def sharded_by_way_of_a_plain_copy(rank, size):
    """What the guide says to do with a sharded model."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        set_model_state_dict,
    )
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model, plain = network(), network()
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    whole = StateDictOptions(full_state_dict=True)
    plain.load_state_dict(get_model_state_dict(model, options=whole))
    report = prune(
        plain,
        own(samples(), rank, size),
        loss,
        group=dist.group.WORLD,
        objective="reconstruction",
        **OPTIONS,
    )
    set_model_state_dict(model, plain.state_dict(), options=whole)
    found = get_model_state_dict(model, options=whole)
    state = plain.state_dict()
    same = all(torch.equal(found[name], state[name]) for name in state)
    zeros = all(bool((found[n][~m] == 0).all()) for n, m in report.masks.items())
    other = sharded(network(), size)
    for parameter in other.parameters():
        local(parameter).fill_(7.0)
    report.apply_to(other, weights=model)
    copied = whole_state(other)
    for name, mask in read_masks(other).items():
        same &= torch.equal(mask, report.masks[name])
        same &= torch.equal(copied[name], state[name])
    return same and zeros


def mlpnet(rank, size, folder, options):
    """Prune the trained MLPNet of the benchmark, on 2,000 images."""
    import torch.distributed as dist

    from benchmarks.mlpnet import load

    torch.set_num_threads(1)
    model, (x, y), _ = load(folder)
    batches = list(zip(x[:2000].split(100), y[:2000].split(100), strict=True))
    if size > 1:
        batches = batches[:12] if rank == 0 else batches[12:]
        options = options | {"group": dist.group.WORLD, "timeout": 60}
    report = prune(model, batches, loss, random_state=0, progress=False, **options)
    return {n: m.numpy() for n, m in report.masks.items()}, hashed(model)


def accelerated(rank, size, config):
    """Prune with what accelerate makes of a model, an optimizer and a loader."""
    import os

    import torch.distributed as dist
    from accelerate import Accelerator, DataLoaderConfiguration
    from torch.utils.data import DataLoader, TensorDataset

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    # (The group is there; accelerate asks for the address nevertheless.)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    config = DataLoaderConfiguration(**config)
    accelerator = Accelerator(cpu=True, dataloader_config=config)
    model, data = network(), TensorDataset(*cat(samples(9, 24)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data, batch_size=24)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    options = OPTIONS | RECONSTRUCTION | {"group": dist.group.WORLD, "timeout": 20}
    said = message(lambda: prune(model, loader, loss, random_state=3, **options))
    kept = keep_pruned(model, optimizer)
    for x, y in list(loader)[:4]:
        optimizer.zero_grad()
        accelerator.backward(loss(model, (x, y)))
        optimizer.step()
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    masks = {name: mask.numpy() for name, mask in kept.masks.items()}
    return said, len(loader), masks, zeros, hashed(accelerator.unwrap_model(model))
