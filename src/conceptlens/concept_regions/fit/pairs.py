"""Pairs of pooled layers and teacher vectors, read from their shards: in memory where they fit, else mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Up to here pairs are copied into memory; more are read from the mapped files, a batch at a time.
IN_MEMORY_BYTES = 2 * 2**30
BATCH_ROWS = 8192  # that mean and deviation are summed over at once


@dataclass(frozen=True, eq=False)
class ShardedRows:
    """Rows of several tensors, numbered through.

    Args:
        parts: The tensors.
        rows: The rows of each tensor that count.
    """

    parts: tuple[Float[Tensor, "row dimension"], ...]
    rows: tuple[Int[Tensor, "row"], ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(rows) for rows in self.rows)

    @property
    def width(self) -> int:
        """The length of a row."""
        return self.parts[0].shape[1]

    def take(self, index: Int[Tensor, "row"]) -> Float[Tensor, "row dimension"]:
        """Return some rows, in the order given."""
        if len(self.parts) == 1:
            return self.parts[0][self.rows[0][index]]
        ends = torch.tensor([len(rows) for rows in self.rows]).cumsum(0)
        home = torch.searchsorted(ends, index, right=True)
        found = torch.empty(len(index), self.width)
        for part in home.unique().tolist():
            here = home == part
            within = index[here] - (int(ends[part]) - len(self.rows[part]))
            found[here] = self.parts[part][self.rows[part][within]]
        return found


@dataclass(frozen=True, eq=False)
class DistillationPairs:
    """Inputs of the branch and the teacher's vectors for the same crops, row by row.

    Args:
        features: Pooled layers of the training crops.
        vectors: The teacher's image vectors of the training crops.
        validation_features: Pooled layers of the validation crops.
        validation_vectors: The teacher's image vectors of the validation crops.
        photos: Number of photos they come from.
    """

    features: ShardedRows
    vectors: ShardedRows
    validation_features: ShardedRows
    validation_vectors: ShardedRows
    photos: int


def read_pairs(files: Sequence[Path]) -> DistillationPairs:
    """Read the shards of a run.

    Args:
        files: The shards, as `extract_pairs` yields them.

    Raises:
        InputError: Where no photo is left for training or for validation.
    """
    shards, photos = [], 0
    for file in files:
        shards.append(load_file(file))
        with safe_open(str(file), framework="pt") as stored:
            photos += len(json.loads(stored.metadata()["photos"]))
    shards = [shard for shard in shards if len(shard["validation"])]
    if not shards:
        raise InputError("no photo could be used; give photos that open (JPEG, PNG, WebP ...)")
    validation = [shard["validation"] for shard in shards]
    size = sum(shard[name].nbytes for shard in shards for name in ("features", "vectors"))

    def rows_of(name: str, of_validation: bool) -> ShardedRows:
        rows = [(mask if of_validation else ~mask).nonzero()[:, 0] for mask in validation]
        parts = [shard[name] for shard in shards]
        if size > IN_MEMORY_BYTES:
            return ShardedRows(tuple(parts), tuple(rows))
        kept = torch.cat([part[index] for part, index in zip(parts, rows, strict=True)])
        return ShardedRows((kept,), (torch.arange(len(kept)),))

    pairs = DistillationPairs(
        rows_of("features", False),
        rows_of("vectors", False),
        rows_of("features", True),
        rows_of("vectors", True),
        photos,
    )
    if not len(pairs.features) or not len(pairs.validation_features):
        what = "to train on" if not len(pairs.features) else "for validation"
        raise InputError(f"of {photos} photos none was left {what}; give more photos, or another validation share")
    return pairs


def mean_and_deviation(table: ShardedRows) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every column, summed in float64; 1 for a constant column."""
    total = torch.zeros(2, table.width, dtype=torch.float64)
    for index in torch.arange(len(table)).split(BATCH_ROWS):
        part = table.take(index).double()
        total += torch.stack([part.sum(0), part.square().sum(0)])
    mean, square = total / len(table)
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    deviation = torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, torch.ones_like(deviation))
    return mean.float(), deviation.float()
