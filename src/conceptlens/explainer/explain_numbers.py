"""From findings to numbers: what `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.io.versions import versions
from conceptlens.metrics.map_mask import area, peak

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.explainer.run import Finding, Prediction
    from conceptlens.io.failures import Failure
    from conceptlens.record import Explanation, ImageInfo

EXPLAIN_SCHEMA = "conceptlens.explain/1"
CONTRAST_SCHEMA = "conceptlens.cams.contrast/1"


def explain_numbers(findings: Sequence[Finding], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return what `conceptlens explain --json` prints."""
    return _envelope(EXPLAIN_SCHEMA, [_explained(f) for f in findings], failures)


def contrast_numbers(findings: Sequence[Finding], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return what `conceptlens contrast --json` prints."""
    return _envelope(CONTRAST_SCHEMA, [_contrasted(f) for f in findings], failures)


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
    if finding.named is None:
        return {**_head(finding), **against, "concepts": []}
    made = {
        "method": finding.named.source.method,
        "branch": branch_of(finding.named),
        "regions": "competing" if is_competing(finding.named) else "official",
    }
    return {**_head(finding), **against, **made, "concepts": concept_numbers(finding.picture, finding.named)}


def _contrasted(finding: Finding) -> dict[str, Any]:
    if finding.finer is None:
        return _head(finding)
    return {
        **_head(finding),
        "gamma": finding.gamma,
        "references": [{**prediction_numbers(r.prediction), "weight": r.share} for r in finding.references],
        "margin": float(finding.finer.scores[0, 0]),
        "contrast": place(finding.picture, finding.finer, 0),
        "plain": place(finding.picture, finding.plain, 0),
    }


def prediction_numbers(prediction: Prediction) -> dict[str, Any]:
    """Return a class with its logit and probability."""
    return {
        "index": prediction.index,
        "name": prediction.name,
        "score": prediction.score,
        "probability": prediction.probability,
    }


def is_competing(explanation: Explanation) -> bool:
    """Whether the maps are regions that compete with everyday words."""
    method = explanation.source.method
    return method == "competition" or method.endswith("competing regions")


def branch_of(explanation: Explanation) -> str | None:
    """Return the trained branch that read the concepts; `None` where the model's own pair did."""
    name = explanation.source.settings.get("branch")
    return None if name is None else str(name)


def concept_numbers(picture: ImageInfo, named: Explanation) -> list[dict[str, Any]]:
    """Return what, how much and where for every concept of one photo's explanation."""
    return [
        {
            "label": named.labels[0][q],
            "type": named.concept_types[0][q],
            "score": float(named.scores[0, q]),
            "z_score": _number(named.z_scores, q),
            "contribution": _number(named.contributions, q),
            **_layer(named, q),
            **place(picture, named, q),
        }
        for q in range(named.maps.shape[1])
    ]


def place(picture: ImageInfo, explanation: Explanation, question: int) -> dict[str, Any]:
    """Return a map's peak and area, as shares of the whole photo."""
    left, top, right, bottom = picture.box
    x, y = peak(explanation.maps)[0, question].tolist()
    share = float(area(explanation.maps)[0, question])
    return {
        "peak": [round(left + x * (right - left), 4), round(top + y * (bottom - top), 4)],
        "area": round(share * (right - left) * (bottom - top), 4),
    }


def _layer(named: Explanation, question: int) -> dict[str, str]:
    """Return the layer that a branch's map was taken from; competing regions are not of one layer."""
    if named.layers:
        return {"layer": named.layers[0][question]}
    return {} if branch_of(named) is None or is_competing(named) else {"layer": named.source.layer}


def _number(values: Tensor | None, question: int) -> float | None:
    return None if values is None else float(values[0, question])
