"""Networks of millions of weights on two cores: time and memory of `prune`.

    python -m benchmarks.scale                     # both
    taskset -c 0,1 python -m benchmarks.scale --networks efficientnet
    python -m benchmarks.scale --networks transformer --blocks 2

"efficientnet": EfficientNet-Lite0 (Tan and Le, 2019), 4.6 million weights, as it is
drawn, on random images of 224 x 224 pixels; the defaults of `prune`. "transformer":
blocks of width 768 as in GPT-2 small, twelve of them with 85 million weights, as they
are drawn, on random symbols; by reconstruction, with a fixed ridge. Each runs in a
process of its own, whose largest memory is what is reported, beside what `prune` says
before it takes any. Results go to ``benchmarks/results/networks.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chita_torch import prune
from chita_torch.layout import Layout

from .language import Block
from .pruning_data import record

GIB = 2**30
# Expansion, channels, repeats, stride, kernel of the stages of EfficientNet-Lite0.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Inverted(nn.Module):
    """Expand, convolve each channel, project; a shortcut where the shape is kept."""

    def __init__(self, n_in: int, n_out: int, expand: int, stride: int, kernel: int):
        super().__init__()
        width = expand * n_in
        self.body = nn.Sequential(
            *(step(n_in, width, 1) if expand > 1 else ()),
            *step(width, width, kernel, stride, groups=width),
            *step(width, n_out, 1)[:2],
        )
        self.short = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        return x + self.body(x) if self.short else self.body(x)


def step(
    n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    """Convolution, BatchNorm and ReLU6."""
    convolution = nn.Conv2d(
        n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return convolution, nn.BatchNorm2d(n_out), nn.ReLU6()


def efficientnet() -> nn.Sequential:
    """EfficientNet-Lite0 for 1,000 classes."""
    layers, n_in = [*step(3, 32, 3, 2)], 32
    for expand, n_out, repeats, stride, kernel in STAGES:
        for i in range(repeats):
            layers.append(
                Inverted(n_in, n_out, expand, stride if i == 0 else 1, kernel)
            )
            n_in = n_out
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, *step(320, 1280, 1), *pool, nn.Linear(1280, 1000))


class Transformer(nn.Module):
    """Blocks of width 768; the head is not pruned."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.symbol = nn.Embedding(1000, 768)
        self.blocks = nn.Sequential(*(Block(768, 12) for _ in range(blocks)))
        self.head = nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) -> (N, L, 1000)."""
        return self.head(self.blocks(self.symbol(x)))


def run(network: str, blocks: int, sparsity: float, device: str) -> dict:
    """Prune in this process; return what is recorded."""
    torch.manual_seed(0)
    options: dict = {"sparsity": sparsity, "random_state": 0, "progress": False}
    if network == "efficientnet":
        model: nn.Module = efficientnet()
        data = torch.randn(64, 3, 224, 224), torch.randint(0, 1000, (64,))
        batches: list = list(zip(*(part.split(8) for part in data), strict=True))
        with torch.no_grad():  # statistics that are those of the images
            for images, _ in batches:
                model(images)

        def loss_fn(model: nn.Module, batch: tuple) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        options["samples_per_gradient"] = 8
    else:
        model = Transformer(blocks)
        batches = list(torch.randint(0, 1000, (16, 129)).split(4))
        options |= {"objective": "reconstruction", "ridge": 1e-2, "calibration": 0.0}
        options |= {"exclude": "head", "samples_per_gradient": 4}

        def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
            logits = model(batch[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda line: said.append(line.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("chita_torch.prune")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    model = model.to(device).eval()
    batches = [
        batch.to(device)
        if isinstance(batch, Tensor)
        else tuple(part.to(device) for part in batch)
        for batch in batches
    ]
    p = len(Layout.of(model, exclude=options.get("exclude")))
    start, cpu = time.perf_counter(), time.process_time()
    report = prune(model, batches, loss_fn, **options)
    place = {"device": device}
    if device != "cpu":
        place["device"] = torch.cuda.get_device_name()
        place["device_gib"] = torch.cuda.max_memory_allocated() / GIB
    return {
        **place,
        "network": network,
        "n_weights": p,
        "sparsity": sparsity,
        "n_kept": report.n_kept,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
        "peak_gib": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "said": said,
        "taken": report.stages[0].taken,
        "candidates": dict(report.stages[0].candidates),
        "notes": list(report.notes),
        "machine": platform.processor() or platform.machine(),
    }


def main(argv: list[str] | None = None) -> int:
    """Run each network in a process of its own, print and record the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default="efficientnet,transformer")
    parser.add_argument("--blocks", type=int, default=12, help="of the transformer")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args(argv)
    if options.here:
        chosen = options.networks, options.blocks, options.sparsity, options.device
        print(json.dumps(run(*chosen)))
        return 0
    for network in options.networks.split(","):
        command = [sys.executable, "-m", "benchmarks.scale", "--here", "--networks"]
        command += [network, "--blocks", str(options.blocks)]
        command += ["--sparsity", str(options.sparsity), "--device", options.device]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        names = "network", "n_weights", "sparsity", "device"
        key = {name: result[name] for name in names}
        record("networks", key, result)
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
