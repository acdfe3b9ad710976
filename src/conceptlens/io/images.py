"""Photos from files and folders: upright RGB images, or one sentence that says why not."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.folder_files import files_below, may_be_photo, once_each
from conceptlens.io.image_file import FORMATS, TURNS, a_path, opened, orientation, quoted

MIN_SIDE = 8


def read_image(path: str | Path) -> Image.Image:
    """Read one still photo as an upright RGB image, or refuse it with a sentence that names the file.

    EXIF orientation is applied, transparency laid on white, 16-bit and float values scaled from their range;
    colour profiles are not applied.

    Raises:
        InputError: The file is missing, unreadable, broken, animated, smaller than 8 x 8 or larger than 100 megapixels;
            the size is read from the header, before decoding.
    """
    with opened(path) as image:
        _check_header(image, quoted(path))
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of `image` as RGB, turned as its EXIF orientation says, with transparency on white.

    The copy carries no EXIF, so it cannot be turned twice.

    Raises:
        InputError: It holds values that are not finite, or its pixels are no longer there.
    """
    try:
        image.load()
    except (ValueError, OSError, AssertionError) as error:  # of a file that has been closed, or is cut short
        reason = str(error) or "its file is closed"
        raise InputError(f"a photo cannot be read ({reason}); open it again, or give its path") from error
    rgb = _rgb(image)
    turn = TURNS.get(orientation(image))
    if turn is not None:
        rgb = rgb.transpose(Image.Transpose.TRANSPOSE) if turn.swapped else rgb
        rgb = rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn.across else rgb
        rgb = rgb.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if turn.down else rgb
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    rgb.info = {"icc_profile": profile} if profile else {}
    return rgb


def as_photo(given: Image.Image | np.ndarray | str | Path) -> Image.Image:
    """Return a photo as an upright RGB image.

    Args:
        given: A PIL image, a uint8 array `height width 3`, or a path.

    Raises:
        InputError: The array has another shape or type, there is no pixel, or the file is no image (see `read_image`).
        InputTypeError: It is none of these.
    """
    if isinstance(given, Image.Image):
        return upright(_with_pixels(given))
    if isinstance(given, (str, Path)):
        return read_image(given)
    if not isinstance(given, np.ndarray):
        raise InputTypeError(f"a photo is given as {type(given).__name__}; expected a PIL image, an array or a path")
    if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
        raise InputError(
            f"a photo of shape {given.shape} and type {given.dtype} was given; expected uint8 height width 3"
        )
    return _with_pixels(Image.fromarray(given))


def _with_pixels(photo: Image.Image) -> Image.Image:
    """Return a photo as it is; refused where it has no rows or no columns."""
    if not (photo.width and photo.height):
        raise InputError(f"a photo of {photo.width} x {photo.height} pixels was given; expected at least one each way")
    return photo


def find_images(*sources: str | Path) -> tuple[Path, ...]:
    """List the images in files, folders and glob patterns (`**` goes down), in the order given, each once.

    A folder is searched all the way down, sorted, for image suffixes; hidden entries are left out. Linked folders are
    searched too, each real folder once. A file that is named is always kept, even if missing, and so is a link that
    leads nowhere: `read_image` says what is wrong with it.

    Raises:
        InputError: A folder or a pattern holds no image.
    """
    if not sources:
        raise InputError("no images were given; give files, folders or patterns such as 'photos/**/*.jpg'")
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expanded(a_path(source)):
            found.setdefault(os.path.abspath(path), path)
    return tuple(found.values())


def shrunk(photo: Image.Image, longest: int) -> Image.Image:
    """Return a copy of a photo, scaled down until neither side is longer than `longest` pixels."""
    small = photo.copy()
    small.thumbnail((longest, longest))
    return small


def jpeg(photo: Image.Image, longest: int = 900) -> bytes:
    """Return a photo as JPEG bytes, scaled down until neither side is longer than `longest` pixels.

    Args:
        photo: The photo.
        longest: The longer side at most, in pixels.
    """
    buffer = io.BytesIO()
    shrunk(photo, longest).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def fingerprint(image: Image.Image) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an image's size and RGB bytes, both taken upright."""
    rgb = upright(image)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()[:16]


def _check_header(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse by what the header tells, while no pixel has been decoded."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        given = f"{name} is {width} x {height} pixels"
        raise InputError(f"{given}, at least {MIN_SIDE} x {MIN_SIDE} are needed; give a larger image")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a still and its previews
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames, one is expected; save one frame as a still image (PNG)")


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_numbers(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit or float grey values to 8 bits; Pillow itself would clip them to white."""
    short = image.mode.startswith("I;16")
    values = np.asarray(image).astype(np.float32 if short else np.float64)
    if not np.isfinite(values).all():
        name = repr(str(getattr(image, "filename", "") or "the image"))
        raise InputError(f"{name} holds values that are not finite numbers; replace them and save it again")
    sixteen = short or (image.mode == "I" and image.format in ("PNG", "PPM"))
    low, high = (0.0, 65535.0) if sixteen else _range(values, image.mode)
    grey = np.rint((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Return the smallest usual range (0 to 1, 255 or 65535) that holds all values, else their own."""
    low, high = float(values.min()), float(values.max())
    for top in (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= top:
            return 0.0, top
    return low, high


def _expanded(path: Path) -> list[Path]:
    """List the images of one source: a folder, a pattern, or a file that is named."""
    kinds = ", ".join(suffixes[0] for suffixes in FORMATS.values())
    if path.is_dir():
        found = sorted(path / inner for inner in files_below(path).photos)
        if not found:
            raise InputError(f"the folder {quoted(path)} holds no image ({kinds}); give a folder of photos")
        return found
    if glob.has_magic(str(path)) and not os.path.lexists(path):
        found = _matches(path)
        if not found:
            raise InputError(f"{quoted(path)} matches no image ({kinds}); check the pattern, ** goes down")
        return found
    return [path]


def _matches(pattern: Path) -> list[Path]:
    """List the images that a pattern means; below `**` folders are entered as below any other folder."""
    parts = pattern.parts
    if "**" not in parts:
        found = [Path(match) for match in glob.glob(str(pattern))]
        return once_each([path for path in found if not path.is_dir() and may_be_photo(path)])
    start = parts.index("**")
    folders = [Path(match) for match in glob.glob(str(Path(*parts[:start])))]
    below = [folder / inner for folder in folders if folder.is_dir() for inner in _below(folder, parts[start:])]
    return once_each(below)


def _below(folder: Path, pattern: Sequence[str]) -> list[str]:
    """List the images below a folder whose path in it is as a pattern says."""
    return [inner for inner in files_below(folder).photos if _fits(inner.split("/"), pattern)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path are those of a pattern, of which `**` is any number, also none."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
