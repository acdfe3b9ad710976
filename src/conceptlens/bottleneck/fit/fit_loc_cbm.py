"""Fitting a concept bottleneck whose concepts have places: labelled photos in, a `Bottleneck` out."""

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
from conceptlens.bottleneck.concept_writing.published_filters import ConceptLayerScores, by_interpretability
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
from conceptlens.bottleneck.fit.finetune import finetuned
from conceptlens.bottleneck.fit.fitted_locator import fit_locator, of_concepts, part_names
from conceptlens.bottleneck.fit.head_fit import HeadSettings, PenaltyChoice, choose, fit_head
from conceptlens.bottleneck.fit.recipe import Recipe, recipe_named
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.bottleneck.sparse.sparse_head import nec
from conceptlens.concept_regions.branch import layer_widths
from conceptlens.concepts.concept_set import BottleneckConcept, ConceptSet, collect
from conceptlens.data.labelled_set import LabelledSet, hold_out
from conceptlens.data.labelled_sets import open_classes
from conceptlens.features.cell_source import CellSource
from conceptlens.io.atomic import replacing
from conceptlens.io.fingerprint import bytes_fingerprint, texts_fingerprint, weights_fingerprint
from conceptlens.model.preprocess import Preprocess
from conceptlens.training.checkpoint import FILE
from conceptlens.training.loop import TrainingRun
from conceptlens.training.run_folder import claim_folder, start_processes, write_json

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from conceptlens.model.backbone import Backbone

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
    """Fit a bottleneck to the train photos of `data` and return it, saved in `out`.

    - `data`: a labelled set, or its name for `open_classes`, whose train split is read. The model's class names do not
      matter: classes are those of the photos.
    - `concepts`, `targets`, `vlm`: see `build_concept_targets`; `recipe` and `choices`: see `Recipe`, `RECIPES`.
    - `layer`: whose cells carry the concepts, by default the model's own. `locator_layers`: what the locator `parts`
      sees, by default the two coarsest stages. `size`: rows and columns of the input, by default the model's own.
      `grid`: rows and columns of the maps, by default the layer's, and twice as fine for parts at the model's own size.
    - `cache`: a folder for cells, kept after the fit; by default one in `out`, removed at the end. Where cells take
      more than `cache_gb` they are made again for each pass instead of being kept.

    Photos that cannot be read are in `failures.json`, what the holdout said in `Bottleneck.training_record`. A fit
    that was broken off goes on with `resume=True`, and ends as it would have. Raises `InputError` for fewer than two
    classes, classes without photos, and choices that do not fit one another.
    """
    accelerator, place = start_processes(device)
    photos = checked(open_classes(data) if isinstance(data, str) else data)
    chosen = recipe_named(recipe, **choices)
    own = model.to(place)
    seen = at_size(own, size)
    pair = None if vlm is None else vlm.to(place)
    read = read_layers(seen, layer, locator_layers)
    check_grid(grid)
    asked = concepts if isinstance(concepts, (str, Path, ConceptSet)) else tuple(concepts)
    folder = Path(out)
    about = _about(seen, photos, pair, asked, targets, chosen, read, grid, seed)
    if claim_folder(folder, about, resume, accelerator, "bottleneck"):
        return Bottleneck.from_pretrained(folder)
    run = TrainingRun(accelerator, folder / "training", about, seed, checkpoint_seconds)
    told = _targets(photos, asked, str(targets), pair, chosen, seen, read[0], folder)
    task = settle(own, seen, photos, told, chosen, read, grid)
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
        named = _content(concepts)
    elif isinstance(concepts, ConceptSet):
        told = [] if concepts.targets is None else [json.dumps(concepts.targets.tolist())]
        named = texts_fingerprint([*map(str, concepts.concepts), *told])
    else:
        named = texts_fingerprint([str(one) for one in concepts])
    view = asdict(model.preprocess) if model.preprocess is not None else ""
    return {
        "model": f"{model.name} {weights_fingerprint(model.module)}",
        "view": json.loads(json.dumps(view)),  # as it is read again, with lists
        "vlm": vlm_fingerprint(vlm) if vlm else "",
        "photos": f"{photos.name} {len(photos)} photos {texts_fingerprint(photos.names)}",
        "concepts": named,
        "targets": _content(targets),
        "layer": read[0],
        "locator_layers": list(read[1]),
        "grid": list(grid) if grid else [],
        "seed": seed,
        **recipe.told(),
    }


