"""The metrics of an evaluated bottleneck, by what they need: predictions, concept labels, maps, train photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.bottleneck.evaluate.map_metrics import AT_BOXES, AT_KEYPOINTS, PURITIES, TopMaps, purity_scores
from conceptlens.bottleneck.evaluate.metric_result import (
    OWN,
    Control,
    MetricResult,
    fixed_value,
    metric_result,
    not_measured,
)
from conceptlens.bottleneck.evaluate.photo_annotations import (
    UNLABELLED,
    attribute_indices,
    concept_known,
    concept_presence,
)
from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import auroc_interval, concept_auroc
from conceptlens.metrics.bottleneck_metrics import accuracy, effective_concepts
from conceptlens.metrics.impurity import niche_impurity, oracle_impurity
from conceptlens.metrics.keypoints import Keypoints
from conceptlens.metrics.leakage import LabelledActivations, concept_leakage
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

UNKNOWN_CROP = "the network has a preprocessing of its own, and it is unknown what that cuts off"
NO_KEYPOINTS, NO_BOXES = "the set has no keypoints", "the set has no boxes"
# The head whose accuracy is subtracted from that of a head on activations.
HEADS: dict[str, Literal["hard", "binary", "true", "corrected"]] = {
    "leakage_task": "hard",
    "leakage_graded": "binary",
    "leakage_excess": "true",
    "leakage_interventional": "corrected",
}
IMPURITIES = ("impurity_oracle", "impurity_niche")
LEAKAGES = (*HEADS, *IMPURITIES)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the metrics of a bottleneck on a set are computed from.

    - `table`: what the bottleneck read, without maps. `present[photo concept]`: which photos show which concepts, as
      far as it is `known[photo concept]`.
    - `map_concepts`: concepts whose maps were read; `labelled`: whether the set labels them.
    - `map_scores`: scores of the maps, by metric and then by control. `points`: keypoints of the photos, where the set
      has them. `top`: the most active photos of each concept.
    """

    bottleneck: Bottleneck
    photos: LabelledSet
    table: BottleneckTable
    present: Bool[Tensor, "photo concept"]
    known: Bool[Tensor, "photo concept"]
    map_concepts: list[int]
    labelled: bool
    map_scores: dict[str, dict[str, Score]]
    points: Keypoints | None
    top: TopMaps | None
    n_bootstrap: int
    seed: int

    @property
    def labels(self) -> Bool[Tensor, "photo concept"] | None:
        """Which photos show the concepts of `map_concepts`; `None` without labels."""
        return self.present[:, self.map_concepts] if self.labelled else None

    @property
    def known_labels(self) -> Bool[Tensor, "photo concept"]:
        """Where `labels` are known."""
        return self.known[:, self.map_concepts]

    @property
    def activations(self) -> Tensor:
        """Activations of the concepts of `map_concepts`, `[photo concept]`."""
        return self.table.activations[:, self.map_concepts]

    def result(self, name: str, scores: Mapping[str, Score], missing: Mapping[str, str] = {}) -> MetricResult:
        """Return a metric and its controls with intervals over resampled photos; purities resample concepts."""
        resampled = "concepts" if name in PURITIES else "photos"
        return metric_result(name, scores, self.n_bootstrap, self.seed, resampled, missing)


def accuracy_metrics(evaluation: Evaluation) -> list[MetricResult]:
    """Return accuracy, beside always saying the commonest class, and the number of effective concepts."""
    classes = evaluation.table.classes
    own = accuracy(evaluation.table.logits, classes)
    common = (classes == classes.bincount().argmax()).double()[:, None]
    weights = evaluation.bottleneck.head.weight
    count = fixed_value(effective_concepts(weights), len(weights), len(weights))
    right = evaluation.result("accuracy", {OWN: own, "commonest": Score(common, own.applies)})
    return [right, MetricResult("concepts_per_class", count, resampled="classes")]


