"""From results to JSON documents: what `conceptlens explain --json` and `conceptlens contrast --json` print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from conceptlens.concept_regions.competing_explanation import MIN_PLACE_CONTRAST, is_competing
from conceptlens.concept_regions.competition import COMPETITIONS
from conceptlens.concepts.short_names import short_name
from conceptlens.explainer.discovered_rows import DISCOVERED
from conceptlens.io.versions import versions
from conceptlens.metrics.map_peak import area, peak

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.cams.contrast_choice import DropsOfChoice
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.io.errors import Failure
    from conceptlens.model.predictions import Prediction
    from conceptlens.record import Explanation

EXPLAIN_SCHEMA = "conceptlens.explain/3"
CONTRAST_SCHEMA = "conceptlens.contrast/2"


def explain_json(results: Sequence[PhotoResult], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return the document that `conceptlens explain --json` prints.

    Args:
        results: The explained photos, with their concepts.
        failures: The photos that could not be explained.

    Returns:
        A dictionary of JSON's own types, with the schema `conceptlens.explain/3`.
    """
    return _document(EXPLAIN_SCHEMA, [_explained(r) for r in results], failures)


def contrast_json(results: Sequence[PhotoResult], failures: Sequence[Failure]) -> dict[str, Any]:
    """Return the document that `conceptlens contrast --json` prints.

    Args:
        results: The explained photos, with their contrasts.
        failures: The photos that could not be explained.

    Returns:
        A dictionary of JSON's own types, with the schema `conceptlens.contrast/2`.
    """
    return _document(CONTRAST_SCHEMA, [contrasted_json(r) for r in results], failures)


