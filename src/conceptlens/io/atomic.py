"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conceptlens.io.errors import InputError
from conceptlens.io.json_text import json_text
from conceptlens.io.text_file import READABLE

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.part")


@contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `file` to write to; it takes the place of `file` when the block ends well.

    The folder is made where it is missing. Whatever goes wrong, `file` stays as it was.

    Raises:
        InputError: The path cannot be written.
    """
    target = Path(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)  # of a new file; some libraries take another
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror}); choose another path") from None
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror}); choose another path") from None
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(file: Path) -> bool:
    """Whether a file is a temporary one of `replacing`, which a killed process leaves."""
    return _TEMPORARY.fullmatch(file.name) is not None


def write_text(file: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, with `\\n` at the end of lines, by `replacing`; names outside UTF-8 by `readable_text`."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=READABLE, newline="\n")


def write_json(file: str | os.PathLike[str], document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON document, indented, by `replacing`; NaN and infinity are refused with a `ValueError`."""
    write_text(file, json_text(document, indent=1))
