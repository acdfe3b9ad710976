"""Does a map give its energy to the parts that count? Its sums over parts, beside what removing each part does.

Parts are `parts[image part rows columns]`, bool, of what the network saw, at the size of its input: exact masks of
drawn scenes, or discs around keypoints (`part_discs`, of `Keypoints` whose concepts are the parts). They may overlap;
an empty mask is a part that the image does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import tensor_of
from conceptlens.metrics.map_pairs import whole_maps
from conceptlens.metrics.pixel_fills import prepare_fill
from conceptlens.metrics.removal_order import enlarged, maps_for
from conceptlens.metrics.scored_images import check_scored
from conceptlens.metrics.variant_runs import Reading, values_without, whole_values
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

    Parts = Bool[Tensor, "image part rows columns"] | Bool[np.ndarray, "image part rows columns"]

# What differs by less is the same: a share of the image's score, and of the map's total of absolute values. Networks
# that run in float32 make no finer differences that mean anything.
SAME = 1e-5


def part_sums(explained: Maps, parts: Parts) -> Score:
    """Return the sum of a map over each part, in the map's unit: its importance of the part.

    The map is enlarged bilinearly to the parts' size and divided by how many pixels a cell became, so that the parts of
    an image that fill it add up to about the sum of its cells.

    Args:
        explained: Maps.
        parts: The parts, as above.

    Returns:
        `values[image question part]`; it does not apply where the image does not show the part.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    maps, masks = whole_maps(explained), _checked(parts)
    size = masks.shape[2], masks.shape[3]
    if len(maps) != len(masks) or maps.shape[2] > size[0] or maps.shape[3] > size[1]:
        raise InputError(
            f"maps have shape {tuple(maps.shape)} and parts {tuple(masks.shape)}; expected as many images, and maps no "
            "finer than the parts"
        )
    cells = maps.shape[2] * maps.shape[3] / (size[0] * size[1])
    found = [
        torch.einsum("qrc,prc->qp", enlarged(own, size).double(), mask.double()) * cells
        for own, mask in zip(maps, masks, strict=True)
    ]
    applies = masks.any(3).any(2)[:, None].expand(-1, maps.shape[1], -1)
    return Score(torch.stack(found), applies)


def part_drops(scored: ScoredImages, parts: Parts, fill: str = "mean") -> Score:
    """Return how far the score of each question falls when a part is filled, in the score's unit.

    Each part is removed alone, so what two parts say together counts for neither.

    Args:
        scored: The images; any score.
        parts: The parts, as above, at the size of the images.
        fill: What stands in the place of a part.

    Returns:
        `values[image question part]`; it does not apply where the image does not show the part.

    Raises:
        InputError: Shapes or types do not fit, or the fill is unknown.
    """
    return _whole_and_drops(scored, parts, fill)[1]


def part_importance(explained: Maps, scored: ScoredImages, parts: Parts, fill: str = "mean") -> Score:
    """Return Spearman's correlation of a map's sums over parts and what removing each does; -1 to 1, higher is better.

    FunnyBirds' single deletion (Hesse et al., ICCV 2023), which writes `(1 + correlation) / 2`. Over the parts that the
    image shows; sums, and drops, that differ by less than a hundred-thousandth are equal. Two parts alone give 1 or -1:
    read means over images. A large part sums up more than a small one, and may well count more, so a flat map is the
    control.

    Args:
        explained: Maps of the same images and questions.
        scored: The images; any score, logits where probabilities are cut off.
        parts: The parts, as above, at the size of the images.
        fill: What stands in the place of a part.

    Returns:
        `values[image question]`; it applies where an image shows at least two parts whose sums are not all equal, nor
        their effects.

    Raises:
        InputError: Shapes or types do not fit, a map is not finite, or the fill is unknown.
    """
    maps = maps_for(explained, scored)
    sums, (whole, drops) = part_sums(maps, parts), _whole_and_drops(scored, parts, fill)
    if sums.values.shape != drops.values.shape:
        raise InputError(
            f"there are maps of {maps.shape[1]} questions and scores of {drops.values.shape[1]}; give the same "
            "targets, in the same order, as the maps are of"
        )
    return part_correlation(sums, drops, maps.double().abs().sum((2, 3)).cpu(), whole.abs())


