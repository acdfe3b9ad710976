"""RFxG: does a map answer the question that was asked, about a class, a class against another, or groups of classes?

Elisha et al., AAAI 2026 (arXiv 2511.13081), cross two axes: is a question about one thing or against another, and about
a class or a group of classes ("husky", "dog")? Their four scores are areas under a curve while the map's highest pixels
turn black, from 10 % to 90 %. The formulas here are those of the authors' released code, for the paper's own text was
not at hand; where the code is surprising, the function says so. All are sums of changes of probability, not divided by
the width 0.8 of their range. `group_relative_drop` is this package's: Finer-CAM's relative drop with groups in the
place of both classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import classes_in, tensor_of
from conceptlens.metrics.pixel_removal import listed_shares, removed_values, taken_shares
from conceptlens.metrics.removal_order import TieOrder, maps_for, ranked
from conceptlens.metrics.scored_images import check_scored
from conceptlens.metrics.variant_runs import Reading
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

    Groups = Bool[Tensor, "image question class"]

RFXG_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def contrastive_class_score(
    explained: Maps,
    scored: ScoredImages,
    rivals: Int[Tensor, "image question"],
    fill: str = "black",
    shares: Sequence[float] = RFXG_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return RFxG's CCS, the area under `p*_a - p*_b`; -0.8 to 0.8, lower is better for a map of `a` against `b`.

    It is not compared with the whole image, so it tells maps of one image apart, not images.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes, and the class `a` of each question.
        rivals: The class `b`.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: A class or the probabilities are not known, a class is its own rival, scores are no probabilities,
            or as in `removal_curves`.
    """
    asked = _classes_of(scored)
    own, other = _one_hot(scored, asked), _one_hot(scored, rivals)
    if own.shape == other.shape and bool((own & other).any()):
        raise InputError("a class cannot be its own rival; name another one for each question")
    return _area(explained, scored, [own, other], lambda before, after: after[0] - after[1], fill, shares, ties, seed)


