"""Runs of a benchmark, photo after photo: started, or resumed after any break."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from conceptlens.benchmark.protocol import Protocol as MeasuringProtocol
from conceptlens.benchmark.protocol import differences
from conceptlens.benchmark.result_parts import PARTS, PhotoRows, write_part, written_photos
from conceptlens.io.atomic import is_unfinished, write_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder, check_new_folder
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.run_task import Engine

PROTOCOLS = "protocols.json"
COMPARED = "compared.json"


class BenchmarkTask(Protocol):
    """What every worker of a run needs; it can be pickled."""

    @property
    def protocols(self) -> tuple[MeasuringProtocol, ...]:
        """One protocol for each method and column."""
        ...

    @property
    def photo_names(self) -> Sequence[str]:
        """What the photos that are measured are called, in their order."""
        ...

    def rows(self, index: int) -> PhotoRows:
        """Measure one photo.

        Args:
            index: Its index among `photo_names`.
        """
        ...


@dataclass(frozen=True, eq=False)
class MeasuringRun:
    """A task as engines take it: a batch is one photo, so that a run that is broken off loses one at most."""

    task: BenchmarkTask

    @property
    def about(self) -> str:
        """What is sent to workers."""
        first = self.task.protocols[0]
        return f"{first.model} or {first.data}"

    @property
    def names(self) -> Sequence[str]:
        """What the photos are called."""
        return self.task.photo_names

    def read(self, batch: range) -> int:
        """Return the photo's index; it is read when it is measured, which takes far longer.

        Args:
            batch: The photo.
        """
        return batch.start

    def compute(self, read: int) -> PhotoRows:
        """Return the rows of one photo; why it failed, where it cannot be read, explained or measured.

        Args:
            read: The photo's index.
        """
        try:
            return self.task.rows(read)
        except (InputError, RuntimeError) as error:  # torch's own: out of memory, shapes
            name = self.task.photo_names[read]
            return PhotoRows(read, name, failure=f"{name}: {' '.join(str(error).split())}")


@dataclass(frozen=True)
class BenchmarkProgress:
    """Progress of a run: photos done of `total`, those of them that failed, and the last failure's reason."""

    photos: int
    total: int
    failures: int
    reason: str = ""


def run_benchmark(
    task: BenchmarkTask,
    folder: Path,
    resume: bool = False,
    retry_failed: bool = False,
    engine: Engine = local_engine,
    compared: Mapping[str, str] | None = None,
) -> Iterator[BenchmarkProgress]:
    """Measure every photo of a task, and yield the progress after each.

    The rows of a photo are written together, so whenever a run is broken off, a photo is there as a whole or not at
    all; a resumed run goes on with the photos that are not. Memory holds the rows of one photo.

    Args:
        task: What is measured.
        folder: Where rows are written.
        resume: Go on with a run of the same protocols that the folder has a part of.
        retry_failed: Measure photos again that failed before.
        engine: Where photos are measured: in this process, or by `process_engine(...)` or `ray_engine(...)`.
        compared: What each method is compared with, empty for none, where a resumed run must have the same.

    Yields:
        The progress; first that of the photos that are there already.

    Raises:
        InputError: The folder holds something and `resume` is False, or it holds a run of other protocols or other
            comparisons; the sentence says what differs. A run that was broken off before its first photo starts again
            in any case.
    """
    _open(task, folder, resume, compared)
    known = written_photos(folder)
    done = {index for index, failed in known.items() if not (failed and retry_failed)}
    total = len(task.photo_names)
    so_far = BenchmarkProgress(len(done), total, sum(known[index] for index in done))
    yield so_far
    left = [range(index, index + 1) for index in range(total) if index not in done]
    for found in engine(MeasuringRun(task), left):
        write_part(folder, found)
        failed = found.failure is not None
        so_far = replace(
            so_far,
            photos=so_far.photos + 1,
            failures=so_far.failures + failed,
            reason=found.failure or so_far.reason,
        )
        yield so_far


def read_protocols(folder: Path) -> dict[str, MeasuringProtocol]:
    """Return the protocols of a run by their hash.

    Args:
        folder: The folder of the run.

    Raises:
        InputError: There are none, or a hash is not that of its protocol.
    """
    try:
        given: Mapping[str, Mapping[str, Any]] = json.loads((folder / PROTOCOLS).read_text("utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder} holds no {PROTOCOLS}; give the folder of a benchmark's run") from None
    found = {key: MeasuringProtocol.from_dict(one) for key, one in given.items()}
    wrong = [key for key, one in found.items() if one.hash != key]
    if wrong:
        raise InputError(f"{folder / PROTOCOLS} was changed: {wrong[0]} is not the hash of its protocol; run again")
    return found


def _open(task: BenchmarkTask, folder: Path, resume: bool, compared: Mapping[str, str] | None) -> None:
    """Write protocols and comparisons of a new run, or check that a resumed one has the same."""
    if not _is_unstarted(folder):
        if resume and (folder / PROTOCOLS).exists():
            _check_same(read_protocols(folder), task.protocols, folder)
            _check_compared(folder, compared)
            return
        check_new_folder(folder, hint=", or add --resume to go on with the run that it holds")
    check_folder(folder)
    write_json(folder / PROTOCOLS, {one.hash: json.loads(one.json) for one in task.protocols})
    if compared is not None:
        write_json(folder / COMPARED, compared)
    (folder / PARTS).mkdir(parents=True, exist_ok=True)


def _is_unstarted(folder: Path) -> bool:
    """Whether a folder holds no more than what a run leaves that is broken off before its first photo."""
    if not folder.is_dir():
        return False
    left = [one.name for one in folder.iterdir() if not is_unfinished(one)]
    parts = folder / PARTS
    begun = parts.is_dir() and any(not is_unfinished(one) for one in parts.iterdir())
    return not begun and set(left) <= {PARTS, PROTOCOLS, COMPARED}


def _check_same(known: Mapping[str, MeasuringProtocol], wanted: Sequence[MeasuringProtocol], folder: Path) -> None:
    """Refuse to go on with a run of other protocols, and say what differs."""
    if {one.hash for one in wanted} == set(known):
        return
    by_place = {(one.method, one.metric, one.fill): one for one in known.values()}
    for one in wanted:
        before = by_place.get((one.method, one.metric, one.fill))
        if before is None or before.hash != one.hash:
            what = f"{one.method} in {one.metric}"
            why = "which it does not have" if before is None else differences(before, one) or "with other settings"
            raise InputError(
                f"{folder} holds a run of another protocol ({what}: {why}); resume with the options that it was "
                "started with, or choose another folder"
            )
    raise InputError(f"{folder} holds a run with more methods or metrics; resume with the options it was started with")


def _check_compared(folder: Path, wanted: Mapping[str, str] | None) -> None:
    """Refuse to go on with a run whose methods are compared with others: marks would mean something else."""
    if wanted is None or not (folder / COMPARED).exists():
        return
    try:
        known: dict[str, str] = json.loads((folder / COMPARED).read_text("utf-8"))
        before = {name: str(known[name]) for name in wanted}
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{folder / COMPARED} was changed and cannot be read; choose another folder") from None
    name = next((name for name in wanted if wanted[name] != before[name]), None)
    if name is None:
        return
    raise InputError(
        f"{folder} holds a run in which {name} is compared with {before[name] or 'nothing'}, here it is with "
        f"{wanted[name] or 'nothing'}; give --baseline, or --methods in their order, as it was started, or choose "
        "another folder"
    )
