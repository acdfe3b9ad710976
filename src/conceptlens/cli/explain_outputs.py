"""What `conceptlens explain` and `conceptlens contrast` share: options, and results printed and written."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import option_group
from conceptlens.cli.printing import print_end, print_failures, print_files, print_json, print_note
from conceptlens.cli.run_progress import stoppable, until_stopped
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
    """Explain, print and write photo by photo; end with 2 where none could be explained, with 1 where some could not.

    Ctrl-C and SIGTERM end it with 130 and 143, and what is done by then is printed and written as if it were all. A
    page and JSON need every result at their end; tables and pictures hold a few.

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
        typer.Exit: Photos failed, or the command was interrupted.
    """
    from conceptlens.explainer.photo_run import explain_photos
    from conceptlens.io.images import find_images

    start = time.perf_counter()
    paths = find_images(*photos)
    check_out(out)
    check_folder(out_dir)
    streamed = out if out is not None and (_is_folder(out) or out.suffix.lower() in TABLES) else None
    files = [] if out is None else [out]
    files += [] if out_dir is None else [out_dir / "report.html", out_dir / f"{command}.json"]
    seen = _Seen(hold=as_json or any(file != streamed for file in files), shown=not as_json)
    with stoppable() as interruption:
        made = progress(explain_photos(backbone, paths, options, batch_size), len(paths), "explaining photos")
        _write_streamed(seen.passing(until_stopped(made, interruption)), streamed, options)
        numbers = document(seen.held, seen.failures)
        if as_json:
            print_json(numbers)
        files = files if seen.explained else []
        for file in files:
            if file != streamed:
                _write(file, seen.held, numbers)
    print_failures(failure.reason for failure in seen.failures)
    for note in seen.notes(backbone.name):
        print_note(note)
    print_end(f"{counted(seen.explained, 'photo')} explained", len(seen.failures), start)
    print_files(files)
    if interruption.came:
        print_note(f"interrupted after {seen.explained + len(seen.failures)} of {counted(len(paths), 'photo')}")
        raise typer.Exit(interruption.exit_code)
    if seen.failures:
        raise typer.Exit(1 if seen.explained else 2)


@dataclass(eq=False)
class _Seen:
    """What is known of the photos of a command after they have passed one by one.

    Args:
        hold: Whether every result is held until the end.
        shown: Whether each is printed as it passes.
    """

    hold: bool
    shown: bool
    held: list[PhotoResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    explained: int = 0
    other_answers: int = 0
    other_answer: PhotoResult | None = None
    assumed: str = ""

    def passing(self, found: Iterable[PhotoResult | Failure]) -> Iterator[PhotoResult | Failure]:
        """Yield what was found, noted and printed."""
        from conceptlens.explainer.photo_result import PhotoResult
        from conceptlens.explainer.terminal import print_result

        for one in found:
            if isinstance(one, PhotoResult):
                self._note(one)
                if self.shown:
                    print_result(one)
            else:
                self.failures.append(one)
            yield one

    def _note(self, result: PhotoResult) -> None:
        self.explained += 1
        self.held += [result] if self.hold else []
        if result.answered is False:
            self.other_answers += 1
            self.other_answer = self.other_answer or result
        if result.answer is not None and result.answer.assumed:
            self.assumed = self.assumed or result.answer.note

    def notes(self, model: str) -> Iterator[str]:
        """Yield what is said of all photos together."""
        from conceptlens.explainer.answer_words import otherwise_words

        if self.explained > 1 and self.other_answer is not None:
            yield from filter(None, [otherwise_words(self.other_answer, self.other_answers, self.explained)])
        if self.assumed:
            yield f"of {model}, {self.assumed}"


def check_out(out: Path | None) -> None:
    """Refuse a path that nothing can be written to; nothing is made.

    Args:
        out: What `--out` was given as.

    Raises:
        InputError: The suffix is unknown, or the path cannot be written.
    """
    if out is not None and _is_folder(out):
        check_folder(out, "--out")
    else:
        check_file(out, *PAGES, *TABLES)


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


def _write_streamed(found: Iterator[PhotoResult | Failure], out: Path | None, options: ExplainOptions) -> None:
    """Write a table or pictures while photos are explained; nothing where none of them can be."""
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.result_pictures import write_pictures
    from conceptlens.explainer.runs.contrast_table import CONTRAST_TABLE
    from conceptlens.explainer.runs.result_table import CONCEPT_TABLE, write_result_table

    first: list[PhotoResult | Failure] = []
    for one in found:
        first.append(one)
        if isinstance(one, PhotoResult):
            break
    else:
        return
    every = chain(first, found)
    if out is None:
        deque(every, maxlen=0)
    elif _is_folder(out):
        write_pictures((one for one in every if isinstance(one, PhotoResult)), out)
    else:
        write_result_table(every, CONCEPT_TABLE if options.with_concepts else CONTRAST_TABLE, out)


def _write(file: Path, results: Sequence[PhotoResult], numbers: dict[str, Any]) -> None:
    """Write a page or numbers, as the suffix says."""
    if file.suffix.lower() == ".json":
        write_json(file, numbers)
        return
    from conceptlens.explainer.page_content import page_content
    from conceptlens.explainer.report_page import write_page

    command = shlex.join(["conceptlens", *sys.argv[1:]])
    write_page(page_content([replace(result, command=command) for result in results]), file)
