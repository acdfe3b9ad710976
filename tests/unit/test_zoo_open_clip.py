from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from tiny_models import OPEN_CLIP, photo, register_open_clip
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.model.encoders import OpenClip
from conceptlens.model.zoo.from_open_clip import preprocess_of

LABELS = ("cat", "motorcycle", "house")


@pytest.fixture(scope="module", autouse=True)
def _toys(tmp_path_factory: pytest.TempPathFactory) -> None:
    register_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "cache"))


def toy(name: str, **options: Any) -> cl.Backbone:
    torch.manual_seed(0)
    return cl.load_model(f"open_clip:{name}", pretrained=False, **options)


def pair_of(model: cl.Backbone) -> OpenClip:
    assert isinstance(model.language, OpenClip)
    return model.language


@pytest.mark.parametrize(
    ("name", "layer", "cells"), [("toy-vit", "transformer.resblocks.1.ln_1", 4), ("toy-resnet", "layer4", 2)]
)
def test_a_tower_embeds_and_has_places(name: str, layer: str, cells: int) -> None:
    model = toy(name)
    observation = model.observe([photo(), photo(97, 151)])
    with torch.no_grad():
        expected = pair_of(model).model.encode_image(observation.images)
    assert torch.allclose(observation.embedding, expected, atol=1e-6)
    assert model.default_layers == (layer,)
    answer = cl.cam(observation, cl.Concept("a cat"))
    assert answer.maps.shape == (2, 1, cells, cells)


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_labels_make_a_zero_shot_classifier(name: str) -> None:
    model = toy(name, class_names=LABELS)
    pair = pair_of(model)
    observation = model.observe(photo())
    tokens = open_clip.get_tokenizer(name)([f"a photo of a {label}" for label in LABELS])
    bias = -10.0 if name == "toy-sigmoid" else 0.0
    with torch.no_grad():
        images = F.normalize(pair.model.encode_image(observation.images), dim=1)
        texts = F.normalize(pair.model.encode_text(tokens), dim=1)
        by_hand = pair.model.logit_scale.exp() * images @ texts.T + bias
    assert torch.allclose(observation.logits, by_hand, atol=1e-4)
    assert (model.class_names, model.classifier_name) == (LABELS, "classifier")
    assert pair.bias == bias
    assert cl.cam(observation, cl.Contrast("cat", nearest=2)).labels[0][0].startswith("cat")


def test_layers_keep_their_place_under_a_zero_shot_head() -> None:
    model = toy("toy-vit", class_names=LABELS, layers="transformer.resblocks.0")
    assert list(model.observe(photo()).layer_outputs) == ["tower.transformer.resblocks.0"]


def test_a_zero_shot_head_draws_no_random_numbers() -> None:
    model = toy("toy-vit")
    from conceptlens.model.zoo.zero_shot import with_class_names

    before = torch.get_rng_state()
    with_class_names(model, LABELS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("labels", [(), ("cat",), "cat"])
def test_one_class_is_no_choice(labels: Any) -> None:
    with pytest.raises(cl.InputError, match="at least two class names"):
        toy("toy-vit", class_names=labels)


def test_weights_from_a_file(tmp_path: Path) -> None:
    first = toy("toy-vit")
    torch.save({"state_dict": pair_of(first).model.state_dict()}, tmp_path / "own.pt")
    torch.manual_seed(1)
    again = cl.load_model("open_clip:toy-vit", weights=tmp_path / "own.pt")
    assert torch.equal(again.observe(photo()).embedding, first.observe(photo()).embedding)


def test_a_local_folder(tmp_path: Path) -> None:
    first = toy("toy-vit")
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": OPEN_CLIP["toy-vit"], "preprocess_cfg": settings}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(pair_of(first).model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    again = cl.load_model(f"open_clip:local-dir:{tmp_path}")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.observe(images).embedding, first.observe(images).embedding)
    assert again.transform == preprocess_of({**settings, "size": 32}, "toy")


@pytest.mark.parametrize("size", [(151, 97), (97, 151), (64, 64)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_a_photo_is_prepared_as_open_clip_does(size: tuple[int, int], mode: str) -> None:
    for interpolation in ("bicubic", "bilinear"):
        settings = PreprocessCfg(size=32, interpolation=interpolation, resize_mode=mode)
        transform: Any = image_transform_v2(settings, is_train=False)
        expected = transform(photo(*size))
        assert torch.allclose(preprocess_of(vars(settings), "toy")(photo(*size)), expected, atol=1e-5)


def test_a_padded_photo_is_refused() -> None:
    with pytest.raises(cl.InputError, match="toy resizes photos by 'longest', which is not understood"):
        preprocess_of({**vars(PreprocessCfg()), "resize_mode": "longest"}, "toy")


def test_the_root_logger_is_left_alone() -> None:
    handlers = list(logging.getLogger().handlers)
    toy("toy-vit")
    assert logging.getLogger().handlers == handlers


def test_without_open_clip_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(cl.InputError, match=r"pip install 'conceptlens\[clip\]'"):
        toy("toy-vit")
