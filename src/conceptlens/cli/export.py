"""`conceptlens export`: one table of a store as a file for other tools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from conceptlens.cli.options import answering, data_option, out_file
from conceptlens.cli.printing import print_end, print_files


@answering
def export(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="A store that conceptlens explain --store wrote.", show_default=False),
    ],
    table: Annotated[
        str,
        data_option(
            metavar="NAME", help="What to write: concepts, predictions, explained, images, runs, or maps where kept."
        ),
    ],
    out: Annotated[Path, out_file("FILE.parquet, FILE.csv or FILE.jsonl.")],
    where: Annotated[
        str | None,
        data_option(
            metavar="SQL", help="Only rows that a condition fits, such as \"label = 'snow' AND presence > 0.5\"."
        ),
    ] = None,
) -> None:
    """Write a table of a store as Parquet, CSV or JSON lines."""
    from conceptlens.store import ExplanationStore
    from conceptlens.store.table_files import check_table_file, export_table

    start = time.perf_counter()
    check_table_file(table, out)
    rows = export_table(ExplanationStore(store), table, out, where)
    print_end(f"{rows} rows of {table}", 0, start)
    print_files([out])
