"""Words that a model does not know: they are named in the answer, and nothing is computed of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.explainer.calibration import find_calibration
from conceptlens.io.errors import InputError
from conceptlens.model.encoders import knows, unknown_words
from conceptlens.record.explanation import NUMBERS, Explanation

if TYPE_CHECKING:
    from conceptlens.concept_regions.translator import Translator
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.explainer.calibration import ScoreCalibration
    from conceptlens.model.observation import Observation


def known_concepts(
    observation: Observation,
    concepts: Sequence[ConceptName],
    calibration: ScoreCalibration | None = None,
    branch: Translator | None = None,
) -> tuple[ConceptName, ...]:
    """Return the concepts that the pair which scores them knows, or that a calibration has counted in photos.

    Args:
        observation: What is explained.
        concepts: The concepts that were asked for; none gives none.
        calibration: A calibration of your own; by default the model's, if any.
        branch: A trained branch that scores in place of the model's own pair.

    Returns:
        Those that are known, in their order.

    Raises:
        InputError: None of them is known.
    """
    if not concepts:
        return ()
    language = branch or observation.model.language
    labels = [concept.label for concept in concepts]
    known = list(knows(language, labels))
    if branch is None and not all(known):
        found = calibration or find_calibration(observation.model)
        counted = {} if found is None or found.presence is None else found.presence.base_rates
        known = [is_known or label in counted for label, is_known in zip(labels, known, strict=True)]
    if not any(known):
        raise InputError(unknown_words(language, labels))
    return tuple(concept for concept, is_known in zip(concepts, known, strict=True) if is_known)


def with_unknown(found: Explanation, concepts: Sequence[ConceptName], known: Sequence[ConceptName]) -> Explanation:
    """Return an explanation of all concepts: that of the known ones, and empty questions for the others.

    Args:
        found: The explanation of `known`.
        concepts: All concepts that were asked for.
        known: Those that the model knows, in the same order.

    Returns:
        `found` itself where all are known; else with `known` false, maps and weights 0 and every number NaN for the
        others.
    """
    if len(known) == len(concepts):
        return found
    own = {concept: q for q, concept in enumerate(known)}
    columns = [own.get(concept) for concept in concepts]
    names = tuple(concept.label for concept in concepts)
    types = tuple(concept.type for concept in concepts)
    images = len(found.maps)
    tensors = {
        name: _spread(value, columns, float("nan") if name in NUMBERS else 0.0)
        for name in (*NUMBERS, "maps", "weights", "vectors")
        if (value := getattr(found, name)) is not None
    }
    is_known = torch.tensor([column is not None for column in columns], device=found.maps.device)
    return replace(
        found,
        **{**tensors, "known": is_known.expand(images, -1)},
        labels=(names,) * images,
        concept_types=(types,) * images,
        target_kinds=("concept",) * len(concepts),
        layers=tuple(tuple("" if c is None else row[c] for c in columns) for row in found.layers),
        diagnostics={name: _spread(value, columns, float("nan")) for name, value in found.diagnostics.items()},
        components=tuple(with_unknown(part, concepts, known) for part in found.components),
    )


def _spread(values: Tensor, columns: Sequence[int | None], fill: float) -> Tensor:
    """Return the questions of `values` at their new places, and `fill` at the others."""
    spread = values.new_full((len(values), len(columns), *values.shape[2:]), fill)
    places = [place for place, column in enumerate(columns) if column is not None]
    spread[:, places] = values
    return spread
