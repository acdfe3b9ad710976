"""Fitting CE-FAM's branch: photos in, a translator out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.concept_regions.branch import Branch, branch_layers, in_order, layer_widths
from conceptlens.concept_regions.fit.pairs import Pairs, read_pairs
from conceptlens.concept_regions.fit.teacher import Pupil, Views, extract, failures_of, shard_files
from conceptlens.concept_regions.fit.train_branch import DistillationLoss, train_branch
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts, prompt, vocabulary
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import texts_fingerprint, weights_fingerprint
from conceptlens.io.images import find_images
from conceptlens.io.progress import progress
from conceptlens.training.checkpoint import FILE, TrainingState
from conceptlens.training.crops import preprocess_of
from conceptlens.training.loop import TrainingRun
from conceptlens.training.run_folder import claim, processes, write_json
from conceptlens.training.schedule import EpochSchedule, schedule_named

if TYPE_CHECKING:
    from accelerate import Accelerator

    from conceptlens.model.backbone import Backbone


def fit_ce_fam(
    model: Backbone,
    vlm: Backbone,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    concepts: str | Iterable[str | ConceptName] | None = None,
    layers: str | Sequence[str] | None = None,
    schedule: str = "modern",
    similarity: float = 0.001,
    hidden: Sequence[int] | None = None,
    views: int = 4,
    validation: float = 0.1,
    batch_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
) -> Translator:
    """Train a branch of `model` that imitates `vlm`, and return it as a translator, saved in `out`.

    Every photo of `images` (files, folders, patterns) is cropped `views` times; a tenth of the photos is held out.
    `concepts` are those of the similarity loss, by default the vocabulary; with `similarity=0` no concept is read.
    `layers` and `hidden` are found and published (`branch_layers`, `hidden_sizes`) where left out; `hidden=()` is a
    single linear map. Photos that cannot be used are listed in
    `failures.json`. A run that was broken off goes on with `resume=True`, and ends as it would have.
    """
    accelerator, place = processes(device)
    model, vlm = model.to(place), vlm.to(place)
    pupil, looks = Pupil(model, _layers(model, layers), vlm), Views(views, validation, seed)
    plan = schedule_named(schedule, epochs, batch_size)
    photos, named = _photos(images), _concepts(concepts, similarity)
    about = _about(pupil, photos, looks, plan, schedule, similarity, named, hidden)
    folder = Path(out)
    if claim(folder, about, resume, accelerator):
        return Translator.load(folder, vlm)
    pairs, failed = _pairs(pupil, photos, looks, folder / "cache", accelerator)
    goal = _goal(vlm, named, similarity, accelerator)
    run = TrainingRun(accelerator, folder, about, seed, checkpoint_seconds, torch.device(place))
    branch, state = train_branch(_new_branch(pupil, pairs, hidden, seed), pairs, goal, plan, run)
    training = {**about, **_outcome(state, pairs, failed)}
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
        raise InputError(f"similarity is {weight}; give a weight of 0 or more, such as 0.001")
    if weight == 0:
        return ()
    return vocabulary() if concepts is None else parse_concepts(concepts)


def _about(
    pupil: Pupil,
    photos: Sequence[Path],
    looks: Views,
    plan: EpochSchedule,
    schedule: str,
    similarity: float,
    named: Sequence[ConceptName],
    hidden: Sequence[int] | None,
) -> dict[str, Any]:
    """Return everything that decides the result, as it is kept in `run.json` and with the branch."""
    for net in (pupil.model, pupil.vlm):
        preprocess_of(net)
    files = shard_files(pupil, photos, looks, Path())
    asked = [f"{concept.label}:{concept.type}" for concept in named]
    return {
        "model": f"{pupil.model.name} {weights_fingerprint(pupil.model.module)}",
        "vlm": f"{pupil.vlm.name} {Teacher.of(pupil.vlm).identity}",
        "layers": list(pupil.layers),
        "hidden": None if hidden is None else list(hidden),
        "images": f"{len(photos)} photos {texts_fingerprint([file.name for file, _ in files])}",
        "concepts": f"{len(asked)} concepts {texts_fingerprint(asked)}",
        "similarity": similarity,
        "views": looks.count,
        "validation": looks.validation,
        "seed": looks.seed,
        "schedule": schedule,
        **{f"schedule_{name}": value for name, value in asdict(plan).items()},
    }


def _pairs(
    pupil: Pupil, photos: Sequence[Path], looks: Views, cache: Path, accelerator: Accelerator
) -> tuple[Pairs, int]:
    """Make what is not there yet, wait for the other processes, note failed photos, and read all pairs."""
    work = extract(pupil, photos, looks, cache, (accelerator.process_index, accelerator.num_processes))
    files = [file for file, _ in shard_files(pupil, photos, looks, cache)]
    parts = -(-len(files) // accelerator.num_processes)
    for _ in progress(work, parts, "both networks on photos", visible=accelerator.is_main_process):
        pass
    accelerator.wait_for_everyone()
    failures = failures_of(files)
    if accelerator.is_main_process:
        write_json(cache.parent / "failures.json", [asdict(failure) for failure in failures])
    return read_pairs(files), len(failures)


def _goal(vlm: Backbone, named: Sequence[ConceptName], similarity: float, accelerator: Accelerator) -> DistillationLoss:
    """Return the losses; one process reads the texts first, so that the others find them in the cache."""
    if not named:
        return DistillationLoss(vlm.language)
    with accelerator.main_process_first():
        texts = vlm.language.encode_text([prompt(concept) for concept in named])
    return DistillationLoss(vlm.language, texts, similarity)


def _new_branch(pupil: Pupil, pairs: Pairs, hidden: Sequence[int] | None, seed: int) -> Branch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Branch(pupil.layers, layer_widths(pupil.model, pupil.layers), pairs.vectors.width, hidden)


def _publish(translator: Translator, state: TrainingState, folder: Path, accelerator: Accelerator) -> None:
    """Write the branch and its history once, and remove the checkpoint, which is no longer needed."""
    if accelerator.is_main_process:
        write_json(folder / "history.json", state.history)
        translator.save(folder)
        (folder / FILE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _outcome(state: TrainingState, pairs: Pairs, failed: int) -> dict[str, Any]:
    return {
        "photos": pairs.photos,
        "failures": failed,
        "pairs": len(pairs.features),
        "held_out_pairs": len(pairs.held_features),
        "steps": state.step,
        "epochs": len(state.history),
        "best_epoch": state.best_epoch,
        "validation_loss": state.best_loss,
    }
