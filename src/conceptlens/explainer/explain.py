"""The main job: what is in a photo, where it is, and how much it contributes to a class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from conceptlens.cams.asked_classes import ClassName, class_indices
from conceptlens.cams.rules import grad_cam
from conceptlens.concept_regions.ce_fam import ce_fam, layer_regions
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.concept_regions.competing_explanation import competes_quickly, competing_together
from conceptlens.concept_regions.competition import COMPETITIONS
from conceptlens.concept_regions.concept_scores import ConceptScores, score_concepts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.class_knowledge import imagenet_knowledge
from conceptlens.concepts.random_directions import RANDOM_DIRECTIONS
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts, vocabulary
from conceptlens.explainer.calibration import ScoreCalibration, find_calibration
from conceptlens.explainer.class_evidence import class_names, that_count_most, with_evidence
from conceptlens.explainer.discovered_rows import with_discovered
from conceptlens.explainer.photo_changes import with_intervals
from conceptlens.explainer.presence import Presence, PresenceWeights, presence, present_concepts
from conceptlens.explainer.unknown_words import known_concepts, with_unknown
from conceptlens.io.errors import InputError
from conceptlens.model.class_concepts import ClassConcepts
from conceptlens.model.observation import Observation, check_observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Int

    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts

Regions = Literal["competing", "coarse", "fine", "official"]
Contribution = Literal["evidence", "masking"]
# Concepts are found by presence where at least this much of the probability lies on classes that are known.
MIN_LINKED = 0.5


def explain(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName] | None = None,
    target: ClassName | Sequence[ClassName] | None = None,
    top: int = 8,
    against: ClassName | Sequence[ClassName] | None = None,
    layer: str | None = None,
    calibration: ScoreCalibration | None = None,
    branch: Translator | None = None,
    regions: Regions | None = None,
    contribution: Contribution = "evidence",
    intervals: bool = False,
    concepts_from: DiscoveredConcepts | None = None,
    random_level: bool | None = None,
) -> Explanation:
    """Return which concepts each image shows, where they are, and how much they count for a class.

    Args:
        observation: The images, as the model saw them.
        concepts: Texts or `ConceptName`s, or one comma-separated text; by default the concepts of the vocabulary that
            are likely in the photo (see `presence`), at most `top`, the most specific of each kind. Where presence is
            not known, those with the highest z-scores or scores.
        target: The class to explain, by name or index, or one for each image; by default the predicted class.
        top: How many concepts of the vocabulary to return at most. A photo of a batch with fewer likely concepts than
            another is filled up with the next ones, whose `presence` is below one half and whose contribution is 0.
        against: Another class: contributions are then to the difference of the two, and the `top` are those that
            count most among the `2 top` most likely.
        layer: The layer to take maps from; by default the observation's.
        calibration: The spread of scores over reference photos, for z-scores; by default the model's own, if any.
        branch: A trained branch: scores, maps and layers then come from `ce_fam`, without z-scores.
        regions: Maps of "competing" concepts (`compete`), from one more look at each photo; "coarse" ones, without
            another; "fine" ones, from six more, which take about fifteen times as long; or "official" ones, as CE-FAM
            has published them. By default
            competing ones where they are quick (`competes_quickly`: nearly all convolutional classifiers, and
            transformers that average their cells), else official ones; `source.method` says which.
        contribution: How contributions are measured: by the "evidence" of the cells where the concept is, which adds
            up to the margin of the class; or by "masking" channels, as CE-FAM has published it.
        intervals: Whether to explain six small changes of each photo too (mirrored, shifted, cropped), for
            `contributions_low` and `contributions_high`.
        concepts_from: Concepts without a name that `discover` found: the five of them that count most in each photo
            are added, and take of what the named ones leave of each cell.
        random_level: Whether to say how much a word drawn at random would get; by default where that takes hardly any
            time, which is beside competing regions with contributions by evidence, without a branch.

    Returns:
        An explanation with one question per concept:

        - `scores[image question]`: the similarity of image and concept.
        - `z_scores[image question]`: how many standard deviations the score lies above the concept's mean over
            reference photos; `None` without a calibration.
        - `presence[image question]`: the probability that the concept is in the photo; `None` where it is not known.
        - `maps[image question height width]`: how much better the concept fits a cell than everyday words do, 1 where
            it does no better (`compete`). With "official" regions, `ReLU(sum_k beta_k A_k)` with
            `beta_k = mean_ij dS/dA_k` (CE-FAM, ICCV 2025, section 3); otherwise these are in `components`.
        - `known[image question]`: whether the model knows the concept (`ClassifierText.knows`); one that it does not
            know has a map of 0 and NaN for every number. `None` where all are known.
        - `contributions[image question]`: the evidence for the class against its rivals in the cells where the concept
            is, `sum_u m(u) e(u)`, in units of the logits or of what the model gives instead (`unit`; `cell_shares`,
            `cell_evidence`). Positive speaks for `target`, negative for its rivals or `against`, or raises and lowers a
            quantity; all of them, `unnamed` and `residuals` add up to `margins`. With "masking", the mean relative
            drop of the class's probability (`masking_contributions`), which adds up to nothing. `None` without
            classes, and where the layer's cells do not reach them.
        - `random_level[image]`: the mean size of the contributions of eight directions drawn at random in place of a
            word's text vector, each alone beside the concepts: one that is no larger says nothing. By masking,
            `contributions_above_random` is what is left of each contribution.

    Raises:
        InputError: A name is unknown, the model knows none of the concepts, a class stands against itself, or options
            exclude each other.
        InputTypeError: `observation` is no `Observation`.

    Examples:
        >>> found = cl.explain(model.observe("cat.png"), "whiskers, wheel", target="tabby")
        >>> found.labels[0], found.contributions[0], found.unnamed[0], found.margins[0]
    """
    check_observation(observation)
    if concepts_from is not None and contribution == "masking":
        raise InputError("concepts_from shares evidence, which contribution='masking' does not measure; leave one out")
    if regions is not None and regions not in get_args(Regions):
        raise InputError(f"regions are '{regions}'; expected competing, coarse, fine or official")
    if contribution not in get_args(Contribution):
        raise InputError(f"contribution is '{contribution}'; expected evidence or masking")
    if branch is not None and against is not None:
        raise InputError("both branch and against are given; a branch explains one class, so leave one of them out")
    if branch is None:
        calibration = calibration or find_calibration(observation.model)
    if regions is None:
        regions = "competing" if branch is None and competes_quickly(observation, layer) else "official"
    again = partial(
        _explained, target=target, top=top, against=against, layer=layer, calibration=calibration, branch=branch,
        regions=regions, masked=contribution == "masking",
    )  # fmt: skip
    if random_level is None:
        random_level = branch is None and regions != "official" and contribution == "evidence"
    asked = () if concepts is None else parse_concepts(concepts)
    known = known_concepts(observation, asked, calibration, branch)
    found = again(observation, known or None, with_level=random_level)
    if intervals:
        found = with_intervals(observation, found, again, target, against, concepts is not None)
    if concepts is None and against is not None:
        found = that_count_most(found, top)
    found = with_unknown(found, asked, known)
    if concepts_from is None:
        return found
    own = None if branch is not None else layer
    return with_discovered(observation, found, concepts_from, target, against, own, concepts is not None)


def _explained(
    observation: Observation,
    concepts: Sequence[ConceptName] | None,
    *,
    target: ClassName | Sequence[ClassName] | None,
    top: int,
    against: ClassName | Sequence[ClassName] | None,
    layer: str | None,
    calibration: ScoreCalibration | None,
    branch: Translator | None,
    regions: Regions,
    masked: bool,
    with_level: bool = False,
) -> Explanation:
    """Explain once: names and scores, then regions, then contributions."""
    named = concepts is not None

    def scored(asked: Sequence[ConceptName] | None) -> Explanation:
        if branch is not None:
            return ce_fam(observation, branch, asked, target, top, layer, with_contributions=masked)
        wanted = top if named or against is None else 2 * top
        return _by_own_encoders(observation, asked, target, wanted, against, layer, calibration, masked)

    each = [scored(concepts), *([scored(RANDOM_DIRECTIONS)] if with_level else [])]
    if regions != "official":
        each = competing_together(observation, each, branch, layer, COMPETITIONS[regions])
    found, drawn = each[0], each[1] if with_level else None
    if not masked:
        return with_evidence(observation, found, target, against, None if branch is not None else layer, named, drawn)
    if drawn is None or drawn.contributions is None:
        return found
    return replace(found, random_level=drawn.contributions.abs().mean(1))


def _by_own_encoders(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName] | None,
    target: ClassName | Sequence[ClassName] | None,
    top: int,
    against: ClassName | Sequence[ClassName] | None,
    layer: str | None,
    calibration: ScoreCalibration | None,
    masked: bool,
) -> Explanation:
    """Explain with the model's own image and text encoders, in one layer; contributions only by masking."""
    name, language = layer or observation.layer, observation.model.language
    given = None if concepts is None else parse_concepts(concepts)
    fitted = None if calibration is None else calibration.presence
    known_classes = _known_classes(observation, fitted, given is None)
    by_presence = fitted is not None or known_classes is not None
    known = given or (vocabulary() if by_presence else everyday_words())
    evidence = score_concepts(observation, language, known)
    scores = evidence.scores
    z_scores = None
    if calibration is not None:
        z_scores = calibration.z_scores(scores.cpu(), evidence.text_vectors.cpu(), language).to(scores)
    logits = None if known_classes is None else observation.answer.competing(observation.logits.detach())
    found = presence(known, known_classes, logits, z_scores, fitted)
    index, other = _compared(observation, target, against)
    chosen = evidence.all_indices() if given is not None else _chosen(observation, evidence, z_scores, found, top)
    weights = grad_cam(
        observation.pull(evidence.image_vectors, evidence.score_gradients(chosen), name),
        observation.feature(name)[:, None],
    )[..., 0, 0]
    own = index if masked else None
    settings = {"text": language.name, "target": repr(target), "against": repr(against), "top": top}
    return replace(
        layer_regions(observation, name, weights, evidence, chosen, settings),
        contributions=None if own is None else masking_contributions(observation, weights, own, other, name),
        z_scores=None if z_scores is None else z_scores.gather(1, chosen),
        presence=None if found is None else found.probability.gather(1, chosen),
        implied=None if found is None or found.implied is None else found.implied.gather(1, chosen),
        base_rates=None if found is None else found.base_rates[chosen],
        explained_classes=() if own is None else tuple(class_names(observation, own, other)),
    )


