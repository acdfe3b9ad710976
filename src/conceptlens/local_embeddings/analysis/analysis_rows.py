"""Which embeddings are analyzed: settings, and the same masks at every layer, so that layers can be compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError, near
from conceptlens.statistics.vectors import sample_rows, usable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

    from conceptlens.store.embeddings import Embeddings
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store

    Texts = Shaped[np.ndarray, "row"]
    from conceptlens.store.row import LayerRow
MAX_ROWS = 6000  # of all concepts together: one matrix of their distances takes 0.3 GB
Key = tuple[str, str, str, int]  # image, concept, mask, and a number where an image has several without a mask


@dataclass(frozen=True)
class AnalysisSettings:
    """Which part of a store is analyzed, and how.

    Args:
        model: Model name; may be None where the store has one model.
        mode: LoCE mode, such as `mean_difference`; may be None where the store has one.
        run: Run id; None takes all runs.
        layer: The selected layer, for which figures and examples are made; None takes the layer of highest mAP.
        concepts: Concepts to analyze; None takes all.
        max_rows: Most embeddings of each concept, drawn at random by `seed`. LoCE (IJCV 2025) takes 100.
        max_concepts: Most concepts in figures and examples, those of most embeddings first. Numbers are of all.
        umap: Project by UMAP instead of the first two principal axes.
        n_bootstrap: Bootstrap resamples of images behind each 95 % interval.
        seed: Seed of every random draw.

    Raises:
        InputError: A count is too small.
    """

    model: str | None = None
    mode: str | None = None
    run: str | None = None
    layer: str | None = None
    concepts: tuple[str, ...] | None = None
    max_rows: int = 100
    max_concepts: int = 20
    umap: bool = False
    n_bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        if self.max_rows < 2 or self.max_concepts < 1 or self.n_bootstrap < 1:
            raise InputError(
                f"max_rows={self.max_rows}, max_concepts={self.max_concepts}, n_bootstrap={self.n_bootstrap}; an "
                "analysis needs at least 2 rows of a concept, 1 concept and 1 resample"
            )


@dataclass(frozen=True)
class EmbeddingSpace:
    """One model and mode of a store, with its layers from the input up."""

    model: str
    mode: str
    layers: tuple[str, ...]


def check_concepts(store: Store, names: Sequence[str] | None) -> None:
    """Raise `InputError` where the store is empty or lacks one of these concepts."""
    known = store.concepts()
    if not known:
        raise InputError(f"{store.path} holds no embeddings yet; fill it with conceptlens embed")
    for name in names or ():
        if name not in known:
            raise InputError(f"no concept '{name}' in {store.path}; {near(name, known, 'concepts', 5)}")


def find_embedding_space(store: Store, settings: AnalysisSettings) -> EmbeddingSpace:
    """Return the model, mode and layers to analyze; `InputError` where the store has none or several of them."""
    check_concepts(store, settings.concepts)
    runs = [row.id for row in store.runs()]
    if settings.run is not None and settings.run not in runs:
        raise InputError(f"no run '{settings.run}' in {store.path}; {near(settings.run, runs, 'it has', 5)}")
    known = store.layers()
    model = _choose("model", settings.model, [row.model for row in known])
    known = tuple(row for row in known if row.model == model)
    mode = _choose("mode", settings.mode, [row.mode for row in known])
    layers = _ordered(store, [row for row in known if row.mode == mode], settings.run)
    if settings.layer is not None and settings.layer not in layers:
        raise InputError(
            f"no layer '{settings.layer}' of {model} in {store.path}; {near(settings.layer, layers, 'layers', 5)}"
        )
    return EmbeddingSpace(model, mode, layers)


def _choose(what: str, wanted: str | None, known: list[str]) -> str:
    """Return the one that is wanted, or the only one there is."""
    names = list(dict.fromkeys(known))
    if wanted is not None and wanted not in names:
        raise InputError(f"no {what} '{wanted}' in the store; {near(wanted, names, 'it has', 5)}")
    if wanted is None and len(names) > 1:
        raise InputError(
            f"the store has {len(names)} {what}s, and an analysis is of one; give {near('', names, '--' + what, 5)}"
        )
    return names[0] if wanted is None else wanted


def _ordered(store: Store, rows: list[LayerRow], run: str | None) -> tuple[str, ...]:
    """Return layers in the order in which runs list them; those that no run lists come last, by number and name."""
    present = {row.layer for row in rows}
    listed = [
        layer
        for one in store.runs()
        if run in (None, one.id)
        for layer in one.settings.get("layers") or ()
        if layer in present
    ]
    return tuple(dict.fromkeys([*listed, *sorted(present, key=_natural)]))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


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

    Args:
        store: The store.
        settings: Which model, mode, run and concepts, how many rows, and the seed that draws them.

    Returns:
        The rows of every layer in one order.

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
    names = ("vectors", "ids", "ious", "control_ious", "converged", "areas")
    parts, positions = [], []
    for keys, rows in _stream(store, settings, space, layer):
        own = [i for i, key in enumerate(keys) if key in index]
        if own:
            parts.append([getattr(rows, name)[own] for name in names])
            positions += [index[keys[i]] for i in own]
    order = np.argsort(positions)
    *fields, areas = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
    return LayerRows(*fields), areas.astype(np.float64)


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
