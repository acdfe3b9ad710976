"""CE-FAM's branch: a small network from a classifier's pooled layers to a vision-language model's image vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation
    from conceptlens.model.probe import Layer

MAX_LAYERS = 4


class Branch(nn.Module):
    """`h(z)`: Linear-Tanh-Linear-Tanh-Linear from pooled layers to image vectors. (CE-FAM, ICCV 2025, figure 2.)

    The input holds the deepest layer first, as published: 2048 + 1024 + 512 + 256 channels of a ResNet-50.

    Args:
        layers: Layers that are read, in the order of execution.
        widths: Channels of each layer.
        dimension: Length of an image vector.
        hidden: Sizes of the hidden layers; by default the published ones (`hidden_sizes`), and `()` is a single
            linear map.

    Raises:
        InputError: Where layers and widths differ in number, or a size is below 1.
    """

    def __init__(
        self, layers: Sequence[str], widths: Sequence[int], dimension: int, hidden: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.layers, self.widths, self.dimension = tuple(layers), tuple(widths), dimension
        if len(self.layers) != len(self.widths) or not self.layers:
            raise InputError(f"{len(self.layers)} layers and {len(self.widths)} widths are given; give one width each")
        self.hidden = hidden_sizes(self.widths) if hidden is None else tuple(hidden)
        sizes = [self.width, *self.hidden, dimension]
        if min(sizes) < 1:
            raise InputError(f"a branch of sizes {'-'.join(map(str, sizes))} is given; sizes are at least 1")
        parts: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
        for inward, outward in pairwise(sizes[1:]):
            parts += [nn.Tanh(), nn.Linear(inward, outward)]
        self.network = nn.Sequential(*parts)

    @property
    def width(self) -> int:
        """The length of the input: the channels of all layers."""
        return sum(self.widths)

    def forward(self, pooled: Float[Tensor, "image width"]) -> Float[Tensor, "image dimension"]:
        """Return image vectors, not normalised.

        Args:
            pooled: Means over the cells of the layers (`pooled`), `[image width]`.

        Returns:
            Vectors `[image dimension]`.
        """
        return self.network(pooled)


def hidden_sizes(widths: Sequence[int]) -> tuple[int, int]:
    """Return the published hidden sizes: 2048 and 1024 for several layers of 2048 channels or more, else 1024 twice.

    The paper's networks are 3840-2048-1024 (ResNet-50), 960-1024-1024 (ResNet-18) and 1024 twice for a single layer
    (ViT-B/16); other networks take those of the one that they resemble.

    Args:
        widths: Channels of the layers that the branch reads.
    """
    return (2048, 1024) if len(widths) > 1 and sum(widths) >= 2048 else (1024, 1024)


def pooled(observation: Observation, layers: Sequence[str]) -> Float[Tensor, "image width"]:
    """Return the mean over the cells of each layer, the last of `layers` first, in the graph of the observation.

    A gradient at the result reaches every layer, the earlier ones through the later ones too.

    Args:
        observation: Photos observed at `layers`.
        layers: Layers in the order of execution.

    Raises:
        InputError: Where a layer was not observed.
    """
    missing = [name for name in layers if name not in observation.layer_outputs]
    if missing:
        raise InputError(
            f"the branch reads {', '.join(layers)}, and {', '.join(missing)} was not observed; "
            "use model.observe(..., layers=translator.layers)"
        )
    layer_outputs = [observation.layer_outputs[name] for name in reversed(layers)]
    return torch.cat([layer_output.cells.flatten(2).mean(2) for layer_output in layer_outputs], dim=1)


def branch_layers(model: Backbone) -> tuple[str, ...]:
    """Return the layers that a branch reads where none are named, in the order of execution.

    In a network of several resolutions: the last output of each of the four coarsest that everything passes, so the
    stages of a ResNet, EfficientNet, ConvNeXt or Swin. Where all layers share one grid (ViT): the model's own default
    layer alone. The paper takes a ViT's last block after the final norm, whose patches do not reach the class, so that
    it has no contributions there; the default is the last layer that does reach it.

    Args:
        model: The backbone; it is probed where that has not been done.

    Returns:
        Names of layers.
    """
    return _stages(model.anatomy.layers, model.anatomy.default) or model.default_layers[-1:]


@lru_cache(maxsize=32)
def _stages(layers: tuple[Layer, ...], default: str) -> tuple[str, ...]:
    """Return the last output of each of the coarsest resolutions, the default layer's last; none where it is alone."""
    own = next((layer for layer in layers if layer.name == default), None)
    finer = [] if own is None else [s for s in _resolutions(layers) if s > own.grid.height * own.grid.width]
    if own is None or not finer:
        return ()
    last = {_cells(layer): layer.name for layer in layers if layer.trunk and _is_stage(layer, layers)}
    chosen = [last[size] for size in finer if size in last]
    return (*chosen[1 - MAX_LAYERS :], own.name)


def in_order(model: Backbone, layers: Sequence[str]) -> tuple[str, ...]:
    """Return layers in the order of execution, each once.

    Args:
        model: The classifier.
        layers: Names of layers, in any order.

    Raises:
        InputError: Where there is no layer, or one has no grid of cells that reaches the output.
    """
    known = {layer.name: number for number, layer in enumerate(model.anatomy.layers) if layer.reached}
    unusable = [name for name in layers if name not in known]
    if unusable or not layers:
        raise InputError(
            f"layer '{unusable[0] if unusable else ''}' of {model.name} has no grid of cells that reaches the output; "
            f"the layers chosen without --layers are {', '.join(branch_layers(model))}"
        )
    return tuple(sorted(set(layers), key=known.__getitem__))


def layer_widths(model: Backbone, layers: Sequence[str]) -> tuple[int, ...]:
    """Return the number of channels of each of `layers`."""
    channels = {layer.name: layer.grid.channels for layer in model.anatomy.layers}
    return tuple(channels[name] for name in layers)


def _cells(layer: Layer) -> int:
    return layer.grid.height * layer.grid.width


def _resolutions(layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of cells that the trunk has, from fine to coarse."""
    return sorted({_cells(layer) for layer in layers if layer.trunk}, reverse=True)


def _is_stage(layer: Layer, layers: Sequence[Layer]) -> bool:
    """Whether a layer of the trunk is the output of a stage, not a part of the step to the next resolution.

    A step is a module that takes one resolution in and puts the next one out (a ResNet's layer2, a patch merging).
    What such a module holds at the old resolution is a preparation (a norm, an expansion), unless it has a shortcut of
    its own: then it is a block, and the module around it is a network of two stages.
    """
    if any(part.name.startswith(f"{layer.name}.") and part.reached and not part.trunk for part in layers):
        return True
    names = layer.name.split(".")
    around = {".".join(names[:depth]) for depth in range(1, len(names))}
    return not any(_steps_from(_cells(layer), outer, layers) for outer in layers if outer.name in around)


def _steps_from(cells: int, outer: Layer, layers: Sequence[Layer]) -> bool:
    """Whether `outer` takes `cells` in and puts the next coarser resolution out."""
    levels = _resolutions(layers)
    if _cells(outer) not in levels or levels.index(_cells(outer)) != levels.index(cells) + 1:
        return False
    begun = next(i for i, part in enumerate(layers) if part.name.startswith(f"{outer.name}."))
    entered = [_cells(part) for part in layers[:begun] if part.trunk]
    return bool(entered) and entered[-1] == cells
