"""The commands that ask a store of embeddings: `conceptlens analyze` and `conceptlens search`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import Json, Weights, answering

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis import Asked, Story

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="A store of embeddings, made by `conceptlens embed`.")]
OneModel = Annotated[str | None, typer.Option("--model", "-m", help="Which model, where the store has several.")]
OneMode = Annotated[str | None, typer.Option("--mode", help="Which mode, where the store has several.")]
OneRun = Annotated[str | None, typer.Option("--run", help="Which run; by default all of them.")]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help="A folder for page, numbers, tables and figures.")]
PhotoPlace = Annotated[
    str | None, typer.Option("--photos", help="A folder, or a data set as NAME:DIR; without it tiles show masks alone.")
]
Split = Annotated[str | None, typer.Option(help="The split of the data set that --photos names.")]


@answering
def analyze(
    store: Folder,
    out: OutFolder = None,
    photos: PhotoPlace = None,
    split: Split = None,
    model: OneModel = None,
    mode: OneMode = None,
    run: OneRun = None,
    layer: Annotated[str | None, typer.Option(help="Told in full; by default the one that retrieves best.")] = None,
    concepts: Annotated[str | None, typer.Option("--concepts", "-c", help="Comma-separated; by default all.")] = None,
    most: Annotated[int, typer.Option(min=2, help="Look at so many embeddings of each concept.")] = 100,
    drawn: Annotated[int, typer.Option(min=1, help="Draw so many concepts, the most frequent.")] = 20,
    umap: Annotated[bool, typer.Option("--umap", help="Lay the map out by UMAP instead of principal axes.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides which embeddings are looked at.")] = 0,
    as_json: Json = False,
) -> None:
    """Tell the story of a store: what is held, confused, made of parts and odd, and at which layer."""
    from conceptlens.io.output_path import check_output
    from conceptlens.io.progress import progress
    from conceptlens.local_embeddings.analysis import Asked, read_rows, tell
    from conceptlens.local_embeddings.report.photo_lookup import check_photos
    from conceptlens.store import Store

    start = time.perf_counter()
    asked = Asked(model, mode, run, layer, _names(concepts), most, drawn, umap, seed=seed)
    opened = Store(store)
    check_output(out, folder=True)
    if photos is not None:
        check_photos(photos, split)
    rows = read_rows(opened, asked)
    story = tell(rows, asked, progress(list(rows.layers), len(rows.layers), "layers"))
    _finish(story, opened, out, photos, split, as_json)
    typer.echo(f"{len(rows)} embeddings at {len(rows.layers)} layers in {time.perf_counter() - start:.1f} s", err=True)


def _finish(story: Story, store: Any, out: Path | None, photos: str | None, split: str | None, as_json: bool) -> None:
    """Print the numbers or a table, and write the files."""
    from conceptlens.local_embeddings.analysis import tables
    from conceptlens.local_embeddings.report.analysis_outputs import atlas_numbers, print_story, write_atlas
    from conceptlens.local_embeddings.report.photo_lookup import find_photos
    from conceptlens.local_embeddings.report.tiles import draw_tiles

    found = tables(story)
    numbers = atlas_numbers(story, found, {"store": str(store.path), "settings": _settings(story.asked, photos, split)})
    if as_json:
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        print_story(story)
    if out is None:
        return
    shown = story.shown.rows
    wanted = [story.rows.pictures[image] for image in dict.fromkeys(story.rows.images[list(shown)].tolist())]
    tiles = draw_tiles(story.rows, store, shown, [] if photos is None else find_photos(photos, wanted, split))
    page, file = write_atlas(out, story, found, numbers, tiles)
    typer.echo(f"story: {page}\nnumbers: {file}, {out / 'tables'}\nfigures: {out / 'figures'}", err=True)


def _settings(asked: Asked, photos: str | None, split: str | None) -> dict[str, Any]:
    told = {**vars(asked), "concepts": None if asked.concepts is None else ", ".join(asked.concepts)}
    return {**told, "photos": photos, "split": split}


@answering
def search(
    store: Folder,
    image: Annotated[Path, typer.Option("--image", "-i", help="The photo to ask with.")],
    mask: Annotated[Path, typer.Option("--mask", help="A picture of its shape: white is in, black is out.")],
    layer: Annotated[str | None, typer.Option(help="By default the last of the run.")] = None,
    run: OneRun = None,
    weights: Weights = None,
    most: Annotated[int, typer.Option("--most", "-k", min=1, help="How many to find.")] = 10,
    concepts: Annotated[str | None, typer.Option("--concepts", "-c", help="Among these, comma-separated.")] = None,
    photos: PhotoPlace = None,
    split: Split = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, index or not.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="FILE.html for a page, FILE.json for numbers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what lies nearest to a thing in a photo, embedded as the store's run embedded its own."""
    from conceptlens.io.images import read_image
    from conceptlens.io.output_path import check_output
    from conceptlens.local_embeddings.analysis import check_concepts
    from conceptlens.local_embeddings.report.photo_lookup import check_photos
    from conceptlens.local_embeddings.report.search_results import print_found, read_mask, search_numbers, write_found
    from conceptlens.local_embeddings.runs.query import embed_query
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
        query.vector, most, layer=query.layer, model=query.model, mode=query.mode, concepts=names,
        where=None if run is None else f"run = '{run.replace(chr(39), 2 * chr(39))}'", exact=exact,
    )  # fmt: skip
    numbers = search_numbers(opened, query, found, {"store": str(store), "image": str(image), "mask": str(mask)})
    if as_json:
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        print_found(numbers)
    if out is not None:
        write_found(out, opened, photo, inside, found, numbers, photos, split)
        typer.echo(f"{'page' if out.suffix.lower() == '.html' else 'numbers'}: {out}", err=True)
    typer.echo(f"{len(found)} found in {time.perf_counter() - start:.1f} s", err=True)


def _names(concepts: str | None) -> tuple[str, ...] | None:
    return None if concepts is None else tuple(name.strip() for name in concepts.split(",") if name.strip())
