"""What a segmentation model answers, whatever its family: a score of every class at every place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class PixelScores:
    """Scores of every class at every place of the input, in the graph.

    Args:
        scores: `(image, class, rows, columns)`, often of fewer rows and columns than the input; each place stands for
            an equal part of it. Logits, or whatever the class with the highest one is chosen by.

    Raises:
        InputError: The scores have another shape.
    """

    scores: Float[Tensor, "image class rows columns"]

    def __post_init__(self) -> None:
        """Check the shape."""
        if self.scores.ndim != 4:
            raise InputError(
                f"PixelScores has scores of shape {tuple(self.scores.shape)}; expected (image, class, rows, columns)"
            )

    def of_images(self, images: slice) -> PixelScores:
        """Return the same of some of the images."""
        return PixelScores(self.scores[images])
