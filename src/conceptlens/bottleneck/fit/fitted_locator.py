"""The locator of a recipe: as it is, or with parts found from words or taught by a few keypoints.

Parts are attentions in the layers' own channels; those found at the network's own size can teach those of another size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conceptlens.bottleneck.fit.concept_vectors import plain_locator
from conceptlens.bottleneck.fit.hypercolumns import MAX_PHOTOS, Hypercolumns, hypercolumns
from conceptlens.bottleneck.fit.part_discovery import (
    GuidedAttentionTask,
    PartAttentions,
    PartDiscovery,
    PartDiscoveryTask,
    pointed_at,
)
from conceptlens.bottleneck.fit.part_vocabulary import PartVocabulary
from conceptlens.bottleneck.locator import Locator, Parts
from conceptlens.data.keypoints_in_view import keypoints_in_view, known_keypoints
from conceptlens.features.cell_source import CellSource
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint
from conceptlens.model.module_lock import seeded
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import StepSchedule

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.bottleneck.fit.bottleneck_task import BottleneckTask
    from conceptlens.bottleneck.fit.recipe import Recipe
    from conceptlens.concepts.concept_set import BottleneckConcept
    from conceptlens.data.keypoints_in_view import KeypointsInView

FIND = StepSchedule(steps=400, batch_size=200, learning_rate=0.02)
GUIDE = StepSchedule(steps=300, batch_size=200, learning_rate=0.01, weight_decay=1.0)
POINT = StepSchedule(steps=300, batch_size=50, learning_rate=0.01, weight_decay=3.0)
Network = TypeVar("Network", bound=torch.nn.Module)


def fit_locator(
    task: BottleneckTask, sources: tuple[CellSource, CellSource], indices: list[int], run: TrainingRun
) -> Locator:
    """Return the locator, trained on the photos at `indices` where it has parts; kept in the run's folder."""
    if task.recipe.locator != "parts":
        return plain_locator(task.recipe)
    names, file = part_names(task), run.folder / f"parts-{settings_fingerprint(dict(run.configuration))}.safetensors"
    if not file.exists():
        own, source = sources
        if task.recipe.keypoints:
            found = _taught(task, names, source, indices, run)
        else:  # at the network's own size first
            words, values = PartVocabulary.of(task.targets.concepts.concepts), task.targets.values[indices]
            finer = None if own is source else source
            found = find_parts(own, indices, words, values, run, task.recipe, task.layers, finer)
        if run.accelerator.is_main_process:
            with replacing(file) as temporary:
                save_file({name: one.contiguous() for name, one in zip(task.layers, found, strict=True)}, temporary)
        run.accelerator.wait_for_everyone()
    concepts = task.targets.concepts.concepts
    known = set(names) if task.recipe.keypoints else _read(concepts)
    part = [names.index(one.part) if one.part in known else -1 for one in concepts]
    weights = load_file(file)
    return _parts(names, part, task.layers, [weights[name] for name in task.layers], task.recipe.share)


def of_concepts(locator: Locator, kept: Sequence[int]) -> Locator:
    """Return the locator of some of its concepts."""
    if not isinstance(locator, Parts):
        return locator
    part = [int(locator.part[index]) for index in kept]
    return _parts(locator.names, part, locator.layers, list(locator.weight), locator.share)


def _parts(
    names: Sequence[str], part: Sequence[int], layers: Sequence[str], weights: Sequence[Tensor], share: float
) -> Parts:
    made = Parts(names, part, layers, [weight.shape[1] for weight in weights], share)
    with torch.no_grad():
        for parameter, weight in zip(made.weight, weights, strict=True):
            parameter.copy_(weight)
    return made


def part_names(task: BottleneckTask) -> tuple[str, ...]:
    """Return the parts that are found or taught, none where the locator has none."""
    if task.recipe.locator != "parts":
        return ()
    concepts = task.targets.concepts.concepts
    if not task.recipe.keypoints:
        return PartVocabulary.of(concepts).parts
    known = known_keypoints(task.photos).parts
    names = tuple(dict.fromkeys(one.part for one in concepts if one.part is not None and one.part in known))
    if not names:
        raise InputError(
            f"no concept names a part with keypoints; parts: {', '.join(known)}; give concepts as a .tsv table with a "
            "column 'part'"
        )
    return names


def _read(concepts: Sequence[BottleneckConcept]) -> set[str]:
    """Return the parts of which a property is read; the others cannot be found."""
    words = PartVocabulary.of(concepts)
    return {words.parts[part] for part, _ in words.index.values()}


