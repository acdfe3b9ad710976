"""Marks of what a fit was given, as its record keeps them: photos by their names, files by what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.fingerprint import bytes_fingerprint, texts_fingerprint

if TYPE_CHECKING:
    from conceptlens.data.labelled_set import LabelledSet


def photos_mark(photos: LabelledSet) -> str:
    """Return the name of a set, and a mark of the names of its photos."""
    return f"{photos.name} {len(photos)} photos {texts_fingerprint(photos.names)}"


def content_mark(named: str | Path) -> str:
    """Return a name, and where it is a file's, a mark of what is in it; of a folder, of the sizes of its files."""
    path = Path(named)
    if path.is_file():
        return f"{named} {bytes_fingerprint(path.read_bytes())}"
    if path.is_dir():
        return f"{named} {texts_fingerprint(map(_size_mark, sorted(path.iterdir())))}"
    return str(named)


def _size_mark(file: Path) -> str:
    """Return a file's name and size; a link that leads nowhere has its own."""
    return f"{file.name} {file.stat(follow_symlinks=file.exists()).st_size}"


def same_content(named: str | Path, mark: str) -> bool:
    """Whether a file or folder, whatever it is called now, holds what a mark is of."""
    return Path(named).exists() and content_mark(named).split()[-1:] == mark.split()[-1:]
