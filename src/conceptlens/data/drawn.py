"""A set of drawn scenes: no download, and masks that are exact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conceptlens.data.located import Located
from conceptlens.data.shapes import KINDS, SCENE_COLOURS, random_scene
from conceptlens.error import InputError
from conceptlens.text.vocabulary import ConceptName

_COLOURS = {colour: ConceptName(colour, "colour") for colour in SCENE_COLOURS}
_KINDS = {kind: ConceptName(kind) for kind in KINDS}
# Scenes of different splits never share a seed.
FIRST_SEED: dict[str, int] = {"train": 0, "val": 1_000_000}


class Drawn:
    """`count` random scenes of coloured shapes, always the same for one `split`, of `size` pixels a side.

    Each shape is two concepts, its colour (group `colour`) and its kind (group `kind`). Raises `InputError` for a
    count below 1, a size below 8 or an unknown split.
    """

    def __init__(self, count: int = 100, split: str = "val", size: int = 224) -> None:
        if split not in FIRST_SEED:
            raise InputError(f"drawn scenes have no split {split!r}; splits: {', '.join(FIRST_SEED)}")
        if not 1 <= count <= 1_000_000:
            raise InputError(f"{count} scenes were asked for; give 1 to 1000000, such as drawn:200")
        self._count, self._split, self._size = count, split, size

    @property
    def name(self) -> str:
        """The set and its split."""
        return f"drawn {self._split}"

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """All colours, then all kinds of shape."""
        return (*_COLOURS.values(), *_KINDS.values())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Located:
        """Read the photo at a place."""
        seed = range(FIRST_SEED[self._split], FIRST_SEED[self._split] + self._count)[place]
        scene = random_scene(seed, self._size)
        return Located(
            name=f"scene {seed}",
            photo=scene.image,
            concepts=(*(_COLOURS[c] for c in scene.masks), *(_KINDS[k] for k in scene.kinds)),
            groups=("colour",) * len(scene.masks) + ("kind",) * len(scene.kinds),
            masks=np.stack([*scene.masks.values(), *scene.kinds.values()]),
        )
