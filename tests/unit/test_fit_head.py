"""A head for one's own classes, from photos to a model: what is learnt, read, kept, refused, and gone on with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from drawn_birds import CLASSES, Held, write_birds
from fit_process import pupil
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.features import cell_source
from conceptlens.heads import fit_head as fitting
from conceptlens.heads import ridge_choice
from conceptlens.heads.fit_head import FittedHead, fit_head
from conceptlens.model.class_head import ClassHead
from conceptlens.model.zoo import from_head


def photos_of(labelled: LabelledSet) -> list[Image.Image]:
    return [labelled[index] for index in range(len(labelled))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cub:{write_birds(tmp_path_factory.mktemp('birds'), train=10, test=4)}"


@pytest.fixture(scope="module")
def fitted(data: str, tmp_path_factory: pytest.TempPathFactory) -> FittedHead:
    return fit_head(pupil(), data, tmp_path_factory.mktemp("fit") / "head")


def test_a_fitted_model_is_what_the_formulas_give(data: str, fitted: FittedHead) -> None:
    """From the photos, one by one: the mean of the last cells, z-scores, regression, and the scores of the test."""
    model, train, test = pupil(), cl.open_classes(data, "train"), cl.open_classes(data, "test")
    rows, tested = (
        np.stack([model.observe(photo).feature("second")[0].mean((1, 2)).double().numpy() for photo in photos])
        for photos in (photos_of(train), photos_of(test))
    )
    mean, std = rows.mean(0), np.where(rows.std(0) > 0, rows.std(0), 1)
    strength = fitted.head.training["strength"]
    peer = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-9, max_iter=5000).fit(
        (rows - mean) / std, train.labels
    )
    wanted = peer.decision_function((tested - mean) / std)
    scores = torch.cat([fitted.model.observe(photo).logits.detach() for photo in photos_of(test)]).numpy()
    np.testing.assert_allclose(scores, wanted, atol=2e-3)
    right = np.mean(wanted.argmax(1) == test.labels)
    assert fitted.evaluation.accuracy.mean == pytest.approx(right)


def test_grad_cam_of_the_model_is_the_closed_form(data: str, fitted: FittedHead) -> None:
    """Of a mean and a linear layer the gradient is the class's row over the number of cells."""
    photo = cl.open_classes(data, "test")[0]
    seen = fitted.model.observe(photo, layers="second")
    cells = seen.feature("second").detach()
    for number in range(3):
        found = cl.cam(seen, cl.Logit(number))
        row = fitted.head.weight[number] / (cells.shape[2] * cells.shape[3])
        wanted = (row[None, :, None, None] * cells).sum(1).relu()
        torch.testing.assert_close(found.maps[:, 0].relu(), wanted, atol=1e-6, rtol=1e-5)
    contrast = cl.cam(seen, cl.Contrast(0, against=[1], gamma=0.6), rule="grad_cam")
    row = (fitted.head.weight[0] - 0.6 * fitted.head.weight[1]) / (cells.shape[2] * cells.shape[3])
    assert contrast.weights is not None
    torch.testing.assert_close(contrast.weights[0, 0].flatten(), row, atol=1e-7, rtol=1e-5)


