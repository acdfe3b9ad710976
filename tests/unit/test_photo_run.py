"""A stream of photos: bad ones are reported, the rest goes on, and little is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from torch import nn

import conceptlens as cl
from branches import PLAIN, branch_of
from conceptlens.concept_regions.competition import COARSE, compete
from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.explainer.answer_words import answered_otherwise, differences, other_answer
from conceptlens.explainer.explain_json import contrast_json, explain_json
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.terminal import print_result
from conceptlens.io.errors import Failure
from tolerance import assert_agree

pytestmark = pytest.mark.wide

PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = PHOTOS / "chelsea.png", PHOTOS / "coffee.png"


class Words:
    """A text encoder in miniature."""

    name, scale, bias, normalised = "words", 10.0, 0.0, True

    def encode_image(self, output: cl.Observation) -> torch.Tensor:
        return output.embedding

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.randn(12, generator=torch.Generator().manual_seed(len(t))) for t in texts])


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.load_model()


def test_order_is_kept_whatever_the_batch(model: cl.Backbone, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no photo")
    paths = [CAT, broken, COFFEE, tmp_path / "missing.png", CAT]
    options = ExplainOptions(concepts=None, top=3)
    for batch_size in (1, 2, 8):
        found = list(explain_photos(model, paths, options, batch_size))
        assert [isinstance(item, PhotoResult) for item in found] == [True, False, True, False, True]
        names = [item.image_info.name if isinstance(item, PhotoResult) else item.name for item in found]
        assert names == [str(path) for path in paths]
        cat, coffee = found[0], found[2]
        assert isinstance(cat, PhotoResult)
        assert isinstance(coffee, PhotoResult)
        assert "cat" in cat.target.name
        assert "espresso" in coffee.target.name
        assert cat.concepts is not None
        assert "cat" in cat.concepts.labels[0]


def test_a_photo_predicted_as_the_class_to_tell_it_from_fails_alone(model: cl.Backbone) -> None:
    options = ExplainOptions(against="tiger cat", contrast=cl.Contrast(against=("tiger cat",)), with_concepts=False)
    cat, coffee = explain_photos(model, [CAT, COFFEE], options)
    assert isinstance(cat, Failure)
    assert "is predicted as tiger cat" in cat.reason
    assert isinstance(coffee, PhotoResult)
    assert [r.prediction.name for r in coffee.references] == ["tiger cat"]


def asked(model: cl.Backbone, **options: Any) -> list[PhotoResult]:
    found = list(explain_photos(model, [CAT, COFFEE], ExplainOptions(**options)))
    assert all(isinstance(one, PhotoResult) for one in found)
    return found  # pyright: ignore[reportReturnType]


def test_a_photo_answered_with_neither_class_says_so_and_is_counted(model: cl.Backbone) -> None:
    found = asked(model, target="tabby", against="tiger cat", concepts=parse_concepts("cat"), for_page=True)
    assert [one.answered for one in found] == [True, False]  # the cat is answered with the class compared with
    assert other_answer(found[0]) == ""
    assert other_answer(found[1]) == "The model's answer is espresso (95%), neither of the two"
    assert answered_otherwise(found) == "1 of 2 photos is answered with neither of the two"
    numbers = explain_json(found, [])["images"]
    assert [one["answered"] for one in numbers] == [True, False]
    assert [one["predicted"]["short_name"] for one in numbers] == ["tiger cat", "espresso"]
    assert numbers[0]["target"]["probability"] < numbers[0]["against"]["probability"] == pytest.approx(0.393, abs=0.01)
    page = page_content(found)
    assert page["answered_otherwise"] == answered_otherwise(found)
    assert [one["other_answer"] for one in page["images"]] == ["", other_answer(found[1])]
    assert page["images"][1]["compared"] == [numbers[1]["against"]]


def test_what_photos_of_two_classes_usually_show_is_said(
    model: cl.Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    (one, *_) = asked(model, target="espresso", against="cup", concepts=parse_concepts("cat"), for_page=True)
    entry = explain_json([one], [])["images"][0]
    assert set(entry["differs_by"]) == {"target", "against"}
    assert "coffee" in entry["differs_by"]["target"]
    assert "tea" in entry["differs_by"]["against"]
    said = differences(one)
    assert said.startswith("Photos of espresso, not of cup, usually show: coffee, ")
    assert "; the other way round: tea, " in said
    assert page_content([one])["images"][0]["differences"] == said
    print_result(one)
    assert said in " ".join(capsys.readouterr().out.split())
    turned = replace(one, differs_by=((), one.differs_by[0]))  # pyright: ignore[reportOptionalSubscript]
    assert differences(turned).startswith("Photos of cup, not of espresso, usually show: coffee, ")
    assert differences(turned).endswith("the other way round: nothing known")
    alike = "Photos of espresso and of cup: nothing is known to tell them apart"
    assert differences(replace(one, differs_by=((), ()))) == alike
    (alone, *_) = asked(model, concepts=parse_concepts("cat"))
    assert alone.differs_by is None
    assert "differs_by" not in explain_json([alone], [])["images"][0]


def test_nothing_is_said_of_classes_without_knowledge(model: cl.Backbone) -> None:
    names = model.class_names or ()
    unknown = replace(model, class_names=[*names[:-1], "c999"])
    (one, *_) = asked(unknown, target="espresso", against="c999", concepts=parse_concepts("cat"))
    assert (one.differs_by, differences(one)) == (None, "")
    assert explain_json([one], [])["images"][0]["differs_by"] is None


def test_a_class_that_is_not_the_answer_is_explained_with_a_word_about_it(model: cl.Backbone) -> None:
    found = asked(model, target="tiger cat", concepts=parse_concepts("cat"), for_page=True)
    assert [one.answered for one in found] == [True, False]  # the classes of the page's contrast were not asked for
    assert other_answer(found[1]) == "The model's answer is espresso (95%), not tiger cat"
    assert answered_otherwise(found) == "1 of 2 photos is answered with another class than tiger cat"
    assert all(one.answered for one in asked(model, concepts=parse_concepts("cat")))


def test_a_contrast_counts_every_class_it_compares_with(model: cl.Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    named = cl.Contrast("tabby", ("lynx", "tiger cat"))
    found = asked(model, target="tabby", contrast=named, with_concepts=False)
    assert [one["answered"] for one in contrast_json(found, [])["images"]] == [True, False]
    assert other_answer(found[1]).endswith(", none of the 3 compared")
    print_result(found[1])
    printed = " ".join(capsys.readouterr().out.split())
    assert "tabby: <0.1% (logit -0.25) against lynx: <0.1% (logit" in printed
    assert other_answer(found[1]) in printed
    assert all(one.answered for one in asked(model, with_concepts=False))  # the answer against its nearest classes


@pytest.mark.parametrize(("target", "none"), [("tiger cat", True), ("tabby", False)])
def test_what_a_contrast_was_chosen_by_is_told_everywhere(
    target: str, none: bool, model: cl.Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ExplainOptions(target, choose=True, with_concepts=False, for_page=True)
    found = next(explain_photos(model, [CAT], options))
    assert isinstance(found, PhotoResult)
    (told,) = contrast_json([found], [])["images"]
    choice, (shown,) = told["choice"], page_content([found])["images"]
    assert [one["gamma"] for one in choice["candidates"]] == [0, 0.3, 0.6, 1, 0.6, 1]
    assert [one["by"] for one in choice["candidates"]] == [None, "rank", "rank", "rank", "weight", "weight"]
    (taken,) = [one for one in choice["candidates"] if one["taken"]]
    assert taken["relative_drop"] == choice["relative_drop"]
    print_result(found)
    printed = capsys.readouterr().out
    alone, kinds = f"{choice['relative_drop_of_class']:.2f}", [one["kind"] for one in shown["questions"]]
    assert alone in printed
    assert alone in shown["choice"]
    assert found.none_chosen == none == (told["gamma"] == 0)
    if none:
        assert kinds == ["class"]
        assert shown["contrast"] is None
        assert shown["compared"] == []
        sentence = "o contrast has a relative drop more than 0.02 larger on cells as active"
        assert sentence in printed
        assert sentence in shown["choice"]
        assert "against" not in printed
    else:
        assert kinds == ["class", "contrast"]
        against = found.references[0].prediction.short_name
        start = f"The contrast with {against} was chosen for this photo: gamma {told['gamma']:g} by"
        assert shown["choice"].startswith(start)


def test_a_class_is_not_explained_against_itself(model: cl.Backbone) -> None:
    with pytest.raises(cl.InputError, match="against is 'espresso', which is the target too"):
        list(explain_photos(model, [COFFEE], ExplainOptions(target="espresso", against=967)))
    with pytest.raises(cl.InputError, match="against is 'espresso', which is the predicted class of an image"):
        cl.explain(model.observe(COFFEE), ["cup"], against="espresso")
    cat, coffee = explain_photos(model, [CAT, COFFEE], ExplainOptions(against="espresso", top=2))
    assert isinstance(cat, PhotoResult)
    assert isinstance(coffee, Failure)
    assert "is predicted as espresso, one to compare with" in coffee.reason


def test_a_model_of_two_classes_has_one_look_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))
    small = cl.Backbone(module, "two", transform=cl.Preprocess((64, 64)), class_names=("cat", "dog"))
    (found,) = explain_photos(small, [CAT], ExplainOptions(top=2, for_page=True))
    assert isinstance(found, PhotoResult)
    assert len(found.references) == 1
    with pytest.raises(cl.InputError, match="nearest is 3 and the model has 2 classes"):
        list(explain_photos(small, [CAT], ExplainOptions(with_concepts=False)))


def test_a_result_keeps_no_features_and_photo_and_class_maps_only_for_a_page(model: cl.Backbone) -> None:
    (bare,) = explain_photos(model, [CAT], ExplainOptions(top=2))
    (shown,) = explain_photos(model, [CAT], ExplainOptions(top=2, for_page=True))
    assert isinstance(bare, PhotoResult)
    assert isinstance(shown, PhotoResult)
    assert bare.photo == b""
    assert bare.class_map is bare.contrast is bare.mixture is None
    assert shown.photo[:2] == b"\xff\xd8"
    assert shown.mixture is not None
    storage = shown.mixture.maps.untyped_storage().nbytes()
    assert storage == 4 * 7 * 7 * 4


def test_a_contrast_by_a_rule_that_is_not_linear_has_no_slider(model: cl.Backbone) -> None:
    (found,) = explain_photos(model, [CAT], ExplainOptions(rule="layer_cam", with_concepts=False))
    assert isinstance(found, PhotoResult)
    assert found.mixture is None
    assert found.contrast is not None
    observation = model.observe(str(CAT))
    assert_agree(found.contrast.maps, cl.cam(observation, cl.Contrast(), "layer_cam").maps)


def test_the_numbers_say_how_concepts_were_found_and_who_read_their_words(model: cl.Backbone) -> None:
    branch = branch_of(model, PLAIN)
    cases = {
        ("ce_fam", None, "official"): ExplainOptions(top=2, regions="official"),
        ("ce_fam", branch.name, "official"): ExplainOptions(top=2, branch=branch, regions="official"),
        ("ce_fam with competing regions", None, "competing"): ExplainOptions(top=2),
        ("ce_fam with fine competing regions", None, "fine"): ExplainOptions(top=2, regions="fine"),
        ("ce_fam with coarse competing regions", None, "coarse"): ExplainOptions(top=2, regions="coarse"),
        ("ce_fam with competing regions", branch.name, "competing"): ExplainOptions(
            top=2, branch=branch, regions="competing"
        ),
    }
    for expected, options in cases.items():
        (found,) = explain_photos(model, [CAT], options)
        assert isinstance(found, PhotoResult)
        (image,) = explain_json([found], [])["images"]
        assert (image["method"], image["branch"], image["regions"]) == expected
        assert all(("layer" in concept) == (expected[1:] == (branch.name, "official")) for concept in image["concepts"])


def test_coarse_regions_take_no_further_forward_pass(model: cl.Backbone) -> None:
    ran: list[int] = []
    handle = model.module.register_forward_hook(lambda _module, inputs, _output: ran.append(len(inputs[0])))
    try:
        cat, coffee = explain_photos(model, [CAT, COFFEE], ExplainOptions(top=3, regions="coarse"), 2)
    finally:
        handle.remove()
    assert ran == [2]
    for path, found in ((CAT, cat), (COFFEE, coffee)):
        assert isinstance(found, PhotoResult)
        assert found.concepts is not None
        again = compete(model.observe(str(path)), found.concepts.labels[0], competition=COARSE)
        assert_agree(found.concepts.maps, again.maps)


def test_a_branch_of_one_layer_says_which(model: cl.Backbone) -> None:
    branch = branch_of(model, PLAIN)
    (found,) = explain_photos(
        model, [CAT], ExplainOptions(top=2, branch=branch, layer=branch.layers[1], regions="official")
    )
    assert isinstance(found, PhotoResult)
    (image,) = explain_json([found], [])["images"]
    assert [concept["layer"] for concept in image["concepts"]] == [branch.layers[1]] * 2


@pytest.mark.parametrize("given", ["branch", Path("branch")])
def test_the_folder_of_a_branch_is_no_branch(given: Any) -> None:
    with pytest.raises(
        cl.InputError, match=r"given as the branch; expected a Translator, .*Translator\.load\(folder\)"
    ):
        ExplainOptions(branch=given)


def test_a_tower_without_classes_names_concepts_but_counts_nothing() -> None:
    module = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tower = cl.Backbone(module, "tower", task="embedding", text=Words(), input_size=(64, 64))  # pyright: ignore
    observation = tower.observe(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    found = cl.explain(observation, "cat, dog")
    assert found.contributions is None
    assert found.explained_classes == ()
    assert found.scores.shape == (1, 2)
    with pytest.raises(cl.InputError, match="gives no class scores"):
        cl.explain(observation, "cat", target=3)
