"""Every bad file is built here, for real, and must be refused by one sentence that names it."""

from __future__ import annotations

import os
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from conceptlens.io.errors import InputError
from conceptlens.io.images import find_images, fingerprint, read_image, upright

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green, blue, white from the top left to the bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    pixels[top, left], pixels[top, right] = RED, GREEN
    pixels[bottom, left], pixels[bottom, right] = BLUE, WHITE
    return Image.fromarray(pixels)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, body: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def refusal(path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    said = str(caught.value)
    assert Path(path).name in said
    assert "\n" not in said
    return said


def assert_near(image: Image.Image, x: int, y: int, colour: tuple[int, int, int], slack: int = 12) -> None:
    assert np.abs(np.subtract(image.getpixel((x, y)), colour)).max() <= slack


# What is read


def test_plain_photo(tmp_path: Path) -> None:
    quarters().save(tmp_path / "plain.png")
    image = read_image(tmp_path / "plain.png")
    assert image.mode == "RGB"
    assert np.array_equal(image, quarters())
    assert np.array_equal(read_image(str(tmp_path / "plain.png")), quarters())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm", "gif", "jfif"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    quarters().save(tmp_path / f"photo.{suffix}")
    image = read_image(tmp_path / f"photo.{suffix}")
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert_near(image, 6, 6, RED)
    assert_near(image, 42, 6, GREEN)


# EXIF 2.3, tag 0x0112: the side of the picture at which the stored row 0 and the stored column 0 belong.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(picture: Image.Image, orientation: int) -> Image.Image:
    """Lay out an upright picture as a camera does that writes this orientation."""
    row, column = SIDES[orientation]
    pixels = np.asarray(picture)
    if row in ("left", "right"):
        pixels = pixels.swapaxes(0, 1)
    if row in ("bottom", "right"):
        pixels = pixels[::-1]
    if column in ("bottom", "right"):
        pixels = pixels[:, ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored(quarters(), orientation).save(tmp_path / f"turned.{suffix}", exif=exif)
    image = read_image(tmp_path / f"turned.{suffix}")
    assert image.size == (48, 32)
    for x, y, colour in [(6, 6, RED), (42, 6, GREEN), (6, 26, BLUE), (42, 26, WHITE)]:
        assert_near(image, x, y, colour)
    assert np.array_equal(upright(image), image)  # nothing is left that would turn it twice


def test_broken_exif_is_upright(tmp_path: Path) -> None:
    quarters().save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x09" * 9)
    assert read_image(tmp_path / "exif.jpg").size == (48, 32)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    quarters().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    image = read_image(tmp_path / "print.jpg")
    assert_near(image, 6, 6, RED, 25)
    assert_near(image, 42, 26, WHITE, 25)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = quarters().convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[0, 128, 255]], 32, 0).repeat(16, 1).astype(np.uint8)))
    rgba.save(tmp_path / "rgba.png")
    image = read_image(tmp_path / "rgba.png")
    assert image.getpixel((2, 2)) == WHITE
    assert_near(image, 20, 2, (255, 127, 127), 1)
    assert image.getpixel((40, 2)) == GREEN


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, *RED, *GREEN])
    palette.paste(1, (8, 0, 16, 16))
    palette.save(tmp_path / "key.png", transparency=0)
    palette.save(tmp_path / "table.png", transparency=bytes([0, 128, 255]))
    palette.save(tmp_path / "key.gif", transparency=0)
    palette.save(tmp_path / "opaque.png")
    for name, left, right in [
        ("key.png", WHITE, RED),
        ("table.png", WHITE, (255, 127, 127)),
        ("key.gif", WHITE, RED),
        ("opaque.png", (0, 0, 0), RED),
    ]:
        image = read_image(tmp_path / name)
        assert_near(image, 2, 8, left, 1)
        assert_near(image, 12, 8, right, 1)


def test_grey_and_grey_with_alpha(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 90).save(tmp_path / "grey.png")
    Image.new("LA", (16, 16), (0, 51)).save(tmp_path / "alpha.png")
    Image.new("1", (16, 16), 1).save(tmp_path / "bit.png")
    Image.new("L", (16, 16), 7).save(tmp_path / "keyed.png", transparency=7)
    assert read_image(tmp_path / "grey.png").getpixel((0, 0)) == (90, 90, 90)
    assert read_image(tmp_path / "alpha.png").getpixel((0, 0)) == (204, 204, 204)
    assert read_image(tmp_path / "bit.png").getpixel((0, 0)) == WHITE
    assert read_image(tmp_path / "keyed.png").getpixel((0, 0)) == WHITE


