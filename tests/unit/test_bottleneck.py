"""A bottleneck as a module, as an explanation and as a folder: what adds up, what is refused, what comes back."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import architectures
import conceptlens as cl
from bottlenecks import CLASSES, CONCEPTS, LOCATOR_KINDS, bottleneck_of, cells, filled, locator, made
from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.fit.recipe import radius_at
from conceptlens.bottleneck.locator import Parts, Peaks, Pooling, WholeImage, find_peaks, peak_masks
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.io.fingerprint import weights_fingerprint
from tolerance import assert_agree

EDITS = (Edit(0, 0.2, 0.2), Edit(2, -0.1, 0.1, 1), Edit(2, -0.3, float("inf")), Edit(4, 1.5, 1.5, 0, "why"))


class Tower(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.early = nn.Sequential(nn.Conv2d(3, 3, 4, stride=4), nn.BatchNorm2d(3), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.deep(self.early(images)).mean((2, 3)))


def tower(seed: int = 0) -> cl.Backbone:
    preprocess = cl.Preprocess((40, 32))
    module, size = Tower(seed).eval(), (40, 32)
    return cl.Backbone(module, f"tower {seed}", ("deep",), preprocess, CLASSES, channels_last=False, input_size=size)


def of_tower(model: cl.Backbone, kind: str = "whole", **changes: Any) -> Bottleneck:
    return made(kind, backbone=BackboneReference(model.name, weights_fingerprint(model.module), **changes))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 40, 32, generator=torch.Generator().manual_seed(0))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(cl.InputError) as caught:
        act()
    return str(caught.value)


# --- one forward pass


@pytest.mark.parametrize("grid", [(5, 4), (3, 2), (9, 7)])
@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_the_mean_of_a_map_is_the_activation(kind: str, grid: tuple[int, int]) -> None:
    bottleneck = made(kind, grid)
    reading = bottleneck(cells())
    assert reading.maps.shape == (3, 5, *grid)
    assert torch.allclose(reading.maps.mean((2, 3)), reading.activations, atol=1e-6)
    plain = bottleneck.unmasked_maps(cells())
    masks = bottleneck.locator(plain, cells())
    assert torch.allclose(masks.sum((2, 3)), torch.ones(3, 5), atol=1e-5)
    assert bool((masks >= 0).all())
    assert torch.allclose((masks * plain).sum((2, 3)), reading.activations, atol=1e-5)
    if kind != "whole":
        assert not torch.allclose(reading.activations, plain.mean((2, 3)), atol=1e-2), "a mask of all cells tells none"


def test_a_concept_without_a_part_takes_the_whole_image() -> None:
    bottleneck = made("parts")
    plain = bottleneck.unmasked_maps(cells())
    masks = bottleneck.locator(plain, cells())
    assert torch.allclose(masks[:, 3], torch.full((3, 5, 4), 1 / 20))
    masks = masks.detach()
    assert_agree(masks[:, 0], masks[:, 1])
    assert not torch.allclose(masks[:, 0], masks[:, 2], atol=1e-2)
    assert float(masks.min()) > 0.1 / 20 - 1e-6  # the share that stays with the whole image


@pytest.mark.parametrize("edits", [(), EDITS])
@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_contributions_and_bias_are_the_logit(kind: str, edits: tuple[Edit, ...]) -> None:
    bottleneck = made(kind)
    bottleneck.edits = edits
    reading = bottleneck(cells(7))
    for target in ([0] * 7, [2, 1, 0, 0, 1, 2, 1]):
        index = torch.tensor(target)
        counts = bottleneck.contributions(reading, index)
        logits = reading.logits.gather(1, index[:, None])[:, 0]
        assert torch.allclose(counts.sum(1) + bottleneck.head.bias[index], logits, atol=1e-5)


def test_an_edit_for_one_class_is_felt_by_no_other() -> None:
    bottleneck = made()
    before = bottleneck(cells())
    bottleneck.edits = (Edit(1, 3.0, 3.0, 2),)
    after = bottleneck(cells())
    assert_agree(after.logits[:, :2], before.logits[:, :2])
    assert not torch.allclose(after.logits[:, 2], before.logits[:, 2], atol=1e-2)
    assert torch.equal(after.activations, before.activations)
    bottleneck.edits = (Edit(1, 3.0, 3.0),)
    assert not torch.isclose(bottleneck(cells()).logits, before.logits, atol=1e-3).any()


def test_an_empty_batch_is_a_batch() -> None:
    for kind in LOCATOR_KINDS:
        bottleneck = made(kind)
        bottleneck.edits = EDITS
        reading = bottleneck({name: value[:0] for name, value in cells().items()})
        assert reading.logits.shape == (0, 3)
        assert bottleneck.contributions(reading, torch.zeros(0, dtype=torch.long)).shape == (0, 5)


@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_gradients_reach_every_weight(kind: str) -> None:
    bottleneck = made(kind).train()
    bottleneck(cells()).logits.square().sum().backward()
    for name, parameter in bottleneck.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_precision_is_the_bottlenecks_own(kind: str) -> None:
    exact = made(kind).double()
    assert exact(cells()).logits.dtype == torch.float64
    plain = made(kind)
    expected = plain(cells())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_agree(plain(cells()).logits, expected.logits)
    halved = {name: value.half() for name, value in cells().items()}
    assert plain(halved).logits.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    backbone = BackboneReference("nobody", "")
    assert "0 concepts and 3 classes" in refusal(
        lambda: Bottleneck([], CLASSES, "x", 4, WholeImage(), (2, 2), backbone)
    )
    assert "two classes" in refusal(lambda: Bottleneck(CONCEPTS, ["one"], "x", 4, WholeImage(), (2, 2), backbone))
    assert "0 x 2 cells" in refusal(lambda: Bottleneck(CONCEPTS, CLASSES, "x", 4, WholeImage(), (0, 2), backbone))
    bottleneck = made()
    said = refusal(lambda: bottleneck(cells(channels=7)))
    assert said == "layer 'deep' has 7 channels; the bottleneck reads 6"
    assert "near names: tern" in refusal(lambda: bottleneck.class_index("turn"))
    assert "no concept 'blue wing' in this bottleneck; near names: black wing, red wing" in refusal(
        lambda: bottleneck.concept_index("blue wing")
    )
    assert "concept 5 was given; there are 5, from 0" in refusal(lambda: bottleneck.concept_index(5))
    assert bottleneck.concept_index(" RED  wing ") == 0


@pytest.mark.parametrize("edit", [Edit(5, 0, 1), Edit(-1, 0, 1), Edit(0, 0, 1, 3), Edit(0, 0, 1, -1)])
def test_an_edit_of_nothing_is_refused(edit: Edit) -> None:
    bottleneck = made()
    assert "was given; there are" in refusal(lambda: setattr(bottleneck, "edits", (edit,)))
    assert bottleneck.edits == ()


@pytest.mark.parametrize(
    "given", [(0, 1.0, 0.5), (0, float("nan"), 1.0), (0, float("inf"), float("inf")), ("red wing", 0.0, 1.0)]
)
def test_bounds_are_checked(given: Any) -> None:
    assert re.search("low <= high|their numbers", refusal(lambda: Edit(*given)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pooling(0),
        lambda: Peaks(-1),
        lambda: Peaks(float("nan")),
        lambda: Peaks(1, 0),
        lambda: Parts([], [0], ["a"], [3]),
        lambda: Parts(["wing"], [0], ["a"], [3, 4]),
        lambda: Parts(["wing"], [1], ["a"], [3]),
        lambda: Parts(["wing"], [0], ["a"], [3], share=1),
    ],
)
def test_locators_refuse_settings_that_mean_nothing(build: Callable[[], Any]) -> None:
    refusal(build)


def test_peaks_of_a_flat_or_negative_map() -> None:
    assert find_peaks(torch.zeros(1, 1, 3, 3)).tolist() == [[[0]]]
    assert find_peaks(-torch.ones(1, 1, 3, 3), 3).tolist() == [[[0, -1, -1]]]
    assert torch.allclose(peak_masks(torch.zeros(1, 1, 3, 3), 1.0, 2).sum(), torch.tensor(1.0))


def test_radius_schedules_refuse_what_grows() -> None:
    assert "no radius schedule 'linaer'; near names: linear" in refusal(lambda: radius_at("linaer", 0, 2, 1))
    assert "from 1 to 2" in refusal(lambda: radius_at("linear", 0, 1, 2))
    assert "above 0" in refusal(lambda: radius_at("cosine", 0, 1, 0))


# --- an explanation


@pytest.mark.parametrize("edits", [(), EDITS])
@pytest.mark.parametrize("top", [None, 1, 3, 99])
def test_an_explanation_adds_up_with_what_is_left_out(images: Tensor, top: int | None, edits: tuple[Edit, ...]) -> None:
    model = tower()
    bottleneck = of_tower(model, "one peak")
    bottleneck.edits = edits
    found = bottleneck.explain(bottleneck.observe(model, images), ["wren", 0, 2, "crow"], top)
    told: Any = found.source.settings
    kept = min(top or 5, 5)
    assert found.contributions is not None
    assert found.maps.shape == (4, kept, 5, 4)
    assert found.explained_classes == ("wren", "tern", "crow", "crow")
    assert told["target"] == list(found.explained_classes)
    total = found.contributions.sum(1) + torch.tensor(told["rest"]) + torch.tensor(told["bias"])
    assert torch.allclose(total, torch.tensor(told["logit"]), atol=1e-5)
    assert torch.allclose(found.maps.mean((2, 3)), found.scores, atol=1e-6)
    if top is not None:
        sizes = found.contributions.abs()
        assert bool((sizes.diff(dim=1) <= 0).all())
        assert (max(map(abs, told["rest"])) > 1e-3) == (kept < 5)
    else:
        assert found.labels == (bottleneck.labels,) * 4
    whole = bottleneck.explain(bottleneck.observe(model, images), ["wren", 0, 2, "crow"])
    assert whole.contributions is not None
    for i, row in enumerate(found.labels):
        for q, label in enumerate(row):
            at = whole.question_index(label, i)
            assert_agree(found.maps[i, q], whole.maps[i, at])
            assert_agree(found.components[0].maps[i, q], whole.components[0].maps[i, at])
            assert_agree(found.contributions[i, q], whole.contributions[i, at])


def test_a_call_on_an_observation_explains_the_highest_class(images: Tensor) -> None:
    model = tower()
    bottleneck = of_tower(model, "parts")
    observation = bottleneck.observe(model, images)
    assert list(observation.layer_outputs) == ["early", "deep"] == list(bottleneck.layers)
    activations = bottleneck.output(observation).activations.detach()
    bottleneck.mean.copy_(activations.mean(0))
    bottleneck.std.copy_(activations.std(0))
    found = bottleneck(observation)
    reading = bottleneck({name: observation.feature(name) for name in bottleneck.layers})
    best = reading.logits.argmax(1).tolist()
    assert len(set(best)) > 1, "one class for all proves nothing"
    assert found.explained_classes == tuple(CLASSES[k] for k in best)
    assert found.source.settings["locator"] == "parts"
    assert found.source.layer == "deep"
    assert not any(
        t.requires_grad for t in (found.maps, found.scores, found.contributions, found.components[0].weights)
    )


@pytest.mark.parametrize("name", ["timm vit", "hf dinov2 registers", "hf swin", "torchvision swin", "timm convnext"])
def test_tokens_and_channels_last_are_cells(name: str) -> None:
    model = architectures.backbone(name)
    observation = architectures.observation_of(name)
    for kind in LOCATOR_KINDS:
        bottleneck = bottleneck_of(model, kind)
        observation = bottleneck.observe(model, architectures.random_images(architectures.ARCHITECTURES[name].size))
        found = bottleneck(observation)
        grid = observation.layer_output(bottleneck.layer).grid
        assert found.maps.shape == (2, 5, grid.height, grid.width)
        assert grid.height != grid.width or name == "torchvision vit"
        feature, weight = observation.feature(bottleneck.layer), bottleneck.weight.tolist()
        for i in range(5):
            slow = torch.stack([weight[i][c] * feature[1, c] for c in range(feature.shape[1])]).sum(0)
            assert torch.allclose(found.components[0].maps[1, i], slow, atol=1e-4)
        assert torch.allclose(found.maps.mean((2, 3)), found.scores, atol=1e-6)


def test_a_locator_may_read_the_layers_in_any_order(images: Tensor) -> None:
    model = tower()
    found = Parts(["wing"], [0, 0, 0, -1, 0], ["deep", "early"], [6, 3])
    backbone = BackboneReference(model.name, weights_fingerprint(model.module))
    bottleneck = filled(Bottleneck(CONCEPTS, CLASSES, "deep", 6, found, (5, 4), backbone))
    assert bottleneck.layers == ("early", "deep")
    observation = bottleneck.observe(model, images)
    assert (observation.layer, bottleneck(observation).source.layer) == ("deep", "deep")


def test_an_explanation_is_as_precise_under_autocast(images: Tensor) -> None:
    model = tower()
    bottleneck = of_tower(model, "two peaks")
    observation = bottleneck.observe(model, images)
    expected = bottleneck(observation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bottleneck(observation)
    assert_agree(found.maps, expected.maps)
    assert_agree(found.components[0].maps, expected.components[0].maps)
    assert found.source.settings == expected.source.settings


def test_what_was_not_observed_is_named(images: Tensor) -> None:
    model = tower()
    bottleneck = of_tower(model, "parts")
    said = refusal(lambda: bottleneck(model.observe(images, "deep")))
    assert said == (
        "the bottleneck reads early, deep, and early was not observed; use bottleneck.observe(model, photo)"
    )


def test_a_question_that_does_not_fit_is_refused(images: Tensor) -> None:
    model = tower()
    bottleneck = of_tower(model)
    observation = bottleneck.observe(model, images)
    assert "2 classes are given for 4 photos" in refusal(lambda: bottleneck.explain(observation, ["wren", "crow"]))
    assert "near names: crow" in refusal(lambda: bottleneck.explain(observation, "crowd"))
    assert "top 0" in refusal(lambda: bottleneck.explain(observation, top=0))
    away = copy.deepcopy(bottleneck).to("meta")
    assert "on meta and the photos were observed on cpu; move it" in refusal(lambda: away.explain(observation))


@pytest.mark.parametrize("how", ["observe", "explain"])
def test_another_model_is_refused(images: Tensor, how: str) -> None:
    bottleneck = of_tower(tower())
    other = dataclasses.replace(tower(1), name="tower 0")

    def use() -> Any:
        return bottleneck.observe(other, images) if how == "observe" else bottleneck(other.observe(images))

    said = refusal(use)
    assert re.match("this bottleneck was trained on tower 0 with weights .*, and tower 0 with weights .* was giv", said)
    bottleneck(bottleneck.observe(tower(), images))


# --- weights of the network that were trained too


@pytest.fixture
def tuned() -> tuple[cl.Backbone, Bottleneck]:
    model = tower()
    other = Tower(7).state_dict()
    changed = {name: value for name, value in other.items() if name.startswith("deep") or "running" in name}
    changed["early.1.running_mean"] = torch.full((3,), 0.3)
    return model, of_tower(model, "two peaks", changed_weights=changed)


def test_changed_weights_are_applied_to_a_copy(tuned: tuple[cl.Backbone, Bottleneck], images: Tensor) -> None:
    model, bottleneck = tuned
    kept = {name: value.clone() for name, value in model.module.state_dict().items()}
    observation = bottleneck.observe(model, images)
    assert observation.model.module is not model.module
    assert all(torch.equal(value, kept[name]) for name, value in model.module.state_dict().items())
    for name, value in observation.model.module.state_dict().items():
        assert torch.equal(value, bottleneck.backbone.changed_weights.get(name, kept[name])), name
    assert not torch.allclose(observation.feature("deep"), model.observe(images).feature("deep"), atol=1e-2)
    assert torch.allclose(bottleneck(observation).maps.mean((2, 3)), bottleneck(observation).scores, atol=1e-6)
    assert of_tower(model).observe(model, images).model.module is model.module


def test_an_observation_without_the_changed_weights_is_refused(
    tuned: tuple[cl.Backbone, Bottleneck], images: Tensor
) -> None:
    model, bottleneck = tuned
    said = refusal(lambda: bottleneck(model.observe(images)))
    assert "tower 0 was observed without them; use bottleneck.observe(model, photo)" in said


@pytest.mark.parametrize("changed", [{"deep.0.bias": torch.zeros(4)}, {"deep.9.bias": torch.zeros(6)}])
def test_changed_weights_of_another_network_are_refused(changed: dict[str, Tensor], images: Tensor) -> None:
    model = tower()
    bottleneck = of_tower(model, changed_weights=changed)
    assert f"another {next(iter(changed))} than tower 0" in refusal(lambda: bottleneck.observe(model, images))


def test_the_view_of_the_training_is_the_view_of_the_explanation() -> None:
    model = tower()
    view = cl.Preprocess((80, 64), mean=(0.1, 0.2, 0.3), crop_mode="squash")
    bottleneck = of_tower(model, preprocess=view)
    observation = bottleneck.observe(model, Image.new("RGB", (50, 90), (200, 10, 90)))
    assert observation.images.shape == (1, 3, 80, 64)
    assert observation.feature("deep").shape[2:] == (10, 8)
    assert bottleneck(observation).maps.shape == (1, 5, 5, 4)
    assert model.input_size == (40, 32)


# --- a folder


def whole(kind: str, tuned_too: bool = True) -> Bottleneck:
    """Everything a folder can hold."""
    changed = {"deep.0.bias": torch.arange(6.0)} if tuned_too else {}
    view = cl.Preprocess((40, 32), resize=(44, 36), crop_rounding="down")
    bottleneck = made(kind, backbone=BackboneReference("nobody", "0" * 16, view, changed))
    bottleneck.edits = EDITS
    bottleneck.training_record = {"seed": 3, "loss": {"mask": 0.1 + 0.2}}
    return bottleneck


@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_a_bottleneck_survives_its_folder_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    bottleneck = whole(kind)
    folder = bottleneck.save_pretrained(tmp_path / "deep" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["bottleneck.safetensors", "config.json"]
    again = Bottleneck.from_pretrained(folder)
    before, after = bottleneck(cells()), again(cells())
    for field in ("logits", "activations", "standardized", "maps"):
        assert torch.equal(getattr(before, field), getattr(after, field))
    for name in ("concepts", "classes", "layer", "grid", "edits", "training_record", "labels", "layers"):
        assert getattr(again, name) == getattr(bottleneck, name)
    assert type(again.locator) is type(bottleneck.locator)
    assert again.locator.settings() == bottleneck.locator.settings()
    assert (again.backbone.name, again.backbone.identity, again.backbone.preprocess) == (
        "nobody",
        "0" * 16,
        bottleneck.backbone.preprocess,
    )
    assert {name: value.tolist() for name, value in again.backbone.changed_weights.items()} == {
        "deep.0.bias": [0, 1, 2, 3, 4, 5]
    }
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    twice = Bottleneck.from_pretrained(again.save_pretrained(tmp_path / "again"))
    assert torch.equal(twice(cells()).logits, before.logits)


def test_the_description_is_json_for_any_reader(tmp_path: Path) -> None:
    def no(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (whole("whole").save_pretrained(tmp_path) / "config.json").read_text("utf-8")
    about = json.loads(text, parse_constant=no)
    assert about["edits"][2] == {"concept": 2, "low": -0.3, "high": None, "target": None, "note": ""}
    assert about["kind"] == "conceptlens bottleneck"


FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from conceptlens.bottleneck.module import Bottleneck
for folder in Path(sys.argv[1]).glob("*/"):
    reading = Bottleneck.from_pretrained(folder)(load_file(folder.parent / "cells.safetensors"))
    save_file({"logits": reading.logits, "maps": reading.maps.contiguous()}, folder / "found.safetensors")
"""


