"""What a store holds, one frozen row for each thing: images, embeddings, masks, runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from conceptlens.io.errors import InputError
from conceptlens.io.run_lengths import decode_mask


def row_id(*parts: str) -> str:
    """Return the id of what `parts` name: 16 hexadecimal digits, the same in every process and on every machine.

    `("a", "bc")` and `("ab", "c")` are two ids.

    Args:
        *parts: What the row is of, such as a run, an image and a concept.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: There is no part, or one is not text.
    """
    if not parts or not all(isinstance(part, str) for part in parts):
        raise InputError(f"the parts of an id are {parts!r}; give texts, such as a run, an image and a concept")
    named = b"".join(b"%d:%s" % (len(raw), raw) for raw in (part.encode("utf-8", "surrogatepass") for part in parts))
    return hashlib.blake2b(named, digest_size=8).hexdigest()


@dataclass(frozen=True)
class ImageRow:
    """One image as one run left it. With this row, and not before, all that the run says of the image is there.

    - `id`: the image's own, whichever run read it; an image that two runs read has two rows.
    - `width`, `height` in pixels, of the upright photo; 0 where it could not be read.
    - `failure`: why the run has nothing to say of it; `None` where all went well.
    """

    id: str
    run: str
    name: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    failure: str | None = None


@dataclass(frozen=True, eq=False)
class EmbeddingRow:
    """One vector: a concept, in an image, at a layer.

    - `vector[channel]`: float32, finite. A vector of zeros is kept, and is near nothing.
    - `type`, `group`: the concept's type, and what tables sort it under (thing, stuff, part ...).
    - `model`, `layer`, `mode`: where the vector lives. Vectors with the same three have the same length.
    - `iou`, `control_iou`: with the concept's mask, and with another image's; `nan` where they were not measured.
    - `loss`: in the units of `mode`. `area`: the mask's share of the image. `mask`: the id of its `MaskRow`, if any.
    """

    id: str
    run: str
    image: str
    concept: str
    model: str
    layer: str
    mode: str
    vector: np.ndarray = field(repr=False)
    type: str = "object"
    group: str = ""
    iou: float = nan
    loss: float = nan
    control_iou: float = nan
    converged: bool = True
    area: float = nan
    mask: str | None = None

    @property
    def space(self) -> tuple[str, str, str]:
        """Model, layer and mode: vectors of one space can be compared."""
        return self.model, self.layer, self.mode

    @property
    def selectivity(self) -> float:
        """How much better the vector fits its own mask than another image's: `iou - control_iou`."""
        return self.iou - self.control_iou


@dataclass(frozen=True)
class MaskRow:
    """Where a concept is in an image: `counts` are COCO's packed run lengths down the columns of `rows x columns`."""

    id: str
    image: str
    concept: str
    rows: int
    columns: int
    counts: bytes = field(repr=False)

    @classmethod
    def from_mask(cls, id: str, image: str, concept: str, mask: np.ndarray) -> MaskRow:
        """Pack a mask `[rows columns]`, bool.

        Args:
            id: The id of the mask.
            image: The id of its image.
            concept: The label of its concept.
            mask: Bool `[rows columns]`.

        Returns:
            The row, with the mask in packed run lengths.

        Raises:
            InputError: The array is not bool, not two-dimensional, or empty.
        """
        if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
            raise InputError(f"a mask has shape {mask.shape} and type {mask.dtype}; expected bool rows columns")
        rows, columns = mask.shape
        packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
        return cls(id, image, concept, rows, columns, packed.encode() if isinstance(packed, str) else packed)

    def mask(self) -> np.ndarray:
        """Return the mask `[rows columns]`, bool.

        Returns:
            Bool `[rows columns]`.

        Raises:
            InputError: The run lengths are no such mask.
        """
        size = (self.rows, self.columns)
        try:
            return decode_mask({"size": size, "counts": self.counts}, size)
        except ValueError as error:
            raise InputError(f"mask {self.id} is damaged ({error}); embed its image again") from None


@dataclass(frozen=True)
class RunRow:
    """One run: its settings, when it began and ended, and what it counted.

    `started` and `finished` are ISO 8601 with a time zone; `finished` is `None` until the run has ended. Settings are
    what JSON holds; tuples come back as lists.
    """

    id: str
    settings: Mapping[str, Any]
    started: str
    finished: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerRow:
    """What one layer holds in a store: how long its vectors are, and how many there are."""

    model: str
    layer: str
    mode: str
    channels: int
    rows: int