RAMP = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"deep.{suffix}")
    image = read_image(tmp_path / f"deep.{suffix}")
    assert np.array_equal(np.asarray(image)[..., 0].ravel(), np.arange(256))
    Image.fromarray(RAMP // 256).save(tmp_path / f"dark.{suffix}")  # a dark 16-bit photo stays dark
    assert np.asarray(read_image(tmp_path / f"dark.{suffix}")).max() <= 1


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP)
    body = png(16, 16, 16, 0, zlib.compress(rows), chunk(b"tRNS", struct.pack(">H", 257)))
    (tmp_path / "keyed.png").write_bytes(body)
    grey = np.asarray(read_image(tmp_path / "keyed.png"))[..., 0].ravel()
    assert grey[:3].tolist() == [0, 255, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 256, dtype=np.float32), np.arange(256)),
        (np.arange(256, dtype=np.float32), np.arange(256)),
        (np.arange(256, dtype=np.float32) * 257, np.arange(256)),
        (np.arange(256, dtype=np.float32) * 1000 - 5000, np.arange(256)),
        (np.arange(256, dtype=np.int32), np.arange(256)),
        (np.arange(256, dtype=np.int32) * 257, np.arange(256)),
        (np.arange(256, dtype=np.int32) * 100_000 - 7, np.arange(256)),
        (np.full(256, -3.0, np.float32), np.zeros(256)),
    ],
)
def test_numbers_are_scaled_from_their_range(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    Image.fromarray(values.reshape(16, 16)).save(tmp_path / "numbers.tif")
    grey = np.asarray(read_image(tmp_path / "numbers.tif"))[..., 1].ravel()
    assert np.array_equal(grey, expected)


def test_colour_profile_is_left_alone(tmp_path: Path) -> None:
    quarters().save(tmp_path / "profile.png", icc_profile=b"not applied")
    image = read_image(tmp_path / "profile.png")
    assert np.array_equal(image, quarters())
    assert image.info == {"icc_profile": b"not applied"}


def test_mpo_is_a_still(tmp_path: Path) -> None:
    quarters().save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[quarters(16, 16)])
    assert read_image(tmp_path / "phone.jpg").size == (48, 32)


# What is refused


def test_missing_file_suggests_near_names(tmp_path: Path) -> None:
    for name in ["tabby_cat.jpg", "grosbeak.jpg", "notes.txt"]:
        quarters(8, 8).save(tmp_path / name, "PNG")
    said = refusal(tmp_path / "tabby_cta.jpg")
    assert "no file" in said
    assert "tabby_cat.jpg" in said
    assert "grosbeak" not in said


def test_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    assert "no readable folder" in refusal(tmp_path / "nowhere" / "cat.jpg")
    assert "is empty" in refusal(tmp_path / "cat.jpg")


def test_folder_given_as_image(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe" in refusal(tmp_path / "pipe.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    quarters().save(tmp_path / "secret.png")
    (tmp_path / "secret.png").chmod(0)
    assert "may not be read" in refusal(tmp_path / "secret.png")


def test_permission_error_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarters().save(tmp_path / "secret.png")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    assert "may not be read" in refusal(tmp_path / "secret.png")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "nothing.jpg").touch()
    assert "0 bytes" in refusal(tmp_path / "nothing.jpg")


def test_text_called_png(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is not a picture\n" * 40)
    assert "not a known kind of image" in refusal(tmp_path / "text.png")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    quarters().save(tmp_path / "drawing.eps")
    assert "not a known kind of image" in refusal(tmp_path / "drawing.eps")


# One format for each way a decoder ends early: a stream with markers (jpg), with checksums (png), rows as they are
# (bmp), strips found by their offsets (tif), and a decoder outside Pillow's own loop (webp).
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_cut_short(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for part in (0.1, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * part)])
        refusal(tmp_path / f"cut.{suffix}")


def test_truncated_jpeg_says_so(tmp_path: Path) -> None:
    quarters(200, 200).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    assert "broken or cut short (image file is truncated" in refusal(tmp_path / "cut.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif"])
def test_damaged_bytes_never_leak_another_error(tmp_path: Path, suffix: str) -> None:
    quarters().save(tmp_path / f"whole.{suffix}")
    whole = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), np.uint8)
    draw = np.random.default_rng(1)
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(50):
        damaged = whole.copy()
        damaged[draw.integers(0, min(len(whole), 400), 6)] = draw.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            said = read_image(path).mode
        except InputError as error:
            said = str(error)
        assert said == "RGB" or path.name in said


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (GREEN, BLUE)]
    Image.new("RGB", (16, 16), RED).save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames)
    said = refusal(tmp_path / f"moving.{suffix}")
    assert "holds 3 frames" in said
    assert "still" in said


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "dot.png")
    assert f"{size[0]} x {size[1]}" in refusal(tmp_path / "dot.png")


def test_smallest(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "eight.png")
    assert read_image(tmp_path / "eight.png").size == (8, 8)


