"""`map = activation(sum over channel of weights * features)`: here weights and features meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from conceptlens.cams.bound_target import BoundTarget
from conceptlens.cams.rules import RULES, Rule
from conceptlens.cams.targets import AnyTarget, AnyTargets, as_targets
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.versions import versions
from conceptlens.model.backbone import Backbone
from conceptlens.model.forward import full_precision
from conceptlens.model.observation import Observation, check_observation, layer_names
from conceptlens.record import Explanation, Source

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


def cam(
    observation: Observation,
    target: AnyTargets = None,
    rule: str | Rule | None = None,
    layer: str | Sequence[str] | None = None,
    signed: bool = False,
) -> Explanation:
    """Return class activation maps, from the forward pass that `observation` holds: `map = ReLU(sum_k w_k A_k)`.

    `rule` makes the weights `w_k` of the channels `A_k` of `layer`. Each target is one question about every image.

    Args:
        observation: One forward pass of a batch, from `model.observe(photos)`.
        target: One question or several.

            - `None`: the class that each image is predicted as; one question.
            - a class name or index: that class of every image; one question.
            - a list, tensor or array of classes, as long as the batch: one class for each image; one question.
            - a target (`cl.Logit`, `cl.Probability`, `cl.Contrast`, `cl.Concept`) or a function from the model's
              output to one score per image; one question.
            - a list of targets or functions: several questions about every image.
        rule: A name in `cl.RULES`, or a `cl.Rule` of your own. By default "grad_cam"; where all targets are about one
            place (`cl.Detection`, `cl.Box`, `cl.Region`) "hires_cam", since one weight for a channel would show all
            objects that are alike.
        layer: An observed layer, by default the last one; several give their maps joined by `combine`.
        signed: Leave out the ReLU, so that evidence against stays as negative values.

    Returns:
        An `Explanation` with `maps[image question height width]`, raw and at the layer's own grid.

    Raises:
        InputError: The rule, the layer or a class is unknown, a list of classes is not as long as the batch, or the
            layer gave values that are not finite.
        InputTypeError: `observation` is no `Observation`, `target` neither a class, a target nor a function, `rule`
            neither name nor `Rule`, or `layer` neither a name nor several.

    Examples:
        >>> observation = cl.load_model().observe(["cat.png", "dog.png", "bird.png"])
        >>> cl.cam(observation, ["tabby", "beagle", "jay"]).maps.shape  # one class for each of three images
        torch.Size([3, 1, 7, 7])
        >>> cl.cam(observation, [cl.Logit("tabby"), cl.Logit("lynx")]).maps.shape  # two questions about each image
        torch.Size([3, 2, 7, 7])
    """
    check_observation(observation)
    if layer is not None and not isinstance(layer, str):
        return combine([cam(observation, target, rule, name, signed) for name in layer_names(layer)])
    name = layer or observation.layer
    targets = as_targets(target)
    questions = [one.bind(observation) for one in targets]
    chosen = find_rule(default_rule(questions) if rule is None else rule)
    feature = observation.feature(name)
    _check_finite(feature, name)
    if chosen.reads == "gradient":
        scores, gradient = gradients(observation, questions, name)
        made = chosen.weights(gradient, feature[:, None])
    else:
        scores = torch.stack([q.score_and_gradient(observation)[1] for q in questions], dim=1)
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
        target_classes=target_classes(questions),
        source=source(observation, name, chosen.name, {"targets": [repr(one) for one in targets], **notes}),
    )


def target_classes(questions: Sequence[BoundTarget]) -> tuple[tuple[int | None, ...], ...]:
    """Return the class that each question about each image is about, for `Explanation.target_classes`.

    Args:
        questions: Targets bound to one observation.
    """
    if all(one.classes is None for one in questions):
        return ()
    images = len(questions[0].labels)
    return tuple(tuple(None if q.classes is None else q.classes[i] for q in questions) for i in range(images))


def _check_finite(feature: Tensor, layer: str) -> None:
    """Refuse cells that are not finite, whose map would be NaN or, where a rule compares them, look like any other."""
    if not bool(feature.isfinite().all()):
        kind = str(feature.dtype).removeprefix("torch.")
        raise InputError(
            f"layer '{layer}' gave NaN or infinite values of type {kind}; check the weights and the input, and run a "
            "model that overflows float16 in bfloat16 or float32"
        )


def gradients(
    observation: Observation, questions: Sequence[BoundTarget], layer: str
) -> tuple[Float[Tensor, "image question"], Float[Tensor, "image question channel height width"]]:
    """Return scores and gradients of every question at `layer`; questions that share a root share their products.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to it.
        layer: An observed layer.
    """
    bound = [question.score_and_gradient(observation) for question in questions]
    roots = {id(root): root for root, _, _ in bound}
    scores = torch.stack([score for _, score, _ in bound], dim=1)
    found: dict[int, Tensor] = {}
    for key, root in roots.items():
        members = [i for i, (r, _, _) in enumerate(bound) if id(r) == key]
        pulled = observation.pull(root, torch.stack([bound[i][2] for i in members], dim=1), layer)
        if len(members) == len(bound):
            return scores, pulled
        found |= {i: pulled[:, column] for column, i in enumerate(members)}
    return scores, torch.stack([found[i] for i in range(len(bound))], dim=1)


def project(
    weights: Float[Tensor, "image question channel rows columns"],
    feature: Float[Tensor, "image channel height width"],
) -> Float[Tensor, "image question height width"]:
    """Return `sum_k w_k A_k` for weights that are one number per channel, or one per channel and cell.

    Args:
        weights: `image question channel (1|height) (1|width)`.
        feature: The cells of the layer.

    Returns:
        Maps before the activation, in the precision of `feature`.
    """
    with full_precision(feature):
        if weights.shape[-2:] == (1, 1):
            return torch.einsum("nqk,nkhw->nqhw", weights[..., 0, 0].to(feature.dtype), feature)
        return torch.einsum("nqkhw,nkhw->nqhw", weights.to(feature.dtype), feature)


def combine(explanations: Sequence[Explanation], how: Literal["mean", "product", "max"] = "mean") -> Explanation:
    """Return one explanation of several layers, at the finest of their grids.

    Layers differ in scale, so each map is divided by its own largest absolute value first (a map of zeros stays),
    then enlarged bilinearly and joined.

    Args:
        explanations: The same questions at different layers.
        how: How the scaled maps are joined, cell by cell.

    Returns:
        An `Explanation` without `weights`; the layers themselves stand in its `components`.

    Raises:
        InputError: No explanation is given, they ask different questions, or `how` is unknown.
        InputTypeError: Something else than a list of explanations is given.

    Examples:
        >>> cl.combine([cl.cam(observation, "tabby", layer=name) for name in ("layer3", "layer4")], "product")
    """
    several = explanations if isinstance(explanations, (list, tuple)) else (explanations,)
    wrong = [type(one).__name__ for one in several if one is explanations or not isinstance(one, Explanation)]
    if wrong:
        raise InputTypeError(f"a {wrong[0]} was given to combine; expected a list of explanations")
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
    origin = replace(first.source, layer=layers, settings={**first.source.settings, "combine": how})
    return Explanation(
        joined,
        None,
        first.scores,
        first.labels,
        origin,
        first.activation,
        target_kinds=first.target_kinds,
        target_classes=first.target_classes,
        components=tuple(explanations),
    )


def heatmaps(
    model: nn.Module | Backbone,
    batch: Any,
    targets: AnyTarget = None,
    rule: str | Rule | None = None,
    layer: str | None = None,
    signed: bool = False,
) -> Float[np.ndarray, "image height width"]:
    """Return one class activation map for each image, at the batch's own size.

    The short form of `model.observe(batch)`, `cam(...)` and `Explanation.upsampled()`.

    Args:
        model: A PyTorch module, or a `Backbone` that says how to read its output, class names and photos.
        batch: Preprocessed images `image colour height width`, or whatever else `Backbone.observe` takes: a loader's
            `(images, labels)`, a dictionary, and, for a `Backbone` with preprocessing, photos, all of one size.
        targets: One question, as in `cam`: `None` for the predicted classes, a class, one class for each image (a
            list, tensor or array), or a target such as `cl.Contrast(3)`.
        rule: A name in `cl.RULES`, or a `cl.Rule`; by default as in `cam`.
        layer: The layer to explain; by default one is chosen by rule (see `Backbone`).
        signed: Keep evidence against as negative values.

    Returns:
        `image height width`, raw and bilinearly enlarged; 0 where a photo was cut off before the model saw it.

    Raises:
        InputError: There are several questions, photos differ in size, or a class or layer is unknown.
        InputTypeError: `model` is neither a module nor a `Backbone`.

    Examples:
        >>> maps = cl.heatmaps(torchvision.models.resnet18(), images, targets=labels)
        >>> maps.shape  # a batch of 8 x 3 x 224 x 224
        (8, 224, 224)
    """
    known = model if isinstance(model, Backbone) else Backbone(model, type(model).__name__)
    found = cam(known.observe(batch, layer), targets, rule, signed=signed)
    questions = found.maps.shape[1]
    if questions != 1:
        raise InputError(
            f"{questions} questions were given, and heatmaps returns one map for each image; use cl.cam for several, "
            "or give one class for each image"
        )
    return found.upsampled().float().cpu().numpy()[:, 0]


def default_rule(questions: Sequence[BoundTarget]) -> str:
    """Return the rule where none is given: one weight for a channel, or for each cell where questions have a place.

    Args:
        questions: Bound targets.
    """
    return "hires_cam" if all(question.placed for question in questions) else "grad_cam"


def find_rule(rule: str | Rule) -> Rule:
    """Return a rule by its name in `RULES`, or `rule` itself."""
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str):
        raise InputTypeError(f"a {type(rule).__name__} was given as the rule; expected a name in cl.RULES or a cl.Rule")
    if rule not in RULES:
        raise InputError(f"no rule '{rule}'; rules: {', '.join(RULES)}")
    return RULES[rule]


def source(observation: Observation, layer: str, method: str, settings: dict[str, object]) -> Source:
    """Return where an explanation of `observation` comes from.

    Args:
        observation: What was observed.
        layer: The layer whose features were weighed.
        method: The rule or method.
        settings: What else the method was given or chose.
    """
    photos = observation.photo_references
    return Source(observation.model.name, layer, method, observation.image_info, settings, versions(), photos)
