"""`map = activation(sum over channel of weights * features)`: the one place where weights and features meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.cams.rules import RULES, Rule
from conceptlens.cams.targets import BoundTarget, Target, as_target
from conceptlens.io.errors import InputError
from conceptlens.io.versions import versions
from conceptlens.model.forward import full_precision
from conceptlens.model.observation import ModelOutput, Observation
from conceptlens.record import Explanation, Source

if TYPE_CHECKING:
    from jaxtyping import Float

Targets = Target | str | int | Callable[[ModelOutput], Tensor] | None


def cam(
    observation: Observation,
    target: Targets | Sequence[Targets] = None,
    rule: str | Rule = "grad_cam",
    layer: str | Sequence[str] | None = None,
    signed: bool = False,
) -> Explanation:
    """Return the class activation map of one or several targets, all from the forward pass that `observation` holds.

    `map = ReLU(sum_k w_k A_k)`, where `rule` (a name in `RULES` or a `Rule`) makes the weights `w` of the channels
    `A_k`. With `signed=True` the ReLU is left out, so evidence against is kept as negative values. Several layers
    give their `combine`d map. Raises `InputError` for unknown rules, layers, classes.
    """
    if layer is not None and not isinstance(layer, str):
        return combine([cam(observation, target, rule, name, signed) for name in layer])
    name = layer or observation.layer
    chosen = find_rule(rule)
    several = _several(target)
    questions = [as_target(t).bind(observation) for t in several]
    feature = observation.feature(name)
    if chosen.reads == "gradient":
        scores, gradient = gradients(observation, questions, name)
        made = chosen.weights(gradient, feature[:, None])
    else:
        scores = torch.stack([q.at(observation)[1] for q in questions], dim=1)
        made = chosen.weights(observation, questions, name)
    weights, notes = made if isinstance(made, tuple) else (made, {})
    maps = project(weights, feature)
    return Explanation(
        maps=maps if signed else maps.relu(),
        weights=weights.detach(),
        scores=scores,
        labels=tuple(zip(*[q.labels for q in questions], strict=True)),
        activation="identity" if signed else "relu",
        target_kinds=tuple(q.kind for q in questions),
        source=source(observation, name, chosen.name, {"targets": [repr(t) for t in several], **notes}),
    )


def _several(target: Targets | Sequence[Targets]) -> list[Targets]:
    """Return one target or many as a list."""
    return list(target) if isinstance(target, (list, tuple)) else [target]  # pyright: ignore[reportReturnType]


def gradients(
    observation: Observation, questions: Sequence[BoundTarget], layer: str
) -> tuple[Float[Tensor, "image question"], Float[Tensor, "image question channel height width"]]:
    """Return scores and gradients of every question at `layer`; questions that share a root share their products."""
    at = [question.at(observation) for question in questions]
    roots = {id(root): root for root, _, _ in at}
    parts: list[Tensor | None] = [None] * len(at)
    for key, root in roots.items():
        members = [i for i, (r, _, _) in enumerate(at) if id(r) == key]
        pulled = observation.pull(root, torch.stack([at[i][2] for i in members], dim=1), layer)
        if len(members) == len(at):
            return torch.stack([s for _, s, _ in at], dim=1), pulled
        for place, i in enumerate(members):
            parts[i] = pulled[:, place]
    return torch.stack([s for _, s, _ in at], dim=1), torch.stack([p for p in parts if p is not None], dim=1)


def project(
    weights: Float[Tensor, "image question channel rows columns"],
    feature: Float[Tensor, "image channel height width"],
) -> Float[Tensor, "image question height width"]:
    """Return `sum_k w_k A_k` for weights that are one number per channel, or one per channel and cell."""
    with full_precision(feature):
        if weights.shape[-2:] == (1, 1):
            return torch.einsum("nqk,nkhw->nqhw", weights[..., 0, 0].to(feature.dtype), feature)
        return torch.einsum("nqkhw,nkhw->nqhw", weights.to(feature.dtype), feature)


def combine(explanations: Sequence[Explanation], how: Literal["mean", "product", "max"] = "mean") -> Explanation:
    """Return one explanation of several layers, at the finest of their grids.

    Layers differ in scale, so each map is divided by its own largest absolute value first (a map of zeros stays),
    then enlarged bilinearly and joined by `how`. The layers themselves stay in `components`.
    """
    if not explanations:
        raise InputError("no explanations were given to combine; expected at least one")
    first = explanations[0]
    if any(e.labels != first.labels for e in explanations):
        raise InputError("the explanations ask different questions; combine layers of the same questions")
    size = max((tuple(e.maps.shape[-2:]) for e in explanations), key=lambda s: s[0] * s[1])
    scaled = []
    for part in explanations:
        largest = part.maps.abs().amax((2, 3), keepdim=True)
        maps = torch.where(largest > 0, part.maps / largest.clamp_min(torch.finfo(part.maps.dtype).tiny), 0)
        scaled.append(torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False))
    stack = torch.stack(scaled)
    joined = {"mean": stack.mean(0), "product": stack.prod(0), "max": stack.amax(0)}.get(how)
    if joined is None:
        raise InputError(f"'{how}' is no way to combine layers; expected mean, product or max")
    layers = " + ".join(e.source.layer for e in explanations)
    origin = Source(
        first.source.model, layers, first.source.method, first.source.image_info,
        {**first.source.settings, "combine": how}, first.source.versions,
    )  # fmt: skip
    return Explanation(
        joined,
        None,
        first.scores,
        first.labels,
        origin,
        first.activation,
        target_kinds=first.target_kinds,
        components=tuple(explanations),
    )


def find_rule(rule: str | Rule) -> Rule:
    """Return a rule by its name in `RULES`, or `rule` itself."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise InputError(f"no rule '{rule}'; rules: {', '.join(RULES)}")
    return RULES[rule]


def source(observation: Observation, layer: str, method: str, settings: dict[str, object]) -> Source:
    """Return where an explanation of `observation` comes from."""
    return Source(observation.model.name, layer, method, observation.image_info, settings, versions())
