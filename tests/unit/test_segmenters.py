"""Segmentation models of every family, and targets about a region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.model.observation import Observation
from tiny_detectors import OTHER_INPUTS, SEGMENTERS

NAMES = ("sky", "cat", "dog", "bus")
_seen: dict[str, Observation[cl.Backbone]] = {}


def seen(name: str) -> Observation[cl.Backbone]:
    if name not in _seen:
        model = cl.Backbone(SEGMENTERS[name](), name, class_names=NAMES, input_size=(96, 96))
        _seen[name] = model.observe(images(), **OTHER_INPUTS.get(name, lambda _: {})(2))
    return _seen[name]


def images() -> Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))


def mean_over(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the mean score of every class where a mask of the same size is true."""
    return torch.stack([one[:, place].mean(1) for one, place in zip(scores, mask, strict=True)])


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_region_is_explained_by_its_mean_score(name: str) -> None:
    observation = seen(name)
    scores = observation.pixel_scores.detach()
    shown = scores.argmax(1)
    most = torch.stack([one.flatten().bincount().argmax() for one in shown])
    explained = cl.cam(observation, [cl.Region(), cl.Region(mask=np.ones((10, 10), bool))], signed=True)
    own = mean_over(scores, shown == most[:, None, None]).gather(1, most[:, None])[:, 0]
    assert torch.allclose(explained.scores[:, 0], own, atol=1e-5)
    assert torch.allclose(explained.scores[:, 1], scores.mean((2, 3)).gather(1, most[:, None])[:, 0], atol=1e-5)
    assert bool((explained.maps.abs().amax((2, 3)) > 0).all())
    assert explained.target_kinds == ("region", "region")
    assert explained.labels[0][0] == NAMES[int(most[0])]
    assert explained.source.method == "hires_cam"


@pytest.mark.parametrize("name", ["torchvision fcn", "hf upernet", "hf maskformer"])
def test_the_gradient_is_that_of_the_mean(name: str) -> None:
    observation = seen(name)
    mask = torch.zeros(2, *observation.pixel_scores.shape[2:], dtype=torch.bool)
    mask[0, :8, 4:], mask[1, 5:9, :6] = True, True
    score = mean_over(observation.pixel_scores, mask)[:, 2]
    raw = observation.layer_output()
    (gradient,) = torch.autograd.grad(score.sum(), raw.raw, retain_graph=True)
    expected = (raw.grid.read(gradient) * observation.feature()).sum(1)
    explained = cl.cam(observation, cl.Region("dog", mask), signed=True)
    assert torch.allclose(explained.maps[:, 0], expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.allclose(explained.scores[:, 0], score.detach(), atol=1e-5)


class TestOneFormer:
    """It answers for a task, whose tokens it takes beside the images."""

    def test_its_answer_is_that_of_the_task(self) -> None:
        observation = seen("hf oneformer")
        assert observation.model.known_task == "dense"
        with torch.no_grad():
            found = observation.model.module(images(), **OTHER_INPUTS["hf oneformer"](2))
        classes, masks = found.class_queries_logits.softmax(2)[..., :-1], found.masks_queries_logits.sigmoid()
        by_hand = sum(classes[:, q, :, None, None] * masks[:, q, None] for q in range(masks.shape[1]))
        assert torch.allclose(observation.pixel_scores, by_hand, atol=1e-5)
        other = observation.model.observe(images(), task_inputs=torch.tensor([[48, 9, 2, 40, 49, 0, 0, 0]] * 2))
        assert not torch.allclose(other.pixel_scores, observation.pixel_scores, atol=1e-2)

    def test_every_kind_of_rule_hands_the_task_on(self) -> None:
        observation = seen("hf oneformer")
        alone = observation.model.observe(images()[:1], **OTHER_INPUTS["hf oneformer"](1))
        for rule in ("score_cam", "ablation_cam", "eigen_cam", "layer_cam"):
            explained = cl.cam(alone, cl.Region(), rule)
            assert bool(explained.maps.isfinite().all())
            assert torch.allclose(explained.scores, cl.cam(observation, cl.Region()).scores[:1], atol=1e-4)

    def test_without_a_task_it_is_refused(self) -> None:
        model = cl.Backbone(SEGMENTERS["hf oneformer"](), "one", input_size=(96, 96))
        with pytest.raises(cl.InputError, match=r"missing a required argument: 'task_inputs'.*give what it needs"):
            model.observe(images())

    def test_a_task_for_one_of_two_images_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match=r"task_inputs with 1 rows was given for 2 images"):
            seen("hf oneformer").model.observe(images(), **OTHER_INPUTS["hf oneformer"](1))


@pytest.mark.parametrize("rule", ["score_cam", "ablation_cam", "eigen_cam", "layer_cam"])
def test_rules_without_a_gradient_keep_the_region(rule: str) -> None:
    observation = seen("hf segformer")
    alone = observation.model.observe(observation.images[:1])
    explained = cl.cam(alone, cl.Region(), rule)
    assert bool(explained.maps.isfinite().all())
    assert torch.allclose(explained.scores, cl.cam(observation, cl.Region()).scores[:1], atol=1e-4)


def test_classes_are_compared_in_the_region() -> None:
    observation = seen("hf segformer")
    mask = torch.zeros(24, 24, dtype=torch.bool)
    mask[3:9, 10:] = True
    scores = mean_over(observation.pixel_scores.detach(), mask.expand(2, -1, -1))
    found = cl.cam(observation, cl.Contrast(cl.Region("cat", mask), against=["dog", "bus"], gamma=0.5)).scores[:, 0]
    assert torch.allclose(found, scores[:, 1] - 0.25 * (scores[:, 2] + scores[:, 3]), atol=1e-5)


