"""One report, one HTML file: it needs no server, no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.render import DIM, alpha_table, colour_table

SCHEMA = "conceptlens.report/1"
_NEEDED = {
    "report": ("schema", "title", "created", "versions", "images"),
    "image": (
        *("name", "picture", "width", "height", "box", "model", "layer", "target", "against"),
        *("predictions", "questions", "contrast", "settings", "command"),
    ),
    "question": ("kind", "label", "type", "score", "z_score", "contribution", "peak", "area", "signed", "map"),
    "contrast": ("target", "gamma", "references", "maps"),
    "map": ("height", "width", "values"),
}
# A script element ends at the first "</script", whatever the quotes around it; JSON may spell these signs as it likes.
_UNSAFE = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_page(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the report page of `data` to `path` and return the path.

    The file appears whole or not at all: it is written beside its place and then moved there.
    """
    place = Path(path)
    if place.is_dir():
        raise InputError(f"cannot write a page to '{place}', which is a folder; give a file name in it")
    text = page(data)
    with replacing(place) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return place


def page(data: Mapping[str, Any]) -> str:
    """Return the report page of `data` as HTML, its colours taken from `render`."""
    import jinja2

    check(data)
    templates = files("conceptlens.explainer") / "templates"
    style = (templates / "explain.css").read_text(encoding="utf-8")
    script = (templates / "explain.js").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (templates / "explain.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=data["title"],
        policy=_policy(style, script),
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


def check(data: Mapping[str, Any]) -> None:
    """Refuse data that the page could not show, naming the place."""
    _has(data, "report", "the report")
    if data["schema"] != SCHEMA:
        raise InputError(f"the report's schema is '{data['schema']}'; this version shows '{SCHEMA}'")
    if not data["images"]:
        raise InputError("the report holds no image; expected at least one")
    for image in data["images"]:
        _has(image, "image", f"image '{image.get('name')}'")
        place = f"image '{image['name']}'"
        if not str(image["picture"]).startswith("data:image/"):
            raise InputError(f"the picture of {place} is an address; expected its content, 'data:image/…'")
        if not image["questions"]:
            raise InputError(f"{place} has no question; expected at least one")
        for question in image["questions"]:
            _has(question, "question", f"question '{question.get('label')}' of {place}")
            _check_map(question["map"], f"question '{question['label']}' of {place}")
        if image["contrast"] is not None:
            _check_contrast(image["contrast"], f"the contrast of {place}")


def _check_contrast(contrast: Mapping[str, Any], place: str) -> None:
    _has(contrast, "contrast", place)
    grids = [contrast["maps"]["target"], *contrast["maps"]["references"]]
    for grid in grids:
        _check_map(grid, place)
    if len({(g["height"], g["width"]) for g in grids}) > 1 or len(grids) != 1 + len(contrast["references"]):
        raise InputError(f"{place} needs one map for the target and one for each reference, all of one size")


def _check_map(grid: Mapping[str, Any], place: str) -> None:
    _has(grid, "map", f"the map of {place}")
    count = len(grid["values"])
    if count == 0 or count != grid["height"] * grid["width"]:
        raise InputError(f"the map of {place} has {count} values; expected {grid['height']} x {grid['width']}")
    if not all(math.isfinite(value) for value in grid["values"]):
        raise InputError(f"the map of {place} holds values that are NaN or infinite; expected numbers")


def _has(part: Mapping[str, Any], kind: str, place: str) -> None:
    missing = [key for key in _NEEDED[kind] if key not in part]
    if missing:
        raise InputError(f"{place} lacks {', '.join(missing)}; expected {', '.join(_NEEDED[kind])}")


def _colours() -> dict[str, Any]:
    """Return the colours as `render` paints them, and how opaque each of them is."""
    names = {"sequential": False, "signed": True}
    tables = {name: colour_table(signed).tolist() for name, signed in names.items()}
    return {**tables, "alpha": {name: alpha_table(signed).tolist() for name, signed in names.items()}, "dim": DIM}


def _policy(style: str, script: str) -> str:
    """Return a content policy that allows this one style, this one script, pictures in the page, and nothing else."""

    def only(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"

    return (
        f"default-src 'none'; img-src data:; style-src {only(style)}; script-src {only(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
