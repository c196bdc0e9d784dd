"""The peers with two of every four consecutive weights kept: ``prune(H, W) -> W``."""

import torch
from torch import Tensor

from .sparsegpt import factor

N, M = 2, 4


def magnitude(H: Tensor, W: Tensor) -> Tensor:
    """Keep the largest of each four."""
    return W * largest(W.abs())


def wanda(H: Tensor, W: Tensor) -> Tensor:
    """Keep the largest |w_ij| times the norm of input j of each four."""
    return W * largest(W.abs() * H.diagonal().clamp_min(0).sqrt())


def sparsegpt(H: Tensor, W: Tensor) -> Tensor:
    """As without a pattern, but a mask for the next four whenever they are reached."""
    U, W = factor(H, W)
    for j in range(W.shape[1]):
        if j % M == 0:
            here = slice(j, min(j + M, W.shape[1]))
            mask = largest((W[:, here] / U.diagonal()[here]) ** 2)
        kept = W[:, j] * mask[:, j % M]
        error = (W[:, j] - kept) / U[j, j]
        W[:, j:] -= error[:, None] * U[j, j:]
        W[:, j] = kept
    return W


def largest(score: Tensor) -> Tensor:
    """The two largest of each four in a row; those of a shorter rest, two too."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for start in range(0, score.shape[1], M):
        part = score[:, start : start + M]
        top = part.topk(min(N, part.shape[1]), dim=1).indices + start
        mask.scatter_(1, top, value=True)
    return mask


PEERS = {
    "magnitude": magnitude,
    "Wanda": wanda,
    "SparseGPT": sparsegpt,
}
