"""The result of an evaluation: one row for each photo, concept and method, and the Parquet file of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.io.text_file import readable_text
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    import pyarrow

ORACLE = " (oracle)"
WRONG = "wrong_"


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


def write_rows(rows: Iterable[Row], file: str | Path) -> None:
    """Write rows as a Parquet file, atomically.

    Its columns are the fields of `Row`, one column per metric, and `wrong_` before those of the wrong concept's map.

    Args:
        rows: What `evaluate` yields.
        file: The file to write.
    """
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([_line(row) for row in rows], row_schema())
    with replacing(file) as temporary:
        parquet.write_table(table, temporary)


def row_schema() -> pyarrow.Schema:
    """Return the columns of the Parquet file: names and types."""
    import pyarrow

    text, number, flag = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    columns = [(name, text) for name in ("photo", "concept", "type", "group", "method")]
    columns += [("oracle", flag), ("mask_share", number), ("has_own_map", flag), ("applies", flag)]
    scores = [(name, number) for name in MAP_MASK_METRICS]
    wrong = [(WRONG + "concept", text), *((WRONG + name, number) for name in MAP_MASK_METRICS)]
    return pyarrow.schema([*columns, *scores, *wrong])


def _line(row: Row) -> dict[str, Any]:
    names = ("photo", "concept", "type", "group", "method", "oracle", "mask_share", "has_own_map", "applies")
    return {
        **{name: getattr(row, name) for name in names},
        "photo": readable_text(row.photo),
        **row.scores,
        WRONG + "concept": row.wrong_concept,
        **{WRONG + name: value for name, value in row.wrong_scores.items()},
    }
