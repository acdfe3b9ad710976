"""The filters of Label-free CBM (Oikarinen et al., ICLR 2023) one by one: what each keeps, and why the rest goes.

Where its code does otherwise:

- **No test image chooses a concept.** It filters by interpretability, and stops training, on what it calls `val`:
  the test split of CIFAR and CUB and the reported one of ImageNet and Places. Here whoever looks at images says which
  split they are from, and what is not `"train"`, or `"holdout"` (a part of train that fitted nothing), is refused.
- It does not compare concept i with class i. Here every concept is compared with every class.
- It drops a class's name with and without an article in a few spellings. Here case and spaces never matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from torch import Tensor

from conceptlens.concepts.concept_set import Dropped
from conceptlens.io.errors import InputError
from conceptlens.model.encoders import encode_sentences

if TYPE_CHECKING:
    from jaxtyping import Float

    Values: TypeAlias = np.ndarray | Tensor

Split = Literal["train", "holdout"]
Encode = Callable[[Sequence[str]], Tensor]
ARTICLES = ("a", "an", "the")
# cos-cubed of two columns means little for fewer images.
MIN_IMAGES = 10
# Row sums of similarities that differ by less are equal.
ROUNDING = 1e-6

# The paper's encoders are all-mpnet-base-v2 and CLIP ViT-B/16, weighted 1 and 3. This one is MiniLM alone, which
# comes with the package and sees other likeness: see `concept_filter.FILTER_LIMITS`.
DEFAULT_ENCODERS: tuple[tuple[Encode, float], ...] = ((encode_sentences, 1.0),)


@dataclass(frozen=True)
class FilterResult:
    """What one filter made of a list of labels: the places it kept, in order, and what it dropped."""

    kept: tuple[int, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, eq=False)
class ImageConceptScores:
    """How well images and concepts fit, by a vision-language model, and where the images are from.

    - `scores[image concept]`: cosines; of a stand-in too, whose plain products grow with a text's length.
    - `usual[image word]`: scores of the same images with words that have nothing to do with the set, such as
      `vocabulary()`. Where given, scores count in standard deviations of these from their mean, whatever the model's
      scale; against the set's own scores, a set without any concept that is there would keep most of them.
    """

    scores: Values
    split: Split
    usual: Values | None = None
    top: int = 5

    def columns(self, indices: Sequence[int], concepts: int) -> ImageConceptScores:
        """Return this of the concepts at `indices`, of all `concepts` that it must be of."""
        scores = _matrix(self.scores, (None, concepts), "scores", "image concept")
        return ImageConceptScores(scores[:, list(indices)], self.split, self.usual, self.top)


@dataclass(frozen=True, eq=False)
class ConceptLayerScores:
    """`projected[image concept]` of a fitted concept layer, the `teacher[image concept]` it imitates, and the split."""

    projected: Values
    teacher: Values
    split: Split


def text_similarity(
    first: Sequence[str], second: Sequence[str], encoders: Sequence[tuple[Encode, float]] = DEFAULT_ENCODERS
) -> Float[np.ndarray, "first second"]:
    """Return `sum_e w_e cos_e(first, second) / sum_e w_e`, float64, over `encoders`: pairs of `encode_text` and w."""
    weights = [weight for _, weight in encoders]
    if not weights or not all(0 < weight < np.inf for weight in weights):
        raise InputError(f"text encoders have weights {weights}; give at least one, each above 0")
    found = np.zeros((len(first), len(second)))
    for encode, weight in encoders:
        left, right = (_units(encode(list(texts))) for texts in (first, second))
        found += weight / sum(weights) * (left @ right.T)
    return found


def by_length(labels: Sequence[str], longest: int = 30) -> FilterResult:
    """Keep labels of at most `longest` characters."""

    def why(index: int) -> tuple[float, str] | None:
        size = len(labels[index])
        return (size, f"it has {size} characters; at most {longest} are kept") if size > longest else None

    return _filtered("length", labels, longest, why)


def by_class_name(labels: Sequence[str], classes: Sequence[str]) -> FilterResult:
    """Drop labels that are a class's name, with or without an article, in any case and spacing."""
    named = {_bare(name): name for name in reversed(classes)}

    def why(index: int) -> tuple[None, str] | None:
        name = named.get(_bare(labels[index]))
        return None if name is None else (None, f"it is the name of class {name!r}")

    return _filtered("class name", labels, None, why)


