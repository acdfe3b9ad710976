"""The report as one HTML file: it needs no server, no network and no other file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from conceptlens.io.atomic import write_text
from conceptlens.io.errors import InputError
from conceptlens.pages.static_page import colours_css, page_policy
from conceptlens.render import DIM, alpha_table, colour_table

# A script element ends at the first "</script", whatever the quotes around it; JSON may write these signs as escapes.
_UNSAFE = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_page(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the report page, and return its path.

    Args:
        data: What `page_content` returned.
        path: The file; its folder is made where it is missing.

    Raises:
        InputError: The path is a folder, cannot be written, or a number is NaN or infinite.
    """
    file = Path(path)
    text = page_html(data)
    write_text(file, text)
    return file


def page_html(data: Mapping[str, Any]) -> str:
    """Return the report page of what `page_content` returned, in the colours of `render`."""
    import jinja2

    templates = files("conceptlens.explainer") / "templates"
    style = colours_css() + (templates / "explain.css").read_text(encoding="utf-8")
    script = (templates / "explain.js").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (templates / "explain.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=data["title"],
        policy=page_policy(style, script),
        style=style,
        script=script,
        data=embed({**data, "colours": _colours()}),
    )


def embed(data: Mapping[str, Any]) -> str:
    """Return `data` as JSON that can stand inside a script element."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError("the report holds a number that is NaN or infinite; expected numbers, or None") from error
    return text.translate(str.maketrans(_UNSAFE))


def _colours() -> dict[str, Any]:
    """Return the colours as `render` paints them, and how opaque each of them is."""
    names = {"sequential": False, "signed": True}
    tables = {name: colour_table(signed).tolist() for name, signed in names.items()}
    return {**tables, "alpha": {name: alpha_table(signed).tolist() for name, signed in names.items()}, "dim": DIM}
