"""From an observation to what metrics of a map and a model take: variants of its images, scored by its questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.cams.asked_classes import class_indices
from conceptlens.cams.bound_target import BoundTarget
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.contrast_references import choose_references
from conceptlens.cams.targets import Logit, Probability, as_targets
from conceptlens.io.errors import InputError
from conceptlens.metrics.scored_images import ScoredImages
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation, check_observation

if TYPE_CHECKING:
    from typing import Literal

    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.cams.bound_target import Target
    from conceptlens.cams.targets import AnyTargets

    Read = Callable[[ModelOutput, Tensor], Float[Tensor, "variant number"]]
    Run = Callable[[Tensor, Tensor, Read], Float[Tensor, "variant number"]]
    Scorer = Callable[[Tensor, Tensor], Float[Tensor, "variant number"]]


def scored_images(observation: Observation, targets: AnyTargets = None) -> ScoredImages:
    """Return how a model scores variants of the images that it was shown.

    Classes are asked for their probability, as deletion, relative drops and most other metrics need. A target says
    itself what it is asked for: `cl.Logit` for `completeness` and `infidelity` of maps of logits, which probabilities
    cut off.

    Args:
        observation: One forward pass of a batch. Where photos were prepared by a `cl.Preprocess`, black is known.
        targets: The questions in the order of the maps, as `cl.cam` takes them; classes mean `cl.Probability`.

    Returns:
        What the functions of `cl.metrics` take. `classes` are known where every target is about a class.

    Raises:
        InputError: A class is unknown, or the model gives no probabilities and a class was given without its target.
        InputTypeError: `observation` is no `Observation`, or a target is none.

    Examples:
        >>> seen = model.observe(photos)
        >>> scored = scored_images(seen)
        >>> cl.metrics.deletion(cl.cam(seen), scored).mean()
    """
    check_observation(observation)
    run = _run_by_image(observation.forward, bool(observation.given.others))
    return _scored(observation, targets, observation.images, run, _black(observation))


def scored_cells(observation: Observation, targets: AnyTargets = None, layer: str | None = None) -> ScoredImages:
    """Return how a model scores variants of a layer's cells: channels stand in the place of colours.

    What lies before the layer does not run again. `cl.metrics.concept_deletion` removes concepts' channels from it.

    Args:
        observation: One forward pass of a batch.
        targets: The questions, as in `scored_images`.
        layer: An observed layer; by default the last one.

    Returns:
        As `scored_images`, with `images[image channel height width]`; black is not known.

    Raises:
        InputError: The layer was not observed, or as in `scored_images`.
        InputTypeError: As in `scored_images`.
    """
    check_observation(observation)
    name = layer or observation.layer
    run = _run_by_image(lambda cells, image: observation.rerun(cells, image, name), True)
    return _scored(observation, targets, observation.feature(name), run, None)


def similar_classes(
    observation: Observation, targets: AnyTargets = None, by: Literal["logit", "rank", "weight"] = "weight"
) -> Int[Tensor, "image question"]:
    """Return the class most similar to the class of each question, for `rivals=` of `cl.metrics.relative_drop`.

    Args:
        observation: One forward pass of a batch.
        targets: The questions, each about a class.
        by: "weight", the classifier's rows with the largest cosine, the same for every image of a class; "logit", the
            logit nearest to its own; "rank", the highest other logit.

    Returns:
        Class indices.

    Raises:
        InputError: A question is not about a class, the model has one class alone or no linear classifier, or `by` is
            unknown.
    """
    check_observation(observation)
    found = [_class_of(target) for target in _as_questions(targets)]
    if any(one is None for one in found):
        raise InputError("a question is not about a class; a most similar class is one of classes")
    contrasts = [Contrast(one.target, nearest=1, by=by) for one in found if one is not None]
    chosen = [choose_references(observation, contrast)[1][:, 0] for contrast in contrasts]
    return torch.stack(chosen, 1)


def _scored(
    observation: Observation, targets: AnyTargets, images: Tensor, run: Run, black: Tensor | None
) -> ScoredImages:
    asked = _as_questions(targets)
    questions = [target.bind(observation) for target in asked]
    about = [_class_of(target) for target in asked]
    classes = None
    if all(one is not None for one in about):
        classes = torch.stack([class_indices(observation, one.target) for one in about if one is not None], 1)
    known = observation.class_scores is not None and observation.meaning is not None
    probable = known and observation.answer.probability is not None
    return ScoredImages(
        images,
        _read_scores(questions, run),
        black,
        _read_probabilities(observation, run) if probable else None,
        classes,
        observation.image_info,
    )


def _as_questions(targets: AnyTargets) -> list[Target]:
    """Return targets, with the probability of classes that were named without one."""
    named = as_targets(targets)
    given = targets if isinstance(targets, (list, tuple)) else [targets]
    own = [any(one is target for one in given) for target in named]
    return [
        target if kept or not isinstance(target, Logit) else Probability(target.target)
        for target, kept in zip(named, own, strict=True)
    ]


def _class_of(target: Target) -> Logit | Probability | None:
    """Return the class that a target is about, as a target; `None` where it is about something else."""
    if isinstance(target, (Logit, Probability)):
        return target
    if isinstance(target, Contrast):
        named: Any = target.target
        return None if hasattr(named, "bind") or hasattr(named, "ask") else Logit(named)
    return None


def _read_scores(questions: list[BoundTarget], run: Run) -> Scorer:
    def read(output: ModelOutput, rows: Tensor) -> Tensor:
        return torch.stack([question.score(output, rows).detach() for question in questions], 1)

    return lambda variants, rows: run(variants, rows, read)


def _read_probabilities(observation: Observation, run: Run) -> Scorer:
    answer, name = observation.answer, observation.model.name

    def read(output: ModelOutput, rows: Tensor) -> Tensor:
        return answer.probabilities(output.logits, name).detach()

    return lambda variants, rows: run(variants, rows, read)


def _run_by_image(forward: Callable[[Tensor, int], ModelOutput], apart: bool) -> Run:
    """Return what runs variants and reads them, those of each image apart where its other inputs go with them."""

    def run(variants: Tensor, rows: Tensor, read: Read) -> Tensor:
        if not apart:
            return read(forward(variants, 0), rows)
        places = [(rows == image).nonzero()[:, 0] for image in rows.unique()]
        parts = [read(forward(variants[here], int(rows[here[0]])), rows[here]) for here in places]
        return torch.cat(parts)[torch.cat(places).argsort()]

    return run


def _black(observation: Observation) -> Float[Tensor, "colour"] | None:
    """Return what black is in the model's input, where photos are prepared in a known way."""
    prepared = getattr(observation.model, "preprocess", None)
    if prepared is None or len(prepared.mean) != observation.images.shape[1]:
        return None
    return torch.tensor([-mean / std for mean, std in zip(prepared.mean, prepared.std, strict=True)])