def by_class_similarity(
    labels: Sequence[str], classes: Sequence[str], similarity: Values, threshold: float = 0.85
) -> FilterResult:
    """Drop labels whose `similarity[concept class]` to any class is `threshold` or more."""
    values = _matrix(similarity, (len(labels), len(classes)), "similarity", "concept class")

    def why(index: int) -> tuple[float, str] | None:
        nearest = int(values[index].argmax())
        value = float(values[index, nearest])
        reason = f"it resembles class {classes[nearest]!r} by {value:.3f}; below {threshold:g} is kept"
        return (value, reason) if value >= threshold else None

    return _filtered("class similarity", labels, threshold, why)


def by_similarity(labels: Sequence[str], similarity: Values, threshold: float = 0.9) -> FilterResult:
    """Of two kept labels whose `similarity[concept concept]` is `threshold` or more, drop the one unlike the rest.

    "The rest" is the whole list: the one with the lower row sum goes, of equal ones the later. Pairs are visited in
    alphabetical order, as in the published code, so the order of the list does not matter. A label may thus go for
    one that goes later itself ("a long tail" for "a short tail", that for "a tail").

    Texts that differ in one word are alike to such encoders, whatever the word: of CUB's attributes "white belly" goes
    for "black belly". Leave this filter out (`FilterLimits(similarity=None)`) for concepts that a person defined.
    """
    count = len(labels)
    values = _matrix(similarity, (count, count), "similarity", "concept concept")
    total, rank = values.sum(1), np.argsort(np.argsort(np.array(labels, dtype=object)))
    pairs = np.argwhere(values >= threshold)
    gone: dict[int, int] = {}
    for i, j in pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))].tolist():
        if i != j and i not in gone and j not in gone:
            loser, winner = (i, j) if total[i] < total[j] - ROUNDING else (j, i)
            gone[loser] = winner

    def why(index: int) -> tuple[float, str] | None:
        if index not in gone:
            return None
        value = float(values[index, gone[index]])
        reason = f"it resembles {labels[gone[index]]!r} by {value:.3f}, which is more like the rest"
        return value, f"{reason}; below {threshold:g} both are kept"

    return _filtered("similarity", labels, threshold, why)


def by_presence(labels: Sequence[str], shown: ImageConceptScores, threshold: float) -> FilterResult:
    """Keep concepts whose `shown.top` (5) highest scores over the images have a mean above `threshold`.

    Raises `InputError` for images of another split than train, fewer than `top`, and scores that are not finite.
    """
    _from_train(shown.split, ("train", "holdout"))
    scores = _matrix(shown.scores, (None, len(labels)), "scores", "image concept")
    if not 1 <= shown.top <= len(scores):
        raise InputError(
            f"{len(scores)} images were given for the mean of the top {shown.top}; give more, or lower top"
        )
    if shown.usual is not None:
        usual = _matrix(shown.usual, (len(scores), None), "usual scores", "image word")
        if np.ptp(usual) == 0:
            raise InputError("the usual scores are all the same; give those of several everyday words")
        scores = (scores - usual.mean()) / usual.std()
    best = np.partition(scores, -shown.top, axis=0)[-shown.top :].mean(0)

    def why(index: int) -> tuple[float, str] | None:
        value = float(best[index])
        reason = f"no image shows it: its {shown.top} best score {value:.3f} on average; above {threshold:g} is kept"
        return None if value > threshold else (value, reason)

    return _filtered("presence", labels, threshold, why)


