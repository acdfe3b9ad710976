"""Concepts without a word beside those with one: they take of the unnamed rest of each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.asked_classes import ClassName
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.concept_regions.evidence_contributions import evidence_contributions
from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
from conceptlens.explainer.class_evidence import named_shares
from conceptlens.io.errors import InputError
from conceptlens.model.observation import Observation
from conceptlens.record.explanation import NUMBERS, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# The type of a concept that was discovered, beside those of the vocabulary.
DISCOVERED = "discovered"
# How many discovered concepts are added for each photo: those of the largest contributions.
MAX_ROWS = 5


def with_discovered(
    observation: Observation,
    found: Explanation,
    discovered: DiscoveredConcepts,
    target: ClassName | Sequence[ClassName] | None = None,
    against: ClassName | Sequence[ClassName] | None = None,
    layer: str | None = None,
    named: bool = True,
) -> Explanation:
    """Return an explanation with the discovered concepts that count most in each photo.

    What is left of a cell by concepts with a name is shared among the discovered ones as the cell's activation is
    (`DiscoveredConcepts.cell_shares`), so contributions still add up, and the unnamed rest shrinks.

    Args:
        observation: The photos that were explained.
        found: Their explanation, with contributions by evidence.
        discovered: Concepts of this model at the layer whose cells are weighed.
        target: The class; by default the predicted one.
        against: The class that it is compared with; by default all others.
        layer: The layer whose cells are weighed; by default the observation's.
        named: Whether the concepts were named by the user.

    Returns:
        The explanation with up to five more questions of the type "discovered": their maps are coefficients, enlarged
        to the grid of the others, their scores the mean coefficients; what is not defined for them is NaN.

    Raises:
        InputError: The concepts belong to another model or layer, or contributions do not add up.
    """
    own = layer or observation.layer
    if discovered.layer != own:
        raise InputError(
            f"the discovered concepts are of layer '{discovered.layer}', and the evidence is weighed at '{own}'; "
            f"observe the photos at the first, layers=['{discovered.layer}'], or discover concepts at the second"
        )
    evidence = cell_evidence(observation, target, against, own)
    if evidence is None or found.margins is None:
        raise InputError(
            "discovered concepts share the evidence of cells, and here contributions are not by evidence; give "
            'contribution="evidence" and a layer that reaches the class scores'
        )
    left = 1 - named_shares(found, (evidence.cells.shape[1], evidence.cells.shape[2]), named).sum(1, keepdim=True)
    counts = evidence_contributions(evidence, left * discovered.cell_shares(observation)).float()
    best = counts.abs().topk(min(MAX_ROWS, counts.shape[1]), dim=1).indices
    cells = discovered.activations(observation)
    maps = F.interpolate(cells, size=found.maps.shape[-2:], mode="bilinear", align_corners=False)
    return _joined(found, discovered, best, maps, cells.mean((2, 3)), counts)


def _joined(
    found: Explanation,
    discovered: DiscoveredConcepts,
    best: Int[Tensor, "image question"],
    maps: Float[Tensor, "image concept height width"],
    scores: Float[Tensor, "image concept"],
    counts: Float[Tensor, "image concept"],
) -> Explanation:
    """Return the explanation with the chosen concepts behind its own questions."""
    nothing = torch.full_like(counts.gather(1, best), float("nan"))
    added = {"scores": scores.gather(1, best), "contributions": counts.gather(1, best)}
    tensors = {
        name: torch.cat([value, added.get(name, nothing).to(value)], dim=1)
        for name in NUMBERS
        if (value := getattr(found, name)) is not None
    }
    chosen = maps.take_along_dim(best[..., None, None], dim=1)
    labels = [tuple(discovered.labels[int(k)] for k in row) for row in best]
    known = None if found.known is None else torch.cat([found.known, torch.ones_like(nothing, dtype=torch.bool)], dim=1)
    return replace(
        found,
        **tensors,
        maps=torch.cat([found.maps, chosen.to(found.maps)], dim=1),
        weights=None,
        known=known,
        labels=tuple((*own, *more) for own, more in zip(found.labels, labels, strict=True)),
        concept_types=tuple((*own, *(DISCOVERED,) * best.shape[1]) for own in found.concept_types),
        target_kinds=(*found.target_kinds, *("concept",) * best.shape[1]),
        layers=tuple((*row, *(discovered.layer,) * best.shape[1]) for row in found.layers),
        diagnostics={name: torch.cat([value, nothing.to(value)], dim=1) for name, value in found.diagnostics.items()},
        components=(),
    )
