"""What the main job costs: forward passes of arithmetic and of time, by default and with other regions.

`python benchmarks/explain.py [--json] [--rounds 5]`. One photo, the whole vocabulary, against a plain forward pass of
the same model in the same run. ViT-B/16 has random weights and ImageNet's class names; its regions are official ones.
`photos_per_second_over_plain` is of a folder of photos that is explained into a page, reading, preparing and writing
included, beside the plain forward pass of the same photos one by one, already read and prepared; processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from PIL import Image
from skimage import data

import conceptlens as cl
from conceptlens.concept_regions.competing_explanation import competes_quickly
from conceptlens.explainer.explain import Regions
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.report_page import write_page
from conceptlens.io.images import find_images
from measure import flops, seconds, show
from run_record import run_record

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
MODELS = {"lite0": ("timm:tf_efficientnet_lite0", True), "vit_b16": ("timm:vit_base_patch16_224", False)}


def main() -> None:
    """Measure every model, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turns; the median counts")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    photo = Image.fromarray(data.chelsea())
    rows = [row for name in MODELS for row in measured(name, photo, asked.rounds)]
    default = {name: next(row for row in rows if row["model"] == name) for name in MODELS}  # the first of its regions
    folder = of_a_folder(asked.rounds)
    result: dict[str, Any] = {
        "name": "explain",
        "photos_per_second_over_plain": folder["over_plain"],
        **{f"forwards_{name}": row["forward_passes"] for name, row in default.items()},
        **{f"time_{name}": row["times_a_forward"] for name, row in default.items()},
        "rows": rows,
        "folder": folder,
        "setting": {**run_record(("timm",)), "rounds": asked.rounds},
    }
    print(json.dumps(result, indent=2)) if asked.json else show(rows)


def measured(name: str, photo: Image.Image, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each kind of regions."""
    reference, pretrained = MODELS[name]
    model = cl.load_model(reference, pretrained=pretrained)

    images = model.observe(photo, layers=[]).images

    def plain() -> None:
        with torch.no_grad():
            model.module(images)

    def explained(regions: Regions) -> None:
        cl.explain(model.observe(photo), regions=regions)

    kinds = get_args(Regions) if competes_quickly(model.observe(photo)) else ("official",)
    calls: dict[str, Callable[[], None]] = {kind: partial(explained, kind) for kind in kinds}
    for call in (plain, *calls.values()):
        call()  # what is built once: directions of the vocabulary, the table of classes
    whole = flops(plain)
    times: dict[str, list[float]] = {kind: [] for kind in ("plain", *calls)}
    for _ in range(rounds):
        for kind, call in (("plain", plain), *calls.items()):
            times[kind].append(seconds(call, "cpu"))
    return [
        {
            "model": name,
            "regions": kind,
            "forward_passes": round(flops(call) / whole, 2),
            "times_a_forward": round(statistics.median(times[kind]) / statistics.median(times["plain"]), 2),
            "seconds": round(statistics.median(times[kind]), 3),
        }
        for kind, call in calls.items()
    ]


def of_a_folder(rounds: int) -> dict[str, Any]:
    """Return photos a second of a folder that is explained into a page, and of plain forward passes of its photos."""
    model = cl.load_model()
    with TemporaryDirectory() as folder:
        for name in PHOTOS:
            Image.fromarray(getattr(data, name)()).save(Path(folder) / f"{name}.png")
        files = find_images(folder)
        inputs = [model.observe(file, layers=[]).images for file in files]

        def plain() -> None:
            with torch.no_grad():
                for images in inputs:
                    model.module(images)

        def explained() -> None:
            results = list(explain_photos(model, files, ExplainOptions(for_page=True)))
            assert all(isinstance(one, PhotoResult) for one in results)
            write_page(page_content(results), Path(folder) / "report.html")  # pyright: ignore[reportArgumentType]

        times: dict[str, list[float]] = {"plain": [], "explained": []}
        for turn in range(rounds + 1):
            for kind, call in (("plain", plain), ("explained", explained)):
                taken = seconds(call, "cpu")
                times[kind] += [taken] if turn else []  # the first turn builds what is built once
    rates = {kind: len(files) / statistics.median(taken) for kind, taken in times.items()}
    return {
        "model": model.name,
        "photos": len(files),
        "explained_per_second": round(rates["explained"], 2),
        "plain_per_second": round(rates["plain"], 2),
        "over_plain": round(rates["explained"] / rates["plain"], 4),
    }


if __name__ == "__main__":
    main()
