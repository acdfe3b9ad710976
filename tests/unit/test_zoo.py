from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import timm
import torch
import torchvision
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from tiny_models import photo
from torch import nn
from torchvision.models import ResNet18_Weights

import conceptlens as cl
from conceptlens.io.images import read_image
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo import LOADERS, from_timm, from_torchvision, model_names

pytestmark = pytest.mark.wide

PHOTOS = Path(skimage.__file__).parent / "data"
PACKAGED = ("timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite1", "timm:tf_efficientnet_lite2")
DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nips2017"


def test_the_zoo_opens_without_torch() -> None:
    code = "import sys, conceptlens.model.zoo as z; z.LOADERS; print('torch' in sys.modules, 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", [*PACKAGED[:2], pytest.param(PACKAGED[2], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("file", "kinds"),
    [("chelsea.png", ("cat",)), pytest.param("coffee.png", ("espresso", "cup"), marks=pytest.mark.slow)],
)
def test_packaged_weights_name_what_is_there(name: str, file: str, kinds: tuple[str, ...]) -> None:
    model = cl.load_model(name)
    first = model.class_name(int(model.observe(PHOTOS / file).logits.argmax()))
    assert any(kind in first.lower() for kind in kinds), first


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "images.csv").is_file(), reason="no folder nips2017 in CONCEPTLENS_DATA")
def test_packaged_weights_are_right_on_four_of_five_photos() -> None:
    model = cl.load_model()
    with open(DATA / "images.csv", newline="") as file:
        truth = {row["ImageId"]: int(row["TrueLabel"]) - 1 for row in csv.DictReader(file)}
    files = sorted((DATA / "images").iterdir())[:200]
    right = 0
    for start in range(0, len(files), 50):
        batch = files[start : start + 50]
        found = model.observe(batch, layers=[]).logits.argmax(1).tolist()
        right += sum(index == truth[file.stem] for index, file in zip(found, batch, strict=True))
    assert len(files) == 200
    assert right / len(files) > 0.8


@pytest.mark.parametrize(
    ("name", "layer", "classifier"),
    [
        ("timm:test_resnet", "layer4", "fc"),
        ("timm:test_vit", "blocks.5.norm1", "head"),
        ("timm:test_vit4", "blocks", "head"),
        ("timm:test_convnext", "stages", "head.fc"),
        ("timm:test_efficientnet", "bn2", "classifier"),
        ("torchvision:resnet18", "layer4", "fc"),
        ("torchvision:vit_b_32", "encoder.layers.encoder_layer_11.ln_1", "heads.head"),
        ("torchvision:swin_t", "permute", "head"),
        ("torchvision:googlenet", "inception5b", "fc"),
        ("torchvision:mobilenet_v3_small", "features", "classifier.3"),
    ],
)
@pytest.mark.slow
def test_a_model_without_weights_knows_its_layers(name: str, layer: str, classifier: str) -> None:
    model = cl.load_model(name, pretrained=False)
    assert (model.anatomy.default, model.classifier_name) == (layer, classifier)
    assert len(model.class_names or ()) == 1000
    observation = model.observe(photo())
    answer = cl.cam(observation, cl.Contrast(7))
    assert answer.maps.shape[0] == 1
    assert min(answer.maps.shape[2:]) > 1


