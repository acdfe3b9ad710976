"""On which images methods are compared: those where each of them has a value of the metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conceptlens.evaluation.score_row import ScoreRow

# A metric and its fill; and an image, a question, and which of those of the same name it is.
Column = tuple[str, str]
Place = tuple[str, str, int]


@dataclass(frozen=True)
class ComparedMaps:
    """What one metric with one fill compares: the images and questions where all methods have a value.

    Attributes:
        places: These images and questions.
        total: How many there are.
        nowhere: How many are left out since no method has a value there.
        lacking: The methods that have no value for some of those where another one has.
        silent: The methods that have no value at all; the others are compared without them.
    """

    places: frozenset[Place]
    total: int
    nowhere: int = 0
    lacking: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """How many images and questions are left out."""
        return self.total - len(self.places)


def places_of(rows: Iterable[ScoreRow]) -> list[Place]:
    """Return what each row speaks of; two questions of one name are told apart by their order.

    Args:
        rows: The rows of an evaluation.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for row in rows:
        key = (row.method, row.metric, row.fill, row.image, row.question)
        found.append((row.image, row.question, seen[key]))
        seen[key] += 1
    return found


def compare_maps(rows: Sequence[ScoreRow]) -> dict[Column, ComparedMaps]:
    """Return what each metric with each fill compares.

    Args:
        rows: The rows of an evaluation.
    """
    known: dict[Column, dict[str, set[Place]]] = {}
    every: dict[Column, set[Place]] = {}
    for row, place in zip(rows, places_of(rows), strict=True):
        column = (row.metric, row.fill)
        every.setdefault(column, set()).add(place)
        own = known.setdefault(column, {}).setdefault(row.method, set())
        if row.value is not None:
            own.add(place)
    return {column: _compared(known[column], every[column]) for column in every}


def _compared(known: Mapping[str, set[Place]], every: set[Place]) -> ComparedMaps:
    speaking = {method: places for method, places in known.items() if places}
    anywhere = set().union(*speaking.values())
    common = anywhere.intersection(*speaking.values())
    lacking = tuple(method for method, places in speaking.items() if places != anywhere)
    silent = tuple(method for method in known if method not in speaking)
    return ComparedMaps(frozenset(common), len(every), len(every - anywhere), lacking, silent)


def comparison_remarks(compared: Mapping[Column, ComparedMaps], unit: str) -> list[str]:
    """Return in sentences what is left out of which metrics, and why.

    Args:
        compared: What each metric with each fill compares.
        unit: What is counted, "images" or "maps".
    """
    columns: dict[tuple[str, str], list[Column]] = {}
    for column, one in compared.items():
        verb = "has" if len(one.lacking) == 1 else "have"
        unlike = f"{_listed(one.lacking)} {verb} no value there, as where a map is the same everywhere"
        nowhere = one.nowhere if one.nowhere < one.total else 0  # else all methods are silent
        for count, why in ((one.left_out - one.nowhere, unlike), (nowhere, "no method has a value there")):
            if count:
                said = (f"{count} of {one.total} {unit} left out of ", f": {why}")
                columns.setdefault(said, []).append(column)
        if one.silent:
            columns.setdefault(("", f" has no value for any map of {_listed(one.silent)}"), []).append(column)
    return [f"{before}{_columns(several)}{after}" for (before, after), several in columns.items()]


def fill_remarks(columns: Iterable[Column]) -> list[str]:
    """Return a sentence where metrics that remove pixels were measured with one fill alone.

    Args:
        columns: Each metric with each of its fills.
    """
    fills: dict[str, set[str]] = {}
    for metric, fill in columns:
        if fill:
            fills.setdefault(metric, set()).add(fill)
    alone = {metric: next(iter(those)) for metric, those in fills.items() if len(those) == 1}
    if not alone:
        return []
    return [
        f"one fill alone ({', '.join(dict.fromkeys(alone.values()))}) for {', '.join(alone)}: fills disagree, and with "
        "another one methods may change places; give two, such as fills=['mean', 'blur']"
    ]


def _columns(columns: Sequence[Column]) -> str:
    fills: dict[str, list[str]] = {}
    for metric, fill in columns:
        fills.setdefault(metric, []).extend([fill] * bool(fill))
    return ", ".join(f"{metric} ({', '.join(several)})" if several else metric for metric, several in fills.items())


def _listed(methods: Sequence[str]) -> str:
    return ", ".join(f"'{method}'" for method in methods)
