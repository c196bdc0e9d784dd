"""Peers that prune a layer from the Gram matrix of its inputs, each by its formula.

Each is ``prune(H, W, k) -> W``: H (d x d) the mean of x x' over the inputs, W (t x d)
the weights, k how many of them to keep. Each layer is given the same share of its
weights, as their papers do; which inputs H is the mean of is the benchmark's affair.
"""

from .admm import admm
from .magnitude import magnitude
from .obs import obs
from .sparsegpt import sparsegpt
from .wanda import wanda

PEERS = {
    "magnitude, uniform": magnitude,
    "Wanda": wanda,
    "SparseGPT": sparsegpt,
    "ALPS (ADMM and refit)": admm,
    "exact OBS": obs,
}

__all__ = ["PEERS", "admm", "magnitude", "obs", "sparsegpt", "wanda"]
