"""The result of an evaluation: one row for each photo, concept and method, and the Parquet file of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.json_text import json_text
from conceptlens.io.text_file import readable_text
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    import pyarrow

    from conceptlens.statistics.score import Metric

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
        scores: Every metric of `metrics.MAP_MASK_METRICS`, and those of your own, by name; None where it does not
            apply, such as for a mask that the crop cut away.
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


def check_named(rows: Sequence[Row], metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return metrics of one's own, which rows must hold; refuse rows that hold others.

    Args:
        rows: The rows.
        metrics: The metrics that `evaluate_localization` was given.

    Raises:
        InputError: Rows hold scores of a metric that is not given, or none of one that is.
    """
    own = tuple(metrics)
    named = {*MAP_MASK_METRICS, *(metric.name for metric in own)}
    held = {name for row in rows for name in row.scores}
    if held - named:
        raise InputError(f"rows hold scores of {', '.join(sorted(held - named))}; give these metrics as metrics= too")
    missing = [metric.name for metric in own if rows and metric.name not in held]
    if missing:
        raise InputError(
            f"no row has a score of {', '.join(missing)}; give these metrics to evaluate_localization as metrics= too"
        )
    return own


def write_rows(rows: Iterable[Row], file: str | Path, metrics: Iterable[Metric] = ()) -> None:
    """Write rows as a Parquet file, atomically.

    Its columns are the fields of `Row`, one column per metric, and `wrong_` before those of the wrong concept's map.
    What a metric is, its direction, range, chance and source, stands in the metadata of its column.

    Args:
        rows: What `evaluate_localization` yields.
        file: The file to write.
        metrics: The metrics of your own that it was given.

    Raises:
        InputError: Rows hold scores of other metrics.
    """
    from pyarrow import parquet

    several = list(rows)
    table = row_table(several, row_schema(check_named(several, metrics)))
    with replacing(file) as temporary:
        parquet.write_table(table, temporary)


def row_schema(metrics: Iterable[Metric] = ()) -> pyarrow.Schema:
    """Return the columns of the Parquet file: names, types, and what each metric is.

    Args:
        metrics: Metrics of one's own.
    """
    import pyarrow

    text, number, flag = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    columns = [pyarrow.field(name, text) for name in ("photo", "concept", "type", "group", "method")]
    others = {"oracle": flag, "mask_share": number, "has_own_map": flag, "applies": flag}
    columns += [pyarrow.field(name, kind) for name, kind in others.items()]
    about = {m.name: {"metric": json_text(m.described())} for m in (*MAP_MASK_METRICS.values(), *metrics)}
    scores = [pyarrow.field(name, number, metadata=metric) for name, metric in about.items()]
    wrong = [pyarrow.field(WRONG + name, number, metadata=metric) for name, metric in about.items()]
    return pyarrow.schema([*columns, *scores, pyarrow.field(WRONG + "concept", text), *wrong])


def row_table(rows: Iterable[Row], columns: pyarrow.Schema) -> pyarrow.Table:
    """Return rows as a table.

    Args:
        rows: The rows.
        columns: What `row_schema` returns for the metrics that they have.
    """
    import pyarrow

    return pyarrow.Table.from_pylist([_line(row) for row in rows], columns)


def rows_of_table(table: pyarrow.Table) -> list[Row]:
    """Return the rows of a table, as they were before `row_table`.

    Args:
        table: What `row_table` returned, or what `write_rows` wrote.
    """
    about = [column.name for column in table.schema if b"metric" in (column.metadata or {})]
    names = [name for name in about if not name.startswith(WRONG)]
    kept = ("photo", "concept", "type", "group", "method", "mask_share", "has_own_map")
    return [
        Row(
            **{name: line[name] for name in kept},
            scores={name: line[name] for name in names},
            wrong_concept=(wrong := line[WRONG + "concept"]),
            wrong_scores={} if wrong is None else {name: line[WRONG + name] for name in names},
        )
        for line in table.to_pylist()
    ]


def _line(row: Row) -> dict[str, Any]:
    names = ("photo", "concept", "type", "group", "method", "oracle", "mask_share", "has_own_map", "applies")
    return {
        **{name: getattr(row, name) for name in names},
        "photo": readable_text(row.photo),
        **row.scores,
        WRONG + "concept": row.wrong_concept,
        **{WRONG + name: value for name, value in row.wrong_scores.items()},
    }
