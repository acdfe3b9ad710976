"""Explained photos as one flat table for spreadsheets and notebooks, such as a row for each concept of each photo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import pyarrow as pa

from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.runs.explained_rows import result_rows
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import Failure
from conceptlens.store.table_files import TABLE_FILES

_TEXT, _NUMBER = pa.string(), pa.float64()
PIECE_ROWS = 2000  # that are written at once
COLUMNS = pa.schema(
    [
        ("photo", _TEXT),
        ("model", _TEXT),
        ("target", _TEXT),
        ("target_probability", _NUMBER),
        ("against", _TEXT),
        ("margin", _NUMBER),
        ("rank", pa.int64()),
        ("label", _TEXT),
        ("type", _TEXT),
        ("presence", _NUMBER),
        ("z_score", _NUMBER),
        ("contribution", _NUMBER),
        ("contribution_low", _NUMBER),
        ("contribution_high", _NUMBER),
        ("unit", _TEXT),
        ("peak_x", _NUMBER),
        ("peak_y", _NUMBER),
        ("area", _NUMBER),
        ("place_vague", pa.bool_()),
        ("layer", _TEXT),
        ("failure", _TEXT),
    ]
)


@dataclass(frozen=True)
class ResultTable:
    """A kind of table of explained photos.

    Attributes:
        columns: Names and types; `photo` and `failure` are among them.
        rows: Returns the rows of one photo.
    """

    columns: pa.Schema
    rows: Callable[[PhotoResult], Iterable[dict[str, Any]]]


def write_result_table(found: Iterable[PhotoResult | Failure], table: ResultTable, file: Path) -> None:
    """Write the rows of photos in their order as they come, and one for each photo that failed; a few are in memory.

    Args:
        found: Explained photos, and photos that could not be explained.
        table: What its rows are.
        file: A file that ends in .parquet, .csv or .jsonl; it appears as a whole.

    Raises:
        InputError: There is no room.
    """
    with replacing(file) as temporary:
        TABLE_FILES[file.suffix.lower()](temporary, table.columns, _pieces(found, table))


def _pieces(found: Iterable[PhotoResult | Failure], table: ResultTable) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for one in found:
        failed = isinstance(one, Failure)
        rows += [{"photo": one.name, "failure": one.reason}] if failed else table.rows(one)
        if len(rows) >= PIECE_ROWS:
            yield pa.Table.from_pylist(rows, table.columns)
            rows = []
    yield pa.Table.from_pylist(rows, table.columns)


def _concept_rows(result: PhotoResult) -> Iterator[dict[str, Any]]:
    """Yield a row for each concept of a photo; one without a concept where it has none."""
    found = result_rows([result], "")
    (whole,) = found.explained
    photo = {
        "photo": result.image_info.name,
        "model": result.model,
        "target": whole.target,
        "target_probability": whole.probability,
        "against": whole.against,
        "margin": whole.margin,
        "unit": whole.unit,
        "failure": "",
    }
    for one in found.concepts:
        yield photo | {
            "rank": one.rank,
            "label": one.label,
            "type": one.type,
            "presence": one.presence,
            "z_score": one.z_score,
            "contribution": one.contribution,
            "contribution_low": one.contribution_low,
            "contribution_high": one.contribution_high,
            "peak_x": one.peak_x,
            "peak_y": one.peak_y,
            "area": one.area,
            "place_vague": one.place_vague,
            "layer": one.layer,
        }
    if not found.concepts:
        yield photo | {"presence": nan}


CONCEPT_TABLE = ResultTable(COLUMNS, _concept_rows)
