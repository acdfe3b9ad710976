"""The attentions of parts in the layers' own channels: found from words, refined at another size, or taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from conceptlens.bottleneck.fit.hypercolumns import Hypercolumns, hypercolumns
from conceptlens.bottleneck.fit.part_discovery import (
    GuidedAttentionTask,
    PartAttentions,
    PartDiscovery,
    PartDiscoveryTask,
    pointed_at,
)
from conceptlens.bottleneck.fit.part_vocabulary import PartVocabulary
from conceptlens.io.errors import InputError
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import StepSchedule

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.bottleneck.fit.recipe import Recipe
    from conceptlens.data.keypoints_in_view import KeypointsInView
    from conceptlens.features.cell_source import CellSource

FIND = StepSchedule(steps=400, batch_size=200, learning_rate=0.02)
GUIDE = StepSchedule(steps=300, batch_size=200, learning_rate=0.01, weight_decay=1.0)
MAX_PHOTOS = 10_000  # in which parts are found: their hypercolumns are in memory
POINT = StepSchedule(steps=300, batch_size=50, learning_rate=0.01, weight_decay=3.0)
Network = TypeVar("Network", bound=torch.nn.Module)


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
    seen = hypercolumns(source, indices, layers)
    labels, known = vocabulary.part_labels(targets[_rows(seen, indices)])
    tries: list[tuple[float, Tensor]] = []
    for number in range(recipe.restarts):
        seed = run.seed * recipe.restarts + number
        network = _new(
            lambda: PartDiscovery(len(vocabulary.parts), seen.columns.shape[1], len(vocabulary.properties)), seed
        )
        task = PartDiscoveryTask(network, seen, labels, known, vocabulary.regions, recipe)
        train_network(task, FIND, replace(run, folder=run.folder / f"parts-{number}", seed=seed))
        tries.append((task.whole_loss(), network.attention.detach()))
    attention = min(tries, key=lambda one: one[0])[1]
    if finer is None:
        return seen.weights(attention)
    found = torch.einsum("ncu,pc->npu", seen.columns.float(), attention).softmax(2)
    sharp = hypercolumns(finer, indices, layers)
    if seen.grid != sharp.grid or not torch.equal(seen.indices, sharp.indices):
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
    seen = hypercolumns(source, indices, layers)
    rows = _rows(seen, indices)
    wanted = pointed_at(keypoints.xy[rows], keypoints.visible[rows], own, source.grid)
    return _guided(seen, wanted, POINT, replace(run, folder=run.folder / "pointed"))


def _guided(seen: Hypercolumns, wanted: Tensor, steps: StepSchedule, run: TrainingRun) -> list[Tensor]:
    network = _new(lambda: PartAttentions(wanted.shape[1], seen.columns.shape[1]), run.seed)
    train_network(GuidedAttentionTask(network, seen.columns, wanted), steps, run)
    return seen.weights(network.attention.detach())


def _rows(seen: Hypercolumns, indices: Sequence[int]) -> Tensor:
    """Return the positions in `indices` of the photos that could be read."""
    order = {int(index): row for row, index in enumerate(indices)}
    return torch.tensor([order[index] for index in seen.indices.tolist()])


def _sample(photos: int, seed: int) -> list[int]:
    """Return the rows of at most `MAX_PHOTOS` photos, rising, drawn by the seed."""
    order = torch.randperm(photos, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:MAX_PHOTOS].tolist())


def _new(make: Callable[[], Network], seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
