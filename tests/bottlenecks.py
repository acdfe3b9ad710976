"""Untrained bottlenecks for any model, with every kind of locator: seeded weights that leave nothing zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.locator import Locator, Parts, Peaks, Pooling, WholeImage
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concept_regions.branch import layer_widths
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.io.fingerprint import weights_fingerprint

CONCEPTS = (
    BottleneckConcept("red wing", "wing", "trunk", "red", "colour"),
    BottleneckConcept("spotted wing", "wing", "trunk", "spotted", "pattern"),
    BottleneckConcept("long tail", "tail", "trunk", "long", "shape"),
    BottleneckConcept("water"),
    BottleneckConcept("black wing", "wing", "trunk", "black", "colour"),
)
CLASSES = ("tern", "wren", "crow")
LOCATOR_KINDS = ("whole", "softmax", "one peak", "two peaks", "parts")


def locator(kind: str, widths: Mapping[str, int] | None = None) -> Locator:
    """Return the locator called `kind`; parts read the layers of `widths`."""
    if kind == "parts":
        names = dict(widths or {"deep": 6})
        return Parts(["wing", "tail"], [0, 0, 1, -1, 0], list(names), list(names.values()), share=0.1)
    made = {"whole": WholeImage(), "softmax": Pooling(0.7), "one peak": Peaks(0.8), "two peaks": Peaks(1.3, 2)}
    return made[kind]


@torch.no_grad()
def filled(bottleneck: Bottleneck, seed: int = 0) -> Bottleneck:
    """Give every weight and statistic seeded noise, in place."""
    generator = torch.Generator().manual_seed(seed)
    for value in bottleneck.parameters():
        value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    bottleneck.mean.copy_(torch.randn(bottleneck.mean.shape, generator=generator) / 4)
    bottleneck.std.copy_(0.5 + torch.rand(bottleneck.mean.shape, generator=generator))
    return bottleneck


def made(
    kind: str = "whole",
    grid: tuple[int, int] = (5, 4),
    channels: int = 6,
    backbone: BackboneReference | None = None,
    seed: int = 0,
) -> Bottleneck:
    """Return a bottleneck that reads the layer `deep`, and with parts `early` too, of nobody's network."""
    backbone = backbone or BackboneReference("nobody", "0" * 16)
    found = locator(kind, {"early": 3, "deep": channels})
    return filled(Bottleneck(CONCEPTS, CLASSES, "deep", channels, found, grid, backbone), seed).eval()


def cells(images: int = 3, channels: int = 6, seed: int = 1) -> dict[str, Tensor]:
    """Return cells of `deep` and, on a finer grid, of `early`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "early": torch.randn(images, 3, 10, 8, generator=generator),
        "deep": torch.randn(images, channels, 5, 4, generator=generator),
    }


def bottleneck_of(model: cl.Backbone, kind: str = "whole", seed: int = 0) -> Bottleneck:
    """Return a bottleneck of a model's default layer, on its own grid; parts also read an earlier layer, if any."""
    name = model.default_layers[-1]
    layers = model.anatomy.layers
    own = next(part for part in layers if part.name == name)
    names = tuple(dict.fromkeys([layers[0].name, name]))
    widths = dict(zip(names, layer_widths(model, names), strict=True))
    backbone = BackboneReference(model.name, weights_fingerprint(model.module))
    grid = (own.grid.height, own.grid.width)
    return filled(Bottleneck(CONCEPTS, CLASSES, name, widths[name], locator(kind, widths), grid, backbone), seed).eval()
