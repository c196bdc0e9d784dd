"""What a parameter is, where its module does not say: expert, router, adapter, frozen.

And what it is not: numbers that can be read and written in place (`refuse`). Told by
names, shapes and what needs gradients, so that no library need be installed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# What torch.compile, checkpointing, FSDP and peft put between a module and its weights.
_INSIDE = (
    "_orig_mod",
    "_checkpoint_wrapped_module",
    "_fsdp_wrapped_module",
    "base_layer",
)
_LORA = re.compile(r"(lora|loha|lokr|ia3|vera|oft|boft)(_\w+)?|\w+_lora", re.IGNORECASE)
_ADAPTER = re.compile(r"adapters?(_\w+)?|\w+_adapters?", re.IGNORECASE)
_EXPERT = re.compile("expert", re.IGNORECASE)
_ROUTER = re.compile("gate|router|switch", re.IGNORECASE)


# --- Names and memory -----------------------------------------------------------------


def bare(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def bare_name(name: str, parameters: Mapping[str, Tensor]) -> str:
    """The name among some parameters of what a wrapper, inside or around, calls so."""
    if name in parameters:
        return name
    plain = _plain_name(name)
    found = [each for each in parameters if _plain_name(each) == plain]
    return found[0] if len(found) == 1 else name


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _INSIDE]
    if parts[:2] == ["base_model", "model"]:  # peft's
        parts = parts[2:]
    while parts[0] == "module" and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def join(prefix: str, name: str) -> str:
    """Return the dotted name of what a module, itself of a name, calls so."""
    return f"{prefix}.{name}" if prefix else name


def memory(tensor: Tensor) -> tuple[object, ...]:
    """What tells tensors apart that stand for the same numbers in memory.

    Weights may be tied by assigning ``.data`` as well as by being one Parameter.
    """
    if isinstance(tensor, nn.parameter.UninitializedParameter):
        return (id(tensor),)
    if type(tensor.detach()) is not Tensor or tensor.is_meta or tensor.numel() == 0:
        return (id(tensor),)  # of a kind that has no memory of its own
    if tensor.layout != torch.strided:
        return (id(tensor),)
    where = tensor.untyped_storage().data_ptr()
    return where, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


# --- What cannot be pruned ------------------------------------------------------------


def refuse(name: str, parameter: Tensor) -> None:
    """Raise, in words of its kind, if a parameter cannot be pruned in place."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        msg = f"parameter {name!r} is not initialised: run one batch first."
        raise ValueError(msg)
    if parameter.is_meta or parameter.is_inference():
        where = "on the meta device" if parameter.is_meta else "an inference tensor"
        msg = (
            f"parameter {name!r} is {where}: it cannot be written to. Load the "
            "model's weights outside torch.inference_mode, on a real device."
        )
        raise ValueError(msg)
    kind = type(parameter.detach()).__name__
    if type(parameter).__name__ in ("Params4bit", "Int8Params"):  # of bitsandbytes
        kind = type(parameter).__name__
    wrapped = is_traceable_wrapper_subclass(parameter)
    if parameter.is_quantized or wrapped or kind in ("Params4bit", "Int8Params"):
        msg = (
            f"parameter {name!r} is quantised ({kind}, {parameter.dtype}): it holds "
            "codes, and a zero among them saves nothing. Prune first, quantise "
            "afterwards, or leave it out with exclude=."
        )
        raise TypeError(msg)
    if parameter.layout != torch.strided:
        msg = (
            f"parameter {name!r} is stored sparse ({parameter.layout}): the solve "
            "reads dense weights. Make it dense with to_dense(), or leave it out with "
            "exclude=."
        )
        raise TypeError(msg)
    if parameter.dtype.is_floating_point and parameter.dtype.itemsize == 1:
        msg = (
            f"parameter {name!r} has 8-bit type {parameter.dtype}, in which torch "
            "cannot compute. Prune the model in bfloat16 or wider and convert it "
            "afterwards, or leave it out with exclude=."
        )
        raise TypeError(msg)
    if not parameter.dtype.is_floating_point:
        msg = (
            f"parameter {name!r} has type {parameter.dtype}; only floating-point "
            "weights can be pruned. Leave it out with exclude=."
        )
        raise TypeError(msg)
    if parameter.numel() == 0 or parameter.ndim == 0:
        msg = f"parameter {name!r} has no axis to prune; leave it out with exclude=."
        raise ValueError(msg)


def quantised_modules(model: nn.Module) -> list[str]:
    """Names of modules that hold codes in the place of a weight."""
    return [
        name
        for name, module in model.named_modules()
        if hasattr(module, "_packed_params") or "qweight" in module._buffers
    ]


# --- What is pruned only where it is asked for ----------------------------------------


