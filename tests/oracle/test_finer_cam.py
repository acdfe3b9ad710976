"""A sweep keeps gradients, so every gamma and every choice of references equals `cam` and needs no model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import LABELS, backbone, observation_of, random_images
from conceptlens.cams.finer_cam import LINEAR, sweep
from conceptlens.model import observation as observing
from conceptlens.model.observation import Observation

GRADIENT_RULES = [name for name, rule in cl.RULES.items() if rule.reads == "gradient"]
NETWORKS = {"timm resnet": "layer4", "timm vit": "blocks.5.norm1"}
DOUBLE = torch.float64


def look(name: str = "timm resnet") -> Observation:
    return backbone(name, DOUBLE).observe(random_images((96, 160)), layers=NETWORKS[name])


def same(got: cl.Explanation, expected: cl.Explanation) -> bool:
    largest = expected.maps.abs().amax((2, 3), keepdim=True)
    return (
        bool(((got.maps - expected.maps).abs() <= 1e-6 * largest).all())
        and torch.allclose(got.scores.double(), expected.scores.double(), rtol=1e-6, atol=1e-5)
        and got.labels == expected.labels
    )


@pytest.mark.parametrize("rule", GRADIENT_RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_gamma_equals_cam(name: str, rule: str) -> None:
    seen = look(name)
    kept = sweep(seen, cl.Contrast(3), rule)
    for gamma in (0.3, 0.6, 1.7):
        assert same(kept.explanation(gamma), cl.cam(seen, cl.Contrast(3, gamma=gamma), rule)), gamma
    assert same(kept.explanation(), cl.cam(seen, cl.Contrast(3), rule))
    assert same(kept.explanation(0), cl.cam(seen, cl.Logit(3), rule))


@pytest.mark.parametrize("references", ["uniform", "softmax", "cosine"])
@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_every_weighting_equals_cam(references: str, of: str) -> None:
    seen = look()
    contrast = cl.Contrast(3, nearest=4, references=references, of=of)  # pyright: ignore[reportArgumentType]
    for rule in ("grad_cam", "layer_cam"):
        assert same(sweep(seen, contrast, rule).explanation(), cl.cam(seen, contrast, rule))


@pytest.mark.parametrize("references", ["uniform", "softmax", "cosine"])
def test_a_subset_of_references_equals_cam_against_them_alone(references: str) -> None:
    seen = look()
    weighting = {"references": references, "gamma": 0.8}
    kept = sweep(seen, cl.Contrast(3, against=[5, 7, 1], **weighting), "layer_cam")  # pyright: ignore[reportArgumentType]
    expected = cl.cam(seen, cl.Contrast(3, against=[5, 1], **weighting), "layer_cam")  # pyright: ignore[reportArgumentType]
    assert same(kept.explanation(references=[0, 2]), expected)
    assert same(kept.explanation(references=[LABELS[5], LABELS[1]]), expected)


def test_references_may_differ_between_images() -> None:
    seen = look("timm vit")
    kept = sweep(seen, cl.Contrast(3, nearest=2))
    whole = kept.explanation(0.5, [1])
    for image in range(2):
        alone = seen.model.observe(seen.images[image : image + 1], layers=NETWORKS["timm vit"])
        second = int(kept.classes[image, 2])
        assert same(whole.of(image), cl.cam(alone, cl.Contrast(3, against=[second], gamma=0.5)))


def test_nothing_of_the_model_runs_afterwards() -> None:
    seen = look("timm vit")
    kept = sweep(seen, cl.Contrast(3), "layer_cam")
    calls: list[str] = []
    parts = [part for part in seen.model.module.modules() if not list(part.children())]
    handles = [part.register_forward_hook(lambda *_: calls.append("forward")) for part in parts]
    handles += [part.register_full_backward_hook(lambda *_: calls.append("backward")) for part in parts]
    del seen
    try:
        with torch.no_grad():
            maps = [
                kept.explanation(gamma, references).maps for gamma in (0, 0.6, 2) for references in (None, [0], [1, 2])
            ]
    finally:
        for handle in handles:
            handle.remove()
    assert calls == []
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 7  # with gamma 0 the references do not matter


def test_one_product_a_class_and_none_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    through = observing.gradient_through_graph

    def counted(root: Tensor, cotangents: Tensor, *layer: Any) -> Tensor:
        asked.append(cotangents.shape[1])
        return through(root, cotangents, *layer)

    vit, resnet = look("timm vit"), look("timm resnet")
    assert resnet.readout(resnet.logits) is not None
    monkeypatch.setattr(observing, "gradient_through_graph", counted)
    sweep(vit, cl.Contrast(3, nearest=3))
    assert asked == [4]
    sweep(resnet, cl.Contrast(3, nearest=3))
    assert asked == [4]


@pytest.mark.parametrize("rule", LINEAR)
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_linear_rules_mix_as_their_gradients_do(name: str, rule: str) -> None:
    seen = look(name)
    kept = sweep(seen, cl.Contrast(3, references="softmax"), rule)
    maps = kept.linear_maps()
    assert maps.shape == (2, 4, *seen.feature().shape[2:])
    for gamma in (0.0, 0.6, 2.0):
        mixed = (
            maps[:, :1] - gamma * torch.einsum("nt,nthw->nhw", kept.reference_weights.to(DOUBLE), maps[:, 1:])[:, None]
        )
        expected = cl.cam(seen, cl.Contrast(3, references="softmax", gamma=gamma), rule, signed=True).maps
        assert torch.allclose(mixed, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_the_margin_falls_along_the_sweep() -> None:
    kept = sweep(look(), cl.Contrast(3, by="rank"))
    margins = [kept.explanation(gamma).scores[:, 0] for gamma in (0.0, 0.5, 1.0)]
    slope = (kept.reference_weights * kept.scores[:, 1:]).sum(1)
    assert all(torch.allclose(a - b, 0.5 * slope, atol=1e-6) for a, b in pairwise(margins))


def test_what_cannot_be_swept_is_refused() -> None:
    seen = observation_of("timm resnet")
    with pytest.raises(cl.InputError, match="score_cam runs the model again"):
        sweep(seen, cl.Contrast(3), "score_cam")
    with pytest.raises(cl.InputError, match="not a mixture of class gradients"):
        sweep(seen, cl.Contrast(3, objective="official"))
    kept = sweep(seen, cl.Contrast(3, nearest=2), "layer_cam")
    with pytest.raises(cl.InputError, match="layer_cam is not linear"):
        kept.linear_maps()
    with pytest.raises(cl.InputError, match="no reference 'kind 99'"):
        kept.explanation(references=["kind 99"])
    with pytest.raises(cl.InputError, match="no reference '2'"):
        kept.explanation(references=[2])
    with pytest.raises(cl.InputError, match="gamma is -1"):
        kept.explanation(-1)


def test_a_sweep_keeps_no_graph() -> None:
    kept = sweep(look("timm vit"), cl.Contrast(3))
    tensors = (kept.gradients, kept.feature, kept.scores, kept.reference_weights, kept.explanation().maps)
    assert not any(tensor.requires_grad for tensor in tensors)
    assert not any(isinstance(value, nn.Module | Observation) for value in vars(kept).values())
