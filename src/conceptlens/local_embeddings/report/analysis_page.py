"""The analysis of a store as one HTML page without scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.pages.static_page import static_page

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptAnalysis, LayerAnalysis
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

Drawings = Mapping[str, Mapping[FigureStyle, bytes]]


@dataclass(frozen=True)
class PageDetails:
    """How the page was made: the store, the date, every setting and the command."""

    store: str
    created: str
    settings: Mapping[str, object] = field(default_factory=dict)
    command: str = ""


def analysis_page(analysis: StoreAnalysis, drawings: Drawings, tiles: Tiles, about: PageDetails) -> str:
    """Return the page of an analysis as HTML that loads nothing from outside."""
    rows, selected, ranked = analysis.rows, analysis.selected, analysis.ranked()
    return static_page(
        "conceptlens.local_embeddings.report",
        "analysis.html.j2",
        "table.css",
        "analysis.css",
        about=about,
        analysis=analysis,
        facts=_facts(analysis),
        notices=_notices(analysis, tiles),
        summary=summary_lines(analysis),
        layer=selected.layer,
        figures={name: _drawn(of) for name, of in drawings.items()},
        mean=None if selected.average_precision is None else interval_text(selected.average_precision),
        chance=number(selected.chance, 3),
        measured=selected.selectivity is not None,
        concepts=[_concept(selected.of(name)) for name in ranked if name in analysis.figure_concepts],
        more=[_concept(selected.of(name)) for name in ranked if name not in analysis.figure_concepts],
        min_images=MIN_IMAGES,
        published=published_and_corrected(selected),
        others=other_best_layers(analysis),
        confused=confused_pairs(analysis),
        retrieval=_retrieval(analysis, tiles),
        sub_concepts=_sub_concepts(analysis, tiles),
        outliers=_outliers(analysis, tiles),
        layers=[_layer(analysis, layer) for layer in analysis.layers.values()],
        cutoffs=CUTOFFS,
        comparison=best_layer(analysis),
        umap=selected.figure_data.share is None,
        whole=len(analysis.figure_concepts) == len(rows.concepts),
        settings={name: _plain(value) for name, value in about.settings.items() if value is not None},
        failures=[row.failure for row in rows.failed],
    )


def tile_source(row: int, tiles: Tiles) -> dict[str, Any]:
    """Return a tile as the template shows it."""
    image = tiles.images[row]
    return {"source": _embedded(*tile_bytes(image)), "width": image.width, "height": image.height}


def _plain(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _embedded(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _drawn(of: Mapping[FigureStyle, bytes]) -> dict[str, Any]:
    """Return a figure in its four looks; sizes are in pixels of the page, half of those of the file."""
    found: dict[str, Any] = {}
    for style, data in of.items():
        name = f"{'dark' if style.dark else 'light'}_{'narrow' if style.narrow else 'wide'}"
        width, height = (int.from_bytes(data[at : at + 4], "big") // 2 for at in (16, 20))
        found[name] = {"source": _embedded(data, "image/png"), "width": width, "height": height}
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
    if analysis.examples.rows and tiles.no_photos:
        lines.append("No photos were given, so tiles show masks alone; --photos FOLDER brings the photos.")
    elif tiles.photos < len(analysis.examples.rows):
        missing = len(analysis.examples.rows) - tiles.photos
        lines.append(f"{missing} of {len(analysis.examples.rows)} tiles show a mask alone: their photo was not found.")
    return lines


def _concept(one: ConceptAnalysis) -> dict[str, Any]:
    own = None if one.own_iou is None else number(one.own_iou, 2)
    other = None if one.control_iou is None else number(one.control_iou, 2)
    return {
        "name": one.concept,
        "rows": one.rows,
        "images": one.images,
        "average_precision": interval_text(one.average_precision),
        "chance": number(one.chance, 3),
        "at": [number(one.precision_at[k]) for k in CUTOFFS],
        "selectivity": interval_text(one.selectivity),
        "own": None if own is None or other is None else f"{own} and {other}",
        "confused_with": one.confused_with,
        "share": None if one.confused_share is None else f"{one.confused_share:.0%}",
    }


def _layer(analysis: StoreAnalysis, layer: LayerAnalysis) -> dict[str, Any]:
    gap = analysis.gap_to_best.get(layer.layer)
    return {
        "name": layer.layer,
        "channels": layer.channels,
        "best": layer.layer == analysis.best and len(analysis.layers) > 1,
        "average_precision": interval_text(layer.average_precision),
        "gap": None if gap is None else interval_text(gap, signed, flip=True),
        "significant": gap is not None and gap.low is not None and gap.low > 0,
        "at": number(None if layer.precision_at[1] is None else layer.precision_at[1].mean),
        "selectivity": interval_text(layer.selectivity),
        "purity": f"{number(layer.agreement.purity)} ({number(layer.agreement.chance)})",
        "adjusted_rand": number(layer.agreement.adjusted_rand),
        "separation": number(layer.pairs.quantile_separation.mean()),
        "overlap": number(layer.pairs.overlap.mean(), 3),
        "unconverged": layer.unconverged,
    }


def _example(analysis: StoreAnalysis, row: int, tiles: Tiles) -> dict[str, Any]:
    name = analysis.rows.image_rows[analysis.rows.images[row]].name
    return {**tile_source(row, tiles), "photo": name, "concept": str(analysis.rows.labels[row])}


def _retrieval(analysis: StoreAnalysis, tiles: Tiles) -> list[dict[str, Any]]:
    by_name = {one.concept: one for one in analysis.examples.retrieval}
    ranked = [by_name[name] for name in analysis.ranked() if name in by_name]
    return [
        {
            "concept": one.concept,
            "average_precision": number(one.average_precision),
            "query": _example(analysis, one.query, tiles),
            "found": [
                {**_example(analysis, row, tiles), "right": right, "similarity": number(similar)}
                for row, right, similar in zip(one.found, one.right, one.similarities, strict=True)
            ],
            "hits": f"{sum(one.right)} of {len(one.right)} right",
        }
        for one in ranked
    ]


def _sub_concepts(analysis: StoreAnalysis, tiles: Tiles) -> list[dict[str, Any]]:
    return [
        {
            "concept": one.concept,
            "stability": number(one.stability),
            "rest": one.rest,
            "parts": [
                {
                    "size": part.size, "jaccard": number(part.jaccard), "verdict": part.verdict,
                    "tiles": [_example(analysis, row, tiles) for row in part.rows],
                }
                for part in one.parts
            ],
        }
        for one in analysis.examples.sub_concepts
    ]  # fmt: skip


def _outliers(analysis: StoreAnalysis, tiles: Tiles) -> list[dict[str, Any]]:
    return [
        {**_example(analysis, one.row, tiles), "distance_ratio": f"{one.distance_ratio:.1f}×"}
        for one in analysis.examples.outliers
    ]
