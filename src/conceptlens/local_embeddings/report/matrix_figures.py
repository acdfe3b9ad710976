"""Matrix figures of concept pairs: separation, and confusion by nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.local_embeddings.report.figure_style import FigureStyle, bare, drawing, short

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

MIN_SHADE = 0.1  # share of neighbours with the full colour, unless one is higher


def separation_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw the separation of all pairs: below the diagonal by quantiles, above it as published; dark is near."""
    names = analysis.selected.figure_data.order
    pairs = analysis.selected.pairs
    indices = [pairs.separation.labels.index(name) for name in names]
    robust, published = (
        np.where(table.applies, table.values, np.nan)[np.ix_(indices, indices)]
        for table in (pairs.quantile_separation, pairs.separation)
    )
    below = np.tril(np.ones_like(robust, dtype=bool), -1)
    shown_values = np.where(below, robust, published)
    np.fill_diagonal(shown_values, np.nan)
    with _square(style, names, len(names)) as (figure, axes):
        shade = np.where(below, 1 - _level(robust[below], robust), 1 - _level(published[~below], published))
        _cells(axes, shown_values, shade, style)
        _names(axes, names, names, style)
        _note(axes, "above:\nas\npublished", "below:\nby\nquantiles", style)
    return figure


def confusion_figure(analysis: StoreAnalysis, style: FigureStyle) -> Figure:
    """Draw the concepts of the nearest neighbours; the diagonal is written but not coloured."""
    names = analysis.selected.figure_data.order
    table = analysis.selected.pairs.neighbours
    indices = [table.labels.index(name) for name in names]
    values = np.where(table.applies, table.values, np.nan)[np.ix_(indices, indices)]
    columns = names
    if len(table.labels) > len(names):
        values = np.concatenate([values, 1 - values.sum(1, keepdims=True)], axis=1)
        columns = (*names, "all others")
    shade = np.nan_to_num(values)
    shade[np.arange(len(names)), np.arange(len(names))] = 0
    shade[:, len(names) :] = 0  # the column of all others has no colour
    with _square(style, names, len(columns)) as (figure, axes):
        _cells(axes, values, shade / max(MIN_SHADE, float(shade.max(initial=0))), style)
        _diagonal(axes, len(names), style)
        _names(axes, names, columns, style)
        if len(columns) > len(names):
            axes.axvline(len(names) - 0.5, color=style.colour("card"), lw=2 if style.narrow else 5)
        if not style.narrow:
            axes.set_xlabel("concept of the neighbours", labelpad=8)
            axes.set_ylabel("concept of the query", labelpad=8)
    return figure


@contextmanager
def _square(style: FigureStyle, rows: tuple[str, ...], columns: int) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one plot of square cells, and room for names at the left and below."""
    letters = max(len(_short_label(name, style)) for name in (*rows, "all others"))
    names = 0.25 + letters * (0.062 if style.narrow else 0.082) + (0 if style.narrow else 0.25)
    cell = min((style.width - names - (0.05 if style.narrow else 1.0)) / columns, 0.40)
    height = cell * len(rows) + names + (0.05 if style.narrow else 0.25)
    with drawing(style, height) as figure:
        wide, tall = cell * columns / style.width, cell * len(rows) / height
        yield figure, figure.add_axes((names / style.width, 1 - tall - 0.04 / height, wide, tall))


def _short_label(name: str, style: FigureStyle) -> str:
    return short(name, 13 if style.narrow else 20)


def _level(range_of: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "row column"]:
    """Return values scaled from 0 at the least to 1 at the greatest of `range_of`."""
    known = range_of[np.isfinite(range_of)]
    if not len(known) or known.max() == known.min():
        return np.where(np.isfinite(values), 0.5, 1.0)
    return np.nan_to_num((values - known.min()) / (known.max() - known.min()), nan=1.0)


def _cells(axes: Axes, values: np.ndarray, shade: np.ndarray, style: FigureStyle) -> None:
    """Colour every cell, and write its value in hundredths where there is room."""
    shade = np.where(np.isfinite(values), shade, 0).clip(0, 1)
    axes.imshow(shade, cmap=_colours(style), vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    axes.set_xticks(np.arange(values.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(values)) - 0.5, minor=True)
    axes.grid(which="minor", color=style.colour("card"), lw=1)
    axes.tick_params(which="minor", length=0)
    bare(axes)
    if style.narrow and len(values) > 10:
        return
    size = min(8.2, 190 / max(len(values), 1))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and round(100 * value):
            strong = shade[i, j] > (0.58 if style.dark else 0.68)
            axes.text(
                j, i, f"{100 * value:.0f}", ha="center", va="center_baseline", fontsize=size,
                color=style.colour("card" if strong else "ink" if shade[i, j] > 0.03 else "quiet"),
            )  # fmt: skip


def _diagonal(axes: Axes, count: int, style: FigureStyle) -> None:
    from matplotlib.patches import Rectangle

    colour = style.colour("quiet")
    for index in range(count):
        corner = (index - 0.44, index - 0.44)
        axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, ec=colour, lw=0.7, zorder=3))


def _names(axes: Axes, rows: tuple[str, ...], columns: tuple[str, ...], style: FigureStyle) -> None:
    axes.set_yticks(range(len(rows)), [_short_label(name, style) for name in rows])
    axes.set_xticks(range(len(columns)), [_short_label(name, style) for name in columns], rotation=90)
    axes.tick_params(which="major", labelcolor=style.colour("ink"), pad=4, labelsize=7.4 if style.narrow else 9)


def _note(axes: Axes, above: str, below: str, style: FigureStyle) -> None:
    """Say at the right what the two triangles are, where there is room."""
    if style.narrow:
        return
    size, colour = style.small + 0.8, style.colour("quiet")
    for y, text, align in ((0.98, above, "top"), (0.02, below, "bottom")):
        axes.text(1.02, y, text, transform=axes.transAxes, va=align, color=colour, fontsize=size)


def _colours(style: FigureStyle) -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    steps = ("#232830", "#2d4a6e", "#5c8fcb", "#b9d6fa") if style.dark else ("#f4f2ee", "#c5d5e8", "#6f98c8", "#1c4a82")
    return LinearSegmentedColormap.from_list("near", steps)
