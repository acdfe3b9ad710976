"""Text files that people write: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import os
from pathlib import Path

from conceptlens.io.errors import InputError


def read_text(path: str | os.PathLike[str], advice: str) -> str:
    """Return the text of a UTF-8 file.

    Args:
        path: The file.
        advice: What to do where it cannot be read; the end of the error's sentence.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    file = Path(path)
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read {str(file)!r} ({reason}); {advice}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r} is not UTF-8 text; {advice}") from error
