"""What arguments may be; each error names the argument, its value and its range."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn


def check_share(name: str, value: Any, *, zero: bool = True) -> float:
    """Return ``value`` if it is a number in [0, 1) (or (0, 1) without zero)."""
    number = not isinstance(value, bool) and isinstance(value, Real)
    if not number or not (0 <= value < 1) or (value == 0 and not zero):
        low = "[0" if zero else "(0"
        msg = f"{name}={value!r} must be a number in {low}, 1): 0.9 is 90 %."
        raise ValueError(msg)
    return float(value)


def check_count(name: str, value: Any, least: int) -> int:
    """Return ``value`` if it is an integer, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        msg = f"{name}={value!r} must be an integer >= {least}."
        raise ValueError(msg)
    return int(value)


def check_seed(value: Any) -> int:
    """Return ``random_state`` if it is an integer that torch takes."""
    seed = check_count("random_state", value, 0)
    if seed >= 2**63:
        msg = f"random_state={value!r} must be below 2**63."
        raise ValueError(msg)
    return seed


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither a bool nor "auto"."""
    if not isinstance(value, bool) and value != "auto":
        msg = f"{name}={value!r} must be True, False or 'auto'."
        raise ValueError(msg)


def check_model(model: Any, loss_fn: Any) -> None:
    """Refuse what is no module, or not ready, and a loss that takes no model."""
    if not isinstance(model, nn.Module):
        msg = f"model must be a torch.nn.Module; got {type(model).__name__}."
        raise TypeError(msg)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            msg = (
                f"{'model' if not name else f'module {name!r}'} is compiled by "
                "torch.jit: its weights cannot be followed. Prune the Python module, "
                "and script or trace it afterwards."
            )
            raise TypeError(msg)
    for name, buffer in model.named_buffers():
        if isinstance(buffer, nn.parameter.UninitializedBuffer):
            msg = f"buffer {name!r} is not initialised: run one batch first."
            raise ValueError(msg)
    criterion = isinstance(loss_fn, nn.modules.loss._Loss)
    if criterion or not (loss_fn is None or callable(loss_fn)):
        msg = (
            "loss_fn must be a function loss_fn(model, batch) that runs the model and "
            f"returns the mean loss of the batch; got {type(loss_fn).__name__}. With a "
            "criterion: lambda model, batch: criterion(model(batch[0]), batch[1])."
        )
        raise TypeError(msg)


def check_split(value: Any) -> None:
    """Refuse a ``split`` that is neither a callable nor "batch"."""
    if value is not None and value != "batch" and not callable(value):
        msg = (
            f"split={value!r} must be a function of a batch that returns the list of "
            "its samples, or 'batch': each batch is a single sample."
        )
        raise ValueError(msg)


def check_device(value: torch.device | str) -> torch.device:
    """Return ``device`` if the solver's tensors can be there."""
    if str(value).startswith("mps"):
        msg = (
            f"device={str(value)!r} has no float64, which the solver needs: give "
            "device='cpu', wherever the model is."
        )
        raise ValueError(msg)
    try:
        torch.empty(0, device=value)
        return torch.device(value)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        msg = f"device={value!r} cannot be used here: {reason}"
        raise ValueError(msg) from error


def check_ridge(value: Any) -> float:
    """Return ``ridge`` if it is a finite number, at least 0."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        msg = f"ridge={value!r} must be a finite number >= 0, or 'auto'."
        raise ValueError(msg)
    return float(value)
