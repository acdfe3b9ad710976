"""Loops over photos: another thread reads, few are held, a log tells how far it is, Ctrl-C keeps what is done."""

from __future__ import annotations

import gc
import json
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from embed_process import small_model
from explain_process import small_classifier, written_photos
from fit_process import pupil
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from conceptlens.bottleneck.fit.concept_targets import encode_photos
from conceptlens.cli import app
from conceptlens.concept_regions.fit import pair_shards
from conceptlens.concept_regions.fit.pair_shards import CropPlan, StudentTeacher, extract_pairs
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.discovery.photo_cells import photo_cells
from conceptlens.explainer import calibration as calibration_module
from conceptlens.explainer import photo_run
from conceptlens.explainer.photo_observations import observe_labelled, observe_photos
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.features import cell_source
from conceptlens.features.cell_source import CellSource
from conceptlens.io import progress as progress_module
from conceptlens.io.images import read_image
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.model import photo_reading

COUNT = 10


class NotedPhotos:
    """A labelled set of noise; it notes which thread reads, and can be called as a reader of files too."""

    def __init__(self) -> None:
        self.name, self.labels = "noise", np.arange(COUNT) % 2
        self.names = [f"{index:02d}.png" for index in range(COUNT)]
        self.threads: list[str] = []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Image.Image:
        self.threads.append(threading.current_thread().name)
        noise = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        return Image.fromarray(noise)

    def read(self, path: str | Path) -> Image.Image:
        self.threads.append(threading.current_thread().name)
        return read_image(path)


class NotedScenes(DrawnSet):
    """Scenes with masks; it notes which thread reads, and how many photos are held at once."""

    threads: list[str]
    held: int
    most: int

    def __getitem__(self, index: int) -> MaskedPhoto:
        one = super().__getitem__(index)
        self.threads.append(threading.current_thread().name)
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(one, self.leave)
        return one

    def leave(self) -> None:
        self.held -= 1


def scenes(count: int = COUNT) -> NotedScenes:
    made = NotedScenes(count)
    made.threads, made.held, made.most = [], 0, 0
    return made


def source(photos: NotedPhotos, folder: Path | None) -> CellSource:
    return CellSource(pupil(), cast("LabelledSet", photos), ("first", "second"), (2, 2), folder)


def networks() -> StudentTeacher:
    return StudentTeacher(pupil(), ("first", "second"), pupil(2))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written_photos(tmp_path_factory.mktemp("files") / "photos", COUNT)


