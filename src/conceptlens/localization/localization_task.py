"""What is measured of one photo: every method's maps of its concepts against their masks, and a wrong concept's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.io.errors import Failure, InputError
from conceptlens.localization.mask_truth import MaskTruth, Scores, truth_of
from conceptlens.localization.methods import Method
from conceptlens.localization.result_rows import ORACLE, Row
from conceptlens.record import Explanation
from conceptlens.runs.photo_by_photo import failure_of

if TYPE_CHECKING:
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.statistics.score import Metric

# CE-FAM's evaluation chooses among a method's candidates by this metric, and with the mask.
ORACLE_METRIC = "ranked_area"


@dataclass(frozen=True)
class PhotoMeasured:
    """What was found in one photo.

    Attributes:
        index: Its index in the set.
        name: What it is called.
        rows: One for each concept and method; empty where it failed or shows no concept.
        failure: Why it failed; `None` where it did not.
    """

    index: int
    name: str
    rows: tuple[Row, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, eq=False)
class ReadMasks:
    """A photo with its masks, or why it cannot be read, and its index in the set."""

    index: int
    photo: MaskedPhoto | Failure


@dataclass(frozen=True, eq=False)
class LocalizationTask:
    """What every worker of an evaluation needs; a batch is one photo.

    Attributes:
        data: Photos with masks of concepts.
        methods: What is compared, by name.
        min_area: The smallest share of a photo that a concept's mask covers.
        resolution: Rows and columns at which maps and masks are compared; `None` for the annotation's own.
        seed: Draws the wrong concepts.
        count: How many photos are measured, the first of the set.
        metrics: Metrics of one's own.
    """

    data: MaskedSet
    methods: Mapping[str, Method]
    min_area: float
    resolution: int | None
    seed: int
    count: int
    metrics: tuple[Metric, ...] = ()

    @property
    def about(self) -> str:
        """What is sent to workers."""
        return f"{self.data.name} or a method"

    @property
    def names(self) -> Sequence[str]:
        """What the photos are called."""
        return self.data.names[: self.count]

    def read(self, batch: range) -> ReadMasks:
        """Read a photo and its masks, or say why it cannot be read.

        Args:
            batch: The photo.
        """
        index = batch.start
        try:
            return ReadMasks(index, self.data[index])
        except InputError as error:
            return ReadMasks(index, Failure(self.data.names[index], str(error)))

    def compute(self, read: ReadMasks) -> PhotoMeasured:
        """Measure every method on a photo.

        Args:
            read: What `read` returned.
        """
        one = read.photo
        if isinstance(one, Failure):
            return PhotoMeasured(read.index, one.name, failure=one.reason)
        try:
            names = _wrong_names(one, self.data.concepts, self.seed)
            rows = tuple(_rows(one.with_min_area(self.min_area), self.methods, names, self.resolution, self.metrics))
        except (InputError, RuntimeError) as error:  # torch's own: out of memory, shapes
            return PhotoMeasured(read.index, one.name, failure=failure_of(one.name, error))
        return PhotoMeasured(read.index, one.name, rows)


def _wrong_names(one: MaskedPhoto, known: Sequence[ConceptName], seed: int) -> dict[ConceptName, ConceptName]:
    """Draw for each concept one that the photo does not show at all, not even a little."""
    shown = set(one.concepts)
    absent = [concept for concept in known if concept not in shown]
    if not absent:
        return {}
    return {c: random.Random(f"{seed} {one.name} {c.label}:{c.type}").choice(absent) for c in one.concepts}


def _rows(
    one: MaskedPhoto,
    methods: Mapping[str, Method],
    names: Mapping[ConceptName, ConceptName],
    resolution: int | None,
    metrics: tuple[Metric, ...],
) -> Iterator[Row]:
    """Call every method once, for the right and the wrong concepts together."""
    if not one.concepts:
        return
    wrong = [names[concept] for concept in one.concepts] if names else []
    concepts = tuple(dict.fromkeys([*one.concepts, *wrong]))
    right, other = ([concepts.index(concept) for concept in group] for group in (one.concepts, wrong))
    truths: dict[tuple[float, ...], MaskTruth] = {}
    for name, method in methods.items():
        explained = method(one.photo, concepts)
        if tuple(explained.maps.shape[:2]) != (1, len(concepts)):
            raise InputError(
                f"method '{name}' gave maps of shape {tuple(explained.maps.shape)}; "
                f"expected 1 image and {len(concepts)} questions"
            )
        box = explained.source.image_info[0].box
        if box not in truths:  # the methods of one model cover the same part of the photo
            truths[box] = truth_of(one, box, resolution, metrics)
        truth = truths[box]
        has_own_map: Any = explained.source.settings.get("matched") or (True,) * len(concepts)
        shares = truth.shares()
        for title, scores, control in _scored(name, explained, truth, right, other):
            for i, concept in enumerate(one.concepts):
                yield Row(
                    one.name, concept.label, concept.type, one.groups[i], title, shares[i], bool(has_own_map[right[i]]),
                    scores[i], wrong[i].label if wrong else None, control[i] if wrong else {},
                )  # fmt: skip


def _scored(
    name: str, explained: Explanation, truth: MaskTruth, right: Sequence[int], wrong: Sequence[int]
) -> Iterator[tuple[str, Scores, Scores]]:
    """Yield a method's scores and those of its control, as it is and, of several parts, by the best."""
    control = truth.scores(explained.maps[0, list(wrong)]) if wrong else []
    yield name, truth.scores(explained.maps[0, list(right)]), control
    if len(explained.components) > 1:
        parts = explained.components
        yield name + ORACLE, _best_scores(truth, parts, right), _best_scores(truth, parts, wrong) if wrong else []


def _best_scores(truth: MaskTruth, parts: Sequence[Explanation], rows: Sequence[int]) -> Scores:
    """Return for each mask the scores of the part whose map fits it best by NRA, an oracle."""
    tried = [truth.scores(part.maps[0, list(rows)]) for part in parts]
    return [
        max(own, key=lambda scores: -1.0 if (v := scores[ORACLE_METRIC]) is None else v)
        for own in zip(*tried, strict=True)
    ]
