"""Columns that ask about a class against another, or about groups of classes, and how far noise moves a map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.benchmark.protocol import Measure
from conceptlens.metrics.attribution_checks import max_sensitivity
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS, FURTHER_FAITHFULNESS_METRICS
from conceptlens.metrics.relative_drops import class_pairs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.benchmark.class_groups import ClassGroups
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages
    from conceptlens.statistics.score import Score

SENSITIVITY = Measure("max_sensitivity")
# The noise's largest size in units of the network's input, and how many draws.
NOISE = {"radius": 0.02, "samples": 10}
# What metrics of classes and groups are given beside maps.
GIVEN: Mapping[str, tuple[str, ...]] = {
    "contrastive_class_score": ("rivals",),
    "class_group_score": ("groups",),
    "pointwise_group_score": ("groups",),
    "contrastive_group_score": ("groups", "rival_groups"),
    "group_relative_drop": ("groups", "rival_groups"),
}
# The question of each metric by the two axes of RFxG: about one thing or against another; about a class or a group.
ASKS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(FAITHFULNESS_METRICS, ("pointwise", "class")),
    **dict.fromkeys(("relative_drop_5", "relative_drop_10", "relative_drop_area"), ("contrastive", "class")),
    SENSITIVITY.metric: ("pointwise", "class"),
    "contrastive_class_score": ("contrastive", "class"),
    "class_group_score": ("contrastive", "class in its group"),
    "pointwise_group_score": ("pointwise", "group"),
    "contrastive_group_score": ("contrastive", "group"),
    "group_relative_drop": ("contrastive", "group"),
}


def needs_groups(measure: Measure) -> bool:
    """Whether a column asks about a group of classes.

    Args:
        measure: The column.
    """
    return "groups" in GIVEN.get(measure.metric, ())


def question_scores(
    explained: Maps,
    scored: ScoredImages,
    measures: Sequence[Measure],
    groups: ClassGroups | None,
    seed: int = 0,
) -> dict[Measure, Score]:
    """Return metrics that stand a class against its likeliest rival, or its group against that of such a rival.

    Args:
        explained: Maps of one photo.
        scored: The photo, with the probabilities of all classes and the class of each question, all the same.
        measures: Metrics of `GIVEN`, each with a fill.
        groups: The groups of the classes, where a metric asks about one.
        seed: Draws the order of equal pixels and noise.

    Raises:
        InputError: As in the metrics themselves.
    """
    if not measures:
        return {}
    pairs = class_pairs(scored, "highest")
    own = pairs.classes
    given: dict[str, Tensor] = {"rivals": pairs.rivals}
    if groups is not None:
        row = torch.zeros(1, dtype=torch.long, device=scored.images.device)
        target = int(own[0, 0])
        rival = groups.rival(target, scored.run_classes(scored.images[:1], row)[0])
        for name, one in (("groups", groups.members[target]), ("rival_groups", rival)):
            given[name] = one.expand(*own.shape, -1)
    return {
        measure: FURTHER_FAITHFULNESS_METRICS[measure.metric].compute(
            explained, scored, **{name: given[name] for name in GIVEN[measure.metric]}, fill=measure.fill, seed=seed
        )
        for measure in measures
    }


def sensitivity_score(
    explain: Callable[[Float[Tensor, "1 colour rows columns"]], Maps],
    images: Float[Tensor, "1 colour rows columns"],
    seed: int = 0,
) -> Score:
    """Return how far noise moves each method's map at most.

    Args:
        explain: Explains a prepared photo again, by all methods.
        images: The photo as the network takes it.
        seed: Draws the noise.
    """
    return max_sensitivity(explain, images, NOISE["radius"], int(NOISE["samples"]), seed)


def question_settings(measure: Measure, groups: ClassGroups | None) -> dict[str, object]:
    """Return what a protocol says of a column's question: its two axes, and the groups and rivals that it asks about.

    Args:
        measure: The column.
        groups: The groups of the classes.
    """
    found: dict[str, object] = {"asks": list(ASKS[measure.metric])}
    if measure == SENSITIVITY:
        return {**found, **NOISE}
    if "rival_groups" in GIVEN.get(measure.metric, ()):
        found["rival_groups"] = "of the likeliest class outside"
    if needs_groups(measure) and groups is not None:
        found["groups"] = [groups.source, groups.fingerprint]
    return found
