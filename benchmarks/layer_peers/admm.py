"""The layer by ADMM with a growing penalty, then its weights refitted.

As ALPS (Meng et al., 2024) does, with an exact refit in the place of its conjugate
gradients: w and z agree in the end, w least squares, z the k largest.
"""

import torch
from torch import Tensor

DAMPING, FIRST, GROWTH, STEPS = 0.01, 0.1, 1.1, 60


def admm(H: Tensor, W: Tensor, k: int) -> Tensor:
    """Keep the k weights that ADMM ends with."""
    t, d = W.shape
    scale = H.diagonal().mean()
    H = H + DAMPING * scale * torch.eye(d, dtype=H.dtype)
    C = W @ H
    E, Q = torch.linalg.eigh(H)
    z, u, rho = W, torch.zeros_like(W), FIRST * scale
    mask = torch.ones_like(W, dtype=torch.bool)
    for _ in range(STEPS):
        w = ((C + rho * (z - u)) @ Q) / (E + rho) @ Q.mT
        flat = torch.zeros(t * d, dtype=torch.bool)
        flat[(w + u).abs().flatten().topk(k).indices] = True
        mask = flat.reshape(t, d)
        z = (w + u) * mask
        u = (u + w - z) / GROWTH
        rho = rho * GROWTH
    out = torch.zeros_like(W)
    for i in range(t):
        S = mask[i].nonzero()[:, 0]
        if len(S):
            out[i, S] = torch.linalg.solve(H[S][:, S], C[i, S])
    return out
