"""What terminal, JSON and page say of a margin, of ranges and of places that are not clear."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import conceptlens as cl
from conceptlens.concept_regions.competing_explanation import MIN_PLACE_CONTRAST, place_contrasts
from conceptlens.concept_regions.competition import rival_words
from conceptlens.concepts.vocabulary import everyday_words
from conceptlens.explainer.explain_json import explain_json, margin_json
from conceptlens.explainer.html_report import report
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.terminal import print_result
from conceptlens.model.predictions import Prediction
from conceptlens.record import Explanation, ImageInfo, Source

TABBY = Prediction(1, "tabby, tabby cat", "tabby", 9.0, 0.6)
LYNX = Prediction(2, "lynx", "lynx", 6.0, 0.1)
NAN = float("nan")


def concepts(**changes: Any) -> Explanation:
    """Two named concepts and one that was discovered, of which the second has no clear place."""
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, :, 1, 2] = 2.0
    fields: dict[str, Any] = {
        "maps": maps,
        "weights": None,
        "scores": torch.tensor([[0.3, 0.2, 0.1]]),
        "labels": (("whiskers", "[grass]", "concept 4"),),
        "source": Source("model", "bn2", "ce_fam with competing regions", (ImageInfo("cat.png", "", 40, 30),)),
        "concept_types": (("part", "scene", "discovered"),),
        "contributions": torch.tensor([[1.5, -0.25, 0.75]]),
        "contributions_low": torch.tensor([[1.0, -0.5, NAN]]),
        "contributions_high": torch.tensor([[2.0, 0.125, NAN]]),
        "margins": torch.tensor([3.25]),
        "unplaced": torch.tensor([0.0]),
        "residuals": torch.tensor([0.0]),
        "rivals": ("all other classes",),
        "presence": torch.tensor([[0.9, 0.75, NAN]]),
        "diagnostics": {"place_contrast": torch.tensor([[0.5, MIN_PLACE_CONTRAST - 0.01, NAN]])},
    }
    return Explanation(**{**fields, **changes})


def a_result(explanation: Explanation, **changes: Any) -> PhotoResult:
    made = PhotoResult(
        explanation.source.image_info[0], "model", "bn2", (explanation,), target=TABBY, predictions=(TABBY, LYNX)
    )
    return replace(made, **changes)


def printed(result: PhotoResult) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=160))
    return " ".join(out.getvalue().split())


def in_json(result: PhotoResult) -> dict[str, Any]:
    return json.loads(json.dumps(explain_json([result], []), allow_nan=False))["images"][0]


SENTENCES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "all classes": (
        {}, {}, "tabby over all other classes: +3.25 = named +1.25, discovered +0.75, unnamed +1.25 (logits)",
    ),
    "one class": (
        {}, {"against": LYNX}, "tabby over lynx: +3.25 = named +1.25, discovered +0.75, unnamed +1.25 (logits)",
    ),
    "nothing discovered": (
        {"concept_types": (("part", "scene", "object"),)}, {}, "+3.25 = named +2.00, unnamed +1.25 (logits)",
    ),
    "no cell": (
        {"unplaced": torch.tensor([-0.5])}, {}, "unnamed +1.25 (of which -0.50 lies in no cell) (logits)",
    ),
    "a residual": (
        {"residuals": torch.tensor([0.02])}, {}, "unnamed +1.23, residual +0.02 (logits)",
    ),
    "a residual too small to name": ({"residuals": torch.tensor([0.004])}, {}, "unnamed +1.25 (logits)"),
    "behind": ({"margins": torch.tensor([-1.0])}, {}, "tabby over all other classes: -1.00 = named +1.25"),
    "unknown words": (
        {"known": torch.tensor([[True, False, True]]), "contributions": torch.tensor([[1.5, NAN, 0.75]])}, {},
        "+3.25 = named +1.50, discovered +0.75, unnamed +1.00 (logits)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "result", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_the_terminal_says_what_a_margin_consists_of(
    fields: dict[str, Any], result: dict[str, Any], sentence: str
) -> None:
    assert sentence in printed(a_result(concepts(**fields), **result))


def test_the_terminal_says_ranges_and_which_place_is_not_clear() -> None:
    said = printed(a_result(concepts()))
    assert "whiskers part 90% - +1.50 [1.00, 2.00] centre, 6.3%" in said
    assert "[grass] scene 75% - -0.25 [-0.50, 0.13] no clear place" in said
    assert said.count("no clear place") == 1
    assert "concept 4 discovered - - +0.75" in said
    assert "no clear place" not in printed(a_result(concepts(diagnostics={})))


@pytest.mark.parametrize(("level", "size"), [(0.25, "about 0.25"), (0.001, "under 0.01")])
def test_what_a_random_word_would_get_is_said_where_it_is_known(level: float, size: str) -> None:
    said = printed(a_result(concepts(random_level=torch.tensor([level]))))
    assert said.endswith(f"a word drawn at random would get {size}")
    assert "random" not in printed(a_result(concepts()))
    image = in_json(a_result(concepts(random_level=torch.tensor([level]))))
    assert image["random_level"] == pytest.approx(level)
    assert in_json(a_result(concepts()))["random_level"] is None
    assert "contribution_above_random" not in image["concepts"][0]


def test_by_masking_what_is_above_a_random_word_stands_beside_each_contribution() -> None:
    found = concepts(margins=None, unplaced=None, residuals=None, random_level=torch.tensor([0.5]))
    said = printed(a_result(found))
    assert "whiskers part 90% - +1.50 [1.00, 2.00] (+1.00) centre" in said
    assert said.endswith("would get about 0.50 (what is above that stands in parentheses)")
    image = in_json(a_result(found))
    assert [row["contribution_above_random"] for row in image["concepts"]] == [1.0, -0.75, 0.25]
    shown = page_content([a_result(found)])["images"][0]
    assert shown["random_level"] == 0.5
    assert shown["questions"][0]["contribution_above_random"] == 1.0


def test_masking_has_no_sentence_of_a_margin() -> None:
    found = concepts(margins=None, unplaced=None, residuals=None)
    assert "logits)" not in printed(a_result(found))
    image = in_json(a_result(found))
    assert (image["contribution_measure"], image["margin"]) == ("masking", None)


def test_json_has_the_documented_fields() -> None:
    image = in_json(a_result(concepts(), against=LYNX))
    assert set(image) == {
        "image", "model", "layer", "task", "task_assumed", "target", "predicted", "answered", "against", "differs_by",
        "method", "branch", "regions", "contribution_measure", "margin", "random_level", "concepts",
    }  # fmt: skip
    assert image["contribution_measure"] == "evidence"
    assert image["margin"] == {
        "value": 3.25, "named": 1.25, "discovered": 0.75, "unnamed": 1.25, "unplaced": 0.0, "residual": 0.0,
        "over": "all other classes", "unit": "logits",
    }  # fmt: skip
    whiskers, grass, fourth = image["concepts"]
    assert (whiskers["contribution_range"], grass["contribution_range"]) == ([1.0, 2.0], [-0.5, 0.125])
    assert [one["place_vague"] for one in (whiskers, grass, fourth)] == [False, True, None]
    assert [one["place_contrast"] for one in (whiskers, grass, fourth)] == [
        0.5,
        round(MIN_PLACE_CONTRAST - 0.01, 4),
        None,
    ]
    assert (fourth["contribution"], fourth["contribution_range"], fourth["presence"]) == (0.75, None, None)


@pytest.mark.parametrize("unplaced", [0.0, -0.4])
def test_the_parts_of_a_margin_add_up(unplaced: float) -> None:
    drawn = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    found = concepts(contributions=drawn, unplaced=torch.tensor([unplaced]), residuals=torch.tensor([0.03]))
    margin = margin_json(found)
    assert margin is not None
    parts = margin["named"] + margin["discovered"] + margin["unnamed"] + margin["residual"]
    assert parts == pytest.approx(margin["value"], abs=1e-6)
    assert margin["named"] == pytest.approx(float(drawn[0, :2].sum()), abs=1e-6)
    assert margin["discovered"] == pytest.approx(float(drawn[0, 2]), abs=1e-6)
    assert margin["unplaced"] == pytest.approx(unplaced)


def test_the_page_holds_the_same_margin_and_ranges() -> None:
    (image,) = page_content([a_result(concepts())])["images"]
    assert image["margin"] == margin_json(concepts())
    assert [one["contribution_range"] for one in image["questions"]] == [[1.0, 2.0], [-0.5, 0.125], None]
    assert [one["place_vague"] for one in image["questions"]] == [False, True, None]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_the_contrast_of_a_place_is_the_deviation_of_its_shares_over_their_mean(power: float) -> None:
    shares = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 80
    shares[1, 2] = 7.0
    shares[0, 0] = 0.0
    found = place_contrasts(shares**power, power)
    for i in range(2):
        for q in range(3):
            values = shares[i, q].double().numpy().ravel()
            expected = np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1)) / max(values.mean(), 1e-30)
            assert float(found[i, q]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert (float(found[0, 0]), float(found[1, 2])) == (0.0, pytest.approx(0.0, abs=1e-5))


def test_rival_words_are_some_of_the_everyday_words() -> None:
    everyday, rivals = everyday_words(), rival_words()
    assert set(rivals) <= set(everyday)
    assert len(rivals) == len(set(rivals)) == -(-len(everyday) // 4) > 50
    assert {word.type for word in rivals} >= {"object", "colour"}


class Six:
    """Words by the logits of a tiny network."""

    name, scale, normalised = "six", 1.0, False

    def encode_image(self, output: Any) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.ones(len(texts), 4)


def test_the_code_of_a_report_makes_it_again(tmp_path: Any) -> None:
    """What was discovered is no word to ask for; masking and ranges are asked for where they were."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )
    model = cl.Backbone(net, "tiny", ("0",), class_names=("a", "b", "c"), text=Six(), input_size=(16, 16))
    observation = model.observe(torch.randn(1, 3, 16, 16))
    masked = cl.explain(observation, "cat", regions="official", contribution="masking")
    ranged = cl.explain(observation, "cat", regions="official", intervals=True)
    joined = replace(ranged, concept_types=(("discovered",),), labels=(("concept 3",),))
    for given, words in (
        (masked, ["concepts=['cat']", 'contribution="masking"']),
        (ranged, ["concepts=['cat']", "intervals=True"]),
        (joined, ["concepts=[]", "concepts_from=cl.DiscoveredConcepts.load(folder)"]),
    ):
        file = report(tmp_path / "page.html", observation, given)
        data = json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])
        (command,) = [one["command"] for one in data["images"]]
        assert all(one in command for one in words), command
