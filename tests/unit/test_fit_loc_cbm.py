"""A bottleneck fitted to a few drawn birds: every recipe and locator, sizes, grids, keypoints, the last stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from drawn_birds import CLASSES, CONCEPTS, LABELS, birds, shares, write_birds
from fit_process import pupil, teacher_of
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import conceptlens as cl
from conceptlens.bottleneck.fit import finetune, fitted_locator
from conceptlens.bottleneck.fit.bottleneck_task import at_size
from conceptlens.bottleneck.fit.finetune import BackboneWithBottleneck, FinetuneTask, last_stage
from conceptlens.bottleneck.fit.recipe import RECIPES
from conceptlens.bottleneck.locator import LOCATORS, Parts, WholeImage
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.keypoints_in_view import keypoints_in_view
from conceptlens.data.labelled_sets import open_classes
from conceptlens.training.crops import network_input, random_crop
from conceptlens.training.schedule import StepSchedule
from tolerance import assert_agree

pytestmark = pytest.mark.wide

LITTLE = {"steps": 12, "batch": 16, "restarts": 2, "penalties": (0.1,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_birds(tmp_path_factory.mktemp("birds"))


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    return f"cub:{folder}"


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return pupil()


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIND", "GUIDE", "POINT"):
        monkeypatch.setattr(fitted_locator, name, StepSchedule(12, 16, 0.02))


def fit(model: cl.Backbone, data: str, out: Path, **choices: Any) -> Bottleneck:
    return cl.fit_loc_cbm(model, data, out, **{**LITTLE, **choices})


def observed(made: Bottleneck, model: cl.Backbone, data: str) -> cl.Observation:
    """Three test photos, as the bottleneck needs them."""
    photos = open_classes(data, "test")
    return made.observe(model, [photos[place] for place in range(3)])


def logits_of(made: Bottleneck, model: cl.Backbone, data: str) -> Tensor:
    return made.output(observed(made, model, data)).logits


def check(made: Bottleneck, model: cl.Backbone, data: str, out: Path) -> None:
    """What holds of every bottleneck: head(z(c)), contributions that add up, maps whose mean is c, and its folder."""
    seen = observed(made, model, data)
    reading, found = made.output(seen), made(seen)
    standard = (reading.activations - made.mean) / made.std
    wanted = standard @ made.head.weight.T + made.head.bias
    assert torch.allclose(reading.logits, wanted, atol=1e-5)
    assert float(reading.logits.std(0).max()) > 0  # photos differ
    assert found.contributions is not None
    assert found.scores is not None
    for image in range(3):
        target = made.class_index(found.source.settings["target"][image])
        total = found.contributions[image].sum() + made.head.bias[target]
        assert float(total) == pytest.approx(float(wanted[image, target]), abs=1e-4)
    assert found.maps.shape[1:] == (len(made.concepts), *made.grid)
    assert torch.allclose(found.maps.mean((2, 3)), found.scores, atol=1e-5)
    assert torch.allclose(found.scores, reading.activations, atol=1e-6)
    again = Bottleneck.from_pretrained(out)
    assert torch.equal(again.output(observed(again, model, data)).logits, reading.logits)
    assert again.training_record == made.training_record
    assert {file.name for file in out.iterdir()} <= {
        "bottleneck.safetensors", "config.json", "run.json", "failures.json", "training"
    }  # fmt: skip
    assert not list(out.glob("**/checkpoint.safetensors"))
    assert json.loads((out / "failures.json").read_text()) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits(model: cl.Backbone, data: str, tmp_path: Path, recipe: str) -> None:
    made = fit(model, data, tmp_path / "a", recipe=recipe, penalties=(0.03, 0.3))
    check(made, model, data, tmp_path / "a")
    record = made.training_record
    assert made.classes == CLASSES
    assert made.labels == (LABELS if recipe != "probe" else tuple(f"channel {i}" for i in range(12)))
    assert (record["photos_used"], record["failures"]) == (42, 0)
    assert record["targets_by"] == ("none" if recipe == "probe" else "labels")
    chosen = RECIPES[recipe].get("locator", "parts")  # auto: these concepts speak of parts
    assert record["locator"] == chosen
    assert type(made.locator) is (LOCATORS[chosen] if recipe != "poster" else WholeImage)
    assert made.grid == ((8, 8) if chosen == "parts" else (4, 4))
    assert 0.3 < record["holdout_accuracy"] <= 1
    assert record["holdout_accuracy_of_linear_probe"] > 0.8
    assert model.module.training is False


@pytest.mark.parametrize(
    "choices",
    [
        {"locator": "softmax", "loss": "cosine", "temperature": 0.3},
        {"locator": "peaks", "loss": "mse", "peaks": 2, "schedule": "cosine"},
        {"locator": "peaks", "loss": "raw", "replace": False, "schedule": "exponential"},
        {"locator": "parts", "loss": "bce", "share": 0.1},
        {"locator": "softmax", "loss": "ridge"},
        {"locator": "whole", "nec": 1},
    ],
    ids=lambda choices: " ".join(map(str, choices.values())),
)
def test_every_locator_fits_with_other_losses(
    model: cl.Backbone, data: str, tmp_path: Path, choices: dict[str, Any]
) -> None:
    made = fit(model, data, tmp_path, **choices)
    check(made, model, data, tmp_path)
    assert type(made.locator) is LOCATORS[choices["locator"]]
    used = (made.head.weight != 0).sum()
    assert int(used) == (3 if "nec" in choices else 12)


def test_a_ridge_bottleneck_is_what_the_formulas_give(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    """Pooled cells, ridge without a constant, z-scores, multinomial regression: from the photos, one by one."""
    made = fit(model, data, tmp_path, recipe="ridge", penalties=(0.03, 0.3))
    train = open_classes(data)
    pooled = [model.observe(train[place]).feature("second")[0].mean((1, 2)).double() for place in range(len(train))]
    rows = torch.stack(pooled).numpy()
    told = shares()[train.labels]
    penalty, strength = made.training_record["penalty"], made.training_record["strength"]
    gram = rows.T @ rows
    gram += penalty * np.mean(np.diag(gram)) * np.eye(12)
    weight = np.linalg.solve(gram, rows.T @ told).T
    np.testing.assert_allclose(made.weight.numpy(), weight, atol=0.02 * np.abs(weight).max())  # cells in half precision
    activations = rows @ weight.T
    standard = (activations - activations.mean(0)) / activations.std(0)
    head = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-8, max_iter=5000).fit(standard, train.labels)
    np.testing.assert_allclose(made.head.weight.numpy(), head.coef_, atol=0.03 * np.abs(head.coef_).max())
    logits = torch.cat([made.output(made.observe(model, train[place])).logits for place in range(len(train))])
    np.testing.assert_allclose(logits.numpy(), head.decision_function(standard), atol=0.1)


def test_random_directions_know_nothing_and_the_probe_reads_the_channels(
    model: cl.Backbone, data: str, tmp_path: Path
) -> None:
    first = fit(model, data, tmp_path / "a", recipe="random")
    other = fit(model, data, tmp_path / "b", recipe="random", concepts=["x", "y", "red belly", "green belly"],
                targets=str(table(tmp_path, ["x", "y", "red belly", "green belly"])))  # fmt: skip
    assert torch.equal(first.weight, other.weight)
    assert torch.allclose(first.weight.norm(dim=1), torch.ones(4))
    assert not torch.allclose(first.weight, fit(model, data, tmp_path / "c", recipe="random", seed=1).weight, atol=0.1)
    probe = fit(model, data, tmp_path / "d", recipe="probe")
    assert torch.equal(probe.weight, torch.eye(12))
    assert probe.training_record["holdout_accuracy"] == probe.training_record["holdout_accuracy_of_linear_probe"]


def table(folder: Path, labels: list[str]) -> Path:
    """Write a table of targets with a row for each class, every column another."""
    rows = [[(3 * place + number + 1) / 20 for place in range(len(labels))] for number in range(3)]
    lines = [",".join([name, *map(str, row)]) for name, row in zip(CLASSES, rows, strict=True)]
    (folder / "table.csv").write_text("\n".join([",".join(["name", *labels]), *lines]))
    return folder / "table.csv"


@pytest.mark.parametrize("choices", [{"locator": "peaks", "loss": "mse"}, {"keypoints": 2}], ids=["maps", "parts"])
def test_streamed_is_as_cached_to_half_precision(
    model: cl.Backbone, data: str, tmp_path: Path, choices: dict[str, Any]
) -> None:
    cache = tmp_path / "cache"
    cached = fit(model, data, tmp_path / "a", cache=cache, **choices)
    files = sorted(cache.glob("*/*.safetensors"))
    assert files
    before = {file: file.stat().st_mtime_ns for file in files}
    again = fit(model, data, tmp_path / "b", cache=cache, **choices)
    assert {file: file.stat().st_mtime_ns for file in files} == before  # kept, and not made again
    streamed = fit(model, data, tmp_path / "c", cache_gb=0, cache=tmp_path / "none", **choices)
    assert not (tmp_path / "none").exists()
    one, two, three = (logits_of(made, model, data) for made in (cached, again, streamed))
    assert torch.equal(one, two)
    assert torch.allclose(one, three, atol=0.03 * float(one.abs().max()))


def test_inputs_of_another_size_and_maps_on_another_grid(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    large = fit(model, data, tmp_path / "a", size=64)
    check(large, model, data, tmp_path / "a")
    assert (large.backbone.preprocess.size, large.grid) == ((64, 64), (8, 8))  # pyright: ignore[reportOptionalMemberAccess]
    assert observed(large, model, data).images.shape[2:] == (64, 64)
    assert (tmp_path / "a" / "training" / "finer" / "logs").is_dir()  # found at the network's own size, taught at this
    assert sum("parts-" in file.name for file in (tmp_path / "a" / "training").glob("parts-*/logs")) == 0
    wide = fit(model, data, tmp_path / "b", grid=(3, 5))
    check(wide, model, data, tmp_path / "b")
    assert wide.grid == (3, 5)
    early = fit(model, data, tmp_path / "c", layer="first", locator="whole")
    assert (early.layers, early.grid, early.weight.shape[1]) == (("first",), (8, 8), 10)


def test_another_size_sees_the_same_part_of_a_photo(model: cl.Backbone) -> None:
    views = [
        cl.Preprocess((32, 32), resize=40),
        cl.Preprocess((32, 32), share=0.8),
        cl.Preprocess((32, 32), resize=(40, 44)),
        cl.Preprocess((32, 32), crop_mode="squash"),
    ]
    for view in views:
        wider = at_size(dataclasses.replace(model, transform=view), 64)
        assert isinstance(wider.transform, cl.Preprocess)
        assert wider.transform.size == wider.input_size == (64, 64)
        assert wider.transform.box((300, 200)) == pytest.approx(view.box((300, 200)), abs=0.01)
    assert at_size(model, None) is at_size(model, 32) is model


def test_keypoints_teach_parts(folder: Path, model: cl.Backbone, data: str, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[Any] = []
    teach = fitted_locator.teach_parts

    def noted(source: Any, indices: Any, keypoints: Any, *others: Any) -> Any:
        asked.extend([indices, keypoints])
        return teach(source, indices, keypoints, *others)

    monkeypatch.setattr("conceptlens.bottleneck.fit.fitted_locator.teach_parts", noted)
    made = fit(model, data, tmp_path / "a", keypoints=2)
    check(made, model, data, tmp_path / "a")
    assert isinstance(made.locator, Parts)
    assert (made.locator.names, made.locator.part.tolist()) == (("belly", "tail"), [0, 0, 1, 1])
    train = open_classes(data)
    assert np.bincount(train.labels[list(asked[0])]).tolist() == [2, 2, 2]
    known = train.annotation.keypoints  # pyright: ignore[reportOptionalMemberAccess]
    view = model.transform
    assert isinstance(view, cl.Preprocess)
    left, top, right, bottom = view.box((48, 40))
    for row, place in enumerate(asked[0]):
        x, y = known.xy[place, 0]  # pyright: ignore[reportOptionalMemberAccess]
        wanted = ((x - left) / (right - left), (y - top) / (bottom - top))
        inside = all(0 <= value <= 1 for value in wanted)
        assert bool(asked[1].visible[row, 0]) == inside
        assert asked[1].xy[row, 0].tolist() == pytest.approx(wanted if inside else (0, 0), abs=1e-6)
    words = fit(model, data, tmp_path / "b")
    assert isinstance(words.locator, Parts)
    assert not torch.allclose(words.locator.weight[1], made.locator.weight[1], atol=1e-3)
    with pytest.raises(
        cl.InputError, match=r"no concept names a part with keypoints; parts: belly, tail; give concepts"
    ):
        fit(model, data, tmp_path / "c", keypoints=1, concepts=["red belly", "green belly"])
    assert not (tmp_path / "c" / "cells").exists()
    with pytest.raises(cl.InputError, match="has no keypoints; give a set that has them, such as cub:FOLDER"):
        keypoints_in_view(open_classes(f"folder:{folder / 'images'}"), [0], view)


def test_parts_that_nothing_tells_take_the_whole_image(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    """Of the beak only one thing is said, and that of no other part: nothing tells where it is."""
    lone = BottleneckConcept("curved beak", "beak", "head", "curved", "shape")
    labels = [*LABELS, "curved beak", "size"]
    given = [*CONCEPTS, lone, "size"]
    made = fit(model, data, tmp_path / "a", concepts=given, targets=str(table(tmp_path, labels)))
    assert isinstance(made.locator, Parts)
    assert made.locator.part.tolist() == [0, 0, 1, 1, -1, -1]


def test_without_masks_only_the_fit_is_located(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    located = fit(model, data, tmp_path / "a")
    plain = fit(model, data, tmp_path / "b", masked=False)
    check(plain, model, data, tmp_path / "b")
    assert isinstance(plain.locator, WholeImage)
    assert_agree(plain.weight, located.weight)
    assert not torch.allclose(plain.mean, located.mean, atol=1e-4)


def test_concepts_that_cannot_be_learnt_are_left_out_where_asked(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    train = open_classes(data)
    assert isinstance(model.transform, cl.Preprocess)
    seen = [model.transform(train[place]) for place in range(42)]
    red = np.array([float((colours[0] - colours[1]).mean()) for colours in seen])
    shown = (red - red.min()) / np.ptp(red)
    chance = np.random.default_rng(0).random(42)
    rows = [f"{name},{one:.4f},{other:.4f}" for name, one, other in zip(train.names, shown, chance, strict=True)]
    (tmp_path / "own.csv").write_text("\n".join(["name,reddish,chance", *rows]))
    choices: dict[str, Any] = {"recipe": "ridge", "holdout": 0.3, "interpretable": 0.45, "penalties": (0.001,)}
    made = fit(model, data, tmp_path / "a", targets=str(tmp_path / "own.csv"), **choices)
    assert made.labels == ("reddish",)
    (dropped,) = made.training_record["dropped"]
    assert (dropped["label"], dropped["filter"]) == ("chance", "interpretability")
    assert "above 0.45 is kept" in dropped["reason"]
    check(made, model, data, tmp_path / "a")


def test_words_come_from_a_pair_where_there_are_no_labels(folder: Path, model: cl.Backbone, tmp_path: Path) -> None:
    data = f"folder:{folder / 'images'}"  # the same photos, without attributes
    pair = teacher_of()
    made = fit(model, data, tmp_path / "a", vlm=pair, concepts=["cat", "dog", "tree"])
    assert made.training_record["targets_by"] == "vlm"
    assert made.training_record["vlm"].startswith("teacher 9 ")
    assert made.labels == ("cat", "dog", "tree")
    assert not list((tmp_path / "a").glob("vectors*"))
    with pytest.raises(cl.InputError, match=r"no target says how much the photos show of 'cat' and 2 more; give a vis"):
        fit(model, data, tmp_path / "b", concepts=["cat", "dog", "tree"])


def test_an_unreadable_photo_is_listed(folder: Path, model: cl.Backbone, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    bad = next((own / "002.Bay_Tern").glob("0003*"))
    bad.write_bytes(bad.read_bytes()[:60])
    lists: list[list[dict[str, str]]] = []
    for name, choices in (("kept", {}), ("streamed", {"cache_gb": 0})):
        made = fit(model, f"folder:{own}", tmp_path / name, vlm=teacher_of(), concepts=["cat", "dog"], **choices)
        lists.append(json.loads((tmp_path / name / "failures.json").read_text()))
        assert (made.training_record["photos_used"], made.training_record["failures"]) == (47, 1)
    assert lists[0] == lists[1]
    assert [entry["name"] for entry in lists[0]] == ["002.Bay_Tern/0003.png"]
    assert "0003.png" in lists[0][0]["reason"]


@pytest.mark.gpu
@pytest.mark.parametrize("choices", [{"recipe": "loc-cbm"}, {"recipe": "poster"}, {"recipe": "ridge", "finetune": 1}])
def test_a_fit_on_cuda_ends_as_one_on_the_processor(data: str, tmp_path: Path, choices: dict[str, Any]) -> None:
    here = fit(pupil(), data, tmp_path / "here", **choices)
    there = fit(pupil(), data, tmp_path / "there", device="cuda", **choices)
    check(there, pupil(), data, tmp_path / "there")
    assert torch.allclose(here.weight, there.weight, atol=1e-2)


def test_a_class_folder_without_photos_is_stated(folder: Path, model: cl.Backbone, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder / "images", tmp_path / "images"))
    (own / "009.Empty_Owl").mkdir()
    made = fit(model, f"folder:{own}", tmp_path / "a", vlm=teacher_of(), concepts=["cat", "dog"])
    assert made.training_record["left_out"] == {"009.Empty_Owl": "no photo"}


# --- the last stage


def test_the_last_stage_is_trained_with_the_bottleneck(
    model: cl.Backbone, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "RATE", 2e-3)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    asking = [value.requires_grad for value in model.module.parameters()]
    frozen = fit(model, data, tmp_path / "a", recipe="ridge", nec=1)
    made = fit(model, data, tmp_path / "b", recipe="ridge", nec=1, finetune=8)
    check(made, model, data, tmp_path / "b")
    assert sorted(made.backbone.changed_weights) == ["second.0.bias", "second.0.weight"]
    for name, value in made.backbone.changed_weights.items():
        assert not torch.equal(value, before[name])
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert [value.requires_grad for value in model.module.parameters()] == asking
    assert model.module.training is False
    assert torch.equal(made.head.weight == 0, frozen.head.weight == 0)
    assert not torch.equal(made.weight, frozen.weight)
    assert_agree(made.mean, frozen.mean)
    photos = open_classes(data, "test")
    with pytest.raises(cl.InputError, match=r"was observed without them; use bottleneck.observe\(model, photo\)"):
        made(model.observe(photos[0]))
    loss = [_loss(one, model, data) for one in (frozen, made)]
    assert loss[1] < 0.9 * loss[0]


def _loss(made: Bottleneck, model: cl.Backbone, data: str) -> float:
    train = open_classes(data)
    logits = torch.cat([made.output(made.observe(model, train[place])).logits for place in range(len(train))])
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(train.labels)))


@pytest.mark.parametrize("loss", ["ridge", "mse", "random", "channels"])
def test_the_loss_of_the_last_stage(model: cl.Backbone, data: str, tmp_path: Path, loss: str) -> None:
    made = fit(model, data, tmp_path, locator="whole", loss="ridge")
    train = open_classes(data)
    targets = torch.tensor(shares()[train.labels]).float()
    targets[:, 3] = 0.5  # says nothing
    places = list(range(0, 42, 3))
    labels = torch.tensor(train.labels)[places]
    task = FinetuneTask(
        BackboneWithBottleneck(model, made, "first", ()),
        model,
        train,
        places,
        labels,
        targets[places],
        loss,
        0.03,
        10,
        5,
    )
    rows = torch.tensor([5, 0, 13, 7, 7, 2])
    found = float(task.loss(task.network, rows, rows, lambda mine: mine, 0.3))

    logits, made_of, wanted = [], [], targets[places][rows]
    for number, row in enumerate(rows.tolist()):
        place = places[row]  # step 3 of 10, batches of 6
        part = random_crop(train[place], train.names[place], 3 * 6 + number, 5, (0.5, 1.0))
        reading = made.output(model.observe(network_input(model, part)[None]))
        logits.append(reading.logits[0])
        made_of.append(reading.activations[0])
    logs = torch.stack(logits).log_softmax(1)
    right = logs[torch.arange(6), labels[rows]]
    total = float(-(0.9 * right + 0.1 * logs.mean(1)).mean() + 0.015 * (made.head.weight**2).sum())
    errors = []
    for concept in range(3):
        a, t = (torch.stack(made_of)[:, concept], wanted[:, concept])
        if loss == "ridge":
            errors.append(float((((a - t) / targets[places][:, concept].std()) ** 2).mean()))
        elif loss == "mse":
            z = [(one - one.mean()) / one.std(correction=0) for one in (a, t)]
            errors.append(float(((z[0] - z[1]) ** 2).mean()))
        else:
            errors.append(0.0)
    assert found == pytest.approx(total + sum(errors) / 3, rel=1e-4)


def test_a_network_of_one_grid_has_no_last_stage(data: str, tmp_path: Path) -> None:
    vit = cl.load_model(f"hf:{tiny_models.save_transformers('vit', tmp_path / 'vit')}")
    with pytest.raises(
        cl.InputError, match=r"have one grid, so it has no last stage to train; leave --finetune out"
    ) as said:
        fit(vit, data, tmp_path / "a", recipe="ridge", finetune=1)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "a" / "cells").exists()  # before any photo is looked at
    made = fit(vit, data, tmp_path / "b")
    check(made, vit, data, tmp_path / "b")
    assert isinstance(made.locator, Parts)
    with pytest.raises(cl.InputError, match=r"does not read inputs of 64 pixels \(.+\); leave the size out$"):
        fit(vit, data, tmp_path / "c", size=64)


def test_the_last_stage_follows_the_second_coarsest(model: cl.Backbone) -> None:
    assert last_stage(model, "second") == {"second.0.weight", "second.0.bias"}
    with pytest.raises(cl.InputError, match=r"no layer of pupil 0 after first leads to first; read a later --layer"):
        last_stage(model, "first")


def test_birds_are_told_apart_by_both_parts_alone() -> None:
    """The data of these tests: no part alone tells the class."""
    assert len(set(birds())) == 3
    assert max(len({b for b, _ in birds()}), len({t for _, t in birds()})) == 2
