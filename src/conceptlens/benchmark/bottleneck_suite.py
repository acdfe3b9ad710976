"""The suite of concept bottlenecks: `loc-cbm`, whether concepts point at their parts, and what the answer is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptlens.benchmark.benchmark_photos import spaced_rows
from conceptlens.benchmark.comparison import ComparedMethod
from conceptlens.benchmark.concept_place_protocols import ENERGY, PLACE_METRICS, SHARE, SPREADS, control_names
from conceptlens.benchmark.concept_place_task import ConceptPlaceTask
from conceptlens.benchmark.control_places import CONTROL_PLACES
from conceptlens.benchmark.masked_heads import ACCURACY, MASKED
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions, refuse_options
from conceptlens.bottleneck.evaluate.photo_annotations import attribute_indices
from conceptlens.bottleneck.fit.recipe import recipe_of
from conceptlens.data.keypoints_in_view import known_keypoints
from conceptlens.data.labelled_sets import open_classes
from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

EVALUATED = "test"
# The reading of the poster's norm whose size is nearest to the poster's numbers.
CELLS = "activation_norm_cells"
USUAL_METRICS = (
    "keypoint_error", "keypoint_pointing", "keypoint_own", "keypoint_swap", ENERGY, CELLS, ACCURACY, MASKED,
)  # fmt: skip
QUICK_PLACE_METRICS = ("keypoint_error", "keypoint_swap")


def loc_cbm_suite(options: SuiteOptions) -> PreparedSuite:
    """Return the suite that measures fitted bottlenecks against keypoints, boxes and classes.

    Args:
        options: What it is made from; `bottleneck` holds at least one, and `data` has classes, keypoints and class
            attributes.

    Raises:
        InputError: Something is missing or unknown, or has no effect here, or bottlenecks cannot be compared.
    """
    refuse_options(
        options, "loc-cbm", "methods", "fills", "asked", "layer", "gammas", "references", "randomised", "branch",
        "groups", "probe",
    )  # fmt: skip
    if not options.bottleneck:
        raise InputError("loc-cbm measures fitted bottlenecks, and none is given; give --bottleneck DIR")
    names = list(options.bottleneck)
    taken = [name for name in names if name in CONTROL_PLACES]
    if taken:
        raise InputError(f"a bottleneck is called {taken[0]}, as a control is; rename its folder")
    baseline = options.baseline or names[0]
    if baseline not in names:
        raise InputError(f"the baseline {baseline} is none of the bottlenecks {', '.join(names)}; give it as well")
    photos = open_classes(options.data, options.split or EVALUATED)
    train = open_classes(options.data, "train") if "train" in photos.splits else None
    metrics, remarks = _metrics(options, photos, train)
    concepts = shared_concepts(options.bottleneck, photos)
    chosen = spaced_rows(len(photos), options.photos)
    task = ConceptPlaceTask(
        photos, chosen, train, options.known_model, options.bottleneck, concepts, metrics, options.seed, options.cache
    )
    _ = task.protocols  # other models and other views of a photo are refused here, before a folder is made
    own = [
        ComparedMethod(name, name, _about(one), against="" if name == baseline else baseline)
        for name, one in options.bottleneck.items()
    ]
    controls = [
        ComparedMethod(name, CONTROL_PLACES[name][0], CONTROL_PLACES[name][1], control=True)
        for name in control_names(train)
    ]
    measured = (
        f"{len(concepts)} concepts are measured: those of one part that every bottleneck has and that {photos.name} "
        "knows, in photos that show them and their part."
    )
    remarks += [f"Controls read the cells of {names[0]}."] if len(names) > 1 else []
    question = "Do concepts point at their parts, and what is the answer worth?"
    return PreparedSuite("loc-cbm", question, task, (*own, *controls), task.show, (measured, *remarks))


def shared_concepts(bottlenecks: Mapping[str, Bottleneck], photos: LabelledSet) -> tuple[str, ...]:
    """Return the labels of concepts of one part that all bottlenecks have and whose photos and keypoints are known.

    Args:
        bottlenecks: Bottlenecks by name.
        photos: A labelled set.

    Raises:
        InputError: There is none, or the set has no keypoints or says of no concept which photos show it.
    """
    parts = known_keypoints(photos).parts
    first = next(iter(bottlenecks.values()))
    known = attribute_indices(first, photos)
    own = [concept for concept, at in zip(first.concepts, known, strict=True) if at is not None]
    every = [{concept.label: concept.part for concept in one.concepts} for one in bottlenecks.values()]
    found = [one.label for one in own if one.part in parts and all(each.get(one.label) == one.part for each in every)]
    if not found:
        raise InputError(
            f"no concept of a part is in all of {', '.join(bottlenecks)} and known in {photos.name}, by its class "
            "attributes and keypoints; give bottlenecks of the same concepts, and a set such as cub:DIR"
        )
    return tuple(found)


def _metrics(
    options: SuiteOptions, photos: LabelledSet, train: LabelledSet | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns, and what is left out of them."""
    chosen: Sequence[str] = options.metrics or (QUICK_PLACE_METRICS if options.quick else USUAL_METRICS)
    for name in chosen:
        if name not in PLACE_METRICS:
            raise InputError(f"no metric '{name}'; {near(name, PLACE_METRICS, 'metrics')}")
    grids = sorted({one.grid for one in options.bottleneck.values()})
    boxes = photos.annotation is not None and photos.annotation.boxes is not None
    missing = {
        **({} if boxes else {ENERGY: f"{photos.name} annotates no boxes"}),
        **({} if len(grids) == 1 else {name: _other_grids(grids) for name in SPREADS if name != SHARE}),
        **({} if train is not None else {MASKED: f"{photos.name} has no train photos, to which heads are refitted"}),
    }
    for name, why in missing.items():
        if name in options.metrics:
            raise InputError(f"{name} cannot be measured: {why}; leave it out of --metrics")
    left_out = [f"{name} is left out: {why}." for name, why in missing.items() if name in chosen]
    return tuple(dict.fromkeys(name for name in chosen if name not in missing)), left_out


def _other_grids(grids: Sequence[tuple[int, int]]) -> str:
    listed = " and ".join(f"{rows} x {columns}" for rows, columns in grids)
    return f"maps have {listed} cells, and it counts cells; {SHARE} counts shares of the photo"


def _about(one: Bottleneck) -> str:
    """Return what a bottleneck is, in one line."""
    recipe, view = recipe_of(one.training_record), one.backbone.preprocess
    named = f"recipe {recipe}, " if recipe else ""
    size = "" if view is None else f", input of {view.size[0]} x {view.size[1]} pixels"
    return f"{named}{len(one.concepts)} concepts, maps of {one.grid[0]} x {one.grid[1]} cells of {one.layer}{size}"
