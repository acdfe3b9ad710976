"""Figures of numbers with their intervals: retrieval of each concept, and each measure from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.report.figure_style import FigureStyle, bare, drawing, short, spread
from conceptlens.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptAnalysis, LayerAnalysis
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

    Value = Callable[[LayerAnalysis], Interval | float | None]


def retrieval_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw retrieval of each concept with its interval and chance, the best first, and beside it the selectivity."""
    names = [name for name in analysis.ranked() if name in analysis.figure_concepts]
    concepts = [analysis.selected.of(name) for name in names]
    selective = any(one.selectivity is not None for one in concepts)
    panels = 1 + selective
    row = 0.2 if style.narrow else 0.245
    one = row * len(concepts) + 0.75
    with drawing(style, one * (panels if style.narrow else 1)) as figure:
        left, gap = (1.12, 0.0) if style.narrow else (1.5, 0.35)
        room = style.width - left - 0.45
        for panel in range(panels):
            if style.narrow:
                box = (left, one * (panels - 1 - panel) + 0.4, room, one - 0.75)
            else:
                wide = room * (0.62 if panel == 0 else 0.38) - gap if selective else room
                box = (left + panel * (room * 0.62 + gap), 0.4, wide, one - 0.75)
            axes = figure.add_axes(_shares(box, figure))
            (_retrieval if panel == 0 else _selectivity)(axes, concepts, style)
            _rows(axes, names if panel == 0 or style.narrow else [""] * len(names), style)
    return figure


def _shares(box: tuple[float, ...], figure: Figure) -> tuple[float, float, float, float]:
    width, height = figure.get_figwidth(), figure.get_figheight()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _rows(axes: Axes, names: Sequence[str], style: FigureStyle) -> None:
    axes.set_yticks(range(len(names)), [short(name, 15 if style.narrow else 20) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=style.colour("ink"), labelsize=7.8 if style.narrow else 9.2, pad=6)
    axes.grid(axis="x", color=style.colour("line"), lw=0.8)
    axes.set_axisbelow(True)
    bare(axes)


def _retrieval(axes: Axes, concepts: Sequence[ConceptAnalysis], style: FigureStyle) -> None:
    for index, one in enumerate(concepts):
        _dot(axes, index, one.average_precision, style)
        if one.chance is not None:
            axes.plot(
                [one.chance] * 2, [index - 0.32, index + 0.32], color=style.colour("warm"), lw=2, solid_capstyle="butt"
            )
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title("Retrieval (mAP); the bar is chance")


def _selectivity(axes: Axes, concepts: Sequence[ConceptAnalysis], style: FigureStyle) -> None:
    values = [one.selectivity for one in concepts]
    for index, value in enumerate(values):
        _dot(axes, index, value, style)
    known = [n for v in values if v is not None for n in (v.mean, v.low, v.high) if n is not None]
    low, high = min(0.0, *known), max(0.0, *known)
    axes.set_xlim(low - 0.06 * (high - low + 1e-3), high + 0.06 * (high - low + 1e-3))
    axes.axvline(0, color=style.colour("warm"), lw=2)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title("Selectivity; 0 is none")


def _dot(axes: Axes, index: int, value: Interval | None, style: FigureStyle) -> None:
    if value is None:
        axes.text(1.02, index, "–", transform=axes.get_yaxis_transform(), va="center", color=style.colour("quiet"))
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [index, index], color=style.colour("accent"), lw=2, solid_capstyle="butt")
    axes.plot(value.mean, index, "o", color=style.colour("accent"), ms=4.6 if style.narrow else 5.6)
    text = f"{value.mean:.2f}".replace("-", "−")
    axes.text(1.02, index, text, transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=style.small)


