"""Creatures drawn of four parts by class, with two parts that no class is made of: a labelled set whose truth is drawn.

As in FunnyBirds (Hesse et al., ICCV 2023), a class is a combination of parts, and a part is removed by drawing the
scene again without it. Parts lie at places of their own in every scene, in six cells, so a place tells no class.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from conceptlens.data.drawn_scene import KINDS, SCENE_COLOURS, Scene, Shape, draw_scene
from conceptlens.data.labelled_set import ListedPhotos

CLASSES, OWN_PARTS, OTHER_PARTS = 10, 4, 2
SIZE, ACROSS, DOWN = 224, 3, 2
# Radii as shares of the side: parts differ in size, so that a flat map is a control of its own.
RADII = (0.07, 0.16)
FIRST = {"train": 0, "test": 1_000_000}

Part = tuple[str, str]  # its kind and its colour


def parts_of_classes() -> list[list[Part]]:
    """Return the parts of every class: no kind and no colour twice in a class."""
    draw = np.random.default_rng(0)

    def chosen(names: dict[str, object]) -> list[str]:
        return draw.choice(list(names), OWN_PARTS, replace=False).tolist()

    return [list(zip(chosen(dict(KINDS)), chosen(dict(SCENE_COLOURS)), strict=True)) for _ in range(CLASSES)]


class Creatures(ListedPhotos):
    """Drawn creatures in memory.

    Args:
        split: "train" or "test"; they share no scene.
        each: How many of each class.
    """

    def __init__(self, split: str, each: int) -> None:
        self.name, self.split, self.splits = f"drawn creatures {split}", split, tuple(FIRST)
        self.parts = parts_of_classes()
        self.classes = tuple(f"creature {number}" for number in range(CLASSES))
        self.labels = np.repeat(np.arange(CLASSES), each)

    def shapes(self, index: int) -> list[Shape]:
        """Return the shapes of a scene: the parts of its class, then those of none."""
        draw = np.random.default_rng(FIRST[self.split] + index)
        own = self.parts[self.labels[index]]
        others = [(kind, colour) for kind in KINDS for colour in SCENE_COLOURS if (kind, colour) not in own]
        drawn = [*own, *(others[i] for i in draw.choice(len(others), OTHER_PARTS, replace=False))]
        cells = draw.permutation(ACROSS * DOWN)
        shapes = []
        for (kind, colour), cell in zip(drawn, cells, strict=True):
            radius = float(draw.uniform(*RADII))
            sides = ((cell % ACROSS, 1 / ACROSS), (cell // ACROSS, 1 / DOWN))
            x, y = (at * side + float(draw.uniform(radius, side - radius)) for at, side in sides)
            shapes.append(Shape(kind, colour, (x, y), radius))
        return shapes

    def scene(self, index: int, without: int | None = None) -> Scene:
        """Return a scene, or the same one drawn without one of its parts."""
        shapes = [shape for number, shape in enumerate(self.shapes(index)) if number != without]
        return draw_scene(shapes, SIZE, FIRST[self.split] + index)

    def _name_of(self, index: int) -> str:
        return f"creature {self.split} {index}"

    def _read(self, index: int) -> Image.Image:
        return self.scene(index).image
