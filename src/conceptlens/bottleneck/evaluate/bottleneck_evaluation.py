"""Measures a bottleneck on a labelled set: accuracy, concepts and the location of maps, each beside controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, joined, read_parts, read_table, source_of
from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, ClassResult, ConceptResult
from conceptlens.bottleneck.evaluate.intervention_curve import NOT_MEASURED, Interventions, evaluate_interventions
from conceptlens.bottleneck.evaluate.leakage_metrics import LEAKAGES, leakage_metrics
from conceptlens.bottleneck.evaluate.map_metrics import (
    AT_BOXES,
    AT_KEYPOINTS,
    PURITIES,
    MapAnnotations,
    TopMaps,
    map_scores,
    most_active,
    purity_scores,
)
from conceptlens.bottleneck.evaluate.metric_result import (
    METRICS,
    OWN,
    Control,
    MetricResult,
    fixed_value,
    joined_scores,
    metric_result,
    not_measured,
)
from conceptlens.bottleneck.evaluate.photo_annotations import (
    BY_ACTIVITY,
    BY_CLASS,
    UNLABELLED,
    attribute_indices,
    concept_presence,
    constant_part_peaks,
    map_annotations,
)
from conceptlens.metrics.auroc import auroc_interval, concept_auroc
from conceptlens.metrics.bottleneck_metrics import accuracy, effective_concepts
from conceptlens.metrics.keypoints import Keypoints
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.features.cell_source import CellSource
    from conceptlens.model.backbone import Backbone

MAX_MAP_CELLS = 2**25  # cells of maps held together, 128 MiB
MAX_PART = 256  # and photos, so that progress is seen
NOT_REQUESTED = "it was not requested (--leakage): it fits heads of its own, which takes a while"
UNKNOWN_CROP = "the network has a preprocessing of its own, and it is unknown what that cuts off"


def evaluate_bottleneck(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    train: LabelledSet | None = None,
    indices: Sequence[int] | None = None,
    cache: str | Path | None = None,
    leakage: bool = False,
    interventions: bool = False,
    n_bootstrap: int = 2000,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> BottleneckResult:
    """Measure accuracy, concepts and maps of a bottleneck on a labelled set, each metric beside its controls.

    Maps are held for one part of the set at a time. A metric that the set has no labels for is in the result without a
    value and with the reason.

    Args:
        bottleneck: The fitted bottleneck.
        model: The network as it was loaded for the fit.
        photos: The photos that are measured; their classes must be the bottleneck's.
        train: The photos it was fitted on, for the control of one fixed cell for each part. `leakage` and
            `interventions` read all of them.
        indices: Indices of the photos that are measured; by default all.
        cache: A folder of cells, such as the fit's; without one, the network runs on every photo.
        leakage: Measure leakage and impurity too, of the concepts with class attributes; fits linear heads.
        interventions: Measure accuracy against the number of corrected concepts, of those with class attributes.
        n_bootstrap: Bootstrap samples of each 95 % interval, which resample photos.
        seed: Seed of intervals, of drawn concepts and of random maps.
        batch_size: Photos in a forward pass.
        progress: Is given the parts of the set and their number, and yields the parts: for a progress bar.

    Returns:
        The metrics, results for each class and concept, and a table of activations and logits.

    Raises:
        InputError: The model or the classes are not the bottleneck's, or no photo can be read.
    """
    attributes = attribute_indices(bottleneck, photos)
    map_concepts = [i for i, index in enumerate(attributes) if index is not None] or list(range(len(attributes)))
    constant, no_constant = constant_part_peaks(bottleneck, model, photos, train, map_concepts)
    source = source_of(bottleneck, model, photos, cache)
    every = list(range(len(photos)) if indices is None else indices)
    part_size = max(
        batch_size, min(MAX_PART, MAX_MAP_CELLS // (len(map_concepts) * bottleneck.grid[0] * bottleneck.grid[1]))
    )
    parts = read_parts(bottleneck, source, every, map_concepts, batch_size, part_size)

    def annotations_of(part: BottleneckTable) -> MapAnnotations:
        shown = concept_presence(bottleneck, photos, attributes, part)[:, map_concepts]
        return map_annotations(bottleneck, model, photos, part, shown, constant)

    maps = _read_maps(progress(parts, -(-len(every) // part_size)) if progress else parts, source, annotations_of, seed)
    labelled = any(index is not None for index in attributes)
    present = concept_presence(bottleneck, photos, attributes, maps.table)
    evaluation = _Evaluation(bottleneck, photos, maps, present, map_concepts, labelled, n_bootstrap, seed)
    read = _read_train(evaluation, model, train, cache, batch_size) if leakage or interventions else None
    metrics = [
        *_accuracy(evaluation),
        *_concepts(evaluation),
        *_locations(evaluation, no_constant),
        *_purities(evaluation),
    ]
    metrics += _leakage(evaluation, train, read) if leakage else not_measured(LEAKAGES, NOT_REQUESTED)
    curves = Interventions(reason=NOT_MEASURED)
    if interventions:
        curves = evaluate_interventions(bottleneck, photos, maps.table, train, read, n_bootstrap, seed)
    return _result(evaluation, model, train, metrics, curves)


@dataclass(frozen=True, eq=False)
class _MapResults:
    """What is kept of all parts of a set: without maps, but for the most active photos of each concept.

    `scores`: by metric, then by control. `points`: of each part, where the set has keypoints.
    """

    table: BottleneckTable
    scores: dict[str, dict[str, Score]]
    points: list[Keypoints]
    top: TopMaps | None


def _read_maps(
    parts: Iterable[BottleneckTable],
    source: CellSource,
    annotations_of: Callable[[BottleneckTable], MapAnnotations],
    seed: int,
) -> _MapResults:
    """Return what is kept of all parts, reading the maps of one at a time."""
    scores, tables, points, top = [], [], [], None
    for part in parts:
        found = annotations_of(part)
        scores.append(map_scores(part.maps, found, seed))
        top = most_active(part, top)
        tables.append(joined([part], source, maps=False))
        points += [found.keypoints] if found.keypoints else []
    return _MapResults(joined(tables, source, maps=False), joined_scores(scores), points, top)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What metrics are made of. `map_concepts`: concepts whose maps are read; `labelled`: the set labels them."""

    bottleneck: Bottleneck
    photos: LabelledSet
    maps: _MapResults
    present: Bool[Tensor, "photo concept"]
    map_concepts: list[int]
    labelled: bool
    n_bootstrap: int
    seed: int

    @property
    def table(self) -> BottleneckTable:
        """What the bottleneck read."""
        return self.maps.table

    @property
    def labels(self) -> Bool[Tensor, "photo concept"] | None:
        """Which photos show the concepts of `map_concepts`; `None` without labels."""
        return self.present[:, self.map_concepts] if self.labelled else None


