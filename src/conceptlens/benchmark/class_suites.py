"""The suites of class maps: `faithfulness`, rules against controls; `finer-cam`, rules with and without contrast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_photos import open_photos
from conceptlens.benchmark.class_map_task import BOX, ClassMapTask
from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.map_measures import SOFT
from conceptlens.benchmark.map_methods import (
    CONTROLS,
    MapMethod,
    chosen_method,
    compared_with,
    contrast_method,
    map_methods,
)
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions, refuse_options
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.pixel_fills import FILLS, WHOLE_FILLS
from conceptlens.metrics.rise_settings import RISE_FILLS

if TYPE_CHECKING:
    from conceptlens.benchmark.benchmark_photos import BenchmarkPhotos

RULE_NAMES = ("grad_cam", "hires_cam", "layer_cam", "grad_cam++", "xgrad_cam", "score_cam")
# One forward pass for each channel.
SLOW = ("score_cam", "ablation_cam")
BASES = ("grad_cam", "hires_cam", "layer_cam", "score_cam")
RELATIVE_DROPS = ("relative_drop_5", "relative_drop_10", "relative_drop_area")
FAITHFULNESS = (*RELATIVE_DROPS, "deletion", "insertion", "average_drop", "increase_in_confidence", "road")
QUICK_METRICS = ("relative_drop_5", "deletion")
QUESTIONS = {
    "faithfulness": "Which class map says what the model uses?",
    "finer-cam": "What does Finer-CAM's contrast add?",
}
# ROAD's own fill stands beside them.
TWO_FILLS = ("mean", "blur")


def faithfulness_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures rules of class maps against controls.

    Args:
        options: What it is made from.

    Raises:
        InputError: Something that is named is unknown, or cannot be measured.
    """
    refuse_options(options, "faithfulness", "gammas", "references", "branch")
    rules = [name for name in RULE_NAMES if not (options.quick and name in SLOW)]
    names = _with_controls(options, options.methods or rules)
    methods = map_methods(names, options.layer, options.seed, options.randomised)
    photos = open_photos(options.data, options.split, options.photos)
    measures = _measures(options, FAITHFULNESS)
    return _prepared("faithfulness", options, photos, methods, measures)


def finer_cam_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures rules plain and with Finer-CAM's contrast, each against its own plain rule.

    Args:
        options: What it is made from.

    Raises:
        InputError: Something that is named is unknown, or cannot be measured.
    """
    refuse_options(options, "finer-cam", "branch")
    bases = options.methods or (BASES[:1] if options.quick else BASES)
    plain = map_methods(_with_controls(options, bases), options.layer, options.seed, options.randomised)
    contrasts, remarks = _contrasts(options)
    finer = [
        contrast_method(one.name, options.layer, **settings)
        for one in plain
        if not one.control
        for settings in contrasts
    ]
    if not (options.gammas or options.references or options.quick):
        finer += [chosen_method(one.name, options.layer) for one in plain if not one.control and one.name not in SLOW]
    methods = sorted([*plain, *finer], key=lambda one: [other.name for other in plain].index(one.against or one.name))
    photos = open_photos(options.data, options.split, options.photos)
    measures = _measures(options, (*RELATIVE_DROPS, "deletion"))
    if photos.boxes is not None and not options.metrics:
        measures = (*measures, BOX)
    return _prepared("finer-cam", options, photos, tuple(methods), measures, remarks)


def _contrasts(options: SuiteOptions) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the settings of the contrasts that are measured, and what was left out."""
    known = options.known_model.classifier_module is not None
    if options.gammas or options.references:
        chosen = product(options.gammas or (0.6,), options.references or ("logit",))
        return [{"gamma": gamma, "by": by} for gamma, by in chosen], ()
    found = [{"gamma": 0.6, "by": "logit"}]
    found += [{"gamma": 0.6, "by": "weight"}] if known else []
    if not options.quick:
        found += [{"gamma": 1.0, "by": "logit"}, {"gamma": 0.6, "by": "logit", "of": "probabilities"}]
    left_out = f"{options.known_model.name} has no linear classifier, so references by its rows are left out."
    return found, () if known else (left_out,)


def _prepared(
    name: str,
    options: SuiteOptions,
    photos: BenchmarkPhotos,
    methods: tuple[MapMethod, ...],
    measures: tuple[Measure, ...],
    remarks: tuple[str, ...] = (),
) -> PreparedSuite:
    task = ClassMapTask(photos, options.known_model, methods, measures, options.layer, options.asked, options.seed)
    against = compared_with(methods, options.baseline)
    compared = tuple(
        ComparedMethod(one.name, one.title, one.about, one.control, against.get(one.name, "")) for one in methods
    )
    return PreparedSuite(name, QUESTIONS[name], task, compared, task.show, remarks)


def _measures(options: SuiteOptions, usual: Sequence[str]) -> tuple[Measure, ...]:
    """Return the columns: every metric with every fill that it takes."""
    metrics = options.metrics or (QUICK_METRICS if options.quick else usual)
    fills = options.fills or (*TWO_FILLS, *(["noisy_linear"] if "road" in metrics else []))
    for fill in fills:
        if fill not in FILLS:
            raise InputError(f"no fill '{fill}'; {near(fill, FILLS, 'fills', 5)}")
    if len(set(fills)) < 2:
        raise InputError(f"one fill is given ({fills[0]}), and fills disagree; give at least two, such as mean,blur")
    published = [Measure(metric, RISE_FILLS[metric]) for metric in dict.fromkeys(metrics) if metric in RISE_FILLS]
    found = []
    for fill, metric in product(dict.fromkeys(fills), (one for one in dict.fromkeys(metrics) if one not in RISE_FILLS)):
        # Pixels are made up from neighbours at a cost, for ROAD alone unless they are asked for.
        dear = fill not in WHOLE_FILLS and not options.fills and metric != "road"
        if not dear and not (metric in SOFT and fill not in WHOLE_FILLS) and metric != BOX.metric:
            found.append(Measure(metric, fill))
    return (*found, *published, *([BOX] if BOX.metric in metrics else []))


def _with_controls(options: SuiteOptions, names: Sequence[str]) -> list[str]:
    """Return methods with the controls that stand beside every number."""
    own = ["random_weights"] if options.randomised is not None else []
    return list(dict.fromkeys([*names, *CONTROLS, *own]))
