"""What a module must have before it can be observed: a forward of its own, and weights that hold values."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn
from torch.nn.modules.module import _forward_unimplemented
from torch.nn.parameter import is_lazy

from conceptlens.io.errors import InputError


def check_ready(module: nn.Module, name: str) -> None:
    """Refuse a module that cannot run, or whose layers cannot be watched.

    Args:
        module: The module.
        name: What the model is called.

    Raises:
        InputError: It has no forward, it comes from `torch.export`, or its weights hold no values yet or were made in
            inference mode.
    """
    kind = type(module).__name__
    if getattr(module.forward, "__func__", None) is _forward_unimplemented:
        raise InputError(f"{name} is a {kind} without a forward, which cannot be run; give a module that can be called")
    if "_guards_fn" in module._modules:
        raise InputError(
            f"{name} comes from torch.export, whose layers cannot be watched; give the nn.Module that was exported"
        )
    for weight, tensor in chain(module.named_parameters(), module.named_buffers()):
        _check_weight(weight, tensor, name)


def _check_weight(weight: str, tensor: Tensor, name: str) -> None:
    if is_lazy(tensor):
        raise InputError(
            f"{name} has weights whose shape is not known yet ({weight} of a lazy layer); "
            "run it once on images, module(images), and load its weights"
        )
    if tensor.is_meta:
        raise InputError(
            f"{name} has weights without values ({weight} is on the meta device); load its weights, such as by "
            "module.load_state_dict(weights, assign=True)"
        )
    if tensor.is_inference() and tensor.is_floating_point():
        raise InputError(
            f"{name} has weights that were made in inference mode ({weight}), of which nothing has a gradient; "
            "make or load it outside of torch.inference_mode()"
        )
