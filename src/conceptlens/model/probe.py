"""Asking a module about itself: which layers have a grid, which one to look at, where its classifier is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.cell_experiment import (
    SAME_IMAGE_TOLERANCE,
    Experiment,
    LayerChanges,
    changed_images,
    layer_changes,
    within_one,
)
from conceptlens.model.cell_order import order_problem
from conceptlens.model.cell_reading import find_grids
from conceptlens.model.forward import forward, in_graph
from conceptlens.model.gradients import has_gradient
from conceptlens.model.layers_without_gradient import last_that_counts
from conceptlens.model.layout import Grid
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
    """What eleven forward passes of one image found, ten of them in one batch without a graph.

    Args:
        layers: Layers with a grid of more than one row and column, in order of execution.
        default: The layer to look at where none is named; `None` where there is none.
        problem: Why there is no default, in words.
        classifier: The final linear layer, whose output is the model's output; `None` where there is none.
        grids: How every layer that ran once is read, also those that are not worth looking at.
        refused: Why the others cannot be read as cells, in words.
        within_one: Whether all numbers of its answers lay between 0 and 1, also for an image of large values, without a
            linear layer making them.
        sum_to_one: Whether the numbers of every answer were shares of 1.
    """

    layers: tuple[Layer, ...]
    default: str | None
    classifier: str | None
    problem: str = ""
    grids: Mapping[str, Grid] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    within_one: bool = False
    sum_to_one: bool = False


# Modules that hand their input on unchanged in eval mode: never worth naming as a layer.
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
# Nodes of a graph that have weights of their own, or mix cells. What reaches the output without them is the answer
# itself, in another shape.
_WEIGHTED = ("Convolution", "Addmm", "MmBackward", "Bmm", "Linear", "Norm", "Embedding", "ScaledDot", "Rnn")
# A layer is looked at by default only where at least this share of its cells has a gradient of the answer; where none
# has so many, as with strides that step over cells, the second share is enough.
_MIN_REACHED = (0.5, 0.2)


# How much larger than noise an image is for which logits leave 0..1.
LARGE = 1e6
# What is said of a module whose answer differs where nothing of the image does.
_DRAWN = (
    "this model gives another answer for the same image twice, so that a map would be one draw of many; give what is "
    "random in it (as noise= of a masked autoencoder, of which no patch is masked), or name a layer with layers=[...]"
)


# What was found in a module, for as long as it lives: the state of its weights, and the finding for each question.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[object, dict[object, Anatomy]]] = WeakKeyDictionary()


def anatomy(
    module: nn.Module,
    given: ModelInput,
    read: Callable[[Any, int], Tensor],
    prefix: int = 0,
    channels_last: bool | None = None,
    embeds: bool = False,
    known_as: object = None,
) -> Anatomy:
    """Find a module's layers with a grid, its default and its classifier, by images of seeded noise.

    How each layer is read is found by `cell_experiment`. The default is the last layer to finish, outside attention
    blocks and before the prediction, most of whose cells still reach the output: the feature map before pooling in a
    CNN or Swin, the final norm of a ViT that averages its tokens, and the norm before the last attention of a ViT that
    reads its class token (after it, patch tokens have no gradient).

    It is done once for each module, state of its weights and size of the images; with other inputs, each time.

    Args:
        module: The module; it is left as it is.
        given: Images, whose values are replaced by noise, and the other inputs.
        read: From the raw output, and for how many images, to `image dimension`.
        prefix: How many tokens stand before those of the cells, as far as the module says so.
        channels_last: The order of four axes, where it is told.
        embeds: Whether the output is an embedding, not class scores.
        known_as: What tells `read` from other ways to read this module's output.
    """
    tensors = chain(module.parameters(), module.buffers())
    state = tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    images = given.images
    question = (
        tuple(images.shape[1:]),
        images.dtype,
        images.device,
        given.keyword,
        known_as,
        prefix,
        channels_last,
        embeds,
    )
    if module not in _KNOWN or _KNOWN[module][0] != state:
        _KNOWN[module] = (state, {})  # what was found with other weights serves no more
    known = _KNOWN[module][1]
    if given.others:
        return _probed(module, given, read, prefix, channels_last, embeds)
    if question not in known:
        known[question] = _probed(module, given, read, prefix, channels_last, embeds)
    return known[question]


def _probed(
    module: nn.Module,
    given: ModelInput,
    read: Callable[[Any, int], Tensor],
    prefix: int,
    channels_last: bool | None,
    embeds: bool,
) -> Anatomy:
    like = given.images
    images, masks = changed_images(like.shape[1], (like.shape[2], like.shape[3]))
    images = images.to(like)
    names = [name for name, _ in module.named_modules() if name]
    images, experiment = _experiment(module, given, images, names)
    grids, refused = find_grids(experiment.layers, masks, prefix, channels_last)
    traced = _trace(module, given.of_one(0, images[:1]), names, experiment.layers)
    if experiment.in_batches:
        _refuse_what_depends_on_the_batch(traced, experiment.layers, grids, refused)
    try:
        output, problem = read(traced.raw, 1), ""
        alike = experiment.answers_alike(read)
    except InputError as error:
        return Anatomy((), None, None, str(error), grids, refused)
    classifier = _find_classifier(module, traced.outputs, output)
    if classifier is not None:  # a head initialised with zeros must not hide what it reads
        output = traced.entered[classifier]
    named = [(n, t, grids[n]) for n, t in traced.outputs if n in grids and _is_worth_naming(module, n, grids[n])]
    shares = _reached([tensor for _, tensor, _ in named], [grid for _, _, grid in named], output)
    cuts = _cuts(output, traced.images)
    layers = tuple(
        Layer(name, grid, share > 0, share > 0 and traced.nodes[id(tensor)] in cuts)
        for (name, tensor, grid), share in zip(named, shares, strict=True)
    )
    answers = set() if embeds or classifier else _answer_nodes(output)
    default = _default(module, named, shares, traced, answers)
    if default is None and not any(shares):  # a model without any gradient: rules without one can still be asked
        inside = _inside_attention(module)
        outside = [name for name, _, _ in named if not any(name == a or name.startswith(a + ".") for a in inside)]
        default = last_that_counts(module, given.of_one(0, images[:1]), outside, read)
    if not alike:
        default, problem = None, _DRAWN
    elif default is None:
        problem = (
            "no layer of this model has a grid of cells that reaches its output; "
            "name one with layers=[...] (conceptlens models --layers NAME lists them)"
        )
    elif disorder := _disorder(module, given.of_one(0, images[:1]), names, traced, default, grids[default]):
        problem = f"layer '{default}' cannot be read: {disorder}; name another one with layers=[...]"
        refused[default] = disorder
        del grids[default]
        layers, default = tuple(layer for layer in layers if layer.name != default), None
    bounded = classifier is None and experiment.answers_within_one(read)
    bounded = bounded and _bounded_for_large_images(module, given.of_one(0, LARGE * images[:1]), read)
    shares_of_one = experiment.answers_sum_to_one(read)
    return Anatomy(layers, default, classifier, problem, grids, refused, bounded, shares_of_one)


def _disorder(module: nn.Module, given: ModelInput, names: list[str], traced: _Trace, layer: str, grid: Grid) -> str:
    """Return why the cells of a layer are not in order; empty where nothing says so in this image and its mirror."""

    def seen(trace: _Trace) -> tuple[Tensor, Tensor]:
        return next(tensor for name, tensor in trace.outputs if name == layer), trace.images

    def again() -> tuple[Tensor, Tensor]:
        return seen(_trace(module, given.with_images(given.images.flip(3)), names, {}))

    return order_problem(seen(traced), again, grid)


def _bounded_for_large_images(module: nn.Module, given: ModelInput, read: Callable[[Any, int], Tensor]) -> bool:
    """Whether the numbers stay between 0 and 1 where those of a network that ends in a ReLU grow."""
    try:
        with torch.no_grad():
            found = forward(module, given, {})
    except torch.OutOfMemoryError:
        raise
    except (InputError, RuntimeError, ValueError, AssertionError):  # a module may refuse such values
        return True
    return within_one(read(found, 1))


def _experiment(module: nn.Module, given: ModelInput, images: Tensor, names: list[str]) -> tuple[Tensor, Experiment]:
    """Run the module on images of noise; where it refuses them, on noise of the range of the images at hand."""
    try:
        return images, layer_changes(module, given.of_one(0, images), names)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a module may check what it is given, and raises what it likes
        low, high = given.images.min(), given.images.max()
        if not bool(high > low):
            raise
    images = low + (high - low) * (images - images.min()) / (images.max() - images.min())
    return images, layer_changes(module, given.of_one(0, images), names)


@dataclass(frozen=True, eq=False)
class _Trace:
    """One forward pass with a graph from the images on: the output of every layer, and what enters linear layers."""

    images: Tensor
    known: Mapping[str, LayerChanges]
    raw: Any = None
    differs: dict[str, float] = field(default_factory=dict)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    entered: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)
    nodes: dict[int, Any] = field(default_factory=dict)

    def watch(self, name: str, tensor: Tensor) -> Tensor | None:
        """Keep a layer's output, in the graph even where the layer or its trunk turns gradients off."""
        if not tensor.is_floating_point():
            return None
        known = self.known.get(name)
        if torch.is_grad_enabled() and not tensor.requires_grad and known is not None and known.constant:
            return None  # a position embedding shows nothing of any image
        # A trunk may turn gradients off, or be run in inference mode; what its last layer puts out still counts.
        with torch.inference_mode(False), torch.enable_grad():
            # a copy, since a model output may hold more than this tensor: only a changed one tells whether it is read
            handed = in_graph(tensor).clone()
        if known is not None and known.base is not None:  # now, too: an in-place operation may change it later
            same = known.base.shape == tensor.shape
            self.differs[name] = float((tensor.detach() - known.base).float().norm()) if same else math.inf
        self.origins[id(handed)] = self.origins.get(id(tensor), len(self.outputs))
        self.outputs.append((name, handed))
        self.nodes[id(handed)] = handed.grad_fn  # now: an in-place operation may give it another one
        return handed


