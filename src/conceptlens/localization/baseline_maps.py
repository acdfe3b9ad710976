"""Baseline maps that use neither the model nor the concept: the scores that a method must exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.cams.class_activation import source
from conceptlens.metrics.control_maps import CENTRE_STD, centre_maps, edge_maps, named_noise
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.observation import Observation


def centre(observation: Observation, concepts: Sequence[ConceptName]) -> Explanation:
    """Return `exp(-((x - 1/2)^2 + (y - 1/2)^2) / (2 0.25^2))` for every concept, x and y shares of the sides.

    Photos have their subject in the middle more often than not.
    """
    grid = observation.layer_output().grid
    maps = centre_maps(len(observation.image_info), len(concepts), (grid.height, grid.width))
    return _baseline(observation, concepts, maps, "centre", {"spread": CENTRE_STD})


def edges(observation: Observation, concepts: Sequence[ConceptName]) -> Explanation:
    """Return how strong the edges of each photo are, by Sobel's filters, averaged over the layer's cells; for every
    concept the same.
    """
    grid = observation.layer_output().grid
    maps = edge_maps(observation.images, len(concepts), (grid.height, grid.width))
    return _baseline(observation, concepts, maps, "edges", {})


def random_maps(
    observation: Observation, concepts: Sequence[ConceptName], seed: int = 0, candidates: int = 1
) -> Explanation:
    """Return uniform random numbers on the layer's own grid: they are enlarged as smoothly as any other map.

    They depend on the photo's pixels, the concept and `seed` alone. `components` holds several, where `candidates` is
    above 1, to show what choosing the best of them with the mask is worth.

    Args:
        observation: The photos.
        concepts: One map for each.
        seed: Draws the numbers.
        candidates: How many maps of each concept.
    """
    grid = observation.layer_output().grid
    photos = [info.fingerprint for info in observation.image_info]
    parts = []
    for turn in range(candidates):
        rows = [
            [named_noise(f"{seed} {turn} {photo} {c.label}:{c.type}", (grid.height, grid.width)) for c in concepts]
            for photo in photos
        ]
        maps = torch.from_numpy(np.array(rows, np.float32).reshape(len(photos), len(concepts), grid.height, grid.width))
        parts.append(_baseline(observation, concepts, maps, "random", {"seed": seed}))
    return parts[0] if candidates == 1 else replace(parts[0], components=tuple(parts))


def _baseline(
    observation: Observation, concepts: Sequence[ConceptName], maps: Tensor, name: str, settings: dict[str, object]
) -> Explanation:
    images = len(observation.image_info)
    return Explanation(
        maps=maps,
        weights=None,
        scores=torch.zeros(images, len(concepts)),
        labels=(tuple(concept.label for concept in concepts),) * images,
        source=source(observation, observation.layer, name, settings),
        activation="identity",
        concept_types=(tuple(concept.type for concept in concepts),) * images,
    )
