"""CIFAR-10 and CIFAR-100 from their binary files: the pickled ones are never opened."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from conceptlens.data.annotation_files import existing_folder, read_text
from conceptlens.data.labelled_set import ListedPhotos, check_split
from conceptlens.io.errors import InputError

SIDE = 32
_PIXELS = 3 * SIDE * SIDE  # red, green and blue rows of a photo


class _Version(NamedTuple):
    """Where one of the two sets has its files, and how many bytes of label come before the pixels of a photo."""

    name: str
    folder: str
    pickled: tuple[str, str]  # the folder of the version for Python, and a file of it
    archive: str
    files: dict[str, tuple[str, ...]]
    names: str
    labels: int


_VERSIONS = {
    10: _Version(
        "CIFAR-10",
        "cifar-10-batches-bin",
        ("cifar-10-batches-py", "data_batch_1"),
        "cifar-10-binary.tar.gz",
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        1,
    ),
    100: _Version(
        "CIFAR-100",
        "cifar-100-binary",
        ("cifar-100-python", "train"),
        "cifar-100-binary.tar.gz",
        {"train": ("train.bin",), "test": ("test.bin",)},
        "fine_label_names.txt",
        2,  # coarse, then fine
    ),
}


class Cifar(ListedPhotos):
    """CIFAR-10 or CIFAR-100 (its fine classes), 32 x 32 pixels; splits `train`, `test` and `all`.

    Expects the *binary version*, `cifar-10-batches-bin` or `cifar-100-binary`, in the folder or as the folder. A photo
    is called by its file and its number in it, from 0; one photo is read from disk at a time.

    Args:
        folder: The folder of the set.
        split: `train`, `test` or `all`.
        version: 10 or 100.

    Raises:
        InputError: The folder holds the version pickled for Python, whose files could run any code; files are missing
            or cut short; or a label is no class.
    """

    splits = ("train", "test", "all")

    def __init__(self, folder: str | Path, split: str = "train", version: int = 10) -> None:
        if version not in _VERSIONS:
            raise InputError(f"there is no CIFAR-{version}; versions: {', '.join(map(str, _VERSIONS))}")
        kind = _VERSIONS[version]
        self.split = check_split(split, self.splits, kind.name)
        self.name = f"cifar{version} {split}"
        self._folder = _binary(existing_folder(folder, kind.name), kind)
        self.classes = _names(self._folder / kind.names, version)
        self._skipped = kind.labels
        files = [file for part in ("train", "test") if split in (part, "all") for file in kind.files[part]]
        read = [_labels(self._folder / file, kind.labels, version) for file in files]
        self._entries = [(file, i) for file, labels in zip(files, read, strict=True) for i in range(len(labels))]
        self.labels = np.concatenate(read)

    def _name_of(self, index: int) -> str:
        file, number = self._entries[index]
        return f"{file.removesuffix('.bin')}/{number:05d}"

    def _read(self, index: int) -> Image.Image:
        file, number = self._entries[index]
        path = self._folder / file
        try:
            with path.open("rb") as photos:
                photos.seek(number * (self._skipped + _PIXELS) + self._skipped)
                pixels = np.frombuffer(photos.read(_PIXELS), np.uint8)
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r} any more ({error.strerror}); open the set again") from error
        if pixels.size != _PIXELS:
            raise InputError(f"{str(path)!r} has become shorter since it was opened; unpack it again")
        return Image.fromarray(np.ascontiguousarray(pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0)))


def _binary(folder: Path, kind: _Version) -> Path:
    """Return the folder of the binary files."""
    first = kind.files["train"][0]
    for candidate in (folder, folder / kind.folder):
        if (candidate / first).is_file():
            return candidate
    inner, file = kind.pickled
    pickled = [candidate for candidate in (folder, folder / inner) if (candidate / file).is_file()]
    if pickled:
        raise InputError(
            f"{str(pickled[0])!r} is {kind.name} pickled for Python, and nothing is unpickled here; download the "
            f"binary version, {kind.archive} from https://www.cs.toronto.edu/~kriz/cifar.html, and unpack it beside"
        )
    raise InputError(
        f"no file {first!r} in {str(folder)!r} nor in its {kind.folder!r}; download {kind.archive} from "
        "https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there"
    )


def _names(path: Path, version: int) -> tuple[str, ...]:
    """Read the names of the classes, one a line."""
    names = tuple(line.strip().replace("_", " ") for line in read_text(path).splitlines() if line.strip())
    if len(set(names)) != version or len(names) != version:
        raise InputError(
            f"{str(path)!r} names {len(names)} classes, expected {version} different ones; unpack it again"
        )
    return names


def _labels(path: Path, skipped: int, version: int) -> np.ndarray:
    """Read the label of each photo of a file: the byte before its pixels."""
    record = skipped + _PIXELS
    try:
        size = path.stat().st_size
        if not size or size % record:
            raise InputError(
                f"{str(path)!r} has {size} bytes, expected {record} for each photo; it is cut short or not of the "
                "binary version, unpack it again"
            )
        labels = np.memmap(path, np.uint8, "r", shape=(size // record, record))[:, skipped - 1].astype(np.int64)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read {str(path)!r} ({reason}); unpack the archive again") from error
    if labels.max() >= version:
        raise InputError(
            f"{str(path)!r} has label {labels.max()}, expected 0 to {version - 1}; it is not of this version, unpack "
            "it again"
        )
    return labels
