"""Pairs for training a branch: a frozen classifier's pooled layers and the teacher's vector, for every crop of a photo.

Every crop runs through both networks once, and the pairs stay on disk for all epochs and runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.concept_regions.translator import Teacher
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.fingerprint import files_fingerprint, settings_fingerprint, weights_fingerprint
from conceptlens.io.images import fingerprint, read_image
from conceptlens.io.progress import progress
from conceptlens.model.layer_cells import layer_cells
from conceptlens.model.model_input import ModelInput
from conceptlens.runs.local_engine import batches_of, read_ahead
from conceptlens.training.crops import centre_crop, is_validation, known_preprocess, network_input, random_crop

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone

PHOTOS_PER_SHARD = 64
BATCH_CROPS = 32  # that run through both networks at once
FORMAT = 2


@dataclass(frozen=True)
class CropPlan:
    """The crops of each photo: `n_crops` random ones, or its centre where it is a validation photo.

    Args:
        n_crops: Random crops of a training photo, at least 1.
        validation: Share of validation photos, between 0 and 1.
        seed: Decides the crops and the validation photos.

    Raises:
        InputError: For a number out of its range.
    """

    n_crops: int = 4
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.n_crops < 1:
            raise InputError(f"n_crops is {self.n_crops}; give at least 1")
        if not 0 < self.validation < 1:
            raise InputError(f"validation is {self.validation}; give a share between 0 and 1, such as 0.1")


@dataclass(frozen=True, eq=False)
class StudentTeacher:
    """The two frozen networks of a distillation.

    Args:
        model: The classifier, whose branch is the student.
        layers: The layers that the branch reads, in the order of execution.
        vlm: The teacher, a backbone with a text encoder.
    """

    model: Backbone
    layers: tuple[str, ...]
    vlm: Backbone

    def key(self, plan: CropPlan) -> str:
        """Return a fingerprint of everything that the pairs depend on, but the photos."""
        about = {
            "format": FORMAT,
            "model": weights_fingerprint(self.model.module),
            "layers": self.layers,
            "teacher": Teacher.of(self.vlm).identity,
            "crops": asdict(plan),
            "inputs": [asdict(known_preprocess(net)) for net in (self.model, self.vlm)],
        }
        return settings_fingerprint(about)


def shard_files(
    networks: StudentTeacher, photos: Sequence[Path], plan: CropPlan, folder: Path
) -> list[tuple[Path, Sequence[Path]]]:
    """Return the file of each shard, with its photos; it is named by their paths, sizes and times of change.

    Args:
        networks: Student and teacher.
        photos: All photos.
        plan: The crops of each photo.
        folder: Folder of the cache.
    """
    cache = folder / networks.key(plan)
    groups = [photos[i : i + PHOTOS_PER_SHARD] for i in range(0, len(photos), PHOTOS_PER_SHARD)]
    return [(cache / f"{files_fingerprint(group)}.safetensors", group) for group in groups]


def extract_pairs(
    networks: StudentTeacher,
    photos: Sequence[Path],
    plan: CropPlan,
    folder: Path,
    share: tuple[int, int] = (0, 1),
    doing: str = "",
) -> Iterator[Path]:
    """Write the shards that are not there yet, and yield each file; what is made stays, however the run ends.

    A photo that cannot be read is noted in its shard, and the rest goes on. The next photos are read meanwhile.

    Args:
        networks: Student and teacher.
        photos: The photos.
        plan: The crops of each photo.
        folder: Folder of the cache.
        share: Number of this process and number of processes, which divide the shards.
        doing: What is told of the photos while both networks see them (`progress`); empty tells nothing.
    """
    process, processes = share
    shards = shard_files(networks, photos, plan, folder)[process::processes]
    each = max(1, BATCH_CROPS // plan.n_crops)
    parts = {
        file: [group[batch.start : batch.stop] for batch in batches_of(len(group), each)]
        for file, group in shards
        if not _is_whole(file)
    }
    several = [part for own in parts.values() for part in own]
    found = read_ahead(partial(_read_crops, networks, plan), several)
    read = iter(progress(found, sum(map(len, several)), doing, each, visible=bool(doing)))
    for file, _ in shards:
        if file in parts:
            _make(networks, islice(read, len(parts[file])), file)
        if file == next(reversed(parts), None):
            next(read, None)  # which ends its bar
        yield file


def failures_of(files: Sequence[Path]) -> tuple[Failure, ...]:
    """Return the photos that could not be used, as the shards note them."""
    return tuple(Failure(*entry) for file in files for entry in json.loads(_metadata(file)["failures"]))


def _make(networks: StudentTeacher, read: Iterable[_ReadCrops], file: Path) -> None:
    failures: list[tuple[str, str]] = []
    features, vectors, validation, made = [], [], [], []
    crops = _each_crop(read, failures)
    while rows := list(islice(crops, BATCH_CROPS)):
        features.append(
            pooled_layers(networks.model, torch.stack([row.student_input for row in rows]), networks.layers)
        )
        vectors.append(image_vectors(networks.vlm, torch.stack([row.teacher_input for row in rows])))
        validation += [row.is_validation for row in rows]
        made += [row.photo for row in rows]
    tensors = {
        "features": torch.cat(features) if features else torch.empty(0, 0),
        "vectors": torch.cat(vectors) if vectors else torch.empty(0, 0),
        "validation": torch.tensor(validation, dtype=torch.bool),
    }
    whole = tensors["features"].isfinite().all(1) & tensors["vectors"].isfinite().all(1)
    broken = {name for name, good in zip(made, whole.tolist(), strict=True) if not good}
    failures += [(name, f"{name} gives values that are not finite; leave it out") for name in sorted(broken)]
    keep = torch.tensor([name not in broken for name in made], dtype=torch.bool)
    metadata = {"failures": json.dumps(failures), "photos": json.dumps(sorted(set(made) - broken))}
    with replacing(file) as temporary:
        save_file({name: tensor[keep].contiguous() for name, tensor in tensors.items()}, temporary, metadata)


@dataclass(frozen=True, eq=False)
class _Crop:
    """One crop as both networks take it."""

    photo: str
    is_validation: bool
    student_input: Tensor
    teacher_input: Tensor


@dataclass(frozen=True, eq=False)
class _ReadCrops:
    """The crops of some photos, and why others cannot be read."""

    crops: list[_Crop] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def _read_crops(networks: StudentTeacher, plan: CropPlan, group: Sequence[Path]) -> _ReadCrops:
    """Return the crops of some photos as both networks take them."""
    read = _ReadCrops()
    for path in group:
        try:
            photo = read_image(path)
        except InputError as error:
            read.failures.append((str(path), str(error)))
            continue
        mark = fingerprint(photo)
        validation = is_validation(mark, plan.validation, plan.seed)
        for view in range(1 if validation else plan.n_crops):
            crop = centre_crop(photo) if validation else random_crop(photo, mark, view, plan.seed)
            inputs = network_input(networks.model, crop), network_input(networks.vlm, crop)
            read.crops.append(_Crop(str(path), validation, *inputs))
    return read


def _each_crop(read: Iterable[_ReadCrops], failures: list[tuple[str, str]]) -> Iterator[_Crop]:
    """Yield one crop after the other, and add the photos to a list that cannot be read."""
    for part in read:
        failures += part.failures
        yield from part.crops


@torch.no_grad()
def pooled_layers(model: Backbone, images: Tensor, layers: Sequence[str]) -> Float[Tensor, "image width"]:
    """Return what `pooled` returns of an observation, in float32 on the processor, without a graph.

    Args:
        model: The classifier.
        images: Its inputs `[image colour height width]`.
        layers: Layers in the order of execution.
    """
    cells = layer_cells(model, images, layers)
    return torch.cat([cells[name].flatten(2).mean(2) for name in reversed(layers)], dim=1).cpu()


@torch.no_grad()
def image_vectors(vlm: Backbone, images: Tensor) -> Float[Tensor, "image dimension"]:
    """Return the teacher's image vectors, not normalised, in float32."""
    output = vlm.run(ModelInput(images.to(vlm.parameter.device, vlm.parameter.dtype)))
    return vlm.language.encode_image(output).float().cpu()


def _is_whole(file: Path) -> bool:
    try:
        _metadata(file)
    except (OSError, SafetensorError):
        return False
    return True


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(str(file), framework="pt") as stored:
        return stored.metadata()
