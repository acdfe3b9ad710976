"""The tables of one run of a store as columns of numbers: about 30 bytes for each concept of a photo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError, near_names

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Bool, Float32, Int32

    from conceptlens.store.explanation_store import ExplanationStore
    from conceptlens.store.row import RunRow

# From this presence on, a concept is in a photo.
MIN_PRESENCE = 0.5
# The type of concepts that were found without a word.
DISCOVERED = "discovered"
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class ExplainedPhotos:
    """What a run has found in its photos.

    Attributes:
        run: The run.
        names: The photos, by their paths.
        classes: The names of all classes that occur.
        target: The class that is explained in each photo, by its number in `classes`.
        answer: The class of the highest score; -1 where the model has no classes.
        second: The class of the next score, -1 where there is none.
        probability: Of the answer, `nan` where the model gives none.
        lead: How far the answer is before the second, in units of scores before the softmax.
        true: The label of each photo, -1 where it is not known.
        margin: What contributions add up to, `nan` where they do not.
        unit: Of contributions.
        over: What margins are over, such as "all other classes"; "" where photos differ, as with two classes.
        labels: The concepts.
        types: The type of each concept.
        row_photo: The photo of each concept that was found in one.
        row_concept: The concept, by its number in `labels`.
        contribution: How much it counts for the target; 0 where that is not known.
        presence: How likely it is in the photo, `nan` where that is not known.
        peak: Where it is, `[row 2]`, right and down as shares of the photo; `nan` where it has no clear place.
        area: On which share of the photo.
    """

    run: RunRow
    names: list[str] = field(repr=False)
    classes: list[str]
    target: Int32[np.ndarray, "photo"]
    answer: Int32[np.ndarray, "photo"]
    second: Int32[np.ndarray, "photo"]
    probability: Float32[np.ndarray, "photo"]
    lead: Float32[np.ndarray, "photo"]
    true: Int32[np.ndarray, "photo"]
    margin: Float32[np.ndarray, "photo"]
    unit: str
    over: str
    labels: list[str]
    types: list[str]
    row_photo: Int32[np.ndarray, "row"]
    row_concept: Int32[np.ndarray, "row"]
    contribution: Float32[np.ndarray, "row"]
    presence: Float32[np.ndarray, "row"]
    peak: Float32[np.ndarray, "row 2"]
    area: Float32[np.ndarray, "row"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether the true class of any photo is known."""
        return bool((self.true != UNKNOWN).any())

    @property
    def present(self) -> Bool[np.ndarray, "row"]:
        """Whether each concept is in its photo: by its presence, or by a contribution above 0 where that is unknown."""
        return np.where(np.isnan(self.presence), self.contribution > 0, self.presence >= MIN_PRESENCE)


def read_photos(store: ExplanationStore, run: str | None = None) -> ExplainedPhotos:
    """Read a run of a store.

    Args:
        store: The store.
        run: The id of the run; by default the only one.

    Raises:
        InputError: The store has no photo that was explained, several runs and none is named, or none of that id.
    """
    chosen = _run(store, run)
    texts = _Texts()
    explained = _columns(
        store.stream("explained", run=chosen.id), ("image", "photo", "target", "true_class", "margin", "unit", "over")
    )
    if not explained:
        raise InputError(f"{store.path} has no explained photo in run {chosen.id}; explain some with --store first")
    images = explained["image"]
    place = {image: number for number, image in enumerate(images)}
    predictions = _predictions(store, chosen.id, place, texts)
    rows = _rows(store, chosen.id, place)
    target, true = (texts.numbers(explained[name]) for name in ("target", "true_class"))
    return ExplainedPhotos(
        run=chosen,
        names=explained["photo"],
        target=target,
        true=true,
        margin=np.array(explained["margin"], np.float32),
        unit=_common(explained["unit"]),
        over=_common(explained["over"]),
        **predictions,
        **rows,
        classes=list(texts.known),
    )


def _common(texts: Sequence[str]) -> str:
    """Return the text that all are, or none where they differ."""
    return texts[0] if len(set(texts)) == 1 else ""


class _Texts:
    """Numbers for texts, by first appearance; the empty text has -1."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def numbers(self, texts: Iterable[str]) -> Int32[np.ndarray, "text"]:
        found = [self.known.setdefault(text, len(self.known)) if text else UNKNOWN for text in texts]
        return np.array(found, np.int32)


def _run(store: ExplanationStore, run: str | None) -> RunRow:
    runs = [row for row in store.runs() if "explain" in row.settings]
    if run is not None:
        found = [row for row in runs if row.id == run]
        if not found:
            raise InputError(f"{store.path} has no run {run!r}; {near_names(run, [row.id for row in runs])}")
        return found[0]
    if len(runs) != 1:
        listed = ", ".join(f"{row.id} ({row.settings['model']}, {row.started})" for row in runs) or "none"
        raise InputError(f"{store.path} has {len(runs)} runs of explained photos: {listed}; name one with --run")
    return runs[0]


def _columns(batches: Iterable[pa.Table], names: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for rows in batches:
        for name in names:
            found.setdefault(name, []).extend(rows[name].to_pylist())
    return found


def _predictions(store: ExplanationStore, run: str, place: dict[str, int], texts: _Texts) -> dict[str, Any]:
    count = len(place)
    best = np.full((2, count), UNKNOWN, np.int32)
    logits = np.full((2, count), np.nan, np.float32)
    probability = np.full(count, np.nan, np.float32)
    for rows in store.stream("predictions", where="rank <= 2", run=run):
        photos = np.array([place.get(image, UNKNOWN) for image in rows["image"].to_pylist()])
        known, ranks = photos != UNKNOWN, rows["rank"].to_numpy() - 1
        photos, ranks = photos[known], ranks[known]
        best[ranks, photos] = texts.numbers(rows["class_name"].to_pylist())[known]
        logits[ranks, photos] = rows["logit"].to_numpy()[known]
        probability[photos[ranks == 0]] = rows["probability"].to_numpy()[known][ranks == 0]
    return {"answer": best[0], "second": best[1], "lead": logits[0] - logits[1], "probability": probability}


def _rows(store: ExplanationStore, run: str, place: dict[str, int]) -> dict[str, Any]:
    texts, types, parts = _Texts(), list[str](), list[tuple[np.ndarray, ...]]()
    for rows in store.stream("concepts", run=run):
        photos = np.array([place.get(image, UNKNOWN) for image in rows["image"].to_pylist()], np.int32)
        concepts = texts.numbers(rows["label"].to_pylist())
        for number, kind in zip(concepts.tolist(), rows["type"].to_pylist(), strict=True):
            if number == len(types):
                types.append(kind)
        numbers = [rows[name].to_numpy() for name in ("contribution", "presence", "peak_x", "peak_y", "area")]
        contribution, presence, x, y, area = numbers
        vague = rows["place_vague"].to_numpy(zero_copy_only=False)
        peak = np.where(vague[:, None], np.nan, np.stack([x, y], 1)).astype(np.float32)
        keep = photos != UNKNOWN
        columns = (photos, concepts, np.nan_to_num(contribution), presence, peak, area)
        parts.append(tuple(column[keep] for column in columns))
    names = ("row_photo", "row_concept", "contribution", "presence", "peak", "area")
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else _no_rows()
    return dict(zip(names, joined, strict=True)) | {"labels": list(texts.known), "types": types}


def _no_rows() -> list[np.ndarray]:
    numbers = np.zeros(0, np.float32)
    return [np.zeros(0, np.int32), np.zeros(0, np.int32), numbers, numbers, np.zeros((0, 2), np.float32), numbers]
