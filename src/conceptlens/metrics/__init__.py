"""Metrics, sorted by what they need.

A map and a mask (`map_mask`), a map and a model (`faithfulness`, `relative_drops`, `attribution_checks`,
`group_scores`; concepts and a model: `concept_removal`), a map and keypoints (`keypoints`, with its baselines and the
masks made of them), the images that activate a concept most (`purity`), activations and labels (`auroc`, `leakage`,
`impurity`), what else a bottleneck is measured by (`bottleneck_metrics`); and confidence intervals of their means
(`statistics.bootstrap`).
"""

from conceptlens.metrics.attribution_checks import completeness as completeness
from conceptlens.metrics.attribution_checks import infidelity as infidelity
from conceptlens.metrics.attribution_checks import max_sensitivity as max_sensitivity
from conceptlens.metrics.auroc import auroc_interval as auroc_interval
from conceptlens.metrics.auroc import class_labels as class_labels
from conceptlens.metrics.auroc import concept_auroc as concept_auroc
from conceptlens.metrics.bottleneck_metrics import BOTTLENECK_METRICS as BOTTLENECK_METRICS
from conceptlens.metrics.bottleneck_metrics import accuracy as accuracy
from conceptlens.metrics.bottleneck_metrics import activation_norm as activation_norm
from conceptlens.metrics.bottleneck_metrics import effective_concepts as effective_concepts
from conceptlens.metrics.concept_removal import concept_deletion as concept_deletion
from conceptlens.metrics.concept_removal import concept_insertion as concept_insertion
from conceptlens.metrics.faithfulness import average_drop as average_drop
from conceptlens.metrics.faithfulness import comprehensiveness as comprehensiveness
from conceptlens.metrics.faithfulness import deletion as deletion
from conceptlens.metrics.faithfulness import increase_in_confidence as increase_in_confidence
from conceptlens.metrics.faithfulness import insertion as insertion
from conceptlens.metrics.faithfulness import road as road
from conceptlens.metrics.faithfulness import sufficiency as sufficiency
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS as FAITHFULNESS_METRICS
from conceptlens.metrics.faithfulness_table import FURTHER_FAITHFULNESS_METRICS as FURTHER_FAITHFULNESS_METRICS
from conceptlens.metrics.group_scores import class_group_score as class_group_score
from conceptlens.metrics.group_scores import contrastive_class_score as contrastive_class_score
from conceptlens.metrics.group_scores import contrastive_group_score as contrastive_group_score
from conceptlens.metrics.group_scores import group_relative_drop as group_relative_drop
from conceptlens.metrics.group_scores import pointwise_group_score as pointwise_group_score
from conceptlens.metrics.impurity import Impurity as Impurity
from conceptlens.metrics.impurity import niche_impurity as niche_impurity
from conceptlens.metrics.impurity import oracle_impurity as oracle_impurity
from conceptlens.metrics.keypoint_baselines import centre_peaks as centre_peaks
from conceptlens.metrics.keypoint_baselines import constant_peaks as constant_peaks
from conceptlens.metrics.keypoint_baselines import swapped_error as swapped_error
from conceptlens.metrics.keypoint_baselines import uniform_maps as uniform_maps
from conceptlens.metrics.keypoints import Keypoints as Keypoints
from conceptlens.metrics.keypoints import centre_distance as centre_distance
from conceptlens.metrics.keypoints import keypoint_distance as keypoint_distance
from conceptlens.metrics.keypoints import keypoint_error as keypoint_error
from conceptlens.metrics.keypoints import keypoint_own as keypoint_own
from conceptlens.metrics.keypoints import keypoint_pointing as keypoint_pointing
from conceptlens.metrics.keypoints import keypoint_swap as keypoint_swap
from conceptlens.metrics.leakage import LabelledActivations as LabelledActivations
from conceptlens.metrics.leakage import Leakage as Leakage
from conceptlens.metrics.leakage import concept_leakage as concept_leakage
from conceptlens.metrics.leakage import prevalence_thresholds as prevalence_thresholds
from conceptlens.metrics.map_mask import MAP_MASK_METRICS as MAP_MASK_METRICS
from conceptlens.metrics.map_mask import area as area
from conceptlens.metrics.map_mask import best_iou as best_iou
from conceptlens.metrics.map_mask import hit as hit
from conceptlens.metrics.map_mask import iou as iou
from conceptlens.metrics.map_mask import map_mask_scores as map_mask_scores
from conceptlens.metrics.map_mask import peak as peak
from conceptlens.metrics.map_mask import pixel_precision as pixel_precision
from conceptlens.metrics.map_mask import pointing_energy as pointing_energy
from conceptlens.metrics.map_mask import pointing_game as pointing_game
from conceptlens.metrics.map_mask import ranked_area as ranked_area
from conceptlens.metrics.map_mask import ranked_area_corrected as ranked_area_corrected
from conceptlens.metrics.part_masks import box_masks as box_masks
from conceptlens.metrics.part_masks import part_discs as part_discs
from conceptlens.metrics.part_masks import part_mask_scores as part_mask_scores
from conceptlens.metrics.pixel_fills import FILLS as FILLS
from conceptlens.metrics.pixel_removal import RemovalCurves as RemovalCurves
from conceptlens.metrics.pixel_removal import removal_curves as removal_curves
from conceptlens.metrics.purity import Purity as Purity
from conceptlens.metrics.purity import merge_sides as merge_sides
from conceptlens.metrics.purity import part_purity as part_purity
from conceptlens.metrics.relative_drops import relative_drop as relative_drop
from conceptlens.metrics.relative_drops import relative_drop_area as relative_drop_area
from conceptlens.metrics.relative_drops import relative_drop_curves as relative_drop_curves
from conceptlens.metrics.scored_images import ScoredImages as ScoredImages
from conceptlens.metrics.scored_images import score_module as score_module
from conceptlens.metrics.shared_removal import removal_scores as removal_scores
from conceptlens.statistics.bootstrap import Interval as Interval
from conceptlens.statistics.bootstrap import bootstrap_difference as bootstrap_difference
from conceptlens.statistics.bootstrap import bootstrap_macro_mean as bootstrap_macro_mean
from conceptlens.statistics.bootstrap import bootstrap_mean as bootstrap_mean
from conceptlens.statistics.score import Metric as Metric
from conceptlens.statistics.score import Score as Score
