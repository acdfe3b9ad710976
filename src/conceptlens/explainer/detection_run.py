"""Explain the detections of a photo: what was found where, and what each of them rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptlens.cams.asked_classes import class_index
from conceptlens.cams.class_activation import cam
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.detection_targets import Detection
from conceptlens.concepts.short_names import short_name
from conceptlens.explainer.photo_result import DetectedObject, PhotoResult
from conceptlens.io.images import jpeg
from conceptlens.io.rounded_number import rounded
from conceptlens.model.photo_boxes import on_photo

if TYPE_CHECKING:
    from conceptlens.cams.asked_classes import ClassName
    from conceptlens.cams.bound_target import Target
    from conceptlens.model.detector_output import DetectedBox
    from conceptlens.model.observation import Observation


def explain_detections(
    observation: Observation,
    target: ClassName | None = None,
    against: ClassName | None = None,
    threshold: float = 0.5,
    rule: str = "hires_cam",
    for_page: bool = False,
) -> PhotoResult:
    """Explain every detection of one photo above the threshold, and, with `against`, its class against another.

    Args:
        observation: The photo alone, as the detector saw it.
        target: The class whose detections are explained; by default all.
        against: A class that the class of each detection is compared with at its box, where it is another one.
        threshold: The lowest score of a detection.
        rule: How channels are weighed.
        for_page: Whether a report page follows, which shows the photo.

    Returns:
        The result of the photo: its detections, and an explanation with one question for each, or with two.

    Raises:
        InputError: There is no such class.
    """
    photo = observation.photos[0]
    wanted = None if target is None else class_index(observation, target)
    other = None if against is None else class_index(observation, against)
    found = observation.detections.detected(0, threshold)
    questions: list[Target] = []
    objects = []
    for i, one in enumerate(found):
        if wanted not in (None, one.class_index):
            continue
        compared = None if other == one.class_index else other
        objects.append(_object(observation, one, len(questions), compared))
        detection = Detection(i, min_score=threshold)
        questions += [detection] if compared is None else [detection, Contrast(detection, [compared])]
    explained = cam(observation, questions, rule) if questions else None
    return PhotoResult(
        image_info=observation.image_info[0],
        model=observation.model.name,
        layer=observation.layer,
        explanations=() if explained is None else (explained,),
        answer=observation.answer,
        detections=tuple(objects),
        undetected="" if objects else _nothing(observation, threshold, wanted),
        photo=jpeg(photo) if for_page and photo is not None else b"",
        settings={"rule": rule, "threshold": threshold},
    )


def _object(observation: Observation, one: DetectedBox, question: int, against: int | None) -> DetectedObject:
    name = observation.model.class_name(one.class_index)
    info, (rows, columns) = observation.image_info[0], observation.images.shape[2:]
    box, (width, height) = on_photo(observation, 0, one.box), (info.width, info.height)
    if not info.box_known:
        width, height = columns, rows
    return DetectedObject(
        index=one.class_index,
        name=name,
        short_name=short_name(name),
        score=one.score,
        logit=float(observation.detections.logits.detach()[0, one.candidate, one.class_index]),
        box=box,
        question=question,
        against=None if against is None else observation.model.class_name(against),
        shares=(box[0] / width, box[1] / height, box[2] / width, box[3] / height),
    )


def _nothing(observation: Observation, threshold: float, wanted: int | None) -> str:
    """Say that nothing was detected, and what came closest."""
    name = observation.model.class_name
    below = [one for one in observation.detections.detected(0) if wanted in (None, one.class_index)]
    what = "nothing" if wanted is None else f"no {short_name(name(wanted))}"
    best = f"; the highest is {short_name(name(below[0].class_index))} {rounded(below[0].score, 2)}" if below else ""
    return f"{what} is detected with a score of {threshold:g} or more{best}"
