"""Pruning ResNet-20 on CIFAR-10: test accuracy against sparsity.

    python -m benchmarks.resnet20
    python -m benchmarks.resnet20 --modes "one stage;10 stages" --sparsities 0.8
    python -m benchmarks.resnet20 --finetune --sparsities 0.9 --seeds 0,1,2
    python -m benchmarks.resnet20 --finetune --sparsities 0.9 --held 0.1
    python -m benchmarks.resnet20 --gradients     # batched gradients and the loop
    python -m benchmarks.resnet20 --study         # rows and plans, training images only
    python -m benchmarks.resnet20 --table docs/benchmarks_resnet20.md

4,000 training images to prune with, 10 % of them held back by `prune` to choose ridge,
first-order term, steps and BatchNorm recalibration; 1,000 test images (one is 0.1 %),
looked at once, at the end of each run. "layers" and "defaults" see the first 1,000
training images only, unless they say otherwise; "distilled" is the loss with the labels
and that of the dense network's outputs, "augmented" shifts and mirrors the images. The
dense network has 91.5 % on these. "+ bn":
BatchNorm statistics recomputed on the training images after each stage where that
lowers the calibration loss; "bn at the end": recomputed once, whatever the loss says.
Results go to ``benchmarks/results/resnet20.json``; a run that is there is not repeated.
Needs the optional data (README.md); ``--data`` names the folder that holds
``resnet20_weights.npz``, ``cifar10_train_first4000.npz`` and
``cifar10_test_first1000.npz``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chita_torch import GradualPruner, KeptPruned, keep_pruned, prune
from chita_torch.objective import ObjectiveName
from chita_torch.state import recalibrate_batchnorm
from chita_torch.targets import FIRST_SPARSITY

from .pruning_data import data_folder, record, recorded
from .pruning_runs import (
    accuracy,
    compare_gradients,
    count,
    loss_fn,
    prune_by_magnitude,
    summary,
    table,
)

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
TEMPERATURE = 4.0  # of distillation
MEAN, SD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
ONE = {"objective": "gradients", "n_gradients": 1800, "samples_per_gradient": 2}


def geometric(left: float) -> Callable[[int, int], float]:
    """Return the schedule that leaves ``left`` of the way to go after each stage."""
    return lambda t, stages: (1 - left ** (t + 1)) / (1 - left**stages)


def in_stages(stages: int, extra: int, left: float) -> dict:
    """Return settings of stages by gradients."""
    return {
        "objective": "gradients",
        "stages": stages,
        "extra_stages": extra,
        "n_gradients": 450,
        "samples_per_gradient": 8,
        "schedule": geometric(left),
    }


STAGED, LONGER = in_stages(6, 4, 0.5), in_stages(12, 8, 0.7)
MODES = {
    "magnitude": {},
    "one stage": {**ONE, "recalibrate_batchnorm": False},
    "layers": {"objective": "reconstruction", "recalibrate_batchnorm": False},
    "defaults": {},
    "defaults, 5 stages": {"stages": 5, "schedule": "cubic"},
    "defaults, 5 stages, distilled": {"stages": 5, "schedule": "cubic"},
    "defaults, 5 stages, 4,000 images": {"stages": 5, "schedule": "cubic"},
    "defaults, 5 stages, geometric": {"stages": 5, "schedule": geometric(0.63)},
    "defaults, 10 stages": {"stages": 10, "schedule": geometric(0.8)},
    "defaults, augmented": {},
    "defaults, 5 stages, augmented": {"stages": 5, "schedule": "cubic"},
    "layers, 5 stages": {
        "objective": "reconstruction",
        "stages": 5,
        "schedule": "cubic",
        "recalibrate_batchnorm": False,
    },
    "10 stages": {**STAGED, "recalibrate_batchnorm": False},
    "10 stages + bn": {**STAGED, "recalibrate_batchnorm": "auto"},
    "20 stages": {**LONGER, "recalibrate_batchnorm": False},
    "10 stages of 900 x 4": {
        **STAGED,
        "n_gradients": 900,
        "samples_per_gradient": 4,
        "recalibrate_batchnorm": False,
    },
}


class Recipe(NamedTuple):
    """How a network is trained on, pruned before or gradually meanwhile."""

    rate: float  # learning rate, falling to zero along a cosine
    temperature: float | None = None  # of the distillation; None: the labels instead
    warm_up: bool = False  # the rate first rises linearly, until the last pruning
    objective: ObjectiveName = "gradients"  # of the pruning before
    augmented: bool = False  # shifted and mirrored anew in each epoch
    stages: int = 1  # several: pruned before as by "defaults", with 1,000 images
    before: float = 1.0  # sparsity before at most; the rest goes while it trains


FINETUNE = {
    "finetune, one-shot": Recipe(0.03),
    "finetune, one-shot, rate 0.1": Recipe(0.1),
    "finetune, gradual": Recipe(0.03, before=0.0),
    "finetune, gradual, rate 0.1": Recipe(0.1, before=0.0),
    "distilled, gradual": Recipe(0.03, TEMPERATURE, warm_up=True, before=0.0),
    "distilled, one-shot": Recipe(0.03, TEMPERATURE, warm_up=True),
    "distilled, one-shot, auto": Recipe(
        0.03, TEMPERATURE, warm_up=True, objective="auto"
    ),
    "distilled, one-shot, auto, augmented": Recipe(
        0.03, TEMPERATURE, warm_up=True, objective="auto", augmented=True
    ),
    "distilled, 5 stages": Recipe(
        0.01, TEMPERATURE, warm_up=True, objective="auto", stages=5
    ),
    "distilled, 5 stages, gradual": Recipe(
        0.03, TEMPERATURE, warm_up=True, objective="auto", stages=5, before=0.9
    ),
    "distilled, one-shot, no warm-up": Recipe(0.03, TEMPERATURE),
    "distilled, one-shot, rate 0.01": Recipe(0.01, TEMPERATURE),
}
PRUNINGS = 11  # of gradual pruning, in less than two epochs
FURTHER = range(0, 61, 10)  # prunings of a network that was pruned most of the way
SPARING = (
    "layers",
    "defaults",
    "layers, 5 stages",
    "defaults, 5 stages",
    "defaults, 5 stages, distilled",
    "defaults, 5 stages, geometric",
    "defaults, 10 stages",
    "defaults, augmented",
    "defaults, 5 stages, augmented",
)  # modes of 1,000 images
PUBLISHED = {
    "published backsolve, one stage": {0.5: 90.9, 0.7: 78.8, 0.8: 47.9, 0.9: 9.5},
    "published backsolve, 10 stages": {0.8: 85.5, 0.9: 29.7},
}


class Block(nn.Module):
    """Two convolutions and a shortcut that subsamples and pads channels by zeros."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.extra = stride, n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.extra:
            x = x[:, :, :: self.stride, :: self.stride]
            half = self.extra // 2
            x = nn.functional.pad(x, (0, 0, 0, 0, half, self.extra - half))
        return torch.relu(out + x)