@dataclass(frozen=True)
class Experts:
    """Weights of experts: tensors with a slice for each, or a module for each.

    Attributes
    ----------
    axes : dict of str to int
        Stacked weights, ``(experts, ., .)``, and the axis that is summed over.
    of : dict of str to tuple of str
        Names of the experts whose weights a parameter holds, in equal stretches.
    routers : set of str
        Weights that choose among them.
    """

    axes: dict[str, int]
    of: dict[str, tuple[str, ...]]
    routers: set[str]


def experts_of(model: nn.Module) -> Experts:
    """Find the experts of a model, and what routes to them.

    A stack is a module's own tensor of three axes, where the module is called expert,
    or it or what it is in has a router: a matrix, called so, with a row for each slice.
    The first stack of a module reads what the router reads, which tells its axes apart.
    """
    found = Experts({}, {}, set())
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        outer, _, last = name.rpartition(".")
        around = [(outer, modules[outer])] if name else []
        stacks = {
            join(name, own): p
            for own, p in module._parameters.items()
            if _is_stack(p) and not type(module).__module__.startswith("torch.nn.")
        }
        if stacks:
            first = next(iter(stacks.values()))
            router = _router([(name, module), *around], len(first), first.shape[1:])
            if router is None and not _EXPERT.search(f"{last} {type(module).__name__}"):
                continue
            axis = -1
            if router is not None:
                found.routers.add(router[0])
                if first.shape[1] == router[1] != first.shape[2]:
                    axis = 1
            names = tuple(
                ", ".join(f"{each}[{i}]" for each in stacks) for i in range(len(first))
            )
            for each, p in stacks.items():
                if len(p) == len(first):
                    found.axes[each], found.of[each] = axis, names
        elif isinstance(module, nn.ModuleList) and _EXPERT.search(last):
            router = _router(around, len(module))
            if router is not None:
                found.routers.add(router[0])
            for i, expert in enumerate(module):
                for own, _ in expert.named_parameters(remove_duplicate=False):
                    found.of[f"{name}.{i}.{own}"] = (f"{name}.{i}",)
    return found


def _is_stack(p: Tensor | None) -> bool:
    if p is None or isinstance(p, nn.parameter.UninitializedParameter):
        return False
    return p.ndim == 3 and p.dtype.is_floating_point and min(p.shape) > 1


def _router(
    places: Iterable[tuple[str, nn.Module]], n: int, widths: Iterable[int] = ()
) -> tuple[str, int] | None:
    """The matrix, ``(n, width)``, that chooses among n experts: its name and width."""
    for prefix, module in places:
        for own, child in module.named_children():
            weight = child._parameters.get("weight")
            if not _ROUTER.search(own) or not _is_matrix(weight):
                continue
            assert weight is not None
            if len(weight) == n and (not widths or weight.shape[1] in widths):
                return join(join(prefix, own), "weight"), weight.shape[1]
    return None


def adapters_of(model: nn.Module) -> set[str]:
    """Names of parameters that adapt a frozen weight (LoRA and its like).

    Known by the names that libraries give them, or by shape: beside a frozen matrix
    (o, i) two that train, (r, i) and (o, r), whatever they are called.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    some_frozen = not all(p.requires_grad for p in parameters.values())
    found = set()
    for name, p in parameters.items():
        parts = name.split(".")
        lora = any(_LORA.fullmatch(part) for part in parts)
        other = any(_ADAPTER.fullmatch(part) for part in parts)
        if lora or (other and some_frozen and p.requires_grad):
            found.add(name)
    for name, module in model.named_modules(remove_duplicate=False):
        own = {join(name, n): p for n, p in module._parameters.items()}
        for n, child in module._modules.items():
            if child is not None and not child._modules:
                place = join(join(name, n), "weight")
                own[place] = child._parameters.get("weight")
        matrices = {n: p for n, p in own.items() if _is_matrix(p)}
        train = [n for n, p in matrices.items() if p.requires_grad]
        shapes = {p.shape for p in matrices.values() if not p.requires_grad}
        for a, b in itertools.permutations(train if shapes else [], 2):
            A, B = matrices[a], matrices[b]
            for one, other in ((A, B), (A.mT, B.mT)):
                r, whole = one.shape[0], (other.shape[0], one.shape[1])
                if other.shape[1] == r < min(whole) and whole in _both(shapes):
                    found |= {a, b}
    return found


def _is_matrix(p: Tensor | None) -> bool:
    lazy = isinstance(p, nn.parameter.UninitializedParameter)
    return p is not None and not lazy and p.ndim == 2


def _both(shapes: set[torch.Size]) -> set[tuple[int, ...]]:
    return {tuple(s) for s in shapes} | {tuple(reversed(s)) for s in shapes}


def frozen_among(
    parameters: Mapping[str, Tensor], names: Iterable[str], adapters: set[str]
) -> set[str]:
    """Those of some weights that do not train, where others of them do.

    Beside adapters everything is frozen, whatever is to be pruned.
    """
    names = set(names)
    frozen = {name for name in names if not parameters[name].requires_grad}
    return set() if adapters or frozen == names else frozen
