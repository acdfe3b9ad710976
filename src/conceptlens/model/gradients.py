"""Gradients at layers, by batched vector-Jacobian products or in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.forward import full_precision
from conceptlens.model.model_output import LayerOutput

if TYPE_CHECKING:
    from jaxtyping import Float

# How many bytes of gradients at the layer one batched vector-Jacobian product may make. What lies behind the layer
# holds some twenty times as much meanwhile, and larger products are slower on a processor: they leave its cache.
GRADIENT_BYTES = 2 * 2**20


def through_graph(
    root: Tensor, cotangents: Float[Tensor, "image question dimension"], layer_outputs: dict[str, LayerOutput],
    *read: Callable[[Tensor], Tensor],
) -> list[Tensor]:  # fmt: skip
    """Return what `read` makes of the gradients at each layer, `question image ...`, chunk by chunk.

    Args:
        root: A tensor `(image, dimension)` in the graph of the layers.
        cotangents: The directions `(image, question, dimension)`: the gradient of `cotangent . root` is taken.
        layer_outputs: The layers, by name.
        read: For each layer, from its raw gradients `(question, ...)` to what is kept of them.

    Raises:
        InputError: `root` does not depend on the layers.
    """
    first = next(iter(layer_outputs))
    if not has_gradient(root):
        raise InputError(
            f"no gradient reaches layer '{first}': the output does not depend on it, or the model "
            "turns gradients off after it; choose another layer, or a rule without a gradient, such as score_cam"
        )
    raws = [layer_output.raw for layer_output in layer_outputs.values()]
    by_question = cotangents.to(root.dtype).transpose(0, 1)
    at_once = max(1, GRADIENT_BYTES // max(1, max(raw.numel() * raw.element_size() for raw in raws)))
    with full_precision(root), _explaining_gradients(first):
        chunks = [
            [reader(gradient) for reader, gradient in zip(read, _products(root, raws, chunk), strict=True)]
            for chunk in by_question.split(at_once)
        ]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


def has_gradient(root: Tensor) -> bool:
    """Whether torch takes gradients of `root`: it has a graph, and no operation that gives none without an error.

    Quantised operations are such.

    Args:
        root: A tensor in a graph or without one.
    """
    if not root.requires_grad:
        return False
    found: set[Any] = set()
    stack = [root.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        if node.name().endswith("NotImplemented"):
            return False
        found.add(node)
        stack += [child for child, _ in node.next_functions]
    return True


def gradient_through_graph(
    root: Tensor, cotangents: Float[Tensor, "image question dimension"], name: str, layer_output: LayerOutput
) -> Float[Tensor, "image question channel height width"]:
    """Return the gradient of every `cotangent . root` at the cells of one layer.

    Args:
        root: A tensor `(image, dimension)` in the graph of the layer.
        cotangents: Directions `(image, question, dimension)`.
        name: The layer's name, for messages.
        layer_output: Its output.
    """
    (found,) = through_graph(root, cotangents, {name: layer_output}, lambda gradient: gradient)
    return layer_output.grid.read(found).transpose(0, 1)


def linear_readout(
    root: Float[Tensor, "image dimension"], rows: tuple[Tensor, Tensor] | None, name: str, layer_output: LayerOutput
) -> Float[Tensor, "dimension channel"] | None:
    """Return `M` where `root = M . (mean over cells of the layer) + constant`, verified here, else `None`.

    The candidate is the matrix in `rows`, or the identity where `rows` is `None`. It counts only if it reproduces
    the values of `root` and its gradient in a random direction, to 1e-5 of the largest entry.

    Args:
        root: A tensor `(image, dimension)` in the graph of the layer.
        rows: The matrix and the constant that may lead to it.
        name: The layer's name, for messages.
        layer_output: Its output.
    """
    mean = layer_output.cells.detach().flatten(2).mean(2)
    matrix, constant = _candidate(root, mean, rows)
    # In half precision nothing is verified as closely, also where only a part of the model is in it.
    if matrix is None or {mean.dtype, matrix.dtype, root.dtype} not in ({torch.float32}, {torch.float64}):
        return None
    if not has_gradient(root) or not close(mean @ matrix.T + constant, root.detach()):
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    direction = torch.randn(root.shape[1], generator=generator, dtype=torch.float32, device="cpu").to(root)
    exact = gradient_through_graph(root, direction.expand(root.shape[0], 1, -1), name, layer_output)
    closed = (direction @ matrix / (layer_output.grid.height * layer_output.grid.width))[None, None, :, None, None]
    return matrix if close(closed.expand_as(exact), exact) else None


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors differ by at most `tolerance` of the largest entry."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30))


def _candidate(root: Tensor, mean: Tensor, rows: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | float]:
    """Return the matrix and the constant that may lead from the mean of the cells to `root`."""
    if rows is None:
        same = root.shape == mean.shape
        return (torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device) if same else None), 0.0
    return rows if tuple(rows[0].shape) == (root.shape[1], mean.shape[1]) else (None, 0.0)


@contextmanager
def _explaining_gradients(layer: str) -> Iterator[None]:
    """Say in a sentence why torch takes no gradient through what lies behind `layer`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:  # of an operation without one, or values changed in place
        why = next(iter(str(error).splitlines()), type(error).__name__)
        changed = "if the weights were changed since, as by an optimizer's step, observe again; or "
        raise InputError(
            f"torch takes no gradient at layer '{layer}' ({why}); {changed * ('inplace' in why)}choose another layer, "
            "or a rule without a gradient, such as score_cam"
        ) from error


def _products(root: Tensor, raws: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Vector-Jacobian products of `root` at each of `raws` for `cotangents[question image dimension]`."""
    known = {"retain_graph": True, "materialize_grads": True}
    if len(cotangents) > 1:
        try:
            return list(torch.autograd.grad(root, raws, cotangents, is_grads_batched=True, **known))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation behind the layer that has no batched gradient: one question at a time
            pass
    each = [torch.autograd.grad(root, raws, one, **known) for one in cotangents]
    return [torch.stack(gradients) for gradients in zip(*each, strict=True)]
