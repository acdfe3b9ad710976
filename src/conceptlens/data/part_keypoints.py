"""The parts of a labelled set as metrics take them: each part a question of its own, left and right together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.data.keypoints_in_view import keypoints_in_view, known_keypoints
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.metrics.keypoints import Keypoints

if TYPE_CHECKING:
    from conceptlens.model.preprocess import Preprocess


def part_keypoints(photos: LabelledSet, indices: Sequence[int], view: Preprocess) -> tuple[tuple[str, ...], Keypoints]:
    """Return the names of a set's parts, and where they are in what a network sees.

    `cl.metrics.part_discs` makes masks of them, for `cl.metrics.part_importance`.

    Args:
        photos: A labelled set with keypoints, such as `Cub`.
        indices: Indices of photos.
        view: The `Preprocess` of the network.

    Returns:
        The names, and keypoints whose concepts are the parts, each present wherever one of its keypoints is visible.

    Raises:
        InputError: The set has no keypoints.
    """
    parts = known_keypoints(photos).parts
    seen = keypoints_in_view(photos, indices, view)
    own = torch.tensor([[name in part for name in seen.names] for part in parts.values()])
    present = seen.visible.float() @ own.float().T > 0
    return tuple(parts), Keypoints(seen.xy, seen.visible, own, present, seen.sizes)
