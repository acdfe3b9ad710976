"""Figures of a benchmark: means with their intervals, a plot for each column, and how far columns agree."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.benchmark.comparison_table import fill_title, marks, measure_heading, measure_title, shown_lines
from conceptlens.local_embeddings.report.figure_style import FigureStyle, bare, drawing, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from conceptlens.benchmark.comparison import BenchmarkComparison, ComparedLine, MeasuredCell
    from conceptlens.benchmark.protocol import Measure

# Heights and widths in inches.
ROW, HEAD, FOOT, GAP = 0.245, 0.55, 0.35, 0.3
COLUMNS = 4
# Letters of a title's line, where columns stand beside each other; of a method's name, where they are narrow.
TITLE, NAME = 22, 17


def intervals_figure(comparison: BenchmarkComparison, fill: str, style: FigureStyle) -> Figure:
    """Draw every method's mean with its interval, a plot for each column of a fill; controls are quiet.

    Args:
        comparison: What is drawn.
        fill: The fill whose columns are drawn.
        style: The style.
    """
    measures = comparison.measures_of(fill)
    across = 1 if style.narrow else min(COLUMNS, len(measures))
    down = -(-len(measures) // across)
    lines = shown_lines(comparison, measures)
    tall = HEAD + ROW * len(lines) + FOOT
    names = 1.15 if style.narrow else 2.6
    with drawing(style, tall * down) as figure:
        wide = (style.width - names - 0.1) / across
        for index, measure in enumerate(measures):
            column, row = index % across, index // across
            left, bottom = names + column * wide, tall * (down - 1 - row) + FOOT
            side, high = (wide - GAP) / style.width, ROW * len(lines) / (tall * down)
            axes = figure.add_axes((left / style.width, bottom / (tall * down), side, high))
            _draw_column(axes, lines, measure, style, named=column == 0)
    return figure


def agreement_figure(comparison: BenchmarkComparison, over: str, style: FigureStyle) -> Figure:
    """Draw Spearman's correlation of every two columns, in hundredths.

    Args:
        comparison: What is drawn; it has an agreement.
        over: "methods" or "photos".
        style: The style.
    """
    found = comparison.agreement
    values = np.zeros((0, 0)) if found is None else found.over_methods if over == "methods" else found.over_photos
    labels = agreement_labels(comparison.measures, 24 if style.narrow else 40)
    left = 1.62 if style.narrow else 2.9
    cell = min((style.width - left - 0.1) / max(len(labels), 1), 0.42)
    height = cell * len(labels) + 0.5
    with drawing(style, height) as figure:
        side = cell * len(labels)
        axes = figure.add_axes((left / style.width, 1 - (side + 0.3) / height, side / style.width, side / height))
        _draw_matrix(axes, values, labels, style)
    return figure


def agreement_labels(measures: Sequence[Measure], longest: int) -> list[str]:
    """Return a name for each column that differs from all others: with its fill in full, and its number last.

    Args:
        measures: The columns.
        longest: Letters that a name has at most, as far as its number and fill allow.
    """
    names = []
    for place, one in enumerate(measures, 1):
        fill = f", {one.fill.replace('_', ' ')}" if one.fill else ""
        room = max(longest - len(fill) - len(f"{place}  "), 6)
        names.append(f"{_without_middle(measure_title(one)[:-2], room)}{fill}  {place}")
    return names


def _without_middle(title: str, room: int) -> str:
    """Return a title cut to `room` letters where it is longer, its last words kept: titles begin alike."""
    if len(title) <= room:
        return title
    end = ""
    for word in reversed(title.split(" ")):
        if len(f"{word} {end}".rstrip()) > room - 5:
            break
        end = f"{word} {end}".rstrip()
    return f"{title[: room - len(end) - 1].rstrip()}…{end}"


def _draw_column(
    axes: Axes, lines: Sequence[ComparedLine], measure: Measure, style: FigureStyle, *, named: bool
) -> None:
    for index, line in enumerate(lines):
        colour = style.colour("hollow" if line.method.control else "accent")
        _draw_cell(axes, index, line.cells[measure], colour, style)
    longest = NAME if style.narrow else 38
    labels = [short(line.method.title, longest) if named else "" for line in lines]
    axes.set_yticks(range(len(lines)), labels)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=style.colour("ink"), pad=6)
    axes.grid(axis="x", color=style.colour("line"), lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(textwrap.fill(measure_heading(measure), 40 if style.narrow else TITLE))
    bare(axes)


def _draw_cell(axes: Axes, row: int, cell: MeasuredCell, colour: str, style: FigureStyle) -> None:
    value = cell.interval
    if value is None:
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [row, row], color=colour, lw=2, solid_capstyle="butt")
    axes.plot(value.mean, row, "o", color=colour, ms=4.6 if style.narrow else 5.2)
    axes.text(
        1.01, row, marks(cell), transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=style.small,
        color=style.colour("quiet"),
    )  # fmt: skip


def _draw_matrix(
    axes: Axes, values: Float[np.ndarray, "measure measure"], labels: list[str], style: FigureStyle
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    ends = [style.colour(name) for name in ("warm", "card", "accent")]
    colours = LinearSegmentedColormap.from_list("agreement", ends)
    axes.imshow(np.nan_to_num(values), cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(range(len(labels)), [f"{place}" for place in range(1, len(labels) + 1)], fontsize=style.small)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelcolor=style.colour("ink"), pad=2)
    axes.tick_params(axis="y", labelcolor=style.colour("ink"), pad=6)
    bare(axes)
    if style.narrow and len(labels) > 8:
        return
    for (row, column), value in np.ndenumerate(values):
        strong = abs(np.nan_to_num(value)) > 0.6
        axes.text(
            column, row, "–" if np.isnan(value) else f"{round(100 * value)}".replace("-", "−"), ha="center",
            va="center_baseline", fontsize=6.8, color=style.colour("card" if strong else "ink"),
        )  # fmt: skip


def figure_alternative(comparison: BenchmarkComparison, fill: str) -> str:
    """Return what a figure of intervals shows, in words, for those who cannot see it.

    Args:
        comparison: What is drawn.
        fill: The fill whose columns are drawn.
    """
    columns = ", ".join(measure_title(one)[:-2] for one in comparison.measures_of(fill))
    title = fill_title(comparison, fill)
    return f"Means with 95% intervals of {columns}, for each method; {title}. The table has the numbers."
