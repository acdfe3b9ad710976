"""What the branch learns from: a frozen classifier's pooled layers and the teacher's vector, for every crop of a photo.

Both networks are frozen, so every crop runs through them once, and the pairs stay on disk for all epochs and runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.concept_regions.translator import Teacher
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.failures import Failure
from conceptlens.io.fingerprint import files_fingerprint, settings_fingerprint, weights_fingerprint
from conceptlens.io.images import fingerprint, read_image
from conceptlens.model.observation import ask
from conceptlens.training.crops import centre_crop, is_held_out, network_input, preprocess_of, random_crop

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone

PHOTOS_PER_SHARD = 64
FORMAT = 1


@dataclass(frozen=True)
class Views:
    """How photos are looked at: `count` random crops of each, or its centre where it is held out."""

    count: int = 4
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.count < 1:
            raise InputError(f"{self.count} views are asked for; give at least 1")
        if not 0 < self.validation < 1:
            raise InputError(f"validation is {self.validation}; give a share between 0 and 1, such as 0.1")


@dataclass(frozen=True, eq=False)
class Pupil:
    """A classifier, the layers its branch reads, and the teacher it learns from."""

    model: Backbone
    layers: tuple[str, ...]
    vlm: Backbone

    def key(self, views: Views) -> str:
        """Return a name for everything that the pairs depend on, but the photos."""
        about = {
            "format": FORMAT,
            "model": weights_fingerprint(self.model.module),
            "layers": self.layers,
            "teacher": Teacher.of(self.vlm).identity,
            "views": asdict(views),
            "inputs": [asdict(preprocess_of(net)) for net in (self.model, self.vlm)],
        }
        return settings_fingerprint(about)


def shard_files(pupil: Pupil, photos: Sequence[Path], views: Views, folder: Path) -> list[tuple[Path, Sequence[Path]]]:
    """Return the file of every few photos, named after what they are: path, size and time of change."""
    home = folder / pupil.key(views)
    groups = [photos[i : i + PHOTOS_PER_SHARD] for i in range(0, len(photos), PHOTOS_PER_SHARD)]
    return [(home / f"{files_fingerprint(group)}.safetensors", group) for group in groups]


def extract(
    pupil: Pupil, photos: Sequence[Path], views: Views, folder: Path, share: tuple[int, int] = (0, 1), batch: int = 32
) -> Iterator[Path]:
    """Make the shards that are not there yet, and yield each file; `share = (process, processes)` divides the work.

    A photo that cannot be read is noted in its shard, and the rest goes on.
    """
    process, processes = share
    for file, group in shard_files(pupil, photos, views, folder)[process::processes]:
        if not _is_whole(file):
            _make(pupil, group, views, file, batch)
        yield file


def failures_of(files: Sequence[Path]) -> tuple[Failure, ...]:
    """Return the photos that could not be used, as the shards note them."""
    return tuple(Failure(*entry) for file in files for entry in json.loads(_metadata(file)["failures"]))


def _make(pupil: Pupil, group: Sequence[Path], views: Views, file: Path, batch: int) -> None:
    failures: list[tuple[str, str]] = []
    features, vectors, held, made = [], [], [], []
    for rows in _batches(_crops(pupil, group, views, failures), batch):
        features.append(pooled_layers(pupil.model, torch.stack([row.seen for row in rows]), pupil.layers))
        vectors.append(image_vectors(pupil.vlm, torch.stack([row.taught for row in rows])))
        held += [row.held for row in rows]
        made += [row.photo for row in rows]
    tensors = {
        "features": torch.cat(features) if features else torch.empty(0, 0),
        "vectors": torch.cat(vectors) if vectors else torch.empty(0, 0),
        "held": torch.tensor(held, dtype=torch.bool),
    }
    whole = tensors["features"].isfinite().all(1) & tensors["vectors"].isfinite().all(1)
    broken = {name for name, good in zip(made, whole.tolist(), strict=True) if not good}
    failures += [(name, f"{name} gives values that are not finite; leave it out") for name in sorted(broken)]
    keep = torch.tensor([name not in broken for name in made], dtype=torch.bool)
    metadata = {"failures": json.dumps(failures), "photos": json.dumps(sorted(set(made) - broken))}
    with replacing(file) as temporary:
        save_file({name: tensor[keep].contiguous() for name, tensor in tensors.items()}, temporary, metadata)


@dataclass(frozen=True, eq=False)
class _Row:
    """One crop as both networks take it."""

    photo: str
    held: bool
    seen: Tensor
    taught: Tensor


def _crops(pupil: Pupil, group: Sequence[Path], views: Views, failures: list[tuple[str, str]]) -> Iterator[_Row]:
    for path in group:
        try:
            photo = read_image(path)
        except InputError as error:
            failures.append((str(path), str(error)))
            continue
        mark = fingerprint(photo)
        held = is_held_out(mark, views.validation, views.seed)
        for view in range(1 if held else views.count):
            crop = centre_crop(photo) if held else random_crop(photo, mark, view, views.seed)
            yield _Row(str(path), held, network_input(pupil.model, crop), network_input(pupil.vlm, crop))


def _batches(rows: Iterator[_Row], size: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def pooled_layers(model: Backbone, images: Tensor, layers: Sequence[str]) -> Float[Tensor, "image width"]:
    """Return what `concept.branch.pooled` returns of an observation, in float32, without a graph."""
    size = (images.shape[0], images.shape[2], images.shape[3])
    means: dict[str, Tensor] = {}

    def watch(name: str, raw: Tensor) -> None:
        means[name] = model.grid_of(raw.shape, size, name).read(raw).flatten(2).mean(2)

    moved = images.to(model.parameter.device, model.parameter.dtype)
    ask(model, moved, {name: lambda raw, name=name: watch(name, raw) for name in layers})
    return torch.cat([means[name] for name in reversed(layers)], dim=1).float().cpu()


@torch.no_grad()
def image_vectors(vlm: Backbone, images: Tensor) -> Float[Tensor, "image dimension"]:
    """Return the teacher's image vectors, not normalised, in float32."""
    answer = ask(vlm, images.to(vlm.parameter.device, vlm.parameter.dtype), {})
    return vlm.language.encode_image(answer).float().cpu()


def _is_whole(file: Path) -> bool:
    try:
        _metadata(file)
    except (OSError, SafetensorError):
        return False
    return True


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(str(file), framework="pt") as stored:
        return stored.metadata()
