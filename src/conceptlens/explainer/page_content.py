"""What the report page shows of one photo, whoever asks: the command line's findings or your own explanations."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.explainer.explain_numbers import branch_of, concept_numbers, is_competing, place, prediction_numbers
from conceptlens.io.errors import InputError
from conceptlens.io.versions import versions

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.cams.finer_cam import ContrastMaps
    from conceptlens.explainer.run import Finding, Prediction
    from conceptlens.record import Explanation, ImageInfo

SCHEMA = "conceptlens.report/1"


@dataclass(frozen=True)
class Entry:
    """One photo of a report, with explanations of that photo alone."""

    photo: bytes
    picture: ImageInfo
    model: str
    layer: str
    target: Prediction
    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...]
    mixture: ContrastMaps | None = None
    against: Prediction | None = None
    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)


def entry_of(finding: Finding, command: str) -> Entry:
    """Return the command line's finding as an entry."""
    explanations = (finding.plain, finding.finer, finding.named)
    return Entry(
        photo=finding.photo,
        picture=finding.picture,
        model=finding.model,
        layer=finding.layer,
        target=finding.target,
        predictions=finding.predictions,
        explanations=tuple(e for e in explanations if e is not None),
        mixture=finding.mixture,
        against=finding.against,
        command=command,
        settings={"rule": finding.plain.source.method},
    )


def page_content(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return everything the report page shows, pictures included."""
    if not entries:
        raise InputError("there is nothing to report; give at least one explanation")
    return {
        "schema": SCHEMA,
        "title": "ConceptLens",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "images": [_shown(entry) for entry in entries],
    }


def _shown(entry: Entry) -> dict[str, Any]:
    return {
        "name": Path(entry.picture.name).name,
        "picture": "data:image/jpeg;base64," + base64.b64encode(entry.photo).decode("ascii"),
        "width": entry.picture.width,
        "height": entry.picture.height,
        "box": list(entry.picture.box),
        "model": entry.model,
        "layer": entry.layer,
        "target": prediction_numbers(entry.target),
        "against": None if entry.against is None else prediction_numbers(entry.against),
        "predictions": [prediction_numbers(p) for p in entry.predictions],
        **_readers(entry.explanations),
        "questions": [question for e in entry.explanations for question in _questions(entry.picture, e)],
        "contrast": None if entry.mixture is None else _contrast(entry.mixture),
        "settings": dict(entry.settings),
        "command": entry.command,
    }


def _readers(explanations: Sequence[Explanation]) -> dict[str, list[str]]:
    """Return the pairs that read the concepts' words, and which of them are trained branches."""
    named = [e for e in explanations if e.concept_types]
    texts = [name for e in named for name in str(e.source.settings.get("text", e.source.model)).split(" + ")]
    branches = [branch for e in named if (branch := branch_of(e)) is not None]
    return {"texts": list(dict.fromkeys(texts)), "branches": list(dict.fromkeys(branches))}


def _questions(picture: ImageInfo, explanation: Explanation) -> list[dict[str, Any]]:
    """Return the explanation of one photo as rows of the page's table."""
    concepts = concept_numbers(picture, explanation) if explanation.concept_types else []
    return [
        {
            "kind": "concept" if explanation.concept_types else explanation.target_kinds[q],
            "label": explanation.labels[0][q],
            "type": None,
            "score": float(explanation.scores[0, q]),
            "z_score": None,
            "contribution": None,
            **place(picture, explanation, q),
            **(concepts[q] if concepts else {}),
            **({"regions": "competing"} if is_competing(explanation) else {}),
            "signed": explanation.signed,
            "map": _grid(explanation.maps[0, q]),
        }
        for q in range(explanation.maps.shape[1])
    ]


def _contrast(mixture: ContrastMaps) -> dict[str, Any]:
    """Return the raw maps that the page's gamma slider mixes."""
    told_from = zip(mixture.names[1:], mixture.classes[1:], mixture.reference_weights, mixture.scores[1:], strict=True)
    return {
        "target": mixture.names[0],
        "gamma": mixture.gamma,
        "references": [{"name": n, "index": i, "weight": w, "score": s} for n, i, w, s in told_from],
        "maps": {"target": _grid(mixture.maps[0]), "references": [_grid(m) for m in mixture.maps[1:]]},
    }


def _grid(values: Tensor) -> dict[str, Any]:
    height, width = values.shape
    return {"height": height, "width": width, "values": [float(f"{v:.6g}") for v in values.flatten().tolist()]}
