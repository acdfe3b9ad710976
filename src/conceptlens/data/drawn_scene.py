"""Scenes drawn here, whose truth is known to the pixel: coloured shapes with exact masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError, near

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


@dataclass(frozen=True)
class Shape:
    """One coloured shape; lengths are fractions of the image's side, `x` to the right and `y` down.

    `kind` is a key of `KINDS`, `colour` of `SCENE_COLOURS`; the shape lies within the circle of `radius` at
    `centre`. Raises `InputError` for an unknown name or a number outside 0..1.
    """

    kind: str
    colour: str
    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"no kind of shape {self.kind!r}; kinds: {near(self.kind, KINDS, len(KINDS))}")
        if self.colour not in SCENE_COLOURS:
            known = near(self.colour, SCENE_COLOURS, len(SCENE_COLOURS))
            raise InputError(f"no colour {self.colour!r}; colours: {known}")
        if not 0 < self.radius <= 1 or not all(0 <= c <= 1 for c in self.centre):
            raise InputError(
                f"a shape with centre {self.centre} and radius {self.radius} was given; "
                "all are fractions of the image's side, so give numbers from 0 to 1"
            )


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


def draw_scene(
    shapes: Iterable[Shape],
    size: int = 224,
    seed: int = 0,
    background: Literal["noise", "flat"] = "noise",
) -> Scene:
    """Draw `shapes` on a square of `size` pixels, later ones over earlier ones, with no blended edges.

    A pixel belongs to a shape where its centre does. The background is mid-grey, `flat` or with `noise` from
    `seed`; it never comes near a colour of the table. Raises `InputError` for a size below 8 or an unknown
    background.
    """
    shapes = tuple(shapes)
    if size < 8:
        raise InputError(f"a scene of {size} pixels was asked for; give a size of at least 8")
    pixels = _background(size, seed, background)
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


def random_scene(
    seed: int,
    size: int = 224,
    background: Literal["noise", "flat"] = "noise",
    kinds: Sequence[str] = tuple(KINDS),
    most: int = 3,
) -> Scene:
    """Draw 1 to `most` shapes that do not overlap, each of another colour and kind, the same for the same `seed`.

    One shape may lie anywhere, several lie in different quarters, so `most` is 1 to 4 and at most the number
    of `kinds`; radii are 0.16 to 0.24 of the side. Raises `InputError` otherwise.
    """
    if not 1 <= most <= min(4, len(set(kinds))):
        raise InputError(
            f"at most {most} shapes of {len(set(kinds))} kinds were asked for; give 1 to 4, a kind for each"
        )
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, most + 1))
    named = zip(
        draw.choice(list(dict.fromkeys(kinds)), count, replace=False).tolist(),
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
    return draw_scene(shapes, size, seed, background)


def _background(size: int, seed: int, background: str) -> np.ndarray:
    """Paint the background: uint8 `height width 3`, grey within 40 of 128 and hardly coloured."""
    if background == "flat":
        return np.full((size, size, 3), 128, np.uint8)
    if background != "noise":
        raise InputError(f"no background {background!r}; backgrounds: noise, flat")
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
