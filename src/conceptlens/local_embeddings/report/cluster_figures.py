"""Figures of clusters: the dendrogram of a layer, and the projection of its rows to two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.analysis.store_analysis import MIN_SUB_CONCEPT_ROWS
from conceptlens.local_embeddings.report.figure_style import MARKERS, FigureStyle, bare, drawing, short, spread
from conceptlens.statistics.confusion import composition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from conceptlens.local_embeddings.analysis.layer_analysis import FigureData
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis
    from conceptlens.statistics import Mixture

MAX_ROUNDS = 400  # in which names are pushed apart


def dendrogram_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw the tree with its root at the left, a strip with each row's concept, and the concepts of every cluster."""
    data = analysis.selected.figure_data
    labels = analysis.rows.labels[data.rows]
    colours = style.colours(data.order)
    clusters = int(data.clusters.max()) + 1
    height = max(3.2, (0.205 if style.narrow else 0.265) * clusters + 0.55)
    with drawing(style, height) as figure:
        bottom, tall = 0.42 / height, 1 - 0.52 / height
        left, wide = (0.02, 0.40) if style.narrow else (0.015, 0.69)
        tree = figure.add_axes((left, bottom, wide, tall))
        strip = figure.add_axes((left + wide + 0.004, bottom, 0.05 if style.narrow else 0.026, tall), sharey=tree)
        majority = _majority(data, labels)
        order = data.tree.order()
        _branches(tree, data, [colours[name] for name in majority], 72 * tall * height / len(order), style)
        strip.imshow(
            np.array([[colours[name]] for name in labels[order]]), aspect="auto", interpolation="nearest",
            extent=(0, 1, len(order) - 0.5, -0.5),
        )  # fmt: skip
        strip.set_axis_off()
        tree.set_ylim(len(order) - 0.5, -0.5)
        _captions(strip, data, labels, majority, colours, style)
    return figure


def _majority(data: FigureData, labels: np.ndarray) -> list[str]:
    found = composition(data.clusters, labels)
    return [found.labels[i] for i in found.counts[np.argsort([int(name) for name in found.clusters])].argmax(1)]


def _branches(
    axes: Axes, data: FigureData, colours: list[tuple[float, float, float]], pitch: float, style: FigureStyle
) -> None:
    """Draw every merge as a bracket in its cluster's colour, those above the cut in grey; rows are `pitch` apart."""
    from matplotlib.collections import LineCollection

    count = data.tree.rows
    y, x, own = np.zeros(2 * count - 1), np.zeros(2 * count - 1), np.full(2 * count - 1, -1)
    y[data.tree.order()] = np.arange(count)
    own[:count] = data.clusters
    brackets, paint = [], []
    for node, (left, right, apart, _) in enumerate(data.tree.merges, count):
        a, b = int(left), int(right)
        x[node], y[node] = apart, (y[a] + y[b]) / 2
        own[node] = own[a] if own[a] == own[b] else -1
        brackets.append([(x[a], y[a]), (apart, y[a]), (apart, y[b]), (x[b], y[b])])
        paint.append(style.colour("quiet") if own[node] < 0 else colours[own[node]])
    wide = min(1.1, max(0.25, 0.45 * pitch))
    axes.add_collection(LineCollection(brackets, colors=paint, linewidths=wide, capstyle="projecting"))
    top = float(x.max()) or 1.0
    axes.set_xlim(top * 1.02, 0)
    bare(axes, "bottom")
    axes.set_yticks([])
    axes.set_xlabel(
        "distance at which two are merged (Ward, directions)" if not style.narrow else "distance of merging"
    )


def _captions(
    axes: Axes,
    data: FigureData,
    labels: np.ndarray,
    majority: list[str],
    colours: dict[str, tuple[float, float, float]],
    style: FigureStyle,
) -> None:
    """Write the concepts of every cluster beside it, the most frequent first; captions do not overlap."""
    found = composition(data.clusters, labels)
    counts = found.counts[np.argsort([int(name) for name in found.clusters])]
    position = np.empty(data.tree.rows)
    position[data.tree.order()] = np.arange(data.tree.rows)
    middles = np.array([position[data.clusters == cluster].mean() for cluster in range(len(counts))])
    rows = data.tree.rows
    texts = spread(middles, rows / max(len(counts) - 1, 1) * 0.8, 0.02 * rows, 0.98 * rows)
    reach = 1.9 if style.narrow else 2.2
    for cluster, (middle, text) in enumerate(zip(middles, texts, strict=True)):
        own = position[data.clusters == cluster]
        line = {"color": colours[majority[cluster]], "lw": 1, "clip_on": False}
        axes.plot([1.15, 1.15], [own.min() - 0.4, own.max() + 0.4], **line)
        axes.plot([1.15, reach], [middle, text], **line)
        present = [i for i in np.argsort(-counts[cluster], kind="stable") if counts[cluster][i] > 0]
        max_parts = 2 if style.narrow else 3
        parts = [
            f"{short(found.labels[i], 12 if style.narrow else 20)} {counts[cluster][i]:.0f}"
            for i in present[:max_parts]
        ]
        rest = sum(counts[cluster][i] for i in present[max_parts:])
        axes.text(
            reach + (0.12 if style.narrow else 0.3), text, "  ".join([*parts, *([f"+ {rest:.0f}"] if rest else [])]),
            va="center_baseline", ha="left", fontsize=style.small, color=style.colour("ink"), clip_on=False,
        )  # fmt: skip


