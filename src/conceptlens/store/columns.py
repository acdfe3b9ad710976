"""The tables of a store, column by column, and the way from rows to columns and back. No value is null."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.json_text import json_text
from conceptlens.io.text_file import readable_text
from conceptlens.store.explanation_rows import EXPLANATION_TABLES
from conceptlens.store.row import EmbeddingRow, ImageRow, MaskRow, RunRow

Columns = dict[str, pa.DataType]

IMAGES: Columns = {"id": pa.string(), "run": pa.string(), "name": pa.string(), "sha256": pa.string()}
IMAGES |= {"width": pa.int32(), "height": pa.int32(), "failure": pa.string()}
MASKS: Columns = {"id": pa.string(), "image": pa.string(), "concept": pa.string()}
MASKS |= {"rows": pa.int32(), "columns": pa.int32(), "counts": pa.binary()}
RUNS: Columns = {name: pa.string() for name in ("id", "settings", "started", "finished", "counts")}

_TEXTS = ("id", "run", "image", "concept", "type", "group", "model", "layer", "mode", "mask")
_NUMBERS = ("iou", "loss", "control_iou", "selectivity", "area")
_EMBEDDINGS = re.compile(r"embeddings_([1-9][0-9]*)")
_KEYS = {"images": ("id", "run")}  # what identifies a row of a table, where it is not the id alone
_KINDS = {"str": pa.string(), "int": pa.int32(), "float": pa.float32(), "bool": pa.bool_(), "bytes": pa.binary()}
EXPLANATIONS: dict[str, Columns] = {
    name: {field.name: _KINDS[str(field.type)] for field in fields(row)} for name, row in EXPLANATION_TABLES.items()
}
_TABLES = {"masks": MASKS, "images": IMAGES, "runs": RUNS, **EXPLANATIONS}


def embeddings_table(channels: int) -> str:
    """Return the name of the table of vectors of one length: Lance keeps vectors of one length in a column."""
    return f"embeddings_{channels}"


def channels_of(table: str) -> int | None:
    """Return the length of the vectors in a table, or `None` where it is no table of vectors."""
    found = _EMBEDDINGS.fullmatch(table)
    return int(found[1]) if found else None


def keys(table: str) -> tuple[str, ...]:
    """Return the columns that identify a row of a table."""
    return _KEYS.get(table, ("id",))


def schema(table: str) -> pa.Schema:
    """Return the columns of a table; its keys are marked, so that two writers at once never write a row twice.

    Raises:
        InputError: No store has such a table.
    """
    channels = channels_of(table)
    columns = _embedding_columns(channels) if channels else _TABLES.get(table)
    if columns is None:
        raise InputError(f"no table '{table}' in a store; expected one of {', '.join(_TABLES)}, embeddings_<length>")
    position = {name: str(number) for number, name in enumerate(keys(table), 1)}
    mark = "lance-schema:unenforced-primary-key"
    return pa.schema(
        pa.field(name, kind, False, {mark: "true", f"{mark}:position": position[name]} if name in position else None)
        for name, kind in columns.items()
    )


def image_columns(rows: Sequence[ImageRow]) -> pa.Table:
    """Return images as columns; of file names outside UTF-8 the text that can be shown."""
    return _columns("images", [
        {**asdict(row), "name": _shown(row.name), "failure": _shown(row.failure or "")} for row in rows
    ])  # fmt: skip


def mask_columns(rows: Sequence[MaskRow]) -> pa.Table:
    """Return masks as columns."""
    return _columns("masks", [asdict(row) for row in rows])


def run_columns(rows: Sequence[RunRow]) -> pa.Table:
    """Return runs as columns; settings and counts as JSON."""
    return _columns("runs", [_run(row) for row in rows])


def embedding_columns(rows: Sequence[EmbeddingRow], channels: int) -> pa.Table:
    """Return embeddings of one length as columns."""
    table = embeddings_table(channels)
    vectors = np.stack([row.vector for row in rows]).astype(np.float32, copy=False)
    columns = {name: [getattr(row, name) for row in rows] for name in (*_TEXTS, *_NUMBERS, "converged")}
    columns["mask"] = [row.mask or "" for row in rows]
    flat = pa.array(vectors.ravel())
    return _checked(table, {**columns, "vector": pa.FixedSizeListArray.from_arrays(flat, channels)})


def explanation_columns(table: str, rows: Sequence[Any]) -> pa.Table:
    """Return rows of one of `EXPLANATION_TABLES` as columns."""
    return _columns(table, [vars(row) for row in rows])


def image_rows(table: pa.Table) -> tuple[ImageRow, ...]:
    """Return columns as images."""
    return tuple(ImageRow(**{**row, "failure": row["failure"] or None}) for row in table.to_pylist())


def mask_rows(table: pa.Table) -> tuple[MaskRow, ...]:
    """Return columns as masks."""
    return tuple(MaskRow(**row) for row in table.to_pylist())


def run_rows(table: pa.Table) -> tuple[RunRow, ...]:
    """Return columns as runs."""
    return tuple(
        RunRow(**{
            **row, "settings": json.loads(row["settings"]), "finished": row["finished"] or None,
            "counts": json.loads(row["counts"]),
        })
        for row in table.to_pylist()
    )  # fmt: skip


def _shown(text: Any) -> Any:
    return readable_text(text) if isinstance(text, str) else text


def _run(row: RunRow) -> dict[str, str]:
    try:
        settings = json_text(row.settings, allow_nan=True)
    except TypeError as error:
        raise InputTypeError(f"the settings of run {row.id} cannot be kept ({error}); give what JSON holds") from None
    return {**vars(row), "settings": settings, "finished": row.finished or "", "counts": json.dumps(row.counts)}


def _embedding_columns(channels: int) -> Columns:
    texts = {name: pa.string() for name in _TEXTS}
    numbers = {name: pa.float32() for name in _NUMBERS}
    return {**texts, **numbers, "converged": pa.bool_(), "vector": pa.list_(pa.float32(), channels)}


def _columns(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    return _checked(table, {name: [row[name] for row in rows] for name in schema(table).names})


def _checked(table: str, columns: dict[str, Any]) -> pa.Table:
    """Return columns in the types of their table; raises `InputError` where a value is of another."""
    expected = schema(table)
    arrays = []
    for field in expected:
        values = columns[field.name]
        try:
            array = values if isinstance(values, pa.Array) else pa.array(values, field.type)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            raise InputError(f"{field.name} cannot be kept as {field.type} ({error}); give such values") from None
        if array.null_count:
            raise InputError(f"{field.name} of a row in {table} is None; give a value of type {field.type}")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=expected)
