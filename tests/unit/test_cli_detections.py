"""`conceptlens explain` with a detector: table, JSON, page; and what has no effect on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skimage
import transformers
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli import app
from tiny_detectors import CLASSES, DETECTORS, SEGMENTERS

PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = str(PHOTOS / "chelsea.png"), str(PHOTOS / "coffee.png")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random detector that is sure of many things, and its processor."""
    folder = tmp_path_factory.mktemp("detector")
    model = DETECTORS["hf conditional detr"]()
    model.config.id2label = dict(enumerate(("sky", "tabby, tabby cat", "dog", "bus")))
    model.save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    transformers.ConditionalDetrImageProcessor(size=size).save_pretrained(folder)
    return f"hf:{folder}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_json_has_every_detection_above_the_threshold(detector: str) -> None:
    done = run("explain", CAT, COFFEE, "--model", detector, "--threshold", "0.3", "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    model = cl.load_model(detector)
    for image, path in zip(answer["images"], (CAT, COFFEE), strict=True):
        observation = model.observe(path)
        found = observation.detections.detected(0, 0.3)
        assert len(image["detections"]) == len(found) > 0
        assert image["threshold"] == 0.3
        assert (image["task"], image["task_assumed"]) == ("detection", False)
        assert (image["target"], image["predicted"], image["answered"]) == (None, None, None)
        for one, entry in zip(found, image["detections"], strict=True):
            assert set(entry) == {"index", "name", "short_name", "score", "logit", "box", "peak", "area"}
            width, height = observation.image_info[0].width, observation.image_info[0].height
            scaled = [value * side / 96 for value, side in zip(one.box, (width, height) * 2, strict=True)]
            assert entry["box"] == pytest.approx(scaled, abs=0.06)
            assert (entry["index"], entry["score"]) == (one.class_index, pytest.approx(one.score))
        explained = cl.cam(observation, cl.Detection(0))
        assert image["detections"][0]["logit"] == pytest.approx(float(explained.scores[0, 0]), rel=1e-4)


def test_classes_are_chosen_and_compared_at_each_box(detector: str) -> None:
    everything = json.loads(run("explain", CAT, "-m", detector, "--threshold", "0", "--json").stdout)
    name = everything["images"][0]["detections"][0]["short_name"]
    other = next(one for one in ("sky", "dog", "bus") if one != name)
    done = run("explain", CAT, "-m", detector, "--threshold", "0", "-t", name, "-a", other, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["images"][0]["detections"]
    assert {one["short_name"] for one in found} == {name}
    assert all(set(one["contrast"]) == {"against", "margin", "peak", "area"} for one in found)
    same = run("explain", CAT, "-m", detector, "--threshold", "0", "-a", name, "--json")
    compared = ["contrast" in one for one in json.loads(same.stdout)["images"][0]["detections"]]
    assert compared[0] is False, "a class is not compared with itself"


def test_table_and_page_show_the_boxes(detector: str, tmp_path: Path) -> None:
    page = tmp_path / "cat.html"
    done = run("explain", CAT, "-m", detector, "--threshold", "0.3", "-a", "sky", "-o", str(page))
    assert done.exit_code == 0, done.output
    assert "detection" in done.stdout
    assert "box in pixels" in done.stdout
    text = page.read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    (image,) = data["images"]
    assert len(image["detections"]) > 0
    for one in image["detections"]:
        left, top, right, bottom = one["box"]
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert [image["questions"][q]["kind"] for q in one["questions"]] == ["detection", "contrast"][
            : len(one["questions"])
        ]


def test_nothing_above_the_threshold_is_said(detector: str, tmp_path: Path) -> None:
    done = run("explain", CAT, "-m", detector, "--threshold", "0.999")
    assert done.exit_code == 0
    assert "nothing is detected with a score of 0.999 or more; the highest is" in " ".join(done.stdout.split())
    assert (
        json.loads(run("explain", CAT, "-m", detector, "--threshold", "1", "--json").stdout)["images"][0]["detections"]
        == []
    )
    assert run("explain", CAT, "-m", detector, "--threshold", "1", "-o", str(tmp_path / "a.html")).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--concepts", "fur"], "--concepts has no effect on a detector"),
        (["--top", "3"], "--top has no effect on a detector"),
        (["--intervals"], "--intervals has no effect on a detector"),
        (["--threshold", "2"], "the threshold is 2"),
        (["--target", "cow"], "cow"),
    ],
)
def test_what_a_detector_cannot_use_is_refused(detector: str, arguments: list[str], words: str) -> None:
    done = run("explain", CAT, "-m", detector, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_segmentation_model_is_sent_to_its_target() -> None:
    done = run("explain", CAT, "-m", "torchvision:lraspp_mobilenet_v3_large", "--no-pretrained")
    assert done.exit_code == 2
    assert "gives class scores of every pixel and no concepts" in done.stderr
    assert "cl.Region" in done.stderr


def test_a_classifier_has_no_threshold() -> None:
    done = run("explain", CAT, "--threshold", "0.3")
    assert done.exit_code == 2
    assert "--threshold has no effect on timm:tf_efficientnet_lite0" in done.stderr


@pytest.mark.parametrize(("name", "processor"), [("hf segformer", "Segformer"), ("hf mask2former", "Mask2Former")])
def test_a_segmentation_model_is_loaded_with_its_head(name: str, processor: str, tmp_path: Path) -> None:
    SEGMENTERS[name]().save_pretrained(tmp_path)
    getattr(transformers, f"{processor}ImageProcessor")(size={"height": 96, "width": 96}).save_pretrained(tmp_path)
    model = cl.load_model(f"hf:{tmp_path}")
    observation = model.observe(CAT)
    assert model.known_task == "dense"
    assert observation.pixel_scores.shape == (1, CLASSES, 24, 24)
    assert float(cl.cam(observation, cl.Region()).maps.max()) > 0


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow),
        pytest.param("lraspp_mobilenet_v3_large", marks=pytest.mark.slow),
    ],
)
def test_torchvision_models_come_by_name(name: str) -> None:
    model = cl.load_model(f"torchvision:{name}", pretrained=False)
    observation = model.observe(COFFEE)
    assert model.class_names is not None
    assert model.class_names[0] == "__background__"
    if model.known_task == "detection":
        assert observation.detections.logits.shape[2] == 91 == len(model.class_names)
        assert observation.images.shape[2:] == (320, 320)
    else:
        assert observation.pixel_scores.shape == (1, 21, 520, 520)
    named = cl.load_model(f"torchvision:{name}", pretrained=False, class_names=("none", "cup", "spoon"))
    assert named.observe(COFFEE).model.class_index("cup") == 1
