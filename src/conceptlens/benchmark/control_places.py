"""Where concepts are said to be by what does not look for them: the controls of `loc-cbm`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.bottleneck.fit.concept_vectors import drawn_vectors
from conceptlens.bottleneck.locator import WholeImage, resized
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.cams.class_activation import project
from conceptlens.cams.rules import grad_cam
from conceptlens.metrics.keypoint_baselines import centre_peaks, uniform_maps
from conceptlens.metrics.keypoints import GRID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.features.cell_source import CellBatch
    from conceptlens.metrics.keypoints import Keypoints, MapsOrPeaks

    Places = Float[Tensor, "photo concept rows columns"]

CENTRE, CELL, DIRECTIONS, CONSTANT, GRAD_CAM = "centre", "random", "random_directions", "constant", "grad_cam"
# Names to titles, and what each says.
CONTROL_PLACES: Mapping[str, tuple[str, str]] = {
    CENTRE: ("centre cell", "the centre of every photo"),
    CELL: ("random cell", "a cell drawn at random; against keypoints and boxes, what all cells get on average"),
    DIRECTIONS: ("random directions", "as many concepts whose vectors are drawn, averaged over the whole photo"),
    CONSTANT: ("constant cell", "the one cell of each part that fits the keypoints of train photos best"),
    GRAD_CAM: ("Grad-CAM", "Grad-CAM of the predicted class, for every concept"),
}


@dataclass(frozen=True, eq=False)
class ControlPlaces:
    """The controls that a bottleneck's cells allow.

    Args:
        bottleneck: The bottleneck whose cells they are read from.
        constant: For each of its concepts, the one place that fits its part best in train photos; `None` without.
        seed: Draws directions and cells.
    """

    bottleneck: Bottleneck
    constant: Float[Tensor, "concept 2"] | None
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The controls that there are."""
        return tuple(name for name in CONTROL_PLACES if name != CONSTANT or self.constant is not None)

    @cached_property
    def directions(self) -> Bottleneck:
        """A bottleneck of drawn concept vectors, which reads the same cells everywhere."""
        own = self.bottleneck
        width = own.weight.shape[1]
        made = Bottleneck(own.concepts, own.classes, own.layer, width, WholeImage(), own.grid, own.backbone)
        with torch.no_grad():
            made.weight.copy_(drawn_vectors(len(own.concepts), width, self.seed))
        return made.to(own.weight).eval().requires_grad_(False)

    def maps(self, batch: CellBatch) -> dict[str, Places]:
        """Return maps of every concept, on the bottleneck's grid, whose highest cell is where a control says it is.

        Args:
            batch: The cells of some photos.
        """
        own, photos = self.bottleneck, len(batch.indices)
        concepts, cells = len(own.concepts), {name: one.to(own.weight) for name, one in batch.cells.items()}
        draws = [np.random.default_rng([self.seed, index]) for index in batch.indices.tolist()]
        middle = torch.full((concepts, 2), 0.5)
        found = {
            CENTRE: one_cell(middle, own.grid).expand(photos, -1, -1, -1),
            CELL: torch.from_numpy(np.stack([one.random((concepts, *own.grid)) for one in draws])),
            DIRECTIONS: self.directions.concept_maps(cells).cpu(),
            GRAD_CAM: resized(class_maps(own, cells), own.grid).cpu().expand(-1, concepts, -1, -1),
        }
        if self.constant is not None:
            found[CONSTANT] = one_cell(self.constant, own.grid).expand(photos, -1, -1, -1)
        return {name: found[name] for name in self.names}

    def places(self, maps: Mapping[str, Places], chosen: Sequence[int], keypoints: Keypoints) -> dict[str, MapsOrPeaks]:
        """Return what metrics of keypoints take: peaks where a place is no cell, and all cells for a random one.

        Args:
            maps: What `maps` returned.
            chosen: Indices of the concepts that are measured.
            keypoints: Those of the same photos and concepts.
        """
        exact: dict[str, MapsOrPeaks] = {CENTRE: centre_peaks(keypoints), CELL: uniform_maps(keypoints)}
        if self.constant is not None:
            exact[CONSTANT] = self.constant[list(chosen)].expand(len(keypoints.xy), -1, -1)
        return {name: exact[name] if name in exact else maps[name][:, list(chosen)] for name in self.names}


def class_maps(bottleneck: Bottleneck, cells: Mapping[str, Tensor]) -> Float[Tensor, "photo 1 rows columns"]:
    """Return Grad-CAM of each photo's predicted class, at the layer that carries the bottleneck's concepts.

    Args:
        bottleneck: The bottleneck.
        cells: Cells of its layers, `[photo channel rows columns]` by layer.
    """
    with torch.enable_grad():
        feature = cells[bottleneck.layer].detach().clone().requires_grad_()
        highest = bottleneck({**cells, bottleneck.layer: feature}).logits.amax(1).sum()
        (gradient,) = torch.autograd.grad(highest, feature)
    feature = feature.detach()
    return project(grad_cam(gradient[:, None], feature[:, None]), feature).relu()


def one_cell(
    peaks: Float[Tensor, "concept 2"], grid: tuple[int, int] = GRID
) -> Float[Tensor, "1 concept rows columns"]:
    """Return maps that are 1 in the cell of a peak and 0 elsewhere.

    Args:
        peaks: `(x, y)` as shares of width and height.
        grid: Rows and columns.
    """
    rows, columns = grid
    row, column = (peaks[:, 1] * rows).long().clamp(max=rows - 1), (peaks[:, 0] * columns).long().clamp(max=columns - 1)
    found = torch.zeros(1, len(peaks), rows, columns)
    found[0, torch.arange(len(peaks)), row, column] = 1
    return found
