"""A store of planted embeddings and its photos; run as a program, it makes both in a folder, of ten concepts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from conceptlens.io.images import fingerprint
from conceptlens.store import EmbeddingRow, ImageRow, MaskRow, RunRow, Store, row_id

# What is planted: cars and trucks are confused, birds fall into two parts, the third cup is odd, layer2 is the best.
CONCEPTS = (
    "car", "truck", "bus", "train", "person", "dog", "cat", "horse", "cow", "sheep",
    "bird", "boat", "chair", "dining table", "potted plant", "traffic light", "bicycle", "cup", "bottle", "aeroplane",
)  # fmt: skip
CONFUSED, PARTED, OUTLIER = ("car", "truck"), "bird", "cup"
LAYERS = {"layer1": (24, 1.6), "layer2": (32, 0.95), "layer10": (40, 1.3)}
MODEL, MODE, RUN = "timm:lite", "mean_difference", "0123456789abcdef"
SIZE = (160, 120)


def planted(
    path: Path, photos: Path | None = None, concepts: tuple[str, ...] = CONCEPTS, rows: int = 30, masks: bool = True
) -> Store:
    """Return a store of `rows` masks of each concept, two concepts an image, at three layers; and draw the photos."""
    store = Store(path, create=True)
    layers = list(LAYERS)
    settings = {"model": MODEL, "layers": layers, "setting": {"mode": MODE}, "data": "drawn", "size": None}
    store.write_run(RunRow(RUN, settings, "2026-05-01T10:00:00+00:00", "2026-05-01T10:05:00+00:00"))
    images, embeddings, drawn = [], [], []
    for number in range(rows * (len(concepts) + 1) // 2):
        pair = [place for place in (2 * number, 2 * number + 1) if place < rows * len(concepts)]
        shown = [(concepts[place % len(concepts)], place // len(concepts)) for place in pair]
        photo, areas = _scene(
            number, [concepts.index(name) for name, _ in shown], [turn for _, turn in shown], concepts
        )
        name = f"photos/{number:04}.jpg"
        image = row_id(name)
        images.append(ImageRow(image, RUN, name, fingerprint(photo), *photo.size))
        if photos is not None:
            (photos / name).parent.mkdir(parents=True, exist_ok=True)
            photo.save((photos / name).with_suffix(".png"))
        for (concept, turn), area in zip(shown, areas, strict=True):
            mask = MaskRow.from_mask(row_id(image, concept), image, concept, area)
            drawn += [mask] if masks else []
            for layer in layers:
                embeddings.append(_row(concept, turn, layer, image, mask.id if masks else None, area, concepts))
    failed = ImageRow(
        row_id("broken"), RUN, "photos/broken.jpg", failure="'photos/broken.jpg' is no image; save it again"
    )
    store.append([*images, failed], embeddings, drawn)
    return store


def _row(
    concept: str, turn: int, layer: str, image: str, mask: str | None, area: np.ndarray, concepts: tuple[str, ...]
) -> EmbeddingRow:
    channels, noise = LAYERS[layer]
    number = concepts.index(concept)
    draw = np.random.default_rng([number, turn, channels])
    iou = float(np.clip(draw.normal(0.7, 0.05), 0, 1))
    return EmbeddingRow(
        id=row_id(RUN, image, concept, layer), run=RUN, image=image, concept=concept, model=MODEL, layer=layer,
        mode=MODE, vector=_vector(concept, turn, channels, noise, draw, concepts), group="thing", iou=iou,
        control_iou=iou - float(draw.normal(0.08 if layer == "layer2" else 0.03, 0.05)), loss=-0.3,
        converged=turn != 7, area=float(area.mean()), mask=mask,
    )  # fmt: skip


def _vector(
    concept: str, turn: int, channels: int, noise: float, draw: np.random.Generator, concepts: tuple[str, ...]
) -> np.ndarray:
    middles = np.random.default_rng(channels).normal(0, 1, (len(concepts) + 2, channels))
    number = concepts.index(concept)
    middle = middles[number]
    if concept == CONFUSED[1]:
        middle = middles[concepts.index(CONFUSED[0])] + 0.35 * middles[number]
    if concept == PARTED and turn % 2:
        middle = 0.4 * middle + 1.2 * middles[-1]
    if concept == OUTLIER and turn == 3:
        middle = -middle + middles[-2]
    return (middle + noise * draw.normal(0, 1, channels)).astype(np.float32)


def _scene(
    number: int, kinds: list[int], turns: list[int], concepts: tuple[str, ...]
) -> tuple[Image.Image, list[np.ndarray]]:
    """Draw one or two shapes on a wall and a floor; the colour says the concept, the shape its number and turn."""
    draw = np.random.default_rng([9, number])
    photo = Image.new("RGB", SIZE, tuple(draw.integers(150, 215, 3).tolist()))
    pen = ImageDraw.Draw(photo)
    pen.rectangle((0, 78, *SIZE), fill=tuple(draw.integers(70, 130, 3).tolist()))
    masks = []
    for place, (kind, turn) in enumerate(zip(kinds, turns, strict=True)):
        x, y = 42 + 76 * place + int(draw.integers(-8, 9)), 62 + int(draw.integers(-10, 11))
        reach = int(draw.integers(18, 32))
        corners = 3 + kind % 5 + (2 if concepts[kind] == PARTED and turn % 2 else 0)
        hue = int(255 * kind / len(concepts))
        colour = Image.new("HSV", (1, 1), (hue, 170, 200)).convert("RGB").getpixel((0, 0))
        area = Image.new("1", SIZE)
        for canvas, fill in ((pen, colour), (ImageDraw.Draw(area), 1)):
            canvas.regular_polygon((x, y, reach), corners, rotation=turn * 17 % 360, fill=fill)
        masks = [mask & ~np.asarray(area) for mask in masks] + [np.asarray(area)]
    return photo, masks


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ten = ("car", "truck", "bus", "dog", "cat", "horse", "bird", "boat", "cup", "bottle")
    planted(folder / "store", folder, ten, rows=14)
