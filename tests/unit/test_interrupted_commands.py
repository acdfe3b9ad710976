"""Ctrl-C and SIGTERM end every command with its exit code and one line, and leave the process as it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import typer

from conceptlens.cli.options import answering
from conceptlens.cli.run_progress import interruptible, stoppable, until_stopped, with_progress
from conceptlens.explainer.runs.explain_run import ExplainProgress


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_is_closed_and_says_what_is_kept(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[int] = []

    def steps() -> Iterator[ExplainProgress]:
        try:
            for photos in range(5):
                yield ExplainProgress("run", photos, 40, 0, 0)
                if photos == 3:
                    os.kill(os.getpid(), number)
                    time.sleep(5)
        finally:
            closed.append(1)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        with_progress(steps(), "explaining photos", go_on="they are kept in runs; continue with --resume")
    assert ended.value.exit_code == code
    assert closed == [1]
    said = "interrupted after 3 of 40 photos; they are kept in runs; continue with --resume\n"
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_any_other_command_says_what_becomes_of_it(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[int] = []

    def reading() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append(1)

    def command() -> None:
        for one in reading():
            if one == 2:
                os.kill(os.getpid(), number)
                time.sleep(5)

    with pytest.raises(typer.Exit) as ended:
        answering(command, "the cache is kept")()
    assert ended.value.exit_code == code
    assert closed == [1]
    assert capsys.readouterr().err == "interrupted; the cache is kept\n"


def test_the_writer_of_what_is_made_is_never_interrupted_and_the_making_at_once() -> None:
    written: list[int] = []

    def made(number: int) -> Iterator[int]:
        for one in range(9):
            if one == number:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            yield one

    with stoppable() as first:
        written.extend(until_stopped(made(4), first))
    assert (written, first.exit_code) == ([0, 1, 2, 3], 143)
    with stoppable() as second:
        for one in until_stopped(made(99), second):
            if one == 5:
                os.kill(os.getpid(), signal.SIGINT)
            written.append(one)
    assert (written[4:], second.exit_code) == ([0, 1, 2, 3, 4, 5], 130)
    with stoppable() as third:
        assert list(until_stopped(made(99), third)) == list(range(9))
    assert not third.came


def test_what_ends_otherwise_ends_as_ever() -> None:
    with interruptible() as interruption:
        pass
    assert not interruption.came
    with pytest.raises(KeyError), interruptible():
        raise KeyError("other")
