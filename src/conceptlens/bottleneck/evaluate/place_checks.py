"""Checks of where maps lie: what an evaluation found of each concept, and how a bottleneck's folder keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.bottleneck.map_evidence import MapEvidence, PlaceCheck, recorded_checks

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, ConceptResult
    from conceptlens.bottleneck.module import Bottleneck


def evidence_with_checks(
    evidence: Sequence[MapEvidence], concepts: Sequence[ConceptResult], data: str
) -> tuple[MapEvidence, ...]:
    """Return what is known of each map, with what an evaluation on `data` found in the stead of earlier checks."""
    checks = (_check(one, data) for one in concepts)
    return tuple(
        one if check is None else replace(one, check=check) for one, check in zip(evidence, checks, strict=True)
    )


def record_checks(folder: str | Path, bottleneck: Bottleneck, result: BottleneckResult) -> int:
    """Write into a bottleneck's folder which concepts' places an evaluation checked, and return how many.

    Explanations of the bottleneck then say so of each concept. Nothing is written where none was checked.
    """
    checks = {one.label: check for one in result.concepts if (check := _check(one, result.data)) is not None}
    if checks:
        bottleneck.training_record = recorded_checks(bottleneck.training_record, checks)
        bottleneck.save_pretrained(folder)
    return len(checks)


def _check(one: ConceptResult, data: str) -> PlaceCheck | None:
    if not one.keypoint_photos or one.pointing is None or one.keypoint_error is None:
        return None
    nearer = None if one.constant_error is None else one.keypoint_error < one.constant_error
    return PlaceCheck(data, one.keypoint_photos, one.pointing, nearer)
