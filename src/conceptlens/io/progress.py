"""Progress on standard error: the one bar of all commands and trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

SPEED_SECONDS = 600  # over which the speed is measured: one step may take minutes

Update = Callable[[int, int | None, str | None], None]


def progress(items: Iterable[T], total: int, description: str, *, visible: bool = True) -> Iterable[T]:
    """Return `items`, which draw a progress bar on standard error while they are iterated.

    Args:
        items: What is done one by one.
        total: How many items there are.
        description: What the items are, such as `"photos"`.
        visible: False draws nothing, for the processes of a training that are not the main one.

    Returns:
        The items unchanged where there are fewer than two or standard error is no terminal.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if total < 2 or not visible or not console.is_terminal:
        return items
    return track(items, description=description, total=total, console=console, transient=True)


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
def progress_bar(description: str, total: int | None = None, *, visible: bool = True) -> Iterator[Update | None]:
    """Yield a function that draws how far a loop is, for a loop that counts by itself.

    Args:
        description: What is counted.
        total: The count at the end; `None` where it is known only later.
        visible: False draws nothing, for the processes of a training that are not the main one.

    Yields:
        `update(completed, total, description)`, where `None` keeps the total or the description; `None` instead of
        the function where standard error is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not visible or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, speed_estimate_period=SPEED_SECONDS) as bar:
        task = bar.add_task(description, total=total)

        def update(completed: int, total: int | None, description: str | None) -> None:
            bar.update(task, completed=completed, total=total, description=description)

        yield update
