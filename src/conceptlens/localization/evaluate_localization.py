"""Compare maps of concepts with masks of the same concepts, photo by photo, with a wrong concept as control."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet, check_masked_set, crop_masks
from conceptlens.io.errors import Failure, InputError, InputTypeError
from conceptlens.localization.methods import Method, precomputed
from conceptlens.localization.own_metrics import check_metrics, own_scores
from conceptlens.localization.result_rows import ORACLE, Row
from conceptlens.metrics.map_mask import map_mask_scores
from conceptlens.record import WHOLE, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.statistics.score import Metric

# CE-FAM's evaluation chooses among a method's candidates by this metric, and with the mask.
ORACLE_METRIC = "ranked_area"
# Masks and enlarged maps of every concept of a photo are in memory together; more pixels change no metric.
MAX_PIXELS = 2048

Scores = list[dict[str, float | None]]


def evaluate_localization(
    data: MaskedSet,
    methods: Mapping[str, Method | Explanation],
    min_area: float = 0.01,
    resolution: int | None = 112,
    seed: int = 0,
    max_photos: int | None = None,
    metrics: Iterable[Metric] = (),
) -> Iterator[tuple[Row, ...] | Failure]:
    """Measure, photo by photo, how well each method's maps fit the masks of the concepts that the photo shows.

    A method whose explanation has several `components` (layers, neurons) is scored twice: as it is, and as
    "NAME (oracle)", by the component that fits the mask best by NRA, which nobody without the mask could choose. Each
    mask is also compared with the map of a wrong concept, one that the photo does not show: a map that is as good for
    it shows no concept.

    Args:
        data: Photos with masks of concepts.
        methods: What to compare, by name: functions from a photo and concepts to an `Explanation`, such as those of
            `build_methods`; or an `Explanation` with the maps of the whole set, such as `Explanation.from_maps` makes
            of anybody's maps (see `precomputed`).
        min_area: Leave out concepts whose mask covers less than this share of the photo, from 0 to below 1.
        resolution: Rows and columns at which maps and masks are compared, 2 to 2048; masks are cut to what the model
            saw and take the nearest pixel, maps are enlarged bilinearly. None: the annotation's own pixels.
        seed: Draws the wrong concepts, the same for all methods.
        max_photos: Stop after this many photos.
        metrics: Metrics of your own, beside those of `MAP_MASK_METRICS`: called as `compute(maps, masks, ignored)` with
            `maps[image question height width]`, `masks[image question rows columns]` and `ignored[image rows columns]`
            or `None`, they return a `Score` with one value for each image and question. They count where the others
            do: where a mask has pixels inside and outside.

    Yields:
        For each photo its rows, one per concept and method; or a `Failure` where it cannot be read or explained.

    Raises:
        InputError: A number is out of its range, no method is given, or a metric's name is taken.
        InputTypeError: `data` is no data set with masks, `methods` no dictionary, or `metrics` no list of `Metric`.

    Examples:
        >>> methods = build_methods(["ce_fam", "layer_cam:concept"], MethodContext(model, data.concepts))
        >>> rows = [row for rows in evaluate_localization(data, methods) if isinstance(rows, tuple) for row in rows]
    """
    check_masked_set(data)
    if not isinstance(methods, Mapping):
        raise InputTypeError(
            f"methods are given as {type(methods).__name__}; expected a dictionary from name to method"
        )
    check_settings(min_area, resolution, max_photos)
    own = check_metrics(metrics)
    if not methods:
        raise InputError("no method was given; give at least one, such as those of build_methods")
    callables = {name: precomputed(m) if isinstance(m, Explanation) else m for name, m in methods.items()}
    for one in _read(data, max_photos):
        if isinstance(one, Failure):
            yield one
            continue
        try:
            names = _wrong_names(one, data.concepts, seed)
            yield tuple(_rows(one.with_min_area(min_area), callables, names, resolution, own))
        except (InputError, RuntimeError) as error:  # torch's own: out of memory, shapes
            yield Failure(one.name, f"{one.name}: {' '.join(str(error).split())}")


@dataclass(frozen=True, eq=False)
class MaskTruth:
    """The masks of one photo as a model saw it, and the metrics of one's own that maps are compared by beside ours."""

    masks: Bool[Tensor, "question rows columns"]
    ignored: Bool[Tensor, "rows columns"] | None
    metrics: tuple[Metric, ...] = ()

    def shares(self) -> list[float]:
        """Return how much of the pixels that count each mask covers."""
        counted = torch.ones_like(self.masks[0]) if self.ignored is None else ~self.ignored
        return ((self.masks & counted).sum((1, 2)).double() / counted.sum().clamp_min(1)).tolist()

    def scores(self, maps: Tensor) -> Scores:
        """Return every metric of `maps[question height width]`, one for each mask."""
        ignored = None if self.ignored is None else self.ignored[None]
        found = map_mask_scores(maps[None], self.masks[None], ignored)
        own = own_scores(self.metrics, maps[None], self.masks[None], ignored)
        pairs: Scores = [{name: score.of(0, i) for name, score in found.items()} for i in range(len(maps))]
        for i, pair in enumerate(pairs):
            measured = any(value is not None for value in pair.values())
            pair.update({name: score.of(0, i) if measured else None for name, score in own.items()})
        return pairs


def truth_of(
    one: MaskedPhoto,
    box: tuple[float, float, float, float],
    resolution: int | None,
    metrics: tuple[Metric, ...] = (),
) -> MaskTruth:
    """Return the masks of the part of the photo that a map covers."""
    rows, columns = one.masks.shape[1:]
    own = (max(1, round(rows * (box[3] - box[1]))), max(1, round(columns * (box[2] - box[0]))))
    size = own if resolution is None else (resolution, resolution)
    masks = torch.from_numpy(crop_masks(one.masks, box, size))
    ignored = one.ignored
    if ignored is None and box != WHOLE:
        ignored = np.zeros((rows, columns), bool)  # what lies beyond the photo is padding
    cut = None if ignored is None else torch.from_numpy(crop_masks(ignored, box, size, outside=True))
    return MaskTruth(masks, cut if cut is not None and bool(cut.any()) else None, metrics)


def _best_scores(truth: MaskTruth, parts: Sequence[Explanation], rows: Sequence[int]) -> Scores:
    """Return for each mask the scores of the part whose map fits it best by NRA, an oracle."""
    tried = [truth.scores(part.maps[0, list(rows)]) for part in parts]
    return [
        max(own, key=lambda scores: -1.0 if (v := scores[ORACLE_METRIC]) is None else v)
        for own in zip(*tried, strict=True)
    ]


def _read(data: MaskedSet, max_photos: int | None) -> Iterator[MaskedPhoto | Failure]:
    """Read photos one by one; one that cannot be read is a failure, and the next follows."""
    for index in range(len(data) if max_photos is None else min(max_photos, len(data))):
        try:
            yield data[index]
        except InputError as error:
            yield Failure(f"photo {index + 1} of {data.name}", str(error))


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


def check_settings(min_area: float, resolution: int | None, max_photos: int | None) -> None:
    """Refuse numbers that `evaluate_localization` cannot work with, before anything is read."""
    if not 0 <= min_area < 1:
        raise InputError(f"min_area is {min_area}; expected a share from 0 to below 1, such as 0.01")
    if resolution is not None and not 2 <= resolution <= MAX_PIXELS:
        raise InputError(
            f"resolution is {resolution}; expected 2 to {MAX_PIXELS} pixels a side, or the annotation's own"
        )
    if max_photos is not None and max_photos < 1:
        raise InputError(f"max_photos is {max_photos}; expected at least 1")
