"""What every store has, whatever else it holds: images with what failed, runs, and the folder that they lie in."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from conceptlens.store import columns, lance_tables
from conceptlens.store.embeddings import quoted
from conceptlens.store.row import ImageRow, RunRow
from conceptlens.store.snapshot import Snapshot


class RunStore(ABC):
    """The half of a store that knows its folder, the images that are committed, and the runs.

    Args:
        path: The folder.
        create: Make the folder where it is missing or empty.

    Raises:
        InputError: The folder is no store, or one in an older or a newer format; every method raises it where the
            folder cannot be read or written.
    """

    path: Path

    def __init__(self, path: str | PathLike[str], create: bool = False) -> None:
        self.path = Path(path)
        if create:
            lance_tables.make(self.path)
        lance_tables.check(self.path)
        self._database = lance_tables.connect(self.path)

    def __reduce__(self) -> tuple[type[Any], tuple[Path]]:
        return type(self), (self.path,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def committed_images(self, run: str) -> set[str]:
        """Return the ids of the images that a run need not read again: those committed, failed ones among them.

        Args:
            run: The id of a run.

        Returns:
            Ids of images.
        """
        where = f"run = {quoted(run)}"
        return set(lance_tables.read(self.path, self._database, "images", ("id",), where)["id"].to_pylist())

    def images(self, run: str | None = None) -> tuple[ImageRow, ...]:
        """Return images, failed ones too, of all runs or of one: one row for each image and run.

        Args:
            run: The id of a run; `None` for all.

        Returns:
            Images in the order of their ids.
        """
        return self._images(None if run is None else f"run = {quoted(run)}")

    def failures(self, run: str | None = None) -> tuple[ImageRow, ...]:
        """Return the images that failed, each with its reason, of all runs or of one.

        Args:
            run: The id of a run; `None` for all.

        Returns:
            Images in the order of their ids.
        """
        return self._images("failure != ''" + ("" if run is None else f" AND run = {quoted(run)}"))

    def write_run(self, run: RunRow) -> None:
        """Keep what is known of a run; what was known of it before is replaced.

        Args:
            run: The run, known by its id.

        Raises:
            InputTypeError: Settings hold values that JSON does not.
        """
        lance_tables.merge(self.path, self._database, "runs", columns.run_columns([run]), replace=True)

    def runs(self) -> tuple[RunRow, ...]:
        """Return all runs.

        Returns:
            A row for each run, finished or not.
        """
        return columns.run_rows(lance_tables.read(self.path, self._database, "runs"))

    def compact(self, older_than: timedelta = lance_tables.SPARED_AGE) -> None:
        """Join small pieces, renew indices, and remove older versions.

        Writing does some of it by itself. Who still reads a version that is removed meets an error: with an
        `older_than` of zero, no other process may use the store.

        Args:
            older_than: Versions of this age and more are removed.
        """
        for name in lance_tables.tables(self.path):
            lance_tables.optimize(self.path, self._database.open_table(name), older_than)

    def bytes(self) -> dict[str, int]:
        """Return the bytes on disk of each table, with all versions that are kept.

        Returns:
            Bytes by the name of the table.
        """
        return lance_tables.sizes(self.path)

    def _images(self, where: str | None) -> tuple[ImageRow, ...]:
        return columns.image_rows(lance_tables.read(self.path, self._database, "images", where=where))

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self.path, self._database)

    def _write(self, tables: Mapping[str, pa.Table], images: Sequence[ImageRow]) -> None:
        """Write a batch; its images go last, and what belongs to them is shown from then on."""
        images_last = columns.image_columns(images)  # refused before anything is written
        for name, rows in tables.items():
            lance_tables.merge(self.path, self._database, name, rows)
        lance_tables.merge(self.path, self._database, "images", images_last, replace=True)
