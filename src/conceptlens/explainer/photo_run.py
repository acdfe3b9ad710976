"""Explain many photo files in batches: bounded memory, and a file that cannot be explained becomes a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.cams.asked_classes import ClassName, class_indices
from conceptlens.cams.class_activation import cam
from conceptlens.cams.contrast import Contrast, gammas_of
from conceptlens.cams.contrast_choice import choose_contrast
from conceptlens.cams.contrast_references import choose_references
from conceptlens.cams.finer_cam import LINEAR, sweep
from conceptlens.cams.targets import Logit
from conceptlens.concept_regions.competition import affinity_layers
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.explainer.calibration import ScoreCalibration
from conceptlens.explainer.detection_run import explain_detections
from conceptlens.explainer.discovered_rows import DISCOVERED
from conceptlens.explainer.explain import Contribution, Regions, explain
from conceptlens.explainer.photo_result import PhotoResult, ReferenceClass, known_differences
from conceptlens.explainer.presence import MIN_PRESENCE
from conceptlens.io.errors import Failure, InputError, InputTypeError
from conceptlens.io.images import jpeg
from conceptlens.model.image_batch import ReadyPhoto
from conceptlens.model.photo_reading import photos_ahead
from conceptlens.model.predictions import Prediction, predictions
from conceptlens.model.score_checks import not_finite
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation


@dataclass(frozen=True)
class ExplainOptions:
    """What is computed for every photo of a run.

    Attributes:
        target: The class to explain; by default the predicted one of each photo.
        against: Another class: contributions are then to the difference of the two.
        concepts: The concepts to look for; by default the `top` of the vocabulary with the highest z-scores.
        top: How many concepts of the vocabulary to show.
        contrast: The contrast of the class with similar classes.
        choose: Whether gamma and reference are chosen for each photo by `choose_contrast`, instead of `contrast`.
        rule: How channels are weighed in class maps and contrasts.
        with_concepts: Whether concepts are explained; without them, only the contrast is.
        with_class_map: Whether the map of the class is made in any case.
        for_page: Whether a report page follows: it shows the photo, and class maps beside the concepts.
        calibration: The spread of scores over reference photos, for z-scores; by default the model's own.
        branch: A trained branch that scores the concepts.
        regions: Maps of "competing" concepts, "coarse" or "fine" ones, or "official" maps as published; see `explain`
            for the default.
        layer: The one layer of the branch to take the maps from.
        contribution: Contributions by the "evidence" where a concept is, or by "masking" channels.
        intervals: Whether contributions come with their range among small changes of the photo.
        concepts_from: Concepts without a name that `discover` found.
        random_level: Whether to say what a word drawn at random would get; see `explain` for the default.
        threshold: The lowest score of a detection that is explained, 0 to 1, where the model is a detector.
    """

    target: ClassName | None = None
    against: ClassName | None = None
    concepts: Sequence[ConceptName] | None = None
    top: int = 8
    contrast: Contrast = field(default_factory=Contrast)
    choose: bool = False
    rule: str = "grad_cam"
    with_concepts: bool = True
    with_class_map: bool = False
    for_page: bool = False
    calibration: ScoreCalibration | None = None
    branch: Translator | None = None
    regions: Regions | None = None
    layer: str | None = None
    contribution: Contribution = "evidence"
    intervals: bool = False
    concepts_from: DiscoveredConcepts | None = None
    random_level: bool | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a branch that is not loaded, such as its folder, and a threshold out of range."""
        if not 0 <= self.threshold <= 1:
            raise InputError(f"the threshold is {self.threshold}; expected the lowest score of a detection, 0 to 1")
        if self.branch is not None and not isinstance(self.branch, Translator):
            raise InputTypeError(
                f"a {type(self.branch).__name__} was given as the branch; expected a Translator, "
                "so load one with cl.Translator.load(folder)"
            )


def explain_photos(
    model: Backbone, photos: Sequence[Path], options: ExplainOptions, batch_size: int = 8
) -> Iterator[PhotoResult | Failure]:
    """Explain photo files in batches.

    Args:
        model: The model to explain.
        photos: The files.
        options: What to compute for each of them.
        batch_size: Photos per forward pass.

    Yields:
        One item per file, in their order: its result, or a `Failure` where it cannot be read or explained.
    """
    keep = options.for_page or options.with_concepts  # a contrast alone looks at inputs only
    for found in photos_ahead(model, photos, batch_size, keep):
        yield from explain_batch(model, found, options)


def explain_batch(
    model: Backbone, read: Sequence[ReadyPhoto | Failure], options: ExplainOptions
) -> list[PhotoResult | Failure]:
    """Explain the photos of one batch that could be read.

    Args:
        model: The model to explain.
        read: The photos, ready for the model, and those that could not be read.
        options: What to compute for each of them.

    Returns:
        One item for each, in their order: its result, or a `Failure`.
    """
    results = iter(_explain_ready(model, [one for one in read if isinstance(one, ReadyPhoto)], options))
    return [next(results) if isinstance(one, ReadyPhoto) else one for one in read]


