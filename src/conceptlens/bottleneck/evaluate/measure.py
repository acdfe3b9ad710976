"""A bottleneck measured on a labelled set: its answers, its concepts, where their maps lie, beside what knows less."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, joined, read_parts, read_table, source_of
from conceptlens.bottleneck.evaluate.annotations import (
    BY_ACTIVITY,
    BY_CLASS,
    UNLABELLED,
    attributes_of,
    fixed_places,
    known_of,
    shown_in,
)
from conceptlens.bottleneck.evaluate.corrections import NOT_ASKED, Interventions, measure_interventions
from conceptlens.bottleneck.evaluate.figure import (
    KINDS,
    OWN,
    Control,
    Figure,
    absent,
    figure,
    joined_scores,
    known,
)
from conceptlens.bottleneck.evaluate.leakage_figures import LEAKAGES, leakage_figures
from conceptlens.bottleneck.evaluate.map_figures import (
    AT_BOXES,
    AT_KEYPOINTS,
    PURITIES,
    Known,
    TopMaps,
    most_active,
    place_scores,
    purity_scores,
)
from conceptlens.bottleneck.evaluate.measures import BottleneckMeasures, ClassMeasure, ConceptMeasure
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

MAPS_AT_ONCE = 2**25  # cells of maps held together, 128 MiB
PART = 256  # and photos, so that progress is seen
UNMEASURED = "it was not asked for: it fits heads of its own, which takes a while"
OWN_VIEW = "the network has a preprocessing of its own, of which nobody knows what it cuts off"


def measure_bottleneck(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    train: LabelledSet | None = None,
    places: Sequence[int] | None = None,
    cache: str | Path | None = None,
    leakage: bool = False,
    interventions: bool = False,
    draws: int = 2000,
    seed: int = 0,
    batch: int = 16,
    watch: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> BottleneckMeasures:
    """Return what a bottleneck is worth on a labelled set, each figure with its interval, its controls, its pairs.

    - `model`: the network as it was loaded. `places`: some of the photos. `cache`: a folder of cells, see `read_table`.
    - `train`: the photos it was fitted on, for the control of one fixed cell for each part; `leakage` and
      `interventions` read all of them.
    - `leakage`: measure leakage and impurity too, on the concepts that the set has class attributes for; slow.
    - `interventions`: draw curves of accuracy against the number of corrected concepts, of those with class attributes.
    - `watch` is given the parts of the set and their number, and yields them: for a progress bar.

    Intervals resample photos, `draws` times, 95 %. Maps are looked at a part of the set at a time. A figure that the
    set cannot tell is there without a value and with the reason. Raises `InputError` as `read_table` does.
    """
    of_set = attributes_of(bottleneck, photos)
    looked = [i for i, place in enumerate(of_set) if place is not None] or list(range(len(of_set)))
    constant, missing = fixed_places(bottleneck, model, photos, train, looked)
    source = source_of(bottleneck, model, photos, cache)
    every = list(range(len(photos)) if places is None else places)
    most = max(batch, min(PART, MAPS_AT_ONCE // (len(looked) * bottleneck.grid[0] * bottleneck.grid[1])))
    parts = read_parts(bottleneck, source, every, looked, batch, most)

    def known_in(part: BottleneckTable) -> Known:
        shown = shown_in(bottleneck, photos, of_set, part)[:, looked]
        return known_of(bottleneck, model, photos, part, shown, constant)

    seen = _seen(watch(parts, -(-len(every) // most)) if watch else parts, source, known_in, seed)
    labelled = any(place is not None for place in of_set)
    present = shown_in(bottleneck, photos, of_set, seen.table)
    told = _Told(bottleneck, photos, seen, present, looked, labelled, draws, seed)
    read = _read_train(told, model, train, cache, batch) if leakage or interventions else None
    figures = [*_answers(told), *_concepts(told), *_places(told, missing), *_purities(told)]
    figures += _leaks(told, train, read) if leakage else absent(LEAKAGES, UNMEASURED)
    curves = Interventions(reason=NOT_ASKED)
    if interventions:
        curves = measure_interventions(bottleneck, photos, seen.table, train, read, draws, seed)
    return _measures(told, model, train, figures, curves)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of all parts of a set: without maps, but those in which each concept is most active.

    `scores`: figure, then control, then score. `points`: of each part, where the set has keypoints.
    """

    table: BottleneckTable
    scores: dict[str, dict[str, Score]]
    points: list[Keypoints]
    top: TopMaps | None


def _seen(
    parts: Iterable[BottleneckTable], source: CellSource, known_in: Callable[[BottleneckTable], Known], seed: int
) -> _Seen:
    """Return what is kept of parts, once the maps of each were looked at."""
    scores, tables, points, top = [], [], [], None
    for part in parts:
        found = known_in(part)
        scores.append(place_scores(part.maps, found, seed))
        top = most_active(part, top)
        tables.append(joined([part], source, maps=False))
        points += [found.keypoints] if found.keypoints else []
    return _Seen(joined(tables, source, maps=False), joined_scores(scores), points, top)


@dataclass(frozen=True, eq=False)
class _Told:
    """What figures are made of. `looked`: the concepts whose maps were looked at; `labelled`: by what the set says."""

    bottleneck: Bottleneck
    photos: LabelledSet
    seen: _Seen
    present: Bool[Tensor, "photo concept"]
    looked: list[int]
    labelled: bool
    draws: int
    seed: int

    @property
    def table(self) -> BottleneckTable:
        """What the bottleneck read."""
        return self.seen.table

    @property
    def labels(self) -> Bool[Tensor, "photo looked"] | None:
        """Who shows the concepts that were looked at; `None` where the set does not say."""
        return self.present[:, self.looked] if self.labelled else None


