"""Which concepts does a vision model use, where in the image are they, and how much does each one count?

The public names are loaded when first used: `import conceptlens` alone does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from conceptlens.activation_map import cam as cam
    from conceptlens.activation_map import combine as combine
    from conceptlens.backbone import Backbone as Backbone
    from conceptlens.concept.bottleneck.module import Bottleneck as Bottleneck
    from conceptlens.concept.ce_fam import ce_fam as ce_fam
    from conceptlens.concept.competition import Competition as Competition
    from conceptlens.concept.competition import compete as compete
    from conceptlens.concept.explain import explain as explain
    from conceptlens.concept.loce import loce as loce
    from conceptlens.concept.translator import Translator as Translator
    from conceptlens.contrast import Contrast as Contrast
    from conceptlens.data.classified import open_classes as open_classes
    from conceptlens.data.sets import open_set as open_set
    from conceptlens.error import InputError as InputError
    from conceptlens.finer import sweep as sweep
    from conceptlens.fit.ce_fam import fit_ce_fam as fit_ce_fam
    from conceptlens.fit.loc_cbm import fit_loc_cbm as fit_loc_cbm
    from conceptlens.observe import Observation as Observation
    from conceptlens.preprocess import Preprocess as Preprocess
    from conceptlens.record import Explanation as Explanation
    from conceptlens.reporting.report import report as report
    from conceptlens.rule import RULES as RULES
    from conceptlens.rule import Rule as Rule
    from conceptlens.store.store import Store as Store
    from conceptlens.target import Concept as Concept
    from conceptlens.target import Logit as Logit
    from conceptlens.target import Probability as Probability
    from conceptlens.text.concept_set import BottleneckConcept as BottleneckConcept
    from conceptlens.zoo import load_model as load_model

_HOMES = {
    "Backbone": "backbone",
    "Bottleneck": "concept.bottleneck.module",
    "BottleneckConcept": "text.concept_set",
    "Competition": "concept.competition",
    "Concept": "target",
    "Contrast": "contrast",
    "Explanation": "record",
    "InputError": "error",
    "Logit": "target",
    "Observation": "observe",
    "Preprocess": "preprocess",
    "Probability": "target",
    "RULES": "rule",
    "Rule": "rule",
    "Store": "store.store",
    "Translator": "concept.translator",
    "cam": "activation_map",
    "ce_fam": "concept.ce_fam",
    "combine": "activation_map",
    "compete": "concept.competition",
    "explain": "concept.explain",
    "fit_ce_fam": "fit.ce_fam",
    "fit_loc_cbm": "fit.loc_cbm",
    "load_model": "zoo",
    "loce": "concept.loce",
    "open_classes": "data.classified",
    "open_set": "data.sets",
    "report": "reporting.report",
    "sweep": "finer",
}
_FOLDERS = ("metric",)

__all__ = ["__version__", *sorted([*_HOMES, *_FOLDERS])]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first used."""
    if name in _FOLDERS:
        return importlib.import_module(f"conceptlens.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'conceptlens' has no attribute '{name}'; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"conceptlens.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
