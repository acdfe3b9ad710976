"""How far a long run is, for all commands that have one; and what is said where it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import typer

from conceptlens.io.errors import InputError
from conceptlens.io.progress import progress_bar, speed_text, time_text
from conceptlens.pages.number_format import counted

LOG_SECONDS = 30.0
INTERRUPTED, TERMINATED = 130, 143  # exit codes: 128 and the number of the signal


class RunProgress(Protocol):
    """How far a run is: photos done of `total`."""

    @property
    def photos(self) -> int:
        """The photos that are done."""
        ...

    @property
    def total(self) -> int:
        """The photos of the run."""
        ...


Progress = TypeVar("Progress", bound=RunProgress)


def with_progress(
    steps: Iterator[Progress], doing: str, empty: str = "choose another one or another split"
) -> Progress:
    """Show photos done, their rate and the time left, and return the last progress.

    A terminal has a bar, anything else a line every half minute. Ctrl-C and SIGTERM let the run keep what is done, say
    how to go on, and end the command with 130 and 143.

    Args:
        steps: The progress of a run; the first is that of what was there before.
        doing: What is done, such as `"embedding photos"`.
        empty: What to do where there is no photo.

    Raises:
        InputError: There is no photo.
    """
    last = None
    with progress_bar(doing) as update, sigterm_as_interrupt() as terminated:
        start = logged = time.perf_counter()
        first = 0  # photos that a resumed run has already
        try:
            for step in steps:
                now, first = time.perf_counter(), step.photos if last is None else first
                last, done = step, step.photos - first
                pace = speed_text(done, now - start)
                if update is not None:
                    update(step.photos, step.total, f"{doing}{pace}")
                elif pace and now - logged > LOG_SECONDS:  # a log has no bar
                    logged = now
                    left = time_text((step.total - step.photos) * (now - start) / done)
                    typer.echo(f"{step.photos} of {counted(step.total, 'photo')}{pace}, {left} left", err=True)
        except KeyboardInterrupt:
            if isinstance(steps, Generator):
                steps.close()  # which keeps what is done
            at = "before the first photo" if last is None else f"after {last.photos} of {counted(last.total, 'photo')}"
            typer.echo(f"interrupted {at}; continue with --resume", err=True)
            raise typer.Exit(TERMINATED if terminated.is_set() else INTERRUPTED) from None
    if last is None:
        raise InputError(f"the data set has no photo; {empty}")
    return last


@contextmanager
def sigterm_as_interrupt() -> Iterator[threading.Event]:
    """Let SIGTERM end what is at work as Ctrl-C does; what is yielded is set where it came."""
    came = threading.Event()

    def interrupt(_number: int, _frame: Any) -> None:
        came.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which no signal reaches
        yield came
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
