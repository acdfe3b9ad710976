"""The result of an evaluation: one row for each photo, concept and method, and the Parquet file of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    import pyarrow

ORACLE = " (oracle)"
WRONG = "wrong_"
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Row:
    """How well one method's map of one concept fits that concept's mask in one photo.

    Attributes:
        photo: The photo's name.
        concept: The concept's label.
        type: The concept's type, such as "object".
        group: The group of the data set that the concept belongs to.
        method: The method's name; ends in " (oracle)" where its map was chosen among several with the mask.
        mask_share: The share of what the model saw that the mask covers, 0 to 1; ignored pixels are left out.
        has_own_map: Whether the method has a map for the concept itself; False where no neuron is labelled with it.
        scores: Every metric of `metrics.MAP_MASK_METRICS` by name; None where it does not apply, such as for a mask
            that the crop cut away.
        wrong_concept: A concept that the photo does not show; None without this control.
        wrong_scores: How well the map of the wrong concept fits the same mask.
    """

    photo: str
    concept: str
    type: str
    group: str
    method: str
    mask_share: float
    has_own_map: bool
    scores: Mapping[str, float | None]
    wrong_concept: str | None = None
    wrong_scores: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def oracle(self) -> bool:
        """Whether the map was chosen with the mask."""
        return self.method.endswith(ORACLE)

    @property
    def applies(self) -> bool:
        """Whether the metrics apply: the mask has pixels inside and outside."""
        return any(value is not None for value in self.scores.values())


def write_rows(rows: Iterable[Row], file: str | Path) -> Path:
    """Write rows as a Parquet file, atomically and a few thousand at a time.

    Args:
        rows: What `evaluate` yields.
        file: The file to write.

    Returns:
        The file. Its columns are the fields of `Row`, one column per metric, and `wrong_` before those of the wrong
        concept's map.
    """
    from pyarrow import parquet

    schema = row_schema()
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        waiting: list[Row] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) == BATCH_ROWS:
                writer.write_table(_table(waiting, schema))
                waiting = []
        writer.write_table(_table(waiting, schema))
    return Path(file)


def read_rows(file: str | Path) -> tuple[Row, ...]:
    """Read what `write_rows` wrote.

    Args:
        file: A Parquet file of an evaluation.

    Raises:
        InputError: The file cannot be read, or lacks a column.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_table(str(file))
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot read rows from {file} ({reason}); give a .parquet file of an evaluation") from None
    missing = [name for name in row_schema().names if name not in found.column_names]
    if missing:
        raise InputError(f"{file} lacks the column '{missing[0]}'; give a .parquet file of an evaluation")
    return tuple(_row(line) for line in found.to_pylist())


def row_schema() -> pyarrow.Schema:
    """Return the columns of the Parquet file: names and types."""
    import pyarrow

    text, number, flag = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    columns = [(name, text) for name in ("photo", "concept", "type", "group", "method")]
    columns += [("oracle", flag), ("mask_share", number), ("has_own_map", flag), ("applies", flag)]
    scores = [(name, number) for name in MAP_MASK_METRICS]
    wrong = [(WRONG + "concept", text), *((WRONG + name, number) for name in MAP_MASK_METRICS)]
    return pyarrow.schema([*columns, *scores, *wrong])


def _table(rows: list[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    return pyarrow.Table.from_pylist([_line(row) for row in rows], schema=schema)


def _line(row: Row) -> dict[str, Any]:
    names = ("photo", "concept", "type", "group", "method", "oracle", "mask_share", "has_own_map", "applies")
    return {
        **{name: getattr(row, name) for name in names},
        **row.scores,
        WRONG + "concept": row.wrong_concept,
        **{WRONG + name: value for name, value in row.wrong_scores.items()},
    }


def _row(line: Mapping[str, Any]) -> Row:
    columns = ("photo", "concept", "type", "group", "method", "mask_share", "has_own_map")
    wrong = line[WRONG + "concept"]
    return Row(
        **{name: line[name] for name in columns},
        scores={name: line[name] for name in MAP_MASK_METRICS},
        wrong_concept=wrong,
        wrong_scores={} if wrong is None else {name: line[WRONG + name] for name in MAP_MASK_METRICS},
    )