def class_group_score(
    explained: Maps,
    scored: ScoredImages,
    groups: Groups,
    fill: str = "black",
    shares: Sequence[float] = RFXG_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return RFxG's CGC, the area under the mean of two changes, of a class and of its group; lower is better.

    `((p*_a - p_a) + mean over the group of (p*_k - p_k)) / 2`, -0.8 to 0.8. The released code adds both changes, so a
    map does well that removes the class and its group alike.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes, and the class `a` of each question.
        groups: The classes of each question's group.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where a group is empty.

    Raises:
        InputError: As in `contrastive_class_score`, or groups have another shape.
    """
    sets = [_one_hot(scored, _classes_of(scored)), groups]
    return _area(explained, scored, sets, lambda p, q: (q[0] - p[0] + q[1] - p[1]) / 2, fill, shares, ties, seed)


def pointwise_group_score(
    explained: Maps,
    scored: ScoredImages,
    groups: Groups,
    fill: str = "black",
    shares: Sequence[float] = RFXG_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return RFxG's PGS, the area under the mean fall of a group, `mean of (p_k - p*_k)`; -0.8 to 0.8, higher is
    better.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes.
        groups: The classes of each question's group.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where a group is empty.

    Raises:
        InputError: As in `class_group_score`.
    """
    return _area(explained, scored, [groups], lambda before, after: before[0] - after[0], fill, shares, ties, seed)


def contrastive_group_score(
    explained: Maps,
    scored: ScoredImages,
    groups: Groups,
    rival_groups: Groups,
    fill: str = "black",
    shares: Sequence[float] = RFXG_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return RFxG's CGS, the area under the mean of two changes, of two groups; -0.8 to 0.8, lower is better.

    `(mean over A of (p*_k - p_k) + mean over B of (p*_k - p_k)) / 2`, as the released code has it. That is
    `-(PGS of A + PGS of B) / 2`, and of PGS higher is better: it is low where the removed pixels speak for both groups.
    A and B may change places, so it does not contrast them; `group_relative_drop` does.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes.
        groups: The classes of each question's group A.
        rival_groups: Those of group B.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where a group is empty.

    Raises:
        InputError: As in `class_group_score`, or a group is its own rival.
    """
    sets = _rival_sets(groups, rival_groups)
    return _area(explained, scored, sets, lambda p, q: (q[0] - p[0] + q[1] - p[1]) / 2, fill, shares, ties, seed)


def group_relative_drop(
    explained: Maps,
    scored: ScoredImages,
    groups: Groups,
    rival_groups: Groups,
    fill: str = "black",
    shares: Sequence[float] = RFXG_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return the area under how much more a group falls than its rival: `(p_A - p*_A) - (p_B - p*_B)`, higher is
    better.

    Means over groups as in the other scores, -1.6 to 1.6; a group of one class is a class, so this asks any of RFxG's
    questions: husky against malamute, husky against other dogs, dogs against cats. This package's own, Finer-CAM's
    relative drop of groups.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes.
        groups: The classes of each question's group A.
        rival_groups: Those of group B.
        fill: What stands in the place of removed pixels.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where a group is empty.

    Raises:
        InputError: As in `class_group_score`, or a group is its own rival.
    """
    sets = _rival_sets(groups, rival_groups)
    return _area(explained, scored, sets, lambda p, q: (p[0] - q[0]) - (p[1] - q[1]), fill, shares, ties, seed)


def _rival_sets(groups: Groups, rival_groups: Groups) -> list[Groups]:
    """Return groups and their rivals, and refuse a group that is its own."""
    own, other = tensor_of(groups, "groups"), tensor_of(rival_groups, "groups")
    if own.shape == other.shape and own.ndim == 3:
        same = (own == other.to(own.device)).all(2) & own.any(2)
        if bool(same.any()):
            raise InputError("a group cannot be its own rival; name another one for each question")
    return [own, other]


def _area(
    explained: Maps,
    scored: ScoredImages,
    sets: Sequence[Groups],
    measure: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor],
    fill: str,
    shares: Sequence[float],
    ties: TieOrder,
    seed: int,
) -> Score:
    """Return the area under a measure of the groups' mean probabilities before and after."""
    maps = maps_for(explained, scored)
    groups = [_checked_group(given, maps, scored) for given in sets]

    def read(outputs: Tensor, image: Tensor, question: Tensor) -> Tensor:
        members = [group[image, question] for group in groups]
        if outputs.shape[1] != members[0].shape[1]:
            raise InputError(f"groups are of {members[0].shape[1]} classes; the network gives {outputs.shape[1]}")
        means = [(outputs * inside).sum(1) / inside.sum(1).clamp_min(1) for inside in members]
        return torch.stack(means, 1)

    steps = listed_shares(shares)
    if len(steps) < 2:
        raise InputError("an area needs at least two shares; there is one")
    _, after, before = removed_values(
        explained, scored, Reading(scored.run_classes, read), steps, fill, "highest", ties, seed
    )
    curve = measure(before[:, :, None].unbind(3), after.unbind(3))
    applies = ranked(maps).cpu()
    for group in groups:
        applies = applies & group.any(2).cpu()
    area = torch.trapezoid(curve, taken_shares(steps, scored), dim=2)
    return Score(torch.where(applies, area, 0.0), applies, fill=fill)


def _checked_group(given: Groups, maps: Float[Tensor, "image question height width"], scored: ScoredImages) -> Groups:
    group = tensor_of(given, "groups").to(scored.images.device)
    if group.dtype != torch.bool or group.ndim != 3 or group.shape[:2] != maps.shape[:2]:
        raise InputError(
            f"groups have shape {tuple(group.shape)} and type {group.dtype}; expected bool, image question class, for "
            f"{tuple(maps.shape[:2])} maps"
        )
    return group


def _classes_of(scored: ScoredImages) -> Int[Tensor, "image question"]:
    check_scored(scored)
    if scored.classes is None:
        raise InputError("it is not known which class each question is about; give ScoredImages(..., classes=)")
    return scored.classes


def _one_hot(scored: ScoredImages, classes: Int[Tensor, "image question"]) -> Groups:
    """Return each class as a group of one."""
    classes = classes_in(classes, "classes")
    rows = torch.arange(1, device=scored.images.device)
    count = scored.run_classes(scored.images[:1], rows).shape[1]
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise InputError(f"a class is {int(wrong[0])}; the network gives probabilities of {count} classes")
    return torch.nn.functional.one_hot(classes, count).bool()
