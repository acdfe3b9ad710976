"""A run that writes to a store, whatever it computes: known by its settings, begun or resumed, and finished."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import IO, Any

from conceptlens.io.errors import InputError
from conceptlens.store.lance_tables import SPARED_AGE
from conceptlens.store.row import RunRow, row_id
from conceptlens.store.run_store import RunStore

WRITERS_FILE = ".writers"  # which every process that writes to a store has locked


def run_id(settings: Mapping[str, Any]) -> str:
    """Return the id of a run with these settings: the same wherever and whenever it runs.

    Args:
        settings: All that decides the rows of the run.
    """
    return row_id("run", *(f"{name}={settings[name]}" for name in sorted(settings)))


def known_run(store: RunStore, settings: Mapping[str, Any], resume: bool) -> tuple[RunRow | None, set[str]]:
    """Return the run of these settings as a store has it, and the ids of its images.

    Args:
        store: The store.
        settings: All that decides the rows of the run.
        resume: Whether the run may go on where it is there already.

    Returns:
        The run, `None` where it is new, and the ids of the images that need not be read again.

    Raises:
        InputError: The store has a part of the run and `resume` is False, or it has others alone and `resume` is True.
    """
    run = run_id(settings)
    done = store.committed_images(run)
    known = next((row for row in store.runs() if row.id == run), None)
    if known is not None and done and not resume:
        raise InputError(
            f"{store.path} already has {len(done)} photos of this run; resume it (--resume), or choose another store"
        )
    if resume and known is None:
        _check_other_runs(store, settings)
    return known, done


def _check_other_runs(store: RunStore, settings: Mapping[str, Any]) -> None:
    """Raise `InputError` where the store has runs of the same kind but none to resume, and name what differs."""
    alike = [row for row in store.runs() if settings.keys() <= row.settings.keys()]
    if alike:
        last = max(alike, key=lambda row: row.started).settings
        differing = ", ".join(f"{name} {last[name]}" for name in settings if last[name] != settings[name])
        raise InputError(
            f"{store.path} has no run of these settings to resume; the last one has {differing}; give the same, or "
            "leave resume out to start another run"
        )


def now() -> str:
    """Return the time as a run keeps it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def left_of(batches: Iterable[range], done: Sequence[bool]) -> list[range]:
    """Return what is left of each batch: all of it, or the ranges between photos that are done.

    Args:
        batches: Ranges of photos.
        done: Whether each photo is done.
    """
    parts = (list(part) for batch in batches for there, part in groupby(batch, done.__getitem__) if not there)
    return [range(part[0], part[-1] + 1) for part in parts]


@contextmanager
def writing(store: RunStore) -> Iterator[Callable[[], bool]]:
    """Make it known to other processes that this one writes to a store, however it ends.

    Args:
        store: The store.

    Yields:
        A function that says whether no other process writes, and none will before the block ends.
    """
    with (store.path / WRITERS_FILE).open("ab") as file:
        _lock(file, "LOCK_SH")
        yield lambda: _lock(file, "LOCK_EX")


def _lock(file: IO[bytes], kind: str) -> bool:
    """Lock a file as all writers do, or for this process alone; return whether it is locked so."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, getattr(fcntl, kind) | (0 if kind == "LOCK_SH" else fcntl.LOCK_NB))
    except OSError:  # another process has it, or this file system knows no locks
        return False
    return True


def finish_run(store: RunStore, row: RunRow, counts: Mapping[str, int], alone: Callable[[], bool]) -> None:
    """Keep that a run has ended, and join the small pieces that its batches were written in.

    Args:
        store: The store.
        row: The run.
        counts: What it counted.
        alone: What `writing` yields: older versions are removed where no other process may need them.
    """
    store.write_run(replace(row, finished=now(), counts=counts))
    store.compact(timedelta(0) if alone() else SPARED_AGE)