def test_a_fresh_process_reads_the_same_bits(tmp_path: Path) -> None:
    save_file(cells(), tmp_path / "cells.safetensors")
    for kind in LOCATOR_KINDS:
        whole(kind).save_pretrained(tmp_path / kind)
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, env=threads, timeout=120)
    for kind in LOCATOR_KINDS:
        found, expected = load_file(tmp_path / kind / "found.safetensors"), whole(kind)(cells())
        assert torch.equal(found["logits"], expected.logits)
        assert torch.equal(found["maps"], expected.maps)


def test_a_loaded_bottleneck_explains_the_network_it_was_tuned_with(
    tuned: tuple[cl.Backbone, Bottleneck], images: Tensor, tmp_path: Path
) -> None:
    _, bottleneck = tuned
    again = Bottleneck.from_pretrained(bottleneck.save_pretrained(tmp_path))
    before, after = (one(one.observe(tower(), images)) for one in (bottleneck, again))
    assert torch.equal(before.maps, after.maps)
    assert before.source.settings["logit"] == after.source.settings["logit"]
    assert again.backbone.changed_weights.keys() == bottleneck.backbone.changed_weights.keys()


def test_state_dicts_hold_what_is_trained_and_counted() -> None:
    bottleneck = made("parts")
    state = bottleneck.state_dict()
    assert set(state) == {
        "weight", "mean", "std", "head.weight", "head.bias", "locator.weight.0", "locator.weight.1",
    }  # fmt: skip
    other = made("parts", seed=9)
    assert not torch.allclose(other(cells()).logits, bottleneck(cells()).logits, atol=1e-2)
    other.load_state_dict(state)
    assert torch.equal(other(cells()).logits, bottleneck(cells()).logits)
    fresh = Bottleneck(CONCEPTS, CLASSES, "deep", 6, locator("whole"), (5, 4), BackboneReference("nobody", ""))
    assert not fresh(cells()).logits.any()
    assert (fresh.mean.tolist(), fresh.std.tolist()) == ([0.0] * 5, [1.0] * 5)
    assert filled(fresh)(cells()).logits.any()