def _result(
    evaluation: _Evaluation,
    model: Backbone,
    train: LabelledSet | None,
    metrics: Sequence[MetricResult],
    curves: Interventions,
) -> BottleneckResult:
    """Return the metrics in their order, with the results of each class and concept."""
    return BottleneckResult(
        data=evaluation.photos.name,
        train=None if train is None else train.name,
        model=model.name,
        photos=len(evaluation.table.indices),
        metrics=tuple(sorted(metrics, key=lambda one: list(METRICS).index(one.name))),
        classes=_by_class(evaluation.bottleneck, evaluation.table),
        concepts=_by_concept(evaluation),
        presence=BY_CLASS if evaluation.labelled else BY_ACTIVITY,
        n_labelled=len(evaluation.map_concepts) if evaluation.labelled else 0,
        interventions=curves,
        table=evaluation.table,
        present=evaluation.present,
    )


def _read_train(
    evaluation: _Evaluation, model: Backbone, train: LabelledSet | None, cache: str | Path | None, batch_size: int
) -> BottleneckTable | None:
    """Return the table of all train photos, where there are any and the set has labels of concepts."""
    if train is None or not evaluation.labelled:
        return None
    if train is evaluation.photos and len(evaluation.table.indices) + len(evaluation.table.failures) == len(train):
        return evaluation.table
    return read_table(evaluation.bottleneck, model, train, cache=cache, batch_size=batch_size)


def _leakage(
    evaluation: _Evaluation, train: LabelledSet | None, read: BottleneckTable | None
) -> tuple[MetricResult, ...]:
    """Return leakage and impurity."""
    return leakage_metrics(
        evaluation.bottleneck,
        train,
        read,
        evaluation.table,
        evaluation.labels,
        evaluation.map_concepts,
        evaluation.n_bootstrap,
        evaluation.seed,
    )


def _accuracy(evaluation: _Evaluation) -> list[MetricResult]:
    """Return accuracy, beside always saying the commonest class, and the number of effective concepts."""
    classes = evaluation.table.classes
    own = accuracy(evaluation.table.logits, classes)
    common = (classes == classes.bincount().argmax()).double()[:, None]
    right = {OWN: own, "commonest": Score(common, own.applies)}
    weights = evaluation.bottleneck.head.weight
    count = fixed_value(effective_concepts(weights), len(weights), len(weights))
    answers = metric_result("accuracy", right, evaluation.n_bootstrap, evaluation.seed)
    return [answers, MetricResult("concepts_per_class", count, resampled="classes")]


