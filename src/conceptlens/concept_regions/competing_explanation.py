"""Competing regions in an explanation: in place of its own maps, and how clearly each says where its concept is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.concept_regions.competition import COMPETITIONS, Competition, compete
from conceptlens.concepts.random_directions import concept_named
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.errors import InputError
from conceptlens.model.encoders import ClassifierText
from conceptlens.model.observation import Observation
from conceptlens.model.pooled_cells import mean_jacobian
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.encoders import VisionLanguage

# A region whose shares vary less than this (standard deviation over mean) is hardly told from its surroundings: of
# categories in COCO train photos such maps rank the cells inside the mask above others in about 6 of 10 cases, where
# chance is 5, and in 5 of 6 where shares vary more than .56 (benchmarks/doubt.py).
MIN_PLACE_CONTRAST = 0.35


def competes_quickly(observation: Observation, layer: str | None = None) -> bool:
    """Whether all words can be weighed at a layer at once: a classifier reads texts, and sees the mean cell alone.

    So it is at the last layer of nearly all convolutional classifiers, of a Swin and of a ViT that averages its
    patches. Where a class token or attention gathers the cells, `compete` takes a backward product through them for
    each entry of the image vector: many times as long as the photo's forward pass; and a text encoder of a model's own
    has to read every word.

    Args:
        observation: What was observed.
        layer: The layer; by default the observation's.
    """
    language = observation.model.language
    if not isinstance(language, ClassifierText):
        return False
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
        vectors = language.encode_image(observation)
    if observation.readout(vectors, layer) is not None:
        return True
    return mean_jacobian(vectors, observation.layer_output(layer)) is not None


def pairs_of(model: Backbone, branch: VisionLanguage | None) -> list[VisionLanguage]:
    """Return the pairs whose scores `compete` averages: the model's own, where it has one, and a trained branch.

    On COCO photos the two together are better than the branch alone, and as good as the own pair (docs/ce-fam.md).

    Args:
        model: The model to explain.
        branch: A trained branch, or `None`.

    Raises:
        InputError: Where there is neither.
    """
    if branch is None:
        return [model.language]
    try:
        return [model.language, branch]
    except InputError:  # a classifier without class names has no pair of its own
        return [branch]


def competing(
    observation: Observation,
    explained: Explanation,
    branch: VisionLanguage | None = None,
    layer: str | None = None,
    competition: Competition | None = None,
) -> Explanation:
    """Return an explanation of concepts with the regions of `compete` in place of its own.

    Args:
        observation: The photos that were explained.
        explained: The explanation; it is kept in `components` of the result.
        branch: A trained branch whose scores are averaged with those of the model's own pair.
        layer: Layer whose cells are scored; by default the observation's.
        competition: Settings; by default `Competition()`.

    Returns:
        The explanation with other maps, and `diagnostics["place_contrast"]` (`place_contrasts`), which is 0 for a part
        where a classifier's stand-in reads the texts: it knows what has the part, not where (docs: Can I trust this?).
    """
    return competing_together(observation, [explained], branch, layer, competition)[0]


def competing_together(
    observation: Observation,
    explanations: Sequence[Explanation],
    branch: VisionLanguage | None = None,
    layer: str | None = None,
    competition: Competition | None = None,
) -> list[Explanation]:
    """Return several explanations of the same photos with competing regions, from one more look at each photo.

    Args:
        observation: The photos that were explained.
        explanations: Their explanations.
        branch: A trained branch, as in `competing`.
        layer: Layer whose cells are scored; by default the observation's.
        competition: Settings; by default `Competition()`.

    Returns:
        Each explanation with other maps (`competing`). Regions of the one do not depend on the concepts of another.
    """
    named = list(dict.fromkeys(concept for each in explanations for row in _concepts(each) for concept in row))
    pairs = pairs_of(observation.model, branch)
    found = compete(observation, named, pairs, layer, competition)
    by_stand_in = all(isinstance(pair, ClassifierText) for pair in pairs)
    return [_with_regions(each, found, named, by_stand_in, competition) for each in explanations]


def _concepts(explained: Explanation) -> list[list[ConceptName]]:
    rows = zip(explained.labels, explained.concept_types, strict=True)
    return [[concept_named(label, kind) for label, kind in zip(*row, strict=True)] for row in rows]


def _with_regions(
    explained: Explanation,
    found: Explanation,
    named: Sequence[ConceptName],
    by_stand_in: bool,
    competition: Competition | None,
) -> Explanation:
    """Return an explanation with its concepts' regions of `found`, which are those of `named` in this order."""
    numbers = [[named.index(concept) for concept in row] for row in _concepts(explained)]
    index = torch.tensor(numbers, device=found.maps.device)[..., None, None]
    maps = found.maps.take_along_dim(index, dim=1)
    settings = {**explained.source.settings, **found.source.settings}
    known = next((name for name, one in COMPETITIONS.items() if one == competition), "competing")
    kind = "competing" if known == "competing" else f"{known} competing"
    method = f"{explained.source.method} with {kind} regions"
    origin = replace(explained.source, layer=found.source.layer, method=method, settings=settings)
    power = (competition or Competition()).power
    contrasts = place_contrasts(maps, power)
    if by_stand_in:
        parts = torch.tensor([[kind == "part" for kind in row] for row in explained.concept_types], device="cpu")
        contrasts = contrasts.masked_fill(parts.to(contrasts.device), 0.0)
    return replace(
        explained,
        maps=maps,
        weights=None,
        source=origin,
        layers=(),
        diagnostics={**explained.diagnostics, "place_contrast": contrasts},
        components=(explained,),
    )


def place_contrasts(
    maps: Float[Tensor, "image question height width"], power: float
) -> Float[Tensor, "image question"]:
    """Return how much the share of each concept varies over its photo: standard deviation over mean.

    Args:
        maps: Competing regions, strengths to the power of `power`.
        power: Their exponent.
    """
    shares = maps.flatten(2) ** (1 / power)
    return shares.std(2) / shares.mean(2).clamp_min(1e-30)


def is_competing(explanation: Explanation) -> bool:
    """Whether the maps are regions of concepts that compete with everyday words.

    Args:
        explanation: An explanation of concepts.

    Returns:
        Whether they are.
    """
    method = explanation.source.method
    return method == "competition" or method.endswith("competing regions")
