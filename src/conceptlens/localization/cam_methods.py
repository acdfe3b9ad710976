"""Any rule and any target as a method: class activation maps as maps of concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image

from conceptlens.cams.class_activation import cam, find_rule, source
from conceptlens.cams.concept_target import Concept, shown_by_classes
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.targets import Logit
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.model.encoders import knows
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from conceptlens.cams.bound_target import Target
    from conceptlens.cams.rules import Rule
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation

# From one photo and any concepts to maps `[1 question height width]` in their order, over the part of the photo that
# `source.image_info` of the record names. The map of a concept does not depend on the other concepts.
Method: TypeAlias = Callable[[Image.Image, Sequence[ConceptName]], Explanation]


@dataclass(frozen=True)
class TargetKind:
    """One entry of `TARGETS`: what a map of a concept explains.

    Attributes:
        name: The name behind the colon of a method, such as `concept` in `layer_cam:concept`.
        title: What it adds to the rule's title in tables.
        about: What is explained, in one line.
        ask: From a concept to its target.
        answers: Which concepts a model can be asked about; it refuses a model that can be asked about none.
        of_concept: Whether each concept has a target of its own; else the map is the same for all.
    """

    name: str
    title: str
    about: str
    ask: Callable[[ConceptName], Target]
    answers: Callable[[Backbone, Sequence[ConceptName]], Sequence[bool]]
    of_concept: bool = True


def cam_method(
    model: Backbone,
    target: str | Target | Callable[[ConceptName], Target] = "predicted",
    rule: str | Rule = "grad_cam",
) -> Method:
    """Return a method for `evaluate_localization` that explains a target by a rule.

    Args:
        model: The model to explain.
        target: A name of `TARGETS`: `predicted`, `class`, `concept` or `contrast`; or a target of your own, such as
            `cl.Contrast(nearest=1)`, whose map is the same for every concept; or a function from a `ConceptName` to a
            target.
        rule: A name in `cl.RULES`, or a `cl.Rule`.

    Returns:
        The method. A concept that the model cannot be asked about gets a map of zeros, and its row says that it has no
        map of its own.

    Raises:
        InputError: The rule or the target is unknown, the model has no text encoder (`concept`), or nothing is known of
            its classes (`class`).
        InputTypeError: The rule or the target is none of the above.

    Examples:
        >>> finer = cam_method(model, cl.Contrast(nearest=1), "layer_cam")
        >>> found = evaluate_localization(data, {"one look-alike": finer})
    """
    chosen, kind = find_rule(rule), _kind_of(target)
    kind.answers(model, ())  # a model that can be asked about nothing is refused here, not photo by photo

    def method(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
        observation = model.observe(photo)
        answered = list(kind.answers(model, concepts)) if kind.of_concept else [True] * len(concepts)
        asked = [concept for concept, yes in zip(concepts, answered, strict=True) if yes]
        asked = asked if kind.of_concept else asked[:1]
        found = cam(observation, [kind.ask(concept) for concept in asked], chosen) if asked else None
        return _for_all(found, observation, concepts, answered, {"rule": chosen.name, "target": kind.name})

    return method


def _for_all(
    found: Explanation | None,
    observation: Observation,
    concepts: Sequence[ConceptName],
    answered: Sequence[bool],
    settings: dict[str, Any],
) -> Explanation:
    """Return maps for all concepts: those found, the one map for all of them, or zeros where there is no answer."""
    grid = observation.layer_output().grid
    maps, scores = torch.zeros(1, len(concepts), grid.height, grid.width), torch.zeros(1, len(concepts))
    if found is not None:
        where = torch.tensor(answered)
        count = int(where.sum())
        maps[:, where] = found.maps.float().cpu().expand(-1, count, -1, -1)
        scores[:, where] = found.scores.float().cpu().expand(-1, count)
    notes = {} if found is None else found.source.settings
    return Explanation(
        maps=maps,
        weights=None,
        scores=scores,
        labels=(tuple(concept.label for concept in concepts),),
        source=source(observation, observation.layer, settings["rule"], {**notes, **settings, "matched": (*answered,)}),
        concept_types=(tuple(concept.type for concept in concepts),),
    )


def _kind_of(target: Any) -> TargetKind:
    """Return the entry of `TARGETS`, or one made of a target or of a function from a concept to its target."""
    if isinstance(target, str):
        if target not in TARGETS:
            raise InputError(f"no target '{target}'; {near(target, TARGETS, 'targets')}")
        return TARGETS[target]
    if hasattr(target, "bind"):
        return TargetKind(repr(target), "", "", lambda concept: target, _all, of_concept=False)
    if not callable(target):
        raise InputTypeError(
            f"the target is given as {type(target).__name__}; expected one of {', '.join(TARGETS)}, a target such as "
            "cl.Contrast(), or a function from a concept to its target"
        )
    ask: Callable[[ConceptName], Any] = target
    return TargetKind(getattr(target, "__name__", "custom"), "", "", ask, _all)


def _text(concept: ConceptName) -> str:
    return f"{concept.label}:{concept.type}"


def _all(model: Backbone, concepts: Sequence[ConceptName]) -> list[bool]:
    return [True] * len(concepts)


def _known(model: Backbone, concepts: Sequence[ConceptName]) -> Sequence[bool]:
    return knows(model.language, [concept.label for concept in concepts])


_TABLE = (
    TargetKind(
        "predicted",
        "",
        "the predicted class, the same map for every concept",
        lambda c: Logit(),
        _all,
        of_concept=False,
    ),
    TargetKind(
        "class",
        ", by classes",
        "the classes whose photos show the concept against the others",
        lambda concept: Concept(_text(concept), by="classes"),
        shown_by_classes,
    ),
    TargetKind("concept", ", concept", "the concept's text", lambda concept: Concept(_text(concept)), _known),
    TargetKind(
        "contrast",
        ", contrast",
        "the predicted class against its three nearest (Finer-CAM), the same map for every concept",
        lambda concept: Contrast(),
        _all,
        of_concept=False,
    ),
)
TARGETS: dict[str, TargetKind] = {kind.name: kind for kind in _TABLE}