def layers_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw what each layer scores, in four plots; the best layer by retrieval is on a band."""
    layers = list(analysis.layers.values())
    columns = 1 if style.narrow else 2
    tall = 1.95 if style.narrow else 2.6
    with drawing(style, tall * (len(PLOTS) // columns)) as figure:
        for index, (title, curves) in enumerate(PLOTS.items()):
            wide, row = style.width / columns, len(PLOTS) // columns - 1 - index // columns
            box = (
                index % columns * wide + 0.42,
                row * tall + 0.32,
                wide - (1.35 if style.narrow else 1.65),
                tall - 0.68,
            )
            axes = figure.add_axes(_shares(box, figure))
            if analysis.best is not None and len(layers) > 1:
                best = list(analysis.layers).index(analysis.best)
                axes.axvspan(best - 0.3, best + 0.3, color=style.colour("line"), alpha=0.8, lw=0)
            _curves(axes, [(name, marker, [value(one) for one in layers]) for name, marker, value in curves], style)
            _layer_axis(axes, list(analysis.layers), title, style)
    return figure


PLOTS: dict[str, tuple[tuple[str, str, Value], ...]] = {
    "Retrieval": (
        ("mAP", "o-", lambda layer: layer.average_precision),
        ("P@1", "s--", lambda layer: layer.precision_at[1]),
        ("chance", ":", lambda layer: layer.chance),
    ),
    "Selectivity": (("selectivity", "o-", lambda layer: layer.selectivity),),
    "Clusters (cut without labels)": (
        ("ARI", "o-", lambda layer: layer.agreement.adjusted_rand),
        ("purity", "s--", lambda layer: layer.agreement.purity),
        ("purity by chance", ":", lambda layer: layer.agreement.chance),
    ),
    "Distances": (
        ("separation", "o-", lambda layer: layer.pairs.quantile_separation.mean()),
        ("overlap", "s--", lambda layer: layer.pairs.overlap.mean()),
        ("silhouette", "^-.", lambda layer: layer.silhouette),
    ),
}


def _curves(axes: Axes, curves: Sequence[tuple[str, str, list[Interval | float | None]]], style: FigureStyle) -> None:
    """Draw lines over layers with bars where there are intervals, and write each line's name at its end."""
    colours = {"o": style.colour("accent"), "s": style.colour("warm")}
    line_ends = []
    for number, (name, marker, values) in enumerate(curves):
        means = np.array([_mean(value) for value in values])
        aside = 0.05 * number if any(isinstance(value, Interval) for value in values) else 0  # intervals side by side
        colour = colours.get(marker[0], style.colour("quiet"))
        if not np.isfinite(means).any():
            continue
        axes.plot(np.arange(len(means)) + aside, means, marker, color=colour, ms=4.5, lw=1.7)
        for index, value in enumerate(values):
            low, high = getattr(value, "low", None), getattr(value, "high", None)
            if low is not None and high is not None:
                axes.plot([index + aside] * 2, [low, high], color=colour, lw=4.5, alpha=0.35, solid_capstyle="butt")
        line_ends.append((name, colour, float(means[np.isfinite(means)][-1])))
    if not line_ends:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.colour("quiet"))
        return
    low, high = axes.get_ylim()
    low, high = min(0.0, low), max(high, 1.0 if high > 0.65 else high)
    axes.set_ylim(low, high)
    ends = spread(np.array([end for *_, end in line_ends]), 0.13 * (high - low), low, high)
    for (name, colour, _), end in zip(line_ends, ends, strict=True):
        label = name.replace(" by ", "\nby ") if style.narrow else name
        axes.text(
            1.02, end, label, transform=axes.get_yaxis_transform(), va="center", color=colour, fontsize=style.small,
            linespacing=1.05,
        )  # fmt: skip


def _mean(value: Interval | float | None) -> float:
    return float("nan") if value is None else value.mean if isinstance(value, Interval) else value


def _layer_axis(axes: Axes, names: Sequence[str], title: str, style: FigureStyle) -> None:
    step = max(1, -(-len(names) // (4 if style.narrow else 6)))
    room = int((34 if style.narrow else 62) / max(1, -(-len(names) // step)))
    axes.set_xticks(range(0, len(names), step), [_tail(names[i], room) for i in range(0, len(names), step)])
    axes.set_xlim(-0.45, len(names) - 0.55)
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(axis="x", labelcolor=style.colour("ink"))
    axes.grid(axis="y", color=style.colour("line"), lw=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title)
    bare(axes)


def _tail(name: str, max_length: int) -> str:
    """Return the end of a layer's name, which tells it from others."""
    return name if len(name) <= max_length else f"…{name[-max_length + 1 :]}"
