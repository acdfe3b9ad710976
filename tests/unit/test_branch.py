"""CE-FAM's branch: its sizes, the layers it finds, the gradients that reach them, its files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import architectures
import conceptlens as cl
from conceptlens.concept_regions.branch import Branch, branch_layers, hidden_sizes, in_order, layer_widths, pooled
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.io.fingerprint import weights_fingerprint
from tolerance import assert_agree

pytestmark = pytest.mark.wide

NAMES = ("cat", "dog", "car", "tree")
STAGES = {
    "timm resnet": ("layer1", "layer2", "layer3", "layer4"),
    "torchvision resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "open_clip resnet": ("layer1", "layer2", "layer3", "layer4"),
    "timm efficientnet": ("blocks.1", "blocks.2", "blocks.3", "bn2"),
    "timm convnext": ("stages.0", "stages.1", "stages.2", "stages"),
    "hf convnext": (*(f"convnext.encoder.stages.{i}" for i in range(3)), "convnext.encoder"),
    "hf swin": ("swin.encoder.layers.0.blocks.0", "swin.layernorm"),
    "torchvision swin": ("features.1", "permute"),
    "hf detr": (*(f"model.backbone.model.encoder.stages.{i}" for i in range(3)), "model.encoder"),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_layers_of_a_network_of_several_resolutions_are_its_stages(name: str) -> None:
    assert branch_layers(architectures.backbone(name)) == STAGES[name]


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_layers_are_found_in_every_architecture_and_gradients_reach_them(name: str) -> None:
    model = architectures.backbone(name)
    layers = branch_layers(model)
    grids = {layer.name: layer.grid for layer in model.anatomy.layers}
    cells = [grids[layer].height * grids[layer].width for layer in layers]
    assert 1 <= len(layers) <= 4
    assert cells == sorted(set(cells), reverse=True)
    assert layers[-1] == model.anatomy.default
    assert in_order(model, layers[::-1]) == layers
    if len({grid.height for grid in grids.values()}) == 1:
        assert len(layers) == 1

    observation = model.observe(architectures.random_images(architectures.ARCHITECTURES[name].size), layers)
    values = pooled(observation, layers)
    assert values.shape == (2, sum(layer_widths(model, layers)))
    torch.manual_seed(0)
    made = Branch(layers, layer_widths(model, layers), 7)(values)
    for layer in layers:
        assert float(observation.gradient(made[:, 0], layer).abs().max()) > 0


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        pytest.param(torchvision.models.resnet50, (3840, 2048, 1024), marks=pytest.mark.slow),
        (torchvision.models.resnet18, (960, 1024, 1024)),
        pytest.param(torchvision.models.vit_b_16, (768, 1024, 1024), marks=pytest.mark.slow),
    ],
)
def test_the_published_sizes(build: Callable[[], nn.Module], sizes: tuple[int, ...]) -> None:
    model = cl.Backbone(build().eval(), "published")
    layers = branch_layers(model)
    branch = Branch(layers, layer_widths(model, layers), 512)
    assert (branch.width, *branch.hidden) == sizes
    if len(layers) > 1:
        assert layers == ("layer1", "layer2", "layer3", "layer4")
    kinds = [type(part) for part in branch.network]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_sizes_elsewhere() -> None:
    assert hidden_sizes((2048,)) == (1024, 1024)  # a single layer, as published
    assert hidden_sizes((24, 40, 112, 1280)) == (1024, 1024)
    linear = Branch(("a", "b"), (3, 5), 4, ())
    assert [tuple(p.shape) for p in linear.parameters()] == [(4, 8), (4,)]
    with pytest.raises(cl.InputError, match="sizes are at least 1"):
        Branch(("a",), (3,), 4, (0,))
    with pytest.raises(cl.InputError, match="give one width each"):
        Branch(("a", "b"), (3,), 4)


def test_the_deepest_layer_comes_first_and_gradients_run_through_later_layers() -> None:
    model = architectures.backbone("torchvision resnet18")
    layers = branch_layers(model)
    observation = model.observe(architectures.random_images((64, 96)), layers)
    values = pooled(observation, layers)
    for layer, part in zip(reversed(layers), values.split([512, 256, 128, 64], dim=1), strict=True):
        assert_agree(part, observation.feature(layer).mean((2, 3)))
    # layer1 is read by its own part of the input (a constant gradient) and, through layer4, by the deepest part
    through = observation.gradient(values[:, 0], "layer1")
    assert float(through.abs().max()) > 0
    assert float(through.std()) > 0


def test_a_layer_without_cells_is_refused_with_those_that_would_do() -> None:
    model = architectures.backbone("torchvision resnet18")
    with pytest.raises(cl.InputError, match=r"'fc' of torchvision resnet18 has no grid.*layer1, layer2"):
        in_order(model, ["layer4", "fc"])


@pytest.mark.slow
def test_networks_beyond_the_toys() -> None:
    expected = {
        "tf_efficientnet_lite0": ("blocks.1", "blocks.2", "blocks.4", "bn2"),
        "swin_tiny_patch4_window7_224": ("layers.0", "layers.1", "layers.2", "norm"),
        "regnetx_002": ("s1", "s2", "s3", "s4"),
    }
    for name, layers in expected.items():
        assert branch_layers(cl.Backbone(timm.create_model(name).eval(), name)) == layers


class Tower(nn.Module):
    def __init__(self, seed: int, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 10, 4, stride=4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(10, 12, 2, stride=2), nn.ReLU())
        self.head = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean((2, 3)))


def tiny(seed: int) -> cl.Backbone:
    preprocess = cl.Preprocess((32, 32))
    return cl.Backbone(Tower(seed).eval(), f"tiny {seed}", class_names=NAMES, transform=preprocess, input_size=(32, 32))


def make(model: cl.Backbone, vlm: cl.Backbone, keep: bool = True) -> Translator:
    layers = branch_layers(model)
    torch.manual_seed(3)
    branch = Branch(layers, layer_widths(model, layers), 12, (6, 5))
    return Translator(
        branch, Teacher.of(vlm), model.name, weights_fingerprint(model.module), {"seed": 3}, vlm if keep else None
    )


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return tiny(0)


@pytest.fixture(scope="module")
def vlm() -> cl.Backbone:
    return tiny(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_translator_explains_like_any_pair(model: cl.Backbone, vlm: cl.Backbone, images: Tensor) -> None:
    translator = make(model, vlm)
    observation = model.observe(images, layers=translator.layers)
    assert translator.layers == ("first", "second")
    assert (translator.scale, translator.bias, translator.normalised) == (1.0, 0.0, False)
    vectors = translator.encode_image(observation)
    assert vectors.shape == (3, 12)
    assert_agree(vectors, translator.branch(pooled(observation, translator.layers)))
    for layer in translator.layers:
        found = cl.cam(observation, cl.Concept("cat", by=translator), layer=layer)
        assert float(found.maps.abs().max()) > 0
    spoken = dataclasses.replace(model, text=translator)
    assert cl.explain(spoken.observe(images, layers=translator.layers), concepts=["cat", "dog"]).scores.shape == (3, 2)


def test_an_observation_of_other_layers_and_a_plain_answer_are_refused(
    model: cl.Backbone, vlm: cl.Backbone, images: Tensor
) -> None:
    translator = make(model, vlm)
    with pytest.raises(cl.InputError, match=r"first was not observed; use model.observe\(..., layers=translator.lay"):
        translator.encode_image(model.observe(images))
    with pytest.raises(cl.InputError, match=r"use model\.observe"):
        translator.encode_image(model.observe(images).forward(images))


def test_another_model_is_refused(model: cl.Backbone, vlm: cl.Backbone, images: Tensor) -> None:
    translator = make(model, vlm)
    other = dataclasses.replace(tiny(5), name=model.name)
    with pytest.raises(cl.InputError, match=r"trained for tiny 0 with weights .* and tiny 0 with weights .* was given"):
        translator.check(other)
    with pytest.raises(cl.InputError, match="trained for"):
        translator.encode_image(other.observe(images, layers=translator.layers))
    translator.check(tiny(0))


def test_it_survives_its_files(model: cl.Backbone, vlm: cl.Backbone, images: Tensor, tmp_path: Path) -> None:
    translator = make(model, vlm)
    again = Translator.load(translator.save(tmp_path / "deep" / "branch"), vlm)
    assert sorted(p.name for p in (tmp_path / "deep" / "branch").iterdir()) == ["branch.safetensors", "config.json"]
    observation = model.observe(images, layers=again.layers)
    assert torch.equal(again.encode_image(observation), translator.encode_image(observation))
    assert again.name == translator.name
    assert again.training == {"seed": 3}
    assert torch.equal(again.encode_text(["a photo of a cat"]), vlm.language.encode_text(["a photo of a cat"]))
    config = json.loads((tmp_path / "deep" / "branch" / "config.json").read_text())
    assert config["format"] == 1
    assert set(config["versions"]) == {"conceptlens", "torch", "safetensors"}


def test_the_teacher_is_needed_only_for_texts_that_are_not_cached(
    model: cl.Backbone, vlm: cl.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "texts"))
    folder = make(model, vlm).save(tmp_path / "branch")
    lonely = Translator.load(folder)
    with pytest.raises(cl.InputError, match=r"need the teacher tiny 1, which cannot be loaded .*vlm="):
        lonely.encode_text(["a wheel"])
    wheel = Translator.load(folder, vlm).encode_text(["a wheel"])
    assert torch.equal(Translator.load(folder).encode_text(["a wheel"]), wheel)
    calls: list[str] = []

    def load(name: str) -> cl.Backbone:
        calls.append(name)
        return vlm

    monkeypatch.setattr("conceptlens.model.zoo.load_model", load)
    late = Translator.load(folder)
    assert calls == []
    assert torch.equal(late.encode_text(["a leaf"]), vlm.language.encode_text(["a leaf"]))
    late.encode_text(["a root"])
    assert calls == ["tiny 1"]


def test_a_teacher_of_another_kind_is_never_cached(model: cl.Backbone) -> None:
    class Words:
        name = "words"
        scale = 2.0
        normalised = True

        def encode_image(self, output: cl.Observation) -> Tensor:
            return output.embedding

        def encode_text(self, texts: Sequence[str]) -> Tensor:
            return torch.ones(len(texts), 12)

    translator = make(model, dataclasses.replace(tiny(1), text=Words()))
    assert translator.teacher.texts == ""
    assert translator.encode_text(["a", "b"]).shape == (2, 12)


def test_another_teacher_is_refused(model: cl.Backbone, vlm: cl.Backbone, tmp_path: Path) -> None:
    folder = make(model, vlm).save(tmp_path)
    with pytest.raises(cl.InputError, match="the teacher of this branch was tiny 1"):
        Translator.load(folder, tiny(2))
    renamed = dataclasses.replace(vlm, class_names=("cat", "dog", "car", "flower"))
    with pytest.raises(cl.InputError, match="the teacher of this branch was tiny 1"):
        Translator.load(folder, renamed)


def test_broken_and_newer_files_are_refused(model: cl.Backbone, vlm: cl.Backbone, tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match="holds no branch"):
        Translator.load(tmp_path / "nothing")
    folder = make(model, vlm).save(tmp_path / "branch")
    config, weights = folder / "config.json", folder / "branch.safetensors"
    kept, state = config.read_text(), load_file(weights)

    config.write_text(json.dumps({**json.loads(kept), "format": 2}))
    with pytest.raises(cl.InputError, match=r"has format 2, and this version reads format 1; update it"):
        Translator.load(folder)
    for broken in ("{", "[]", '{"format": "new"}'):
        config.write_text(broken)
        with pytest.raises(cl.InputError, match="holds no branch"):
            Translator.load(folder)
    config.write_text('{"format": 1}')
    with pytest.raises(
        cl.InputError, match=r"holds no whole branch \(config.json lacks branch.layers; expected a list"
    ):
        Translator.load(folder)

    config.write_text(kept)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(cl.InputError, match="holds no whole branch"):
        Translator.load(folder)
    save_file({**state, "network.0.bias": torch.zeros(3)}, weights)
    with pytest.raises(cl.InputError, match="holds no whole branch"):
        Translator.load(folder)
    weights.unlink()
    with pytest.raises(cl.InputError, match="holds no whole branch"):
        Translator.load(folder)


WRONG = {
    "branch": ("gone", "config.json lacks branch.layers; expected a list of texts"),
    "branch.hidden": ([6, "five"], "in config.json, branch.hidden is [6, 'five']; expected a list of whole numbers"),
    "branch.widths": ([10], "in config.json, branch does not fit together: 2 layers and 1 widths are given"),
    "branch.dimension": (13, "branch.safetensors holds other sizes than config.json"),
    "teacher.scale": (None, "in config.json, teacher.scale is None; expected a number"),
    "model": ("tiny 0", "config.json lacks model.name; expected a text"),
    "training": ([], "in config.json, training is []; expected an object"),
}


@pytest.mark.parametrize("path", WRONG)
def test_a_damaged_config_is_refused_with_its_file_and_field(
    model: cl.Backbone, vlm: cl.Backbone, tmp_path: Path, path: str
) -> None:
    folder = make(model, vlm).save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    value, said = WRONG[path]
    *parents, last = path.split(".")
    holder = config[parents[0]] if parents else config
    holder[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(cl.InputError, match=re.escape(said)):
        Translator.load(folder)


@pytest.mark.parametrize(("text", "said"), [("{", "config.json is no JSON"), ("[]", "config.json lacks format")])
def test_a_config_that_is_none_is_refused_in_plain_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(cl.InputError, match=re.escape(f"{tmp_path} holds no branch ({said}")):
        Translator.load(tmp_path)


def test_a_config_of_a_later_minor_version_may_hold_more(model: cl.Backbone, vlm: cl.Backbone, tmp_path: Path) -> None:
    folder = make(model, vlm).save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["teacher"]["colour"] = "green"
    (folder / "config.json").write_text(json.dumps(config))
    assert Translator.load(folder).teacher.name == "tiny 1"
