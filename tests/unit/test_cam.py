"""Where weights and features meet: projection, rules of one's own, several layers combined."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from architectures import CLASSES, observation_of, random_images
from conceptlens.cams.class_activation import find_rule, gradients, project
from conceptlens.cams.targets import as_target
from conceptlens.model.observation import Observation
from tolerance import assert_agree


@cache
def observation() -> Observation:
    model = observation_of("timm resnet").model
    return model.observe(random_images((96, 160)), layers=["layer1", "layer3", "layer4"])


sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, sizes, sizes, st.booleans())
def test_projection(images: int, questions: int, channels: int, height: int, width: int, by_cell: bool) -> None:
    feature = torch.randn(images, channels, height, width)
    weights = torch.randn(images, questions, channels, *((height, width) if by_cell else (1, 1)))
    torch.testing.assert_close(project(weights, feature), (weights * feature[:, None]).sum(2))


def test_one_weight_per_channel_is_kept_as_one_number() -> None:
    assert cl.cam(observation(), [cl.Logit(3), cl.Logit(4)]).weights.shape == (2, 2, 96, 1, 1)
    assert cl.cam(observation(), [cl.Logit(3), cl.Logit(4)], rule="hires_cam").weights.shape == (2, 2, 96, 3, 5)


def test_the_relu_is_left_out_where_asked() -> None:
    every = [cl.Logit(c) for c in range(CLASSES)]
    signed, plain = cl.cam(observation(), every, signed=True), cl.cam(observation(), every)
    assert bool((signed.maps < 0).any())
    assert_agree(plain.maps, signed.maps.relu())
    assert (signed.activation, signed.signed, plain.activation, plain.signed) == ("identity", True, "relu", False)


def test_the_source_says_how_to_make_it_again() -> None:
    source = cl.cam(observation(), cl.Logit(3), rule="xgrad_cam", layer="layer3").source
    assert (source.model, source.layer, source.method) == ("timm resnet", "layer3", "xgrad_cam")
    assert [picture.name for picture in source.image_info] == ["tensor[0]", "tensor[1]"]
    assert torch.__version__.startswith(source.versions["torch"])


def test_questions_at_different_roots_keep_their_order() -> None:
    direction = torch.ones(96)
    targets = [cl.Logit(3), cl.Concept(direction=direction), cl.Contrast(5), lambda answer: answer.logits[:, 2] ** 2]
    together = cl.cam(observation(), targets, layer="layer3", signed=True)
    for place, target in enumerate(targets):
        alone = cl.cam(observation(), target, layer="layer3", signed=True)
        torch.testing.assert_close(together.maps[:, place], alone.maps[:, 0])
        assert [row[place] for row in together.labels] == [row[0] for row in alone.labels]


def test_questions_that_share_a_root_share_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    pulls: list[int] = []
    plain = Observation.pull

    def counted(self: Observation, root: Tensor, cotangents: Tensor, layer: str | None = None) -> Tensor:
        pulls.append(cotangents.shape[1])
        return plain(self, root, cotangents, layer)

    monkeypatch.setattr(Observation, "pull", counted)
    questions = [as_target(t).bind(observation()) for t in (3, cl.Contrast(4), cl.Probability(5))]
    scores, gradient = gradients(observation(), questions, "layer3")
    assert pulls == [3]
    assert scores.shape == (2, 3)
    assert gradient.shape[:2] == (2, 3)


class TestOwnRule:
    def test_a_function_is_enough(self) -> None:
        loudest = cl.Rule("loudest", lambda g, a: g.abs().amax((-2, -1), keepdim=True), "mine")
        found = cl.cam(observation(), 3, rule=loudest, layer="layer3")
        assert found.source.method == "loudest"
        gradient = observation().gradient(observation().logits[:, 3], "layer3")
        torch.testing.assert_close(found.weights, gradient.abs().amax((-2, -1), keepdim=True))

    def test_one_that_asks_the_model(self) -> None:
        def even(observation: Observation, questions: list, layer: str) -> Tensor:
            return torch.ones(
                len(observation.images), len(questions), observation.layer_output(layer).grid.channels, 1, 1
            )

        found = cl.cam(observation(), [cl.Logit(3), cl.Logit(4)], rule=cl.Rule("even", even, "mine", reads="model"))
        torch.testing.assert_close(found.maps[:, 0], observation().feature().sum(1).relu())
        torch.testing.assert_close(found.scores, observation().logits[:, [3, 4]].detach())

    def test_an_unknown_name_lists_them_all(self) -> None:
        with pytest.raises(cl.InputError, match=r"no rule 'gradcam'; rules: .*grad_cam") as error:
            find_rule("gradcam")
        assert "layer_cam" in str(error.value)


@pytest.mark.parametrize("rule", [name for name, rule in cl.RULES.items() if rule.reads == "gradient"])
@pytest.mark.parametrize("nothing", ["gradient", "feature"])
def test_nothing_divided_by_nothing_is_nothing(rule: str, nothing: str) -> None:
    """A dead channel (ReLU) and a channel nobody reads both occur in every network: no NaN, no epsilon."""
    pair = {"gradient": torch.randn(1, 1, 2, 3, 3), "feature": torch.randn(1, 1, 2, 3, 3)}
    pair[nothing] = torch.zeros(1, 1, 2, 3, 3)
    weights = cl.RULES[rule].weights(pair["gradient"], pair["feature"])
    assert bool(weights.isfinite().all())
    assert float((weights * pair["feature"]).abs().max()) == 0


@pytest.mark.parametrize("rule", ["grad_cam++", "xgrad_cam"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_no_scale_of_the_score_is_too_small_or_large(rule: str, scale: float) -> None:
    gradient = torch.rand(1, 1, 2, 3, 3, dtype=torch.float64)
    feature = torch.rand(1, 1, 2, 3, 3, dtype=torch.float64)
    weights = cl.RULES[rule].weights(gradient * scale, feature)
    assert bool(weights.isfinite().all())
    assert bool((weights > 0).all())


class TestCombine:
    LAYERS = ("layer1", "layer3", "layer4")

    def parts(self) -> list[cl.Explanation]:
        return [cl.cam(observation(), [cl.Logit(3), cl.Logit(4)], layer=layer, signed=True) for layer in self.LAYERS]

    @pytest.mark.parametrize("how", ["mean", "product", "max"])
    def test_by_hand(self, how: str) -> None:
        parts = self.parts()
        found = cl.combine(parts, how)
        scaled = []
        for part in parts:
            maps = part.maps / part.maps.abs().amax((2, 3), keepdim=True)
            scaled.append(F.interpolate(maps, size=found.maps.shape[2:], mode="bilinear", align_corners=False))
        expected = {"mean": sum(scaled) / 3, "product": scaled[0] * scaled[1] * scaled[2]}
        expected["max"] = torch.maximum(torch.maximum(scaled[0], scaled[1]), scaled[2])
        torch.testing.assert_close(found.maps, expected[how])

    def test_is_at_the_finest_grid_and_keeps_its_parts(self) -> None:
        found = cl.combine(self.parts())
        assert found.maps.shape == (2, 2, *observation().feature("layer1").shape[2:])
        assert found.weights is None
        assert [part.source.layer for part in found.components] == list(self.LAYERS)
        assert found.source.layer == "layer1 + layer3 + layer4"
        assert found.source.settings["combine"] == "mean"

    def test_several_layers_named_are_combined(self) -> None:
        found = cl.cam(observation(), [cl.Logit(3), cl.Logit(4)], layer=self.LAYERS, signed=True)
        assert_agree(found.maps, cl.combine(self.parts()).maps)

    def test_a_map_of_zeros_stays(self) -> None:
        silent = cl.Rule("silent", lambda g, a: torch.zeros_like(g[..., :1, :1]), "")
        parts = [cl.cam(observation(), 3, rule=silent, layer=layer) for layer in self.LAYERS]
        assert float(cl.combine(parts).maps.abs().max()) == 0

    def test_is_refused_where_it_means_nothing(self) -> None:
        with pytest.raises(cl.InputError, match="expected at least one"):
            cl.combine([])
        with pytest.raises(cl.InputError, match="ask different questions"):
            cl.combine([cl.cam(observation(), 3), cl.cam(observation(), 4)])
        with pytest.raises(cl.InputError, match="'sum' is no way to combine layers; expected mean, product or max"):
            cl.combine(self.parts(), "sum")  # type: ignore[arg-type]


def test_contributions_of_a_linear_readout_sum_to_the_logit() -> None:
    """HiResCAM's own guarantee: where a mean and a linear map follow, the unrectified map sums to the logit."""
    found = cl.cam(observation(), [cl.Logit(c) for c in range(CLASSES)], rule="hires_cam", signed=True)
    bias = observation().model.classifier_module.bias.detach()
    torch.testing.assert_close(found.maps.sum((2, 3)) + bias, found.scores, rtol=1e-4, atol=1e-4)
