"""Embedding a data set: cost beside plain forward passes, bytes on disk, and the Ray engine beside the local one.

`python benchmarks/embed.py [--json] [--data coco_panoptic] [--split val2017] [--photos 100] [--quick]`. See README.md
in this folder for what each side holds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import conceptlens as cl
from conceptlens.data.masked_set import MaskedSet
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.embed_run import EmbedTask, embed_batches
from conceptlens.local_embeddings.runs.photo_reader import PhotoReader
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.ray_engine import ray_engine
from conceptlens.runs.run_task import Engine
from conceptlens.store import Store
from repeated import Repeated
from run_record import run_record

PACKAGES = ("torch", "timm", "lancedb", "pyarrow", "ray", "numpy", "pillow")
LAYERS = ("blocks.2", "blocks.4", "blocks.6")
ROUNDS = 3
TIMES = 2  # a run of the engines reads each photo so often
STUDIED = 4  # and a run as in the study of quality, so that what is done once weighs as in a larger set
STUDY = EmbedPlan(("blocks.4", "blocks.6", "bn2"), input_size=(448, 448), min_area=0.02)


@dataclass(frozen=True)
class StudySettings:
    """What the command line asks for; `photos` of a split, `rounds` of each measurement."""

    data: str
    split: str
    photos: int
    rounds: int


def main() -> None:
    """Measure each part in a process of its own, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="coco_panoptic", help="NAME or NAME:FOLDER")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="16 photos, once")
    given = parser.parse_args()
    asked = StudySettings(given.data, given.split, 16 if given.quick else given.photos, 1 if given.quick else ROUNDS)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        parts = {part.__name__: pool.submit(part, asked).result() for part in (study, cost, stages, size, engines)}
    words = f"--split {asked.split} --photos {asked.photos}"
    command = f"python benchmarks/embed.py --json {words}{' --quick' if given.quick else ''}"
    setting = {**run_record(PACKAGES, command, threads=1), "layers": list(LAYERS)}
    result = {"name": "embed", "figures": figures(parts), "details": {**parts, "setting": setting}}
    print(json.dumps(result, indent=2)) if given.json else show(result)


def study(asked: StudySettings) -> dict[str, Any]:
    """Processor seconds of runs as `loce_quality.py` asks for, and of plain forward passes between their batches."""
    data, model = opened(asked)
    with tempfile.TemporaryDirectory() as folder:
        longer = Repeated(data, STUDIED, Path(folder))
        return beside(longer, model, replace(STUDY, max_photos=STUDIED * asked.photos))


def cost(asked: StudySettings) -> dict[str, Any]:
    """The same of runs at the model's own size, with every mask."""
    data, model = opened(asked)
    return beside(data, model, plan(asked, True))


def beside(data: MaskedSet, model: cl.Backbone, how: EmbedPlan) -> dict[str, Any]:
    """Return processor seconds of a run with control and one without, and of forward passes of the same photos."""
    found: dict[str, float] = {}
    prepared = how.prepared(model)
    run_spent(data, model, prepared, replace(how, max_photos=16))  # what is set up once
    for name, control in (("control", True), ("plain", False)):
        taken = run_spent(data, model, prepared, replace(how, control=control))
        for part, value in zip((name, f"{name}_scales", f"{name}_forward"), taken, strict=True):
            found[f"{part}_seconds"] = round(value, 3)
    return {"photos": how.max_photos, **found}


