"""Drawn birds in the layout of CUB-200-2011, a network that sees their colours, and bottlenecks whose truth is known.

A bird is two squares on grey, its bill on the left and its wing on the right, in the colours of its class. Every third
photo has a small patch in the other bill's colour at its foot; every fifth hides the wing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.locator import WholeImage
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.cub import Cub
from conceptlens.features.cell_source import CellSource
from conceptlens.io.fingerprint import weights_fingerprint

WIDTH, HEIGHT, CELL = 64, 48, 8
SIZE = (HEIGHT, WIDTH)
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "yellow": (255, 255, 0)}
CLASSES = {"robin": ("red", "green"), "jay": ("blue", "green"), "finch": ("red", "yellow"), "tit": ("blue", "yellow")}
ATTRIBUTES = ("has_bill_color::red", "has_bill_color::blue", "has_wing_color::green", "has_wing_color::yellow")
POINTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
CONCEPTS = (
    BottleneckConcept("red bill", "bill", "head", "red", "color"),
    BottleneckConcept("blue bill", "bill", "head", "blue", "color"),
    BottleneckConcept("green wing", "wing", "trunk", "green", "color"),
    BottleneckConcept("yellow wing", "wing", "trunk", "yellow", "color"),
    BottleneckConcept("shiny"),
)
DROPPED = {"label": "striped tail", "filter": "presence", "value": 0.0, "threshold": 0.5, "reason": "nobody shows it"}


def write_birds(folder: Path, train: int = 6, test: int = 5, points: bool = True, attributes: bool = True) -> Path:
    """Write photos of four classes with boxes, and points and attributes where they are wanted; return the folder."""
    listed: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    boxes, parts = [], []
    for number in range(len(CLASSES) * (train + test)):
        kind, turn = divmod(number, train + test)
        name = f"{kind + 1:03}.{list(CLASSES)[kind]}/{number:03}.png"
        photo, places = bird(number, *list(CLASSES.values())[kind])
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.save(file)
        listed["images"].append(f"{number + 1} {name}")
        listed["image_class_labels"].append(f"{number + 1} {kind + 1}")
        listed["train_test_split"].append(f"{number + 1} {int(turn < train)}")
        sides = np.array([place for place in places.values() if place])
        left, top = sides.min(0) - 8
        boxes.append(f"{number + 1} {left} {top} {np.ptp(sides[:, 0]) + 16} {np.ptp(sides[:, 1]) + 16}")
        for at, point in enumerate(POINTS, 1):
            x, y = places.get(point) or (0, 0)
            parts.append(f"{number + 1} {at} {x} {y} {int(places.get(point) is not None)}")
    lines = {**listed, "bounding_boxes": boxes, "classes": [f"{k + 1} {k + 1:03}.{n}" for k, n in enumerate(CLASSES)]}
    for file, text in lines.items():
        _write(folder / f"{file}.txt", text)
    if points:
        _write(folder / "parts" / "parts.txt", [f"{at} {name}" for at, name in enumerate(POINTS, 1)])
        _write(folder / "parts" / "part_locs.txt", parts)
    if attributes:
        names = (*ATTRIBUTES, "has_size::small_(5_-_9_in)")
        _write(folder / "attributes" / "attributes.txt", [f"{at} {name}" for at, name in enumerate(names, 1)])
        own = [[90 if any(a.endswith(c) for c in kind) else 10 for a in names] for kind in CLASSES.values()]
        table = folder / "attributes" / "class_attribute_labels_continuous.txt"
        _write(table, [" ".join(map(str, row)) for row in own])
    return folder


def bird(seed: int, bill: str, wing: str) -> tuple[Image.Image, dict[str, tuple[int, int] | None]]:
    """Return a photo and where its points are; `None` is hidden."""
    random = np.random.default_rng(seed)
    pixels = random.integers(120, 136, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    rows, columns = random.permutation(4)[:2], (random.integers(0, 3), random.integers(3, 7))
    beak, side = (
        (int(x) * 8 + 8 + int(random.integers(-3, 4)), int(y) * 8 + 11) for x, y in zip(columns, rows, strict=True)
    )
    hidden = seed % 5 == 4
    if not hidden:
        _square(pixels, side, 7, COLOURS[wing])
    if seed % 3 == 2:
        _square(pixels, (int(random.integers(8, 56)), HEIGHT - 6), 5, COLOURS["blue" if bill == "red" else "red"])
    _square(pixels, beak, 6, COLOURS[bill])
    return Image.fromarray(pixels), {"beak": beak, "left wing": None if hidden else side}


class Eye(nn.Module):
    """Four channels, one for each colour: the share of a cell of 8 x 8 pixels that has it."""

    def __init__(self) -> None:
        super().__init__()
        signs = torch.tensor(list(COLOURS.values())).float().div(127.5).sub(1)
        colour = nn.Conv2d(3, 4, 1)
        colour.weight = nn.Parameter(2 * signs[:, :, None, None])
        colour.bias = nn.Parameter(-signs.sum(1) - 2)
        self.deep = nn.Sequential(colour, nn.ReLU(), nn.AvgPool2d(CELL))
        self.head = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores that nobody asks for."""
        return self.head(self.deep(images).mean((2, 3)))


