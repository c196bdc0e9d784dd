"""Pruning whole units, beside Torch-Pruning: test accuracy at equal operations.

    python -m benchmarks.structured
    python -m benchmarks.structured --nets mlpnet --sparsities 0.5 --seeds 0
    python -m benchmarks.structured --table docs/benchmarks_structured.md

Three ways to remove the same share of a network's operations, the output layer's width
left as it is: ``prune(pattern="units", cost="flops")``, and Torch-Pruning 1.6 by its
group magnitude and its group Taylor scores (gradients of the same training images), its
ratio of channels bisected to where the operations are those asked for, or less. Then
all are treated alike: accuracy as pruned; with BatchNorm statistics recomputed on the
training images; and after the same fine-tuning of the sliced network (SGD with momentum
0.9 and weight decay 1e-4, from rate 0.03 along a cosine to zero; MLPNet 1 epoch of
60,000 images, ResNet-20 3 of 4,000).

Each has variants, of which the one is taken that has the most right answers (BatchNorm
recomputed) among training images that it was not pruned by, before any fine-tuning: all
channels or only those inside the blocks (ResNet-20), and for Torch-Pruning one ratio in
every layer or one ranking of all. The test images are looked at once for each number.
Results go to ``benchmarks/results/structured.json``; a run that is there is not
repeated (``--again`` does). Needs torch-pruning and the optional data (README.md).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from chita_torch import compact, prune
from chita_torch.state import recalibrate_batchnorm

from . import mlpnet, resnet20
from .pruning_data import data_folder, once, recorded
from .pruning_runs import Batch, accuracy, loss_fn

SPARSITIES = (0.3, 0.5, 0.7)
METHODS = ("Torch-Pruning, magnitude", "Torch-Pruning, Taylor", "pattern='units'")
MEASURES = {
    "pruned": "as pruned",
    "recalibrated": "BatchNorm recomputed",
    "finetuned": "fine-tuned",
}
HALVINGS = 12  # of the interval of ratios


class Task(NamedTuple):
    """A network and its data; ``held`` are training images not pruned by."""

    model: nn.Module
    batches: list[Batch]
    held: Batch
    train: Batch
    test: Batch
    epochs: int
    whole: tuple[str, ...]  # layers that keep their outputs
    inner: tuple[str, ...]  # and, where only channels inside blocks go, these


def task_of(net: str, folder: Path, seed: int) -> Task:
    """Load a network, and the images that it is pruned by, in an order of the seed."""
    if net == "mlpnet":
        model, train, test = mlpnet.load(folder)
        batches = mlpnet.batches_of(train, seed)
        held = tuple(torch.cat(x) for x in zip(*batches[-14:], strict=True))
        return Task(model, batches[:-14], held, train, test, 1, ("4",), ())
    model, train, test = resnet20.load(folder)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train[1]), generator=generator)
    some, held = ((train[0][i], train[1][i]) for i in (order[:1000], order[1000:2000]))
    blocks = itertools.product((1, 2, 3), range(3))
    inner = ("conv1", *(f"layer{i}.{j}.conv2" for i, j in blocks))
    batches = resnet20.batches_of(some, 50)
    return Task(model, batches, held, train, test, 3, ("linear",), inner)


def operations(model: nn.Module, images: Tensor) -> int:
    """Floating-point operations of linear layers and convolutions for an image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images[:1])
    return counter.get_total_flops()


