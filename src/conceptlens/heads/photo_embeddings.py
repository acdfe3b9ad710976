"""The embedding of every photo of a labelled set, each photo through the network once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.features.cell_source import EMBEDDING, CellSource
from conceptlens.io.errors import Failure, InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class EmbeddedPhotos:
    """The photos of a set that could be read, as a network embeds them.

    Attributes:
        vectors: What enters the network's classifier, `[photo dimension]`, float32, on the processor.
        labels: The number of each photo's class.
        rows: The index of each photo in the set.
        failures: The photos that could not be read.
    """

    vectors: Float[Tensor, "photo dimension"]
    labels: Int[Tensor, "photo"]
    rows: Int[Tensor, "photo"]
    failures: tuple[Failure, ...]


def embed_photos(model: Backbone, photos: LabelledSet, folder: Path) -> EmbeddedPhotos:
    """Return the embedding of every photo of a set that can be read.

    Args:
        model: The network, which embeds or ends in a linear layer.
        photos: The set.
        folder: Where embeddings are kept; those that are there already are read.

    Returns:
        The embeddings, in the set's order.

    Raises:
        InputError: No photo can be read, or the network has no embedding.
    """
    source = CellSource(model, photos, (EMBEDDING,), (1, 1), folder)
    for _ in source.write_files(doing=f"the network on photos of {photos.name}"):
        pass
    batches = list(source.batches(range(len(photos))))
    failures = tuple(source.failures[index] for index in sorted(source.failures))
    if not batches:
        first = failures[0].reason if failures else "the set is empty"
        raise InputError(f"no photo of {photos.name} could be read; the first: {first}")
    rows = torch.cat([batch.indices for batch in batches])
    vectors = torch.cat([batch.cells[EMBEDDING] for batch in batches])[:, :, 0, 0]
    return EmbeddedPhotos(vectors, torch.from_numpy(photos.labels)[rows], rows, failures)
