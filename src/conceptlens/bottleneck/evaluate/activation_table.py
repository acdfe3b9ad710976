"""What a bottleneck reads in the photos of a labelled set, one batch of maps in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlens.features.cell_source import CellBatch, CellSource
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.progress import progress

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class BottleneckTable:
    """What a bottleneck reads in photos; those that could not be read are in `failures` and in no row.

    - `indices[photo]`: its index in the set. `classes[photo]`: its class among the bottleneck's.
    - `activations[photo concept]`: before edits. `logits[photo class]`: edits included.
    - `maps[photo chosen height width]`: of the concepts `mapped` alone.
    """

    indices: Int[Tensor, "photo"]
    names: tuple[str, ...]
    classes: Int[Tensor, "photo"]
    activations: Float[Tensor, "photo concept"]
    logits: Float[Tensor, "photo class"]
    mapped: tuple[int, ...]
    maps: Float[Tensor, "photo chosen height width"]
    failures: tuple[Failure, ...] = field(default=())

    @property
    def predicted(self) -> Int[Tensor, "photo"]:
        """The class with the highest logit."""
        return self.logits.argmax(1)


def read_table(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    indices: Sequence[int] | None = None,
    mapped: Sequence[int] = (),
    cache: str | Path | None = None,
    batch_size: int = 16,
) -> BottleneckTable:
    """Run a bottleneck on the photos of a labelled set.

    Args:
        bottleneck: The fitted bottleneck.
        model: The network as it was loaded for the fit.
        photos: The labelled set.
        indices: Indices of the photos that are read; by default all.
        mapped: Indices of the concepts whose maps are kept.
        cache: A folder of cells, such as the fit's; without one, the network runs on every photo.
        batch_size: Photos in a forward pass.

    Raises:
        InputError: The model or the classes are not the bottleneck's, or no photo can be read.
    """
    source = source_of(bottleneck, model, photos, cache)
    every = range(len(photos)) if indices is None else indices
    return joined(list(read_parts(bottleneck, source, every, mapped, batch_size, len(every) or 1)), source)


def source_of(bottleneck: Bottleneck, model: Backbone, photos: LabelledSet, cache: str | Path | None) -> CellSource:
    """Return where the cells of photos come from as the bottleneck reads them: see `read_table`."""
    folder = None if cache is None else Path(cache)
    return CellSource(bottleneck.backbone.prepare(model), photos, bottleneck.layers, bottleneck.grid, folder)


def read_parts(
    bottleneck: Bottleneck,
    source: CellSource,
    indices: Sequence[int],
    mapped: Sequence[int],
    batch_size: int,
    part_size: int,
) -> Iterator[BottleneckTable]:
    """Yield what `read_table` returns in tables of about `part_size` photos, so that not all maps are in memory.

    Photos that cannot be read are in no table; they are in `source.failures`.
    """
    tables: list[BottleneckTable] = []
    classes_of(bottleneck, source.photos)  # other classes are refused before anything is read
    with torch.inference_mode():
        batches = source.batches(indices, batch_size)
        for batch in progress(batches, len(indices), f"the bottleneck on photos of {source.photos.name}", batch_size):
            tables.append(batch_table(bottleneck, source.photos, batch, mapped))
            if sum(len(one.indices) for one in tables) >= part_size:
                yield joined(tables, source)
                tables = []
    if tables:
        yield joined(tables, source)


def batch_table(
    bottleneck: Bottleneck, photos: LabelledSet, batch: CellBatch, mapped: Sequence[int]
) -> BottleneckTable:
    """Return what a bottleneck makes of the cells of some photos.

    Args:
        bottleneck: The bottleneck.
        photos: The labelled set that the photos are of.
        batch: Their cells.
        mapped: Indices of the concepts whose maps are kept.
    """
    read = bottleneck({name: cells.to(bottleneck.weight) for name, cells in batch.cells.items()})
    theirs, names, chosen = torch.tensor(classes_of(bottleneck, photos)), photos.names, list(mapped)
    return BottleneckTable(
        indices=batch.indices,
        names=tuple(names[index] for index in batch.indices.tolist()),
        classes=theirs[torch.tensor(photos.labels)[batch.indices]],
        activations=read.activations.cpu(),
        logits=read.logits.cpu(),
        mapped=tuple(chosen),
        maps=read.maps[:, chosen].cpu(),
    )


def joined(parts: Sequence[BottleneckTable], source: CellSource, maps: bool = True) -> BottleneckTable:
    """Return tables of one set as one, in the order of the set, with or without their maps."""
    if not parts:
        raise InputError(f"no photo of {source.photos.name} could be read; {_first(source.failures)}")
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort()
    names = [name for part in parts for name in part.names]
    kept = ("classes", "activations", "logits")
    table = {name: torch.cat([getattr(part, name) for part in parts])[order] for name in kept}
    return BottleneckTable(
        indices=indices[order],
        names=tuple(names[index] for index in order.tolist()),
        mapped=parts[0].mapped if maps else (),
        maps=torch.cat([part.maps if maps else part.maps[:, :0] for part in parts])[order],
        failures=tuple(source.failures[index] for index in sorted(source.failures)),
        **table,
    )


def classes_of(bottleneck: Bottleneck, photos: LabelledSet) -> list[int]:
    """Return which class of the bottleneck each class of the set is, by name."""
    indices = {name: index for index, name in enumerate(bottleneck.classes)}
    missing = [name for name in photos.classes if name not in indices]
    if missing:
        raise InputError(
            f"{photos.name} has the class '{missing[0]}', which this bottleneck does not know; give photos of its "
            f"{len(indices)} classes ({', '.join(bottleneck.classes[:3])}, ...)"
        )
    return [indices[name] for name in photos.classes]


def _first(failures: dict[int, Failure]) -> str:
    return next((f"the first: {one.reason}" for _, one in sorted(failures.items())), "the set is empty")
