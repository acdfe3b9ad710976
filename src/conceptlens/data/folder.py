"""Photos from files and folders: upright RGB images, or one sentence that says why not."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from conceptlens.error import InputError, near

MIN_SIDE = 8
MAX_PIXELS = 100_000_000

# Pillow's name of a format to its suffixes. Only these are opened: some of Pillow's other readers start programs
# (EPS) or recognise almost any file (TGA).
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# EXIF orientation to the turn that makes the picture upright; 1 is upright already.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def read_image(path: str | Path) -> Image.Image:
    """Read one still photo as an upright RGB image, or refuse it with a sentence that names the file.

    EXIF orientation is applied, transparency is laid on white, 16-bit and floating-point values are scaled from
    their range, and colour profiles are not applied. Raises `InputError` for what is missing, unreadable, broken,
    animated, smaller than 8 x 8, or larger than 100 megapixels; the last is told from the header, before decoding.
    """
    place = _file(path)
    name = _shown(place)
    with _quiet(), _translated(name), Image.open(place, formats=_formats()) as image:
        _check_header(image, name)
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of `image` as RGB, turned as its EXIF orientation says, with transparency on white.

    The copy carries no EXIF, so it cannot be turned twice. Raises `InputError` for values that are not finite.
    """
    image.load()
    rgb = _rgb(image)
    turn = UPRIGHT.get(_orientation(image))
    if turn is not None:
        rgb = rgb.transpose(turn)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    rgb.info = {"icc_profile": profile} if profile else {}
    return rgb


def find_images(*sources: str | Path) -> tuple[Path, ...]:
    """List the images in files, folders and glob patterns (`**` goes down), in the order given, each once.

    A folder is searched all the way down, sorted, for image suffixes; hidden entries and linked folders are left
    out. A file that is named is always kept, even if missing: `read_image` then says what is wrong with it.
    Raises `InputError` where a folder or a pattern holds no image.
    """
    if not sources:
        raise InputError("no images were given; give files, folders or patterns such as 'photos/**/*.jpg'")
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expanded(_path(source)):
            found.setdefault(os.path.abspath(path), path)
    return tuple(found.values())


def fingerprint(image: Image.Image) -> str:
    """Return 16 hexadecimal digits that tell this picture from others: SHA-256 of its size and upright RGB bytes."""
    rgb = upright(image)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()[:16]


def _shown(path: str | Path) -> str:
    """Quote a path for a message, with control characters escaped."""
    return repr(str(path))


def _path(given: str | Path) -> Path:
    """Check that `given` is a path at all; the empty one would mean the current folder."""
    if not isinstance(given, (str, Path)):
        raise InputError(f"an image is given as a path, not as {type(given).__name__}; give a str or a Path")
    if not str(given):
        raise InputError("an image path is empty; give the name of a file, a folder or a pattern")
    return Path(given)


def _file(given: str | Path) -> Path:
    """Check everything that can be known of a file without opening it."""
    path = _path(given)
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise InputError(_forbidden(_shown(path))) from error
    except (OSError, ValueError) as error:
        raise InputError(_missing(path)) from error
    if path.is_dir():
        raise InputError(
            f"{_shown(path)} is a folder, not an image; name one file in it, or list them with find_images"
        )
    if not path.is_file():
        raise InputError(f"{_shown(path)} is a device or a pipe, not a file; save the image to a file and name that")
    if size == 0:
        raise InputError(f"{_shown(path)} is an empty file (0 bytes), not an image; copy or download it again")
    return path


def _forbidden(name: str) -> str:
    return f"{name} may not be read by this user; allow it (chmod +r) or give a readable copy"


def _missing(path: Path) -> str:
    """Say that a file is missing, with near names in its folder."""
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return f"no file {_shown(path)}: there is no readable folder {_shown(folder)}; check the path"
    if not names:
        return f"no file {_shown(path)}: the folder {_shown(folder)} is empty; check the path"
    names = [name for name in names if Path(name).suffix.lower() in SUFFIXES] or names
    return f"no file {_shown(path)}; near names in {_shown(folder)}: {_shown(near(path.name, names))[1:-1]}"


def _formats() -> list[str]:
    """Name the formats of the table that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_header(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse by what the header tells, while no pixel has been decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(_oversize(name, f"{width} x {height} pixels ({width * height / 1e6:.0f} megapixels)"))
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} is {width} x {height} pixels, at least {MIN_SIDE} x {MIN_SIDE} are needed; give a larger image"
        )
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a still and its previews
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames, one is expected; save one of them as a still image (PNG)")


def _oversize(name: str, size: str) -> str:
    return f"{name} is {size}, at most {MAX_PIXELS // 1_000_000} megapixels are read; give a smaller copy"


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a file into one sentence about that file.

    A broken file can make Pillow raise nearly anything (OSError, SyntaxError, struct.error, KeyError, MemoryError).
    """
    try:
        yield
    except InputError as error:
        if name in str(error):
            raise
        raise InputError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InputError(f"{name} is not an image of a known format ({known}); save it as JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{int(pixels[1]) / 1e6:.0f} megapixels" if pixels else "too large"
        raise InputError(_oversize(name, size)) from error
    except PermissionError as error:
        raise InputError(_forbidden(name)) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} is broken or cut short ({reason}); copy, download or save it again") from error


class _Quiet:
    """The state of `_quiet`: how many threads are reading, and the filters to put back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0
        self.filters = warnings.catch_warnings()


_QUIET = _Quiet()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's own warnings, and no other's, while at least one thread reads.

    The filters are process-wide, so the first reader in sets them and the last one out puts them back.
    """
    with _QUIET.lock:
        if _QUIET.readers == 0:
            _QUIET.filters = warnings.catch_warnings()
            _QUIET.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _QUIET.readers += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.readers -= 1
            if _QUIET.readers == 0:
                _QUIET.filters.__exit__(None, None, None)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; broken EXIF counts as upright, since the pixels are sound."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


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
    """Scale 16-bit, 32-bit or floating-point grey values to 8 bits; Pillow itself would clip them to white."""
    short = image.mode.startswith("I;16")
    values = np.asarray(image).astype(np.float32 if short else np.float64)
    if not np.isfinite(values).all():
        raise InputError("the image holds values that are not finite numbers; replace them and save it again")
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
    if path.is_dir():
        found = _walk(path)
        if not found:
            raise InputError(f"the folder {_shown(path)} holds no image ({_kinds()}); give a folder of photos")
        return found
    if glob.has_magic(str(path)) and not os.path.lexists(path):
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))
        found = sorted(match for match in matches if _is_image(match) and match.is_file())
        if not found:
            raise InputError(f"the pattern {_shown(path)} matches no image ({_kinds()}); ** looks in folders below")
        return found
    return [path]


def _kinds() -> str:
    return ", ".join(suffixes[0] for suffixes in FORMATS.values())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _walk(folder: Path) -> list[Path]:
    """List the images below a folder, sorted; an unreadable folder is an error, not a gap in the data."""

    def refuse(error: OSError) -> None:
        raise InputError(f"the folder {_shown(error.filename)} cannot be listed; allow it or leave it out") from error

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for path in (Path(place, name) for name in files) if _is_image(path) and path.is_file()]
    return sorted(found)
