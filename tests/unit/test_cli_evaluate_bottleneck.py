"""`conceptlens evaluate bottleneck` and `conceptlens edit` as a person or a program meets them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import conceptlens as cl
from coloured_birds import CLASSES, CONCEPTS, birds_guessed, write_birds
from conceptlens.bottleneck.evaluate.activation_table import read_table
from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
from conceptlens.bottleneck.evaluate.metric_result import METRICS
from conceptlens.bottleneck.intervention import effect, remove, set_to, with_edits
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.cli import app
from conceptlens.concept_regions.branch import layer_widths
from conceptlens.data.cub import Cub
from conceptlens.model import zoo

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module", autouse=True)
def _one_model() -> Iterator[None]:
    """Load the default model once: every command would load it anew."""
    kept: dict[str, cl.Backbone] = {}

    def load(name: str = zoo.DEFAULT_MODEL, **options: Any) -> cl.Backbone:
        key = f"{name} {options}"
        if key not in kept:
            kept[key] = real(name, **options)
        return kept[key]

    real = zoo.load_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load_model", load)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `birds`, and `made`, an untrained bottleneck of the default model for them."""
    folder = tmp_path_factory.mktemp("place")
    write_birds(folder / "birds", train=2, test=2)
    model = cl.load_model()
    layer = model.default_layers[-1]
    birds_guessed(model, layer, layer_widths(model, (layer,))[0]).save_pretrained(folder / "made")
    return folder


def run(place: Path, *words: str) -> Result:
    """Run a command; MADE and BIRDS stand for the two folders."""
    known = {"MADE": str(place / "made"), "BIRDS": f"cub:{place / 'birds'}"}
    return CliRunner().invoke(app, [known.get(word, word) for word in words])


def evaluate(place: Path, *words: str) -> Result:
    return run(place, "evaluate", "bottleneck", "--bottleneck", "MADE", "--data", "BIRDS", *words)


def edit(place: Path, *words: str) -> Result:
    return run(place, "edit", "MADE", "--data", "BIRDS", *words)


# --- evaluate bottleneck


def test_what_was_asked_for_in_vain_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cub, "annotation", None)
    done = evaluate(place, "--leakage", "--interventions")
    assert done.exit_code == 0, done.output
    assert "conceptlens: --leakage measured nothing: the set has no class attributes" in done.stderr
    assert "conceptlens: --interventions measured nothing: the set has no class attributes" in done.stderr


@pytest.mark.parametrize("words", [("--set", "yellow wing=1e300"), ("--clamp", "yellow wing=0..1e300")])
def test_a_number_that_single_precision_does_not_hold(place: Path, words: tuple[str, str]) -> None:
    done = edit(place, *words)
    assert done.exit_code == 2
    assert "give numbers below 3e+38 in size" in done.stderr


def test_json_has_the_documented_fields_and_the_numbers_of_the_measure(place: Path) -> None:
    done = evaluate(place, "--json", "--seed", "3")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert set(printed) == {
        "schema", "versions", "bottleneck", "settings", "data", "train", "model", "photos", "presence",
        "labels_of", "concepts_with_labels", "metrics", "classes", "concepts", "interventions", "interventions_reason",
        "failures",
    }  # fmt: skip
    assert printed["schema"] == "conceptlens.evaluate-bottleneck/2"
    assert (printed["data"], printed["train"], printed["photos"]) == ("cub test", "cub train", 8)
    assert [one["name"] for one in printed["metrics"]] == list(METRICS)
    birds = place / "birds"
    made = Bottleneck.from_pretrained(place / "made")
    own = evaluate_bottleneck(made, cl.load_model(), Cub(birds, "test"), Cub(birds, "train"), seed=3)
    value = own.metric("keypoint_error").value
    assert next(one for one in printed["metrics"] if one["name"] == "keypoint_error")["value"] == pytest.approx(
        vars(value)
    )


