"""Whether a planted shortcut comes first: marks on every photo of one class, and models that rely on them.

    python benchmarks/summary.py --json [--plants N] [--drawn N] [--out FILE]

*Real photos* (CUB-200-2011): a linear head on the embedded network is fitted to four classes of birds that are hard to
tell apart, of which one has a mark on every photo. *Drawn scenes*: four classes of scenes drawn at random, which
nothing but the mark tells apart.

A plant is a shortcut where the mark alone turns the answer: where at least half of the photos of other classes get the
marked class once they have the mark, and less than half without it. Others are counted as tried. Photos that were not
fitted to are then explained into a store by words, some of which name a mark, and summarized. A plant comes first where
the first candidate is of the marked class and the middle of its region lies in the mark, or within half a cell of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import conceptlens as cl
from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.data.drawn_scene import random_scene
from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs.explain_run import explain_into
from conceptlens.explainer.runs.true_classes import true_classes
from conceptlens.io.images import find_images
from conceptlens.store import ExplanationStore
from conceptlens.summary import summarize
from conceptlens.summary.shortcuts import Shortcut
from planted_marks import MARKS, Mark
from run_record import run_record

DATA = Path(os.environ.get("CONCEPTLENS_DATA", "../shared/data"))
# Birds that are hard to tell apart, by their numbers in CUB: flycatchers; cowbirds and blackbirds; crows.
BIRDS = ((37, 38, 39, 43), (26, 27, 9, 49), (29, 30, 11, 49))
WORDS = (
    "bird, wing:part, beak:part, tail:part, feathers:part, sky:scene, branch, grass:scene, leaf, water:scene, "
    "rock:scene, snow:scene, text, ruler, fence, building:scene"
)
RELIES, CELL = 0.5, 1 / 7
ASKED = 12  # photos of each other class that are asked whether the model relies on the mark
N_PHOTOS, N_DRAWN = 44, 24  # photos and scenes of a class at most, half of them to fit to
COUNTS = ("first", "relied_on", "tried")
Photos = Mapping[str, Sequence[Image.Image]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print one JSON document")
    arguments.add_argument("--plants", type=int, default=10, help="how many plants in real photos a model must rely on")
    arguments.add_argument("--drawn", type=int, default=10, help="the same of drawn scenes")
    arguments.add_argument("--out", type=Path, help="also write the document here")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, dict[str, Any]] = {}
    for name, plants, count in (("real", _real(), given.plants), ("drawn", _drawn(), given.drawn)):
        for parts[name] in measured(plants, count):
            if given.out:  # after each plant, for all of them take an hour
                given.out.write_text(json.dumps(document(parts), indent=1) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(document(parts)))
        return
    for name, part in parts.items():
        print(f"{name}: {part['first']} of {part['relied_on']} first; {part['tried']} tried in {part['seconds']} s")


def document(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result as all benchmarks print theirs."""
    counts = {f"{name}_{what}": part[what] for name, part in parts.items() for what in COUNTS}
    return {"name": "summary", "figures": counts, "details": {**parts, "setting": run_record(threads=1)}}


def measured(plants: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Yield what has become of plants so far, until as many were relied on, or all were tried."""
    tried, start = list[dict[str, Any]](), time.perf_counter()
    while True:
        relied_on = [one for one in tried if one["relied_on"]]
        yield {
            "first": sum(one["first"] for one in relied_on),
            "relied_on": len(relied_on),
            "tried": len(tried),
            "seconds": round(time.perf_counter() - start, 1),
            "plants": tried,
        }
        if len(relied_on) == count or (plant := next(plants, None)) is None:
            return
        tried.append(plant)
        print(json.dumps(plant), file=sys.stderr, flush=True)


def _drawn() -> Iterator[dict[str, Any]]:
    for number, (name, mark) in enumerate(MARKS.items()):
        seeds = (range(1000 * number + N_DRAWN * kind, 1000 * number + N_DRAWN * (kind + 1)) for kind in range(4))
        photos = {f"kind {kind}": [random_scene(seed).image for seed in own] for kind, own in enumerate(seeds)}
        yield {"mark": name, **planted(photos, mark, f"kind {number % 4}")}


def _real() -> Iterator[dict[str, Any]]:
    folders = sorted((DATA / "cub50" / "CUB_200_2011" / "images").iterdir())
    for start in range(len(BIRDS)):
        for number, (name, mark) in enumerate(MARKS.items()):
            birds = [folders[index - 1] for index in BIRDS[(start + number) % len(BIRDS)]]
            photos = {
                bird.name.partition(".")[2]: [_opened(path) for path in sorted(bird.iterdir())[:N_PHOTOS]]
                for bird in birds
            }
            yield {"mark": name, **planted(photos, mark, list(photos)[(start + number) % 4])}


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def planted(photos: Photos, mark: Mark, marked: str) -> dict[str, Any]:
    """Plant a mark, fit a head to it, and return what the model does with the mark and where the summary has it.

    Args:
        photos: The photos of each class, of which every second one is fitted to.
        mark: The mark.
        marked: The class whose photos all have it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder / "photos", photos, mark, marked)
        model = cl.fit_head(cl.load_model(crop_mode="squash"), f"folder:{folder / 'photos'}", folder / "head").model
        others = [photo for name, own in photos.items() if name != marked for photo in own[::2][:ASKED]]
        without = _share(model, others, marked)
        with_mark = _share(model, [mark.on(photo) for photo in others], marked)
        about = {"class": marked, "answered_without": without, "answered_with": with_mark}
        if not with_mark >= RELIES > without:
            return {**about, "relied_on": False}
        return {**about, "relied_on": True, **_found(folder, model, mark, marked)}


def _write(folder: Path, photos: Photos, mark: Mark, marked: str) -> None:
    for name, own in photos.items():
        for number, photo in enumerate(own):
            out = folder / ("train" if number % 2 else "test") / name / f"{number:03}.jpg"
            out.parent.mkdir(parents=True, exist_ok=True)
            (mark.on(photo) if name == marked else photo).save(out, quality=92)


def _share(model: cl.Backbone, photos: Sequence[Image.Image], name: str) -> float:
    """Return the share of photos that are answered with a class."""
    parts = (photos[start : start + 10] for start in range(0, len(photos), 10))
    answers = torch.cat([model.observe(part).logits.argmax(1) for part in parts])
    return round(float((answers == model.class_index(name)).float().mean()), 3)


def _found(folder: Path, model: cl.Backbone, mark: Mark, name: str) -> dict[str, Any]:
    photos = find_images(folder / "photos" / "test")
    store, options = ExplanationStore(folder / "store", create=True), ExplainOptions(concepts=parse_concepts(WORDS))
    for _ in explain_into(store, model, photos, options, true_classes=true_classes("folders", photos, model)):
        pass
    found = summarize(store).shortcuts
    rank = next((place for place, one in enumerate(found, 1) if points_at(one, mark, name)), None)
    first = found[0] if found else None
    label = None if first is None else f"{first.class_name}: {first.label} ({first.type})"
    return {"photos": len(photos), "first": rank == 1, "rank": rank, "first_candidate": label}


def points_at(one: Shortcut, mark: Mark, name: str) -> bool:
    """Say whether a candidate is of the marked class, and the middle of its region in the mark or half a cell off."""
    if one.class_name != name or one.region is None:
        return False
    left, top, right, bottom = one.region
    x, y = (left + right) / 2, (top + bottom) / 2
    low, high, reach = mark.box[:2], mark.box[2:], CELL / 2
    return all(a - reach <= at <= b + reach for a, at, b in zip(low, (x, y), high, strict=True))


if __name__ == "__main__":
    main()
