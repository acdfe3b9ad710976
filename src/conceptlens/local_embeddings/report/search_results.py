"""Results of a search of a store: numbers, a table in the terminal, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from conceptlens.io.atomic import write_json, write_text
from conceptlens.io.errors import InputError
from conceptlens.io.images import read_image
from conceptlens.io.versions import versions
from conceptlens.local_embeddings.report.analysis_page import tile_source
from conceptlens.local_embeddings.report.embedded_photos import find_photos
from conceptlens.local_embeddings.report.tiles import Tiles, masked_tile, row_tiles
from conceptlens.pages.static_page import page_origin, static_page

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.local_embeddings.runs.search_query import QueryVector
    from conceptlens.store.embeddings import Nearest
    from conceptlens.store.store import Store

SCHEMA = "conceptlens.search/1"


def read_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask `[rows columns]`, bool, for a photo of `size` (width, height): what is brighter than half is in.

    Half of its brightest: a mask of 0 and 1 will do. It may be larger or smaller than the photo. Raises `InputError`
    for another shape, and for a mask that is blank.
    """
    image = read_image(file)
    if _see_through(file):
        raise InputError(f"the mask {file} has transparency; save it as white on black, without an alpha channel")
    width, height = size
    if abs(image.width * height - image.height * width) > 0.02 * image.height * width:
        raise InputError(
            f"the mask {file} is {image.width} x {image.height} pixels, the photo {width} x {height}; give a mask "
            "of the photo's shape"
        )
    light = np.asarray(image).max(2)
    if not light.any():
        raise InputError(f"the mask {file} is black all over; paint what is meant white")
    return light > light.max() / 2


def _see_through(file: Path) -> bool:
    from PIL import Image

    with Image.open(file) as image:
        return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255


def search_numbers(store: Store, query: QueryVector, found: Nearest, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `conceptlens search --json` prints; the nearest first."""
    names = {row.id: row.name for row in store.images()}
    rows = found.rows
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **details,
        "model": query.model,
        "layer": query.layer,
        "mode": query.mode,
        "found": [
            {
                "rank": index + 1, "concept": str(rows.concepts[index]), "image": names[rows.images[index]],
                "similarity": round(1 - float(found.distances[index]), 6), "area": _finite(rows.areas[index]),
                "id": str(rows.ids[index]), "mask": str(rows.masks[index]) or None, "run": str(rows.runs[index]),
            }
            for index in range(len(found))
        ],
    }  # fmt: skip


def print_search(numbers: Mapping[str, Any]) -> None:
    """Print what was found, the nearest first."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("cosine", justify="right")
    table.add_column("concept")
    table.add_column("image")
    for one in numbers["found"]:
        table.add_row(f"{one['similarity']:.3f}", *(str(one[key]).replace("[", "\\[") for key in ("concept", "image")))
    Console().print(table if numbers["found"] else "nothing was found")


def write_search(
    out: Path,
    store: Store,
    photo: Image.Image,
    mask: np.ndarray,
    found: Nearest,
    numbers: Mapping[str, Any],
    photos: str | None = None,
    split: str | None = None,
) -> None:
    """Write the results as a page or as JSON, by the suffix of `out`.

    Args:
        out: A `.json` file, or any other for the page.
        store: The store that was searched.
        photo: The photo of the query.
        mask: Bool `[rows columns]`, what the query covers.
        found: The hits, the nearest first.
        numbers: What `search_numbers` returns.
        photos: A folder of photos or a data set `NAME:DIR`, for tiles with photos.
        split: The split of that data set.
    """
    if out.suffix.lower() == ".json":
        write_json(out, numbers)
        return
    rows = found.rows
    known = {row.id: row for row in store.images() if row.failure is None}
    wanted = [known[image] for image in dict.fromkeys(rows.images.tolist())]
    near = row_tiles(
        dict(enumerate(zip(rows.images.tolist(), rows.masks.tolist(), strict=True))),
        known, store, [] if photos is None else find_photos(photos, wanted, store, split),
    )  # fmt: skip
    query = Tiles({0: masked_tile(photo, mask)}, 1)
    text = static_page(
        "conceptlens.local_embeddings.report",
        "search.html.j2",
        "analysis.css",
        numbers=numbers,
        query=tile_source(0, query),
        tiles=[{**tile_source(index, near), **one} for index, one in enumerate(numbers["found"])],
        no_photos=not near.photos and len(found) > 0,
        command=page_origin({})["command"],
    )
    write_text(out, text)


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
