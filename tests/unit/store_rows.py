"""Batches of a made-up run, the same in every process; started as a program, it writes them: STORE FIRST LAST."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from conceptlens.store import EmbeddingRow, ImageRow, MaskRow, Store, lance_tables, row_id

CONCEPTS = ("cat", "dog", "l'œil « d'un \"chat\"»", "道路; DROP TABLE images --")
RUN = row_id("run", "one")


def blob(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return a mask with an uneven edge, of 5 to 40 % of the image."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    angle = np.arctan2(y / rows - 0.5, x / columns - 0.5)
    edge = sum(random.normal() / k * np.cos(k * angle + random.uniform(0, 6)) for k in range(2, 9))
    reach = random.uniform(0.15, 0.35) * (1 + 0.25 * edge)
    return np.hypot(y / rows - 0.5, x / columns - 0.5) < np.maximum(reach, 0.05)


def batch(number: int, images: int = 5, concepts: int = 2, **about: Any) -> dict[str, Any]:
    """Return a batch: two layers, of 6 and 4 channels, for each concept of each image; the last image has failed."""
    run = about.get("run", RUN)
    given: dict[str, Any] = {"images": [], "embeddings": [], "masks": []}
    for one in range(images):
        name = f"фото {number}/{one}.jpg"
        image = row_id(name)
        failure = "it is no photo" if one == images - 1 and images > 1 else None
        given["images"].append(ImageRow(image, run, name, "ab" * 32, 640, 480, failure))
        for concept in CONCEPTS[:concepts] if failure is None else ():
            mask = MaskRow.from_mask(row_id(image, concept), image, concept, blob(24, 32, number * 100 + one))
            given["masks"].append(mask)
            given["embeddings"] += [
                embedding(number * 100 + one, channels, image=image, concept=concept, mask=mask.id, run=run)
                for channels in (6, 4)
            ]
    return given


def embedding(seed: int, channels: int = 6, **about: Any) -> EmbeddingRow:
    """Return a row with numbers that float32 holds exactly."""
    asked: dict[str, Any] = {"run": RUN, "image": row_id("image"), "concept": "cat", "model": "lite", "mode": "exact"}
    asked |= {"layer": f"layer{channels}", "iou": seed % 8 / 8, "control_iou": 0.125, "loss": -0.25, "area": 0.5}
    asked |= about
    asked.setdefault("id", row_id(asked["run"], asked["image"], asked["concept"], asked["layer"]))
    random = np.random.default_rng([seed, channels, *asked["concept"].encode()])
    asked.setdefault("vector", random.standard_normal(channels).astype(np.float32))
    return EmbeddingRow(**asked)


def contents(store: Store) -> dict[str, Any]:
    """Return all that a store shows, to compare it with another."""
    found: dict[str, Any] = {"images": store.images(), "masks": store.masks(), "runs": store.runs()}
    found |= {"layers": store.layers(), "concepts": store.concepts()}
    for layer in sorted({row.layer for row in store.layers()}):
        rows = store.embeddings(layer=layer)
        found[layer] = {name: np.asarray(value).tolist() for name, value in vars(rows).items()}
    return found


def main() -> None:
    """Write batches, once all who write have been told to begin."""
    path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lance_tables.MAX_COMMITS = 8  # so that what tidies meets what writes and what reads
    print("ready", flush=True)
    sys.stdin.readline()
    store = Store(path, create=True)
    for number in range(first, last):
        store.append(**batch(number))
        print(number, flush=True)


if __name__ == "__main__":
    main()
