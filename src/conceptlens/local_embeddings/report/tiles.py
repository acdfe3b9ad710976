"""A row of a store as a small picture: its photo around the mask, with the mask outlined; or the mask alone."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.data.masked_set import crop_masks
from conceptlens.local_embeddings.report.figure_style import Look, drawing, jpeg
from conceptlens.pages.mask_outline import EDGE, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from conceptlens.local_embeddings.analysis.analysis_rows import StoryRows
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store

SIDE = 168
AROUND, LEAST = 1.45, 0.42  # of the mask's longer side; of the photo's shorter side
TITLE, GAP = 1.45, 0.08  # inches of a sheet
DARKER = 0.3  # outside the mask; less than on a large photo
GROUND, SHAPE = (74, 82, 92), (226, 230, 235)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Small pictures of rows, by number; `photos` of them have their photo, the others their mask alone."""

    pictures: Mapping[int, Image.Image] = field(repr=False)
    photos: int

    @property
    def plain(self) -> bool:
        """Whether no photo was found at all."""
        return self.photos == 0


@dataclass(frozen=True)
class Shelf:
    """A line of a sheet: a title, and tiles each with a caption and whether it is right; None, or none, is neither."""

    title: str
    rows: tuple[int, ...]
    captions: tuple[str, ...]
    right: tuple[bool | None, ...] = ()


def draw_tiles(
    rows: StoryRows, store: Store, shown: Sequence[int], photos: Iterable[tuple[ImageRow, Image.Image]]
) -> Tiles:
    """Return a picture of every row of a story that is shown."""
    return row_tiles({row: (rows.images[row], rows.masks[row]) for row in shown}, rows.pictures, store, photos)


def row_tiles(
    shown: Mapping[int, tuple[str, str]],
    known: Mapping[str, ImageRow],
    store: Store,
    photos: Iterable[tuple[ImageRow, Image.Image]],
) -> Tiles:
    """Return a picture of every row, `shown[row]` being its image and mask; photos come one by one, tiles are kept."""
    masks = {mask.id: mask.mask() for mask in store.masks([mask for _, mask in shown.values() if mask])}
    pictures: dict[int, Image.Image] = {}
    for image, photo in photos:
        for row, (of, mask) in shown.items():
            if of == image.id:
                pictures[row] = masked_tile(photo, masks.get(mask))
    found = len(pictures)
    plain = {row: _plain(known[of], masks.get(mask)) for row, (of, mask) in shown.items() if row not in pictures}
    return Tiles(pictures | plain, found)


def tile_bytes(picture: Image.Image) -> tuple[bytes, str]:
    """Return a tile as a file for a page, and its media type: masks as PNG, photos as JPEG."""
    buffer = io.BytesIO()
    if picture.mode == "P":
        picture.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue(), "image/png"
    picture.save(buffer, format="JPEG", quality=84)
    return buffer.getvalue(), "image/jpeg"


def sheet(shelves: Sequence[Shelf], tiles: Tiles) -> bytes:
    """Return tiles line by line as one JPEG: right ones in a whole frame, wrong ones in a broken one."""
    look, most = Look(), max((len(one.rows) for one in shelves), default=1)
    side = min(1.3, (look.width - TITLE) / most - GAP)
    tall = side + 0.3
    with drawing(look, max(1.0, tall * len(shelves) + 0.1)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, look.width), ylim=(figure.get_figheight(), 0))
        axes.set_axis_off()
        for line, shelf in enumerate(shelves):
            top = 0.08 + line * tall
            axes.text(0.12, top, shelf.title, va="top", fontsize=9.2, linespacing=1.4)
            for place, row in enumerate(shelf.rows):
                box = _within(tiles.pictures[row], TITLE + place * (side + GAP), top, side)
                axes.imshow(tiles.pictures[row].convert("RGB"), extent=(box[0], box[2], box[3], box[1]), aspect="auto")
                _framed(axes, box, shelf.captions[place], shelf.right[place] if shelf.right else None, look)
        axes.set(xlim=(0, look.width), ylim=(figure.get_figheight(), 0))
        return jpeg(figure)


def _within(picture: Image.Image, left: float, top: float, side: float) -> Box:
    """Return the left, top, right and bottom of a picture in the middle of a square."""
    scale = side / max(picture.size)
    wide, tall = picture.width * scale, picture.height * scale
    x, y = left + (side - wide) / 2, top + (side - tall) / 2
    return x, y, x + wide, y + tall


def _framed(axes: Axes, box: Box, caption: str, right: bool | None, look: Look) -> None:
    from matplotlib.patches import Rectangle

    colour = look.quiet if right is None else look.accent if right else look.warm
    style = (0, (2, 1.4)) if right is False else "solid"
    axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, ec=colour, lw=1.8, ls=style))
    middle = (box[0] + box[2]) / 2
    written = look.warm if right is False else look.quiet
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
    side = max(AROUND * max(right - left, bottom - top), LEAST * min(size))
    across, down = min(side, width), min(side, height)
    x = min(max((left + right - across) / 2, 0.0), width - across)
    y = min(max((top + bottom - down) / 2, 0.0), height - down)
    return x / width, y / height, (x + across) / width, (y + down) / height
