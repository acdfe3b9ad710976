"""What `--out` writes beside a page: tables with a row for each concept, and pictures of the maps."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

from conceptlens.cli import app
from conceptlens.explainer import photo_run
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.io.errors import Failure

pytestmark = pytest.mark.wide

PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = str(PHOTOS / "chelsea.png"), str(PHOTOS / "coffee.png")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    (folder / "broken.png").write_text("no photo")
    photos = [CAT, str(folder / "broken.png"), COFFEE]
    for name in ("t.csv", "t.parquet", "t.jsonl", "t.json", "pictures"):
        done = run("explain", *photos, "--top", "3", "--regions", "coarse", "--out", str(folder / name))
        assert done.exit_code == 1, done.output
        assert str(folder / name) in done.stderr.replace("\n", "")
    return folder


def test_a_table_has_what_the_json_says_of_each_concept_in_the_order_of_the_photos(written: Path) -> None:
    rows = parquet.read_table(written / "t.parquet").to_pylist()
    document = json.loads((written / "t.json").read_text())
    expected = [(image["image"], one) for image in document["images"] for one in image["concepts"]]
    assert [row["photo"] for row in rows] == [CAT] * 3 + [str(written / "broken.png")] + [COFFEE] * 3
    explained = [row for row in rows if not row["failure"]]
    for row, (name, one) in zip(explained, expected, strict=True):
        assert (row["photo"], row["label"], row["type"]) == (name, one["label"], one["type"])
        assert row["contribution"] == pytest.approx(one["contribution"], abs=1e-4)
        assert row["presence"] == pytest.approx(one["presence"], abs=1e-4)
    assert [row["rank"] for row in rows] == [1, 2, 3, None, 1, 2, 3]
    assert "cat" in rows[0]["target"]
    assert 0 < rows[0]["target_probability"] <= 1
    assert "broken.png" in rows[3]["failure"]


def test_all_kinds_of_tables_hold_the_same(written: Path) -> None:
    rows = parquet.read_table(written / "t.parquet").to_pylist()
    lines = [json.loads(line) for line in (written / "t.jsonl").read_text().splitlines()]
    with (written / "t.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(lines) == len(cells) == len(rows)
    for row, line, cell in zip(rows, lines, cells, strict=True):
        assert list(row) == list(line) == list(cell)
        for name, value in row.items():
            if isinstance(value, float) and not np.isnan(value):
                assert line[name] == pytest.approx(value, rel=1e-6)
                assert float(cell[name]) == pytest.approx(value, rel=1e-6)
            elif isinstance(value, str):
                assert line[name] == cell[name] == value


def test_pictures_are_of_each_photo_with_its_maps(written: Path) -> None:
    files = sorted(file.name for file in (written / "pictures").iterdir())
    assert files == ["0001_chelsea.png", "0002_coffee.png"]
    with Image.open(written / "pictures" / files[0]) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    with Image.open(CAT) as cat:
        shown = np.asarray(cat.convert("RGB").resize((300, round(300 * cat.height / cat.width)))).astype(int)
    top = next(row for row in range(200) if np.abs(pixels[row, 15:315] - shown[0]).max() < 60 and row > 5)
    first = pixels[top : top + len(shown), 15:315]
    assert np.abs(first - shown).mean() < 6
    second = pixels[top : top + len(shown), 330:630]
    assert np.abs(second - shown).mean() > 15


def test_a_contrast_has_pictures_and_a_table_with_what_the_json_says(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no photo")
    words = ("contrast", CAT, str(tmp_path / "broken.png"), COFFEE, "--against", "tabby", "--target", "tiger cat")
    for name in ("pictures", "t.csv", "t.parquet"):
        done = run(*words, "--json", "--out", str(tmp_path / name))
        assert done.exit_code == 1, done.output
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["0001_chelsea.png", "0002_coffee.png"]
    cat, broken, coffee = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    for row, image in zip((cat, coffee), json.loads(done.stdout)["images"], strict=True):
        assert (row["photo"], row["target"], row["gamma"]) == (image["image"], "tiger cat", image["gamma"])
        assert row["margin"] == pytest.approx(image["margin"])
        assert [row["peak_x"], row["peak_y"]] == image["contrast_map"]["peak"]
        assert row["class_area"] == image["class_map"]["area"]
        assert (row["against"], row["relative_drop"]) == ("tabby, tabby cat", None)
    assert [coffee["answered"], broken["answered"], broken["gamma"]] == [False, None, None]
    assert "broken.png' is not a known kind" in broken["failure"]
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [line["photo"] for line in csv.DictReader(file)] == [CAT, str(tmp_path / "broken.png"), COFFEE]


def test_a_folder_that_cannot_be_explained_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no photo")
    for name in ("t.csv", "pictures", "t.json"):
        assert run("contrast", str(tmp_path / "broken.png"), "--out", str(tmp_path / name)).exit_code == 2
    assert [one.name for one in tmp_path.iterdir()] == ["broken.png"]


@pytest.mark.parametrize("end", ["t.jsonl", "t.json", "pictures"])
def test_what_is_done_when_ctrl_c_comes_is_written(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, batches = photo_run.explain_batch, iter(range(9))

    def interrupted(*given: Any) -> list[PhotoResult | Failure]:
        if next(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(9)
        return real(*given)

    monkeypatch.setattr(photo_run, "explain_batch", interrupted)
    (tmp_path / "broken.png").write_text("no photo")
    photos = [CAT, str(tmp_path / "broken.png"), COFFEE]
    done = run("contrast", *photos, "--against", "lynx", "--batch-size", "1", "--out", str(tmp_path / end))
    assert done.exit_code == 130, done.output
    assert done.stderr.splitlines()[-1] == "interrupted after 2 of 3 photos"
    assert "chelsea.png" in done.stdout
    assert "coffee.png" not in done.stdout
    if end == "pictures":
        assert [file.name for file in (tmp_path / end).iterdir()] == ["0001_chelsea.png"]
    elif end == "t.jsonl":
        assert [json.loads(line)["photo"] for line in (tmp_path / end).read_text().splitlines()] == photos[:2]
    else:
        found = json.loads((tmp_path / end).read_text())
        assert [one["image"] for one in [*found["images"], *found["failures"]]] == photos[:2]
