"""Text that people and file systems write: files in UTF-8 or with a byte order mark, names that are no text."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path

from conceptlens.io.errors import InputError

# How an encoder writes what it cannot: the name of a handler for `errors=`.
READABLE = "conceptlens.readable"

# Byte order marks and what they say; the mark of UTF-32 begins as that of UTF-16 does.
_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEADING_MARKS = re.compile("^\ufeff+", re.MULTILINE)  # of a line too: files were joined that had marks
_SURROGATES = re.compile("[\ud800-\udfff]")
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that no byte of a name became


def read_text(path: str | os.PathLike[str], advice: str) -> str:
    """Return the text of a file in UTF-8, or in what its byte order mark says: UTF-8, UTF-16 or UTF-32.

    Args:
        path: The file.
        advice: What to do where it cannot be read; the end of the error's sentence.

    Returns:
        The text, with `\\n` at the end of lines.

    Raises:
        InputError: The file cannot be read, or is not such text: line and byte are named.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read {str(file)!r} ({reason}); {advice}") from error
    encoding = encoding_of(content)
    marked = "" if encoding == "utf-8" else encoding
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(_not_text(file, content, error.start, marked)) from error
    if not marked and "\0" in text:
        raise InputError(
            f"{str(file)!r} is not UTF-8 text: byte {content.index(0) + 1} is 0, as in UTF-16 without a byte order "
            "mark, or in a file that is no text; save it as UTF-8"
        )
    return _LEADING_MARKS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def encoding_of(start: bytes) -> str:
    """Return the encoding that the byte order mark at the start of a file says: UTF-8 without one.

    Args:
        start: The first bytes of the file, or all.
    """
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def _not_text(file: Path, content: bytes, start: int, marked: str) -> str:
    """Say at which byte a file is not the text that it should be, and what that byte may mean."""
    if marked:
        name = marked.removesuffix("-sig").upper()
        return f"{str(file)!r} begins as {name} and is none at byte {start + 1}; save it as UTF-8"
    line = content[:start].count(b"\n") + 1
    byte = content[start]
    meant = f" ({chr(byte)!r} in Latin-1)" if chr(byte).isprintable() else ""
    return (
        f"{str(file)!r} is not UTF-8 text: byte {start + 1}, in line {line}, is 0x{byte:02X}{meant}; "
        "save it as UTF-8, which editors offer beside Latin-1 or Windows-1252"
    )


def readable_text(text: str) -> str:
    """Return a text that any file can hold: without the lone surrogates that a file name outside UTF-8 has in Python.

    Args:
        text: Any text.

    Returns:
        The same text; bytes of a name that are UTF-8 after all, as under another locale, become its characters, and
        every other surrogate U+FFFD, the replacement character.
    """
    if not _SURROGATES.search(text):
        return text
    return _NO_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def readable_names(names: Iterable[str]) -> list[str]:
    """Return names by `readable_text`, in their order; those that become another one's get a number, as in `a (2)`.

    Args:
        names: Names, each once.
    """
    given = list(names)
    if not _SURROGATES.search("\0".join(given)):
        return given
    taken = {name for name in given if not _SURROGATES.search(name)}
    found = []
    for name in given:
        shown = plain = readable_text(name)
        number = 1
        while shown != name and shown in taken:
            number += 1
            shown = f"{plain} ({number})"
        taken.add(shown)
        found.append(shown)
    return found


def _replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that an encoding lacks, and where to go on: a handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    utf8 = error.encoding.lower().replace("_", "-") in ("utf-8", "utf8")  # its encoder takes more than ASCII as bytes
    return (readable_text(part).encode() if utf8 else "?" * len(part)), error.end


codecs.register_error(READABLE, _replacement)
