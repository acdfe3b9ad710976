"""Does a method point at what a concept names? Maps against masks, photo by photo, with a wrong concept as control."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.data.located_set import Located, LocatedSet, crop_masks
from conceptlens.io.errors import InputError
from conceptlens.io.failures import Failure
from conceptlens.localization.methods import Method
from conceptlens.localization.result_rows import ORACLE, Row
from conceptlens.metrics.map_mask import locate
from conceptlens.record import WHOLE, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.concepts.vocabulary import ConceptName

# CE-FAM's evaluation chooses among a method's candidates by this metric, and with the mask.
CHOOSES = "ranked_area"
# Masks and enlarged maps of every concept of a photo are held at once; beyond this they say nothing more.
MOST_PIXELS = 2048

Scores = list[dict[str, float | None]]


def evaluate(
    data: LocatedSet,
    methods: Mapping[str, Method],
    least_share: float = 0.01,
    resolution: int | None = 112,
    wrong: bool = True,
    seed: int = 0,
    most: int | None = None,
) -> Iterator[tuple[Row, ...] | Failure]:
    """Yield for one photo after the other how well each method's maps fit the masks of the concepts it shows.

    - `least_share`: concepts that cover less of the photo are left out.
    - `resolution`: masks are cut to what the model saw and take the nearest pixel, at this many rows and columns; None
      keeps the annotation's own pixels. Maps are enlarged bilinearly to the same size.
    - `wrong`: each concept is also asked for by a wrong name, a concept of the set that the photo does not show, and
      that map is held against the same mask. A map that is as good under a wrong name shows no concept.
    - `seed` draws the wrong names, the same for all methods; `most` ends after so many photos.

    A method whose explanation has several `components` (layers, neurons) is scored twice: as it answers, and as
    "NAME (oracle)", by the part that fits the mask best by NRA. A photo that fails comes out as a `Failure`.
    """
    check_settings(least_share, resolution, most)
    if not methods:
        raise InputError("no method was given; give at least one, such as those of build_methods")
    for one in _read(data, most):
        if isinstance(one, Failure):
            yield one
            continue
        try:
            names = _wrong_names(one, data.concepts, seed) if wrong else {}
            yield tuple(_rows(one.at_least(least_share), methods, names, resolution))
        except (InputError, RuntimeError) as error:  # torch's own: out of memory, shapes
            yield Failure(one.name, f"{one.name}: {' '.join(str(error).split())}")


@dataclass(frozen=True, eq=False)
class Truth:
    """The masks of one photo as a model saw it: `masks[question rows columns]`, `ignored[rows columns]`."""

    masks: Bool[Tensor, "question rows columns"]
    ignored: Bool[Tensor, "rows columns"] | None

    def shares(self) -> list[float]:
        """Return how much of the pixels that count each mask covers."""
        if self.ignored is None:
            return self.masks.double().mean((1, 2)).tolist()
        counted = ~self.ignored
        return ((self.masks & counted).sum((1, 2)).double() / counted.sum().clamp_min(1)).tolist()

    def scores(self, maps: Tensor) -> Scores:
        """Return every metric of `maps[question height width]`, one for each mask."""
        ignored = None if self.ignored is None else self.ignored[None]
        found = locate(maps[None], self.masks[None], ignored)
        return [{name: score.of(0, i) for name, score in found.items()} for i in range(len(maps))]


def truth_of(one: Located, explained: Explanation, resolution: int | None) -> Truth:
    """Return the masks of the part of the photo that an explanation speaks of."""
    box = explained.source.image_info[0].box
    rows, columns = one.masks.shape[1:]
    own = (max(1, round(rows * (box[3] - box[1]))), max(1, round(columns * (box[2] - box[0]))))
    size = own if resolution is None else (resolution, resolution)
    masks = torch.from_numpy(crop_masks(one.masks, box, size))
    ignored = one.ignored
    if ignored is None and box != WHOLE:
        ignored = np.zeros((rows, columns), bool)  # what lies beyond the photo is padding
    cut = None if ignored is None else torch.from_numpy(crop_masks(ignored, box, size, outside=True))
    return Truth(masks, cut if cut is not None and bool(cut.any()) else None)


def best_parts(truth: Truth, parts: Sequence[Explanation], rows: Sequence[int]) -> tuple[list[int], Scores]:
    """Return for each mask the part whose map fits it best by NRA, an oracle, and that map's scores."""
    tried = [truth.scores(part.maps[0, list(rows)]) for part in parts]
    chosen = [
        max(range(len(parts)), key=lambda part: -1.0 if (v := tried[part][i][CHOOSES]) is None else v)
        for i in range(len(rows))
    ]
    return chosen, [tried[part][i] for i, part in enumerate(chosen)]


