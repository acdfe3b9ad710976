"""Maps as colours: the values at the two ends of a scale, and what lies between them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.palette import SEQUENTIAL, SIGNED
from conceptlens.render.upsampling import checked, is_tensor

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

COLOURS = 256
# The part of a scale over which a colour fades in, so that weak evidence leaves the photo visible: for maps from zero
# up most of it, since real maps are seldom zero anywhere; for signed ones less, since their middle is pale already.
FADE, FADE_SIGNED = 0.85, 0.5


@dataclass(frozen=True)
class Scale:
    """The values at the two ends of the colours.

    Args:
        low: The value of the first colour.
        high: The value of the last colour, above `low`.
        signed: Whether zero lies in the middle, `low` being `-high`: then one colour speaks for, another against.

    Raises:
        InputError: `low` is not below `high`, or a signed scale is not symmetric.
        InputTypeError: `low` or `high` is no number.
    """

    low: float
    high: float
    signed: bool

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            check_number(end, "an end of the scale", "two numbers, the smaller first")
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise InputError(f"scale from {self.low} to {self.high}; expected two numbers, the smaller first")
        if self.signed and self.low != -self.high:
            raise InputError(f"signed scale from {self.low} to {self.high}; expected the same distance from zero")


def check_number(value: object, name: str, expected: str) -> None:
    """Raise `InputTypeError` where a value is no real number.

    Args:
        value: What was given.
        name: What it is called in the message.
        expected: What was expected, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, np.number)):
        raise InputTypeError(f"{name} is {value!r}; expected {expected}")


def scale_of(maps: Iterable[Any], signed: bool) -> Scale:
    """Return the one scale that fits all maps: 0 to the highest value, or, `signed`, the same distance around zero.

    Args:
        maps: Each `height width`; numpy, torch or nested lists.
        signed: Whether values below zero are evidence against.

    Returns:
        The scale; where there is nothing to show (no positive value, or, `signed`, zeros alone) it ends at 1.

    Raises:
        InputError: There is no map, or one holds NaN or infinite values.
    """
    grids = [grid_of(m) for m in maps]
    if not grids:
        raise InputError("no map to scale; expected at least one")
    highest = max(float(np.abs(g).max() if signed else g.max()) for g in grids)
    high = highest if highest > 0 else 1.0
    return Scale(-high if signed else 0.0, high, signed)


def own_scale(maps: Iterable[Any]) -> Scale:
    """Return the scale of maps that do not say whether they are signed: they are where one goes below zero.

    Args:
        maps: Maps, each `height width`.

    Returns:
        A scale that all of them share.

    Raises:
        InputError: A map has another number of axes, or values that are not finite.
    """
    grids = [grid_of(m) for m in maps]
    return scale_of(grids, signed=any(bool((g < 0).any()) for g in grids))


@functools.cache
def colour_table(signed: bool) -> UInt8[np.ndarray, "colour 3"]:
    """Return the 256 colours from the low to the high end of a scale.

    Args:
        signed: Whether the scale has values for and against.

    Returns:
        `[256 3]`: red, green, blue, 0 to 255.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    table = LinearSegmentedColormap.from_list("against_for", SIGNED, COLOURS) if signed else colormaps[SEQUENTIAL]
    colours = table(np.linspace(0.0, 1.0, COLOURS))
    return np.rint(np.asarray(colours)[:, :3] * 255).astype(np.uint8)


@functools.cache
def alpha_table(signed: bool) -> UInt8[np.ndarray, "colour"]:
    """Return how opaque each colour is: nothing at zero, rising smoothly to all at the end of its fade.

    Args:
        signed: Whether the scale has values for and against.

    Returns:
        `[256]`: 0 is clear, 255 opaque.
    """
    position = np.linspace(0.0, 1.0, COLOURS)
    strength = np.abs(2 * position - 1) if signed else position
    rise = np.clip(strength / (FADE_SIGNED if signed else FADE), 0.0, 1.0)
    return np.rint(255 * rise**2 * (3 - 2 * rise)).astype(np.uint8)


def colour(values: Any, scale: Scale) -> UInt8[np.ndarray, "height width 4"]:
    """Return a map as red, green, blue, alpha (0 to 255); values beyond the scale take the colour of its end.

    Args:
        values: One map, `height width`; numpy, torch or nested lists.
        scale: The values at the two ends of the colours.

    Returns:
        `[height width 4]`, uint8.

    Raises:
        InputError: The map has another number of axes, or values that are not finite.
    """
    position = (grid_of(values) - scale.low) / (scale.high - scale.low)
    index = np.rint(np.clip(position, 0.0, 1.0) * (COLOURS - 1)).astype(int)
    return np.concatenate([colour_table(scale.signed), alpha_table(scale.signed)[:, None]], axis=1)[index]


def grid_of(values: Any) -> Float[np.ndarray, "height width"]:
    """Return one map as a float64 array.

    Args:
        values: `height width`: an array, a tensor on any device, or nested lists.

    Returns:
        The values, `height width`, on the CPU and without a graph.

    Raises:
        InputError: There are not two axes, there is no cell, or a value is NaN or infinite.
    """
    detached = values.detach().cpu().float() if is_tensor(values) else values
    grid = np.asarray(detached, dtype=np.float64)
    if grid.ndim != 2:
        raise InputError(f"map has shape {grid.shape}; expected height width, such as explanation.maps[0, 0]")
    return checked(grid)
