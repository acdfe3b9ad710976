"""The record of one explained photo, which the terminal, the JSON document and the report page read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conceptlens.model.class_differences import class_differences

if TYPE_CHECKING:
    from conceptlens.cams.contrast_choice import DropsOfChoice
    from conceptlens.cams.finer_cam import ContrastMaps
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.answer import Answer
    from conceptlens.model.observation import Runnable
    from conceptlens.model.predictions import Prediction
    from conceptlens.record import Explanation, ImageInfo


@dataclass(frozen=True)
class ReferenceClass:
    """A class that a contrast subtracts, and its weight; the weights of all reference classes sum to 1."""

    prediction: Prediction
    weight: float


@dataclass(frozen=True)
class DetectedObject:
    """One detection of a photo.

    Attributes:
        index: The index of its class.
        name: The full name of its class.
        short_name: The first of its names.
        score: How sure the detector is, 0 to 1.
        logit: The same before the sigmoid or softmax: what the map explains.
        box: Left, top, right and bottom in pixels of the photo; of the model's input where it is not known which part
            of the photo that shows.
        question: The index of its question in the explanation; where `against` is given, that of the contrast follows.
        against: The name of the class that its class is compared with at its box.
        shares: The box as shares of the whole photo, as a page draws it; of the input where it is not known which part
            of the photo that shows.
    """

    index: int
    name: str
    short_name: str
    score: float
    logit: float
    box: tuple[float, float, float, float]
    question: int
    against: str | None = None
    shares: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoResult:
    """All that was computed for one photo.

    Attributes:
        image_info: The photo's name, size and the part of it that the model saw.
        model: The name of the model.
        layer: The layer that class maps were taken from.
        explanations: Explanations of this photo alone, each a batch of one.
        target: The class that is explained; `None` for a model without classes.
        against: The other class of a comparison of two.
        differs_by: What photos of `target` usually show and those of `against` do not, and the other way round; `None`
            without `against`, and where nothing is known of one of them.
        predictions: The classes with the highest scores.
        answer: What the model's answer means; `None` for a model without classes.
        references: The classes that the contrast subtracts.
        gamma: The strength of the contrast.
        choice: Where gamma and reference were chosen for the photo, what they were chosen by.
        mixture: The raw maps of target and reference classes, for the page's slider; `None` where the rule is not
            linear in the gradient.
        detections: What a detector found, from the highest score down; `None` for other models.
        undetected: One sentence where it found nothing above the threshold.
        photo: The photo as a small JPEG, where a page is written.
        settings: What else the page says about how the maps were made.
        command: The command or the lines of Python that make the result again.
    """

    image_info: ImageInfo
    model: str
    layer: str
    explanations: tuple[Explanation, ...]
    target: Prediction | None = None
    against: Prediction | None = None
    differs_by: tuple[tuple[ConceptName, ...], tuple[ConceptName, ...]] | None = None
    predictions: tuple[Prediction, ...] = ()
    answer: Answer | None = None
    references: tuple[ReferenceClass, ...] = ()
    gamma: float = 0.0
    choice: DropsOfChoice | None = None
    mixture: ContrastMaps | None = None
    detections: tuple[DetectedObject, ...] | None = None
    undetected: str = ""
    photo: bytes = b""
    settings: Mapping[str, object] = field(default_factory=dict)
    command: str = ""

    @property
    def class_map(self) -> Explanation | None:
        """The explanation of the target class."""
        return self._of_kind("class")

    @property
    def contrast(self) -> Explanation | None:
        """The explanation of the target class against its reference classes."""
        return self._of_kind("contrast")

    @property
    def concepts(self) -> Explanation | None:
        """The explanation of concepts."""
        return next((e for e in self.explanations if e.concept_types), None)

    @property
    def compared(self) -> tuple[Prediction, ...]:
        """The classes that the target is compared with."""
        if self.concepts is None:
            return tuple(reference.prediction for reference in self.references)
        return () if self.against is None else (self.against,)

    @property
    def none_chosen(self) -> bool:
        """Whether a contrast was looked for and the class alone was kept: its map is then the class's own."""
        return self.choice is not None and not self.gamma

    @property
    def predicted(self) -> Prediction | None:
        """The model's answer: its class of highest score; `None` for a model without classes."""
        return self.predictions[0] if self.predictions else None

    @property
    def answered(self) -> bool | None:
        """Whether the model's answer is the target or a class compared with; `None` for a model without classes.

        Of labels that do not exclude one another, the answer is each that is more likely than not, and the most likely.
        Where it is neither, a comparison says little about the photo, so sums over photos leave it out.
        """
        if self.target is None or self.predicted is None or self.quantity:
            return None
        asked = (self.target, *self.compared)
        labels = self.answer is not None and not self.answer.rivals
        said = labels and any(one.probability is not None and one.probability >= 0.5 for one in asked)
        return said or self.predicted.index in {one.index for one in asked}

    @property
    def quantity(self) -> bool:
        """Whether the model gives quantities, of which none is predicted rather than another."""
        return self.answer is not None and self.answer.task == "regression"

    def _of_kind(self, kind: str) -> Explanation | None:
        return next((e for e in self.explanations if kind in e.target_kinds), None)


def known_differences(
    model: Runnable, target: Prediction | None, against: Prediction | None
) -> tuple[tuple[ConceptName, ...], tuple[ConceptName, ...]] | None:
    """Return what class knowledge says of two classes, for `PhotoResult.differs_by`.

    Args:
        model: The model whose classes they are.
        target: The class that is explained.
        against: The other class of a comparison of two.
    """
    known = None if target is None or against is None else model.class_concepts
    if known is None or target is None or against is None:
        return None
    if "none" in (known.links[target.index].way, known.links[against.index].way):
        return None
    return class_differences(known, target.index, against.index)