def _measures(
    told: _Told, model: Backbone, train: LabelledSet | None, figures: Sequence[Figure], curves: Interventions
) -> BottleneckMeasures:
    """Return the figures in their order, with what is told of each class and concept."""
    return BottleneckMeasures(
        data=told.photos.name,
        train=None if train is None else train.name,
        model=model.name,
        photos=len(told.table.places),
        figures=tuple(sorted(figures, key=lambda one: list(KINDS).index(one.name))),
        classes=_by_class(told.bottleneck, told.table),
        concepts=_by_concept(told),
        presence=BY_CLASS if told.labelled else BY_ACTIVITY,
        labelled=len(told.looked) if told.labelled else 0,
        interventions=curves,
        table=told.table,
        present=told.present,
    )


def _read_train(
    told: _Told, model: Backbone, train: LabelledSet | None, cache: str | Path | None, batch: int
) -> BottleneckTable | None:
    """Return what is read in all train photos, where there are any and the set says who shows a concept."""
    if train is None or not told.labelled:
        return None
    if train is told.photos and len(told.table.places) + len(told.table.failures) == len(train):
        return told.table
    return read_table(told.bottleneck, model, train, cache=cache, batch=batch)


def _leaks(told: _Told, train: LabelledSet | None, read: BottleneckTable | None) -> tuple[Figure, ...]:
    """Return leakage and impurity."""
    return leakage_figures(told.bottleneck, train, read, told.table, told.labels, told.looked, told.draws, told.seed)


def _answers(told: _Told) -> list[Figure]:
    """Return accuracy, beside always saying the commonest class, and the number of effective concepts."""
    classes = told.table.classes
    own = accuracy(told.table.logits, classes)
    common = (classes == classes.bincount().argmax()).double()[:, None]
    right = {OWN: own, "commonest": Score(common, own.applies)}
    weights = told.bottleneck.head.weight
    count = known(effective_concepts(weights), len(weights), len(weights))
    answers = figure("accuracy", right, told.draws, told.seed)
    return [answers, Figure("concepts_per_class", count, over="classes")]


def _concepts(told: _Told) -> list[Figure]:
    """Return the mean AUROC of concepts against what the set says of the photos' classes."""
    if told.labels is None:
        return list(absent(["concept_auroc"], UNLABELLED))
    active = told.table.activations[:, told.looked]
    if not concept_auroc(active, told.labels).count:
        return list(absent(["concept_auroc"], "no concept is shown by some of the photos and not by others"))
    value = auroc_interval(active, told.labels, told.draws, seed=told.seed)
    guess = Control("guess", known(0.5, value.count, value.images))
    return [Figure("concept_auroc", value, (guess,))]


def _places(told: _Told, missing: str) -> list[Figure]:
    """Return the figures of maps; `missing`: why there is no control of fixed places, where there is none."""
    found = []
    for name, scores in told.seen.scores.items():
        lacking = {"constant": missing} if missing and name.startswith("keypoint_") else {}
        found.append(figure(name, scores, told.draws, told.seed, missing=lacking))
    annotation = told.photos.annotation
    if "keypoint_error" not in told.seen.scores:
        found += absent(AT_KEYPOINTS, OWN_VIEW if annotation and annotation.keypoints else "the set has no keypoints")
    if "box_energy" not in told.seen.scores:
        has = annotation is not None and annotation.boxes is not None
        found += absent(AT_BOXES, OWN_VIEW if has else "the set has no boxes")
    return found


def _purities(told: _Told) -> list[Figure]:
    """Return the purities of concepts that some class uses, intervals over concepts."""
    annotation, points, top = told.photos.annotation, told.seen.points, told.seen.top
    if not points or top is None or not (annotation and annotation.keypoints):
        return list(absent(PURITIES, OWN_VIEW if annotation and annotation.keypoints else "the set has no keypoints"))
    whole = Keypoints(
        torch.cat([one.xy for one in points]),
        torch.cat([one.visible for one in points]),
        points[0].own,
        torch.cat([one.present for one in points]),
    )
    used = (told.bottleneck.head.weight != 0).any(0)[told.looked].tolist()
    scores = purity_scores(top, whole, annotation.keypoints.names, used, told.seed)
    if not scores:
        return list(absent(PURITIES, "no class uses a concept that was looked at"))
    return [figure(name, own, told.draws, told.seed, "concepts") for name, own in scores.items()]


def _by_class(bottleneck: Bottleneck, table: BottleneckTable) -> tuple[ClassMeasure, ...]:
    guess, found = table.predicted, []
    for k, name in enumerate(bottleneck.classes):
        own = guess[table.classes == k]
        wrong = own[own != k]
        times = wrong.bincount(minlength=len(bottleneck.classes))
        other = bottleneck.classes[int(times.argmax())] if len(wrong) else None
        right = float((own == k).double().mean()) if len(own) else None
        found.append(ClassMeasure(name, len(own), right, other, int(times.max())))
    return tuple(found)


def _by_concept(told: _Told) -> tuple[ConceptMeasure, ...]:
    used = (told.bottleneck.head.weight != 0).sum(0).tolist()
    found = [ConceptMeasure(one.label, one.part, used[i]) for i, one in enumerate(told.bottleneck.concepts)]
    labels = told.labels
    apart = None if labels is None else concept_auroc(told.table.activations[:, told.looked], labels)
    at = told.seen.scores.get("keypoint_error", {})
    pointing = told.seen.scores.get("keypoint_pointing", {})
    for column, concept in enumerate(told.looked):
        found[concept] = replace(
            found[concept],
            photos=None if labels is None else int(labels[:, column].sum()),
            auroc=None if apart is None else apart.of(0, column),
            pairs=int(at[OWN].applies[:, column].sum()) if at else 0,
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
