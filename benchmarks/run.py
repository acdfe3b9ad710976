"""Explaining a folder into a store: cost beside plain decoding and forward passes, and memory over a long run.

`python benchmarks/run.py PHOTOS [--json] [--photos 400] [--long 5000] [--quick]`. PHOTOS is a folder. The peer opens,
prepares and runs the same photos in batches of the same size and does nothing else with them; its passes come right
after each batch of the run, so that whatever slows the machine for a while slows both. Time is processor time of all
threads, writing to the store included. Embedding and the engines are measured by `embed.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image

import conceptlens as cl
from conceptlens.explainer.explain import Regions
from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs.explain_run import explain_into
from conceptlens.io.images import find_images
from conceptlens.store.explanation_store import ExplanationStore
from measure import MEGABYTE, STATUS
from run_record import run_record

PACKAGES = ("torch", "timm", "lancedb", "pyarrow", "pillow")
BATCH = 8
MEASURED: tuple[Regions, ...] = ("competing", "coarse", "official")
SETTLED = 1000  # photos after which a long run holds all that it needs


def main() -> None:
    """Measure each part in a process of its own, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PHOTOS", help="a folder of photos")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--photos", type=int, default=400, help="how many photos cost is measured on")
    parser.add_argument("--long", type=int, default=5000, help="how many photos memory is measured over")
    parser.add_argument("--quick", action="store_true", help="32 photos, and 64 for memory")
    asked = parser.parse_args()
    photos, many = (32, 64) if asked.quick else (asked.photos, asked.long)
    files = find_images(str(asked.folder))
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        cost = {regions: pool.submit(beside, files[:photos], regions).result() for regions in MEASURED}
        memory = pool.submit(held, files, many, min(SETTLED, many // 2)).result()
    figures = {
        "explain_over_forward": cost["competing"]["over_forward"],
        **{f"explain_over_forward_{name}": cost[name]["over_forward"] for name in MEASURED[1:]},
        "megabytes_grown": memory["megabytes_grown"],
    }
    setting = {**run_record(PACKAGES, threads=1), "batch": BATCH, "photos": len(files[:photos])}
    result = {"name": "run", "figures": figures, "details": {"cost": cost, "memory": memory, "setting": setting}}
    print(json.dumps(result, indent=2) if asked.json else "\n".join(f"{k:32} {v}" for k, v in figures.items()))


def beside(files: Sequence[Path], regions: Regions) -> dict[str, Any]:
    """Return processor seconds of a run over photos, and of decoding, preparing and running them alone."""
    assert regions in get_args(Regions)
    model = opened()
    explained, plain, start = 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        known = ExplanationStore(Path(folder) / "once", create=True)
        list(explain_into(known, model, files[:BATCH], ExplainOptions(regions=regions), batch_size=BATCH))
        store = ExplanationStore(Path(folder) / "store", create=True)
        run = explain_into(store, model, files, ExplainOptions(regions=regions), batch_size=BATCH)
        start = spent(lambda: next(run))
        for first in range(0, len(files), BATCH):
            explained += spent(lambda: (next(run), rest()))
            plain += spent(lambda first=first: forward_pass(model, files[first : first + BATCH]))
        explained += spent(lambda: list(run))
    whole = start + explained
    return {
        "explain_seconds": round(whole, 2),
        "forward_seconds": round(plain, 2),
        "over_forward": round(whole / plain, 3),
        "photos_per_core_second": round(len(files) / whole, 2),
    }


def held(files: Sequence[Path], photos: int, settled: int) -> dict[str, Any]:
    """Return by how many megabytes a run grows after its first photos; the files are read again under other names."""
    model = opened()
    with tempfile.TemporaryDirectory() as folder:
        linked = []
        for number in range(photos):
            one = files[number % len(files)].resolve()
            linked.append(Path(folder) / f"{number:06}{one.suffix}")
            linked[-1].symlink_to(one)
        store = ExplanationStore(Path(folder) / "store", create=True)
        before, most = 0.0, 0.0
        for progress in explain_into(store, model, linked, ExplainOptions(regions="coarse"), batch_size=BATCH):
            before = resident() if progress.photos <= settled else before
            most = max(most, resident())
        after = resident()
    return {
        "photos": photos,
        "settled_after": settled,
        "megabytes_settled": round(before),
        "megabytes_at_the_end": round(after),
        "megabytes_most": round(most),
        "megabytes_grown": round(after - before, 1),
    }


def opened() -> cl.Backbone:
    """Return the default model; one thread, and what is found out about a model once is known."""
    torch.set_num_threads(1)
    model = cl.load_model()
    assert model.anatomy.layers
    return model


def forward_pass(model: cl.Backbone, files: Sequence[Path]) -> None:
    """Open photos, prepare them for the model, and run it on all of them at once."""
    assert model.transform is not None
    images = torch.stack([model.transform(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        model.module.eval()(images)


def resident() -> float:
    """Return the megabytes that this process holds in memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def rest() -> None:
    """Wait until no thread of this process is at work."""
    before = -1.0
    while time.process_time() - before > 0.002:
        before = time.process_time()
        time.sleep(0.02)


def spent(call: Callable[[], Any]) -> float:
    """Return processor seconds of this process, all its threads together."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