def ours(task: Task, sparsity: float, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """The variants of ``pattern="units"``, sliced."""
    images = task.batches[0][0]
    whole = operations(task.model, images)
    for name, out in {"all": (), "inside": ("conv1",)}.items():
        if name == "inside" and not task.inner:
            continue
        model = copy.deepcopy(task.model)
        left = sum(  # what is left out of the share that `prune` counts
            operations(model.get_submodule(layer), images) for layer in out
        )
        prune(
            model,
            task.batches,
            loss_fn,
            pattern="units",
            sparsity=sparsity * whole / (whole - left),
            cost="flops",
            exclude=list(out) or None,
            recalibrate_batchnorm=False,
            random_state=seed,
            progress=False,
        )
        yield name, compact(model, images, fold=False)


def torch_pruning(
    task: Task, sparsity: float, importance: Callable[[], Any]
) -> Iterator[tuple[str, nn.Module]]:
    """The variants of Torch-Pruning, each with as many operations or fewer."""
    import torch_pruning as tp

    images = task.batches[0][0]
    goal = (1 - sparsity) * operations(task.model, images)
    dense = copy.deepcopy(task.model)
    n = sum(len(batch[1]) for batch in task.batches)
    for batch in task.batches:
        (loss_fn(dense, batch) * len(batch[1]) / n).backward()

    def pruned(ratio: float, inside: bool, ranked: bool) -> nn.Module:
        model = copy.deepcopy(dense)
        pairs = zip(model.parameters(), dense.parameters(), strict=True)
        for parameter, other in pairs:
            parameter.grad = other.grad.clone()
        layers = task.whole + (task.inner if inside else ())
        tp.pruner.BasePruner(
            model,
            images[:1],
            importance=importance(),
            global_pruning=ranked,
            pruning_ratio=ratio,
            ignored_layers=[model.get_submodule(layer) for layer in layers],
        ).step()
        model.zero_grad()
        return model

    for inside, ranked in itertools.product((False, True), (False, True)):
        if inside and not task.inner:
            continue
        low, high, best = 0.0, 1.0, None
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            model = pruned(ratio, inside, ranked)
            if operations(model, images) <= goal:
                high, best = ratio, model
            else:
                low = ratio
        where = "inside" if inside else "all"
        if best is not None:
            yield f"{where}, {'ranked' if ranked else 'uniform'}", best


def recalibrated(model: nn.Module, task: Task) -> nn.Module:
    """A copy with BatchNorm statistics of the training images."""
    model = copy.deepcopy(model).eval()
    recalibrate_batchnorm(model, loss_fn, task.batches, 0)
    return model


def finetuned(model: nn.Module, task: Task, seed: int) -> nn.Module:
    """A copy, trained on for a short time."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4
    )
    images, labels = task.train
    steps = task.epochs * len(labels.split(100))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(task.epochs):
        for part in torch.randperm(len(labels)).split(100):
            optimizer.zero_grad()
            loss_fn(model, (images[part], labels[part])).backward()
            optimizer.step()
            scheduler.step()
    return model


def run(task: Task, method: str, sparsity: float, seed: int) -> dict:
    """Prune in all variants, take one, and measure it."""
    start, norms = time.process_time(), bool(task.inner)
    if method == METHODS[2]:
        variants = ours(task, sparsity, seed)
    else:
        import torch_pruning as tp

        kind = "GroupTaylorImportance" if "Taylor" in method else "MagnitudeImportance"
        variants = torch_pruning(task, sparsity, getattr(tp.importance, kind))
    found = [
        (accuracy(recalibrated(model, task), task.held), name, model)
        for name, model in variants
    ]
    _, name, model = max(found, key=lambda one: one[0])
    seconds = time.process_time() - start
    images = task.batches[0][0]
    return {
        "variant": name,
        "held": {each: score for score, each, _ in found},
        "flops": operations(model, images) / operations(task.model, images),
        "weights": sum(p.numel() for p in model.parameters()),
        "pruned": accuracy(model, task.test),
        "recalibrated": accuracy(recalibrated(model, task), task.test)
        if norms
        else accuracy(model, task.test),
        "finetuned": accuracy(finetuned(model, task, seed), task.test),
        "seconds_of_pruning": seconds,
    }


def tables() -> str:
    """Return what is on file as Markdown."""
    parts = []
    for net, title in (("mlpnet", "MLPNet"), ("resnet20", "ResNet-20")):
        results = recorded("structured", {"net": net})
        sparsities = sorted({r["sparsity"] for r in results})
        head = "".join(f" | {100 * s:g} % fewer" for s in sparsities)
        lines = [f"| {title}, test accuracy in %{head} |"]
        lines.append("|---" * (len(sparsities) + 1) + "|")
        for key, label in MEASURES.items():
            if key == "recalibrated" and net == "mlpnet":
                continue
            for method in METHODS:
                row = [f"| {label}: {method}"]
                for s in sparsities:
                    wanted = {"net": net, "method": method, "sparsity": s}
                    values = [r[key] for r in recorded("structured", wanted)]
                    row.append(_mean_and_range(values))
                lines.append(" | ".join(row) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _mean_and_range(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else ""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with a folder for each net")
    parser.add_argument("--nets", default="mlpnet,resnet20")
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    parser.add_argument("--methods", default=";".join(METHODS), help="by semicolons")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--table", type=Path, help="write the table, run nothing")
    options = parser.parse_args(argv)
    if options.table:
        options.table.write_text(tables() + "\n")
        return 0
    torch.set_num_threads(options.threads)
    for net, seed in itertools.product(
        options.nets.split(","), map(int, options.seeds.split(","))
    ):
        given = None if options.data is None else options.data / net
        folder = data_folder(net, given)
        if folder is None:
            return 0
        task = task_of(net, folder, seed)
        for sparsity, method in itertools.product(
            map(float, options.sparsities.split(",")), options.methods.split(";")
        ):
            key = {"net": net, "method": method, "sparsity": sparsity, "seed": seed}
            once(
                "structured",
                key,
                partial(run, task, method, sparsity, seed),
                options.again,
            )
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