def part_correlation(
    sums: Score,
    drops: Score,
    energy: Float[Tensor, "image question"],
    whole: Float[Tensor, "image question"],
) -> Score:
    """Return Spearman's correlation of sums and drops that are known, as `part_importance` takes it.

    For drops that no fill makes, such as those of scenes drawn again without a part.

    Args:
        sums: What maps give to parts, as `part_sums` returns it.
        drops: What the removal of each takes away.
        energy: The total of each map's absolute values: what its sums are a share of.
        whole: The absolute score of each image: what its drops are a share of.

    Returns:
        `values[image question]`, with the fill of the drops.
    """
    shape = sums.values.shape[:2]
    values, applies = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    for image, question in np.ndindex(*shape):
        shown = sums.applies[image, question] & drops.applies[image, question]
        ranks = [
            _ranks(score.values[image, question][shown].numpy(), SAME * float(unit[image, question]))
            for score, unit in ((sums, energy), (drops, whole))
        ]
        if all(len(set(one)) > 1 for one in ranks):
            values[image, question] = float(np.corrcoef(np.stack(ranks))[0, 1])
            applies[image, question] = True
    return Score(values, applies, fill=drops.fill)


def _whole_and_drops(scored: ScoredImages, parts: Parts, fill: str) -> tuple[Float[Tensor, "image question"], Score]:
    """Return the scores of whole images, and how far each falls without a part."""
    check_scored(scored)
    masks = _checked(parts).to(scored.images.device)
    if len(masks) != len(scored.images) or masks.shape[2:] != scored.images.shape[2:]:
        raise InputError(
            f"parts have shape {tuple(masks.shape)} and images {tuple(scored.images.shape)}; expected masks of the "
            "same images, as large as they"
        )
    ready = prepare_fill(fill, scored.images, scored.black)
    reading = Reading(scored.run, lambda outputs, image, question: outputs)
    whole = whole_values(scored, reading, 1)[:, 0]
    shown = masks.any(3).any(2)
    applies = shown.cpu()[:, None].expand(-1, whole.shape[1], -1)
    values = torch.zeros(applies.shape, dtype=torch.float64)
    jobs = shown.nonzero()
    if len(jobs):
        image, part = jobs[:, 0], jobs[:, 1]
        nothing = torch.zeros_like(image)  # all questions are read at once
        left = values_without(ready, reading, image, nothing, lambda some: masks[image[some], part[some]])
        values[image.cpu(), :, part.cpu()] = whole[image.cpu()] - left
    return whole, Score(values, applies, fill=fill)


def _ranks(values: Float[np.ndarray, "part"], same: float) -> Float[np.ndarray, "part"]:
    """Return mean ranks; values that lie no more than `same` from the next one are equal."""
    from scipy.stats import rankdata  # takes a second to load

    order = values.argsort(kind="stable")
    groups = np.zeros(len(values))
    groups[order[1:]] = (np.diff(values[order]) > same).cumsum()
    return rankdata(groups)


def _checked(parts: Parts) -> Bool[Tensor, "image part rows columns"]:
    masks = tensor_of(parts, "parts")
    if masks.ndim != 4 or 0 in masks.shape:
        raise InputError(f"parts have shape {tuple(masks.shape)}; expected image part rows columns, none of them 0")
    if masks.dtype != torch.bool:
        raise InputError(f"parts have type {masks.dtype}; expected torch.bool: compare them first, as in parts > 0")
    return masks


_FUNNY_BIRDS = "FunnyBirds, Hesse et al., ICCV 2023"
PART_METRIC = Metric(
    "part_importance", "parts: importance against effect", part_importance, True, -1, 1, "0", _FUNNY_BIRDS,
    ("map", "any score", "parts"),
)  # fmt: skip
