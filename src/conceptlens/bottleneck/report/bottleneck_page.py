"""A bottleneck as one HTML file: how accurate it is, which concepts it uses and which mislead it; no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.metric_result import CONTROLS, METRICS, MetricResult
from conceptlens.bottleneck.map_evidence import LEARNED_FROM, UNKNOWN
from conceptlens.bottleneck.report.bottleneck_sentences import (
    known_briefly,
    misleading_sentence,
    opening,
    plainly,
    shown,
    verdict,
)
from conceptlens.bottleneck.report.case_view import CaseView
from conceptlens.bottleneck.report.intervention_view import TITLE, corrections
from conceptlens.concepts.short_names import short_names
from conceptlens.pages.number_format import counted, number, signed
from conceptlens.pages.static_page import page_origin, static_page

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, ConceptResult
    from conceptlens.bottleneck.evaluate.case_selection import SelectedCases
    from conceptlens.bottleneck.map_evidence import MapEvidence
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.report.case_images import CaseImages

FOLD_AFTER = 12  # concepts of the table that are not folded away
GROUPS = {
    "Predictions": ("accuracy", "concepts_per_class", "concept_auroc"),
    "Maps and the parts that concepts name": tuple(
        name for name in METRICS if name.startswith(("keypoint", "peak", "part_"))
    ),
    "Maps and the whole object": ("box_energy", "box_ranking"),
    "Parts at the peaks of each concept's ten most active photos": tuple(n for n in METRICS if n.startswith("purity")),
    "How wide maps are (narrower is not yet better placed)": tuple(name for name in METRICS if name.startswith("norm")),
    "Leakage and impurity: what activations reveal beyond their concepts": tuple(
        name for name in METRICS if name.startswith(("leak", "impurity"))
    ),
}


def bottleneck_page(
    bottleneck: Bottleneck,
    result: BottleneckResult,
    cases: SelectedCases,
    images: CaseImages,
    settings: Mapping[str, object],
) -> str:
    """Return the page of a bottleneck as HTML that requests nothing outside itself.

    Args:
        bottleneck: The bottleneck.
        result: Its evaluation.
        cases: Classes, photos, pairs and errors that are shown.
        images: Their photos and maps.
        settings: The settings of the evaluation.
    """
    view = CaseView(bottleneck, result, images)
    concepts = _concepts(bottleneck, result)
    return static_page(
        "conceptlens.bottleneck.report",
        "bottleneck.html.j2",
        "bottleneck.css",
        result=result,
        facts=_facts(bottleneck, result),
        notices=_notices(bottleneck, result),
        short=opening(result, cases, bottleneck.labels, bottleneck.training_record),
        groups=_groups(result),
        absent=_not_measured(result),
        classes=[view.of_class(case) for case in cases.classes],
        photos=[view.of_photo(case) for case in cases.photos],
        pairs=[view.of_pair(case) for case in cases.pairs],
        errors=[view.of_error(case) for case in cases.errors],
        confusions=view.confusions(cases),
        misleading=view.misleading(cases),
        corrections=corrections(result),
        misled=misleading_sentence(cases, bottleneck.labels),
        concepts=concepts[:FOLD_AFTER],
        more=concepts[FOLD_AFTER:],
        placed=any(one.keypoint_error is not None for one in result.concepts),
        dropped=_dropped(bottleneck),
        meanings=_meanings(result),
        **page_origin(settings),
        failures=[failure.reason for failure in result.failures],
    )


def _facts(bottleneck: Bottleneck, result: BottleneckResult) -> str:
    facts = [
        result.data,
        counted(result.photos, "photo"),
        counted(len(bottleneck.labels), "concept"),
        f"{len(bottleneck.classes)} classes",
        result.model,
    ]
    return " · ".join(facts)


def _notices(bottleneck: Bottleneck, result: BottleneckResult) -> list[str]:
    notices = []
    if bottleneck.edits:
        edited = sorted({bottleneck.labels[edit.concept] for edit in bottleneck.edits})
        notices.append(f"Edited by hand, and shown as edited: {', '.join(edited)}.")
    weights = bottleneck.training_record.get("weights_edited", [])
    if weights:
        changed = f"{counted(len(weights), 'weight')} of the last layer {'was' if len(weights) == 1 else 'were'}"
        notices.append(f"{changed} changed by hand.")
    if result.photos < 100:
        trust = "wide" if result.photos >= 8 else "narrower than they should be"
        notices.append(f"Only {counted(result.photos, 'photo')}: intervals are {trust}.")
    return notices


def _groups(result: BottleneckResult) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in result.metrics}
    found = []
    for title, names in GROUPS.items():
        rows = [_figure(by_name[name]) for name in names if name in by_name and by_name[name].value is not None]
        if rows:
            found.append({"title": title, "rows": rows})
    return found


def _figure(one: MetricResult) -> dict[str, Any]:
    value, description = one.value, one.description
    count = "" if value is None else counted(value.count, description.counts)
    if value is not None and description.counts in ("map", "concept") and one.resampled == "photos":
        count += f" in {counted(value.images, 'photo')}"
    return {
        "title": description.title,
        "about": description.about,
        "unit": description.unit,
        "better": description.better,
        "count": count,
        **shown(one, value),
        "controls": [
            {
                "title": CONTROLS[control.name],
                "reason": control.reason,
                "verdict": verdict(one, control.difference),
                "value": plainly(one, control.value),
            }
            for control in one.controls
        ],
    }


def _not_measured(result: BottleneckResult) -> list[dict[str, str]]:
    """Return what was not measured, by reason."""
    reasons: dict[str, list[str]] = {}
    for one in result.metrics:
        if one.value is None:
            reasons.setdefault(one.reason, []).append(one.description.title)
    if result.interventions.reason:
        reasons.setdefault(result.interventions.reason, []).append(TITLE)
    return [{"what": ", ".join(names), "reason": reason} for reason, names in reasons.items()]


def _concepts(bottleneck: Bottleneck, result: BottleneckResult) -> list[dict[str, Any]]:
    """Return all concepts, those that most classes use first."""
    weights = bottleneck.head.weight.detach().cpu()
    order = sorted(range(len(result.concepts)), key=lambda i: (-result.concepts[i].classes, i))
    classes = short_names(bottleneck.classes)
    return [_concept(result.concepts[i], result.map_evidence[i], weights[:, i], classes) for i in order]


def _concept(one: ConceptResult, known: MapEvidence, weights: Any, classes: Sequence[str]) -> dict[str, Any]:
    best = int(weights.argmax())
    return {
        "label": one.label,
        "part": one.part or "",
        "known": known_briefly(known),
        "classes": one.classes,
        "top_class": f"{classes[best]} {signed(float(weights[best]))}" if float(weights[best]) > 0 else "–",
        "photos": "–" if one.photos is None else one.photos,
        "auroc": number(one.auroc),
        "error": number(one.keypoint_error),
        "constant": number(one.constant_error),
        "better": one.keypoint_error is not None
        and one.constant_error is not None
        and one.keypoint_error < one.constant_error,
        "pointing": "–" if one.pointing is None else f"{one.pointing:.0%}",
        "keypoint_photos": one.keypoint_photos,
    }


def _meanings(result: BottleneckResult) -> list[tuple[str, str]]:
    """Return what is written beside maps on this page, each with what it means."""
    learned = {one.targets for one in result.map_evidence}
    found = [LEARNED_FROM[name] for name in LEARNED_FROM if name in learned]
    if None in learned:
        found.append((UNKNOWN, "the bottleneck was fitted before that was recorded; fit it again to know"))
    unchecked = {one.unchecked for one in result.map_evidence if one.check is None}
    return [*sorted(unchecked), *found]


def _dropped(bottleneck: Bottleneck) -> list[dict[str, str]]:
    """Return concepts that were left out of the fit, by its record."""
    return [{"label": one["label"], "reason": one["reason"]} for one in bottleneck.training_record.get("dropped", [])]
