"""Photos from files and folders: upright RGB images, or one sentence that says why not."""

from __future__ import annotations

import glob
import hashlib
import io
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

_ORIENTATION = 0x0112  # the EXIF tag; its value 1 is upright, the others need a turn
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path) -> Image.Image:
    """Read one still photo as an upright RGB image, or refuse it with a sentence that names the file.

    EXIF orientation is applied, transparency laid on white, 16-bit and float values scaled from their range;
    colour profiles are not applied. Raises `InputError` for a file that is missing, unreadable, broken, animated,
    smaller than 8 x 8 or larger than 100 megapixels; the size is told from the header, before decoding.
    """
    place = _file(path)
    name = repr(str(place))
    try:
        with _quiet(), Image.open(place, formats=_formats()) as image:
            _check_header(image, name)
            return upright(image)
    except InputError:
        raise
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise InputError(_reason(name, error)) from error


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of `image` as RGB, turned as its EXIF orientation says, with transparency on white.

    The copy carries no EXIF, so it cannot be turned twice. Raises `InputError` for values that are not finite.
    """
    image.load()
    rgb = _rgb(image)
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        rgb = rgb.transpose(turn)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    rgb.info = {"icc_profile": profile} if profile else {}
    return rgb


def find_images(*sources: str | Path) -> tuple[Path, ...]:
    """List the images in files, folders and glob patterns (`**` goes down), in the order given, each once.

    A folder is searched all the way down, sorted, for image suffixes; hidden entries and linked folders are
    left out. A file that is named is always kept, even if missing: `read_image` says what is wrong with it.
    Raises `InputError` where a folder or a pattern holds no image.
    """
    if not sources:
        raise InputError("no images were given; give files, folders or patterns such as 'photos/**/*.jpg'")
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expanded(_path(source)):
            found.setdefault(os.path.abspath(path), path)
    return tuple(found.values())


def jpeg(photo: Image.Image, longest: int = 900) -> bytes:
    """Return a photo as JPEG bytes, scaled down until neither side is longer than `longest` pixels."""
    small = photo.copy()
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def fingerprint(image: Image.Image) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an image's size and RGB bytes, both taken upright."""
    rgb = upright(image)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()[:16]


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
    name = repr(str(path))
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
    missing, folder = f"no file {str(path)!r}", repr(str(path.parent))
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return f"{missing}: there is no readable folder {folder}; check the path"
    if not names:
        return f"{missing}: the folder {folder} is empty; check the path"
    names = [name for name in names if Path(name).suffix.lower() in SUFFIXES] or names
    return f"{missing}; near names in {folder}: {near(path.name, [repr(name)[1:-1] for name in names])}"


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
        given = f"{name} is {width} x {height} pixels"
        raise InputError(f"{given}, at least {MIN_SIDE} x {MIN_SIDE} are needed; give a larger image")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a still and its previews
    if frames > 1:
        raise InputError(f"{name} holds {frames} frames, one is expected; save one frame as a still image (PNG)")


def _oversize(name: str, size: str) -> str:
    return f"{name} is {size}, at most {MAX_PIXELS // 1_000_000} megapixels are read; give a smaller copy"


def _reason(name: str, error: Exception) -> str:
    """Say what Pillow's error means for the file."""
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not a known kind of image ({', '.join(FORMATS)}), or its start is damaged; save it as PNG"
    if isinstance(error, PermissionError):
        return _forbidden(name)
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        return _oversize(name, f"{int(pixels[1]) / 1e6:.0f} megapixels" if pixels else "too large")
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{name} is broken or cut short ({said}); copy, download or save it again"


class _Readers:
    """How many threads are reading, and the warning filters that the last one puts back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.filters = warnings.catch_warnings()


_READERS = _Readers()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's own warnings, and no others, while at least one thread reads (filters are process-wide)."""
    with _READERS.lock:
        if _READERS.count == 0:
            _READERS.filters = warnings.catch_warnings()
            _READERS.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _READERS.count += 1
    try:
        yield
    finally:
        with _READERS.lock:
            _READERS.count -= 1
            if _READERS.count == 0:
                _READERS.filters.__exit__(None, None, None)


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
        found = _walk(path)
        if not found:
            raise InputError(f"the folder {str(path)!r} holds no image ({kinds}); give a folder of photos")
        return found
    if glob.has_magic(str(path)) and not os.path.lexists(path):
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))
        found = sorted(match for match in matches if _is_image(match))
        if not found:
            raise InputError(f"{str(path)!r} matches no image ({kinds}); check the pattern, ** goes down")
        return found
    return [path]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _walk(folder: Path) -> list[Path]:
    """List the images below a folder, sorted; an unreadable folder is an error, not a gap in the data."""

    def refuse(error: OSError) -> None:
        name = repr(str(error.filename))
        raise InputError(f"the folder {name} cannot be listed; allow it or leave it out") from error

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for path in (Path(place, name) for name in files) if _is_image(path)]
    return sorted(found)