def test_a_folder_that_is_none_older_or_newer_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: Bottleneck.from_pretrained(tmp_path / "nothing"))
    assert "holds no bottleneck (config.json cannot be read: No such file" in said
    assert said.endswith("give a folder made by conceptlens fit loc-cbm")
    config = whole("whole").save_pretrained(tmp_path) / "config.json"
    kept = config.read_text("utf-8")
    for text in ("{", "[]", "3", '{"format": "1"}', kept[:-40]):
        config.write_text(text)
        assert "holds no bottleneck" in refusal(lambda: Bottleneck.from_pretrained(tmp_path))
    for number, expected in (
        (1, "has the old format 1, and this version reads format 2; make the bottleneck again with conceptlens fit"),
        (3, "has format 3, and this version reads format 2; update"),
    ):
        config.write_text(json.dumps({**json.loads(kept), "format": number}))
        assert expected in refusal(lambda: Bottleneck.from_pretrained(tmp_path))
    config.write_text(json.dumps({**json.loads(kept), "told later": [1]}))
    assert torch.equal(Bottleneck.from_pretrained(tmp_path)(cells()).logits, whole("whole")(cells()).logits)


def test_weights_that_are_missing_cut_or_of_another_size_are_refused(tmp_path: Path) -> None:
    weights = whole("parts").save_pretrained(tmp_path) / "bottleneck.safetensors"
    kept, state = weights.read_bytes(), load_file(weights)
    for size in (0, 7, 100, len(kept) - 1):
        weights.write_bytes(kept[:size])
        assert "holds no whole bottleneck (bottleneck.safetensors is damaged or cut short); fit it again" in refusal(
            lambda: Bottleneck.from_pretrained(tmp_path)
        )
    for name in ("weight", "mean", "head.bias", "locator.weight.1"):
        for wrong in ({**state, name: torch.zeros(2, 2)}, {n: value for n, value in state.items() if n != name}):
            save_file(wrong, weights)
            said = refusal(lambda: Bottleneck.from_pretrained(tmp_path))
            assert "bottleneck.safetensors holds other sizes than config.json" in said
    save_file({**state, "mean": torch.full_like(state["mean"], torch.nan)}, weights)
    assert "holds values in 'mean' that are not finite" in refusal(lambda: Bottleneck.from_pretrained(tmp_path))
    weights.unlink()
    assert "bottleneck.safetensors cannot be read" in refusal(lambda: Bottleneck.from_pretrained(tmp_path))


