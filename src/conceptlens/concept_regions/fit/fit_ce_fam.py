"""Fitting CE-FAM's branch: photos in, a translator out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.concept_regions.branch import Branch, branch_layers, in_order, layer_widths
from conceptlens.concept_regions.fit.pair_shards import (
    CropPlan,
    StudentTeacher,
    extract_pairs,
    failures_of,
    shard_files,
)
from conceptlens.concept_regions.fit.pairs import DistillationPairs, read_pairs
from conceptlens.concept_regions.fit.train_branch import DistillationLoss, train_branch
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts, prompt
from conceptlens.io.atomic import write_json
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import texts_fingerprint, weights_fingerprint
from conceptlens.io.images import find_images
from conceptlens.model.backbone import Backbone, check_backbone
from conceptlens.model.module_lock import seeded
from conceptlens.training.checkpoint import FILE, TrainingState
from conceptlens.training.crops import known_preprocess
from conceptlens.training.loop import TrainingRun
from conceptlens.training.run_folder import claim_folder, start_processes
from conceptlens.training.schedule import EpochSchedule, schedule_named

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit_ce_fam(
    model: Backbone,
    vlm: Backbone,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    concepts: str | Iterable[str | ConceptName] | None = None,
    layers: str | Sequence[str] | None = None,
    schedule: str = "modern",
    similarity_weight: float = 0.001,
    hidden: Sequence[int] | None = None,
    n_crops: int = 4,
    validation: float = 0.1,
    batch_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
) -> Translator:
    """Train a branch of `model` that imitates `vlm`, and save it in `out`. (CE-FAM, ICCV 2025, section 3.3.)

    Both networks stay frozen. An interrupted run goes on with `resume=True`, and ends with the same weights.

    Args:
        model: The classifier to explain.
        vlm: The teacher: a backbone with a text encoder.
        images: Photos without labels: files, folders or patterns.
        out: Folder of the branch, its cache, its logs, and `failures.json` with the photos that cannot be used.
        concepts: Concepts of the similarity loss; by default the everyday words of the vocabulary.
        layers: Layers that the branch reads; by default those of `branch_layers`.
        schedule: `modern`, or as published: `paper`, `code`.
        similarity_weight: Weight of the similarity loss; with 0 no concept is read.
        hidden: Sizes of the hidden layers; by default the published ones, and `()` is a single linear map.
        n_crops: Random crops of each photo.
        validation: Share of the photos that are kept for validation.
        batch_size: Crops of a batch; by default the schedule's.
        epochs: Largest number of epochs; by default the schedule's.
        seed: Decides crops, validation photos, first weights and order.
        device: Device of both networks and of the training.
        resume: Whether a run in `out` goes on.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        The branch with the lowest validation loss, and the teacher's text encoder.

    Raises:
        InputError: For an argument out of its range, photos that are missing or too few, a folder of another run, or a
            training that diverges.
        InputTypeError: A model is no `Backbone`.
    """
    check_backbone(model)
    check_backbone(vlm)
    accelerator, own_device = start_processes(device)
    model, vlm = model.to(own_device), vlm.to(own_device)
    networks, crops = StudentTeacher(model, _layers(model, layers), vlm), CropPlan(n_crops, validation, seed)
    training_schedule = schedule_named(schedule, epochs, batch_size)
    photos, named = _photos(images), _concepts(concepts, similarity_weight)
    configuration = _configuration(
        networks, photos, crops, training_schedule, schedule, similarity_weight, named, hidden
    )
    folder = Path(out)
    if claim_folder(folder, configuration, resume, accelerator):
        return Translator.load(folder, vlm)
    pairs, failed = _pairs(networks, photos, crops, folder / "cache", accelerator)
    objective = _objective(vlm, named, similarity_weight, accelerator)
    run = TrainingRun(accelerator, folder, configuration, seed, checkpoint_seconds, torch.device(own_device))
    branch, state = train_branch(_new_branch(networks, pairs, hidden, seed), pairs, objective, training_schedule, run)
    training = {**configuration, **_outcome(state, pairs, failed)}
    translator = Translator(branch, Teacher.of(vlm), model.name, weights_fingerprint(model.module), training, vlm)
    _publish(translator, state, folder, accelerator)
    return translator


def _layers(model: Backbone, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the layers that the branch reads: those named, else the stages of the model."""
    if layers is None:
        return branch_layers(model)
    return in_order(model, [layers] if isinstance(layers, str) else layers)


