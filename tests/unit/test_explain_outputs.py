"""What `--out` writes beside a page: tables with a row for each concept, and pictures of the maps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

from conceptlens.cli import app

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


def test_a_table_has_what_the_json_says_of_each_concept(written: Path) -> None:
    rows = parquet.read_table(written / "t.parquet").to_pylist()
    document = json.loads((written / "t.json").read_text())
    expected = [(image["image"], one) for image in document["images"] for one in image["concepts"]]
    assert [row["photo"] for row in rows] == [*(name for name, _ in expected), str(written / "broken.png")]
    for row, (_, one) in zip(rows, expected, strict=False):
        assert (row["label"], row["type"]) == (one["label"], one["type"])
        assert row["contribution"] == pytest.approx(one["contribution"], abs=1e-4)
        assert row["presence"] == pytest.approx(one["presence"], abs=1e-4)
        assert row["failure"] == ""
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3, None]
    assert "cat" in rows[0]["target"]
    assert 0 < rows[0]["target_probability"] <= 1
    assert "broken.png" in rows[-1]["failure"]


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


def test_a_contrast_has_pictures_and_no_table(tmp_path: Path) -> None:
    done = run("contrast", CAT, "--against", "tabby", "--out", str(tmp_path / "pictures"))
    assert done.exit_code == 0, done.output
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["0001_chelsea.png"]
    refused = run("contrast", CAT, "--out", str(tmp_path / "t.csv"))
    assert refused.exit_code == 2
    assert "ends in '.csv'; expected .html or .json" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "t.csv").exists()
