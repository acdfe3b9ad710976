"""Concepts that mean nothing: directions drawn at random, to see what any word would get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlens.concepts.vocabulary import ConceptName

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# The type of a direction, beside those of words.
RANDOM = "random direction"
COUNT = 8


@dataclass(frozen=True)
class RandomDirection(ConceptName):
    """A concept whose text vector is drawn; it goes through scores, presence and regions as an object's word does.

    No text means it: only what makes text vectors of concepts (`encode_concepts`) and what looks up words know of it.
    """

    type: str = RANDOM

    def __post_init__(self) -> None:
        """Take the type as it is: a person cannot ask for it."""

    @property
    def number(self) -> int:
        """Which of the directions it is, from 0."""
        return RANDOM_DIRECTIONS.index(self)


# Why a few: the mean of eight says of what size a contribution by chance is, and they cost hardly anything.
RANDOM_DIRECTIONS: tuple[RandomDirection, ...] = tuple(RandomDirection(f"{RANDOM} {n}") for n in range(1, COUNT + 1))


def random_vectors(dimension: int) -> Float[Tensor, "direction dimension"]:
    """Return the text vectors of `RANDOM_DIRECTIONS`: even on the unit sphere, always the same.

    Their length changes neither z-scores nor regions.

    Args:
        dimension: How many entries a text vector has.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    return torch.nn.functional.normalize(
        torch.randn(COUNT, dimension, generator=generator, dtype=torch.float32, device="cpu"), dim=1
    )


def concept_named(label: str, kind: str) -> ConceptName:
    """Return the concept of a label and type as records hold them, which may be a random direction.

    Args:
        label: What the concept is called.
        kind: Its type.
    """
    return RandomDirection(label) if kind == RANDOM else ConceptName(label, kind)
