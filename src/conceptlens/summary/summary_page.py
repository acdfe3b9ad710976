"""A summary of a data set as a page: an overview, and all photos in files beside it, of which the page takes a few."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.atomic import write_text
from conceptlens.io.errors import InputError
from conceptlens.io.images import jpeg, read_image, shrunk
from conceptlens.pages.static_page import embedded_photo, page_origin, static_page
from conceptlens.summary.evidence_places import place_words
from conceptlens.summary.explained_photos import UNKNOWN
from conceptlens.summary.shortcuts import scene_and_objects
from conceptlens.summary.summary_json import number
from conceptlens.summary.summary_text import interval_words, percent, region_words, unusual_words

if TYPE_CHECKING:
    from conceptlens.summary.data_summary import DataSummary
    from conceptlens.summary.explained_photos import ExplainedPhotos

PAGE, PHOTOS = "index.html", "photos"
# Photos whose numbers are in one file, and small pictures in one folder.
CHUNK = 1000
EXAMPLE_SIDE, PICTURE_SIDE = 220, 160
MAX_SHORTCUTS, MAX_CLASSES, MAX_CONCEPTS, MAX_PAIRS, MAX_MATRIX, MAX_DRIFTING = 12, 40, 6, 12, 15, 40
MAX_EXAMPLES = 4


def write_page(summary: DataSummary, folder: Path) -> Path:
    """Write the page and return its path; `write_photos` writes what it takes the list of photos from.

    Args:
        summary: The summary.
        folder: The folder.
    """
    photos, drawn = summary.photos, _Examples(summary.photos)
    settings = {"model": photos.run.settings.get("model"), "run": photos.run.id, "against": summary.against}
    matrix = summary.confusion
    text = static_page(
        "conceptlens.summary",
        "summary.html.j2",
        "table.css",
        "summary.css",
        script=(files("conceptlens.summary") / "templates" / "summary.js").read_text(encoding="utf-8"),
        beside=True,
        **page_origin(settings),
        summary=summary,
        percent=percent,
        interval_words=interval_words,
        shortcuts=[
            {"one": one, "where": region_words(one.region), "why": unusual_words(one), "box": _box(one.region),
             "examples": drawn.of(one.examples)}
            for one in summary.shortcuts[:MAX_SHORTCUTS]
        ],
        classes=[
            {"one": one, "concepts": [(concept, _where(concept.place)) for concept in one.concepts[:MAX_CONCEPTS]]}
            for one in summary.classes[:MAX_CLASSES]
        ],
        pairs=[{"one": one, "examples": drawn.of(one.photos)} for one in summary.pairs[:MAX_PAIRS]],
        matrix=matrix if matrix is not None and len(matrix.classes) <= MAX_MATRIX else None,
        drifting=[] if summary.drift is None else [one for one in summary.drift.concepts if one.sure][:MAX_DRIFTING],
        chunks=-(-len(photos) // CHUNK),
    )  # fmt: skip
    write_text(folder / PAGE, text)
    return folder / PAGE


def write_photos(summary: DataSummary, folder: Path, max_pictures: int) -> Iterator[int]:
    """Write the numbers of all photos in files of 1000, and small pictures of the first ones, one file each.

    Args:
        summary: The summary.
        folder: The folder of the page.
        max_pictures: How many pictures to write at most; a photo that is gone has none.

    Yields:
        The number of each photo whose picture was tried.
    """
    photos = summary.photos
    (folder / PHOTOS).mkdir(parents=True, exist_ok=True)
    pictured = np.zeros(len(photos), bool)
    for at in range(min(max_pictures, len(photos))):
        pictured[at] = _write_picture(photos.names[at], folder / picture_path(at))
        yield at
    prefix = _shared_folder(photos.names)
    rows = _rows(photos, prefix, pictured)
    for chunk, start in enumerate(range(0, len(photos), CHUNK)):
        data = {"classes": list(photos.classes), "rows": rows[start : start + CHUNK]} if not chunk else {
            "rows": rows[start : start + CHUNK]
        }  # fmt: skip
        text = json.dumps({**data, "start": start}, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        write_text(folder / PHOTOS / f"numbers-{chunk:04}.js", f"conceptlensPhotos({text});\n")


def picture_path(at: int) -> Path:
    """Return the path of the small picture of a photo, from the folder of the page."""
    return Path(PHOTOS, f"{at // CHUNK:04}", f"{at:07}.jpg")


def _write_picture(name: str, file: Path) -> bool:
    try:
        photo = shrunk(read_image(name), PICTURE_SIDE)
    except InputError:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(photo, PICTURE_SIDE))
    return True


def _rows(photos: ExplainedPhotos, prefix: str, pictured: np.ndarray) -> list[list[Any]]:
    """Return for each photo: name, answer, label, probability, lead of scenes, picture, its strongest concepts."""
    scene, thing = scene_and_objects(photos)
    strongest = _strongest(photos)
    return [
        [
            photos.names[at][len(prefix) :],
            int(photos.target[at]),
            int(photos.true[at]),
            number(float(photos.probability[at])),
            number(float(scene[at] - max(thing[at], 0))),
            int(pictured[at]),
            strongest[at],
        ]
        for at in range(len(photos))
    ]


def _strongest(photos: ExplainedPhotos, count: int = 3) -> list[list[Any]]:
    """Return the concepts of each photo that contribute most, each with its contribution."""
    order = np.lexsort((-photos.contribution, photos.row_photo))
    found: list[list[Any]] = [[] for _ in range(len(photos))]
    for row in order.tolist():
        own = found[int(photos.row_photo[row])]
        if len(own) < count and photos.contribution[row] > 0:
            own.append([photos.labels[photos.row_concept[row]], number(float(photos.contribution[row]))])
    return found


def _shared_folder(names: Iterable[str]) -> str:
    """Return the folder that all photos lie in, with its slash."""
    listed = list(names)
    folder = os.path.commonpath([os.path.dirname(name) for name in listed])
    return folder if folder.endswith("/") else f"{folder}/"


class _Examples:
    """Small pictures of photos that are part of the page, each read once."""

    def __init__(self, photos: ExplainedPhotos) -> None:
        self._photos, self._made = photos, dict[int, dict[str, Any]]()

    def of(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        return [self._one(number) for number in list(numbers)[:MAX_EXAMPLES]]

    def _one(self, at: int) -> dict[str, Any]:
        if at not in self._made:
            name = self._photos.names[at]
            true = self._photos.true[at]
            about = {"name": os.path.basename(name), "true": "" if true == UNKNOWN else self._photos.classes[true]}
            try:
                self._made[at] = {**about, **embedded_photo(shrunk(read_image(name), EXAMPLE_SIDE))}
            except InputError:
                self._made[at] = {**about, "source": None}
        return self._made[at]


def _box(region: tuple[float, float, float, float] | None) -> dict[str, float] | None:
    """Return a region in percent of a photo, as an SVG rectangle has it."""
    if region is None:
        return None
    left, top, right, bottom = (round(100 * end, 1) for end in region)
    return {"x": left, "y": top, "width": round(right - left, 1), "height": round(bottom - top, 1)}


def _where(place: Any) -> dict[str, Any] | None:
    """Return where a concept lies: words, and an ellipse of one standard deviation in a frame of 100 x 100."""
    if place is None:
        return None
    ends = {"cx": place.x, "cy": place.y, "rx": max(place.spread_x, 0.04), "ry": max(place.spread_y, 0.04)}
    return {"words": place_words(place.x, place.y), **{name: round(100 * end, 1) for name, end in ends.items()}}
