"""Runs that explain photos into a store, batch after batch: started, or resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs.explain_settings import run_options, run_settings
from conceptlens.explainer.runs.explain_task import ExplainTask
from conceptlens.io.errors import InputError
from conceptlens.runs.local_engine import batches_of, local_engine
from conceptlens.runs.run_task import Engine
from conceptlens.store.explanation_store import ExplanationRows, ExplanationStore
from conceptlens.store.row import RunRow, row_id
from conceptlens.store.stored_run import finish_run, known_run, left_of, now, run_id, writing

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# A commit takes as long for one batch as for many: rows wait until there are so many photos, or so many seconds.
COMMIT_PHOTOS = 64
COMMIT_SECONDS = 5.0


@dataclass(frozen=True)
class ExplainProgress:
    """Progress of a run: photos done of `total`, those that failed among them, and those that were done before."""

    run: str
    photos: int
    total: int
    failures: int
    before: int


def explain_into(
    store: ExplanationStore,
    model: Backbone,
    photos: Sequence[Path],
    options: ExplainOptions,
    *,
    batch_size: int = 8,
    with_maps: bool = False,
    true_classes: Sequence[str] | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    engine: Engine = local_engine,
) -> Iterator[ExplainProgress]:
    """Explain photo files and write what is found to a store, as an iterator over the progress.

    A run is known by the model, its weights and the options, and not by its photos: a resumed run explains those
    that are not in the store yet. A photo is known by its full path. One that cannot be read or explained is recorded
    with its reason. Memory holds a few batches, whatever the number of photos, besides their paths.

    Args:
        store: Where rows are written.
        model: The model to explain.
        photos: The files.
        options: What to compute for each of them.
        batch_size: Photos per forward pass.
        with_maps: Whether maps of the class and of the concepts are kept.
        true_classes: The true class of each photo, as the model calls it, `""` where it is not known (`true_classes`);
            by default none is kept.
        resume: Continue a run that the store has a part of.
        retry_failed: Explain photos again that failed before.
        engine: Where batches are explained: in this process, or by `process_engine(...)` or `ray_engine(...)`.

    Yields:
        The progress of the run; first that of the rows that the store has already.

    Raises:
        InputError: The model gives no concepts, an option cannot be used, the store has a part of this run and
            `resume` is False, or has other true classes for photos of it.
    """
    if model.transform is None:
        raise InputError(f"{model.name} has no transform, so photos cannot be read; give Backbone(..., transform=...)")
    chosen = run_options(model, options, with_maps)
    settings = run_settings(model, chosen, with_maps, true_classes is not None)
    known, done = known_run(store, settings, resume)
    row = known or RunRow(run_id(settings), settings, now())
    names = [os.path.abspath(path) for path in photos]
    labels = {} if true_classes is None else dict(zip(names, true_classes, strict=True))
    _check_labels(store, row.id, labels)
    store.write_run(row)
    failed = {image.id for image in store.failures(row.id)}
    ids = list(map(row_id, names))
    done -= failed if retry_failed else set()
    there = [id in done for id in ids]
    before = ExplainProgress(row.id, sum(there), len(names), len(failed.intersection(ids) & done), sum(there))
    task = ExplainTask(model, names, chosen, row.id, with_maps, labels)
    yield from _written(store, row, before, engine(task, left_of(batches_of(len(names), batch_size), there)))


def _check_labels(store: ExplanationStore, run: str, labels: Mapping[str, str]) -> None:
    """Raise `InputError` where a run has another true class for a photo than is given now."""
    for rows in store.stream("explained", run=run) if labels else ():
        for photo, known in zip(rows["photo"].to_pylist(), rows["true_class"].to_pylist(), strict=True):
            if labels.get(photo, known) != known:
                raise InputError(
                    f"{photo!r} is labelled {labels[photo] or 'with no class'!r} and was {known or 'with none'!r} "
                    "before in this run; give the same labels, or choose another store"
                )


def _written(
    store: ExplanationStore, row: RunRow, before: ExplainProgress, found: Iterator[ExplanationRows]
) -> Iterator[ExplainProgress]:
    """Yield the progress after each batch, and write several batches at once; what is found is written in any case."""
    so_far, waiting, written = before, ExplanationRows(), time.monotonic()
    yield so_far
    with writing(store) as alone:
        try:
            for rows in found:
                waiting.extend(rows)
                failures = sum(image.failure is not None for image in rows.images)
                so_far = replace(so_far, photos=so_far.photos + len(rows.images), failures=so_far.failures + failures)
                if len(waiting.images) >= COMMIT_PHOTOS or time.monotonic() - written >= COMMIT_SECONDS:
                    due, waiting, written = waiting, ExplanationRows(), time.monotonic()
                    store.append(due)
                yield so_far
        finally:
            store.append(waiting)
        finish_run(store, row, {"photos": so_far.photos, "failures": so_far.failures}, alone)