def eye(fit: str = "squash") -> cl.Backbone:
    """Return the network that sees colours."""
    torch.manual_seed(0)
    view = cl.Preprocess(SIZE, mean=(0, 0, 0), std=(1, 1, 1), crop_mode=fit)  # pyright: ignore[reportArgumentType]
    return cl.Backbone(Eye().eval(), "eye", ("deep",), view, tuple("abcd"), channels_last=False, input_size=SIZE)


@torch.no_grad()
def birds_seen(model: cl.Backbone, folder: Path) -> Bottleneck:
    """Return a bottleneck whose maps are the colours of its concepts, and whose head speaks for and against them."""
    view = model.transform if isinstance(model.transform, cl.Preprocess) else None
    grid = (HEIGHT // CELL, WIDTH // CELL)
    backbone = BackboneReference(model.name, weights_fingerprint(model.module), view)
    made = Bottleneck(CONCEPTS, tuple(CLASSES), "deep", 4, WholeImage(), grid, backbone, {"dropped": [DROPPED]})
    made.weight.copy_(torch.cat([torch.eye(4), torch.tensor([[-0.5, 0.3, 0.0, -0.2]])]))
    train = Cub(folder, "train")
    source = CellSource(model, train, ("deep",), grid)
    active = torch.cat([made.concept_maps(part.cells).mean((2, 3)) for part in source.batches(range(len(train)))])
    made.mean.copy_(active.mean(0))
    made.std.copy_(active.std(0))
    for k, colours in enumerate(CLASSES.values()):
        own = [any(word in concept.label for word in colours) for concept in CONCEPTS[:4]]
        made.head.weight[k, :4] = torch.where(torch.tensor(own), 1.0, -0.8)
    made.head.weight[1, 4] = 0.4
    made.head.bias.copy_(torch.tensor([0.1, 0.0, -0.2, 0.3]))
    return made.eval().requires_grad_(False)


@torch.no_grad()
def birds_guessed(model: cl.Backbone, name: str, channels: int) -> Bottleneck:
    """Return an untrained bottleneck of a layer of any model, with the birds' concepts and classes."""
    view = cl.Preprocess((64, 64), crop_mode="squash")
    backbone = BackboneReference(model.name, weights_fingerprint(model.module), view)
    made = Bottleneck(CONCEPTS, tuple(CLASSES), name, channels, WholeImage(), (4, 4), backbone, {"dropped": [DROPPED]})
    random = torch.Generator().manual_seed(0)
    made.weight.copy_(torch.randn(made.weight.shape, generator=random) / channels**0.5)
    made.head.weight.copy_(torch.randn(made.head.weight.shape, generator=random))
    made.std.fill_(0.1)
    return made.eval().requires_grad_(False)


def _square(pixels: np.ndarray, centre: tuple[int, int], half: int, colour: tuple[int, int, int]) -> None:
    x, y = centre
    pixels[max(0, y - half) : y + half, max(0, x - half) : x + half] = colour


def _write(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
