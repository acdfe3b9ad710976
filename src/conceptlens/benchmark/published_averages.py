"""CE-FAM's own averages: of types of concepts, so that each counts the same, and of concepts that have a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.comparison_table import TextTable, measure_title
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.published_metrics import HIT, OWN_MAP, PUBLISHED
from conceptlens.pages.number_format import number
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from conceptlens.benchmark.comparison import ComparedMethod
    from conceptlens.benchmark.result_parts import PhotoRows

N_BOOTSTRAP = 1000


@dataclass(frozen=True)
class PublishedAverages:
    """Means of the means of types, by method and metric.

    Attributes:
        types: The types, and how many concepts in photos each has.
        matched: The share of concepts that each method has a map for.
        matchable: Over these concepts alone, but for hits, where a concept without a map is a miss: as published.
        every: Over all concepts, with the map that a method has at best.
    """

    types: Mapping[str, int]
    matched: Mapping[str, float]
    matchable: Mapping[str, Mapping[str, Interval]]
    every: Mapping[str, Mapping[str, Interval]]


def published_averages(photos: Iterable[PhotoRows], methods: Sequence[str]) -> PublishedAverages | None:
    """Return CE-FAM's averages of a run; `None` where the columns were not measured.

    Args:
        photos: What `read_photos` yields.
        methods: The methods.
    """
    values: dict[tuple[str, str], dict[tuple[int, str], float | None]] = {}
    for photo in photos:
        for row in photo.values:
            known = values.setdefault((row.method, row.metric), {})
            known[photo.index, row.question] = row.value
    metrics = [metric for metric in PUBLISHED if any((name, metric) in values for name in methods)]
    if not metrics:
        return None
    shown = [name for name in methods if (name, metrics[0]) in values]
    matched = {
        name: {key: values.get((name, OWN_MAP), {}).get(key, 1.0) == 1.0 for key in values[name, metrics[0]]}
        for name in shown
    }
    types: dict[str, int] = {}
    for _, question in matched[shown[0]]:
        types[_type_of(question)] = types.get(_type_of(question), 0) + 1

    def means(own: Callable[[str, str, tuple[int, str], float], float | None]) -> dict[str, dict[str, Interval]]:
        found: dict[str, dict[str, Interval]] = {}
        for name in shown:
            found[name] = {}
            for metric in metrics:
                pairs = [
                    (key, kept)
                    for key, value in values[name, metric].items()
                    if value is not None and (kept := own(name, metric, key, value)) is not None
                ]
                if pairs:
                    found[name][metric] = bootstrap_macro_mean(
                        [value for _, value in pairs], [_type_of(key[1]) for key, _ in pairs],
                        [key[0] for key, _ in pairs], N_BOOTSTRAP,
                    )  # fmt: skip
        return found

    def as_published(name: str, metric: str, key: tuple[int, str], value: float) -> float | None:
        if matched[name][key]:
            return value
        return 0.0 if metric == HIT else None

    shares = {name: sum(own.values()) / len(own) for name, own in matched.items()}
    return PublishedAverages(types, shares, means(as_published), means(lambda name, metric, key, value: value))


def averages_tables(found: PublishedAverages, methods: Sequence[ComparedMethod]) -> tuple[TextTable, ...]:
    """Return the averages as tables; one where every method has a map of every concept.

    Args:
        found: The averages.
        methods: The methods, in the order of the table, controls last.
    """
    ordered = [one for one in sorted(methods, key=lambda one: one.control) if one.name in found.matched]
    whole = all(share == 1 for share in found.matched.values())
    kinds = f"mean of the means of {len(found.types)} types ({', '.join(sorted(found.types))})"
    titles = [(f"{kinds}, all concepts", found.every)]
    if not whole:
        published = f"{kinds}, concepts with a map; of hits, all concepts: as CE-FAM averages"
        titles = [(published, found.matchable), *titles]
    metrics = list(dict.fromkeys(name for own in found.every.values() for name in own))
    heading = ("method", "concepts with a map", *(measure_title(Measure(name)) for name in metrics))

    def row(one: ComparedMethod, table: Mapping[str, Mapping[str, Interval]]) -> tuple[str, ...]:
        cells = [_cell(table[one.name].get(name)) for name in metrics]
        return (one.title, f"{100 * found.matched[one.name]:.0f} %", *cells)

    controls = sum(one.control for one in ordered)
    return tuple(
        TextTable(title, heading, tuple(row(one, table) for one in ordered), controls) for title, table in titles
    )


def averages_json(found: PublishedAverages) -> dict[str, Any]:
    """Return the averages as JSON's own types.

    Args:
        found: The averages.
    """

    def cells(table: Mapping[str, Interval]) -> dict[str, Any]:
        return {metric: asdict(interval) for metric, interval in table.items()}

    return {
        "types": dict(found.types),
        "methods": [
            {"name": name, "matched": share, "matchable": cells(found.matchable[name]), "all": cells(found.every[name])}
            for name, share in found.matched.items()
        ],
    }


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    text = number(interval.mean, 3)
    return text if interval.low is None else f"{text} [{number(interval.low, 3)}, {number(interval.high, 3)}]"


def _type_of(question: str) -> str:
    """Return the type of a concept, as rows call it: `tail:part`."""
    return question.rpartition(":")[2]
