"""Photos with words judged by eye: those of the data folder, and those of `judgements.json`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

OWN = Path(__file__).parent / "judgements.json"
DATA = Path(os.environ.get("CONCEPTLENS_DATA", "../shared/data"))


@dataclass(frozen=True)
class JudgedPhoto:
    """One photo and its words."""

    file: Path
    present: frozenset[str]
    absent: frozenset[str]
    unclear: frozenset[str]


def judged_photos(used_for: str, with_further: bool = True) -> list[JudgedPhoto]:
    """Return the photos that were used to "fit" the weights, to "choose" what is listed, or for the "test" alone.

    The further words of the shared judgements are all in their photos; a fit that counts must leave them out.
    """
    own = json.loads(OWN.read_text())
    photos = DATA / own["photos"]
    if not photos.is_dir():
        raise SystemExit(f"there is no folder {photos}; set CONCEPTLENS_DATA")
    shared = json.loads((DATA / "judged" / "judged.json").read_text())["judged"]
    words = {entry["file"]: {k: v for k, v in entry.items() if with_further or k != "further"} for entry in shared}
    found = [_photo(photos, one) for one in own["judged"] if one["used_for"] == used_for]
    return found + [_photo(photos, one, words[one["file"]]) for one in own["further"] if one["used_for"] == used_for]


def _photo(folder: Path, *entries: dict[str, list[str]]) -> JudgedPhoto:
    def words(*names: str) -> frozenset[str]:
        return frozenset(word for entry in entries for name in names for word in entry.get(name, ()))

    return JudgedPhoto(folder / str(entries[0]["file"]), words("present", "further"), words("absent"), words("unclear"))
