"""Tiles: small images of rows of a store, with the photo around the outlined mask, or the mask alone."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.data.masked_set import crop_masks
from conceptlens.local_embeddings.report.figure_style import FigureStyle, drawing, jpeg
from conceptlens.pages.mask_outline import EDGE, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisRows
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store

SIDE = 168
AROUND, MIN_SHARE = 1.45, 0.42  # of the mask's longer side; of the photo's shorter side
TITLE, GAP = 1.45, 0.08  # inches of a contact_sheet
DARKER = 0.3  # outside the mask; less than on a large photo
GROUND, SHAPE = (74, 82, 92), (226, 230, 235)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Small images of rows, by row index; `photos` of them show their photo, the others their mask alone."""

    images: Mapping[int, Image.Image] = field(repr=False)
    photos: int


@dataclass(frozen=True)
class TileRow:
    """A row of a contact sheet: a title, and tiles with captions; `right` says which are right, None for neither."""

    title: str
    rows: tuple[int, ...]
    captions: tuple[str, ...]
    right: tuple[bool | None, ...] = ()


def draw_tiles(
    rows: AnalysisRows, store: Store, chosen: Sequence[int], photos: Iterable[tuple[ImageRow, Image.Image]]
) -> Tiles:
    """Return a tile of each of these rows of an analysis."""
    return row_tiles({row: (rows.images[row], rows.masks[row]) for row in chosen}, rows.image_rows, store, photos)


def row_tiles(
    chosen: Mapping[int, tuple[str, str]],
    known: Mapping[str, ImageRow],
    store: Store,
    photos: Iterable[tuple[ImageRow, Image.Image]],
) -> Tiles:
    """Return a tile of every row, given its image and mask ids; photos are read one by one.

    Args:
        chosen: Image and mask id of each row, by the row's index.
        known: The store's rows of images, by id.
        store: Where masks are read from.
        photos: Photos with their rows, such as `find_photos` yields.
    """
    masks = {mask.id: mask.mask() for mask in store.masks([mask for _, mask in chosen.values() if mask])}
    images: dict[int, Image.Image] = {}
    for image_row, photo in photos:
        for row, (of, mask) in chosen.items():
            if of == image_row.id:
                images[row] = masked_tile(photo, masks.get(mask))
    found = len(images)
    plain = {row: _plain(known[of], masks.get(mask)) for row, (of, mask) in chosen.items() if row not in images}
    return Tiles(images | plain, found)


def tile_bytes(image: Image.Image) -> tuple[bytes, str]:
    """Return a tile as a file for a page, and its media type: masks as PNG, photos as JPEG."""
    buffer = io.BytesIO()
    if image.mode == "P":
        image.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue(), "image/png"
    image.save(buffer, format="JPEG", quality=84)
    return buffer.getvalue(), "image/jpeg"


def contact_sheet(tile_rows: Sequence[TileRow], tiles: Tiles) -> bytes:
    """Return rows of tiles as one JPEG: right ones with a solid frame, wrong ones with a dashed one."""
    style, max_tiles = FigureStyle(), max((len(one.rows) for one in tile_rows), default=1)
    side = min(1.3, (style.width - TITLE) / max_tiles - GAP)
    tall = side + 0.3
    with drawing(style, max(1.0, tall * len(tile_rows) + 0.1)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, style.width), ylim=(figure.get_figheight(), 0))
        axes.set_axis_off()
        for line, tile_row in enumerate(tile_rows):
            top = 0.08 + line * tall
            axes.text(0.12, top, tile_row.title, va="top", fontsize=9.2, linespacing=1.4)
            for index, row in enumerate(tile_row.rows):
                box = _within(tiles.images[row], TITLE + index * (side + GAP), top, side)
                axes.imshow(tiles.images[row].convert("RGB"), extent=(box[0], box[2], box[3], box[1]), aspect="auto")
                _framed(axes, box, tile_row.captions[index], tile_row.right[index] if tile_row.right else None, style)
        axes.set(xlim=(0, style.width), ylim=(figure.get_figheight(), 0))
        return jpeg(figure)


