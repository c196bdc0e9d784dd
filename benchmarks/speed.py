"""What a pruned layer gains in time and bytes: dense, CSR, and a smaller dense layer.

    python -m benchmarks.speed [--table docs/benchmarks_speed.md]

Linear layers of three widths, float32, one thread. CSR keeps a random share of the
weights and multiplies the transposed inputs; the smaller layer has that share of the
units (rows). Each time is the least
of several runs over that of the dense layer without zeros.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

SIZES = (256, 1024, 4096)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
BATCHES = (1, 64)
SECONDS = 0.5  # for each time, at least


def seconds(function: Callable[[], object]) -> float:
    """Return the least time of a call."""
    function()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 5:
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)


def row(size: int, batch: int, sparsity: float, generator: torch.Generator) -> str:
    """Measure one layer and return a row of the table."""
    W = torch.randn(size, size, generator=generator)
    x = torch.randn(batch, size, generator=generator)
    kept = torch.rand(size, size, generator=generator) >= sparsity
    pruned = W * kept
    sparse = csr(pruned)
    small = W[: round((1 - sparsity) * size)].clone()
    columns = x.T.contiguous()
    dense_time = seconds(lambda: x @ W.T)
    times = [
        seconds(lambda: x @ pruned.T),
        seconds(lambda: sparse @ columns),
        seconds(lambda: x @ small.T),
    ]
    dense_bytes = 4 * W.numel()
    csr_bytes = 8 * int(kept.sum()) + 4 * (size + 1)
    cells = [f"{time / dense_time:.2f}" for time in times]
    cells += [f"{csr_bytes / dense_bytes:.2f}", f"{small.numel() / W.numel():.2f}"]
    head = f"| {size} x {size} | {batch} | {sparsity:.0%} "
    return head + "| " + " | ".join(cells) + " |"


def csr(values: Tensor) -> Tensor:
    """Return a CSR tensor with the 32-bit indices that `export_sparse` stores."""
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(False):
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        sparse = values.to_sparse_csr()
        return torch.sparse_csr_tensor(
            sparse.crow_indices().int(),
            sparse.col_indices().int(),
            sparse.values(),
            size=values.shape,
        )


def table() -> str:
    """Measure all and return the Markdown table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    names = ["layer", "rows", "sparsity", "time, dense with zeros", "time, CSR"]
    names += ["time, fewer units", "bytes, CSR", "bytes, fewer units"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for size in SIZES:
        for batch in BATCHES:
            for sparsity in SPARSITIES:
                lines.append(row(size, batch, sparsity, generator))
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    text = table()
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
