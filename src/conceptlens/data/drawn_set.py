"""A set of drawn scenes: no download, and masks that are exact."""

from __future__ import annotations

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.drawn_scene import KINDS, SCENE_COLOURS, random_scene
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError

_COLOURS = {colour: ConceptName(colour, "colour") for colour in SCENE_COLOURS}
_KINDS = {kind: ConceptName(kind) for kind in KINDS}
# Scenes of different splits never share a seed.
FIRST_SEED: dict[str, int] = {"train": 0, "val": 1_000_000}
MAX_SCENES = 1_000_000


class DrawnSet(ListedMaskedSet[int]):
    """`count` random scenes of coloured shapes, always the same for one `split`, of `size` pixels a side.

    Each shape is two concepts, its colour (group `colour`) and its kind (group `kind`); nothing is left out. Raises
    `InputError` for a count below 1, a size below 8 or an unknown split.
    """

    def __init__(self, count: int = 100, split: str = "val", size: int = 224) -> None:
        if split not in FIRST_SEED:
            raise InputError(f"drawn scenes have no split {split!r}; splits: {', '.join(FIRST_SEED)}")
        if not 1 <= count <= MAX_SCENES:
            raise InputError(f"{count} scenes were asked for; give 1 to {MAX_SCENES}, such as drawn:200")
        self.name = f"drawn {split}"
        self.concepts = (*_COLOURS.values(), *_KINDS.values())
        self._entries = range(FIRST_SEED[split], FIRST_SEED[split] + count)
        self._size = size

    def _name_of(self, entry: int) -> str:
        return f"scene {entry}"

    def _read(self, entry: int) -> MaskedPhoto:
        scene = random_scene(entry, self._size)
        return MaskedPhoto(
            name=self._name_of(entry),
            photo=scene.image,
            concepts=(*(_COLOURS[c] for c in scene.masks), *(_KINDS[k] for k in scene.kinds)),
            groups=("colour",) * len(scene.masks) + ("kind",) * len(scene.kinds),
            masks=np.stack([*scene.masks.values(), *scene.kinds.values()]),
        )