def _within(image: Image.Image, left: float, top: float, side: float) -> Box:
    """Return the left, top, right and bottom of an image in the middle of a square."""
    scale = side / max(image.size)
    wide, tall = image.width * scale, image.height * scale
    x, y = left + (side - wide) / 2, top + (side - tall) / 2
    return x, y, x + wide, y + tall


def _framed(axes: Axes, box: Box, caption: str, right: bool | None, style: FigureStyle) -> None:
    from matplotlib.patches import Rectangle

    colour = style.colour("quiet") if right is None else style.colour("accent") if right else style.colour("warm")
    line = (0, (2, 1.4)) if right is False else "solid"
    axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, ec=colour, lw=1.8, ls=line))
    middle = (box[0] + box[2]) / 2
    written = style.colour("warm") if right is False else style.colour("quiet")
    axes.text(middle, box[3] + 0.05, caption, ha="center", va="top", fontsize=6.8, color=written)


def masked_tile(photo: Image.Image, mask: np.ndarray | None) -> Image.Image:
    """Return the part of a photo around a mask, small, with the mask outlined; the whole photo without a mask."""
    box = (0.0, 0.0, 1.0, 1.0) if mask is None else _around(mask, photo.size)
    pixels = (box[0] * photo.width, box[1] * photo.height, box[2] * photo.width, box[3] * photo.height)
    size = _fitted(pixels[2] - pixels[0], pixels[3] - pixels[1])
    if mask is None:
        return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=pixels, reducing_gap=3.0)
    twice = (2 * size[0], 2 * size[1])
    cut = photo.convert("RGB").resize(twice, Image.Resampling.LANCZOS, box=pixels, reducing_gap=3.0)
    return _outlined(cut, crop_masks(mask, box, (twice[1], twice[0]))).resize(size, Image.Resampling.BOX)


def _outlined(photo: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return a photo of twice a tile's size with the mask's border as a line that is still seen on the tile."""
    from scipy.ndimage import maximum_filter, minimum_filter

    line = mask & ~np.asarray(minimum_filter(mask, 7), bool)
    edge = np.asarray(maximum_filter(line, 5), bool) & ~line
    pixels = np.array(photo)
    pixels[~mask] = np.rint(pixels[~mask] * (1 - DARKER)).astype(np.uint8)
    pixels[edge], pixels[line] = EDGE, LINE
    return Image.fromarray(pixels)


def _plain(image: ImageRow, mask: np.ndarray | None) -> Image.Image:
    if mask is None:
        return Image.new("RGB", (SIDE, SIDE), GROUND).quantize(2)
    shape = (image.width or mask.shape[1], image.height or mask.shape[0])
    box = _around(mask, shape)
    size = _fitted((box[2] - box[0]) * shape[0], (box[3] - box[1]) * shape[1])
    inside = crop_masks(mask, box, (size[1], size[0]))
    return Image.fromarray(np.where(inside[..., None], SHAPE, GROUND).astype(np.uint8)).quantize(2)


def _fitted(width: float, height: float) -> tuple[int, int]:
    scale = SIDE / max(width, height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def _around(mask: np.ndarray, size: tuple[int, int]) -> Box:
    """Return the part of a photo to show, as shares: a square around the mask, as far as the photo reaches."""
    width, height = size
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0.0, 0.0, 1.0, 1.0
    left, right = columns[0] / mask.shape[1] * width, (columns[-1] + 1) / mask.shape[1] * width
    top, bottom = rows[0] / mask.shape[0] * height, (rows[-1] + 1) / mask.shape[0] * height
    side = max(AROUND * max(right - left, bottom - top), MIN_SHARE * min(size))
    across, down = min(side, width), min(side, height)
    x = min(max((left + right - across) / 2, 0.0), width - across)
    y = min(max((top + bottom - down) / 2, 0.0), height - down)
    return x / width, y / height, (x + across) / width, (y + down) / height
