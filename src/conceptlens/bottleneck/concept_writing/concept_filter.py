"""Which concepts a bottleneck keeps: the filters of Label-free CBM (Oikarinen et al., ICLR 2023), in its order.

Length, names of classes, similarity to a class, similarity to one another, presence in images, interpretability of what
was learned. Where its code does otherwise:

- **No test image chooses a concept.** It filters by interpretability, and stops training, on what it calls `val`:
  the test split of CIFAR and CUB and the reported one of ImageNet and Places. Here presence is read in train photos,
  and interpretability in a part of train that fitted nothing.
- It does not compare concept i with class i. Here every concept is compared with every class.
- It drops a class's name with and without an article in a few spellings. Here case and spaces never matter.
- Its encoders of texts are all-mpnet-base-v2 and CLIP ViT-B/16, weighted 1 and 3. Here MiniLM compares texts, which
  comes with the package and sees other likeness: see `FILTER_LIMITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from torch import Tensor

from conceptlens.concepts.concept_set import ConceptSet, Dropped
from conceptlens.io.errors import InputError
from conceptlens.model.encoders import encode_sentences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float

    Values: TypeAlias = np.ndarray | Tensor

ARTICLES = ("a", "an", "the")
TOP_IMAGES = 5  # whose mean score says whether a concept is present
MIN_IMAGES = 10  # cos-cubed of two columns means little for fewer
ROUNDING = 1e-6  # row sums of similarities that differ by less are equal

# The paper's presence cutoffs, cosines of CLIP ViT-B/16; and one for scores in standard deviations of everyday words:
# of 33 words on 300 train photos of CUB-50 and the stand-in's cosines it kept 17 of 17 for birds and dropped 15 of 16.
PRESENCE_CUTOFFS: Mapping[str, float] = MappingProxyType(
    {"cifar10": 0.25, "cifar100": 0.25, "cub": 0.26, "places365": 0.28, "imagenet": 0.28, "standardised": 2.5}
)


@dataclass(frozen=True)
class FilterLimits:
    """The cutoffs of the filters; `None` leaves one out.

    Args:
        length: The largest number of characters.
        class_similarity: The cosine with a class's name from which a concept is dropped.
        similarity: The cosine with another concept from which one of the two is dropped.
        presence: The score that a concept must exceed; it depends on the vision-language model (`PRESENCE_CUTOFFS`).
    """

    length: int | None = 30
    class_similarity: float | None = 0.85
    similarity: float | None = 0.9
    presence: float | None = None


# With MiniLM the published cuts find 2 of the 7 classes' likenesses and 5 of the 18 pairs that the paper's encoders
# find among its CIFAR-10 concepts; those of "minilm" find 6 and 13, and 0 and 5 that the paper's do not.
FILTER_LIMITS: dict[str, FilterLimits] = {
    "published": FilterLimits(),
    "minilm": FilterLimits(class_similarity=0.8, similarity=0.82),
}


@dataclass(frozen=True)
class FilterResult:
    """What one filter made of a list of labels: the indices that it kept, in order, and what it dropped."""

    kept: tuple[int, ...]
    dropped: tuple[Dropped, ...]


def filter_concepts(
    found: ConceptSet,
    classes: Sequence[str],
    limits: FilterLimits = FILTER_LIMITS["published"],
    scores: Values | None = None,
) -> ConceptSet:
    """Return what the published filters leave of a set, in their order, with what each dropped.

    The filter by interpretability needs a fitted concept layer: see `by_interpretability`.

    Args:
        found: The concepts.
        classes: The names of all classes.
        limits: The cutoffs.
        scores: Scores of train images, `[image concept]`, by a vision-language model; without them presence is not
            filtered.

    Returns:
        The concepts that are left, with everything that was dropped on the way.

    Raises:
        InputError: No concept is left (the message says which filter dropped most), or there are too few images.
    """
    if isinstance(classes, str) or not classes:
        raise InputError(f"classes are {classes!r}; give a list of the names of all classes")
    left = found
    if limits.length is not None:
        left = _after(left, by_length(left.labels, limits.length))
    left = _after(left, by_class_name(left.labels, classes))
    if limits.class_similarity is not None:
        likeness = text_similarity(left.labels, classes)
        left = _after(left, by_class_similarity(left.labels, classes, likeness, limits.class_similarity))
    if limits.similarity is not None:
        likeness = text_similarity(left.labels, left.labels)
        left = _after(left, by_similarity(left.labels, likeness, limits.similarity))
    if scores is not None and limits.presence is not None:
        column = {label: index for index, label in enumerate(found.labels)}
        kept = scores[:, [column[label] for label in left.labels]]
        left = _after(left, by_presence(left.labels, kept, limits.presence))
    return left


def text_similarity(first: Sequence[str], second: Sequence[str]) -> Float[np.ndarray, "first second"]:
    """Return the cosines of texts by MiniLM, float64.

    Args:
        first: Texts, at least one.
        second: Texts, at least one.

    Returns:
        `[first second]`, -1 to 1.
    """
    left, right = (_array(encode_sentences(list(texts))) for texts in (first, second))
    unit = [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-300) for one in (left, right)]
    return unit[0] @ unit[1].T


def by_length(labels: Sequence[str], longest: int = 30) -> FilterResult:
    """Keep labels of at most `longest` characters.

    Args:
        labels: The concepts' labels.
        longest: The largest number of characters.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.
    """

    def why(index: int) -> tuple[float, str] | None:
        size = len(labels[index])
        return (size, f"it has {size} characters; at most {longest} are kept") if size > longest else None

    return _filtered("length", labels, longest, why)


def by_class_name(labels: Sequence[str], classes: Sequence[str]) -> FilterResult:
    """Drop labels that are a class's name, with or without an article, in any case and spacing.

    Args:
        labels: The concepts' labels.
        classes: The names of the classes.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.
    """
    named = {_bare(name): name for name in reversed(classes)}

    def why(index: int) -> tuple[None, str] | None:
        name = named.get(_bare(labels[index]))
        return None if name is None else (None, f"it is the name of class {name!r}")

    return _filtered("class name", labels, None, why)


def by_class_similarity(
    labels: Sequence[str],
    classes: Sequence[str],
    similarity: Float[np.ndarray, "concept class"],
    threshold: float = 0.85,
) -> FilterResult:
    """Drop labels whose similarity to any class is `threshold` or more.

    Args:
        labels: The concepts' labels.
        classes: The names of the classes.
        similarity: Cosines of labels and names, `[concept class]`.
        threshold: The published cutoff is 0.85.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.
    """

    def why(index: int) -> tuple[float, str] | None:
        nearest = int(similarity[index].argmax())
        value = float(similarity[index, nearest])
        reason = f"it resembles class {classes[nearest]!r} by {value:.3f}; below {threshold:g} is kept"
        return (value, reason) if value >= threshold else None

    return _filtered("class similarity", labels, threshold, why)


def by_similarity(
    labels: Sequence[str], similarity: Float[np.ndarray, "concept concept"], threshold: float = 0.9
) -> FilterResult:
    """Of two kept labels whose similarity is `threshold` or more, drop the one unlike the rest.

    "The rest" is the whole list: the one with the lower row sum goes, of equal ones the later. Pairs are visited in
    alphabetical order, as in the published code, so the order of the list does not matter. A label may thus go for
    one that goes later itself ("a long tail" for "a short tail", that for "a tail").

    Texts that differ in one word are alike to such encoders, whatever the word: of CUB's attributes "white belly" goes
    for "black belly". Leave this filter out (`FilterLimits(similarity=None)`) for concepts that a person defined.

    Args:
        labels: The concepts' labels.
        similarity: Cosines of labels, `[concept concept]`.
        threshold: The published cutoff is 0.9.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.
    """
    total, rank = similarity.sum(1), np.argsort(np.argsort(np.array(labels, dtype=object)))
    pairs = np.argwhere(similarity >= threshold)
    gone: dict[int, int] = {}
    for i, j in pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))].tolist():
        if i != j and i not in gone and j not in gone:
            loser, winner = (i, j) if total[i] < total[j] - ROUNDING else (j, i)
            gone[loser] = winner

    def why(index: int) -> tuple[float, str] | None:
        if index not in gone:
            return None
        value = float(similarity[index, gone[index]])
        reason = f"it resembles {labels[gone[index]]!r} by {value:.3f}, which is more like the rest"
        return value, f"{reason}; below {threshold:g} both are kept"

    return _filtered("similarity", labels, threshold, why)


def by_presence(labels: Sequence[str], scores: Values, threshold: float) -> FilterResult:
    """Keep concepts whose five highest scores have a mean above `threshold`.

    Args:
        labels: The concepts' labels.
        scores: Scores of train images by a vision-language model, `[image concept]`.
        threshold: Depends on the model: see `PRESENCE_CUTOFFS`.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.

    Raises:
        InputError: There are fewer than five images.
    """
    values = _array(scores)
    if len(values) < TOP_IMAGES:
        raise InputError(f"{len(values)} images were given for the mean of the top {TOP_IMAGES}; give more")
    best = np.partition(values, -TOP_IMAGES, axis=0)[-TOP_IMAGES:].mean(0)

    def why(index: int) -> tuple[float, str] | None:
        value = float(best[index])
        reason = f"no image shows it: its {TOP_IMAGES} best score {value:.3f} on average; above {threshold:g} is kept"
        return None if value > threshold else (value, reason)

    return _filtered("presence", labels, threshold, why)


def by_interpretability(
    labels: Sequence[str], projected: Values, teacher: Values, threshold: float = 0.45
) -> FilterResult:
    """Keep concepts whose activations have a cos-cubed with their targets above `threshold`.

    Args:
        labels: The concepts' labels.
        projected: Activations, `[image concept]`, of a fitted concept layer in train images that it was not fitted to.
        teacher: What the layer imitates, of the same shape.
        threshold: The published cutoff is 0.45.

    Returns:
        The labels that are kept, and what is dropped with its value and reason.

    Raises:
        InputError: There are fewer than 10 images.
    """
    made, wanted = _array(projected), _array(teacher)
    if len(made) < MIN_IMAGES:
        raise InputError(f"{len(made)} held-out images were given; interpretability needs at least {MIN_IMAGES}")
    similarity = cos_cubed(made, wanted)
    still = {"its projection": np.ptp(made, 0) == 0, "its teacher": np.ptp(wanted, 0) == 0}

    def why(index: int) -> tuple[float, str] | None:
        value = float(similarity[index])
        same = [name for name, constant in still.items() if constant[index]]
        what = f"{same[0]} is the same in every image" if same else f"its cos-cubed with its teacher is {value:.3f}"
        return None if value > threshold else (value, f"{what}; above {threshold:g} is kept")

    return _filtered("interpretability", labels, threshold, why)


def cos_cubed(
    first: Float[np.ndarray, "image concept"], second: Float[np.ndarray, "image concept"]
) -> Float[np.ndarray, "concept"]:
    """Return `cos((x - mean x)^3, (y - mean y)^3)` for each column, -1 to 1; 0 where a column is constant.

    Args:
        first: `[image concept]`.
        second: Values of the same shape.

    Returns:
        A similarity for each concept, `[concept]`.
    """
    cubed = []
    for values in (first, second):
        centred = np.where(np.ptp(values, 0) == 0, 0, values - values.mean(0))
        highest = np.abs(centred).max(0)
        cubes = (centred / np.where(highest > 0, highest, 1)) ** 3
        cubed.append(cubes / np.maximum(np.linalg.norm(cubes, axis=0), 1e-300))
    return (cubed[0] * cubed[1]).sum(0)


def _after(left: ConceptSet, filtered: FilterResult) -> ConceptSet:
    return left.keep(filtered.kept, filtered.dropped)


def _filtered(
    name: str, labels: Sequence[str], threshold: float | None, why: Callable[[int], tuple[float | None, str] | None]
) -> FilterResult:
    """Keep the labels without a reason to go."""
    reasons = {index: reason for index in range(len(labels)) if (reason := why(index)) is not None}
    dropped = tuple(Dropped(labels[index], name, value, threshold, text) for index, (value, text) in reasons.items())
    return FilterResult(tuple(index for index in range(len(labels)) if index not in reasons), dropped)


def _bare(label: str) -> str:
    words = label.casefold().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def _array(values: Values) -> np.ndarray:
    """Return values in float64."""
    given = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.asarray(given, np.float64)