def test_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zlib.compressobj(1)
    band = bytes(3751 * 1000)  # 1000 rows of one filter byte and 30,000 bits
    body = b"".join(packer.compress(band) for _ in range(30)) + packer.flush()
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000, 1, 0, body))
    assert (tmp_path / "bomb.png").stat().st_size < 2_000_000

    def decode(*_: object) -> None:
        pytest.fail("the bomb was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    start = time.perf_counter()
    assert "900 megapixels" in refusal(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a caller may have lifted Pillow's own guard
    assert "30000 x 30000 pixels (900 megapixels)" in refusal(tmp_path / "bomb.png")


def test_between_the_two_limits_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarters().save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 - 1)
    assert read_image(tmp_path / "photo.png").size == (48, 32)  # no DecompressionBombWarning escapes
    assert Image.MAX_IMAGE_PIXELS == 48 * 32 - 1


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    values = np.zeros((16, 16), np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "depth.tif")
    assert "not finite" in refusal(tmp_path / "depth.tif")


@pytest.mark.parametrize("given", [None, 3, b"cat.jpg", ["cat.jpg"], ""])
def test_not_a_path(given: object) -> None:
    with pytest.raises(InputError, match="path"):
        read_image(given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["nul\0byte.png", "x" * 300 + ".png"])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    quarters().save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="no file"):
        read_image(tmp_path / name)


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "line\nbreak\x1b[31m.png")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_threads_leave_the_warning_filters_as_found(tmp_path: Path) -> None:
    rows = zlib.compress(bytes(17 * 16))
    odd = png(16, 16, 8, 0, rows, chunk(b"acTL", struct.pack(">II", 0, 0)))  # Pillow: "Invalid APNG"
    (tmp_path / "odd.png").write_bytes(odd)
    with pytest.warns(UserWarning, match="APNG"):
        Image.open(tmp_path / "odd.png").close()
    before, errors = list(warnings.filters), []

    def read() -> None:
        try:
            for _ in range(20):
                read_image(tmp_path / "odd.png")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(warnings.filters) == before


# What is found


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ["b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/er/c.webp", ".cache/d.png", "deep/e.tiff"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(album: Path, *sources: str | Path) -> list[str]:
    return [path.relative_to(album).as_posix() for path in find_images(*sources)]


def test_folder_is_searched_to_the_bottom(album: Path) -> None:
    assert names(album, album) == ["a.png", "b.JPG", "deep/e.tiff", "deep/er/c.webp"]
    assert names(album, str(album / "deep")) == ["deep/e.tiff", "deep/er/c.webp"]


def test_patterns(album: Path) -> None:
    assert names(album, f"{album}/*") == ["a.png", "b.JPG"]
    assert names(album, f"{album}/**/*.webp") == ["deep/er/c.webp"]
    assert names(album, album / "**" / "*") == ["a.png", "b.JPG", "deep/e.tiff", "deep/er/c.webp"]


def test_order_is_kept_and_duplicates_dropped(album: Path) -> None:
    sources = (album / "deep/e.tiff", album, album / "deep" / ".." / "a.png", album / "b.JPG")
    assert names(album, *sources) == ["deep/e.tiff", "a.png", "b.JPG", "deep/er/c.webp"]


def test_named_files_are_always_kept(album: Path) -> None:
    (album / "odd[1].png").write_bytes(b"x")
    for name in ["missing.png", "notes.txt", ".hidden.png", "odd[1].png"]:
        assert names(album, album / name) == [name]


def test_nothing_found(album: Path) -> None:
    (album / "empty").mkdir()
    (album / "texts").mkdir()
    (album / "texts" / "a.txt").touch()
    with pytest.raises(InputError, match=r"empty' holds no image"):
        find_images(album / "a.png", album / "empty")
    with pytest.raises(InputError, match=r"texts' holds no image"):
        find_images(album / "texts")
    with pytest.raises(InputError, match=r"\*\.gif' matches no image"):
        find_images(f"{album}/*.gif")
    with pytest.raises(InputError, match="no images were given"):
        find_images()
    with pytest.raises(InputError, match="empty"):
        find_images("")
    with pytest.raises(InputError, match="list"):
        find_images([album])  # pyright: ignore[reportArgumentType]


def test_linked_folders_do_not_loop(album: Path) -> None:
    (album / "loop").symlink_to(album, target_is_directory=True)
    assert len(find_images(album)) == 4
    assert len(find_images(album / "loop")) == 4  # a link that is named is followed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything")
def test_unlistable_folder(album: Path) -> None:
    (album / "deep").chmod(0)
    try:
        with pytest.raises(InputError, match="deep' cannot be listed"):
            find_images(album)
    finally:
        (album / "deep").chmod(0o755)


# Fingerprints


def test_fingerprint_is_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    quarters().save(tmp_path / "plain.png")
    quarters().rotate(180).save(tmp_path / "turned.png", exif=exif)
    plain = fingerprint(read_image(tmp_path / "plain.png"))
    assert plain == fingerprint(read_image(tmp_path / "turned.png"))
    with Image.open(tmp_path / "turned.png") as unturned:
        assert plain == fingerprint(unturned)
    assert plain == fingerprint(quarters().convert("RGBA"))
    assert len(plain) == 16
    assert int(plain, 16) >= 0


def test_fingerprint_tells_pictures_apart() -> None:
    flat = Image.new("RGB", (16, 9))
    assert fingerprint(flat) != fingerprint(Image.new("RGB", (9, 16)))
    other = flat.copy()
    other.putpixel((0, 0), (0, 0, 1))
    assert fingerprint(flat) != fingerprint(other)
