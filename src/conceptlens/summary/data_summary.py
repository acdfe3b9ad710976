"""All that is asked of a data set at once: classes, confusions, shortcuts, photos that rest on scenes, drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.summary.carrying_concepts import SummarizedClass, summarize_class
from conceptlens.summary.confused_classes import ConfusedPair, LabelledAnswers, confused_pairs, confusion
from conceptlens.summary.drift import Drift, drift
from conceptlens.summary.explained_photos import ExplainedPhotos, read_photos
from conceptlens.summary.shortcuts import Shortcut, resting_on_scene, shortcuts

if TYPE_CHECKING:
    from conceptlens.store.explanation_store import ExplanationStore

MAX_PAIRS, MAX_RESTING = 20, 50


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What a run says of its photos as a whole.

    Attributes:
        photos: What was found in them.
        failed: How many photos could not be explained.
        classes: What carries each class, those of the most photos first.
        confusion: How often each true class gets each answer; `None` without labels.
        pairs: Classes that are confused, the most frequent first.
        shortcuts: Candidates of shortcuts, the most suspicious first.
        resting_on_scene: Photos whose scenes contribute more than their objects, by their numbers.
        drift: What differs from another run; `None` where there is none.
        against: The folder of the store with the other run; `None` where there is none.
    """

    photos: ExplainedPhotos
    failed: int
    classes: tuple[SummarizedClass, ...]
    confusion: LabelledAnswers | None
    pairs: tuple[ConfusedPair, ...]
    shortcuts: tuple[Shortcut, ...]
    resting_on_scene: tuple[int, ...]
    drift: Drift | None
    against: str | None


def summarize(
    store: ExplanationStore,
    against: ExplanationStore | None = None,
    run: str | None = None,
    against_run: str | None = None,
    seed: int = 0,
) -> DataSummary:
    """Answer the questions that are asked of a data set, from a store of its explained photos.

    Memory holds about 30 bytes for each concept of a photo, and what one class needs.

    Args:
        store: The store.
        against: Another store, whose run is compared with this one; it may be the same store with another run.
        run: The id of the run; by default the only one.
        against_run: The id of the run in `against`; by default the only one.
        seed: Decides the draws of intervals.

    Returns:
        The answers, each with counts and intervals.

    Raises:
        InputError: A store has no explained photos, or several runs and none is named; the model of the run has no
            classes; or two runs cannot be compared.
    """
    photos = read_photos(store, run)
    explained = np.unique(photos.target[photos.target >= 0], return_counts=True)
    if not len(explained[0]):
        raise InputError(f"the photos of {store.path} are explained without a class, and all questions are of classes")
    order = explained[0][np.argsort(-explained[1], kind="stable")].tolist()
    return DataSummary(
        photos=photos,
        failed=len(store.failures(photos.run.id)),
        classes=tuple(summarize_class(photos, number, seed) for number in order),
        confusion=confusion(photos),
        pairs=confused_pairs(photos, MAX_PAIRS, seed),
        shortcuts=shortcuts(photos, seed),
        resting_on_scene=tuple(resting_on_scene(photos, MAX_RESTING).tolist()),
        drift=None if against is None else drift(photos, read_photos(against, against_run)),
        against=None if against is None else str(against.path),
    )
