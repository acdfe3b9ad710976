"""`conceptlens discover`, from the command line to the folder: what is written, named again, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.explainer import name_suggestions

pytestmark = pytest.mark.wide

TINY = ("--model", "timm:test_resnet", "--no-pretrained")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["discover", *[str(word) for word in words]])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, one in enumerate(DrawnSet(12)):
        one.photo.resize((64, 64)).save(folder / f"{index:02}.png")
    (folder / "broken.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder of three concepts, and what was said of it."""
    out = tmp_path_factory.mktemp("made") / "concepts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name_suggestions, "_presence", lambda *_: None)  # no word says anything of random weights
        return out, call(photos, *TINY, "--concepts", 3, "--out-dir", out, "--json", "--names", "1=first things")


@pytest.fixture
def folder(made: tuple[Path, Result], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "concepts"))


def test_a_run_writes_a_folder_and_a_page_and_prints_numbers(made: tuple[Path, Result], photos: Path) -> None:
    out, done = made
    assert done.exit_code == 1, done.output  # one photo is broken
    assert str(photos / "broken.png") in done.stderr
    assert sorted(one.name for one in out.iterdir()) == [
        "concepts.safetensors", "config.json", "names.tsv", "report.html"
    ]  # fmt: skip
    printed = json.loads(done.stdout)
    assert printed["schema"] == "conceptlens.discover/1"
    assert set(printed) == {
        "schema", "versions", "out_dir", "model", "layer", "concepts", "candidates", "diagnostics", "failures"
    }  # fmt: skip
    assert [(one["id"], one["name"]) for one in printed["concepts"]] == [(0, ""), (1, "first things"), (2, "")]
    assert [one["chosen"] for one in printed["candidates"]] == [True]
    assert (printed["layer"], printed["diagnostics"]["photos"], len(printed["failures"])) == ("layer4", 12, 1)
    assert "first things" in (out / "report.html").read_text("utf-8")
    assert cl.DiscoveredConcepts.load(out).labels == ("concept 0", "first things", "concept 2")


def test_concepts_are_named_without_running_again(folder: Path, tmp_path: Path) -> None:
    before = (folder / "concepts.safetensors").read_bytes()
    done = call("--names", "0=water, 1=", "--out-dir", folder)
    assert done.exit_code == 0, done.output
    assert cl.DiscoveredConcepts.load(folder).names == ("water", "", "")
    assert (folder / "concepts.safetensors").read_bytes() == before
    page = (folder / "report.html").read_text("utf-8")
    assert "water" in page
    assert "first things" not in page
    assert "0 water" in done.stdout
    table = tmp_path / "mine.tsv"
    table.write_text("id\tname\n2\tsky, blue\n")
    assert call("--names", table, "--out-dir", folder).exit_code == 0
    assert cl.DiscoveredConcepts.load(folder).names == ("water", "", "sky, blue")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no photos are given; name photos or folders to discover concepts in"),
        (("--names", "9=grass"), "there is no concept 9 to be called 'grass' in --names; there are 3, from 0 to 2"),
        (("--names", "grass"), "'grass' in the names is no number with a name, and no file"),
        (("--names", "0=a", "--concepts", "5"), "--concepts has no effect without photos"),
        (("--names", "0=a", "--layer", "x", "--seed", "1"), "--layer and --seed have no effect without photos"),
        (("PHOTOS",), "is a folder that is not empty"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    folder: Path, photos: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = call(*[photos if word == "PHOTOS" else word for word in words], "--out-dir", folder)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert cl.DiscoveredConcepts.load(folder).names == ("", "first things", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--names", "7=grass", "--concepts", "3"), "there is no concept 7 to be called 'grass'"),
        (("--concepts", "4000"), "4000 concepts are asked for; layer 'layer4' has"),
        (("--layer", "nowhere"), "no layer 'nowhere'"),
        (("--max-photos", "5"), "5 photos were given; concepts are discovered in at least 8"),
    ],
)
def test_a_refused_run_leaves_no_folder(photos: Path, tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    done = call(photos, *TINY, *words, "--out-dir", tmp_path / "out")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_no_concepts_cannot_be_named(tmp_path: Path) -> None:
    done = call("--names", "0=grass", "--out-dir", tmp_path)
    assert done.exit_code == 2
    assert "holds no discovered concepts" in done.stderr
