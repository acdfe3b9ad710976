"""Runs of a benchmark, photo after photo: started, or resumed after any break."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from conceptlens.benchmark.protocol import Protocol as MeasuringProtocol
from conceptlens.benchmark.protocol import differences
from conceptlens.benchmark.result_parts import PhotoRows, write_photo
from conceptlens.io.atomic import write_json
from conceptlens.io.errors import InputError
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.photo_by_photo import PhotoProgress, failure_of, run_by_photo
from conceptlens.runs.photo_parts import PARTS, goes_on
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
            return PhotoRows(read, name, failure=failure_of(name, error))


def run_benchmark(
    task: BenchmarkTask,
    folder: Path,
    resume: bool = False,
    retry_failed: bool = False,
    engine: Engine = local_engine,
    compared: Mapping[str, str] | None = None,
) -> Iterator[PhotoProgress]:
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
    yield from run_by_photo(MeasuringRun(task), folder, write_photo, engine, retry_failed)


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
    if goes_on(folder, resume, (PROTOCOLS, COMPARED)):
        _check_same(read_protocols(folder), task.protocols, folder)
        _check_compared(folder, compared)
        return
    write_json(folder / PROTOCOLS, {one.hash: json.loads(one.json) for one in task.protocols})
    if compared is not None:
        write_json(folder / COMPARED, compared)
    (folder / PARTS).mkdir(parents=True, exist_ok=True)


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
