"""What an evaluation finds: one row for each photo, concept and method, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.metrics.map_mask import LOCATED

if TYPE_CHECKING:
    import pyarrow

ORACLE = " (oracle)"
CONTROL = "wrong_"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Row:
    """How well one method's map of one concept fits that concept's mask in one photo.

    - `method`: ends in " (oracle)" where its map was chosen among several with the mask.
    - `share`: how much of what the model saw the mask covers; ignored pixels are left out.
    - `matched`: False where the method had no answer of its own (a concept that no neuron bears).
    - `scores[metric]`: None where a metric does not apply, such as for a mask that the crop cut away.
    - `wrong`, `control[metric]`: a concept that the photo does not show, and how well *its* map fits the same mask.
    """

    photo: str
    concept: str
    type: str
    group: str
    method: str
    share: float
    matched: bool
    scores: Mapping[str, float | None]
    wrong: str | None = None
    control: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def oracle(self) -> bool:
        """Whether the map was chosen with the mask."""
        return self.method.endswith(ORACLE)

    @property
    def applies(self) -> bool:
        """Whether the metrics apply: the mask has pixels inside and outside."""
        return any(value is not None for value in self.scores.values())


def write_rows(rows: Iterable[Row], file: str | Path) -> Path:
    """Write rows as Parquet, atomically and a few thousand at a time; columns are those of `row_schema`."""
    from pyarrow import parquet

    schema = row_schema()
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        held: list[Row] = []
        for row in rows:
            held.append(row)
            if len(held) == ROWS_AT_ONCE:
                writer.write_table(_table(held, schema))
                held = []
        writer.write_table(_table(held, schema))
    return Path(file)


def read_rows(file: str | Path) -> tuple[Row, ...]:
    """Read what `write_rows` wrote."""
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_table(str(file))
    except (OSError, pyarrow.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"cannot read rows from {file} ({said}); give a .parquet file of an evaluation") from None
    missing = [name for name in row_schema().names if name not in found.column_names]
    if missing:
        raise InputError(f"{file} lacks the column '{missing[0]}'; give a .parquet file of an evaluation")
    return tuple(_row(line) for line in found.to_pylist())


def row_schema() -> pyarrow.Schema:
    """Return the columns of the Parquet file: names and types."""
    import pyarrow

    text, number, flag = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    told = [(name, text) for name in ("photo", "concept", "type", "group", "method")]
    told += [("oracle", flag), ("share", number), ("matched", flag), ("applies", flag)]
    scores = [(name, number) for name in LOCATED]
    control = [(CONTROL + "concept", text), *((CONTROL + name, number) for name in LOCATED)]
    return pyarrow.schema([*told, *scores, *control])


def _table(rows: list[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    return pyarrow.Table.from_pylist([_line(row) for row in rows], schema=schema)


def _line(row: Row) -> dict[str, Any]:
    names = ("photo", "concept", "type", "group", "method", "oracle", "share", "matched", "applies")
    return {
        **{name: getattr(row, name) for name in names},
        **row.scores,
        CONTROL + "concept": row.wrong,
        **{CONTROL + name: value for name, value in row.control.items()},
    }


def _row(line: Mapping[str, Any]) -> Row:
    told = ("photo", "concept", "type", "group", "method", "share", "matched")
    wrong = line[CONTROL + "concept"]
    return Row(
        **{name: line[name] for name in told},
        scores={name: line[name] for name in LOCATED},
        wrong=wrong,
        control={} if wrong is None else {name: line[CONTROL + name] for name in LOCATED},
    )
