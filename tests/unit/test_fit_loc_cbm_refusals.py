"""What no bottleneck can be fitted to, said in one sentence; and odd sets to which one can."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from drawn_birds import CONCEPTS, LABELS, Held, write_birds
from fit_process import pupil, teacher_of
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.bottleneck.fit.concept_vectors import concept_weights
from conceptlens.bottleneck.fit.free_memory import check_memory
from conceptlens.bottleneck.fit.head_fit import choose, fit_head
from conceptlens.bottleneck.fit.recipe import Recipe, recipe_named
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concepts.concept_set import ConceptSet, collect
from conceptlens.data.labelled_set import Annotation, PhotoKeypoints
from conceptlens.data.labelled_sets import open_classes


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return pupil()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cub:{write_birds(tmp_path_factory.mktemp('birds'), train=4)}"


def noise(labels: Sequence[int], classes: int = 2, unread: Sequence[int] = (), same: bool = False) -> Held:
    """Photos of noise, brighter in later classes; or one grey photo again and again."""
    photos: list[Image.Image | None] = []
    for place, kind in enumerate(labels):
        random = np.random.default_rng(0 if same else place)
        values = random.integers(0, 256, (6, 8, 3)) * (1 if same else (1 + kind) / (1 + classes))
        photos.append(None if place in unread else Image.fromarray(values.astype(np.uint8)).resize((40, 36)))
    return Held(photos, labels, [f"class {number}" for number in range(classes)])


def two(classes: int = 2) -> ConceptSet:
    """Two concepts that tell all classes apart."""
    return collect(
        ["bright", "dark"], "a person", np.stack([np.arange(classes), np.arange(classes)[::-1]], 1) / classes
    )


def fit(model: cl.Backbone, photos: Held | str, out: Path, **choices: Any) -> Bottleneck:
    little: dict[str, Any] = {"recipe": "ridge", "penalties": (0.1,), "holdout": 0.25}
    own = {} if isinstance(photos, str) else {"concepts": two(len(photos.classes))}
    return cl.fit_loc_cbm(model, photos, out, **{**little, **own, **choices})


def said(model: cl.Backbone, photos: Held | str, out: Path, **choices: Any) -> str:
    """What a fit says that is refused: one line, and no bottleneck."""
    with pytest.raises(cl.InputError) as caught:
        fit(model, photos, out, **choices)
    assert "\n" not in str(caught.value)
    assert not (out / "config.json").exists()
    return str(caught.value)


# --- classes and photos


def test_classes_that_cannot_be_told_apart(model: cl.Backbone, tmp_path: Path) -> None:
    assert said(model, noise([0] * 8, 1), tmp_path) == ("held train has 1 class; a bottleneck tells at least two apart")
    assert said(model, noise([0] * 4 + [2] * 4, 4), tmp_path) == (
        "class 'class 1' and 1 more of held train has no photo; add photos, or take the class out"
    )
    assert "class 1 would keep no photo: it has 1 and 0.25 of each class is held out" in said(
        model, noise([0] * 8 + [1]), tmp_path
    )
    assert not (tmp_path / "cells").exists()


def test_photos_that_cannot_be_read(model: cl.Backbone, tmp_path: Path) -> None:
    for name, choices in (("kept", {}), ("streamed", {"cache_gb": 0})):
        nothing = noise([0] * 4 + [1] * 4, unread=range(8))
        whole = "no photo of held train could be read; the first: 000.png is cut short; copy it again"
        assert said(model, nothing, tmp_path / name, **choices) == whole
        partly = noise([0] * 4 + [1] * 4 + [2] * 4, 3, unread=(4, 5, 6, 7, 9))
        assert said(model, partly, tmp_path / f"{name} partly", **choices) == (
            "no photo of class 'class 1' of held train could be read; the first: 004.png is cut short; copy it again"
        )
    seeing = {"vlm": teacher_of(), "concepts": ["cat", "dog"], "targets": "vlm"}
    assert said(model, nothing, tmp_path / "pair", **seeing) == whole


@pytest.mark.parametrize("cache_gb", [8, 0])
def test_features_that_do_not_differ(model: cl.Backbone, tmp_path: Path, cache_gb: float) -> None:
    alike = noise([0] * 37 + [1] * 38, same=True)  # in batches of several sizes
    for number, choices in enumerate(({}, {"locator": "peaks", "loss": "mse", "steps": 3}, {"nec": 1})):
        text = said(model, alike, tmp_path / str(number), cache_gb=cache_gb, **choices)
        assert text.startswith("every concept has the same activation in all photos, so the layer's cells do not")


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    broken = pupil()
    with torch.no_grad():
        broken.module.get_submodule("second.0").get_parameter("bias")[3] = torch.nan
    text = said(broken, noise([0] * 4 + [1] * 4), tmp_path)
    assert text.startswith("layer 'second' has values that are not finite for 8 of 8 photos, first 000.png; leave such")


def test_two_classes_are_enough(model: cl.Backbone, tmp_path: Path) -> None:
    photos = noise([0] * 8 + [1] * 8)
    made = fit(model, photos, tmp_path)
    assert made.head.weight.shape == (2, 2)
    logits = torch.cat([made.output(made.observe(model, photos[place])).logits for place in range(16)])
    assert float((logits.argmax(1) == torch.tensor(photos.labels)).float().mean()) > 0.8


# --- concepts


def test_concepts_that_no_photo_shows_and_such_as_are_there_twice(model: cl.Backbone, tmp_path: Path) -> None:
    shares = np.array([[0.0, 1.0, 0.5, 0.2], [0.0, 0.0, 0.5, 0.9]])
    given = collect(["never", "bright", "always", "dark"], "a person", shares)
    made = fit(model, noise([0] * 6 + [1] * 6), tmp_path / "a", concepts=given)
    assert made.labels == ("bright", "dark")
    reasons = {one["label"]: one["reason"] for one in made.training_record["dropped"]}
    assert reasons == {
        "never": "no train photo shows it",
        "always": "every train photo shows as much of it (0.5): it tells no class apart",
    }
    twice = fit(
        model, noise([0] * 6 + [1] * 6), tmp_path / "b", vlm=teacher_of(), concepts=["cat", "CAT", "dog", "cat "]
    )
    assert twice.labels == ("cat", "dog")
    assert [one["filter"] for one in twice.training_record["dropped"]] == ["duplicate"] * 2
    none = collect(["never"], "a person", np.zeros((2, 1)))
    assert said(model, noise([0] * 6 + [1] * 6), tmp_path / "c", concepts=none).startswith(
        "a person leaves no concept (targets dropped 1); give other concepts"
    )


def test_targets_with_gaps_are_filled(model: cl.Backbone, tmp_path: Path) -> None:
    table = tmp_path / "told.csv"
    table.write_text("name,bright,dark\n000.png,0.1,\n005.png,,0\n006.png,0.9,0.2\n011.png,0.7,\n")
    photos = noise([0] * 6 + [1] * 6)
    made = fit(model, photos, tmp_path / "a", concepts="auto", targets=str(table))
    assert bool(made.weight.isfinite().all())
    filled = tmp_path / "filled.csv"
    rows = [f"{place:03}.png,{0.1 if place < 6 else 0.9 if place == 6 else 0.7 if place == 11 else 0.8},"
            f"{0 if place < 6 else 0.2}" for place in range(12)]  # fmt: skip
    filled.write_text("\n".join(["name,bright,dark", *rows]))
    again = fit(model, photos, tmp_path / "b", concepts="auto", targets=str(filled))
    assert torch.allclose(made.weight, again.weight, atol=1e-6)


def test_more_concepts_than_there_is_memory_for(
    model: cl.Backbone, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * (7 * 100 * 30 + 2 * 100 * 3 * 50 + 4 * 30 * 50)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    check_memory(100, 30, channels=50, masks=3)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(cl.InputError, match=r"^30 concepts of 100 photos need about 0\.0 GB of memory and 0\.0 GB are"):
        check_memory(100, 30, channels=50, masks=3)
    with pytest.raises(cl.InputError, match=r"need about 1\.0 GB"):
        check_memory(100, 30, channels=50, masks=3, columns=250_000_000)
    # Targets alone would fit: it is the cells, pooled once for each of two parts and the whole image, that do not.
    tables = 4 * 7 * 12 * 4
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=tables + 4 * 2 * 12 * 3 * 12))
    assert "4 concepts of 12 photos need about" in said(model, data, tmp_path, recipe="loc-cbm")
    assert not (tmp_path / "cells").exists()


# --- choices


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"recipe": "posters"}, "no recipe 'posters'; near names: poster"),
        ({"stepps": 3}, "a recipe has no choice 'stepps'; near names: steps"),
        ({"locator": "part"}, "no locator 'part'; near names: parts"),
        ({"loss": "cos"}, "no loss 'cos'; near names: cos3, cosine"),
        ({"masked": "False"}, "masked is 'False'; give true or false"),
        ({"steps": True}, "steps is True; give a whole number"),
        ({"steps": 0}, "steps is 0; give a whole number of at least 1"),
        ({"penalties": 0.1}, "penalties is 0.1; give a list of numbers"),
        ({"penalties": ()}, "penalties are (); give at least one, each above 0"),
        ({"rate": "fast"}, "rate is 'fast'; give a number"),
        ({"rate": float("nan")}, "rate is nan; give a number"),
        ({"first": 0}, "the radius goes from 0 to 1.0; give a first radius of at least the last"),
        ({"schedule": "steps"}, "no radius schedule 'steps'"),
        ({"holdout": 1.0}, "holdout, share and warmup are 1.0, 0.0 and 0.2; give shares below 1"),
        ({"small": -1}, "weights are 0.1, 3.0, -1; give none below 0"),
        ({"nec": 0}, "rate, temperature and nec are 0.001, 1.0 and 0; give numbers above 0"),
        ({"keypoints": 1}, "keypoints teach the locator 'parts', and 'whole' was given; leave one out"),
        ({"nec": 5}, "5 of 4 concepts for each of 3 classes were given; give at most 4"),
        ({"nec": 1.5}, "1.5 of 4 concepts for each of 3 classes were given; give at most 4, and a number that"),
        ({"seed": -1}, "0.25 of each class was to be held out with seed -1; expected a share"),
        ({"size": 16}, "inputs of 16 pixels were given; give at least 32"),
        ({"grid": (0, 3)}, "the grid is (0, 3); give rows and columns, two whole numbers above 0"),
        ({"grid": 7}, "the grid is 7; give rows and columns, two whole numbers above 0"),
        ({"layer": "head"}, "layer 'head' of pupil 0 has no grid of cells that reaches the output"),
        ({"locator": "parts", "concepts": LABELS[:2]}, "parts are found where concepts say one property of several p"),
        ({"locator": "parts", "concepts": CONCEPTS[:2]}, "these name 1 parts and 0 shared properties"),
        ({"interpretable": 0.5}, "3 held-out images were given; interpretability needs at least 10"),
        ({"data": "cubs:nowhere"}, "no data set 'cubs'; near names: cub"),
        ({"concepts": "no file"}, "cannot read 'no file'"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be(
    model: cl.Backbone, data: str, tmp_path: Path, choices: dict[str, Any], text: str
) -> None:
    given = {**choices}
    assert text in said(model, given.pop("data", data), tmp_path / "out", **given)
    if "interpretable" not in choices:
        assert not (tmp_path / "out" / "cells").exists()  # before the network has seen any photo


def test_a_network_needs_its_preprocessing(model: cl.Backbone, data: str, tmp_path: Path) -> None:
    blind = replace(model, transform=None)
    assert said(blind, data, tmp_path).startswith(
        "pupil 0 has no transform, so a bottleneck does not know what it sees of a photo; give Backbone("
    )


def test_where_a_path_ends_before_nec_its_end_is_taken() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 1, generator=random) + 3 * (torch.arange(60) % 3)[:, None]
    rows = torch.cat([rows, torch.zeros(60, 3)], 1)  # three concepts are never used
    head = fit_head(rows, torch.arange(60) % 3, 0.0, Recipe(nec=2))
    assert 0 < int((head.weights != 0).sum()) < 6
    assert not bool(head.weights[:, 1:].any())
    head = fit_head(rows + torch.randn(60, 4, generator=random) / 9, torch.arange(60) % 3, 0.0, Recipe(nec=1))
    assert int((head.weights != 0).sum()) == 3


def test_channels_are_as_many_as_they_are() -> None:
    photos: Any = SimpleNamespace(channels=5)
    with pytest.raises(cl.InputError, match="4 concepts are given for 5 channels; give one for each"):
        concept_weights(photos, torch.zeros(3, 4), torch.arange(3), 1.0, recipe_named("probe"), None)  # pyright: ignore[reportArgumentType]


def test_a_part_that_nobody_sees_cannot_be_taught(model: cl.Backbone, tmp_path: Path) -> None:
    plain = noise([0] * 6 + [1] * 6)
    xy = np.random.default_rng(0).random((12, 2, 2)) * 0.2 + 0.4
    visible = np.stack([np.ones(12, bool), np.zeros(12, bool)], 1)
    xy[~visible] = np.nan
    known = Annotation(keypoints=PhotoKeypoints(("belly", "tail"), xy, visible))
    photos = Held(plain.photos, plain.labels.tolist(), plain.classes, known)
    given = ConceptSet((CONCEPTS[0], CONCEPTS[2]), "a person", targets=np.array([[0.0, 1.0], [1.0, 0.2]]))
    text = said(model, photos, tmp_path, recipe="loc-cbm", concepts=given, keypoints=2)
    assert text == (
        "the part 'tail' is visible in none of the 4 photos whose keypoints are read; give more keypoints for each "
        "class, or leave out its concepts"
    )


# --- what a fit must not be misled by


class InPlace(nn.Module):
    """The layer that is read is followed by a ReLU that works in its place, as in many published networks."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 6, 4, stride=4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.cells(images)).mean((2, 3)))


