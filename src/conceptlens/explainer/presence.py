"""Presence: the probability that a concept is in the photo, from evidence, class knowledge and base rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.concept_regions.concept_scores import MAX_TEXT_COSINE
from conceptlens.concepts.class_knowledge import is_broader
from conceptlens.concepts.random_directions import RandomDirection
from conceptlens.concepts.vocabulary import CONCEPT_TYPES, ConceptName, base_rate
from conceptlens.model.class_concepts import ClassConcepts, known_words, rate_of

if TYPE_CHECKING:
    from jaxtyping import Float

# A concept is shown where it is more likely in the photo than not.
MIN_PRESENCE = 0.5
# A kind is listed in place of a broader one (*tabby cat* for *cat*) where it is nearly sure.
MIN_NARROWER_PRESENCE = 0.9
# Of two concepts that are equally likely, the rarer one says more: the weight of `-log(base rate)` in the order.
RARITY_WEIGHT = 0.3
# How many concepts of a type are listed at most: five colours say less than a colour and four things.
MAX_OF_TYPE: Mapping[str, int] = {"colour": 2, "texture": 2, "material": 2}
# The base rate of a concept that is not in the vocabulary: about the median of those that are.
USUAL_BASE_RATE = 0.002
MIN_Z, MAX_Z = -3.0, 8.0
MIN_IMPLIED = 1e-4


@dataclass(frozen=True)
class PresenceWeights:
    """The weights of a logistic model of presence.

    `logit presence = z_score z + implied logit(p) + base_rate log(r) + offset(type)`, with the z-score `z`, the
    probability `p` that the predicted classes imply, and the base rate `r`.

    Args:
        z_score: Weight of the z-score, cut at -3 and 8.
        implied: Weight of the log-odds of the implied probability.
        base_rate: Weight of the logarithm of the base rate.
        offsets: The constant of each concept type.
        fitted_on: What photos the weights were fitted on.
        base_rates: The share of those photos that show a concept, by label, where it was counted; others have the base
            rate of the vocabulary.
    """

    z_score: float
    implied: float
    base_rate: float
    offsets: Mapping[str, float]
    fitted_on: str
    base_rates: Mapping[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def from_vector(
        cls, vector: Sequence[float], fitted_on: str, base_rates: Mapping[str, float] | None = None
    ) -> PresenceWeights:
        """Return the weights in the order of `presence_features`.

        Args:
            vector: One number for each feature.
            fitted_on: What photos the weights were fitted on.
            base_rates: The share of those photos that show a concept, by label.
        """
        z_score, implied, rate, *offsets = vector
        by_type = dict(zip(CONCEPT_TYPES, offsets, strict=True))
        return cls(z_score, implied, rate, by_type, fitted_on, base_rates or {})

    @property
    def vector(self) -> tuple[float, ...]:
        """The weights in the order of `presence_features`."""
        offsets = (self.offsets[kind] for kind in CONCEPT_TYPES)
        return (self.z_score, self.implied, self.base_rate, *offsets)


FITTED_ON = "40 photos of ImageNet's kind, judged by eye"
WITH_Z_SCORES = PresenceWeights(
    z_score=0.2653, implied=0.7542, base_rate=0.3932, fitted_on=FITTED_ON,
    offsets={"object": 1.3211, "part": 1.8321, "material": 1.8533, "colour": 2.7298, "texture": 2.86, "scene": 1.1138},
)  # fmt: skip
WITHOUT_Z_SCORES = PresenceWeights(
    z_score=0.0, implied=0.8105, base_rate=0.2477, fitted_on=FITTED_ON,
    offsets={"object": 1.5792, "part": 1.8217, "material": 1.8775, "colour": 2.7381, "texture": 2.631, "scene": 1.247},
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Presence:
    """How likely each concept is in each photo, and what that rests on.

    Args:
        probability: The probability that the concept is in the photo.
        implied: The probability that the model's answer implies: `sum_c p_c rate_c` over the classes `c`; `None` where
            nothing is known of them.
        base_rates: The share of photos that show the concept.
        fitted_on: What photos the weights were fitted on.
    """

    probability: Float[Tensor, "image concept"]
    implied: Float[Tensor, "image concept"] | None
    base_rates: Float[Tensor, "concept"]
    fitted_on: str

    def order(self) -> Float[Tensor, "image concept"]:
        """Return what concepts are ordered by: the log-odds of presence, and a little more for the rarer ones."""
        odds = torch.logit(self.probability.double(), eps=1e-6).float()
        return odds - RARITY_WEIGHT * self.base_rates.log()


def presence_features(
    concepts: Sequence[ConceptName],
    implied: Float[Tensor, "image concept"] | None,
    z_scores: Float[Tensor, "image concept"] | None,
    base_rates: Float[Tensor, "concept"],
    images: int,
) -> Float[Tensor, "image concept feature"]:
    """Return what presence is a logistic function of: z-score, log-odds, log base rate, type.

    Args:
        concepts: Names and types.
        implied: The probability that the predicted classes imply; `None` where nothing is known of them, which makes
            its feature 0.
        z_scores: How unusual each concept's score is; `None` without a calibration, which makes it 0.
        base_rates: The share of photos that show each concept.
        images: How many images there are.
    """
    shape = (images, len(concepts))
    none = torch.zeros(shape, device=base_rates.device)
    evidence = none if z_scores is None else z_scores.float().clamp(MIN_Z, MAX_Z)
    odds = none if implied is None else torch.logit(implied.float().clamp(MIN_IMPLIED, 1 - MIN_IMPLIED))
    types = torch.tensor(_type_numbers(tuple(concepts)), device=base_rates.device)
    numbers = torch.stack([evidence, odds, base_rates.log().expand(shape)], dim=2)
    return torch.cat([numbers, F.one_hot(types, len(CONCEPT_TYPES)).expand(*shape, -1)], dim=2)


def presence(
    concepts: Sequence[ConceptName],
    known: ClassConcepts | None,
    logits: Float[Tensor, "image class"] | None,
    z_scores: Float[Tensor, "image concept"] | None,
    weights: PresenceWeights | None = None,
) -> Presence | None:
    """Return the probability that each concept is in each photo.

    Args:
        concepts: Names and types.
        known: What photos of the model's classes show; `None` where it has none, or nothing is known of them.
        logits: The class scores before the softmax, where `known` is given.
        z_scores: How unusual each concept's score is; `None` without a calibration.
        weights: Weights of your own calibration; by default those fitted on photos of ImageNet's kind, with or without
            z-scores, which need `known`.

    Returns:
        Probabilities, with what they rest on; `None` where there are no weights that fit what is known.
    """
    known = known if logits is not None else None
    if weights is None:
        if known is None:
            return None
        weights = WITHOUT_Z_SCORES if z_scores is None else WITH_Z_SCORES
    like = logits if logits is not None else z_scores
    if like is None:
        return None
    words = known_words(concepts)
    everyday = _everyday_rates(words)
    if weights.base_rates:
        counted = [
            weights.base_rates.get(c.label) or weights.base_rates.get(w.label)
            for c, w in zip(concepts, words, strict=True)
        ]
        everyday = [own or rate for own, rate in zip(counted, everyday, strict=True)]
    rates = torch.tensor(everyday, device=like.device)
    implied = None if known is None or logits is None else rate_of(known.implied(logits), known, words)
    features = presence_features(concepts, implied, z_scores, rates, len(like))
    return Presence((features @ features.new_tensor(weights.vector)).sigmoid(), implied, rates, weights.fitted_on)


@lru_cache(maxsize=64)
def _type_numbers(concepts: tuple[ConceptName, ...]) -> Sequence[int]:
    types = ("object" if isinstance(concept, RandomDirection) else concept.type for concept in concepts)
    return [CONCEPT_TYPES.index(kind) for kind in types]


@lru_cache(maxsize=64)
def _everyday_rates(words: tuple[ConceptName, ...]) -> Sequence[float]:
    return [base_rate(word) or USUAL_BASE_RATE for word in words]


def fit_presence(
    features: Float[Tensor, "row feature"],
    present: Float[Tensor, "row"],
    weights: Float[Tensor, "row"] | None = None,
    penalty: float = 1e-3,
) -> list[float]:
    """Return the weights of the logistic model, by L-BFGS on the mean loss with a small ridge on all but the offsets.

    Args:
        features: Rows of `presence_features`.
        present: 1 where the concept is in the photo, else 0.
        weights: The weight of each row; by default all are equal.
        penalty: The factor of the ridge.
    """
    each = torch.ones_like(present) if weights is None else weights
    found = torch.zeros(features.shape[1], requires_grad=True, device="cpu")
    optimiser = torch.optim.LBFGS([found], max_iter=300)

    def loss() -> Tensor:
        optimiser.zero_grad()
        losses = F.binary_cross_entropy_with_logits(features @ found, present, reduction="none")
        total = (losses * each).sum() / each.sum() + penalty * found[: -len(CONCEPT_TYPES)].square().sum()
        total.backward()
        return total

    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
        optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    return [round(float(value), 4) for value in found.detach()]


def present_concepts(
    found: Presence,
    concepts: Sequence[ConceptName],
    broader: Mapping[str, frozenset[str]],
    text_vectors: Float[Tensor, "concept dimension"],
    top: int,
) -> list[list[int]]:
    """Return the concepts that are likely in each photo, the most telling first, each thing once.

    A kind is left out where a narrower one is listed (*animal* beside *tabby cat*), so is a part (*ear* beside
    *pointed ear*), a synonym of a concept before it, and a third colour, texture or material.

    Args:
        found: How likely each concept is in each photo.
        concepts: Names and types.
        broader: The broader kinds of each kind.
        text_vectors: The text vector of each concept.
        top: How many to return at most.

    Returns:
        The indices of at most `top` concepts for each photo; fewer, or none, where fewer are likely.
    """
    mean = text_vectors.float().mean(0)
    index = {concept.label: i for i, concept in enumerate(concepts)}
    rows = []
    for order, probability in zip(found.order(), found.probability.tolist(), strict=True):
        kept: list[int] = []
        likely = [i for i in order.argsort(descending=True).tolist() if probability[i] >= MIN_PRESENCE]
        units = dict(zip(likely, F.normalize(text_vectors[likely].float() - mean, dim=1), strict=True))
        for i in likely:
            concept = concepts[i]
            kinds = [index[kind] for kind in broader.get(concept.label, ()) if kind in index]
            if probability[i] < MIN_NARROWER_PRESENCE and any(probability[kind] >= MIN_PRESENCE for kind in kinds):
                continue
            if any(is_broader(concept, concepts[other], broader) for other in kept):
                continue
            wider = [n for n, other in enumerate(kept) if is_broader(concepts[other], concept, broader)]
            if wider:  # the narrower one takes the place of the broader
                kept = [i if n == wider[0] else other for n, other in enumerate(kept) if n not in wider[1:]]
                continue
            same_type = sum(concepts[other].type == concept.type for other in kept)
            full = len(kept) == top or same_type == MAX_OF_TYPE.get(concept.type, top)
            near = kept and float((torch.stack([units[other] for other in kept]) @ units[i]).max()) >= MAX_TEXT_COSINE
            if not full and not near:
                kept.append(i)
        rows.append(kept)
    return rows
