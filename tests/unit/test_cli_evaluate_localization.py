"""`conceptlens evaluate localization` as a person or a program meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli.evaluate import DEFAULT_METHODS, METHODS_HELP, app
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.localization.cam_methods import TARGETS
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.localization_folder import evaluate_into, evaluated, run_settings
from conceptlens.localization.localization_task import LocalizationTask
from conceptlens.localization.methods import METHODS, MethodContext, build_methods
from conceptlens.metrics import MAP_MASK_METRICS

pytestmark = pytest.mark.wide

FEW = ("--data", "drawn:3", "--methods", "ce_fam,grad_cam,random")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["localization", *arguments])


def test_json_has_the_documented_fields_and_nothing_else_on_stdout() -> None:
    done = run(*FEW, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["schema"] == "conceptlens.evaluate-localization/2"
    assert (answer["data"], answer["model"], answer["photos"]) == ("drawn val", "timm:tf_efficientnet_lite0", 3)
    assert answer["groups"] == ["macro", "colour", "kind", "all"]
    assert [m["name"] for m in answer["metrics"]] == list(MAP_MASK_METRICS)
    names = [(m["name"], m["oracle"]) for m in answer["methods"]]
    assert names == [("ce_fam", False), ("grad_cam", False), ("random", False), ("random (oracle)", True)]
    first, grad_cam = answer["methods"][:2]
    for part in ("scores", "wrong_scores", "minus_wrong", "minus_reference"):
        value = first[part]["macro"]["ranked_area_corrected"]
        assert set(value) == {"mean", "low", "high", "count", "images"}
    assert grad_cam["minus_reference"] == {}
    assert answer["reference"] == "grad_cam"
    assert answer["settings"]["resolution"] == 112
    assert answer["failures"] == []


def test_files_hold_every_row_the_numbers_and_the_page(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = run(*FEW, "--max-photos", "2", "--resolution", "0", "--compare-with", "random", "--out-dir", str(out))
    assert done.exit_code == 0, done.output
    files = [f"localization.{s}" for s in ("html", "json", "parquet")]
    assert sorted(p.name for p in out.iterdir()) == [*files, "parts", "run.json"]
    rows = parquet.read_table(out / "localization.parquet").to_pylist()
    numbers = json.loads((out / "localization.json").read_text())
    assert len({row["photo"] for row in rows}) == numbers["photos"] == 2
    assert len(rows) == 4 * numbers["pairs"]["all"]
    assert numbers["reference"] == "random"
    assert "<script" not in (out / "localization.html").read_text()
    assert "CE-FAM" in done.stdout
    assert "(oracle)" in done.stdout
    assert "2 photos" in done.stderr
    assert "2 photos are few: intervals of fewer than 8" in " ".join(done.stdout.split())
    assert "2 photos are few: intervals of fewer than 8" in (out / "localization.html").read_text()


def test_a_run_is_resumed_with_its_own_settings_alone_and_a_mended_photo_is_tried_again(tmp_path: Path) -> None:
    data, out = f"masks:{masks(tmp_path / 'set', True)}", tmp_path / "out"
    words = ("--data", data, "--methods", "centre,random", "--out-dir", str(out))
    assert run(*words).exit_code == 1
    again = run(*words)
    assert again.exit_code == 2
    assert "add --resume to go on with the run that it holds" in again.stderr
    other = run(*words, "--resume", "--seed", "3", "--resolution", "0")
    assert other.exit_code == 2
    assert "(resolution was 112 and is None; seed was 0 and is 3)" in other.stderr
    assert json.loads(run(*words, "--resume", "--json").stdout)["failures"][0]["image"] == "b"
    masks(tmp_path / "set", False)
    mended = run(*words, "--retry-failed", "--json")
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.stdout)["photos"] == 2
    assert len(list((out / "parts").iterdir())) == 2


def test_rows_come_back_from_their_parts_as_they_were(tmp_path: Path) -> None:
    data, context = DrawnSet(3), MethodContext(cl.load_model(crop_mode="squash"), DrawnSet(3).concepts)
    task = LocalizationTask(data, build_methods(["grad_cam", "random"], context), 0.01, 32, 0, 3)
    *_, last = evaluate_into(tmp_path, task, run_settings(task, context, "", {}))
    expected = [row for rows in evaluate_localization(data, task.methods, 0.01, 32) for row in rows]
    assert (last.photos, last.failures) == (3, 0)
    assert evaluated(tmp_path) == (expected, [])
    assert len(expected) > 9


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again = (json.loads(run(*FEW, "--max-photos", "2", "--json").stdout)["methods"] for _ in range(2))
    assert first == again


def test_the_model_is_loaded_as_the_options_say() -> None:
    done = run("--data", "drawn:1", "--methods", "centre", "--no-pretrained", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["settings"]["weights"] == "random"


@pytest.mark.slow
def test_neuron_labels_take_the_train_split_or_a_folder(tmp_path: Path) -> None:
    for i, one in enumerate(DrawnSet(12, "train", 64)):
        one.photo.save(tmp_path / f"{i}.png")
    given = ("--data", "drawn:12", "--max-photos", "1", "--methods", "clip_dissect", "--json")
    own = json.loads(run(*given).stdout)
    assert own["settings"]["probe_photos"] == "the set's own, of its train split"
    other = run(*given, "--probe", str(tmp_path))
    assert other.exit_code == 0, other.output
    assert json.loads(other.stdout)["settings"]["probe_photos"] == str(tmp_path)


def masks(folder: Path, broken: bool) -> Path:
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:20] = 1
    for part, name in (("images", "a"), ("images", "b"), ("masks", "a"), ("masks", "b")):
        place = folder / part / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if part == "masks" else np.stack([pixels * 9] * 3, -1)).save(place)
    (folder / "labels.txt").write_text("sky\ngrass\n")
    if broken:
        (folder / "images" / "b.png").write_bytes((folder / "images" / "a.png").read_bytes()[:60])
    return folder


def test_a_photo_that_fails_is_reported_and_ends_with_code_1(tmp_path: Path) -> None:
    done = run("--data", f"masks:{masks(tmp_path / 'set', True)}", "--methods", "centre", "--json")
    assert done.exit_code == 1, done.output
    answer = json.loads(done.stdout)
    assert answer["photos"] == 1
    assert answer["reference"] is None
    (failure,) = answer["failures"]
    assert "b.png" in failure["error"]
    assert "b.png" in done.stderr


REFUSED = {
    "unknown set": (["--data", "cocoo"], "coco_panoptic"),
    "no folder": (["--data", "voc:nowhere"], "nowhere"),
    "unknown split": (["--data", "drawn:3", "--split", "test"], "val"),
    "unknown method": ([*FEW[:2], "--methods", "ce_fan"], "ce_fam"),
    "unknown target": ([*FEW[:2], "--methods", "layer_cam:logit"], "targets predicted, class, concept, contrast"),
    "unknown rule": ([*FEW[:2], "--methods", "layercam:concept"], "with the rules grad_cam, grad_cam++"),
    "compared with none of them": ([*FEW, "--compare-with", "www"], "--methods"),
    "unknown model": ([*FEW, "--model", "timm:resnet5"], "resnet50"),
    "no branch": ([*FEW, "--branch", "no-branch"], "no-branch"),
    "share out of range": ([*FEW, "--min-area", "1.5"], "below 1"),
    "odd resolution": ([*FEW, "--resolution", "-3"], "2 to 2048 pixels"),
    "huge resolution": ([*FEW, "--resolution", "100000"], "2 to 2048 pixels"),
    "missing weights": ([*FEW, "--weights", "no.safetensors"], "no.safetensors"),
    "missing labels": ([*FEW, "--class-names", "no.txt"], "no.txt"),
    "out is a file": ([*FEW, "--out-dir", "page.html"], "expected a folder"),
    "no probe": (["--data", "masks:SET", "--methods", "www"], "--probe"),
    "few photos": (["--data", "drawn:2", "--methods", "www"], "at least 10"),
    "empty probe": (["--data", "drawn:2", "--methods", "www", "--probe", "nowhere"], "nowhere"),
    "branch for none": (["--data", "drawn:2", "--methods", "centre", "--branch", "b"], "--branch has no effect"),
    "probe for none": ([*FEW, "--probe", "nowhere"], "--probe has no effect"),
    "resumed nowhere": ([*FEW, "--resume"], "--resume has no effect without --out-dir DIR"),
    "workers for none": ([*FEW, "--workers", "2"], "--workers has no effect without --engine"),
    "odd device": ([*FEW, "--device", "gpu"], "gpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_one_sentence_and_code_2(case: str, tmp_path: Path) -> None:
    given, part = REFUSED[case]
    folder = str(masks(tmp_path / "set", False))
    done = run(*[word.replace("SET", folder) for word in given])
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("conceptlens: ")]
    assert len(lines) == 1
    assert part in lines[0]
    assert done.stdout == ""


def test_the_tables_of_command_and_page_are_those_of_the_code() -> None:
    default = [*METHODS]
    default.remove("fine")  # it takes seconds a photo
    default.remove("coarse")  # nearly as competing
    default.insert(default.index("clip_dissect"), "grad_cam")
    assert DEFAULT_METHODS.split(", ") == default
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "evaluate.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(METHODS)
    assert re.findall(r"^\| `RULE:(\w+)`", page, re.M) == list(TARGETS)
    own, rules, targets = re.split(r"; or RULE:TARGET, .*? with the rules | and the targets ", METHODS_HELP)
    assert own.split(". ")[1].split(", ") == list(METHODS)
    assert rules.split(", ") == list(cl.RULES)
    assert re.findall(r"(\w+)(?: \([^)]*\))?[,.]", targets) == list(TARGETS)


def test_every_rule_and_target_is_a_method() -> None:
    names = "layer_cam:concept,score_cam_fast:class,hires_cam:contrast,grad_cam:predicted"
    done = run("--data", "drawn:1", "--methods", names, "--compare-with", "grad_cam:predicted", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [(m["name"], m["title"]) for m in answer["methods"]] == [
        ("layer_cam:concept", "LayerCAM, concept"),
        ("score_cam_fast:class", "Score-CAM, predicted, by classes"),
        ("hires_cam:contrast", "HiResCAM, contrast"),
        ("grad_cam", "Grad-CAM"),
    ]
    assert answer["reference"] == "grad_cam"


def test_help_loads_no_torch() -> None:
    code = "import sys, conceptlens.cli.evaluate; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
