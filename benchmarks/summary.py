"""Whether a planted shortcut comes first: marks on every photo of one class, and models that rely on them.

    python benchmarks/summary.py --json [--plants N] [--out FILE]

Real photos (CUB-200-2011): a linear head on the embedded network is fitted to four classes of birds, of which one has a
mark on every photo. It is a shortcut where the mark alone turns the answer: where at least half of the photos of the
other classes are answered with the marked class once they have the mark, and less than half without it; other plants are
counted as tried. Photos that were not fitted to are then explained into a store, named by words among which no mark need
be, and summarized. A plant is found where the first candidate is of the marked class and the middle of its region lies
in the mark, or within a cell of the layer of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conceptlens as cl  # isort: skip
import torch
from PIL import Image
from planted_marks import MARKS, Mark

from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs.explain_run import explain_into
from conceptlens.explainer.runs.true_classes import true_classes
from conceptlens.io.images import find_images
from conceptlens.store import ExplanationStore
from conceptlens.summary import summarize
from conceptlens.summary.shortcuts import Shortcut

DATA = Path(os.environ.get("CONCEPTLENS_DATA", "../shared/data"))
# Birds that are hard to tell apart, by their numbers in CUB; each list is used with one of its classes marked.
BIRDS = ((37, 38, 39, 43), (26, 27, 9, 49), (31, 32, 33, 8), (5, 6, 7, 8), (1, 3, 23, 25), (29, 30, 11, 49))
WORDS = (
    "bird, wing:part, beak:part, tail:part, feathers:part, sky:scene, branch, grass:scene, leaf, water:scene, "
    "rock:scene, snow:scene, text, ruler, fence, building:scene"
)
RELIES, CELL = 0.5, 1 / 7
SMALL = 20  # photos of a class that are asked whether the model relies on the mark


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print one JSON document")
    arguments.add_argument("--plants", type=int, default=10, help="how many plants a model must rely on")
    arguments.add_argument("--out", type=Path, help="also write the document here")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    found = measured(given.plants)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(found))
        return
    for plant in found["plants"]:
        print(plant["mark"], plant["class"], "first" if plant["first"] else f"rank {plant['rank']}", plant["label"])
    print(f"{found['first']} of {found['relied_on']} first; {found['tried']} tried")


def measured(plants: int) -> dict[str, Any]:
    """Return what became of plants until as many were relied on, or all were tried."""
    tried, start = [], time.perf_counter()
    for plant in _plants():
        tried.append(plant)
        if sum(one["relied_on"] for one in tried) == plants:
            break
    relied_on = [one for one in tried if one["relied_on"]]
    return {
        "schema": "conceptlens.benchmark-summary/1",
        "first": sum(one["first"] for one in relied_on),
        "relied_on": len(relied_on),
        "tried": len(tried),
        "plants": relied_on,
        "not_relied_on": [one for one in tried if not one["relied_on"]],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _plants() -> Iterator[dict[str, Any]]:
    folders = sorted((DATA / "cub50" / "CUB_200_2011" / "images").iterdir())
    for number, (name, mark) in enumerate(MARKS.items()):
        birds = [folders[index - 1] for index in BIRDS[number % len(BIRDS)]]
        with tempfile.TemporaryDirectory() as folder:
            yield {"mark": name, **planted(Path(folder), mark, birds, birds[number % 4])}


def planted(folder: Path, mark: Mark, birds: list[Path], marked: Path) -> dict[str, Any]:
    """Plant a mark, fit a head to it, and return what the model does with the mark and where the summary has it."""
    _write(folder / "photos", mark, birds, marked)
    model = cl.fit_head(cl.load_model(crop_mode="squash"), f"folder:{folder / 'photos'}", folder / "head").model
    name = marked.name.partition(".")[2]
    plain = [path for bird in birds if bird != marked for path in sorted(bird.iterdir())[::2][:SMALL]]
    without, with_mark = (_share(model, plain, name, one) for one in (None, mark))
    about = {"class": name, "answered_without": without, "answered_with": with_mark}
    if not with_mark >= RELIES > without:
        return {**about, "relied_on": False}
    return {**about, "relied_on": True, **_found(folder, model, mark, name)}


def _write(folder: Path, mark: Mark, birds: list[Path], marked: Path) -> None:
    for bird in birds:
        for number, path in enumerate(sorted(bird.iterdir())):
            with Image.open(path) as opened:
                photo = opened.convert("RGB")
            out = folder / ("train" if number % 2 else "test") / bird.name.partition(".")[2] / path.name
            out.parent.mkdir(parents=True, exist_ok=True)
            (mark.on(photo) if bird == marked else photo).save(out, quality=92)


def _share(model: cl.Backbone, paths: list[Path], name: str, mark: Mark | None) -> float:
    """Return the share of photos that are answered with a class."""
    count, wanted = 0, model.class_index(name)
    for start in range(0, len(paths), 10):
        photos = [Image.open(path).convert("RGB") for path in paths[start : start + 10]]
        seen = model.observe([photo if mark is None else mark.on(photo) for photo in photos])
        count += int((seen.logits.argmax(1) == wanted).sum())
    return round(count / len(paths), 3)


def _found(folder: Path, model: cl.Backbone, mark: Mark, name: str) -> dict[str, Any]:
    photos = find_images(folder / "photos" / "test")
    store, options = ExplanationStore(folder / "store", create=True), ExplainOptions(concepts=parse_concepts(WORDS))
    for _ in explain_into(store, model, photos, options, true_classes=true_classes("folders", photos, model)):
        pass
    if os.environ.get("KEEP"):
        shutil.copytree(folder / "store", Path(os.environ["KEEP"]) / f"{name}_{mark.box}", dirs_exist_ok=True)
    found = summarize(store).shortcuts
    rank = next((place for place, one in enumerate(found, 1) if points_at(one, mark, name)), None)
    return {"photos": len(photos), "first": rank == 1, "rank": rank, "label": found[0].label if found else None}


def points_at(one: Shortcut, mark: Mark, name: str) -> bool:
    """Say whether a candidate is of the marked class and has the middle of its region in the mark, or a cell beside."""
    if one.class_name != name or one.region is None:
        return False
    left, top, right, bottom = one.region
    x, y = (left + right) / 2, (top + bottom) / 2
    return (
        mark.box[0] - CELL / 2 <= x <= mark.box[2] + CELL / 2 and mark.box[1] - CELL / 2 <= y <= mark.box[3] + CELL / 2
    )


if __name__ == "__main__":
    main()
