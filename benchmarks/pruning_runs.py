"""What the benchmarks of pruned networks share: loss, runs, comparisons and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chita_torch import PruningReport
from chita_torch.batches import Batches
from chita_torch.gradients import gradient_matrix
from chita_torch.layout import Layout

Batch = tuple[Tensor, Tensor]  # images and labels


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, data: Batch) -> float:
    """Share of right answers, in %, in eval mode."""
    model.eval()
    images, labels = data
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(dim=1) for part in images.split(250)])
    return 100 * (answers == labels).double().mean().item()


def prune_by_magnitude(model: nn.Module, sparsity: float, exclude: Any = None) -> None:
    """Keep the largest weights of all layers together."""
    layout = Layout.of(model, exclude=exclude)
    weights = layout.gather()
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept[weights.abs().topk(round((1 - sparsity) * len(layout))).indices] = True
    layout.scatter(torch.where(kept, weights, 0.0))


def count(model: nn.Module, exclude: Any = None) -> int:
    """Return how many of the prunable weights are not zero."""
    return int((Layout.of(model, exclude=exclude).gather() != 0).sum())


def summary(report: PruningReport) -> dict[str, Any]:
    """Return what is put on file of a report."""
    stages = report.to_dict()["stages"]
    return {
        "calibration_loss": report.loss_after,
        "losses": [round(stage["chosen"]["loss"], 4) for stage in stages],
        "gap": stages[-1]["gap"],
        "ridges": [stage["chosen"]["ridge"] for stage in stages],
        "plans": [stage["solver"] for stage in stages],
        "first_order": stages[-1]["chosen"]["first_order"],
        "gradient_seconds": sum(s["gradient_seconds"] for s in stages),
        "solve_seconds": sum(s["solve_seconds"] for s in stages),
    }


def compare_gradients(
    model: nn.Module, batches: Iterable[Batch], n: int, samples: int
) -> None:
    """Time the batched gradients and the loop on the same micro-batches."""
    batches, layout, matrices = list(batches), Layout.of(model), {}
    for method in ("loop", "batched", "loop", "batched"):
        generator = torch.Generator().manual_seed(0)
        data = Batches(batches, samples, 0.1, torch.device("cpu"), generator)
        result = gradient_matrix(
            model,
            loss_fn,
            data.draw(n),
            layout,
            n,
            samples_per_gradient=samples,
            method=method,
        )
        matrices[method] = result
        print(
            f"{method:8s} {result.seconds:7.2f} s, {n} gradients of {samples} samples"
        )
    loop, batched = matrices["loop"], matrices["batched"]
    error = (loop.A - batched.A).norm() / loop.A.norm()
    print(f"batched is {loop.seconds / batched.seconds:.2f} x as fast as the loop")
    print(f"relative difference of the matrices {error:.1e}")


def table(
    results: Sequence[Mapping[str, Any]],
    published: Mapping[str, Mapping[float, float]],
    modes: Iterable[str],
    digits: int,
) -> str:
    """Return the published rows and ours as a Markdown table, means and sd by mode."""
    sparsities = sorted({r["sparsity"] for r in results if "test_accuracy" in r})
    lines = [
        "| | " + " | ".join(f"{s:g}" for s in sparsities) + " |",
        "|---" * (len(sparsities) + 1) + "|",
    ]
    for title, row in published.items():
        cells = [f"{row[s]:.{digits}f}" if s in row else "" for s in sparsities]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for mode in modes:
        cells = []
        for s in sparsities:
            found = [
                r["test_accuracy"]
                for r in results
                if r["mode"] == mode and r["sparsity"] == s
            ]
            cells.append(_mean_and_sd(found, digits))
        lines.append(f"| **ours, {mode}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_and_sd(values: list[float], digits: int) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"
