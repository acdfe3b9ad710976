"""What every rule, target and architecture is held to, read from the tables themselves: a new entry is a new case."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import (
    ARCHITECTURES,
    EVERY,
    EVERY_SLOW,
    FAMILIES,
    FEW,
    MOST_FLIPPED_SLOW,
    backbone,
    fresh,
    make_symmetric,
    observation_of,
    observe,
    random_images,
    wrap,
)
from conceptlens.model.detector_output import Detections
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.model.pixel_scores import PixelScores
from tolerance import assert_agree

EXACT = torch.float64  # the contract is about equations, so it is checked where rounding cannot blur them
GRADIENT_RULES = [name for name, rule in cl.RULES.items() if rule.reads == "gradient"]
MODEL_RULES = [name for name, rule in cl.RULES.items() if rule.reads == "model"]


def spread(answer: ModelOutput) -> Tensor:
    """A target of one's own: how unlike each other the answer's numbers are."""
    if isinstance(answer.places, PixelScores):
        return answer.pixel_scores.float().var(1).mean((1, 2))
    values = answer.class_scores if answer.class_scores is not None else answer.embedding
    return values.float().var(1)


def direction(observation: Observation) -> cl.Concept:
    size = observation.embedding.shape[1]
    return cl.Concept(direction=torch.randn(size, generator=torch.Generator().manual_seed(3)))


CLASS_TARGETS: dict[str, Any] = {
    "logit": cl.Logit(3),
    "probability": cl.Probability(3),
    "contrast": cl.Contrast(3),
    "contrast, official": cl.Contrast(3, objective="official", gamma=1.0),
    "contrast, probabilities": cl.Contrast(3, of="probabilities"),
}
HALF = torch.arange(8).expand(6, 8) < 4  # a mask of the left half
DETECTION_TARGETS: dict[str, Any] = {
    "logit": cl.Logit(3),
    "highest score": cl.MaxScore(2),
    "contrast": cl.Contrast(3),
    "detection": cl.Detection(0),
    "box": cl.Box(0, "width"),
    "contrast at a box": cl.Contrast(cl.Detection(0, label=3), against=[1, 2]),
}
REGION_TARGETS: dict[str, Any] = {
    "region": cl.Region(),
    "region of a mask": cl.Region(2, HALF),
    "contrast in a region": cl.Contrast(cl.Region(2, HALF), against=[1, 3]),
}

# Rules that fit something to the scores: a regression makes more of their rounding.
ROUNDED = {"score_cam_fast": 1e-4}


def rules_for(name: str) -> list[str]:
    """Return the rules an architecture is held to; those that ask the model again and again are dear."""
    return GRADIENT_RULES + (MODEL_RULES if name in FEW else [])


def targets_for(observation: Observation) -> list[Any]:
    """Return every target that the answer of this model allows; a callable is always one."""
    if isinstance(observation.places, Detections):
        return [*DETECTION_TARGETS.values(), spread]
    if isinstance(observation.places, PixelScores):
        return [*REGION_TARGETS.values(), spread]
    classes = list(CLASS_TARGETS.values()) if observation.class_scores is not None else []
    concepts = [direction(observation)] if observation.vector is not None else []
    return [*classes, *concepts, spread]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    """Whether two tensors agree to `tolerance` of the largest entry of each image and question."""
    scale = b.abs().flatten(2).amax(2)[(...,) + (None,) * (b.ndim - 2)]
    return bool(((a - b).abs() <= tolerance * scale + 1e-12).all())


# One rule for each shape of weights on every architecture, and every rule on a few: the product is always the same.
EQUATIONS = [
    *((name, rule) for name in ARCHITECTURES for rule in (cl.RULES if name in FEW else ("grad_cam", "hires_cam"))),
    *(pytest.param(name, "grad_cam", marks=pytest.mark.slow) for name in FAMILIES),
]


@pytest.mark.parametrize(("name", "rule"), EQUATIONS)
def test_the_equation_holds(name: str, rule: str) -> None:
    observation = observation_of(name, EXACT if name in FAMILIES else torch.float32)
    targets = targets_for(observation)
    feature = observation.feature()
    signed = cl.cam(observation, targets, rule=rule, signed=True)
    rectified = cl.cam(observation, targets, rule=rule)

    assert signed.maps.shape == (2, len(targets), *feature.shape[2:])
    weights = signed.weights.expand(*signed.weights.shape[:3], *feature.shape[2:])
    expected = torch.einsum("nqkhw,nkhw->nqhw", weights, feature)
    assert close(signed.maps, expected, 1e-5)
    assert_agree(rectified.maps, signed.maps.relu())
    assert bool(signed.maps.isfinite().all())
    assert bool((signed.maps.abs().amax((2, 3)) > 0).all()), "a map of zeros proves nothing"
    assert not any(t.requires_grad for t in (signed.maps, signed.weights, signed.scores))


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_a_batch_equals_its_images_one_by_one(name: str) -> None:
    observation = observation_of(name, EXACT)
    alone = [observe(name, observation.model, observation.images[i : i + 1]) for i in range(2)]
    for rule in rules_for(name):
        first = -3 if rule in MODEL_RULES else None
        together = cl.cam(observation, targets_for(observation)[first:], rule=rule, signed=True)
        apart = [cl.cam(one, targets_for(one)[first:], rule=rule, signed=True) for one in alone]
        assert close(together.maps, torch.cat([e.maps for e in apart]), ROUNDED.get(rule, 1e-8)), rule
        assert torch.allclose(together.scores, torch.cat([e.scores for e in apart]))
        assert together.labels == sum((e.labels for e in apart), ())


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_several_targets_at_once_equal_each_alone(name: str) -> None:
    observation = observation_of(name, EXACT)
    targets = targets_for(observation)
    together = cl.cam(observation, targets, "grad_cam", signed=True)
    apart = [cl.cam(observation, target, "grad_cam", signed=True) for target in targets]
    assert close(together.maps, torch.cat([e.maps for e in apart], 1))
    assert torch.allclose(together.scores, torch.cat([e.scores for e in apart], 1))


def state(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that a guest must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [m.training for m in module.modules()],
        "hooks": [list(getattr(m, h).values()) for m in module.modules() for h in hooks],
        "attributes": [sorted(vars(m)) for m in module.modules()],
        "learning": [p.requires_grad for p in module.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "values": [t.detach().clone() for t in [*module.parameters(), *module.buffers()]],
        "random": torch.get_rng_state(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    before = state(module)
    yield
    after = state(module)
    changed = [key for key in before if not same(before[key], after[key])]
    assert not changed, f"changed: {changed}"


def in_use(name: str) -> tuple[cl.Backbone, list[Exception]]:
    """A module in the middle of somebody's training: mixed modes, partly frozen, gradients and a hook of their own.

    The hook raises the exceptions in the list, one a call.
    """
    model = fresh(name)
    for i, part in enumerate(model.module.modules()):
        part.training = i % 3 != 0
    for i, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5) if i % 4 == 0 else None
    trouble: list[Exception] = []

    def their_hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        if trouble:
            raise trouble.pop()

    model.module.get_submodule(backbone(name).default_layers[0]).register_forward_hook(their_hook)
    return model, trouble


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_the_module_is_left_as_found(name: str) -> None:
    model, trouble = in_use(name)
    images = random_images(EVERY[name].size)
    with untouched(model.module):
        observation = observe(name, model, images)
        for rule in rules_for(name):
            cl.cam(observation, targets_for(observation)[-3:], rule=rule)
    with untouched(model.module):
        trouble.append(KeyError("inside forward"))
        with pytest.raises(KeyError, match="inside forward"):
            observe(name, model, images)

    def broken(_answer: ModelOutput) -> Tensor:
        raise KeyError("inside target")

    with untouched(model.module), pytest.raises(KeyError, match="inside target"):
        cl.cam(observation, [spread, broken])


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_what_is_seen_does_not_depend_on_the_mode_it_was_found_in(name: str) -> None:
    model, _ = in_use(name)
    observation = observe(name, model, random_images(EVERY[name].size))
    expected = observation_of(name)
    assert_agree(observation.feature(), expected.feature())
    assert_agree(cl.cam(observation, spread).maps, cl.cam(expected, spread).maps)


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_memory_is_freed_with_the_observation(name: str) -> None:
    model = backbone(name)
    observe(name, model, random_images(EVERY[name].size))  # what a module builds on first use is its own
    gc.collect()
    gc.disable()
    try:
        observation = observe(name, model, random_images(EVERY[name].size))
        rules = rules_for(name) if name in FEW else GRADIENT_RULES
        explained = [cl.cam(observation, targets_for(observation)[-3:], rule=rule) for rule in rules]
        root = observation.class_scores if observation.class_scores is not None else observation.embedding
        watched = [weakref.ref(t) for t in (observation, observation.layer_output().raw, root)]
        del observation, root
        assert [w() for w in watched] == [None] * 3, "kept alive by a reference or a cycle"
        assert explained
    finally:
        gc.enable()


@pytest.mark.parametrize("name", MOST_FLIPPED_SLOW)
def test_a_flipped_image_gives_a_flipped_map(name: str) -> None:
    size = EVERY[name].flips
    assert size is not None
    module = make_symmetric(fresh(name, EXACT).module, columns=size[1] // 16)
    model = wrap(name, module)
    images = random_images(size)
    observation, mirrored = (model.observe(i, layers=backbone(name).default_layers) for i in (images, images.flip(-1)))
    for rule in GRADIENT_RULES:
        plain = cl.cam(observation, targets_for(observation), rule=rule, signed=True).maps
        flipped = cl.cam(mirrored, targets_for(mirrored), rule=rule, signed=True).maps
        assert plain.shape[-1] > 1
        assert not close(plain, plain.flip(-1), 1e-3), "a map that is its own mirror image proves nothing"
        assert close(flipped, plain.flip(-1)), rule


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_a_frozen_model_gives_the_same_maps(name: str) -> None:
    model = fresh(name, EXACT)
    model.module.requires_grad_(False)
    observation = observe(name, model, random_images(EVERY[name].size))
    expected = observation_of(name, EXACT)
    for rule in GRADIENT_RULES:
        maps = cl.cam(observation, targets_for(observation), rule=rule).maps
        assert close(maps, cl.cam(expected, targets_for(expected), rule=rule).maps), rule


def alike(maps: Tensor, expected: Tensor) -> float:
    """Return the smallest cosine between maps of the same image and question."""
    return float(nn.functional.cosine_similarity(maps.float().flatten(2), expected.flatten(2), dim=2).min())


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(pytest.param(name, "bfloat16", marks=() if name in FEW else pytest.mark.slow) for name in ARCHITECTURES),
        *((name, how) for name in FEW for how in ("autocast", "autocast, asked outside")),
    ],
)
def test_half_precision_gives_the_same_map(name: str, how: str) -> None:
    model = fresh(name)
    images = random_images(EVERY[name].size)
    layer = backbone(name).default_layers
    explain: Callable[[Observation], cl.Explanation] = lambda s: cl.cam(s, targets_for(s)[:1], signed=True)  # noqa: E731
    if how == "bfloat16":
        model.module.to(torch.bfloat16)
        explained = explain(model.observe(images, layers=layer))
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            observation = model.observe(images, layers=layer)
            explained = explain(observation) if how == "autocast" else None
        explained = explained or explain(observation)
    assert bool(explained.maps.isfinite().all())
    assert alike(explained.maps, explain(observation_of(name)).maps) > 0.99