def test_cells_are_those_of_an_observation_whatever_works_in_place(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = InPlace().eval()
    view = cl.Preprocess((32, 32))
    model = cl.Backbone(module, "in place", layers=("cells",), transform=view, input_size=(32, 32))
    photos = noise([0] * 6 + [1] * 6)
    made = fit(model, photos, tmp_path, layer="cells")
    activations = torch.cat([made.output(made.observe(model, photos[place])).activations for place in range(12)])
    assert torch.allclose(made.mean, activations.mean(0), atol=1e-3)
    assert float(activations.std(0).min()) > 1e-3


def test_of_equal_choices_the_stronger_penalty_and_held_out_photos_alone() -> None:
    """What is fitted sees kept rows alone, and accuracy is that of the others."""
    labels = torch.arange(40) % 2
    seen: list[tuple[tuple[int, ...], float, int]] = []

    def layer(rows: Tensor, penalty: float, draw: int) -> Tensor:
        seen.append((tuple(rows.tolist()), penalty, draw))
        made = labels[:, None].float().repeat(1, 2) + torch.arange(40)[:, None] * 1e-3
        if penalty < 0.5:  # learnt by heart: of no use for what is held out
            held = [row for row in range(40) if row not in rows.tolist()]
            made[held] = 1 - made[held]
        return made

    found = choose(layer, labels, Recipe(penalties=(0.1, 0.6, 0.9), holdout=0.25), 3)
    assert (found.penalty, found.strength, found.accuracy) == (0.9, 0.1, 1.0)
    assert {draw for _, _, draw in seen} == {0, 1}
    assert all(len(rows) == 30 for rows, _, _ in seen)
    assert len({rows for rows, _, _ in seen}) == 2
    assert choose(layer, labels, Recipe(penalties=(0.1,), holdout=0.25), 3).accuracy == 0.0


def test_open_failures_are_json(model: cl.Backbone, tmp_path: Path) -> None:
    photos = noise([0] * 6 + [1] * 6, unread=(2,))
    made = fit(model, photos, tmp_path)
    assert json.loads((tmp_path / "failures.json").read_text()) == [
        {"name": "002.png", "reason": "002.png is cut short; copy it again"}
    ]
    assert made.training_record["photos_used"] == 11
    assert len(open_classes(f"cub:{write_birds(tmp_path / 'birds', 1, 0)}")) == 3
