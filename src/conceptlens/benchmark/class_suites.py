"""The suites of class maps: `faithfulness`, rules against controls; `finer-cam`, rules with and without contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_photos import open_photos
from conceptlens.benchmark.class_groups import class_groups
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
from conceptlens.benchmark.question_measures import SENSITIVITY, needs_groups
from conceptlens.benchmark.suite_options import TWO_FILLS, PreparedSuite, SuiteOptions, check_fills, refuse_options
from conceptlens.io.errors import InputError
from conceptlens.metrics.pixel_fills import WHOLE_FILLS
from conceptlens.metrics.random_weights import with_random_weights
from conceptlens.metrics.rise_settings import RISE_FILLS

if TYPE_CHECKING:
    from conceptlens.benchmark.benchmark_photos import BenchmarkPhotos
    from conceptlens.benchmark.class_groups import ClassGroups
    from conceptlens.model.backbone import Backbone

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


def faithfulness_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures rules of class maps against controls.

    Args:
        options: What it is made from.

    Raises:
        InputError: Something that is named is unknown, or cannot be measured.
    """
    refuse_options(options, "faithfulness", "gammas", "references", "branch", "probe")
    rules = [name for name in RULE_NAMES if not (options.quick and name in SLOW)]
    randomised = _randomised(options, usual=not options.quick)
    names = _with_controls(options.methods or rules, randomised)
    methods = map_methods(names, options.layer, options.seed, randomised)
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
    refuse_options(options, "finer-cam", "branch", "probe")
    bases = options.methods or (BASES[:1] if options.quick else BASES)
    randomised = _randomised(options, usual=False)
    plain = map_methods(_with_controls(bases, randomised), options.layer, options.seed, randomised)
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
    task = ClassMapTask(
        photos, options.known_model, methods, measures, options.layer, options.asked, options.seed,
        _groups(options, measures),
    )  # fmt: skip
    against = compared_with(methods, options.baseline)
    compared = tuple(
        ComparedMethod(one.name, one.title, one.about, one.control, against.get(one.name, "")) for one in methods
    )
    return PreparedSuite(name, QUESTIONS[name], task, compared, task.show, remarks)


def _groups(options: SuiteOptions, measures: Sequence[Measure]) -> ClassGroups | None:
    """Return groups of classes where a column asks about one; refuse a file of groups where none does."""
    if any(needs_groups(one) for one in measures):
        return class_groups(options.known_model, options.groups)
    if options.groups is not None:
        raise InputError("--groups has no effect without a metric of groups, such as group_relative_drop; leave it out")
    return None


def _measures(options: SuiteOptions, usual: Sequence[str]) -> tuple[Measure, ...]:
    """Return the columns: every metric with every fill that it takes."""
    metrics = options.metrics or (QUICK_METRICS if options.quick else usual)
    # ROAD's own fill stands beside the usual ones.
    fills = options.fills or (*TWO_FILLS, *(["noisy_linear"] if "road" in metrics else []))
    published = [Measure(metric, RISE_FILLS[metric]) for metric in dict.fromkeys(metrics) if metric in RISE_FILLS]
    found = []
    for fill, metric in product(check_fills(fills), (one for one in dict.fromkeys(metrics) if one not in RISE_FILLS)):
        # Pixels are made up from neighbours at a cost, for ROAD alone unless they are asked for.
        dear = fill not in WHOLE_FILLS and not options.fills and metric != "road"
        whole = metric in (BOX.metric, SENSITIVITY.metric)
        if not dear and not (metric in SOFT and fill not in WHOLE_FILLS) and not whole:
            found.append(Measure(metric, fill))
    return (*found, *published, *(one for one in (SENSITIVITY, BOX) if one.metric in metrics))


def _randomised(options: SuiteOptions, usual: bool) -> Backbone | None:
    """Return the model with random weights, where it is wanted as a control."""
    if not (usual if options.randomised is None else options.randomised):
        return None
    model = options.known_model
    return replace(model, module=with_random_weights(model.module, seed=options.seed))


def _with_controls(names: Sequence[str], randomised: Backbone | None) -> list[str]:
    """Return methods with the controls that stand beside every number."""
    own = ["random_weights"] if randomised is not None else []
    return list(dict.fromkeys([*names, *CONTROLS, *own]))
