"""The embeddings that are analyzed: the same masks at every layer, so that layers can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.analysis.analysis_settings import (
    AnalysisSettings,
    EmbeddingSpace,
    find_embedding_space,
)
from conceptlens.statistics.vectors import sample_rows, usable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

    from conceptlens.store.embeddings import Embeddings
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store

    Texts = Shaped[np.ndarray, "row"]

MAX_ROWS = 6000  # of all concepts together: one matrix of their distances takes 0.3 GB
Key = tuple[str, str, str, int]  # image, concept, mask, and a number where an image has several without a mask


@dataclass(frozen=True, eq=False)
class LayerRows:
    """Embeddings of one layer; `nan` where a number was not measured."""

    vectors: Float[np.ndarray, "row channel"] = field(repr=False)
    ids: Texts
    ious: Float[np.ndarray, "row"]
    control_ious: Float[np.ndarray, "row"]
    converged: Bool[np.ndarray, "row"]

    def take(self, rows: np.ndarray) -> LayerRows:
        """Return these rows only."""
        return LayerRows(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True, eq=False)
class AnalysisRows:
    """The rows of an analysis: one row is one mask of one concept in one image.

    Attributes:
        labels: Concept of each row.
        images: Image id of each row.
        masks: Mask id of each row, empty where it has none.
        areas: Share of the photo that each mask covers, 0 to 1.
        layers: Embeddings by layer, from the input up, all in the order of these rows.
        image_rows: The store's image records by id.
        rows_in_store: Number of rows of each concept in the store.
        max_rows: Most rows of each concept that were taken.
        zero_vectors: Rows left out because their vector is zero at some layer.
        incomplete: Rows left out because some layer lacks them.
        failed: Images that could not be embedded, with the reason.
    """

    space: EmbeddingSpace
    labels: Texts
    images: Texts
    masks: Texts
    areas: Float[np.ndarray, "row"]
    layers: Mapping[str, LayerRows] = field(repr=False)
    image_rows: Mapping[str, ImageRow] = field(repr=False)
    rows_in_store: Mapping[str, int]
    max_rows: int
    zero_vectors: int = 0
    incomplete: int = 0
    failed: tuple[ImageRow, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts of these rows in alphabetical order, the order of all tables by label."""
        return tuple(np.unique(self.labels).tolist())

    def most_frequent(self, count: int) -> tuple[str, ...]:
        """Return the `count` concepts of most rows in the store, in alphabetical order."""
        order = sorted(self.concepts, key=lambda name: (-self.rows_in_store[name], name))
        return tuple(sorted(order[:count]))


def read_rows(store: Store, settings: AnalysisSettings) -> AnalysisRows:
    """Read the same rows of every layer: at most `settings.max_rows` of each concept and 6000 in all.

    Vectors are streamed; only those of the sample are kept.

    Raises:
        InputError: Nothing is left, or two runs embedded one mask.
    """
    space = find_embedding_space(store, settings)
    shared, incomplete = _shared(store, settings, space)
    labels = [key[1] for key in shared]
    in_store = Counter(labels)
    max_rows = min(settings.max_rows, max(2, MAX_ROWS // len(in_store)))
    chosen = [shared[i] for i in sample_rows(labels, max_rows, settings.seed)]
    found = {layer: _chosen(store, settings, space, layer, chosen) for layer in space.layers}
    kept = np.logical_and.reduce([usable(part.vectors) for part, _ in found.values()])
    if not kept.any():
        raise InputError(f"every vector of {store.path} is zero at some layer; embed the images again")
    areas = next(iter(found.values()))[1]
    image_rows = {row.id: row for row in store.images(settings.run) if row.failure is None}
    texts = [np.array([key[part] for key in chosen], dtype=object)[kept] for part in range(3)]
    return AnalysisRows(
        space=space, images=texts[0], labels=texts[1].astype(str), masks=texts[2], areas=areas[kept],
        layers={layer: part.take(kept) for layer, (part, _) in found.items()},
        image_rows=image_rows, rows_in_store=dict(in_store), max_rows=max_rows, zero_vectors=int((~kept).sum()),
        incomplete=incomplete, failed=tuple(store.failures(settings.run)),
    )  # fmt: skip


def _shared(store: Store, settings: AnalysisSettings, space: EmbeddingSpace) -> tuple[list[Key], int]:
    """Return the rows that every layer has, in the order of their keys, and how many some layer lacks."""
    by_layer = [{key for keys, _ in _stream(store, settings, space, layer) for key in keys} for layer in space.layers]
    shared = set.intersection(*by_layer)
    if not shared:
        names = " and ".join(space.layers[:3])
        raise InputError(f"no row of {store.path} is at all of {names}; name one run of them, or other concepts")
    return sorted(shared), len(set.union(*by_layer)) - len(shared)


def _chosen(
    store: Store, settings: AnalysisSettings, space: EmbeddingSpace, layer: str, chosen: list[Key]
) -> tuple[LayerRows, Float[np.ndarray, "row"]]:
    """Read the chosen rows of one layer in their order, and the areas of their masks."""
    index = {key: number for number, key in enumerate(chosen)}
    parts, positions = [], []
    for keys, rows in _stream(store, settings, space, layer):
        own = [i for i, key in enumerate(keys) if key in index]
        parts.append(rows.take(own))
        positions += [index[keys[i]] for i in own]
    order = np.argsort(positions)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts if len(part)])[order]

    names = ("vectors", "ids", "ious", "control_ious", "converged")
    return LayerRows(*map(joined, names)), joined("areas").astype(np.float64)


def _stream(
    store: Store, settings: AnalysisSettings, space: EmbeddingSpace, layer: str
) -> Iterator[tuple[list[Key], Embeddings]]:
    """Yield rows of one layer with their keys; raises `InputError` where two runs embedded one mask."""
    known: dict[tuple[str, str, str], tuple[str, int]] = {}
    for rows in store.stream(layer, space.model, space.mode, settings.concepts, run=settings.run):
        keys: list[Key] = []
        for image, concept, mask, run in zip(rows.images, rows.concepts, rows.masks, rows.runs, strict=True):
            before, count = known.get((image, concept, mask), (run, 0))
            if before != run:
                raise InputError(
                    f"'{concept}' of one image was embedded by two runs, {before} and {run}; give one of them as --run"
                )
            known[image, concept, mask] = run, count + 1
            keys.append((image, concept, mask, count))
        yield keys, rows
