"""An evaluation in a folder: begun or resumed, its rows written photo by photo, and read again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.atomic import write_json
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.fingerprint import settings_fingerprint, weights_fingerprint
from conceptlens.io.json_text import json_text
from conceptlens.io.run_settings import changed_settings
from conceptlens.localization.localization_task import LocalizationTask, PhotoMeasured
from conceptlens.localization.result_rows import Row, row_schema, row_table, rows_of_table
from conceptlens.model.preprocess import preparation_settings
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.photo_by_photo import PhotoProgress, run_by_photo
from conceptlens.runs.photo_parts import PARTS, goes_on, part_file, write_part, written_photos
from conceptlens.runs.run_task import Engine

if TYPE_CHECKING:
    from conceptlens.localization.methods import MethodContext

RUN = "run.json"


def run_settings(
    task: LocalizationTask, context: MethodContext, probe: str, choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that decides the rows of an evaluation, as `run.json` has it.

    Args:
        task: What is measured.
        context: What its methods were built from.
        probe: The fingerprint of the photos on which neurons are labelled; empty without them.
        choices: How the set reads masks.
    """
    model, branch = context.model, context.translator
    concepts = [f"{concept.label}:{concept.type}" for concept in task.data.concepts]
    about = {
        "data": task.data.name,
        "photos": len(task.names),
        "photos_fingerprint": settings_fingerprint([list(task.names), concepts]),
        "masks": choices,
        "model": model.name,
        "weights": weights_fingerprint(model.module),
        "preparation": preparation_settings(model.preprocess, model.transform),
        "branch": "" if branch is None else weights_fingerprint(branch.branch),
        "probe": probe,
        "methods": list(task.methods),
        "min_area": task.min_area,
        "resolution": task.resolution,
        "seed": task.seed,
    }
    return json.loads(json_text(about))


def evaluate_into(
    folder: Path,
    task: LocalizationTask,
    settings: Mapping[str, Any],
    resume: bool = False,
    retry_failed: bool = False,
    engine: Engine = local_engine,
) -> Iterator[PhotoProgress]:
    """Measure the photos that a folder has no rows of, write each as it comes, and yield the progress.

    Memory holds the rows of one photo, that photo, and three that are read ahead.

    Args:
        folder: Where rows are written.
        task: What is measured.
        settings: What `run_settings` returns.
        resume: Go on with a run of the same settings that the folder has a part of.
        retry_failed: Measure photos again that failed before.
        engine: Where photos are measured: in this process, or by `process_engine(...)` or `ray_engine(...)`.

    Yields:
        The progress; first that of the photos that are there already.

    Raises:
        InputError: The folder holds something and `resume` is False, or it holds a run of other settings; the sentence
            says what differs.
    """
    if goes_on(folder, resume, (RUN,)):
        _check_same(folder, settings)
    else:
        write_json(folder / RUN, settings)
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    yield from run_by_photo(task, folder, _write, engine, retry_failed)


def evaluated(folder: Path) -> tuple[list[Row], list[Failure]]:
    """Return the rows of an evaluation in the order of its photos, and the photos that failed.

    Args:
        folder: The folder of the run.
    """
    from pyarrow import parquet

    rows: list[Row] = []
    failures: list[Failure] = []
    for index, failed in written_photos(folder).items():
        table = parquet.read_table(part_file(folder, index, failed))
        if failed:
            failures.append(Failure(table["photo"][0].as_py(), table["failure"][0].as_py()))
        else:
            rows += rows_of_table(table)
    return rows, failures


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    try:
        known: Mapping[str, Any] = json.loads((folder / RUN).read_text("utf-8"))
        changes = changed_settings(known, settings)
    except (OSError, ValueError, AttributeError, TypeError):
        raise InputError(f"{folder / RUN} was changed and cannot be read; choose another folder") from None
    if changes:
        raise InputError(
            f"{folder} holds a run of other settings ({changes}); resume with those that it was started with, or "
            "choose another folder"
        )


def _write(folder: Path, found: PhotoMeasured) -> None:
    import pyarrow

    if found.failure is None:
        table = row_table(found.rows, row_schema())
    else:
        table = pyarrow.Table.from_pylist([{"photo": found.name, "failure": found.failure}])
    write_part(folder, found.index, table, found.failure is not None)
