"""Any rule and any target as a method: what each explains, and which concepts it has an answer for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.localization.cam_methods import TARGETS, cam_method
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import MethodContext, build_methods, find_kind, method_names
from conceptlens.localization.summary import summarise
from planted import LABELS
from planted_words import OnlyColours, planted_model

MODEL = planted_model()
DATA = OnlyColours(6)
PHOTO = DATA[0].photo
CONTEXT = MethodContext(MODEL, DATA.concepts)
ASKED = DATA.concepts[:3]


@pytest.fixture
def known(tmp_path: Path) -> cl.Backbone:
    """The planted model, of whose classes all but the last are known to show their own colour."""
    file = tmp_path / "colours.tsv"
    lines = [f"{label}\t\t{label}:colour\t\t" for label in LABELS[:-1]]
    file.write_text("\n".join(["class\tkinds\talways\toften\tsometimes", *lines]) + "\n")
    return dataclasses.replace(MODEL, knowledge=cl.read_knowledge(file))


def test_a_concept_is_explained_by_its_own_text() -> None:
    for rule in ("grad_cam", "layer_cam", "score_cam"):
        found = cam_method(MODEL, "concept", rule)(PHOTO, ASKED)
        expected = cl.cam(MODEL.observe(PHOTO), [cl.Concept(f"{c.label}:{c.type}") for c in ASKED], rule)
        assert torch.equal(found.maps, expected.maps)
        assert torch.equal(found.scores, expected.scores)
        assert found.labels == (tuple(c.label for c in ASKED),)
        assert found.source.method == rule
        assert found.source.settings["target"] == "concept"


def test_the_predicted_class_and_the_contrast_give_one_map_for_all_concepts() -> None:
    seen = MODEL.observe(PHOTO)
    scores = []
    for target, asked in (("predicted", cl.Logit()), ("contrast", cl.Contrast())):
        found, expected = cam_method(MODEL, target, "layer_cam")(PHOTO, ASKED), cl.cam(seen, asked, "layer_cam")
        assert torch.equal(found.maps, expected.maps.expand(-1, 3, -1, -1))
        assert torch.equal(found.scores, expected.scores.expand(-1, 3))
        scores.append(float(found.scores[0, 0]))
    assert scores[0] > scores[1]


def test_a_concept_that_no_class_shows_has_no_map_of_its_own(known: cl.Backbone) -> None:
    found = cam_method(known, "class")(PHOTO, DATA.concepts)
    matched = found.source.settings["matched"]
    assert matched == tuple(concept.label != LABELS[-1] for concept in DATA.concepts)
    shown = [i for i, yes in enumerate(matched) if yes]
    asked = [cl.Concept(f"{DATA.concepts[i].label}:colour", by="classes") for i in shown]
    assert torch.equal(found.maps[:, shown], cl.cam(known.observe(PHOTO), asked).maps)
    hidden = matched.index(False)
    assert not found.maps[:, hidden].any()
    alone = cam_method(known, "class")(PHOTO, DATA.concepts[hidden : hidden + 1])
    assert alone.maps.shape == (1, 1, *found.maps.shape[2:])
    assert not alone.maps.any()
    rows = [row for part in evaluate_localization(DATA, {"by": cam_method(known, "class")}) for row in part]  # pyright: ignore
    own = {row.concept: row.has_own_map for row in rows}
    assert own == {name: name != LABELS[-1] for name in own}


def test_targets_and_rules_of_ones_own() -> None:
    seen = MODEL.observe(PHOTO)
    finer = cl.Contrast(nearest=1, gamma=0.3)
    assert torch.equal(cam_method(MODEL, finer)(PHOTO, ASKED).maps[:, 2:], cl.cam(seen, finer).maps)
    by_label = cam_method(MODEL, lambda concept: cl.Logit(concept.label), "hires_cam")
    expected = cl.cam(seen, [cl.Logit(c.label) for c in ASKED], "hires_cam").maps
    assert torch.equal(by_label(PHOTO, ASKED).maps, expected)

    def loudest(gradient: Tensor, feature: Tensor) -> Tensor:
        return gradient.abs().amax((-2, -1), keepdim=True)

    mine = cl.Rule("loudest", loudest, "mine")
    assert torch.equal(cam_method(MODEL, "predicted", mine)(PHOTO, ASKED[:1]).maps, cl.cam(seen, rule=mine).maps)


def test_a_rule_in_the_table_is_a_method_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_kind("mean:concept") is None
    mean = cl.Rule("mean", lambda gradient, feature: gradient.mean((-2, -1), keepdim=True), "mine", title="Mean")
    monkeypatch.setitem(cl.RULES, "mean", mean)
    built = build_methods(["mean:concept", "mean"], CONTEXT)
    assert list(built) == ["mean:concept", "mean"]
    assert torch.equal(built["mean:concept"](PHOTO, ASKED).maps, cam_method(MODEL, "concept")(PHOTO, ASKED).maps)
    found = summarise((r for part in evaluate_localization(DATA, built) for r in part), None)  # pyright: ignore
    assert [line.title for line in found.methods] == ["Mean, concept", "Mean"]


def test_names_say_what_goes_without_saying_once() -> None:
    assert method_names(["layer_cam:predicted", " layer_cam", "random:predicted", "random"]) == (
        "layer_cam",
        "random:predicted",
        "random",
    )
    weights, noise = find_kind("random:predicted"), find_kind("random")
    assert weights is not None
    assert noise is not None
    assert (weights.title, noise.title) == ("random weights", "random")
    names = [f"{rule}:{target}" for rule in cl.RULES for target in TARGETS]
    assert len({kind.title for name in names if (kind := find_kind(name))}) == len(names)


@pytest.mark.parametrize("rule", list(cl.RULES))
def test_a_map_does_not_depend_on_what_else_is_asked(rule: str) -> None:
    method = cam_method(MODEL, "concept", rule)
    together = method(PHOTO, DATA.concepts)
    assert torch.allclose(method(PHOTO, DATA.concepts[3:4]).maps[0, 0], together.maps[0, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("target", "rule", "said"),
    [
        ("logit", "grad_cam", "no target 'logit'; targets: predicted, class, concept, contrast"),
        (3, "grad_cam", "the target is given as int; expected one of predicted, class"),
        ("concept", "layercam", "no rule 'layercam'; rules: grad_cam"),
        ("concept", 3, "a int was given as the rule"),
        ("class", "grad_cam", "nothing is known of the classes of nameless"),
        ("concept", "grad_cam", "nameless has no text encoder"),
    ],
)
def test_refusals_come_before_the_first_photo(target: object, rule: object, said: str) -> None:
    nameless = dataclasses.replace(MODEL, name="nameless", class_names=None, text=None)
    with pytest.raises(cl.InputError, match=said):
        cam_method(nameless, target, rule)  # pyright: ignore
