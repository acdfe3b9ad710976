"""The data of the report page, the same for the command line's results and for your own explanations."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.concept_regions.competing_explanation import is_competing
from conceptlens.explainer.answer_words import answered_otherwise, choice_words, differences, other_answer
from conceptlens.explainer.explain_json import (
    branch_of,
    concepts_json,
    is_known,
    margin_json,
    peaks_and_areas,
    prediction_json,
    random_level_of,
)
from conceptlens.io.errors import InputError
from conceptlens.io.versions import versions
from conceptlens.pages.static_page import embedded

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.cams.finer_cam import ContrastMaps
    from conceptlens.explainer.photo_result import DetectedObject, PhotoResult
    from conceptlens.record import Explanation, ImageInfo

SCHEMA = "conceptlens.report/3"


def page_content(results: Sequence[PhotoResult]) -> dict[str, Any]:
    """Return everything that the report page shows, photos included."""
    nothing = [f"{Path(one.image_info.name).name}: {one.undetected}" for one in results if one.undetected]
    results = [result for result in results if result.explanations]
    if not results:
        raise InputError(f"there is nothing to report; {'; '.join(nothing) or 'give at least one explanation'}")
    return {
        "schema": SCHEMA,
        "title": "ConceptLens",
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "answered_otherwise": answered_otherwise(results),
        "undetected": nothing,
        "images": [_shown(result) for result in results],
    }


def _shown(result: PhotoResult) -> dict[str, Any]:
    return {
        "name": Path(result.image_info.name).name,
        "photo": embedded(result.photo, "image/jpeg"),
        "width": result.image_info.width,
        "height": result.image_info.height,
        "box": list(result.image_info.box),
        "none_likely": result.concepts is not None and result.concepts.maps.shape[1] == 0,
        "box_known": all(info.box_known for info in (result.image_info, *_own_infos(result))),
        "model": result.model,
        "layer": result.layer,
        "task": None if result.answer is None else result.answer.task,
        "task_note": "" if result.answer is None else result.answer.note,
        "score_name": "logit" if result.answer is None else result.answer.score,
        "target": prediction_json(result.target),
        "against": prediction_json(result.against),
        "differences": differences(result),
        "compared": [] if result.none_chosen else [prediction_json(p) for p in result.compared],
        "choice": choice_words(result),
        "predicted": prediction_json(result.predicted),
        "answered": result.answered,
        "other_answer": other_answer(result),
        "predictions": [prediction_json(p) for p in result.predictions],
        "margin": _margin(result),
        "random_level": None if result.concepts is None else random_level_of(result.concepts),
        **_encoders(result.explanations),
        "questions": [question for e in _shown_explanations(result) for question in _questions(result, e)],
        "detections": None if result.detections is None else [_object(one) for one in result.detections],
        "contrast": None
        if result.mixture is None or result.none_chosen
        else _contrast(result.mixture, _short_names(result)),
        "settings": dict(result.settings),
        "command": result.command,
    }


def _shown_explanations(result: PhotoResult) -> list[Explanation]:
    """Return the explanations that have rows: not a contrast that is the class's own map."""
    return [one for one in result.explanations if not (result.none_chosen and one is result.contrast)]


def _margin(result: PhotoResult) -> dict[str, Any] | None:
    """Return the margin of the photo, over a class by the name that the page has for it."""
    margin = None if result.concepts is None else margin_json(result.concepts)
    return margin if margin is None or result.against is None else {**margin, "over": result.against.short_name}


def _object(one: DetectedObject) -> dict[str, Any]:
    """Return one detection, with its box as shares of the photo and the questions about it."""
    questions = [one.question] if one.against is None else [one.question, one.question + 1]
    found = {"short_name": one.short_name, "score": one.score, "against": one.against}
    return {**found, "box": [round(share, 4) for share in one.shares], "questions": questions}


def _own_infos(result: PhotoResult) -> list[ImageInfo]:
    """Return what the explanations say of the photo: maps that were made elsewhere may cover another part of it."""
    return [info for e in result.explanations for info in e.source.image_info]


def _encoders(explanations: Sequence[Explanation]) -> dict[str, list[str]]:
    """Return the text encoders that scored the concepts, and which of them are trained branches."""
    named = [e for e in explanations if e.concept_types]
    texts = [name for e in named for name in str(e.source.settings.get("text", e.source.model)).split(" + ")]
    branches = [branch for e in named if (branch := branch_of(e)) is not None]
    return {"texts": list(dict.fromkeys(texts)), "branches": list(dict.fromkeys(branches))}


def _questions(result: PhotoResult, explanation: Explanation) -> list[dict[str, Any]]:
    """Return the explanation of one photo as rows of the page's table."""
    names = _short_names(result)
    own = explanation.source.image_info[0].box
    box = {} if own == result.image_info.box else {"box": list(own)}
    concepts = concepts_json(explanation) if explanation.concept_types else []
    return [
        {
            "kind": explanation.target_kinds[q],
            "label": explanation.labels[0][q],
            "short_label": names.get(explanation.labels[0][q], explanation.labels[0][q]),
            "type": None,
            "known": is_known(explanation, q),
            "score": None if math.isnan(score := float(explanation.scores[0, q])) else score,
            "presence": None,
            "z_score": None,
            "contribution": None,
            "contribution_range": None,
            **place,
            **(concepts[q] if concepts else {}),
            **({"regions": "competing"} if is_competing(explanation) else {}),
            **box,
            "signed": explanation.signed,
            "map": _grid(explanation.maps[0, q]),
        }
        for q, place in enumerate(peaks_and_areas(explanation))
    ]


def _short_names(result: PhotoResult) -> dict[str, str]:
    """Return the short name of every class that the result names."""
    classes = [result.target, result.against, *result.predictions, *(r.prediction for r in result.references)]
    return {c.name: c.short_name for c in classes if c is not None}


def _contrast(mixture: ContrastMaps, short_names: Mapping[str, str]) -> dict[str, Any]:
    """Return the raw maps that the page's gamma slider mixes."""
    references = zip(mixture.names[1:], mixture.classes[1:], mixture.reference_weights, mixture.scores[1:], strict=True)
    return {
        "target": short_names.get(mixture.names[0], mixture.names[0]),
        "gamma": mixture.gamma,
        "references": [
            {"name": n, "short_name": short_names.get(n, n), "index": i, "weight": w, "score": s}
            for n, i, w, s in references
        ],
        "maps": {"target": _grid(mixture.maps[0]), "references": [_grid(m) for m in mixture.maps[1:]]},
    }


def _grid(values: Tensor) -> dict[str, Any]:
    height, width = values.shape
    return {"height": height, "width": width, "values": [float(f"{v:.6g}") for v in values.flatten().tolist()]}
