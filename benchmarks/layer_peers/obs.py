"""Exact optimal brain surgery: weights leave one by one, each the cheapest at its turn.

As OBC does (Frantar and Alistarh, 2022): the weight of the least w_j^2 / [H^-1]_jj of
its output leaves, the others of that output make up for it, and its row and column are
eliminated from H^-1. Outputs share the layer's number of weights: the next to leave is
the cheapest of all outputs.
"""

import heapq

import numpy as np
import torch
from scipy.linalg.blas import dger
from torch import Tensor

DAMPING = 0.01


def obs(H: Tensor, W: Tensor, k: int) -> Tensor:
    """Keep the k weights that are left, at their best values."""
    t, d = W.shape
    G = H.numpy() + DAMPING * float(H.diagonal().mean()) * np.eye(d)
    C = W.numpy() @ G
    inverse = np.linalg.inv(G)
    orders, costs = zip(*(_eliminate(inverse, w) for w in W.numpy()), strict=True)
    gone = [0] * t
    heap = [(costs[i][0], i) for i in range(t)]
    heapq.heapify(heap)
    for _ in range(t * d - k):
        _, i = heapq.heappop(heap)
        gone[i] += 1
        if gone[i] < d:
            heapq.heappush(heap, (costs[i][gone[i]], i))
    out = np.zeros((t, d))
    for i in range(t):
        S = np.sort(orders[i][gone[i] :])
        if len(S):
            out[i, S] = np.linalg.solve(G[np.ix_(S, S)], C[i, S])
    return torch.from_numpy(out)


def _eliminate(inverse: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order in which all weights of an output leave, and what each costs."""
    P, w, d = inverse.copy(), w.copy(), len(w)
    left = np.ones(d, dtype=bool)
    order, costs = np.empty(d, dtype=int), np.empty(d)
    for step in range(d):
        score = np.where(left, w**2 / np.where(left, P.diagonal(), 1.0), np.inf)
        j = int(np.argmin(score))
        order[step], costs[step] = j, score[j]
        column, pivot = P[j].copy(), P[j, j]
        w -= column * (w[j] / pivot)
        dger(-1.0 / pivot, column, column, a=P.T, overwrite_a=1)
        left[j] = False
        w[j] = 0.0
    return order, costs
