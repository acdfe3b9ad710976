"""The story of a store as one HTML file, in the order in which a reader asks; no script at all."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.local_embeddings.analysis.layer_analysis import CUTOFFS, FEWEST
from conceptlens.local_embeddings.report.analysis_sentences import beside, opening, otherwise, pairs_told, verdicts
from conceptlens.local_embeddings.report.figure_style import Look
from conceptlens.local_embeddings.report.tiles import Tiles, tile_bytes
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.pages.static_page import static_page

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptStory, LayerStory
    from conceptlens.local_embeddings.analysis.store_analysis import Story

Drawings = Mapping[str, Mapping[Look, bytes]]


@dataclass(frozen=True)
class AboutAtlas:
    """What the page says of its making: the store, when, every setting, and the command."""

    store: str
    created: str
    settings: Mapping[str, object] = field(default_factory=dict)
    command: str = ""


def write_atlas_page(
    path: str | os.PathLike[str], story: Story, drawings: Drawings, tiles: Tiles, about: AboutAtlas
) -> Path:
    """Write the page of a story, atomically, and return its path."""
    text = atlas_page(story, drawings, tiles, about)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def atlas_page(story: Story, drawings: Drawings, tiles: Tiles, about: AboutAtlas) -> str:
    """Return the page of a story as HTML that asks for nothing outside itself."""
    rows, told, ranked = story.rows, story.told, story.ranked()
    return static_page(
        "conceptlens.local_embeddings.report",
        "analysis.html.j2",
        "table.css",
        "analysis.css",
        about=about,
        story=story,
        facts=_facts(story),
        notices=_notices(story, tiles),
        short=opening(story),
        layer=told.layer,
        figures={name: _drawn(of) for name, of in drawings.items()},
        mean=None if told.precision is None else interval_text(told.precision),
        chance=number(told.chance, 3),
        measured=told.selectivity is not None,
        concepts=[_concept(told.of(name)) for name in ranked if name in story.drawn],
        more=[_concept(told.of(name)) for name in ranked if name not in story.drawn],
        few=FEWEST,
        beside=beside(told),
        otherwise=otherwise(story),
        confused=pairs_told(story),
        strips=_strips(story, tiles),
        parted=_parted(story, tiles),
        odd=_odd(story, tiles),
        layers=[_layer(story, layer) for layer in story.layers.values()],
        cutoffs=CUTOFFS,
        verdict=verdicts(story),
        umap=told.drawn.share is None,
        whole=len(story.drawn) == len(rows.concepts),
        settings={name: _plain(value) for name, value in about.settings.items() if value is not None},
        failures=[row.failure for row in rows.failed],
    )


def tile_source(row: int, tiles: Tiles) -> dict[str, Any]:
    """Return a tile as the template shows it."""
    data, kind = tile_bytes(tiles.pictures[row])
    picture = tiles.pictures[row]
    return {"source": _embedded(data, kind), "width": picture.width, "height": picture.height}


def _plain(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _embedded(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _drawn(of: Mapping[Look, bytes]) -> dict[str, Any]:
    """Return a figure in its four looks; sizes are in pixels of the page, half of those of the file."""
    found: dict[str, Any] = {}
    for look, data in of.items():
        place = f"{'dark' if look.dark else 'light'}_{'narrow' if look.narrow else 'wide'}"
        width, height = (int.from_bytes(data[at : at + 4], "big") // 2 for at in (16, 20))
        found[place] = {"source": _embedded(data, "image/png"), "width": width, "height": height}
    return found


def _facts(story: Story) -> str:
    rows = story.rows
    images = len(set(rows.images.tolist()))
    many = (
        (len(rows), "embedding"), (len(rows.concepts), "concept"), (images, "photo"), (len(rows.layers), "layer"),
    )  # fmt: skip
    counted = [f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", " ") for count, what in many]
    return " · ".join([*counted, f"mode {rows.space.mode}"])


def _notices(story: Story, tiles: Tiles) -> list[str]:
    rows, told = story.rows, []
    total = sum(rows.sizes.values())
    if len(rows) + rows.left_out < total:
        told.append(
            f"Of {total} embeddings in the store, at most {rows.most} of each concept were drawn and looked at."
        )
    if len(story.drawn) < len(rows.concepts):
        told.append(
            f"Figures and tiles show the {len(story.drawn)} most frequent of {len(rows.concepts)} concepts; "
            "tables and files have every concept."
        )
    if rows.left_out:
        told.append(f"{rows.left_out} rows are left out: their vector is zero at some layer, and points nowhere.")
    if rows.unshared:
        told.append(f"{rows.unshared} rows are left out, since not every layer has them.")
    if story.shown.rows and tiles.plain:
        told.append("No photos were given, so tiles show masks alone; --photos FOLDER brings the photos.")
    elif tiles.photos < len(story.shown.rows):
        missing = len(story.shown.rows) - tiles.photos
        told.append(f"{missing} of {len(story.shown.rows)} tiles show a mask alone: their photo was not found.")
    return told


def _concept(one: ConceptStory) -> dict[str, Any]:
    own = None if one.own_iou is None else number(one.own_iou, 2)
    other = None if one.control_iou is None else number(one.control_iou, 2)
    return {
        "name": one.concept,
        "rows": one.rows,
        "images": one.images,
        "precision": interval_text(one.precision),
        "chance": number(one.chance, 3),
        "at": [number(one.precision_at[k]) for k in CUTOFFS],
        "selectivity": interval_text(one.selectivity),
        "own": None if own is None or other is None else f"{own} and {other}",
        "confused": one.confused,
        "share": None if one.confused_share is None else f"{one.confused_share:.0%}",
    }


def _layer(story: Story, layer: LayerStory) -> dict[str, Any]:
    behind = story.behind.get(layer.layer)
    return {
        "name": layer.layer,
        "channels": layer.channels,
        "best": layer.layer == story.best and len(story.layers) > 1,
        "precision": interval_text(layer.precision),
        "behind": None if behind is None else interval_text(behind, signed, flip=True),
        "sure": behind is not None and behind.low is not None and behind.low > 0,
        "at": number(None if layer.precision_at[1] is None else layer.precision_at[1].mean),
        "selectivity": interval_text(layer.selectivity),
        "purity": f"{number(layer.agreement.purity)} ({number(layer.agreement.chance)})",
        "adjusted_rand": number(layer.agreement.adjusted_rand),
        "separation": number(layer.pairs.quantile_separation.mean()),
        "overlap": number(layer.pairs.overlap.mean(), 3),
        "unconverged": layer.unconverged,
    }


def _shown(story: Story, row: int, tiles: Tiles) -> dict[str, Any]:
    name = story.rows.pictures[story.rows.images[row]].name
    return {**tile_source(row, tiles), "photo": name, "concept": str(story.rows.labels[row])}


def _strips(story: Story, tiles: Tiles) -> list[dict[str, Any]]:
    by_name = {one.concept: one for one in story.shown.strips}
    ranked = [by_name[name] for name in story.ranked() if name in by_name]
    return [
        {
            "concept": one.concept,
            "precision": number(one.precision),
            "query": _shown(story, one.query, tiles),
            "found": [
                {**_shown(story, row, tiles), "right": right, "similarity": number(similar)}
                for row, right, similar in zip(one.found, one.right, one.similarities, strict=True)
            ],
            "hits": f"{sum(one.right)} of {len(one.right)} right",
        }
        for one in ranked
    ]


def _parted(story: Story, tiles: Tiles) -> list[dict[str, Any]]:
    return [
        {
            "concept": one.concept,
            "stability": number(one.stability),
            "rest": one.rest,
            "parts": [
                {
                    "size": part.size, "again": number(part.found_again), "verdict": part.verdict,
                    "tiles": [_shown(story, row, tiles) for row in part.rows],
                }
                for part in one.parts
            ],
        }
        for one in story.shown.parted
    ]  # fmt: skip


def _odd(story: Story, tiles: Tiles) -> list[dict[str, Any]]:
    return [{**_shown(story, one.row, tiles), "times": f"{one.times:.1f}×"} for one in story.shown.odd]
