"""The commands that read a store of embeddings: `conceptlens analyze` and `conceptlens search`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, option_group, output_option
from conceptlens.cli.printing import print_end, print_files, print_json
from conceptlens.io.output_path import check_file, check_folder
from conceptlens.io.progress import progress
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisSettings
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis

query_option = option_group("Query")
rows_option = option_group("Embeddings")
figure_option = option_group("Statistics and figures")

StoreFolder = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store of embeddings, made by `conceptlens embed`.")
]
Run = Annotated[str | None, rows_option(help="Id of a run of `conceptlens embed`; by default all runs.")]
Concepts = Annotated[
    str | None, rows_option("--concepts", "-c", help="Only these concepts, comma-separated; by default all.")
]
Photos = Annotated[
    str | None,
    output_option(help="Photos for the tiles: a folder, or a data set as NAME:DIR; without them tiles show masks."),
]
Split = Annotated[str | None, output_option(help="The split of the data set that --photos names.")]


@answering
def analyze(
    store: StoreFolder,
    model: Annotated[str | None, rows_option("--model", "-m", help="The model, where the store has several.")] = None,
    mode: Annotated[str | None, rows_option(help="The mode of the vectors, where the store has several.")] = None,
    run: Run = None,
    concepts: Concepts = None,
    max_rows: Annotated[int, rows_option(min=2, help="Most embeddings of each concept, drawn by --seed.")] = 100,
    seed: Annotated[int, rows_option(min=0, help="Seed of every random draw.")] = 0,
    layer: Annotated[
        str | None, figure_option(help="Layer of figures, examples and best concepts; by default that of highest mAP.")
    ] = None,
    max_concepts: Annotated[
        int | None, figure_option(min=1, help="Most concepts in figures, the most frequent first; by default 20.")
    ] = None,
    n_bootstrap: Annotated[
        int, figure_option(min=1, help="Bootstrap resamples of photos behind each interval.")
    ] = 1000,
    umap: Annotated[bool, figure_option("--umap", help="Project by UMAP instead of principal axes.")] = False,
    out_dir: Annotated[Path | None, shared.out_dir("the page, the numbers, tables and figures")] = None,
    photos: Photos = None,
    split: Split = None,
    as_json: shared.Json = False,
) -> None:
    """Analyze a store: how well concepts are retrieved, which are confused, have sub-concepts or outliers, by layer."""
    from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisSettings
    from conceptlens.local_embeddings.analysis.store_analysis import analyze as analyze_store
    from conceptlens.local_embeddings.report.embedded_photos import check_photos
    from conceptlens.store import Store

    start = time.perf_counter()
    settings = AnalysisSettings(
        model, mode, run, layer, _names(concepts), max_rows, max_concepts or 20, umap, n_bootstrap, seed
    )
    if out_dir is None:
        shared.refuse_unused({"--photos": photos, "--split": split}, "without a page; add --out-dir DIR")
        if not as_json:
            shared.refuse_unused(
                {"--umap": umap or None, "--max-concepts": max_concepts},
                "on what is printed; add --out-dir DIR or --json",
            )
    opened = Store(store)
    check_folder(out_dir)
    check_photos(photos, opened, split)
    analysis = analyze_store(opened, settings, progress=partial(progress, description="analyzing layers"))
    written = _write(analysis, opened, out_dir, photos, split, as_json)
    print_end(f"{counted(len(analysis.rows), 'embedding')} at {counted(len(analysis.layers), 'layer')}", 0, start)
    print_files(written)


def _write(
    analysis: StoreAnalysis, store: Any, out: Path | None, photos: str | None, split: str | None, as_json: bool
) -> list[Path]:
    """Print the numbers or a table, and write the files."""
    from conceptlens.local_embeddings.analysis.analysis_tables import analysis_tables
    from conceptlens.local_embeddings.report.analysis_outputs import analysis_numbers, print_analysis, write_analysis
    from conceptlens.local_embeddings.report.embedded_photos import find_photos
    from conceptlens.local_embeddings.report.tiles import draw_tiles

    tables = analysis_tables(analysis)
    details = {"store": str(store.path), "settings": _settings(analysis.settings, photos, split)}
    numbers = analysis_numbers(analysis, tables, details)
    if as_json:
        print_json(numbers)
    else:
        print_analysis(analysis)
    if out is None:
        return []
    rows, examples = analysis.rows, analysis.examples.rows
    images = [rows.image_rows[image] for image in dict.fromkeys(rows.images[list(examples)].tolist())]
    tiles = draw_tiles(rows, store, examples, [] if photos is None else find_photos(photos, images, store, split))
    return [*write_analysis(out, analysis, tables, numbers, tiles), out / "tables", out / "figures"]


def _settings(settings: AnalysisSettings, photos: str | None, split: str | None) -> dict[str, Any]:
    concepts = None if settings.concepts is None else ", ".join(settings.concepts)
    return {**vars(settings), "concepts": concepts, "photos": photos, "split": split}


@answering
def search(
    store: StoreFolder,
    image: Annotated[Path, query_option("--image", "-i", metavar="FILE", help="The photo of the query.")],
    mask: Annotated[
        Path, query_option(metavar="FILE", help="An image of the photo's shape: white is in, black is out.")
    ],
    layer: Annotated[str | None, rows_option(help="The layer; by default the last of the run.")] = None,
    run: Run = None,
    concepts: Concepts = None,
    top_k: Annotated[int, rows_option("--top-k", "-k", min=1, help="Number of results.")] = 10,
    exact: Annotated[bool, rows_option("--exact", help="Compare with every vector, without the index.")] = False,
    weights: shared.Weights = None,
    out: Annotated[Path | None, shared.out_file("FILE.html for a page, or FILE.json for the numbers.")] = None,
    photos: Photos = None,
    split: Split = None,
    as_json: shared.Json = False,
) -> None:
    """Find the embeddings nearest to a masked part of a photo, embedded with the settings of the store's run."""
    from conceptlens.io.images import read_image
    from conceptlens.local_embeddings.analysis.analysis_rows import check_concepts
    from conceptlens.local_embeddings.report.embedded_photos import check_photos
    from conceptlens.local_embeddings.report.search_results import (
        print_search,
        read_mask,
        search_numbers,
        write_search,
    )
    from conceptlens.local_embeddings.runs.search_query import embed_query
    from conceptlens.store import Store

    start = time.perf_counter()
    check_file(out, ".html", ".json")
    if out is None or out.suffix.lower() == ".json":
        shared.refuse_unused({"--photos": photos, "--split": split}, "without a page; add --out FILE.html")
    opened = Store(store)
    check_photos(photos, opened, split)
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
        print_json(numbers)
    else:
        print_search(numbers)
    if out is not None:
        write_search(out, opened, photo, inside, found, numbers, photos, split)
    print_end(f"{len(found)} found", 0, start)
    print_files([] if out is None else [out])


def _names(concepts: str | None) -> tuple[str, ...] | None:
    return None if concepts is None else tuple(shared.names_in(concepts, "--concepts"))
