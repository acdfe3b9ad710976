"""Small copies of published layouts: what the tests of data sets write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.io.errors import InputError

ORIENTATION = 0x0112


def photo(path: Path, width: int = 20, height: int = 12, turn: int = 1) -> None:
    """Save a photo whose left half is red and whose top right is green, as stored, with an EXIF turn."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[: height // 2, width // 2 :, 1] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="JPEG", quality=95, subsampling=0, exif=exif)


def red(image: Image.Image) -> np.ndarray:
    """Where a photo is red."""
    pixels = np.asarray(image).astype(int)
    return (pixels[..., 0] > 128) & (pixels[..., 1] < 128)


def left_half(width: int = 20, height: int = 12, code: int = 1) -> np.ndarray:
    """Codes of the half that `photo` paints red."""
    codes = np.zeros((height, width), np.int32)
    codes[:, : width // 2] = code
    return codes


def colours(path: Path, codes: np.ndarray) -> None:
    """Save codes as red + 256 green + 65536 blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.stack([codes % 256, codes // 256 % 256, codes // 65536], -1)
    Image.fromarray(channels.astype(np.uint8)).save(path, format="PNG")


def palette(path: Path, indices: np.ndarray) -> None:
    """Save indices with a palette whose colours are unlike them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette([(7 * i + 128) % 256 for i in range(768)])
    image.save(path, format="PNG")


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def by_label(one: MaskedPhoto) -> dict[str, np.ndarray]:
    return {concept.label: mask for concept, mask in zip(one.concepts, one.masks, strict=True)}


def only(located: MaskedSet) -> MaskedPhoto:
    """The one photo of a set, which must say that it holds one."""
    (one,) = located
    assert len(located) == 1
    return one


def refusal(given: Any) -> str:
    """What a set or a call says when it refuses; a set is read to its end."""
    with pytest.raises(InputError) as caught:
        for _ in given():
            pass
    said = str(caught.value)
    assert "\n" not in said
    return said
