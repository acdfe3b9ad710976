"""What all commands print alike: JSON documents on standard output; failures, times and files on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from conceptlens.io.json_text import json_text

N_EXCLUDED = 5  # of what a set leaves out, that many are named


def print_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document on one line of standard output."""
    typer.echo(json_text(document))


def print_failures(reasons: Iterable[str]) -> None:
    """Say on standard error why something failed or was left out."""
    for reason in reasons:
        typer.echo(f"conceptlens: {reason}", err=True)


def print_excluded(excluded: Mapping[str, str]) -> None:
    """Say on standard error what a data set leaves out: the first few, and how many more."""
    print_failures(f"{name} is left out: {reason}" for name, reason in islice(excluded.items(), N_EXCLUDED))
    if len(excluded) > N_EXCLUDED:
        typer.echo(f"conceptlens: {len(excluded) - N_EXCLUDED} more are left out of {len(excluded)} in all", err=True)


def print_note(note: str) -> None:
    """Say something about the whole run on standard error."""
    typer.echo(note, err=True)


def print_end(done: str, failed: int, start: float) -> None:
    """Say on standard error what was done, how much failed, and the seconds since `start`."""
    bad = f", {failed} failed" if failed else ""
    typer.echo(f"{done}{bad} in {time.perf_counter() - start:.1f} s", err=True)


def print_files(files: Iterable[Path]) -> None:
    """Say on standard error which files were written."""
    for file in files:
        kind = {".html": "page", ".json": "numbers", "": "folder"}.get(file.suffix.lower(), "table")
        typer.echo(f"{kind}: {file}", err=True)
