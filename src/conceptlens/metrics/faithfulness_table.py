"""The metrics of a map and a model as a table: direction, range, chance level and source of each."""

from __future__ import annotations

from functools import partial

from conceptlens.metrics.attribution_checks import completeness, infidelity, max_sensitivity
from conceptlens.metrics.concept_removal import concept_deletion, concept_insertion
from conceptlens.metrics.faithfulness import (
    comprehensiveness,
    deletion,
    insertion,
    road,
    sufficiency,
)
from conceptlens.metrics.group_scores import (
    class_group_score,
    contrastive_class_score,
    contrastive_group_score,
    group_relative_drop,
    pointwise_group_score,
)
from conceptlens.metrics.relative_drops import relative_drop, relative_drop_area
from conceptlens.metrics.rise_settings import rise_deletion, rise_insertion
from conceptlens.metrics.soft_masks import average_drop, increase_in_confidence
from conceptlens.statistics.score import Metric

_ANY = float("inf")
_ORDER, _MAP = "that of a random order", "that of a random map"
_FINER, _RISE = "Finer-CAM, Zhang et al., CVPR 2025", "RISE, Petsiuk et al., BMVC 2018"
_ERASER, _ROAD = "ERASER, DeYoung et al., ACL 2020", "ROAD, Rong et al., ICML 2022"
_PLUS, _YEH = "Grad-CAM++, Chattopadhay et al., WACV 2018", "Yeh et al., NeurIPS 2019"
_RFXG, _SUNDARARAJAN = "RFxG, Elisha et al., AAAI 2026, released code", "Sundararajan et al., ICML 2017"
_AFTER_RISE = "this package, after RISE"
_RD5, _RD10 = partial(relative_drop, share=0.05), partial(relative_drop, share=0.1)
_MOST, _LEAST = partial(road, order="most"), partial(road, order="least")
_CONFIDENCE = increase_in_confidence
_PROBABLE, _ANY_SCORE, _AGAIN = ("map", "probability"), ("map", "any score"), ("explain again",)
_CLASSES = ("map", "all probabilities")
_RIVAL, _GROUPS = (*_CLASSES, "class", "rival class"), (*_CLASSES, "group", "rival group")
_CONCEPTS = ("concept places", "contributions", "probability")

# Called as compute(explained, scored, fill=...); RISE's settings have fills of their own and take none.
FAITHFULNESS_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("relative_drop_5", "relative drop, 5 %", _RD5, True, -2, 2, _ORDER, _FINER, _RIVAL),
        Metric("relative_drop_10", "relative drop, 10 %", _RD10, True, -2, 2, _ORDER, _FINER, _RIVAL),
        Metric("relative_drop_area", "relative drop, all shares", relative_drop_area, True, -2, 2, _ORDER, _FINER,
               _RIVAL),
        Metric("deletion", "deletion", deletion, False, 0, 1, _ORDER, _RISE, _PROBABLE),
        Metric("insertion", "insertion", insertion, True, 0, 1, _ORDER, _RISE, _PROBABLE),
        Metric("rise_deletion", "deletion, RISE's settings", rise_deletion, False, 0, 1, _ORDER, _RISE, _PROBABLE),
        Metric("rise_insertion", "insertion, RISE's settings", rise_insertion, True, 0, 1, _ORDER, _RISE, _PROBABLE),
        Metric("average_drop", "average drop", average_drop, False, 0, 1, _MAP, _PLUS, _PROBABLE),
        Metric("increase_in_confidence", "increase in confidence", _CONFIDENCE, True, 0, 1, _MAP, _PLUS, _PROBABLE),
        Metric("road", "ROAD, combined", road, True, -0.5, 0.5, "0", _ROAD, _ANY_SCORE),
        Metric("road_most", "ROAD, most relevant first", _MOST, False, -1, 1, _ORDER, _ROAD, _ANY_SCORE),
        Metric("road_least", "ROAD, least relevant first", _LEAST, True, -1, 1, _ORDER, _ROAD, _ANY_SCORE),
        Metric("comprehensiveness", "comprehensiveness", comprehensiveness, True, -1, 1, _ORDER, _ERASER, _PROBABLE),
        Metric("sufficiency", "sufficiency", sufficiency, False, -1, 1, _ORDER, _ERASER, _PROBABLE),
        Metric("infidelity", "infidelity", infidelity, False, 0, _ANY, "that of a flat map", _YEH, _ANY_SCORE),
        Metric("completeness", "completeness", completeness, False, 0, _ANY, "1 of a map of zeros", _SUNDARARAJAN,
               _ANY_SCORE),
    )
}  # fmt: skip
# These take more than maps and a model: classes, groups of them, concepts, a function that explains again.
FURTHER_FAITHFULNESS_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("contrastive_class_score", "RFxG, classes", contrastive_class_score, False, -0.8, 0.8, _ORDER, _RFXG,
               _RIVAL),
        Metric("class_group_score", "RFxG, class and group", class_group_score, False, -0.8, 0.8, _ORDER, _RFXG,
               (*_CLASSES, "class", "group")),
        Metric("pointwise_group_score", "RFxG, group", pointwise_group_score, True, -0.8, 0.8, _ORDER, _RFXG,
               (*_CLASSES, "group")),
        Metric("contrastive_group_score", "RFxG, groups", contrastive_group_score, False, -0.8, 0.8, _ORDER, _RFXG,
               _GROUPS),
        Metric("group_relative_drop", "relative drop of groups", group_relative_drop, True, -1.6, 1.6, _ORDER, _FINER,
               _GROUPS),
        Metric("concept_deletion", "deletion of concepts", concept_deletion, False, 0, 1, _ORDER, _AFTER_RISE,
               _CONCEPTS),
        Metric("concept_insertion", "insertion of concepts", concept_insertion, True, 0, 1, _ORDER, _AFTER_RISE,
               _CONCEPTS),
        Metric("max_sensitivity", "max-sensitivity", max_sensitivity, False, 0, _ANY, "0 of a fixed map", _YEH, _AGAIN),
    )
}  # fmt: skip
