"""How far a long run is, for all commands that have one; and what is said where it is stopped."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import typer

from conceptlens.io.errors import InputError
from conceptlens.io.progress import progress_bar
from conceptlens.pages.number_format import counted

INTERRUPTED, TERMINATED = 130, 143
CODES: dict[int, int] = {
    signal.SIGINT: INTERRUPTED,
    signal.SIGTERM: TERMINATED,
}  # exit codes: 128 and the number of the signal


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
Item = TypeVar("Item")


def with_progress(
    steps: Iterator[Progress],
    doing: str,
    empty: str = "choose another one or another split",
    go_on: str = "continue with --resume",
) -> Progress:
    """Show photos done, their rate and the time left, and return the last progress.

    A terminal has a bar, anything else a line every half minute. Ctrl-C and SIGTERM let the run keep what is done, say
    how to go on, and end the command with 130 and 143.

    Args:
        steps: The progress of a run; the first is that of what was there before.
        doing: What is done, such as `"embedding photos"`.
        empty: What to do where there is no photo.
        go_on: What is kept of a run that is interrupted, and how it goes on.

    Raises:
        InputError: There is no photo.
    """
    last = None
    with progress_bar(doing) as update, interruptible() as interruption:
        for step in steps:
            last = step
            update(step.photos, step.total, None)
    if interruption.came:
        if isinstance(steps, Generator):
            steps.close()  # which keeps what is done
        at = "before the first photo" if last is None else f"after {last.photos} of {counted(last.total, 'photo')}"
        typer.echo(f"interrupted {at}; {go_on}", err=True)
        raise typer.Exit(interruption.exit_code)
    if last is None:
        raise InputError(f"the data set has no photo; {empty}")
    return last


@dataclass(eq=False)
class Interruption:
    """Whether Ctrl-C or SIGTERM came, and the exit code of a command that it ends."""

    came: bool = False
    exit_code: int = INTERRUPTED


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let Ctrl-C and SIGTERM end the block and not the command, which goes on after it."""
    found = Interruption()

    def interrupt(number: int, _frame: Any) -> None:
        found.exit_code = CODES[number]
        raise KeyboardInterrupt

    try:
        with _handled_by(interrupt):
            yield found
    except KeyboardInterrupt as error:
        found.came = True
        traceback.clear_frames(error.__traceback__)  # what reads ahead ends now, and no bar is drawn any more


@contextmanager
def stoppable() -> Iterator[Interruption]:
    """Let Ctrl-C and SIGTERM end what `until_stopped` yields, not what is done with it; twice, they end the block."""
    found = Interruption()

    def note(number: int, _frame: Any) -> None:
        if found.came:
            raise KeyboardInterrupt
        found.came, found.exit_code = True, CODES[number]

    with _handled_by(note):
        yield found


def until_stopped(items: Iterable[Item], interruption: Interruption) -> Iterator[Item]:
    """Yield items until Ctrl-C or SIGTERM comes, which ends the making of the next one at once.

    Args:
        items: What is made one by one.
        interruption: What `stoppable` yields.
    """
    made = iter(items)
    while not interruption.came:
        with interruptible() as meanwhile:
            try:
                item = next(made)
            except StopIteration:
                return
        if meanwhile.came:
            interruption.came, interruption.exit_code = True, meanwhile.exit_code
            return
        yield item


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let a function handle Ctrl-C and SIGTERM; a signal that this process ignores stays ignored."""
    main = threading.current_thread() is threading.main_thread()  # no signal reaches another
    known = {number: signal.getsignal(number) for number in CODES if main}
    before = {number: own for number, own in known.items() if own not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
