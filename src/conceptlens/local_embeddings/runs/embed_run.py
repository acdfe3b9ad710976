"""Runs that embed a data set into a store, batch after batch: started, or resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from conceptlens.data.masked_set import MaskedSet, check_masked_set
from conceptlens.io.errors import Failure, InputError
from conceptlens.local_embeddings.modes import FitSettings, Mode
from conceptlens.local_embeddings.runs.embed_batch import PreparedPhoto, StoreRows, embed_photos
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.photo_reader import PhotoReader
from conceptlens.model.backbone import Backbone, check_backbone
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.run_task import Engine
from conceptlens.store.row import RunRow, row_id
from conceptlens.store.store import Store
from conceptlens.store.stored_run import finish_run, known_run, left_of, now, run_id, writing


@dataclass(frozen=True, eq=False)
class EmbedTask:
    """What every worker of a run needs: model, plan, data, and the channels' scales by layer."""

    model: Backbone
    plan: EmbedPlan
    data: MaskedSet
    run: str
    scales: Mapping[str, Tensor]

    @property
    def about(self) -> str:
        """What is sent to workers."""
        return f"{self.model.name} or {self.data.name}"

    @property
    def names(self) -> Sequence[str]:
        """The name of each photo of the set."""
        return self.data.names

    @cached_property
    def reader(self) -> PhotoReader:
        """What reads the photos."""
        return PhotoReader(self.model, self.plan, self.data)

    def read(self, batch: range) -> list[PreparedPhoto | Failure]:
        """Read the photos of one batch, or say why one cannot be read.

        Args:
            batch: Indices of photos.
        """
        return self.reader.read(batch)

    def compute(self, read: Sequence[PreparedPhoto | Failure]) -> StoreRows:
        """Return the rows of one batch of photos.

        Args:
            read: What `read` returned.
        """
        return embed_photos(self.model, self.plan, self.run, self.data.name, self.scales, read)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each worker makes for itself, and the text encoder, which embeds nothing."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "model": replace(self.model, text=None)}


@dataclass(frozen=True)
class EmbedProgress:
    """Progress of a run: photos done of `total`, embeddings written, photos that failed."""

    run: str
    photos: int
    total: int
    embeddings: int
    failures: int


def embed(
    data: MaskedSet,
    model: Backbone,
    store: Store | str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    mode: Mode = "mean_difference",
    *,
    plan: EmbedPlan | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    engine: Engine = local_engine,
    progress: Callable[[EmbedProgress], object] | None = None,
) -> Store:
    """Embed every mask of a data set at every layer (LoCE, IJCV 2025) and write the vectors to a store.

    Args:
        data: A data set with masks, such as `open_set("drawn:6")`.
        model: The model; load it with a squashed input, so that no mask is cut.
        store: A store, or the path of a folder, made where it is missing.
        layers: Names of layers; None takes the model's default.
        mode: How a vector is made (see `modes.fit`).
        plan: All settings of the run, instead of `layers` and `mode`.
        resume: Continue the run of the same settings after its last batch.
        retry_failed: In a resumed run, try photos that failed again.
        engine: Where batches are embedded: in this process, in several (`process_engine`), or on a cluster
            (`ray_engine`).
        progress: Called after each batch.

    Returns:
        The store, to be searched, exported or analyzed.

    Raises:
        InputError: A layer is unknown, or the store has a part of this run and `resume` is False.
        InputTypeError: `data` is no data set with masks, or `model` no `Backbone`.

    Examples:
        >>> store = embed(open_set("drawn:6"), load_model(crop_mode="squash"), "shapes", ["blocks.4"])
        >>> store.embeddings("blocks.4").vectors.shape
    """
    check_masked_set(data)
    check_backbone(model)
    plan = plan or EmbedPlan(tuple(layers or model.default_layers), FitSettings(mode))
    opened = store if isinstance(store, Store) else Store(store, create=True)
    for done in embed_batches(data, model, plan, opened, resume, engine, retry_failed):
        if progress is not None:
            progress(done)
    return opened


def embed_batches(
    data: MaskedSet,
    model: Backbone,
    plan: EmbedPlan,
    store: Store,
    resume: bool = False,
    engine: Engine = local_engine,
    retry_failed: bool = False,
) -> Iterator[EmbedProgress]:
    """Embed every mask of a data set at every layer of a plan, and yield the progress after each batch.

    A run is known by its settings, its model's weights and its data. A resumed run continues after the last batch in
    the store; nothing is lost and nothing is there twice. A photo that fails is recorded with its reason. Memory
    holds a few batches of photos and the cells of one, whatever the size of the set.

    Args:
        data: Photos with masks.
        model: The model.
        plan: Layers, mode, and everything else that decides the rows.
        store: Where rows are written.
        resume: Continue a run that the store has a part of.
        engine: Where batches are embedded: in this process, or by `process_engine(...)` or `ray_engine(...)`.
        retry_failed: Embed photos again that failed before.

    Yields:
        The progress of the run; first that of the rows that the store has already.

    Raises:
        InputError: A layer is unknown, or the store has a part of this run and `resume` is False.
    """
    prepared = plan.prepared(model)
    _check_layers(prepared, plan)
    settings = plan.settings(prepared, data)
    known, done = known_run(store, settings, resume)
    reader = PhotoReader(prepared, plan, data)
    row = known or _new_run(settings, reader)
    store.write_run(row)
    scales = {name: torch.tensor(values) for name, values in row.settings["scales"].items()}
    task = EmbedTask(prepared, plan, data, row.id, scales)
    failed = {image.id for image in store.failures(row.id)}
    done -= failed if retry_failed else set()
    before = EmbedProgress(row.id, len(done), reader.total, store.count(row.id) if done else 0, len(failed & done))
    left = left_of(reader.batches(), [row_id(data.name, name) in done for name in reader.names])
    yield from _written(store, row, before, engine(task, left))


def _new_run(settings: Mapping[str, Any], reader: PhotoReader) -> RunRow:
    scales = {name: values.tolist() for name, values in reader.scales().items()}
    return RunRow(run_id(settings), {**settings, "scales": scales}, now())


def _written(store: Store, row: RunRow, before: EmbedProgress, found: Iterable[StoreRows]) -> Iterator[EmbedProgress]:
    photos, embeddings, failures = before.photos, before.embeddings, before.failures
    yield before
    with writing(store) as alone:
        for rows in found:
            store.append(rows.images, rows.embeddings, rows.masks)
            photos += len(rows.images)
            embeddings += len(rows.embeddings)
            failures += sum(image.failure is not None for image in rows.images)
            yield replace(before, photos=photos, embeddings=embeddings, failures=failures)
        for layer in row.settings["layers"]:
            store.index(layer)
        finish_run(store, row, {"photos": photos, "embeddings": embeddings, "failures": failures}, alone)


def _check_layers(model: Backbone, plan: EmbedPlan) -> None:
    if not plan.layers:
        raise InputError("no layer was named; give at least one, such as the model's default")
    for name in plan.layers:
        model.check_layer(name)
