"""Small drawn birds in CUB's layout: belly and tail in the colours of the class, at places that keypoints tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from written_sets import write_text

from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.labelled_set import Annotation, ListedPhotos
from conceptlens.io.errors import InputError

PAINT = {"red": (220, 40, 30), "green": (30, 190, 60)}
CLASSES = ("Ash Wren", "Bay Tern", "Cliff Crow")
BELLIES, TAILS = ("red", "green", "red"), ("green", "red", "red")  # by class
ATTRIBUTES = (
    "has_belly_color::red",
    "has_belly_color::green",
    "has_upper_tail_color::red",
    "has_upper_tail_color::green",
    "has_size::small_(5_-_9_in)",
)
LABELS = ("red belly", "green belly", "red upper tail", "green upper tail")
CONCEPTS = tuple(
    BottleneckConcept(label, part, region, label.split()[0], "color")
    for label, part, region in zip(LABELS, ("belly",) * 2 + ("tail",) * 2, ("trunk",) * 2 + ("tail",) * 2, strict=True)
)
WIDTH, HEIGHT, SIDE = 48, 40, 12  # of a photo, and of a part


class Held(ListedPhotos):
    """A labelled set in memory; a photo that is `None` cannot be read."""

    def __init__(
        self,
        photos: Sequence[Image.Image | None],
        labels: Sequence[int],
        classes: Sequence[str],
        annotation: Annotation | None = None,
    ) -> None:
        self.name, self.split, self.splits = "held train", "train", ("train",)
        self.classes, self.labels = tuple(classes), np.array(labels, np.int64)
        self.photos, self._known = photos, annotation

    @property
    def annotation(self) -> Annotation | None:
        return self._known

    def _name_of(self, index: int) -> str:
        return f"{index:03}.png"

    def _read(self, index: int) -> Image.Image:
        found = self.photos[index]
        if found is None:
            raise InputError(f"{self._name_of(index)} is cut short; copy it again")
        return found


def shares() -> np.ndarray:
    """How many of a class's photos show each of `LABELS`, as if annotators had not always agreed."""
    told = [[belly == "red", belly == "green", tail == "red", tail == "green"] for belly, tail in birds()]
    return np.where(told, 0.9, 0.05) + 0.01 * np.arange(len(CLASSES))[:, None]


def birds() -> list[tuple[str, str]]:
    return list(zip(BELLIES, TAILS, strict=True))


def write_birds(folder: Path, train: int = 14, test: int = 2) -> Path:
    """Write so many photos of each class for each split, with attributes, keypoints and boxes."""
    images, labels, splits, boxes, points = [], [], [], [], []
    random = np.random.default_rng(0)
    for number in range(len(CLASSES) * (train + test)):
        kind, own = divmod(number, train + test)
        name = f"{kind + 1:03}.{CLASSES[kind].replace(' ', '_')}/{own:04}.png"
        belly, tail = _draw(folder / "images" / name, kind, random)
        images.append(f"{number + 1} {name}")
        labels.append(f"{number + 1} {kind + 1}")
        splits.append(f"{number + 1} {int(own < train)}")
        boxes.append(f"{number + 1} 0.0 0.0 {WIDTH}.0 {HEIGHT}.0")
        points += [f"{number + 1} 1 {belly[0]} {belly[1]} 1", f"{number + 1} 2 {tail[0]} {tail[1]} 1"]
    write_text(folder / "classes.txt", *(f"{i + 1} {i + 1:03}.{c.replace(' ', '_')}" for i, c in enumerate(CLASSES)))
    write_text(folder / "images.txt", *images)
    write_text(folder / "image_class_labels.txt", *labels)
    write_text(folder / "train_test_split.txt", *splits)
    write_text(folder / "bounding_boxes.txt", *boxes)
    write_text(folder / "parts" / "parts.txt", "1 belly", "2 tail")
    write_text(folder / "parts" / "part_locs.txt", *points)
    write_text(folder / "attributes" / "attributes.txt", *(f"{i + 1} {name}" for i, name in enumerate(ATTRIBUTES)))
    per_cent = np.concatenate([100 * shares(), np.full((len(CLASSES), 1), 2.0)], 1)  # no class is small often enough
    rows = [" ".join(f"{value:.2f}" for value in row) for row in per_cent]
    write_text(folder / "attributes" / "class_attribute_labels_continuous.txt", *rows)
    return folder


def _draw(path: Path, kind: int, random: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Paint one bird on grey noise, and return the middle of its belly and of its tail, x and y."""
    pixels = random.integers(90, 150, (HEIGHT, WIDTH, 3))
    middle = []
    for part, colour in enumerate(birds()[kind]):
        left = int(random.integers(0, WIDTH // 2 - SIDE)) + part * WIDTH // 2  # each in a half of its own
        top = int(random.integers(0, HEIGHT - SIDE))
        pixels[top : top + SIDE, left : left + SIDE] = PAINT[colour] + random.integers(-15, 15, (SIDE, SIDE, 3))
        middle.append((left + SIDE // 2, top + SIDE // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return middle[0], middle[1]
