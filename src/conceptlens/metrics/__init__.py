"""Metrics, sorted by what they need.

A map and a mask (`map_mask`), a map and keypoints (`keypoints`, with its baselines and the masks made of them), the
images that activate a concept most (`purity`), activations and labels (`auroc`, `leakage`, `impurity`), what else a
bottleneck is measured by (`bottleneck_metrics`); and confidence intervals of their means (`statistics.bootstrap`).
"""

from conceptlens.metrics.auroc import auroc_interval, class_labels, concept_auroc
from conceptlens.metrics.bottleneck_metrics import BOTTLENECK_METRICS, accuracy, activation_norm, effective_concepts
from conceptlens.metrics.impurity import Impurity, niche_impurity, oracle_impurity
from conceptlens.metrics.keypoint_baselines import centre_peaks, constant_peaks, swapped_error, uniform_maps
from conceptlens.metrics.keypoints import (
    Keypoints,
    centre_distance,
    keypoint_distance,
    keypoint_error,
    keypoint_own,
    keypoint_pointing,
    keypoint_swap,
)
from conceptlens.metrics.leakage import LabelledActivations, Leakage, concept_leakage, prevalence_thresholds
from conceptlens.metrics.map_mask import (
    MAP_MASK_METRICS,
    area,
    best_iou,
    hit,
    iou,
    map_mask_scores,
    peak,
    pixel_precision,
    pointing_energy,
    pointing_game,
    ranked_area,
    ranked_area_corrected,
)
from conceptlens.metrics.metric_table import Metric
from conceptlens.metrics.part_masks import box_masks, part_discs, part_mask_scores
from conceptlens.metrics.purity import Purity, merge_sides, part_purity
from conceptlens.statistics.bootstrap import Interval, bootstrap_difference, bootstrap_macro_mean, bootstrap_mean
from conceptlens.statistics.score import Score

__all__ = [
    "BOTTLENECK_METRICS",
    "MAP_MASK_METRICS",
    "Impurity",
    "Interval",
    "Keypoints",
    "LabelledActivations",
    "Leakage",
    "Metric",
    "Purity",
    "Score",
    "accuracy",
    "activation_norm",
    "area",
    "auroc_interval",
    "best_iou",
    "bootstrap_difference",
    "bootstrap_macro_mean",
    "bootstrap_mean",
    "box_masks",
    "centre_distance",
    "centre_peaks",
    "class_labels",
    "concept_auroc",
    "concept_leakage",
    "constant_peaks",
    "effective_concepts",
    "hit",
    "iou",
    "keypoint_distance",
    "keypoint_error",
    "keypoint_own",
    "keypoint_pointing",
    "keypoint_swap",
    "map_mask_scores",
    "merge_sides",
    "niche_impurity",
    "oracle_impurity",
    "part_discs",
    "part_mask_scores",
    "part_purity",
    "peak",
    "pixel_precision",
    "pointing_energy",
    "pointing_game",
    "prevalence_thresholds",
    "ranked_area",
    "ranked_area_corrected",
    "swapped_error",
    "uniform_maps",
]
