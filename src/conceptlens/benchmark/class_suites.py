"""The suites of class maps: `faithfulness`, rules against controls; `finer-cam`, rules with and without contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_photos import open_photos
from conceptlens.benchmark.class_map_task import BOX, Asked, ClassMapTask
from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.map_methods import (
    CONTROLS,
    MapMethod,
    compared_with,
    contrast_method,
    map_methods,
)
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.shared_removal import SOFT
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.pixel_fills import FILLS, WHOLE_FILLS

if TYPE_CHECKING:
    from conceptlens.benchmark.benchmark_cases import Show
    from conceptlens.benchmark.benchmark_photos import BenchmarkPhotos
    from conceptlens.benchmark.benchmark_run import BenchmarkTask
    from conceptlens.model.backbone import Backbone

RULE_NAMES = ("grad_cam", "hires_cam", "layer_cam", "grad_cam++", "xgrad_cam", "score_cam")
# One forward pass for each channel.
SLOW = ("score_cam", "ablation_cam")
BASES = ("grad_cam", "hires_cam", "layer_cam", "score_cam")
RELATIVE_DROPS = ("relative_drop_5", "relative_drop_10", "relative_drop_area")
FAITHFULNESS = (*RELATIVE_DROPS, "deletion", "insertion", "average_drop", "increase_in_confidence", "road")
QUICK_METRICS = ("relative_drop_5", "deletion")
QUICK_PHOTOS = 8
QUESTIONS = {
    "faithfulness": "Which class map says what the model uses?",
    "finer-cam": "What does Finer-CAM's contrast add?",
}
# ROAD's own fill stands beside them.
TWO_FILLS = ("mean", "blur")


@dataclass(frozen=True, eq=False)
class SuiteOptions:
    """What a suite is made from.

    Args:
        data: The data set, as `open_photos` takes it.
        model: The model.
        split: A split of the set.
        max_photos: Take so many photos at most, evenly spaced; by default all, or 8 where `quick`.
        layer: The layer that maps are taken from.
        methods: Names of methods; by default those of the suite.
        metrics: Names of metrics; by default those of the suite.
        fills: What stands in the place of removed pixels, at least two; by default mean and blur, and noisy_linear for
            ROAD.
        asked: Whether maps are of the "predicted" class or of the annotated "label".
        baseline: The method that others are compared with; by default as the suite says.
        gammas: How strongly references count in contrasts.
        references: How references are chosen: logit, rank, weight.
        quick: Few photos, metrics and methods.
        randomised: The same architecture with random weights, as one more control.
        seed: Of all that is drawn.
    """

    data: str
    model: Backbone
    split: str | None = None
    max_photos: int | None = None
    layer: str | None = None
    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()
    fills: Sequence[str] = ()
    asked: Asked = "predicted"
    baseline: str | None = None
    gammas: Sequence[float] = ()
    references: Sequence[str] = ()
    quick: bool = False
    randomised: Backbone | None = None
    seed: int = 0

    @property
    def photos(self) -> int | None:
        """How many photos are taken at most."""
        return QUICK_PHOTOS if self.quick and self.max_photos is None else self.max_photos


@dataclass(frozen=True, eq=False)
class PreparedSuite:
    """A suite, ready to run.

    Attributes:
        name: Its name.
        task: What is measured.
        question: What it answers, as a question.
        methods: The methods of its tables.
        show: Makes the maps of a photo again, for its page; `None` where there are none.
        remarks: What the reader must know, such as what was left out, as sentences.
    """

    name: str
    question: str
    task: BenchmarkTask
    methods: tuple[ComparedMethod, ...]
    show: Show | None = None
    remarks: tuple[str, ...] = field(default=())


def faithfulness_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures rules of class maps against controls.

    Args:
        options: What it is made from.

    Raises:
        InputError: Something that is named is unknown, or cannot be measured.
    """
    _refuse_contrasts(options)
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
    bases = options.methods or (BASES[:1] if options.quick else BASES)
    plain = map_methods(_with_controls(options, bases), options.layer, options.seed, options.randomised)
    contrasts, remarks = _contrasts(options)
    finer = [
        contrast_method(one.name, options.layer, **settings)
        for one in plain
        if not one.control
        for settings in contrasts
    ]
    methods = sorted([*plain, *finer], key=lambda one: [other.name for other in plain].index(one.against or one.name))
    photos = open_photos(options.data, options.split, options.photos)
    measures = _measures(options, (*RELATIVE_DROPS, "deletion"))
    if photos.boxes is not None and not options.metrics:
        measures = (*measures, BOX)
    return _prepared("finer-cam", options, photos, tuple(methods), measures, remarks)


def _contrasts(options: SuiteOptions) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the settings of the contrasts that are measured, and what was left out."""
    known = options.model.classifier_module is not None
    if options.gammas or options.references:
        chosen = product(options.gammas or (0.6,), options.references or ("logit",))
        return [{"gamma": gamma, "by": by} for gamma, by in chosen], ()
    found = [{"gamma": 0.6, "by": "logit"}]
    found += [{"gamma": 0.6, "by": "weight"}] if known else []
    if not options.quick:
        found += [{"gamma": 1.0, "by": "logit"}, {"gamma": 0.6, "by": "logit", "of": "probabilities"}]
    left_out = f"{options.model.name} has no linear classifier, so references by its rows are left out."
    return found, () if known else (left_out,)


def _prepared(
    name: str,
    options: SuiteOptions,
    photos: BenchmarkPhotos,
    methods: tuple[MapMethod, ...],
    measures: tuple[Measure, ...],
    remarks: tuple[str, ...] = (),
) -> PreparedSuite:
    task = ClassMapTask(photos, options.model, methods, measures, options.layer, options.asked, options.seed)
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
            raise InputError(f"no fill '{fill}'; fills: {near(fill, FILLS)}")
    if len(set(fills)) < 2:
        raise InputError(f"one fill is given ({fills[0]}), and fills disagree; give at least two, such as mean,blur")
    found = []
    for fill, metric in product(dict.fromkeys(fills), dict.fromkeys(metrics)):
        # Pixels are made up from neighbours at a cost, for ROAD alone unless they are asked for.
        dear = fill not in WHOLE_FILLS and not options.fills and metric != "road"
        if not dear and not (metric in SOFT and fill not in WHOLE_FILLS) and metric != BOX.metric:
            found.append(Measure(metric, fill))
    return (*found, *([BOX] if BOX.metric in metrics else []))


def _with_controls(options: SuiteOptions, names: Sequence[str]) -> list[str]:
    """Return methods with the controls that stand beside every number."""
    own = ["random_weights"] if options.randomised is not None else []
    return list(dict.fromkeys([*names, *CONTROLS, *own]))


def _refuse_contrasts(options: SuiteOptions) -> None:
    if options.gammas or options.references:
        raise InputError("--gammas and --references have no effect on this suite; leave them out, or run finer-cam")
