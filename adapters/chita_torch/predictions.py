"""The network's own predictions in the place of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import Tree, tensors_of
from .ranks import digest

BYTES = 256 ** torch.arange(7, device="cpu")  # what each byte of a number counts


class Predictions:
    """Losses that need no labels; the model's outputs are logits, classes last.

    The model is called as ``model(batch)`` on a tensor, ``model(**batch)`` on a mapping
    and ``model(batch[0])`` on a tuple or list. Its output is a tensor, has one as
    ``logits`` (an attribute or a key), or begins with one.

    Parameters
    ----------
    seed : int
        Of the labels that are drawn.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._dense: dict[int, Tensor] = {}

    def outputs(self, model: nn.Module, batch: Tree) -> Tensor:
        """Logits of a batch as rows, ``(m, classes)``."""
        if isinstance(batch, Mapping):
            found: Any = model(**batch)
        else:
            found = model(batch if isinstance(batch, Tensor) else batch[0])
        if isinstance(found, Mapping):
            found = found["logits"]
        found = getattr(found, "logits", found)
        if isinstance(found, tuple | list):
            found = found[0]
        if not isinstance(found, Tensor) or found.ndim < 2:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            msg = (
                "without loss_fn the model must return logits, classes last; got "
                f"{got}. Give loss_fn(model, batch)."
            )
            raise TypeError(msg)
        return found.flatten(0, -2)

    def drawn(self, model: nn.Module, batch: Tree) -> Tensor:
        """Cross-entropy for labels drawn from the model's softmax.

        Its mean squared gradients are the true Fisher information. The random numbers
        are the batch's own, whichever rank has it and what came before.
        """
        logits = self.outputs(model, batch)
        shares = logits.detach().float().softmax(dim=-1).cpu()
        content = sum(int(digest(t)[:7].long() @ BYTES) for t in tensors_of(batch))
        generator = torch.Generator().manual_seed((self._seed + content) % 2**63)
        labels = torch.multinomial(shares, 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels.to(logits.device))

    def divergence(self, model: nn.Module, batch: Tree) -> Tensor:
        """KL divergence from what the model gave at the first call with the batch."""
        log_q = self.outputs(model, batch).float().log_softmax(dim=-1)
        log_p = self._dense.setdefault(id(batch), log_q.detach())
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
