"""Processes of their own: two write at once, one is killed, and a disk is full; a reader never sees half a batch."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from store_rows import RUN, contents
from store_rows import batch as made

from conceptlens.io.errors import InputError
from conceptlens.store import Store, lance_tables, row_id

pytestmark = pytest.mark.process

LAST = 12  # batches
SCRIPT = Path(__file__).with_name("store_rows.py")


batch = cache(made)


def start(path: Path, first: int, last: int) -> subprocess.Popen[str]:
    """Start a process that writes batches once it is told to begin."""
    call = [sys.executable, str(SCRIPT), str(path), str(first), str(last)]
    return subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def begin(*processes: subprocess.Popen[str]) -> None:
    """Let processes begin, once all are ready."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def end(*processes: subprocess.Popen[str]) -> list[int]:
    """Wait for processes."""
    for process in processes:
        process.communicate(timeout=60)
    return [process.returncode for process in processes]


def check_whole_batches(store: Store, last: int) -> int:
    """Check that each batch is seen with all that belongs to it or not at all; return how many are."""
    images = {row.id for row in store.images(RUN)}
    rows = store.embeddings(layer="layer6")
    masks = {row.id for row in store.masks()}
    seen = 0
    for number in range(last):
        given = batch(number)
        committed = images & {row.id for row in given["images"]}
        assert len(committed) in (0, len(given["images"])), number
        expected = {row.id for row in given["embeddings"] if row.layer == "layer6"}
        found = expected & set(rows.ids)
        assert len(found) in (0, len(expected)), number
        assert not committed or found == expected, number
        assert not committed or {row.id for row in given["masks"]} <= masks
        seen += bool(committed)
    assert len(set(rows.ids)) == len(rows)
    return seen


def written(path: Path, first: int, last: int) -> Store:
    """Write batches in this process."""
    store = Store(path, create=True)
    for number in range(first, last):
        store.append(**batch(number))
    return store


@pytest.mark.slow
def test_two_write_at_once_and_a_reader_never_sees_half_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "store"
    both = [start(path, 0, 12), start(path, 9, 21)]  # three batches are written by both
    begin(*both)
    looks = set()
    while any(process.poll() is None for process in both):
        if (path / "format.json").is_file():
            looks.add(check_whole_batches(Store(path), 21))
        time.sleep(0.02)
    assert end(*both) == [0, 0]
    assert len(looks) > 2, looks
    store = Store(path)
    assert check_whole_batches(store, 21) == 21
    assert contents(store) == contents(written(tmp_path / "alone", 0, 21))
    tables = {
        name: lance_tables.read(path, store._database, name, ("id",))["id"].to_pylist()
        for name in lance_tables.tables(path)
    }
    assert all(len(ids) == len(set(ids)) for ids in tables.values())  # not only hidden: nothing is there twice


def kill_and_resume(path: Path, after: int, delay: float, last: int) -> int:
    """Kill a process some seconds after some batches, and complete its work; return how many batches it had done."""
    process = start(path, 0, last)
    begin(process)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == [-signal.SIGKILL]
    begun = (path / "format.json").is_file()
    store = Store(path, create=True)
    seen = check_whole_batches(store, last) if begun else 0
    assert seen >= after
    done = store.committed_images(RUN)
    for number in range(last):
        given = batch(number)
        if any(row.id not in done for row in given["images"]):
            store.append(**given)
    return seen


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    return written(tmp_path_factory.mktemp("whole") / "store", 0, LAST)


def test_killed_at_any_moment_it_is_completed_with_nothing_twice(tmp_path: Path, uninterrupted: Store) -> None:
    whole = contents(uninterrupted)
    for after, delay in ((0, 0.01), (3, 0.015)):
        assert kill_and_resume(tmp_path / str(after), after, delay, LAST) < LAST
        assert contents(Store(tmp_path / str(after), create=True)) == whole, after


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path, uninterrupted: Store) -> None:
    chosen = random.Random(0)
    whole = contents(uninterrupted)
    for number in range(20):
        kill_and_resume(tmp_path / str(number), chosen.randrange(LAST), chosen.uniform(0, 0.1), LAST)
        assert contents(Store(tmp_path / str(number), create=True)) == whole, number


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_to_be_full_and_the_store_opens(small_disk: Path, tmp_path: Path) -> None:
    path = small_disk / "store"
    with pytest.raises(InputError, match=r"there is no room to write to .*No space left.* free some and run again"):
        written(path, 0, 1000)
    store = Store(path)
    seen = check_whole_batches(store, 200)
    assert 0 < seen < 200
    assert store.layers()[0].rows == 8 * seen
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    for number in range(seen + 5):
        store.append(**batch(number))
    assert contents(store) == contents(written(tmp_path / "whole", 0, seen + 5))


def test_a_file_that_may_not_grow_ends_in_a_sentence(tmp_path: Path) -> None:
    """As on a full disk, where none can be mounted: every file is limited to 20 kB."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import resource, signal\n"
        "from store_rows import batch, embedding\n"
        "from conceptlens.store import Store\n"
        f"store = Store({str(tmp_path / 'store')!r}, create=True)\n"
        "store.append(**batch(0))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "image = batch(1)['images'][0]\n"
        "store.append([image], [embedding(n, 1024, image=image.id, concept=str(n)) for n in range(50)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "InputError: there is no room to write to" in done.stderr, done.stderr
    assert contents(Store(tmp_path / "store")) == contents(written(tmp_path / "other", 0, 1))


def _write_in_spawned(store: Store) -> int:
    store.append(**batch(1))
    return len(store.images())


def test_a_spawned_process_gets_a_store_as_an_argument(tmp_path: Path) -> None:
    store = written(tmp_path / "store", 0, 1)
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_write_in_spawned, (store,)) == 10
    assert store.committed_images(RUN) >= {row_id("фото 1/0.jpg")}
    assert store.embeddings(layer="layer4").vectors.dtype == np.float32
