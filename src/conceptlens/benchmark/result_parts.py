"""The rows of a run on disk: one Parquet file for each photo, written whole or not at all, and one file of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.io.text_file import readable_text
from conceptlens.runs.photo_parts import part_file, write_part, written_photos

if TYPE_CHECKING:
    import pyarrow

# Photos whose rows are written to the joined file at once: bounds the memory.
JOINED = 256


@dataclass(frozen=True)
class MeasuredValue:
    """One number of one photo.

    Attributes:
        protocol: The hash of the protocol that it was measured by.
        method: The method's name.
        metric: The metric's name.
        fill: What stood in the place of removed pixels; empty where none were removed.
        question: What was asked, such as a class name.
        value: The number; `None` where the metric does not apply.
        confidence: The model's probability of the class that was asked; `None` where none was.
    """

    protocol: str
    method: str
    metric: str
    fill: str
    question: str
    value: float | None
    confidence: float | None = None


@dataclass(frozen=True)
class PhotoRows:
    """What a run found in one photo, written together.

    Attributes:
        index: The photo's index in the run.
        photo: Its name.
        label: Its annotated class; empty where there is none.
        values: Its numbers; empty where it failed.
        failure: Why it failed; `None` where it did not.
    """

    index: int
    photo: str
    label: str = ""
    values: tuple[MeasuredValue, ...] = ()
    failure: str | None = None


def rows_schema() -> pyarrow.Schema:
    """Return the columns of the Parquet files: names and types."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    columns = [("index", pyarrow.int64()), ("photo", text), ("label", text)]
    columns += [(name, text) for name in ("protocol", "method", "metric", "fill", "question")]
    return pyarrow.schema([*columns, ("value", number), ("confidence", number), ("failure", text)])


def write_photo(folder: Path, found: PhotoRows) -> None:
    """Write the rows of one photo, whole or not at all; those of a former try are replaced.

    Args:
        folder: The folder of the run.
        found: The photo's rows, or why it failed.
    """
    import pyarrow

    table = pyarrow.Table.from_pylist(_records(found), rows_schema())
    write_part(folder, found.index, table, found.failure is not None)


def read_photos(folder: Path) -> Iterator[PhotoRows]:
    """Read the rows of a run, photo by photo, in their order.

    Args:
        folder: The folder of the run.

    Yields:
        One `PhotoRows` for each photo that is written.
    """
    from pyarrow import parquet

    for index, failed in written_photos(folder).items():
        records = parquet.read_table(part_file(folder, index, failed)).to_pylist()
        values = tuple(
            MeasuredValue(**{name: record[name] for name in MeasuredValue.__dataclass_fields__})
            for record in records
            if record["protocol"] is not None
        )
        first = records[0]
        yield PhotoRows(index, first["photo"], first["label"], values, first["failure"])


def join_parts(folder: Path, file: Path) -> None:
    """Write the rows of all photos into one Parquet file, atomically; a few photos are in memory at once.

    Args:
        folder: The folder of the run.
        file: The file.
    """
    import pyarrow
    from pyarrow import parquet

    known = list(written_photos(folder).items())
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, rows_schema()) as writer:
        for start in range(0, len(known), JOINED):
            parts = known[start : start + JOINED]
            writer.write_table(
                pyarrow.concat_tables(parquet.read_table(part_file(folder, index, failed)) for index, failed in parts)
            )


def _records(found: PhotoRows) -> list[dict[str, Any]]:
    """Return one record for each value; one without a value for a photo that failed or has nothing to measure."""
    about = {"index": found.index, "photo": readable_text(found.photo), "label": readable_text(found.label)}
    if not found.values:
        return [{**about, "failure": None if found.failure is None else readable_text(found.failure)}]
    return [{**about, **vars(value), "question": readable_text(value.question)} for value in found.values]
