"""The rows that a story is told of: the same masks at every layer, so that layers can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.analysis.selection import Asked, Space, find_space
from conceptlens.statistics.vectors import sample_rows, usable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

    from conceptlens.store.embeddings import Embeddings
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store

    Texts = Shaped[np.ndarray, "row"]

MOST_ROWS = 6000  # of all concepts: their distances take 0.3 GB
Key = tuple[str, str, str, int]  # image, concept, mask, and a number where an image has several without a mask


@dataclass(frozen=True, eq=False)
class LayerRows:
    """What one layer says of each row; `nan` where a number was not measured."""

    vectors: Float[np.ndarray, "row channel"] = field(repr=False)
    ids: Texts
    ious: Float[np.ndarray, "row"]
    control_ious: Float[np.ndarray, "row"]
    converged: Bool[np.ndarray, "row"]

    def at(self, rows: np.ndarray) -> LayerRows:
        """Return these rows only."""
        return LayerRows(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True, eq=False)
class StoryRows:
    """The rows of a story.

    - `labels`, `images`, `masks`, `areas`: for each row, as the store has them. `layers`: from the input up.
    - `pictures`: what the store knows of each image, by id.
    - `sizes`: rows of each concept in the store, of which `most` at the most are here. `left_out`: rows whose vector
      is zero at some layer, which has no direction. `unshared`: rows that not every layer has. `failed`: images that
      could not be embedded, each with its reason.
    """

    space: Space
    labels: Texts
    images: Texts
    masks: Texts
    areas: Float[np.ndarray, "row"]
    layers: Mapping[str, LayerRows] = field(repr=False)
    pictures: Mapping[str, ImageRow] = field(repr=False)
    sizes: Mapping[str, int]
    most: int
    left_out: int = 0
    unshared: int = 0
    failed: tuple[ImageRow, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts of these rows in alphabetical order, as every table by label has them."""
        return tuple(np.unique(self.labels).tolist())

    def drawn(self, count: int) -> tuple[str, ...]:
        """Return the `count` concepts of most rows in the store, in alphabetical order."""
        order = sorted(self.concepts, key=lambda name: (-self.sizes[name], name))
        return tuple(sorted(order[:count]))


def read_rows(store: Store, asked: Asked) -> StoryRows:
    """Read the same rows of every layer, at most `asked.most` of each concept and 6000 in all, drawn by the seed.

    Vectors pass by in a stream: those that are not looked at are not held. Raises `InputError` where nothing is left.
    """
    space = find_space(store, asked)
    shared, unshared = _shared(store, asked, space)
    labels = [key[1] for key in shared]
    sizes = Counter(labels)
    most = min(asked.most, max(2, MOST_ROWS // len(sizes)))
    chosen = [shared[i] for i in sample_rows(labels, most, asked.seed)]
    found = {layer: _chosen(store, asked, space, layer, chosen) for layer in space.layers}
    kept = np.logical_and.reduce([usable(part.vectors) for part, _ in found.values()])
    if not kept.any():
        raise InputError(f"every vector asked for in {store.path} is zero at some layer; embed the images again")
    areas = next(iter(found.values()))[1]
    pictures = {row.id: row for row in store.images(asked.run) if row.failure is None}
    texts = [np.array([key[part] for key in chosen], dtype=object)[kept] for part in range(3)]
    return StoryRows(
        space=space, images=texts[0], labels=texts[1].astype(str), masks=texts[2], areas=areas[kept],
        layers={layer: part.take(kept) for layer, (part, _) in found.items()},
        pictures=pictures, sizes=dict(sizes), most=most, left_out=int((~kept).sum()), unshared=unshared,
        failed=tuple(store.failures(asked.run)),
    )  # fmt: skip


def _shared(store: Store, asked: Asked, space: Space) -> tuple[list[Key], int]:
    """Return the rows that every layer has, in the order of their keys, and how many some layer lacks."""
    by_layer = [{key for keys, _ in _stream(store, asked, space, layer) for key in keys} for layer in space.layers]
    shared = set.intersection(*by_layer)
    if not shared:
        told = " and ".join(space.layers[:3])
        raise InputError(f"no row of {store.path} is at all of {told}; name one run of them, or other concepts")
    return sorted(shared), len(set.union(*by_layer)) - len(shared)


def _chosen(
    store: Store, asked: Asked, space: Space, layer: str, chosen: list[Key]
) -> tuple[LayerRows, Float[np.ndarray, "row"]]:
    """Read the chosen rows of one layer in their order, and the areas of their masks."""
    place = {key: number for number, key in enumerate(chosen)}
    parts, places = [], []
    for keys, rows in _stream(store, asked, space, layer):
        own = [i for i, key in enumerate(keys) if key in place]
        parts.append(rows.take(own))
        places += [place[keys[i]] for i in own]
    order = np.argsort(places)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts if len(part)])[order]

    names = ("vectors", "ids", "ious", "control_ious", "converged")
    return LayerRows(*map(joined, names)), joined("areas").astype(np.float64)


def _stream(store: Store, asked: Asked, space: Space, layer: str) -> Iterator[tuple[list[Key], Embeddings]]:
    """Yield rows of one layer with their keys; raises `InputError` where two runs embedded one mask."""
    seen: dict[tuple[str, str, str], tuple[str, int]] = {}
    for rows in store.stream(layer, space.model, space.mode, asked.concepts, run=asked.run):
        keys: list[Key] = []
        for image, concept, mask, run in zip(rows.images, rows.concepts, rows.masks, rows.runs, strict=True):
            before, count = seen.get((image, concept, mask), (run, 0))
            if before != run:
                raise InputError(
                    f"'{concept}' of one image was embedded by two runs, {before} and {run}; give one of them as --run"
                )
            seen[image, concept, mask] = run, count + 1
            keys.append((image, concept, mask, count))
        yield keys, rows
