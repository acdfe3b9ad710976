"""What is to be evaluated, and by which metrics: maps of any library, methods, names of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.localization.cam_methods import Method
from conceptlens.metrics.control_maps import centre_maps, edge_maps, random_maps
from conceptlens.metrics.given_maps import tensor_of
from conceptlens.record import Explanation
from conceptlens.statistics.score import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.metrics.scored_images import ScoredImages

GivenMaps: TypeAlias = Explanation | torch.Tensor | np.ndarray
AnyMaps: TypeAlias = GivenMaps | Method | str


def named_methods(given: Any) -> dict[str, Any]:
    """Return what is to be evaluated, by name: of a dictionary its own, of others the name of what they are.

    Args:
        given: Maps, a method or the name of one; a dictionary from name to any of them; or a list of names.

    Raises:
        InputTypeError: It is none of these.
        InputError: Nothing is given.
    """
    if isinstance(given, Mapping):
        named = {str(name): one for name, one in given.items()}
    elif isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        named = {one: one for one in given}
    else:
        named = {_name_of(given): given}
    if not named:
        raise InputError("no maps were given; give at least one array of maps, or the name of a method")
    for one in named.values():
        _name_of(one)
    return named


def maps_alone(named: Mapping[str, Any]) -> dict[str, Explanation | Tensor]:
    """Return maps by name, each `image question height width`; refuse methods, which need a data set.

    Args:
        named: What `named_methods` returned.

    Raises:
        InputTypeError: A method or its name is among them.
        InputError: Maps have other axes.
    """
    found: dict[str, Explanation | Tensor] = {}
    for name, one in named.items():
        if isinstance(one, str) or not isinstance(one, GivenMaps):
            raise InputTypeError(
                f"'{name}' is a method, which makes maps of the photos of a data set; give a data set with masks, "
                "cl.open_set(name), as the data, or the maps themselves"
            )
        maps = one if isinstance(one, Explanation) else tensor_of(one, "maps")
        if isinstance(maps, torch.Tensor) and maps.ndim not in (3, 4):
            raise InputError(
                f"maps '{name}' have shape {tuple(maps.shape)}; expected image height width, or image question height "
                "width"
            )
        shape = tuple((maps.maps if isinstance(maps, Explanation) else maps).shape)
        if 0 in shape:
            raise InputError(f"maps '{name}' have shape {shape}; expected at least one image, question and cell")
        found[name] = maps[:, None] if isinstance(maps, torch.Tensor) and maps.ndim == 3 else maps
    return found


def chosen_metrics(
    metrics: Iterable[str | Metric] | None, table: Mapping[str, Metric], default: Iterable[str]
) -> dict[str, Metric]:
    """Return the metrics to measure, by name.

    Args:
        metrics: Names of the table, and metrics of one's own; `None` for the default.
        table: The metrics that there are for this kind of data.
        default: Names of those that are measured where none is named.

    Raises:
        InputTypeError: They are no list of names and `Metric`.
        InputError: A name is unknown or stands for two metrics, or none is given.
    """
    if metrics is None:
        return {name: table[name] for name in default}
    if isinstance(metrics, (str, Metric)) or not isinstance(metrics, Iterable):
        raise InputTypeError(
            f"metrics are given as {type(metrics).__name__}; expected a list of names and cl.metrics.Metric"
        )
    found: dict[str, Metric] = {}
    for one in metrics:
        if isinstance(one, str) and one not in table:
            raise InputError(f"no metric '{one}' for this kind of data; {near(one, table, 'metrics')}")
        if not isinstance(one, (str, Metric)):
            raise InputTypeError(f"metrics hold a {type(one).__name__}; expected names and cl.metrics.Metric")
        metric = table[one] if isinstance(one, str) else one
        if metric.name in found or (metric.name in table and metric is not table[metric.name]):
            raise InputError(f"there is a metric '{metric.name}' already; give yours another name")
        found[metric.name] = metric
    if not found:
        raise InputError(f"no metric is named; metrics: {', '.join(table)}")
    return found


def control_maps(
    names: Sequence[str], questions: int, grid: tuple[int, int], scored: ScoredImages | None, seed: int
) -> dict[str, Tensor]:
    """Return maps that know nothing: random numbers, a Gaussian in the middle and, where images are known, their edges.

    Args:
        names: What tells each image from the others.
        questions: How many questions about each.
        grid: Rows and columns of the maps that they are compared with.
        scored: The images; `None` where there are masks alone.
        seed: Draws the random numbers.
    """
    found = {
        "random": random_maps(names, questions, grid, seed),
        "centre": centre_maps(len(names), questions, grid),
    }
    return found if scored is None else {**found, "edges": edge_maps(scored.images, questions, grid)}


def _name_of(given: Any) -> str:
    """Return what maps or a method are called where they come without a name, and refuse anything else."""
    if isinstance(given, str):
        return given
    if isinstance(given, Explanation):
        return given.source.method
    if isinstance(given, (torch.Tensor, np.ndarray)):
        return "maps"
    if isinstance(given, Callable):
        return getattr(given, "__name__", type(given).__name__)
    raise InputTypeError(
        f"a {type(given).__name__} was given as the maps; expected an array, a tensor, an Explanation, a method or its "
        "name, or a dictionary of them by name"
    )
