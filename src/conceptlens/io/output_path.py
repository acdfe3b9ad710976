"""The check of the paths that results are written to, before any work is done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from conceptlens.io.errors import InputError

FILE_SUFFIXES = frozenset(
    {
        ".csv",
        ".htm",
        ".html",
        ".jpg",
        ".json",
        ".jsonl",
        ".parquet",
        ".pdf",
        ".png",
        ".safetensors",
        ".svg",
        ".tsv",
        ".txt",
    }
)


def check_file(out: str | os.PathLike[str] | None, *suffixes: str, name: str = "--out") -> None:
    """Refuse the path of a file that cannot be written; nothing is made.

    Args:
        out: The path; `None` writes nothing and is always right.
        *suffixes: Suffixes of the files that may be written, such as `".html"`.
        name: What the path is called in the message.

    Raises:
        InputError: The suffix is another one, a folder has this name, or the path lies in no folder that can be
            written.
    """
    if out is None:
        return
    path = Path(out)
    suffix = path.suffix.lower()
    example = "result" + (suffix if suffix in suffixes else suffixes[0])
    if path == Path():
        raise InputError(f"{name} is empty or the current folder; give the name of a file, such as {example}")
    if path.is_dir():
        raise InputError(f"{name} {path} is a folder; give a file name in it, such as {path / example}")
    if suffix not in suffixes:
        found = f"ends in '{suffix}'" if suffix else "has no suffix"
        raise InputError(f"{name} {path} {found}; expected {' or '.join(suffixes)}")
    _check_parent(path, name)


def check_folder(out: str | os.PathLike[str] | None, name: str = "--out-dir") -> None:
    """Refuse the path of a folder that cannot be written; nothing is made.

    Args:
        out: The path; `None` writes nothing and is always right.
        name: What the path is called in the message.

    Raises:
        InputError: A file has this name, the path ends as files do, or it lies in no folder that can be written.
    """
    if out is None:
        return
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise InputError(f"{name} {path} is a file; expected a folder")
    if not path.is_dir() and path.suffix.lower() in FILE_SUFFIXES:
        raise InputError(f"{name} {path} ends in '{path.suffix}'; expected a folder")
    _check_parent(path, name)


def check_new_folder(out: str | os.PathLike[str], name: str = "--out-dir", hint: str = "") -> None:
    """Refuse the path of a folder that holds something already, or cannot be written; nothing is made.

    Args:
        out: The path.
        name: What the path is called in the message.
        hint: What else can be done than to choose another folder, such as `", or add --overwrite"`.

    Raises:
        InputError: The folder is not empty, or the path is refused by `check_folder`.
    """
    check_folder(out, name)
    if Path(out).is_dir() and any(Path(out).iterdir()):
        raise InputError(f"{name} {out} is a folder that is not empty; give a new or an empty folder{hint}")


def _check_parent(path: Path, name: str) -> None:
    """Refuse a path below a file, or in a folder that cannot be written."""
    folder = path if path.is_dir() else next(above for above in path.absolute().parents if above.exists())
    if not folder.is_dir():
        raise InputError(f"{name} {path} needs a folder at {folder}, where there is a file; choose another path")
    try:
        with tempfile.TemporaryFile(dir=folder):  # os.access says yes to root, in folders where nobody can write too
            pass
    except OSError as error:
        reason = (error.strerror or "no file can be made there").lower()
        raise InputError(
            f"{name} {path} cannot be written in {folder} ({reason}); choose a path that can be written"
        ) from None
