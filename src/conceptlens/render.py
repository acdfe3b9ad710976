"""Maps to pictures: the only place where a map is scaled, enlarged or coloured."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from conceptlens.io.errors import InputError
from conceptlens.palette import SEQUENTIAL, SIGNED

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

COLOURS = 256
# The part of a scale over which a colour fades in, so that weak evidence leaves the photo visible: for maps from zero
# up most of it, since real maps are seldom zero anywhere; for signed ones less, since their middle is pale already.
FADE, FADE_SIGNED = 0.85, 0.5
# How much of the black that covers what the model did not see, times the opacity of the overlay.
DIM = 0.55
WHOLE = (0.0, 0.0, 1.0, 1.0)
INK, QUIET, PAPER = (28, 32, 38), (96, 104, 114), (255, 255, 255)

Box = Sequence[float]


@dataclass(frozen=True)
class Scale:
    """The values at the two ends of the colours.

    Args:
        low: The value of the first colour.
        high: The value of the last colour, above `low`.
        signed: Whether zero lies in the middle, `low` being `-high`: then one colour speaks for, another against.

    Raises:
        InputError: `low` is not below `high`, or a signed scale is not symmetric.
    """

    low: float
    high: float
    signed: bool

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise InputError(f"scale from {self.low} to {self.high}; expected two numbers, the smaller first")
        if self.signed and self.low != -self.high:
            raise InputError(f"signed scale from {self.low} to {self.high}; expected the same distance from zero")


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
    grids = [_grid(m) for m in maps]
    if not grids:
        raise InputError("no map to scale; expected at least one")
    highest = max(float(np.abs(g).max() if signed else g.max()) for g in grids)
    high = highest if highest > 0 else 1.0
    return Scale(-high if signed else 0.0, high, signed)


@functools.cache
def colour_table(signed: bool) -> UInt8[np.ndarray, "colour 3"]:
    """Return the 256 colours from the low to the high end of a scale."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    table = LinearSegmentedColormap.from_list("against_for", SIGNED, COLOURS) if signed else colormaps[SEQUENTIAL]
    colours = table(np.linspace(0.0, 1.0, COLOURS))
    return np.rint(np.asarray(colours)[:, :3] * 255).astype(np.uint8)


@functools.cache
def alpha_table(signed: bool) -> UInt8[np.ndarray, "colour"]:
    """Return how opaque each colour is: nothing at zero, rising smoothly to all at the end of its fade."""
    place = np.linspace(0.0, 1.0, COLOURS)
    strength = np.abs(2 * place - 1) if signed else place
    rise = np.clip(strength / (FADE_SIGNED if signed else FADE), 0.0, 1.0)
    return np.rint(255 * rise**2 * (3 - 2 * rise)).astype(np.uint8)


def colour(values: Any, scale: Scale) -> UInt8[np.ndarray, "height width 4"]:
    """Return a map as red, green, blue, alpha (0 to 255); values beyond the scale take the colour of its end."""
    place = (_grid(values) - scale.low) / (scale.high - scale.low)
    index = np.rint(np.clip(place, 0.0, 1.0) * (COLOURS - 1)).astype(int)
    return np.concatenate([colour_table(scale.signed), alpha_table(scale.signed)[:, None]], axis=1)[index]


def upsample(values: Any, height: int, width: int) -> Any:
    """Enlarge one map or a batch of maps bilinearly; cell centres keep their place.

    Pixel centres lie at half pixels, as with torch's `align_corners=False`.

    Args:
        values: `... height width`, numpy or torch (or nested lists), with any number of axes before the two.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        `... height width` of the same type and precision, on the same device; integers, booleans and lists become
        float64 arrays (integer tensors float32 tensors).

    Raises:
        InputError: There are fewer than two axes, a size is below 1, or values are NaN or infinite.

    Examples:
        >>> cl.render.upsample(found.maps, 224, 224).shape
        torch.Size([1, 1, 224, 224])
    """
    if height < 1 or width < 1:
        raise InputError(f"size {height} x {width}; expected at least one pixel each way")
    if _is_tensor(values):
        return _upsample_tensor(values, height, width)
    array = np.asarray(values)
    grid = _checked(array.astype(np.float64))
    upper, lower, down = _between(grid.shape[-2], height)
    left, right, across = _between(grid.shape[-1], width)
    rows = grid[..., upper, :] * (1 - down)[:, None] + grid[..., lower, :] * down[:, None]
    large = rows[..., left] * (1 - across) + rows[..., right] * across
    return large.astype(array.dtype) if array.dtype.kind == "f" else large


def _upsample_tensor(values: Any, height: int, width: int) -> Any:
    import torch

    _checked(values)
    narrow = values.dtype not in (torch.float32, torch.float64)
    grid = (values.float() if narrow else values).reshape(1, -1, *values.shape[-2:])
    large = torch.nn.functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    whole = large.reshape(*values.shape[:-2], height, width)
    return whole.to(values.dtype) if values.dtype.is_floating_point else whole


