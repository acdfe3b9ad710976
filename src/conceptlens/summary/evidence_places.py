"""Where the evidence for each class lies in the frame, by the peaks of its concepts, and how unusual a place is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.summary.explained_photos import ExplainedPhotos

# The frame is divided into so many rows and columns; a place is a window of 3 x 3 of them, a quarter of each side.
CELLS = 12


@dataclass(frozen=True, eq=False)
class EvidencePlaces:
    """Contributions above 0 by class and cell of the frame: `sums[class cell]`; `counts[class]` are photos."""

    sums: Float[np.ndarray, "class cell"]
    counts: Int[np.ndarray, "class"]

    def means(self, number: int) -> Float[np.ndarray, "cell"]:
        """Return the mean evidence for a class in the window around each cell of a photo of it."""
        return around(self.sums[number]) / max(self.counts[number], 1)

    def means_elsewhere(self, number: int) -> Float[np.ndarray, "cell"]:
        """Return the mean evidence for its class in the window around each cell of a photo of another one."""
        others = self.counts.sum() - self.counts[number]
        return around(self.sums.sum(0) - self.sums[number]) / max(others, 1)


def evidence_places(photos: ExplainedPhotos) -> EvidencePlaces:
    """Return where the evidence for each class lies.

    Args:
        photos: What was found in photos.
    """
    classes = len(photos.classes)
    cells, counted = cell_of(photos), evidence_of(photos)
    at = photos.target[photos.row_photo] * CELLS**2 + cells
    sums = np.bincount(at[counted > 0], counted[counted > 0], classes * CELLS**2).reshape(classes, CELLS**2)
    return EvidencePlaces(sums, np.bincount(photos.target, minlength=classes))


def evidence_of(photos: ExplainedPhotos) -> Float[np.ndarray, "row"]:
    """Return the contribution of each row that has a place, 0 where it has none or speaks against the class."""
    placed = np.isfinite(photos.peak).all(1) & (photos.target[photos.row_photo] >= 0)
    return np.where(placed, np.maximum(photos.contribution, 0), 0).astype(np.float64)


def cell_of(photos: ExplainedPhotos) -> Int[np.ndarray, "row"]:
    """Return the cell of the frame that each row peaks in, 0 where it has no place."""
    x, y = np.clip((np.nan_to_num(photos.peak) * CELLS).astype(np.int64), 0, CELLS - 1).T
    return y * CELLS + x


def around(sums: Float[np.ndarray, "cell"]) -> Float[np.ndarray, "cell"]:
    """Return the sum over the window around each cell."""
    padded = np.pad(sums.reshape(CELLS, CELLS), 1)
    return np.sum(
        [padded[row : row + CELLS, column : column + CELLS] for row in range(3) for column in range(3)], 0
    ).ravel()


def unusual(own: Float[np.ndarray, "cell"], elsewhere: Float[np.ndarray, "cell"]) -> Float[np.ndarray, "cell"]:
    """Return `max(0, (own - elsewhere) / (own + elsewhere))` of each cell: 1 where other classes have nothing there.

    Args:
        own: Evidence around each cell.
        elsewhere: The same of other classes.
    """
    total = own + elsewhere
    return np.where(total > 0, np.maximum(own - elsewhere, 0) / np.where(total > 0, total, 1), 0)


def window(cell: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the window around a cell, as shares of the photo."""
    row, column = divmod(cell, CELLS)
    ends = (column - 1, row - 1, column + 2, row + 2)
    return tuple(min(max(end / CELLS, 0.0), 1.0) for end in ends)  # pyright: ignore[reportReturnType]


def place_words(x: float, y: float) -> str:
    """Return the third of the photo that a point lies in, in words."""
    row = ("upper", "middle", "lower")[min(int(3 * y), 2)]
    column = ("left", "centre", "right")[min(int(3 * x), 2)]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
