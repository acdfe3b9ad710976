"""Outputs of `conceptlens analyze`: the page, numbers, tables and figures, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.io.atomic import replacing, write_text
from conceptlens.io.json_text import json_text
from conceptlens.io.versions import versions
from conceptlens.local_embeddings.report.analysis_page import analysis_page
from conceptlens.local_embeddings.report.analysis_sentences import best_and_worst
from conceptlens.local_embeddings.report.cluster_figures import dendrogram_figure, projection_figure
from conceptlens.local_embeddings.report.figure_style import FIGURE_STYLES, FigureStyle, png
from conceptlens.local_embeddings.report.matrix_figures import confusion_figure, separation_figure
from conceptlens.local_embeddings.report.measure_figures import layers_figure, retrieval_figure
from conceptlens.local_embeddings.report.tiles import TileRow, Tiles, contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

SCHEMA = "conceptlens.analyze/1"
PARQUET_ONLY = ("pairs", "rows", "merges")
FIGURES: dict[str, Callable[[StoreAnalysis, FigureStyle], Figure]] = {
    "retrieval": retrieval_figure,
    "confusion": confusion_figure,
    "separation": separation_figure,
    "dendrogram": dendrogram_figure,
    "projection": projection_figure,
    "layers": layers_figure,
}


def analysis_numbers(
    analysis: StoreAnalysis, tables: Mapping[str, list[dict[str, Any]]], details: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the numbers of an analysis as `--json` prints them: tables as lists of records, six digits each.

    The large tables, with a record for each row or each pair of concepts, are written to Parquet files only.

    Args:
        analysis: The analysis.
        tables: What `analysis_tables` returns.
        details: `store` and `settings`, which are written as they are.
    """
    rows = analysis.rows
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **details,
        "model": rows.space.model,
        "mode": rows.space.mode,
        "layer": analysis.selected.layer,
        "best": analysis.best,
        "figure_concepts": list(analysis.figure_concepts),
        "rows": len(rows),
        "rows_in_store": sum(rows.rows_in_store.values()),
        "rows_with_zero_vector": rows.zero_vectors,
        "rows_not_at_every_layer": rows.incomplete,
        **{
            name: [{key: _rounded(value) for key, value in one.items()} for one in of]
            for name, of in tables.items() if name not in PARQUET_ONLY
        },
        "failures": [{"image": row.name, "error": row.failure} for row in rows.failed],
    }  # fmt: skip


def write_analysis(
    out: Path,
    analysis: StoreAnalysis,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    numbers: Mapping[str, Any],
    tiles: Tiles,
) -> list[Path]:
    """Write the page, the numbers, a Parquet file of each table and the figures into a folder; return the first two.

    The folder holds `analysis.html`, `analysis.json`, `tables/NAME.parquet` and `figures/NAME.png` (`.jpg` of photos).

    Args:
        out: The folder.
        analysis: The analysis.
        tables: What `analysis_tables` returns.
        numbers: What `analysis_numbers` returns.
        tiles: Of all example rows, as `draw_tiles` returns them.
    """
    drawings = {name: {style: png(draw(analysis, style)) for style in FIGURE_STYLES} for name, draw in FIGURES.items()}
    for name, records in tables.items():
        if records:
            _parquet(out / "tables" / f"{name}.parquet", records)
    for name, of in drawings.items():
        _bytes(out / "figures" / f"{name}.png", of[FigureStyle()])
    for name, tile_rows in _tile_rows(analysis).items():
        if tile_rows:
            _bytes(out / "figures" / f"{name}.jpg", contact_sheet(tile_rows, tiles))
    write_text(out / "analysis.json", json_text(numbers))
    write_text(out / "analysis.html", analysis_page(analysis, drawings, tiles, numbers))
    return [out / "analysis.html", out / "analysis.json"]


def print_analysis(analysis: StoreAnalysis) -> None:
    """Print the numbers of each layer, and the concepts of highest and lowest average precision."""
    console = Console()
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    for title in ("mAP", "95%", "chance", "selectivity", "ARI", "overlap"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in analysis.layers.values():
        precision, selective = layer.average_precision, layer.selectivity
        spread = "-" if precision is None or precision.low is None else f"{precision.low:.2f} to {precision.high:.2f}"
        means = [None if value is None else value.mean for value in (precision, selective)]
        numbers = (means[0], layer.chance, means[1], layer.agreement.adjusted_rand, layer.pairs.overlap.mean())
        texts = ["-" if number is None else f"{number:.3f}" for number in numbers]
        table.add_row(layer.layer.replace("[", "\\["), texts[0], spread, *texts[1:])
    console.print(table)
    first, last = (", ".join(one.concept for one in part) for part in best_and_worst(analysis))
    if first:
        worst = f"; worst: {last}" if last else ""
        console.print(f"retrieved best at {analysis.selected.layer}: {first}{worst}", highlight=False, markup=False)


def _tile_rows(analysis: StoreAnalysis) -> dict[str, list[TileRow]]:
    examples, labels = analysis.examples, analysis.rows.labels
    retrieval = []
    for one in examples.retrieval:
        captions = ("right" if ok else f"wrong: {labels[row]}" for row, ok in zip(one.found, one.right, strict=True))
        title = f"{one.concept}\nAP {one.average_precision:.2f}"
        retrieval.append(TileRow(title, (one.query, *one.found), ("query", *captions), (None, *one.right)))
    parts = [
        TileRow(f"{one.concept}\n{part.size} embeddings\n{part.verdict}", part.rows, ("",) * len(part.rows))
        for one in examples.sub_concepts
        for part in one.parts
    ]
    lines = [examples.outliers[start : start + 9] for start in range(0, len(examples.outliers), 9)]
    outliers = [
        TileRow("", tuple(one.row for one in line), tuple(f"{one.concept} {one.distance_ratio:.1f}×" for one in line))
        for line in lines
    ]
    return {"retrieval_examples": retrieval, "sub_concepts": parts, "outliers": outliers}


def _parquet(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    with replacing(file) as temporary:
        parquet.write_table(pyarrow.table(_columns(records)), temporary)


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return records as columns; a column without any value is float64."""
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
