"""Presence: its formula, which concepts are listed, and what is said where nothing is known of the classes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import conceptlens as cl
from conceptlens.concepts.vocabulary import ConceptName, base_rate
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.presence import (
    MIN_PRESENCE,
    RARITY_WEIGHT,
    USUAL_BASE_RATE,
    WITH_Z_SCORES,
    WITHOUT_Z_SCORES,
    Presence,
    presence,
    present_concepts,
)

NAMES = [ConceptName("tabby cat"), ConceptName("whiskers", "part"), ConceptName("red", "colour"), ConceptName("zyx")]


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.load_model()


@pytest.mark.parametrize("with_z", [True, False])
def test_presence_is_the_logistic_of_evidence_knowledge_and_base_rate(model: cl.Backbone, with_z: bool) -> None:
    known = model.class_concepts
    assert known is not None
    logits = torch.zeros(2, 1000)
    logits[0, 281], logits[1, 817] = 12.0, 3.0
    z_scores = torch.tensor([[2.0, -9.0, 0.5, 20.0], [0.0, 1.0, 2.0, 3.0]]) if with_z else None
    found = presence(NAMES, known, logits, z_scores)
    weights = WITH_Z_SCORES if with_z else WITHOUT_Z_SCORES
    labels = [concept.label for concept in known.concepts]
    for i in range(2):
        shares = logits[i].softmax(0)
        for q, concept in enumerate(NAMES):
            column = labels.index(concept.label) if concept.label in labels else None
            implied = 0.005 if column is None else float((shares * known.rates[:, column]).sum())
            odds = math.log(implied / (1 - implied)) if implied < 1 - 1e-4 else math.log((1 - 1e-4) / 1e-4)
            total = weights.implied * odds + weights.offsets[concept.type]
            total += weights.base_rate * math.log(base_rate(concept) or USUAL_BASE_RATE)
            if z_scores is not None:
                total += weights.z_score * min(max(float(z_scores[i, q]), -3), 8)
            assert float(found.probability[i, q]) == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-4)
            assert float(found.implied[i, q]) == pytest.approx(implied, abs=1e-4)


LISTED = [
    ConceptName("animal"),
    ConceptName("cat"),
    ConceptName("ear", "part"),
    ConceptName("pointed ear", "part"),
    ConceptName("red", "colour"),
    ConceptName("blue", "colour"),
    ConceptName("green", "colour"),
    ConceptName("wheel", "part"),
]
BROADER = {"cat": frozenset({"animal"})}


def listed(probabilities: list[float], top: int = 8, vectors: torch.Tensor | None = None) -> list[str]:
    rates = torch.full((len(LISTED),), 0.01)
    found = Presence(torch.tensor([probabilities]), torch.zeros(1, len(LISTED)), rates, "")
    vectors = torch.eye(len(LISTED)) if vectors is None else vectors
    (row,) = present_concepts(found, LISTED, BROADER, vectors, top)
    return [LISTED[index].label for index in row]


def test_what_is_listed_is_likely_specific_and_of_several_types() -> None:
    every = [0.99, 0.93, 0.95, 0.6, 0.9, 0.8, 0.7, 0.2]
    assert listed(every) == ["cat", "pointed ear", "red", "blue"]  # the narrower stands where the broader stood
    assert listed(every, top=2) == ["cat", "pointed ear"]
    assert listed([0.99, 0.8, *every[2:]])[0] == "animal"  # a narrower kind is listed where it is nearly sure
    assert listed([0.9, 0.3, 0.9, 0.2, 0.1, 0.1, 0.1, 0.4]) == ["animal", "ear"]
    assert listed([0.4] * 8) == []


def test_a_synonym_of_a_concept_before_it_is_left_out() -> None:
    vectors = torch.eye(8)
    vectors[7] = vectors[4] + 0.01 * vectors[7]
    assert listed([0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.8], vectors=vectors) == ["red"]


def test_of_two_equally_likely_concepts_the_rarer_one_comes_first() -> None:
    rates = torch.tensor([0.5, 0.01])
    found = Presence(torch.tensor([[0.8, 0.8]]), torch.zeros(1, 2), rates, "")
    order = found.order()[0]
    assert float(order[1] - order[0]) == pytest.approx(RARITY_WEIGHT * math.log(50), abs=1e-4)


def test_a_real_photo_is_named_rightly(model: cl.Backbone, tmp_path: Path) -> None:
    from PIL import Image
    from skimage import data

    named = cl.explain(model.observe([data.chelsea(), data.coffee()]))
    assert named.presence is not None
    assert {"pointed ear", "cat"} <= set(named.labels[0])
    assert not {"towel", "washing line", "animal", "mammal"} & set(named.labels[0])
    assert "espresso" in named.labels[1]
    photo = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()).save(photo)
    (result,) = explain_photos(model, [photo], ExplainOptions())
    assert not isinstance(result, cl.InputError)
    assert float(result.concepts.presence.min()) >= MIN_PRESENCE  # pyright: ignore


def test_named_concepts_have_a_presence_too(model: cl.Backbone) -> None:
    from skimage import data

    named = cl.explain(model.observe(data.chelsea()), "eye, wheel, whiskers")
    assert named.presence is not None
    assert named.labels[0] == ("eye", "wheel", "whiskers")
    assert float(named.presence[0, 0]) > 0.9 > 0.1 > float(named.presence[0, 1])
    table = named.to_frame()
    assert {"presence", "implied", "base_rate"} <= set(table.columns)


def test_a_model_whose_classes_nothing_is_known_of_says_so(model: cl.Backbone) -> None:
    from dataclasses import replace

    strange = replace(model, class_names=tuple(f"c{i}" for i in range(1000)))
    observation = strange.observe(torch.zeros(1, 3, 224, 224))
    with pytest.raises(cl.InputError, match=r"nothing is known of 1000 of the 1000 classes of .*, such as 'c0'"):
        cl.explain(observation)
    assert cl.explain(observation, "eye").presence is None


def test_a_photo_in_which_nothing_is_likely_says_so(
    model: cl.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from conceptlens.explainer import photo_run
    from conceptlens.explainer import presence as module
    from conceptlens.explainer.explain_json import explain_json
    from conceptlens.explainer.terminal import print_result

    for one in (module, photo_run):
        monkeypatch.setattr(one, "MIN_PRESENCE", 1.1)
    photo = tmp_path / "grey.png"
    Image.new("RGB", (64, 64), "grey").save(photo)
    (result,) = explain_photos(model, [photo], ExplainOptions())
    print_result(result)  # pyright: ignore
    assert "no concept of the vocabulary is likely in this photo" in capsys.readouterr().out
    assert explain_json([result], [])["images"][0]["concepts"] == []  # pyright: ignore
    assert cl.explain(model.observe(photo)).maps.shape[1] == 1  # a record has at least one question


@pytest.mark.slow
def test_presence_is_fitted_to_photos_with_masks(model: cl.Backbone, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from conceptlens.cli import app
    from conceptlens.explainer.calibration import ScoreCalibration

    out = tmp_path / "drawn.safetensors"
    done = CliRunner().invoke(app, ["calibrate", "--data", "drawn:30", "--split", "train", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "presence fitted on 30 photos" in done.output
    scenes = cl.open_set("drawn:30", "train")
    calibration = ScoreCalibration.load(out)
    assert calibration.presence is not None
    for concept in scenes.concepts:
        shown = sum(concept in scenes[i].with_min_area(0.01).concepts for i in range(30))
        assert calibration.presence.base_rates[concept.label] == pytest.approx((shown + 0.5) / 31, abs=1e-5)
    right, mean = 0.0, 0.0
    for i in range(10):
        scene = scenes[i].with_min_area(0.01)
        named = cl.explain(model.observe(scene.photo), scenes.concepts, calibration=calibration)
        assert named.presence is not None
        truth = torch.tensor([float(concept in scene.concepts) for concept in scenes.concepts])
        right += float((named.presence[0] * truth).sum() / truth.sum())
        mean += float(named.presence[0].mean())
    assert right > mean  # what is there is more likely than what is not


def test_without_photos_there_is_nothing_to_calibrate() -> None:
    from typer.testing import CliRunner

    from conceptlens.cli import app

    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 2
    assert "no photos are given; name photos or folders, or a data set with masks" in done.output


def test_a_table_of_ones_own_names_the_concepts_of_a_model_of_ones_own(model: cl.Backbone, tmp_path: Path) -> None:
    from dataclasses import replace

    file = tmp_path / "classes.csv"
    lines = [f'c{i},,"whiskers; rusty hinge:part",,' for i in range(1000)]
    file.write_text("class,kinds,always,often,sometimes\n" + "\n".join(lines))
    names = tuple(f"c{i}" for i in range(1000))  # those of the test above: encoded once
    own = replace(model, class_names=names, knowledge=cl.read_knowledge(file))
    named = cl.explain(own.observe(torch.zeros(1, 3, 224, 224)), "rusty hinge, whiskers")
    assert named.implied is not None
    assert named.implied[0].tolist() == pytest.approx([0.93, 0.93], abs=1e-3)


def test_the_committed_result_holds_what_the_pages_claim() -> None:
    import json

    root = Path(__file__).parents[2]
    result = json.loads((root / "docs" / "results" / "answers.json").read_text())
    page, readme = (root / "docs" / "trust.md").read_text(), (root / "README.md").read_text()
    test, ranked = result["judged"]["test"], result["coco"]["mean_average_precision"]
    row = f"| 8.0 | {test['clearly_judged']} | **{test['named_right']:.0%}** | **{test['first_right']:.0%} of"
    assert row.replace("%", " %") in page
    assert f"| presence | **{ranked['presence'][0]:.3f}**".replace("0.", ".") in page
    assert f"{test['named_right']:.0%} are in the photo".replace("%", " %") in readme
    assert test["unjudged"] == 0
    assert result["figures"]["calibration_error"] <= 0.05
