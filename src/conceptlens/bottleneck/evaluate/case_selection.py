"""What a report of a bottleneck shows: classes, photos, pairs and errors, with the sums that make each answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.evaluate.case_contributions import (
    ClassCase,
    ErrorCase,
    MisleadingConcepts,
    PairCase,
    PhotoCase,
    class_case,
    error_case,
    misleading_concepts,
    pair_case,
    photo_case,
)
from conceptlens.io.errors import InputError, near_names

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck

MAX_PAIRS = 3
MAX_CONCEPTS_OF_PAIR = 4  # concepts of a pair or an error that are shown, at the most


@dataclass(frozen=True)
class CaseSelection:
    """Which cases a report shows; a tuple that is empty is chosen by the data.

    Args:
        classes: Names; by default the two with the highest accuracy and the two with the lowest.
        pairs: Pairs of class names; by default the three that are confused most often.
        photos: Names of photos, or ends of names; by default right and wrong predictions.
        max_photos: How many photos are chosen, and how many errors are shown.
        max_concepts: How many concepts of each case are shown.
    """

    classes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    photos: tuple[str, ...] = ()
    max_photos: int = 6
    max_concepts: int = 6


@dataclass(frozen=True)
class SelectedCases:
    """Cases of a report. `confusions`: `(true, predicted, photos)`, most photos first. `wrong`: how many are wrong."""

    classes: tuple[ClassCase, ...]
    photos: tuple[PhotoCase, ...]
    pairs: tuple[PairCase, ...]
    errors: tuple[ErrorCase, ...]
    confusions: tuple[tuple[int, int, int], ...]
    wrong: int
    misleading: MisleadingConcepts

    def needed(self) -> dict[int, set[int]]:
        """Return which concepts' maps are shown of each row."""
        found: dict[int, set[int]] = {}
        for case in self.classes:
            for term, rows in zip(case.terms, case.prototypes, strict=True):
                for row in rows:
                    found.setdefault(row, set()).add(term.concept)
        for one in self.photos:
            found.setdefault(one.row, set()).update(term.concept for term in one.terms)
        for pair in self.pairs:
            for row in pair.rows:
                if row is not None:
                    found.setdefault(row, set()).update(term.concept for term in pair.terms)
        for error in self.errors:
            found.setdefault(error.row, set()).update(term.concept for term in error.terms)
        return found


def select_cases(bottleneck: Bottleneck, table: BottleneckTable, choice: CaseSelection) -> SelectedCases:
    """Return the cases that a report shows.

    Args:
        bottleneck: The bottleneck.
        table: What it reads in the photos of a set.
        choice: Which cases are shown.

    Raises:
        InputError: A class or photo is unknown, or a pair is one class.
    """
    wrong = (table.predicted != table.classes).nonzero()[:, 0]
    confusions = _confusions(table, wrong)
    classes = [bottleneck.class_index(name) for name in choice.classes] or _classes(table, len(bottleneck.classes))
    pairs = [_two(bottleneck, pair) for pair in choice.pairs] or _pairs(table, confusions)
    rows = [find_photo(table.names, name) for name in choice.photos] or _photos(table, classes, choice.max_photos)
    errors = _errors(table, confusions, pairs if choice.pairs else [], choice.max_photos)
    misleading = misleading_concepts(bottleneck, table, wrong)
    return SelectedCases(
        classes=tuple(class_case(bottleneck, table, k, choice.max_concepts) for k in dict.fromkeys(classes)),
        photos=tuple(photo_case(bottleneck, table, row, choice.max_concepts) for row in dict.fromkeys(rows)),
        pairs=tuple(
            pair_case(bottleneck, table, a, b, min(choice.max_concepts, MAX_CONCEPTS_OF_PAIR)) for a, b in pairs
        ),
        errors=tuple(
            error_case(bottleneck, table, row, min(choice.max_concepts, MAX_CONCEPTS_OF_PAIR)) for row in errors
        ),
        confusions=confusions,
        wrong=len(wrong),
        misleading=misleading,
    )