def _content(named: str | Path) -> str:
    """Return a name, and where it is a file's, a mark of what is in it; of a folder, of the sizes of its files."""
    place = Path(named)
    if place.is_file():
        return f"{named} {bytes_fingerprint(place.read_bytes())}"
    if place.is_dir():
        return f"{named} {texts_fingerprint([f'{one.name} {one.stat().st_size}' for one in sorted(place.iterdir())])}"
    return str(named)


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
        return Targets(channels, torch.zeros(len(photos), width), "none")
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

    kind = HeadSettings(recipe.nec, recipe.refit)
    penalties = recipe.penalties if recipe.loss == "ridge" else (1.0,)
    choice = choose(layer, labels, penalties, recipe.holdout, kind, run.seed)
    probe = choice
    if recipe.loss != "channels" or recipe.nec is not None:
        probe = choose(
            lambda rows, penalty, draw: photos.whole, labels, (1.0,), recipe.holdout, HeadSettings(), run.seed
        )
    weight = _weights(task, photos, torch.arange(len(labels)), choice.penalty, run, "layer")
    made = Bottleneck(
        task.targets.concepts.concepts, task.photos.classes, task.layer, photos.channels, used.locator, task.grid,
        BackboneReference(task.model.name, weights_fingerprint(task.model.module), _view(task.model)),
        _record(task, run, choice, probe, source, photos),
    )  # fmt: skip
    made = _with_head(made, weight, used, labels, choice, kind)
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
    named, values = task.targets.concepts, task.targets.values
    learned = ConceptLayerScores(made[held], values[list(photos.indices)][held], "holdout")
    found = by_interpretability(named.labels, learned, task.recipe.interpretable)
    stay = list(found.kept)
    targets = Targets(named.keep(stay, found.dropped), values[:, stay], task.targets.by)
    pooled = replace(photos.pooled, mask=photos.pooled.mask[stay])
    return replace(task, targets=targets), replace(photos, pooled=pooled, locator=of_concepts(photos.locator, stay))


def _with_head(
    made: Bottleneck, weight: Tensor, photos: PooledPhotos, labels: Tensor, choice: PenaltyChoice, kind: HeadSettings
) -> Bottleneck:
    """Fill in the concept vectors and the head that is fitted to what they make of all photos."""
    activations = photos.activations(weight)
    head = fit_head(activations, labels, choice.strength, kind)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.mean.copy_(head.mean)
        made.std.copy_(torch.where(head.std > 0, head.std, 1.0))
        made.head.weight.copy_(head.weights)
        made.head.bias.copy_(head.bias)
    made.training_record["concepts_per_class"] = nec(head.weights)
    return made.eval().requires_grad_(False)


def _view(model: Backbone) -> Preprocess | None:
    return model.preprocess


def _record(
    task: BottleneckTask,
    run: TrainingRun,
    choice: PenaltyChoice,
    probe: PenaltyChoice,
    source: CellSource,
    photos: PooledPhotos,
) -> dict[str, Any]:
    """Return what is known of the fit: its settings, what the holdout said, and what was left out."""
    concepts = task.targets.concepts
    return {
        **run.configuration,
        "locator": task.recipe.locator,
        "grid": list(task.grid),
        "concepts_from": concepts.source,
        "targets_by": task.targets.by,
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
        failures = [asdict(source.failures[place]) for place in sorted(source.failures)]
        write_json(folder / "failures.json", failures)
        made.save_pretrained(folder)
        for checkpoint in (folder / "training").glob(f"**/{FILE}"):
            checkpoint.unlink(missing_ok=True)
        for vectors in folder.glob("vectors-*.safetensors"):
            vectors.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(folder / "cells", ignore_errors=True)
    accelerator.wait_for_everyone()
