"""The Jacobian of a vector that depends on the cells of a layer through their mean alone, found by experiment."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from conceptlens.model.forward import full_precision
from conceptlens.model.gradients import close
from conceptlens.model.model_output import LayerOutput

if TYPE_CHECKING:
    from jaxtyping import Float


def mean_jacobian(
    root: Float[Tensor, "image dimension"], layer_output: LayerOutput
) -> Float[Tensor, "image dimension channel"] | None:
    """Return `d root / d mean cell` where `root` depends on the cells through their mean alone, else `None`.

    So it is where cells are averaged before a norm or an MLP, as in ConvNeXt and in a ViT that averages its patches.
    One product in a random direction tells: the gradient is the same at every cell, and in the graph there is a tensor
    with one entry for each channel, the pooled vector, whose gradient is that of the cells but for a factor. Products
    then go from `root` to that tensor and touch no cell, so all of them take less than a forward pass.

    Args:
        root: A tensor in the graph of the layer.
        layer_output: The layer's output.

    Returns:
        The change of `root` per change of the mean cell: the sum over cells of the gradient; `None` also in half
        precision, where it cannot be told.
    """
    if root.dtype not in (torch.float32, torch.float64) or not root.requires_grad:
        return None
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(root.shape, generator=generator).to(root)
    with full_precision(root):
        by_cell, passed = _gradients_passed(root, direction, layer_output)
        total = by_cell.sum((2, 3))
        even = total[..., None, None] / by_cell[0, 0].numel()
        if not bool(total.any()) or not close(by_cell, even.expand_as(by_cell)):
            return None
        for edge, gradient in reversed(passed):  # the nearest to the cells first
            pooled = gradient.reshape(total.shape)
            factor = (total * pooled).sum() / pooled.square().sum().clamp_min(1e-30)
            if close(factor * pooled, total):
                return factor * _products_to(edge, root, total.shape[1])
    return None


def _gradients_passed(
    root: Tensor, direction: Tensor, layer_output: LayerOutput
) -> tuple[Float[Tensor, "image channel height width"], list[tuple[GradientEdge, Tensor]]]:
    """Return the gradient of `direction . root` at the cells, and those on the way with an entry for each channel."""
    entries = len(root) * layer_output.grid.channels
    passed: list[tuple[GradientEdge, Tensor]] = []

    def keep(node: Any, gradients: tuple[Tensor | None, ...]) -> None:
        for number, gradient in enumerate(gradients):
            if gradient is not None and gradient.numel() == entries and len(gradient) == len(root):
                passed.append((GradientEdge(node, number), gradient))

    handles = [node.register_prehook(partial(keep, node)) for node in _nodes(root.grad_fn)]
    try:
        (raw,) = torch.autograd.grad(
            root, layer_output.raw, direction, retain_graph=True, materialize_grads=True
        )  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    return layer_output.grid.read(raw), passed


def _nodes(root: Any) -> list[Any]:
    """Return every node of the graph below `root`."""
    found: dict[Any, None] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found[node] = None
            stack += [child for child, _ in node.next_functions]
    return list(found)


def _products_to(edge: GradientEdge, root: Tensor, channels: int) -> Float[Tensor, "image dimension channel"]:
    """Return the gradient of every entry of `root` at a pooled vector."""
    basis = torch.eye(root.shape[1], dtype=root.dtype, device=root.device)
    each = basis[:, None].expand(-1, len(root), -1)
    (found,) = torch.autograd.grad(root, edge, each, retain_graph=True, is_grads_batched=True)
    return found.reshape(root.shape[1], len(root), channels).transpose(0, 1)