def _compared(
    observation: Observation,
    target: ClassName | Sequence[ClassName] | None,
    against: ClassName | Sequence[ClassName] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the indices of the explained classes and of those that they are compared with; `None` without."""
    index = None if target is None and observation.class_scores is None else class_indices(observation, target)
    other = None if against is None else class_indices(observation, against)
    if index is not None and other is not None and bool((index == other).any()):
        itself = observation.model.class_name(int(index[index == other][0]))
        which = "the predicted class of an image" if target is None else "the target too"
        raise InputError(
            f"against is '{itself}', which is {which}; a class cannot stand against itself, so name two classes"
        )
    return index, other


def _known_classes(observation: Observation, fitted: PresenceWeights | None, by_presence: bool) -> ClassConcepts | None:
    """Return what photos of the model's classes show; `None` where that is not known for most of its answer.

    The weights that come with the package hold for classifiers without a text encoder of their own; a model with one,
    such as CLIP, whose classes are whatever texts it was given, needs a calibration of its own. Raises `InputError`
    where concepts are to be found by presence and nothing is known of the classes.
    """
    known = observation.model.class_concepts
    if known is None or observation.class_scores is None or (observation.model.text is not None and fitted is None):
        return None
    if float(known.linked_probability(observation.answer.competing(observation.logits.detach())).min()) >= MIN_LINKED:
        return known
    if not by_presence or observation.model.text is not None:
        return None
    unlinked = [link.class_name for link in known.links if link.way == "none"]
    raise InputError(
        f"nothing is known of {len(unlinked)} of the {len(known.links)} classes of {observation.model.name}, such as "
        f"'{unlinked[0]}', so their concepts cannot be named; name concepts yourself, or give a table of what photos "
        "of these classes show: --knowledge FILE, or Backbone(..., knowledge=cl.read_knowledge(file))"
    )


def _chosen(
    observation: Observation, evidence: ConceptScores, z_scores: Tensor | None, found: Presence | None, top: int
) -> Int[Tensor, "image question"]:
    """Return the concepts that are likely in each photo; by z-score or score where presence is not known.

    Photos with fewer than another one of the batch are filled up with the next in order.
    """
    if found is None:
        return evidence.top_indices(top, z_scores)
    knowledge = observation.model.knowledge or imagenet_knowledge()
    rows = present_concepts(found, evidence.concepts, knowledge.broader, evidence.text_vectors, top)
    count = max(1, *map(len, rows))  # a record has at least one question; its presence says that it is not likely
    order = found.order().argsort(dim=1, descending=True).tolist()
    filled = [
        [*row, *islice((index for index in more if index not in row), count - len(row))]
        for row, more in zip(rows, order, strict=True)
    ]
    return torch.tensor(filled, dtype=torch.long, device=evidence.scores.device).reshape(len(rows), count)
