"""Styles of figures: light or dark, wide or narrow, with concept colours of equal lightness."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.palette import PAGE

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

MARKERS = ("o", "s", "^", "D", "v")  # so that a concept is known by more than its colour
DENSITY, SHEET_DENSITY = 200, 130  # dots per inch; an inch is 100 pixels of a page
_HUES = 10


@dataclass(frozen=True)
class FigureStyle:
    """Style of a figure: `dark` for a dark page, `narrow` for a phone, 370 pixels wide instead of 1060."""

    dark: bool = False
    narrow: bool = False

    def colour(self, name: str) -> str:
        """Return a colour of `palette.PAGE`: figures have those of the page that they are on."""
        return PAGE[name][self.dark]

    @property
    def width(self) -> float:
        """Width in inches."""
        return 3.7 if self.narrow else 10.6

    @property
    def small(self) -> float:
        """The size of small letters in points."""
        return 7.2 if self.narrow else 8.2

    def colours(self, names: tuple[str, ...]) -> dict[str, tuple[float, float, float]]:
        """Return a colour for each name: ten hues at two lightnesses, neighbours far apart; past twenty they repeat."""
        levels = (0.78, 0.60) if self.dark else (0.52, 0.70)
        found = {}
        for index, name in enumerate(names):
            hue = 2 * np.pi * ((index * 3) % _HUES + 0.5 * (index // _HUES % 2)) / _HUES
            found[name] = _srgb(levels[index // _HUES % 2], 0.135, hue + 0.35)
        return found


FIGURE_STYLES = (FigureStyle(), FigureStyle(dark=True), FigureStyle(narrow=True), FigureStyle(dark=True, narrow=True))


@contextmanager
def drawing(style: FigureStyle, height: float) -> Iterator[Figure]:
    """Yield an empty figure with the style's letters and colours; nothing global is changed for longer."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, quiet, line, card = (style.colour(name) for name in ("ink", "quiet", "line", "card"))
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans", "font.size": 8.4 if style.narrow else 9.4, "text.color": ink,
        "axes.labelcolor": quiet, "axes.edgecolor": line, "axes.facecolor": card,
        "xtick.color": quiet, "ytick.color": quiet, "axes.titlesize": 9.2 if style.narrow else 10.4,
        "axes.titlecolor": ink, "axes.titlelocation": "left", "axes.titlepad": 9, "axes.labelsize": style.small,
        "xtick.labelsize": style.small, "ytick.labelsize": style.small, "axes.unicode_minus": True,
        "xtick.major.size": 0, "ytick.major.size": 0, "figure.facecolor": card, "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield Figure(figsize=(style.width, height), dpi=100)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes at two pixels to a page's pixel, with a palette; the same every time."""
    from PIL import Image

    image = _pixels(figure, DENSITY).quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="PNG", dpi=(DENSITY, DENSITY))
    return out.getvalue()


def jpeg(figure: Figure) -> bytes:
    """Return a figure of photos as JPEG bytes."""
    out = io.BytesIO()
    _pixels(figure, SHEET_DENSITY).save(out, format="JPEG", quality=88, dpi=(SHEET_DENSITY, SHEET_DENSITY))
    return out.getvalue()


def _pixels(figure: Figure, density: int) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(density)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def bare(axes: Axes, *kept: str) -> None:
    """Hide the frame of a plot except these sides."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)


def short(name: str, max_length: int = 20) -> str:
    """Return a name cut to `max_length` characters."""
    return name if len(name) <= max_length else f"{name[: max_length - 1].rstrip()}…"


def spread(positions: Float[np.ndarray, "label"], apart: float, low: float, high: float) -> Float[np.ndarray, "label"]:
    """Return positions at least `apart` from each other, as near to those given as may be, in the same order."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(positions, kind="stable")
    apart = min(apart, (high - low) / max(len(positions) - 1, 1))
    steps = apart * np.arange(len(positions))
    starts = isotonic_regression(positions[order] - steps).x
    found = np.empty(len(positions))
    found[order] = np.clip(starts, low, max(low, high - apart * (len(positions) - 1))) + steps
    return found


def _srgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Return a colour of Oklch (Ottosson, 2020) in sRGB; what lies outside is cut."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    l, m, s = (  # noqa: E741
        (lightness + x * a + y * b) ** 3
        for x, y in ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.2914855480))
    )
    linear = np.array(
        [
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        ]
    ).clip(0, 1)
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).tolist()
    return red, green, blue
