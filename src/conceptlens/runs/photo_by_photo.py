"""Runs whose batches are single photos, written one by one, so that a run that is broken off loses one at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from conceptlens.runs.photo_parts import written_photos
from conceptlens.runs.run_task import Engine, RunTask


class PhotoFound(Protocol):
    """What a run found in one photo."""

    @property
    def index(self) -> int:
        """The photo's index in the run."""
        ...

    @property
    def failure(self) -> str | None:
        """Why it failed; `None` where it did not."""
        ...


Found = TypeVar("Found", bound=PhotoFound)


@dataclass(frozen=True)
class PhotoProgress:
    """Progress of a run: photos done of `total`, those of them that failed, and the last failure's reason."""

    photos: int
    total: int
    failures: int
    reason: str = ""


def run_by_photo(
    task: RunTask[Any, Found],
    folder: Path,
    write: Callable[[Path, Found], None],
    engine: Engine,
    retry_failed: bool = False,
) -> Iterator[PhotoProgress]:
    """Run the photos of a task that a folder has not yet, write each as it comes, and yield the progress.

    The rows of a photo are written together, so whenever a run is broken off, a photo is there as a whole or not at
    all. Memory holds the rows of one photo, and what is read ahead.

    Args:
        task: What is done with each photo.
        folder: The folder of the run.
        write: Writes what was found in one photo, by `write_part`.
        engine: Where photos are looked at.
        retry_failed: Look at photos again that failed before.

    Yields:
        The progress; first that of the photos that are there already.
    """
    known, total = written_photos(folder), len(task.names)
    done = {index for index, failed in known.items() if not (failed and retry_failed)}
    so_far = PhotoProgress(len(done), total, sum(known[index] for index in done))
    yield so_far
    for found in engine(task, [range(index, index + 1) for index in range(total) if index not in done]):
        write(folder, found)
        failures, reason = so_far.failures + (found.failure is not None), found.failure or so_far.reason
        so_far = replace(so_far, photos=so_far.photos + 1, failures=failures, reason=reason)
        yield so_far


def failure_of(name: str, error: Exception) -> str:
    """Return why a photo failed, in one line that names it.

    Args:
        name: What the photo is called.
        error: What was raised.
    """
    return f"{name}: {' '.join(str(error).split())}"
