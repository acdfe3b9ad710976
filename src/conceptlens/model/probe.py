"""Asking a module about itself: which layers have a grid, which one to look at, where its classifier is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.forward import forward
from conceptlens.model.layout import Grid, find_grid
from conceptlens.model.model_input import ModelInput


@dataclass(frozen=True)
class Layer:
    """A layer whose output is a grid of cells.

    `reached`: the output depends on those cells. `trunk`: it depends on the image through this output alone, with no
    shortcut around it.
    """

    name: str
    grid: Grid
    reached: bool
    trunk: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What one probing forward pass found.

    Args:
        layers: Layers with a grid of more than one row and column, in order of execution.
        default: The layer to look at where none is named.
        classifier: The final linear layer, whose output is the model's output; `None` where there is none.
        grids: How every layer that ran once was read, also those that are not worth looking at.
    """

    layers: tuple[Layer, ...]
    default: str
    classifier: str | None
    grids: Mapping[str, Grid] = field(default_factory=dict)


# Modules that hand their input on unchanged in eval mode: never worth naming as a layer.
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


def anatomy(
    module: nn.Module,
    given: ModelInput,
    read: Callable[[Any], Tensor],
    prefix: int | None,
    channels_last: bool | None,
) -> Anatomy:
    """Run `module` once on images of seeded noise and find its layers with a grid, its default and its classifier.

    The default is the last layer to finish, outside attention blocks, whose cells still reach the output: the feature
    map before pooling in a CNN or Swin, the final norm of a ViT that averages its tokens, and the norm before the
    last attention of a ViT that reads its class token (after it, patch tokens have no gradient). `read` turns the
    raw output into `image dimension`.

    Args:
        module: The module; it is left as it is.
        given: Images, whose values are replaced by noise, and the other inputs.
        read: From the raw output to `image dimension`.
        prefix: How many tokens stand before those of the cells, where it is known.
        channels_last: The order of four axes, where it is known.

    Raises:
        InputError: No layer has a grid of cells that reaches the output.
    """
    outputs: list[tuple[str, Tensor]] = []
    origins: dict[int, int] = {}
    nodes: dict[int, Any] = {}

    def watch(name: str, tensor: Tensor) -> Tensor | None:
        if not tensor.is_floating_point():
            return None
        if torch.is_grad_enabled() and not tensor.requires_grad and _same_for_all(tensor):
            return None  # a position embedding shows nothing of any image
        with torch.enable_grad():  # a trunk may turn gradients off; what its last layer puts out still counts
            # a copy, since a model output may hold more than this tensor: only a changed one tells whether it is read
            handed = (tensor if tensor.requires_grad else tensor.detach().requires_grad_()).clone()
        origins[id(handed)] = origins.get(id(tensor), len(outputs))
        outputs.append((name, handed))
        nodes[id(handed)] = handed.grad_fn  # now: an in-place operation may give it another one
        return handed

    entered: dict[str, Tensor] = {}
    names = [name for name, _ in module.named_modules() if name]
    linear = [name for name in names if isinstance(module.get_submodule(name), nn.Linear)]
    noise = given.images.detach().clone().requires_grad_()
    raw = forward(
        module,
        given.with_images(noise),
        {name: partial(watch, name) for name in names},
        {name: lambda tensor, name=name: entered.update({name: tensor}) for name in linear},
    )
    output = read(raw)
    classifier = _find_classifier(module, outputs, output)
    if classifier is not None:  # a head initialised with zeros must not hide what it reads
        output = entered[classifier]
    size = (noise.shape[0], noise.shape[2], noise.shape[3])
    queries = _queries(raw)
    outputs = [(name, tensor) for name, tensor in outputs if tensor.ndim != 3 or tensor.shape[1] != queries]
    every = _grids(outputs, size, prefix, channels_last)
    grids = [one for one in every if _is_worth_naming(module, one[0], one[2])]
    reached = _reached([tensor for _, tensor, _ in grids], [grid for _, _, grid in grids], output)
    cuts = _cuts(output, noise)
    layers = tuple(
        Layer(name, grid, hit, hit and nodes[id(tensor)] in cuts)
        for (name, tensor, grid), hit in zip(grids, reached, strict=True)
    )
    known = {name: grid for name, _, grid in every}
    return Anatomy(layers, _default(module, grids, reached, origins), classifier, known)


def _same_for_all(values: Tensor) -> bool:
    return len(values) > 1 and torch.equal(values[:1].expand_as(values), values)


