"""The suites by name, which the command line and the documentation read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conceptlens.benchmark.bottleneck_suite import loc_cbm_suite
from conceptlens.benchmark.class_suites import faithfulness_suite, finer_cam_suite
from conceptlens.benchmark.concept_suites import ce_fam_suite
from conceptlens.benchmark.embedding_suite import loce_suite
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions
from conceptlens.io.errors import InputError, near


@dataclass(frozen=True)
class SuiteKind:
    """One entry of `SUITES`.

    Attributes:
        name: Its name on the command line.
        about: What it answers, in one line.
        build: Makes it ready.
        crop_mode: How photos are brought to the model's input where nothing else is said; `None` as it was trained.
        needs_model: Whether it measures a model.
        takes_bottleneck: Whether it measures fitted bottlenecks.
        randomises: Whether a network with random weights can be one of its controls.
    """

    name: str
    about: str
    build: Callable[[SuiteOptions], PreparedSuite]
    crop_mode: str | None = None
    needs_model: bool = True
    takes_bottleneck: bool = False
    randomises: bool = False


SUITES: dict[str, SuiteKind] = {
    kind.name: kind
    for kind in (
        SuiteKind(
            "faithfulness", "which rule of class maps says what the model uses", faithfulness_suite, randomises=True
        ),
        SuiteKind("finer-cam", "what Finer-CAM's contrast adds to each rule", finer_cam_suite, randomises=True),
        # The whole photo, so that maps and masks cover the same.
        SuiteKind("ce-fam", "which map shows where a named concept is, against masks", ce_fam_suite, "squash"),
        SuiteKind(
            "loc-cbm", "whether concepts of bottlenecks point at their parts", loc_cbm_suite, takes_bottleneck=True
        ),
        SuiteKind("loce", "in which layer of a store concepts find their own", loce_suite, needs_model=False),
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
        raise InputError(f"no suite '{name}'; {near(name, SUITES, 'suites')}")
    return SUITES[name]