@pytest.mark.parametrize("size", [(151, 97), (97, 151), (373, 290), (640, 481)])
def test_a_photo_is_prepared_as_timm_does(size: tuple[int, int]) -> None:
    for name, settings in (
        ("test_resnet", {}),
        ("test_resnet", {"crop_pct": 0.875, "input_size": (3, 95, 95), "interpolation": "bilinear"}),
        ("test_resnet", {"crop_pct": 1.0, "crop_mode": "squash"}),
        ("test_resnet", {"crop_pct": 0.9, "crop_mode": "squash"}),
    ):
        module = timm.create_model(name)
        transform = from_timm.preprocess_of(module, settings)
        data = resolve_data_config(settings, model=module)
        transform_of_timm: Any = create_transform(**data)
        expected = transform_of_timm(photo(*size))
        assert torch.allclose(transform(photo(*size)), expected, atol=1e-5), settings


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "vit_h_14", "efficientnet_b0", "inception_v3"])
def test_a_photo_is_prepared_as_torchvision_does(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    for size in ((613, 401), (540, 777)):
        expected = weights.transforms()(photo(*size))
        assert torch.allclose(from_torchvision.preprocess_of(weights)(photo(*size)), expected, atol=1e-5)


def test_a_vision_transformer_has_the_size_of_its_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def get_model(name: str, **options: object) -> nn.Module:
        asked.update(options)
        return nn.Conv2d(3, 4, 1)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    model = cl.load_model("torchvision:vit_h_14", pretrained=False)
    assert isinstance(model.transform, Preprocess)
    assert (asked["image_size"], model.transform.size) == (518, (518, 518))


def test_an_embedding_model_has_no_classes() -> None:
    module = timm.create_model("test_vit", num_classes=0)
    model = from_timm.adapt(module, "timm:headless", None, (), {})
    observation = model.observe(photo())
    assert (model.class_names, observation.embedding.shape) == (None, (1, 64))
    with pytest.raises(cl.InputError, match="no class scores"):
        _ = observation.logits
    with pytest.raises(cl.InputError, match="class_names= has nothing to name"):
        from_timm.adapt(module, "timm:headless", ["cat", "dog"], (), {})


def test_labels_of_ones_own() -> None:
    for name in ("timm:test_resnet", "torchvision:resnet18"):
        model = cl.load_model(name, pretrained=False, class_names=["cat", "dog", "bee"])
        assert model.class_names == ("cat", "dog", "bee")
        assert model.observe(photo()).logits.shape == (1, 3)
    with pytest.raises(cl.InputError, match="3 class names given for the 1000 classes of timm:tf_efficientnet_lite0"):
        cl.load_model(class_names=["cat", "dog", "bee"])
    with pytest.raises(cl.InputError, match="one string given for the 1000 classes"):
        cl.load_model(class_names="cat, dog, bee")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", "write SOURCE:NAME with one of timm, torchvision, hf, open_clip"),
        ("tim:resnet18", "no model source in 'tim:resnet18'"),
        ("timm:resnet19", "no timm model 'resnet19'; near names: resnet18"),
        ("timm:qqqqqqqq", "no timm model 'qqqqqqqq'; no name is near"),
        ("timm:resnet18.a9_in1k", r"no weights 'a9_in1k' for resnet18; near names: resnet18\.a"),
        ("torchvision:resnt18", "no torchvision model 'resnt18'; near names: resnet18"),
        ("open_clip:ViT-B32/openai", "no open_clip model 'ViT-B32'; near names: ViT-B-32"),
        ("open_clip:ViT-B-32", "was named without weights; use ViT-B-32/TAG with one of openai"),
        ("open_clip:ViT-B-32/openia", "has no weights 'openia'; use ViT-B-32/TAG"),
        ("hf:/no/such/folder", "hf:/no/such/folder could not be had"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, sentence: str) -> None:
    with pytest.raises(cl.InputError, match=sentence):
        cl.load_model(name)


def test_fit_and_device() -> None:
    whole = cl.load_model(crop_mode="squash")
    assert isinstance(whole.transform, Preprocess)
    assert whole.transform.box((300, 200)) == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(cl.InputError, match="expected center or squash"):
        cl.load_model("timm:test_resnet", pretrained=False, crop_mode="stretch")
    with pytest.raises(cl.InputError, match="cannot be moved to abacus: torch knows no such device; use cpu"):
        cl.load_model("timm:test_resnet", pretrained=False, device="abacus")


def test_layers_are_checked_by_name() -> None:
    model = cl.load_model("timm:test_resnet", pretrained=False, layers="layer3")
    assert list(model.observe(photo()).layer_outputs) == ["layer3"]
    with pytest.raises(cl.InputError, match="no layer 'layer9' in timm:test_resnet; near names: layer4"):
        cl.load_model("timm:test_resnet", pretrained=False, layers=["layer9"])


def test_names_that_are_known_without_a_network() -> None:
    assert "resnet50" in model_names("timm")
    assert "resnet50" in model_names("torchvision")
    assert "ViT-B-32/openai" in model_names("open_clip")
    assert model_names("hf") == []
    assert {source for source in LOADERS if model_names(source)} == {"timm", "torchvision", "open_clip"}
    with pytest.raises(cl.InputError, match="no model source 'tim'; near names: timm"):
        model_names("tim")


def test_default_weights_say_their_classes() -> None:
    model = cl.load_model("torchvision:resnet18", pretrained=False)
    assert model.class_names == tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    assert model.class_index("tabby") == 281


def test_photos_are_read_as_the_package_authors_did() -> None:
    transform = cl.load_model().transform
    assert isinstance(transform, Preprocess)
    assert (transform.mean, transform.std, transform.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    values = transform(Image.fromarray(np.asarray(read_image(PHOTOS / "chelsea.png"))))
    assert values.shape == (3, 224, 224)
    assert -1.0 <= float(values.min()) < -0.5
    assert 0.5 < float(values.max()) <= 1.0
