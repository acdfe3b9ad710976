"""One run of embedding: begun or taken up again, batch after batch, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.data.masked_set import MaskedSet
from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.runs.embed_batch import Rows, rows_of
from conceptlens.local_embeddings.runs.plan import EmbedPlan, run_id
from conceptlens.local_embeddings.runs.reader import Reader
from conceptlens.store.lance_tables import SPARED_AGE
from conceptlens.store.row import RunRow, row_id
from conceptlens.store.store import Store

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# From the batches that are left to their rows, in any order.
Engine = Callable[["Task", Sequence[range]], Iterator[Rows]]


@dataclass(frozen=True, eq=False)
class Task:
    """What every worker of a run needs: model, plan, data, and the channels' scales."""

    model: Backbone
    plan: EmbedPlan
    data: MaskedSet
    run: str
    scales: Mapping[str, Tensor]

    def rows(self, reader: Reader, reads: Any) -> Rows:
        """Return the rows of one batch."""
        return rows_of(reader.model, self.plan, self.run, self.data.name, self.scales, reads)


@dataclass(frozen=True)
class Progress:
    """How far the run of an id is: photos of `total`, embeddings written, photos that failed."""

    run: str
    photos: int
    total: int
    embeddings: int
    failures: int


def local(task: Task, batches: Sequence[range]) -> Iterator[Rows]:
    """Embed here, in this process, while the next batches are read."""
    reader = Reader(task.model, task.plan, task.data)
    return (task.rows(reader, reads) for reads in reader.ahead(batches))


def embed(
    data: MaskedSet,
    model: Backbone,
    plan: EmbedPlan,
    store: Store,
    resume: bool = False,
    engine: Engine = local,
    retry: bool = False,
) -> Iterator[Progress]:
    """Embed every mask of `data` at every layer of the plan, and yield how far it is after each batch.

    A run is known by its settings, its model's weights and its data: with `resume` it goes on after the last batch
    that is in the store, nothing is lost and nothing is there twice. A photo that fails is recorded with its reason,
    and the rest goes on; with `retry`, a run that is resumed tries it again. Holds a few batches of photos and the
    cells of one, whatever the size of the set. Raises `InputError` where the store has some of this run and `resume`
    is not asked for, and for unknown layers.
    """
    prepared = plan.prepared(model)
    _check_layers(prepared, plan)
    settings = plan.settings(prepared, data)
    run = run_id(settings)
    done = store.committed_images(run)
    known = next((row for row in store.runs() if row.id == run), None)
    if known is not None and done and not resume:
        raise InputError(
            f"{store.path} already has {len(done)} photos of this run; resume it (--resume), or choose another store"
        )
    if resume and known is None:
        _check_other_runs(store, settings)
    reader = Reader(prepared, plan, data)
    row = known or _begun(run, settings, reader)
    store.write_run(row)
    scales = {name: torch.tensor(values) for name, values in row.settings["scales"].items()}
    task = Task(prepared, plan, data, run, scales)
    failed = {image.id for image in store.failures(run)}
    done -= failed if retry else set()
    before = Progress(run, len(done), reader.total, store.count(run) if done else 0, len(failed & done))
    yield from _written(store, row, before, engine(task, _left(reader, done)))


def _check_other_runs(store: Store, settings: Mapping[str, Any]) -> None:
    """Raise `InputError` where there are runs but none to go on with, and say in what the last one differs."""
    runs = sorted(store.runs(), key=lambda row: row.started)
    if runs:
        last = runs[-1].settings
        differing = ", ".join(f"{name} {last.get(name)}" for name in settings if last.get(name) != settings[name])
        raise InputError(
            f"{store.path} has no run of these settings to resume; the last one has {differing}; give the same, or "
            "leave resume out to begin another run"
        )


def _begun(run: str, settings: Mapping[str, Any], reader: Reader) -> RunRow:
    scales = {name: values.tolist() for name, values in reader.scales().items()}
    return RunRow(run, {**settings, "scales": scales}, _now())


def _written(store: Store, row: RunRow, before: Progress, found: Iterable[Rows]) -> Iterator[Progress]:
    photos, embeddings, failures = before.photos, before.embeddings, before.failures
    yield before
    for rows in found:
        store.append(rows.images, rows.embeddings, rows.masks)
        photos += len(rows.images)
        embeddings += len(rows.embeddings)
        failures += sum(image.failure is not None for image in rows.images)
        yield replace(before, photos=photos, embeddings=embeddings, failures=failures)
    counts = {"photos": photos, "embeddings": embeddings, "failures": failures}
    store.write_run(RunRow(row.id, row.settings, row.started, _now(), counts))
    for layer in row.settings["layers"]:
        store.index(layer)
    alone = all(other.finished is not None for other in store.runs())
    store.compact(timedelta(0) if alone else SPARED_AGE)  # one piece for each batch, until now


def _left(reader: Reader, done: set[str]) -> list[range]:
    """Return what is left of each batch: all of it, or the parts between photos that are in the store."""
    if not done:
        return reader.batches()
    known = [row_id(reader.data.name, name) in done for name in reader.names]
    parts = (list(part) for batch in reader.batches() for there, part in groupby(batch, known.__getitem__) if not there)
    return [range(part[0], part[-1] + 1) for part in parts]


def _check_layers(model: Backbone, plan: EmbedPlan) -> None:
    if not plan.layers:
        raise InputError("no layer was named; give at least one, such as the model's default")
    for name in plan.layers:
        model.check_layer(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
