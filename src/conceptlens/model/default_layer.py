"""Which layer to look at where none is named: the last one whose cells still reach the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.model.gradients import has_gradient
from conceptlens.model.layout import Grid

# A layer is looked at by default only where at least this share of its cells has a gradient of the answer; where none
# has so many, as with strides that step over cells, the second share is enough.
_MIN_REACHED = (0.5, 0.2)


def reached_shares(tensors: list[Tensor], grids: list[Grid], output: Tensor) -> list[float]:
    """Return the share of the cells of each tensor at which a random direction of `output` has a gradient.

    Args:
        tensors: Outputs of layers, in the graph.
        grids: How each is read.
        output: The answer, in the graph.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float32, device="cpu").to(output)
    wanted = [t for t in tensors if t.requires_grad]
    if not wanted or not has_gradient(output):
        return [0.0] * len(tensors)
    try:
        gradients = iter(torch.autograd.grad(output, wanted, direction, retain_graph=True, allow_unused=True))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError):  # an operation without a gradient, or values changed in place
        return [0.0] * len(tensors)
    shares = []
    for tensor, grid in zip(tensors, grids, strict=True):
        gradient = next(gradients) if tensor.requires_grad else None
        shares.append(0.0 if gradient is None else float((grid.read(gradient) != 0).any(1).float().mean()))
    return shares


def default_layer(
    module: nn.Module,
    named: list[tuple[str, Tensor, Grid]],
    shares: list[float],
    nodes: Mapping[int, Any],
    origins: Mapping[int, int],
    answers: set[Any],
) -> str | None:
    """Return the layer's name; `None` where no layer has enough cells that reach the answer.

    Args:
        module: The module.
        named: Layers that are worth naming, in order of execution: name, output, grid.
        shares: The share of each one's cells that reach the answer, see `reached_shares`.
        nodes: The node of the graph of each output, by its `id`.
        origins: Where in the order each output was made first, by its `id`: the same where it is handed on.
        answers: Nodes that are the answer itself, see `answer_nodes`.
    """
    inside = inside_attention(module)
    outside = [
        (name, tensor, share)
        for (name, tensor, _), share in zip(named, shares, strict=True)
        if not any(name == a or name.startswith(a + ".") for a in inside)
    ]
    enough = ([one[:2] for one in outside if one[2] >= least] for least in _MIN_REACHED)
    usable = next((found for found in enough if found), [])
    before = [(name, tensor) for name, tensor in usable if nodes[id(tensor)] not in answers]
    usable = before or usable
    if not usable:
        return None
    last = origins[id(usable[-1][1])]
    same = [name for name, tensor in usable if origins[id(tensor)] == last]  # handed on from module to module
    return min(same, key=lambda name: name.count("."))


def inside_attention(module: nn.Module) -> list[str]:
    """Return the names of attention blocks: what they put out mixes cells, and what is in them is not a feature map.

    Args:
        module: The module.
    """
    words = ("attention", "attn")
    return [
        name
        for name, part in module.named_modules()
        if name
        and any(w in type(part).__name__.lower() or w == name.rsplit(".", 1)[-1].lower() for w in words)
        and "block" not in type(part).__name__.lower()  # a ResidualAttentionBlock is a block that has attention
    ]
