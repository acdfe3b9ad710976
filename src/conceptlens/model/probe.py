"""Asking a module about itself: which layers have a grid, which one to look at, where its classifier is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.forward import forward
from conceptlens.model.layout import Grid, find_grid


@dataclass(frozen=True)
class Layer:
    """A layer whose output is a grid of cells.

    `reached`: the answer depends on those cells. `trunk`: it depends on the image through this output alone, with no
    shortcut around it.
    """

    name: str
    grid: Grid
    reached: bool
    trunk: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What one probing forward pass found: layers with a grid in order of execution, and the final classifier."""

    layers: tuple[Layer, ...]
    default: str
    classifier: str | None


# Modules that hand their input on unchanged in eval mode: never worth naming as a layer.
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


def anatomy(
    module: nn.Module,
    images: Tensor,
    read: Callable[[Any], Tensor],
    prefix: int | None,
    channels_last: bool | None,
) -> Anatomy:
    """Run `module` once on `images` of seeded noise and find its layers with a grid, its default and its classifier.

    The default is the last layer to finish, outside attention blocks, whose cells still reach the answer: the feature
    map before pooling in a CNN or Swin, the final norm of a ViT that averages its tokens, and the norm before the
    last attention of a ViT that reads its class token (after it, patch tokens have no gradient). `read` turns the
    raw output into `image dimension`.
    """
    seen: list[tuple[str, Tensor]] = []
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
        origins[id(handed)] = origins.get(id(tensor), len(seen))
        seen.append((name, handed))
        nodes[id(handed)] = handed.grad_fn  # now: an in-place operation may give it another one
        return handed

    entered: dict[str, Tensor] = {}
    names = [name for name, _ in module.named_modules() if name]
    linear = [name for name in names if isinstance(module.get_submodule(name), nn.Linear)]
    noise = images.detach().clone().requires_grad_()
    raw = forward(
        module,
        noise,
        {name: partial(watch, name) for name in names},
        {name: lambda tensor, name=name: entered.update({name: tensor}) for name in linear},
    )
    answer = read(raw)
    classifier = _find_classifier(module, seen, answer)
    if classifier is not None:  # a head initialised with zeros must not hide what it reads
        answer = entered[classifier]
    size = (images.shape[0], images.shape[2], images.shape[3])
    queries = _queries(raw)
    seen = [(name, tensor) for name, tensor in seen if tensor.ndim != 3 or tensor.shape[1] != queries]
    grids = _grids(module, seen, size, prefix, channels_last)
    reached = _reached([tensor for _, tensor, _ in grids], [grid for _, _, grid in grids], answer)
    cuts = _cuts(answer, noise)
    layers = tuple(
        Layer(name, grid, hit, hit and nodes[id(tensor)] in cuts)
        for (name, tensor, grid), hit in zip(grids, reached, strict=True)
    )
    return Anatomy(layers, _default(module, grids, reached, origins), classifier)


def _same_for_all(values: Tensor) -> bool:
    return len(values) > 1 and torch.equal(values[:1].expand_as(values), values)


def _queries(output: Any) -> int | None:
    """How many objects a detector asks for: their vectors lie in no place, yet 100 of them would pass for 10 x 10."""
    logits = getattr(output, "logits", None)
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 3 else None


def _grids(
    module: nn.Module,
    seen: list[tuple[str, Tensor]],
    size: tuple[int, int, int],
    prefix: int | None,
    channels_last: bool | None,
) -> list[tuple[str, Tensor, Grid]]:
    times: dict[str, int] = {}
    for name, _ in seen:
        times[name] = times.get(name, 0) + 1
    found = []
    for name, tensor in seen:
        if times[name] > 1 or isinstance(module.get_submodule(name), _PASSIVE):
            continue
        try:
            grid = find_grid(tuple(tensor.shape), size, prefix, channels_last)
        except InputError:
            continue
        if min(grid.height, grid.width) > 1:
            found.append((name, tensor, grid))
    return found


def _reached(tensors: list[Tensor], grids: list[Grid], answer: Tensor) -> list[bool]:
    """Whether a random direction of `answer` has a gradient at the cells of each tensor."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(answer.shape, generator=generator).to(answer)
    asked = [t for t in tensors if t.requires_grad]
    if not asked or not answer.requires_grad:
        return [False] * len(tensors)
    gradients = iter(torch.autograd.grad(answer, asked, direction, allow_unused=True))
    hits = []
    for tensor, grid in zip(tensors, grids, strict=True):
        gradient = next(gradients) if tensor.requires_grad else None
        hits.append(gradient is not None and bool(grid.read(gradient).abs().amax() > 0))
    return hits


def _cuts(answer: Tensor, images: Tensor) -> set[Any]:
    """Return the nodes of the graph that every path from `answer` to `images` passes.

    In a topological order, these are the nodes that no edge jumps over. What does not lead to the images (position
    biases that a layer computes) is left out.
    """
    order = _topological(answer.grad_fn)
    leading = {node for node in order if getattr(node, "variable", None) is images}
    for node in reversed(order):
        if any(child in leading for child, _ in node.next_functions):
            leading.add(node)
    order = [node for node in order if node in leading]
    place = {node: i for i, node in enumerate(order)}
    cuts, furthest = set(), 0
    for i, node in enumerate(order):
        if furthest <= i:
            cuts.add(node)
        furthest = max([furthest, *(place[child] for child, _ in node.next_functions if child in leading)])
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
            "no layer of this model has a grid of cells that reaches its answer; "
            "name one with layers=[...] (conceptlens models --layers NAME lists them)"
        )
    last = origins[id(usable[-1][1])]
    same = [name for name, tensor in usable if origins[id(tensor)] == last]  # handed on from module to module
    return min(same, key=lambda name: name.count("."))


def _inside_attention(module: nn.Module) -> list[str]:
    """Names of attention blocks: what they put out mixes places, and what is in them is not a feature map."""
    words = ("attention", "attn")
    return [
        name
        for name, part in module.named_modules()
        if name
        and any(w in type(part).__name__.lower() or w == name.rsplit(".", 1)[-1].lower() for w in words)
        and "block" not in type(part).__name__.lower()  # a ResidualAttentionBlock is a block that has attention
    ]


def _find_classifier(module: nn.Module, seen: list[tuple[str, Tensor]], answer: Tensor) -> str | None:
    """Return the last linear layer whose output is the answer itself."""
    for name, tensor in reversed(seen):
        linear = isinstance(module.get_submodule(name), nn.Linear)
        if linear and tensor.shape == answer.shape and torch.equal(tensor.detach(), answer.detach()):
            return name
    return None