def test_files_hold_the_page_the_numbers_and_the_tables(place: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cells"
    words = ("--out-dir", str(out), "--cache", str(cache), "--class", "Robin", "--pair", "tit,jay", "--photos", "3")
    done = evaluate(place, *words, "--leakage", "--interventions")
    assert done.exit_code == 0, done.output
    assert {file.name for file in out.iterdir()} == {"report.html", "bottleneck.json", "photos.csv", "concepts.csv"}
    page = (out / "report.html").read_text("utf-8")
    assert "tit and jay" in page
    assert "Corrected concepts" in page
    assert "striped tail" in page  # left out of the fit
    with (out / "photos.csv").open(encoding="utf-8") as opened:
        photos = list(csv.DictReader(opened))
    numbers = json.loads((out / "bottleneck.json").read_text("utf-8"))
    assert [one["values"] for one in numbers["interventions"]] == [
        "percentiles", "presence_means", "other photos (control)",
    ]  # fmt: skip
    assert numbers["settings"]["interventions"] is True
    right = next(one for one in numbers["metrics"] if one["name"] == "accuracy")["value"]["mean"]
    assert sum(row["correct"] == "True" for row in photos) / len(photos) == pytest.approx(right)
    with (out / "concepts.csv").open(encoding="utf-8") as opened:
        concepts = list(csv.DictReader(opened))
    assert [row["label"] for row in concepts] == [concept.label for concept in CONCEPTS]
    assert [row["place_checked"] for row in concepts] == ["True"] * 4 + ["False"]
    assert concepts[4]["place"] == "place not checked: no mask or keypoint says where this is"
    assert {row["learned"] for row in concepts} == {"not known how its targets were made"}
    assert "place checked against keypoints" in done.stdout
    assert "not known how its targets were made (all 5 concepts)" in done.stdout
    assert concepts[4]["keypoint_error"] == ""  # does not apply, and is not zero
    assert "Accuracy" in done.stdout
    assert any(cache.glob("*/*.safetensors"))
    again = evaluate(place, "--cache", str(cache), "--json")
    assert json.loads(again.stdout)["metrics"][0]["value"] == numbers["metrics"][0]["value"]


def test_what_was_checked_is_recorded_where_it_is_told_to(place: Path, tmp_path: Path) -> None:
    made = shutil.copytree(place / "made", tmp_path / "made")
    words = ("evaluate", "bottleneck", "-b", str(made), "-d", "BIRDS", "--json")
    before = (made / "config.json").read_bytes()
    assert run(place, *words).exit_code == 0
    assert (made / "config.json").read_bytes() == before
    done = run(place, *words, "--record")
    assert done.exit_code == 0, done.output
    told = {one["label"]: one["place"] for one in json.loads(done.stdout)["concepts"]}
    kept = Bottleneck.from_pretrained(made)
    assert {one: known.place for one, known in zip(kept.labels, kept.map_evidence, strict=True)} == told
    assert told["red bill"].startswith("place checked against keypoints in 4 photos of cub test: ")
    assert (made / "bottleneck.safetensors").read_bytes() == (place / "made" / "bottleneck.safetensors").read_bytes()


def test_a_plain_folder_is_measured_by_a_table_of_concepts(place: Path, tmp_path: Path) -> None:
    own = Cub(place / "birds", "test")
    for photo, name, label in zip(own, own.names, own.labels, strict=True):
        file = tmp_path / "plain" / own.classes[label] / Path(name).name
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.save(file)
    rows = [f"{name},{int(bill == 'red')},{int(bill == 'blue')}" for name, (bill, _) in CLASSES.items()]
    table = tmp_path / "shown.csv"
    table.write_text("\n".join(["name,red bill,blue bill", *rows]))
    words = ("evaluate", "bottleneck", "-b", "MADE", "-d", str(tmp_path / "plain"), "--split", "all")
    done = run(place, *words, "--table", str(table), "--json")
    assert done.exit_code == 0, done.output
    printed, known = json.loads(done.stdout), json.loads(evaluate(place, "--json").stdout)
    assert (printed["labels_of"], printed["concepts_with_labels"], printed["settings"]["table"]) == (
        "classes", 2, str(table),
    )  # fmt: skip
    assert "in the table of concepts" in printed["presence"]
    both = [[one["auroc"] for one in numbers["concepts"]] for numbers in (printed, known)]
    assert both[0][:2] == pytest.approx(both[1][:2])
    assert both[0][2:] == [None] * 3
    table.write_text(table.read_text().replace("blue bill", "blue bil"))
    bad = run(place, *words, "--table", str(table))
    assert bad.exit_code == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert "has the column 'blue bil', which is no concept of the bottleneck; near names: blue bill" in bad.stderr
    recorded = run(place, *words, "--record")
    assert recorded.exit_code == 2
    assert "plain all has no keypoints, by which maps are checked; give a set that has them" in recorded.stderr


def test_a_limit_takes_photos_of_every_class(place: Path) -> None:
    done = evaluate(place, "--max-photos", "4", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["photos"] == 4
    assert [one["photos"] for one in printed["classes"]] == [1, 1, 1, 1]


def test_a_photo_that_fails_is_reported_and_ends_with_code_1(place: Path, tmp_path: Path) -> None:
    birds = shutil.copytree(place / "birds", tmp_path / "birds")
    for name in ("parts/part_locs.txt", "bounding_boxes.txt"):
        (birds / name).unlink()
    (birds / "images" / Cub(birds, "test").names[2]).write_bytes(b"no photo")
    done = run(place, "evaluate", "bottleneck", "-b", "MADE", "-d", f"cub:{birds}", "--json")
    assert done.exit_code == 1, done.output
    printed = json.loads(done.stdout)
    assert (printed["photos"], len(printed["failures"])) == (7, 1)
    assert "conceptlens: " in done.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--class", "robbin"], "near names: robin"),
        (["--pair", "tit"], "expected two classes with a comma"),
        (["--pair", "tit,jayy"], "no class 'jayy'"),
        (["--photo", "nobody.png"], "no photo 'nobody.png'"),
        (["--pair", "tit,jay"], "--pair has no effect without a page"),
        (["--photos", "3", "--top", "2"], "--photos and --top have no effect without a page"),
        (["--split", "validation"], "no split 'validation'"),
        (["--out-dir", "page.html"], "expected a folder"),
        (["--model", "timm:resnet18", "--no-pretrained"], "was trained on timm:tf_efficientnet_lite0"),
        (["--table", "nowhere.csv"], "cannot read 'nowhere.csv'"),
        (["--top", "0"], ""),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(place: Path, words: list[str], part: str) -> None:
    done = evaluate(place, *words)
    assert done.exit_code == 2, done.output
    assert part in done.stderr
    if part:
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("conceptlens: ")]
        assert len(lines) == 1


def test_photos_of_other_classes_and_folders_that_are_none_are_refused(place: Path, tmp_path: Path) -> None:
    for name in ("wren", "robin"):
        (tmp_path / "all" / name).mkdir(parents=True)
        shutil.copy(next((place / "birds" / "images").glob("*/*.png")), tmp_path / "all" / name / "a.png")
    done = run(place, "evaluate", "bottleneck", "-b", "MADE", "-d", f"folder:{tmp_path / 'all'}", "--split", "all")
    assert done.exit_code == 2, done.output
    assert "class 'wren', which this bottleneck does not know" in done.stderr
    nothing = run(place, "evaluate", "bottleneck", "-b", str(tmp_path), "-d", "BIRDS")
    assert nothing.exit_code == 2
    assert "holds no bottleneck" in nothing.stderr


# --- edit


def test_an_edit_is_shown_and_not_kept(place: Path) -> None:
    before = {file.name: file.read_bytes() for file in (place / "made").iterdir()}
    done = edit(place, "--set", "red bill=9", "--for", "robin", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    made = Bottleneck.from_pretrained(place / "made")
    table = read_table(made, cl.load_model(), Cub(place / "birds", "train"))
    found = effect(made, with_edits(made, [set_to(made, "red bill", 9, "robin")]), table.activations, table.classes)
    assert found.changed > 0
    assert (printed["before"], printed["after"], printed["changed"]) == (found.before, found.after, found.changed)
    assert [one["name"] for one in printed["classes"]] == list(CLASSES)
    assert printed["classes"] == [vars(one) for one in found.classes]
    assert printed["edits"] == [{"concept": "red bill", "class": "robin", "low": 9.0, "high": 9.0}]
    assert printed["out"] is None
    assert {file.name: file.read_bytes() for file in (place / "made").iterdir()} == before


def test_an_edit_is_kept_where_it_is_told_after_it_was_shown(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "edited"
    words = ("--remove", "Red  Bill", "--clamp", "blue bill=..0.1", "--weight", "jay,shiny=-2.5", "--note", "why")
    done = edit(place, *words, "--out-dir", str(out))
    assert done.exit_code == 0, done.output
    made, kept = Bottleneck.from_pretrained(place / "made"), Bottleneck.from_pretrained(out)
    assert [(one.concept, one.target, one.note) for one in kept.edits] == [(0, None, "why"), (1, None, "why")]
    assert kept.edits[0] == remove(made, "red bill", note="why")
    assert (kept.edits[1].low, kept.edits[1].high) == (-float("inf"), 0.1)
    assert float(kept.head.weight[1, 4]) == -2.5
    assert kept.training_record["weights_edited"][0]["note"] == "why"
    assert "red bill for all classes: set to" in done.stdout
    assert "blue bill for all classes: kept at 0.1 or below" in done.stdout
    assert re.search(r"weight of shiny for jay: \S+ becomes -2.5", done.stdout)
    assert "8 images: accuracy" in done.stdout
    assert "bottleneck: " in done.stderr
    undone = tmp_path / "undone"
    back = run(place, "edit", str(out), "-d", "BIRDS", "--restore", "red bill", "--out-dir", str(undone))
    assert back.exit_code == 0, back.output
    assert "taken back: red bill" in back.stdout
    assert [one.concept for one in Bottleneck.from_pretrained(undone).edits] == [1]
    assert torch.equal(Bottleneck.from_pretrained(undone).head.weight, kept.head.weight)


def test_nothing_is_written_over_unless_it_is_said(place: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(place / "made", tmp_path / "made")
    words = ("edit", str(copied), "-d", "BIRDS", "--set", "shiny=0", "--out-dir", str(copied))
    done = run(place, *words)
    assert done.exit_code == 2
    assert "is the bottleneck that is edited" in done.stderr
    other = run(place, "edit", "MADE", "-d", "BIRDS", "--set", "shiny=0", "--out-dir", str(copied))
    assert other.exit_code == 2
    assert "not empty" in other.stderr
    assert Bottleneck.from_pretrained(copied).edits == ()
    again = run(place, *words, "--overwrite")
    assert again.exit_code == 0, again.output
    assert len(Bottleneck.from_pretrained(copied).edits) == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "nothing is to be changed"),
        (["--set", "red bil=1"], "near names: red bill"),
        (["--set", "red bill"], "expected CONCEPT=NUMBER"),
        (["--set", "red bill=nan"], "expected CONCEPT=NUMBER"),
        (["--clamp", "red bill=1"], "expected CONCEPT=LOW..HIGH"),
        (["--clamp", "red bill=2..1"], "expected CONCEPT=LOW..HIGH"),
        (["--clamp", "red bill=.."], "expected CONCEPT=LOW..HIGH"),
        (["--remove", "red bill", "--set", "RED bill=1"], "more than once"),
        (["--weight", "jay=1"], "expected CLASS,CONCEPT=NUMBER"),
        (["--weight", "jax,shiny=1"], "no class 'jax'"),
        (["--weight", "jay,shine=1"], "no concept 'shine'"),
        (["--weight", "jay,shiny=1", "--for", "jay"], "--for jay is given without"),
        (["--remove", "shiny", "--for", "crow"], "no class 'crow'"),
        (["--remove", "shiny", "--overwrite"], "without --out-dir"),
        (["--restore", "gold"], "no concept 'gold'"),
    ],
)
def test_an_edit_that_means_nothing_is_refused(place: Path, words: list[str], part: str) -> None:
    done = edit(place, *words)
    assert done.exit_code == 2, done.output
    assert part in done.stderr
    assert done.stdout == ""


def test_names_with_commas_are_found(place: Path, tmp_path: Path) -> None:
    made = Bottleneck.from_pretrained(place / "made")
    made.classes = ("robin, red", "jay", "finch", "tit")
    made.save_pretrained(tmp_path / "commas")
    birds = shutil.copytree(place / "birds", tmp_path / "birds")
    listed = birds / "classes.txt"
    listed.write_text(listed.read_text().replace("001.robin", "001.robin, red"))
    words = ("-d", f"cub:{birds}", "--json")
    done = run(place, "edit", str(tmp_path / "commas"), *words, "--weight", "robin, red,red bill=0")
    assert done.exit_code == 0, done.output
    folders = ("-b", str(tmp_path / "commas"), "--out-dir", str(tmp_path / "out"))
    shown = run(place, "evaluate", "bottleneck", *folders, *words, "--pair", "tit,robin, red")
    assert shown.exit_code == 0, shown.output
