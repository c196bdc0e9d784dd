"""The largest weights of the layer stay as they are."""

import torch
from torch import Tensor


def magnitude(H: Tensor, W: Tensor, k: int) -> Tensor:
    """Keep the k largest."""
    mask = torch.zeros_like(W, dtype=torch.bool).flatten()
    mask[W.abs().flatten().topk(k).indices] = True
    return W * mask.reshape(W.shape)
