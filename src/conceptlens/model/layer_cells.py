"""The cells of several layers, or the embedding, from one forward pass without a graph."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conceptlens.model.backbone import Backbone
from conceptlens.model.forward import LayerKeeper
from conceptlens.model.model_input import ModelInput

if TYPE_CHECKING:
    from jaxtyping import Float

# The cells that a module has for an empty input: the state of its weights, and the cells for each layer and size.
_EMPTY: WeakKeyDictionary[nn.Module, tuple[int, dict[tuple[object, ...], Tensor]]] = WeakKeyDictionary()


def layer_cells(
    model: Backbone, images: Float[Tensor, "image colour rows columns"], layers: Iterable[str]
) -> dict[str, Float[Tensor, "image channel height width"]]:
    """Run the model once without a graph and return the cells of the layers named.

    Layers are read as `Backbone.observe` reads them, whatever the size of the batch and of the input.

    Args:
        model: The model; its modes and random state are left as they are.
        images: Images that are prepared already; they are moved to the device and the precision of the model.
        layers: Names of layers.

    Returns:
        For each layer its cells in float32, on the device of the model.

    Raises:
        InputError: There is no such layer, it runs more than once, or its output has no grid of cells.
    """
    return input_cells(model, ModelInput(images.to(model.parameter.device, model.parameter.dtype)), layers)


def input_cells(
    model: Backbone, given: ModelInput, layers: Iterable[str]
) -> dict[str, Float[Tensor, "image channel height width"]]:
    """Return what `layer_cells` does, for a call with other inputs beside the images.

    Args:
        model: The model.
        given: The inputs, on the device and in the precision of the model.
        layers: Names of layers.
    """
    names = tuple(dict.fromkeys(layers))
    for name in names:
        model.check_layer(name)
    kept = LayerKeeper(names, graph=False)
    with torch.no_grad():
        model.run(given, kept.watches)
    outputs = {name: model.layer_output(name, raw, given.images) for name, raw in kept.raw().items()}
    return {name: output.cells.float() for name, output in outputs.items()}


def embeddings(model: Backbone, images: Float[Tensor, "image colour rows columns"]) -> Float[Tensor, "image dimension"]:
    """Run the model once without a graph and return the vector of each image that enters its classifier.

    Args:
        model: The model; its modes and random state are left as they are.
        images: Images that are prepared already; they are moved to the device and the precision of the model.

    Returns:
        The embedding in float32, on the device of the model.

    Raises:
        InputError: The model has no embedding.
    """
    with torch.no_grad():
        found = model.run(ModelInput(images.to(model.parameter.device, model.parameter.dtype)))
    return found.embedding.float()


def empty_cells(model: Backbone, given: ModelInput, layer: str) -> Float[Tensor, "image channel height width"]:
    """Return the cells of a layer for inputs of zeros: photos of the mean colour, where inputs are normalised.

    They are computed once for each size and layer, and again when the weights have changed in place; with other inputs
    beside the images, each time.

    Args:
        model: The model.
        given: A call, whose images say how many, of what size and on what device.
        layer: The name of the layer.
    """
    if given.others:
        return input_cells(model, given.with_images(torch.zeros_like(given.images)), [layer])[layer]
    tensors = chain(model.module.parameters(), model.module.buffers())
    changes = sum(0 if tensor.is_inference() else tensor._version for tensor in tensors)
    one = given.images[:1]
    key = (layer, tuple(one.shape), one.dtype, one.device)
    if model.module not in _EMPTY or _EMPTY[model.module][0] != changes:
        _EMPTY[model.module] = (changes, {})  # what was kept of other weights serves no more
    known = _EMPTY[model.module][1]
    if key not in known:
        known[key] = input_cells(model, ModelInput(torch.zeros_like(one)), [layer])[layer]
    return known[key].expand(len(given.images), -1, -1, -1)