def find_photo(names: Sequence[str], name: str) -> int:
    """Return the index of a photo, by its whole name or by an end of it that only one has."""
    ends = [index for index, own in enumerate(names) if own.endswith(name)]
    if name not in names and len(ends) != 1:
        reason = f"{len(ends)} photos' names end in {name!r}" if ends else f"there is no photo {name!r}"
        raise InputError(f"{reason}; {near_names(name, names)}")
    return names.index(name) if name in names else ends[0]


def _confusions(table: BottleneckTable, wrong: Tensor) -> tuple[tuple[int, int, int], ...]:
    times = Counter(zip(table.classes[wrong].tolist(), table.predicted[wrong].tolist(), strict=True))
    return tuple((a, b, count) for (a, b), count in sorted(times.items(), key=lambda one: (-one[1], one[0])))


def _classes(table: BottleneckTable, count: int) -> list[int]:
    """Return the two classes that are recognised best and the two that are recognised worst, of those with photos."""
    own = table.classes.bincount(minlength=count)
    right = table.classes[table.predicted == table.classes].bincount(minlength=count)
    some = own.nonzero()[:, 0].tolist()
    ranked = sorted(some, key=lambda k: (-float(right[k] / own[k]), -int(own[k]), k))
    return ranked if len(ranked) <= 4 else [*ranked[:2], *ranked[-2:]]


def _two(bottleneck: Bottleneck, pair: tuple[str, str]) -> tuple[int, int]:
    a, b = (bottleneck.class_index(name) for name in pair)
    if a == b:
        raise InputError(f"the pair {pair[0]!r} and {pair[1]!r} is one class; give two")
    return a, b


def _pairs(table: BottleneckTable, confusions: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return the classes that are confused most, either way; where none is, those that come second most often."""
    times: Counter[tuple[int, int]] = Counter()
    for a, b, count in confusions:
        times[min(a, b), max(a, b)] += count
    if not times:
        second = table.logits.topk(2, dim=1).indices[:, 1].tolist()
        times.update((min(a, b), max(a, b)) for a, b in zip(table.classes.tolist(), second, strict=True))
    found = sorted(times.items(), key=lambda one: (-one[1], one[0]))[:MAX_PAIRS]
    counts = Counter({(a, b): count for a, b, count in confusions})
    return [(a, b) if counts[a, b] >= counts[b, a] else (b, a) for (a, b), _ in found]


def _photos(table: BottleneckTable, classes: Sequence[int], count: int) -> list[int]:
    """Return rows: the usual right photo of the classes shown and then of others, and the surest wrong ones last."""
    right = table.predicted == table.classes
    n_other = [k for k in table.classes.unique().tolist() if k not in classes]
    usual = [_usual(table, (table.classes == k) & right) for k in (*classes, *n_other)]
    surest = torch.where(right, -torch.inf, _margins(table)).argsort(descending=True, stable=True).tolist()
    sure = [row for row in surest if not bool(right[row])]
    wrong = sure[: count // 3]
    return [*[row for row in usual if row is not None][: count - len(wrong)], *wrong]


def _errors(
    table: BottleneckTable, confusions: Sequence[tuple[int, int, int]], pairs: Sequence[tuple[int, int]], count: int
) -> list[int]:
    """Return the usual photo of each of the commonest confusions, those of `pairs` first."""
    wanted = {frozenset(pair) for pair in pairs}
    ordered = sorted(confusions, key=lambda one: frozenset(one[:2]) not in wanted)[:count]
    found = [_usual(table, (table.classes == a) & (table.predicted == b)) for a, b, _ in ordered]
    return [row for row in found if row is not None]


def _usual(table: BottleneckTable, among: Tensor) -> int | None:
    """Return the row whose margin is the median of those chosen."""
    rows = among.nonzero()[:, 0]
    return int(rows[_margins(table)[rows].argsort(stable=True)[len(rows) // 2]]) if len(rows) else None


def _margins(table: BottleneckTable) -> Float[Tensor, "photo"]:
    """Return by how much the highest logit is above the second."""
    best = table.logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]
