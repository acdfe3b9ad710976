"""The suites by name, which the command line and the documentation read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conceptlens.benchmark.class_suites import PreparedSuite, SuiteOptions, faithfulness_suite, finer_cam_suite
from conceptlens.io.errors import InputError, near


@dataclass(frozen=True)
class SuiteKind:
    """One entry of `SUITES`.

    Attributes:
        name: Its name on the command line.
        about: What it answers, in one line.
        build: Makes it ready.
    """

    name: str
    about: str
    build: Callable[[SuiteOptions], PreparedSuite]


SUITES: dict[str, SuiteKind] = {
    kind.name: kind
    for kind in (
        SuiteKind("faithfulness", "which rule of class maps says what the model uses", faithfulness_suite),
        SuiteKind("finer-cam", "what Finer-CAM's contrast adds to each rule", finer_cam_suite),
    )
}


def suite_kind(name: str) -> SuiteKind:
    """Return a suite by name.

    Args:
        name: A name of `SUITES`.

    Raises:
        InputError: There is no such suite.
    """
    if name not in SUITES:
        raise InputError(f"no suite '{name}'; suites: {near(name, SUITES, len(SUITES))}")
    return SUITES[name]