def test_a_mask_lies_over_the_whole_photo() -> None:
    model = cl.Backbone(
        SEGMENTERS["hf segformer"](), "seg", transform=cl.Preprocess((96, 96), resize=96), class_names=NAMES
    )
    observation = model.observe(Image.effect_noise((192, 96), 60).convert("RGB"))
    whole = np.zeros((96, 192), bool)
    whole[:48, 48:96] = True  # the upper left quarter of the centre crop
    inside = torch.zeros(1, 24, 24, dtype=torch.bool)
    inside[0, :12, :12] = True
    expected = mean_over(observation.pixel_scores.detach(), inside)[0, 1]
    assert float(cl.cam(observation, cl.Region("cat", whole)).scores[0, 0]) == pytest.approx(float(expected), abs=1e-5)
    border = np.zeros((96, 192), bool)
    border[:, :40] = True
    with pytest.raises(cl.InputError, match="empty in the part of"):
        cl.cam(observation, cl.Region("cat", border))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda: cl.Region("cow"), ["cow"]),
        (lambda: cl.Region(9), ["no class 9"]),
        (lambda: cl.Region("cat", np.ones((4, 4))), ["expected bool"]),
        (lambda: cl.Region("cat", np.ones((3, 4, 4), bool)), ["(3, 4, 4)", "one each image"]),
        (lambda: cl.Region("cat", np.ones(4, bool)), ["(4,)"]),
        (lambda: cl.Region("cat", np.zeros((4, 4), bool)), ["the mask is empty"]),
        (lambda: cl.Region("cat"), ["no place of tensor[", "shows cat", "bus 100%"]),
        (lambda: cl.Logit("cat"), ["cl.Region"]),
        (lambda: cl.Detection(0), ["gives no detections"]),
    ],
)
def test_what_a_segmentation_model_cannot_answer_is_refused(target: Any, words: list[str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    nn.init.zeros_(net[2].weight)
    net[2].bias.data = torch.tensor([0.0, 1, 2, 3])
    nn.init.normal_(net[2].weight, 0, 1e-3)
    observation = cl.Backbone(net, layers=("1",), class_names=NAMES).observe(torch.rand(2, 3, 64, 64))
    with pytest.raises(cl.InputError) as refused:
        cl.cam(observation, target())
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_a_classifier_has_no_regions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    observation = cl.Backbone(net, layers=("0",)).observe(torch.rand(1, 3, 32, 32))
    with pytest.raises(cl.InputError, match="gives no scores of places"):
        cl.cam(observation, cl.Region())


class Maps(nn.Module):
    """A network that ends in maps, with what follows its first convolution."""

    def __init__(self, *end: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.end = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU()), nn.Sequential(*end)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(given))


class FeatureModel(Maps):
    """A trunk as transformers names them: without For in its name."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 4, 1))
        self.config = type("Config", (), {"model_type": "maps"})()


HEAD = nn.Conv2d(8, 4, 1)


@pytest.mark.parametrize(
    ("made", "more", "dense"),
    [
        (Maps(HEAD), {}, True),
        (Maps(HEAD, nn.Upsample(scale_factor=2), nn.Dropout()), {}, True),
        (Maps(HEAD, nn.Sigmoid()), {"class_names": ["a", "b", "c", "d"]}, True),
        (Maps(), {"task": "dense"}, True),
        (Maps(), {"output": lambda found: found}, True),
        (Maps(), {}, False),
        (Maps(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), {}, False),
        (Maps(HEAD), {"task": "embedding"}, False),
        (FeatureModel(), {}, False),
    ],
)
def test_only_a_class_head_scores_places(made: nn.Module, more: dict[str, Any], dense: bool) -> None:
    """The maps of a trunk are features: a region of channel 0 would be shown as one of class 0."""
    observation = cl.Backbone(made.eval(), "maps", input_size=(64, 64), **more).observe(torch.rand(1, 3, 64, 64))
    assert observation.feature().ndim == 4  # its layers can be looked at in any case
    if dense:
        scores = cl.cam(observation, cl.Region(2, torch.ones(8, 8, dtype=torch.bool))).scores
        assert float(scores[0, 0]) == pytest.approx(float(observation.output[0, 2].detach().mean()), abs=1e-5)
        return
    with pytest.raises(cl.InputError, match=r"maps gives no scores of places .*task='dense'"):
        cl.cam(observation, cl.Region(2))
    with pytest.raises(cl.InputError, match="maps gives no class scores"):
        cl.cam(observation, 2)


def test_the_map_of_vitdet_is_no_segmentation() -> None:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    module = transformers.VitDetModel(transformers.VitDetConfig(**sizes, pretrain_image_size=64)).eval()
    observation = cl.Backbone(module, "vitdet", input_size=(64, 64)).observe(torch.rand(1, 3, 64, 64))
    assert observation.model.known_task == "embedding"
    assert observation.feature().shape == (1, 32, 8, 8)
    with pytest.raises(cl.InputError, match="vitdet gives no scores of places"):
        cl.cam(observation, cl.Region(0))
    with pytest.raises(cl.InputError, match=r"vitdet has no embedding, .*of a map \.mean\(\(2, 3\)\)"):
        observation.embedding  # noqa: B018
    pooled = cl.Backbone(
        module,
        "vitdet",
        task="embedding",
        output=lambda found: found.last_hidden_state.mean((2, 3)),
        input_size=(64, 64),
    )
    assert pooled.observe(torch.rand(1, 3, 64, 64)).embedding.shape == (1, 32)
