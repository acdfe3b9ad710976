"""Small copies of the published layouts of labelled sets: what their tests write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from written_sets import photo, write_text

from conceptlens.data.labelled_set import LabelledSet

# Ids are not in a row, as in a part of the whole set; photo 9 is grey.
CUB_PHOTOS: dict[int, tuple[str, int, int]] = {  # id: file, class, train
    4: ("002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg", 2, 1),
    9: ("002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg", 2, 0),
    6: ("005.Crested_Auklet/Crested_Auklet_0001_794941.jpg", 5, 1),
    7: ("005.Crested_Auklet/Crested_Auklet_0002_794940.jpg", 5, 1),
    30: ("005.Crested_Auklet/Crested_Auklet_0009_794929.jpg", 5, 0),
}
CUB_ATTRIBUTES = ("has_wing_color::yellow", "has_bill_shape::dagger", "has_size::small_(5_-_9_in)")
CUB_SHARES = {2: (0.0, 75.5, 100.0), 5: (50.0, 2.5, 0.0)}


def cub(folder: Path, turn: int = 1, attributes: str = "attributes") -> Path:
    """Write five photos of CUB whose beak is in the middle of what `photo` paints red, and whose box is all of it."""
    write_text(folder / "classes.txt", "2 002.Laysan_Albatross", "5 005.Crested_Auklet")
    write_text(folder / "images.txt", *(f"{number} {file}" for number, (file, _, _) in CUB_PHOTOS.items()))
    write_text(folder / "image_class_labels.txt", *(f"{number} {kind}" for number, (_, kind, _) in CUB_PHOTOS.items()))
    write_text(folder / "train_test_split.txt", *(f"{number} {train}" for number, (*_, train) in CUB_PHOTOS.items()))
    write_text(folder / "bounding_boxes.txt", *(f"{number} 0.0 0.0 10.0 12.0" for number in CUB_PHOTOS))
    write_text(folder / "parts" / "parts.txt", "2 beak", "7 left eye", "11 right eye")
    points = [(f"{number} 2 5.0 3.0 1", f"{number} 7 0.0 0.0 0", f"{number} 11 8.0 6.0 1") for number in CUB_PHOTOS]
    write_text(folder / "parts" / "part_locs.txt", *(line for lines in points for line in lines))
    listed = (f"{i} {name}" for i, name in enumerate(CUB_ATTRIBUTES, start=1))
    write_text(folder / attributes / "attributes.txt", *listed)
    rows = (" ".join(map(str, shares)) for shares in CUB_SHARES.values())
    write_text(folder / "attributes" / "class_attribute_labels_continuous.txt", *rows)
    for number, (file, _, _) in CUB_PHOTOS.items():
        if number == 9:
            grey(folder / "images" / file)
        else:
            photo(folder / "images" / file, turn=turn)
    return folder


def grey(path: Path, width: int = 20, height: int = 12) -> None:
    """Save a photo without colours, as a few of CUB and ImageNet are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height), 90).save(path, format="JPEG")


def class_folders(folder: Path, counts: Mapping[str, int]) -> Path:
    """Save so many photos in each class folder, such as `train/cat`; 0 leaves it empty."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            photo(folder / name / f"{i}.jpg")
    return folder


def cifar(path: Path, labels: Sequence[tuple[int, ...]], seed: int = 0) -> np.ndarray:
    """Write a binary file of CIFAR byte by byte: its labels, then red, green and blue rows; return `photo 32 32 3`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    written = bytearray()
    for one, label in zip(pixels, labels, strict=True):
        written += bytes(label)
        for channel in range(3):
            for row in range(32):
                for column in range(32):
                    written.append(int(one[row, column, channel]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(written))
    return pixels


def places(folder: Path, size: str = "256") -> Path:
    """Write three categories of Places365, two photos to train on and two more."""
    write_text(
        folder / "categories_places365.txt", "/a/airfield 0", "/a/apartment_building/outdoor 1", "/z/zen_garden 2"
    )
    train = {"/a/airfield/00000001.jpg": 0, "/z/zen_garden/00000001.jpg": 2}
    val = {"Places365_val_00000001.jpg": 1, "Places365_val_00000002.jpg": 0}
    write_text(folder / "places365_train_standard.txt", *(f"{name} {number}" for name, number in train.items()))
    write_text(folder / "places365_val.txt", *(f"{name} {number}" for name, number in val.items()))
    for root, names in ((f"data_{size}_standard", train), (f"val_{size}", val)):
        for name in names:
            photo(folder / root / name.lstrip("/"))
    return folder


def as_listed(labelled: LabelledSet) -> list[tuple[str, str]]:
    """The name and class of each photo, all of which are upright RGB images."""
    assert labelled.labels.dtype == np.int64
    for place in range(len(labelled)):
        assert labelled[place].mode == "RGB"
    return [
        (name, labelled.classes[number]) for name, number in zip(labelled.names, labelled.labels.tolist(), strict=True)
    ]
