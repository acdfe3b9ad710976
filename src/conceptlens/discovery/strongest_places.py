"""Where each concept is strongest among all cells of all photos, and how much of the cells it accounts for."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from conceptlens.discovery.concept_places import Place
from conceptlens.discovery.factorisation import coefficients, shares

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.discovery.photo_cells import PhotoCells

# Places that are kept, each with at least this part of the activation of the strongest.
PLACES, MIN_PART = 12, 0.25


@dataclass(eq=False)
class _Strongest:
    """The places of one concept so far, the weakest of them first in the heap."""

    heap: list[tuple[float, int, Place]] = field(default_factory=list)

    def add(self, place: Place, order: int) -> None:
        """Keep a place where it is among the strongest; of equal ones the first."""
        if place.activation <= 0:
            return
        entry = (place.activation, -order, place)
        if len(self.heap) < PLACES:
            heapq.heappush(self.heap, entry)
        elif entry[:2] > self.heap[0][:2]:
            heapq.heapreplace(self.heap, entry)

    def places(self) -> tuple[Place, ...]:
        """Return the places, the strongest first, without those that are much weaker."""
        ordered = [place for _, _, place in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]
        return tuple(place for place in ordered if place.activation >= MIN_PART * ordered[0].activation)


@dataclass(frozen=True, eq=False)
class Strongest:
    """What all cells of all photos say of each concept.

    Attributes:
        places: The strongest places of each concept, each in another photo, the strongest first.
        activity: The mean share of the cells that each concept accounts for.
        length: The mean of `|x - h D| / |x|` over cells: how long what is left of a cell is, beside the cell.
    """

    places: tuple[tuple[Place, ...], ...]
    activity: tuple[float, ...]
    length: float


def find_strongest(photos: Iterable[PhotoCells], directions: Float[Tensor, "concept channel"]) -> Strongest:
    """Go through the cells of all photos, of which only a map for each of the strongest places is kept.

    Args:
        photos: Batches of photos with all their cells.
        directions: The directions of the concepts.
    """
    kept = [_Strongest() for _ in directions]
    total, left, cells_seen, order = torch.zeros(len(directions)), 0.0, 0, 0
    for batch in photos:
        height, width = batch.cells.shape[2:]
        cells = batch.cells.flatten(2).transpose(1, 2).flatten(0, 1)
        found = coefficients(cells, directions)
        total += shares(cells, found, directions).sum(0)
        left += float(((cells - found @ directions).norm(dim=1) / cells.norm(dim=1).clamp_min(1e-12)).sum())
        cells_seen += len(cells)
        maps = found.unflatten(0, (len(batch.files), height, width)).permute(0, 3, 1, 2)
        for file, box, own in zip(batch.files, batch.boxes, maps, strict=True):
            for number, one in enumerate(own):
                at = int(one.argmax())
                place = Place(str(file), at // width, at % width, float(one.max()), box, one.clone())
                kept[number].add(place, order)
            order += 1
    activity = tuple(float(one) / cells_seen for one in total)
    return Strongest(tuple(one.places() for one in kept), activity, left / cells_seen)
