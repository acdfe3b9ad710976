"""A summary of a data set as a JSON document: `conceptlens.summarize/1`."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING, Any

from conceptlens.statistics.multiple_comparisons import MIN_IMAGES

if TYPE_CHECKING:
    from conceptlens.statistics.bootstrap import Interval
    from conceptlens.summary.carrying_concepts import CarryingConcept, PlaceOfConcept
    from conceptlens.summary.confused_classes import ConfusedPair
    from conceptlens.summary.data_summary import DataSummary
    from conceptlens.summary.drift import DriftingConcept
    from conceptlens.summary.shortcuts import Shortcut

SCHEMA = "conceptlens.summarize/1"
MAX_CONCEPTS, MAX_SHORTCUTS, MAX_DRIFTING = 10, 50, 200


def summary_json(summary: DataSummary) -> dict[str, Any]:
    """Return a summary as JSON holds it; a number that is not known is `None`.

    Args:
        summary: The summary.
    """
    photos = summary.photos
    known = summary.confusion
    return {
        "schema": SCHEMA,
        "run": photos.run.id,
        "model": photos.run.settings.get("model"),
        "photos": len(photos),
        "failed": summary.failed,
        "unit": photos.unit or None,
        "over": photos.over or None,
        "enough_photos": MIN_IMAGES,
        "classes": [
            {
                "class": one.name,
                "photos": one.photos,
                "enough": one.enough,
                "margin": number(one.margin),
                "concepts": [_concept(concept, one.enough) for concept in one.concepts[:MAX_CONCEPTS]],
            }
            for one in summary.classes
        ],
        "labels": None
        if known is None
        else {
            "labelled": known.labelled,
            "right": known.right,
            "confusion": [
                {"true": true, "answer": answer, "photos": count}
                for (true, answer), count in sorted(known.counts.items(), key=lambda pair: (-pair[1], pair[0]))
            ],
        },
        "confused": {
            "by": "labels" if photos.labelled else "close calls",
            "pairs": [_pair(summary, one) for one in summary.pairs],
        },
        "shortcuts": [_shortcut(summary, one) for one in summary.shortcuts[:MAX_SHORTCUTS]],
        "resting_on_scene": _names(summary, summary.resting_on_scene),
        "drift": _drift(summary),
    }


def interval_json(value: Interval, enough: bool = True) -> dict[str, float | None]:
    """Return a mean with its interval, whose ends are `None` where there are too few photos.

    Args:
        value: The mean with its interval.
        enough: Whether there are enough photos.
    """
    low, high = (value.low, value.high) if enough else (None, None)
    return {"mean": number(value.mean), "low": number(low), "high": number(high)}


def number(value: float | None) -> float | None:
    """Return a number with five digits; `None` for one that is not finite."""
    return float(f"{value:.5g}") if value is not None and isfinite(value) else None


def _concept(one: CarryingConcept, enough: bool) -> dict[str, Any]:
    return {
        "label": one.label,
        "type": one.type,
        "photos": one.shown,
        "present": interval_json(one.present, enough),
        "contribution": interval_json(one.contribution, enough),
        "of_margin": number(one.of_margin),
        "place": _place(one.place),
    }


def _place(place: PlaceOfConcept | None) -> dict[str, Any] | None:
    if place is None:
        return None
    spread, peak = (place.spread_x, place.spread_y), (place.x, place.y)
    return {"peak": [*map(number, peak)], "spread": [*map(number, spread)], "area": number(place.area)}


def _pair(summary: DataSummary, one: ConfusedPair) -> dict[str, Any]:
    return {
        "class": one.one,
        "answered": one.other,
        "photos": len(one.photos),
        "of": one.of,
        "enough": one.enough,
        "concepts": [
            {
                "label": concept.label,
                "type": concept.type,
                "contribution": interval_json(concept.contribution, one.enough),
                "present": number(concept.present),
                "present_otherwise": number(concept.present_otherwise),
            }
            for concept in one.concepts
        ],
        "images": _names(summary, one.photos[:100]),
    }


def _shortcut(summary: DataSummary, one: Shortcut) -> dict[str, Any]:
    return {
        "class": one.class_name,
        "photos": one.photos,
        "label": one.label,
        "type": one.type,
        "score": number(one.score),
        "contribution": interval_json(one.contribution),
        "of_margin": number(one.of_margin),
        "present": number(one.present),
        "elsewhere": number(one.elsewhere),
        "unusual": {name: number(value) for name, value in vars(one.unusual).items()},
        "region": None if one.region is None else [number(end) for end in one.region],
        "images": _names(summary, one.examples),
    }


def _drift(summary: DataSummary) -> dict[str, Any] | None:
    if summary.drift is None:
        return None
    return {
        "against": summary.against,
        "comparisons": len(summary.drift.concepts),
        "too_few": list(summary.drift.too_few),
        "concepts": [_drifting(one) for one in summary.drift.concepts[:MAX_DRIFTING]],
    }


def _drifting(one: DriftingConcept) -> dict[str, Any]:
    return {
        "class": one.class_name,
        "label": one.label,
        "type": one.type,
        "here": number(one.here),
        "there": number(one.there),
        "photos": list(one.photos),
        "difference": {"mean": number(one.difference), "low": number(one.low), "high": number(one.high)},
        "p_value": number(one.p_value),
        "sure": one.sure,
    }


def _names(summary: DataSummary, numbers: Iterable[int]) -> list[str]:
    return [summary.photos.names[one] for one in numbers]
