"""The analysis of a store as one HTML page without scripts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from conceptlens.local_embeddings.analysis.layer_analysis import CUTOFFS, MIN_IMAGES
from conceptlens.local_embeddings.report.analysis_sentences import (
    best_layer,
    confused_pairs,
    other_best_layers,
    published_and_corrected,
    summary_lines,
)
from conceptlens.local_embeddings.report.figure_style import FigureStyle
from conceptlens.local_embeddings.report.tiles import Tiles, tile_bytes
from conceptlens.pages.static_page import embedded, page_origin, static_page

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

Drawings = Mapping[str, Mapping[FigureStyle, bytes]]


def analysis_page(analysis: StoreAnalysis, drawings: Drawings, tiles: Tiles, numbers: Mapping[str, Any]) -> str:
    """Return the page of an analysis as HTML that loads nothing from outside.

    Args:
        analysis: What the page shows.
        drawings: Figures as PNG, by name and style.
        tiles: Of all example rows.
        numbers: What `analysis_numbers` returns: the store and the settings are shown.
    """
    rows, selected, ranked = analysis.rows, analysis.selected, analysis.ranked()
    retrieval = {one.concept: one for one in analysis.examples.retrieval}
    return static_page(
        "conceptlens.local_embeddings.report",
        "analysis.html.j2",
        "table.css",
        "analysis.css",
        **page_origin(numbers["settings"]),
        store=numbers["store"],
        analysis=analysis,
        selected=selected,
        facts=_facts(analysis),
        notices=_notices(analysis, tiles),
        summary=summary_lines(analysis),
        figures={name: _drawn(of) for name, of in drawings.items()},
        concepts=[selected.of(name) for name in ranked if name in analysis.figure_concepts],
        more=[selected.of(name) for name in ranked if name not in analysis.figure_concepts],
        min_images=MIN_IMAGES,
        published=published_and_corrected(selected),
        others=other_best_layers(analysis),
        confused=confused_pairs(analysis),
        retrieval=[retrieval[name] for name in ranked if name in retrieval],
        example=functools.partial(_example, analysis, tiles),
        cutoffs=CUTOFFS,
        comparison=best_layer(analysis),
        whole=len(analysis.figure_concepts) == len(rows.concepts),
    )


def tile_source(row: int, tiles: Tiles) -> dict[str, Any]:
    """Return a tile as the template shows it."""
    image = tiles.images[row]
    return {"source": embedded(*tile_bytes(image)), "width": image.width, "height": image.height}


def _drawn(of: Mapping[FigureStyle, bytes]) -> dict[str, Any]:
    """Return a figure in its four looks; sizes are in pixels of the page, half of those of the file."""
    found: dict[str, Any] = {}
    for style, data in of.items():
        name = f"{'dark' if style.dark else 'light'}_{'narrow' if style.narrow else 'wide'}"
        width, height = (int.from_bytes(data[at : at + 4], "big") // 2 for at in (16, 20))
        found[name] = {"source": embedded(data, "image/png"), "width": width, "height": height}
    return found


def _facts(analysis: StoreAnalysis) -> str:
    rows = analysis.rows
    images = len(set(rows.images.tolist()))
    many = (
        (len(rows), "embedding"), (len(rows.concepts), "concept"), (images, "photo"), (len(rows.layers), "layer"),
    )  # fmt: skip
    counted = [f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ") for count, what in many]
    return " · ".join([*counted, f"mode {rows.space.mode}"])


def _notices(analysis: StoreAnalysis, tiles: Tiles) -> list[str]:
    rows, lines = analysis.rows, []
    total = sum(rows.rows_in_store.values())
    if len(rows) + rows.zero_vectors < total:
        lines.append(f"Of {total} embeddings in the store, at most {rows.max_rows} of each concept were sampled.")
    if len(analysis.figure_concepts) < len(rows.concepts):
        lines.append(
            f"Figures and tiles show the {len(analysis.figure_concepts)} most frequent of {len(rows.concepts)} "
            "concepts; tables and files have every concept."
        )
    if rows.zero_vectors:
        lines.append(f"{rows.zero_vectors} embeddings are left out: their vector is zero at some layer.")
    if rows.incomplete:
        lines.append(f"{rows.incomplete} embeddings are left out, since some layer lacks them.")
    if analysis.examples.rows and not tiles.photos:
        lines.append("No photos were given, so tiles show masks alone; --photos FOLDER brings the photos.")
    elif tiles.photos < len(analysis.examples.rows):
        missing = len(analysis.examples.rows) - tiles.photos
        lines.append(f"{missing} of {len(analysis.examples.rows)} tiles show a mask alone: their photo was not found.")
    return lines


def _example(analysis: StoreAnalysis, tiles: Tiles, row: int) -> dict[str, Any]:
    name = analysis.rows.image_rows[analysis.rows.images[row]].name
    return {**tile_source(row, tiles), "photo": name, "concept": str(analysis.rows.labels[row])}
