"""Measures a bottleneck on a labelled set: accuracy, concepts and the location of maps, each beside controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, joined, read_parts, read_table, source_of
from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, ClassResult, ConceptResult
from conceptlens.bottleneck.evaluate.evaluation_metrics import (
    LEAKAGES,
    Evaluation,
    accuracy_metrics,
    concept_metrics,
    leakage_metrics,
    location_metrics,
    purity_metrics,
)
from conceptlens.bottleneck.evaluate.intervention_curve import NOT_MEASURED, Interventions, evaluate_interventions
from conceptlens.bottleneck.evaluate.map_metrics import TopMaps, map_scores, most_active
from conceptlens.bottleneck.evaluate.metric_result import METRICS, OWN, MetricResult, joined_scores, not_measured
from conceptlens.bottleneck.evaluate.photo_annotations import (
    BY_ACTIVITY,
    BY_CLASS,
    BY_CLASS_TABLE,
    BY_PHOTO,
    attribute_indices,
    concept_known,
    concept_presence,
    constant_part_peaks,
    known_attributes,
    map_annotations,
)
from conceptlens.bottleneck.evaluate.place_checks import evidence_with_checks
from conceptlens.bottleneck.evaluate.table_labels import labelled_by_table
from conceptlens.data.labelled_set import PhotoAttributes
from conceptlens.metrics.auroc import concept_auroc
from conceptlens.metrics.keypoints import Keypoints

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.features.cell_source import CellSource
    from conceptlens.model.backbone import Backbone
    from conceptlens.statistics.score import Score

MAX_MAP_CELLS = 2**25  # cells of maps held together, 128 MiB
MAX_PART = 256  # photos of a part, so that progress shows
NOT_REQUESTED = "it was not requested (--leakage): it fits heads of its own, which takes a while"


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
    table: str | Path | None = None,
) -> BottleneckResult:
    """Measure accuracy, concepts and maps of a bottleneck on a labelled set, each metric beside its controls.

    Maps of one part of the set are in memory at a time. A metric for which the set has no labels has no value, and
    the reason instead.

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
        table: A table of concepts, or a detector's boxes, as `fit_loc_cbm` takes them for `targets`: it says which
            photos show which concepts, in the stead of what the set knows. A table of photos says nothing of `train`.

    Returns:
        The metrics, results for each class and concept, and a table of activations and logits.

    Raises:
        InputError: The model, the classes or the table's concepts are not the bottleneck's, or no photo can be read.
    """
    if table is not None:
        photos, train = labelled_by_table(bottleneck, photos, train, table)
    source = source_of(bottleneck, model, photos, cache)
    evaluation, no_constant = _read(bottleneck, source, train, indices, batch_size, n_bootstrap, seed)
    read = None
    if (leakage or interventions) and train is not None and evaluation.labelled:
        read = _read_train(evaluation, model, train, cache, batch_size)
    curves = Interventions(reason=NOT_MEASURED)
    if interventions:
        curves = evaluate_interventions(bottleneck, photos, evaluation.table, train, read, n_bootstrap, seed)
    metrics = [
        *accuracy_metrics(evaluation),
        *concept_metrics(evaluation),
        *location_metrics(evaluation, no_constant),
        *purity_metrics(evaluation),
        *(leakage_metrics(evaluation, train, read) if leakage else not_measured(LEAKAGES, NOT_REQUESTED)),
    ]
    return _result(evaluation, model.name, train, metrics, curves, table is not None)


def _read(
    bottleneck: Bottleneck,
    source: CellSource,
    train: LabelledSet | None,
    indices: Sequence[int] | None,
    batch_size: int,
    n_bootstrap: int,
    seed: int,
) -> tuple[Evaluation, str]:
    """Read the photos a part at a time, and return what metrics are computed from, and why no cell is constant."""
    photos, attributes = source.photos, attribute_indices(bottleneck, source.photos)
    labelled = any(index is not None for index in attributes)
    map_concepts = [i for i, index in enumerate(attributes) if index is not None or not labelled]
    constant, no_constant = constant_part_peaks(bottleneck, source, train, map_concepts)
    every = list(range(len(photos)) if indices is None else indices)
    part_size = _part_size(bottleneck, len(map_concepts), batch_size)
    scores: list[dict[str, dict[str, Score]]] = []
    tables: list[BottleneckTable] = []
    points: list[Keypoints] = []
    top: TopMaps | None = None
    parts = read_parts(bottleneck, source, every, map_concepts, batch_size, part_size)
    for part in parts:
        present = concept_presence(bottleneck, photos, attributes, part)[:, map_concepts]
        annotations = map_annotations(bottleneck, source, part, present, constant)
        scores.append(map_scores(part.maps, annotations, seed))
        top = most_active(part, top)
        tables.append(joined([part], source, maps=False))
        points += [annotations.keypoints] if annotations.keypoints else []
    table = joined(tables, source, maps=False)
    present, known = concept_presence(bottleneck, photos, attributes, table), concept_known(photos, attributes, table)
    evaluation = Evaluation(
        bottleneck, photos, table, present, known, map_concepts, labelled, joined_scores(scores),
        _joined_points(points), top, n_bootstrap, seed,
    )  # fmt: skip
    return evaluation, no_constant


def _part_size(bottleneck: Bottleneck, concepts: int, batch_size: int) -> int:
    """Return how many photos' maps are held together."""
    cells = concepts * bottleneck.grid[0] * bottleneck.grid[1]
    return max(batch_size, min(MAX_PART, MAX_MAP_CELLS // cells))


def _read_train(
    evaluation: Evaluation, model: Backbone, train: LabelledSet, cache: str | Path | None, batch_size: int
) -> BottleneckTable:
    """Return what the bottleneck reads in all train photos; what was measured already is not read again."""
    table = evaluation.table
    if train is evaluation.photos and len(table.indices) + len(table.failures) == len(train):
        return table
    return read_table(evaluation.bottleneck, model, train, cache=cache, batch_size=batch_size)


def _result(
    evaluation: Evaluation,
    model: str,
    train: LabelledSet | None,
    metrics: Sequence[MetricResult],
    curves: Interventions,
    by_table: bool,
) -> BottleneckResult:
    bottleneck, photos, table = evaluation.bottleneck, evaluation.photos, evaluation.table
    labels_of, presence = _labels_of(evaluation, by_table)
    concepts = _by_concept(evaluation)
    return BottleneckResult(
        data=photos.name,
        train=None if train is None else train.name,
        model=model,
        photos=len(table.indices),
        metrics=tuple(sorted(metrics, key=lambda one: list(METRICS).index(one.name))),
        classes=_by_class(bottleneck, table),
        concepts=concepts,
        presence=presence,
        n_labelled=len(evaluation.map_concepts) if evaluation.labelled else 0,
        interventions=curves,
        labels_of=labels_of,
        map_evidence=evidence_with_checks(bottleneck.map_evidence, concepts, photos.name),
        table=table,
    )


def _labels_of(evaluation: Evaluation, by_table: bool) -> tuple[Literal["classes", "photos"] | None, str]:
    """Return whether classes or photos are labelled, and when a photo is taken to show a concept, in words."""
    if not evaluation.labelled:
        return None, BY_ACTIVITY
    if isinstance(known_attributes(evaluation.photos), PhotoAttributes):
        return "photos", BY_PHOTO
    return "classes", BY_CLASS_TABLE if by_table else BY_CLASS


def _joined_points(parts: Sequence[Keypoints]) -> Keypoints | None:
    """Return the keypoints of all parts of a set, where it has any."""
    if not parts:
        return None
    columns = [torch.cat([getattr(one, name) for one in parts]) for name in ("xy", "visible", "present")]
    return Keypoints(columns[0], columns[1], parts[0].own, columns[2])


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


def _by_concept(evaluation: Evaluation) -> tuple[ConceptResult, ...]:
    used = (evaluation.bottleneck.head.weight != 0).sum(0).tolist()
    found = [ConceptResult(one.label, one.part, used[i]) for i, one in enumerate(evaluation.bottleneck.concepts)]
    labels = evaluation.labels
    auroc = None if labels is None else concept_auroc(evaluation.activations, labels, evaluation.known_labels)
    at = evaluation.map_scores.get("keypoint_error", {})
    pointing = evaluation.map_scores.get("keypoint_pointing", {})
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
