"""`cl.report`: your own explanations as one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data

import conceptlens as cl
from branches import PLAIN, branch_of
from conceptlens.metrics import peak
from conceptlens.record import ImageInfo, Source

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def observation() -> cl.Observation:
    return cl.load_model().observe([data.chelsea(), data.coffee()])


def shown(file: Path) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', file.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])["images"]


def test_everything_given_is_shown_with_its_own_numbers(observation: cl.Observation, tmp_path: Path) -> None:
    plain = cl.cam(observation, cl.Logit("tiger cat"))
    concept = cl.cam(observation, cl.Concept("cat"))
    named = cl.explain(observation, concepts="cat, cup", target="tiger cat", against="espresso")
    swept = cl.sweep(observation, cl.Contrast("tiger cat", nearest=2))
    images = shown(cl.report(tmp_path / "page.html", observation, plain, concept, named, swept))
    assert [image["name"] for image in images] == ["photo[0]", "photo[1]"]
    kinds = [(q["kind"], q["label"]) for q in images[0]["questions"]]
    assert kinds[:4] == [("class", "tiger cat"), ("concept", "cat"), ("concept", "cat"), ("concept", "cup")]
    assert kinds[4][0] == "contrast"
    for i, image in enumerate(images):
        first = image["questions"][0]
        assert first["map"]["values"] == pytest.approx(plain.maps[i, 0].flatten().tolist(), rel=1e-4, abs=1e-6)
        left, top, right, bottom = observation.image_info[i].box
        x, y = peak(plain.maps)[i, 0].tolist()
        assert first["peak"] == pytest.approx([left + x * (right - left), top + y * (bottom - top)], abs=1e-3)
        assert image["questions"][3]["contribution"] == pytest.approx(float(named.contributions[i, 1]))
        assert len(image["contrast"]["references"]) == 2
        assert (image["target"]["name"], image["against"]["name"]) == ("tiger cat", "espresso")
        assert image["differences"].startswith("Photos of tiger cat, not of espresso, usually show: ")
        assert "cl.Contrast" in image["command"] or "Contrast(" in image["command"]


def test_a_page_says_where_it_is_not_known_which_part_of_the_photo_a_map_covers(tmp_path: Path) -> None:
    photo = Image.fromarray(data.coffee())
    pages = []
    for known in (True, False):
        info = ImageInfo("coffee", "", *photo.size, box_known=known)
        found = cl.Explanation.from_maps(torch.rand(1, 7, 7), "cup", [info])
        (image,) = shown(cl.report(tmp_path / "page.html", photo, found))
        pages.append(image["box_known"])
    assert pages == [True, False]


def test_a_tensor_is_shown_as_the_model_saw_it(tmp_path: Path) -> None:
    model = cl.load_model()
    assert model.transform is not None
    batch = model.transform(Image.fromarray(data.coffee()))[None]
    observation = model.observe(batch)
    (image,) = shown(cl.report(tmp_path / "page.html", observation, cl.cam(observation)))
    assert (image["width"], image["height"]) == (224, 224)


def made_elsewhere(count: int) -> cl.Explanation:
    """Maps as another library gives them: no kinds, no settings, no model of ours."""
    source = Source("mine", "a layer", "my method", (ImageInfo("photo"),) * count)
    return cl.Explanation(torch.rand(count, 1, 5, 4), None, torch.zeros(count, 1), (("mine",),) * count, source)


def test_maps_made_elsewhere_are_shown_beside_an_observation_and_beside_photos(
    observation: cl.Observation, tmp_path: Path
) -> None:
    maps = made_elsewhere(2)
    pages = [
        shown(cl.report(tmp_path / "observed.html", observation, maps)),
        shown(cl.report(tmp_path / "photos.html", [data.chelsea(), Image.fromarray(data.coffee())], maps)),
    ]
    for images in pages:
        for i, image in enumerate(images):
            (question,) = image["questions"]
            assert (question["kind"], question["label"]) == ("custom", "mine")
            assert question["map"]["values"] == pytest.approx(maps.maps[i, 0].flatten().tolist(), rel=1e-4)
            assert question.get("box", image["box"]) == [0.0, 0.0, 1.0, 1.0]  # over the whole photo, not the crop
    assert "cat" in pages[0][0]["target"]["short_name"]
    assert pages[1][0]["target"] is None
    assert pages[1][0]["predictions"] == []


def test_an_explanation_of_other_photos_is_refused(observation: cl.Observation, tmp_path: Path) -> None:
    other = cl.cam(cl.load_model().observe([data.rocket(), data.coffee()]))
    with pytest.raises(cl.InputError, match=r"other photos than photo\[0\]"):
        cl.report(tmp_path / "page.html", observation, other)
    with pytest.raises(cl.InputError, match="of 1 images was given for 2"):
        cl.report(tmp_path / "page.html", observation, other.of(0))
    with pytest.raises(cl.InputError, match="nothing to report"):
        cl.report(tmp_path / "page.html", observation)
    assert list(tmp_path.iterdir()) == []


def test_explanations_hold_no_graph(observation: cl.Observation) -> None:
    for explanation in (
        cl.cam(observation),
        cl.explain(observation, "cat", regions="official"),
        cl.sweep(observation).explanation(),
    ):
        assert not explanation.maps.requires_grad
        assert isinstance(explanation.weights, torch.Tensor)
        assert not explanation.weights.requires_grad


def test_concepts_of_a_branch_and_in_competition_are_shown_with_the_call_that_makes_them_again(
    observation: cl.Observation, tmp_path: Path
) -> None:
    translator = branch_of(observation.model, PLAIN)
    observed = observation.model.observe(data.chelsea(), translator.layers)
    once = cl.Competition(input_scales=(1.0,), mirrored=False)
    explanations = [
        cl.ce_fam(observed, translator, ["cat"]),
        cl.explain(observed, ["cat"], branch=translator, regions="competing"),
        cl.explain(observed, ["cat"]),
        cl.compete(observed, ["cat"], competition=once),
    ]
    (image,) = shown(cl.report(tmp_path / "page.html", observed, *explanations))
    calls = image["command"].splitlines()[1:]
    assert calls[0].endswith('branch=cl.Translator.load(folder), regions="official", contribution="masking")')
    assert calls[1].endswith('branch=cl.Translator.load(folder), regions="competing")')
    assert calls[2] == "cl.explain(observation, concepts=['cat'], target=None, against=None, regions=\"competing\")"
    assert calls[3] == "cl.compete(observation, concepts=['cat'])"
