"""Fitting a concept bottleneck whose concepts have maps: labelled photos in, a `Bottleneck` out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.concept_writing.concept_filter import by_interpretability
from conceptlens.bottleneck.fit.bottleneck_task import (
    BottleneckTask,
    at_size,
    cell_sources,
    check_before,
    check_grid,
    checked,
    read_layers,
    readable,
    settle,
)
from conceptlens.bottleneck.fit.concept_targets import Targets, build_concept_targets, encode_photos, vlm_fingerprint
from conceptlens.bottleneck.fit.concept_vectors import PooledPhotos, concept_weights, read_photos, unmasked
from conceptlens.bottleneck.fit.content_mark import content_mark, photos_mark
from conceptlens.bottleneck.fit.finetune import finetuned
from conceptlens.bottleneck.fit.fitted_locator import fit_locator, of_concepts, part_names
from conceptlens.bottleneck.fit.head_fit import PenaltyChoice, choose, fit_head
from conceptlens.bottleneck.fit.recipe import Recipe, recipe_named
from conceptlens.bottleneck.map_evidence import NONE, TARGETS_OF
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concept_regions.branch import layer_widths
from conceptlens.concepts.concept_set import BottleneckConcept, ConceptSet, collect
from conceptlens.data.labelled_set import LabelledSet, hold_out
from conceptlens.data.labelled_sets import open_classes
from conceptlens.features.cell_source import CellSource
from conceptlens.io.atomic import replacing, write_json
from conceptlens.io.fingerprint import texts_fingerprint, weights_fingerprint
from conceptlens.metrics.bottleneck_metrics import effective_concepts
from conceptlens.model.backbone import Backbone, check_backbone
from conceptlens.training.checkpoint import FILE
from conceptlens.training.loop import TrainingRun
from conceptlens.training.run_folder import claim_folder, start_processes

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor


CACHE_GB = 8.0


def fit_loc_cbm(
    model: Backbone,
    data: LabelledSet | str,
    out: str | Path,
    *,
    vlm: Backbone | None = None,
    concepts: str | Path | ConceptSet | Iterable[str | BottleneckConcept] = "auto",
    targets: str | Path = "auto",
    recipe: str = "loc-cbm",
    layer: str | None = None,
    locator_layers: Iterable[str] | None = None,
    size: int | None = None,
    grid: tuple[int, int] | None = None,
    cache: str | Path | None = None,
    cache_gb: float = CACHE_GB,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    **choices: Any,
) -> Bottleneck:
    """Fit a concept bottleneck to labelled photos and save it in a folder.

    Args:
        model: The network whose cells are read; it is not changed.
        data: A labelled set, or its name for `open_classes`, whose train split is read. The classes are those of the
            photos, whatever the model's own.
        out: The folder of the bottleneck, `failures.json` (photos that could not be read) and the logs.
        vlm: A vision-language model that scores concepts in photos.
        concepts: A set, labels, a file, or `auto`: see `build_concept_targets`.
        targets: How much each photo shows of each concept: see `build_concept_targets`.
        recipe: A key of `RECIPES`.
        layer: The layer whose cells carry the concepts; by default the model's own.
        locator_layers: The layers from which the locator `parts` finds parts; by default the two coarsest stages.
        size: Rows and columns of the input in pixels; by default the model's own.
        grid: Rows and columns of the maps; by default the layer's, and twice as fine for parts at the model's own size.
        cache: A folder for cells, kept after the fit; by default one in `out`, removed at the end.
        cache_gb: Where the cells take more gigabytes, they are computed again for each pass.
        seed: Seed of initial weights, of the order of photos and of held-out photos.
        device: Where to compute, such as `cuda`.
        resume: Continue an interrupted fit; it ends with the same weights.
        checkpoint_seconds: Seconds between checkpoints.
        **choices: Settings that replace those of the recipe: see `Recipe`.

    Returns:
        The fitted bottleneck; `training_record` holds settings, held-out accuracy and dropped concepts.

    Raises:
        InputError: There are fewer than two classes, a class has no photo, or settings do not fit one another.
        InputTypeError: A model is no `Backbone`.

    Example:
        >>> birds = cl.fit_loc_cbm(cl.load_model(), "cub:CUB_200_2011", "birds/", size=448)
        >>> birds(birds.observe(cl.load_model(), "bird.jpg")).explained_classes
    """
    for one in (model,) if vlm is None else (model, vlm):
        check_backbone(one)
    accelerator, own_device = start_processes(device)
    photos = checked(open_classes(data) if isinstance(data, str) else data)
    chosen_recipe = recipe_named(recipe, **choices)
    own = model.to(own_device)
    resized_model = at_size(own, size)
    pair = None if vlm is None else vlm.to(own_device)
    read = read_layers(resized_model, layer, locator_layers)
    check_grid(grid)
    given_concepts = concepts if isinstance(concepts, (str, Path, ConceptSet)) else tuple(concepts)
    folder = Path(out)
    about = _about(resized_model, photos, pair, given_concepts, targets, chosen_recipe, read, grid, seed)
    if claim_folder(folder, about, resume, accelerator, "bottleneck"):
        return Bottleneck.from_pretrained(folder)
    run = TrainingRun(accelerator, folder / "training", about, seed, checkpoint_seconds)
    targets_of_concepts = _targets(
        photos, given_concepts, str(targets), pair, chosen_recipe, resized_model, read[0], folder
    )
    task = settle(own, resized_model, photos, targets_of_concepts, chosen_recipe, read, grid)
    check_before(task, len(part_names(task)), seed)
    sources = cell_sources(task, Path(cache) if cache else folder / "cells", cache_gb, accelerator)
    fitted = _fitted(task, sources, run)
    _publish(fitted, folder, sources[1], accelerator, keep=cache is not None)
    return fitted


def _about(
    model: Backbone,
    photos: LabelledSet,
    vlm: Backbone | None,
    concepts: str | Path | ConceptSet | tuple[str | BottleneckConcept, ...],
    targets: str | Path,
    recipe: Recipe,
    read: tuple[str, tuple[str, ...]],
    grid: tuple[int, int] | None,
    seed: int,
) -> dict[str, Any]:
    """Return everything that decides the result, as it is kept in `run.json` and with the bottleneck."""
    if isinstance(concepts, str | Path):
        named = content_mark(concepts)
    elif isinstance(concepts, ConceptSet):
        class_targets = [] if concepts.targets is None else [json.dumps(concepts.targets.tolist())]
        named = texts_fingerprint([*map(str, concepts.concepts), *class_targets])
    else:
        named = texts_fingerprint([str(one) for one in concepts])
    view = asdict(model.preprocess) if model.preprocess is not None else ""
    return {
        "model": f"{model.name} {weights_fingerprint(model.module)}",
        "view": json.loads(json.dumps(view)),  # as it is read again, with lists
        "vlm": vlm_fingerprint(vlm) if vlm else "",
        "photos": photos_mark(photos),
        "concepts": named,
        "targets": content_mark(targets),
        "layer": read[0],
        "locator_layers": list(read[1]),
        "grid": list(grid) if grid else [],
        "seed": seed,
        **recipe.settings(),
    }


def _targets(
    photos: LabelledSet,
    concepts: str | Path | ConceptSet | tuple[str | BottleneckConcept, ...],
    source: str,
    vlm: Backbone | None,
    recipe: Recipe,
    model: Backbone,
    layer: str,
    folder: Path,
) -> Targets:
    """Return concepts and targets; a linear probe's concepts are the layer's channels."""
    if recipe.loss == "channels":
        width = layer_widths(model, (layer,))[0]
        channels = collect([f"channel {number}" for number in range(width)], f"the channels of {layer}")
        return Targets(channels, torch.zeros(len(photos), width), "none", (NONE,) * width)
    vectors = None
    if vlm is not None:
        file = folder / f"vectors-{texts_fingerprint([vlm_fingerprint(vlm), photos.name, *photos.names])}.safetensors"
        if not file.exists():
            with replacing(file) as temporary:
                save_file({"vectors": encode_photos(vlm, photos, range(len(photos))).contiguous()}, temporary)
        vectors = load_file(file)["vectors"]
    return build_concept_targets(photos, concepts, source, vlm, vectors)


def _fitted(task: BottleneckTask, sources: tuple[CellSource, CellSource], run: TrainingRun) -> Bottleneck:
    """Return the fitted bottleneck."""
    source, recipe = sources[1], task.recipe
    indices = readable(source)
    locator = fit_locator(task, sources, indices, run)
    photos = read_photos(source, indices, locator, task.layer, task.grid, len(task.targets.concepts))
    labels = torch.tensor(task.photos.labels)[list(photos.indices)]
    if recipe.interpretable is not None:
        task, photos = _interpretable(task, photos, labels, run)

    used = photos if recipe.masked else unmasked(photos)

    def layer(rows: Tensor, penalty: float, draw: int) -> Tensor:
        return used.activations(_weights(task, photos, rows, penalty, run, f"layer-{draw}"))

    choice = choose(layer, labels, recipe, run.seed)
    probe = choice
    if recipe.loss != "channels" or recipe.nec is not None:
        linear = Recipe(loss="channels", holdout=recipe.holdout)
        probe = choose(lambda rows, penalty, draw: photos.whole, labels, linear, run.seed)
    weight = _weights(task, photos, torch.arange(len(labels)), choice.penalty, run, "layer")
    made = Bottleneck(
        task.targets.concepts.concepts, task.photos.classes, task.layer, photos.channels, used.locator, task.grid,
        BackboneReference(task.model.name, weights_fingerprint(task.model.module), task.model.preprocess),
        _record(task, run, choice, probe, source, photos),
    )  # fmt: skip
    made = _with_head(made, weight, used, labels, choice, recipe)
    if not recipe.finetune:
        return made
    stage, values = replace(run, folder=run.folder / "last-stage"), task.targets.values[list(photos.indices)]
    return finetuned(made, task.model, task.photos, photos.indices, values, recipe, stage)


def _weights(
    task: BottleneckTask, photos: PooledPhotos, rows: Tensor, penalty: float, run: TrainingRun, name: str
) -> Tensor:
    """Return the concept vectors fitted to some of the photos."""
    values = task.targets.values[list(photos.indices)]
    return concept_weights(photos, values, rows, penalty, task.recipe, replace(run, folder=run.folder / name))


def _interpretable(
    task: BottleneckTask, photos: PooledPhotos, labels: Tensor, run: TrainingRun
) -> tuple[BottleneckTask, PooledPhotos]:
    """Leave out concepts that held-out train photos do not show as targets say. (Label-free CBM's last filter.)"""
    if task.recipe.interpretable is None:
        return task, photos
    kept, held = (torch.tensor(rows) for rows in hold_out(labels.numpy(), task.recipe.holdout, run.seed))
    made = photos.activations(_weights(task, photos, kept, task.recipe.penalties[0], run, "interpretable"))
    wanted = task.targets.values[list(photos.indices)][held]
    found = by_interpretability(task.targets.concepts.labels, made[held], wanted, task.recipe.interpretable)
    stay = list(found.kept)
    targets = task.targets.keep(stay, found.dropped)
    pooled = replace(photos.pooled, mask=photos.pooled.mask[stay])
    return replace(task, targets=targets), replace(photos, pooled=pooled, locator=of_concepts(photos.locator, stay))


def _with_head(
    made: Bottleneck, weight: Tensor, photos: PooledPhotos, labels: Tensor, choice: PenaltyChoice, recipe: Recipe
) -> Bottleneck:
    """Fill in the concept vectors and the head that is fitted to what they make of all photos."""
    activations = photos.activations(weight)
    head = fit_head(activations, labels, choice.strength, recipe)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.mean.copy_(head.mean)
        made.std.copy_(torch.where(head.std > 0, head.std, 1.0))
        made.head.weight.copy_(head.weights)
        made.head.bias.copy_(head.bias)
    made.training_record["concepts_per_class"] = effective_concepts(head.weights)
    return made.eval().requires_grad_(False)


def _record(
    task: BottleneckTask,
    run: TrainingRun,
    choice: PenaltyChoice,
    probe: PenaltyChoice,
    source: CellSource,
    photos: PooledPhotos,
) -> dict[str, Any]:
    """Return what is known of the fit: its settings, the accuracy on held-out photos, and what was left out."""
    concepts, drawn = task.targets.concepts, task.recipe.loss == "random"
    learned_from = (NONE,) * len(concepts) if drawn else task.targets.learned_from
    return {
        **run.configuration,
        "locator": task.recipe.locator,
        "grid": list(task.grid),
        "concepts_from": concepts.source,
        "targets_by": task.targets.by,
        TARGETS_OF: dict(zip(concepts.labels, learned_from, strict=True)),
        "dropped": [asdict(one) for one in concepts.dropped],
        "photos_used": len(photos.indices),
        "failures": len(source.failures),
        "left_out": dict(task.photos.excluded),
        "penalty": choice.penalty,
        "strength": choice.strength,
        "holdout_accuracy": choice.accuracy,
        "holdout_accuracy_of_linear_probe": probe.accuracy,
    }


def _publish(made: Bottleneck, folder: Path, source: CellSource, accelerator: Accelerator, keep: bool) -> None:
    """Write the bottleneck once, and remove what only the fit needed."""
    accelerator.wait_for_everyone()  # others may still be reading cells
    if accelerator.is_main_process:
        failures = [asdict(source.failures[index]) for index in sorted(source.failures)]
        write_json(folder / "failures.json", failures)
        made.save_pretrained(folder)
        for checkpoint in (folder / "training").glob(f"**/{FILE}"):
            checkpoint.unlink(missing_ok=True)
        for vectors in folder.glob("vectors-*.safetensors"):
            vectors.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(folder / "cells", ignore_errors=True)
    accelerator.wait_for_everyone()