def projection_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw the projection; ellipses are at one and two standard deviations of each component."""
    data = analysis.selected.figure_data
    labels = analysis.rows.labels[data.rows]
    colours = style.colours(data.order)
    with drawing(style, 4.3 if style.narrow else 7.2) as figure:
        axes = figure.add_axes((0.012, 0.07 if style.narrow else 0.05, 0.976, 0.92 if style.narrow else 0.94))
        size = (8 if style.narrow else 22) * min(1.0, (1200 / len(labels)) ** 0.5)
        for index, name in enumerate(data.order):
            own = data.points[labels == name]
            marker = MARKERS[index % len(MARKERS)]
            axes.scatter(*own.T, s=size, marker=marker, color=colours[name], alpha=0.7, linewidths=0, zorder=2)
        for name, mixture in data.mixtures.items():
            _draw_ellipses(axes, mixture, colours[name])
        _set_limits(axes, data.points)
        _write_names(
            axes, figure, {name: np.median(data.points[labels == name], axis=0) for name in data.order}, colours, style
        )
        if data.share is None:
            label = "UMAP: neighbourhoods are kept, distances and gaps are not"
        else:
            variance = f"{data.share[0]:.0%} and {data.share[1]:.0%} of the variance"
            rest = "; the others hold most of it" if sum(data.share) < 0.5 else ""
            label = variance if style.narrow else f"first two principal axes: {variance}{rest}"
        axes.set_xlabel(label)
    return figure


def _draw_ellipses(axes: Axes, mixture: Mixture, colour: tuple[float, float, float]) -> None:
    """Draw every component of enough rows: the spread of three points on a line is no finding."""
    from matplotlib.patches import Ellipse

    rows = np.bincount(mixture.assigned[mixture.assigned >= 0], minlength=len(mixture.weights))
    for deviations, alpha, wide in ((1.0, 0.95, 1.3), (2.0, 0.35, 0.8)):
        found = mixture.ellipses(deviations)
        for component in np.flatnonzero(rows >= MIN_SUB_CONCEPT_ROWS):
            centre, angle = found.centres[component], float(found.angles[component])
            width, height = (2 * found.radii[component]).tolist()
            middle = (float(centre[0]), float(centre[1]))
            axes.add_patch(
                Ellipse(
                    middle, width, height, angle=float(angle), fill=False, ec=colour, lw=wide, alpha=alpha, zorder=3
                )
            )


def _set_limits(axes: Axes, points: np.ndarray) -> None:
    low, high = points.min(0), points.max(0)
    margin = 0.06 * np.maximum(high - low, 1e-9)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xticks([])
    axes.set_yticks([])


def _write_names(
    axes: Axes,
    figure: Figure,
    middles: dict[str, np.ndarray],
    colours: dict[str, tuple[float, float, float]],
    style: FigureStyle,
) -> None:
    """Write each concept's name at its middle; names that would meet are pushed apart, and tied to their middle."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    canvas = FigureCanvasAgg(figure)
    at = axes.transData.transform(np.array(list(middles.values())))
    texts: list[Text] = []
    for name, (x, y) in zip(middles, at.tolist(), strict=True):
        text = axes.text(x, y, short(name, 16 if style.narrow else 20), transform=None, ha="center", va="center")
        text.set(fontsize=7.6 if style.narrow else 9.6, fontweight="bold", color=colours[name], zorder=6)
        text.set_path_effects([withStroke(linewidth=2.6, foreground=style.colour("card"))])
        texts.append(text)
    boxes = np.array([_text_size(text, canvas.get_renderer()) for text in texts])
    frame = axes.get_window_extent()
    moved = _push_apart(at, boxes, (frame.x0, frame.y0, frame.x1, frame.y1))
    for text, new, name, old in zip(texts, moved, middles, at, strict=True):
        inside = axes.transData.inverted().transform([new, old])
        text.set(transform=axes.transData, position=tuple(inside[0]))
        if np.abs(new - old).max() > 12:
            axes.plot(*inside.T, color=colours[name], lw=0.8, zorder=5)
            axes.plot(*inside[1], "o", ms=3, color=colours[name], mec=style.colour("card"), zorder=5)


def _text_size(text: Text, renderer: object) -> tuple[float, float]:
    extent = text.get_window_extent(renderer)  # pyright: ignore[reportArgumentType]
    return extent.width + 4, extent.height + 2


def _push_apart(positions: np.ndarray, sizes: np.ndarray, frame: tuple[float, float, float, float]) -> np.ndarray:
    """Return the middles of boxes moved until none lies on another, where there is room; the same every time."""
    moved = positions + 1e-3 * np.arange(len(positions))[:, None]
    low, high = np.array(frame[:2]) + sizes / 2, np.array(frame[2:]) - sizes / 2
    for _ in range(MAX_ROUNDS):
        gap = moved[:, None] - moved[None]
        min_gap = (sizes[:, None] + sizes[None]) / 2
        over = np.where(np.eye(len(moved), dtype=bool)[..., None], 0, min_gap - np.abs(gap))
        both = np.asarray((over > 0).all(2))
        if not both.any():
            break
        upright = over[..., 1] <= over[..., 0]
        step = np.stack([~upright, upright], 2) * np.sign(gap) * np.maximum(over, 0) * both[..., None]
        moved = np.clip(moved + 0.3 * step.sum(1), low, np.maximum(low, high))
    return moved
