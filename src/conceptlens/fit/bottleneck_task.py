"""What a bottleneck is fitted to: a network, its layers and sizes, labelled photos, concepts and targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.cells import CellSource
from conceptlens.concept.branch import branch_layers, in_order
from conceptlens.data.labelled import LabelledSet, without_photos
from conceptlens.error import InputError
from conceptlens.fit.part_discovery import Words
from conceptlens.fit.place import shown
from conceptlens.fit.recipe import Recipe
from conceptlens.fit.targets import Targets
from conceptlens.preprocess import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator

    from conceptlens.backbone import Backbone
    from conceptlens.text.concept_set import ConceptSet


@dataclass(frozen=True, eq=False)
class BottleneckTask:
    """What is fitted to what: a network at its own size and at the size that the bottleneck reads, and the targets."""

    own: Backbone
    model: Backbone
    photos: LabelledSet
    targets: Targets
    recipe: Recipe
    values: str
    layers: tuple[str, ...]
    grid: tuple[int, int]


def checked(photos: LabelledSet) -> LabelledSet:
    """Return a set from which classes can be told apart."""
    empty = list(without_photos(photos))
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(f"class '{empty[0]}'{more} of {photos.name} has no photo; add photos, or take the class out")
    if len(photos.classes) < 2:
        raise InputError(f"{photos.name} has {len(photos.classes)} class; a bottleneck tells at least two apart")
    return photos


def at_size(model: Backbone, size: int | None) -> Backbone:
    """Return the network with inputs of another size."""
    view = model.transform
    if not isinstance(view, Preprocess):
        raise InputError(f"{model.name} has no preprocessing of its own; give Backbone(..., transform=Preprocess(...))")
    if size is None or view.size == (size, size):
        return model
    if size < 32:
        raise InputError(f"inputs of {size} pixels were asked for; give at least 32, such as twice the model's own")
    wider = replace(view, size=(size, size), resize=None)
    return replace(model, transform=wider, input_size=(size, size))


def read_layers(model: Backbone, layer: str | None, seen: Iterable[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return the layer whose cells are read, and those that the locator `parts` sees."""
    values = in_order(model, [layer])[0] if layer else model.default_layers[-1]
    looked = in_order(model, list(seen)) if seen is not None else branch_layers(model)[-2:]
    return values, looked


def settle(
    own: Backbone,
    model: Backbone,
    photos: LabelledSet,
    told: Targets,
    recipe: Recipe,
    read: tuple[str, tuple[str, ...]],
    grid: tuple[int, int] | None,
) -> BottleneckTask:
    """Settle what was left open: the locator and the grid of the maps."""
    if recipe.locator == "auto":
        recipe = replace(recipe, locator="parts" if recipe.keypoints or _speaks_of_parts(told.concepts) else "whole")
    layers = {layer.name: layer.grid for layer in model.anatomy.layers}
    found = (layers[read[0]].height, layers[read[0]].width)
    if recipe.locator == "parts" and own is model:
        finest = max(layers[name].height for name in read[1]), max(layers[name].width for name in read[1])
        found = min(2 * found[0], max(finest[0], found[0])), min(2 * found[1], max(finest[1], found[1]))
    return BottleneckTask(own, model, photos, told, recipe, read[0], read[1], grid or found)


def _speaks_of_parts(concepts: ConceptSet) -> bool:
    try:
        Words.of(concepts.concepts)
    except InputError:
        return False
    return True


def cell_sources(
    task: BottleneckTask, cache: Path, room: float, accelerator: Accelerator
) -> tuple[CellSource, CellSource]:
    """Return the cells at the network's own size, for finding parts, and at the size that the bottleneck reads."""
    parts = task.recipe.locator == "parts"
    layers = tuple(dict.fromkeys([*(task.layers if parts else ()), task.values]))
    source = CellSource(task.model, task.photos, layers, task.grid, cache)
    if source.bytes_needed() > room * 1e9:
        source = replace(source, folder=None)
    for _ in shown(
        source.fill((accelerator.process_index, accelerator.num_processes)), 0, "the network on photos", accelerator
    ):
        pass
    accelerator.wait_for_everyone()
    if task.own is task.model or not parts or task.recipe.keypoints:
        return source, source
    return CellSource(task.own, task.photos, task.layers, task.grid, source.folder), source
