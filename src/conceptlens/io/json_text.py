"""JSON that every reader takes: texts without lone surrogates, no NaN, no infinity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from conceptlens.io.text_file import readable_text


def json_text(document: Any, **layout: Any) -> str:
    """Return a document as JSON; texts are those of `readable_text`, so a name outside UTF-8 is shown and not lost.

    Args:
        document: What JSON holds.
        **layout: Options of `json.dumps`, such as `indent`.

    Raises:
        ValueError: It holds NaN or an infinite number, and `allow_nan` is not given.
    """
    layout = {"allow_nan": False, **layout}
    text = json.dumps(document, **layout)
    if "\\ud" not in text and text.isascii():
        return text
    return json.dumps(_readable(document), **layout)


def _readable(value: Any) -> Any:
    """Return a value with every text in it readable."""
    if isinstance(value, str):
        return readable_text(value)
    if isinstance(value, Mapping):
        return {_readable(key): _readable(one) for key, one in value.items()}
    return [_readable(one) for one in value] if isinstance(value, list | tuple) else value
