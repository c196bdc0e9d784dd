"""Attention with fewer heads than its width has room for.

`torch.nn.MultiheadAttention` is as wide inside as its inputs are. Where some of its
heads are to go, it is replaced by a module that computes the same from linear layers of
any width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.Module):
    """What is left of a `torch.nn.MultiheadAttention`; called as that is.

    Parameters
    ----------
    whole : torch.nn.MultiheadAttention
        Its weights are copied. Heads are removed by rows of ``q_proj``, ``k_proj`` and
        ``v_proj`` and columns of ``out_proj``, ``head_dim`` at a time.
    """

    # Read by torch.nn.TransformerEncoder, which has a faster way for its own attention.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.head_dim = whole.embed_dim, whole.head_dim
        self.dropout, self.batch_first = whole.dropout, whole.batch_first
        weights: Any = [whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight]
        if whole.in_proj_weight is not None:
            weights = whole.in_proj_weight.chunk(3)
        biases: Any = [None] * 3
        if whole.in_proj_bias is not None:
            biases = whole.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(whole.out_proj.weight, whole.out_proj.bias)
        self.train(whole.training)

    @property
    def num_heads(self) -> int:
        """Heads that are left."""
        return self.q_proj.out_features // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `torch.nn.MultiheadAttention.forward`."""
        batched = query.ndim == 3
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if not batched:
            q, k, v = q[None], k[None], v[None]
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        heads = [
            x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in (q, k, v)
        ]
        scores = heads[0] @ heads[1].mT / self.head_dim**0.5
        if attn_mask is not None:
            if attn_mask.ndim == 3:
                msg = (
                    f"attn_mask has shape {tuple(attn_mask.shape)}, a mask for each "
                    "head, and heads have been removed here. Give one for all heads, "
                    "of shape (targets, sources)."
                )
                raise ValueError(msg)
            scores = scores + _as_numbers(attn_mask, scores)
        if key_padding_mask is not None:
            padding = _as_numbers(key_padding_mask, scores)
            scores = scores + (padding[:, None, None] if batched else padding)
        shares = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        out = self.out_proj((shares @ heads[2]).transpose(1, 2).flatten(2))
        if average_attn_weights:
            shares = shares.mean(dim=1)
        if not batched:
            out, shares = out[0], shares[0]
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, (shares if need_weights else None)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.utils.skip_init(
        nn.Linear,
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(weight.requires_grad)


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of bool, true where nothing is read, as what is added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def can_lose_heads(module: nn.Module) -> bool:
    """Whether this is attention that `FewerHeads` can stand in for."""
    return (
        type(module) is nn.MultiheadAttention
        and module.bias_k is None
        and not module.add_zero_attn
        and module.out_proj.weight is not None
    )


def loosen(model: nn.Module) -> None:
    """Replace attention that has a head which nobody reads, in place."""
    for prefix, outer in list(model.named_modules()):
        for own, module in list(outer.named_children()):
            if can_lose_heads(module):
                whole: Any = module
                columns = whole.out_proj.weight.detach().unflatten(
                    1, (whole.num_heads, -1)
                )
                if not bool((columns != 0).any(dim=2).any(dim=0).all()):
                    model.get_submodule(prefix).add_module(own, FewerHeads(whole))


def heads_of(model: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether weights are the inner projections of attention that can lose heads."""
    inner = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    places = [name.rpartition(".") for name in names]
    return all(own in inner for _, _, own in places) and all(
        can_lose_heads(model.get_submodule(prefix)) for prefix, _, _ in places
    )
