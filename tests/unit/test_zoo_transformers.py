from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import CLASSES, DETECTORS, NAMES, PAIRS, TRANSFORMERS, photo, save_transformers
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.model.encoders import Transformers
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.from_transformers import check_same, preprocess_of

pytestmark = pytest.mark.wide

CLASSIFIERS = ("vit", "deit distilled", "swin", "convnext", "efficientnet", "dinov2 registers")
ENCODERS = ("vit encoder", "dinov2 encoder")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_transformers(name, tmp_path_factory.mktemp("hf")) for name in TRANSFORMERS}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "cache"))


def loaded(folders: dict[str, Path], name: str) -> cl.Backbone:
    return cl.load_model(f"hf:{folders[name]}")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_as_its_own_library(folders: dict[str, Path], name: str) -> None:
    model = loaded(folders, name)
    observation = model.observe([photo(), photo(97, 151)])
    own = hf.AutoModelForImageClassification.from_pretrained(folders[name]).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folders[name])
    with torch.no_grad():
        expected = own(**processor([photo(), photo(97, 151)], return_tensors="pt")).logits
    assert model.class_names == tuple(NAMES.values())
    assert torch.allclose(observation.logits, expected, atol=2e-2 * float(expected.abs().max()))
    assert type(model.module) is type(own)


@pytest.mark.parametrize(
    ("name", "layer", "cells"),
    [
        ("vit", "vit.layers.1.layernorm_before", 4),
        ("deit distilled", "deit.layers.1.layernorm_before", 4),
        ("swin", "swin.layernorm", 4),
        ("convnext", "convnext.encoder", 2),
        ("efficientnet", "efficientnet.encoder", 2),
        ("vit encoder", "layers.1.layernorm_before", 4),
        ("dinov2 encoder", "encoder.layer.1.norm1", 4),
        ("dinov2 registers", "dinov2_with_registers", 4),
        ("clip", "vision_model.encoder.layers.1.layer_norm1", 4),
        ("siglip", "vision_model.post_layernorm", 4),
        ("detr", "model.encoder", 3),
        ("conditional detr", "model.encoder", 3),
        ("deformable detr", "model.input_proj.2", 3),
        ("rt-detr", "model.decoder_input_proj.2.0", 3),
        ("yolos", "vit.encoder.layer.1.layernorm_before", 4),
    ],
)
def test_the_default_layer_is_the_last_with_places(folders: dict[str, Path], name: str, layer: str, cells: int) -> None:
    model = loaded(folders, name)
    found = next(entry for entry in model.anatomy.layers if entry.name == model.anatomy.default)
    assert (found.name, found.grid.height, found.grid.width, found.reached) == (layer, cells, cells, True)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_scores_a_class_by_its_best_query(folders: dict[str, Path], name: str) -> None:
    model = loaded(folders, name)
    observation = model.observe([photo(), photo(97, 151)])
    own = hf.AutoModelForObjectDetection.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        raw = own(observation.images).logits
    assert observation.logits.shape == (2, CLASSES)
    assert torch.allclose(observation.logits, raw[..., :CLASSES].amax(1), atol=1e-5)
    assert raw.shape[2] == CLASSES + (name in ("detr", "yolos"))  # a softmax has one column more: no object
    answer = cl.cam(observation, [cl.Logit("kind 1"), cl.Logit(3)])
    assert answer.maps.shape[:2] == (2, 2)
    assert float(answer.weights.abs().sum()) > 0  # pyright: ignore[reportOptionalMemberAccess]
    assert not any(layer.grid.height * layer.grid.width == raw.shape[1] for layer in model.anatomy.layers)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_embeds_as_its_own_library(folders: dict[str, Path], name: str) -> None:
    model = loaded(folders, name)
    observation = model.observe(photo())
    pair = model.language
    assert isinstance(pair, Transformers)
    with torch.no_grad():
        image = pair.model.get_image_features(pixel_values=observation.images).pooler_output
    assert torch.allclose(pair.encode_image(observation), image, atol=1e-5)
    assert model.class_names is None
    with pytest.raises(cl.InputError, match="no class scores"):
        _ = observation.logits


