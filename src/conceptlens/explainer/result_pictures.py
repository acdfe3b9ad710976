"""Explained photos as pictures in a folder: the photo and its maps side by side, one file for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from conceptlens.concepts.short_names import short_name
from conceptlens.explainer.explain_json import place_json
from conceptlens.io.atomic import replacing
from conceptlens.io.rounded_number import rounded
from conceptlens.render.overlays import panel

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.explainer.photo_result import PhotoResult

MOST_MAPS = 11  # beside the photo, in three rows of four
WIDTH = 300


def write_pictures(results: Iterable[PhotoResult], folder: Path) -> list[Path]:
    """Write a PNG for each photo: the photo, then its maps, each on its own scale; return the files.

    Files are called `0001_NAME.png`, by the order of the photos and their own names.

    Args:
        results: Explained photos, each written as it comes, that were kept (`ExplainOptions(for_page=True)`).
        folder: Where; made where it is missing.

    Raises:
        InputError: There is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, result in enumerate(results, 1):
        with Image.open(BytesIO(result.photo)) as photo:
            shown = [("photo", None), *_maps(result)][: 1 + MOST_MAPS]
            sheet = panel(
                photo.convert("RGB"), [values for _, values in shown], [title for title, _ in shown], "own",
                box=result.image_info.box, width=WIDTH,
            )  # fmt: skip
        file = folder / f"{number:04d}_{_plain(Path(result.image_info.name).stem)}.png"
        with replacing(file) as temporary:
            sheet.save(temporary, "PNG")
        files.append(file)
    return files


def _maps(result: PhotoResult) -> Iterator[tuple[str, Float[Tensor, "height width"]]]:
    """Yield the maps of class, contrast and concepts with their titles."""
    for explanation in result.explanations:
        if result.none_chosen and explanation is result.contrast:
            continue
        for question, label in enumerate(explanation.labels[0]):
            title = " / ".join(short_name(part) for part in label.split(" / "))
            counted = explanation.contributions
            if counted is not None and bool(counted[0, question].isfinite()):
                title += f" {rounded(float(counted[0, question]), 2, sign=True)}"
            if place_json(explanation, question).get("place_vague"):
                title += ", no clear place"
            yield title, explanation.maps[0, question]


def _plain(name: str) -> str:
    """Return a name for a file anywhere: letters, digits, `-` and `_`, at most 60 of them."""
    return re.sub(r"[^\w-]+", "_", name)[:60]