Loop = Callable[[NotedPhotos, list[Path], Path], Iterable[object]]
LOOPS: dict[str, Loop] = {
    "explain": lambda _, files, __: explain_photos(small_classifier(), files, ExplainOptions(top=2), 2),
    "observe": lambda _, files, __: observe_photos(small_model(), files, 2, []),
    "discover": lambda _, files, __: photo_cells(small_model(), files, "second", 2, []),
    "cells that are kept": lambda photos, _, folder: source(photos, folder).write_files(),
    "cells for a training": lambda photos, _, __: source(photos, None).batches(range(COUNT), 2),
    "a teacher's vectors": lambda photos, _, __: encode_photos(pupil(2), cast("LabelledSet", photos), range(COUNT)),
    "crops": lambda _, files, folder: extract_pairs(networks(), files, CropPlan(2), folder),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_no_photo_is_read_by_the_thread_that_runs_the_network(
    loop: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = NotedPhotos()
    monkeypatch.setattr(photo_reading, "read_image", noted.read)
    monkeypatch.setattr(pair_shards, "read_image", noted.read)
    assert len(list(LOOPS[loop](noted, files, tmp_path))) > 0
    assert len(noted.threads) == COUNT
    assert {name.rpartition("_")[0] for name in noted.threads} <= {"reader", "decoder"}


def test_scenes_are_read_by_another_thread_and_few_are_held() -> None:
    data, model = scenes(24), small_model()
    methods = build_methods(["grad_cam"], MethodContext(model, data.concepts))
    assert len(list(evaluate_localization(data, methods, resolution=16))) == 24
    gc.collect()
    assert {name.rpartition("_")[0] for name in data.threads} == {"reader"}
    assert data.most <= 6  # the one at work with its share of masks, three read ahead, and one on its way
    seen = scenes()
    assert sum(len(rows) for _, rows in observe_labelled(small_model(), seen, 0.01, 2, keep=False)) == COUNT
    assert {name.rpartition("_")[0] for name in seen.threads} == {"reader"}
    assert seen.most <= 2  # what is read ahead are the inputs


def test_inputs_of_four_batches_are_in_memory_at_most(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real, held, most = photo_reading.ready_photo, [0], [0]
    each = 3 * 64 * 64 * 4

    def leave() -> None:
        held[0] -= each

    def watched(*given: Any, **more: Any) -> Any:
        one = real(*given, **more)
        assert one.photo is None
        assert one.image.nbytes == each
        weakref.finalize(one, leave)
        held[0] += each
        most[0] = max(most[0], held[0])
        return one

    monkeypatch.setattr(photo_reading, "ready_photo", watched)
    for _ in photo_cells(small_model(), [*files, *files, *files], "second", 3, []):
        pass
    assert 0 < most[0] <= 4 * 3 * each


def test_results_that_are_streamed_are_not_held(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, held, most = photo_run.explain_batch, [0], [0]

    def leave() -> None:
        held[0] -= 1

    def watched(*given: Any) -> list[Any]:
        found = real(*given)
        for one in found:
            weakref.finalize(one, leave)
        held[0] += len(found)
        most[0] = max(most[0], held[0])
        return found

    monkeypatch.setattr(photo_run, "explain_batch", watched)
    words = ["contrast", str(files[0].parent), "--model", "timm:test_resnet", "--no-pretrained", "--batch-size", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "t.csv")])
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + COUNT
    assert most[0] <= 4
    most[0] = 0
    assert CliRunner().invoke(app, [*words, "--json"]).exit_code == 0
    assert most[0] == COUNT


def test_files_of_cells_that_are_whole_stay_when_a_run_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_source, "PHOTOS_PER_FILE", 4)
    monkeypatch.setattr(cell_source, "BATCH_PHOTOS", 2)
    whole = [load_file(file) for file in source(NotedPhotos(), tmp_path / "whole").write_files()]
    real, calls = cell_source.layer_cells, iter(range(9))

    def interrupted(*given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(cell_source, "layer_cells", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(source(NotedPhotos(), tmp_path / "kept").write_files())
    assert sum(one.suffix == ".safetensors" for one in (tmp_path / "kept").rglob("*")) == 1
    photos = NotedPhotos()
    again = [load_file(file) for file in source(photos, tmp_path / "kept").write_files()]
    assert len(photos.threads) == COUNT - 4
    assert [sorted(one) for one in again] == [sorted(one) for one in whole]
    for one, other in zip(again, whole, strict=True):
        assert all(one[name].equal(other[name]) for name in one)


class TestCommands:
    MODEL = ("--model", "timm:test_resnet", "--no-pretrained")

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        written_photos(tmp_path / "photos", 32)
        (tmp_path / "photos" / "broken.png").write_text("no photo")
        return tmp_path / "photos"

    def call(self, *words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    def test_calibrate_tells_how_far_it_is_and_names_what_cannot_be_read(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress_module, "LOG_SECONDS", 0.0)
        words = ("calibrate", photos, *self.MODEL, "--out", tmp_path / "c.safetensors", "--batch-size", 8, "--json")
        done = self.call(*words)
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stderr.splitlines() if line.startswith("observing photos: ")]
        assert len(lines) == 4  # the last batch is the broken one alone
        assert re.fullmatch(r"observing photos: 16 of 33, [\d.]+ a (second|minute), \d+ s left", lines[1])
        found = json.loads(done.stdout)
        assert (found["photos"], found["failures"]) == (32, 1)
        assert [Path(one["image"]).name for one in found["failed"]] == ["broken.png"]
        assert "is not a known kind" in found["failed"][0]["error"]

    def test_discover_tells_how_far_it_is_and_fit_head_too(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress_module, "LOG_SECONDS", 0.0)
        done = self.call("discover", photos, *self.MODEL, "--concepts", 3, "--out-dir", tmp_path / "d")
        assert done.exit_code == 1, done.output
        assert "reading photos: 24 of 33, " in done.stderr
        assert "finding the strongest places of photos: 32 of 32, " in done.stderr
        (photos / "broken.png").unlink()
        for number, file in enumerate(sorted(photos.iterdir())):
            (tmp_path / "set" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "set" / "ab"[number % 2] / file.name)
        done = self.call(
            "fit", "head", "--data", f"folder:{tmp_path / 'set'}", *self.MODEL, "--out-dir", tmp_path / "h"
        )
        assert done.exit_code == 0, done.output
        assert re.search(r"the network on photos of .*: 16 of 26, ", done.stderr)

    @pytest.mark.parametrize("command", ["calibrate", "discover"])
    def test_ctrl_c_says_that_nothing_is_written(
        self, command: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*given: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(calibration_module, "_vectors", interrupted)
        monkeypatch.setattr("conceptlens.discovery.photo_cells.layer_cells", interrupted)
        out = ("--out", tmp_path / "c.safetensors") if command == "calibrate" else ("--out-dir", tmp_path / "d")
        done = self.call(command, photos, *self.MODEL, *out)
        assert done.exit_code == 130, done.output
        assert done.stderr == "interrupted; nothing is written\n"
        assert sorted(one.name for one in tmp_path.iterdir()) == ["photos"]
        assert not any(thread.name.startswith("reader") for thread in threading.enumerate())
