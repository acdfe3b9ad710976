"""A layer to look at in a model that has no gradient: quantised, or run under `no_grad` by its own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.model.forward import forward
from conceptlens.model.model_input import ModelInput

# How many layers are tried at most, from the end.
TRIED = 4


def last_that_counts(
    module: nn.Module, given: ModelInput, names: Sequence[str], read: Callable[[Any, int], Tensor]
) -> str | None:
    """Return the last layer whose output changes the answer: with its values turned round, another one comes out.

    Args:
        module: The module; it is left as it is.
        given: One image, and the other inputs.
        names: Layers with a grid of cells, in order of execution.
        read: From the raw output, and for how many images, to a tensor.

    Returns:
        The outermost name of that layer; `None` where none of the last few changes the answer.
    """
    with torch.no_grad():
        before = read(forward(module, given, {}), 1).detach()
        for name in names[: -TRIED - 1 : -1]:
            after = read(forward(module, given, {name: torch.neg}), 1).detach()
            if after.shape == before.shape and not torch.equal(after, before):
                return name
    return None