@pytest.mark.parametrize("name", PAIRS)
def test_labels_make_a_pair_the_classifier_of_its_library(folders: dict[str, Path], name: str) -> None:
    labels = ("cat", "motorcycle", "house")
    model = cl.load_model(f"hf:{folders[name]}", class_names=labels)
    observation = model.observe([photo(), photo(97, 151)])
    pair = model.language
    assert isinstance(pair, Transformers)
    config = pair.model.config.text_config
    padding = "max_length" if name == "siglip" else True
    prompts = [f"a photo of a {label}" for label in labels]
    tokens = pair.tokenizer(
        prompts, padding=padding, truncation=True, max_length=config.max_position_embeddings, return_tensors="pt"
    )
    if name == "siglip":  # it reads its padding
        del tokens["attention_mask"]
    with torch.no_grad():
        expected = pair.model(pixel_values=observation.images, **tokens).logits_per_image
    assert torch.allclose(observation.logits, expected, atol=1e-4)
    assert observation.logits.shape == (2, 3)
    assert model.default_layers[0].startswith("tower.vision_model.")
    assert cl.cam(observation, cl.Contrast("cat", nearest=2)).maps.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_without_head_embeds(folders: dict[str, Path], name: str) -> None:
    model = loaded(folders, name)
    observation = model.observe(photo())
    assert observation.embedding.shape == (1, 32)
    assert model.class_names is None
    with pytest.raises(cl.InputError, match="class_names= has nothing to name"):
        cl.load_model(f"hf:{folders[name]}", class_names=["cat", "dog"])


@pytest.mark.parametrize("size", [(151, 97), (97, 151), (64, 64), (373, 290)])
@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name not in DETECTORS])
def test_a_photo_is_prepared_as_the_image_processor_does(
    folders: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    observation = photo(*size)
    transform = loaded(folders, name).transform
    assert isinstance(transform, Preprocess)
    found = transform(observation).numpy()
    processor = hf.AutoImageProcessor.from_pretrained(folders[name], backend="pil")
    exact = np.asarray(processor(observation, return_tensors="np")["pixel_values"][0])
    level = 1 / 255 / min(transform.std)
    assert np.abs(found - exact).max() < 1e-4 * level
    fast = hf.AutoImageProcessor.from_pretrained(folders[name], backend="torchvision")
    difference = np.abs(found - np.asarray(fast(observation, return_tensors="np")["pixel_values"][0]))
    assert difference.max() < 4 * level  # it rounds between its two passes
    assert difference.mean() < 0.5 * level


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_sees_the_whole_photo_in_a_square(folders: dict[str, Path], name: str) -> None:
    transform = loaded(folders, name).transform
    assert isinstance(transform, Preprocess)
    assert transform.crop_mode == "squash"
    assert transform.size[0] == transform.size[1]
    assert transform.box((151, 97)) == (0.0, 0.0, 1.0, 1.0)


def test_a_processor_that_does_more_is_refused() -> None:
    processor = hf.MobileViTImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    transform = preprocess_of(processor, "hf:toy")
    with pytest.raises(cl.InputError, match=r"MobileViTImageProcessor.* of hf:toy does more than"):
        check_same(transform, processor, "hf:toy")
    odd = hf.BitImageProcessor(size={"max_height": 9, "max_width": 9}, do_center_crop=False)
    with pytest.raises(cl.InputError, match="is not understood"):
        preprocess_of(odd, "hf:toy")


def test_a_checkpoint_that_lacks_parameters_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folders["vit"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "classifier" not in k}, weights, {"format": "pt"})
    with pytest.raises(cl.InputError, match=r"lack classifier\.bias and 1 more, which would stay random"):
        cl.load_model(f"hf:{tmp_path}")