def _concepts(evaluation: _Evaluation) -> list[MetricResult]:
    """Return the mean AUROC of concepts against the class attributes."""
    if evaluation.labels is None:
        return list(not_measured(["concept_auroc"], UNLABELLED))
    active = evaluation.table.activations[:, evaluation.map_concepts]
    if not concept_auroc(active, evaluation.labels).count:
        return list(not_measured(["concept_auroc"], "no concept is shown by some of the photos and not by others"))
    value = auroc_interval(active, evaluation.labels, evaluation.n_bootstrap, seed=evaluation.seed)
    guess = Control("guess", fixed_value(0.5, value.count, value.images))
    return [MetricResult("concept_auroc", value, (guess,))]


def _locations(evaluation: _Evaluation, no_constant: str) -> list[MetricResult]:
    """Return the metrics of maps; `no_constant`: why there is no control of constant peaks, where there is none."""
    found = []
    for name, scores in evaluation.maps.scores.items():
        lacking = {"constant": no_constant} if no_constant and name.startswith("keypoint_") else {}
        found.append(metric_result(name, scores, evaluation.n_bootstrap, evaluation.seed, missing=lacking))
    annotation = evaluation.photos.annotation
    if "keypoint_error" not in evaluation.maps.scores:
        found += not_measured(
            AT_KEYPOINTS, UNKNOWN_CROP if annotation and annotation.keypoints else "the set has no keypoints"
        )
    if "box_energy" not in evaluation.maps.scores:
        has = annotation is not None and annotation.boxes is not None
        found += not_measured(AT_BOXES, UNKNOWN_CROP if has else "the set has no boxes")
    return found


def _purities(evaluation: _Evaluation) -> list[MetricResult]:
    """Return the purities of concepts that some class uses, intervals over concepts."""
    annotation, points, top = evaluation.photos.annotation, evaluation.maps.points, evaluation.maps.top
    if not points or top is None or not (annotation and annotation.keypoints):
        return list(
            not_measured(PURITIES, UNKNOWN_CROP if annotation and annotation.keypoints else "the set has no keypoints")
        )
    whole = Keypoints(
        torch.cat([one.xy for one in points]),
        torch.cat([one.visible for one in points]),
        points[0].own,
        torch.cat([one.present for one in points]),
    )
    used = (evaluation.bottleneck.head.weight != 0).any(0)[evaluation.map_concepts].tolist()
    scores = purity_scores(top, whole, annotation.keypoints.names, used, evaluation.seed)
    if not scores:
        return list(not_measured(PURITIES, "no class uses a concept whose maps were read"))
    return [
        metric_result(name, own, evaluation.n_bootstrap, evaluation.seed, "concepts") for name, own in scores.items()
    ]


def _by_class(bottleneck: Bottleneck, table: BottleneckTable) -> tuple[ClassResult, ...]:
    guess, found = table.predicted, []
    for k, name in enumerate(bottleneck.classes):
        own = guess[table.classes == k]
        wrong = own[own != k]
        times = wrong.bincount(minlength=len(bottleneck.classes))
        other = bottleneck.classes[int(times.argmax())] if len(wrong) else None
        right = float((own == k).double().mean()) if len(own) else None
        found.append(ClassResult(name, len(own), right, other, int(times.max())))
    return tuple(found)


def _by_concept(evaluation: _Evaluation) -> tuple[ConceptResult, ...]:
    used = (evaluation.bottleneck.head.weight != 0).sum(0).tolist()
    found = [ConceptResult(one.label, one.part, used[i]) for i, one in enumerate(evaluation.bottleneck.concepts)]
    labels = evaluation.labels
    auroc = None if labels is None else concept_auroc(evaluation.table.activations[:, evaluation.map_concepts], labels)
    at = evaluation.maps.scores.get("keypoint_error", {})
    pointing = evaluation.maps.scores.get("keypoint_pointing", {})
    for column, concept in enumerate(evaluation.map_concepts):
        found[concept] = replace(
            found[concept],
            photos=None if labels is None else int(labels[:, column].sum()),
            auroc=None if auroc is None else auroc.of(0, column),
            keypoint_photos=int(at[OWN].applies[:, column].sum()) if at else 0,
            keypoint_error=_mean(at.get(OWN), column),
            constant_error=_mean(at.get("constant"), column),
            pointing=_mean(pointing.get(OWN), column),
        )
    return tuple(found)


def _mean(score: Score | None, column: int) -> float | None:
    """Return a concept's mean over the photos it applies to."""
    if score is None or not bool(score.applies[:, column].any()):
        return None
    return float(score.values[:, column][score.applies[:, column]].mean())
