"""Explain the detections of a photo: what was found where, and what each of them rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptlens.cams.class_activation import cam
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.detection_targets import Detection
from conceptlens.cams.targets import class_index
from conceptlens.concepts.short_names import short_name
from conceptlens.explainer.photo_result import DetectedObject, PhotoResult
from conceptlens.io.images import jpeg
from conceptlens.model.photo_boxes import on_photo

if TYPE_CHECKING:
    from conceptlens.cams.targets import Target
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.model.observation import Observation


def explain_detections(observation: Observation, options: ExplainOptions) -> PhotoResult:
    """Explain every detection of one photo above the threshold, and, with `against`, its class against another.

    Args:
        observation: The photo alone, as the detector saw it.
        options: The class whose detections are explained (`target`), the other class (`against`), the threshold and the
            rule.

    Returns:
        The result of the photo: its detections, and an explanation with one question for each, or with two.

    Raises:
        InputError: There is no such class.
    """
    photo, info = observation.photos[0], observation.image_info[0]
    wanted = None if options.target is None else class_index(observation, options.target)
    found = observation.detections.detected(0, options.threshold)
    chosen = [i for i, one in enumerate(found) if wanted in (None, one.class_index)]
    targets = [target for i in chosen for target in _targets(i, options)]
    each = 1 if options.against is None else 2
    explained = cam(observation, targets, options.rule) if targets else None
    name = observation.model.class_name
    return PhotoResult(
        image_info=info,
        model=observation.model.name,
        layer=observation.layer,
        explanations=() if explained is None else (explained,),
        detections=tuple(
            DetectedObject(
                index=found[i].class_index,
                name=name(found[i].class_index),
                short_name=short_name(name(found[i].class_index)),
                score=found[i].score,
                logit=float(observation.detections.logits[0, found[i].candidate, found[i].class_index]),
                box=on_photo(observation, 0, found[i].box),
                question=each * row,
                against=options.against if options.against is None else name(class_index(observation, options.against)),
            )
            for row, i in enumerate(chosen)
        ),
        undetected="" if chosen else _nothing(observation, options, wanted),
        photo=jpeg(photo) if options.for_page and photo is not None else b"",
        settings={"rule": options.rule, "threshold": options.threshold},
    )


def _targets(index: int, options: ExplainOptions) -> Sequence[Target]:
    """Return the questions about one detection."""
    one = Detection(index, min_score=options.threshold)
    return [one] if options.against is None else [one, Contrast(one, [options.against])]


def _nothing(observation: Observation, options: ExplainOptions, wanted: int | None) -> str:
    """Say that nothing was detected, and what came closest."""
    name = observation.model.class_name
    below = [one for one in observation.detections.detected(0, 0.0) if wanted in (None, one.class_index)]
    what = "nothing" if wanted is None else f"no {short_name(name(wanted))}"
    best = f"; the highest is {short_name(name(below[0].class_index))} {below[0].score:.2f}" if below else ""
    return f"{what} is detected with a score of {options.threshold:g} or more{best}"