def _read(data: LocatedSet, most: int | None) -> Iterator[Located | Failure]:
    """Read photos one by one; one that cannot be read is a failure, and the next follows."""
    for place in range(len(data) if most is None else min(most, len(data))):
        try:
            yield data[place]
        except InputError as error:
            yield Failure(f"photo {place + 1} of {data.name}", str(error))


def _wrong_names(one: Located, known: Sequence[ConceptName], seed: int) -> dict[ConceptName, ConceptName]:
    """Draw for each concept one that the photo does not show at all, not even a little."""
    shown = set(one.concepts)
    absent = [concept for concept in known if concept not in shown]
    if not absent:
        return {}
    return {c: random.Random(f"{seed} {one.name} {c.label}:{c.type}").choice(absent) for c in one.concepts}


def _rows(
    one: Located, methods: Mapping[str, Method], names: Mapping[ConceptName, ConceptName], resolution: int | None
) -> Iterator[Row]:
    """Ask every method once, for the right and the wrong concepts together."""
    if not one.concepts:
        return
    wrong = [names[concept] for concept in one.concepts] if names else []
    asked = tuple(dict.fromkeys([*one.concepts, *wrong]))
    right, other = ([asked.index(concept) for concept in group] for group in (one.concepts, wrong))
    for name, method in methods.items():
        explained = method(one.photo, asked)
        if tuple(explained.maps.shape[:2]) != (1, len(asked)):
            raise InputError(
                f"method '{name}' gave maps of shape {tuple(explained.maps.shape)}; "
                f"expected 1 image and {len(asked)} questions"
            )
        truth = truth_of(one, explained, resolution)
        matched: Any = explained.source.settings.get("matched") or (True,) * len(asked)
        shares = truth.shares()
        for title, scores, control in _scored(name, explained, truth, right, other):
            for i, concept in enumerate(one.concepts):
                yield Row(
                    one.name, concept.label, concept.type, one.groups[i], title, shares[i], bool(matched[right[i]]),
                    scores[i], wrong[i].label if wrong else None, control[i] if wrong else {},
                )  # fmt: skip


def _scored(
    name: str, explained: Explanation, truth: Truth, right: Sequence[int], wrong: Sequence[int]
) -> Iterator[tuple[str, Scores, Scores]]:
    """Yield a method's scores and those of its control, as it answers and, of several parts, by the best."""
    yield (
        name,
        truth.scores(explained.maps[0, list(right)]),
        truth.scores(explained.maps[0, list(wrong)]) if wrong else [],
    )
    if len(explained.components) > 1:
        _, scores = best_parts(truth, explained.components, right)
        yield name + ORACLE, scores, best_parts(truth, explained.components, wrong)[1] if wrong else []


def check_settings(least_share: float, resolution: int | None, most: int | None) -> None:
    """Refuse numbers that `evaluate` cannot work with, before anything is read."""
    if not 0 <= least_share < 1:
        raise InputError(f"the least share is {least_share}; expected a share from 0 to below 1, such as 0.01")
    if resolution is not None and not 2 <= resolution <= MOST_PIXELS:
        raise InputError(
            f"the resolution is {resolution}; expected 2 to {MOST_PIXELS} pixels a side, or the annotation's own"
        )
    if most is not None and most < 1:
        raise InputError(f"{most} photos were asked for; expected at least 1")
