"""Photos to look at: the best, median and worst of a method, with the maps of the other methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from conceptlens.data.masked_set import read_named
from conceptlens.localization.methods import Method
from conceptlens.localization.result_rows import Row

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from PIL import Image

    from conceptlens.data.masked_set import MaskedSet

Kind = Literal["best", "median", "worst"]
KINDS: tuple[Kind, ...] = ("best", "median", "worst")
RANKING_METRIC = "ranked_area_corrected"
CASES_PER_KIND = 3


@dataclass(frozen=True)
class Case:
    """One photo and concept, and every method's row of it; the first is the method the case was chosen for."""

    kind: Kind
    rows: tuple[Row, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """The photo and the concept."""
        return _key(self.rows[0])


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case with its photo, the concept's mask over the whole photo, and each method's raw map over `box`."""

    case: Case
    photo: Image.Image
    mask: Bool[np.ndarray, "rows columns"] = field(repr=False)
    maps: Mapping[str, Float[np.ndarray, "height width"]] = field(repr=False)
    signed: Mapping[str, bool]
    box: tuple[float, float, float, float]


def choose_cases(rows: Iterable[Row], method: str) -> tuple[Case, ...]:
    """Choose photos to look at: the best, median and worst of a method by NRA above chance, no photo twice in a kind.

    Args:
        rows: What `evaluate_localization` yields; methods that chose with the mask are left out.
        method: The method that is ranked.

    Returns:
        The cases, best first, each with the rows of the other methods: three of each kind, fewer where there are fewer
        than three times as many pairs.
    """
    by_key: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.applies and not row.oracle:
            by_key.setdefault(_key(row), []).append(row)
    own = [row for group in by_key.values() for row in group if row.method == method]
    ordered = sorted(own, key=lambda row: -(row.scores[RANKING_METRIC] or 0.0))
    middle = sorted(range(len(ordered)), key=lambda index: abs(index - (len(ordered) - 1) / 2))
    orders = {"best": ordered, "median": [ordered[index] for index in middle], "worst": ordered[::-1]}
    taken: set[tuple[str, str, str]] = set()
    cases: list[Case] = []
    for kind in ("best", "worst", "median"):
        for row in _first_of_photos(orders[kind], taken, min(CASES_PER_KIND, max(1, len(ordered) // 3))):
            taken.add(_key(row))
            others = [other for other in by_key[_key(row)] if other.method != method]
            cases.append(Case(kind, (row, *others)))
    return tuple(sorted(cases, key=lambda case: KINDS.index(case.kind)))


def load_cases(data: MaskedSet, methods: Mapping[str, Method], cases: Sequence[Case]) -> Iterator[LoadedCase]:
    """Read the photos of cases again and compute every method's map.

    Args:
        data: The set that was evaluated.
        methods: The methods of the rows, by name.
        cases: What `choose_cases` returned.

    Yields:
        The cases with their images, in the order of the set.
    """
    wanted: dict[str, list[Case]] = {}
    for case in cases:
        wanted.setdefault(case.key[0], []).append(case)
    for one in read_named(data, list(wanted)):
        for case in wanted[one.name]:
            concept = next(c for c in one.concepts if (c.label, c.type) == case.key[1:])
            mask = one.masks[one.concepts.index(concept)]
            given = {row.method: methods[row.method](one.photo, [concept]) for row in case.rows}
            maps = {name: explained.maps[0, 0].float().cpu().numpy() for name, explained in given.items()}
            signed = {name: explained.signed for name, explained in given.items()}
            box = next(iter(given.values())).source.image_info[0].box
            yield LoadedCase(case, one.photo, mask, maps, signed, box)


def _key(row: Row) -> tuple[str, str, str]:
    return row.photo, row.concept, row.type


def _first_of_photos(rows: Sequence[Row], taken: set[tuple[str, str, str]], count: int) -> list[Row]:
    """Return the first rows of different photos that are not taken yet."""
    found: dict[str, Row] = {}
    for row in rows:
        if len(found) == count:
            break
        if _key(row) not in taken:
            found.setdefault(row.photo, row)
    return list(found.values())
