"""Wanda (Sun et al., 2024): |w_ij| times the norm of input j, compared in each row."""

import torch
from torch import Tensor


def wanda(H: Tensor, W: Tensor, k: int) -> Tensor:
    """Keep the largest scores of each output, k in all; weights stay as they are."""
    score = W.abs() * H.diagonal().clamp_min(0).sqrt()
    t = len(W)
    mask = torch.zeros_like(W, dtype=torch.bool)
    for i in range(t):  # k may be no multiple of t: the first rows take one more
        mask[i, score[i].topk(k // t + (i < k % t)).indices] = True
    return W * mask
