"""Numbers with their intervals: how well each concept is held, and how that goes from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.report.figure_style import Look, bare, drawing, short, spread
from conceptlens.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptStory, LayerStory
    from conceptlens.local_embeddings.analysis.store_analysis import Story

    Value = Callable[[LayerStory], Interval | float | None]


def held_figure(story: Story, look: Look) -> Figure:
    """Draw retrieval of each concept with its interval and chance, the best first, and beside it the selectivity."""
    names = [name for name in story.ranked() if name in story.drawn]
    told = [story.told.of(name) for name in names]
    selective = any(one.selectivity is not None for one in told)
    panels = 1 + selective
    row = 0.2 if look.narrow else 0.245
    one = row * len(told) + 0.75
    with drawing(look, one * (panels if look.narrow else 1)) as figure:
        left, gap = (1.12, 0.0) if look.narrow else (1.5, 0.35)
        room = look.width - left - 0.45
        for panel in range(panels):
            if look.narrow:
                place = (left, one * (panels - 1 - panel) + 0.4, room, one - 0.75)
            else:
                wide = room * (0.62 if panel == 0 else 0.38) - gap if selective else room
                place = (left + panel * (room * 0.62 + gap), 0.4, wide, one - 0.75)
            axes = figure.add_axes(_shares(place, figure))
            (_retrieval if panel == 0 else _selectivity)(axes, told, look)
            _rows(axes, names if panel == 0 or look.narrow else [""] * len(names), look)
    return figure


def _shares(place: tuple[float, ...], figure: Figure) -> tuple[float, float, float, float]:
    width, height = figure.get_figwidth(), figure.get_figheight()
    return place[0] / width, place[1] / height, place[2] / width, place[3] / height


def _rows(axes: Axes, names: Sequence[str], look: Look) -> None:
    axes.set_yticks(range(len(names)), [short(name, 15 if look.narrow else 20) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=look.ink, labelsize=7.8 if look.narrow else 9.2, pad=6)
    axes.grid(axis="x", color=look.line, lw=0.8)
    axes.set_axisbelow(True)
    bare(axes)


def _retrieval(axes: Axes, told: Sequence[ConceptStory], look: Look) -> None:
    for place, one in enumerate(told):
        _dot(axes, place, one.precision, look)
        if one.chance is not None:
            axes.plot([one.chance] * 2, [place - 0.32, place + 0.32], color=look.warm, lw=2, solid_capstyle="butt")
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title("Retrieval (mAP); the bar is chance")


def _selectivity(axes: Axes, told: Sequence[ConceptStory], look: Look) -> None:
    values = [one.selectivity for one in told]
    for place, value in enumerate(values):
        _dot(axes, place, value, look, 2)
    known = [n for v in values if v is not None for n in (v.mean, v.low, v.high) if n is not None]
    low, high = min(0.0, *known), max(0.0, *known)
    axes.set_xlim(low - 0.06 * (high - low + 1e-3), high + 0.06 * (high - low + 1e-3))
    axes.axvline(0, color=look.warm, lw=2)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title("Selectivity; 0 is none")


def _dot(axes: Axes, place: int, value: Interval | None, look: Look, digits: int = 2) -> None:
    if value is None:
        axes.text(1.02, place, "–", transform=axes.get_yaxis_transform(), va="center", color=look.quiet)
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [place, place], color=look.accent, lw=2, solid_capstyle="butt")
    axes.plot(value.mean, place, "o", color=look.accent, ms=4.6 if look.narrow else 5.6)
    text = f"{value.mean:.{digits}f}".replace("-", "−")
    axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=look.small)


def layers_figure(story: Story, look: Look) -> Figure:
    """Draw what each layer scores, in four plots; the best layer by retrieval is on a band."""
    layers = list(story.layers.values())
    columns = 1 if look.narrow else 2
    tall = 1.95 if look.narrow else 2.6
    with drawing(look, tall * (len(PLOTS) // columns)) as figure:
        for place, (title, curves) in enumerate(PLOTS.items()):
            wide, row = look.width / columns, len(PLOTS) // columns - 1 - place // columns
            box = (
                place % columns * wide + 0.42,
                row * tall + 0.32,
                wide - (1.35 if look.narrow else 1.65),
                tall - 0.68,
            )
            axes = figure.add_axes(_shares(box, figure))
            if story.best is not None and len(layers) > 1:
                best = list(story.layers).index(story.best)
                axes.axvspan(best - 0.3, best + 0.3, color=look.line, alpha=0.8, lw=0)
            _curves(axes, [(name, style, [value(one) for one in layers]) for name, style, value in curves], look)
            _layer_axis(axes, list(story.layers), title, look)
    return figure


PLOTS: dict[str, tuple[tuple[str, str, Value], ...]] = {
    "Retrieval": (
        ("mAP", "o-", lambda layer: layer.precision),
        ("P@1", "s--", lambda layer: layer.precision_at[1]),
        ("chance", ":", lambda layer: layer.chance),
    ),
    "Selectivity": (("selectivity", "o-", lambda layer: layer.selectivity),),
    "Clusters, blind to labels": (
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


def _curves(axes: Axes, curves: Sequence[tuple[str, str, list[Interval | float | None]]], look: Look) -> None:
    """Draw lines over layers with bars where there are intervals, and write each line's name at its end."""
    colours = {"o": look.accent, "s": look.warm}
    drawn = []
    for number, (name, style, values) in enumerate(curves):
        means = np.array([_mean(value) for value in values])
        aside = 0.05 * number if any(isinstance(value, Interval) for value in values) else 0  # intervals side by side
        colour = colours.get(style[0], look.quiet)
        if not np.isfinite(means).any():
            continue
        axes.plot(np.arange(len(means)) + aside, means, style, color=colour, ms=4.5, lw=1.7)
        for place, value in enumerate(values):
            low, high = getattr(value, "low", None), getattr(value, "high", None)
            if low is not None and high is not None:
                axes.plot([place + aside] * 2, [low, high], color=colour, lw=4.5, alpha=0.35, solid_capstyle="butt")
        drawn.append((name, colour, float(means[np.isfinite(means)][-1])))
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=look.quiet)
        return
    low, high = axes.get_ylim()
    low, high = min(0.0, low), max(high, 1.0 if high > 0.65 else high)
    axes.set_ylim(low, high)
    ends = spread(np.array([end for *_, end in drawn]), 0.13 * (high - low), low, high)
    for (name, colour, _), end in zip(drawn, ends, strict=True):
        said = name.replace(" by ", "\nby ") if look.narrow else name
        axes.text(
            1.02, end, said, transform=axes.get_yaxis_transform(), va="center", color=colour, fontsize=look.small,
            linespacing=1.05,
        )  # fmt: skip


def _mean(value: Interval | float | None) -> float:
    return float("nan") if value is None else value.mean if isinstance(value, Interval) else value


def _layer_axis(axes: Axes, names: Sequence[str], title: str, look: Look) -> None:
    step = max(1, -(-len(names) // (4 if look.narrow else 6)))
    room = int((34 if look.narrow else 62) / max(1, -(-len(names) // step)))
    axes.set_xticks(range(0, len(names), step), [_tail(names[i], room) for i in range(0, len(names), step)])
    axes.set_xlim(-0.45, len(names) - 0.55)
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(axis="x", labelcolor=look.ink)
    axes.grid(axis="y", color=look.line, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title)
    bare(axes)


def _tail(name: str, most: int) -> str:
    """Return the end of a layer's name, which tells it from others."""
    return name if len(name) <= most else f"…{name[-most + 1 :]}"
