"""Two axes of a layer: every row as a point, every concept's lumps as ellipses, every concept by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.analysis.examples import FEWEST
from conceptlens.local_embeddings.report.figure_style import MARKERS, Look, drawing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from conceptlens.local_embeddings.analysis.store_analysis import Story
    from conceptlens.statistics import Mixture


def map_figure(story: Story, look: Look) -> Figure:
    """Draw the map; ellipses are at one and two standard deviations of each component."""
    drawn = story.told.drawn
    labels = story.rows.labels[drawn.rows]
    colours = look.colours(drawn.order)
    with drawing(look, 4.3 if look.narrow else 7.2) as figure:
        axes = figure.add_axes((0.012, 0.07 if look.narrow else 0.05, 0.976, 0.92 if look.narrow else 0.94))
        size = (8 if look.narrow else 22) * min(1.0, (1200 / len(labels)) ** 0.5)
        for place, name in enumerate(drawn.order):
            own = drawn.points[labels == name]
            marker = MARKERS[place % len(MARKERS)]
            axes.scatter(*own.T, s=size, marker=marker, color=colours[name], alpha=0.7, linewidths=0, zorder=2)
        for name, mixture in drawn.mixtures.items():
            _ellipses(axes, mixture, colours[name])
        _frame(axes, drawn.points)
        _name(axes, figure, {name: _middle(drawn.points[labels == name]) for name in drawn.order}, colours, look)
        if drawn.share is None:
            said = "UMAP: neighbourhoods are kept, distances and gaps are not"
        else:
            told = f"{drawn.share[0]:.0%} and {drawn.share[1]:.0%} of the variance"
            said = f"first two principal axes: {told}; most lies in the others"
            said = told if look.narrow else said if sum(drawn.share) < 0.5 else f"first two principal axes: {told}"
        axes.set_xlabel(said)
    return figure


def _ellipses(axes: Axes, mixture: Mixture, colour: tuple[float, float, float]) -> None:
    """Draw every component of enough rows: the spread of three points on a line is no finding."""
    from matplotlib.patches import Ellipse

    rows = np.bincount(mixture.assigned[mixture.assigned >= 0], minlength=len(mixture.weights))
    for deviations, alpha, wide in ((1.0, 0.95, 1.3), (2.0, 0.35, 0.8)):
        found = mixture.ellipses(deviations)
        for component in np.flatnonzero(rows >= FEWEST):
            centre, angle = found.centres[component], found.angles[component]
            width, height = (2 * found.radii[component]).tolist()
            place = (float(centre[0]), float(centre[1]))
            axes.add_patch(
                Ellipse(place, width, height, angle=float(angle), fill=False, ec=colour, lw=wide, alpha=alpha, zorder=3)
            )


def _frame(axes: Axes, points: np.ndarray) -> None:
    low, high = points.min(0), points.max(0)
    margin = 0.06 * np.maximum(high - low, 1e-9)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xticks([])
    axes.set_yticks([])


def _middle(points: np.ndarray) -> np.ndarray:
    return np.median(points, axis=0)


def _name(
    axes: Axes,
    figure: Figure,
    middles: dict[str, np.ndarray],
    colours: dict[str, tuple[float, float, float]],
    look: Look,
) -> None:
    """Write each concept's name at its middle; names that would meet are pushed apart, and tied to their middle."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    canvas = FigureCanvasAgg(figure)
    at = axes.transData.transform(np.array(list(middles.values())))
    texts: list[Text] = []
    for name, (x, y) in zip(middles, at.tolist(), strict=True):
        text = axes.text(x, y, short(name, 16 if look.narrow else 20), transform=None, ha="center", va="center")
        text.set(fontsize=7.6 if look.narrow else 9.6, fontweight="bold", color=colours[name], zorder=6)
        text.set_path_effects([withStroke(linewidth=2.6, foreground=look.paper)])
        texts.append(text)
    boxes = np.array([_size(text, canvas.get_renderer()) for text in texts])
    frame = axes.get_window_extent()
    moved = _apart(at, boxes, (frame.x0, frame.y0, frame.x1, frame.y1))
    for text, place, name, old in zip(texts, moved, middles, at, strict=True):
        inside = axes.transData.inverted().transform([place, old])
        text.set(transform=axes.transData, position=tuple(inside[0]))
        if np.abs(place - old).max() > 12:
            axes.plot(*inside.T, color=colours[name], lw=0.8, zorder=5)
            axes.plot(*inside[1], "o", ms=3, color=colours[name], mec=look.paper, zorder=5)


def _size(text: Text, renderer: object) -> tuple[float, float]:
    extent = text.get_window_extent(renderer)  # pyright: ignore[reportArgumentType]
    return extent.width + 4, extent.height + 2


def _apart(
    places: np.ndarray, sizes: np.ndarray, frame: tuple[float, float, float, float], rounds: int = 400
) -> np.ndarray:
    """Return the middles of boxes moved until none lies on another, where there is room; the same every time."""
    moved = places + 1e-3 * np.arange(len(places))[:, None]
    low, high = np.array(frame[:2]) + sizes / 2, np.array(frame[2:]) - sizes / 2
    for _ in range(rounds):
        gap = moved[:, None] - moved[None]
        least = (sizes[:, None] + sizes[None]) / 2
        over = np.where(np.eye(len(moved), dtype=bool)[..., None], 0, least - np.abs(gap))
        both = np.asarray((over > 0).all(2))
        if not both.any():
            break
        upright = over[..., 1] <= over[..., 0]
        step = np.stack([~upright, upright], 2) * np.sign(gap) * np.maximum(over, 0) * both[..., None]
        moved = np.clip(moved + 0.3 * step.sum(1), low, np.maximum(low, high))
    return moved
