"""`conceptlens fit loc-cbm`, from the command line to the folder: what it prints, as text and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from drawn_birds import LABELS, write_birds
from fit_process import pupil, teacher_of
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.bottleneck.fit import fitted_locator
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.cli import app
from conceptlens.training.schedule import StepSchedule

QUICK = ("--set", "penalties=[0.1]", "--set", "restarts=1", "--set", "steps=5", "--set", "batch=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_birds(tmp_path_factory.mktemp("birds"), train=6)


@pytest.fixture(autouse=True)
def loaded_models(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Toy models by name, with the options that each was loaded with; parts are sought in few steps."""
    options: dict[str, dict[str, Any]] = {}

    def load_model(name: str, **given: Any) -> cl.Backbone:
        options[name] = given
        if name not in ("toy:pupil", "toy:pair"):
            raise cl.InputError(f"no model '{name}'")
        return pupil() if name == "toy:pupil" else teacher_of()

    monkeypatch.setattr("conceptlens.model.zoo.load_model", load_model)
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(5, 16, 0.02))
    return options


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["fit", "loc-cbm", "--model", "toy:pupil", *QUICK, *map(str, words)])


def test_it_says_what_came_of_it(folder: Path, tmp_path: Path, loaded_models: dict[str, dict[str, Any]]) -> None:
    out = tmp_path / "out"
    done = call("--data", f"cub:{folder}", "--out-dir", out, "--weights", "own.safetensors", "--no-pretrained")
    assert done.exit_code == 0, done.output
    assert loaded_models["toy:pupil"]["weights"] == "own.safetensors"
    assert loaded_models["toy:pupil"]["pretrained"] is False
    assert loaded_models["toy:pupil"]["crop_mode"] == "squash"
    record = Bottleneck.from_pretrained(out).training_record
    lines = done.stdout.splitlines()
    assert lines == [
        "4 concepts for 3 classes, from the class attributes of cub train",
        "1 left out, such as small (5 - 9 in) size: no class shows it in 10% of its images or more",
        "4 concepts count for each class",
        "maps of 8 x 8 cells, locator parts",
        f"accuracy on held-out train photos {record['holdout_accuracy']:.3f}; of a linear probe "
        f"{record['holdout_accuracy_of_linear_probe']:.3f}",
        "place not checked: no mask or keypoint says where this is (all 4 concepts)",
        "learned from class labels only: the map may follow the class, not the concept (all 4 concepts)",
        f"bottleneck: {out}",
    ]
    assert done.stderr.startswith("18 photos in ")

    again = call("--data", f"cub:{folder}", "--out-dir", out)
    assert again.exit_code == 2
    assert "holds a run already; go on with it by resume=True (--resume)" in again.stderr
    resumed = call("--data", f"cub:{folder}", "--out-dir", out, "--resume")
    assert (resumed.exit_code, resumed.stdout) == (0, done.stdout)
    other = call("--data", f"cub:{folder}", "--out-dir", out, "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "was another one: seed was 0 and is 1" in other.stderr


def test_programs_read_its_numbers(folder: Path, tmp_path: Path, loaded_models: dict[str, dict[str, Any]]) -> None:
    own = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    bad = next((own / "002.Bay_Tern").glob("0003*"))
    bad.write_bytes(bad.read_bytes()[:60])
    (tmp_path / "named.txt").write_text("cat\ncar\nCat\n")
    out = tmp_path / "out"
    done = call("--data", own, "--out-dir", out, "--vlm", "toy:pair", "--concepts", tmp_path / "named.txt", "--json",
                "--recipe", "label-free", "--crop-mode", "center", "--cache-gb", 0)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert loaded_models["toy:pupil"]["crop_mode"] == "center"
    assert "toy:pair" in loaded_models
    (line,) = done.stdout.splitlines()
    numbers = json.loads(line)
    record = Bottleneck.from_pretrained(out).training_record
    assert numbers == {
        "schema": "conceptlens.fit-loc-cbm/1",
        "model": "pupil 0",
        "classes": 3,
        "concepts": 2,
        "dropped": [
            {
                "label": "cat",
                "filter": "duplicate",
                "value": None,
                "threshold": None,
                "reason": "entry 3 repeats entry 1, 'cat'",
            }
        ],
        "photos_used": 23,
        "locator": "whole",
        "grid": [4, 4],
        "concepts_from": str(tmp_path / "named.txt"),
        "targets_by": "vlm",
        "targets_of": {"cat": "vlm", "car": "vlm"},
        "penalty": 1.0,
        "strength": record["strength"],
        "concepts_per_class": 2.0,
        "holdout_accuracy": record["holdout_accuracy"],
        "holdout_accuracy_of_linear_probe": record["holdout_accuracy_of_linear_probe"],
        "failures": json.loads((out / "failures.json").read_text()),
        "out": str(out),
    }
    assert [one["name"] for one in numbers["failures"]] == ["002.Bay_Tern/0003.png"]
    assert "0003.png" in done.stderr
    assert "23 photos, 1 failed in " in done.stderr
    documented = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    section = documented.split("## conceptlens.fit-loc-cbm/1")[1].split("\n## ")[0]
    assert all(f"`{name}`" in section for name in numbers)


def test_every_option_reaches_the_fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def fit_loc_cbm(model: cl.Backbone, data: str, out: Path, **options: Any) -> Bottleneck:
        given.update(options, data=data, out=out)
        raise cl.InputError("enough")

    monkeypatch.setattr("conceptlens.bottleneck.fit.fit_loc_cbm.fit_loc_cbm", fit_loc_cbm)
    done = call(
        "-d", "cub:birds", "--out-dir", tmp_path, "-c", "words.tsv", "--targets", "both", "--recipe", "poster",
        "--locator", "softmax", "--loss", "cosine", "--keypoints", 2, "--nec", 5, "--finetune", 3, "--layer", "second",
        "--locator-layers", "first, second", "--input-size", 64, "--cache", tmp_path / "cells", "--cache-gb", 2.5,
        "--seed", 4, "--device", "cuda:1", "--resume", "--set", "schedule=cosine", "--set", "masked=false",
        "--set", "first=3.5", "--set", "grid=[3,5]", "--set", "rate=1e-2", "--set", "interpretable=null",
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (2, "conceptlens: enough\n")
    assert given == {
        "data": "cub:birds", "out": tmp_path, "vlm": None, "concepts": "words.tsv", "targets": "both",
        "recipe": "poster", "locator": "softmax", "loss": "cosine", "keypoints": 2, "nec": 5.0, "finetune": 3,
        "layer": "second", "locator_layers": ["first", "second"], "size": 64, "cache": tmp_path / "cells",
        "cache_gb": 2.5, "seed": 4, "device": "cuda:1", "resume": True, "schedule": "cosine", "masked": False,
        "first": 3.5, "grid": (3, 5), "rate": 0.01, "interpretable": None, "penalties": (0.1,), "restarts": 1,
        "steps": 5, "batch": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--set", "schedule"], "--set schedule is given; expected NAME=VALUE, such as --set schedule=cosine"),
        (["--set", "=3"], "--set =3 is given; expected NAME=VALUE"),
        (
            ["--set", "shedule=cosine"],
            "--set shedule=cosine is given, and there is no such setting; near names: schedule",
        ),
        (["--set", "seed=3"], "--set seed=3 is given, and there is no such setting"),
        (["--set", "masked=False"], "masked is 'False'; give true or false"),
        (["--set", "penalties=0.1"], "penalties is 0.1; give a list of numbers"),
        (["--set", "share=most"], "share is 'most'; give a number"),
        (["--set", "grid=7"], "the grid is 7; give rows and columns"),
        (["--recipe", "locbm"], "no recipe 'locbm'; near names: loc-cbm"),
        (["--locator", "peak"], "no locator 'peak'; near names: peaks"),
        (["--targets", "label"], "no targets 'label'; near names: labels"),
        (["--targets", "vlm"], "no target says how much the photos show of 'red belly' and 3 more; give a vision-lang"),
        (["--concepts", "nowhere.txt"], "cannot read 'nowhere.txt'"),
        (["--layer", "third"], "layer 'third' of pupil 0 has no grid of cells"),
        (["--vlm", "toy:nobody"], "no model 'toy:nobody'"),
        (["--nec", "9"], "9 of 4 concepts for each of 3 classes were given"),
        (["--device", "abacus"], "pupil 0 cannot be moved to abacus"),
        (["--data", "cub:nowhere"], "no folder 'nowhere'"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, words: list[str], text: str) -> None:
    done = call("--data", f"cub:{folder}", "--out-dir", tmp_path / "out", *words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("conceptlens: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_concepts_named_in_a_table_have_their_parts(folder: Path, tmp_path: Path) -> None:
    rows = ["red belly\tbelly\ttrunk\tred\tcolor", "green belly\tbelly\ttrunk\tgreen\tcolor"]
    rows += ["red upper tail\ttail\ttail\tred\tcolor", "green upper tail\ttail\ttail\tgreen\tcolor"]
    (tmp_path / "named.tsv").write_text("\n".join(["label\tpart\tregion\tproperty\tkind", *rows]))
    done = call(
        "--data", f"cub:{folder}", "--out-dir", tmp_path / "out", "--concepts", tmp_path / "named.tsv", "--json"
    )
    assert json.loads(done.stdout)["locator"] == "parts"
    made = Bottleneck.from_pretrained(tmp_path / "out")
    assert made.labels == LABELS
    assert [concept.part for concept in made.concepts] == ["belly", "belly", "tail", "tail"]