class Noted(Held):
    """A labelled set in memory that notes which photos are read."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.read: list[int] = []

    def _read(self, index: int) -> Image.Image:
        self.read.append(index)
        return super()._read(index)


def in_memory(name: str, data: str, split: str, kind: type[Held] = Held) -> Any:
    photos = cl.open_classes(data, split)
    made = kind(photos_of(photos), photos.labels.tolist(), photos.classes, photos.annotation)
    made.name = name
    return made


def test_planted_classes_are_learned(fitted: FittedHead) -> None:
    """Of belly and tail, in two colours: chance is a third."""
    assert fitted.evaluation.accuracy.mean >= 0.75
    assert fitted.evaluation.commonest == pytest.approx(1 / 3)
    assert fitted.evaluation.accuracy.images == 12
    assert fitted.model.class_names == CLASSES
    assert set(fitted.evaluation.classes) == set(CLASSES)
    assert fitted.failures == ()


def test_labels_at_random_are_not_learned(data: str, tmp_path: Path) -> None:
    train, test = (in_memory(split, data, split) for split in ("train", "test"))
    train.labels = np.random.default_rng(0).permutation(train.labels)
    made = fit_head(pupil(), train, tmp_path / "head", test=test)
    assert made.evaluation.accuracy.mean <= 0.67


def test_what_is_saved_is_what_is_loaded(data: str, fitted: FittedHead) -> None:
    folder = Path(fitted.model.name.removeprefix("head:"))
    again = ClassHead.load(folder)
    assert torch.equal(again.weight, fitted.head.weight)
    assert torch.equal(again.bias, fitted.head.bias)
    for name in ("class_names", "model", "model_identity", "classifier", "preprocess", "training"):
        assert getattr(again, name) == getattr(fitted.head, name), name
    photos = photos_of(cl.open_classes(data, "test"))
    scores = fitted.model.observe(photos).logits
    torch.testing.assert_close(again.on(pupil()).observe(photos).logits, scores, rtol=1e-5, atol=1e-5)
    assert json.loads((folder / "evaluation.json").read_text())["accuracy"]["mean"] == fitted.evaluation.accuracy.mean
    assert json.loads((folder / "failures.json").read_text()) == []
    assert sorted(one.name for one in folder.iterdir()) == [
        "config.json", "evaluation.json", "failures.json", "head.safetensors",
    ]  # fmt: skip


def test_the_network_that_is_given_stays_as_it_is(data: str, tmp_path: Path) -> None:
    model = pupil()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    made = fit_head(model, data, tmp_path / "head")
    assert made.model.module is not model.module
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert (model.class_names, made.model.classifier_name) == (("cat", "dog", "car", "tree"), "head")


def test_a_folder_is_opened_by_name(data: str, fitted: FittedHead, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fitted.model.name.removeprefix("head:")
    given: dict[str, Any] = {}

    def load_model(name: str, **options: Any) -> cl.Backbone:
        given.update(options, name=name)
        return pupil(1 if options["weights"] else 0)

    monkeypatch.setattr(from_head, "load_model", load_model)
    photo = cl.open_classes(data, "test")[0]
    for name in (folder, f"head:{folder}"):
        made = cl.load_model(name)
        assert (made.name, made.class_names) == (f"head:{folder}", CLASSES)
        scores = fitted.model.observe(photo).logits
        torch.testing.assert_close(made.observe(photo).logits, scores, rtol=1e-5, atol=1e-5)
    assert (given["name"], given["pretrained"], given["weights"]) == ("pupil 0", True, None)
    named = cl.load_model(folder, class_names=["a", "b", "c"], layers="first")
    assert (named.class_names, named.default_layers) == (("a", "b", "c"), ("first",))
    with pytest.raises(cl.InputError, match=r"2 class names given for the 3 classes of head:"):
        cl.load_model(folder, class_names=["a", "b"])
    with pytest.raises(cl.InputError, match=r"was fitted on pupil 0 with weights \w+, and pupil 1 with weights"):
        cl.load_model(folder, weights="other.safetensors")


def test_a_network_that_cannot_be_loaded_is_said(fitted: FittedHead, tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match="cannot be loaded, since its network cannot: no model source in 'pupil 0'"):
        cl.load_model(fitted.model.name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(cl.InputError, match=r"holds no head .*; give a folder made by conceptlens fit head"):
        cl.load_model(str(tmp_path / "empty"))


@pytest.mark.parametrize("test", ["another set", 0.25])
def test_photos_of_the_test_are_read_after_the_fit_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str | float
) -> None:
    """Another set, or a share of the same one: until weights are there, only train photos have been read."""
    train, other = in_memory("a", data, "train", Noted), in_memory("b", data, "test", Noted)
    read_when_fitted: list[tuple[set[int], set[int]]] = []

    def noting(*given: Any) -> Any:
        read_when_fitted.append((set(train.read), set(other.read)))
        return fit_logistic(*given)

    fit_logistic = fitting.fit_logistic
    monkeypatch.setattr(fitting, "fit_logistic", noting)
    monkeypatch.setattr(ridge_choice, "fit_logistic", noting)
    made = fit_head(pupil(), train, tmp_path / "head", test=other if test == "another set" else cast("float", test))
    before, others = read_when_fitted[-1]
    assert len(read_when_fitted) == ridge_choice.DRAWS * len(ridge_choice.STRENGTHS) + 1
    assert others == set()
    if test == "another set":
        assert before == set(range(30))
        assert made.evaluation.accuracy.images == len(set(other.read)) == 12
    else:
        held = set(train.read) - before
        assert (len(before), len(held), made.evaluation.accuracy.images) == (21, 9, 9)  # 3 of 10 of each class: 2.5
        assert np.bincount(train.labels[sorted(held)]).tolist() == [3, 3, 3]


def test_each_photo_goes_through_the_network_once(data: str, tmp_path: Path) -> None:
    train, test = in_memory("a", data, "train", Noted), in_memory("b", data, "test", Noted)
    fit_head(pupil(), train, tmp_path / "head", test=test)
    assert sorted(train.read) == list(range(30))
    assert sorted(test.read) == list(range(12))


def test_a_fit_that_was_interrupted_goes_on(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_source, "PHOTOS_PER_FILE", 8)
    whole = fit_head(pupil(), in_memory("a", data, "train"), tmp_path / "whole", test=0.2)
    train, folder = in_memory("a", data, "train", Noted), tmp_path / "head"

    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ridge_choice, "fit_logistic", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit_head(pupil(), train, folder, test=0.2)
    first = sorted(train.read)
    assert len(first) == 24
    with pytest.raises(cl.InputError, match="holds no head"):
        ClassHead.load(folder)
    made = fit_head(pupil(), train, folder, test=0.2)
    assert sorted(train.read) == list(range(30))  # the rest, once
    assert torch.equal(made.head.weight, whole.head.weight)
    assert made.evaluation == whole.evaluation
    assert not (folder / "embeddings").exists()


def test_embeddings_are_kept_where_a_folder_is_given(data: str, tmp_path: Path) -> None:
    train = in_memory("a", data, "train", Noted)
    fit_head(pupil(), train, tmp_path / "one", test=0.2, cache=tmp_path / "kept")
    read = len(train.read)
    fit_head(pupil(), train, tmp_path / "two", test=0.2, cache=tmp_path / "kept", holdout=0.3)
    assert len(train.read) == read


def test_mirrored_photos_are_fitted_to_as_well(data: str, tmp_path: Path) -> None:
    plain = fit_head(pupil(), data, tmp_path / "plain", strengths=(0.1,))
    made = fit_head(pupil(), data, tmp_path / "mirrored", strengths=(0.1,), mirror=True)
    model, train = pupil(), cl.open_classes(data, "train")
    views = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photo in photos_of(train)]
    rows = (
        torch.cat([model.observe(photos_of(train)).embedding, model.observe(views).embedding]).detach().double().numpy()
    )
    mean, std = rows.mean(0), np.where(rows.std(0) > 0, rows.std(0), 1)
    peer = LogisticRegression(C=1 / (0.1 * len(rows)), tol=1e-9, max_iter=5000)
    peer.fit((rows - mean) / std, np.tile(train.labels, 2))
    np.testing.assert_allclose(made.head.weight.numpy(), peer.coef_ / std, rtol=1e-2, atol=1e-3)
    assert not torch.allclose(made.head.weight, plain.head.weight, atol=1e-3)
    assert made.head.training["photos_used"] == 30


def test_photos_are_cut_to_their_boxes(data: str, tmp_path: Path) -> None:
    made = fit_head(pupil(), data, tmp_path / "head", crop="box", margin=0)
    assert made.evaluation.data == "cub test, boxes and 0"
    assert made.head.training["crop"] == "box"


def test_a_photo_that_cannot_be_read_is_left_out_and_listed(data: str, tmp_path: Path) -> None:
    train = in_memory("a", data, "train")
    train.photos[3] = None
    made = fit_head(pupil(), train, tmp_path / "head", test=in_memory("b", data, "test"), mirror=True)
    assert [failure.name for failure in made.failures] == ["003.png"]
    assert made.head.training["photos_used"] == 29
    assert json.loads((tmp_path / "head" / "failures.json").read_text())[0]["name"] == "003.png"


class Tower(nn.Module):
    """What a `pupil` has before its classifier, in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = pupil().module
        self.trunk.head = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"vector": self.trunk(images)}


