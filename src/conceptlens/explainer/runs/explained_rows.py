"""From the result of a photo to the rows of a store: the numbers that `conceptlens explain --json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import nan
from typing import TYPE_CHECKING, Any

from conceptlens.concept_regions.competing_explanation import is_competing
from conceptlens.explainer.explain_json import concepts_json, margin_json
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.store.explanation_rows import ConceptRow, ExplainedRow, MapRow, PredictionRow
from conceptlens.store.explanation_store import ExplanationRows
from conceptlens.store.row import ImageRow, row_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptlens.io.errors import Failure
    from conceptlens.record import Explanation


def result_rows(
    results: Sequence[PhotoResult | Failure],
    run: str,
    with_maps: bool = False,
    true_classes: Mapping[str, str] | None = None,
) -> ExplanationRows:
    """Return the rows of one batch of photos.

    Args:
        results: What was computed for each photo, or why nothing was.
        run: The id of the run.
        with_maps: Whether there is a row for each map.
        true_classes: The label of each photo, by its name; by default none is known.

    Returns:
        The rows; the id of an image is that of the name of its photo (`row_id(name)`).
    """
    rows, known = ExplanationRows(), true_classes or {}
    for one in results:
        name = one.image_info.name if isinstance(one, PhotoResult) else one.name
        image = row_id(name)
        if not isinstance(one, PhotoResult):
            rows.images.append(ImageRow(image, run, name, failure=one.reason))
            continue
        info = one.image_info
        rows.images.append(ImageRow(image, run, name, info.fingerprint, info.width, info.height))
        rows.predictions.extend(_predictions(one, run, image))
        rows.explained.append(_explained(one, run, image, known.get(name, "")))
        rows.concepts.extend(_concepts(one, run, image))
        rows.maps.extend(_maps(one, run, image) if with_maps else ())
    return rows


def _predictions(result: PhotoResult, run: str, image: str) -> Iterator[PredictionRow]:
    for rank, one in enumerate(result.predictions, 1):
        id = row_id(run, image, "prediction", str(rank))
        yield PredictionRow(id, run, image, rank, one.index, one.name, one.logit, _number(one.probability))


def _explained(result: PhotoResult, run: str, image: str, true_class: str) -> ExplainedRow:
    concepts, target, against = result.concepts, result.target, result.against
    margin = (None if concepts is None else margin_json(concepts)) or {}
    return ExplainedRow(
        id=row_id(run, image, "explained"),
        run=run,
        image=image,
        target_index=-1 if target is None else target.index,
        target="" if target is None else target.name,
        logit=nan if target is None else target.logit,
        probability=nan if target is None else _number(target.probability),
        against_index=-1 if against is None else against.index,
        against="" if against is None else against.name,
        true_class=true_class,
        margin=_number(margin.get("value")),
        named=_number(margin.get("named")),
        discovered=_number(margin.get("discovered")),
        unnamed=_number(margin.get("unnamed")),
        unplaced=_number(margin.get("unplaced")),
        residual=_number(margin.get("residual")),
        over=margin.get("over") or "",
        unit=margin.get("unit") or "",
        layer=result.layer,
        method="" if concepts is None else concepts.source.method,
    )


def _concepts(result: PhotoResult, run: str, image: str) -> Iterator[ConceptRow]:
    concepts = result.concepts
    if concepts is None:
        return
    target = "" if result.target is None else result.target.name
    own_layer = "" if is_competing(concepts) else result.layer
    for rank, entry in enumerate(concepts_json(concepts), 1):
        low, high = entry["contribution_range"] or (nan, nan)
        x, y = entry["peak"] or (nan, nan)
        numbers = ("presence", "z_score", "score", "contribution", "area")
        yield ConceptRow(
            id=row_id(run, image, "concept", str(rank)),
            run=run,
            image=image,
            rank=rank,
            target=target,
            label=entry["label"],
            type=entry["type"],
            **{name: _number(entry[name]) for name in numbers},
            contribution_low=low,
            contribution_high=high,
            peak_x=x,
            peak_y=y,
            layer=entry.get("layer", own_layer),
            place_vague=bool(entry.get("place_vague")),
        )


def _maps(result: PhotoResult, run: str, image: str) -> Iterator[MapRow]:
    if result.class_map is not None:
        yield _map(result.class_map, 0, "class", 0, run, image)
    if result.concepts is not None:
        for question in range(result.concepts.maps.shape[1]):
            yield _map(result.concepts, question, "concept", question + 1, run, image)


def _map(explanation: Explanation, question: int, kind: str, rank: int, run: str, image: str) -> MapRow:
    values = explanation.maps[0, question].detach().float().cpu().numpy()
    label, layer = explanation.labels[0][question], explanation.source.layer
    id, (rows, columns) = row_id(run, image, kind, "map", str(rank)), values.shape
    return MapRow(id, run, image, kind, rank, label, layer, rows, columns, *MapRow.packed(values))


def _number(value: Any) -> float:
    return nan if value is None else float(value)
