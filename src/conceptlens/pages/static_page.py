"""Pages without a script: one base style, and a policy that allows the page's own style and nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

SHARED = ("base.css", "table.css")


def colours_css() -> str:
    """Return the colours that all pages share, in light and in dark."""
    return (files("conceptlens.pages") / "templates" / "colours.css").read_text(encoding="utf-8")


def static_page(room: str, name: str, *styles: str, **content: Any) -> str:
    """Return a page: a template of a room, with the shared style and then the room's own, filled in with `content`.

    The style is allowed by its hash; images are embedded; the page makes no outside request.
    """
    import jinja2

    shared, own = (files(package) / "templates" for package in ("conceptlens.pages", room))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page, *parts = (
        environment.from_string(((shared if file in SHARED else own) / file).read_text(encoding="utf-8"))
        for file in (name, "base.css", *styles)
    )
    css = "\n".join([colours_css(), *(part.render(**content) for part in parts)])
    digest = base64.b64encode(hashlib.sha256(css.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return page.render(style=css, policy=policy, **content)
