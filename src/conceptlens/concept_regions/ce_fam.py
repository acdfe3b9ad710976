"""CE-FAM: a region, a layer and a contribution for every named concept, from one forward pass (ICCV 2025)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.class_activation import project, source
from conceptlens.cams.targets import ClassName, class_indices
from conceptlens.concept_regions.channel_masking import associations, contributions
from conceptlens.concept_regions.channel_weights import channel_weights
from conceptlens.concept_regions.concept_scores import ConceptScores, score_concepts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts, vocabulary
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def ce_fam(
    observation: Observation,
    translator: Translator,
    concepts: str | Iterable[str | ConceptName] | None = None,
    target: ClassName | Sequence[ClassName] | None = None,
    top: int = 8,
    layer: str | None = None,
    with_contributions: bool = True,
) -> Explanation:
    """Return the region of each concept, in the layer that holds it best, and its contribution to a class.

    For every layer that the branch reads (CE-FAM, ICCV 2025, sections 3.2-3.3):

    - region: `ReLU(sum_k beta_k A_k)` with `beta_k = mean_ij dS/dA_k`, where `S` is the concept's score before any
      softmax; early layers receive gradient through the classifier's later layers too.
    - layer: the one with the highest association score (see `associations`), for each image and concept.
    - contribution: the masking curve on the classifier in that layer (see `contributions`), negative values kept.

    Args:
        observation: Photos observed at `translator.layers`.
        translator: A trained branch with its teacher's text encoder.
        concepts: Concepts to explain; by default the `top` scores of the vocabulary, for each image.
        target: Class of the contributions, one for all images or one for each; by default the predicted one.
        top: Number of concepts where `concepts` is left out.
        layer: One layer to read, instead of the one that holds each concept best.
        with_contributions: False leaves the contributions out, which are the larger part of the work.

    Returns:
        Maps `[image question height width]`. Of several layers, they stand at the finest grid, each enlarged
        bilinearly from its own layer, which `layers` names; `components` holds an explanation per layer, where the
        equation holds. `contributions` is `None` where a layer's cells do not reach the class scores.

    Raises:
        InputError: Where the branch was trained for another model, or does not read `layer`.

    Examples:
        >>> observation = model.observe("cat.png", layers=translator.layers)
        >>> ce_fam(observation, translator, ["whiskers"]).maps.shape
    """
    if not isinstance(translator, Translator):
        raise InputTypeError(
            f"a {type(translator).__name__} was given as the branch; load one with cl.Translator.load(folder)"
        )
    translator.check(observation.model)
    given = None if concepts is None else parse_concepts(concepts)
    scored = score_concepts(observation, translator, vocabulary() if given is None else given)
    chosen = scored.top_indices(top) if given is None else scored.all_indices()
    layers = translator.layers if layer is None else (_one_of(layer, translator.layers),)
    weights = channel_weights(observation, translator, scored.score_gradients(chosen), layers)
    settings: dict[str, object] = {"text": translator.name, "target": repr(target), "branch": translator.name}
    parts = [layer_regions(observation, name, weights[name], scored, chosen, settings) for name in layers]
    layer_index = torch.zeros_like(chosen)
    if len(layers) > 1:
        layer_index = associations(observation, translator, weights, scored, chosen).argmax(2)
    shares, names = None, ()
    if with_contributions and (target is not None or observation.class_scores is not None):
        classes = class_indices(observation, target)
        names = tuple(observation.model.class_name(int(i)) for i in classes)
        shares = _contributions(observation, weights, layer_index, classes)
    return _joined(parts, layer_index, shares, names if shares is not None else ())


def _one_of(layer: str, layers: Sequence[str]) -> str:
    if layer not in layers:
        raise InputError(f"the branch does not read layer '{layer}'; it reads {', '.join(layers)}")
    return layer


def layer_regions(
    observation: Observation,
    layer: str,
    weights: Float[Tensor, "image question channel"],
    scored: ConceptScores,
    chosen: Int[Tensor, "image question"],
    settings: dict[str, object],
    method: str = "ce_fam",
) -> Explanation:
    """Return one layer's regions of chosen concepts, `ReLU(sum_k weights_k A_k)`. (CE-FAM, ICCV 2025, section 3.2.)

    Args:
        observation: Photos observed at `layer`.
        layer: Name of the layer whose channels are weighed.
        weights: Weight of each channel.
        scored: Scores of all concepts.
        chosen: Indices of the concepts that `weights` belong to.
        settings: What is kept in the record's source.
        method: Name of the method in the record's source.
    """
    return Explanation(
        maps=project(weights[..., None, None], observation.feature(layer)).relu(),
        weights=weights[..., None, None],
        scores=scored.scores.gather(1, chosen),
        labels=scored.labels(chosen),
        concept_types=scored.types(chosen),
        source=source(observation, layer, method, settings),
    )


def _contributions(
    observation: Observation,
    weights: dict[str, Tensor],
    layer_index: Int[Tensor, "image question"],
    classes: Int[Tensor, "image"],
) -> Float[Tensor, "image question"] | None:
    """Return each concept's contribution in its layer; `None` where a layer does not reach the class scores."""
    shares = torch.zeros_like(layer_index, dtype=torch.float32)
    for number, (name, weight) in enumerate(weights.items()):
        selected = layer_index == number
        if not selected.any():
            continue
        if not observation.reaches(observation.logits, name):
            return None
        found = contributions(observation, weight, classes, layer=name, selected=selected)
        shares = torch.where(selected, found.to(shares), shares)
    return shares


def _joined(
    parts: list[Explanation], layer_index: Tensor, shares: Tensor | None, explained_classes: tuple[str, ...]
) -> Explanation:
    """Return one explanation whose maps come from the layer that holds each concept."""
    first = parts[0]
    if len(parts) == 1:
        return replace(first, contributions=shares, explained_classes=explained_classes)
    size = max((tuple(part.maps.shape[-2:]) for part in parts), key=lambda s: s[0] * s[1])
    large = [torch.nn.functional.interpolate(p.maps, size=size, mode="bilinear", align_corners=False) for p in parts]
    maps = torch.stack(large, dim=2).take_along_dim(layer_index[..., None, None, None], dim=2)[:, :, 0]
    names = [part.source.layer for part in parts]
    settings = {**first.source.settings, "layers": "by association score"}
    origin = replace(first.source, layer=" + ".join(names), method="ce_fam", settings=settings)
    return replace(
        first,
        maps=maps,
        weights=None,
        source=origin,
        contributions=shares,
        explained_classes=explained_classes,
        layers=tuple(tuple(names[int(number)] for number in row) for row in layer_index),
        components=tuple(parts),
    )