class ResNet20(nn.Module):
    """The CIFAR network of He et al. (2015) with parameter-free shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(
            Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1)
        )
        self.layer3 = nn.Sequential(
            Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1)
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 10)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def load(
    folder: Path, device: str = "cpu"
) -> tuple[ResNet20, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the dense model, and (images, labels) for training and for the test."""
    model = ResNet20()
    with np.load(folder / "resnet20_weights.npz", allow_pickle=False) as archive:
        state = {name: torch.tensor(archive[name]) for name in archive.files}
    model.load_state_dict(state, strict=False)  # counters of batches are not stored
    splits = []
    for name in ("train_first4000", "test_first1000"):
        with np.load(folder / f"cifar10_{name}.npz", allow_pickle=False) as archive:
            images = (torch.tensor(archive["x"]).float() / 255 - MEAN) / SD
            labels = torch.tensor(archive["y"]).long()
        images = images.permute(0, 3, 1, 2).contiguous()
        splits.append((images.to(device), labels.to(device)))
    return model.eval().to(device), splits[0], splits[1]


def batches_of(data: tuple[Tensor, Tensor], size: int = 80) -> list[tuple]:
    """Cut into batches, in the order of the file."""
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def few(data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The first thousand."""
    return data[0][:1000], data[1][:1000]


def run(
    folder: Path, mode: str, sparsity: float, seed: int, device: str = "cpu"
) -> Iterator[dict]:
    """Prune once; yield what is recorded, without BatchNorm recalibration and with."""
    model, train, test = load(folder, device)
    start = time.perf_counter()
    result: dict = {"mode": mode, "sparsity": sparsity, "seed": seed}
    if mode == "magnitude":
        prune_by_magnitude(model, sparsity)
    else:
        batches = batches_of(few(train), 50) if mode in SPARING else batches_of(train)
        if mode.endswith("augmented"):
            generator = torch.Generator().manual_seed(seed)
            batches = [(augmented(x, generator), labels) for x, labels in batches]
        distilled = mode.endswith("distilled")
        report = prune(
            model,
            with_outputs(model, batches) if distilled else batches,
            distilled_loss if distilled else loss_fn,
            sparsity=sparsity,
            random_state=seed,
            progress=False,
            **MODES[mode],
        )
        result |= summary(report)
    result["n_nonzero"] = count(model)
    result["seconds"] = time.perf_counter() - start
    yield {**result, "test_accuracy": accuracy(model, test)}
    if not mode.endswith(("bn", "augmented")):
        recalibrate_batchnorm(model, loss_fn, batches_of(train), seed)
        mode = f"{mode}, bn at the end"
        yield {**result, "mode": mode, "test_accuracy": accuracy(model, test)}


def distillation(outputs: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(outputs / T)) (Hinton et al., 2015)."""
    log_p, log_q = (
        nn.functional.log_softmax(z / temperature, dim=1) for z in (target, outputs)
    )
    divergence = nn.functional.kl_div(
        log_q, log_p, reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to four pixels, black coming in, and turn half of them.

    As in the training of the network: its BatchNorm statistics are those of such images
    (recomputed on 4,000 images as they are, its accuracy falls from 91.5 to 88.6 %, and
    on these to 91.3 %).
    """
    black = (-MEAN / SD).reshape(1, 3, 1, 1).to(images.device)
    framed = nn.functional.pad(images - black, (4, 4, 4, 4)) + black
    size, out = images.shape[-1], torch.empty_like(images)
    shifts = torch.randint(9, (len(images), 2), generator=generator).tolist()
    turns = torch.rand(len(images), generator=generator) < 0.5
    for i, (top, left) in enumerate(shifts):
        crop = framed[i, :, top : top + size, left : left + size]
        out[i] = crop.flip(-1) if turns[i] else crop
    return out


def with_outputs(model: nn.Module, batches: Iterable[tuple]) -> list[tuple]:
    """Batches, and the outputs of the model as it is."""
    with torch.no_grad():
        return [(images, labels, model(images)) for images, labels in batches]


def distilled_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy with the labels, and the distillation of given outputs."""
    images, labels, target = batch
    outputs = model(images)
    entropy = nn.functional.cross_entropy(outputs, labels)
    return entropy + distillation(outputs, target, TEMPERATURE)


def onward(before: float, sparsity: float) -> Callable[[int, int], float]:
    """Return the cubic schedule that starts from a sparsity reached before."""
    share = (before - FIRST_SPARSITY) / (sparsity - FIRST_SPARSITY)
    return lambda t, stages: 1 - (1 - share) * (1 - t / (stages - 1)) ** 3


def learning_rate(
    optimizer: torch.optim.Optimizer, steps: int, rising: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear from a twentieth for `rising` steps, then along a cosine to zero."""
    schedulers = torch.optim.lr_scheduler
    if not rising:
        return schedulers.CosineAnnealingLR(optimizer, steps)
    rise = schedulers.LinearLR(optimizer, 0.05, total_iters=rising)
    fall = schedulers.CosineAnnealingLR(optimizer, steps - rising)
    return schedulers.SequentialLR(optimizer, [rise, fall], [rising])


def pruned(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: tuple[Tensor, Tensor],
    batches: list[tuple],
    recipe: Recipe,
    sparsity: float,
    at: range,
    seed: int,
) -> KeptPruned | GradualPruner:
    """Prune as far as the recipe does before; return what holds, or prunes on."""
    before = min(sparsity, recipe.before)
    seeded = {"progress": False, "random_state": seed}
    rows = {"samples_per_gradient": 8, **seeded}
    if recipe.stages > 1:
        prune(
            model,
            batches_of(few(train), 50),
            loss_fn,
            objective=recipe.objective,
            sparsity=before,
            stages=recipe.stages,
            schedule="cubic",
            **seeded,
        )
    elif before:
        prune(
            model,
            batches,
            loss_fn,
            objective=recipe.objective,
            sparsity=before,
            n_gradients=450,
            **rows,
        )
    if before == sparsity:
        return keep_pruned(model, optimizer)
    # Of a network pruned before, the first keeps what there is, and holds its zeros.
    return GradualPruner(
        model,
        optimizer,
        batches,
        loss_fn,
        at=FURTHER if before else at,
        objective="gradients",
        sparsity=sparsity,
        schedule=onward(before, sparsity) if before else "cubic",
        n_gradients=200,
        first_order=False,
        recalibrate_batchnorm=True,
        **rows,
    )


def finetune(
    folder: Path,
    mode: str,
    sparsity: float,
    seed: int,
    epochs: int,
    held: float | None,
    device: str = "cpu",
) -> dict:
    """Train on the 4,000 images: pruned once before, or gradually meanwhile.

    For the labels, or for the outputs of the dense network (distillation). With
    ``held``, a learning rate, on 3,500 of them, and look at the other 500 instead of
    the test images: the recipes were chosen so.
    """
    model, train, test = load(folder, device)
    if held is not None:
        images, labels = train
        train, test = (images[:3500], labels[:3500]), (images[3500:], labels[3500:])
    torch.manual_seed(seed)
    start = time.perf_counter()
    recipe = FINETUNE[mode]
    rate = recipe.rate if held is None else held
    batches, steps = batches_of(train, 100), epochs * len(train[1]) // 100
    every = 7 * len(train[1]) // 4000
    last = (PRUNINGS - 1) * every
    generator = torch.Generator().manual_seed(seed)
    if recipe.augmented:
        batches = [(augmented(images, generator), y) for images, y in batches]
    dense = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = learning_rate(optimizer, steps, last if recipe.warm_up else 0)
    at = range(0, last + 1, every)
    holder = pruned(model, optimizer, train, batches, recipe, sparsity, at, seed)
    with holder:
        for _ in range(epochs):
            model.train()
            for part in torch.randperm(len(train[1])).split(100):
                optimizer.zero_grad()
                images, labels = train[0][part], train[1][part]
                if recipe.augmented:
                    images = augmented(images, generator)
                if recipe.temperature is None:
                    loss = loss_fn(model, (images, labels))
                else:
                    with torch.no_grad():
                        target = dense(images)
                    loss = distillation(model(images), target, recipe.temperature)
                loss.backward()
                optimizer.step()
                scheduler.step()
                if isinstance(holder, GradualPruner):
                    holder.step()
    return {
        "mode": mode,
        "sparsity": sparsity,
        "seed": seed,
        "epochs": epochs,
        "rate": rate,
        "n_nonzero": count(model),
        "seconds": time.perf_counter() - start,
        "test_accuracy" if held is None else "held_accuracy": accuracy(model, test),
    }


def study(folder: Path) -> None:
    """One stage by rows and plan: accuracy on 500 training images never used."""
    for sparsity, n, size, ridge, solver in (
        (0.7, 875, 4, 1e-3, "dense"),
        (0.7, 875, 4, 1e-3, "dual"),
        (0.8, 875, 4, 1e-2, "dual"),
        (0.8, 1750, 2, 1e-2, "dual"),
    ):
        model, (images, labels), _ = load(folder)
        prune(
            model,
            batches_of((images[:3500], labels[:3500])),
            loss_fn,
            sparsity=sparsity,
            n_gradients=n,
            samples_per_gradient=size,
            first_order=False,
            ridge=ridge,
            solver=solver,
            objective="gradients",
            calibration=0.0,
            recalibrate_batchnorm=False,
            progress=False,
            random_state=0,
        )
        held = accuracy(model, (images[3500:], labels[3500:]))
        print(f"{sparsity} {n} x {size} ridge {ridge:g} {solver}: {held:.1f} %")


def tables() -> str:
    """Return what is on file as Markdown."""
    results = recorded("resnet20")
    modes = dict.fromkeys([*MODES, *(r["mode"] for r in results)])
    return table(results, PUBLISHED, modes, digits=1)


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data")
    parser.add_argument("--modes", help="some only, separated by semicolons")
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--table", type=Path, help="write the table, run nothing")
    parser.add_argument("--finetune", action="store_true", help="train while pruned")
    parser.add_argument(
        "--held",
        type=float,
        metavar="RATE",
        help="train on 3,500 images, look at the other 500, put nothing on file",
    )
    parser.add_argument("--gradients", action="store_true", help="compare methods")
    parser.add_argument("--study", action="store_true", help="compare rows and plans")
    options = parser.parse_args(argv)
    if options.table:
        options.table.write_text(tables() + "\n")
        return 0
    folder = data_folder("resnet20", options.data)
    if folder is None:
        return 0
    torch.set_num_threads(options.threads)
    if options.gradients:
        model, train, _ = load(folder)
        compare_gradients(model, batches_of(train), 100, 4)
        return 0
    if options.study:
        study(folder)
        return 0
    modes = list(FINETUNE) if options.finetune else list(MODES)[:5]
    if options.finetune and options.held is not None:
        modes = [mode for mode in modes if "rate" not in mode]  # it is given
    if options.modes:
        modes = [mode.strip() for mode in options.modes.split(";")]
    for sparsity in map(float, options.sparsities.split(",")):
        for mode in modes:
            for seed in map(int, options.seeds.split(",")):
                key = {"mode": mode, "sparsity": sparsity, "seed": seed}
                trial = options.held is not None
                if recorded("resnet20", key) and not (options.again or trial):
                    continue
                if options.finetune:
                    runs: Iterable[dict] = [
                        finetune(
                            folder,
                            mode,
                            sparsity,
                            seed,
                            options.epochs,
                            options.held,
                            options.device,
                        )
                    ]
                else:
                    runs = run(folder, mode, sparsity, seed, options.device)
                for result in runs:
                    if options.device != "cpu":
                        result["device"] = options.device
                    if not trial:
                        record("resnet20", key | {"mode": result["mode"]}, result)
                    print(json.dumps(result), flush=True)
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
