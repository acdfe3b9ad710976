"""The commands that read a store of embeddings: `conceptlens analyze` and `conceptlens search`."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import OUTPUT, Json, Weights, answering

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis import AnalysisSettings, StoreAnalysis

QUERY, ROWS, FIGURES = "Query", "Embeddings", "Statistics and figures"

StoreFolder = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store of embeddings, made by `conceptlens embed`.")
]
Run = Annotated[str | None, typer.Option("--run", help="Run id; by default all runs.", rich_help_panel=ROWS)]
Photos = Annotated[
    str | None,
    typer.Option(
        "--photos",
        help="Photos for the tiles: a folder, or a data set as NAME:DIR; without them tiles show masks.",
        rich_help_panel=OUTPUT,
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of the data set that --photos names.", rich_help_panel=OUTPUT)]


@answering
def analyze(
    store: StoreFolder,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model, where the store has several.", rich_help_panel=ROWS)
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="Mode, where the store has several.", rich_help_panel=ROWS)
    ] = None,
    run: Run = None,
    concepts: Annotated[
        str | None,
        typer.Option("--concepts", "-c", help="Comma-separated concepts; by default all.", rich_help_panel=ROWS),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=2, help="Most embeddings of each concept, drawn by --seed.", rich_help_panel=ROWS)
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.", rich_help_panel=ROWS)] = 0,
    layer: Annotated[
        str | None,
        typer.Option(help="Layer of figures and examples; by default the one of highest mAP.", rich_help_panel=FIGURES),
    ] = None,
    max_concepts: Annotated[
        int, typer.Option(min=1, help="Most concepts in figures, the most frequent first.", rich_help_panel=FIGURES)
    ] = 20,
    n_bootstrap: Annotated[
        int, typer.Option(min=1, help="Bootstrap resamples of photos behind each interval.", rich_help_panel=FIGURES)
    ] = 1000,
    umap: Annotated[
        bool, typer.Option("--umap", help="Project by UMAP instead of principal axes.", rich_help_panel=FIGURES)
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="A folder for page, numbers, tables and figures.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    photos: Photos = None,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Analyze a store: how well concepts are retrieved, which are confused, have sub-concepts or outliers, by layer."""
    from conceptlens.io.output_path import check_output
    from conceptlens.io.progress import progress
    from conceptlens.local_embeddings.analysis import AnalysisSettings
    from conceptlens.local_embeddings.analysis import analyze as analyze_store
    from conceptlens.local_embeddings.report.tiles import check_photos
    from conceptlens.store import Store

    start = time.perf_counter()
    settings = AnalysisSettings(
        model, mode, run, layer, _names(concepts), max_rows, max_concepts, umap, n_bootstrap, seed
    )
    opened = Store(store)
    check_output(out, folder=True)
    if photos is not None:
        check_photos(photos, split)
    analysis = analyze_store(opened, settings, progress=partial(progress, description="layers"))
    _write(analysis, opened, out, photos, split, as_json)
    seconds = time.perf_counter() - start
    typer.echo(f"{len(analysis.rows)} embeddings at {len(analysis.layers)} layers in {seconds:.1f} s", err=True)


def _write(
    analysis: StoreAnalysis, store: Any, out: Path | None, photos: str | None, split: str | None, as_json: bool
) -> None:
    """Print the numbers or a table, and write the files."""
    from conceptlens.local_embeddings.analysis import analysis_tables
    from conceptlens.local_embeddings.report.analysis_outputs import analysis_numbers, print_analysis, write_analysis
    from conceptlens.local_embeddings.report.tiles import draw_tiles, find_photos

    tables = analysis_tables(analysis)
    details = {"store": str(store.path), "settings": _settings(analysis.settings, photos, split)}
    numbers = analysis_numbers(analysis, tables, details)
    if as_json:
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        print_analysis(analysis)
    if out is None:
        return
    rows, examples = analysis.rows, analysis.examples.rows
    images = [rows.image_rows[image] for image in dict.fromkeys(rows.images[list(examples)].tolist())]
    tiles = draw_tiles(rows, store, examples, [] if photos is None else find_photos(photos, images, split))
    page, file = write_analysis(out, analysis, tables, numbers, tiles)
    typer.echo(f"page: {page}\nnumbers: {file}, {out / 'tables'}\nfigures: {out / 'figures'}", err=True)


def _settings(settings: AnalysisSettings, photos: str | None, split: str | None) -> dict[str, Any]:
    concepts = None if settings.concepts is None else ", ".join(settings.concepts)
    return {**vars(settings), "concepts": concepts, "photos": photos, "split": split}


@answering
def search(
    store: StoreFolder,
    image: Annotated[Path, typer.Option("--image", "-i", help="The photo of the query.", rich_help_panel=QUERY)],
    mask: Annotated[
        Path,
        typer.Option("--mask", help="An image of the photo's shape: white is in, black is out.", rich_help_panel=QUERY),
    ],
    layer: Annotated[
        str | None, typer.Option(help="Layer; by default the last of the run.", rich_help_panel=ROWS)
    ] = None,
    run: Run = None,
    weights: Weights = None,
    concepts: Annotated[
        str | None,
        typer.Option("--concepts", "-c", help="Search only these, comma-separated.", rich_help_panel=ROWS),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Number of results.", rich_help_panel=ROWS)] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every vector, without the index.", rich_help_panel=ROWS)
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="FILE.html for a page, FILE.json for numbers.", rich_help_panel=OUTPUT
        ),
    ] = None,
    photos: Photos = None,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Find the embeddings nearest to a masked part of a photo, embedded with the settings of the store's run."""
    from conceptlens.io.images import read_image
    from conceptlens.io.output_path import check_output
    from conceptlens.local_embeddings.analysis import check_concepts
    from conceptlens.local_embeddings.report.search_results import (
        print_search,
        read_mask,
        search_numbers,
        write_search,
    )
    from conceptlens.local_embeddings.report.tiles import check_photos
    from conceptlens.local_embeddings.runs.search_query import embed_query
    from conceptlens.store import Store

    start = time.perf_counter()
    check_output(out, ".html", ".json")
    if photos is not None:
        check_photos(photos, split)
    opened = Store(store)
    names = _names(concepts)
    check_concepts(opened, names)
    photo = read_image(image)
    inside = read_mask(mask, photo.size)
    query = embed_query(opened, photo, inside, layer, run, weights=weights)
    found = opened.nearest(
        query.vector, top_k, layer=query.layer, model=query.model, mode=query.mode, concepts=names,
        where=None if run is None else f"run = '{run.replace(chr(39), 2 * chr(39))}'", exact=exact,
    )  # fmt: skip
    numbers = search_numbers(opened, query, found, {"store": str(store), "image": str(image), "mask": str(mask)})
    if as_json:
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        print_search(numbers)
    if out is not None:
        write_search(out, opened, photo, inside, found, numbers, photos, split)
        typer.echo(f"{'page' if out.suffix.lower() == '.html' else 'numbers'}: {out}", err=True)
    typer.echo(f"{len(found)} found in {time.perf_counter() - start:.1f} s", err=True)


def _names(concepts: str | None) -> tuple[str, ...] | None:
    return None if concepts is None else tuple(name.strip() for name in concepts.split(",") if name.strip())
