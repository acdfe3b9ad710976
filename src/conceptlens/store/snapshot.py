"""Reading what is committed: a row counts when the row of its image, which is written last, is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conceptlens.io.errors import InputError
from conceptlens.store import lance_tables
from conceptlens.store.columns import channels_of, embeddings_table, schema

if TYPE_CHECKING:
    import lancedb
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table

_SPARE = 16  # rows searched beyond those wanted, for some may not be committed


@dataclass(frozen=True)
class Snapshot:
    """What was committed at one moment: the images are read first, so that all that belongs to them is there."""

    path: Path
    database: lancedb.DBConnection
    images: pa.Table = field(repr=False)

    @classmethod
    def of(cls, path: Path, database: lancedb.DBConnection, columns: tuple[str, ...] = ("id", "run")) -> Snapshot:
        """Read which images are committed, and what else is wanted of them."""
        return cls(path, database, lance_tables.read(path, database, "images", columns, "failure = ''"))

    def visible(self, embeddings: pa.Table) -> pa.Table:
        """Return the rows `[run, image, ...]` of committed images."""
        known = _join_keys(self.images["run"], self.images["id"])
        return embeddings.filter(_is_in(_join_keys(embeddings["run"], embeddings["image"]), known))

    def visible_masks(self, masks: pa.Table) -> pa.Table:
        """Return the rows `[image, ...]` of images that any run has committed."""
        return masks.filter(_is_in(masks["image"], self.images["id"]))

    def columns(self, names: tuple[str, ...], where: str | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Yield the length of the vectors, and these columns of all committed embeddings of that length."""
        needed = tuple(dict.fromkeys((*names, "run", "image")))
        for name, channels in lance_tables.embedding_tables(self.path).items():
            rows = self.visible(lance_tables.read(self.path, self.database, name, needed, where))
            if rows.num_rows:
                yield channels, rows

    def found(self, where: str | None) -> FoundRows:
        """Find the committed embeddings that a filter lets through; raises `InputError` where lengths differ."""
        tables = [self.found_in(name, where) for name in lance_tables.embedding_tables(self.path)]
        found = [one for one in tables if len(one.row_ids)]
        if len(found) > 1:
            lengths = " and ".join(str(channels_of(one.name)) for one in found)
            raise InputError(f"vectors of {lengths} channels were found at once; name one layer and model")
        return found[0] if found else FoundRows(self.path, embeddings_table(1), None, np.zeros(0, np.int64))

    def found_in(self, name: str, where: str | None = None, order: tuple[str, ...] = ("id",)) -> FoundRows:
        """Find the committed rows `[id, run, image, ...]` of one table that a filter lets through, in an order."""
        if not lance_tables.exists(self.path, name):
            return FoundRows(self.path, name, None, np.zeros(0, np.int64), order)
        with lance_tables.readable_errors(self.path, "read from"):
            table = _pinned(self.database, name)
            query = table.search().select([*dict.fromkeys(("id", "run", "image", *order))]).with_row_id(True)
            rows = self.visible((query.where(where) if where else query).to_arrow()).sort_by(_ascending(order))
        return FoundRows(self.path, name, table, rows["_rowid"].to_numpy(), order)

    def nearest(self, vector: np.ndarray, max_rows: int, where: str | None, exact: bool) -> pa.Table:
        """Return the nearest committed embeddings, with their `_distance`, the nearest first."""
        name = embeddings_table(len(vector))
        if not lance_tables.exists(self.path, name):
            return schema(name).empty_table().append_column("_distance", pa.array([], pa.float32()))
        table, limit = _pinned(self.database, name), max_rows + _SPARE
        while True:
            with lance_tables.readable_errors(self.path, "search"):
                rows = _search(table, vector, where, exact).limit(limit).to_arrow()
            visible = self.visible(rows)
            if visible.num_rows >= max_rows or rows.num_rows < limit:
                order = [("_distance", "ascending"), ("id", "ascending")]
                return visible.sort_by(order).slice(0, max_rows)
            limit *= 4


@dataclass(frozen=True)
class FoundRows:
    """Rows of one table as it was when they were found, in their order."""

    path: Path
    name: str
    table: Table | None = field(repr=False)
    row_ids: np.ndarray = field(repr=False)
    order: tuple[str, ...] = ("id",)

    def batches(self, size: int) -> Iterator[pa.Table]:
        """Read `size` rows after the other; only they are held."""
        if self.table is None:
            return
        for start in range(0, len(self.row_ids), size):
            with lance_tables.readable_errors(self.path, "read from"):
                rows = self.table.take_row_ids(self.row_ids[start : start + size].tolist()).to_arrow()
            yield rows.sort_by(_ascending(self.order))

    def all(self) -> pa.Table:
        """Read all rows."""
        batches = list(self.batches(max(len(self.row_ids), 1)))
        return batches[0] if batches else schema(self.name).empty_table()


def _search(table: Table, vector: np.ndarray, where: str | None, exact: bool) -> LanceVectorQueryBuilder:
    from lancedb.query import LanceVectorQueryBuilder

    query = table.search(vector, vector_column_name="vector", query_type="vector")
    if not isinstance(query, LanceVectorQueryBuilder):
        raise TypeError(f"a search for a vector became {type(query).__name__}")
    query = query.distance_type("cosine")
    query = query.where(where, prefilter=True) if where else query
    return query.bypass_vector_index() if exact else query.refine_factor(10).maximum_nprobes(0)


def _ascending(order: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(column, "ascending") for column in order]


def _join_keys(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.call_function("binary_join_element_wise", [first, second, pa.scalar("\0")])  # no id has this character


def _is_in(values: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.call_function("is_in", [values], pc.SetLookupOptions(known.combine_chunks()))


def _pinned(database: lancedb.DBConnection, name: str) -> Table:
    """Open a table as it is now: what is written later does not move its rows."""
    table = database.open_table(name)
    table.checkout(table.version)
    return table