def _photos(images: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """Return every photo of files, folders and patterns; refused where one is not there."""
    photos = find_images(*([images] if isinstance(images, (str, Path)) else images))
    missing = [str(photo) for photo in photos if not photo.exists()]
    if missing:
        raise InputError(f"no file or folder {missing[0]!r}; give photos, or a folder that holds them")
    return photos


def _concepts(concepts: str | Iterable[str | ConceptName] | None, weight: float) -> tuple[ConceptName, ...]:
    if not 0 <= weight < float("inf"):
        raise InputError(f"similarity_weight is {weight}; give a weight of 0 or more, such as 0.001")
    if weight == 0:
        return ()
    return everyday_words() if concepts is None else parse_concepts(concepts)


def _configuration(
    networks: StudentTeacher,
    photos: Sequence[Path],
    crops: CropPlan,
    training_schedule: EpochSchedule,
    schedule: str,
    similarity_weight: float,
    named: Sequence[ConceptName],
    hidden: Sequence[int] | None,
) -> dict[str, Any]:
    """Return everything that decides the result, as it is kept in `run.json` and with the branch."""
    for net in (networks.model, networks.vlm):
        known_preprocess(net)
    files = shard_files(networks, photos, crops, Path())
    texts = [f"{concept.label}:{concept.type}" for concept in named]
    return {
        "model": f"{networks.model.name} {weights_fingerprint(networks.model.module)}",
        "vlm": f"{networks.vlm.name} {Teacher.of(networks.vlm).identity}",
        "layers": list(networks.layers),
        "hidden": None if hidden is None else list(hidden),
        "images": f"{len(photos)} photos {texts_fingerprint([file.name for file, _ in files])}",
        "concepts": f"{len(texts)} concepts {texts_fingerprint(texts)}",
        "similarity_weight": similarity_weight,
        "n_crops": crops.n_crops,
        "validation": crops.validation,
        "seed": crops.seed,
        "schedule": schedule,
        **{f"schedule_{name}": value for name, value in asdict(training_schedule).items()},
    }


def _pairs(
    networks: StudentTeacher, photos: Sequence[Path], crops: CropPlan, cache: Path, accelerator: Accelerator
) -> tuple[DistillationPairs, int]:
    """Make what is not there yet, wait for the other processes, note failed photos, and read all pairs."""
    share = accelerator.process_index, accelerator.num_processes
    doing = "both networks on photos" if accelerator.is_main_process else ""
    files = [file for file, _ in shard_files(networks, photos, crops, cache)]
    for _ in extract_pairs(networks, photos, crops, cache, share, doing):
        pass
    accelerator.wait_for_everyone()
    failures = failures_of(files)
    if accelerator.is_main_process:
        write_json(cache.parent / "failures.json", [asdict(failure) for failure in failures])
    return read_pairs(files), len(failures)


def _objective(
    vlm: Backbone, named: Sequence[ConceptName], weight: float, accelerator: Accelerator
) -> DistillationLoss:
    """Return the losses; one process reads the texts first, so that the others find them in the cache."""
    if not named:
        return DistillationLoss(vlm.language)
    with accelerator.main_process_first():
        texts = vlm.language.encode_text([prompt(concept) for concept in named])
    return DistillationLoss(vlm.language, texts, weight)


def _new_branch(networks: StudentTeacher, pairs: DistillationPairs, hidden: Sequence[int] | None, seed: int) -> Branch:
    with seeded(seed):
        return Branch(networks.layers, layer_widths(networks.model, networks.layers), pairs.vectors.width, hidden)


def _publish(translator: Translator, state: TrainingState, folder: Path, accelerator: Accelerator) -> None:
    """Write the branch and its history once, and remove the checkpoint, which is no longer needed."""
    if accelerator.is_main_process:
        write_json(folder / "history.json", state.history)
        translator.save(folder)
        (folder / FILE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _outcome(state: TrainingState, pairs: DistillationPairs, failed: int) -> dict[str, Any]:
    return {
        "photos": pairs.photos,
        "failures": failed,
        "pairs": len(pairs.features),
        "validation_pairs": len(pairs.validation_features),
        "steps": state.step,
        "epochs": len(state.history),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best_loss,
    }