def stages(asked: StudySettings) -> dict[str, Any]:
    """Processor milliseconds of a photo in each stage of the run, one after the other, without threads."""
    data, model = opened(asked)
    how = plan(asked, True)
    reader = PhotoReader(how.prepared(model), how, data)
    scales = reader.scales()
    task = EmbedTask(reader.model, how, data, "run", scales)
    passed = dict.fromkeys(("read", "compute", "write"), 0.0)
    embeddings, wall = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store", create=True)
        for places in reader.batches():
            kept: list[Any] = []
            passed["read"] += spent(lambda places=places, kept=kept: kept.append(reader.read(places)))
            passed["compute"] += spent(lambda kept=kept: kept.append(task.compute(kept[0])))
            rows, start = kept[1], time.perf_counter()
            passed["write"] += spent(lambda rows=rows: store.append(rows.images, rows.embeddings, rows.masks))
            wall += time.perf_counter() - start
            embeddings += len(rows.embeddings)
    found = {f"{name}_ms": round(1000 * value / asked.photos, 2) for name, value in passed.items()}
    return {**found, "embeddings_per_photo": embeddings / asked.photos, "written_per_second": round(embeddings / wall)}


def size(asked: StudySettings) -> dict[str, Any]:
    """Bytes on disk of an embedding with all that belongs to it, for three layers and for one of 256 channels."""
    torch.set_num_threads(1)
    data = cl.open_set(asked.data, asked.split)
    found: dict[str, Any] = {}
    untrained = cl.load_model("timm:resnet18", pretrained=False, crop_mode="squash")
    for name, model, layers in (("lite0", cl.load_model(crop_mode="squash"), LAYERS), ("256", untrained, ("layer3",))):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "store", create=True)
            *_, last = embed_batches(data, model, replace(plan(asked, True), layers=layers), store)
            store.compact(timedelta(0))
            tables = store.bytes()
            rows = store.layers()
        channels = sum(row.channels * row.rows for row in rows) / last.embeddings
        kept = sum(count for table, count in tables.items() if table != "images")
        found[name] = {
            "channels": round(channels), "embeddings": last.embeddings, "tables": tables,
            "bytes_per_embedding": round(kept / last.embeddings),
            "bytes_per_photo": round(tables["images"] / last.photos),
        }  # fmt: skip
    return found