def _explain_ready(
    model: Backbone, loaded: Sequence[ReadyPhoto], options: ExplainOptions
) -> list[PhotoResult | Failure]:
    if not loaded:
        return []
    if options.branch is not None:
        options.branch.check(model)
    if options.concepts_from is not None:
        options.concepts_from.check(model)
    if model.known_task == "detection":  # photos have different numbers of detections
        return [_explain_objects(model, item, options) for item in loaded]
    layers = None if options.branch is None else dict.fromkeys([*options.branch.layers, *model.default_layers])
    beside = affinity_layers(model) if options.regions == "coarse" else ()
    observation = model.observe_ready(loaded, layers, beside)
    reasons = [""] * len(loaded) if observation.class_scores is None else not_finite(observation)
    reasons = reasons if any(reasons) else _predicted_as_reference(observation, options)
    if not any(reasons):
        return list(_results(observation, options))
    rest = iter(_explain_ready(model, [o for o, reason in zip(loaded, reasons, strict=True) if not reason], options))
    return [Failure(o.info.name, reason) if reason else next(rest) for o, reason in zip(loaded, reasons, strict=True)]


def _explain_objects(model: Backbone, loaded: ReadyPhoto, options: ExplainOptions) -> PhotoResult:
    """Explain what a detector finds in one photo."""
    observation = model.observe_ready([loaded])
    return explain_detections(
        observation, options.target, options.against, options.threshold, options.rule, options.for_page
    )


def _predicted_as_reference(observation: Observation, options: ExplainOptions) -> list[str]:
    """Say for each photo, where no target is named, whether its predicted class is one of those to compare with."""
    against = options.contrast.against
    named = [*(against if isinstance(against, (list, tuple)) else (against,))]
    named += [] if options.against is None else [options.against]
    if options.target is not None or not named:
        return [""] * len(observation.image_info)
    against = {observation.model.class_index(name) for name in named if isinstance(name, (str, int))}
    return [
        f"{image.name} is predicted as {observation.model.class_name(index)}, one to compare with; give --target"
        if index in against
        else ""
        for image, index in zip(observation.image_info, class_indices(observation, None).tolist(), strict=True)
    ]


def _results(observation: Observation, options: ExplainOptions) -> Iterator[PhotoResult]:
    """Explain one batch, with class maps and contrast only where something shows them."""
    shown = options.for_page or not options.with_concepts
    wanted = shown or options.with_class_map
    class_map = cam(observation, Logit(options.target), options.rule) if wanted else None
    contrasts = _contrasts(observation, options) if shown else None
    concepts = None
    if options.with_concepts:
        concepts = explain(
            observation, options.concepts, options.target, options.top, options.against,
            layer=options.layer, calibration=options.calibration, branch=options.branch, regions=options.regions,
            contribution=options.contribution, intervals=options.intervals, concepts_from=options.concepts_from,
            random_level=options.random_level,
        )  # fmt: skip
    targets = _classes(observation, options.target)
    others = [None] * len(targets) if options.against is None else _classes(observation, options.against)
    for i, photo in enumerate(observation.photos):
        contrast, fields = (None, {}) if contrasts is None else contrasts[i]
        yield PhotoResult(
            image_info=observation.image_info[i],
            model=observation.model.name,
            layer=options.layer or observation.layer,
            explanations=tuple(
                e for e in (_one(class_map, i), contrast, _present(concepts, i, options)) if e is not None
            ),
            target=targets[i],
            against=others[i],
            differs_by=known_differences(observation.model, targets[i], others[i]),
            predictions=predictions(observation, i),
            answer=observation.answer,
            photo=jpeg(photo) if options.for_page and photo is not None else b"",
            settings={"rule": options.rule},
            **fields,
        )


def _one(explanation: Explanation | None, image: int) -> Explanation | None:
    return None if explanation is None else explanation.of(image)


def _present(explanation: Explanation | None, image: int, options: ExplainOptions) -> Explanation | None:
    """Return the concepts of one photo, without those that only fill up its batch."""
    one = _one(explanation, image)
    if one is None or one.presence is None or options.concepts is not None:
        return one
    rows = zip(one.presence[0].tolist(), one.concept_types[0], strict=True)
    return one.select([q for q, (value, kind) in enumerate(rows) if value >= MIN_PRESENCE or kind == DISCOVERED])


def _classes(observation: Observation, name: ClassName | None) -> list[Prediction]:
    """Return what the model predicts for one class in every image."""
    indices = class_indices(observation, name)
    return [predictions(observation, i, indices[i : i + 1])[0] for i in range(len(indices))]


def _contrasts(observation: Observation, options: ExplainOptions) -> list[tuple[Explanation, dict[str, Any]]] | None:
    """Return each photo's contrast and the fields of its result that belong to it; `None` for a single class.

    Beside concepts, a contrast takes at most as many similar classes as the model has; labels that do not exclude one
    another and quantities have none.
    """
    others, contrast = observation.logits.shape[1] - 1, options.contrast
    if options.with_concepts and not contrast.against and (others < 1 or not observation.answer.rivals):
        return None
    if options.with_concepts and not contrast.against:
        contrast = replace(contrast, nearest=min(contrast.nearest, others))
    choice = choose_contrast(observation, options.target, options.rule) if options.choose else None
    contrast = contrast if choice is None else choice.contrast
    _, classes, weights = choose_references(observation, contrast)
    swept = sweep(observation, contrast, options.rule) if options.rule in LINEAR else None
    kept = swept if choice is None else None  # a chosen gamma of 0 is a contrast too
    explained = cam(observation, contrast, options.rule) if kept is None else kept.explanation()
    gammas = gammas_of(contrast, len(classes)).tolist()
    mixtures = [None] * len(classes) if swept is None else swept.contrast_maps()
    return [
        (explained.of(i), {
            "references": tuple(
                ReferenceClass(p, w)
                for p, w in zip(predictions(observation, i, classes[i]), weights[i].tolist(), strict=True)
            ),
            "gamma": gammas[i],
            "choice": None if choice is None else choice.drops_of(i),
            "mixture": mixtures[i],
        })
        for i in range(len(classes))
    ]  # fmt: skip