def upsample_in_box(values: Any, height: int, width: int, box: Box = WHOLE, fill: float = 0.0) -> Any:
    """Enlarge maps `... height width` to whole photos of `height` x `width`: they cover `box`, the rest is `fill`.

    A box that reaches beyond the photo (padding) is cut at its border. Type and precision stay, as in `upsample`.
    """
    left, top, right, bottom = _pixels(box, width, height)
    large = upsample(values, bottom - top, right - left)
    if (left, top, right, bottom) == (0, 0, width, height):
        return large
    shape = (*large.shape[:-2], height, width)
    whole = large.new_full(shape, fill) if _is_tensor(large) else np.full(shape, fill, large.dtype)
    inside = (slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width)))
    cut = (slice(inside[0].start - top, inside[0].stop - top), slice(inside[1].start - left, inside[1].stop - left))
    whole[(..., *inside)] = large[(..., *cut)]
    return whole


def overlay(
    image: Image.Image, values: Any, scale: Scale | None = None, opacity: float = 0.6, box: Box = WHOLE
) -> Image.Image:
    """Return the photo with one map laid over the part that the model saw; what lies outside is dimmed.

    Args:
        image: The photo, upright, of any size.
        values: The map, `height width`; numpy, torch or nested lists.
        scale: The values at the two ends of the colours; by default the map's own.
        opacity: 0 (bare photo) to 1.
        box: The part that the map covers: left, top, right, bottom as shares of the photo's width and height.

    Returns:
        An RGB image of the photo's size.

    Raises:
        InputError: The map has another number of axes or values that are not finite, or a number is out of range.

    Examples:
        >>> cl.overlay(Image.open("cat.png"), found.maps[0, 0], box=found.source.image_info[0].box)
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is {opacity}; expected 0 (bare photo) to 1")
    left, top, right, bottom = _pixels(box, image.width, image.height)
    grid = _grid(values)
    large = upsample_in_box(grid, image.height, image.width, box)
    seen = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    dim = np.zeros((image.height, image.width, 4), np.uint8)
    dim[..., 3] = round(255 * DIM * opacity)
    dim[seen] = colour(large[seen], scale or _own_scale([grid]))
    dim[(*seen, 3)] = np.rint(dim[(*seen, 3)] * opacity)
    photo = image.convert("RGBA")
    photo.alpha_composite(Image.fromarray(dim))
    return photo.convert("RGB")


def colour_bar(scale: Scale, width: int, height: int) -> Image.Image:
    """Return the colours of a scale from low to high, as see-through as on a photo, with its numbers below."""
    size = max(8, round(height * 0.42))
    font = _font(size)
    thick = max(1, height - round(size * 1.5))
    bar = Image.new("RGBA", (width, height), (*PAPER, 255))
    ramp = np.broadcast_to(np.linspace(scale.low, scale.high, width), (thick, width))
    bar.alpha_composite(Image.fromarray(colour(ramp, scale)))
    draw = ImageDraw.Draw(bar)
    draw.rectangle((0, 0, width - 1, thick - 1), outline=(200, 204, 210))
    baseline = height - 1
    draw.text((0, baseline), number(scale.low), QUIET, font, anchor="ld")
    if scale.signed:
        draw.text((width / 2, baseline), "0", QUIET, font, anchor="md")
    draw.text((width - 1, baseline), number(scale.high), QUIET, font, anchor="rd")
    return bar.convert("RGB")


def panel(
    image: Image.Image | Sequence[Image.Image],
    maps: Sequence[Any],
    titles: Sequence[str],
    scale: Literal["shared", "own"] | Scale = "shared",
    columns: int | None = None,
    box: Box = WHOLE,
    opacity: float = 0.6,
    width: int = 400,
) -> Image.Image:
    """Return a sheet of overlays with titles and a stated scale.

    Args:
        image: One photo for all maps, or one for each.
        maps: Each `height width`; `None` shows the bare photo.
        titles: One for each map; too long ones are cut.
        scale: One for all maps that is found ("shared") or given, or each its "own".
        columns: How many overlays stand in a row; by default at most 4.
        box: The part of the photos that the maps cover, as in `overlay`.
        opacity: 0 (bare photo) to 1.
        width: The width of one overlay, in pixels.

    Returns:
        An RGB image.

    Raises:
        InputError: Numbers of maps, titles and photos differ, or an option is out of range.

    Examples:
        >>> cl.render.panel(photo, [None, plain.maps[0, 0], finer.maps[0, 0]], ["photo", "class", "contrast"])
    """
    if not maps or len(maps) != len(titles):
        raise InputError(f"{len(maps)} maps and {len(titles)} titles; expected one title for each of at least one map")
    if scale not in ("shared", "own") and not isinstance(scale, Scale):
        raise InputError(f"scale is {scale!r}; expected 'shared', 'own' or a Scale")
    photos = [image] * len(maps) if isinstance(image, Image.Image) else list(image)
    if len(photos) != len(maps):
        raise InputError(f"{len(photos)} photos and {len(maps)} maps; expected one photo, or one for each map")
    small = [p.convert("RGB").resize((width, max(1, round(width * p.height / p.width)))) for p in photos]
    common = None if scale == "own" else _common_scale(maps, scale)
    tiles = [
        _tile(photo, values, title, common, scale == "own", box, opacity)
        for photo, values, title in zip(small, maps, titles, strict=True)
    ]
    return _sheet(tiles, columns or min(len(tiles), 4), common)


def number(value: float) -> str:
    """Return three significant digits, with a true minus sign."""
    plain = value == 0 or 1e-3 <= abs(value) < 1e5
    text = f"{float(f'{value:.3g}'):g}" if plain else f"{value:.1e}"
    return text.replace("-", "−")


def _is_tensor(values: Any) -> bool:
    return hasattr(values, "detach")


def _grid(values: Any) -> Float[np.ndarray, "height width"]:
    """Return one map (array, list or tensor) as float64, refusing all that has no two axes or is not finite."""
    detached = values.detach().cpu().float() if _is_tensor(values) else values
    grid = np.asarray(detached, dtype=np.float64)
    if grid.ndim != 2:
        raise InputError(f"map has shape {grid.shape}; expected height width, such as explanation.maps[0, 0]")
    return _checked(grid)


def _checked(maps: Any) -> Any:
    """Return maps `... height width` as they are, refusing those without cells or with values that are not finite."""
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise InputError(f"map has shape {tuple(maps.shape)}; expected ... height width, at least one cell each way")
    finite = maps.isfinite() if _is_tensor(maps) else np.isfinite(maps)
    if not bool(finite.all()):
        raise InputError(f"map holds {int((~finite).sum())} values that are NaN or infinite; expected numbers")
    return maps


def _between(cells: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each pixel the cells before and after it and how far it is from the one to the other."""
    place = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    before = np.floor(place).astype(int)
    return before, np.minimum(before + 1, cells - 1), place - before


