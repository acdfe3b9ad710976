"""The page of a benchmark: tables with marks, plots with intervals, how metrics agree, and photos to look at."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_cases import SIDES, BenchmarkCase, ChosenCases, ShownPhoto
from conceptlens.benchmark.benchmark_figures import agreement_figure, figure_alternative, intervals_figure
from conceptlens.benchmark.comparison_table import (
    fill_title,
    marks,
    measure_heading,
    measure_title,
    notes,
    shown_lines,
    unbeaten_text,
)
from conceptlens.benchmark.metric_agreement import MIN_METHODS
from conceptlens.benchmark.suite_metrics import SUITE_METRICS
from conceptlens.io.images import shrunk
from conceptlens.local_embeddings.report.figure_style import FIGURE_STYLES, FigureStyle, png
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.pages.static_page import embedded, embedded_photo, page_origin, static_page
from conceptlens.render import overlay, scale_of
from conceptlens.statistics.multiple_comparisons import MIN_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from PIL import Image

    from conceptlens.benchmark.benchmark_result import BenchmarkResult
    from conceptlens.benchmark.comparison import BenchmarkComparison
    from conceptlens.benchmark.comparison_table import TextTable

# The longest side of a case's images, in pixels.
SIDE = 320
HEADINGS = {
    "gain": ("does best", "The highest gains by photo."),
    "usual": ("is as usual", "As many photos gain more as gain less."),
    "loss": ("does worst", "The lowest gains by photo."),
}
# Up to so many columns, agreement is written in the figure; more are in the numbers alone.
MAX_AGREEMENT = 24
three = functools.partial(number, digits=3)


def benchmark_page(result: BenchmarkResult, chosen: ChosenCases | None, shown: Sequence[ShownPhoto]) -> str:
    """Return the page of a benchmark as HTML that loads nothing from outside.

    Args:
        result: The finished run.
        chosen: The photos to look at.
        shown: Each of them with its maps, in the order of `chosen`.
    """
    found = result.comparison
    protocol = next(iter(result.protocols.values()))
    settings = {
        "data": protocol.data, "model": protocol.model, "layer": protocol.layer, "question": protocol.question,
        "seed": protocol.seed, "photos": protocol.photos, "weights": protocol.weights,
    }  # fmt: skip
    return static_page(
        "conceptlens.benchmark",
        "benchmark.html.j2",
        "table.css",
        "benchmark.css",
        **page_origin({name: value for name, value in settings.items() if value != ""}),
        question=result.suite.question,
        suite=result.suite.name,
        data=protocol.data,
        model=protocol.model,
        comparison=found,
        notices=result.remarks,
        sheets=[_sheet(found, fill) for fill in found.fills],
        further=[_further(table) for table in result.further_tables],
        notes=notes(found),
        agreements=_agreements(found),
        metrics=[_metric_words(name) for name in dict.fromkeys(measure.metric for measure in found.measures)],
        kinds=_kinds(result, chosen, shown),
        lead=None if chosen is None else _lead(found, chosen),
    )


def _metric_words(name: str) -> dict[str, str]:
    """Return what a metric is called, and its direction, chance level, needs and source in words."""
    metric = SUITE_METRICS[name]
    chance = metric.chance_of("the share of the photo inside")
    source = f"{metric.source[:1].upper()}{metric.source[1:]}"
    words = f"{'Higher' if metric.higher_is_better else 'Lower'} is better. Chance: {chance}. "
    words += f"Needs: {', '.join(metric.needs)}. {source}."
    return {"title": metric.title, "words": words}


def _sheet(found: BenchmarkComparison, fill: str) -> dict[str, Any]:
    """Return the table and the figure of one fill."""
    measures = found.measures_of(fill)
    title = fill_title(found, fill)

    def row(line: Any) -> dict[str, Any]:
        cells = [
            {
                **interval_text(line.cells[measure].interval, three),
                "marks": marks(line.cells[measure]),
                "name": measure_heading(measure),
                "unbeaten": ", ".join(line.cells[measure].unbeaten),
            }
            for measure in measures
        ]
        return {
            "title": line.method.title,
            "control": line.method.control,
            "cells": cells,
            "unbeaten": unbeaten_text(line, measures),
        }

    return {
        "title": f"{title[:1].upper()}{title[1:]}",
        "headings": [measure_heading(measure) for measure in measures],
        "rows": [row(line) for line in shown_lines(found, measures)],
        "figure": _drawn(lambda style: intervals_figure(found, fill, style)),
        "alternative": figure_alternative(found, fill),
    }


def _further(table: TextTable) -> dict[str, Any]:
    """Return a table that has no figure and no marks."""
    first = len(table.rows) - table.controls
    rows = [
        {"cells": [cell.partition(" [") for cell in row[1:]], "title": row[0], "control": at >= first}
        for at, row in enumerate(table.rows)
    ]
    return {"title": f"{table.title[:1].upper()}{table.title[1:]}", "headings": table.heading[1:], "rows": rows}


def _agreements(found: BenchmarkComparison) -> list[dict[str, Any]]:
    """Return the matrices of agreement; why one is left out, where it would say nothing."""
    if found.agreement is None:
        return []
    words = {
        "methods": "Do two metrics rank the methods alike? Controls are among them.",
        "photos": "Do two metrics rank the photos alike, for one method? Mean over the methods that are no controls.",
    }
    return [
        {
            "title": f"Over {over}",
            "words": text,
            "left_out": (reason := _why_left_out(found, over)),
            "figure": None if reason else _drawn(lambda style, over=over: agreement_figure(found, over, style)),
            "alternative": f"Spearman's correlation of every two columns over {over}, in hundredths.",
        }
        for over, text in words.items()
    ]


def _why_left_out(found: BenchmarkComparison, over: str) -> str:
    """Say why a matrix of agreement is left out; empty where it is not."""
    if found.photos < MIN_IMAGES:
        return f"Left out: ranks over fewer than {MIN_IMAGES} photos agree or differ by chance."
    if over == "methods" and len(found.lines) < MIN_METHODS:
        return f"Left out: ranks of fewer than {MIN_METHODS} methods agree or differ by chance."
    if len(found.measures) > MAX_AGREEMENT:
        return f"Left out: more than {MAX_AGREEMENT} columns are too many to draw; benchmark.json has the numbers."
    return ""


def _drawn(draw: Callable[[FigureStyle], Figure]) -> dict[str, Any]:
    """Return a figure in its four looks; sizes are in pixels of the page, half of those of the file."""
    found: dict[str, Any] = {}
    for style in FIGURE_STYLES:
        data = png(draw(style))
        name = f"{'dark' if style.dark else 'light'}_{'narrow' if style.narrow else 'wide'}"
        width, height = (int.from_bytes(data[at : at + 4], "big") // 2 for at in (16, 20))
        found[name] = {"source": embedded(data, "image/png"), "width": width, "height": height}
    return found


def _lead(found: BenchmarkComparison, chosen: ChosenCases) -> dict[str, str]:
    titles = {line.method.name: line.method.title for line in found.lines}
    column, fill = measure_title(chosen.measure), chosen.measure.fill
    return {
        "method": titles[chosen.method],
        "against": titles[chosen.against],
        "column": f"{column}, {fill_title(found, fill)}" if fill else column,
    }


def _kinds(result: BenchmarkResult, chosen: ChosenCases | None, shown: Sequence[ShownPhoto]) -> list[dict[str, Any]]:
    if chosen is None:
        return []
    pairs = list(zip(chosen.cases, shown, strict=True))
    titles = {line.method.name: line.method.title for line in result.comparison.lines}
    kinds = []
    for side in SIDES:
        title, words = HEADINGS[side]
        cases = [_shown_case(case, one, titles) for case, one in pairs if case.side == side]
        kinds.append({"title": title, "words": words, "cases": cases})
    return kinds


def _shown_case(case: BenchmarkCase, one: ShownPhoto, titles: Mapping[str, str]) -> dict[str, Any]:
    photo = shrunk(one.photo, SIDE)
    return {
        "photo": case.photo,
        "question": case.question,
        "gain": signed(case.gain, 3),
        "original": embedded_photo(photo),
        "maps": [
            {"title": titles[name], "picture": embedded_photo(_overlay(photo, one, name)),
             "value": three(case.values.get(name))}
            for name in titles if name in one.maps
        ],
    }  # fmt: skip


def _overlay(photo: Image.Image, one: ShownPhoto, method: str) -> Image.Image:
    values = one.maps[method]
    box = [min(max(side, 0.0), 1.0) for side in one.box]
    return overlay(photo, values, scale_of([values], one.signed[method] and bool((values < 0).any())), box=box)
