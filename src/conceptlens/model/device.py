"""Modules are moved to a device, or it is said which devices there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from conceptlens.io.errors import InputError
from conceptlens.model.module_lock import MODULE_LOCK


def move_module(module: nn.Module, device: Sequence[Any], name: str) -> nn.Module:
    """Move a module in place and return it.

    Args:
        module: What is moved.
        device: What `nn.Module.to` takes: a device, a floating dtype, or both.
        name: What the model is called in the message.

    Raises:
        InputError: There is no such device.
    """
    try:
        with MODULE_LOCK:
            return module.to(*device)
    except (RuntimeError, AssertionError) as error:  # torch's answers to a device it does not know or have
        raise InputError(f"{name} cannot be moved to {device[0]}: {_device_reason(device[0], error)}") from None


def _device_reason(device: Any, error: Exception) -> str:
    """Say why a module cannot be moved to a device, and which kinds of devices there are here."""
    usable = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()]
    here = f"use {' or '.join(usable)}" + ", the only device here" * (len(usable) == 1)
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        return f"torch knows no such device; {here}"
    reason = str(error).splitlines()[0]
    return f"{reason}; {here}" if kind in usable else f"there is no {kind} device here; {here}"
