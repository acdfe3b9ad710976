"""What all commands print alike: JSON documents on standard output; failures, times and files on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer


def print_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document on one line of standard output."""
    typer.echo(json.dumps(document, allow_nan=False))


def print_failures(reasons: Iterable[str]) -> None:
    """Say on standard error why something failed or was left out."""
    for reason in reasons:
        typer.echo(f"conceptlens: {reason}", err=True)


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
