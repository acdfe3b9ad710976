"""Which concepts a bottleneck keeps: the filters of Label-free CBM in the order of its code, with their cutoffs.

Length, names of classes, similarity to a class, similarity to one another, presence in images, interpretability of what
was learned. What each does, and where that code does otherwise: see `published_filters`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from conceptlens.bottleneck.concept_writing.published_filters import (
    DEFAULT_ENCODERS,
    ConceptLayerScores,
    Encode,
    FilterResult,
    ImageConceptScores,
    by_class_name,
    by_class_similarity,
    by_interpretability,
    by_length,
    by_presence,
    by_similarity,
    text_similarity,
)
from conceptlens.concepts.concept_set import ConceptSet
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The paper's presence cutoffs, cosines of CLIP ViT-B/16; and one for scores in standard deviations of everyday words:
# of 33 words on 300 train photos of CUB-50 and the stand-in's cosines it kept 17 of 17 for birds and dropped 15 of 16.
PRESENCE_CUTOFFS: Mapping[str, float] = MappingProxyType(
    {"cifar10": 0.25, "cifar100": 0.25, "cub": 0.26, "places365": 0.28, "imagenet": 0.28, "standardised": 2.5}
)


@dataclass(frozen=True)
class FilterLimits:
    """Where the filters cut; `None` leaves one out.

    - `length`: at most so many characters. `class_similarity`, `similarity`: below.
    - `presence`, `interpretability`: above. Presence depends on the vision-language model: see `PRESENCE_CUTOFFS`.
    """

    length: int | None = 30
    class_similarity: float | None = 0.85
    similarity: float | None = 0.9
    presence: float | None = None
    interpretability: float | None = 0.45


# With MiniLM the published cuts find 2 of the 7 classes' likenesses and 5 of the 18 pairs that the paper's encoders
# find among its CIFAR-10 concepts; those of "minilm" find 6 and 13, and 0 and 5 that the paper's do not.
FILTER_LIMITS: dict[str, FilterLimits] = {
    "published": FilterLimits(),
    "minilm": FilterLimits(class_similarity=0.8, similarity=0.82),
}


def filter_concepts(
    found: ConceptSet,
    classes: Sequence[str],
    limits: FilterLimits = FILTER_LIMITS["published"],
    encoders: Sequence[tuple[Encode, float]] = DEFAULT_ENCODERS,
    shown: ImageConceptScores | None = None,
    learn: Callable[[ConceptSet], ConceptLayerScores] | None = None,
) -> ConceptSet:
    """Return what the published filters leave of a set, in their order, with what each dropped.

    `shown` has a column for each concept of `found`. `learn` is called with the concepts that all other filters
    left, fits the concept layer to them and returns its activations on held-out images. Without the one or the other
    its filter is left out. Raises `InputError` where none is left, saying which filter dropped most.
    """
    if isinstance(classes, str) or not classes:
        raise InputError(f"classes are {classes!r}; give a list of the names of all classes")
    if shown is not None and limits.presence is None:
        raise InputError(
            "presence has no cutoff that suits every model; give FilterLimits(presence=...), see PRESENCE_CUTOFFS"
        )
    left = found
    if limits.length is not None:
        left = _after(left, by_length(left.labels, limits.length))
    left = _after(left, by_class_name(left.labels, classes))
    if limits.class_similarity is not None:
        likeness = text_similarity(left.labels, classes, encoders)
        left = _after(left, by_class_similarity(left.labels, classes, likeness, limits.class_similarity))
    if limits.similarity is not None:
        likeness = text_similarity(left.labels, left.labels, encoders)
        left = _after(left, by_similarity(left.labels, likeness, limits.similarity))
    if shown is not None and limits.presence is not None:
        left = _after(left, by_presence(left.labels, _shown_of(shown, found, left), limits.presence))
    if learn is not None and limits.interpretability is not None:
        left = _after(left, by_interpretability(left.labels, learn(left), limits.interpretability))
    return left


def _after(left: ConceptSet, filtered: FilterResult) -> ConceptSet:
    return left.keep(filtered.kept, filtered.dropped)


def _shown_of(shown: ImageConceptScores, found: ConceptSet, left: ConceptSet) -> ImageConceptScores:
    index = {label: column for column, label in enumerate(found.labels)}
    return shown.columns([index[label] for label in left.labels], len(found))
