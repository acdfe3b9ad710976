"""Images of a bottleneck's report: maps laid over photos, and the region of a map cut out of its photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, read_table
from conceptlens.io.images import shrunk
from conceptlens.pages.mask_outline import draw_outline
from conceptlens.pages.static_page import embedded_photo
from conceptlens.render import WHOLE, overlay, scale_of, upsample

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from PIL import Image

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

MAX_STORED_SIDE = 640  # the longest side of photos in memory, in pixels
LARGE, SMALL, TILE = 520, 300, 200
REGION = 0.5  # of a map's highest value: what its region reaches
MIN_SIDE, MARGIN = 0.42, 1.7  # a cut-out's side: of the photo's shorter side at least, and times its region's


@dataclass(frozen=True, eq=False)
class CaseImages:
    """Photos by their row, the part of each that the network sees, and maps by row and concept."""

    photos: Mapping[int, Image.Image] = field(repr=False)
    boxes: Mapping[int, tuple[float, float, float, float]]
    maps: Mapping[tuple[int, int], Float[np.ndarray, "height width"]] = field(repr=False)

    def photo(self, row: int) -> dict[str, Any]:
        """Return a photo as the template shows it."""
        return embedded_photo(shrunk(self.photos[row], LARGE))

    def overlay(self, row: int, concept: int) -> dict[str, Any]:
        """Return a photo with a concept's map, its own colour scale, and a line around its region.

        A map that is mostly below zero is shown with red for that, and without a line.
        """
        photo, values, box = shrunk(self.photos[row], SMALL), self.maps[row, concept], self.boxes[row]
        signed = bool(values.max() < -values.min())
        over = overlay(photo, values, scale_of([values], signed), box=box)
        return embedded_photo(over if signed else draw_outline(over, region(values, box, over.size)))

    def crop(self, row: int, concept: int) -> dict[str, Any]:
        """Return the part of a photo around the region that holds a map's highest value."""
        photo, values, box = self.photos[row], self.maps[row, concept], self.boxes[row]
        inside = region(values, box, photo.size)
        left, top, side = _around(inside, values, box)
        part = draw_outline(photo, inside).crop((left, top, left + side, top + side))
        return embedded_photo(part.resize((TILE, TILE)))


def read_case_images(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    table: BottleneckTable,
    needed: Mapping[int, set[int]],
    cache: str | Path | None = None,
) -> CaseImages:
    """Read photos and maps again.

    Args:
        bottleneck: The bottleneck.
        model: The network as it was loaded for the fit.
        photos: The labelled set.
        table: What the bottleneck reads in it.
        needed: The concepts whose maps are shown, by the row of the photo in the table.
        cache: A folder of cells.
    """
    if not needed:
        return CaseImages({}, {}, {})
    indices = {int(table.indices[row]): row for row in sorted(needed)}
    concepts = sorted(set().union(*needed.values()))
    again = read_table(bottleneck, model, photos, list(indices), concepts, cache)
    column = {concept: at for at, concept in enumerate(concepts)}
    view = bottleneck.backbone.prepare(model).preprocess
    kept, boxes, maps = {}, {}, {}
    for at, index in enumerate(again.indices.tolist()):
        row, photo = indices[index], photos[index].convert("RGB")
        boxes[row] = WHOLE if view is None else _box(view.box(photo.size))
        kept[row] = shrunk(photo, MAX_STORED_SIDE)
        maps |= {(row, concept): again.maps[at, column[concept]].float().numpy() for concept in needed[row]}
    return CaseImages(kept, boxes, maps)


def region(
    values: Float[np.ndarray, "height width"], box: tuple[float, float, float, float], size: tuple[int, int]
) -> Bool[np.ndarray, "rows columns"]:
    """Return where a map, laid over `box` of a photo of `(width, height)`, reaches half of its highest value.

    Nowhere, in a map that is nowhere positive.
    """
    width, height = size
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    found = np.zeros((height, width), bool)
    highest = float(values.max())
    if highest > 0:
        found[top:bottom, left:right] = (
            upsample(values.astype(np.float64), bottom - top, right - left) >= REGION * highest
        )
    return found


def _around(
    inside: Bool[np.ndarray, "rows columns"],
    values: Float[np.ndarray, "height width"],
    box: tuple[float, float, float, float],
) -> tuple[int, int, int]:
    """Return left, top and side of a square around the piece of the region that holds the highest cell."""
    height, width = inside.shape
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    y = int((box[1] + (row + 0.5) / values.shape[0] * (box[3] - box[1])) * height)
    x = int((box[0] + (column + 0.5) / values.shape[1] * (box[2] - box[0])) * width)
    y, x = min(y, height - 1), min(x, width - 1)
    pieces, _ = ndimage.label(inside)  # pyright: ignore[reportGeneralTypeIssues]
    rows, columns = np.nonzero(pieces == pieces[y, x]) if pieces[y, x] else (np.array([y]), np.array([x]))
    wide, short = max(np.ptp(rows), np.ptp(columns)) + 1, min(height, width)
    side = min(short, max(round(MARGIN * wide), round(MIN_SIDE * short)))
    left = int(np.clip((columns.min() + columns.max()) // 2 - side // 2, 0, width - side))
    top = int(np.clip((rows.min() + rows.max()) // 2 - side // 2, 0, height - side))
    return left, top, side


def _box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return a box within the photo: where the network sees padding beside it, there is nothing to show."""
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
    return left, top, right, bottom
