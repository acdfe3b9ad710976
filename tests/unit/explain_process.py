"""A process that explains photos into a store, to be killed: `python explain_process.py STORE PHOTOS [SECONDS]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embed_process import Small
from PIL import Image

import conceptlens as cl
from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs import explain_run
from conceptlens.explainer.runs.explain_run import ExplainProgress, explain_into
from conceptlens.io.images import find_images
from conceptlens.store import ExplanationStore

NAMES = ("tabby, tabby cat", "sports car, sport car", "espresso", "zebra")


def small_classifier() -> cl.Backbone:
    """A small network with names of classes, so that it reads words; the same in every process."""
    transform = cl.Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, crop_mode="squash")
    return cl.Backbone(Small().eval(), "small", (), transform, NAMES, task="single_label")


def written_photos(folder: Path, count: int, side: int = 40) -> list[Path]:
    """Write photos of coloured noise, each another, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((side, side + number % 3), Image.Resampling.BILINEAR).save(folder / f"{number:03}.png")
    return sorted(folder.iterdir())


def explained(store: Path, photos: Sequence[Path], **settings: Any) -> tuple[ExplanationStore, ExplainProgress]:
    """Explain photos into a store and return it with the last progress."""
    opened = ExplanationStore(store, create=True)
    options = ExplainOptions(top=3, **settings.pop("options", {}))
    *_, last = explain_into(
        opened, settings.pop("model", None) or small_classifier(), photos, options, **{"batch_size": 3, **settings}
    )
    return opened, last


def told(store: ExplanationStore) -> dict[str, Any]:
    """All that a store shows but times, numbers as the bits they are."""
    found = {name: store.table(name) for name in ("images", "predictions", "explained", "concepts", "maps")}
    rows = {name: [repr(row) for row in table.to_pylist()] for name, table in found.items()}
    return {**rows, "runs": [(row.id, row.settings) for row in store.runs()]}


def main() -> None:
    torch.set_num_threads(1)
    explain_run.COMMIT_PHOTOS = 1  # every batch at once, so that there are many moments to be killed at
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    store = ExplanationStore(sys.argv[1], create=True)
    photos = find_images(sys.argv[2])
    options = ExplainOptions(top=3)
    for progress in explain_into(store, small_classifier(), photos, options, batch_size=3, with_maps=True, resume=True):
        print(progress.photos, flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main()
