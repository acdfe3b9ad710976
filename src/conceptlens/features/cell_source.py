"""The cells of a frozen network's layers for every photo of a set: read from disk where they fit, else made again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.fingerprint import settings_fingerprint, texts_fingerprint, weights_fingerprint
from conceptlens.io.progress import progress
from conceptlens.model.layer_cells import embeddings, layer_cells
from conceptlens.model.preprocess import Preprocess
from conceptlens.runs.local_engine import batches_of, read_ahead

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

PHOTOS_PER_FILE = 64
BATCH_PHOTOS = 16  # that run through the network at once where cells are kept
FORMAT = 2
EMBEDDING = "the embedding"  # in place of a layer's name: what enters the classifier, a grid of one cell


@dataclass(frozen=True, eq=False)
class CellBatch:
    """Some photos of a set.

    Attributes:
        indices: `[photo]`, the index of each photo in the set.
        cells: The cells of each layer by its name, `[photo channel rows columns]`, float32.
        colours: The mean colours of the network's input in each cell of the grid, `[photo colour height width]`.
    """

    indices: Int[Tensor, "photo"]
    cells: dict[str, Float[Tensor, "photo channel rows columns"]]
    colours: Float[Tensor, "photo colour height width"]


@dataclass(frozen=True, eq=False)
class CellSource:
    """The cells of a frozen network's layers for the photos of a set, read in batches.

    Attributes:
        model: The network.
        photos: The set.
        layers: The names of the layers, or `(EMBEDDING,)` for the embedding.
        grid: Height and width of the grid of mean colours.
        folder: Where cells are kept in half precision, and embeddings in single precision, 64 photos a file; `None`
            runs the network at every reading.
        failures: The photos that cannot be read by index; they are left out of the batches.
    """

    model: Backbone
    photos: LabelledSet
    layers: tuple[str, ...]
    grid: tuple[int, int]
    folder: Path | None = None
    failures: dict[int, Failure] = field(default_factory=dict)

    def batches(self, indices: Sequence[int], size: int = 32) -> Iterator[CellBatch]:
        """Yield the photos at `indices`, by files and in rising order within each; those that failed are left out."""
        groups: dict[int, list[int]] = {}
        for index in indices:
            groups.setdefault(int(index) // PHOTOS_PER_FILE, []).append(int(index))
        wanted = {group: sorted(own) for group, own in sorted(groups.items())}
        if self.folder is None:
            parts = [own[start : start + size] for own in wanted.values() for start in range(0, len(own), size)]
            yield from (batch for batch in self._made(parts) if batch is not None)
            return
        for group, own in wanted.items():
            yield from self._group(group, own, size)

    @cached_property
    def key(self) -> str:
        """A name for everything that the cells depend on, but what the photos show."""
        view = self.model.transform
        about = {
            "format": FORMAT,
            "model": weights_fingerprint(self.model.module),
            "layers": self.layers,
            "grid": self.grid,
            "view": asdict(view) if isinstance(view, Preprocess) else repr(view),
            "set": [self.photos.name, len(self.photos), texts_fingerprint(self.photos.names)],
        }
        return settings_fingerprint(about)

    def write_files(self, share: tuple[int, int] = (0, 1), doing: str = "") -> Iterator[Path]:
        """Make the files that are not there yet and yield each; what is made stays, however the run ends.

        Args:
            share: Number of this process and number of processes, which divide the files.
            doing: What is told of the photos while the network sees them (`progress`); empty tells nothing.
        """
        if self.folder is None:
            return
        process, processes = share
        yield from self._files(range(process, -(-len(self.photos) // PHOTOS_PER_FILE), processes), doing)

    def readable_indices(self, indices: Sequence[int]) -> list[int]:
        """Return those of `indices` that can be read, in their order; every file of theirs is made."""
        if self.folder is not None:
            for _ in self._files(sorted({int(index) // PHOTOS_PER_FILE for index in indices}), "the network on photos"):
                pass
        else:
            for index in progress(indices, len(indices), "looking for photos that cannot be read"):
                try:
                    self.model.check_size(self.photos[int(index)].size)
                except InputError as error:
                    self.failures[int(index)] = Failure(self.photos.names[int(index)], str(error))
        return [int(index) for index in indices if int(index) not in self.failures]

    def bytes_needed(self) -> int:
        """Return how many bytes the cells of all photos take as they are kept, measured on one photo."""
        one = next((one for one in self._made([index] for index in range(len(self.photos))) if one is not None), None)
        if one is None:
            first = next((failure.reason for failure in self.failures.values()), "the set is empty")
            raise InputError(f"no photo of {self.photos.name} could be read; the first: {first}")
        kept = [*(_kept(name, cells) for name, cells in one.cells.items()), one.colours.half()]
        return sum(value[0].nbytes for value in kept) * len(self.photos)

    def _group(self, group: int, wanted: list[int], size: int) -> Iterator[CellBatch]:
        (file,) = self._files([group])
        stored = load_file(file)
        indices = stored["indices"]
        kept = torch.isin(indices, torch.tensor(wanted)).nonzero()[:, 0]
        for rows in kept.split(size) if len(kept) else ():
            cells = {name: stored[name][rows].float() for name in self.layers}
            yield CellBatch(indices[rows], cells, stored["colours"][rows].float())

    def _files(self, groups: Sequence[int], doing: str = "") -> Iterator[Path]:
        """Yield the file of each group, made now if it is not whole; the photos of the next one are read meanwhile."""
        if self.folder is None:
            raise InputError("these cells are not kept in a folder")
        files = {group: self.folder / self.key / f"{group:06}.safetensors" for group in groups}
        parts = {group: self._parts(group) for group, file in files.items() if not _is_whole(file)}
        several = [part for own in parts.values() for part in own]
        batches = progress(self._made(several), sum(map(len, several)), doing, BATCH_PHOTOS, visible=bool(doing))
        made = iter(batches)
        for group, file in files.items():
            if group in parts:
                self._write(file, group, [one for one in islice(made, len(parts[group])) if one is not None])
            if group == next(reversed(parts), None):
                next(made, None)  # which ends its bar
            with safe_open(str(file), framework="pt") as stored:
                for index, name, reason in json.loads(stored.metadata()["failures"]):
                    self.failures[index] = Failure(name, reason)
            yield file

    def _parts(self, group: int) -> list[range]:
        """Return the batches in which the photos of a file are read."""
        start = group * PHOTOS_PER_FILE
        own = batches_of(min(PHOTOS_PER_FILE, len(self.photos) - start), BATCH_PHOTOS)
        return [range(start + part.start, start + part.stop) for part in own]

    def _write(self, file: Path, group: int, made: Sequence[CellBatch]) -> None:
        start = group * PHOTOS_PER_FILE
        tensors = {"indices": torch.cat([one.indices for one in made]) if made else torch.empty(0, dtype=torch.long)}
        if made:
            tensors |= {name: _kept(name, torch.cat([one.cells[name] for one in made])) for name in self.layers}
            tensors["colours"] = _to_half(torch.cat([one.colours for one in made]))
        own = range(start, start + PHOTOS_PER_FILE)
        failed = [(index, one.name, one.reason) for index, one in self.failures.items() if index in own]
        with replacing(file) as temporary:
            save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, {"failures": json.dumps(failed)})

    def _made(self, batches: Iterable[Sequence[int]]) -> Iterator[CellBatch | None]:
        """Run the network on batches of photos, the next ones being read; `None` where all of a batch fail."""
        for read in read_ahead(self._read, batches):
            self.failures.update(read.failures)
            yield self._computed(read) if read.inputs else None

    def _read(self, indices: Sequence[int]) -> _ReadInputs:
        read = _ReadInputs()
        for index in indices:
            try:
                photo = self.photos[index]
                self.model.check_size(photo.size)
            except InputError as error:
                read.failures[index] = Failure(self.photos.names[index], str(error))
                continue
            read.inputs[index] = self.model.read_photo(photo)
        return read

    @torch.no_grad()
    def _computed(self, read: _ReadInputs) -> CellBatch:
        images = torch.stack([*read.inputs.values()]).to(self.model.parameter.device, self.model.parameter.dtype)
        if self.layers == (EMBEDDING,):
            found = {EMBEDDING: embeddings(self.model, images)[:, :, None, None]}
        else:
            found = layer_cells(self.model, images, self.layers)
        cells = {name: value.cpu() for name, value in found.items()}
        colours = functional.adaptive_avg_pool2d(images.float(), self.grid).cpu()
        return CellBatch(torch.tensor([*read.inputs]), cells, colours)


@dataclass(frozen=True, eq=False)
class _ReadInputs:
    """Some photos of a set as the network takes them, and why others cannot be read, by index."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)


def _kept(name: str, cells: Tensor) -> Tensor:
    """Return cells in the precision in which they are kept: an embedding is small, and is kept whole."""
    return cells if name == EMBEDDING else _to_half(cells)


def _to_half(values: Tensor) -> Tensor:
    """Return values in half precision, or as they are where some are too large for it."""
    return values.half() if bool(values.abs().amax() < 6e4) else values


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(str(file), framework="pt") as stored:
            return stored.metadata() is not None
    except (OSError, SafetensorError):
        return False