def _trace(module: nn.Module, given: ModelInput, names: list[str], known: Mapping[str, LayerChanges]) -> _Trace:
    noise = given.images.detach().clone().requires_grad_()
    found = _Trace(noise, known)
    linear = [name for name in names if isinstance(module.get_submodule(name), nn.Linear)]
    raw = forward(
        module,
        given.with_images(noise),
        {name: partial(found.watch, name) for name in names},
        {name: lambda tensor, name=name: found.entered.update({name: tensor}) for name in linear},
    )
    return replace(found, raw=raw)


def _refuse_what_depends_on_the_batch(
    traced: _Trace, changes: Mapping[str, LayerChanges], grids: dict[str, Grid], refused: dict[str, str]
) -> None:
    """Move layers to `refused` that give another output for an image alone than in the batch of the experiment."""
    for name, differs in traced.differs.items():
        if name not in grids or changes[name].overflows:
            continue
        changed = next(iter(changes[name].changes.values()))  # with the blocks in the place of the images
        typical = float(changed.float().norm()) / changed.shape[changes[name].image_axis or 0] ** 0.5
        if not differs <= SAME_IMAGE_TOLERANCE * typical:
            refused[name] = "an image alone gives other cells than in a batch"
            del grids[name]


def _answer_nodes(output: Tensor) -> set[Any]:
    """Return the nodes of the graph that reach the output through nothing but reshaping, pooling, resizing and such."""
    waiting = [] if output.grad_fn is None else [output.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if not any(word in type(node).__name__ for word in _WEIGHTED):
            waiting += [child for child, _ in node.next_functions if child is not None]
    return seen


def _is_worth_naming(module: nn.Module, name: str, grid: Grid) -> bool:
    return min(grid.height, grid.width) > 1 and not isinstance(module.get_submodule(name), _PASSIVE)


def _reached(tensors: list[Tensor], grids: list[Grid], output: Tensor) -> list[float]:
    """Return the share of the cells of each tensor at which a random direction of `output` has a gradient."""
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
    module: nn.Module,
    named: list[tuple[str, Tensor, Grid]],
    shares: list[float],
    traced: _Trace,
    answers: set[Any],
) -> str | None:
    inside = _inside_attention(module)
    outside = [
        (name, tensor, share)
        for (name, tensor, _), share in zip(named, shares, strict=True)
        if not any(name == a or name.startswith(a + ".") for a in inside)
    ]
    enough = ([one[:2] for one in outside if one[2] >= least] for least in _MIN_REACHED)
    usable = next((found for found in enough if found), [])
    before = [(name, tensor) for name, tensor in usable if traced.nodes[id(tensor)] not in answers]
    usable = before or usable
    if not usable:
        return None
    last = traced.origins[id(usable[-1][1])]
    same = [name for name, tensor in usable if traced.origins[id(tensor)] == last]  # handed on from module to module
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
        # The answer for one image may have lost the axis of the images to a squeeze.
        if (
            linear
            and tensor.numel() == output.numel()
            and torch.equal(tensor.detach().flatten(), output.detach().flatten())
        ):
            return name
    return None
