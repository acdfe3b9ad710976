"""What a run found, on disk: one Parquet file for each photo, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.atomic import is_unfinished, replacing
from conceptlens.io.output_path import check_folder, check_new_folder

if TYPE_CHECKING:
    import pyarrow

PARTS = "parts"
_NAME = re.compile(r"(\d{8})(\.failed)?\.parquet")


def goes_on(folder: Path, resume: bool, files: Collection[str]) -> bool:
    """Return whether a folder holds a run to go on with; one that was broken off before its first photo starts anew.

    Args:
        folder: The folder of the run.
        resume: Whether a run that is there may go on.
        files: The names of the files that a run begins with; the first of them says what it measures.

    Raises:
        InputError: The folder holds something and `resume` is False, or it cannot be written.
    """
    if not _is_unstarted(folder, files):
        if resume and (folder / next(iter(files))).exists():
            return True
        check_new_folder(folder, hint=", or add --resume to go on with the run that it holds")
    check_folder(folder)
    return False


def write_part(folder: Path, index: int, rows: pyarrow.Table, failed: bool) -> None:
    """Write the rows of one photo, whole or not at all; those of a former try are replaced.

    Args:
        folder: The folder of the run.
        index: The photo's index in the run.
        rows: Its rows, or why it failed.
        failed: Whether it failed.
    """
    from pyarrow import parquet

    with replacing(part_file(folder, index, failed)) as temporary:
        parquet.write_table(rows, temporary)
    if not failed:
        part_file(folder, index, failed=True).unlink(missing_ok=True)


def written_photos(folder: Path) -> dict[int, bool]:
    """Return the indices of the photos that are written, in their order, and whether each is a failure.

    Args:
        folder: The folder of the run.
    """
    found: dict[int, bool] = {}
    for file in sorted((folder / PARTS).glob("*.parquet")):
        name = _NAME.fullmatch(file.name)
        if name is not None:
            index = int(name[1])
            found[index] = name[2] is not None and found.get(index, True)
    return dict(sorted(found.items()))


def part_file(folder: Path, index: int, failed: bool = False) -> Path:
    """Return the file of a photo.

    Args:
        folder: The folder of the run.
        index: The photo's index in the run.
        failed: Whether it says why the photo failed.
    """
    return folder / PARTS / f"{index:08d}{'.failed' if failed else ''}.parquet"


def _is_unstarted(folder: Path, files: Collection[str]) -> bool:
    """Whether a folder holds no more than what a run leaves that is broken off before its first photo."""
    if not folder.is_dir():
        return False
    left = [one.name for one in folder.iterdir() if not is_unfinished(one)]
    parts = folder / PARTS
    begun = parts.is_dir() and any(not is_unfinished(one) for one in parts.iterdir())
    return not begun and set(left) <= {PARTS, *files}
