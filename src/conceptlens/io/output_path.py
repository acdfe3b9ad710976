"""One check of the paths that results are written to, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from conceptlens.io.errors import InputError

FILE_SUFFIXES = frozenset(
    {".csv", ".htm", ".html", ".jpg", ".json", ".parquet", ".pdf", ".png", ".safetensors", ".svg", ".tsv", ".txt"}
)


def check_output(out: str | os.PathLike[str] | None, *suffixes: str, folder: bool = False, name: str = "--out") -> None:
    """Refuse a path that the results cannot be written to; nothing is made.

    Args:
        out: The path; `None` writes nothing and is always right.
        *suffixes: Suffixes of the files that may be written, such as `".html"`; none where only a folder may be.
        folder: Whether a folder may be given.
        name: What the path is called in the message.

    Raises:
        InputError: A file is where a folder is needed or the reverse, the suffix is another one, or the path lies in
            no folder that can be written.
    """
    if out is None:
        return
    path, expected = Path(out), [*suffixes, *(["a folder"] if folder else [])]
    wanted = " or ".join([", ".join(expected[:-1]), expected[-1]] if len(expected) > 1 else expected)
    suffix = path.suffix.lower()
    if suffix in suffixes:
        if path.is_dir():
            raise InputError(f"{name} {path} is a folder; give a file name in it, such as {path / ('result' + suffix)}")
    elif folder and path.exists() and not path.is_dir():
        raise InputError(f"{name} {path} is a file, not a folder; expected {wanted}")
    elif not folder or (not path.is_dir() and (suffix in FILE_SUFFIXES or (suffixes and suffix))):
        found = f"ends in '{suffix}'" if suffix else "has no suffix"
        raise InputError(f"{name} {path} {found}; expected {wanted}")
    place = path if path.is_dir() else next(above for above in path.absolute().parents if above.exists())
    if not place.is_dir():
        raise InputError(f"{name} {path} needs a folder at {place}, where there is a file; choose another path")
    if not os.access(place, os.W_OK):
        raise InputError(f"{name} {path} cannot be written in {place}; choose a path that can be written")
