"""From regions of concepts to contributions that add up to the margin of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from conceptlens.cams.asked_classes import ClassName, class_indices
from conceptlens.cams.cell_evidence import CellEvidence, cell_evidence
from conceptlens.concept_regions.competing_explanation import is_competing
from conceptlens.concept_regions.evidence_contributions import (
    cell_shares,
    evidence_contributions,
    relative_strengths,
    shares_beside,
)
from conceptlens.explainer.presence import MIN_PRESENCE
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def with_evidence(
    observation: Observation,
    found: Explanation,
    target: ClassName | Sequence[ClassName] | None = None,
    against: ClassName | Sequence[ClassName] | None = None,
    layer: str | None = None,
    named: bool = True,
    drawn: Explanation | None = None,
) -> Explanation:
    """Return an explanation of concepts with the evidence for a class that lies in their regions.

    Args:
        observation: The photos that were explained.
        found: Their explanation.
        target: The class; by default the predicted one.
        against: The class that it is compared with; by default all others.
        layer: The layer whose cells are weighed; by default the observation's.
        named: Whether the concepts were named by the user; those that were found get nothing where they are unlikely.
        drawn: Random directions, explained like the concepts, for `random_level`; by default none.

    Returns:
        The explanation with `contributions`, `margins`, `unplaced` and `residuals`, and `random_level` where directions
        were drawn; without them where the model has no classes or the layer does not reach them.
    """
    if observation.class_scores is None:
        return found
    evidence = cell_evidence(observation, target, against, layer)
    if evidence is None:
        return found
    grid = (evidence.cells.shape[1], evidence.cells.shape[2])
    shares = named_shares(found, grid, named)
    index = class_indices(observation, target)
    other = None if against is None else class_indices(observation, against)
    return replace(
        found,
        contributions=evidence_contributions(evidence, shares).float(),
        margins=evidence.margins,
        unplaced=evidence.unplaced,
        residuals=evidence.residuals,
        random_level=None if drawn is None else _random_level(evidence, found, drawn, named),
        explained_classes=tuple(class_names(observation, index, other)),
        rivals=tuple(rivals(observation, index, other)),
        unit=observation.answer.unit,
    )


def named_shares(found: Explanation, grid: tuple[int, int], named: bool) -> Float[Tensor, "image question row column"]:
    """Return how much of each cell belongs to each concept of an explanation (`cell_shares`).

    Args:
        found: An explanation of concepts.
        grid: Rows and columns of the cells.
        named: Whether the concepts were named by the user; those that were found get nothing where they are unlikely.
    """
    return cell_shares(*_strengths(found, named), grid)


def _strengths(found: Explanation, named: bool) -> tuple[Tensor, Tensor | None]:
    """Return how strong each concept is in each cell of its map, and how likely in the photo, as shares count it."""
    strengths = found.maps if is_competing(found) else relative_strengths(found.maps)
    likely = found.presence
    if likely is not None:
        likely = likely.nan_to_num()  # what the model does not know takes nothing
        likely = likely if named else likely.where(likely >= MIN_PRESENCE, 0.0)
    return strengths, likely


def _random_level(
    evidence: CellEvidence, found: Explanation, drawn: Explanation, named: bool
) -> Float[Tensor, "image"]:
    """Return the mean size of what random directions would get, each alone beside the concepts that are listed.

    They count as concepts that were named: of those that are found, the unlikely ones get nothing, whatever their map.
    """
    grid = (evidence.cells.shape[1], evidence.cells.shape[2])
    shares = shares_beside(*_strengths(drawn, named=True), _strengths(found, named), grid)
    return evidence_contributions(evidence, shares).float().abs().mean(1)


def that_count_most(found: Explanation, top: int) -> Explanation:
    """Return the concepts of the largest contributions, whatever their sign.

    Args:
        found: An explanation of concepts.
        top: How many to keep at most.
    """
    if found.contributions is None:
        return found.select(range(min(top, found.maps.shape[1])))
    best = found.contributions.abs().topk(min(top, found.maps.shape[1]), dim=1).indices
    return found.select(best.tolist())


def class_names(observation: Observation, index: Tensor, other: Tensor | None) -> list[str]:
    """Return what the contributions to each image are about: its class, or `class / other class`.

    Args:
        observation: What was observed.
        index: The class of each image.
        other: The class that it is compared with, or `None`.
    """
    names = [observation.model.class_name(int(i)) for i in index]
    if other is None:
        return names
    return [f"{n} / {observation.model.class_name(int(o))}" for n, o in zip(names, other, strict=True)]


def rivals(observation: Observation, index: Tensor, other: Tensor | None) -> list[str]:
    """Return what the margin of each image's class is over; empty where its classes exclude none.

    Args:
        observation: What was observed.
        index: The class of each image.
        other: The class that it is compared with, or `None`.
    """
    answer, count = observation.answer, observation.logits.shape[1]
    if other is None and answer.rivals and count == 2:
        other = 1 - index
    if other is not None:
        return [observation.model.class_name(int(o)) for o in other]
    return ["all other classes" if answer.rivals else ""] * len(index)