def by_interpretability(labels: Sequence[str], learned: ConceptLayerScores, threshold: float = 0.45) -> FilterResult:
    """Keep concepts whose projection has a cos-cubed with its teacher above `threshold`, on a held-out part of train.

    Raises `InputError` for images of another split, fewer than 10, and values that are not finite.
    """
    _from_train(learned.split, ("holdout",))
    projected = _matrix(learned.projected, (None, len(labels)), "projected activations", "image concept")
    teacher = _matrix(learned.teacher, (len(projected), len(labels)), "teacher scores", "image concept")
    if len(projected) < MIN_IMAGES:
        raise InputError(f"{len(projected)} held-out images were given; interpretability needs at least {MIN_IMAGES}")
    similarity = cos_cubed(projected, teacher)
    still = {"its projection": np.ptp(projected, 0) == 0, "its teacher": np.ptp(teacher, 0) == 0}

    def why(index: int) -> tuple[float, str] | None:
        value = float(similarity[index])
        same = [name for name, constant in still.items() if constant[index]]
        what = f"{same[0]} is the same in every image" if same else f"its cos-cubed with its teacher is {value:.3f}"
        return None if value > threshold else (value, f"{what}; above {threshold:g} is kept")

    return _filtered("interpretability", labels, threshold, why)


def cos_cubed(
    first: Float[np.ndarray, "image concept"], second: Float[np.ndarray, "image concept"]
) -> Float[np.ndarray, "concept"]:
    """Return `cos((x - mean x)^3, (y - mean y)^3)` for each column, -1 to 1; 0 where a column is constant."""
    cubed = []
    for values in (first, second):
        centred = np.where(np.ptp(values, 0) == 0, 0, values - values.mean(0))
        highest = np.abs(centred).max(0)
        cubes = (centred / np.where(highest > 0, highest, 1)) ** 3
        cubed.append(cubes / np.maximum(np.linalg.norm(cubes, axis=0), 1e-300))
    return (cubed[0] * cubed[1]).sum(0)


def _filtered(
    name: str, labels: Sequence[str], threshold: float | None, why: Callable[[int], tuple[float | None, str] | None]
) -> FilterResult:
    """Ask for each place why it should go; who has a reason goes."""
    reasons = {index: reason for index in range(len(labels)) if (reason := why(index)) is not None}
    dropped = tuple(Dropped(labels[index], name, value, threshold, text) for index, (value, text) in reasons.items())
    return FilterResult(tuple(index for index in range(len(labels)) if index not in reasons), dropped)


def _from_train(split: str, accepted: Sequence[str]) -> None:
    if split not in accepted:
        raise InputError(
            f"images of split {split!r} were given to choose concepts by; expected {' or '.join(accepted)} (holdout: "
            "a part of train that fitted nothing), for concepts chosen on test images make its accuracy say nothing"
        )


def _bare(label: str) -> str:
    words = label.casefold().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def _units(vectors: Tensor) -> Float[np.ndarray, "text dimension"]:
    values = _matrix(vectors, (None, None), "text vectors", "text dimension")
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)


def _matrix(values: Values, shape: tuple[int | None, int | None], what: str, axes: str) -> np.ndarray:
    """Return `values` as a float64 matrix of `shape` (`None`: any length), all finite."""
    given = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    fits = given.ndim == 2 and all(size in (None, found) for size, found in zip(shape, given.shape, strict=True))
    if not fits or not np.issubdtype(given.dtype, np.number):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{what} have shape {given.shape} of {given.dtype}; expected numbers, {axes} ({wanted})")
    wrong = np.argwhere(~np.isfinite(given))
    if len(wrong):
        first, second = axes.split()
        raise InputError(
            f"{what} hold {len(wrong)} values that are not finite, the first at {first} {wrong[0][0]}, {second} "
            f"{wrong[0][1]}; leave these out"
        )
    return given.astype(np.float64, copy=False)
