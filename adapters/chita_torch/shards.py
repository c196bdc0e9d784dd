"""Models sharded by `fully_shard` (FSDP2): the whole weights for a time, and shards.

A pruner reads and writes whole weights, and runs the model on other numbers of batches
on each rank. So the whole weights are gathered on every rank and stand in the place of
the shards, without the hooks that would gather them for every forward pass; in the end
each rank writes its part of them into its shards, which needs no communication: it
happens on all ranks, or, where one has failed before, on none.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

from .interrupts import Transaction, whole
from .kinds import bare
from .ranks import TIMEOUT, Ranks

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = (
    "Prune the plain model, before it is sharded, or one that holds the whole weights "
    "(get_model_state_dict of torch.distributed.checkpoint.state_dict with "
    "StateDictOptions(full_state_dict=True)), and load its state_dict into this one."
)


def is_shard(tensor: Any) -> bool:
    """Whether a tensor is a DTensor: spread over ranks."""
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, of the same memory; all, if it is plain."""
    own: Any = tensor.detach()
    held: Tensor = own.to_local() if is_shard(own) else own
    return held


def part_of(tensor: Tensor, parameter: Any) -> Tensor:
    """Cut a plain tensor as a parameter is; what is this rank's."""
    if not is_shard(parameter):
        return tensor
    for axis, placement in enumerate(parameter.placements):
        if placement.is_shard():
            parts = tensor.chunk(parameter.device_mesh.size(axis), dim=placement.dim)
            number = parameter.device_mesh.get_local_rank(axis)
            # (Fewer parts than ranks, where the axis is shorter than these are many.)
            empty = tensor.narrow(placement.dim, 0, 0)
            tensor = parts[number] if number < len(parts) else empty
    return tensor


def check_shards(model: nn.Module) -> bool:
    """Whether `fully_shard` has sharded a model; refuse what is sharded otherwise.

    What a forward pass has left gathered is given back.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", ())
    managed = [module for module in model.modules() if isinstance(module, kind)]
    for module in managed:
        module.reshard()
    for name, module in model.named_modules():
        if fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel):
            msg = (
                f"module {name!r} is a FullyShardedDataParallel: each rank holds a "
                f"part of its weights. {PLAIN}"
            )
            raise TypeError(msg)
    for name, parameter in model.named_parameters():
        if is_shard(parameter) and not (managed and _is_simple(parameter)):
            msg = (
                f"parameter {name!r} is a DTensor that fully_shard alone has not made "
                "(tensor parallelism): each rank holds a part of it, and the model "
                f"computes with parts. {PLAIN}"
            )
            raise TypeError(msg)
    return any(is_shard(parameter) for parameter in model.parameters())


def _is_simple(parameter: Any) -> bool:
    """Whether it is cut along one axis of the ranks, the last, and in even parts."""
    from torch.distributed.tensor import Shard

    *others, last = parameter.placements
    return type(last) is Shard and all(each.is_replicate() for each in others)


class Whole(Transaction):
    """Within it a model that `fully_shard` has sharded is a plain one; others are.

    What it does to the weights is lost, unless `commit` has written it to the shards,
    and then undone if the statement fails.

    Parameters
    ----------
    model : nn.Module
    ranks : Ranks, optional
        Those that do the same. All that hold a part of the model are among them.
    """

    def __init__(self, model: nn.Module, ranks: Ranks | None = None) -> None:
        super().__init__()
        self._model = bare(model)
        self._plain: list[tuple[Any, nn.Parameter]] = []
        self._places: list[tuple[nn.Module, str, Any, nn.Parameter]] = []
        if not check_shards(self._model):
            return
        if ranks is not None:
            with ranks:
                self._check_holders(ranks)
                ranks.agree()
        self._gather()

    def _check_holders(self, ranks: Ranks) -> None:
        holders: set[int] = set()
        shards: list[Any] = [p for p in self._model.parameters() if is_shard(p)]
        for shard in shards:
            holders |= {*shard.device_mesh.mesh.flatten().tolist()}
        if not holders <= ranks.members:
            msg = (
                f"ranks {sorted(holders)} hold parts of the model, and group is of "
                f"{sorted(ranks.members)}: give a group of all of them."
            )
            raise ValueError(msg)

    def _gather(self) -> None:
        """The whole weights; nothing has changed yet, so that it can be interrupted."""
        plain: dict[int, nn.Parameter] = {}
        for module in self._model.modules():
            for name, parameter in module._parameters.items():
                if not is_shard(parameter):
                    continue
                found = plain.get(id(parameter))
                if found is None:
                    shard: Any = parameter
                    tensor = shard.detach().full_tensor().contiguous()
                    found = nn.Parameter(tensor, shard.requires_grad)
                    plain[id(parameter)] = found
                    self._plain.append((parameter, found))
                self._places.append((module, name, parameter, found))

    def begin(self) -> None:
        """Put the plain weights in the places of the shards, and take away hooks."""
        self.at_the_end(self._shards)
        for module, name, _, plain in self._places:
            setattr(module, name, plain)
        if not self._places:
            return
        for module in self._model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                every = dict(hooks)
                own = [key for key, hook in every.items() if _is_of_fsdp(hook)]
                if own:
                    self.at_the_end(_put_back, hooks, every)
                for key in own:
                    del hooks[key]

    def _shards(self) -> None:
        for module, name, shard, _ in self._places:
            if module._parameters[name] is not shard:
                setattr(module, name, shard)

    @whole
    def commit(self) -> None:
        """Write what the weights are now into the shards, and put those back."""
        for module, name, _, plain in self._places:
            if module._parameters[name] is not plain:
                msg = (
                    f"the model put its shards in the place of {name!r} of "
                    f"{type(module).__name__} (a method of register_fsdp_forward_method"
                    f"?). {PLAIN}"
                )
                raise RuntimeError(msg)
        for shard, plain in self._plain:
            own = local(shard)
            self.on_failure(own.copy_, own.clone())
            own.copy_(part_of(plain.detach(), shard))
        self._shards()


def _is_of_fsdp(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp.")


def _put_back(hooks: dict[Any, Any], every: dict[Any, Any]) -> None:
    hooks.clear()
    hooks.update(every)


def takes_shards(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of a model, group and timeout take sharded models too."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind_partial(*args, **kwargs).arguments
        model: Any = given.get("model")
        if not isinstance(model, nn.Module) or not check_shards(model):
            return function(*args, **kwargs)
        timeout = given.get("timeout", TIMEOUT)
        ranks = Ranks(given.get("group"), timeout, function.__name__)
        with Whole(model, ranks) as change:
            result = function(*args, **kwargs)
            change.commit()
        return result

    return gathered
