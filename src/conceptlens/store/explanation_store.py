"""A store of explained photos: predictions, answers, concepts and maps go in by batches, and come out by filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from conceptlens.io.errors import InputError, near_names
from conceptlens.store import columns, lance_tables
from conceptlens.store.embeddings import one_of, quoted
from conceptlens.store.explanation_rows import (
    EXPLANATION_TABLES,
    ConceptRow,
    ExplainedRow,
    MapRow,
    PredictionRow,
)
from conceptlens.store.row import ImageRow
from conceptlens.store.run_store import RunStore
from conceptlens.store.snapshot import Snapshot

# The column of each table that names a class, for the filter by classes.
CLASS_COLUMNS = {"predictions": "class_name", "explained": "target", "concepts": "target"}
CONCEPT_COLUMNS = {"concepts": "label", "maps": "label"}


@dataclass(frozen=True)
class ExplanationRows:
    """The rows that one batch of photos adds to a store."""

    images: list[ImageRow] = field(default_factory=list)
    predictions: list[PredictionRow] = field(default_factory=list)
    explained: list[ExplainedRow] = field(default_factory=list)
    concepts: list[ConceptRow] = field(default_factory=list)
    maps: list[MapRow] = field(default_factory=list)

    def extend(self, other: ExplanationRows) -> None:
        """Add the rows of another batch."""
        for name, rows in vars(self).items():
            rows.extend(getattr(other, name))


class ExplanationStore(RunStore):
    """One folder of explained photos: images, their predictions, what is explained, concepts, maps, and runs.

    - What `append` was given is seen as a whole or not at all, by every process, and whenever the writer is killed.
    - Several processes may write and read at once. None of them may be forked from one that has used a store.
    - The folder may hold embeddings too: `Store` opens the same one.

    Args:
        path: The folder.
        create: Make the folder where it is missing or empty.

    Raises:
        InputError: The folder is no store, or one in an older or a newer format; every method raises it where the
            folder cannot be read or written.

    Examples:
        >>> store = ExplanationStore("explained")
        >>> snow = store.table("concepts", concepts=["snow"], where="presence > 0.5").to_pandas()
    """

    def append(self, rows: ExplanationRows) -> None:
        """Write a batch: all that one run says of its images.

        The images are written last, and what belongs to them is shown from then on. A row whose id is there already
        stays as it is; an image is replaced, so that one that failed can be tried again.

        Args:
            rows: Images and what belongs to them.

        Raises:
            InputError: A row is of an image that is not in the batch or has failed, or there is no room.
        """
        there = {(row.run, row.id) for row in rows.images if row.failure is None}
        for name in EXPLANATION_TABLES:
            given: Sequence[Any] = getattr(rows, name)
            for row in given:
                if (row.run, row.image) not in there:
                    raise InputError(
                        f"row {row.id} of {name} is of image {row.image} in run {row.run}, which is not in its batch "
                        "or has failed; add its ImageRow without a failure"
                    )
        tables = {name: columns.explanation_columns(name, getattr(rows, name)) for name in EXPLANATION_TABLES}
        self._write(tables, rows.images)

    def table(
        self,
        name: str,
        classes: Iterable[str] | None = None,
        concepts: Iterable[str] | None = None,
        min_presence: float | None = None,
        where: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """Return the rows of a table that fit all that is given, as a pyarrow table; `.to_pandas()` makes a frame.

        Args:
            name: "predictions", "explained", "concepts", "maps", "images" or "runs".
            classes: Names of classes: of predictions those predicted, of other tables those explained.
            concepts: Concepts by label.
            min_presence: The lowest presence of a concept, 0 to 1.
            where: A condition in SQL on the columns of the table: `"contribution > 0.5 AND area < 0.1"`.
            run: The id of a run.

        Returns:
            The columns of the table's rows, and `photo`, the name of the image; photo by photo and rank by rank.

        Raises:
            InputError: There is no such table, or a filter has no column in it.
        """
        found = list(self.stream(name, classes, concepts, min_presence, where, run))
        return pa.concat_tables(found) if found else _empty(name)

    def stream(
        self,
        name: str,
        classes: Iterable[str] | None = None,
        concepts: Iterable[str] | None = None,
        min_presence: float | None = None,
        where: str | None = None,
        run: str | None = None,
        size: int = 10_000,
    ) -> Iterator[pa.Table]:
        """Yield what `table` returns, batch by batch; memory holds one batch, and a few numbers for each row.

        All rows are of the moment of the first.

        Args:
            name: As in `table`, and so are the filters.
            classes: Names of classes.
            concepts: Concepts by label.
            min_presence: The lowest presence of a concept.
            where: A condition in SQL.
            run: The id of a run.
            size: Rows of a batch.

        Returns:
            Batches of rows.

        Raises:
            InputError: `size` is below 1, there is no such table, or a filter has no column in it.
        """
        if size < 1:
            raise InputError(f"size is {size}; expected at least 1")
        check_table(name)
        condition = _condition(name, classes, concepts, min_presence, where, run)
        if name not in EXPLANATION_TABLES:
            return _slices(lance_tables.read(self.path, self._database, name, where=condition), size)
        known = Snapshot.of(self.path, self._database, ("id", "run", "name"))
        order = ("run", "image", *(("rank",) if "rank" in columns.schema(name).names else ()))
        return (_with_photo(rows, known.images) for rows in known.found_in(name, condition, order).batches(size))

    def count(self, name: str, run: str | None = None) -> int:
        """Return how many committed rows a table has, of all runs or of one.

        Args:
            name: As in `table`.
            run: The id of a run; `None` for all.

        Returns:
            The number of rows.
        """
        check_table(name)
        condition = _condition(name, None, None, None, None, run)
        if name not in EXPLANATION_TABLES:
            return lance_tables.read(self.path, self._database, name, ("id",), condition).num_rows
        return len(self._snapshot().found_in(name, condition).row_ids)


def check_table(name: str) -> None:
    """Raise `InputError` where no store has such a table of explanations, images or runs.

    Args:
        name: The name of a table.
    """
    known = (*EXPLANATION_TABLES, "images", "runs")
    if name not in known:
        raise InputError(f"no table '{name}' in a store of explanations; {near_names(name, known)}")


def _condition(
    name: str,
    classes: Iterable[str] | None,
    concepts: Iterable[str] | None,
    min_presence: float | None,
    where: str | None,
    run: str | None,
) -> str | None:
    """Return the filter that all of these make together, or `None` where nothing is given."""
    parts = [] if run is None else [f"`{'id' if name == 'runs' else 'run'}` = {quoted(run)}"]
    for what, asked, known in (("classes", classes, CLASS_COLUMNS), ("concepts", concepts, CONCEPT_COLUMNS)):
        if asked is None:
            continue
        if name not in known:
            raise InputError(f"{what} filter {', '.join(known)}, and {name} has none; leave them out, or give where=")
        parts.append(one_of(known[name], asked))
    if min_presence is not None:
        if name != "concepts":
            raise InputError(f"min_presence filters concepts, and {name} has no presence; leave it out")
        parts.append(f"presence >= {float(min_presence)}")
    if where is not None:
        parts.append(f"({where})")
    return " AND ".join(parts) or None


def _with_photo(rows: pa.Table, images: pa.Table) -> pa.Table:
    """Return rows with the name of their image in a column of its own."""
    place = pc.call_function("index_in", [rows["image"]], pc.SetLookupOptions(images["id"].combine_chunks()))
    return rows.append_column("photo", images["name"].take(place))


def _slices(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    return (rows.slice(start, size) for start in range(0, rows.num_rows, size))


def _empty(name: str) -> pa.Table:
    plain = columns.schema(name)
    return (plain.append(pa.field("photo", pa.string())) if name in EXPLANATION_TABLES else plain).empty_table()