WRONG: dict[str, tuple[Any, str]] = {
    "concepts": ("red wing", "in config.json, concepts is 'red wing'; expected a list of objects"),
    "concepts.0.label": ("", "config.json does not fit together"),
    "concepts.0.colour": ("red", "config.json does not fit together"),
    "classes": (["one"], "config.json does not fit together: a bottleneck of 5 concepts and 1 classes"),
    "channels": (7, "bottleneck.safetensors holds other sizes than config.json"),
    "grid": ([5], "config.json does not fit together"),
    "grid.0": (0, "config.json does not fit together: maps of 0 x 4 cells"),
    "locator.kind": ("compass", "config.json does not fit together: 'compass'"),
    "locator.settings.radius": (-1, "config.json does not fit together: the radius is -1"),
    "locator.settings.speed": (3, "config.json does not fit together"),
    "model": ("tower", "config.json lacks model.name; expected a text"),
    "model.preprocess.speed": (3, "config.json does not fit together"),
    "edits.0.concept": (9, "config.json does not fit together: concept 9 was given; there are 5"),
    "edits.0.target": ("tern", "config.json does not fit together: concept 0 of class 'tern'"),
    "edits.0.low": ("a", "config.json does not fit together"),
    "training": (None, "in config.json, training is None; expected an object"),
}


@pytest.mark.parametrize("path", WRONG)
def test_a_damaged_description_is_refused_with_what_is_wrong(tmp_path: Path, path: str) -> None:
    config = whole("one peak").save_pretrained(tmp_path) / "config.json"
    about = json.loads(config.read_text("utf-8"))
    value, said = WRONG[path]
    *parents, last = path.split(".")
    holder = about
    for name in parents:
        holder = holder[int(name) if name.isdigit() else name]
    holder[int(last) if last.isdigit() else last] = value
    config.write_text(json.dumps(about))
    assert said in refusal(lambda: Bottleneck.from_pretrained(tmp_path))