def engines(asked: StudySettings) -> dict[str, Any]:
    """Photos a second by the clock, from where the first worker begins to the end, and seconds before that."""
    data, model = opened(asked)
    kinds: dict[str, Engine] = {"local": local_engine, "ray_1": ray_engine(None, 1), "ray_2": ray_engine(None, 2)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    begins: dict[str, list[float]] = {name: [] for name in kinds}
    taken: list[float] = []
    for _ in range(asked.rounds):
        for name, engine in kinds.items():
            taken.append(cores_taken())
            rate, begun = clocked(data, model, replace(plan(asked, True), max_photos=TIMES * asked.photos), engine)
            rates[name].append(rate)
            begins[name].append(begun)
    return {
        "photos": TIMES * asked.photos, "cores": os.cpu_count(),
        "photos_per_second": {name: round(median(found), 2) for name, found in rates.items()},
        "all_rates": {name: [round(rate, 2) for rate in found] for name, found in rates.items()},
        "cores_taken_by_others": taken,
        "seconds_before": {name: round(median(found), 1) for name, found in begins.items()},
    }  # fmt: skip


def opened(asked: StudySettings) -> tuple[MaskedSet, cl.Backbone]:
    """Return photos and model; one thread, and what is found out about a model once is known."""
    torch.set_num_threads(1)
    model = cl.load_model(crop_mode="squash")
    assert model.anatomy.layers
    return cl.open_set(asked.data, asked.split), model


def plan(asked: StudySettings, control: bool) -> EmbedPlan:
    """Return what is asked of every photo: three layers, mean_difference mode."""
    return EmbedPlan(LAYERS, control=control, max_photos=asked.photos)


def forward_pass(data: MaskedSet, model: cl.Backbone, places: Sequence[int]) -> None:
    """Read photos and masks from the set, prepare the photos for the model, and run it on all of them at once."""
    transform = model.transform
    assert transform is not None
    images = torch.stack([transform(data[place].photo) for place in places])
    with torch.no_grad():
        model.module.eval()(images.to(next(model.module.parameters()).device))


def run_spent(data: MaskedSet, model: cl.Backbone, prepared: cl.Backbone, how: EmbedPlan) -> tuple[float, float, float]:
    """Return processor seconds of a whole run into a new store, of it before its first batch, and of forward passes.

    The passes of a batch's photos come right after the batch, once the run's reading thread rests: whatever slows the
    machine for a while slows both.
    """
    assert how.max_photos is not None
    begun, batches, forward = 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        run = embed_batches(data, model, how, Store(Path(folder) / "store", create=True))
        begun = spent(lambda: next(run))
        for start in range(0, how.max_photos, how.batch_size):
            batches += spent(lambda: (next(run), rest()))
            photos = range(start, min(start + how.batch_size, how.max_photos))
            forward += spent(lambda photos=photos: forward_pass(data, prepared, photos))
        batches += spent(lambda: list(run))
    return begun + batches, begun, forward


def rest() -> None:
    """Wait until no thread of this process is at work."""
    before = -1.0
    while time.process_time() - before > 0.002:
        before = time.process_time()
        time.sleep(0.05)


def clocked(data: MaskedSet, model: cl.Backbone, how: EmbedPlan, engine: Engine) -> tuple[float, float]:
    """Return photos a second from where the first worker begins to read to the end, and seconds before that.

    A local run begins when the channels' scales are known.
    """
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "processes"
        marks.mkdir()
        start = time.time()
        run = embed_batches(
            Repeated(data, TIMES, marks), model, how, Store(Path(folder) / "store", create=True), engine=engine
        )
        next(run)
        known = time.time()
        *_, last = run
        end = time.time()
        begun = [mark.stat().st_mtime for mark in marks.iterdir() if mark.name != str(os.getpid())]
        first = min(begun, default=known)
    return last.photos / (end - first), first - start


def cores_taken() -> float:
    """Return how many cores other work takes, over two seconds in which this process rests; 0 where it is not told."""
    counts = Path("/proc/stat")
    if not counts.exists():
        return 0.0

    def idle() -> tuple[int, int]:
        numbers = [int(number) for number in counts.read_text().splitlines()[0].split()[1:9]]
        return sum(numbers[3:5]), sum(numbers)

    (rested, whole), _ = idle(), time.sleep(2)
    rested, whole = (after - before for after, before in zip(idle(), (rested, whole), strict=True))
    return round((1 - rested / whole) * (os.cpu_count() or 1), 2)


def spent(call: Callable[[], Any]) -> float:
    """Return processor seconds of this process, all its threads together."""
    start = time.process_time()
    call()
    return time.process_time() - start


def median(values: list[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def figures(parts: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    costs, rates = parts["cost"], parts["engines"]["photos_per_second"]
    found = {}
    for part, size in (("study", ""), ("cost", "_224")):
        for name, ending in (("control", ""), ("plain", "_without_control")):
            whole, scales, forward = (parts[part][f"{name}{kind}_seconds"] for kind in ("", "_scales", "_forward"))
            found[f"embed_over_forward{size}{ending}"] = round(whole / forward, 3)
            found[f"embed_over_forward{size}{ending}_after_scales"] = round((whole - scales) / forward, 3)
    return {
        **found,
        "bytes_per_embedding": parts["size"]["256"]["bytes_per_embedding"],
        "bytes_per_embedding_lite0": parts["size"]["lite0"]["bytes_per_embedding"],
        "photos_per_second": rates["local"],
        "photos_per_core_second": round(
            costs["photos"] / (costs["control_seconds"] - costs["control_scales_seconds"]), 2
        ),
        "ray_over_local_1_worker": round(rates["local"] / rates["ray_1"], 3),
        "ray_speedup_2_workers": round(rates["ray_2"] / rates["ray_1"], 3),
    }


def show(result: dict[str, Any]) -> None:
    """Print the headline numbers as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in result["figures"].items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
