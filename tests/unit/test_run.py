"""A stream of photos: bad ones are reported, the rest goes on, and little is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from torch import nn

import conceptlens as cl
from branches import PLAIN, branch_of
from conceptlens.explainer.explain_numbers import explain_numbers
from conceptlens.explainer.run import Finding, Plan, find
from conceptlens.io.failures import Failure

PHOTOS = Path(skimage.__file__).parent / "data"
CAT, COFFEE = PHOTOS / "chelsea.png", PHOTOS / "coffee.png"


class Words:
    """A text encoder in miniature."""

    name, scale, bias, normalised = "words", 10.0, 0.0, True

    def encode_image(self, answer: cl.Observation) -> torch.Tensor:
        return answer.embedding

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.randn(12, generator=torch.Generator().manual_seed(len(t))) for t in texts])


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.load_model()


def test_order_is_kept_whatever_the_batch(model: cl.Backbone, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no photo")
    paths = [CAT, broken, COFFEE, tmp_path / "missing.png", CAT]
    plan = Plan(concepts=None, top=3)
    for batch_size in (1, 2, 8):
        found = list(find(model, paths, plan, batch_size))
        assert [isinstance(item, Finding) for item in found] == [True, False, True, False, True]
        names = [item.picture.name if isinstance(item, Finding) else item.name for item in found]
        assert names == [str(path) for path in paths]
        cat, coffee = found[0], found[2]
        assert isinstance(cat, Finding)
        assert isinstance(coffee, Finding)
        assert "cat" in cat.target.name
        assert "espresso" in coffee.target.name
        assert cat.named is not None
        assert "cat" in cat.named.labels[0]


def test_a_photo_predicted_as_the_class_to_tell_it_from_fails_alone(model: cl.Backbone) -> None:
    plan = Plan(against=("tiger cat",), contrast=cl.Contrast(against=("tiger cat",)), with_concepts=False)
    cat, coffee = find(model, [CAT, COFFEE], plan)
    assert isinstance(cat, Failure)
    assert "is predicted as tiger cat" in cat.reason
    assert isinstance(coffee, Finding)
    assert [r.prediction.name for r in coffee.references] == ["tiger cat"]


def test_a_model_of_two_classes_has_one_look_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))
    small = cl.Backbone(module, "two", transform=cl.Preprocess((64, 64)), class_names=("cat", "dog"))
    (found,) = find(small, [CAT], Plan(top=2))
    assert isinstance(found, Finding)
    assert len(found.references) == 1
    with pytest.raises(cl.InputError, match="3 references were asked of 2 classes"):
        list(find(small, [CAT], Plan(with_concepts=False)))


def test_a_finding_keeps_no_features_and_no_photo_unless_asked(model: cl.Backbone) -> None:
    (bare,) = find(model, [CAT], Plan(top=2))
    (shown,) = find(model, [CAT], Plan(top=2, with_photos=True))
    assert isinstance(bare, Finding)
    assert isinstance(shown, Finding)
    assert bare.photo == b""
    assert shown.photo[:2] == b"\xff\xd8"
    assert bare.mixture is not None
    storage = bare.mixture.maps.untyped_storage().nbytes()
    assert storage == 4 * 7 * 7 * 4


def test_a_contrast_by_a_rule_that_is_not_linear_has_no_slider(model: cl.Backbone) -> None:
    (found,) = find(model, [CAT], Plan(rule="layer_cam", with_concepts=False))
    assert isinstance(found, Finding)
    assert found.mixture is None
    assert found.finer is not None
    observation = model.observe(str(CAT))
    assert torch.allclose(found.finer.maps, cl.cam(observation, cl.Contrast(), "layer_cam").maps)


def test_the_numbers_say_how_concepts_were_found_and_who_read_their_words(model: cl.Backbone) -> None:
    branch = branch_of(model, PLAIN)
    plans = {
        ("ce_fam", None, "official"): Plan(top=2),
        ("ce_fam", branch.name, "official"): Plan(top=2, branch=branch),
        ("ce_fam with competing regions", branch.name, "competing"): Plan(top=2, branch=branch, regions="competing"),
    }
    for expected, plan in plans.items():
        (found,) = find(model, [CAT], plan)
        assert isinstance(found, Finding)
        (image,) = explain_numbers([found], [])["images"]
        assert (image["method"], image["branch"], image["regions"]) == expected
        assert all(("layer" in concept) == (expected[1:] == (branch.name, "official")) for concept in image["concepts"])


def test_a_branch_of_one_layer_says_which(model: cl.Backbone) -> None:
    branch = branch_of(model, PLAIN)
    (found,) = find(model, [CAT], Plan(top=2, branch=branch, layer=branch.layers[1]))
    assert isinstance(found, Finding)
    (image,) = explain_numbers([found], [])["images"]
    assert [concept["layer"] for concept in image["concepts"]] == [branch.layers[1]] * 2


@pytest.mark.parametrize("given", ["branch", Path("branch")])
def test_the_folder_of_a_branch_is_no_branch(given: Any) -> None:
    with pytest.raises(
        cl.InputError, match=r"given as the branch; expected a Translator, .*Translator\.load\(folder\)"
    ):
        Plan(branch=given)


def test_a_tower_without_classes_names_concepts_but_counts_nothing() -> None:
    module = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tower = cl.Backbone(module, "tower", embeds=True, text=Words(), input_size=(64, 64))  # pyright: ignore
    observation = tower.observe(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    found = cl.explain(observation, "cat, dog")
    assert found.contributions is None
    assert found.explained_classes == ()
    assert found.scores.shape == (1, 2)
    with pytest.raises(cl.InputError, match="gives no class scores"):
        cl.explain(observation, "cat", target=3)
