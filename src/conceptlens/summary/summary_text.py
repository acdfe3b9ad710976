"""A summary of a data set as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.pages.number_format import counted, number, signed
from conceptlens.summary.evidence_places import place_words

if TYPE_CHECKING:
    from conceptlens.statistics.bootstrap import Interval
    from conceptlens.summary.carrying_concepts import CarryingConcept
    from conceptlens.summary.data_summary import DataSummary
    from conceptlens.summary.shortcuts import Shortcut

MAX_CLASSES, MAX_CONCEPTS, MAX_PAIRS, MAX_SHORTCUTS, MAX_DRIFTING = 12, 4, 6, 8, 10


def summary_lines(summary: DataSummary) -> Iterator[str]:
    """Yield the lines that the command prints: shortcuts first, then classes, confusions and what has changed.

    Args:
        summary: The summary.
    """
    photos = summary.photos
    failed = f", {summary.failed} failed" if summary.failed else ""
    yield f"{counted(len(photos), 'photo')}{failed}, {counted(len(summary.classes), 'class')}"
    if photos.unit:
        yield f"contributions in {photos.unit}{f', over {photos.over}' if photos.over else ''}"
    yield from _labels(summary)
    yield from _shortcuts(summary)
    yield from _classes(summary)
    yield from _pairs(summary)
    yield from _drift(summary)


def unusual_words(one: Shortcut) -> str:
    """Say why a candidate is unusual for its class."""
    if one.unusual.reason == "exclusive":
        return f"in {percent(one.present)} of its photos, {percent(one.elsewhere)} of others"
    if one.unusual.reason == "surroundings":
        return f"scenes carry more than objects in {percent(one.unusual.most)} of its photos"
    return f"evidence where other classes have little ({number(one.unusual.most)} of 1)"


def region_words(region: tuple[float, float, float, float] | None) -> str:
    """Say where the middle of a region lies, or that it has no clear place or covers most of the photo."""
    if region is None:
        return "no clear place"
    left, top, right, bottom = region
    if (right - left) * (bottom - top) > 0.5:
        return "most of the photo"
    if right - left > 0.6:
        return ("upper edge", "across the middle", "lower edge")[min(int(1.5 * (top + bottom)), 2)]
    if bottom - top > 0.6:
        return ("left edge", "down the middle", "right edge")[min(int(1.5 * (left + right)), 2)]
    return place_words((left + right) / 2, (top + bottom) / 2)


def percent(share: float | None) -> str:
    """Return a share in percent."""
    return "–" if share is None else f"{100 * share:.0f}%"


def interval_words(value: Interval, enough: bool = True) -> str:
    """Return a mean with its interval, or with the word that there are too few photos for one."""
    spread = "" if value.low is None or not enough else f" [{number(value.low)}, {number(value.high)}]"
    return f"{signed(value.mean)}{spread}"


def _labels(summary: DataSummary) -> Iterator[str]:
    known = summary.confusion
    if known is not None:
        yield f"{known.right} of {counted(known.labelled, 'labelled photo')} are answered rightly"


def _shortcuts(summary: DataSummary) -> Iterator[str]:
    yield ""
    yield "What may be a shortcut"
    for number_, one in enumerate(summary.shortcuts[:MAX_SHORTCUTS], 1):
        share = "" if one.of_margin is None else f", {percent(one.of_margin)} of the margin"
        kind = "place with " if one.type == "place" else ""
        yield f"{number_:>3}  {one.class_name}: {kind}{one.label} ({region_words(one.region)})"
        yield f"     {interval_words(one.contribution)}{share}; {unusual_words(one)}"
    if not summary.shortcuts:
        yield "     too few photos of any class to say, or nothing that carries a class is unusual"


def _classes(summary: DataSummary) -> Iterator[str]:
    yield ""
    yield "What carries each class"
    for one in summary.classes[:MAX_CLASSES]:
        yield f"{one.name}: {counted(one.photos, 'photo')}{'' if one.enough else ', too few to say how sure'}"
        for concept in one.concepts[:MAX_CONCEPTS]:
            yield f"     {concept.label:<22} {_carried(concept, one.enough)}"
    if len(summary.classes) > MAX_CLASSES:
        yield f"     and {len(summary.classes) - MAX_CLASSES} more classes (--json or --out has all)"


def _carried(concept: CarryingConcept, enough: bool) -> str:
    place = "no clear place" if concept.place is None else place_words(concept.place.x, concept.place.y)
    spread = f"{interval_words(concept.contribution, enough):<22}"
    return f"{spread} in {percent(concept.present.mean):>4} of photos, {place}"


def _pairs(summary: DataSummary) -> Iterator[str]:
    if not summary.pairs:
        return
    labelled = summary.photos.labelled
    yield ""
    yield "What is mistaken for what" if labelled else "Close calls: the second class is at least half as likely"
    for one in summary.pairs[:MAX_PAIRS]:
        few = "" if one.enough else ", too few to say how sure"
        if labelled:
            yield f"{one.one} answered as {one.other}: {len(one.photos)} of {counted(one.of, 'photo')}{few}"
        else:
            yield f"{one.other}, nearly {one.one}: {len(one.photos)} of {counted(one.of, 'photo')}{few}"
        for concept in one.concepts[:MAX_CONCEPTS]:
            yield f"     {concept.label:<22} {interval_words(concept.contribution, one.enough)}"
        yield f"     such as {', '.join(Path(summary.photos.names[photo]).name for photo in one.photos[:3])}"


def _drift(summary: DataSummary) -> Iterator[str]:
    if summary.drift is None:
        return
    sure = [one for one in summary.drift.concepts if one.sure]
    yield ""
    yield f"What has changed against {summary.against}: {len(sure)} of {len(summary.drift.concepts)} comparisons"
    for one in sure[:MAX_DRIFTING]:
        ends = f"[{number(one.low)}, {number(one.high)}]"
        yield f"     {one.class_name}: {one.label} {signed(one.difference)} {ends}, p = {one.p_value:.2g}"
    if summary.drift.too_few:
        yield f"     too few photos to say of {', '.join(summary.drift.too_few[:5])}"
