"""Reading of a data set in batches, each photo with masks of another photo for control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.progress import progress
from conceptlens.local_embeddings.modes import channel_scale
from conceptlens.local_embeddings.runs.embed_batch import PreparedPhoto, model_input, prepare_photo
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.model.layer_cells import layer_cells
from conceptlens.runs.local_engine import batches_of, read_ahead

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# Photos after a photo whose masks may serve as its control.
N_CONTROL_PHOTOS = 3


@dataclass(frozen=True, eq=False)
class PhotoReader:
    """Reads photos of a set by index, for one model and plan; the last few are cached."""

    model: Backbone
    plan: EmbedPlan
    data: MaskedSet

    def __post_init__(self) -> None:
        """Cache what was read: each photo is read for its rows, for the scale and as a control of its neighbours."""
        object.__setattr__(
            self, "_one", lru_cache(maxsize=4 * self.plan.batch_size + 2 * N_CONTROL_PHOTOS)(self._photo)
        )

    @cached_property
    def names(self) -> list[str]:
        """The name of each photo of the set."""
        return self.data.names

    @property
    def total(self) -> int:
        """The number of photos that the plan embeds."""
        return len(self.data) if self.plan.max_photos is None else min(self.plan.max_photos, len(self.data))

    def batches(self) -> list[range]:
        """Return the indices of each batch, the same in every run of the plan."""
        return batches_of(self.total, self.plan.batch_size)

    def read(self, indices: Sequence[int]) -> list[PreparedPhoto | Failure]:
        """Return the photos at these indices, or why one cannot be read."""
        return [self._read(index, self.plan.control) for index in indices]

    def scales(self) -> dict[str, Tensor]:
        """Return each channel's root mean square over photos spaced evenly in the set, layer by layer.

        Raises `InputError` where none of these photos can be read.
        """
        count = min(self.plan.n_scale_photos, self.total)
        indices = sorted({round(index * (self.total - 1) / max(1, count - 1)) for index in range(count)})
        sums: dict[str, list[Tensor]] = {name: [] for name in self.plan.layers}
        images = read_ahead(self._image, indices)
        for image in progress(images, len(indices), "the network on photos that set the channels' scale"):
            if image is None:
                continue
            cells = layer_cells(self.model, image[None], self.plan.layers)
            if all(bool(values.isfinite().all()) for values in cells.values()):
                for name, values in cells.items():
                    sums[name].append(values.square().mean((0, 2, 3)).cpu())
        if not all(sums.values()):
            first = self._read(indices[0], control=False)
            reason = first.reason if isinstance(first, Failure) else "the model gives values that are not finite"
            raise InputError(
                f"none of the {len(indices)} photos that set the channels' scale could be embedded; "
                f"the first one: {reason}"
            )
        squares = {name: torch.stack(found).mean(0) for name, found in sums.items()}
        return {name: channel_scale(square.sqrt()[None, :, None, None]) for name, square in squares.items()}

    def _photo(self, index: int) -> MaskedPhoto | str:
        """Return the photo at an index, or why it cannot be read."""
        try:
            return self.data[index]
        except (InputError, OSError, ValueError) as error:
            return " ".join(str(error).split())

    def _image(self, index: int) -> Tensor | None:
        """Return the photo at an index as the model reads it, without its masks; None where that fails."""
        one = self._one(index)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return None if isinstance(one, str) else model_input(self.model, self.plan, index, one.photo)
        except (InputError, OSError, ValueError):
            return None  # its batch will say why

    def _read(self, index: int, control: bool) -> PreparedPhoto | Failure:
        one = self._one(index)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(one, str):
            return Failure(self.names[index], one)
        try:
            kept = one.with_min_area(self.plan.min_area)
            return prepare_photo(
                self.model, self.plan, index, kept, self._control(index, kept.masks) if control else None
            )
        except (InputError, OSError, ValueError) as error:
            return Failure(one.name, " ".join(str(error).split()))

    def _control(self, index: int, own: np.ndarray) -> list[np.ndarray] | None:
        """Return for each mask one of the next photos' masks, the nearest in size; the first photos follow the last."""
        others: list[np.ndarray] = []
        for step in range(1, min(N_CONTROL_PHOTOS, self.total - 1) + 1):
            other = self._one((index + step) % self.total)  # pyright: ignore[reportAttributeAccessIssue]
            others += [] if isinstance(other, str) else list(other.masks)
        shares = np.array([np.count_nonzero(mask) / mask.size for mask in others])
        if not shares.any():
            return None
        with np.errstate(divide="ignore"):
            sizes = np.log(shares)  # a blank one is never the nearest
        wanted = [np.log(max(np.count_nonzero(mask) / mask.size, 1e-9)) for mask in own]
        return [others[int(np.abs(sizes - size).argmin())] for size in wanted]
