"""Explanations as overlays, figures and a table for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError
from conceptlens.render import Box, colour, number, overlay, scale_of, upsample_in_box

if TYPE_CHECKING:
    from jaxtyping import Shaped
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# The longer side of a picture, in pixels: in a figure, and in a notebook's table.
FIGURE_PIXELS, THUMBNAIL_PIXELS = 512, 144
MAX_NAME = 60
UNKNOWN = "not known to this model"
UNKNOWN_BOX = "(which part of the photo\nthe model saw is not known)"


@dataclass(frozen=True, eq=False)
class Tile:
    """One map with what it takes to draw it: its photo where there is one, the part that was seen, its label."""

    photo: Image.Image | None
    values: Any
    box: Box
    signed: bool
    label: str
    full_label: str
    score: float
    box_known: bool = True

    @property
    def number(self) -> str:
        """The score; that of a concept that the model does not know is NaN."""
        return UNKNOWN if self.score != self.score else number(self.score)

    @property
    def note(self) -> str:
        """What to say where it is not known which part of the photo the map covers."""
        return "" if self.box_known or self.photo is None else UNKNOWN_BOX

    def draw(self, longest: int) -> Image.Image:
        """Return the map over its photo, at most `longest` pixels a side; without a photo, the map on white."""
        scale = scale_of([self.values], self.signed)
        if self.photo is not None:
            small = self.photo.copy()
            small.thumbnail((longest, longest))
            return overlay(small, self.values, scale, box=self.box)
        height, width = self.values.shape
        factor = longest / max(height, width)
        rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
        values = self.values.detach().cpu().float().numpy()
        white = Image.new("RGBA", (columns, rows), (255, 255, 255, 255))
        white.alpha_composite(Image.fromarray(colour(upsample_in_box(values, rows, columns), scale)))
        return white.convert("RGB")


def plot_overlays(
    rows: Sequence[Sequence[Tile]], ax: Any = None
) -> tuple[Figure | SubFigure, Shaped[np.ndarray, "image question"]]:
    """Draw a row of overlays for each image, on `ax` or on a new figure; return the figure and its axes."""
    shape = (len(rows), len(rows[0]) if rows else 0)
    if 0 in shape:
        raise InputError("the explanation holds no map to plot")
    tiles = [tile for row in rows for tile in row]
    drawn = [tile.draw(FIGURE_PIXELS) for tile in tiles]
    tallest = max(picture.height / picture.width for picture in drawn)
    axes = _new_axes(shape, tallest) if ax is None else _given_axes(ax, shape)
    for one, tile, picture in zip(axes.flat, tiles, drawn, strict=True):
        one.imshow(picture)
        one.set_title("\n".join(filter(None, (_short(tile.label, 28), tile.number, tile.note))), fontsize=9)
        one.set_axis_off()
    return axes.flat[0].figure, axes


def _new_axes(shape: tuple[int, int], tallest: float) -> Shaped[np.ndarray, "image question"]:
    import matplotlib.pyplot as plt

    size = (2.6 * shape[1], (2.6 * tallest + 0.6) * shape[0])
    return plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")[1]


def _given_axes(ax: Axes | Sequence[Axes] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    axes = np.asarray(ax, dtype=object)
    if axes.size != shape[0] * shape[1]:
        raise InputError(
            f"{axes.size} axes were given for {shape[0]} images and {shape[1]} questions; expected one for each map"
        )
    return axes.reshape(shape)


def html_table(heading: str, names: Sequence[str], rows: Sequence[Sequence[Tile]], left_out: int) -> str:
    """Return a table of overlays, a row for each image, as HTML without a script; pictures lie within it."""
    body = "".join(
        f"<tr><td>{html.escape(_short(Path(name).name))}</td>{''.join(map(_cell, row))}</tr>"
        for name, row in zip(names, rows, strict=False)
    )
    more = f"<p>{left_out} more map{'s' * (left_out != 1)}; see .plot()</p>" if left_out else ""
    return f"<div><p>{html.escape(heading)}</p><table>{body}</table>{more}</div>"


def _cell(tile: Tile) -> str:
    buffer = io.BytesIO()
    tile.draw(THUMBNAIL_PIXELS).save(buffer, format="JPEG", quality=80)
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    label, full = html.escape(_short(tile.label)), html.escape(" ".join(tile.full_label.split()))
    shown = label if tile.label == tile.full_label else f'<span title="{full}">{label}</span>'
    return (
        f'<td style="text-align:center"><img alt="map of {label}" src="data:image/jpeg;base64,{picture}">'
        f"<br>{shown}<br>{tile.number}{'<br>' * bool(tile.note)}{tile.note}</td>"
    )


def _short(text: str, longest: int = MAX_NAME) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