def test_weights_and_labels_of_ones_own(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    empty = cl.load_model(f"hf:{folders['vit']}", pretrained=False, class_names=["cat", "dog"])
    save_file(empty.module.state_dict(), tmp_path / "own.safetensors")
    again = cl.load_model(f"hf:{folders['vit']}", weights=tmp_path / "own.safetensors", class_names=["cat", "dog"])
    assert torch.equal(again.observe(photo()).logits, empty.observe(photo()).logits)
    assert again.class_names == ("cat", "dog")
    with pytest.raises(cl.InputError, match="2 class names given for the 6 classes"):
        cl.load_model(f"hf:{folders['vit']}", class_names=["cat", "dog"])


def test_numbered_classes_have_no_names(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "num_labels": 3}
    config = hf.ConvNextConfig(**sizes)
    hf.ConvNextForImageClassification(config).save_pretrained(tmp_path)
    hf.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    model = cl.load_model(f"hf:{tmp_path}")
    assert model.class_names is None
    assert model.class_name(2) == "class 2"


def test_several_questions_at_once_need_no_warning(folders: dict[str, Path]) -> None:
    observation = loaded(folders, "vit").observe(photo())
    together = observation.gradient(observation.logits)
    apart = torch.cat([observation.gradient(observation.logits[:, i]) for i in range(CLASSES)], 1)
    assert torch.allclose(together, apart, atol=1e-6)
    assert float(F.normalize(together.flatten(2), dim=2).std()) > 0


@pytest.mark.parametrize(
    ("missing", "told"),
    [("preprocessor_config.json", r"lacks preprocessor_config\.json, which says how photos are prepared; AutoImagePro"),
     ("config.json", r"lacks config\.json, which says what the model is; model\.save_pretrained"),
     ("model.safetensors", r"lacks model\.safetensors, its weights"),
     ("tokenizer", r"lacks tokenizer_config\.json, with which it reads texts")],
)  # fmt: skip
def test_a_folder_says_what_is_missing(missing: str, told: str, tmp_path: Path) -> None:
    save_transformers("clip", tmp_path)
    for file in [tmp_path / missing] if "." in missing else list(tmp_path.glob("*token*")):
        file.unlink()
    if missing == "preprocessor_config.json" or missing == "tokenizer":
        for file in tmp_path.glob("processor_config.json"):
            file.unlink()
    with pytest.raises(cl.InputError, match=told) as caught:
        cl.load_model(f"hf:{tmp_path}")
    assert "network" not in str(caught.value)


def test_a_broken_folder_does_not_speak_of_the_network(tmp_path: Path) -> None:
    save_transformers("vit", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(cl.InputError, match=r"could not be had .* check what is in the folder"):
        cl.load_model(f"hf:{tmp_path}")


def test_a_folder_with_an_adapter_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    save_transformers("vit", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(cl.InputError, match=r"holds an adapter that is not merged .*merge_and_unload"):
        cl.load_model(f"hf:{tmp_path}")


def test_weights_of_ones_own_for_a_folder(tmp_path: Path) -> None:
    save_transformers("vit", tmp_path)
    first = cl.load_model(f"hf:{tmp_path}")
    state = {f"model._orig_mod.{name}": value + 1 for name, value in first.module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    again = cl.load_model(f"hf:{tmp_path}", weights=tmp_path / "last.ckpt", class_names=list(NAMES.values()))
    for name, value in first.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value + 1)


@pytest.mark.parametrize(
    "name", ["hf:./no-such", "hf:/no/such", "hf:a/b/c", "timm:local-dir:no", "open_clip:local-dir:no"]
)
def test_a_path_without_a_folder_is_told_at_once(name: str) -> None:
    with pytest.raises(cl.InputError, match=r"could not be had: there is no folder .* here; give one"):
        cl.load_model(name)


@pytest.mark.parametrize(("source", "config"), [("timm", "config.json"), ("open_clip", "open_clip_config.json")])
def test_other_local_folders_without_a_configuration(source: str, config: str, tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match=f"lacks {config}, which says what the model is"):
        cl.load_model(f"{source}:local-dir:{tmp_path}")
