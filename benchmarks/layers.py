"""Pruning by layers against its peers: the same networks and data, in one run.

    python -m benchmarks.layers                          # all networks
    python -m benchmarks.layers --networks mlpnet --sparsities 0.5,0.9
    python -m benchmarks.layers --networks resnet20,language --sparsities 2:4
    python -m benchmarks.layers --table docs/benchmarks_layers.md

One stage, seed 0: 1,000 training images for ResNet-20, 4,096 for the peers on MLPNet,
256 sequences of 47 characters for the language model (`benchmarks.language`). The peers
(``benchmarks/layer_peers``, each by its formula) prune the layers in the order in which
they run, each to the same share, from the inputs that the pruned network gives; ours
divides one budget over them. Test data are looked at once, at the end of each run.
"2:4" keeps two of every four consecutive weights, but all of the first convolution,
which has three input channels. Results go to ``benchmarks/results/layers.json``; a run
that is there is not repeated. MLPNet and ResNet-20 need the optional data (README.md).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from chita_torch import prune
from chita_torch.layout import Layout
from chita_torch.lockstep import Lockstep
from chita_torch.statistics import collect, gram, place

from . import language, mlpnet, resnet20
from .layer_peers import PEERS, two_of_four
from .pruning_data import data_folder, once, recorded
from .pruning_runs import accuracy, count, loss_fn, prune_by_magnitude, table

SPARSITIES = "0.5,0.6,0.7,0.8,0.9,0.95"
GLOBAL = "magnitude, global"
OURS = {
    "defaults": {},
    "reconstruction": {"objective": "reconstruction", "recalibrate_batchnorm": False},
    "gradients": {"objective": "gradients", "recalibrate_batchnorm": False},
}
METHODS = (GLOBAL, *PEERS, *OURS)
PATTERN, OF_PATTERN = "2:4", (*two_of_four.PEERS, *OURS)
NETWORKS = {
    "mlpnet": "test accuracy, %",
    "resnet20": "test accuracy, %",
    "language": "loss on text held out, nats",
}


@dataclass
class Case:
    """A network, what it is pruned with, and how it is measured."""

    model: nn.Module
    batches: list
    some: list  # of the batches: for the peers
    loss_fn: Callable[[nn.Module, object], Tensor]
    measure: Callable[[nn.Module], float]
    exclude: list[str] | None = None


def load(network: str, folder: Path | None) -> Case:
    """Return a fresh copy of a network and its data."""
    if network == "language":
        trained, sequences, held = _language()
        model = copy.deepcopy(trained)
        batches = list(sequences.split(16))

        def loss(model: nn.Module) -> float:
            with torch.no_grad():
                return float(language.loss_fn(model, held))

        return Case(model, batches, batches, language.loss_fn, loss, ["head"])
    assert folder is not None
    if network == "mlpnet":
        model, train, test = mlpnet.load(folder)
        batches = mlpnet.batches_of(train, 0)
        some = batches[:10]
    else:
        model, train, test = resnet20.load(folder)
        batches = some = resnet20.batches_of(resnet20.few(train), 50)
    return Case(model, batches, some, loss_fn, partial(accuracy, data=test))


@cache
def _language() -> tuple[nn.Module, Tensor, Tensor]:
    return language.load()


def prune_by_layer(
    case: Case, peer: Callable[..., Tensor], sparsity: float | None
) -> None:
    """Prune every layer by a peer, in running order; to a pattern where it is None."""
    model = case.model.eval()
    layout = Layout.of(model, exclude=case.exclude)
    dense, n = layout.gather(), sum(len(first(batch)) for batch in case.some)
    parts = collect(model, case.loss_fn, case.some, layout, n)
    flat = dense.clone()
    pruned = layout.unflatten(flat)
    weights = layout.unflatten(dense)
    passes = Lockstep(model, case.loss_fn, case.some, layout, weights, pruned, parts)
    with passes:
        for part, calls in passes:
            where = place(layout, part)
            W = part.split(dense[where].double())[0]
            rows = [call.rows(64 * W.shape[1] // len(calls)) for _, call, _ in calls]
            X = torch.cat(rows, dim=1)
            H = gram(X)[0] / X.shape[1]
            k = () if sparsity is None else (round((1 - sparsity) * W.numel()),)
            flat[where] = peer(H, W, *k).reshape(-1).float()
            slot = layout.slot(part.name)
            pruned[part.name] = slot.unflatten(flat[slot.start : slot.stop])
    layout.scatter(flat)


def first(batch: object) -> Tensor:
    """Its tensor of inputs."""
    return batch if isinstance(batch, Tensor) else batch[0]  # type: ignore[index]


def run(network: str, folder: Path | None, method: str, sparsity: float | str) -> dict:
    """Prune once; return what is recorded."""
    case = load(network, folder)
    asked: Mapping = {"sparsity": sparsity}
    if sparsity == PATTERN:
        asked = {"pattern": PATTERN}
        case.exclude = ["conv1"] if network == "resnet20" else case.exclude
    start = time.process_time()
    if method in OURS:
        prune(
            case.model,
            case.batches,
            case.loss_fn,
            exclude=case.exclude,
            random_state=0,
            progress=False,
            **asked,
            **OURS[method],
        )
    elif sparsity == PATTERN:
        prune_by_layer(case, two_of_four.PEERS[method], None)
    elif method == GLOBAL:
        prune_by_magnitude(case.model, float(sparsity), case.exclude)
    else:
        prune_by_layer(case, PEERS[method], float(sparsity))
    seconds = time.process_time() - start
    return {
        "cpu_seconds": seconds,
        "n_nonzero": count(case.model, case.exclude),
        "test_accuracy": case.measure(case.model),
    }


def tables() -> str:
    """Return what is on file as Markdown."""
    parts = []
    for network, measure in NETWORKS.items():
        results = recorded("layers", {"network": network})
        plain = [r for r in results if r["sparsity"] != PATTERN]
        patterned = [r for r in results if r["sparsity"] == PATTERN]
        digits = 2 if network == "language" else 1
        for found, methods in ((plain, METHODS), (patterned, OF_PATTERN)):
            if found:
                # (`table` sorts numbers: the pattern stands for what it leaves.)
                found = [{**r, "sparsity": _share(r["sparsity"])} for r in found]
                rows = table(found, {}, methods, digits=digits)
                for peer in set(methods) - set(OURS):
                    rows = rows.replace(f"**ours, {peer}**", peer)
                title = f"{network}, {measure}"
                title += "" if found[0]["sparsity"] else f", {PATTERN}"
                parts.append(
                    f"{title}:\n\n{rows}".replace("| | 0 |", f"| | {PATTERN} |")
                )
    return "\n\n".join(parts)


def _share(sparsity: float | str) -> float:
    return 0.0 if sparsity == PATTERN else float(sparsity)


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds the networks'")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", help="some only, separated by semicolons")
    parser.add_argument("--sparsities", default=f"{SPARSITIES},{PATTERN}")
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--table", type=Path, help="write the table, run nothing")
    options = parser.parse_args(argv)
    if options.table:
        options.table.write_text(tables() + "\n")
        return 0
    torch.set_num_threads(1)
    for network in options.networks.split(","):
        folder = None
        if network != "language":
            folder = data_folder(network, options.data and options.data / network)
            if folder is None:
                continue
        for text in options.sparsities.split(","):
            sparsity = text if text == PATTERN else float(text)
            methods = OF_PATTERN if text == PATTERN else METHODS
            for method in options.methods.split(";") if options.methods else methods:
                key = {"network": network, "mode": method, "sparsity": sparsity}
                one = partial(run, network, folder, method, sparsity)
                once("layers", key, one, options.again)
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
