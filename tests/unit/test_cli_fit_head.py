"""`conceptlens fit head`, from the command line to a model: what it prints, as text and as JSON, and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from drawn_birds import CLASSES, write_birds
from fit_process import pupil
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.model.class_head import ClassHead
from conceptlens.model.zoo import load_model as load_model_of_the_zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_birds(tmp_path_factory.mktemp("birds"), train=10, test=4)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """A toy model by name, with the options that it was loaded with; other names go to the zoo."""
    options: dict[str, dict[str, Any]] = {}

    def load_model(name: str, **given: Any) -> cl.Backbone:
        options[name] = given
        return pupil() if name == "toy:pupil" else load_model_of_the_zoo(name, **given)

    monkeypatch.setattr("conceptlens.model.zoo.load_model", load_model)
    monkeypatch.setattr("conceptlens.model.zoo.from_head.load_model", lambda name, **given: pupil())
    return options


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["fit", "head", "--model", "toy:pupil", *map(str, words)])


def test_it_says_what_came_of_it(folder: Path, tmp_path: Path, loaded: dict[str, dict[str, Any]]) -> None:
    out = tmp_path / "out"
    done = call("--data", f"cub:{folder}", "--out-dir", out)
    assert done.exit_code == 0, done.output
    assert loaded["toy:pupil"]["crop_mode"] == "squash"
    training = ClassHead.load(out).training
    test = training["test_accuracy"]
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "3 classes, 30 photos of cub train, embeddings of 12",
        f"ridge {training['strength']:g}; accuracy on held-out train photos {training['holdout_accuracy']:.3f}",
        f"accuracy on cub test {test['mean']:.3f} [{test['low']:.3f}, {test['high']:.3f}] of 12 photos; always the "
        "commonest class 0.333",
    ]
    assert all(" taken for " in line for line in lines[3:-1])
    assert lines[-1] == f"model: {out}"
    assert done.stderr.startswith("42 photos in ")

    again = call("--data", f"cub:{folder}", "--out-dir", out)
    assert again.exit_code == 2
    assert "holds a head or something like it already; choose another folder, or remove it" in again.stderr


def test_programs_read_its_numbers(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    bad = next((own / "002.Bay_Tern").glob("0003*"))
    bad.write_bytes(bad.read_bytes()[:60])
    done = call("--data", own, "--out-dir", tmp_path / "out", "--test", 0.25, "--holdout", 0.3, "--mirror", "--json")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    numbers = json.loads(line)
    assert list(numbers) == [
        "schema", "model", "data", "dimension", "crop", "margin", "mirror", "photos_used", "strength",
        "holdout_accuracy", "holdout_cross_entropy", "test", "failures", "out",
    ]  # fmt: skip
    assert numbers["schema"] == "conceptlens.fit-head/1"
    assert (numbers["model"], numbers["dimension"], numbers["mirror"]) == ("pupil 0", 12, True)
    assert numbers["test"] == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [one["name"] for one in numbers["test"]["classes"]] == [one.name for one in sorted(own.iterdir())]
    assert numbers["photos_used"] + numbers["test"]["accuracy"]["images"] == 41
    (failure,) = numbers["failures"]
    assert failure["name"] == f"002.Bay_Tern/{bad.name}"
    assert done.stderr.count("conceptlens: ") == 1


def test_the_folder_is_a_model_of_every_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("--data", f"cub:{folder}", "--out-dir", out, "--crop", "box", "--margin", 0.2).exit_code == 0
    photo = next((folder / "images" / "001.Ash_Wren").iterdir())
    for name in (out, f"head:{out}"):
        words = ["contrast", photo, "--target", CLASSES[0], "--against", CLASSES[1], "--model", name, "--json"]
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["images"][0]["model"] == f"head:{out}"
    listed = CliRunner().invoke(app, ["models", "--layers", f"head:{out}"])
    assert listed.exit_code == 0, listed.output
    assert "second" in listed.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--crop", "square"), "crop is 'square'; expected whole or box"),
        (("--test", "train"), "test is 'train', the split that is fitted to"),
        (("--test", "2"), "test is 2.0; expected a split, or a share of each class between 0 and 1"),
        (("--holdout", "0"), "holdout is 0.0; expected a share of each class between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(folder: Path, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    done = call("--data", f"cub:{folder}", "--out-dir", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert done.stderr.startswith("conceptlens: ")
    assert why in done.stderr
    assert not (tmp_path / "out").exists()
