"""Finer-CAM's relative drop: how much more a class loses than its most similar one without a map's highest pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import classes_in
from conceptlens.metrics.pixel_removal import (
    STEPS,
    RemovalCurves,
    checked_shares,
    removed_values,
    taken_shares,
)
from conceptlens.metrics.removal_order import TieOrder, maps_for, ranked
from conceptlens.metrics.scored_images import check_scored
from conceptlens.metrics.variant_runs import Reading, variants_at_once

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages
    from conceptlens.statistics.score import Score

    Rivals = Literal["highest"] | Int[Tensor, "image question"]


def relative_drop(
    explained: Maps,
    scored: ScoredImages,
    share: float = 0.05,
    fill: str = "mean",
    rivals: Rivals = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return `RD@k = (p_c - p*_c) - (p_d - p*_d)`, `p*` without the highest share `k`; -2 to 2, higher is better.

    Finer-CAM, Zhang et al., CVPR 2025, section 4: `c` is the question's class, `d` the class most similar to it. Chance
    is the value of a random order. The paper says neither the fill nor how `d` is chosen here; both are arguments.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes, and the class of each question.
        share: `k`, the share of pixels that is removed.
        fill: What stands in their place.
        rivals: `d`: "highest", the most probable other class of the whole image; or class indices, such as
            `similar_classes` returns by the classifier's weights.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where the map is the same everywhere.

    Raises:
        InputError: The classes or their probabilities are not known, scores lie outside 0..1 as logits do, there is one
            class alone, a class is its own rival, or as in `removal_curves`.
    """
    curves = relative_drop_curves(explained, scored, (share,), fill, rivals, ties, seed)
    return curves.score(curves.scores[..., 0])


def relative_drop_area(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    shares: Sequence[float] | int = STEPS,
    rivals: Rivals = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return the mean relative drop over all shares `k`, the area under `RD@k`; -2 to 2, higher is better.

    Args:
        explained: The maps.
        scored: The images, as in `relative_drop`.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels, or into how many equal steps all are divided.
        rivals: The class that each question's class stands against.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `relative_drop`.
    """
    return relative_drop_curves(explained, scored, shares, fill, rivals, ties, seed).area()


def relative_drop_curves(
    explained: Maps,
    scored: ScoredImages,
    shares: Sequence[float] | int = STEPS,
    fill: str = "mean",
    rivals: Rivals = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> RemovalCurves:
    """Return the relative drop at every share, for plots and for several shares from one run.

    Args:
        explained: The maps.
        scored: The images, as in `relative_drop`.
        shares: Shares of the pixels, or into how many equal steps all are divided.
        fill: What stands in the place of removed pixels.
        rivals: The class that each question's class stands against.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        Curves whose `scores` are relative drops; `whole` is the margin `p_c - p_d` of the whole image.

    Raises:
        InputError: As in `relative_drop`.
    """
    pairs = class_pairs(scored, rivals)
    if maps_for(explained, scored).shape[1] != pairs.classes.shape[1]:
        raise InputError(
            f"there are classes of {pairs.classes.shape[1]} questions; give one for each question of the maps"
        )
    steps = checked_shares(shares)
    maps, after, whole = removed_values(
        explained, scored, pairs.reading(scored), steps, fill, "highest", ties, seed, pairs.whole
    )
    margins, whole = after[..., :1] - after[..., 1:], whole[..., :1] - whole[..., 1:]
    drops = torch.where(ranked(maps).cpu()[..., None], whole - margins[..., 0], 0.0)
    return RemovalCurves(taken_shares(steps, scored), drops, whole[..., 0], ranked(maps).cpu(), fill, "highest")


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """The class of every question, the one that it stands against, and what the network says of both.

    Attributes:
        classes: The questions' classes.
        rivals: What they stand against.
        whole: The probabilities of both for the whole images, float64 on the CPU.
    """

    classes: Int[Tensor, "image question"]
    rivals: Int[Tensor, "image question"]
    whole: Float[Tensor, "image question pair"]

    def reading(self, scored: ScoredImages) -> Reading:
        """Return what reads the probabilities of a question's class and of its rival.

        Args:
            scored: The images, with the probabilities of all classes.
        """

        def read(outputs: Tensor, image: Tensor, question: Tensor) -> Float[Tensor, "variant pair"]:
            return outputs.gather(1, torch.stack([self.classes[image, question], self.rivals[image, question]], 1))

        return Reading(scored.run_classes, read)


def class_pairs(scored: ScoredImages, rivals: Rivals) -> ClassPairs:
    """Return the class of every question and the one that it stands against, from one run of the whole images.

    Args:
        scored: The images, with the class of each question.
        rivals: As in `relative_drop`.

    Raises:
        InputError: A class is not known, one that the network does not have, or its own rival.
        InputTypeError: Rivals are no integers, or `scored` is no `ScoredImages`.
    """
    check_scored(scored)
    if scored.classes is None:
        raise InputError("it is not known which class each question is about; give ScoredImages(..., classes=)")
    own = scored.classes.to(scored.images.device)
    if isinstance(rivals, str):
        if rivals != "highest":
            raise InputError(f"no rivals '{rivals}'; expected 'highest', or class indices, image question")
        seen = _probabilities(scored)
        _check_range(own, seen.shape[1])
        other = seen[:, None].expand(-1, own.shape[1], -1).scatter(2, own[..., None], -1.0).argmax(2)
    else:
        other = classes_in(rivals, "rivals").to(own.device)
        if other.shape != own.shape:
            raise InputError(f"rivals have shape {tuple(other.shape)}; expected {tuple(own.shape)}, image question")
        seen = _probabilities(scored)
        _check_range(torch.stack([own, other]), seen.shape[1])
        if bool((other == own).any()):
            raise InputError("a class cannot be its own rival; name another one for each question")
    return ClassPairs(own, other, torch.stack([seen.gather(1, own), seen.gather(1, other)], 2).double().cpu())


def _probabilities(scored: ScoredImages) -> Float[Tensor, "image class"]:
    rows = torch.arange(len(scored.images), device=scored.images.device)
    chunks = rows.split(variants_at_once(scored.images))
    return torch.cat([scored.run_classes(scored.images[part], part) for part in chunks])


def _check_range(classes: Int[Tensor, "..."], count: int) -> None:
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise InputError(f"a class is {int(wrong[0])}; the network gives probabilities of {count} classes")
