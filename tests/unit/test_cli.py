"""The command line as a person or a program meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
from PIL import Image
from typer.testing import CliRunner, Result

from conceptlens.cli import app

pytestmark = pytest.mark.wide

PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = str(PHOTOS / "chelsea.png"), str(PHOTOS / "coffee.png")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "conceptlens", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_explain_json_has_the_documented_fields_and_nothing_else_on_stdout() -> None:
    done = shell("explain", CAT, "--concepts", "cat, wheel, striped fur:texture", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "conceptlens.explain/3"
    assert answer["failures"] == []
    (image,) = answer["images"]
    assert set(image) == {
        "image", "model", "layer", "task", "task_assumed", "target", "predicted", "answered", "method", "branch",
        "regions", "contribution_measure", "margin", "random_level", "concepts",
    }  # fmt: skip
    margin = image["margin"]
    assert set(margin) == {"value", "named", "discovered", "unnamed", "unplaced", "residual", "over", "unit"}
    assert margin["value"] == pytest.approx(margin["named"] + margin["unnamed"] + margin["residual"], rel=1e-5)
    assert margin["named"] == pytest.approx(sum(c["contribution"] for c in image["concepts"]), rel=1e-5)
    assert (margin["discovered"], margin["unplaced"], margin["residual"]) == (0, 0, 0)
    assert (image["method"], image["branch"], image["regions"]) == ("ce_fam with competing regions", None, "competing")
    assert image["image"] == CAT
    assert image["model"] == "timm:tf_efficientnet_lite0"
    assert image["layer"] == "bn2"
    assert set(image["target"]) == {"index", "name", "short_name", "logit", "probability"}
    assert "cat" in image["target"]["name"]
    assert [c["label"] for c in image["concepts"]] == ["cat", "wheel", "striped fur"]
    assert image["concepts"][2]["type"] == "texture"
    for concept in image["concepts"]:
        assert set(concept) == {
            "label", "type", "known", "score", "presence", "z_score", "implied", "base_rate", "contribution",
            "contribution_range", "place_contrast", "place_vague", "peak", "area",
        }  # fmt: skip
        assert all(0 <= share <= 1 for share in (*concept["peak"], concept["area"]))
    cat, wheel = image["concepts"][:2]
    assert cat["z_score"] > 4 > wheel["z_score"]
    assert cat["presence"] > 0.9 > 0.2 > wheel["presence"]


def test_several_photos_an_against_and_a_folder_of_results(tmp_path: Path) -> None:
    done = run("explain", CAT, COFFEE, "--against", "tabby", "--top", "3", "--out-dir", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["explain.json", "report.html"]
    numbers = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [i["against"]["name"] for i in numbers["images"]] == ["tabby, tabby cat"] * 2
    assert "answered with" not in done.output
    assert all(len(i["concepts"]) == 3 for i in numbers["images"])


def test_photos_of_another_class_are_counted_at_the_end() -> None:
    done = run("contrast", CAT, COFFEE, "--target", "tabby", "--against", "tiger cat")
    assert done.exit_code == 0, done.output
    assert "neither of the two\n" in done.stdout
    assert done.stderr.startswith("1 of 2 photos is answered with neither of the two\n2 photos explained")


def test_contrast_json() -> None:
    done = run("contrast", CAT, "--target", "tiger cat", "--against", "tabby", "--gamma", "0.8", "--json")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.stdout)["images"]
    assert image["gamma"] == 0.8
    assert [r["name"] for r in image["references"]] == ["tabby, tabby cat"]
    expected = image["target"]["logit"] - 0.8 * image["references"][0]["logit"]
    assert image["margin"] == pytest.approx(expected, rel=1e-4)


def test_a_bad_file_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(Path(CAT).read_bytes()[:5000])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.open(CAT).save(tmp_path / "good.png")
    done = run("explain", str(tmp_path), "--concepts", "cat", "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert [Path(i["image"]).name for i in answer["images"]] == ["good.png"]
    assert [Path(f["image"]).name for f in answer["failures"]] == ["broken.jpg", "empty.png"]


NO_PHOTO = "no-such-photo.jpg"
REFUSED = {
    "missing file": (["explain", NO_PHOTO], NO_PHOTO),
    "unknown class": (["explain", CAT, "--target", "tigr cat"], "tiger cat"),
    "class index": (["explain", CAT, "--target", "1000"], "0 to 999"),
    "unknown model": (["explain", CAT, "--model", "timm:resnet5"], "resnet50"),
    "no source": (["explain", CAT, "--model", "resnet50"], "timm"),
    "unknown layer": (["explain", CAT, "--layer", "bn22"], "bn2"),
    "negative class index": (["explain", CAT, "--target", "-1"], "no class -1 in"),
    "no near class": (["explain", CAT, "--target", "qqqqqqq"], "no name is near; give an index, 0 to 999"),
    "unknown rule": (["explain", CAT, "--rule", "gradcam"], "grad_cam"),
    "unknown rule without a page": (
        ["explain", CAT, "--rule", "gradcam", "--out", "numbers.json"],
        "no rule 'gradcam'",
    ),
    "no concepts": (["explain", CAT, "--concepts", " , "], "concept"),
    "unknown concept type": (["explain", CAT, "--concepts", "red:colr"], "colour"),
    "gamma nan": (["contrast", CAT, "--gamma", "nan"], "gamma is nan"),
    "gamma negative": (["contrast", CAT, "--gamma=-1"], "0 or more"),
    "against itself": (["contrast", CAT, "--target", "tabby", "--against", "tabby"], "against itself"),
    "rule without a page": (["explain", CAT, "--rule", "layer_cam", "--out", "numbers.json"], "--rule has no effect"),
    "top of named concepts": (["explain", CAT, "--concepts", "cat", "--top", "3"], "--top has no effect"),
    "nearest of named classes": (["contrast", CAT, "--against", "lynx", "--nearest", "2"], "--nearest"),
    "odd out": (["explain", CAT, "--out", "report.pdf"], ".html"),
    "unknown crop mode": (["explain", CAT, "--crop-mode", "stretch"], "squash"),
    "missing labels": (["explain", CAT, "--class-names", "no.txt"], "no.txt"),
    "a photo as labels": (["explain", CAT, "--class-names", CAT], "is not UTF-8 text"),
    "odd device": (["explain", CAT, "--device", "gpu"], "gpu"),
    "missing weights": (["explain", CAT, "--weights", "no.safetensors"], "no.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_one_sentence_and_code_2(case: str, tmp_path: Path) -> None:
    arguments, part = REFUSED[case]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "report.html")]
    done = run(*arguments, *out)
    assert done.exit_code == 2, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("conceptlens: ")]
    assert len(lines) == 1
    assert part in lines[0]
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--out", "--out-dir"])
def test_an_empty_path_is_refused(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("explain", CAT, option, "")
    assert done.exit_code == 2
    assert "the path is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


HELP = [
    "",
    "explain",
    "contrast",
    "embed",
    "analyze",
    "search",
    "models",
    "convert",
    "calibrate",
    "concepts",
    "edit",
    "fit ce-fam",
]


@pytest.mark.parametrize("command", [*HELP, "fit loc-cbm", "evaluate localization", "evaluate bottleneck"])
def test_help_in_80_columns_cuts_nothing_and_gives_flags_no_type(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = run(*command.split(), "--help").stdout
    assert "--help" in text
    assert "…" not in text
    assert "<bool>" not in text


def test_models_are_listed_with_what_they_answer() -> None:
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in run("models", "resnet50").stdout.splitlines()}
    assert lines["timm:resnet50"] == lines["torchvision:resnet50"] == "one class of many"
    assert lines["timm:resnet50_clip"] == "an embedding"
    assert lines["torchvision:fasterrcnn_resnet50_fpn"] == "objects in boxes"
    assert lines["torchvision:deeplabv3_resnet50"] == "class scores of every pixel"
    found = json.loads(run("models", "resnet50", "--json").stdout)
    assert found["tasks"]["torchvision:retinanet_resnet50_fpn"] == "detection"
    assert "resnet50" in found["models"]["timm"]
    layers = run("models", "--layers", "timm:test_vit")
    assert layers.stdout.splitlines()[0] == "timm:test_vit gives one class of many (task single_label)"
    assert json.loads(run("models", "--layers", "timm:test_vit", "--json").stdout)["task"] == "single_label"


def test_models_lists_and_finds(tmp_path: Path) -> None:
    assert "timm:tf_efficientnet_lite0" in run("models", "efficientnet_lite").stdout
    rows = json.loads(run("models", "--layers", "timm:test_vit", "--json").stdout)["layers"]
    assert [r["name"] for r in rows if r["default"]] == ["blocks.5.norm1"]
    assert not next(r for r in rows if r["name"] == "norm")["reaches_output"]


def test_calibrate_writes_a_reference_that_explain_takes(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = Image.open(CAT).convert("RGB")
    for i in range(30):
        photo.crop((i * 5, i * 3, i * 5 + 200, i * 3 + 180)).save(folder / f"{i:02}.jpg")
    (folder / "broken.jpg").write_bytes(b"no photo")
    out = tmp_path / "cats.safetensors"
    done = run("calibrate", str(folder), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "30 photos, 1 failed" in done.stdout
    done = run("explain", CAT, "--concepts", "cat", "--calibration", str(out), "--json")
    assert abs(json.loads(done.stdout)["images"][0]["concepts"][0]["z_score"]) < 4  # a cat is usual among cats


def test_help_groups_options_and_the_version_is_told() -> None:
    shown = run("explain", "-h").stdout
    for heading in ("What to explain", "Maps", "Model", "Output", "Run"):
        assert f" {heading} " in shown
    assert run("--version").stdout.startswith("conceptlens ")


def test_import_and_help_load_no_torch() -> None:
    code = "import sys, conceptlens, conceptlens.cli; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
    assert shell("--help").returncode == 0
