"""What a batch must be before any of it is written: its rows belong together, and its vectors are numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from numbers import Real
from operator import attrgetter

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.store.row import EmbeddingRow, ImageRow, MaskRow

Space = tuple[str, str, str]  # model, layer, mode: where vectors can be compared


def check_batch(
    images: Sequence[ImageRow], embeddings: Sequence[EmbeddingRow], masks: Sequence[MaskRow]
) -> dict[Space, int]:
    """Check that rows belong together, and return the length of the vectors of each model, layer and mode.

    Args:
        images: Images of the batch.
        embeddings: Vectors of these images.
        masks: Masks that the embeddings name.

    Returns:
        The length of the vectors by model, layer and mode.

    Raises:
        InputError: An id or a name is blank or not clean text, two rows have one id, an embedding or a mask is of an
            image that is not in the batch (or failed), an embedding's mask is not in it, or vectors are not one row of
            finite numbers, or as long as others of their layer.
    """
    _once("images", [f"{row.id} of run {row.run}" for row in images], [(row.id, row.run, row.name) for row in images])
    _once("embeddings", [row.id for row in embeddings], map(attrgetter("id", "concept", "layer"), embeddings))
    _once("masks", [row.id for row in masks], map(attrgetter("id", "concept"), masks))
    there = {(row.run, row.id) for row in images if row.failure is None}
    drawn, shown = {row.id for row in masks}, {image for _, image in there}
    for row in masks:
        if row.image not in shown:
            raise InputError(f"mask {row.id} is of image {row.image}, which is not in its batch; add its ImageRow")
    for row in embeddings:
        if (row.run, row.image) not in there:
            raise InputError(
                f"embedding {row.id} is of image {row.image} in run {row.run}, which is not in its batch or has "
                "failed; add its ImageRow without a failure"
            )
        if row.mask is not None and row.mask not in drawn:
            raise InputError(f"embedding {row.id} has the mask {row.mask}, which is not in its batch; add its MaskRow")
        numbers = (row.iou, row.loss, row.control_iou, row.area)
        if not all(isinstance(number, Real) for number in numbers):
            raise InputError(f"embedding {row.id} has iou, loss, control_iou, area = {numbers!r}; give numbers, or nan")
    lengths: dict[Space, int] = {}
    for row in embeddings:
        size = len(checked_vector(row.vector, f"the vector of '{row.concept}' in image {row.image} at {row.layer}"))
        check_length(row.space, size, lengths.setdefault(row.space, size))
    return lengths


def by_length(embeddings: Iterable[EmbeddingRow]) -> dict[int, list[EmbeddingRow]]:
    """Return embeddings by the length of their vectors, the shortest first."""
    found: dict[int, list[EmbeddingRow]] = defaultdict(list)
    for row in embeddings:
        found[len(row.vector)].append(row)
    return dict(sorted(found.items()))


def checked_vector(vector: object, what: str) -> np.ndarray:
    """Return a vector as float32; raises `InputError` where it is not one row of finite numbers."""
    array = vector if isinstance(vector, np.ndarray) else np.asarray(vector)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(f"{what} has shape {array.shape} and type {array.dtype}; expected one row of numbers")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    bad = int((~np.isfinite(single)).sum())
    if bad:
        raise InputError(
            f"{what} has {bad} of {array.size} values that are NaN or infinite; record the failure of its image instead"
        )
    return single


def check_length(space: Space, given: int, known: int) -> None:
    """Raise `InputError` where vectors of one model, layer and mode differ in length."""
    if given != known:
        model, layer, mode = space
        raise InputError(
            f"a vector of {given} channels was given for {layer} of {model} ({mode}), which has vectors of {known}; "
            "give that many, or call the layer otherwise"
        )


def _once(what: str, ids: Sequence[str], texts: Iterable[tuple[str, ...]]) -> None:
    """Check that no two rows have one id, and that ids and names are text that any table can hold."""
    for row in texts:
        if not all(isinstance(text, str) and text and "\0" not in text for text in row):
            raise InputError(f"one of the {what} is called {row!r}; give texts that are not empty, without NUL")
    if len(set(ids)) < len(ids):
        twice = next(one for number, one in enumerate(ids) if one in ids[:number])
        raise InputError(f"{what} of one batch have the id {twice} twice; make ids by row_id from all that differs")