def concept_metrics(evaluation: Evaluation) -> list[MetricResult]:
    """Return the mean AUROC of concepts against what is known of classes or photos."""
    labels, active, known = evaluation.labels, evaluation.activations, evaluation.known_labels
    if labels is None:
        return not_measured(["concept_auroc"], UNLABELLED)
    if not concept_auroc(active, labels, known).count:
        return not_measured(["concept_auroc"], "no concept is shown by some of the photos and not by others")
    value = auroc_interval(active, labels, evaluation.n_bootstrap, seed=evaluation.seed, known=known)
    guess = Control("guess", fixed_value(0.5, value.count, value.images))
    return [MetricResult("concept_auroc", value, (guess,))]


def location_metrics(evaluation: Evaluation, no_constant: str) -> list[MetricResult]:
    """Return the metrics of maps; `no_constant`: why there is no control of constant peaks, where there is none."""
    annotation, scores = evaluation.photos.annotation, evaluation.map_scores
    found = []
    for name, own in scores.items():
        missing = {"constant": no_constant} if no_constant and name.startswith("keypoint_") else {}
        found.append(evaluation.result(name, own, missing))
    if "keypoint_error" not in scores:
        found += not_measured(AT_KEYPOINTS, UNKNOWN_CROP if annotation and annotation.keypoints else NO_KEYPOINTS)
    if "box_energy" not in scores:
        has = annotation is not None and annotation.boxes is not None
        found += not_measured(AT_BOXES, UNKNOWN_CROP if has else NO_BOXES)
    return found


def purity_metrics(evaluation: Evaluation) -> list[MetricResult]:
    """Return the purities of concepts that some class uses, intervals over concepts."""
    known = evaluation.photos.annotation.keypoints if evaluation.photos.annotation else None
    if known is None or evaluation.points is None or evaluation.top is None:
        return not_measured(PURITIES, UNKNOWN_CROP if known else NO_KEYPOINTS)
    used = (evaluation.bottleneck.head.weight != 0).any(0)[evaluation.map_concepts].tolist()
    scores = purity_scores(evaluation.top, evaluation.points, known.names, used, evaluation.seed)
    if not scores:
        return not_measured(PURITIES, "no class uses a concept whose maps were read")
    return [evaluation.result(name, own) for name, own in scores.items()]


def leakage_metrics(
    evaluation: Evaluation, train: LabelledSet | None, read: BottleneckTable | None
) -> list[MetricResult]:
    """Return leakage and impurity: what activations predict beyond their concepts, for concepts with class attributes.

    Args:
        evaluation: The evaluation.
        train: The photos on which the heads of the leakage metrics are fitted.
        read: The activations of `train`.
    """
    labels, chosen = evaluation.labels, evaluation.map_concepts
    if labels is None:
        return not_measured(LEAKAGES, UNLABELLED)
    if not bool(evaluation.known_labels.all()):
        return not_measured(LEAKAGES, "it is not known of every photo which concepts it shows")
    impurities = _impurities(evaluation.activations, labels, evaluation.seed)
    if train is None or read is None:
        return [*not_measured(HEADS, "no train photos were given, on which heads are fitted"), *impurities]
    bottleneck = evaluation.bottleneck
    attributes = attribute_indices(bottleneck, train)
    if not bool(concept_known(train, attributes, read)[:, chosen].all()):
        return [*not_measured(HEADS, "the train photos, on which heads are fitted, lack labels"), *impurities]
    own = concept_presence(bottleneck, train, attributes, read)[:, chosen]
    found = concept_leakage(
        LabelledActivations(read.activations[:, chosen], own, read.classes),
        LabelledActivations(evaluation.activations, labels, evaluation.table.classes),
    )
    return [*(evaluation.result(name, {OWN: found.gap(head)}) for name, head in HEADS.items()), *impurities]


def _impurities(active: Tensor, labels: Tensor, seed: int) -> Sequence[MetricResult]:
    """Return both impurities; niche impurity beside that of the labels, which is not the least either."""
    try:
        pure = oracle_impurity(active, labels, seed=seed)
    except InputError as error:
        return not_measured(IMPURITIES, str(error))
    count = (int(pure.used.sum()), len(active))
    control = Control("labels", fixed_value(niche_impurity(labels.to(torch.float64), labels, seed=seed), *count))
    return (
        MetricResult("impurity_oracle", fixed_value(pure.score, *count)),
        MetricResult("impurity_niche", fixed_value(niche_impurity(active, labels, seed=seed), *count), (control,)),
    )
