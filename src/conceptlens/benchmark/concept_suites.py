"""The suite of concept maps: `ce-fam`, methods that show where a concept is, against masks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptlens.benchmark.benchmark_photos import spaced_rows
from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.mask_map_task import ChosenPhotos, MaskMapTask
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions, refuse_options
from conceptlens.data.masked_sets import open_set
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.localization.methods import MethodContext, MethodKind, find_kind, method_names
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptlens.data.masked_set import MaskedSet

CONCEPT_METHODS = ("ce_fam", "competing", "per_cell", "grad_cam")
CONCEPT_CONTROLS = ("centre", "random")
MASK_METRICS = ("ranked_area_corrected", "ranked_area", "pointing_energy", "pointing_game", "pixel_precision")
QUICK_MASK_METRICS = ("ranked_area_corrected", "pointing_energy")


def ce_fam_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures maps of named concepts against masks of them.

    Args:
        options: What it is made from; `data` has masks.

    Raises:
        InputError: Something that is named is unknown, or has no effect here.
    """
    refuse_options(
        options, "ce-fam", "fills", "asked", "gammas", "references", "randomised", "layer", "groups"
    )  # fmt: skip
    names = method_names([*(options.methods or CONCEPT_METHODS), *CONCEPT_CONTROLS])
    _refuse_probes(names)
    baseline = options.baseline or ("grad_cam" if "grad_cam" in names else names[0])
    if baseline not in names:
        raise InputError(f"the baseline {baseline} is none of the methods {', '.join(names)}; add it to --methods")
    opened = _with_masks(options)
    if options.branch is not None:
        options.branch.check(options.known_model)
    context = MethodContext(options.known_model, opened.concepts, options.branch, seed=options.seed)
    layers = options.known_model.default_layers[-1:] if options.branch is None else options.branch.layers
    branch = "" if options.branch is None else weights_fingerprint(options.branch.branch)
    photos = ChosenPhotos(opened, spaced_rows(len(opened), options.photos))
    task = MaskMapTask(photos, context, names, _mask_metrics(options), " + ".join(layers), branch)
    methods = tuple(_compared(name, baseline) for name in names)
    return PreparedSuite("ce-fam", "Which map shows where a named concept is?", task, methods, task.show)


def _with_masks(options: SuiteOptions) -> MaskedSet:
    try:
        return open_set(options.data, options.split)
    except InputError as error:
        raise InputError(f"ce-fam measures maps against masks: {error}, such as drawn:20") from None


def _compared(name: str, baseline: str) -> ComparedMethod:
    kind, control = _kind_of(name), name in CONCEPT_CONTROLS
    against = "" if control or name == baseline else baseline
    return ComparedMethod(name, kind.title, kind.about, control, against)


def _kind_of(name: str) -> MethodKind:
    kind = find_kind(name)
    assert kind is not None, f"{name} is none of the names that method_names lets pass"
    return kind


def _mask_metrics(options: SuiteOptions) -> tuple[str, ...]:
    metrics: Sequence[str] = options.metrics or (QUICK_MASK_METRICS if options.quick else MASK_METRICS)
    for name in metrics:
        if name not in MAP_MASK_METRICS:
            raise InputError(f"no metric '{name}'; {near(name, MAP_MASK_METRICS, 'metrics')}")
    return tuple(dict.fromkeys(metrics))


def _refuse_probes(names: Sequence[str]) -> None:
    probing = [name for name in names if _kind_of(name).probes]
    if probing:
        raise InputError(
            f"{probing[0]} looks at probe photos first, which a suite does not; use conceptlens evaluate localization"
        )
