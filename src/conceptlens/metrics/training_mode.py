"""Networks in training mode are refused, where the scores of an image depend on its batch or on chance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

from conceptlens.io.errors import InputError

_REFUSED = "the module is in training mode, where scores depend on the batch; call module.eval() first"


def check_eval(module: nn.Module) -> None:
    """Refuse a module of which any part is in training mode.

    Args:
        module: The module.

    Raises:
        InputError: A part is in training mode.
    """
    if any(part.training for part in module.modules()):
        raise InputError(_REFUSED)


@contextmanager
def only_in_eval_mode() -> Iterator[None]:
    """Refuse every module in training mode that this thread runs inside, wherever the module is held.

    Modules that compute the same in both modes are let through: those without parameters and buffers, such as a softmax
    that was made on the spot, and recurrent layers without dropout, which the backward pass on CUDA holds in training
    mode.

    Raises:
        InputError: Such a module runs in training mode.
    """
    thread = threading.get_ident()

    def check(module: nn.Module, _: Any) -> None:
        if module.training and threading.get_ident() == thread and _changes_in_training(module):
            raise InputError(_REFUSED)

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _changes_in_training(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
