"""Explaining runs that are killed, stopped, doubled or out of room: resumed, they give the store of one left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from explain_process import explained, told, written_photos
from test_store_processes import small_disk as small_disk

from conceptlens.io.errors import InputError
from conceptlens.store import ExplanationStore

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("explain_process.py")
COUNT = 12


def start(store: Path, photos: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    call = [sys.executable, str(SCRIPT), str(store), str(photos), str(pause)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all") / "photos"
    written_photos(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    store, _ = explained(tmp_path_factory.mktemp("whole") / "store", sorted(photos.iterdir()), with_maps=True)
    return told(store)


def kill_and_resume(store: Path, photos: Path, batches: int, delay: float) -> int:
    """Kill a run some seconds after so many batches, look at the store, and complete it; return what was there."""
    process = start(store, photos)
    assert process.stdout is not None
    for _ in range(1 + batches):
        process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=60)
    opened = ExplanationStore(store)
    seen = {row.id for row in opened.images()}
    assert {row["image"] for row in opened.table("explained").to_pylist()} == seen
    assert set(opened.table("concepts")["image"].to_pylist()) == seen
    explained(store, sorted(photos.iterdir()), with_maps=True, resume=True)
    return len(seen)


def test_a_run_that_is_killed_is_resumed_to_the_same_store(
    photos: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    seen = kill_and_resume(tmp_path / "store", photos, 2, 0.02)
    assert 6 <= seen <= COUNT
    assert told(ExplanationStore(tmp_path / "store")) == whole


@pytest.mark.slow
def test_killed_at_twenty_random_moments(photos: Path, whole: dict[str, object], tmp_path: Path) -> None:
    chosen = random.Random(0)
    for number in range(20):
        kill_and_resume(tmp_path / str(number), photos, chosen.randrange(4), chosen.uniform(0, 0.3))
        assert told(ExplanationStore(tmp_path / str(number))) == whole, number


@pytest.mark.slow
def test_two_at_once_give_the_rows_of_one_and_a_reader_sees_whole_photos(
    photos: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    both = [start(tmp_path / "store", photos, 0.05) for _ in range(2)]
    while any(process.poll() is None for process in both):
        if (tmp_path / "store" / "format.json").is_file():
            opened = ExplanationStore(tmp_path / "store")
            before = {row.id for row in opened.images()}
            assert before <= {row["image"] for row in opened.table("explained").to_pylist()}
        time.sleep(0.05)
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    store = ExplanationStore(tmp_path / "store")
    assert told(store) == whole
    assert store.count("concepts") == len(set(store.table("concepts")["id"].to_pylist()))


def test_a_full_disk_is_said_to_be_full_and_the_run_goes_on_with_more_room(
    small_disk: Path, photos: Path, whole: dict[str, object]
) -> None:
    paths = sorted(photos.iterdir())
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(InputError, match=r"there is no room to write to .* free some and run again"):
        explained(small_disk / "store", paths, with_maps=True)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    explained(small_disk / "store", paths, with_maps=True, resume=True)
    assert told(ExplanationStore(small_disk / "store")) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_command_that_is_stopped_keeps_what_is_done_and_says_how_to_go_on(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    many = tmp_path / "photos"
    written_photos(many, 400)
    call = [
        sys.executable,
        "-m",
        "conceptlens",
        "explain",
        str(many),
        "--no-pretrained",
        "--store",
        str(tmp_path / "s"),
    ]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while not (tmp_path / "s" / "images.lance").is_dir() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in said
    (done,) = [int(line.split()[2]) for line in said.splitlines() if line.startswith("interrupted after ")]
    assert "continue with --resume" in said
    assert len(ExplanationStore(tmp_path / "s").images()) in (done, done + 8)  # a batch may end as the signal comes
