"""Models by name whose task is known or given: timm, transformers, open_clip, and the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.model.found_task import found_task
from conceptlens.model.predictions import predictions

pytestmark = pytest.mark.wide


def photo(seed: int = 0, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def chance(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def vit(folder: Path, names: list[str], **config: Any) -> str:
    """Write a small ViT of transformers, whose biases tell its classes apart."""
    known = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    made = hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=64, patch_size=16, **known, **config))
    with torch.no_grad():
        made.classifier.bias.copy_(torch.linspace(-1.5, 2.5, len(names)))  # pyright: ignore
    made.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return f"hf:{folder}"


def test_a_multi_label_model_of_transformers_says_so(tmp_path: Path) -> None:
    name = vit(tmp_path, ["mass", "nodule", "fluid"], problem_type="multi_label_classification")
    observation = cl.load_model(name).observe([photo(), photo(1)])
    assert observation.answer.task == "multi_label"
    for image in range(2):
        raw = observation.output.logits[image].tolist()
        found = {one.index: one.probability for one in predictions(observation, image)}
        assert [found[k] for k in range(3)] == pytest.approx([chance(z) for z in raw], abs=1e-6)
    assert cl.load_model(name, task="single_label").observe(photo()).answer.task == "single_label"


@pytest.mark.parametrize("config", [{}, {"problem_type": "regression"}])
def test_one_number_of_transformers_is_a_quantity(tmp_path: Path, config: dict[str, Any]) -> None:
    name = vit(tmp_path, ["age"], **config)
    observation = cl.load_model(name).observe(photo())
    (age,) = predictions(observation, 0)
    assert (observation.answer.task, age.name, age.probability) == ("regression", "age", None)
    assert age.logit == pytest.approx(float(observation.output.logits[0, 0].detach()), rel=1e-6)


def test_two_names_for_one_number_of_transformers_are_two_classes(tmp_path: Path) -> None:
    name = vit(tmp_path, ["LABEL_0"])
    for model in (
        cl.load_model(name, class_names=["healthy", "ill"]),
        cl.load_model(name, class_names=["healthy", "ill"], task="binary"),
    ):
        observation = model.observe(photo())
        z = float(observation.output.logits[0, 0].detach())
        shares = {one.name: one.probability for one in predictions(observation, 0)}
        assert shares == {"healthy": pytest.approx(chance(-z)), "ill": pytest.approx(chance(z))}
    assert cl.load_model(name, class_names=["ill"], task="binary").class_names == ("not ill", "ill")


def test_a_trunk_of_transformers_has_no_classes() -> None:
    config = hf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=64, patch_size=16
    )
    observation = cl.Backbone(hf.ViTModel(config).eval(), input_size=(64, 64)).observe(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(observation.embedding, observation.output.pooler_output)
    with pytest.raises(cl.InputError, match="gives no class scores"):
        cl.cam(observation)


@pytest.mark.parametrize("how", ["num_classes=0", "head taken off"])
def test_a_timm_network_without_head_has_no_classes(how: str) -> None:
    module = timm.create_model("test_vit", pretrained=False, num_classes=0 if how == "num_classes=0" else 5).eval()
    if how == "head taken off":
        module.head = nn.Identity()
    observation = cl.Backbone(module, "trunk").observe(torch.randn(1, 3, 160, 160))
    assert observation.embedding.shape == (1, 64)
    with pytest.raises(cl.InputError, match="trunk gives no class scores"):
        cl.cam(observation)


def whole_clip() -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=64)
    return CLIP(16, vision, CLIPTextCfg(context_length=8, vocab_size=50, width=16, heads=2, layers=1)).eval()


def test_a_whole_clip_model_embeds_and_has_no_classes() -> None:
    model = cl.Backbone(whole_clip(), "clip", transform=cl.Preprocess((64, 64)))
    observation = model.observe(photo())
    torch.testing.assert_close(observation.embedding, observation.output[0])
    with pytest.raises(cl.InputError, match="clip gives no class scores"):
        cl.cam(observation)
    with pytest.raises(cl.InputError, match="clip gives an embedding and no class scores, so class_names= names noth"):
        cl.Backbone(whole_clip(), "clip", class_names=[f"bird {i}" for i in range(20)])


def test_a_whole_pair_of_transformers_asks_which_scores() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    text = {**small, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2}
    config = hf.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 64, "patch_size": 16}, projection_dim=16
    )

    class Zero(nn.Module):
        """A pair with texts of its own, as people wrap it: its output is that of the pair."""

        def __init__(self) -> None:
            super().__init__()
            self.clip = hf.CLIPModel(config)
            self.ids = torch.tensor([[1, 5, 2], [1, 7, 2], [1, 9, 2]])

        def forward(self, images: Tensor) -> Any:
            return self.clip(input_ids=self.ids.to(images.device), pixel_values=images)

    model = cl.Backbone(Zero().eval(), "zero", input_size=(64, 64), class_names=["cat", "dog", "fox"])
    words = r"found: found.logits_per_image: .*found.logits_per_image \(\d, 3\).*found.image_embeds \(\d, 16\)"
    with pytest.raises(cl.InputError, match=words):
        model.observe(torch.randn(1, 3, 64, 64))


def written(folder: Path, numbers: int, bias: list[float], names: list[str]) -> list[str]:
    """Write weights of a small timm network, class names and a photo; return the options that load them."""
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=numbers, pretrained=False).state_dict()
    state["fc.bias"] = torch.tensor(bias)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / "w.safetensors")
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    photo(3, 160).save(folder / "photo.png")
    loading = ["--model", "timm:test_resnet", "--weights", str(folder / "w.safetensors")]
    return [*loading, "--class-names", str(folder / "names.txt")]


def run(command: str, folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [command, str(folder / "photo.png"), *arguments])


def test_the_command_line_takes_a_task(tmp_path: Path) -> None:
    loading = written(tmp_path, 1, [-3.0], ["ill"])
    page = tmp_path / "page.html"
    done = run("contrast", tmp_path, *loading, "--task", "binary", "--nearest", "1", "--json", "--out", str(page))
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.stdout)["images"]
    assert (image["task"], image["target"]["name"]) == ("binary", "not ill")
    (reference,) = image["references"]
    assert image["target"]["probability"] == pytest.approx(chance(image["target"]["logit"]), rel=1e-5)
    assert image["target"]["probability"] + reference["probability"] == pytest.approx(1, abs=1e-6)
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("numbers", "bias", "names", "task", "expected"),
    [
        (3, [2.0, -1.0, 0.5], ["mass", "node", "air"], "multi_label", "mass"),
        (2, [2.0, -1.0], ["none", "mild", "bad"], "ordinal", "mild"),
    ],
)
def test_names_are_counted_as_the_task_has_them(
    tmp_path: Path, numbers: int, bias: list[float], names: list[str], task: str, expected: str
) -> None:
    loading = written(tmp_path, numbers, bias, names)
    done = run("contrast", tmp_path, *loading, "--task", task, "--nearest", "1", "--json")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.stdout)["images"]
    assert (image["task"], image["target"]["name"]) == (task, expected)


def test_one_number_is_asked_for_on_the_command_line(tmp_path: Path) -> None:
    done = run("contrast", tmp_path, *written(tmp_path, 1, [-3.0], ["ill"]))
    assert done.exit_code == 2
    assert "may be the logit of one of two classes or a quantity" in done.output
    assert "--task" in done.output
    done = run("contrast", tmp_path, *written(tmp_path, 1, [40.0], ["age"]), "--task", "regression")
    assert done.exit_code == 2
    assert "gives a quantity, which has no look-alikes" in done.output
    done = run("contrast", tmp_path, *written(tmp_path, 1, [40.0], ["age"]), "--task", "regresion")
    assert "no task 'regresion'; near names: regression" in done.output


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("command", ["explain", "contrast"])
def test_scores_that_are_not_finite_leave_json_valid(tmp_path: Path, value: float, command: str) -> None:
    loading = written(tmp_path, 3, [0.5, value, 0.0], ["mass", "node", "air"])
    words = ["--concepts", "dog"] if command == "explain" else []
    done = run(command, tmp_path, *loading, *words, "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout.splitlines()[0], parse_constant=lambda word: pytest.fail(word))
    assert document["images"] == []
    assert "that of node is" in document["failures"][0]["error"]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("test_vit", "single_label"),  # ImageNet
        ("vit_xsmall_patch16_clip_224", "embedding"),  # 512 numbers: the space of a CLIP
        ("mobilenetv3_large_100.miil_in21k", "single_label"),
    ],
)
def test_timm_models_with_their_published_head_are_what_they_were_trained_for(name: str, task: str) -> None:
    module = timm.create_model(name, pretrained=False)
    assert cl.Backbone(module, name).known_task == task
    module.reset_classifier(4)  # a head of one's own says nothing
    assert cl.Backbone(module, name).known_task is None


def test_a_model_of_the_hub_that_is_not_of_timm_says_nothing() -> None:
    module = timm.create_model("test_vit", pretrained=False)
    module.pretrained_cfg["hf_hub_id"] = "somebody/tagger"
    assert cl.Backbone(module, "tagger").known_task is None


def own_head(folder: Path) -> list[str]:
    """Write a ResNet with four numbers of one's own and their names; return what the command line is given."""
    torch.manual_seed(0)
    save_file(
        timm.create_model("test_resnet", pretrained=False, num_classes=4).state_dict(), folder / "own.safetensors"
    )
    (folder / "names.txt").write_text("left\ntop\nwidth\nheight\n", encoding="utf-8")
    photo().save(folder / "one.png")
    words = [
        "contrast",
        str(folder / "one.png"),
        "-m",
        "timm:test_resnet",
        "--weights",
        str(folder / "own.safetensors"),
    ]
    return [*words, "--class-names", str(folder / "names.txt")]


