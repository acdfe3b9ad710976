"""A file that could not be used, and why, so that the others go on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, and why."""

    name: str
    reason: str
