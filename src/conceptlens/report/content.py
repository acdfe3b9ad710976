"""From findings to numbers: what `--json` prints and what the page shows."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conceptlens
from conceptlens.metric.locate import area, peak

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptlens.record import Explanation
    from conceptlens.run import Failure, Finding, Prediction

EXPLAIN_SCHEMA = "conceptlens.explain/1"
CONTRAST_SCHEMA = "conceptlens.contrast/1"
PAGE_SCHEMA = "conceptlens.report/1"
# The longest side of a photo in a report, in pixels.
PICTURE_SIDE = 900


def explain_numbers(findings: Sequence[Finding], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return what `conceptlens explain --json` prints."""
    return _envelope(EXPLAIN_SCHEMA, [_explained(f) for f in findings], failures)


def contrast_numbers(findings: Sequence[Finding], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return what `conceptlens contrast --json` prints."""
    return _envelope(CONTRAST_SCHEMA, [_contrasted(f) for f in findings], failures)


def page_content(findings: Sequence[Finding], command: str, settings: Mapping[str, object]) -> dict[str, Any]:
    """Return everything the report page shows, pictures included."""
    shown = {key: value for key, value in settings.items() if value not in (None, "", ())}
    return {
        "schema": PAGE_SCHEMA,
        "title": "ConceptLens",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "images": [{**_pictured(f), "settings": shown, "command": command} for f in findings],
    }


def versions() -> dict[str, str]:
    """Return the versions that made a result."""
    import torch

    return {"conceptlens": conceptlens.__version__, "torch": torch.__version__}


def _envelope(schema: str, images: list[dict[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "schema": schema,
        "versions": versions(),
        "images": images,
        "failures": [{"image": f.name, "error": f.reason} for f in failures],
    }


def _head(finding: Finding) -> dict[str, Any]:
    return {
        "image": finding.picture.name,
        "model": finding.model,
        "layer": finding.layer,
        "target": prediction_numbers(finding.target),
    }


def _explained(finding: Finding) -> dict[str, Any]:
    against = {} if finding.against is None else {"against": prediction_numbers(finding.against)}
    concepts = [] if finding.named is None else concept_numbers(finding)
    return {**_head(finding), **against, "concepts": concepts}


def _contrasted(finding: Finding) -> dict[str, Any]:
    if finding.finer is None:
        return _head(finding)
    return {
        **_head(finding),
        "gamma": finding.gamma,
        "references": [{**prediction_numbers(r.prediction), "weight": r.share} for r in finding.references],
        "margin": float(finding.finer.scores[0, 0]),
        "contrast": _place(finding, finding.finer, 0),
        "plain": _place(finding, finding.plain, 0),
    }


def prediction_numbers(prediction: Prediction) -> dict[str, Any]:
    """Return a class with its logit and probability."""
    return {
        "index": prediction.index,
        "name": prediction.name,
        "score": prediction.score,
        "probability": prediction.probability,
    }


def concept_numbers(finding: Finding) -> list[dict[str, Any]]:
    """Return what, how much and where for every concept of a finding."""
    named = finding.named
    if named is None:
        return []
    return [
        {
            "label": named.labels[0][q],
            "type": named.types[0][q],
            "score": float(named.scores[0, q]),
            "unusual": _number(named.unusual, q),
            "contribution": _number(named.contributions, q),
            **_place(finding, named, q),
        }
        for q in range(named.maps.shape[1])
    ]


def _place(finding: Finding, explanation: Explanation, question: int) -> dict[str, Any]:
    """Return a map's peak and area, as shares of the whole photo."""
    left, top, right, bottom = finding.picture.box
    x, y = peak(explanation.maps)[0, question].tolist()
    share = float(area(explanation.maps)[0, question])
    return {
        "peak": [round(left + x * (right - left), 4), round(top + y * (bottom - top), 4)],
        "area": round(share * (right - left) * (bottom - top), 4),
    }


def _pictured(finding: Finding) -> dict[str, Any]:
    questions = [_question(finding, finding.plain, 0, "class", finding.target.name)]
    if finding.finer is not None:
        questions.append(_question(finding, finding.finer, 0, "contrast", finding.finer.labels[0][0]))
    if finding.named is not None:
        for q, numbers in enumerate(concept_numbers(finding)):
            questions.append({**_question(finding, finding.named, q, "concept", numbers["label"]), **numbers})
    return {
        "name": Path(finding.picture.name).name,
        "picture": picture_data(finding.photo),
        "width": finding.photo.width,
        "height": finding.photo.height,
        "box": list(finding.picture.box),
        "model": finding.model,
        "layer": finding.layer,
        "target": prediction_numbers(finding.target),
        "against": None if finding.against is None else prediction_numbers(finding.against),
        "predictions": [prediction_numbers(p) for p in finding.predictions],
        "questions": questions,
        "contrast": _contrast(finding),
    }


def _question(finding: Finding, explanation: Explanation, question: int, kind: str, label: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "label": label,
        "type": None,
        "score": float(explanation.scores[0, question]),
        "unusual": None,
        "contribution": None,
        **_place(finding, explanation, question),
        "signed": explanation.signed,
        "map": _grid(explanation.maps[0, question]),
    }


def _contrast(finding: Finding) -> dict[str, Any] | None:
    """Return the raw maps that the page's gamma slider mixes; `None` for rules that are not linear in the gradient."""
    if finding.sweep is None:
        return None
    maps = finding.sweep.linear_maps()[0]
    return {
        "target": finding.target.name,
        "gamma": finding.gamma,
        "references": [{**prediction_numbers(r.prediction), "weight": r.share} for r in finding.references],
        "maps": {"target": _grid(maps[0]), "references": [_grid(m) for m in maps[1:]]},
    }


def _grid(values: Tensor) -> dict[str, Any]:
    height, width = values.shape
    return {"height": height, "width": width, "values": [float(f"{v:.6g}") for v in values.flatten().tolist()]}


def _number(values: Tensor | None, question: int) -> float | None:
    return None if values is None else float(values[0, question])


def picture_data(photo: Image.Image) -> str:
    """Return a photo as a data address, scaled down to `PICTURE_SIDE`."""
    small = photo.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
