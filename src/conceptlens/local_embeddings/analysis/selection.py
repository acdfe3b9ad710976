"""What a story is asked to be about: one model and mode of a store, and how many rows of each concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from conceptlens.store.row import LayerRow
    from conceptlens.store.store import Store

DRAWN = 20  # concepts that figures show


@dataclass(frozen=True)
class Asked:
    """Which part of a store is told, and how.

    - `model`, `mode`, `run`: may be left out where the store has one. `layer`: the one told in full; by default the
      one of highest mAP.
    - `concepts`: only these; by default all. `most`: rows of each concept that are looked at, drawn by `seed`; LoCE
      (IJCV 2025) takes 100.
    - `drawn`: how many concepts figures show, the most frequent; numbers are of all.
    - `umap`: the map is laid out by UMAP instead of principal axes.
    - `draws`: resamples of images behind every interval.
    """

    model: str | None = None
    mode: str | None = None
    run: str | None = None
    layer: str | None = None
    concepts: tuple[str, ...] | None = None
    most: int = 100
    drawn: int = DRAWN
    umap: bool = False
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        if self.most < 2 or self.drawn < 1 or self.draws < 1:
            raise InputError(
                f"{self.most} rows of a concept, {self.drawn} concepts and {self.draws} draws were asked for; a story "
                "needs at least 2 rows, 1 concept and 1 draw"
            )


@dataclass(frozen=True)
class Space:
    """One model and mode of a store, with its layers from the input up."""

    model: str
    mode: str
    layers: tuple[str, ...]


def check_concepts(store: Store, names: Sequence[str] | None) -> None:
    """Refuse a store that is empty, and a concept that it does not have."""
    known = store.concepts()
    if not known:
        raise InputError(f"{store.path} holds no embeddings yet; fill it with conceptlens embed")
    for name in names or ():
        if name not in known:
            raise InputError(f"no concept '{name}' in {store.path}; concepts: {near(name, known)}")


def find_space(store: Store, asked: Asked) -> Space:
    """Return what is told; raises `InputError` where the store has nothing of the kind, or more than one."""
    check_concepts(store, asked.concepts)
    runs = [row.id for row in store.runs()]
    if asked.run is not None and asked.run not in runs:
        raise InputError(f"no run '{asked.run}' in {store.path}; it has: {near(asked.run, runs) or 'none'}")
    known = store.layers()
    model = _one("model", asked.model, [row.model for row in known])
    known = tuple(row for row in known if row.model == model)
    mode = _one("mode", asked.mode, [row.mode for row in known])
    layers = _ordered(store, [row for row in known if row.mode == mode], asked.run)
    if asked.layer is not None and asked.layer not in layers:
        raise InputError(f"no layer '{asked.layer}' of {model} in {store.path}; layers: {near(asked.layer, layers)}")
    return Space(model, mode, layers)


def _one(what: str, asked: str | None, known: list[str]) -> str:
    names = list(dict.fromkeys(known))
    if asked is not None and asked not in names:
        raise InputError(f"no {what} '{asked}' in the store; it has: {near(asked, names)}")
    if asked is None and len(names) > 1:
        raise InputError(f"the store has {len(names)} {what}s, and a story is of one; give --{what}: {near('', names)}")
    return names[0] if asked is None else asked


def _ordered(store: Store, rows: list[LayerRow], run: str | None) -> tuple[str, ...]:
    """Return layers in the order a run was asked for them; what no run names stands after, by number and name."""
    there = {row.layer for row in rows}
    listed = [
        layer
        for one in store.runs()
        if run in (None, one.id)
        for layer in one.settings.get("layers") or ()
        if layer in there
    ]
    return tuple(dict.fromkeys([*listed, *sorted(there, key=_natural)]))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
