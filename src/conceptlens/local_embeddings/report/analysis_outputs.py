"""What `conceptlens analyze` leaves behind: tables, numbers, figures, the page; and a summary in the terminal."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.io.atomic import replacing
from conceptlens.io.versions import versions
from conceptlens.local_embeddings.report.analysis_page import AboutAtlas, Drawings, write_atlas_page
from conceptlens.local_embeddings.report.analysis_sentences import ends
from conceptlens.local_embeddings.report.curves import held_figure, layers_figure
from conceptlens.local_embeddings.report.dendrogram import tree_figure
from conceptlens.local_embeddings.report.figure_style import LOOKS, Look, png
from conceptlens.local_embeddings.report.matrix_figures import confusion_figure, separation_figure
from conceptlens.local_embeddings.report.projection_figure import map_figure
from conceptlens.local_embeddings.report.tiles import Shelf, Tiles, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.store_analysis import Story

SCHEMA = "conceptlens.analyze/1"
FILES_ALONE = ("pairs", "rows", "merges")
FIGURES: dict[str, Callable[[Story, Look], Figure]] = {
    "held": held_figure,
    "confusion": confusion_figure,
    "separation": separation_figure,
    "tree": tree_figure,
    "map": map_figure,
    "layers": layers_figure,
}


def atlas_numbers(story: Story, found: Mapping[str, list[dict[str, Any]]], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a story as `--json` prints them: tables as lists of records, six digits each.

    Tables with a line for each row or each pair of concepts are files alone.
    """
    rows = story.rows
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **told,
        "model": rows.space.model,
        "mode": rows.space.mode,
        "layer": story.told.layer,
        "best": story.best,
        "drawn": list(story.drawn),
        "rows_looked_at": len(rows),
        "rows_in_store": sum(rows.sizes.values()),
        "rows_left_out": rows.left_out,
        "rows_unshared": rows.unshared,
        **{
            name: [{key: _rounded(value) for key, value in one.items()} for one in of]
            for name, of in found.items() if name not in FILES_ALONE
        },
        "failures": [{"image": row.name, "error": row.failure} for row in rows.failed],
    }  # fmt: skip


def write_atlas(
    out: Path,
    story: Story,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    numbers: Mapping[str, Any],
    tiles: Tiles,
) -> list[Path]:
    """Write the page, the numbers, a Parquet file of each table and the figures into a folder; return the first two.

    The folder holds `story.html`, `story.json`, `tables/NAME.parquet` and `figures/NAME.png`, or `.jpg` for photos.
    """
    drawings = draw_figures(story)
    now = datetime.datetime.now().astimezone()
    settings = {**numbers["settings"], "versions": ", ".join(f"{n} {v}" for n, v in versions().items())}
    about = AboutAtlas(
        numbers["store"], f"{now.day} {now:%B %Y, %H:%M}", settings, shlex.join(["conceptlens", *sys.argv[1:]])
    )
    for name, records in found.items():
        if records:
            _parquet(out / "tables" / f"{name}.parquet", records)
    for name, of in drawings.items():
        _bytes(out / "figures" / f"{name}.png", of[Look()])
    for name, shelves in _shelves(story).items():
        if shelves:
            _bytes(out / "figures" / f"{name}.jpg", sheet(shelves, tiles))
    with replacing(out / "story.json") as temporary:
        temporary.write_text(json.dumps(numbers, allow_nan=False), "utf-8")
    page = write_atlas_page(out / "story.html", story, drawings, tiles, about)
    return [page, out / "story.json"]


def draw_figures(story: Story) -> Drawings:
    """Return every figure as PNG in every look."""
    return {name: {look: png(draw(story, look)) for look in LOOKS} for name, draw in FIGURES.items()}


def print_story(story: Story, console: Console | None = None) -> None:
    """Print what each layer holds, and the concepts held best and worst."""
    console = console or Console()
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    for title in ("mAP", "95%", "chance", "selectivity", "ARI", "overlap"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in story.layers.values():
        held, selective = layer.precision, layer.selectivity
        spread = "-" if held is None or held.low is None else f"{held.low:.2f} to {held.high:.2f}"
        numbers = (None if held is None else held.mean, layer.chance, None if selective is None else selective.mean,
                   layer.agreement.adjusted_rand, layer.pairs.overlap.mean())  # fmt: skip
        told = ["-" if number is None else f"{number:.3f}" for number in numbers]
        table.add_row(layer.layer.replace("[", "\\["), told[0], spread, *told[1:])
    console.print(table)
    first, last = (", ".join(one.concept for one in part) for part in ends(story))
    if first:
        worst = f"; worst: {last}" if last else ""
        console.print(f"held best at {story.told.layer}: {first}{worst}", highlight=False, markup=False)


def _shelves(story: Story) -> dict[str, list[Shelf]]:
    shown, labels = story.shown, story.rows.labels
    strips = []
    for one in shown.strips:
        told = ("right" if ok else f"wrong: {labels[row]}" for row, ok in zip(one.found, one.right, strict=True))
        title = f"{one.concept}\nAP {one.precision:.2f}"
        strips.append(Shelf(title, (one.query, *one.found), ("asked", *told), (None, *one.right)))
    parts = [
        Shelf(f"{one.concept}\n{part.size} embeddings\n{part.verdict}", part.rows, ("",) * len(part.rows))
        for one in shown.parted
        for part in one.parts
    ]
    lines = [shown.odd[start : start + 9] for start in range(0, len(shown.odd), 9)]
    odd = [
        Shelf("", tuple(one.row for one in line), tuple(f"{one.concept} {one.times:.1f}×" for one in line))
        for line in lines
    ]
    return {"retrieval": strips, "sub_concepts": parts, "odd": odd}


def _parquet(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    with replacing(file) as temporary:
        parquet.write_table(pyarrow.table(_columns(records)), temporary)


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return records as columns; one without any value is of numbers."""
    import pyarrow

    columns = {}
    for name in records[0]:
        values = [one[name] for one in records]
        empty = all(value is None for value in values)
        columns[name] = pyarrow.array(values, pyarrow.float64() if empty else None)
    return columns


def _bytes(file: Path, data: bytes) -> None:
    with replacing(file) as temporary:
        temporary.write_bytes(data)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
