"""Every rule and target must find what was planted: scenes drawn with exact masks, nets whose evidence is known."""

from __future__ import annotations

import pytest
import torch

import conceptlens as cl
from conceptlens.data.drawn_scene import Scene, random_scene
from conceptlens.metrics import peak, pointing_energy
from planted import LABELS, SOLID, ColourNet, TokenNet, pixels

CONTROLS = {"random"}
BLIND = {"eigen_cam"}  # the same map for every question: it must find the shapes, not a certain one
# Grad-CAM++ drops negative gradients cell by cell, so a channel that speaks for another colour keeps some weight.
# Score-CAM's softmax gives every channel some weight, and as much to a mask of all shapes as to one of the shape asked.
LOOSE = {"grad_cam++": 0.75, "score_cam": 0.35, "score_cam_fast": 0.35}
SCENES = [random_scene(seed, kinds=SOLID) for seed in range(8)]


def observe(module: torch.nn.Module, layer: str, scenes: list[Scene]) -> cl.Observation:
    model = cl.Backbone(module, "planted", (layer,), class_names=LABELS)
    return model.observe(pixels(scenes))


def found(explanation: cl.Explanation, scenes: list[Scene], masks: list[torch.Tensor]) -> tuple[float, float]:
    """Share of peaks inside the masks, and mean energy inside."""
    places = peak(explanation.maps)[:, 0]
    inside = [
        bool(mask[min(int(y * mask.shape[0]), mask.shape[0] - 1), min(int(x * mask.shape[1]), mask.shape[1] - 1)])
        for (x, y), mask in zip(places.tolist(), masks, strict=True)
    ]
    energy = pointing_energy(explanation, torch.stack(masks)).mean()
    assert energy is not None
    return sum(inside) / len(scenes), energy


@pytest.mark.parametrize("rule", [name for name in cl.RULES if name not in CONTROLS])
@pytest.mark.parametrize(("net", "layer"), [(ColourNet, "features"), (TokenNet, "blocks.0")])
def test_every_rule_finds_the_colour_it_is_asked_about(rule: str, net: type, layer: str) -> None:
    observation = observe(net(), layer, SCENES)
    colours = [next(iter(scene.masks)) for scene in SCENES]
    masks = [torch.from_numpy(scene.masks[colour]) for scene, colour in zip(SCENES, colours, strict=True)]
    if rule in BLIND:
        masks = [torch.stack([torch.from_numpy(m) for m in scene.masks.values()]).any(0) for scene in SCENES]
    peaks, energy = found(cl.cam(observation, cl.Logit(colours), rule), SCENES, masks)
    assert peaks == 1.0
    assert energy > LOOSE.get(rule, 0.8)


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_a_contrast_finds_what_only_the_target_has(of: str) -> None:
    """With evidence shared by all classes, the plain map spreads over every shape; the contrast does not."""
    scenes = [scene for scene in SCENES if len(scene.masks) > 1]
    observation = observe(ColourNet(shared=1.0), "features", scenes)
    pairs = [list(scene.masks)[:2] for scene in scenes]
    masks = [torch.from_numpy(scene.masks[own]) for scene, (own, _) in zip(scenes, pairs, strict=True)]
    plain = found(cl.cam(observation, cl.Logit([own for own, _ in pairs])), scenes, masks)
    energies = []
    for i, (own, other) in enumerate(pairs):
        one = observe(ColourNet(shared=1.0), "features", scenes[i : i + 1])
        finer = cl.cam(one, cl.Contrast(own, [other], gamma=1.0, of=of))  # pyright: ignore[reportArgumentType]
        energies.append(found(finer, scenes[i : i + 1], masks[i : i + 1])[1])
    assert plain[1] < 0.75
    assert sum(energies) / len(energies) > 0.8


def test_a_concept_direction_finds_its_colour() -> None:
    observation = observe(ColourNet(), "features", SCENES)
    rows = observation.model.classifier_module
    assert rows is not None
    for i, scene in enumerate(SCENES):
        colour = next(iter(scene.masks))
        direction = rows.weight.detach()[LABELS.index(colour)]
        one = cl.cam(observation, cl.Concept(colour, direction)).of(i)
        assert found(one, [scene], [torch.from_numpy(scene.masks[colour])])[1] > 0.8


def test_the_random_control_does_not_find_it() -> None:
    observation = observe(ColourNet(), "features", SCENES)
    colours = [next(iter(scene.masks)) for scene in SCENES]
    masks = [torch.from_numpy(scene.masks[colour]) for scene, colour in zip(SCENES, colours, strict=True)]
    assert found(cl.cam(observation, cl.Logit(colours), "random"), SCENES, masks)[1] < 0.8
