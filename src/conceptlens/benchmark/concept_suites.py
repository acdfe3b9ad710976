"""The suite of concept maps: `ce-fam`, methods that show where a concept is, against masks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptlens.benchmark.benchmark_photos import spaced_rows
from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.concept_order import (
    CHANNEL_FILL,
    CHANNELS,
    RANDOM_ORDER,
    REGIONS,
    WITH_CHANNELS,
    WITH_CONTRIBUTIONS,
    ConceptOrders,
)
from conceptlens.benchmark.mask_map_task import ChosenPhotos, MaskMapTask
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.published_metrics import OWN_MAP, PUBLISHED_AREA
from conceptlens.benchmark.suite_options import TWO_FILLS, PreparedSuite, SuiteOptions, check_fills, refuse_options
from conceptlens.data.masked_sets import open_set
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.localization.localization_run import check_use, needs_probe, probe_photos
from conceptlens.localization.methods import MethodContext, MethodKind, find_kind, method_names
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptlens.data.masked_set import MaskedSet

CONCEPT_METHODS = ("ce_fam", "competing", "per_cell", "grad_cam")
CONCEPT_CONTROLS = ("centre", "random", "edges")
MASK_METRICS = (
    "ranked_area_corrected", "ranked_area", PUBLISHED_AREA, "hit", "pointing_energy", "pointing_energy_minmax",
    "pointing_game", "pixel_precision",
)  # fmt: skip
QUICK_MASK_METRICS = ("ranked_area_corrected", "pointing_energy")
ORDER_METRICS = (*REGIONS, *CHANNELS)
QUESTION = "Which map shows where a named concept is?"


def ce_fam_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures maps of named concepts against masks of them.

    Args:
        options: What it is made from; `data` has masks.

    Raises:
        InputError: Something that is named is unknown, or has no effect here.
    """
    refuse_options(options, "ce-fam", "asked", "gammas", "references", "randomised", "layer", "groups")
    names = method_names([*(options.methods or CONCEPT_METHODS), *CONCEPT_CONTROLS])
    baseline = options.baseline or ("grad_cam" if "grad_cam" in names else names[0])
    if baseline not in names:
        raise InputError(f"the baseline {baseline} is none of the methods {', '.join(names)}; add it to --methods")
    opened = _with_masks(options)
    if options.branch is not None:
        options.branch.check(options.known_model)
    check_use(names, None, options.probe)
    probe, mark = probe_photos(options.data, options.probe, names)
    context = MethodContext(options.known_model, opened.concepts, options.branch, probe, seed=options.seed)
    layers = options.known_model.default_layers[-1:] if options.branch is None else options.branch.layers
    branch = "" if options.branch is None else weights_fingerprint(options.branch.branch)
    photos = ChosenPhotos(opened, spaced_rows(len(opened), options.photos))
    metrics, orders, remarks = _columns(options, names, context)
    task = MaskMapTask(photos, context, names, metrics, " + ".join(layers), branch, mark, orders)
    ordered = () if orders is None else orders.methods
    methods = (*(_compared(name, baseline) for name in names), *map(_random_order, ordered))
    return PreparedSuite("ce-fam", QUESTION, task, methods, task.show, remarks, by_type=True)


def _with_masks(options: SuiteOptions) -> MaskedSet:
    try:
        return open_set(options.data, options.split)
    except InputError as error:
        raise InputError(f"ce-fam measures maps against masks: {error}, such as drawn:20") from None


def _compared(name: str, baseline: str) -> ComparedMethod:
    kind, control = _kind_of(name), name in CONCEPT_CONTROLS
    against = "" if control or name == baseline else baseline
    return ComparedMethod(name, kind.title, kind.about, control, against)


def _random_order(name: str) -> ComparedMethod:
    """Return the control of a method's contributions: the same places of its concepts in an order that is drawn."""
    about = "the same regions and channels, in orders that are drawn"
    return ComparedMethod(name + RANDOM_ORDER, f"{_kind_of(name).title}, random order", about, True, control_of=name)


def _kind_of(name: str) -> MethodKind:
    kind = find_kind(name)
    assert kind is not None, f"{name} is none of the names that method_names lets pass"
    return kind


def _columns(
    options: SuiteOptions, names: Sequence[str], context: MethodContext
) -> tuple[tuple[str, ...], ConceptOrders | None, tuple[str, ...]]:
    """Return the metrics of masks, the columns of concepts in order, and what was left out."""
    usual = QUICK_MASK_METRICS if options.quick else (*MASK_METRICS, *ORDER_METRICS)
    chosen: Sequence[str] = options.metrics or usual
    known = (*MAP_MASK_METRICS, PUBLISHED_AREA, *ORDER_METRICS)
    for name in chosen:
        if name not in known:
            raise InputError(f"no metric '{name}'; {near(name, known, 'metrics')}")
    masks = tuple(name for name in dict.fromkeys(chosen) if name not in ORDER_METRICS)
    masks = (*masks, *([OWN_MAP] if masks and needs_probe(names) else []))
    wanted = [name for name in dict.fromkeys(chosen) if name in ORDER_METRICS]
    if options.fills and not set(wanted) & set(REGIONS):
        raise InputError(f"--fills has no effect without {' or '.join(REGIONS)}; leave it out")
    missing = _no_order(wanted, names, context)
    if missing:
        if options.metrics:
            raise InputError(f"{wanted[0]} cannot be measured: {missing}; leave it out of --metrics")
        return masks, None, (f"{', '.join(wanted)} are left out: {missing}.",)
    if not wanted:
        return masks, None, ()
    fills = check_fills(options.fills or TWO_FILLS)
    measures = [Measure(name, fill) for fill in fills for name in wanted if name in REGIONS]
    measures += [Measure(name, CHANNEL_FILL) for name in wanted if name in CHANNELS]
    methods = tuple(name for name in names if name in WITH_CONTRIBUTIONS)
    return masks, ConceptOrders(context, methods, tuple(measures)), ()


def _no_order(wanted: Sequence[str], names: Sequence[str], context: MethodContext) -> str:
    """Say why no concept can be removed by its contribution; empty where some can."""
    if not wanted:
        return ""
    having = WITH_CONTRIBUTIONS if set(wanted) & set(REGIONS) else WITH_CHANNELS
    if not set(having) & set(names):
        return f"concepts have a contribution in {', '.join(having)} alone, and none of them is among the methods"
    if context.model.class_names is None:
        return f"{context.model.name} has no classes, to which concepts could contribute"
    return ""
