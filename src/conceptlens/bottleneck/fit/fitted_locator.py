"""The locator of a recipe: as it is, or with parts found from words or taught by a few keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from conceptlens.bottleneck.fit.concept_vectors import plain_locator
from conceptlens.bottleneck.fit.part_fit import find_parts, teach_parts
from conceptlens.bottleneck.fit.part_vocabulary import PartVocabulary
from conceptlens.bottleneck.locator import Locator, Parts
from conceptlens.data.keypoints_in_view import known_keypoints, seen_keypoints
from conceptlens.features.cell_source import CellSource
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.bottleneck.fit.bottleneck_task import BottleneckTask
    from conceptlens.concepts.concept_set import BottleneckConcept
    from conceptlens.training.loop import TrainingRun


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
    seen = seen_keypoints(task.photos, chosen, view)
    known = known_keypoints(task.photos).parts
    own = torch.tensor([[keypoint in known[name] for keypoint in seen.names] for name in names])
    unseen = [name for name, mine in zip(names, own, strict=True) if not bool(seen.visible[:, mine].any())]
    if unseen:
        raise InputError(
            f"the part '{unseen[0]}' is visible in none of the {len(chosen)} photos whose keypoints are read; give "
            "more keypoints for each class, or leave out its concepts"
        )
    return teach_parts(source, chosen, seen, own, run, task.layers)
