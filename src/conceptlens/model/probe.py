"""Asking a module about itself: which layers have a grid, which one to look at, where its classifier is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from conceptlens.model.default_layer import default_layer, inside_attention, reached_shares
from conceptlens.model.forward import forward
from conceptlens.model.graph_cuts import answer_nodes, cut_nodes
from conceptlens.model.layer_trace import LayerTrace, trace_layers
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
    traced = trace_layers(module, given.of_one(0, images[:1]), names, experiment.layers)
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
    shares = reached_shares([tensor for _, tensor, _ in named], [grid for _, _, grid in named], output)
    cuts = cut_nodes(output, traced.images)
    layers = tuple(
        Layer(name, grid, share > 0, share > 0 and traced.nodes[id(tensor)] in cuts)
        for (name, tensor, grid), share in zip(named, shares, strict=True)
    )
    answers = set() if embeds or classifier else answer_nodes(output)
    default = default_layer(module, named, shares, traced.nodes, traced.origins, answers)
    if default is None and not any(shares):  # a model without any gradient: rules without one can still be asked
        inside = inside_attention(module)
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


def _disorder(
    module: nn.Module, given: ModelInput, names: list[str], traced: LayerTrace, layer: str, grid: Grid
) -> str:
    """Return why the cells of a layer are not in order; empty where nothing says so in this image and its mirror."""

    def seen(trace: LayerTrace) -> tuple[Tensor, Tensor]:
        return next(tensor for name, tensor in trace.outputs if name == layer), trace.images

    def again() -> tuple[Tensor, Tensor]:
        return seen(trace_layers(module, given.with_images(given.images.flip(3)), names, {}))

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


def _refuse_what_depends_on_the_batch(
    traced: LayerTrace, changes: Mapping[str, LayerChanges], grids: dict[str, Grid], refused: dict[str, str]
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


def _is_worth_naming(module: nn.Module, name: str, grid: Grid) -> bool:
    return min(grid.height, grid.width) > 1 and not isinstance(module.get_submodule(name), _PASSIVE)


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
