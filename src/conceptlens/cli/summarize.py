"""`conceptlens summarize`: questions over a data set, from a store of its explained photos."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, data_option, output_option, run_option
from conceptlens.cli.printing import print_end, print_files, print_json
from conceptlens.io.output_path import check_folder
from conceptlens.io.progress import progress
from conceptlens.pages.number_format import counted


@answering
def summarize(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="A store that conceptlens explain --store wrote.", show_default=False),
    ],
    against: Annotated[
        Path | None,
        data_option(metavar="STORE", help="Another store: which concepts count otherwise there, for which classes."),
    ] = None,
    run: Annotated[str | None, data_option(metavar="ID", help="The run, where the store has several.")] = None,
    against_run: Annotated[
        str | None, data_option(metavar="ID", help="The run of --against, where that store has several.")
    ] = None,
    out: Annotated[Path | None, shared.out_dir("the page and the numbers", "--out")] = None,
    thumbnails: Annotated[
        int, output_option(min=0, help="How many photos are shown small on the page at most; the others by name.")
    ] = 2000,
    as_json: shared.Json = False,
    seed: Annotated[int, run_option(min=0, help="Seed of the draws that intervals are made of.")] = 0,
) -> None:
    """Say what carries each class in a data set, what is confused, what may be a shortcut, and what has changed."""
    from conceptlens.io.atomic import write_json
    from conceptlens.store import ExplanationStore
    from conceptlens.summary.data_summary import summarize as summarized
    from conceptlens.summary.summary_json import summary_json
    from conceptlens.summary.summary_page import PAGE, write_page, write_photos
    from conceptlens.summary.summary_text import summary_lines

    start = time.perf_counter()
    if against_run is not None:
        shared.refuse_unused({"--against-run": None if against else against_run}, "without --against; add it")
    if out is not None:
        check_folder(out, "--out")
    other = None if against is None else ExplanationStore(against)
    found = summarized(ExplanationStore(store), other, run, against_run, seed)
    document = summary_json(found)
    if as_json:
        print_json(document)
    else:
        for line in summary_lines(found):
            typer.echo(line)
    if out is not None:
        write_json(out / "summary.json", document)
        steps = write_photos(found, out, thumbnails)
        for _ in progress(steps, min(thumbnails, len(found.photos)), "small pictures"):
            pass
        write_page(found, out)
        print_files([out / PAGE, out / "summary.json"])
    print_end(counted(len(found.photos), "photo"), found.failed, start)
