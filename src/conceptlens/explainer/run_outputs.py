"""The outputs of `explain` and `contrast`: page and JSON files, a summary, the photos that failed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.report_page import write_page
from conceptlens.io.atomic import replacing

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.io.failures import Failure


def write(
    out: Path | None,
    results: Sequence[PhotoResult],
    failures: Sequence[Failure],
    document: Callable[[Sequence[PhotoResult], Sequence[Failure]], dict[str, Any]],
    command: str,
) -> list[Path]:
    """Write the page, the JSON document or both, as the ending of `out` says, and return the files."""
    if out is None:
        return []
    files = {".html": [out], ".json": [out]}.get(out.suffix.lower(), [out / "report.html", out / f"{command}.json"])
    for file in files:
        if file.suffix.lower() == ".html":
            shell_line = shlex.join(["conceptlens", *sys.argv[1:]])
            write_page(page_content([replace(result, command=shell_line) for result in results]), file)
        else:
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(document(results, failures), allow_nan=False, indent=1), "utf-8")
    return files


def wants_page(out: Path | None) -> bool:
    """Whether `out` asks for the HTML page, so that photos must be kept."""
    return out is not None and out.suffix.lower() != ".json"


def summary(
    results: Sequence[PhotoResult], failures: Sequence[Failure], written: Sequence[Path], seconds: float
) -> None:
    """Say at the end, on standard error, what was done and where it is."""
    count = f"{len(results)} photo{'' if len(results) == 1 else 's'} explained"
    bad = f", {len(failures)} failed" if failures else ""
    typer.echo(f"{count}{bad} in {seconds:.1f} s", err=True)
    for file in written:
        typer.echo(f"{'report' if file.suffix == '.html' else 'numbers'}: {file}", err=True)


def report_failures(failures: Iterable[Failure]) -> None:
    """Say on standard error which photos failed, and why."""
    for failure in failures:
        typer.echo(f"conceptlens: {failure.reason}", err=True)
