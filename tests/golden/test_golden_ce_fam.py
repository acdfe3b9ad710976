"""CE-FAM on drawn scenes with planted concepts: the numbers that it gave when they were checked by hand.

`ce_fam.json` holds, for every scene and colour, the region's energy inside the colour's mask, NRA as published and
corrected for chance, the hit, the layer that holds the concept, and the contribution to the class of the first colour;
besides, the region itself for one scene. A change of any of them is a change of what the package says.

To write the file anew after a change that is meant: `CONCEPTLENS_WRITE_GOLDEN=1 pytest tests/golden`, then read the
difference in version control before keeping it.

The planted truth, which no golden number may contradict: the branch reads red, green and blue from `features` and
yellow, magenta and cyan from `detect`, so these layers hold them wherever they stand out; the region of a colour lies
on its shapes; its contribution to the class of that colour is positive, and the others speak against it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import conceptlens as cl
from conceptlens.concept_regions.branch import Branch, layer_widths
from conceptlens.concept_regions.ce_fam import ce_fam
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.data.drawn_scene import Scene, random_scene
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.metrics import hit, pointing_energy, ranked_area, ranked_area_corrected
from planted import LABELS, SOLID, ManyNet, pixels
from planted_words import Colours

pytestmark = pytest.mark.wide

FILE = Path(__file__).parent / "ce_fam.json"
LAYERS = ("detect", "features")
FROM_FEATURES = LABELS[:3]
COPIES = 20
SCENES = [random_scene(seed, size=112, kinds=SOLID) for seed in range(6)]
TOLERANCE = 1e-4


def planted_branch(model: cl.Backbone) -> Translator:
    """A linear branch whose entry c is colour c: three colours from the last layer, three from the first."""
    branch = Branch(LAYERS, layer_widths(model, LAYERS), len(LABELS), ())
    weight = torch.zeros(len(LABELS), branch.width)
    for c, colour in enumerate(LABELS):
        start = c * COPIES + (0 if colour in FROM_FEATURES else COPIES * len(LABELS))  # the deepest layer stands first
        weight[c, start : start + COPIES] = 1 / COPIES
    with torch.no_grad():
        branch.network[0].weight.copy_(weight)
        branch.network[0].bias.zero_()
    vlm = cl.Backbone(nn.Linear(2, 2), "colours", text=Colours("colours", scale=60.0), task="embedding")
    return Translator(branch, Teacher.of(vlm), model.name, weights_fingerprint(model.module), {}, vlm)


def measure(scene: Scene) -> tuple[cl.Explanation, dict[str, dict[str, Any]]]:
    """Explain every colour of a scene, and measure its regions against its masks."""
    model = cl.Backbone(ManyNet(COPIES), "planted", LAYERS, class_names=LABELS)
    observation = model.observe(pixels([scene]), LAYERS)
    found = ce_fam(
        observation, planted_branch(model), [f"{c}:colour" for c in scene.masks], target=next(iter(scene.masks))
    )
    masks = torch.stack([torch.from_numpy(mask) for mask in scene.masks.values()])[None]
    scores = {
        "energy": pointing_energy(found, masks, normalise="minmax"),
        "nra": ranked_area(found, masks),
        "nra_corrected": ranked_area_corrected(found, masks),
        "hit": hit(found, masks),
    }
    assert found.contributions is not None
    numbers = {}
    for q, colour in enumerate(scene.masks):
        numbers[colour] = {name: round(float(score.values[0, q]), 6) for name, score in scores.items()}
        numbers[colour]["layer"] = found.layers[0][q]
        numbers[colour]["score"] = round(float(found.scores[0, q]), 5)
        numbers[colour]["contribution"] = round(float(found.contributions[0, q]), 6)
    return found, numbers


def deep_region(found: cl.Explanation) -> list[list[float]]:
    """The first colour's region at the 7 x 7 cells of the last layer, times 1000."""
    return [[round(1000 * v, 4) for v in row] for row in found.components[1].maps[0, 0].tolist()]


def stands_out(scene: Scene, colour: str) -> bool:
    """Whether a colour covers more than colours do on average.

    Only then does silencing it, by the layer's mean, take something away from the concept: the published rule.
    """
    return bool(scene.masks[colour].mean() > 1.2 * sum(m.mean() for m in scene.masks.values()) / len(LABELS))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if os.environ.get("CONCEPTLENS_WRITE_GOLDEN"):
        measured = [measure(scene) for scene in SCENES]
        content = {"scenes": [numbers for _, numbers in measured], "region": deep_region(measured[0][0])}
        FILE.write_text(json.dumps(content, indent=1) + "\n")
    return json.loads(FILE.read_text())


@pytest.mark.parametrize("place", range(len(SCENES)))
def test_numbers_are_those_of_the_file(golden: dict[str, Any], place: int) -> None:
    _, numbers = measure(SCENES[place])
    assert list(numbers) == list(golden["scenes"][place])
    for colour, wanted in golden["scenes"][place].items():
        assert numbers[colour]["layer"] == wanted["layer"]
        for name, value in wanted.items():
            if name != "layer":
                assert numbers[colour][name] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), (colour, name)


def test_the_region_is_that_of_the_file(golden: dict[str, Any]) -> None:
    found, _ = measure(SCENES[0])
    wanted = torch.tensor(golden["region"])
    assert torch.allclose(torch.tensor(deep_region(found)), wanted, atol=TOLERANCE * float(wanted.max()))


def test_the_file_agrees_with_what_was_planted(golden: dict[str, Any]) -> None:
    layers = set()
    for scene, numbers in zip(SCENES, golden["scenes"], strict=True):
        assert list(numbers) == list(scene.masks)
        for colour, found in numbers.items():
            if stands_out(scene, colour):
                assert found["layer"] == ("features" if colour in FROM_FEATURES else "detect")
            assert found["energy"] > 0.6
            assert found["nra"] > 0.7
            assert found["hit"] == 1.0
            assert found["nra_corrected"] <= found["nra"]
            layers.add(found["layer"])
        own, *others = (found["contribution"] for found in numbers.values())
        assert own > 0.03
        assert all(other <= 0 for other in others)
    assert layers == set(LAYERS)
