"""Progress on standard error: the one bar of all commands and trainings, and its lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

SPEED_SECONDS = 600  # over which the speed is measured: one step may take minutes
LOG_SECONDS = 30.0  # between two lines in a log

Update = Callable[[int, int | None, str | None], None]


def progress(items: Iterable[T], total: int, description: str, each: int = 1, *, visible: bool = True) -> Iterable[T]:
    """Return `items`, which tell on standard error how far they are while they are iterated (`progress_bar`).

    Args:
        items: What is done one by one.
        total: The count at the end, such as that of all photos.
        description: What is counted, such as `"reading photos"`.
        each: What an item counts for, such as the photos of a batch; the last one may count for less.
        visible: False tells nothing, for the processes of a training that are not the main one.

    Returns:
        The items; themselves where there are fewer than two or nothing is told.
    """
    return items if total <= each or not visible else _told(items, total, description, each)


def _told(items: Iterable[T], total: int, description: str, each: int) -> Iterator[T]:
    done = 0
    with progress_bar(description, total) as update:
        update(done, None, None)
        for item in items:
            yield item
            done = min(total, done + each)
            update(done, None, None)


def speed_text(count: int, seconds: float) -> str:
    """Return `, 3.2 a second`, `, 5.0 a minute` or `, 2.5 an hour` for `count` in so many seconds; nothing for none."""
    if not count or seconds <= 0:
        return ""
    speed = count / seconds
    if speed >= 1:
        return f", {speed:.1f} a second"
    return f", {60 * speed:.1f} a minute" if 60 * speed >= 1 else f", {3600 * speed:.2g} an hour"


def time_text(seconds: float) -> str:
    """Return a time in the units that it is long in: `40 s`, `12 min`, `3 h 20 min`, `12 days`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{round(seconds / 86_400)} days"


@contextmanager
def progress_bar(description: str, total: int | None = None, *, visible: bool = True) -> Iterator[Update]:
    """Yield a function that tells how far a loop is, for a loop that counts by itself.

    A terminal has a bar, anything else a line every half minute, both with the rate and the time left.

    Args:
        description: What is counted.
        total: The count at the end; `None` where it is known only later.
        visible: False tells nothing, for the processes of a training that are not the main one.

    Yields:
        `update(completed, total, description)`, where `None` keeps the total or the description. The first call says
        what was there before.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, seconds_since = Console(stderr=True), _stopwatch()
    if not visible:
        yield _untold
        return
    if not console.is_terminal:
        yield _log_lines(description, total)
        return
    columns = (TextColumn("{task.description}{task.fields[pace]}"), BarColumn(), MofNCompleteColumn())
    # What goes to a terminal meanwhile stands above the bar; what goes to a file stays there.
    shared = sys.stdout.isatty()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=SPEED_SECONDS,
        redirect_stdout=shared,
    ) as bar:  # fmt: skip
        task = bar.add_task(description, total=total, pace="")

        def update(completed: int, total: int | None, description: str | None) -> None:
            pace = speed_text(*seconds_since(completed))
            bar.update(task, completed=completed, total=total, description=description, pace=pace)

        yield update


def _untold(_completed: int, _total: int | None, _description: str | None) -> None:
    """Tell nothing."""


def _stopwatch() -> Callable[[int], tuple[int, float]]:
    """Return what says how many were done since its first call, and in how many seconds."""
    first: list[tuple[int, float]] = []

    def since(completed: int) -> tuple[int, float]:
        now = time.perf_counter()
        before, start = first[0] if first else (completed, now)
        first[:] = [(before, start)]
        return completed - before, now - start

    return since


def _log_lines(doing: str, total: int | None) -> Update:
    """Return what writes a line to standard error every half minute."""
    since, known, logged = _stopwatch(), total, 0.0

    def update(completed: int, total: int | None, description: str | None) -> None:
        nonlocal known, logged
        (done, seconds), known = since(completed), total or known
        if done <= 0 or seconds - logged < LOG_SECONDS:
            return
        logged, what = seconds, f"{description or doing}: {_spaced(completed)}"
        of = "" if known is None else f" of {_spaced(known)}"
        left = "" if known is None else f", {time_text((known - completed) * seconds / done)} left"
        print(f"{what}{of}{speed_text(done, seconds)}{left}", file=sys.stderr, flush=True)

    return update


def _spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")
