"""Text files as editors save them, and names that are no text: read, shown, or refused with the byte that is wrong."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_classes import cub
from written_sets import left_half, palette, photo, refusal

from conceptlens.cli.options import read_class_names
from conceptlens.concepts.concept_set import read_concept_set
from conceptlens.concepts.concept_table import read_concept_table
from conceptlens.concepts.vocabulary import read_concepts
from conceptlens.data.cub import Cub
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.io.text_file import READABLE, read_text, readable_names, readable_text

MARKED = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


def marked(text: str, encoding: str) -> bytes:
    """Return a text as an editor saves it in this encoding, always with a byte order mark."""
    return text.encode(encoding) if encoding in ("utf-8-sig", "utf-16", "utf-32") else f"\ufeff{text}".encode(encoding)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "names.txt": ("grüner Specht\r\nmouse\r\n", lambda file: tuple(read_class_names(file, "--class-names"))),
    "words.txt": ("grüner Specht\r\nmouse\r\n", lambda file: tuple(one.label for one in read_concepts(file))),
    "set.txt": (
        "grüner Specht\r\nmouse\r\n",
        lambda file: tuple(one.label for one in read_concept_set(file).concepts),
    ),
    "table.csv": ("name,grüner Specht,mouse\r\na,1,0\r\n", lambda file: read_concept_table(file, ("a",), ()).labels),
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("name", READERS)
def test_marked_files_are_read_whoever_reads_them(tmp_path: Path, name: str, encoding: str) -> None:
    text, read = READERS[name]
    (tmp_path / name).write_bytes(marked(text, encoding))
    assert read(tmp_path / name) == ("grüner Specht", "mouse")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman"])
@pytest.mark.parametrize("name", READERS)
def test_other_encodings_are_refused_with_line_and_byte(tmp_path: Path, name: str, encoding: str) -> None:
    text, read = READERS[name]
    content = ("mouse\r\n" * (name != "table.csv") + text).encode(encoding)
    (tmp_path / name).write_bytes(content)
    said = refusal(lambda: read(tmp_path / name))
    at = next(i for i, byte in enumerate(content) if byte > 127)
    assert f"is not UTF-8 text: byte {at + 1}, in line {1 + (name != 'table.csv')}, is 0x{content[at]:02X}" in said
    assert "save it as UTF-8" in said


@pytest.mark.parametrize("content", ["cat\ndog\n".encode("utf-16-le"), b"\x89PNG\r\n\x1a\n\0\0", b"cat\0dog"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.txt").write_bytes(content)
    assert "is not UTF-8 text: byte " in refusal(lambda: read_text(tmp_path / "l.txt", "give another"))


def test_a_mark_with_half_a_character_behind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("cat".encode("utf-16")[:-1])
    assert "begins as UTF-16" in refusal(lambda: read_text(tmp_path / "l.txt", "give another"))


@pytest.mark.parametrize("encoding", MARKED)
def test_tables_and_lists_of_data_sets(tmp_path: Path, encoding: str) -> None:
    photo(tmp_path / "images" / "a.jpg")
    palette(tmp_path / "masks" / "a.png", left_half())
    (tmp_path / "labels.csv").write_bytes(marked("index,label\n1,Käfer\n", encoding))
    assert [concept.label for concept in MaskFolder(tmp_path).concepts] == ["Käfer"]
    birds = cub(tmp_path / "birds")
    for file in ("images.txt", "image_class_labels.txt", "parts/part_locs.txt"):
        (birds / file).write_bytes(marked((birds / file).read_text(), encoding))
    train = Cub(birds)
    assert len(train) == 3
    assert train.annotation is not None


# Names that are no text

LATIN, OTHER = "caf\udce9.png", "caf\udce8.png"  # as Python reads bytes of Latin-1 in a name


def test_names_are_shown_with_replacement_characters() -> None:
    assert readable_text(LATIN) == "caf\ufffd.png"
    assert readable_text("na\udcc3\udcafve") == "naïve"  # UTF-8 that was read in another locale
    assert readable_text("a\ud800b\udc00c\udfff") == "a\ufffdb\ufffdc\ufffd"
    assert readable_text("plain ü \U0001f600") == "plain ü \U0001f600"


def test_names_stay_apart() -> None:
    assert readable_names(["caf\ufffd.png", LATIN, "x", OTHER]) == [
        "caf\ufffd.png", "caf\ufffd.png (2)", "x", "caf\ufffd.png (3)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "é\ufffd\ufffd…".encode()),
        ("latin-1", b"\xe9???"),
        ("ascii", b"????"),
        ("cp1252", b"\xe9??\x85"),
        ("cp437", b"\x82???"),
    ],
)
def test_a_stream_in_any_code_page_writes_what_it_can(encoding: str, expected: bytes) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors=READABLE) as stream:
        stream.write("é\udce9\ufffd…")
        stream.flush()
        assert raw.getvalue() == expected


def test_files_of_text_and_json_hold_no_lone_surrogate(tmp_path: Path) -> None:
    from conceptlens.io.atomic import write_json
    from conceptlens.io.atomic import write_text as write_whole
    from conceptlens.io.fingerprint import texts_fingerprint

    write_whole(tmp_path / "page.html", f"<p>{LATIN}</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>caf\ufffd.png</p>"
    write_json(tmp_path / "numbers.json", {LATIN: [LATIN, ("é", 1)]})
    written = (tmp_path / "numbers.json").read_text(encoding="ascii")
    assert "\\udc" not in written
    assert "caf\\ufffd.png" in written
    assert texts_fingerprint([LATIN]) != texts_fingerprint([OTHER])


def test_marks_of_files_that_were_joined_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(2 * marked("cat\ndog\n", "utf-8-sig"))
    assert read_class_names(tmp_path / "marked.txt", "--class-names") == ["cat", "dog", "cat", "dog"]