def _document(schema: str, images: list[dict[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "schema": schema,
        "versions": versions(),
        "images": images,
        "failures": [{"image": f.name, "error": f.reason} for f in failures],
    }


def _opening(result: PhotoResult) -> dict[str, Any]:
    return {
        "image": result.image_info.name,
        "model": result.model,
        "layer": result.layer,
        "task": None if result.answer is None else result.answer.task,
        "task_assumed": result.answer is not None and result.answer.assumed,
        "target": prediction_json(result.target),
        "predicted": prediction_json(result.predicted),
        "answered": result.answered,
    }


def _explained(result: PhotoResult) -> dict[str, Any]:
    against = {} if result.against is None else _other_class(result)
    concepts = result.concepts
    if result.detections is not None:
        return {**_opening(result), "threshold": result.settings["threshold"], "detections": detections_json(result)}
    if concepts is None:
        return {**_opening(result), **against, "concepts": []}
    made = {
        "method": concepts.source.method,
        "branch": branch_of(concepts),
        "regions": regions_of(concepts),
        "contribution_measure": "masking" if concepts.margins is None else "evidence",
        "margin": margin_json(concepts),
        "random_level": random_level_of(concepts),
    }
    return {**_opening(result), **against, **made, "concepts": concepts_json(concepts)}


def detections_json(result: PhotoResult) -> list[dict[str, Any]]:
    """Return one entry for every detection of a photo.

    Args:
        result: What was computed for one photo.

    Returns:
        Class, score, logit and box of each; the peak and area of its map; and the same of the contrast at its box.
    """
    entries = []
    for one in result.detections or ():
        explained = result.explanations[0]
        entry = {key: value for key, value in asdict(one).items() if key not in ("question", "against", "shares")}
        entry |= {"box": [round(value, 1) for value in one.box], **peak_and_area(explained, one.question)}
        if one.against is not None:
            at = one.question + 1
            margin = float(explained.scores[0, at])
            entry["contrast"] = {"against": one.against, "margin": margin, **peak_and_area(explained, at)}
        entries.append(entry)
    return entries


def _other_class(result: PhotoResult) -> dict[str, Any]:
    """Return the class that the target is compared with, and what photos of the two are known to differ by."""
    differs_by = None
    if result.differs_by is not None:
        sides = zip(("target", "against"), result.differs_by, strict=True)
        differs_by = {side: [concept.label for concept in concepts] for side, concepts in sides}
    return {"against": prediction_json(result.against), "differs_by": differs_by}


def contrasted_json(result: PhotoResult) -> dict[str, Any]:
    """Return the entry of one photo in the document of `conceptlens contrast --json`.

    Args:
        result: What was computed for one photo.

    Returns:
        A dictionary of plain values.
    """
    if result.contrast is None or result.class_map is None:
        return _opening(result)
    return {
        **_opening(result),
        "gamma": result.gamma,
        "choice": None if result.choice is None else choice_json(result.choice),
        "references": [{**asdict(r.prediction), "weight": r.weight} for r in result.references],
        "margin": float(result.contrast.scores[0, 0]),
        "contrast_map": peak_and_area(result.contrast, 0),
        "class_map": peak_and_area(result.class_map, 0),
    }


def choice_json(choice: DropsOfChoice) -> dict[str, Any]:
    """Return what gamma and reference of a photo were chosen by, and everything that was tried.

    Args:
        choice: The relative drops.
    """
    return {
        "relative_drop": choice.relative_drop,
        "relative_drop_of_class": choice.alone,
        "tried": choice.words,
        "candidates": [asdict(one) for one in choice.tried],
    }


def prediction_json(prediction: Prediction | None) -> dict[str, Any] | None:
    """Return a class with its index, names, score and probability; `None` for none.

    Args:
        prediction: A predicted class, or `None`.

    Returns:
        A dictionary of plain values, or `None`.
    """
    return None if prediction is None else asdict(prediction)


def regions_of(explanation: Explanation) -> str:
    """Return what `explain(regions=...)` made the maps with: "competing", "coarse", "fine" or "official".

    Args:
        explanation: An explanation of concepts.

    Returns:
        The word.
    """
    if not is_competing(explanation):
        return "official"
    endings = (kind for kind in COMPETITIONS if explanation.source.method.endswith(f"{kind} competing regions"))
    return next(endings, "competing")


def branch_of(explanation: Explanation) -> str | None:
    """Return the name of the trained branch that scored the concepts; `None` where the model's own encoders did.

    Args:
        explanation: An explanation of concepts.

    Returns:
        The name, or `None`.
    """
    name = explanation.source.settings.get("branch")
    return None if name is None else str(name)


def concepts_json(concepts: Explanation) -> list[dict[str, Any]]:
    """Return one entry for every concept of one photo's explanation.

    Args:
        concepts: The explanation of this photo alone.

    Returns:
        A dictionary for each concept, in the order of the explanation.
    """
    return [
        {
            "label": concepts.labels[0][q],
            "type": concepts.concept_types[0][q],
            "known": is_known(concepts, q),
            "score": _number(concepts.scores, q),
            "presence": _number(concepts.presence, q),
            "z_score": _number(concepts.z_scores, q),
            "implied": _number(concepts.implied, q),
            "base_rate": _number(concepts.base_rates, q),
            "contribution": _number(concepts.contributions, q),
            "contribution_range": _range(concepts, q),
            **_above_random(concepts, q),
            **place_json(concepts, q),
            **_layer(concepts, q),
            **place,
        }
        for q, place in enumerate(peaks_and_areas(concepts))
    ]


def margin_json(concepts: Explanation) -> dict[str, Any] | None:
    """Return the margin of one photo and what it consists of; `None` where contributions do not add up to one.

    Args:
        concepts: The explanation of this photo alone.

    Returns:
        `value = named + discovered + unnamed + residual`, counted in `unit`s; `unplaced` is the part of `unnamed` that
        no cell of the layer holds; `over` is what the margin is over, `None` where it is over nothing.
    """
    unnamed = concepts.unnamed
    if concepts.margins is None or concepts.contributions is None or unnamed is None:
        return None
    counts = zip(concepts.contributions[0].nan_to_num().tolist(), concepts.concept_types[0], strict=True)
    discovered = sum((value for value, kind in counts if kind == DISCOVERED), 0.0)
    return {
        "value": float(concepts.margins[0]),
        "named": float(concepts.contributions[0].nansum()) - discovered,
        "discovered": discovered,
        "unnamed": float(unnamed[0]),
        "unplaced": 0.0 if concepts.unplaced is None else float(concepts.unplaced[0]),
        "residual": 0.0 if concepts.residuals is None else float(concepts.residuals[0]),
        "over": (short_name(concepts.rivals[0]) or None) if concepts.rivals else None,
        "unit": concepts.unit,
    }


def random_level_of(concepts: Explanation) -> float | None:
    """Return the mean size of what random directions get in one photo; `None` where it was not asked for.

    Args:
        concepts: The explanation of this photo alone.
    """
    return None if concepts.random_level is None else float(concepts.random_level[0])


def peak_and_area(explanation: Explanation, question: int) -> dict[str, Any]:
    """Return where a map has its highest value, and how large the area of at least half of it is.

    Args:
        explanation: The explanation of this photo alone; its record holds the part of the photo that the map covers.
        question: The index of the question.

    Returns:
        `peak`: `[x, y]`, and `area`; both as shares of the whole photo, 0 to 1, or `None` for a concept that the model
        does not know. A map without a cell above 0 peaks nowhere: its `peak` is `None`, its `area` 0.
    """
    return peaks_and_areas(explanation)[question]


def peaks_and_areas(explanation: Explanation) -> list[dict[str, Any]]:
    """Return what `peak_and_area` gives for each question.

    Args:
        explanation: The explanation of one photo.
    """
    left, top, right, bottom = explanation.source.image_info[0].box
    peaks, shares = peak(explanation.maps)[0].tolist(), area(explanation.maps)[0].tolist()
    found: list[dict[str, Any]] = []
    for question, highest in enumerate(explanation.maps[0].amax((1, 2)).tolist()):
        if not is_known(explanation, question):
            found.append({"peak": None, "area": None})
        elif highest <= 0:
            found.append({"peak": None, "area": 0.0})
        else:
            (x, y), size = peaks[question], shares[question] * (right - left) * (bottom - top)
            place = [round(left + x * (right - left), 4), round(top + y * (bottom - top), 4)]
            found.append({"peak": place, "area": max(round(size, 4), 0.0001)})  # one of very many cells is not none
    return found


def _layer(concepts: Explanation, question: int) -> dict[str, str]:
    """Return the layer that a branch's map was taken from; competing regions combine layers, so they have none."""
    if concepts.layers:
        return {"layer": concepts.layers[0][question]}
    return {} if branch_of(concepts) is None or is_competing(concepts) else {"layer": concepts.source.layer}


def _above_random(concepts: Explanation, question: int) -> dict[str, float | None]:
    """Return what a contribution by masking has over random directions, where these were asked for."""
    above = concepts.contributions_above_random
    return {} if above is None else {"contribution_above_random": _number(above, question)}


def place_json(concepts: Explanation, question: int) -> dict[str, Any]:
    """Return how far a competing region is told from its surroundings, and whether that is too little to point at.

    Args:
        concepts: The concepts of one photo.
        question: One of them.
    """
    if "place_contrast" not in concepts.diagnostics:
        return {}
    if not is_known(concepts, question) or concepts.concept_types[0][question] == DISCOVERED:
        return {"place_contrast": None, "place_vague": None}
    contrast = float(concepts.diagnostics["place_contrast"][0, question])
    return {"place_contrast": round(contrast, 4), "place_vague": contrast < MIN_PLACE_CONTRAST}


def _range(concepts: Explanation, question: int) -> list[float] | None:
    """Return the lowest and the highest contribution among small changes of the photo; `None` without these."""
    if concepts.contributions_low is None or concepts.contributions_high is None or not is_known(concepts, question):
        return None
    low, high = float(concepts.contributions_low[0, question]), float(concepts.contributions_high[0, question])
    return None if math.isnan(low) else [low, high]


def is_known(explanation: Explanation, question: int) -> bool:
    """Whether the model knows the concept of a question.

    Args:
        explanation: The explanation of this photo alone.
        question: The index of the question.
    """
    return explanation.known is None or bool(explanation.known[0, question])


def _number(values: Tensor | None, question: int) -> float | None:
    """Return one number as JSON has it, which knows no NaN: so are those of a concept that the model does not know."""
    value = None if values is None else float(values[0, question])
    return None if value is None or not math.isfinite(value) else value
