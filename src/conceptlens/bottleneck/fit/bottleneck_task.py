"""What a bottleneck is fitted to: a network, its layers and sizes, labelled photos, concepts and targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.fit.concept_layer import MAX_CELL_BYTES
from conceptlens.bottleneck.fit.finetune import last_stage
from conceptlens.bottleneck.fit.free_memory import check_memory
from conceptlens.bottleneck.fit.hypercolumns import COMPONENTS, FEATURES, MAX_PHOTOS
from conceptlens.bottleneck.fit.part_vocabulary import PartVocabulary
from conceptlens.bottleneck.fit.recipe import CLOSED, Recipe
from conceptlens.concept_regions.branch import branch_layers, in_order, layer_widths
from conceptlens.data.labelled_set import LabelledSet, hold_out, without_photos
from conceptlens.features.cell_source import CellSource
from conceptlens.io.errors import InputError
from conceptlens.model.input_sizes import resized

if TYPE_CHECKING:
    from accelerate import Accelerator

    from conceptlens.bottleneck.fit.concept_targets import Targets
    from conceptlens.concepts.concept_set import ConceptSet
    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class BottleneckTask:
    """What is fitted to what: a network at its own size and at the size that the bottleneck reads, and the targets."""

    own: Backbone
    model: Backbone
    photos: LabelledSet
    targets: Targets
    recipe: Recipe
    layer: str
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
    """Return the network with inputs of another size, in which the same part of each photo is seen."""
    view = model.known_preprocess("a bottleneck does not know what it sees of a photo")
    if size is None or view.size == (size, size):
        return model
    if size < 32:
        raise InputError(f"inputs of {size} pixels were given; give at least 32, such as twice the model's own")
    wider = replace(model, transform=resized(view, (size, size)), input_size=(size, size))
    try:
        _ = wider.anatomy
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{model.name} does not read inputs of {size} pixels ({reason}); leave the size out") from None
    return wider


def read_layers(
    model: Backbone, layer: str | None, locator_layers: Iterable[str] | None
) -> tuple[str, tuple[str, ...]]:
    """Return the layer whose cells are read, and those that the locator `parts` sees."""
    concept_layer = in_order(model, [layer])[0] if layer else model.default_layers[-1]
    locator_layers = in_order(model, list(locator_layers)) if locator_layers is not None else branch_layers(model)[-2:]
    return concept_layer, locator_layers


def check_grid(grid: object) -> None:
    """Refuse what is no grid of cells, nor left out."""
    fits = isinstance(grid, tuple | list) and len(grid) == 2 and all(isinstance(one, int) and one > 0 for one in grid)
    if grid is not None and not fits:
        raise InputError(f"the grid is {grid!r}; give rows and columns, two whole numbers above 0")


def settle(
    own: Backbone,
    model: Backbone,
    photos: LabelledSet,
    targets: Targets,
    recipe: Recipe,
    read: tuple[str, tuple[str, ...]],
    grid: tuple[int, int] | None,
) -> BottleneckTask:
    """Settle what was left open: the locator and the grid of the maps."""
    if recipe.locator == "auto":
        recipe = replace(recipe, locator="parts" if recipe.keypoints or _speaks_of_parts(targets.concepts) else "whole")
    layers = {layer.name: layer.grid for layer in model.anatomy.layers}
    found = (layers[read[0]].height, layers[read[0]].width)
    if recipe.locator == "parts" and own is model:
        finest = max(layers[name].height for name in read[1]), max(layers[name].width for name in read[1])
        found = min(2 * found[0], max(finest[0], found[0])), min(2 * found[1], max(finest[1], found[1]))
    return BottleneckTask(own, model, photos, targets, recipe, read[0], read[1], grid or found)


def _speaks_of_parts(concepts: ConceptSet) -> bool:
    try:
        PartVocabulary.of(concepts.concepts)
    except InputError:
        return False
    return True


def check_before(task: BottleneckTask, parts: int, seed: int) -> None:
    """Refuse what would only fail after the network has run on all photos; `parts` have a mask each."""
    photos, concepts, recipe = task.photos, len(task.targets.concepts), task.recipe
    hold_out(photos.labels, recipe.holdout, seed)
    nec, classes = recipe.nec, len(photos.classes)
    if nec is not None and (nec > concepts or abs(nec * classes - round(nec * classes)) > 1e-6):
        raise InputError(
            f"{nec:g} of {concepts} concepts for each of {classes} classes were given; give at most {concepts}, "
            "and a number that leaves a whole number of weights"
        )
    if recipe.finetune:
        last_stage(task.model, task.layer)
    check_memory(len(photos), concepts, layer_widths(task.model, (task.layer,))[0], parts + 1, _columns(task, parts))


def _columns(task: BottleneckTask, parts: int) -> int:
    """Return how many numbers of 4 bytes single cells take.

    That is what finding parts sees (components, colours, attentions), and the cells that a training by maps reads.
    """
    recipe, cells = task.recipe, len(task.photos) * task.grid[0] * task.grid[1]
    if recipe.locator in ("peaks", "softmax") and recipe.loss not in CLOSED:
        return min(MAX_CELL_BYTES // 4, cells * layer_widths(task.model, (task.layer,))[0] // 2)
    if recipe.locator != "parts" or recipe.keypoints:
        return 0  # few photos
    sizes = 1 if task.own is task.model else 2
    each = sizes * (len(task.layers) * COMPONENTS // 2 + FEATURES) + (sizes - 1) * parts
    return min(len(task.photos), MAX_PHOTOS) * task.grid[0] * task.grid[1] * each


def cell_sources(
    task: BottleneckTask, cache: Path, room: float, accelerator: Accelerator
) -> tuple[CellSource, CellSource]:
    """Return the cells at the network's own size, for finding parts, and at the size that the bottleneck reads."""
    parts = task.recipe.locator == "parts"
    layers = tuple(dict.fromkeys([*(task.layers if parts else ()), task.layer]))
    source = CellSource(task.model, task.photos, layers, task.grid, cache)
    if source.bytes_needed() > room * 1e9:
        source = replace(source, folder=None)
    share = accelerator.process_index, accelerator.num_processes
    for _ in source.write_files(share, "the network on photos" if accelerator.is_main_process else ""):
        pass
    accelerator.wait_for_everyone()
    if task.own is task.model or not parts or task.recipe.keypoints:
        return source, source
    return CellSource(task.own, task.photos, task.layers, task.grid, source.folder), source


def readable(source: CellSource) -> list[int]:
    """Return the indices of the photos that can be read; refused where a class has none of them."""
    photos = source.photos
    indices = source.readable_indices(range(len(photos)))
    first = source.failures[min(source.failures)].reason if source.failures else ""
    if not indices:
        raise InputError(f"no photo of {photos.name} could be read; the first: {first}")
    shown_classes = {int(number) for number in photos.labels[indices]}
    empty = [name for number, name in enumerate(photos.classes) if number not in shown_classes]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(f"no photo of class '{empty[0]}'{more} of {photos.name} could be read; the first: {first}")
    return indices
