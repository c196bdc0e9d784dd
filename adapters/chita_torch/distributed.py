"""Networks over the ranks of `torch.distributed`: what is refused until it is told."""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist
from torch import nn

PLAIN = (
    "Prune the plain model, before it is sharded, or one that holds the whole weights "
    "(get_model_state_dict of torch.distributed.checkpoint.state_dict with "
    "StateDictOptions(full_state_dict=True)), and load its state_dict into this one."
)


def check_whole(model: nn.Module) -> None:
    """Refuse a model of whose weights this rank holds a part."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    for name, module in model.named_modules():
        if fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel):
            msg = (
                f"module {name!r} is a FullyShardedDataParallel: each rank holds a "
                f"part of its weights. {PLAIN}"
            )
            raise TypeError(msg)
    for name, parameter in model.named_parameters():
        if tensors is not None and isinstance(parameter, tensors.DTensor):
            msg = (
                f"parameter {name!r} is a DTensor (fully_shard, tensor parallelism): "
                f"each rank holds a part of it. {PLAIN}"
            )
            raise TypeError(msg)


def check_alone(action: str) -> None:
    """Refuse to work on one rank of several, whose weights would part from theirs."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    size = dist.get_world_size()
    if size > 1:
        msg = (
            f"torch.distributed runs {size} ranks, and {action} would work on each by "
            "itself: by its own batches, to weights of its own. Call it in a process "
            "of its own, before init_process_group, and load the weights on every rank."
        )
        raise RuntimeError(msg)
