"""Where images enter a module, which tells how many channels they have and in which precision they come."""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conceptlens.model.forward import forward
from conceptlens.model.model_input import ModelInput

# The name of the part that images enter, for as long as a module lives.
_ENTRIES: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def colours_of(module: nn.Module) -> int:
    """How many channels the images of a module have, as its first convolution has it; 3 where it has none.

    The first convolution that is registered says so, unless it takes neither grey nor colours: a neck may be written
    before the trunk. Then the first that runs does.

    Args:
        module: The module.
    """
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels in (1, 3):
        return 3 if first is None else first.in_channels
    entered = entry_layer(module)
    if isinstance(entered, nn.Conv2d):
        return entered.in_channels
    weight = None if entered is None else _weight(entered)
    return first.in_channels if weight is None or weight.ndim != 4 else weight.shape[1]


def entry_layer(module: nn.Module) -> nn.Module | None:
    """Return the first part with weights of its own that an image enters, which tells what images a module takes.

    Found once by a forward pass that ends where it begins.

    Args:
        module: The module.

    Returns:
        The part; `None` where none is entered before the module fails.
    """
    if module not in _ENTRIES:
        names = [name for name, part in module.named_modules() if name and _weight(part) is not None]
        blank = torch.zeros(1, 3, 64, 64, device=next((p.device for p in module.parameters()), "cpu"))
        found = None
        try:
            forward(module, ModelInput(blank), {}, {name: partial(_enter, name) for name in names})
        except _EnteredError as entered:
            found = entered.name
        except torch.OutOfMemoryError:
            raise
        except Exception:  # it needs other inputs, or another size: nothing is known then
            pass
        _ENTRIES[module] = found
    name = _ENTRIES[module]
    return None if name is None else module.get_submodule(name)


def input_weight(module: nn.Module) -> Tensor | None:
    """Return a weight that has the device and the precision of a module's images: that of the part that they enter.

    Args:
        module: The module.

    Returns:
        The weight; `None` where the module has none with floating values.
    """
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    if len({tensor.dtype for tensor in tensors}) > 1:
        entered = entry_layer(module)
        weight = None if entered is None else _weight(entered)
        if weight is not None:
            return weight
    return next(iter(tensors), None)


class _EnteredError(Exception):
    """Ends a forward pass at the first part with weights."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _enter(name: str, _inputs: Tensor) -> Tensor:
    raise _EnteredError(name)


def _weight(part: nn.Module) -> Tensor | None:
    """Return a floating weight that a part has itself, apart from its children; TorchScript runs those unseen."""
    whole = isinstance(part, torch.jit.ScriptModule)
    own = (*part.parameters(recurse=whole), *part.buffers(recurse=whole))
    return next((tensor for tensor in own if tensor.is_floating_point()), None)
