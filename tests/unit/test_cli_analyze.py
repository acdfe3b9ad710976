"""`conceptlens analyze` and `conceptlens search`, from the command line to the files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from analysis_store import planted
from PIL import Image
from typer.testing import CliRunner, Result

from conceptlens.cli import app
from conceptlens.data.masked_sets import open_set
from conceptlens.store import Store
from conceptlens.store.lance_tables import FILE

pytestmark = pytest.mark.wide

FEW = ("car", "truck", "bird", "cup")
FIGURES = {"retrieval.png", "confusion.png", "separation.png", "dendrogram.png", "projection.png", "layers.png"}
SHEETS = {"retrieval_examples.jpg", "sub_concepts.jpg", "outliers.jpg"}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(done: Result) -> str:
    """Return the one sentence of a refusal."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("conceptlens: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def finite(text: str) -> dict[str, list[dict[str, object]]]:
    """Return JSON that has no NaN and no infinity."""
    return json.loads(text, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted store and its photos."""
    folder = tmp_path_factory.mktemp("analyze")
    planted(folder / "store", folder, FEW, rows=14)
    return folder


@pytest.fixture(scope="module")
def result(place: Path) -> Result:
    return call("analyze", place / "store", "--out-dir", place / "out", "--photos", place / "photos", "--json")


def test_analyze_leaves_a_page_numbers_tables_and_figures(place: Path, result: Result) -> None:
    assert result.exit_code == 0, result.output
    out = place / "out"
    assert {file.name for file in out.iterdir()} == {"analysis.html", "analysis.json", "tables", "figures"}
    assert {file.name for file in (out / "figures").iterdir()} == FIGURES | SHEETS
    for file in (out / "figures").iterdir():
        picture = Image.open(file)
        assert min(picture.size) > 150
        assert len(set(np.asarray(picture.convert("L")).ravel().tolist())) > 20
    page = (out / "analysis.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"\b(?:nan|inf|None)\b", re.sub(r"data:[^\"]*|<style>.*?</style>", "", page, flags=re.S))
    assert "no photos were given" not in page.lower()


def test_numbers_printed_are_those_written_and_finite(place: Path, result: Result) -> None:
    printed, written = finite(result.stdout), finite((place / "out" / "analysis.json").read_text(encoding="utf-8"))
    assert printed == written
    assert printed["schema"] == "conceptlens.analyze/1"
    assert printed["best"] == "layer2"
    assert [one["layer"] for one in printed["layers"]] == ["layer1", "layer2", "layer10"]
    cars = next(one for one in printed["concepts"] if (one["layer"], one["concept"]) == ("layer2", "car"))
    assert cars["confused_with"] == "truck"
    assert printed["failures"] == [
        {"image": "photos/broken.jpg", "error": "'photos/broken.jpg' is no image; save it again"}
    ]


def test_tables_are_parquet_without_nan(place: Path, result: Result) -> None:
    names = {"layers", "concepts", "pairs", "sub_concepts", "rows", "merges", "ellipses"}
    found = {file.stem: pyarrow.parquet.read_table(file) for file in (place / "out" / "tables").iterdir()}
    assert set(found) == names
    assert found["rows"].num_rows == 3 * 14 * len(FEW)
    for table in found.values():
        assert table.num_rows > 0
        for one in table.to_pylist():
            assert all(np.isfinite(value) for value in one.values() if isinstance(value, float))


def test_without_a_folder_a_table_is_printed_and_nothing_written(place: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["analyze", str(place / "store"), "--concepts", "car, bird", "--max-rows", "8"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^layer2 +0\.\d{3}", done.stdout, re.M)
    assert "retrieved best at layer2: car; worst: bird" in done.stdout
    assert "16 embeddings at 3 layers in" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tiles_show_masks_where_there_are_no_photos(place: Path) -> None:
    out = place / "plain"
    done = call("analyze", place / "store", "--out-dir", out, "--max-rows", 6, "--max-concepts", 2)
    assert done.exit_code == 0, done.output
    page = (out / "analysis.html").read_text(encoding="utf-8")
    assert "No photos were given, so tiles show masks alone" in page
    assert "at most 6 of each concept were sampled" in page
    assert "show the 2 most frequent of 4 concepts" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layer", "layer3"], "no layer 'layer3'"),
        (["--concepts", "kat"], "no concept 'kat'"),
        (["--model", "timm:other"], "no model 'timm:other'"),
        (["--run", "other"], "no run 'other'"),
        (["--photos", "nowhere"], "--photos nowhere is neither a folder nor a data set"),
    ],
)
def test_what_cannot_be_told_is_refused_and_nothing_written(
    place: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    message = refused(call("analyze", place / "store", "--out-dir", tmp_path / "out", *words))
    assert sentence in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--photos", "photos"], "--photos has no effect without a page; add --out-dir DIR"),
        (["--photos", "photos", "--json"], "--photos has no effect without a page"),
        (["--umap"], "--umap has no effect on what is printed; add --out-dir DIR or --json"),
        (["--umap", "--max-concepts", "3"], "--umap and --max-concepts have no effect on what is printed"),
    ],
)
def test_options_of_the_page_are_refused_without_one(place: Path, words: list[str], sentence: str) -> None:
    assert sentence in refused(call("analyze", place / "store", *words))


def test_a_place_that_is_no_store_is_refused(tmp_path: Path, place: Path) -> None:
    (tmp_path / "other").mkdir()
    assert "is no conceptlens store" in refused(call("analyze", tmp_path / "other"))
    Store(tmp_path / "empty", create=True)
    assert "holds no embeddings yet" in refused(call("analyze", tmp_path / "empty", "--out-dir", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    shutil.copytree(place / "store", tmp_path / "newer")
    (tmp_path / "newer" / FILE).write_text('{"format": "conceptlens store", "version": 99}', encoding="utf-8")
    assert "has version 99" in refused(call("analyze", tmp_path / "newer"))


def test_a_file_is_no_folder_to_write_to(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "is a file; expected a folder" in refused(call("analyze", place / "store", "--out-dir", tmp_path / "file"))
    assert "expected a folder" in refused(call("analyze", place / "store", "--out-dir", tmp_path / "analysis.html"))
    assert "where there is a file" in refused(
        call("analyze", place / "store", "--out-dir", tmp_path / "file" / "below")
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of drawn scenes by the default model, and one scene with a mask as files."""
    folder = tmp_path_factory.mktemp("search")
    done = call(
        "embed", "--data", "drawn:8", "--layers", "blocks.4,bn2", "--input-size", 96, "--out-dir", folder / "store"
    )
    assert done.exit_code == 0, done.output
    one = open_set("drawn:8", None)[3]
    one.photo.save(folder / "photo.png")
    Image.fromarray(one.masks[0]).convert("L").save(folder / "mask.png")
    Image.fromarray(one.masks[0].astype(np.uint8)).save(folder / "ones.png")
    alike = [name.label for name, mask in zip(one.concepts, one.masks, strict=True) if (mask == one.masks[0]).all()]
    (folder / "concepts.txt").write_text("\n".join(alike), encoding="utf-8")  # its colour and its kind
    (folder / "name.txt").write_text(one.name, encoding="utf-8")
    Image.new("L", one.photo.size).save(folder / "black.png")
    Image.new("L", (40, 200), 255).save(folder / "other.png")
    return folder


def search(embedded: Path, *words: object, mask: str = "mask.png") -> Result:
    return call("search", embedded / "store", "--image", embedded / "photo.png", "--mask", embedded / mask, *words)


def test_search_finds_the_mask_it_was_asked_with_first(embedded: Path) -> None:
    done = search(embedded, "--json", "--layer", "blocks.4", "-k", 3, "--out", embedded / "found.html")
    assert done.exit_code == 0, done.output
    numbers = finite(done.stdout)
    assert (numbers["layer"], len(numbers["found"])) == ("blocks.4", 3)
    first = numbers["found"][0]
    assert first["concept"] in (embedded / "concepts.txt").read_text(encoding="utf-8").split("\n")
    assert first["image"] == (embedded / "name.txt").read_text(encoding="utf-8")
    assert first["similarity"] == pytest.approx(1, abs=1e-3)
    page = (embedded / "found.html").read_text(encoding="utf-8")
    assert page.count('<figure class="tile') == 4
    assert "<script" not in page


def test_search_reads_masks_of_ones_and_writes_numbers(embedded: Path) -> None:
    done = search(embedded, "--out", embedded / "found.json", mask="ones.png")
    assert done.exit_code == 0, done.output
    numbers = finite((embedded / "found.json").read_text(encoding="utf-8"))
    assert numbers["layer"] == "bn2"  # the last of the run
    assert numbers["found"][0]["similarity"] == pytest.approx(1, abs=1e-3)  # pyright: ignore[reportArgumentType]
    assert re.search(r"cosine +concept +image", done.stdout)


@pytest.mark.parametrize(
    ("mask", "words", "sentence"),
    [
        ("other.png", [], "is 40 x 200 pixels, the photo"),
        ("black.png", [], "is black all over; paint what is meant white"),
        ("missing.png", [], "no file"),
        ("mask.png", ["--layer", "blocks.9"], "no layer 'blocks.9'; it has blocks.4, bn2"),
        ("mask.png", ["--run", "other"], "has no run 'other'"),
        ("mask.png", ["--concepts", "kat"], "no concept 'kat'"),
        ("mask.png", ["--photos", "nowhere", "--out", "found.html"], "neither a folder nor a data set"),
        ("mask.png", ["--out", "found.txt"], "expected .html or .json"),
        ("mask.png", ["--split", "val", "--out", "found.html"], "no effect without --photos"),
        ("mask.png", ["--photos", "."], "--photos has no effect without a page; add --out FILE.html"),
        ("mask.png", ["--photos", ".", "--split", "val", "--out", "found.json"], "--photos and --split have no effect"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: str, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(search(embedded, *words, mask=mask))
    assert list(tmp_path.iterdir()) == []


def test_search_of_an_empty_store_and_of_another_model_is_refused(embedded: Path, place: Path, tmp_path: Path) -> None:
    Store(tmp_path / "empty", create=True)
    settings = ("--image", embedded / "photo.png", "--mask", embedded / "mask.png")
    assert "holds no embeddings yet" in refused(call("search", tmp_path / "empty", *settings))
    assert "is no conceptlens store" in refused(call("search", tmp_path / "nowhere", *settings))
