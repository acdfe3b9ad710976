"""A bottleneck as one HTML file: how good it is, what it decides by, what misled it; no script at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.figure import CONTROLS, KINDS, Figure
from conceptlens.bottleneck.report.bottleneck_sentences import counted, misled, opening, plainly, shown, verdict
from conceptlens.bottleneck.report.case_view import CaseView
from conceptlens.bottleneck.report.correction_view import TITLE, corrections
from conceptlens.io.atomic import replacing
from conceptlens.pages.number_format import number, signed
from conceptlens.pages.static_page import static_page

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_cases import Cases
    from conceptlens.bottleneck.evaluate.measures import BottleneckMeasures, ConceptMeasure
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.report.pictures import Pictures

FIRST = 12  # concepts of the table that are not folded away
GROUPS = {
    "Answers": ("accuracy", "concepts_per_class", "concept_auroc"),
    "Maps and the parts they speak of": tuple(name for name in KINDS if name.startswith(("keypoint", "peak", "part_"))),
    "Maps and the whole thing": ("box_energy", "box_ranking"),
    "Parts at the peaks of each concept's ten most active photos": tuple(n for n in KINDS if n.startswith("purity")),
    "How wide maps are (narrower is not yet better placed)": tuple(name for name in KINDS if name.startswith("norm")),
    "What activations tell beyond their concepts": tuple(
        name for name in KINDS if name.startswith(("leak", "impurity"))
    ),
}


@dataclass(frozen=True)
class AboutBottleneck:
    """What the page says of its making: the bottleneck's folder, when, every setting, the command."""

    bottleneck: str
    created: str
    settings: Mapping[str, object] = field(default_factory=dict)
    command: str = ""


def write_bottleneck_page(
    path: str | os.PathLike[str],
    bottleneck: Bottleneck,
    measures: BottleneckMeasures,
    cases: Cases,
    pictures: Pictures,
    about: AboutBottleneck,
) -> Path:
    """Write the page of a bottleneck, atomically, and return its path."""
    text = bottleneck_page(bottleneck, measures, cases, pictures, about)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def bottleneck_page(
    bottleneck: Bottleneck, measures: BottleneckMeasures, cases: Cases, pictures: Pictures, about: AboutBottleneck
) -> str:
    """Return the page of a bottleneck as HTML that asks for nothing outside itself."""
    view = CaseView(bottleneck, measures, pictures)
    concepts = _concepts(bottleneck, measures)
    return static_page(
        "conceptlens.bottleneck.report",
        "bottleneck.html.j2",
        "bottleneck.css",
        about=about,
        measures=measures,
        facts=_facts(bottleneck, measures),
        notices=_notices(bottleneck, measures),
        short=opening(measures, cases, bottleneck.labels, bottleneck.training_record),
        groups=_groups(measures),
        absent=_absent(measures),
        classes=[view.of_class(case) for case in cases.classes],
        photos=[view.of_photo(case) for case in cases.photos],
        pairs=[view.of_pair(case) for case in cases.pairs],
        errors=[view.of_error(case) for case in cases.errors],
        confusions=view.confusions(cases),
        leaders=view.leaders(cases),
        corrections=corrections(measures),
        misled=misled(cases, bottleneck.labels),
        concepts=concepts[:FIRST],
        more=concepts[FIRST:],
        placed=any(one.keypoint_error is not None for one in measures.concepts),
        dropped=_dropped(bottleneck),
        settings={name: _plain(value) for name, value in about.settings.items() if value is not None},
        failures=[failure.reason for failure in measures.failures],
    )


def _facts(bottleneck: Bottleneck, measures: BottleneckMeasures) -> str:
    many = (
        (measures.photos, "photo"), (len(bottleneck.labels), "concept"),
    )  # fmt: skip
    said = [counted(count, what) for count, what in many]
    return " · ".join([measures.data, *said, f"{len(bottleneck.classes)} classes", measures.model])


def _notices(bottleneck: Bottleneck, measures: BottleneckMeasures) -> list[str]:
    told = []
    if bottleneck.edits:
        edited = sorted({bottleneck.labels[edit.concept] for edit in bottleneck.edits})
        told.append(f"Edited by hand, and shown as edited: {', '.join(edited)}.")
    weights = bottleneck.training_record.get("weights_edited", [])
    if weights:
        changed = f"{counted(len(weights), 'weight')} of the last layer {'was' if len(weights) == 1 else 'were'}"
        told.append(f"{changed} changed by hand.")
    if measures.photos < 100:
        told.append(f"{counted(measures.photos, 'photo')} are few: intervals are wide, and of fewer than 8 too narrow.")
    return told


def _groups(measures: BottleneckMeasures) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in measures.figures}
    found = []
    for title, names in GROUPS.items():
        rows = [_figure(by_name[name]) for name in names if name in by_name and by_name[name].value is not None]
        if rows:
            found.append({"title": title, "rows": rows})
    return found


def _figure(one: Figure) -> dict[str, Any]:
    value, kind = one.value, one.kind
    count = "" if value is None else counted(value.count, kind.of)
    if value is not None and kind.of in ("map", "concept") and one.over == "photos":
        count += f" in {counted(value.images, 'photo')}"
    return {
        "title": kind.title,
        "about": kind.about,
        "unit": kind.unit,
        "better": kind.better,
        "count": count,
        **shown(one, value),
        "controls": [
            {
                "title": CONTROLS[control.name],
                "reason": control.reason,
                "verdict": verdict(one, control.gain),
                "value": plainly(one, control.value),
            }
            for control in one.controls
        ],
    }


def _absent(measures: BottleneckMeasures) -> list[dict[str, str]]:
    """Return what was not measured, by reason."""
    reasons: dict[str, list[str]] = {}
    for one in measures.figures:
        if one.value is None:
            reasons.setdefault(one.reason, []).append(one.kind.title)
    if measures.interventions.reason:
        reasons.setdefault(measures.interventions.reason, []).append(TITLE)
    return [{"what": ", ".join(names), "reason": reason} for reason, names in reasons.items()]


def _concepts(bottleneck: Bottleneck, measures: BottleneckMeasures) -> list[dict[str, Any]]:
    """Return all concepts, those that most classes use first."""
    weights = bottleneck.head.weight.detach().cpu()
    order = sorted(range(len(measures.concepts)), key=lambda i: (-measures.concepts[i].classes, i))
    return [_concept(measures.concepts[i], weights[:, i], bottleneck.classes) for i in order]


def _concept(one: ConceptMeasure, weights: Any, classes: Sequence[str]) -> dict[str, Any]:
    best = int(weights.argmax())
    return {
        "label": one.label,
        "part": one.part or "",
        "classes": one.classes,
        "most": f"{classes[best]} {signed(float(weights[best]))}" if float(weights[best]) > 0 else "–",
        "photos": "–" if one.photos is None else one.photos,
        "auroc": number(one.auroc),
        "error": number(one.keypoint_error),
        "constant": number(one.constant_error),
        "better": one.keypoint_error is not None
        and one.constant_error is not None
        and one.keypoint_error < one.constant_error,
        "pointing": "–" if one.pointing is None else f"{one.pointing:.0%}",
        "pairs": one.pairs,
    }


def _dropped(bottleneck: Bottleneck) -> list[dict[str, str]]:
    """Return concepts that were left out of the fit, as its record tells them."""
    told = bottleneck.training_record.get("dropped", [])
    return [
        {"label": str(one.get("label", "")), "reason": str(one.get("reason", ""))}
        for one in told
        if isinstance(one, dict)
    ]


def _plain(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value
