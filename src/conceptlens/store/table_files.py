"""One table of a store as one file for other tools: Parquet, CSV or JSON lines, written batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.json_text import json_text
from conceptlens.io.output_path import check_file
from conceptlens.store import lance_tables
from conceptlens.store.explanation_store import ExplanationStore, check_table

Pieces = Iterator[pa.Table]


def export_table(
    store: ExplanationStore, table: str, file: str | PathLike[str], where: str | None = None, size: int = 10_000
) -> int:
    """Write the committed rows of a table to a file, whose suffix says how; return how many there are.

    - Rows come photo by photo and rank by rank, with the name of their `photo`.
    - A number that does not apply is NaN in Parquet, empty in CSV, `null` in JSON lines.
    - A map has its `cells` as `rows x columns` numbers, row by row; CSV has no place for them.

    Memory holds one batch, and a few numbers for each row; the file appears whole or not at all.

    Args:
        store: The store.
        table: "predictions", "explained", "concepts", "maps", "images" or "runs".
        file: A file that ends in .parquet, .csv or .jsonl.
        where: A condition in SQL on the columns of the table.
        size: Rows of a batch.

    Returns:
        The number of rows.

    Raises:
        InputError: The suffix or the table is unknown, maps are to be CSV, or there is no room.
    """
    path = Path(file)
    check_table_file(table, path)
    rows = 0

    def counted() -> Pieces:
        nonlocal rows
        for piece in store.stream(table, where=where, size=size):
            rows += piece.num_rows
            yield _plain(piece)

    with replacing(path) as temporary, lance_tables.readable_errors(path, "write to"):
        columns = _plain(store.table(table, where="false")).schema
        TABLE_FILES[path.suffix.lower()](temporary, columns, counted())
    return rows


def check_table_file(table: str, file: Path) -> None:
    """Refuse an unknown table, and a file that it cannot be written to; nothing is opened.

    Args:
        table: The name of a table.
        file: Where its rows are to be written.

    Raises:
        InputError: The suffix or the table is unknown, the file cannot be written, or maps are to be CSV.
    """
    check_file(file, *TABLE_FILES)
    check_table(table)
    if table == "maps" and file.suffix.lower() == ".csv":
        raise InputError("maps are grids of numbers, which CSV has no place for; give a file .parquet or .jsonl")


def _plain(rows: pa.Table) -> pa.Table:
    """Return rows without what is of use to a store alone: marks of keys, and packed maps."""
    plain = rows.cast(rows.schema.remove_metadata())
    plain = pa.table({name: plain[name] for name in plain.column_names})
    if "cells" not in plain.column_names:
        return plain
    packed = zip(plain["cells"].to_pylist(), plain["scale"].to_pylist(), strict=True)
    maps = [np.frombuffer(cells, "<f2").astype(np.float32) * np.float32(scale) for cells, scale in packed]
    unpacked = pa.array(maps, pa.list_(pa.float32()))
    return plain.drop_columns(["cells", "scale"]).append_column("cells", unpacked)


def _write_parquet(file: Path, columns: pa.Schema, pieces: Pieces) -> None:
    with pq.ParquetWriter(file, columns, compression="zstd") as writer:
        for rows in pieces:
            writer.write_table(rows)


def _write_csv(file: Path, columns: pa.Schema, pieces: Pieces) -> None:
    with pa_csv.CSVWriter(file, columns) as writer:
        for rows in pieces:
            writer.write_table(_without_nan(rows).cast(columns))


def _write_json_lines(file: Path, columns: pa.Schema, pieces: Pieces) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        for rows in pieces:
            lines.writelines(f"{json_text(row)}\n" for row in _in_short_numbers(_without_nan(rows)).to_pylist())


def _without_nan(rows: pa.Table) -> pa.Table:
    """Return rows with null in place of NaN."""
    for place, column in enumerate(rows.column_names):
        values = rows[column]
        if pa.types.is_floating(values.type):
            missing = pc.call_function("is_nan", [values])
            known = pc.call_function("if_else", [missing, pa.scalar(None, values.type), values])
            rows = rows.set_column(place, column, known)
    return rows


def _in_short_numbers(rows: pa.Table) -> pa.Table:
    """Return rows with the shortest decimal number that each float32 is the nearest to: 0.3, not 0.30000001192."""
    for place, column in enumerate(rows.column_names):
        values = rows[column]
        if values.type == pa.float32():
            rows = rows.set_column(place, column, values.cast(pa.string()).cast(pa.float64()))
    return rows


TABLE_FILES: dict[str, Callable[[Path, pa.Schema, Pieces], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
}