def test_a_head_of_ones_own_is_told_to_be_read_as_classes_until_the_task_is_given(tmp_path: Path) -> None:
    words, page = own_head(tmp_path), tmp_path / "page.html"
    done = CliRunner().invoke(app, [*words, "--json", "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"][0]["task_assumed"] is True
    said = (
        "of timm:test_resnet, the numbers are read as the scores of one class of many (softmax), but nothing says so;"
    )
    assert done.stderr.count(said) == 1
    assert "--task" in done.stderr
    shown = json.loads(page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    assert "nothing says so" in shown["images"][0]["task_note"]
    sure = CliRunner().invoke(app, [*words, "--json", "--task", "single_label"])
    assert json.loads(sure.stdout)["images"][0]["task_assumed"] is False
    assert "nothing says so" not in sure.stderr


def test_several_numbers_of_a_linear_layer_are_assumed_to_be_classes_and_say_so() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    open_task = cl.Backbone(net, "four", input_size=(64, 64))
    assert open_task.observe(torch.rand(1, 3, 64, 64)).answer.assumed
    assert "one class of many is assumed" in repr(open_task)
    for task in ("single_label", "regression", "multi_label"):
        known = cl.Backbone(net, "four", task=task, input_size=(64, 64)).observe(torch.rand(1, 3, 64, 64))
        assert (known.answer.assumed, known.answer.note) == (False, "")
    held = nn.Sequential(*net)
    held.loss = nn.CrossEntropyLoss()  # a Lightning module says so itself
    assert found_task(held, None) == "single_label"
