"""Explained photos as one flat table for spreadsheets and notebooks: a row for each concept of each photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.runs.explained_rows import result_rows
from conceptlens.io.atomic import replacing
from conceptlens.store.table_files import TABLE_FILES

if TYPE_CHECKING:
    from conceptlens.io.errors import Failure

_TEXT, _NUMBER = pa.string(), pa.float64()
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


def write_result_table(results: Sequence[PhotoResult], failures: Sequence[Failure], file: Path) -> None:
    """Write a table with a row for each concept of each photo, and one for each photo that failed.

    Args:
        results: Explained photos.
        failures: Photos that could not be explained.
        file: A file that ends in .parquet, .csv or .jsonl.

    Raises:
        InputError: There is no room.
    """
    rows = [
        *(row for result in results for row in _rows(result)),
        *({"photo": f.name, "failure": f.reason} for f in failures),
    ]
    with replacing(file) as temporary:
        TABLE_FILES[file.suffix.lower()](temporary, COLUMNS, iter([pa.Table.from_pylist(rows, COLUMNS)]))


def _rows(result: PhotoResult) -> Iterator[dict[str, Any]]:
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
