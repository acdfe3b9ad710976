"""Embeddings of a store, measured by retrieval: the task of `loce`, by what `analyze` does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.benchmark.protocol import Protocol
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint
from conceptlens.statistics.retrieval import Retrieval, retrieve
from conceptlens.statistics.score import Metric, Score
from conceptlens.store import Store

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.store.embeddings import Embeddings
    from conceptlens.store.row import LayerRow


def average_precision(found: Retrieval) -> Score:
    """Return the average precision of every row as a query.

    Args:
        found: What `retrieve` returned.
    """
    return _score(found, found.average_precision)


def average_precision_above_chance(found: Retrieval) -> Score:
    """Return the average precision less that of a random order of the same rows.

    Args:
        found: What `retrieve` returned.
    """
    return _score(found, found.average_precision - found.chance)


def precision_at_1(found: Retrieval) -> Score:
    """Return whether the nearest row is of the same concept; a share where several are equally near.

    Args:
        found: What `retrieve` returned, with a cutoff of 1 first.
    """
    return _score(found, found.precision[:, 0])


def _score(found: Retrieval, values: Float[np.ndarray, "query"]) -> Score:
    return Score(torch.from_numpy(np.where(found.applies, values, 0.0)), torch.from_numpy(found.applies))


RANDOM = "random"
# Of random vectors: enough that no two are alike.
RANDOM_CHANNELS = 256
_LOCE, _ABOVE = "LoCE, IJCV 2025", "average_precision_above_chance"
_NEEDS = ("vectors",)
# Called as compute(found) with what `retrieve` returned; rows of the query's own photo are left out.
RETRIEVAL_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "average_precision", "average precision", average_precision, True, 0, 1, "that of random vectors", _LOCE,
            _NEEDS,
        ),
        Metric(_ABOVE, "above chance", average_precision_above_chance, True, -1, 1, "0", "this package", _NEEDS),
        Metric(
            "precision_at_1", "nearest is right", precision_at_1, True, 0, 1, "the concept's share of the rows", _LOCE,
            _NEEDS,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """What is measured: how well each layer's vectors find others of their concept.

    Every layer is measured on the same masks: those that all of them have a vector for.

    Args:
        store: The store.
        spaces: Layers, each of one model and mode; names of methods to them.
        metrics: Names of `RETRIEVAL_METRICS`.
        max_photos: Take the masks of so many photos at most, evenly spaced; by default all.
        seed: Draws the random vectors.
    """

    store: Store
    spaces: dict[str, LayerRow] = field(repr=False)
    metrics: tuple[str, ...]
    max_photos: int | None = None
    seed: int = 0

    @property
    def photo_names(self) -> Sequence[str]:
        """What the photos are called."""
        return tuple(self._names)

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """One protocol for each method and metric."""
        return self._protocols

    def rows(self, index: int) -> PhotoRows:
        """Return how well each mask of one photo finds others of its concept.

        Args:
            index: The photo's index.
        """
        image = self._names[self.photo_names[index]]
        hashes = {(one.method, one.metric): one.hash for one in self.protocols}
        values = tuple(
            MeasuredValue(hashes[method, metric], method, metric, "", self._keys[row][1], found[metric].of(row))
            for method, found in self._found.items()
            for row in self._rows_of[image]
            for metric in self.metrics
        )
        return PhotoRows(index, self.photo_names[index], "", values)

    def __getstate__(self) -> dict[str, Any]:
        """Compare all vectors here, once, and send what was found: no photo can be compared without the others."""
        found = ("_found", "_keys", "_names", "_protocols", "_rows_of")
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, **{name: getattr(self, name) for name in found}}

    @cached_property
    def _read(self) -> dict[str, tuple[list[tuple[str, str, str]], Embeddings]]:
        """The keys of every layer's rows (image, concept, mask), and its embeddings."""
        found = {}
        for name, space in self.spaces.items():
            own = self.store.embeddings(space.layer, space.model, space.mode)
            keys = list(zip(own.images.tolist(), own.concepts.tolist(), own.masks.tolist(), strict=True))
            if len(set(keys)) < len(keys):
                raise InputError(
                    f"{self.store.path} holds several runs of {name}; give a store with one run of each layer"
                )
            found[name] = keys, own
        return found

    @cached_property
    def _shared(self) -> list[tuple[str, str, str]]:
        """The keys of rows that every layer has."""
        return sorted(set.intersection(*(set(keys) for keys, _ in self._read.values())))

    @cached_property
    def _names(self) -> dict[str, str]:
        """The photos that are measured, by name, to their ids in the store."""
        ids = {key[0] for key in self._shared}
        known = {row.name: row.id for row in self.store.images() if row.id in ids}
        names = sorted(known)
        if not names:
            raise InputError(f"{self.store.path} has no mask with a vector in each layer; embed a set first")
        count = len(names) if self.max_photos is None else min(self.max_photos, len(names))
        return {names[row]: known[names[row]] for row in np.linspace(0, len(names) - 1, count).round().astype(int)}

    @cached_property
    def _keys(self) -> list[tuple[str, str, str]]:
        """The keys of the rows that are measured, in the order of queries."""
        ids = set(self._names.values())
        return [key for key in self._shared if key[0] in ids]

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """The rows of each photo, by its id."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(self._keys):
            found[key[0]].append(row)
        return found

    @cached_property
    def _found(self) -> dict[str, dict[str, Score]]:
        """Retrieval by every layer, and by random vectors."""
        found = {}
        for name, (keys, own) in self._read.items():
            places = {key: row for row, key in enumerate(keys)}
            found[name] = self._retrieved(own.vectors[[places[key] for key in self._keys]])
        noise = np.random.default_rng(self.seed).standard_normal((len(self._keys), RANDOM_CHANNELS))
        return {**found, RANDOM: self._retrieved(noise.astype(np.float32))}

    def _retrieved(self, vectors: Float[np.ndarray, "row channel"]) -> dict[str, Score]:
        images, concepts = ([key[place] for key in self._keys] for place in (0, 1))
        found = retrieve(vectors, concepts, images, cutoffs=(1,))
        return {name: RETRIEVAL_METRICS[name].compute(found) for name in self.metrics}

    @cached_property
    def _protocols(self) -> tuple[Protocol, ...]:
        marks = settings_fingerprint([list(key) for key in self._keys])
        models = sorted({space.model for space in self.spaces.values()})
        found = []
        for method in (*self.spaces, RANDOM):
            space = self.spaces.get(method)
            settings = {} if space is None else self._settings(method, space)
            found += [
                Protocol(
                    data=self.store.path.name,
                    data_fingerprint=marks,
                    photos=len(self._names),
                    model=", ".join(models),
                    weights="",
                    layer="",
                    question="masks",
                    method=method,
                    metric=metric,
                    seed=self.seed,
                    method_settings=settings,
                    metric_settings={"rows": len(self._keys)},
                )
                for metric in self.metrics
            ]
        return tuple(found)

    def _settings(self, method: str, space: LayerRow) -> dict[str, object]:
        """Return where a method's vectors are from; a run is known by its settings, weights and data."""
        runs = sorted(set(self._read[method][1].runs.tolist()))
        return {"model": space.model, "layer": space.layer, "mode": space.mode, "runs": runs}
