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

# Called as compute(explained, scored, fill=...); RISE's settings have fills of their own and take none.
FAITHFULNESS_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("relative_drop_5", "relative drop, 5 %", _RD5, True, -2, 2, _ORDER, _FINER),
        Metric("relative_drop_10", "relative drop, 10 %", _RD10, True, -2, 2, _ORDER, _FINER),
        Metric("relative_drop_area", "relative drop, all shares", relative_drop_area, True, -2, 2, _ORDER, _FINER),
        Metric("deletion", "deletion", deletion, False, 0, 1, _ORDER, _RISE),
        Metric("insertion", "insertion", insertion, True, 0, 1, _ORDER, _RISE),
        Metric("rise_deletion", "deletion, RISE's settings", rise_deletion, False, 0, 1, _ORDER, _RISE),
        Metric("rise_insertion", "insertion, RISE's settings", rise_insertion, True, 0, 1, _ORDER, _RISE),
        Metric("average_drop", "average drop", average_drop, False, 0, 1, _MAP, _PLUS),
        Metric("increase_in_confidence", "increase in confidence", _CONFIDENCE, True, 0, 1, _MAP, _PLUS),
        Metric("road", "ROAD, combined", road, True, -0.5, 0.5, "0", _ROAD),
        Metric("road_most", "ROAD, most relevant first", _MOST, False, -1, 1, _ORDER, _ROAD),
        Metric("road_least", "ROAD, least relevant first", _LEAST, True, -1, 1, _ORDER, _ROAD),
        Metric("comprehensiveness", "comprehensiveness", comprehensiveness, True, -1, 1, _ORDER, _ERASER),
        Metric("sufficiency", "sufficiency", sufficiency, False, -1, 1, _ORDER, _ERASER),
        Metric("infidelity", "infidelity", infidelity, False, 0, _ANY, "that of a flat map", _YEH),
        Metric("completeness", "completeness", completeness, False, 0, _ANY, "1 of a map of zeros", _SUNDARARAJAN),
    )
}
# These take more than maps and a model: classes, groups of them, concepts, a function that explains again.
FURTHER_FAITHFULNESS_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("contrastive_class_score", "RFxG, classes", contrastive_class_score, False, -0.8, 0.8, _ORDER, _RFXG),
        Metric("class_group_score", "RFxG, class and group", class_group_score, False, -0.8, 0.8, _ORDER, _RFXG),
        Metric("pointwise_group_score", "RFxG, group", pointwise_group_score, True, -0.8, 0.8, _ORDER, _RFXG),
        Metric("contrastive_group_score", "RFxG, groups", contrastive_group_score, False, -0.8, 0.8, _ORDER, _RFXG),
        Metric("group_relative_drop", "relative drop of groups", group_relative_drop, True, -1.6, 1.6, _ORDER, _FINER),
        Metric("concept_deletion", "deletion of concepts", concept_deletion, False, 0, 1, _ORDER, _AFTER_RISE),
        Metric("concept_insertion", "insertion of concepts", concept_insertion, True, 0, 1, _ORDER, _AFTER_RISE),
        Metric("max_sensitivity", "max-sensitivity", max_sensitivity, False, 0, _ANY, "0 of a fixed map", _YEH),
    )
}
