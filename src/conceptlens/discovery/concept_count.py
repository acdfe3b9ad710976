"""How many concepts: those found again and shared by several photos, as far as they explain photos held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.discovery.factorisation import coefficients, explained_variance, factorise

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

CANDIDATES = (5, 10, 15, 20, 30)
# Further fits of each count, each from another start and on another 80 % of the photos.
REPEATS, REPEATED_PART = 2, 0.8
# The least cosine, averaged over the further fits, at which a direction counts as found again.
MIN_STABILITY = 0.8
# The least number of photos that share a direction; below it, the direction is a picture of one of them.
MIN_SHARED = 5.0
# What a larger count must explain more of the held-out variance than the last count that was taken.
MIN_GAIN = 0.01


@dataclass(frozen=True)
class Candidate:
    """One number of concepts that was tried.

    Attributes:
        count: How many concepts were fitted.
        kept: How many of them are kept; 0 where none is found again and shared.
        explained: The share of the variance of held-out photos' cells that those kept explain, about the mean cell; of
            all of them where none is kept.
        stability: The mean over all that were fitted of what `Fit.stability` says of each, 0 to 1.
        different: The mean cosine of two different directions of the fit: what stability is to be compared with.
    """

    count: int
    kept: int
    explained: float
    stability: float
    different: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The directions of one number of concepts that are kept, and how well each was found again.

    Attributes:
        candidate: What was measured.
        directions: Unit directions, fitted on all photos that were not held out.
        stability: For each direction the mean cosine with its match in the further fits.
        shared: For each direction the number of photos that share it (`sharing_photos`).
    """

    candidate: Candidate
    directions: Float[Tensor, "concept channel"]
    stability: Float[Tensor, "concept"]
    shared: Float[Tensor, "concept"]


def fits(
    cells: Float[Tensor, "photo cell channel"],
    held_out: Float[Tensor, "photo cell channel"],
    counts: Sequence[int],
    seed: int = 0,
    keep_all: bool = False,
) -> Iterator[Fit]:
    """Fit each number of concepts, once on all photos and twice more from other starts on 80 % of them.

    Directions are kept that are found again and shared by several photos: a flexible factorisation spends directions
    on single photos, which it finds again wherever the photo takes part. Where none is, all are kept.

    Args:
        cells: Cells of the photos to fit on.
        held_out: Cells of other photos.
        counts: The numbers of concepts.
        seed: Of the random starts and of the parts of the photos.
        keep_all: Keep every direction.

    Yields:
        One fit for each number, in their order.
    """
    mean, rest = cells.flatten(0, 1).mean(0), held_out.flatten(0, 1)
    for count in counts:
        directions = factorise(cells.flatten(0, 1), count, seed)
        stability, shared = _found_again(cells, directions, seed), sharing_photos(cells, directions)
        kept = found_concepts(stability, shared)
        kept = torch.ones_like(kept) if keep_all else kept
        number = int(kept.sum())
        kept = kept if number else torch.ones_like(kept)
        candidate = Candidate(
            count,
            number,
            explained_variance(rest, directions[kept], mean),
            float(stability.mean()),
            _different(directions),
        )
        yield Fit(candidate, directions[kept], stability[kept], shared[kept])


def found_concepts(stability: Float[Tensor, "concept"], shared: Float[Tensor, "concept"]) -> Bool[Tensor, "concept"]:
    """Return whether each direction is found again and shared by enough photos."""
    return (stability >= MIN_STABILITY) & (shared >= MIN_SHARED)


def sharing_photos(
    cells: Float[Tensor, "photo cell channel"], directions: Float[Tensor, "concept channel"]
) -> Float[Tensor, "concept"]:
    """Return how many photos share each direction: `(sum_p e_p)^2 / sum_p e_p^2`, its participation ratio.

    `e_p` is the sum of its squared coefficients over the cells of photo `p`. It is 1 where one photo has all of it, and
    the number of photos where all have the same.

    Args:
        cells: Cells of photos.
        directions: The directions.
    """
    found = coefficients(cells.flatten(0, 1), directions).unflatten(0, cells.shape[:2])
    energy = found.square().sum(1)
    return energy.sum(0).square() / energy.square().sum(0).clamp_min(1e-12)


def choose(candidates: Sequence[Candidate]) -> int:
    """Return the index of the candidate that is taken.

    It is the last of `taken_in_turn`; where that has none, the most stable candidate.

    Args:
        candidates: By rising count; at least one.
    """
    taken = taken_in_turn(candidates)
    return taken[-1] if taken else max(range(len(candidates)), key=lambda i: candidates[i].stability)


def taken_in_turn(candidates: Sequence[Candidate]) -> list[int]:
    """Return the candidates that are taken one in place of the other, going through them from the smallest count.

    One is taken where some of its concepts are kept, and these explain at least `MIN_GAIN` more of the held-out
    variance than those of the last one taken.

    Args:
        candidates: By rising count.

    Returns:
        Their indices; none where no candidate has concepts that are kept.
    """
    taken: list[int] = []
    for index, one in enumerate(candidates):
        if one.kept and (not taken or one.explained >= candidates[taken[-1]].explained + MIN_GAIN):
            taken.append(index)
    return taken


def matched_cosines(
    directions: Float[Tensor, "concept channel"], others: Float[Tensor, "other channel"]
) -> Float[Tensor, "concept"]:
    """Return each direction's cosine with its match in another fit, by the matching of the largest sum.

    Args:
        directions: Directions of one fit.
        others: Directions of another.

    Returns:
        Cosines; 0 for a direction that is left without a match.
    """
    from scipy.optimize import linear_sum_assignment  # half a second to load

    cosines = F.normalize(directions, dim=1) @ F.normalize(others, dim=1).T
    rows, columns = linear_sum_assignment(-cosines.numpy())
    found = torch.zeros(len(directions))
    found[torch.from_numpy(rows)] = cosines[torch.from_numpy(rows), torch.from_numpy(columns)]
    return found


def _found_again(
    cells: Float[Tensor, "photo cell channel"], directions: Float[Tensor, "concept channel"], seed: int
) -> Float[Tensor, "concept"]:
    """Return the mean cosine of each direction with its match in the further fits."""
    matched = []
    for repeat in range(1, REPEATS + 1):
        order = np.random.default_rng([seed, repeat]).permutation(len(cells))
        part = np.sort(order[: max(1, round(REPEATED_PART * len(cells)))])
        own = cells[torch.from_numpy(part)].flatten(0, 1)
        again = factorise(own, min(len(directions), *own.shape), seed + repeat)
        matched.append(matched_cosines(directions, again))
    return torch.stack(matched).mean(0)


def _different(directions: Float[Tensor, "concept channel"]) -> float:
    count = len(directions)
    cosines = directions @ directions.T
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1))) if count > 1 else 0.0
