"""Which concepts does a vision model use, where in the image are they, and how much does each one count?

The public names are loaded when first used: `import conceptlens` alone does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from conceptlens import metrics as metrics
    from conceptlens import render as render
    from conceptlens.bottleneck.fit.fit_loc_cbm import fit_loc_cbm as fit_loc_cbm
    from conceptlens.bottleneck.module import Bottleneck as Bottleneck
    from conceptlens.cams.class_activation import cam as cam
    from conceptlens.cams.class_activation import combine as combine
    from conceptlens.cams.class_activation import heatmaps as heatmaps
    from conceptlens.cams.concept_target import Concept as Concept
    from conceptlens.cams.contrast import Contrast as Contrast
    from conceptlens.cams.contrast_choice import choose_contrast as choose_contrast
    from conceptlens.cams.detection_targets import Box as Box
    from conceptlens.cams.detection_targets import Detection as Detection
    from conceptlens.cams.detection_targets import MaxScore as MaxScore
    from conceptlens.cams.finer_cam import sweep as sweep
    from conceptlens.cams.image_scoring import scored_cells as scored_cells
    from conceptlens.cams.image_scoring import scored_images as scored_images
    from conceptlens.cams.image_scoring import similar_classes as similar_classes
    from conceptlens.cams.region_target import Region as Region
    from conceptlens.cams.rules import RULES as RULES
    from conceptlens.cams.rules import Rule as Rule
    from conceptlens.cams.targets import Logit as Logit
    from conceptlens.cams.targets import Probability as Probability
    from conceptlens.concept_regions.ce_fam import ce_fam as ce_fam
    from conceptlens.concept_regions.competition import Competition as Competition
    from conceptlens.concept_regions.competition import compete as compete
    from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam as fit_ce_fam
    from conceptlens.concept_regions.translator import Translator as Translator
    from conceptlens.concepts.class_knowledge import ClassKnowledge as ClassKnowledge
    from conceptlens.concepts.class_knowledge import read_knowledge as read_knowledge
    from conceptlens.concepts.concept_set import BottleneckConcept as BottleneckConcept
    from conceptlens.data.labelled_sets import open_classes as open_classes
    from conceptlens.data.masked_sets import open_set as open_set
    from conceptlens.discovery.discover import discover as discover
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts as DiscoveredConcepts
    from conceptlens.evaluation.evaluate_maps import evaluate as evaluate
    from conceptlens.explainer.explain import explain as explain
    from conceptlens.explainer.html_report import report as report
    from conceptlens.heads.fit_head import fit_head as fit_head
    from conceptlens.io.errors import InputError as InputError
    from conceptlens.io.errors import InputTypeError as InputTypeError
    from conceptlens.local_embeddings.analysis.store_analysis import analyze as analyze
    from conceptlens.local_embeddings.loce import loce as loce
    from conceptlens.local_embeddings.runs.embed_run import embed as embed
    from conceptlens.model.backbone import Backbone as Backbone
    from conceptlens.model.detector_output import Detections as Detections
    from conceptlens.model.observation import Observation as Observation
    from conceptlens.model.preprocess import Preprocess as Preprocess
    from conceptlens.model.zoo import load_model as load_model
    from conceptlens.model.zoo.weights import load_weights as load_weights
    from conceptlens.record import Explanation as Explanation
    from conceptlens.record import ImageInfo as ImageInfo
    from conceptlens.render import overlay as overlay
    from conceptlens.store.store import Store as Store

_HOMES = {
    "Backbone": "model.backbone",
    "Bottleneck": "bottleneck.module",
    "BottleneckConcept": "concepts.concept_set",
    "Box": "cams.detection_targets",
    "ClassKnowledge": "concepts.class_knowledge",
    "Competition": "concept_regions.competition",
    "Concept": "cams.concept_target",
    "Contrast": "cams.contrast",
    "Detection": "cams.detection_targets",
    "Detections": "model.detector_output",
    "DiscoveredConcepts": "discovery.discovered_concepts",
    "Explanation": "record",
    "ImageInfo": "record",
    "InputError": "io.errors",
    "InputTypeError": "io.errors",
    "Logit": "cams.targets",
    "MaxScore": "cams.detection_targets",
    "Observation": "model.observation",
    "Preprocess": "model.preprocess",
    "Probability": "cams.targets",
    "RULES": "cams.rules",
    "Region": "cams.region_target",
    "Rule": "cams.rules",
    "Store": "store.store",
    "Translator": "concept_regions.translator",
    "analyze": "local_embeddings.analysis.store_analysis",
    "cam": "cams.class_activation",
    "ce_fam": "concept_regions.ce_fam",
    "choose_contrast": "cams.contrast_choice",
    "combine": "cams.class_activation",
    "compete": "concept_regions.competition",
    "discover": "discovery.discover",
    "embed": "local_embeddings.runs.embed_run",
    "evaluate": "evaluation.evaluate_maps",
    "explain": "explainer.explain",
    "fit_ce_fam": "concept_regions.fit.fit_ce_fam",
    "fit_head": "heads.fit_head",
    "fit_loc_cbm": "bottleneck.fit.fit_loc_cbm",
    "heatmaps": "cams.class_activation",
    "load_model": "model.zoo",
    "load_weights": "model.zoo.weights",
    "loce": "local_embeddings.loce",
    "open_classes": "data.labelled_sets",
    "open_set": "data.masked_sets",
    "overlay": "render",
    "read_knowledge": "concepts.class_knowledge",
    "report": "explainer.html_report",
    "scored_cells": "cams.image_scoring",
    "scored_images": "cams.image_scoring",
    "similar_classes": "cams.image_scoring",
    "sweep": "cams.finer_cam",
}
_MODULES = ("metrics", "render")

__all__ = ["__version__", *sorted([*_HOMES, *_MODULES])]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first used."""
    if name in _MODULES:
        return importlib.import_module(f"conceptlens.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'conceptlens' has no attribute '{name}'; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"conceptlens.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