@pytest.mark.parametrize("read", ["by output=", "by its kind"])
def test_a_network_that_embeds_gets_a_head_too(data: str, tmp_path: Path, fitted: FittedHead, read: str) -> None:
    common: dict[str, Any] = {"task": "embedding", "transform": cl.Preprocess((32, 32)), "input_size": (32, 32)}
    if read == "by output=":
        model = cl.Backbone(Tower(), "tower", output=lambda found: found["vector"], **common)
    else:
        model = cl.Backbone(Tower().trunk, "tower", **common)
    made = fit_head(model, data, tmp_path / "head")
    torch.testing.assert_close(made.head.weight, fitted.head.weight, rtol=1e-3, atol=1e-3)
    seen = made.model.observe(cl.open_classes(data, "test")[0])
    assert made.model.classifier_name == "classifier"
    assert made.model.default_layers[0].startswith("tower.")
    torch.testing.assert_close(seen.logits, seen.embedding @ made.head.weight.T + made.head.bias)
    assert cl.cam(seen, cl.Logit("Bay Tern")).maps.shape[1] == 1


class Scaled(nn.Module):
    """A classifier whose scores are doubled after its last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pupil().module

    def forward(self, images: Tensor) -> Tensor:
        return 2 * self.inner(images)


def no_embedding() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 8, 8), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (no_embedding, "has no embedding, one vector for each image: no linear classifier was found"),
        (Scaled, "are not what its last linear layer 'inner.head' makes of the embedding"),
    ],
)
def test_a_network_without_an_embedding_is_refused(data: str, tmp_path: Path, module: Any, why: str) -> None:
    given: dict[str, Any] = {"transform": cl.Preprocess((32, 32)), "input_size": (32, 32), "task": "single_label"}
    model = cl.Backbone(module().eval(), "strange", **given, classifier="inner.head" if module is Scaled else None)
    with pytest.raises(cl.InputError, match=why):
        fit_head(model, data, tmp_path / "head")
    assert not (tmp_path / "head").exists()  # before any photo was read


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"crop": "boxes"}, "crop is 'boxes'; expected whole or box"),
        ({"margin": -1, "crop": "box"}, "margin is -1; expected a share"),
        ({"holdout": 1.5}, "holdout is 1.5; expected a share of each class between 0 and 1"),
        ({"holdout": 0.96}, "class 0 and 2 more would keep no photo: it has 10"),
        ({"seed": -1}, "a seed from 0"),
        ({"strengths": ()}, r"the strengths of the ridge are \[\]"),
        ({"strengths": (0.1, 0.0)}, "expected at least one, each above 0"),
        ({"test": "train"}, "test is 'train', the split that is fitted to"),
        ({"test": "exam"}, "CUB-200-2011 has no split 'exam'; splits: train, test, all"),
        ({"test": 1.0}, "test is 1.0; expected a split, or a share"),
        ({"test": 0.999}, "would keep no photo"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_settings_out_of_range_are_refused(data: str, tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(cl.InputError, match=why):
        fit_head(pupil(), data, tmp_path / "head", **options)
    assert not (tmp_path / "head").exists()


def set_of(counts: tuple[int, ...], classes: tuple[str, ...] = ("ant", "bee", "cat")) -> LabelledSet:
    noise = np.random.default_rng(0)
    labels = [number for number, count in enumerate(counts) for _ in range(count)]
    return Held([Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)) for _ in labels], labels, classes)


@pytest.mark.parametrize(
    ("train", "test", "why"),
    [
        (set_of((4,), ("ant",)), set_of((1,), ("ant",)), "held train has 1 class; a head tells at least two apart"),
        (set_of((4, 0, 4)), set_of((1, 1, 1)), "class 'bee' of held train has no photo"),
        (set_of((4, 1, 1)), set_of((1, 1, 1)), "class 'bee' and 1 more of held train has 1 photo that can be read; "
         "expected at least 2: one is fitted to"),
        (set_of((4, 2, 4)), None, "class 'bee' of held train has 2 photos that can be read; expected at least 3"),
        (set_of((3, 3, 3)), set_of((1, 1, 1), ("ant", "bee", "dog")), r"other classes than held train \('cat' is in"),
        (set_of((3, 3, 3)), set_of((1, 1, 1), ("bee", "ant", "cat")), "their order differs"),
        (set_of((3, 3, 3)), "test", "test is the split 'test', and the data is a set whose other splits"),
    ],
)  # fmt: skip
def test_sets_from_which_nothing_is_learnt_are_refused(train: Any, test: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match=why):
        fit_head(pupil(), train, tmp_path / "head", test=test)


def test_a_class_whose_photos_cannot_be_read_is_refused(tmp_path: Path) -> None:
    train = set_of((3, 3, 3))
    cast("Any", train).photos[3:5] = [None, None]
    with pytest.raises(cl.InputError, match="class 'bee' of held train has 1 photo that can be read"):
        fit_head(pupil(), train, tmp_path / "head", test=set_of((1, 1, 1)))


def test_boxes_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match="held train annotates no boxes"):
        fit_head(pupil(), set_of((3, 3, 3)), tmp_path / "head", test=set_of((1, 1, 1)), crop="box")


def test_a_folder_that_holds_something_is_refused(data: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(cl.InputError, match=r"holds thesis.txt, which no fit wrote; give a new or an empty folder"):
        fit_head(pupil(), data, tmp_path)
    fit_head(pupil(), data, tmp_path / "head")
    with pytest.raises(cl.InputError, match="holds a head or something like it already; choose another folder"):
        fit_head(pupil(), data, tmp_path / "head")


def test_what_is_no_model_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(cl.InputTypeError, match="a str was given as the model"):
        fit_head("resnet50", data, tmp_path / "head")  # pyright: ignore[reportArgumentType]


def test_a_head_of_another_size_is_refused(fitted: FittedHead) -> None:
    narrow = dataclasses.replace(fitted.head, weight=fitted.head.weight[:, :5])
    with pytest.raises(cl.InputError, match="reads an embedding of 5 numbers and pupil 0 gives 12"):
        narrow.on(pupil())
    with pytest.raises(cl.InputError, match=r"a head of 3 class names has weights \(2, 12\)"):
        dataclasses.replace(fitted.head, weight=fitted.head.weight[:2])
    with pytest.raises(cl.InputError, match="not all finite"):
        dataclasses.replace(fitted.head, bias=fitted.head.bias * torch.nan)


def test_a_damaged_folder_is_refused(fitted: FittedHead, tmp_path: Path) -> None:
    fitted.head.save(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "classes": ["a", "b"]}))
    with pytest.raises(cl.InputError, match="does not fit together: a head of 2 class names"):
        ClassHead.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**about, "classes": "abc"}))
    with pytest.raises(cl.InputError, match="classes is 'abc'; expected a list of texts"):
        ClassHead.load(tmp_path)


@pytest.mark.wide
@pytest.mark.slow
def test_the_packaged_network_is_opened_by_the_folder_alone(data: str, tmp_path: Path) -> None:
    """Two of the classes have the same colours in other places, which a mean over places hardly tells apart."""
    made = fit_head(cl.load_model(crop_mode="squash"), data, tmp_path / "head")
    assert made.evaluation.accuracy.mean >= 0.75
    photos = photos_of(cl.open_classes(data, "test"))[:4]
    again = cl.load_model(str(tmp_path / "head"))
    assert (again.class_names, again.preprocess) == (CLASSES, made.model.preprocess)
    torch.testing.assert_close(again.observe(photos).logits, made.model.observe(photos).logits, rtol=1e-4, atol=1e-4)
