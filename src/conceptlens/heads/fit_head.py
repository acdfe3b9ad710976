"""A linear head for the classes of a labelled set, fitted to the embedding of a frozen network."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlens.data.labelled_set import LabelledSet, hold_out, without_photos
from conceptlens.data.labelled_sets import evaluation_split, open_classes
from conceptlens.data.photo_views import box_crops, mirrored, some_photos
from conceptlens.heads.head_evaluation import HeadEvaluation, evaluate_head
from conceptlens.heads.logistic_head import fit_logistic
from conceptlens.heads.photo_embeddings import EmbeddedPhotos, embed_photos
from conceptlens.heads.ridge_choice import STRENGTHS, HeldOut, choose_ridge
from conceptlens.io.atomic import write_json
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.output_path import check_folder
from conceptlens.io.saved_folder import CONFIG
from conceptlens.model.backbone import Backbone, check_backbone
from conceptlens.model.class_head import FOLDER_FORMAT, ClassHead, check_takes_head

TEST_SHARE = 0.2  # of each class, where a set has no such split
TOLERANCE = 1e-6
EMBEDDINGS = "embeddings"  # the folder of a fit that goes on
FAILURES, EVALUATION = "failures.json", "evaluation.json"
CROPS = ("whole", "box")


@dataclass(frozen=True, eq=False)
class FittedHead:
    """What a fit made.

    Attributes:
        model: The network, ending in the head: an ordinary model with class names.
        head: The head, as it lies in the folder.
        evaluation: How right it is on photos that were not used.
        failures: The photos that could not be read.
    """

    model: Backbone
    head: ClassHead
    evaluation: HeadEvaluation
    failures: tuple[Failure, ...]


def fit_head(
    model: Backbone,
    data: str | LabelledSet,
    out: str | Path,
    *,
    test: str | float | LabelledSet | None = None,
    crop: str = "whole",
    margin: float = 0.1,
    mirror: bool = False,
    holdout: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
    cache: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> FittedHead:
    """Fit a linear head for the classes of a labelled set to the embedding of a frozen network.

    `logits = W e + b` with `e` what enters the network's classifier (or what a network embeds), by multinomial logistic
    regression on z-scored embeddings with a ridge, `argmin mean cross-entropy + strength / 2 |W|^2`; the z-scores are
    folded into `W` and `b`. The strength has the lowest cross-entropy on held-out train photos, over three draws; then
    all train photos are used. Photos of the test are read when all that is done.

    Each photo goes through the network once. An interrupted fit goes on where it stopped when it is called again.

    Args:
        model: The network; it is left as it is.
        data: The labelled set: its name (see `open_classes`), of which `train` is fitted to where there is one, or the
            set itself.
        out: A new folder for the head, or that of an interrupted fit; `load_model(out)` opens it.
        test: The photos that measure the head: a split's name, another set, or the share of each class that is taken
            out of `data` for it. By default the split `test` (or `val`, ...) of `data`, where it has none a share of
            0.2.
        crop: `whole` photos, or `box`: each cut to its annotated box.
        margin: How much is added to the box on each side, as a share of its sides.
        mirror: Whether mirrored train photos are fitted to as well.
        holdout: The share of each train class that is held out to choose the strength.
        strengths: The strengths to choose from.
        cache: A folder for embeddings, kept after the fit; by default one in `out`, removed at the end.
        seed: Seed of held-out photos and of the share for the test; the fit itself has none.
        device: Where the network runs, such as `cuda`.

    Returns:
        The model with the head, the head, and what was measured.

    Raises:
        InputError: There are fewer than two classes, a class has too few photos, the network has no embedding, the
            folder holds something else, or a setting is out of range.
        InputTypeError: `model` is no `Backbone`.

    Example:
        >>> birds = cl.fit_head(cl.load_model(crop_mode="squash"), "cub:CUB_200_2011", "birds/")
        >>> birds.evaluation.accuracy
        >>> cl.cam(birds.model.observe("bird.jpg"), cl.Contrast(nearest=3))
    """
    check_backbone(model)
    folder, on_device = Path(out), model.to(device)
    _check_settings(folder, crop, holdout, strengths)
    train, tested = _split(open_classes(data) if isinstance(data, str) else data, data, test, seed)
    _check_classes(train, tested)
    hold_out(train.labels, holdout, seed)  # refuses now what it would after all photos were read
    check_takes_head(on_device)
    views = [box_crops(one, margin) if crop == "box" else one for one in (train, tested)]
    kept = Path(cache) if cache else folder / EMBEDDINGS
    seen = [embed_photos(on_device, one, kept) for one in (views[0], *([mirrored(views[0])] if mirror else []))]
    vectors, labels = _joined(seen)
    _check_counts(labels, train, 2, "one is fitted to, one chooses the strength of the ridge")
    chosen, tried = choose_ridge(vectors, labels, holdout, seed, strengths)
    weight, bias = _fitted(vectors, labels, chosen.strength)

    measured = embed_photos(on_device, views[1], kept)
    evaluation = evaluate_head(
        measured.vectors @ weight.T + bias, measured.labels, train.classes, views[1].name, seed=seed
    )
    settings = {
        "data": views[0].name, "crop": crop, "margin": margin if crop == "box" else None, "mirror": mirror,
        "holdout": holdout, "seed": seed, "photos_used": len(labels),
    }  # fmt: skip
    head = ClassHead.of(on_device, weight, bias, train.classes, {**settings, **_record(chosen, tried, evaluation)})
    made = head.on(on_device, f"head:{folder}")
    failures = tuple(dict.fromkeys(failure for one in (*seen, measured) for failure in one.failures))
    _write(folder, head, evaluation, failures, keep=cache is not None)
    return FittedHead(made, head, evaluation, failures)


def evaluation_json(evaluation: HeadEvaluation) -> dict[str, Any]:
    """Return an evaluation as JSON holds it.

    Args:
        evaluation: How right a head is.
    """
    whole = asdict(evaluation)
    classes = [{"name": name, **interval} for name, interval in whole.pop("classes").items()]
    return {**whole, "classes": classes}


def _check_settings(folder: Path, crop: str, holdout: float, strengths: Sequence[float]) -> None:
    """Refuse a folder that holds something else than a fit that goes on, and settings out of range."""
    check_folder(folder)
    held = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if CONFIG in held:
        raise InputError(f"{folder} holds a head or something like it already; choose another folder, or remove it")
    own = {EMBEDDINGS, FAILURES, EVALUATION, FOLDER_FORMAT.weights_file}
    others = [name for name in sorted(held - own) if not name.endswith(".part")]
    if others:
        raise InputError(f"{folder} holds {others[0]}, which no fit wrote; give a new or an empty folder")
    if crop not in CROPS:
        raise InputError(f"crop is '{crop}'; expected whole or box")
    if not (isinstance(holdout, float) and 0 < holdout < 1):
        raise InputError(f"holdout is {holdout!r}; expected a share of each class between 0 and 1, such as 0.2")
    wrong = [one for one in strengths if not 0 < one < math.inf]
    if wrong or not strengths:
        raise InputError(f"the strengths of the ridge are {list(strengths)}; expected at least one, each above 0")


def _split(
    photos: LabelledSet, data: str | LabelledSet, test: str | float | LabelledSet | None, seed: int
) -> tuple[LabelledSet, LabelledSet]:
    """Return the photos that are fitted to, and those that measure the head; none is read."""
    if test is None:
        other = evaluation_split(photos)
        test = other if other and isinstance(data, str) and photos.split == "train" else TEST_SHARE
    if isinstance(test, str):
        if not isinstance(data, str):
            raise InputError(
                f"test is the split '{test}', and the data is a set whose other splits are not known here; give the "
                "set of the test photos, or a share such as 0.2"
            )
        if test == photos.split:
            raise InputError(f"test is '{test}', the split that is fitted to; give another, or a share such as 0.2")
        return photos, open_classes(data, test)
    if isinstance(test, int | float):
        if not 0 < test < 1:
            raise InputError(f"test is {test}; expected a split, or a share of each class between 0 and 1, such as 0.2")
        _check_counts(torch.from_numpy(photos.labels), photos, 3, "one is fitted to, one chooses the ridge, one tests")
        kept, held = hold_out(photos.labels, float(test), seed)
        return some_photos(photos, kept, "the others"), some_photos(photos, held, f"{test:g} held out")
    return photos, test


def _check_classes(train: LabelledSet, test: LabelledSet) -> None:
    """Refuse sets whose classes cannot be told apart, or differ."""
    if len(train.classes) < 2:
        raise InputError(f"{train.name} has {len(train.classes)} class; a head tells at least two apart")
    empty = list(without_photos(train))
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(f"class '{empty[0]}'{more} of {train.name} has no photo; add photos, or take the class out")
    _check_counts(torch.from_numpy(train.labels), train, 2, "one is fitted to, one chooses the strength of the ridge")
    if tuple(train.classes) != tuple(test.classes):
        differing = sorted(set(train.classes) ^ set(test.classes))
        what = f"{differing[0]!r} is in one of them alone" if differing else "their order differs"
        raise InputError(f"{test.name} has other classes than {train.name} ({what}); give photos of the same classes")


def _check_counts(labels: Tensor, photos: LabelledSet, least: int, why: str) -> None:
    """Refuse a class with too few photos."""
    counts = np.bincount(labels.numpy(), minlength=len(photos.classes))
    few = np.flatnonzero(counts < least)
    if len(few):
        more = f" and {len(few) - 1} more" if len(few) > 1 else ""
        number = int(counts[few[0]])
        raise InputError(
            f"class '{photos.classes[few[0]]}'{more} of {photos.name} has {number} photo{'s' * (number != 1)} that can "
            f"be read; expected at least {least}: {why}"
        )


def _joined(seen: Sequence[EmbeddedPhotos]) -> tuple[Tensor, Tensor]:
    """Return `[view photo dimension]` of the photos that could be read in every view, and their classes."""
    common = torch.tensor(sorted(set.intersection(*(set(one.rows.tolist()) for one in seen))), dtype=torch.long)
    kept = [torch.isin(one.rows, common) for one in seen]
    return torch.stack([one.vectors[own] for one, own in zip(seen, kept, strict=True)]), seen[0].labels[kept[0]]


def _fitted(vectors: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return weights and bias for embeddings as they are, fitted to `vectors[view photo dimension]`."""
    fitted = fit_logistic(vectors.flatten(0, 1), labels.repeat(len(vectors)), strength, TOLERANCE)
    weight, bias = (values.float() for values in fitted.folded())
    return weight, bias


def _record(chosen: HeldOut, tried: tuple[HeldOut, ...], evaluation: HeadEvaluation) -> dict[str, Any]:
    """Return what was chosen and measured, as it is kept with the head."""
    return {
        "strength": chosen.strength,
        "holdout_accuracy": chosen.accuracy,
        "holdout_cross_entropy": chosen.cross_entropy,
        "tried": [asdict(one) for one in tried],
        "test": evaluation.data,
        "test_accuracy": asdict(evaluation.accuracy),
        "test_commonest": evaluation.commonest,
        "test_cross_entropy": evaluation.cross_entropy,
    }


def _write(
    folder: Path, head: ClassHead, evaluation: HeadEvaluation, failures: tuple[Failure, ...], keep: bool
) -> None:
    """Write what was measured and, last, the head; then remove what only the fit needed."""
    write_json(folder / FAILURES, [asdict(failure) for failure in failures])
    write_json(folder / EVALUATION, evaluation_json(evaluation))
    head.save(folder)
    if not keep:
        shutil.rmtree(folder / EMBEDDINGS, ignore_errors=True)