def _queries(output: Any) -> int | None:
    """How many objects a detector asks for: their vectors are no cells, yet 100 of them would pass for 10 x 10."""
    logits = getattr(output, "logits", None)
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 3 else None


def _grids(
    outputs: list[tuple[str, Tensor]],
    size: tuple[int, int, int],
    prefix: int | None,
    channels_last: bool | None,
) -> list[tuple[str, Tensor, Grid]]:
    """Return the grid of every layer that ran once and whose output can be read as cells."""
    times = Counter(name for name, _ in outputs)
    found = []
    for name, tensor in outputs:
        if times[name] > 1:
            continue
        try:
            found.append((name, tensor, find_grid(tuple(tensor.shape), size, prefix, channels_last)))
        except InputError:
            continue
    return found


def _is_worth_naming(module: nn.Module, name: str, grid: Grid) -> bool:
    return min(grid.height, grid.width) > 1 and not isinstance(module.get_submodule(name), _PASSIVE)


def _reached(tensors: list[Tensor], grids: list[Grid], output: Tensor) -> list[bool]:
    """Whether a random direction of `output` has a gradient at the cells of each tensor."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(output.shape, generator=generator).to(output)
    wanted = [t for t in tensors if t.requires_grad]
    if not wanted or not output.requires_grad:
        return [False] * len(tensors)
    gradients = iter(torch.autograd.grad(output, wanted, direction, allow_unused=True))
    hits = []
    for tensor, grid in zip(tensors, grids, strict=True):
        gradient = next(gradients) if tensor.requires_grad else None
        hits.append(gradient is not None and bool(grid.read(gradient).abs().amax() > 0))
    return hits


def _cuts(output: Tensor, images: Tensor) -> set[Any]:
    """Return the nodes of the graph that every path from `output` to `images` passes.

    In a topological order, these are the nodes that no edge jumps over. What does not lead to the images (position
    biases that a layer computes) is left out.
    """
    order = _topological(output.grad_fn)
    leading = {node for node in order if getattr(node, "variable", None) is images}
    for node in reversed(order):
        if any(child in leading for child, _ in node.next_functions):
            leading.add(node)
    order = [node for node in order if node in leading]
    position = {node: i for i, node in enumerate(order)}
    cuts, furthest = set(), 0
    for i, node in enumerate(order):
        if furthest <= i:
            cuts.add(node)
        furthest = max([furthest, *(position[child] for child, _ in node.next_functions if child in leading)])
    return cuts


def _topological(root: Any) -> list[Any]:
    """Return the nodes of the graph below `root`, each before those that it was computed from."""
    finished: dict[Any, None] = {}
    entered: set[Any] = set()
    stack = [] if root is None else [root]
    while stack:
        node = stack[-1]
        if node not in entered:
            entered.add(node)
            stack += [c for c, _ in node.next_functions if c is not None and c not in entered]
            continue
        stack.pop()
        finished.setdefault(node)
    return list(finished)[::-1]


def _default(
    module: nn.Module, grids: list[tuple[str, Tensor, Grid]], reached: list[bool], origins: dict[int, int]
) -> str:
    inside = _inside_attention(module)
    usable = [
        (name, tensor)
        for (name, tensor, _), hit in zip(grids, reached, strict=True)
        if hit and not any(name == a or name.startswith(a + ".") for a in inside)
    ]
    if not usable:
        raise InputError(
            "no layer of this model has a grid of cells that reaches its output; "
            "name one with layers=[...] (conceptlens models --layers NAME lists them)"
        )
    last = origins[id(usable[-1][1])]
    same = [name for name, tensor in usable if origins[id(tensor)] == last]  # handed on from module to module
    return min(same, key=lambda name: name.count("."))


def _inside_attention(module: nn.Module) -> list[str]:
    """Names of attention blocks: what they put out mixes cells, and what is in them is not a feature map."""
    words = ("attention", "attn")
    return [
        name
        for name, part in module.named_modules()
        if name
        and any(w in type(part).__name__.lower() or w == name.rsplit(".", 1)[-1].lower() for w in words)
        and "block" not in type(part).__name__.lower()  # a ResidualAttentionBlock is a block that has attention
    ]


def _find_classifier(module: nn.Module, outputs: list[tuple[str, Tensor]], output: Tensor) -> str | None:
    """Return the last linear layer whose output is the output itself."""
    for name, tensor in reversed(outputs):
        linear = isinstance(module.get_submodule(name), nn.Linear)
        if linear and tensor.shape == output.shape and torch.equal(tensor.detach(), output.detach()):
            return name
    return None
