"""A store as plain files that other tools read, and such files as a store again."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_new_folder
from conceptlens.store import lance_tables
from conceptlens.store.columns import EXPLANATIONS, channels_of, schema
from conceptlens.store.run_store import RunStore
from conceptlens.store.snapshot import Snapshot
from conceptlens.store.store import Store

FORMAT = "conceptlens store export"
VERSION = 2
_ROWS = 10_000  # written and read at once
_DAMAGED = (
    OSError,
    EOFError,
    AttributeError,
    KeyError,
    ValueError,
    pa.ArrowException,
    SafetensorError,
    zipfile.BadZipFile,
)


class Form(NamedTuple):
    """One kind of file: its ending, and how tables are written to it and read from it."""

    ending: str
    write: Callable[[Path, pa.Schema, Iterator[pa.Table]], None]
    read: Callable[[Path, pa.Schema], Iterator[pa.Table]]


def export(store: RunStore, folder: str | PathLike[str], form: str = "parquet") -> Path:
    """Write all that is committed to a new folder, one file for each table, in one of `FORMS`; return the folder.

    - *parquet* is written piece by piece; the others hold a table at a time in memory.
    - *numpy*: `.npz` files with an array for each column, read without pickle; `vector[row channel]` is float32.
    - *safetensors*: the same, with texts as UTF-8 (`name`, uint8) that `name.ends` (int64) divides.

    `format.json` comes last: a folder without it is not whole.

    Args:
        store: The store.
        folder: A new or empty folder.
        form: `"parquet"`, `"numpy"` or `"safetensors"`.

    Returns:
        The folder.

    Raises:
        InputError: The form is unknown, or the folder is not empty.
    """
    target = Path(folder)
    kind = _form(form)
    check_new_folder(target, "the folder of the export")
    database = lance_tables.connect(store.path)
    images = lance_tables.read(store.path, database, "images")
    snapshot = Snapshot(store.path, database, images.filter(pc.field("failure") == ""))
    rows: Counter[str] = Counter()
    for name in lance_tables.tables(store.path):
        with replacing(target / f"{name}{kind.ending}") as temporary, lance_tables.readable_errors(target, "write to"):
            kind.write(temporary, schema(name), _counted(_committed(snapshot, images, name), rows, name))
    about = {"format": FORMAT, "version": VERSION, "form": form, "rows": rows}
    with replacing(target / lance_tables.FILE) as temporary:
        temporary.write_text(json.dumps(about), encoding="utf-8")
    return target


def import_export(folder: str | PathLike[str], path: str | PathLike[str]) -> Store:
    """Make a store at `path` from what was exported to `folder`, in any form, with the same rows; return it.

    A store that is at `path` already keeps its rows and gets those that it lacks: so an import that was broken off is
    completed, and stores are joined.

    Args:
        folder: A folder written by `export`.
        path: The folder of the store, made where it is missing.

    Returns:
        The store.

    Raises:
        InputError: The folder is no whole export, of another version, or damaged.
    """
    origin = Path(folder)
    lance_tables.check(origin, FORMAT, VERSION)
    about = json.loads((origin / lance_tables.FILE).read_text(encoding="utf-8"))
    kind, expected = _form(about.get("form")), dict(about.get("rows", {}))
    store = Store(path, create=True)
    database = lance_tables.connect(store.path)
    rows: Counter[str] = Counter()
    for name in sorted(expected, key="images".__eq__):  # what belongs to images comes before them
        for piece in _counted(_read(kind, origin / f"{name}{kind.ending}", name), rows, name):
            lance_tables.merge(store.path, database, name, piece)
        if rows[name] != expected[name]:
            raise InputError(f"{origin} has {rows[name]} rows of {name}, not {expected[name]}; export the store again")
    return store


def _counted(pieces: Iterator[pa.Table], rows: Counter[str], name: str) -> Iterator[pa.Table]:
    """Pass pieces of a table on, and count their rows."""
    rows[name] = 0
    for piece in pieces:
        rows[name] += piece.num_rows
        yield piece


def _committed(snapshot: Snapshot, images: pa.Table, name: str) -> Iterator[pa.Table]:
    """Yield all committed rows of a table, in pieces, in the order of their keys."""
    if channels_of(name) or name in EXPLANATIONS:
        yield from snapshot.found_in(name).batches(_ROWS)
    elif name == "images":
        yield images
    else:
        rows = lance_tables.read(snapshot.path, snapshot.database, name)
        yield snapshot.visible_masks(rows) if name == "masks" else rows


def _read(kind: Form, file: Path, name: str) -> Iterator[pa.Table]:
    """Read a table piece by piece; raises `InputError` where the file is not what was exported."""
    expected = schema(name)
    try:
        for rows in kind.read(file, expected):
            yield pa.Table.from_arrays([rows[column].cast(expected.field(column).type) for column in expected.names],
                                       schema=expected)  # fmt: skip
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{file} is damaged or no export ({error}); export the store again") from None


def _form(name: object) -> Form:
    if name not in FORMS:
        raise InputError(f"no form '{name}' of an export; expected one of {', '.join(FORMS)}")
    return FORMS[str(name)]


def _write_parquet(file: Path, columns: pa.Schema, pieces: Iterator[pa.Table]) -> None:
    plain = columns.remove_metadata()
    with pq.ParquetWriter(file, plain, compression="zstd") as writer:
        for rows in pieces:
            writer.write_table(rows.cast(plain))


def _read_parquet(file: Path, columns: pa.Schema) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as stored:
        for batch in stored.iter_batches(_ROWS, columns=columns.names):
            yield pa.Table.from_batches([batch])


def _write_numpy(file: Path, columns: pa.Schema, pieces: Iterator[pa.Table]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, column in _whole(columns, pieces):
        if pa.types.is_string(column.type):
            arrays[name] = np.array(column.to_pylist(), np.str_)
        else:
            arrays |= _plain(name, column)
    with file.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **arrays)


def _read_numpy(file: Path, columns: pa.Schema) -> Iterator[pa.Table]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        yield from _from_arrays({name: stored[name] for name in stored.files}, columns)


def _write_safetensors(file: Path, columns: pa.Schema, pieces: Iterator[pa.Table]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, column in _whole(columns, pieces):
        arrays |= _plain(name, column)
    save_file(arrays, file)


def _read_safetensors(file: Path, columns: pa.Schema) -> Iterator[pa.Table]:
    yield from _from_arrays(load_file(file), columns)


def _whole(columns: pa.Schema, pieces: Iterator[pa.Table]) -> Iterator[tuple[str, pa.Array]]:
    """Yield each column of a table in one piece."""
    rows = pa.concat_tables([columns.empty_table(), *(piece.cast(columns) for piece in pieces)])
    for name in columns.names:
        yield name, pa.concat_arrays(rows[name].chunks)


def _plain(name: str, column: pa.Array) -> dict[str, np.ndarray]:
    """Return a column as one array of numbers; texts and bytes as two: all of them joined, and where each ends."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return {name: column.flatten().to_numpy().reshape(-1, kind.list_size)}
    if not (pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return {name: column.to_numpy(zero_copy_only=False)}
    parts = column.cast(pa.large_binary()).to_pylist()
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return {name: np.frombuffer(b"".join(parts), np.uint8), f"{name}.ends": ends}


def _from_arrays(arrays: Mapping[str, np.ndarray], columns: pa.Schema) -> Iterator[pa.Table]:
    made = [_column(arrays, column) for column in columns]
    rows = pa.Table.from_arrays(made, names=columns.names)
    yield from (rows.slice(start, _ROWS) for start in range(0, rows.num_rows, _ROWS))


def _column(arrays: Mapping[str, np.ndarray], column: pa.Field) -> pa.Array:
    values = arrays[column.name]
    if f"{column.name}.ends" in arrays:
        ends = arrays[f"{column.name}.ends"].astype(np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if (np.diff(starts) < 0).any() or starts[-1] != values.size:
            raise ValueError(f"{column.name} does not end where it says")
        joined = values.astype(np.uint8).tobytes()
        parts = [joined[a:b] for a, b in zip(starts, ends, strict=False)]
        return pa.array(parts, pa.large_binary()).cast(column.type)
    if pa.types.is_fixed_size_list(column.type):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), column.type.list_size)
    return pa.array(values.tolist() if values.dtype.kind == "U" else values, column.type)


FORMS: dict[str, Form] = {
    "parquet": Form(".parquet", _write_parquet, _read_parquet),
    "numpy": Form(".npz", _write_numpy, _read_numpy),
    "safetensors": Form(".safetensors", _write_safetensors, _read_safetensors),
}