def _taught(
    task: BottleneckTask, names: tuple[str, ...], source: CellSource, indices: list[int], run: TrainingRun
) -> list[Float[Tensor, "part channel"]]:
    """Learn the parts from the keypoints of a few photos of each class, drawn by the seed."""
    draw = np.random.default_rng(run.seed)
    labels = task.photos.labels[indices]
    drawn = [
        draw.permutation(np.flatnonzero(labels == number))[: task.recipe.keypoints] for number in np.unique(labels)
    ]
    chosen = tuple(sorted(indices[row] for rows in drawn for row in rows))
    view = task.model.known_preprocess("it is not known where keypoints are in its input")
    in_view = keypoints_in_view(task.photos, chosen, view)
    known = known_keypoints(task.photos).parts
    own = torch.tensor([[keypoint in known[name] for keypoint in in_view.names] for name in names])
    invisible = [name for name, mine in zip(names, own, strict=True) if not bool(in_view.visible[:, mine].any())]
    if invisible:
        raise InputError(
            f"the part '{invisible[0]}' is visible in none of the {len(chosen)} photos whose keypoints are read; give "
            "more keypoints for each class, or leave out its concepts"
        )
    return teach_parts(source, chosen, in_view, own, run, task.layers)


def find_parts(
    source: CellSource,
    indices: Sequence[int],
    vocabulary: PartVocabulary,
    targets: Float[Tensor, "photo concept"],
    run: TrainingRun,
    recipe: Recipe,
    layers: Sequence[str],
    finer: CellSource | None = None,
) -> list[Float[Tensor, "part channel"]]:
    """Return attention weights for each layer, learnt from the targets of photos.

    The loss has poor minima, where one part of a region is attended to instead of another. There the loss is higher,
    so of `recipe.restarts` trainings the one with the lowest loss over all photos is kept.

    Args:
        source: Cells of the network at its own input size.
        indices: The photos; of more than `MAX_PHOTOS`, so many are drawn.
        vocabulary: Which properties the concepts name of which parts.
        targets: How much each of these photos shows of each concept, `[photo concept]`.
        run: Processes, folder and seed.
        recipe: The weights of the loss's terms, and the number of restarts.
        layers: The layers that attentions see.
        finer: Cells of the same network at another input size. Parts are found at the network's own size, where cells
            know their surroundings, and attentions there then teach those of the finer cells.
    """
    drawn = _sample(len(indices), run.seed)
    indices, targets = [indices[row] for row in drawn], targets[drawn]
    cells = hypercolumns(source, indices, layers)
    labels, known = vocabulary.part_labels(targets[_rows(cells, indices)])
    tries: list[tuple[float, Tensor]] = []
    for number in range(recipe.restarts):
        seed = run.seed * recipe.restarts + number
        network = _new(
            lambda: PartDiscovery(len(vocabulary.parts), cells.columns.shape[1], len(vocabulary.properties)), seed
        )
        task = PartDiscoveryTask(network, cells, labels, known, vocabulary.regions, recipe)
        train_network(task, FIND, replace(run, folder=run.folder / f"parts-{number}", seed=seed))
        tries.append((task.whole_loss(), network.attention.detach()))
    attention = min(tries, key=lambda one: one[0])[1]
    if finer is None:
        return cells.weights(attention)
    found = torch.einsum("ncu,pc->npu", cells.columns.float(), attention).softmax(2)
    sharp = hypercolumns(finer, indices, layers)
    if cells.grid != sharp.grid or not torch.equal(cells.indices, sharp.indices):
        raise InputError("the two sizes of a photo need one grid and the same photos")
    return _guided(sharp, found, GUIDE, replace(run, folder=run.folder / "finer"))


def teach_parts(
    source: CellSource,
    indices: Sequence[int],
    keypoints: KeypointsInView,
    own: Bool[Tensor, "part keypoint"],
    run: TrainingRun,
    layers: Sequence[str],
) -> list[Float[Tensor, "part channel"]]:
    """Return attention weights for each layer, learnt from the keypoints of a few photos.

    Args:
        source: Cells of the network.
        indices: The photos.
        keypoints: Their keypoints as the network sees them.
        own: Which keypoints belong to each part.
        run: Processes, folder and seed.
        layers: The layers that attentions see.
    """
    cells = hypercolumns(source, indices, layers)
    rows = _rows(cells, indices)
    wanted = pointed_at(keypoints.xy[rows], keypoints.visible[rows], own, source.grid)
    return _guided(cells, wanted, POINT, replace(run, folder=run.folder / "pointed"))


def _guided(cells: Hypercolumns, wanted: Tensor, steps: StepSchedule, run: TrainingRun) -> list[Tensor]:
    network = _new(lambda: PartAttentions(wanted.shape[1], cells.columns.shape[1]), run.seed)
    train_network(GuidedAttentionTask(network, cells.columns, wanted), steps, run)
    return cells.weights(network.attention.detach())


def _rows(cells: Hypercolumns, indices: Sequence[int]) -> Tensor:
    """Return the positions in `indices` of the photos that could be read."""
    order = {int(index): row for row, index in enumerate(indices)}
    return torch.tensor([order[index] for index in cells.indices.tolist()])


def _sample(photos: int, seed: int) -> list[int]:
    """Return the rows of at most `MAX_PHOTOS` photos, rising, drawn by the seed."""
    order = torch.randperm(photos, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:MAX_PHOTOS].tolist())


def _new(make: Callable[[], Network], seed: int) -> Network:
    with seeded(seed):
        return make()
