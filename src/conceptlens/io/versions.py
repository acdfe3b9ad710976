"""The versions of the libraries that make a result."""

from __future__ import annotations

from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of ConceptLens and torch, without loading either."""
    return {name: version(name) for name in ("conceptlens", "torch")}
