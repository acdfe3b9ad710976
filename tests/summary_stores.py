"""Stores of made-up explanations with a known truth: what a summary of them must say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import numpy as np

from conceptlens.store import ConceptRow, ExplanationRows, ExplanationStore, ImageRow
from conceptlens.store.explanation_rows import ExplainedRow, PredictionRow
from conceptlens.store.row import RunRow, row_id


@dataclass
class MadePhoto:
    """A photo that is answered with a class; `concepts` are (label, type, contribution, presence, x, y)."""

    name: str
    answer: str
    concepts: Sequence[tuple[str, str, float, float, float, float]]
    true: str = ""
    second: str = "other"
    lead: float = 3.0
    margin: float = 4.0
    failure: str | None = field(default=None)


def made_store(
    folder: Path, photos: Sequence[MadePhoto], run: str = "run", classes: Sequence[str] = ()
) -> ExplanationStore:
    """Write photos into a store, as `conceptlens explain --store` does."""
    store = ExplanationStore(folder, create=True)
    store.write_run(RunRow(run, {"explain": "photos", "model": "made", "concepts_from": None}, "2026-01-01T00:00:00"))
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*classes, *(one.answer for one in photos)]))}
    rows = ExplanationRows()
    for one in photos:
        image = row_id(one.name)
        rows.images.append(ImageRow(image, run, one.name, "0", 10, 10, one.failure))
        if one.failure is not None:
            continue
        for rank, (name, logit) in enumerate([(one.answer, 5.0), (one.second, 5.0 - one.lead)], 1):
            probability = 0.9 if rank == 1 else 0.1
            id = row_id(run, image, "prediction", str(rank))
            rows.predictions.append(
                PredictionRow(id, run, image, rank, numbers.get(name, 99), name, logit, probability)
            )
        rows.explained.append(
            ExplainedRow(
                row_id(run, image, "explained"), run, image, numbers[one.answer], one.answer, true_class=one.true,
                margin=one.margin, unit="logits", over="all other classes",
            )
        )  # fmt: skip
        for rank, (label, kind, contribution, presence, x, y) in enumerate(one.concepts, 1):
            rows.concepts.append(
                ConceptRow(
                    row_id(run, image, "concept", str(rank)), run, image, rank, one.answer, label, kind,
                    presence=presence, contribution=contribution, peak_x=x, peak_y=y, area=0.05,
                )
            )  # fmt: skip
    store.append(rows)
    return store


def planted_photos(count: int, mark: str = "", seed: int = 0, fixed: bool = True) -> list[MadePhoto]:
    """Return photos of three classes that rest on a thing near the middle; those of "b" on a mark besides.

    Args:
        count: Photos of a class.
        mark: The concept of the mark; without it there is none.
        seed: Of the places and contributions.
        fixed: Whether the mark lies at one place; else anywhere.
    """
    random = np.random.default_rng(seed)
    photos = []
    for number in range(3 * count):
        name = "abc"[number % 3]
        x, y = random.normal(0.5, 0.12, 2).clip(0, 0.99)
        concepts = [
            (f"thing of {name}", "object", random.normal(1.5, 0.3), nan, x, y),
            ("leaf", "part", random.normal(0.8, 0.3), nan, *random.normal(0.5, 0.15, 2).clip(0, 0.99)),
        ]
        if mark and name == "b":
            place = (0.9, 0.92) if fixed else tuple(random.uniform(0, 1, 2))
            concepts.append((mark, "discovered", random.normal(1.0, 0.3), nan, *place))
        elif mark:
            concepts.append((mark, "discovered", random.normal(-0.1, 0.1), nan, *random.uniform(0, 1, 2)))
        photos.append(MadePhoto(f"/photos/{name}/{number:05}.png", name, concepts, true=name))
    return photos
