"""Pages of templates: one base style, and a policy that allows the page's own style and script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from conceptlens.io.images import jpeg
from conceptlens.io.versions import versions
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.palette import PAGE

if TYPE_CHECKING:
    from PIL import Image

SHARED = ("base.css", "table.css")


def colours_css() -> str:
    """Return the colours that all pages share, in light and in dark, as variables named as in `palette.PAGE`."""
    colours = "\n".join(f"  --{name}: light-dark({light}, {dark});" for name, (light, dark) in PAGE.items())
    rest = (files("conceptlens.pages") / "templates" / "colours.css").read_text(encoding="utf-8")
    return f":root {{\n{colours}\n}}\n{rest}"


def embedded(data: bytes, kind: str) -> str:
    """Return a file as the address of an image that is part of the page; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def embedded_photo(image: Image.Image) -> dict[str, Any]:
    """Return the address, width and height of an image, as JPEG."""
    return {"source": embedded(jpeg(image), "image/jpeg"), "width": image.width, "height": image.height}


def page_origin(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return what a page says of how it was made: when, with which settings and versions, by which command.

    Args:
        settings: By name; those that are None are left out.

    Returns:
        `created`, `settings` and `command`.
    """
    now = datetime.now().astimezone()
    plain = {
        name.replace("_", " "): ("yes" if value else "no") if isinstance(value, bool) else value
        for name, value in settings.items()
        if value is not None
    }
    return {
        "created": f"{now.day} {now:%B %Y, %H:%M}",
        "settings": {**plain, "versions": ", ".join(f"{name} {version}" for name, version in versions().items())},
        "command": shlex.join(["conceptlens", *sys.argv[1:]]),
    }


def page_policy(style: str, script: str | None = None, beside: bool = False) -> str:
    """Return a content policy that allows this style, this script, images in the page, and nothing else.

    Args:
        style: The text of the page's style element.
        script: The text of its script element; by default no script is allowed.
        beside: Whether the script may load files that lie beside the page: images, and scripts with data.
    """

    def only(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"

    images = "img-src data: 'self' file:" if beside else "img-src data:"
    rules = ["default-src 'none'", images, f"style-src {only(style)}"]
    dynamic = " 'strict-dynamic'" if beside else ""
    rules += [] if script is None else [f"script-src {only(script)}{dynamic}"]
    rules += ["base-uri 'none'", "form-action 'none'"]
    rules += [] if script is None else ["require-trusted-types-for 'script'"]
    return "; ".join(rules)


def static_page(
    room: str, name: str, *styles: str, script: str | None = None, beside: bool = False, **content: Any
) -> str:
    """Return a page: a template of a room, with the shared style and then the room's own, filled in with `content`.

    The style is allowed by its hash; images are embedded; the page makes no outside request. Templates write numbers
    with `number`, `signed` and `interval` of `number_format`.

    Args:
        room: The package whose `templates` hold the page and its own styles, such as `"conceptlens.localization"`.
        name: The file of the page.
        *styles: Files of styles, of this room or of `SHARED`, after the base style.
        script: The text of the page's script, which the template writes into a script element; by default none.
        beside: Whether the script may load files that lie beside the page.
        **content: What templates and styles are filled in with.

    Returns:
        The HTML text.
    """
    import jinja2

    shared, own = (files(package) / "templates" for package in ("conceptlens.pages", room))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals |= {"number": number, "signed": signed, "interval": interval_text}
    page, *parts = (
        environment.from_string(((shared if file in SHARED else own) / file).read_text(encoding="utf-8"))
        for file in (name, "base.css", *styles)
    )
    css = "\n".join([colours_css(), *(part.render(**content) for part in parts)])
    return page.render(style=css, script=script, policy=page_policy(css, script, beside), **content)
