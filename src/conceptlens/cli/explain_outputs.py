"""What `conceptlens explain` and `conceptlens contrast` share: options, and results printed and written."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import option_group
from conceptlens.cli.printing import print_end, print_failures, print_files, print_json, print_note
from conceptlens.io.atomic import write_json
from conceptlens.io.output_path import check_file, check_folder
from conceptlens.io.progress import progress
from conceptlens.io.text_file import readable_text
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.io.errors import Failure
    from conceptlens.model.backbone import Backbone

map_option = option_group("Maps")

RuleName = Annotated[
    str | None,
    map_option(
        "--rule",
        metavar="NAME",
        help="How channels are weighted in maps of classes: grad_cam (default), layer_cam, ...",
    ),
]
OutDir = Annotated[Path | None, shared.out_dir("the page and the numbers")]
# Tables have a row for each concept, which a contrast has none of.
PAGES, TABLES = (".html", ".json"), (".csv", ".parquet", ".jsonl")


def explain_and_write(
    backbone: Backbone,
    photos: Sequence[str],
    options: ExplainOptions,
    batch_size: int,
    out: Path | None,
    out_dir: Path | None,
    as_json: bool,
    command: str,
    document: Callable[[Sequence[PhotoResult], Sequence[Failure]], dict[str, Any]],
) -> None:
    """Explain, print, write; end with 2 where no photo could be explained, with 1 where some could not.

    Args:
        backbone: The model to explain.
        photos: Files, folders or patterns.
        options: What to compute for each photo.
        batch_size: Photos per forward pass.
        out: A page, numbers, a table, or a folder of pictures, as its suffix says.
        out_dir: A folder for the page and the numbers.
        as_json: Whether the numbers are printed as JSON.
        command: The command's name.
        document: Makes the JSON document of results and failures.

    Raises:
        InputError: No photo is found, or something cannot be written.
        typer.Exit: Photos failed.
    """
    from conceptlens.explainer.answer_words import answered_otherwise
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import explain_photos
    from conceptlens.explainer.terminal import print_result
    from conceptlens.io.errors import Failure
    from conceptlens.io.images import find_images

    start = time.perf_counter()
    paths = find_images(*photos)
    check_out(out, options)
    check_folder(out_dir)
    found = list(progress(explain_photos(backbone, paths, options, batch_size), len(paths), "explaining photos"))
    results = [r for r in found if isinstance(r, PhotoResult)]
    failures = [f for f in found if isinstance(f, Failure)]
    numbers = document(results, failures)
    if as_json:
        print_json(numbers)
    else:
        for result in results:
            print_result(result)
    print_failures(f.reason for f in failures)
    files = [] if out is None else [out]
    files += [] if out_dir is None else [out_dir / "report.html", out_dir / f"{command}.json"]
    for file in files if results else ():
        _write(file, results, failures, numbers)
    if len(results) > 1 and (note := answered_otherwise(results)):
        print_note(note)
    if assumed := next((r.answer.note for r in results if r.answer is not None and r.answer.assumed), ""):
        print_note(f"of {backbone.name}, {assumed}")
    print_end(f"{counted(len(results), 'photo')} explained", len(failures), start)
    print_files(files if results else ())
    if failures:
        raise typer.Exit(1 if results else 2)


def check_out(out: Path | None, options: ExplainOptions) -> None:
    """Refuse a path that nothing can be written to; nothing is made.

    Args:
        out: What `--out` was given as.
        options: What is computed for each photo.

    Raises:
        InputError: The suffix is unknown, or the path cannot be written.
    """
    if out is not None and _is_folder(out):
        check_folder(out, "--out")
    else:
        check_file(out, *PAGES, *(TABLES if options.with_concepts else ()))


def wants_photos(out: Path | None, out_dir: Path | None) -> bool:
    """Return whether a page or pictures are written, so that photos must be kept.

    Args:
        out: What `--out` was given as.
        out_dir: What `--out-dir` was given as.
    """
    return out_dir is not None or (out is not None and (out.suffix.lower() == ".html" or _is_folder(out)))


def class_of(name: str | None) -> Any:
    """Return a class as it is asked for: an index where the text is a whole number.

    Args:
        name: What was given; `None` stays.
    """
    if name is None:
        return None
    return int(name) if re.fullmatch(r"\s*[+-]?\d+\s*", name) else readable_text(name)


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _write(file: Path, results: Sequence[PhotoResult], failures: Sequence[Failure], numbers: dict[str, Any]) -> None:
    """Write a page, numbers, a table or a folder of pictures, as the suffix says."""
    suffix = file.suffix.lower()
    if _is_folder(file):
        from conceptlens.explainer.result_pictures import write_pictures

        write_pictures(results, file)
    elif suffix == ".json":
        write_json(file, numbers)
    elif suffix in TABLES:
        from conceptlens.explainer.runs.result_table import write_result_table

        write_result_table(results, failures, file)
    else:
        from conceptlens.explainer.page_content import page_content
        from conceptlens.explainer.report_page import write_page

        command = shlex.join(["conceptlens", *sys.argv[1:]])
        write_page(page_content([replace(result, command=command) for result in results]), file)
