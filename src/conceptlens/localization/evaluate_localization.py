"""Compare maps of concepts with masks of the same concepts, photo by photo, with a wrong concept as control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from conceptlens.data.masked_set import MaskedSet, check_masked_set
from conceptlens.io.errors import Failure, InputError, InputTypeError
from conceptlens.localization.localization_task import LocalizationTask
from conceptlens.localization.methods import Method, precomputed
from conceptlens.localization.own_metrics import check_metrics
from conceptlens.localization.result_rows import Row
from conceptlens.record import Explanation
from conceptlens.runs.local_engine import local_engine

if TYPE_CHECKING:
    from conceptlens.statistics.score import Metric

# Masks and enlarged maps of every concept of a photo are in memory together; more pixels change no metric.
MAX_PIXELS = 2048


def evaluate_localization(
    data: MaskedSet,
    methods: Mapping[str, Method | Explanation],
    min_area: float = 0.01,
    resolution: int | None = 112,
    seed: int = 0,
    max_photos: int | None = None,
    metrics: Iterable[Metric] = (),
) -> Iterator[tuple[Row, ...] | Failure]:
    """Measure, photo by photo, how well each method's maps fit the masks of the concepts that the photo shows.

    A method whose explanation has several `components` (layers, neurons) is scored twice: as it is, and as
    "NAME (oracle)", by the component that fits the mask best by NRA, which nobody without the mask could choose. Each
    mask is also compared with the map of a wrong concept, one that the photo does not show: a map that is as good for
    it shows no concept.

    Args:
        data: Photos with masks of concepts.
        methods: What to compare, by name: functions from a photo and concepts to an `Explanation`, such as those of
            `build_methods`; or an `Explanation` with the maps of the whole set, such as `Explanation.from_maps` makes
            of anybody's maps (see `precomputed`).
        min_area: Leave out concepts whose mask covers less than this share of the photo, from 0 to below 1.
        resolution: Rows and columns at which maps and masks are compared, 2 to 2048; masks are cut to what the model
            saw and take the nearest pixel, maps are enlarged bilinearly. None: the annotation's own pixels.
        seed: Draws the wrong concepts, the same for all methods.
        max_photos: Stop after this many photos.
        metrics: Metrics of your own, beside those of `MAP_MASK_METRICS`: called as `compute(maps, masks, ignored)` with
            `maps[image question height width]`, `masks[image question rows columns]` and `ignored[image rows columns]`
            or `None`, they return a `Score` with one value for each image and question. They count where the others
            do: where a mask has pixels inside and outside.

    Yields:
        For each photo its rows, one per concept and method; or a `Failure` where it cannot be read or explained.

    Raises:
        InputError: A number is out of its range, no method is given, or a metric's name is taken.
        InputTypeError: `data` is no data set with masks, `methods` no dictionary, or `metrics` no list of `Metric`.

    Examples:
        >>> methods = build_methods(["ce_fam", "layer_cam:concept"], MethodContext(model, data.concepts))
        >>> rows = [row for rows in evaluate_localization(data, methods) if isinstance(rows, tuple) for row in rows]
    """
    check_masked_set(data)
    if not isinstance(methods, Mapping):
        raise InputTypeError(
            f"methods are given as {type(methods).__name__}; expected a dictionary from name to method"
        )
    check_settings(min_area, resolution, max_photos)
    own = check_metrics(metrics)
    if not methods:
        raise InputError("no method was given; give at least one, such as those of build_methods")
    callables = {name: precomputed(m) if isinstance(m, Explanation) else m for name, m in methods.items()}
    count = len(data) if max_photos is None else min(max_photos, len(data))
    task = LocalizationTask(data, callables, min_area, resolution, seed, count, own)
    for found in local_engine(task, [range(index, index + 1) for index in range(count)]):
        yield found.rows if found.failure is None else Failure(found.name, found.failure)


def check_settings(min_area: float, resolution: int | None, max_photos: int | None) -> None:
    """Refuse numbers that `evaluate_localization` cannot work with, before anything is read."""
    if not 0 <= min_area < 1:
        raise InputError(f"min_area is {min_area}; expected a share from 0 to below 1, such as 0.01")
    if resolution is not None and not 2 <= resolution <= MAX_PIXELS:
        raise InputError(
            f"resolution is {resolution}; expected 2 to {MAX_PIXELS} pixels a side, or the annotation's own"
        )
    if max_photos is not None and max_photos < 1:
        raise InputError(f"max_photos is {max_photos}; expected at least 1")
