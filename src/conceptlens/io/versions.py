"""The versions of the libraries that make a result."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of ConceptLens and torch, without loading either."""
    return {name: _installed(name) for name in ("conceptlens", "torch")}


@cache
def _installed(name: str) -> str:
    return version(name)
