"""One image file, opened safely: what is wrong with it is said in one sentence, and Pillow says nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from conceptlens.io.errors import InputError, InputTypeError, listed_near
from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.io.text_file import readable_text

MAX_PIXELS = 100_000_000

# Pillow's name of a format to its suffixes. Only these are opened: other readers of Pillow start programs
# (EPS) or take almost any file for theirs (TGA).
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

_BITS, _BANDS = 258, 277  # tags of a TIFF header
_ORIENTATION = 0x0112  # the EXIF tag; its value 1 is upright, the others need a turn


class Turn(NamedTuple):
    """What makes stored pixels upright: their axes are swapped, then mirrored across and down."""

    swapped: bool
    across: bool
    down: bool


TURNS: dict[int, Turn] = {
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}


@contextmanager
def opened(path: str | Path, formats: list[str] | None = None) -> Iterator[ImageFile.ImageFile]:
    """Open an image file, of any of `FORMATS` or of those named, while its pixels are not decoded yet.

    Whatever goes wrong with it within the block comes out as an `InputError` that names the file: missing,
    unreadable, broken, or larger than 100 megapixels, as the header says.

    Args:
        path: The file.
        formats: Pillow's names of the formats that are read; by default those of `FORMATS`.

    Raises:
        InputError: The file is missing, unreadable, broken or too large.
    """
    file = _file(path)
    name = quoted(file)
    try:
        known = _formats() if formats is None else formats
        with quiet_warnings(module=r"PIL\."), Image.open(file, formats=known) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(_oversize(name, f"{width} x {height} pixels ({width * height / 1e6:.0f} megapixels)"))
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        bands = tiff_bands(file)
        raise InputError(_reason(name, error) if bands is None else _too_many_bands(name, *bands)) from error
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise InputError(_reason(name, error)) from error


def orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; broken EXIF counts as upright, since the pixels are sound."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises nearly anything for broken EXIF; the docstring says what follows
        return 1


def a_path(given: str | Path) -> Path:
    """Check that `given` is a path at all; the empty one would mean the current folder."""
    if not isinstance(given, (str, Path)):
        raise InputTypeError(f"an image is given as a path, not as {type(given).__name__}; give a str or a Path")
    if not str(given):
        raise InputError("an image path is empty; give the name of a file, a folder or a pattern")
    return Path(given)


def quoted(path: str | Path) -> str:
    """Return a path for a sentence: in quotes, as text that can be shown."""
    return repr(readable_text(str(path)))


def _file(given: str | Path) -> Path:
    """Check everything that can be known of a file without opening it."""
    path = a_path(given)
    name = quoted(path)
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise InputError(_forbidden(name)) from error
    except (OSError, ValueError) as error:
        raise InputError(_missing(path)) from error
    if path.is_dir():
        raise InputError(f"{name} is a folder, not an image; name a file in it, or list all with find_images")
    if not path.is_file():
        raise InputError(f"{name} is a device or a pipe, not a file; save the image to a file and name that")
    if size == 0:
        raise InputError(f"{name} is an empty file (0 bytes), not an image; copy or download it again")
    return path


def _forbidden(name: str) -> str:
    return f"{name} may not be read by this user; allow it (chmod +r) or give a readable copy"


def _missing(path: Path) -> str:
    """Say that a file is missing, with near names in its folder."""
    missing, folder = f"no file {quoted(path)}", quoted(path.parent)
    if os.path.islink(path):
        return f"{missing}: it is a link to {quoted(os.readlink(path))}, which is not there; mend or remove the link"
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return f"{missing}: there is no readable folder {folder}; check the path"
    if not names:
        return f"{missing}: the folder {folder} is empty; check the path"
    names = [name for name in names if Path(name).suffix.lower() in SUFFIXES] or names
    return f"{missing}; near names in {folder}: {listed_near(path.name, [quoted(name)[1:-1] for name in names])}"


def _formats() -> list[str]:
    """Name the formats of the table that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _oversize(name: str, size: str) -> str:
    return f"{name} is {size}, at most {MAX_PIXELS // 1_000_000} megapixels are read; give a smaller copy"


def tiff_bands(file: Path) -> tuple[int, int] | None:
    """Return how many bands a TIFF file has and how many bits each takes, by its header; `None` for other files.

    Args:
        file: A file that exists.
    """
    try:
        with file.open("rb") as opened_file:
            header = TiffImagePlugin.ImageFileDirectory_v2(opened_file.read(8))
            opened_file.seek(header.next)
            header.load(opened_file)
            bits = header.get(_BITS, (1,))
            return int(header.get(_BANDS, 1)), int(bits[0] if isinstance(bits, tuple) else bits)
    except Exception:  # no TIFF, or a broken one; the caller says so
        return None


def _too_many_bands(name: str, bands: int, bits: int) -> str:
    return (
        f"{name} is a TIFF of {bands} band{'s' * (bands != 1)} of {bits} bits, which is no photo; read it yourself "
        "(such as by tifffile.imread) and give a floating tensor, image channel rows columns"
    )


def _reason(name: str, error: Exception) -> str:
    """Say what Pillow's error means for the file."""
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not a known kind of image ({', '.join(FORMATS)}), or its start is damaged; save it as PNG"
    if isinstance(error, PermissionError):
        return _forbidden(name)
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        return _oversize(name, f"{int(pixels[1]) / 1e6:.0f} megapixels" if pixels else "too large")
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name} is broken or cut short ({reason}); copy, download or save it again"
