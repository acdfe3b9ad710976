"""What is measured of a bottleneck: its figures, and what is told of each class and concept; and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.corrections import Interventions, intervention_numbers
from conceptlens.bottleneck.evaluate.figure import Figure, figure_numbers

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.io.failures import Failure

SCHEMA = "conceptlens.evaluate-bottleneck/1"


@dataclass(frozen=True)
class ClassMeasure:
    """One class: its photos, the share that is right, the class it is most taken for and how often (`None`: never)."""

    name: str
    photos: int
    accuracy: float | None
    taken_for: str | None
    times: int


@dataclass(frozen=True)
class ConceptMeasure:
    """One concept; what does not apply is `None`.

    - `classes`: how many classes it has a weight for. `photos`: how many show it, as far as that is known.
    - `keypoint_error`, `pointing`: means over `pairs` photos; `constant_error`: of the control's fixed cell.
    """

    label: str
    part: str | None
    classes: int
    photos: int | None = None
    auroc: float | None = None
    pairs: int = 0
    keypoint_error: float | None = None
    constant_error: float | None = None
    pointing: float | None = None


@dataclass(frozen=True, eq=False)
class BottleneckMeasures:
    """What `measure_bottleneck` found.

    - `figures`: every figure, also those without a value. `interventions`: what correcting concepts does.
    - `presence`: when a photo is taken to show a concept.
    - `table`: what the bottleneck read, without maps. `present[photo concept]`: of all concepts, false where unknown.
    """

    data: str
    model: str
    photos: int
    figures: tuple[Figure, ...]
    classes: tuple[ClassMeasure, ...]
    concepts: tuple[ConceptMeasure, ...]
    presence: str
    labelled: int
    train: str | None
    interventions: Interventions
    table: BottleneckTable = field(repr=False)
    present: Bool[Tensor, "photo concept"] = field(repr=False)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The photos that could not be read."""
        return self.table.failures

    def figure(self, name: str) -> Figure:
        """Return a figure by its name."""
        return next(one for one in self.figures if one.name == name)


def bottleneck_numbers(measures: BottleneckMeasures) -> dict[str, Any]:
    """Return measures as JSON holds them: see docs/json.md."""
    return {
        "schema": SCHEMA,
        "data": measures.data,
        "train": measures.train,
        "model": measures.model,
        "photos": measures.photos,
        "presence": measures.presence,
        "concepts_with_labels": measures.labelled,
        "figures": [figure_numbers(one) for one in measures.figures],
        "classes": [vars(one) for one in measures.classes],
        "concepts": [vars(one) for one in measures.concepts],
        "interventions": intervention_numbers(measures.interventions),
        "interventions_reason": measures.interventions.reason or None,
        "failures": [{"image": failure.name, "error": failure.reason} for failure in measures.failures],
    }