def _pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box in pixels, at least one each way; beyond the photo where the box is."""
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3] and max(box[0], box[1]) < 1 and min(box[2:]) > 0):
        raise InputError(f"box is {tuple(box)}; expected left, top, right, bottom of the photo, as shares of its size")
    left = min(math.floor(box[0] * width + 0.5), width - 1)
    top = min(math.floor(box[1] * height + 0.5), height - 1)
    right, bottom = math.floor(box[2] * width + 0.5), math.floor(box[3] * height + 0.5)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _own_scale(maps: Iterable[Any]) -> Scale:
    """Return the scale of maps that do not say whether they are signed: they are where one goes below zero."""
    grids = [_grid(m) for m in maps]
    return scale_of(grids, signed=any(bool((g < 0).any()) for g in grids))


def _common_scale(maps: Sequence[Any], scale: Scale | str) -> Scale | None:
    if isinstance(scale, Scale):
        return scale
    shown = [m for m in maps if m is not None]
    return _own_scale(shown) if shown else None


def _tile(
    photo: Image.Image, values: Any, title: str, common: Scale | None, own: bool, box: Box, opacity: float
) -> Image.Image:
    """Return a title above an overlay, and below it the overlay's own scale where each has its own."""
    size = max(10, round(photo.width / 17))
    head, foot = round(size * 1.9), round(size * 2.2) if own else 0
    tile = Image.new("RGB", (photo.width, head + photo.height + foot), PAPER)
    font = _font(size)
    ImageDraw.Draw(tile).text((0, head - size * 0.5), _fit(title, font, photo.width), INK, font, anchor="ls")
    if values is None:
        tile.paste(photo, (0, head))
        return tile
    scale = common or _own_scale([values])
    tile.paste(overlay(photo, values, scale, opacity, box), (0, head))
    if own:
        tile.paste(colour_bar(scale, photo.width, round(size * 1.6)), (0, head + photo.height + round(size * 0.4)))
    return tile


def _sheet(tiles: Sequence[Image.Image], columns: int, common: Scale | None) -> Image.Image:
    """Return the tiles in rows on white, and below them the scale that they share."""
    if columns < 1:
        raise InputError(f"columns is {columns}; expected at least one")
    wide, tall = tiles[0].size
    gap = max(8, wide // 20)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = gap + columns * (wide + gap), gap + rows * (tall + gap)
    foot = 0 if common is None else max(24, wide // 9)
    sheet = Image.new("RGB", (width, height + (foot + gap if foot else 0)), PAPER)
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (gap + i % columns * (wide + gap), gap + i // columns * (tall + gap)))
    if common is not None:
        size = max(10, wide // 20)
        font = _font(size)
        words = "one scale for all" if len(tiles) > 1 else "scale"
        bar = colour_bar(common, min(width - 2 * gap, round(wide * 1.2)), foot)
        sheet.paste(bar, (gap, height))
        room = width - 3 * gap - bar.width
        if font.getlength(words) <= room:
            ImageDraw.Draw(sheet).text((2 * gap + bar.width, height + foot * 0.2), words, QUIET, font, anchor="lm")
    return sheet


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text on one line, its end cut where it is too long."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
