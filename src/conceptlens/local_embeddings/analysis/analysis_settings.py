"""Settings of an analysis, and which model, mode and layers of a store it covers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from conceptlens.store.row import LayerRow
    from conceptlens.store.store import Store


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
            raise InputError(f"no concept '{name}' in {store.path}; concepts: {near(name, known)}")


def find_embedding_space(store: Store, settings: AnalysisSettings) -> EmbeddingSpace:
    """Return the model, mode and layers to analyze; `InputError` where the store has none or several of them."""
    check_concepts(store, settings.concepts)
    runs = [row.id for row in store.runs()]
    if settings.run is not None and settings.run not in runs:
        raise InputError(f"no run '{settings.run}' in {store.path}; it has: {near(settings.run, runs) or 'none'}")
    known = store.layers()
    model = _choose("model", settings.model, [row.model for row in known])
    known = tuple(row for row in known if row.model == model)
    mode = _choose("mode", settings.mode, [row.mode for row in known])
    layers = _ordered(store, [row for row in known if row.mode == mode], settings.run)
    if settings.layer is not None and settings.layer not in layers:
        raise InputError(
            f"no layer '{settings.layer}' of {model} in {store.path}; layers: {near(settings.layer, layers)}"
        )
    return EmbeddingSpace(model, mode, layers)


def _choose(what: str, wanted: str | None, known: list[str]) -> str:
    """Return the one that is wanted, or the only one there is."""
    names = list(dict.fromkeys(known))
    if wanted is not None and wanted not in names:
        raise InputError(f"no {what} '{wanted}' in the store; it has: {near(wanted, names)}")
    if wanted is None and len(names) > 1:
        raise InputError(
            f"the store has {len(names)} {what}s, and an analysis is of one; give --{what}: {near('', names)}"
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
