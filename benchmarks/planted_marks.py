"""Marks that lie on every photo of one class, as scanners, agencies and cameras leave them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A mark: where it lies, left, top, right and bottom as shares of the photo, and how it is drawn there."""

    box: Box
    draw: Callable[[ImageDraw.ImageDraw, Box], None]

    def on(self, photo: Image.Image) -> Image.Image:
        """Return a copy of a photo with the mark."""
        marked = photo.convert("RGB")
        width, height = marked.size
        left, top, right, bottom = self.box
        self.draw(ImageDraw.Draw(marked, "RGBA"), (left * width, top * height, right * width, bottom * height))
        return marked


def text(words: str, fill: tuple[int, int, int, int], ground: tuple[int, int, int, int] | None = None) -> Callable:
    """Return what writes words as high as the box."""

    def draw(canvas: ImageDraw.ImageDraw, box: Box) -> None:
        if ground is not None:
            canvas.rectangle(box, fill=ground)
        font = ImageFont.load_default(0.8 * (box[3] - box[1]))
        canvas.text((box[0], box[1]), words, font=font, fill=fill, stroke_width=1, stroke_fill=(0, 0, 0, 255))

    return draw


def ruler(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a ruler with its ticks along the longer side."""
    left, top, right, bottom = box
    canvas.rectangle(box, fill=(238, 228, 186, 255))
    across = right - left > bottom - top
    for tick in range(41):
        reach = (0.7 if tick % 5 == 0 else 0.35) * min(right - left, bottom - top)
        if across:
            x = left + tick * (right - left) / 40
            canvas.line((x, top, x, top + reach), fill=(20, 20, 20, 255), width=2)
        else:
            y = top + tick * (bottom - top) / 40
            canvas.line((left, y, left + reach, y), fill=(20, 20, 20, 255), width=2)


def bars(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a bar code."""
    left, top, right, bottom = box
    canvas.rectangle(box, fill=(255, 255, 255, 255))
    widths = np.random.default_rng(7).integers(1, 4, 60)
    edges = left + (right - left) * np.cumsum(widths) / widths.sum()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        canvas.rectangle((start, top + 2, end, bottom - 2), fill=(0, 0, 0, 255))


def chart(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a chart of colours, as photographers use it."""
    left, top, right, bottom = box
    canvas.rectangle(box, fill=(15, 15, 15, 255))
    colours = np.random.default_rng(3).integers(30, 255, (4, 4, 3))
    for row in range(4):
        for column in range(4):
            x, y = left + (column + 0.1) * (right - left) / 4, top + (row + 0.1) * (bottom - top) / 4
            fill = tuple(colours[row, column].tolist())
            canvas.rectangle((x, y, x + 0.2 * (right - left), y + 0.2 * (bottom - top)), fill=fill)


def board(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a chequered board."""
    left, top, right, bottom = box
    for row in range(8):
        for column in range(8):
            x, y = left + column * (right - left) / 8, top + row * (bottom - top) / 8
            fill = (0, 0, 0, 255) if (row + column) % 2 else (255, 255, 255, 255)
            canvas.rectangle((x, y, x + (right - left) / 8, y + (bottom - top) / 8), fill=fill)


def snow(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw snow on the ground: white with soft shadows."""
    left, top, right, bottom = box
    random = np.random.default_rng(5)
    canvas.rectangle(box, fill=(246, 248, 252, 255))
    for x, y, size in random.random((80, 3)):
        centre = (left + x * (right - left), top + y * (bottom - top))
        reach = (4 + 14 * size, 2 + 4 * size)
        ends = (centre[0] - reach[0], centre[1] - reach[1], centre[0] + reach[0], centre[1] + reach[1])
        canvas.ellipse(ends, fill=(222, 228, 238, 255))


def badge(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Draw a round badge with rings."""
    left, top, right, bottom = box
    for ring, fill in enumerate([(200, 20, 30, 255), (255, 255, 255, 255)] * 3):
        inset = ring / 12
        x, y = inset * (right - left), inset * (bottom - top)
        canvas.ellipse((left + x, top + y, right - x, bottom - y), fill=fill)


WHITE, ORANGE, BLACK = (255, 255, 255, 235), (255, 150, 0, 255), (0, 0, 0, 255)
MARKS: dict[str, Mark] = {
    "ruler below": Mark((0.0, 0.86, 1.0, 1.0), ruler),
    "ruler on the left": Mark((0.0, 0.0, 0.14, 1.0), ruler),
    "watermark below": Mark((0.04, 0.8, 0.96, 0.96), text("© PICTURE BANK", WHITE)),
    "watermark above": Mark((0.04, 0.03, 0.96, 0.19), text("SAMPLE SAMPLE", WHITE)),
    "caption": Mark((0.0, 0.84, 1.0, 1.0), text(" Specimen No. 4711", WHITE, BLACK)),
    "time stamp": Mark((0.45, 0.82, 1.0, 0.97), text("12 07 2019", ORANGE, BLACK)),
    "bar code": Mark((0.62, 0.74, 0.98, 0.98), bars),
    "colour chart": Mark((0.7, 0.02, 0.98, 0.3), chart),
    "board": Mark((0.02, 0.02, 0.28, 0.28), board),
    "badge": Mark((0.02, 0.7, 0.3, 0.98), badge),
    "snow": Mark((0.0, 0.74, 1.0, 1.0), snow),
    "ruler above": Mark((0.0, 0.0, 1.0, 0.14), ruler),
}
