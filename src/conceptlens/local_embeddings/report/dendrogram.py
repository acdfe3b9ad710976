"""The tree of a layer: which rows lie together, cut into as many clusters as there are concepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.report.figure_style import Look, bare, drawing, short, spread
from conceptlens.statistics.confusion import composition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.layer_analysis import Drawn
    from conceptlens.local_embeddings.analysis.store_analysis import Story


def tree_figure(story: Story, look: Look) -> Figure:
    """Draw the tree with its root at the left, a strip with each row's concept, and what every cluster is made of."""
    drawn = story.told.drawn
    labels = story.rows.labels[drawn.rows]
    colours = look.colours(drawn.order)
    clusters = int(drawn.clusters.max()) + 1
    height = max(3.2, (0.205 if look.narrow else 0.265) * clusters + 0.55)
    with drawing(look, height) as figure:
        bottom, tall = 0.42 / height, 1 - 0.52 / height
        left, wide = (0.02, 0.40) if look.narrow else (0.015, 0.69)
        tree = figure.add_axes((left, bottom, wide, tall))
        strip = figure.add_axes((left + wide + 0.004, bottom, 0.05 if look.narrow else 0.026, tall), sharey=tree)
        majority = _majority(drawn, labels)
        order = drawn.tree.order()
        _branches(tree, drawn, [colours[name] for name in majority], 72 * tall * height / len(order), look)
        strip.imshow(
            np.array([[colours[name]] for name in labels[order]]), aspect="auto", interpolation="nearest",
            extent=(0, 1, len(order) - 0.5, -0.5),
        )  # fmt: skip
        strip.set_axis_off()
        tree.set_ylim(len(order) - 0.5, -0.5)
        _captions(strip, drawn, labels, majority, colours, look)
    return figure


def _majority(drawn: Drawn, labels: np.ndarray) -> list[str]:
    made = composition(drawn.clusters, labels)
    return [made.labels[i] for i in made.counts[np.argsort([int(name) for name in made.clusters])].argmax(1)]


def _branches(axes: Axes, drawn: Drawn, colours: list[tuple[float, float, float]], pitch: float, look: Look) -> None:
    """Draw every merge as a bracket in its cluster's colour, those above the cut in grey; rows are `pitch` apart."""
    from matplotlib.collections import LineCollection

    count = drawn.tree.rows
    y, x, own = np.zeros(2 * count - 1), np.zeros(2 * count - 1), np.full(2 * count - 1, -1)
    y[drawn.tree.order()] = np.arange(count)
    own[:count] = drawn.clusters
    brackets, paint = [], []
    for node, (left, right, apart, _) in enumerate(drawn.tree.merges, count):
        a, b = int(left), int(right)
        x[node], y[node] = apart, (y[a] + y[b]) / 2
        own[node] = own[a] if own[a] == own[b] else -1
        brackets.append([(x[a], y[a]), (apart, y[a]), (apart, y[b]), (x[b], y[b])])
        paint.append(look.quiet if own[node] < 0 else colours[own[node]])
    wide = min(1.1, max(0.25, 0.45 * pitch))
    axes.add_collection(LineCollection(brackets, colors=paint, linewidths=wide, capstyle="projecting"))
    top = float(x.max()) or 1.0
    axes.set_xlim(top * 1.02, 0)
    bare(axes, "bottom")
    axes.set_yticks([])
    axes.set_xlabel("distance at which two are merged (Ward, directions)" if not look.narrow else "distance of merging")


def _captions(
    axes: Axes,
    drawn: Drawn,
    labels: np.ndarray,
    majority: list[str],
    colours: dict[str, tuple[float, float, float]],
    look: Look,
) -> None:
    """Write beside every cluster what it is made of, the commonest first, moved apart where they would meet."""
    made = composition(drawn.clusters, labels)
    counts = made.counts[np.argsort([int(name) for name in made.clusters])]
    place = np.empty(drawn.tree.rows)
    place[drawn.tree.order()] = np.arange(drawn.tree.rows)
    middles = np.array([place[drawn.clusters == cluster].mean() for cluster in range(len(counts))])
    rows = drawn.tree.rows
    texts = spread(middles, rows / max(len(counts) - 1, 1) * 0.8, 0.02 * rows, 0.98 * rows)
    reach = 1.9 if look.narrow else 2.2
    for cluster, (middle, text) in enumerate(zip(middles, texts, strict=True)):
        own = place[drawn.clusters == cluster]
        line = {"color": colours[majority[cluster]], "lw": 1, "clip_on": False}
        axes.plot([1.15, 1.15], [own.min() - 0.4, own.max() + 0.4], **line)
        axes.plot([1.15, reach], [middle, text], **line)
        shown = [i for i in np.argsort(-counts[cluster], kind="stable") if counts[cluster][i] > 0]
        most = 2 if look.narrow else 3
        parts = [f"{short(made.labels[i], 12 if look.narrow else 20)} {counts[cluster][i]:.0f}" for i in shown[:most]]
        rest = sum(counts[cluster][i] for i in shown[most:])
        axes.text(
            reach + (0.12 if look.narrow else 0.3), text, "  ".join([*parts, *([f"+ {rest:.0f}"] if rest else [])]),
            va="center_baseline", ha="left", fontsize=look.small, color=look.ink, clip_on=False,
        )  # fmt: skip
