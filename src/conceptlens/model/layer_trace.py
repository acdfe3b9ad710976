"""One forward pass with a graph: the output of every layer, and what enters linear layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.model.cell_experiment import LayerChanges
from conceptlens.model.forward import forward, in_graph
from conceptlens.model.model_input import ModelInput


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One forward pass with a graph from the images on.

    Args:
        images: The images that the graph begins with.
        known: What an experiment found of layers, by name.
        raw: What the module returned.
        differs: How far the output of each layer that is known lies from what the experiment saw.
        outputs: Name and output of every layer, in order of execution.
        entered: What enters each linear layer.
        origins: Where in `outputs` each output was made first, by its `id`.
        nodes: The node of the graph of each output, by its `id`.
    """

    images: Tensor
    known: Mapping[str, LayerChanges]
    raw: Any = None
    differs: dict[str, float] = field(default_factory=dict)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    entered: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)
    nodes: dict[int, Any] = field(default_factory=dict)

    def watch(self, name: str, tensor: Tensor) -> Tensor | None:
        """Keep a layer's output, in the graph even where the layer or its trunk turns gradients off.

        Args:
            name: The layer.
            tensor: What it put out.
        """
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


def trace_layers(
    module: nn.Module, given: ModelInput, names: list[str], known: Mapping[str, LayerChanges]
) -> LayerTrace:
    """Run a module once with a graph from the images on, and keep what every layer puts out.

    Args:
        module: The module.
        given: One image and the other inputs.
        names: Names of layers.
        known: What an experiment found of them; nothing where it is not to be compared with.
    """
    noise = given.images.detach().clone().requires_grad_()
    found = LayerTrace(noise, known)
    linear = [name for name in names if isinstance(module.get_submodule(name), nn.Linear)]
    raw = forward(
        module,
        given.with_images(noise),
        {name: partial(found.watch, name) for name in names},
        {name: lambda tensor, name=name: found.entered.update({name: tensor}) for name in linear},
    )
    return replace(found, raw=raw)
