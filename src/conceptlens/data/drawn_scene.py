"""Scenes drawn here, whose truth is known to the pixel: coloured shapes with exact masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError

# Six corners of the colour cube, a little inside: one linear filter and a threshold tell each from the rest.
SCENE_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 25, 25),
    "green": (25, 230, 25),
    "blue": (25, 25, 230),
    "yellow": (230, 230, 25),
    "magenta": (230, 25, 230),
    "cyan": (25, 230, 230),
}

Grid = np.ndarray
_HALF = 0.5**0.5  # half the side of the square in the unit circle


def _square(x: Grid, y: Grid) -> Grid:
    return np.maximum(abs(x), abs(y)) <= _HALF


def _triangle(x: Grid, y: Grid) -> Grid:
    return (y <= 0.5) & (abs(x) <= (y + 1) / 3**0.5)


def _ring(x: Grid, y: Grid) -> Grid:
    return (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.55)


def _cross(x: Grid, y: Grid) -> Grid:
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95)


def _stripes(x: Grid, y: Grid) -> Grid:
    band = np.floor((x + _HALF) / (2 * _HALF) * 5)  # five bands of equal width, the first, third and fifth filled
    return _square(x, y) & (band % 2 == 0)


# Kind of shape to "is this point in it", for points in units of the radius; each lies within the unit circle.
KINDS: dict[str, Callable[[Grid, Grid], Grid]] = {
    "disc": lambda x, y: np.hypot(x, y) <= 1,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "stripes": _stripes,
}


_COLOUR_CONCEPTS = {colour: ConceptName(colour, "colour") for colour in SCENE_COLOURS}
_KIND_CONCEPTS = {kind: ConceptName(kind) for kind in KINDS}
# Scenes of different splits never share a seed.
FIRST_SEED: dict[str, int] = {"train": 0, "val": 1_000_000}
MAX_SCENES = 1_000_000
MAX_SHAPES = 3


@dataclass(frozen=True)
class Shape:
    """One coloured shape; lengths are fractions of the image's side, `x` to the right and `y` down.

    `kind` is a key of `KINDS`, `colour` of `SCENE_COLOURS`; the shape lies within the circle of `radius` at `centre`.
    """

    kind: str
    colour: str
    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.25


@dataclass(frozen=True)
class Scene:
    """A drawn image with its truth: which pixels show which shape.

    `image` is RGB; `parts[i]` is a bool array `height width`, True exactly where `shapes[i]` is visible;
    `masks` joins the parts by colour and `kinds` by kind. A shape that others cover entirely keeps an empty mask.
    """

    image: Image.Image
    masks: dict[str, np.ndarray] = field(repr=False)
    kinds: dict[str, np.ndarray] = field(repr=False)
    parts: tuple[np.ndarray, ...] = field(repr=False)
    shapes: tuple[Shape, ...]


def draw_scene(shapes: Iterable[Shape], size: int = 224, seed: int = 0) -> Scene:
    """Draw shapes on a square, later ones over earlier ones, with no blended edges.

    A pixel belongs to a shape where its centre does. The background is grey with noise, and never comes near a colour
    of `SCENE_COLOURS`.

    Args:
        shapes: The shapes; none gives the bare background.
        size: Pixels of a side.
        seed: Of the noise.

    Returns:
        The image, with exact masks of its colours, kinds and shapes, `[row column]`.
    """
    shapes = tuple(shapes)
    pixels = _background(size, seed)
    centres = (np.arange(size) + 0.5) / size
    owner = np.full((size, size), -1)
    for index, shape in enumerate(shapes):
        x = (centres[None, :] - shape.centre[0]) / shape.radius
        y = (centres[:, None] - shape.centre[1]) / shape.radius
        inside = KINDS[shape.kind](x, y)
        owner[inside] = index
        pixels[inside] = SCENE_COLOURS[shape.colour]
    parts = tuple(owner == index for index in range(len(shapes)))
    return Scene(
        image=Image.fromarray(pixels),
        masks=_joined([shape.colour for shape in shapes], parts),
        kinds=_joined([shape.kind for shape in shapes], parts),
        parts=parts,
        shapes=shapes,
    )


def random_scene(seed: int, size: int = 224, kinds: Sequence[str] = tuple(KINDS)) -> Scene:
    """Draw 1 to 3 shapes that do not overlap, each of another colour and kind, the same for the same seed.

    One shape may lie anywhere, several lie in different quarters; radii are 0.16 to 0.24 of the side.

    Args:
        seed: Decides everything, the noise of the background too.
        size: Pixels of a side.
        kinds: The kinds of shape to choose from, at least three.

    Returns:
        The image, with exact masks of its colours, kinds and shapes, `[row column]`.
    """
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, MAX_SHAPES + 1))
    named = zip(
        draw.choice(list(kinds), count, replace=False).tolist(),
        draw.choice(list(SCENE_COLOURS), count, replace=False).tolist(),
        draw.choice(4, count, replace=False).tolist(),
        strict=True,
    )
    shapes = []
    for kind, colour, quarter in named:
        radius = float(draw.uniform(0.16, 0.24))
        side = 1.0 if count == 1 else 0.5
        corner = (0.0, 0.0) if count == 1 else (0.5 * (quarter % 2), 0.5 * (quarter // 2))
        x, y = (c + float(draw.uniform(radius, side - radius)) for c in corner)
        shapes.append(Shape(kind, colour, (x, y), radius))
    return draw_scene(shapes, size, seed)


class DrawnSet(ListedMaskedSet[int]):
    """Random scenes as a data set with exact masks, without a download, always the same for one split.

    Each shape is two concepts, its colour (group `colour`) and its kind (group `kind`); nothing is left out.

    Args:
        count: How many scenes, from 1 to a million.
        split: `train` or `val`; they share no scene.
        size: Pixels of a side.

    Raises:
        InputError: The count is out of range, or there is no such split.
    """

    def __init__(self, count: int = 100, split: str = "val", size: int = 224) -> None:
        if split not in FIRST_SEED:
            raise InputError(f"drawn scenes have no split {split!r}; splits: {', '.join(FIRST_SEED)}")
        if not 1 <= count <= MAX_SCENES:
            raise InputError(f"count is {count}; give 1 to {MAX_SCENES}, such as drawn:200")
        self.name = f"drawn {split}"
        self.concepts = (*_COLOUR_CONCEPTS.values(), *_KIND_CONCEPTS.values())
        self._entries = range(FIRST_SEED[split], FIRST_SEED[split] + count)
        self._size = size

    def _name_of(self, entry: int) -> str:
        return f"scene {entry}"

    def _read(self, entry: int) -> MaskedPhoto:
        scene = random_scene(entry, self._size)
        return MaskedPhoto(
            name=self._name_of(entry),
            photo=scene.image,
            concepts=(*(_COLOUR_CONCEPTS[c] for c in scene.masks), *(_KIND_CONCEPTS[k] for k in scene.kinds)),
            groups=("colour",) * len(scene.masks) + ("kind",) * len(scene.kinds),
            masks=np.stack([*scene.masks.values(), *scene.kinds.values()]),
        )


def _background(size: int, seed: int) -> np.ndarray:
    """Paint the background: uint8 `height width 3`, grey within 40 of 128 and hardly coloured."""
    draw = np.random.default_rng(seed)
    grey = draw.integers(-32, 33, (size, size, 1))
    tint = draw.integers(-8, 9, (size, size, 3))
    return (128 + grey + tint).astype(np.uint8)


def _joined(names: Sequence[str], parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Join the parts that share a name, in order of first appearance."""
    masks: dict[str, np.ndarray] = {}
    for name, part in zip(names, parts, strict=True):
        masks[name] = masks[name] | part if name in masks else part.copy()
    return masks
