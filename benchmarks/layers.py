"""Pruning by layers against its peers: test accuracy on the same images, in one run.

    python -m benchmarks.layers                          # MLPNet and ResNet-20
    python -m benchmarks.layers --networks mlpnet --sparsities 0.5,0.9
    python -m benchmarks.layers --table docs/benchmarks_layers.md

One stage, seed 0, 1,000 training images for ResNet-20 and 4,096 for MLPNet. The peers
(``benchmarks/layer_peers``, each by its formula) prune the layers in the order in which
they run, each to the same share, from the inputs that the pruned network gives; ours
divides one budget over them. Test images are looked at once, at the end of each run.
Results go to ``benchmarks/results/layers.json``; a run that is there is not repeated.
Needs the optional data (README.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from chita_torch import prune
from chita_torch.layout import Layout
from chita_torch.lockstep import Lockstep
from chita_torch.statistics import collect, gram, place

from . import mlpnet, resnet20
from .layer_peers import PEERS
from .pruning_data import data_folder, record, recorded
from .pruning_runs import accuracy, count, loss_fn, prune_by_magnitude, table

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
OURS = {
    "gradients": {"objective": "gradients"},
    "reconstruction": {"objective": "reconstruction"},
}
METHODS = ("magnitude, global", *PEERS, *OURS)
NETWORKS = {"mlpnet": mlpnet, "resnet20": resnet20}


def prune_by_layer(
    model: nn.Module,
    batches: list,
    sparsity: float,
    peer: Callable[[Tensor, Tensor, int], Tensor],
) -> None:
    """Prune every layer to the same share by a peer, in the order in which they run."""
    model.eval()
    layout = Layout.of(model)
    dense, n = layout.gather(), sum(len(labels) for _, labels in batches)
    parts = collect(model, loss_fn, batches, layout, n)
    flat = dense.clone()
    pruned = layout.unflatten(flat)
    weights = layout.unflatten(dense)
    with Lockstep(model, loss_fn, batches, layout, weights, pruned, parts) as passes:
        for part, calls in passes:
            where = place(layout, part)
            W = part.split(dense[where].double())[0]
            rows = [call.rows(64 * W.shape[1] // len(calls)) for _, call, _ in calls]
            X = torch.cat(rows, dim=1)
            H = gram(X)[0] / X.shape[1]
            k = round((1 - sparsity) * W.numel())
            flat[where] = peer(H, W, k).reshape(-1).float()
            slot = layout.slot(part.name)
            pruned[part.name] = slot.unflatten(flat[slot.start : slot.stop])
    layout.scatter(flat)


def run(network: str, folder: Path, method: str, sparsity: float) -> dict:
    """Prune once; return what is recorded."""
    module = NETWORKS[network]
    model, train, test = module.load(folder)
    if network == "mlpnet":
        batches = mlpnet.batches_of(train, 0)
    else:
        batches = resnet20.batches_of(resnet20.few(train), 50)
    start = time.process_time()
    if method == "magnitude, global":
        prune_by_magnitude(model, sparsity)
    elif method in PEERS:
        some = batches if network == "resnet20" else batches[:10]
        prune_by_layer(model, some, sparsity, PEERS[method])
    else:
        prune(
            model,
            batches,
            loss_fn,
            sparsity=sparsity,
            recalibrate_batchnorm=False,
            random_state=0,
            progress=False,
            **OURS[method],
        )
    return {
        "cpu_seconds": time.process_time() - start,
        "n_nonzero": count(model),
        "test_accuracy": accuracy(model, test),
    }


def tables() -> str:
    """Return what is on file as Markdown."""
    parts = []
    for network in NETWORKS:
        results = recorded("layers", {"network": network})
        if results:
            rows = table(results, {}, METHODS, digits=1)
            for peer in ("magnitude, global", *PEERS):
                rows = rows.replace(f"**ours, {peer}**", peer)
            parts.append(f"{network}:\n\n{rows}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds the networks'")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", help="some only, separated by semicolons")
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    parser.add_argument("--again", action="store_true", help="repeat recorded runs")
    parser.add_argument("--table", type=Path, help="write the table, run nothing")
    options = parser.parse_args(argv)
    if options.table:
        options.table.write_text(tables() + "\n")
        return 0
    torch.set_num_threads(1)
    methods = options.methods.split(";") if options.methods else METHODS
    for network in options.networks.split(","):
        given = options.data and options.data / network
        folder = data_folder(network, given)
        if folder is None:
            continue
        for sparsity in map(float, options.sparsities.split(",")):
            for method in methods:
                key = {"network": network, "mode": method, "sparsity": sparsity}
                if recorded("layers", key) and not options.again:
                    continue
                result = key | run(network, folder, method, sparsity)
                record("layers", key, result)
                print(json.dumps(result), flush=True)
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
