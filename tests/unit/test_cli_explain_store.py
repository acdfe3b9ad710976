"""`conceptlens explain --store` and `conceptlens export`, from photos to tables that other tools read."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from explain_process import explained, written_photos
from typer.testing import CliRunner, Result

from conceptlens.cli import app
from conceptlens.cli.run_progress import with_progress
from conceptlens.explainer.runs.explain_run import ExplainProgress
from conceptlens.io.errors import InputError
from conceptlens.io.progress import speed_text, time_text
from conceptlens.store import ExplanationStore
from conceptlens.store.table_files import TABLE_FILES, export_table

pytestmark = pytest.mark.wide


TINY = ("--model", "timm:test_resnet", "--no-pretrained")


def call(*words: object) -> Result:
    torch.manual_seed(0)  # so that random weights are the same in every call
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_prints_its_summary_is_resumed_and_says_what_differs(tmp_path: Path) -> None:
    written_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.png").write_text("no photo")
    words = ["explain", tmp_path / "photos", *TINY, "--store", tmp_path / "store", "--regions", "official"]
    done = call(*words)
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith("3 photos explained, 1 failed, in ")
    assert len(done.stdout.splitlines()) == 1
    assert "broken.png' is not a known kind of image" in done.stderr
    again = call(*words)
    assert again.exit_code == 2
    assert "already has 4 photos of this run; resume it (--resume)" in again.stderr
    found = json.loads(call(*words, "--json", "--resume").stdout)
    assert found["schema"] == "conceptlens.explain-run/1"
    assert (found["photos"], found["explained"], found["failed"]) == (4, 3, 1)
    assert [Path(one["image"]).name for one in found["failures"]] == ["broken.png"]
    assert set(found) == {
        "schema", "store", "run", "photos", "explained", "failed", "failures", "bytes_per_photo", "seconds",
    }  # fmt: skip


@pytest.mark.slow
def test_other_settings_are_named_and_a_mended_photo_is_tried_again(tmp_path: Path) -> None:
    written_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.png").write_text("no photo")
    words = ["explain", tmp_path / "photos", "--no-pretrained", "--store", tmp_path / "store"]
    assert call(*words).exit_code == 1
    other = call(*words, "--resume", "--top", "3")
    assert other.exit_code == 2
    assert "the last one has top 8; give the same" in other.stderr
    written_photos(tmp_path / "photos", 1)[0].rename(tmp_path / "photos" / "broken.png")
    retried = call(*words, "--retry-failed", "--engine", "local")
    assert retried.exit_code == 0, retried.output
    assert retried.stdout.startswith("3 photos explained (2 of them before), 0 failed, in ")
    assert ExplanationStore(tmp_path / "store").count("explained") == 4  # that of the photo that was moved stays


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume"], "--resume has no effect without --store DIR"),
        (["--maps", "--workers", "2"], "--maps and --workers have no effect without --store DIR"),
        (["--store", "s", "--out", "page.html"], "--store keeps numbers of any number of photos"),
        (["--store", "s", "--out-dir", "o"], "give one of them"),
        (["--store", "s.json"], "--store s.json ends in '.json'; expected a folder"),
        (["--store", "s", "--engine", "spark"], "--engine spark is given"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command = importlib.import_module("conceptlens.cli.explain")
    monkeypatch.setattr(command, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    done = call("explain", "photos", *words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExplanationStore:
    folder = tmp_path_factory.mktemp("export")
    return explained(folder / "store", written_photos(folder / 'photos, "two"', 5), with_maps=True)[0]


def read(file: Path) -> list[dict[str, Any]]:
    """Read an exported file as other tools do: numbers that are missing as `None`."""
    if file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    elif file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
    return [{name: None if one != one or one == "" else one for name, one in row.items()} for row in rows]


@pytest.mark.parametrize("ending", TABLE_FILES)
@pytest.mark.parametrize("table", ["concepts", "predictions", "explained", "images", "runs", "maps"])
def test_an_export_holds_the_rows_of_the_table(
    store: ExplanationStore, tmp_path: Path, table: str, ending: str
) -> None:
    file = tmp_path / f"{table}{ending}"
    if table == "maps" and ending == ".csv":
        with pytest.raises(InputError, match="maps are grids of numbers, which CSV has no place for"):
            export_table(store, table, file)
        return
    assert export_table(store, table, file, size=3) == store.count(table)
    expected, found = store.table(table).to_pylist(), read(file)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        if table == "maps":
            assert len(one.pop("cells")) == one["rows"] * one["columns"]
            other = {name: value for name, value in other.items() if name not in ("cells", "scale")}
        assert list(one) == list(other)
        for name, value in other.items():
            if isinstance(value, float) and not math.isnan(value):
                assert float(one[name]) == pytest.approx(value, rel=1e-6)
            elif isinstance(value, float) or value == "":
                assert one[name] is None
            else:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                assert (str(one[name]) if ending == ".csv" else one[name]) == (text if ending == ".csv" else value)


def test_the_command_writes_what_a_condition_lets_through(store: ExplanationStore, tmp_path: Path) -> None:
    out = tmp_path / "strong.csv"
    done = call("export", store.path, "--table", "concepts", "--where", "rank = 1", "--out", out)
    assert done.exit_code == 0, done.output
    assert "5 rows of concepts" in done.stderr
    assert [row["rank"] for row in read(out)] == ["1"] * 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--table", "concepts", "--out", "a.xlsx"], "ends in '.xlsx'; expected .parquet or .csv or .jsonl"),
        (["nowhere", "--table", "concept", "--out", "a.csv"], "no table 'concept' in a store of explanations"),
        (["nowhere", "--table", "concepts", "--out", "a.csv"], "is no conceptlens store"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("export", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_what_was_there(store: ExplanationStore, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("old")
    with pytest.raises(InputError, match="cannot read from"):
        export_table(store, "concepts", file, where="colour = 1")
    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["rows.csv"]


def test_a_log_gets_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter(range(0, 100_000, 40))
    monkeypatch.setattr("conceptlens.io.progress.time.perf_counter", lambda: next(times))
    steps = (ExplainProgress("run", photos, 10_000, 0, 100) for photos in (100, 108, 116))
    assert with_progress(steps, "explaining photos").photos == 116
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "explaining photos: 108 of 10 000, 12.0 a minute, 13 h 44 min left",
        "explaining photos: 116 of 10 000, 12.0 a minute, 13 h 44 min left",
    ]
    with pytest.raises(InputError, match="no photo"):
        with_progress(iter(()), "explaining photos")


def test_times_are_told_in_units_that_fit() -> None:
    assert [time_text(x) for x in (0.4, 59, 100, 3599, 7250, 9e10)] == [
        "0 s", "59 s", "2 min", "1 h 0 min", "2 h 1 min", "1041667 days",
    ]  # fmt: skip
    assert [speed_text(1, x) for x in (0.1, 30, 3600 * 2)] == [", 10.0 a second", ", 2.0 a minute", ", 0.5 an hour"]
