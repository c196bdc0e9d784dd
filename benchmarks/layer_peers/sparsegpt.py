"""SparseGPT (Frantar and Alistarh, 2023): optimal brain surgery, column after column.

In blocks of columns, the weights of the least w_ij^2 / [U_jj]^2 leave, with U the upper
Cholesky factor of the inverse of H; what leaves a column is made up for by the columns
after it.
"""

import torch
from torch import Tensor

BLOCK, DAMPING = 128, 0.01  # the published defaults


def sparsegpt(H: Tensor, W: Tensor, k: int) -> Tensor:
    """Keep k weights, the same share in each block of columns."""
    d = W.shape[1]
    U, W = factor(H, W)
    left = k
    for start in range(0, d, BLOCK):
        stop = min(start + BLOCK, d)
        block, its = W[:, start:stop], U[start:stop, start:stop]
        count = round(left * (stop - start) / (d - start))
        left -= count
        score = (block / its.diagonal()) ** 2
        mask = torch.zeros(block.numel(), dtype=torch.bool)
        mask[score.flatten().topk(count).indices] = True
        mask = mask.reshape(block.shape)
        errors = torch.zeros_like(block)
        for j in range(stop - start):
            kept = block[:, j] * mask[:, j]
            errors[:, j] = (block[:, j] - kept) / its[j, j]
            block[:, j:] -= errors[:, j : j + 1] * its[j, j:]
            block[:, j] = kept
        W[:, stop:] -= errors @ U[start:stop, stop:]
    return W


def factor(H: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """U, and a copy of W without the weights of inputs that are never on."""
    W, H = W.clone(), H.clone()
    dead = H.diagonal() == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    H += DAMPING * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    return torch.linalg.cholesky(torch.linalg.inv(H), upper=True), W
