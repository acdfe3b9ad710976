"""Reading a data set in batches, each photo with another photo's masks for control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.mask_fits import channel_scale
from conceptlens.local_embeddings.runs.embed_batch import Read, image_of, prepare
from conceptlens.local_embeddings.runs.plan import EmbedPlan
from conceptlens.model.layer_cells import layer_cells

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# In how many photos after a photo masks are looked for to hold against its own.
NEIGHBOURS = 3
# Batches that are read ahead of the one at work.
AHEAD = 2


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads photos of a set by their place, for one model and plan; the last few stay at hand."""

    model: Backbone
    plan: EmbedPlan
    data: MaskedSet

    def __post_init__(self) -> None:
        """Keep what was read: each photo is asked for twice, and once more by its neighbour."""
        object.__setattr__(self, "_one", lru_cache(maxsize=4 * self.plan.batch_size + 2 * NEIGHBOURS)(self._photo))

    @cached_property
    def names(self) -> list[str]:
        """What each photo of the set is called."""
        return self.data.names

    @property
    def total(self) -> int:
        """How many photos the plan asks for."""
        return len(self.data) if self.plan.most is None else min(self.plan.most, len(self.data))

    def batches(self) -> list[range]:
        """Return the places of each batch: the same cut wherever and however often a plan is run."""
        size = self.plan.batch_size
        return [range(start, min(start + size, self.total)) for start in range(0, self.total, size)]

    def read(self, places: Sequence[int]) -> list[Read]:
        """Return the photos at some places; one that cannot be read says why."""
        return [self._read(place, self.plan.control) for place in places]

    def ahead(self, batches: Sequence[Sequence[int]]) -> Iterator[list[Read]]:
        """Yield batch after batch, the next ones being read meanwhile."""
        with ThreadPoolExecutor(1, "reading") as pool:
            waiting = [pool.submit(self.read, places) for places in batches[:AHEAD]]
            for later in range(len(batches)):
                found = waiting.pop(0).result()
                if later + AHEAD < len(batches):
                    waiting.append(pool.submit(self.read, batches[later + AHEAD]))
                yield found

    def scales(self) -> dict[str, Tensor]:
        """Return each channel's root mean square over photos spaced evenly in the set, layer by layer.

        Raises `InputError` where none of these photos can be read.
        """
        count = min(self.plan.scale_photos, self.total)
        places = sorted({round(place * (self.total - 1) / max(1, count - 1)) for place in range(count)})
        sums: dict[str, list[Tensor]] = {name: [] for name in self.plan.layers}
        for place in places:
            image, like = self._image(place), self.model.parameter
            if image is None:
                continue
            cells = layer_cells(self.model, image[None].to(like.device, like.dtype), self.plan.layers)
            if all(bool(values.isfinite().all()) for values in cells.values()):
                for name, values in cells.items():
                    sums[name].append(values.square().mean((0, 2, 3)).cpu())
        if not all(sums.values()):
            raise InputError(
                f"none of the {len(places)} photos that set the channels' scale could be embedded; the first one: "
                f"{self._read(places[0], control=False).failure or 'the model gives values that are not finite'}"
            )
        squares = {name: torch.stack(found).mean(0) for name, found in sums.items()}
        return {name: channel_scale(square.sqrt()[None, :, None, None]) for name, square in squares.items()}

    def _photo(self, place: int) -> MaskedPhoto | str:
        """Return the photo at a place, or why it cannot be read."""
        try:
            return self.data[place]
        except (InputError, OSError, ValueError) as error:
            return " ".join(str(error).split())

    def _image(self, place: int) -> Tensor | None:
        """Return the photo at a place as the model reads it, without its masks; None where that fails."""
        one = self._one(place)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return None if isinstance(one, str) else image_of(self.model, self.plan, place, one.photo)
        except (InputError, OSError, ValueError):
            return None  # its batch will say why

    def _read(self, place: int, control: bool) -> Read:
        one = self._one(place)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(one, str):
            return Read(self.names[place], failure=one)
        try:
            kept = one.with_min_area(self.plan.least_area)
            return prepare(self.model, self.plan, place, kept, self._control(place, kept.masks) if control else None)
        except (InputError, OSError, ValueError) as error:
            return Read(one.name, failure=" ".join(str(error).split()))

    def _control(self, place: int, own: np.ndarray) -> list[np.ndarray] | None:
        """Return for each mask one of the next photos' masks, the nearest in size; the first photos follow the last."""
        others: list[np.ndarray] = []
        for step in range(1, min(NEIGHBOURS, self.total - 1) + 1):
            other = self._one((place + step) % self.total)  # pyright: ignore[reportAttributeAccessIssue]
            others += [] if isinstance(other, str) else list(other.masks)
        shares = np.array([np.count_nonzero(mask) / mask.size for mask in others])
        if not shares.any():
            return None
        with np.errstate(divide="ignore"):
            sizes = np.log(shares)  # a blank one is never the nearest
        wanted = [np.log(max(np.count_nonzero(mask) / mask.size, 1e-9)) for mask in own]
        return [others[int(np.abs(sizes - size).argmin())] for size in wanted]
