"""Maps laid over photos, alone and on sheets with titles and a stated scale."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.render.scale import Scale, check_number, colour, grid_of, own_scale
from conceptlens.render.upsampling import WHOLE, Box, is_tensor, pixels_of, upsample_in_box

# How much of the black that covers what the model did not see, times the opacity of the overlay.
DIM = 0.55
INK, QUIET, PAPER = (28, 32, 38), (96, 104, 114), (255, 255, 255)


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
        InputTypeError: `image` is no PIL image, `scale` no `Scale`, or `opacity` or `box` no numbers.

    Examples:
        >>> cl.overlay(Image.open("cat.png"), found.maps[0, 0], box=found.source.image_info[0].box)
    """
    if not isinstance(image, Image.Image):
        raise InputTypeError(
            f"the photo is given as {type(image).__name__}; expected a PIL image, such as Image.open(file)"
        )
    check_number(opacity, "opacity", "0 (bare photo) to 1")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is {opacity}; expected 0 (bare photo) to 1")
    if scale is not None and not isinstance(scale, Scale):
        raise InputTypeError(f"scale is {scale!r}; expected a Scale, such as cl.render.Scale(0.0, 1.0, signed=False)")
    left, top, right, bottom = pixels_of(box, image.width, image.height)
    grid = grid_of(values)
    large = upsample_in_box(grid, image.height, image.width, box)
    inside = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    dim = np.zeros((image.height, image.width, 4), np.uint8)
    dim[..., 3] = round(255 * DIM * opacity)
    dim[inside] = colour(large[inside], scale or own_scale([grid]))
    dim[(*inside, 3)] = np.rint(dim[(*inside, 3)] * opacity)
    photo = image.convert("RGBA")
    photo.alpha_composite(Image.fromarray(dim))
    return photo.convert("RGB")


def colour_bar(scale: Scale, width: int, height: int) -> Image.Image:
    """Return the colours of a scale from low to high, as see-through as on a photo, with its numbers below.

    Args:
        scale: The values at the two ends.
        width: Pixels of the result.
        height: Pixels of the result, numbers included.

    Returns:
        An RGB image of that size.
    """
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
        InputTypeError: An argument has another type than those above.

    Examples:
        >>> cl.render.panel(photo, [None, plain.maps[0, 0], finer.maps[0, 0]], ["photo", "class", "contrast"])
    """
    for name, given in (("maps", maps), ("titles", titles)):
        if isinstance(given, str) or not (isinstance(given, (Sequence, np.ndarray)) or is_tensor(given)):
            raise InputTypeError(f"{name} are given as {type(given).__name__}; expected a list, one for each overlay")
    for name, given in (("width", width), ("columns", columns)):
        if isinstance(given, bool) or not isinstance(given, (int, np.integer, type(None))):
            raise InputTypeError(f"{name} is {given!r}; expected an integer")
    if width is None or width < 1:
        raise InputError(f"width is {width}; expected at least one pixel")
    if not len(maps) or len(maps) != len(titles):
        raise InputError(f"{len(maps)} maps and {len(titles)} titles; expected one title for each of at least one map")
    if not isinstance(scale, Scale) and not (isinstance(scale, str) and scale in ("shared", "own")):
        raise InputError(f"scale is {scale!r}; expected 'shared', 'own' or a Scale")
    if not isinstance(image, (Image.Image, Sequence)):
        raise InputTypeError(f"the photo is given as {type(image).__name__}; expected a PIL image, or a list of them")
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
    """Return three significant digits, with a true minus sign.

    Args:
        value: A finite number.

    Returns:
        The digits, with an exponent below 0.001 and from 100000 on.
    """
    plain = value == 0 or 1e-3 <= abs(value) < 1e5
    text = f"{float(f'{value:.3g}'):g}" if plain else f"{value:.1e}"
    return text.replace("-", "−")


def _common_scale(maps: Sequence[Any], scale: Scale | str) -> Scale | None:
    if isinstance(scale, Scale):
        return scale
    shown = [m for m in maps if m is not None]
    return own_scale(shown) if shown else None


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
    scale = common or own_scale([values])
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
