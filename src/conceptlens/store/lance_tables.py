"""One folder of Lance tables: the format it is in, and reading and writing with errors that teach."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.store.columns import channels_of, keys, schema

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import Table

FORMAT = "conceptlens store"
VERSION = 2
FILE = "format.json"
MAX_COMMITS = 64  # commits of a table from one optimization to the next: every commit lists all pieces of a table
MIN_INDEXED_ROWS = 10_000  # rows; fewer are searched one by one as quickly
SPARED_AGE = timedelta(minutes=10)  # a reader has this long to read what it began with
_FULL = ("No space left", "os error 28", "File too large", "os error 27", "Disk quota", "os error 122")


def connect(path: Path) -> lancedb.DBConnection:
    """Open the tables of a folder; LanceDB, seconds to load, is loaded only now: workers that compute open none."""
    import lancedb

    return lancedb.connect(path)


def make(path: Path) -> None:
    """Make an empty store in a folder that is empty or missing; one that is a store already is left as it is."""
    if (path / FILE).is_file():
        return
    if path.exists() and (not path.is_dir() or any(not one.name.startswith(f".{FILE}.") for one in path.iterdir())):
        raise InputError(f"{path} has other things in it and is no store; choose an empty or a new folder")
    with replacing(path / FILE) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "version": VERSION}), encoding="utf-8")


def check(path: Path, form: str = FORMAT, version: int = VERSION) -> None:
    """Check that a folder is in this format; raises `InputError` for another folder, and for another version."""
    file = path / FILE
    if not file.is_file():
        raise InputError(f"{path} is no {form} (it has no {FILE}); give the folder of one, or create it")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        found, given = about["format"], about["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file} cannot be read; give the folder of a {form}") from None
    if found != form or type(given) is not int:
        raise InputError(f"{path} is a {found!r} of version {given!r}; give the folder of a {form}")
    if given > version:
        raise InputError(f"{path} has version {given}, this conceptlens reads {version}; update conceptlens")
    if given < version:
        raise InputError(
            f"{path} has version {given}, this conceptlens reads {version}; export it with the conceptlens that wrote "
            "it and import that, or embed again"
        )


def exists(path: Path, table: str) -> bool:
    """Whether a table has been made."""
    return (path / f"{table}.lance").is_dir()


def tables(path: Path) -> tuple[str, ...]:
    """Return the names of all tables that there are."""
    return tuple(sorted(one.stem for one in path.glob("*.lance") if exists(path, one.stem)))


def sizes(path: Path) -> dict[str, int]:
    """Return the bytes on disk of each table."""
    return {
        name: sum(file.stat().st_size for file in (path / f"{name}.lance").rglob("*") if file.is_file())
        for name in tables(path)
    }


def embedding_tables(path: Path) -> dict[str, int]:
    """Return the tables of vectors that there are, by name, with the length of their vectors, the shortest first."""
    lengths = sorted((channels, name) for name in tables(path) if (channels := channels_of(name)))
    return {name: channels for channels, name in lengths}


def merge(path: Path, database: lancedb.DBConnection, name: str, rows: pa.Table, replace: bool = False) -> None:
    """Write rows in one commit. A row whose key is there already stays, or with `replace` is replaced.

    Writers that meet are put in order by Lance, which repeats the later one upon what the first has written.
    """
    if not rows.num_rows:
        return
    with readable_errors(path, "write to"):
        if not exists(path, name):
            _make_table(path, name)
        table = database.open_table(name)
        writer = table.merge_insert(list(keys(name))).when_not_matched_insert_all()
        done = (writer.when_matched_update_all() if replace else writer).execute(rows)
    if done.version % MAX_COMMITS == 0:
        with suppress(InputError):  # the rows are there, optimized or not
            optimize(path, table, SPARED_AGE)


def read(
    path: Path,
    database: lancedb.DBConnection,
    name: str,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> pa.Table:
    """Return rows of a table as they are now, in the order of those of its keys that are read; none before a write."""
    wanted = list(columns) if columns is not None else schema(name).names
    if not exists(path, name):
        return schema(name).empty_table().select(wanted)
    with readable_errors(path, "read from"):
        query = database.open_table(name).search().select(wanted)
        found = (query.where(where) if where else query).to_arrow()
    order = [(key, "ascending") for key in keys(name) if key in wanted]
    return found.sort_by(order) if order else found


def optimize(path: Path, table: Table, spared: timedelta) -> None:
    """Join the small pieces of a table, bring its indices up to date, and remove versions older than `spared`.

    A table that has grown gets an index of its ids, so that writing to it does not take longer and longer.
    """
    with readable_errors(path, "optimize"):
        if table.count_rows() >= MIN_INDEXED_ROWS and not any(i.columns == ["id"] for i in table.list_indices()):
            from lancedb.index import BTree

            table.create_index("id", config=BTree())
        table.optimize(cleanup_older_than=max(spared, timedelta(milliseconds=1)))


@contextmanager
def readable_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what LanceDB raises into one sentence that says what to do."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = re.split(r",? ?/\S*\.rs:\d+|\n", str(error))[0].strip()
        if any(sign in reason for sign in _FULL):
            raise InputError(
                f"there is no room to {doing} {path} ({reason}); free some and run again: what was finished is whole"
            ) from None
        raise InputError(f"cannot {doing} {path} ({reason}); see that the folder is whole and may be used") from None


def _make_table(path: Path, name: str) -> None:
    """Make an empty table beside its place and move it there as a whole, unless another writer was first.

    Two that make one table in its place at once do not both fail or both win: Lance lets the later one overwrite
    what the first has made, and the rows that were written to it meanwhile.
    """
    with tempfile.TemporaryDirectory(dir=path, prefix=".table.") as beside:
        connect(Path(beside)).create_table(name, schema=schema(name))
        try:
            os.rename(Path(beside) / f"{name}.lance", path / f"{name}.lance")
        except OSError:
            if not exists(path, name):
                raise
