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
from conceptlens.concept_regions.concept_scores import Evidence, gather_evidence
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
    counted: bool = True,
) -> Explanation:
    """Return where each concept is, in the layer that holds it best, and how much it counts for a class.

    For every layer that the branch reads (CE-FAM, ICCV 2025, sections 3.2-3.3):

    - region: `ReLU(sum_k beta_k A_k)` with `beta_k = mean_ij dS/dA_k`, where `S` is the concept's score before any
      softmax; early layers receive gradient through the classifier's later layers too.
    - layer: of several, the one with the highest association score (see `associations`), chosen for each image and
      concept; `layer` names one instead.
    - contribution: the masking curve on the classifier in that layer (see `contributions`), negative values kept;
      left out with `counted=False` and where the layer's cells do not reach the class scores.

    Of several layers, maps stand at the finest grid, each enlarged bilinearly from its own layer (`layers` says
    which), and `components` holds one explanation per layer, where the equation holds. Without `concepts`, the `top`
    scores of the vocabulary are explained. Raises `InputError` where the branch was trained for another model.
    """
    if not isinstance(translator, Translator):
        raise InputTypeError(
            f"a {type(translator).__name__} was given as the branch; load one with cl.Translator.load(folder)"
        )
    translator.check(observation.model)
    given = None if concepts is None else parse_concepts(concepts)
    evidence = gather_evidence(observation, translator, vocabulary() if given is None else given)
    chosen = evidence.strongest(top) if given is None else evidence.all()
    layers = translator.layers if layer is None else (_one_of(layer, translator.layers),)
    weights = channel_weights(observation, translator, evidence.cotangents(chosen), layers)
    settings: dict[str, object] = {"text": translator.name, "target": repr(target), "branch": translator.name}
    parts = [layer_regions(observation, name, weights[name], evidence, chosen, settings) for name in layers]
    held = torch.zeros_like(chosen)
    if len(layers) > 1:
        held = associations(observation, translator, weights, evidence, chosen).argmax(2)
    counts, names = None, ()
    if counted and (target is not None or observation.class_scores is not None):
        index = class_indices(observation, target)
        names = tuple(observation.model.class_name(int(i)) for i in index)
        counts = _count(observation, weights, held, index)
    return _joined(parts, held, counts, names if counts is not None else ())


def _one_of(layer: str, layers: Sequence[str]) -> str:
    if layer not in layers:
        raise InputError(f"the branch does not read layer '{layer}'; it reads {', '.join(layers)}")
    return layer


def layer_regions(
    observation: Observation,
    layer: str,
    weights: Float[Tensor, "image question channel"],
    evidence: Evidence,
    chosen: Int[Tensor, "image question"],
    settings: dict[str, object],
    method: str = "ce_fam",
) -> Explanation:
    """Return one layer's regions of the chosen concepts, `ReLU(sum_k weights_k A_k)`."""
    return Explanation(
        maps=project(weights[..., None, None], observation.feature(layer)).relu(),
        weights=weights[..., None, None],
        scores=evidence.scores.gather(1, chosen),
        labels=evidence.labels(chosen),
        concept_types=evidence.types(chosen),
        source=source(observation, layer, method, settings),
    )


def _count(
    observation: Observation,
    weights: dict[str, Tensor],
    held: Int[Tensor, "image question"],
    index: Int[Tensor, "image"],
) -> Float[Tensor, "image question"] | None:
    """Return each concept's contribution in the layer that holds it; `None` where one has no way to the class."""
    counts = torch.zeros_like(held, dtype=torch.float32)
    for place, (name, weight) in enumerate(weights.items()):
        asked = held == place
        if not asked.any():
            continue
        if not observation.reaches(observation.logits, name):
            return None
        counts = torch.where(
            asked, contributions(observation, weight, index, layer=name, asked=asked).to(counts), counts
        )
    return counts


def _joined(
    parts: list[Explanation], held: Tensor, counts: Tensor | None, explained_classes: tuple[str, ...]
) -> Explanation:
    """Return one explanation whose maps come from the layer that holds each concept."""
    first = parts[0]
    if len(parts) == 1:
        return replace(first, contributions=counts, explained_classes=explained_classes)
    size = max((tuple(part.maps.shape[-2:]) for part in parts), key=lambda s: s[0] * s[1])
    large = [torch.nn.functional.interpolate(p.maps, size=size, mode="bilinear", align_corners=False) for p in parts]
    maps = torch.stack(large, dim=2).take_along_dim(held[..., None, None, None], dim=2)[:, :, 0]
    names = [part.source.layer for part in parts]
    settings = {**first.source.settings, "layers": "by association score"}
    origin = replace(first.source, layer=" + ".join(names), method="ce_fam", settings=settings)
    return replace(
        first,
        maps=maps,
        weights=None,
        source=origin,
        contributions=counts,
        explained_classes=explained_classes,
        layers=tuple(tuple(names[int(place)] for place in row) for row in held),
        components=tuple(parts),
    )
