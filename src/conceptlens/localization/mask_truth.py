"""The masks of one photo as a model saw it, and what every metric says of maps beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.data.masked_set import MaskedPhoto, crop_masks
from conceptlens.localization.own_metrics import own_scores
from conceptlens.metrics.map_mask import map_mask_scores
from conceptlens.record import WHOLE

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.statistics.score import Metric

Scores = list[dict[str, float | None]]


@dataclass(frozen=True, eq=False)
class MaskTruth:
    """The masks of one photo as a model saw it, and the metrics of one's own that maps are compared by beside ours."""

    masks: Bool[Tensor, "question rows columns"]
    ignored: Bool[Tensor, "rows columns"] | None
    metrics: tuple[Metric, ...] = ()

    def shares(self) -> list[float]:
        """Return how much of the pixels that count each mask covers."""
        counted = torch.ones_like(self.masks[0]) if self.ignored is None else ~self.ignored
        return ((self.masks & counted).sum((1, 2)).double() / counted.sum().clamp_min(1)).tolist()

    def scores(self, maps: Tensor) -> Scores:
        """Return every metric of `maps[question height width]`, one for each mask."""
        ignored = None if self.ignored is None else self.ignored[None]
        found = map_mask_scores(maps[None], self.masks[None], ignored)
        own = own_scores(self.metrics, maps[None], self.masks[None], ignored)
        pairs: Scores = [{name: score.of(0, i) for name, score in found.items()} for i in range(len(maps))]
        for i, pair in enumerate(pairs):
            measured = any(value is not None for value in pair.values())
            pair.update({name: score.of(0, i) if measured else None for name, score in own.items()})
        return pairs


def truth_of(
    one: MaskedPhoto,
    box: tuple[float, float, float, float],
    resolution: int | None,
    metrics: tuple[Metric, ...] = (),
) -> MaskTruth:
    """Return the masks of the part of the photo that a map covers."""
    rows, columns = one.masks.shape[1:]
    own = (max(1, round(rows * (box[3] - box[1]))), max(1, round(columns * (box[2] - box[0]))))
    size = own if resolution is None else (resolution, resolution)
    masks = torch.from_numpy(crop_masks(one.masks, box, size))
    ignored = one.ignored
    if ignored is None and box != WHOLE:
        ignored = np.zeros((rows, columns), bool)  # what lies beyond the photo is padding
    cut = None if ignored is None else torch.from_numpy(crop_masks(ignored, box, size, outside=True))
    return MaskTruth(masks, cut if cut is not None and bool(cut.any()) else None, metrics)
