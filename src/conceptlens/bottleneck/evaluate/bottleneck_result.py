"""The result of an evaluation: metrics, and what is known of each class and concept; and the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from conceptlens.bottleneck.evaluate.intervention_curve import Interventions, interventions_json
from conceptlens.bottleneck.evaluate.metric_result import MetricResult, metric_json

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.map_evidence import MapEvidence
    from conceptlens.io.errors import Failure

SCHEMA = "conceptlens.evaluate-bottleneck/2"


@dataclass(frozen=True)
class ClassResult:
    """One class: its photos, its accuracy (0 to 1), the class most often predicted instead, and in how many photos."""

    name: str
    photos: int
    accuracy: float | None
    confused_with: str | None
    confused: int


@dataclass(frozen=True)
class ConceptResult:
    """One concept; what does not apply is `None`.

    - `classes`: how many classes it has a weight for. `photos`: how many show it, as far as that is known.
    - `keypoint_error`, `pointing`: means over `keypoint_photos` photos; `constant_error`: of the control's fixed cell.
    """

    label: str
    part: str | None
    classes: int
    photos: int | None = None
    auroc: float | None = None
    keypoint_photos: int = 0
    keypoint_error: float | None = None
    constant_error: float | None = None
    pointing: float | None = None


@dataclass(frozen=True, eq=False)
class BottleneckResult:
    """What `evaluate_bottleneck` found.

    - `metrics`: every metric, also those without a value. `interventions`: what correcting concepts does.
    - `presence`: when a photo is taken to show a concept. `labels_of`: whether that is known of its class or of itself.
    - `map_evidence`: how far the map of each concept can be trusted, checks of this evaluation included.
    - `table`: what the bottleneck read, without maps.
    """

    data: str
    model: str
    photos: int
    metrics: tuple[MetricResult, ...]
    classes: tuple[ClassResult, ...]
    concepts: tuple[ConceptResult, ...]
    presence: str
    n_labelled: int
    train: str | None
    interventions: Interventions
    labels_of: Literal["classes", "photos"] | None
    map_evidence: tuple[MapEvidence, ...]
    table: BottleneckTable = field(repr=False)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The photos that could not be read."""
        return self.table.failures

    def metric(self, name: str) -> MetricResult:
        """Return a metric by its name."""
        return next(one for one in self.metrics if one.name == name)


def bottleneck_json(result: BottleneckResult) -> dict[str, Any]:
    """Return a result as JSON holds it: see docs/json.md."""
    return {
        "data": result.data,
        "train": result.train,
        "model": result.model,
        "photos": result.photos,
        "presence": result.presence,
        "labels_of": result.labels_of,
        "concepts_with_labels": result.n_labelled,
        "metrics": [metric_json(one) for one in result.metrics],
        "classes": [vars(one) for one in result.classes],
        "concepts": concept_rows(result),
        "interventions": interventions_json(result.interventions),
        "interventions_reason": result.interventions.reason or None,
        "failures": [{"image": failure.name, "error": failure.reason} for failure in result.failures],
    }


def concept_rows(result: BottleneckResult) -> list[dict[str, Any]]:
    """Return what was found of each concept, and how far its map can be trusted."""
    return [
        {
            **vars(one),
            "place_checked": known.check is not None,
            "place": known.place,
            "learned_from": known.targets,
            "learned": known.learned,
        }
        for one, known in zip(result.concepts, result.map_evidence, strict=True)
    ]
