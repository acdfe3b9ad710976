"""How many concepts: as many as are found again from another start and still explain photos that were held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from conceptlens.discovery.factorisation import explained_variance, factorise

if TYPE_CHECKING:
    from jaxtyping import Float

CANDIDATES = (5, 10, 15, 20, 30)
# Further fits of each count, each from another start and on another 80 % of the photos.
REPEATS, REPEATED_PART = 2, 0.8
MIN_STABILITY = 0.8
# What a larger count must explain more of the held-out variance than the last count that was taken.
MIN_GAIN = 0.01


@dataclass(frozen=True)
class Candidate:
    """One number of concepts that was tried.

    Attributes:
        count: How many concepts were asked for.
        explained: The share of the variance of held-out photos' cells that they explain, about the mean cell.
        stability: The mean cosine of each direction with the one that matches it best in another fit, 0 to 1.
        different: The mean cosine of two different directions of the fit: what stability is to be compared with.
    """

    count: int
    explained: float
    stability: float
    different: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The directions of one number of concepts, and how well each was found again.

    Attributes:
        candidate: What was measured.
        directions: Unit directions, fitted on all photos that were not held out.
        stability: For each direction the mean cosine with its match in the further fits.
    """

    candidate: Candidate
    directions: Float[Tensor, "concept channel"]
    stability: Float[Tensor, "concept"]


def fits(
    cells: Float[Tensor, "photo cell channel"],
    held_out: Float[Tensor, "photo cell channel"],
    counts: Sequence[int],
    seed: int = 0,
) -> Iterator[Fit]:
    """Fit each number of concepts, once on all photos and twice more from other starts on 80 % of them.

    Args:
        cells: Cells of the photos to fit on.
        held_out: Cells of other photos.
        counts: The numbers of concepts.
        seed: Of the random starts and of the parts of the photos.

    Yields:
        One fit for each number, in their order.
    """
    mean, rest = cells.flatten(0, 1).mean(0), held_out.flatten(0, 1)
    for count in counts:
        directions = factorise(cells.flatten(0, 1), count, seed)
        matched = []
        for repeat in range(1, REPEATS + 1):
            draw = np.random.default_rng([seed, repeat]).permutation(len(cells))
            part = cells[torch.from_numpy(np.sort(draw[: max(1, round(REPEATED_PART * len(cells)))]))]
            again = factorise(part.flatten(0, 1), min(count, part[..., 0].numel()), seed + repeat)
            matched.append(matched_cosines(directions, again))
        stability = torch.stack(matched).mean(0)
        candidate = Candidate(
            count, explained_variance(rest, directions, mean), float(stability.mean()), _different(directions)
        )
        yield Fit(candidate, directions, stability)


def choose(candidates: Sequence[Candidate]) -> int:
    """Return the index of the candidate that is taken: the last of `taken_in_turn`, else the most stable one.

    Args:
        candidates: By rising count; at least one.
    """
    taken = taken_in_turn(candidates)
    return taken[-1] if taken else max(range(len(candidates)), key=lambda i: candidates[i].stability)


def taken_in_turn(candidates: Sequence[Candidate]) -> list[int]:
    """Return the candidates that are taken one in place of the other, going through them from the smallest count.

    One is taken where its stability is at least `MIN_STABILITY`, and it explains at least `MIN_GAIN` more of the
    held-out variance than the last one taken.

    Args:
        candidates: By rising count.

    Returns:
        Their indices; none where no candidate is stable.
    """
    taken: list[int] = []
    for index, one in enumerate(candidates):
        enough = not taken or one.explained >= candidates[taken[-1]].explained + MIN_GAIN
        if one.stability >= MIN_STABILITY and enough:
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
    cosines = F.normalize(directions, dim=1) @ F.normalize(others, dim=1).T
    rows, columns = linear_sum_assignment(-cosines.numpy())
    found = torch.zeros(len(directions))
    found[torch.from_numpy(rows)] = cosines[torch.from_numpy(rows), torch.from_numpy(columns)]
    return found


def _different(directions: Float[Tensor, "concept channel"]) -> float:
    count = len(directions)
    cosines = directions @ directions.T
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1))) if count > 1 else 0.0
