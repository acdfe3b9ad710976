"""What is known of one discovered concept: the places where it is strongest, and words that may name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Suggestion:
    """A word that may name a concept.

    Attributes:
        name: The word.
        presence: The mean probability that it is in the photos of the concept's strongest places.
        elsewhere: The same in the photos of other concepts' strongest places.
        agreement: The correlation, over the cells of those photos, of the word's map with the concept's.
    """

    name: str
    presence: float
    elsewhere: float
    agreement: float


@dataclass(frozen=True, eq=False)
class Place:
    """One of the cells where a concept is strongest, the strongest of its photo.

    Attributes:
        photo: The file of the photo.
        row: The row of the cell, from the top.
        column: Its column, from the left.
        activation: The coefficient of the concept in the cell.
        box: The part of the upright photo that reached the model.
        activations: The coefficients of the concept in all cells of the photo.
    """

    photo: str
    row: int
    column: int
    activation: float
    box: tuple[float, float, float, float]
    activations: Float[Tensor, "height width"]
